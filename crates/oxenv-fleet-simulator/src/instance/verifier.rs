//! Running a verifier: Python in a process of its own.
//!
//! Invariant: the process ends with the request that it runs for, or when its time is over.

use std::io::ErrorKind;
use std::time::Duration;

use oxenv_process::run::run;
use serde_json::Value;

/// Reads a task from stdin and writes one JSON document to stdout.
const RUNNER: &str = include_str!("verifier.py");

/// What a verifier returned, or why there is nothing.
pub(super) async fn run_verifier(task: &Value, timeout: Duration) -> Result<Value, String> {
    // Isolated: nothing of the environment or of the folder changes what runs.
    let ended = run("python3", &["-I", "-c", RUNNER], task.to_string().as_bytes(), timeout).await;
    let output = ended.map_err(|error| match error.kind() {
        ErrorKind::TimedOut => format!("the verifier did not end within {} s", timeout.as_secs_f64()),
        _ => error.to_string(),
    })?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!("the verifier ended with {}: {}", output.status, stderr.trim_end())
    })?;
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["result"].clone()),
    }
}
