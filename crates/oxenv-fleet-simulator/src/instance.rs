//! An instance: its life as the control plane tells it.
//!
//! Invariant: its listener exists from the moment it was made until it is ended, and answers 503 until it runs.

mod database;
mod host;
mod lifecycle;
mod manager;
mod mcp;
mod route;
mod tools;
mod verifier;

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::connections::Connections;
use crate::control::Environment;
use crate::fault::Fate;
use crate::simulator::{InstanceView, Status};
use crate::state::World;
use host::Host;
use lifecycle::Life;

/// How an instance was made.
pub(crate) struct Made {
    pub(crate) environment: &'static Environment,
    pub(crate) version: String,
    pub(crate) region: String,
    pub(crate) data_key: Option<String>,
    pub(crate) data_version: Option<String>,
    pub(crate) env_variables: Option<Map<String, Value>>,
    pub(crate) run_id: Option<String>,
    pub(crate) heartbeat_interval: Option<u32>,
    pub(crate) ttl: Duration,
    pub(crate) seed: i64,
    pub(crate) fate: Option<Fate>,
}

/// An instance.
pub(crate) struct Instance {
    pub(crate) id: String,
    pub(crate) team: String,
    pub(crate) made: Made,
    root: String,
    life: Mutex<Life>,
    connections: Mutex<Option<Arc<Connections>>>,
}

impl Instance {
    /// Begins to listen.
    pub(crate) fn start(world: &Arc<World>, id: String, team: String, made: Made) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let root = format!("http://{}/", listener.local_addr()?);
        let life = Life::new(world.clock.now(), world.options.provisioning_delay, &made);
        let (life, connections) = (Mutex::new(life), Mutex::default());
        let instance = Arc::new(Instance { id, team, made, root, life, connections });
        if !world.faults.refuses() {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let host = Host::new(Arc::clone(&instance), Arc::clone(world))?;
            *instance.connections.lock() = Some(Arc::new(Connections::serve(listener, Arc::new(host))));
        }
        Ok(instance)
    }

    pub(crate) fn status(&self, now: Duration) -> Status {
        self.life.lock().status(now)
    }

    /// When it is no longer pending, if only time passes.
    pub(crate) fn ready_at(&self) -> Duration {
        self.life.lock().ready_at()
    }

    /// When it ends by itself, if it still lives.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.life.lock().deadline()
    }

    /// Somebody asked for it: a pending one with a fate meets it now.
    pub(crate) fn asked(&self, now: Duration) {
        if self.life.lock().asked() == Some(Fate::Stopped) {
            self.end(now);
        }
    }

    /// It is still used. The interval in seconds, and the next deadline, if it wants to know.
    pub(crate) fn beat(&self, now: Duration) -> Option<(u32, Duration)> {
        self.life.lock().beat(now)
    }

    /// Ends it; false if it has ended.
    pub(crate) fn end(&self, now: Duration) -> bool {
        let first = self.life.lock().end(now);
        self.refuse();
        first
    }

    /// Whether it can be connected to.
    pub(crate) fn listens(&self) -> bool {
        self.connections.lock().as_ref().is_some_and(|connections| connections.listens())
    }

    /// Stops listening and lets go of its connections.
    pub(crate) fn refuse(&self) {
        if let Some(connections) = &*self.connections.lock() {
            connections.abort();
        }
    }

    /// Waits until none of its connections is left.
    pub(crate) async fn closed(&self) {
        let connections = self.connections.lock().take();
        if let Some(connections) = connections {
            connections.close().await;
        }
    }

    pub(crate) fn view(&self, now: Duration) -> InstanceView {
        InstanceView {
            id: self.id.clone(),
            env_key: self.made.environment.key.to_owned(),
            status: self.status(now),
            root: self.root.clone(),
        }
    }

    /// As the control plane tells it.
    pub(crate) fn document(&self, clock: &Clock) -> Value {
        let (now, made) = (clock.now(), &self.made);
        let (created, ended) = self.life.lock().span();
        let status = self.status(now);
        let name = match status {
            Status::Pending => "pending",
            Status::Running => "running",
            Status::Stopped => "stopped",
            Status::Error => "error",
        };
        json!({
            "instance_id": self.id, "env_key": made.environment.key, "version": made.version, "status": name,
            "subdomain": self.id, "created_at": clock.stamp(created), "updated_at": clock.stamp(ended.unwrap_or(created)),
            "terminated_at": ended.map(|at| clock.stamp(at)), "team_id": self.team, "region": made.region,
            "env_variables": made.env_variables, "data_key": made.data_key, "data_version": made.data_version,
            "urls": self.urls(), "health": status == Status::Running, "run_id": made.run_id, "profile_id": null,
            "heartbeat_interval": made.heartbeat_interval, "heartbeat_region": null,
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
                "execute_verifier_function_with_upload": format!("{manager}/execute_verifier_function_with_upload"),
            },
        })
    }
}
