//! The client for callers without a runtime.

use std::thread;

use oxenv_client::blocking::{EnvClient, wait};
use oxenv_client::{Code, OpenOptions, ResetOptions};
use serde_json::json;

use crate::multi_support::serve;
use crate::support::{http, stock};

#[test]
fn many_threads_share_a_session_and_have_their_own() {
    let served = wait(serve());
    let url = served.url();
    for options in [stock(), http()] {
        let shared = EnvClient::connect_with(&url, &options, &OpenOptions::default()).unwrap();
        shared.reset(&ResetOptions::default()).unwrap();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let own = EnvClient::connect_with(&url, &options, &OpenOptions::default()).unwrap();
                    own.reset(&ResetOptions::default()).unwrap();
                    for number in 1..=20 {
                        let step = own.step(&json!({ "do": "count" })).unwrap();
                        assert_eq!(step.observation_value()["count"], number);
                        shared.step(&json!({ "do": "count" })).unwrap();
                    }
                    own.close().unwrap();
                });
            }
        });
        assert_eq!(shared.state().unwrap()["count"], 160);
        shared.close().unwrap();
    }
    wait(served.end());
}

#[tokio::test]
async fn a_thread_of_a_runtime_is_refused() {
    assert_eq!(EnvClient::connect("http://localhost:1").err().unwrap().code(), Code::InvalidOptions);
}
