//! Time from `from_docker_image` to a session, compared with `docker run` up to the first healthy reply.
//!
//! Invariant: both start the same image on the same daemon and take turns; removing is not measured. Prints
//! one JSON object with milliseconds, or says what is missing.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use oxenv_client::{ClientOptions, OpenOptions, ProvidedEnv};
use oxenv_providers::InstanceSpec;
use oxenv_providers::docker::DockerProvider;
use serde_json::{Value, json};

const IMAGE: &str = "echo-env:latest";
const RUNS: usize = 7;
const HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let report = match daemon().await {
        Ok(provider) => measure(&provider).await.unwrap_or_else(|reason| json!({ "failed": reason })),
        Err(reason) => json!({ "skipped": format!("{reason}; run this by scripts/with-docker") }),
    };
    println!("{report}");
}

/// A daemon that has the image.
async fn daemon() -> Result<DockerProvider, String> {
    let host = std::env::var("DOCKER_HOST").ok();
    let provider = DockerProvider::connect(host.as_deref()).await.map_err(|error| error.to_string())?;
    docker(&["image", "inspect", "--format", "{{.Id}}", IMAGE])?;
    Ok(provider)
}

/// The report, or the reason why there is none.
async fn measure(provider: &DockerProvider) -> Result<Value, String> {
    let (mut ours, mut theirs) = (Vec::with_capacity(RUNS), Vec::with_capacity(RUNS));
    // The first start of each reads the image from the disk and is not measured.
    for run in 0..=RUNS {
        let (by_provider, by_hand) = (provided(provider).await?, run_by_hand()?);
        if run > 0 {
            ours.push(by_provider);
            theirs.push(by_hand);
        }
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    let ratio = (ours / theirs * 1000.0).round() / 1000.0;
    Ok(json!({ "runs": RUNS, "provider_ms": ours, "docker_run_ms": theirs, "ratio": ratio }))
}

async fn provided(provider: &DockerProvider) -> Result<f64, String> {
    let spec = InstanceSpec { image: Some(IMAGE.to_owned()), ..InstanceSpec::default() };
    let began = Instant::now();
    let started =
        ProvidedEnv::start(provider, &spec, &ClientOptions::default(), &OpenOptions::default()).await;
    let environment = started.map_err(|error| error.to_string())?;
    let took = began.elapsed();
    environment.close().await.map_err(|error| error.to_string())?;
    Ok(took.as_secs_f64() * 1e3)
}

fn run_by_hand() -> Result<f64, String> {
    let began = Instant::now();
    let id = docker(&["run", "--detach", "--publish", "127.0.0.1::8000", IMAGE])?;
    let healthy = docker(&["port", &id, "8000/tcp"]).and_then(|address| wait(&address));
    let took = began.elapsed();
    docker(&["rm", "--force", "--volumes", &id])?;
    healthy.map(|()| took.as_secs_f64() * 1e3)
}

fn docker(arguments: &[&str]) -> Result<String, String> {
    let done = Command::new("docker").args(arguments).output().map_err(|error| format!("docker: {error}"))?;
    if !done.status.success() {
        return Err(String::from_utf8_lossy(&done.stderr).trim().to_owned());
    }
    Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
}

/// Requests `/health` until its status is 200.
fn wait(address: &str) -> Result<(), String> {
    let address = address.lines().next().unwrap_or_default();
    let began = Instant::now();
    while began.elapsed() < HEALTH_TIMEOUT {
        if healthy(address).unwrap_or(false) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(format!("{address} was not healthy after {} s", HEALTH_TIMEOUT.as_secs()))
}

fn healthy(address: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    Ok(reply.starts_with("HTTP/1.1 200"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2] * 10.0).round() / 10.0
}
