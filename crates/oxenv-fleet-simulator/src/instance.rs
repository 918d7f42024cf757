//! An instance: its life as the control plane reports it.
//!
//! Invariant: its listener exists from the moment it was made until it is ended, and answers 503 until it
//! runs.

mod config;
mod context;
mod database;
pub(crate) mod host;
mod lifecycle;
mod manager;
mod mcp;
mod route;
mod tools;
mod verifier;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::clock::SimulatedClock;
use crate::connections::Connections;
use crate::fault::PendingOutcome;
use crate::view::{InstanceStatus, InstanceView};
pub(crate) use config::InstanceConfig;
use lifecycle::{Heartbeats, SimulatedLifecycle};

/// An instance.
pub(crate) struct SimulatedInstance {
    pub(crate) id: String,
    pub(crate) team: String,
    pub(crate) config: InstanceConfig,
    root: String,
    lifecycle: Mutex<SimulatedLifecycle>,
    connections: Mutex<Option<Arc<Connections>>>,
}

impl SimulatedInstance {
    /// An instance that does not listen yet. Its root URL ends in a `/`.
    fn new(
        id: String,
        team: String,
        root: String,
        lifecycle: SimulatedLifecycle,
        config: InstanceConfig,
    ) -> Self {
        let (lifecycle, connections) = (Mutex::new(lifecycle), Mutex::default());
        SimulatedInstance { id, team, config, root, lifecycle, connections }
    }

    pub(crate) fn status(&self, now: Duration) -> InstanceStatus {
        self.lifecycle.lock().status(now)
    }

    /// When it is no longer pending, if only time passes.
    pub(crate) fn ready_at(&self) -> Duration {
        self.lifecycle.lock().ready_at()
    }

    /// When it ends by itself, if it still lives.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.lifecycle.lock().deadline()
    }

    /// Notes that a client asked for it: a pending one with an outcome now gets that outcome.
    pub(crate) fn note_request(&self, now: Duration) {
        if self.lifecycle.lock().note_request() == Some(PendingOutcome::Stopped) {
            self.end(now);
        }
    }

    /// Notes a heartbeat; `None` if it was created without heartbeats.
    pub(crate) fn heartbeat(&self, now: Duration) -> Option<Heartbeats> {
        self.lifecycle.lock().heartbeat(now)
    }

    /// Ends it; false if it has ended.
    pub(crate) fn end(&self, now: Duration) -> bool {
        let first = self.lifecycle.lock().end(now);
        self.stop_listening();
        first
    }

    /// Whether it can be connected to.
    pub(crate) fn is_listening(&self) -> bool {
        self.connections.lock().as_ref().is_some_and(|connections| connections.is_listening())
    }

    /// Stops listening and drops its connections.
    pub(crate) fn stop_listening(&self) {
        if let Some(connections) = &*self.connections.lock() {
            connections.abort();
        }
    }

    /// Waits until none of its connections is left.
    pub(crate) async fn close(&self) {
        let connections = self.connections.lock().take();
        if let Some(connections) = connections {
            connections.close().await;
        }
    }

    pub(crate) fn view(&self, now: Duration) -> InstanceView {
        InstanceView {
            id: self.id.clone(),
            env_key: self.config.environment.key.to_owned(),
            status: self.status(now),
            root: self.root.clone(),
        }
    }

    /// As the control plane reports it.
    pub(crate) fn document(&self, clock: &SimulatedClock) -> Value {
        let (now, config) = (clock.now(), &self.config);
        let (created, ended) = {
            let lifecycle = self.lifecycle.lock();
            (lifecycle.created(), lifecycle.ended())
        };
        let status = self.status(now);
        let name = match status {
            InstanceStatus::Pending => "pending",
            InstanceStatus::Running => "running",
            InstanceStatus::Stopped => "stopped",
            InstanceStatus::Error => "error",
        };
        json!({
            "instance_id": self.id, "env_key": config.environment.key, "version": config.version,
            "status": name, "subdomain": self.id, "created_at": clock.timestamp(created),
            "updated_at": clock.timestamp(ended.unwrap_or(created)),
            "terminated_at": ended.map(|at| clock.timestamp(at)), "team_id": self.team,
            "region": config.region, "env_variables": config.env_variables, "data_key": config.data_key,
            "data_version": config.data_version, "urls": self.urls(),
            "health": status == InstanceStatus::Running, "run_id": config.run_id, "profile_id": null,
            "heartbeat_interval": config.heartbeat_interval, "heartbeat_region": null,
        })
    }

    fn urls(&self) -> Value {
        let root = &self.root;
        let manager = format!("{root}api/v1/env");
        json!({
            "root": root, "app": [root], "api": format!("{root}raw"), "health": format!("{root}health"),
            "api_docs": null,
            "manager": {
                "api": manager, "docs": format!("{manager}/docs"), "reset": format!("{manager}/reset"),
                "diff": format!("{manager}/diff"), "snapshot": format!("{manager}/snapshot"),
                "execute_verifier_function": format!("{manager}/execute_verifier_function"),
                "execute_verifier_function_with_upload":
                    format!("{manager}/execute_verifier_function_with_upload"),
            },
        })
    }
}
