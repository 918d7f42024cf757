//! How large a value is.
//!
//! Invariant: takes time linear in the value.

use serde_json::Value;

/// About how many bytes a value takes in memory.
#[must_use]
pub fn memory_size(value: &Value) -> u64 {
    match value {
        Value::String(string) => 32 + string.len() as u64,
        Value::Array(items) => 32 + items.iter().map(memory_size).sum::<u64>(),
        Value::Object(members) => {
            32 + members.iter().map(|(key, value)| 64 + key.len() as u64 + memory_size(value)).sum::<u64>()
        }
        _ => 32,
    }
}

/// Bytes of the longest path within a value.
pub(crate) fn longest_path(value: &Value) -> u64 {
    match value {
        Value::Array(items) => items.iter().map(|item| 8 + longest_path(item)).max().unwrap_or(0),
        Value::Object(members) => {
            let paths = members.iter().map(|(key, value)| 1 + key.len() as u64 + longest_path(value));
            paths.max().unwrap_or(0)
        }
        _ => 0,
    }
}
