//! The client with the types of one environment.

use oxenv_client::{Code, ResetOptions, TypedClient};
use oxenv_wire::{Delivered, Reward};
use serde::{Deserialize, Serialize};

use crate::multi_support::serve;
use crate::support::{http, open, stock};

#[derive(Serialize)]
struct Script {
    r#do: &'static str,
}

#[derive(Debug, Deserialize)]
struct Seen {
    count: u64,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
    step_count: u64,
}

#[derive(Debug, Deserialize)]
struct Other {
    #[expect(dead_code, reason = "it is never there")]
    other: u64,
}

#[tokio::test]
async fn actions_observations_and_states_have_their_types() {
    let served = serve().await;
    for options in [stock(), http()] {
        let client = open(&served.url(), &options).await.unwrap();
        let client: TypedClient<Script, Seen, Counted> = TypedClient::new(client);
        assert_eq!(client.reset(&ResetOptions::default()).await.unwrap().observation.count, 0);
        let step = client.step(&Script { r#do: "finish" }).await.unwrap();
        assert_eq!((step.observation.count, step.reward, step.done), (1, Some(Reward::Float(1.0)), true));
        let state = client.state().await.unwrap();
        assert_eq!((state.count, state.step_count), (1, 1));
        let client: TypedClient<Script, Other> = TypedClient::new(client.into_inner());
        client.client().reset(&ResetOptions::default()).await.unwrap();
        let misfit = client.step(&Script { r#do: "count" }).await.unwrap_err();
        assert_eq!((misfit.code(), misfit.delivered()), (Code::InvalidReply, Delivered::Yes));
        client.close().await.unwrap();
    }
    served.end().await;
}
