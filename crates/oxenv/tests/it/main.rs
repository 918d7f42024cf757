//! The built binary, as people and scripts run it, and the house rules of the whole repository.

mod bench;
mod commands;
mod config;
mod help;
mod policy;
mod process;
mod serve;
mod tidy;
mod validate;
