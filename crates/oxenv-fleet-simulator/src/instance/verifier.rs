//! Running a verifier: Python in a process of its own.
//!
//! Invariant: the process ends with the request that it runs for, or when its time is over.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Reads a task from stdin and writes one JSON document to stdout.
const RUNNER: &str = include_str!("verifier.py");

/// What a verifier returned, or why there is nothing.
pub(super) async fn run_verifier(task: &Value, patience: Duration) -> Result<Value, String> {
    let mut command = Command::new("python3");
    // Isolated: nothing of the environment or of the folder changes what runs.
    command.args(["-I", "-c", RUNNER]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.kill_on_drop(true).spawn().map_err(|error| format!("python3 cannot be started: {error}"))?;
    let Some(mut stdin) = child.stdin.take() else { return Err("python3 has no stdin".to_owned()) };
    let task = task.to_string();
    let ended = async {
        // A runner that ended early says why itself.
        let _ = stdin.write_all(task.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(patience, ended)
        .await
        .map_err(|_| format!("the verifier did not end within {} s", patience.as_secs_f64()))?
        .map_err(|error| error.to_string())?;
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("the verifier ended with {}: {}", output.status, said.trim_end())
    })?;
    match answer["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer["result"].clone()),
    }
}
