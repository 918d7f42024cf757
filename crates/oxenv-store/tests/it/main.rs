//! What is left on disk, read back as its readers do.

mod audit;
