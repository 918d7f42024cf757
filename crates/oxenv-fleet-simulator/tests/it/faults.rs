//! Each fault, as a client sees it.

use std::time::Duration;

use serde_json::json;

use crate::caller::Caller;

#[tokio::test]
async fn answers_of_every_form() {
    let caller = Caller::with(&[
        "create:429~3*1",
        "create:503*1",
        "create:502*1",
        "create:400-retryable*1",
        "create:400-retryable-text*1",
        "create:422*1",
        "create:403-limit*1",
        "create:401*1",
        "create:500=\"a*2\"*1",
    ])
    .await;
    let mut answers = Vec::new();
    for _ in 0..9 {
        answers.push(caller.create("fira").await.unwrap());
    }
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [429, 503, 502, 400, 400, 422, 403, 401, 500]);
    assert_eq!(answers[0].header("retry-after"), Some("3"));
    assert!(answers[1].header("content-type").unwrap().starts_with("text/plain"));
    assert!(answers[2].text.starts_with("<html>"));
    assert_eq!(answers[3].json()["detail"]["retryable"], true);
    assert!(answers[4].json()["detail"].as_str().unwrap().contains("\"retryable\": true"));
    assert!(answers[5].json()["detail"].is_array());
    assert!(answers[6].json()["detail"].as_str().unwrap().contains("10 running instances"));
    assert_eq!(answers[8].text, "a*2");
    assert_eq!((caller.simulator.instances(), caller.create("fira").await.unwrap().status), (0, 200));
}

#[tokio::test]
async fn connections_that_break() {
    let caller =
        Caller::with(&["create:drop*1", "create:drop-after*1", "create:cut*1", "create:garbage*1"]).await;
    assert!(caller.create("fira").await.is_err());
    assert_eq!(caller.simulator.instances(), 0);
    // What changes a request changes it together: dropped, cut and garbage, of which the first wins.
    assert!(caller.create("fira").await.is_err());
    assert_eq!(caller.simulator.instances(), 1);
    for (fault, breaks) in [("list:cut*1", true), ("list:garbage*1", false)] {
        caller.inject(fault);
        let answer = caller.get("/v1/env/instances").await;
        assert_eq!(answer.is_err(), breaks, "{fault}");
        if let Ok(answer) = answer {
            assert!(serde_json::from_str::<serde_json::Value>(&answer.text).is_err());
        }
    }
}

#[tokio::test]
async fn what_hangs_is_left_by_its_client() {
    let caller = Caller::with(&["create:hang*1", "create:hang-after*1"]).await;
    for (came, left) in [(1, 0), (2, 1)] {
        let early = tokio::select! {
            answer = caller.create("fira") => Some(answer),
            () = async {
                while caller.simulator.requests().len() < came || caller.simulator.instances() < left {
                    tokio::task::yield_now().await;
                }
            } => None,
        };
        assert!(early.is_none(), "{early:?}");
        assert_eq!(caller.simulator.instances(), left);
    }
}

#[tokio::test]
async fn what_is_slow_is_done_when_its_time_comes() {
    let caller = Caller::with(&["create:slow=60s*1"]).await;
    let slow = caller.create("fira");
    tokio::pin!(slow);
    let early = tokio::select! {
        answer = &mut slow => Some(answer),
        () = async {
            while caller.simulator.requests().is_empty() { tokio::task::yield_now().await }
        } => None,
    };
    assert!(early.is_none() && caller.simulator.instances() == 0, "{early:?}");
    caller.simulator.advance(Duration::from_secs(60));
    assert_eq!(slow.await.unwrap().status, 200);
}

#[tokio::test]
async fn pending_instances_meet_their_fate() {
    let caller = Caller::with(&[]).await;
    for (fault, then) in [
        ("create:pending*1", "running"),
        ("create:pending-then-error*1", "error"),
        ("create:pending-then-stopped*1", "stopped"),
        ("create:pending-for-ever*1", "pending"),
    ] {
        caller.inject(fault);
        let made = caller.create("fira").await.unwrap().json();
        assert_eq!(made["status"], "pending", "{fault}");
        let id = made["instance_id"].as_str().unwrap();
        let statuses = [caller.status(id).await, caller.status(id).await, caller.status(id).await];
        assert_eq!(statuses, ["pending", then, then], "{fault}");
    }
    // One that failed must still be deleted by who made it.
    assert_eq!(caller.simulator.instances(), 3);
}

#[tokio::test]
async fn an_accepted_create_can_be_lost_and_be_pending() {
    let caller = Caller::with(&["create:drop-after*1", "create:pending*1"]).await;
    assert!(caller.create_as("r").await.is_err());
    let duplicate = caller.create_as("r").await.unwrap().json();
    let id = duplicate["detail"]["instance_id"].as_str().unwrap().to_owned();
    assert_eq!([caller.status(&id).await, caller.status(&id).await], ["pending", "running"]);
}

#[tokio::test]
async fn instances_that_refuse() {
    let caller = Caller::with(&["instance:refuse*1"]).await;
    let (_, refused) = caller.made().await;
    let (_, listens) = caller.made().await;
    assert!(caller.get(&refused).await.unwrap_err().is_connect());
    assert_eq!(caller.get(&listens).await.unwrap().status, 200);
    caller.inject("instance:refuse");
    assert!(caller.get(&listens).await.is_err());
    assert_eq!(caller.simulator.instances(), 2);
}

#[tokio::test]
async fn instances_that_warm_up_and_expire_in_an_episode() {
    let caller = Caller::with(&["instance:502*2", "query:expire*1"]).await;
    let (_, root) = caller.made().await;
    let manager = format!("{root}api/v1/env");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(caller.post(&format!("{manager}/reset"), &json!({"seed": 1})).await.unwrap().status);
    }
    assert_eq!(statuses, [502, 502, 200]);
    let query = format!("{manager}/resources/sqlite/current/query");
    assert!(caller.post(&query, &json!({"query": "SELECT 1"})).await.is_err());
    assert_eq!(caller.simulator.instances(), 0);
    assert!(caller.post(&query, &json!({"query": "SELECT 1"})).await.unwrap_err().is_connect());
}

#[tokio::test]
async fn faults_are_taken_back() {
    let caller = Caller::with(&["account:503"]).await;
    assert_eq!(caller.get("/v1/account").await.unwrap().status, 503);
    caller.simulator.clear_faults();
    assert_eq!(caller.get("/v1/account").await.unwrap().status, 200);
}
