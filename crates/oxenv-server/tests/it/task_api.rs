//! The Task API of OpenEnv 0.10, with and without tasks.

use std::sync::Arc;

use oxenv_core::{Execution, StoreLimits, TaskError, TaskList};
use oxenv_server::ServerConfig;
use oxenv_test_support::{get, post, post_text};
use oxenv_wire::Split;
use serde_json::{Value, json};

use crate::served::{Served, serve};
use crate::stage::{Scripted, Stage};

struct Three;

impl TaskList for Three {
    fn splits(&self) -> Vec<Split> {
        vec![Split { name: "easy".to_owned(), kind: "train".to_owned() }]
    }

    fn count(&self, split: &str) -> Result<usize, TaskError> {
        match split {
            "easy" => Ok(3),
            "broken" => panic!("made to panic in tasks"),
            _ => Err(TaskError::UnknownSplit),
        }
    }

    fn task(&self, split: &str, index: usize) -> Result<Value, TaskError> {
        match index < self.count(split)? {
            true => Ok(json!({ "seed": index })),
            false => Err(TaskError::OutOfRange),
        }
    }
}

async fn with_tasks() -> Served {
    let stage = Stage::default();
    let factory = Scripted::new(&stage, Execution::Task).spec(|spec| spec.tasks = Some(Arc::new(Three)));
    Served::start(&stage, factory, StoreLimits::default(), ServerConfig::default()).await
}

#[tokio::test]
async fn tasks_are_told() {
    let served = with_tasks().await;
    assert_eq!(get(served.address, "/list_environments").await.json(), json!(["scripted"]));
    // The name is compared without regard to case.
    assert_eq!(
        get(served.address, "/SCRIPTED/splits").await.json(),
        json!([{ "name": "easy", "type": "train" }])
    );
    let all = json!([{ "seed": 0 }, { "seed": 1 }, { "seed": 2 }]);
    for (path, body, reply) in [
        ("tasks", json!({ "split": "easy" }), json!({ "tasks": all, "env_name": "scripted" })),
        ("num_tasks", json!({ "split": "easy" }), json!({ "num_tasks": 3 })),
        ("task", json!({ "split": "easy", "index": 0 }), json!({ "task": { "seed": 0 } })),
        ("task", json!({ "split": "easy", "index": -1 }), json!({ "task": { "seed": 2 } })),
        ("task_range", json!({ "split": "easy" }), json!({ "tasks": all })),
        (
            "task_range",
            json!({ "split": "easy", "start": 1, "stop": 2 }),
            json!({ "tasks": [{ "seed": 1 }] }),
        ),
        (
            "task_range",
            json!({ "split": "easy", "start": -1, "stop": null }),
            json!({ "tasks": [{ "seed": 2 }] }),
        ),
        ("task_range", json!({ "split": "easy", "start": -99, "stop": 99 }), json!({ "tasks": all })),
        ("task_range", json!({ "split": "easy", "start": 2, "stop": 1 }), json!({ "tasks": [] })),
        (
            "task_range",
            json!({ "split": "easy", "start": i64::MIN, "stop": i64::MAX }),
            json!({ "tasks": all }),
        ),
    ] {
        let got = post(served.address, &format!("/scripted/{path}"), &body).await;
        assert_eq!((got.status, got.json()), (200, reply), "{path} {body}");
    }
    served.end().await;
}

#[tokio::test]
async fn wrong_requests_for_tasks() {
    let served = with_tasks().await;
    for (path, body, status) in [
        ("scripted/tasks", "{}", 422),
        ("scripted/tasks", r#"{"split":5}"#, 422),
        ("scripted/tasks", r#"{"split":"easy","more":1}"#, 422),
        ("scripted/tasks", "", 422),
        ("scripted/tasks", "nope", 422),
        ("scripted/task", r#"{"split":"easy"}"#, 422),
        ("scripted/task", r#"{"split":"easy","index":1.5}"#, 422),
        ("scripted/task", r#"{"split":"easy","index":"1"}"#, 422),
        ("scripted/task", r#"{"split":"easy","index":99999999999999999999}"#, 422),
        ("scripted/task", r#"{"split":"easy","index":3}"#, 400),
        ("scripted/task", r#"{"split":"easy","index":-4}"#, 400),
        ("scripted/task", r#"{"split":"easy","index":-9223372036854775808}"#, 400),
        ("scripted/task", r#"{"split":"hard","index":0}"#, 400),
        ("scripted/tasks", r#"{"split":"hard"}"#, 400),
        ("other/tasks", r#"{"split":"easy"}"#, 404),
        ("scripted/tasks", r#"{"split":"broken"}"#, 500),
        ("scripted/num_tasks", r#"{"split":"broken"}"#, 500),
    ] {
        let reply = post_text(served.address, &format!("/{path}"), body).await;
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text());
        assert!(!reply.json()["detail"].is_null(), "{}", reply.text());
    }
    assert_eq!(get(served.address, "/other/splits").await.status, 404);
    served.end().await;
}

#[tokio::test]
async fn an_environment_without_tasks_says_so() {
    let served = serve().await;
    let reply = get(served.address, "/scripted/splits").await;
    assert_eq!(
        (reply.status, reply.json()),
        (501, json!({ "detail": "list_splits is not supported for this environment" }))
    );
    let body = json!({ "split": "easy", "index": 0 });
    assert_eq!(post(served.address, "/scripted/task", &body).await.status, 501);
    served.end().await;
}
