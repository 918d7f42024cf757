//! The built binary, as people and scripts run it, and the house rules of the whole repository.

mod bench;
mod broken_tools;
mod check;
mod commands;
mod config;
mod faults;
mod fleet;
mod fleet_simulate;
mod help;
mod hostile;
mod instances;
mod policy;
mod process;
mod records;
mod replay;
mod rescore;
mod schemas;
mod serve;
mod signals;
mod snapshot_keys;
mod tidy;
mod tls;
mod tokens;
mod traces;
mod validate;
