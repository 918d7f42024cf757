//! What an instance's routes work with.

use std::sync::Arc;

use super::SimulatedInstance;
use super::database::Databases;
use crate::state::SimulatorState;

/// An instance with its databases, and the simulator that it belongs to.
pub(super) struct InstanceContext {
    pub(super) instance: Arc<SimulatedInstance>,
    pub(super) state: Arc<SimulatorState>,
    pub(super) databases: Databases,
}
