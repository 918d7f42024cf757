//! The clients against servers: ours in this process, and ones that misbehave.

mod arguments;
mod batch;
mod blocking;
mod faults;
mod fleet;
mod floods;
mod http;
mod multi;
mod multi_support;
mod mux;
mod mux_faults;
mod mux_support;
mod provided;
mod proxy;
mod resume;
// The same environments as the core's tests use.
#[allow(dead_code)]
#[path = "../../../oxenv-core/tests/it/stage.rs"]
mod stage;
mod stock;
mod support;
mod typed;
