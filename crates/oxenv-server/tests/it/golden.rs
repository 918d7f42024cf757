//! Replies that are held to the letter. `UPDATE_EXPECT=1 cargo test -p oxenv-server` writes them
//! anew; then read the difference.

use expect_test::expect_file;
use oxenv_test_support::{get, http, post};
use serde_json::{Value, json};

use crate::served::{serve, serve_production};

fn pretty(value: &Value) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).unwrap())
}

#[tokio::test]
async fn openapi_in_both_modes() {
    let served = serve().await;
    let document = get(served.address, "/openapi.json").await.json();
    expect_file!["../golden/openapi_simulation.json"].assert_eq(&pretty(&document));
    served.end().await;
    let served = serve_production().await;
    let document = get(served.address, "/openapi.json").await.json();
    expect_file!["../golden/openapi_production.json"].assert_eq(&pretty(&document));
    served.end().await;
}

#[tokio::test]
async fn docs() {
    let served = serve().await;
    let page = get(served.address, "/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(get(served.address, "/redoc").await.body, page.body);
    // Nothing is loaded from elsewhere.
    assert!(!page.text().contains("src=") && !page.text().contains("://"), "{}", page.text());
    expect_file!["../golden/docs.html"].assert_eq(&format!("{}\n", page.text().replace("<tr>", "\n<tr>")));
    served.end().await;
}

/// The reply to `POST /sessions`, with the parts that differ each time by name.
#[tokio::test]
async fn session_created() {
    let served = serve().await;
    let reply = post(served.address, "/sessions", &json!({ "seed": 7, "episode_id": "e" })).await;
    assert_eq!(reply.status, 201);
    let id = reply.json()["session_id"].as_str().unwrap().to_owned();
    let host = served.address.to_string();
    let headers: Vec<String> = reply
        .headers
        .iter()
        .filter(|(name, _)| name != "date")
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let shown = format!("{}\n{}\n\n{}\n", reply.status, headers.join("\n"), reply.text());
    let shown = shown.replace(&id, "SESSION").replace(&host, "HOST");
    let shown = shown.replace(&format!("content-length: {}", reply.body.len()), "content-length: LENGTH");
    expect_file!["../golden/session_created.txt"].assert_eq(&shown);

    let info = get(served.address, &format!("/sessions/{id}")).await.json();
    let listed = get(served.address, "/sessions").await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1);
    let shown = pretty(&info).replace(&id, "SESSION");
    let idle = format!("\"idle_ms\": {}", info["idle_ms"]);
    expect_file!["../golden/session_info.json"].assert_eq(&shown.replace(&idle, "\"idle_ms\": 0"));

    let closed = http(served.address, "DELETE", &format!("/sessions/{id}"), &[], b"").await;
    assert_eq!((closed.status, closed.json()), (200, json!({ "session_id": id, "closed": true })));
    served.end().await;
}

#[tokio::test]
async fn the_routes_that_tell_about_the_server() {
    let served = serve().await;
    let mut all = serde_json::Map::new();
    for path in ["/health", "/ready", "/metadata", "/tools", "/list_environments"] {
        all.insert(path.to_owned(), get(served.address, path).await.json());
    }
    expect_file!["../golden/info.json"].assert_eq(&pretty(&Value::Object(all)));
    served.end().await;
}
