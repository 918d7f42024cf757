//! A client that does no more than it is told.

use std::time::Duration;

use oxenv_fleet_simulator::{Simulator, SimulatorOptions};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A simulator, and somebody who calls it with its first key.
pub(crate) struct Caller {
    pub(crate) simulator: Simulator,
    client: reqwest::Client,
}

impl Caller {
    pub(crate) async fn start(options: SimulatorOptions) -> Self {
        let simulator = Simulator::start(options).await.unwrap();
        // An end to every wait, far beyond what anything here takes.
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(20)).build().unwrap();
        Caller { simulator, client }
    }

    pub(crate) async fn with(faults: &[&str]) -> Self {
        let faults = faults.iter().map(|fault| fault.parse().unwrap()).collect();
        Self::start(SimulatorOptions { faults, ..SimulatorOptions::default() }).await
    }

    pub(crate) fn inject(&self, fault: &str) {
        self.simulator.inject(fault.parse().unwrap());
    }

    pub(crate) fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let url = if url.starts_with('/') {
            format!("{}{url}", self.simulator.control_url())
        } else {
            url.to_owned()
        };
        self.client.request(method, url).bearer_auth(self.simulator.api_key())
    }

    pub(crate) async fn get(&self, url: &str) -> reqwest::Result<Answer> {
        answered(self.request(Method::GET, url)).await
    }

    pub(crate) async fn delete(&self, url: &str) -> reqwest::Result<Answer> {
        answered(self.request(Method::DELETE, url)).await
    }

    pub(crate) async fn post(&self, url: &str, body: &Value) -> reqwest::Result<Answer> {
        answered(self.request(Method::POST, url).json(body)).await
    }

    /// A create of that environment.
    pub(crate) async fn create(&self, env_key: &str) -> reqwest::Result<Answer> {
        self.post("/v1/env/instances", &json!({"env_key": env_key, "created_from": "sdk"})).await
    }

    /// A create with that request id.
    pub(crate) async fn create_as(&self, request_id: &str) -> reqwest::Result<Answer> {
        let body = json!({"env_key": "fira"});
        let request = self.request(Method::POST, "/v1/env/instances").json(&body);
        answered(request.header("x-request-id", request_id)).await
    }

    /// An instance of `fira`: its id and its root.
    pub(crate) async fn made(&self) -> (String, String) {
        let document = self.create("fira").await.unwrap().json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&document["instance_id"]), text(&document["urls"]["root"]))
    }

    /// The status that the control plane tells of an instance.
    pub(crate) async fn status(&self, id: &str) -> String {
        let document = self.get(&format!("/v1/env/instances/{id}")).await.unwrap().json();
        document["status"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn answered(request: RequestBuilder) -> reqwest::Result<Answer> {
    let response = request.send().await?;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Ok(Answer { status, headers, text: response.text().await? })
}
