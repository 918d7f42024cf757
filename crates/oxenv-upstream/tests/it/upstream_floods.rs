//! Servers that send without end and take nothing: memory stays bounded, and their end is told.

use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use oxenv_core::{CallNotification, CallerChannel, RequestError, Toolset, Work};
use oxenv_test_support::until;
use serde_json::{Value, json};

use crate::upstream_support::*;

/// How much this process may grow while a server floods it, in MiB.
const MAX_GROWTH: u64 = 192;

/// Memory of this process that is in use, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// Looks at the memory of this process while something runs.
struct Growth {
    start: u64,
    most: u64,
}

impl Growth {
    fn new() -> Self {
        Growth { start: resident(), most: 0 }
    }

    #[track_caller]
    fn check(&mut self) {
        self.most = self.most.max(resident().saturating_sub(self.start));
        assert!(self.most < MAX_GROWTH, "the process grew by {} MiB", self.most);
    }

    /// Waits for something, within bounded memory.
    async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.check();
                    return done;
                }
                () = tokio::time::sleep(Duration::from_millis(5)) => self.check(),
            }
        }
    }
}

/// The entry of a server that floods.
fn flood(when: &str, what: &str, more: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/flood.py");
    let python = python();
    format!(
        "  - name: flood\n    mcp_server:\n      command: {python}\n      \
         args: [\"-S\", \"{script}\", \"{when}\", \"{what}\"{more}]\n      env: {{ MARK: \"@MARK@\" }}\n    \
         start_timeout_s: 20\n    timeout_s: 20\n"
    )
}

fn open(entry: String) -> (Stage, Vec<Arc<dyn Toolset>>) {
    let stage = Stage::with(&[entry, odd("other", "plain", "")], 4, 0);
    let toolsets = stage.session(1);
    (stage, toolsets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_floods_requests_and_takes_no_answers_is_ended() {
    for what in ["ping", "unknown", "roots", "sampling", "same-id", "long-id"] {
        let (stage, toolsets) = open(flood("listing", what, ""));
        toolsets[1].ready().await;
        let mut growth = Growth::new();
        growth.during(toolsets[0].ready()).await;
        let problem = toolsets[0].problem().unwrap_or_default();
        assert!(problem.contains("does not take the answers"), "{what}: {problem}");
        assert_eq!(say(&toolsets[1], "echo").await, "");
        eprintln!("{what}: the process grew by {} MiB", growth.most);
        stage.manager.close().await;
        stage.emptied().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_the_greeting_on_is_bounded_too() {
    let (_stage, toolsets) = open(flood("greeting", "ping", ""));
    let mut growth = Growth::new();
    growth.during(toolsets[0].ready()).await;
    let problem = toolsets[0].problem().unwrap_or_default();
    assert!(problem.contains("does not take the answers"), "{problem}");
    eprintln!("the process grew by {} MiB", growth.most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_burst_of_questions_those_beyond_the_bound_are_refused() {
    let (_stage, toolsets) = open(flood("call", "burst", ""));
    toolsets[0].ready().await;
    let mut growth = Growth::new();
    let caller = Silent { pause: Duration::ZERO };
    let call = call_as(&toolsets[0], Some(&caller), "flood", json!({}));
    assert_eq!(growth.during(call).await.unwrap().text(), "944");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_outlasts_floods_that_want_no_answer() {
    for what in ["progress", "log", "long-log", "unknown-note", "batch", "withdrawn"] {
        let (_stage, toolsets) = open(flood("call", what, ", \"reads\""));
        toolsets[0].ready().await;
        let mut growth = Growth::new();
        let caller = Silent { pause: Duration::from_millis(u64::from(what == "long-log") * 50) };
        let call = call_as(&toolsets[0], Some(&caller), "flood", json!({}));
        assert_eq!(growth.during(call).await.map(|result| result.is_error), Ok(false), "{what}");
        eprintln!("{what}: the process grew by {} MiB", growth.most);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_list_changes_is_answered_with_few_listings() {
    let (_stage, toolsets) = open(flood("call", "list-changed", ", \"reads\""));
    toolsets[0].ready().await;
    let mut growth = Growth::new();
    let listings = async || say(&toolsets[0], "flood").await.parse::<u32>().unwrap();
    let before = listings().await;
    growth.during(tokio::time::sleep(Duration::from_secs(5))).await;
    let more = listings().await - before;
    assert!((1..=20).contains(&more), "{more} listings in 5 s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_end_is_read_in_bounded_memory() {
    let (_stage, toolsets) = open(flood("listing", "pages", ""));
    let mut growth = Growth::new();
    growth.during(toolsets[0].ready()).await;
    assert_eq!(toolsets[0].problem(), None);
    assert!(toolsets[0].list().len() > 500);
    eprintln!("the process grew by {} MiB", growth.most);
}

/// A server over HTTP that floods, until it is dropped.
struct Web {
    process: std::process::Child,
    entry: String,
}

impl Web {
    fn start(what: &str, place: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/flood_http.py");
        let mut process = std::process::Command::new(python())
            .args(["-S", script, what, place])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut port).unwrap();
        let url = format!("http://127.0.0.1:{}/mcp", port.trim());
        let entry = format!("  - name: web\n    mcp_server: {{ transport: http, url: \"{url}\" }}\n");
        Web { process, entry }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_server_that_floods_requests_and_takes_no_answers_is_ended() {
    let web = Web::start("ping", "news");
    // The connection that all sessions share listens for news all the time.
    let (_stage, toolsets) = open(format!("{}    scope: server\n", web.entry));
    toolsets[1].ready().await;
    let mut growth = Growth::new();
    growth.during(toolsets[0].ready()).await;
    let told = || toolsets[0].problem().is_some_and(|told| told.contains("does not take the answers"));
    growth.during(until("its end is told", told)).await;
    eprintln!("ping over news: the process grew by {} MiB", growth.most);

    let web = Web::start("ping", "call");
    let (_stage, toolsets) = open(web.entry.clone());
    toolsets[0].ready().await;
    let error = growth.during(call(&toolsets[0], "flood", json!({}))).await.unwrap_err();
    assert!(error.message.contains("does not take the answers"), "{}", error.message);
    assert_eq!(say(&toolsets[1], "echo").await, "");
    eprintln!("ping within a call: the process grew by {} MiB", growth.most);
}

/// A caller that is slow to hear and answers nothing.
struct Silent {
    pause: Duration,
}

impl CallerChannel for Silent {
    fn tell(&self, _: CallNotification) {
        std::thread::sleep(self.pause);
    }

    fn ask<'a>(&'a self, _: &'a str, _: Value) -> Work<'a, Result<Value, RequestError>> {
        Work::pending(std::future::pending())
    }
}
