//! What is left on disk, read back as its readers do.

mod audit;
mod crash;
mod export;
mod holes;
mod index;
mod log;
mod recovery;
mod sample;
