//! The simulator as its user holds it.
//!
//! Invariant: its drop ends everything that it started; `shutdown` waits for that.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::connections::Connections;
use crate::control::ControlPlane;
use crate::fault::Fault;
use crate::log::LoggedRequest;
use crate::options::SimulatorOptions;
use crate::state::SimulatorState;
use crate::view::{InstanceStatus, InstanceView};

/// A Fleet on this machine.
pub struct Simulator {
    state: Arc<SimulatorState>,
    control: Connections,
    url: String,
}

impl Simulator {
    /// Begins to listen, within a Tokio runtime.
    ///
    /// # Errors
    /// If the port is taken.
    pub async fn start(options: SimulatorOptions) -> io::Result<Simulator> {
        let listener = TcpListener::bind(("127.0.0.1", options.port)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let simulator = SimulatorState::new(options);
        let control = Connections::serve(listener, ControlPlane::new(Arc::clone(&simulator)));
        Ok(Simulator { state: simulator, control, url })
    }

    /// The URL of the control plane, without a `/` at its end: the value for `FLEET_BASE_URL`.
    #[must_use]
    pub fn control_url(&self) -> &str {
        &self.url
    }

    /// The first key.
    #[must_use]
    pub fn api_key(&self) -> &str {
        self.state.options.keys.first().map_or("", |key| &key.key)
    }

    /// How many instances were made and not ended: those that are pending, run, or failed. A client that left
    /// one of them behind would pay for it.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.views().iter().filter(|instance| instance.status != InstanceStatus::Stopped).count()
    }

    /// Every instance that was ever made, oldest first.
    #[must_use]
    pub fn views(&self) -> Vec<InstanceView> {
        self.state.views()
    }

    /// Every request that came, oldest first, also those that met a fault.
    #[must_use]
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.state.log.requests()
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.state.inject(fault);
    }

    /// Takes all faults back. Instances that do not listen stay so.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// Ends the time of an instance now; false if there is none that could end.
    pub fn expire(&self, id: &str) -> bool {
        self.state.expire(id)
    }

    /// Lets time pass at once, for provisioning, time to live and heartbeats.
    pub fn advance(&self, time: Duration) {
        self.state.advance(time);
    }

    /// Ends everything and waits for that.
    pub async fn shutdown(self) {
        self.control.close().await;
        self.state.close().await;
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.control.abort();
        self.state.abort();
    }
}
