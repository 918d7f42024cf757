//! A Fleet on this machine: the control plane, one listener per instance, and every fault that was seen in
//! the field.
//!
//! Entry point: [`Simulator::start`]. Faults are injected with [`Simulator::inject`]; each has a text form:
//!
//! ```
//! use oxenv_fleet_simulator::{Fault, Simulator, SimulatorOptions};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let simulator = Simulator::start(SimulatorOptions::default()).await?;
//! simulator.inject("create:429*1".parse::<Fault>()?);
//! assert_eq!(simulator.instances(), 0);
//! simulator.shutdown().await;
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! Invariant: what Fleet's own SDK accepts of the real service, it accepts of this. Everything listens on
//! loopback addresses, and nothing is left after [`Simulator::shutdown`] or the drop of the simulator: no
//! listener, no task, no process.

mod clock;
mod connections;
mod control;
mod environments;
mod fault;
mod instance;
mod log;
mod options;
mod simulator;
mod state;
mod view;

pub use fault::{
    Effect, Fault, FaultError, FaultResponse, FaultTarget, McpMethod, PendingOutcome, ResponseBody,
};
pub use log::{Destination, LoggedRequest};
pub use options::{ApiKey, Framing, McpAuth, SimulatorOptions};
pub use simulator::Simulator;
pub use view::{InstanceStatus, InstanceView};
