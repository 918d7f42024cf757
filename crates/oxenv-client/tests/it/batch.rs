//! Many steps in one frame.

use oxenv_client::{BatchStep, Code, EnvClient, OpenOptions};
use oxenv_wire::{ErrorCode, RawJson, raw};
use serde_json::json;

use crate::multi_support::{count, resumable, serve};
use crate::proxy::{Cut, Proxy};

fn action() -> RawJson {
    raw(&json!({ "do": "count" })).unwrap()
}

fn step(client: &EnvClient) -> BatchStep<'_> {
    BatchStep { client, action: action(), key: None }
}

#[tokio::test]
async fn results_come_in_the_order_of_the_steps() {
    let served = serve().await;
    let connection = served.connect().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(connection.open(&OpenOptions::default()).await.unwrap());
    }
    assert_eq!(count(&clients[1]).await, 1);
    let steps = [0, 1, 2, 1, 0].map(|index: usize| step(&clients[index]));
    let results = connection.step_batch(steps.into()).await.unwrap();
    let counts: Vec<u64> = results
        .iter()
        .map(|one| one.as_ref().unwrap().observation_value()["count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [1, 2, 1, 3, 2]);
    assert_eq!(results[3].as_ref().unwrap().seq, Some(3));
    assert!(connection.step_batch(Vec::new()).await.unwrap().is_empty());
    drop((results, clients, connection));
    served.end().await;
}

#[tokio::test]
async fn a_step_that_fails_leaves_the_others_alone() {
    let served = serve().await;
    let connection = served.connect().await;
    let open = OpenOptions::default();
    let (good, closed) = (connection.open(&open).await.unwrap(), connection.open(&open).await.unwrap());
    closed.close().await.unwrap();
    let refused = BatchStep { action: raw(&json!({ "do": "refuse" })).unwrap(), ..step(&good) };
    let results = connection.step_batch(vec![step(&closed), refused, step(&good)]).await.unwrap();
    let codes: Vec<Option<Code>> =
        results.iter().map(|one| one.as_ref().err().map(oxenv_client::ClientError::code)).collect();
    assert_eq!(codes, [Some(Code::Closed), Some(Code::Server(ErrorCode::ExecutionError)), None]);

    let other = served.connect().await;
    let stranger = other.open(&open).await.unwrap();
    let mixed = connection.step_batch(vec![step(&good), step(&stranger)]).await.unwrap_err();
    assert_eq!(mixed.code(), Code::InvalidOptions);
    drop((good, closed, stranger, connection, other));
    served.end().await;
}

#[tokio::test]
async fn a_batch_runs_once_wherever_its_connection_was_cut() {
    for cut in Cut::ALL {
        let served = serve().await;
        let proxy = Proxy::start(served.address, "batch", &[(1, cut)]).await;
        let options = oxenv_client::ClientOptions::default();
        let connection = oxenv_client::Connection::connect(&proxy.url(), &options).await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(connection.open(&resumable()).await.unwrap());
        }
        for number in 1..=3 {
            let results = connection.step_batch(clients.iter().map(step).collect()).await.unwrap();
            for result in results {
                assert_eq!(result.unwrap().observation_value()["count"], number, "{cut:?}");
            }
        }
        assert_eq!(proxy.made(), 1);
        drop((clients, connection));
        served.end().await;
    }
}
