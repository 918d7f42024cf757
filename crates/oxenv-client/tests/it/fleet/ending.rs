//! Instances end, whoever forgets them.

use oxenv_client::fleet::{FleetControl, FleetEnvClient, deletions_done};
use oxenv_client::{Code, ResetOptions};

use super::{came, made, nothing_left, options, simulated};

#[tokio::test]
async fn close_tells_what_it_could_not_end_and_the_drop_goes_on() {
    let simulator = simulated(&["delete:500*2"]).await;
    let (orch, _tools) = made(&simulator).await;
    orch.close().await.unwrap();
    nothing_left(&simulator).await;

    let (orch, _tools) = made(&simulator).await;
    simulator.inject("delete:500".parse().unwrap());
    let error = orch.close().await.unwrap_err();
    assert_eq!(error.code(), Code::FleetError);
    assert!(error.message().contains(orch.instance_id()), "{error}");
    simulator.clear_faults();
    drop(orch);
    nothing_left(&simulator).await;

    // What a proxy says of a path is not what Fleet says of an instance.
    let (orch, _tools) = made(&simulator).await;
    simulator.inject("delete:404=html\"<p>no such page\"*1".parse().unwrap());
    let error = orch.close().await.unwrap_err();
    assert!(error.message().contains("no such page"), "{error}");
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn many_are_made_and_ended_by_tasks_of_their_own() {
    let simulator = simulated(&[]).await;
    let tasks = (0..8).map(|seed| {
        let (key, options) = (simulator.api_key().to_owned(), options(&simulator));
        tokio::spawn(async move {
            let (orch, _tools) = FleetEnvClient::from_fleet(&key, "fira", options).await.unwrap();
            orch.reset(&ResetOptions { seed: Some(seed), ..ResetOptions::default() }).await.unwrap();
            orch.step(&serde_json::json!({ "type": "list_tools" })).await.unwrap();
            assert_eq!(orch.state().await.unwrap()["step_count"], 1);
            if seed % 2 == 0 {
                orch.close().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(simulator.views().len(), 8);
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn what_could_not_be_deleted_in_the_background_is_told() {
    let simulator = simulated(&["delete:403-permission"]).await;
    let (orch, _tools) = made(&simulator).await;
    let id = orch.instance_id().to_owned();
    drop(orch);
    let left = deletions_done().await;
    assert!(left.len() == 1 && left[0].contains(&id) && left[0].contains("Not allowed"), "{left:?}");
    assert!(deletions_done().await.is_empty(), "it is told once");
    assert_eq!(simulator.instances(), 1);
}

#[tokio::test]
async fn what_is_deleted_elsewhere_is_closed_without_an_error() {
    let simulator = simulated(&[]).await;
    let (orch, _tools) = made(&simulator).await;
    let control = FleetControl::new(simulator.api_key(), Some(simulator.control_url())).unwrap();
    control.delete(orch.instance_id()).await.unwrap();
    assert!(control.instances(None).await.unwrap().is_empty());
    let error = orch.reset(&ResetOptions::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::FleetInstanceGone, "{error}");
    orch.close().await.unwrap();
    nothing_left(&simulator).await;
}

#[tokio::test]
async fn a_runtime_that_ends_waits_for_the_deletion() {
    let simulator = simulated(&[]).await;
    let (key, options) = (simulator.api_key().to_owned(), options(&simulator));
    // As in a program whose `main` returns an error while it holds an instance.
    tokio::task::spawn_blocking(move || {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let held = runtime.block_on(async {
            let (orch, _tools) = FleetEnvClient::from_fleet(&key, "fira", options).await?;
            orch.step(&serde_json::json!({ "column": 3 })).await
        });
        assert!(held.is_err());
        drop(runtime);
    })
    .await
    .unwrap();
    assert_eq!(simulator.instances(), 0);
    assert_eq!(simulator.views().len(), 1);
}

#[tokio::test]
async fn detached_instances_stay_and_attached_ones_are_not_ours() {
    let simulator = simulated(&[]).await;
    let (orch, _tools) = made(&simulator).await;
    let id = orch.detach();
    assert_eq!(simulator.instances(), 1);
    let (orch, _tools) = FleetEnvClient::attach(simulator.api_key(), &id, options(&simulator)).await.unwrap();
    orch.reset(&ResetOptions::default()).await.unwrap();
    orch.close().await.unwrap();
    drop(orch);
    assert_eq!(simulator.instances(), 1);
    assert_eq!(came(&simulator, "DELETE", &id), 0);
    FleetControl::new(simulator.api_key(), Some(simulator.control_url())).unwrap().delete(&id).await.unwrap();
    let gone =
        FleetEnvClient::attach(simulator.api_key(), &id, options(&simulator)).await.map(drop).unwrap_err();
    assert_eq!(gone.code(), Code::FleetInstanceGone, "{gone}");
    nothing_left(&simulator).await;
}
