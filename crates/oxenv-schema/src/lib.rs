//! JSON Schemas: the one place where they are compiled and run.
//!
//! Invariant: compiling and checking end in bounded time, memory and stack, whatever the schema and the value
//! are. `analysis.rs` refuses schemas past the bounds before anything is made of them; a check takes its
//! steps from a budget, see `metered.rs`, and has no outcome when that runs out: [`TooDeep`]. Nothing is ever
//! fetched.
//!
//! ```
//! use oxenv_schema::{CheckBudget, Schema, issues};
//! use serde_json::json;
//!
//! let schema = Schema::compile(&json!({ "type": "object", "required": ["city"] })).unwrap();
//! let (good, bad) = (json!({ "city": "Paris" }), json!({}));
//! assert_eq!(schema.is_valid(&good, &CheckBudget::of(&good)), Ok(true));
//! let found = issues(&schema, &bad, &CheckBudget::of(&bad), "it does not fit").unwrap();
//! assert_eq!(found[0].msg, "Field required");
//! ```

mod analysis;
mod blocking;
mod check;
mod compile;
mod instrument;
mod issues;
mod lazy;
mod match_cost;
mod messages;
mod metered;
mod pattern;
mod pattern_size;
mod size;

pub use blocking::run_blocking;
pub use check::{CheckBudget, MAX_INLINE_BYTES, TooDeep, is_small};
pub use compile::{Schema, SchemaError};
pub use issues::{explain, explain_unreadable, general_issue, issues};
pub use lazy::LazySchema;
pub use messages::{describe_error, describe_masked, truncated, with_location};
pub use size::memory_size;
