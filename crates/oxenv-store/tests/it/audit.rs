//! The audit file: under load, when its disk is full or stalls, when it is rotated.

use std::collections::HashSet;
use std::fs::{self, File};
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use oxenv_core::{AuditOutcome, AuditRecord, AuditSink, Decision, Principal, Work};
use oxenv_store::{AuditFileStatus, JsonlAudit};
use oxenv_wire::{ErrorCode, ToolErrorType};
use serde_json::Value;
use serde_json::value::RawValue;

/// An empty folder for one test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn record(call_id: &str) -> AuditRecord<'_> {
    AuditRecord {
        time_us: 1_767_225_600_000_000,
        call_id,
        principal: Principal::Agent,
        session_id: Some("5f2b6c1e-7a54-4a7e-9a53-0c1d2e3f4a5b"),
        epoch: 3,
        step: Some(17),
        parent: None,
        tool: "files__read_file",
        toolset: Some("files"),
        upstream_tool: Some("read_file"),
        decision: Decision::Denied,
        rule: Some("roles.agent.deny: read_*"),
        duration_us: 1234,
        outcome: AuditOutcome::Error {
            error_type: ToolErrorType::ExecutionError,
            code: Some(ErrorCode::Cancelled),
        },
        message: Some("a message\nof two lines, with \"quotes\" and é"),
        arguments: None,
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn ids_of(lines: &[Value]) -> impl Iterator<Item = &str> {
    lines.iter().map(|line| line["call_id"].as_str().unwrap())
}

/// Longer than anything here takes that does not hang.
const SOON: Duration = Duration::from_secs(20);

/// The outcome of work, if there is one now.
fn now<T>(work: &mut Work<'_, T>) -> Option<T> {
    match Pin::new(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Whether there is a place, which is taken then.
fn placed(audit: &JsonlAudit) -> bool {
    now(&mut audit.take_place()).is_some()
}

/// Records a call, as soon as there is a place for it.
fn put(audit: &JsonlAudit, call_id: &str) {
    while !placed(audit) {
        std::thread::yield_now();
    }
    audit.record(&record(call_id));
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// As much of a line as tells it from others.
#[derive(serde::Deserialize)]
struct Brief<'a> {
    call_id: &'a str,
}

/// Counts what is logged.
struct Logged(Arc<AtomicU64>);

impl tracing::Subscriber for Logged {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        assert_eq!(*event.metadata().level(), tracing::Level::ERROR);
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_line_has_the_version_and_the_record() {
    let path = folder("one_line").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    put(&audit, "7");
    assert!(audit.flush(SOON));
    // For its owner alone.
    expect_test::expect![[r#"{"v":1,"time_us":1767225600000000,"call_id":"7","principal":"agent","session_id":"5f2b6c1e-7a54-4a7e-9a53-0c1d2e3f4a5b","epoch":3,"step":17,"tool":"files__read_file","toolset":"files","upstream_tool":"read_file","decision":"denied","rule":"roles.agent.deny: read_*","duration_us":1234,"outcome":"error","error_type":"execution_error","code":"CANCELLED","message":"a message\nof two lines, with \"quotes\" and é"}"#]]
    .assert_eq(fs::read_to_string(&path).unwrap().trim_end());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn arguments_of_several_lines_stand_in_one() {
    let path = folder("spread").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    let arguments = RawValue::from_string("{\n\t\"text\":\r\n  \"a\\nb\"\n}".to_owned()).unwrap();
    assert!(placed(&audit));
    audit.record(&AuditRecord { arguments: Some(&arguments), ..record("7") });
    assert!(audit.flush(SOON));
    let lines = lines(&path);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["arguments"]["text"], "a\nb");
}

#[test]
fn nothing_is_lost_under_load() {
    const THREADS: usize = 8;
    const EACH: usize = 10_000;
    let path = folder("load").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let audit = &audit;
            scope.spawn(move || {
                (0..EACH).for_each(|number| put(audit, &format!("{thread}-{number}")));
            });
        }
    });
    assert!(audit.flush(SOON));
    let rate = (THREADS * EACH) as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} records a second");
    assert_eq!(audit.status(), AuditFileStatus::default());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<Brief<'_>> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), THREADS * EACH);
    assert_eq!(lines.iter().map(|line| line.call_id).collect::<HashSet<_>>().len(), THREADS * EACH);
    // What one thread wrote stands in its order.
    for thread in 0..THREADS {
        let prefix = format!("{thread}-");
        let numbers =
            lines.iter().filter_map(|line| line.call_id.strip_prefix(&prefix)?.parse::<usize>().ok());
        assert!(numbers.eq(0..EACH));
    }
    fs::remove_file(path).unwrap();
}

/// A disk without room takes nothing and loses nothing: what was recorded is there when there is room, once.
#[test]
fn a_full_disk_is_waited_for() {
    let folder = folder("full");
    let path = folder.join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let logged = Arc::new(AtomicU64::new(0));
    tracing::subscriber::set_global_default(Logged(Arc::clone(&logged))).unwrap();
    let begun = Instant::now();
    let audit = JsonlAudit::open(&path).unwrap();
    (0..1000).for_each(|number: u32| put(&audit, &number.to_string()));
    assert!(!audit.flush(Duration::from_millis(1500)));
    assert_eq!((audit.status().waiting, audit.status().refused), (1000, 0));
    assert!(audit.status().failed >= 2);

    fs::remove_file(&path).unwrap();
    put(&audit, "after");
    assert!(audit.flush(SOON));
    assert!((1..=begun.elapsed().as_secs() + 1).contains(&logged.load(Ordering::Relaxed)));
    let lines = lines(&path);
    let expected: Vec<String> = (0..1000).map(|number| number.to_string()).chain(["after".into()]).collect();
    assert!(ids_of(&lines).eq(expected.iter().map(String::as_str)));
}

/// A pipe that nobody reads is a disk that stalls. Whoever records is not held up: without a place there is
/// no call.
#[test]
fn a_stalled_disk_holds_nobody_up() {
    let path = folder("stalled").join("audit.jsonl");
    mkfifo(&path);
    let audit = JsonlAudit::open(&path).unwrap();
    let mut taken = 0;
    while placed(&audit) {
        audit.record(&record(&taken.to_string()));
        taken += 1;
    }
    assert!(taken >= 10_000, "{taken}");
    for _ in 0..3 {
        audit.refused();
    }
    assert!(!audit.flush(Duration::ZERO));
    let mut place = audit.take_place();
    assert!(now(&mut place).is_none());

    // The disk is back.
    let mut reader = BufReader::new(File::open(&path).unwrap());
    let mut read = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    let (mut found, mut refused) = (Vec::new(), Vec::new());
    while found.len() < taken {
        let line = read();
        match line["call_id"].as_str() {
            Some(id) => found.push(id.parse::<usize>().unwrap()),
            None => refused.push(line),
        }
    }
    assert!(found.into_iter().eq(0..taken));
    assert!(audit.flush(SOON));
    assert!(now(&mut place).is_some(), "who waits for a place gets one");
    audit.record(&record("after"));
    assert_eq!(read()["call_id"], "after");
    assert_eq!((refused.len(), &refused[0]["v"], &refused[0]["refused"]), (1, &1.into(), &3.into()));
    assert!(refused[0]["time_us"].as_u64().unwrap() > 1_767_225_600_000_000);
    assert!(audit.flush(SOON));
    assert_eq!(audit.status(), AuditFileStatus { refused: 3, ..AuditFileStatus::default() });
}

/// Long records take more places, so that what waits is bounded in bytes as well.
#[test]
fn long_records_take_more_places() {
    let path = folder("long").join("audit.jsonl");
    mkfifo(&path);
    let audit = JsonlAudit::open(&path).unwrap();
    let arguments = RawValue::from_string(format!("{:?}", "x".repeat(1 << 20))).unwrap();
    let mut taken = 0;
    while placed(&audit) {
        audit.record(&AuditRecord { arguments: Some(&arguments), ..record("7") });
        taken += 1;
    }
    assert!((10..20).contains(&taken), "{taken}");
    let mut reader = BufReader::new(File::open(&path).unwrap());
    for _ in 0..taken {
        reader.read_line(&mut String::new()).unwrap();
    }
    assert!(audit.flush(SOON));
    // All of them are free again.
    let places = std::iter::from_fn(|| placed(&audit).then_some(())).count();
    assert_eq!(places, 16 * 1024);
}

/// The end writes what is left, and does not wait for ever where it cannot.
#[test]
fn the_end_writes_what_is_left() {
    let path = folder("end").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    (0..100).for_each(|number: u32| put(&audit, &number.to_string()));
    drop(audit);
    assert_eq!(lines(&path).len(), 100);

    for stuck in ["full", "stalled"] {
        let path = folder("stuck").join("audit.jsonl");
        match stuck {
            "full" => symlink("/dev/full", &path).unwrap(),
            _ => mkfifo(&path),
        }
        let audit = JsonlAudit::open(&path).unwrap();
        (0..1000).for_each(|number: u32| put(&audit, &number.to_string()));
        let begun = Instant::now();
        drop(audit);
        assert!(begun.elapsed() < SOON, "{stuck}");
    }
}

#[test]
fn a_torn_last_line_is_left_alone() {
    let path = folder("torn").join("audit.jsonl");
    fs::write(&path, "{\"v\":1}\n{\"v\":1,\"call_").unwrap();
    put(&JsonlAudit::open(&path).unwrap(), "whole");
    put(&JsonlAudit::open(&path).unwrap(), "appended");
    let text = fs::read_to_string(&path).unwrap();
    let appended = text.strip_prefix("{\"v\":1}\n{\"v\":1,\"call_\n").unwrap();
    let appended: Vec<Value> = appended.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ids_of(&appended).eq(["whole", "appended"]));
}

#[test]
fn rotation_goes_on_in_a_new_file() {
    let folder = folder("rotation");
    let (path, old) = (folder.join("audit.jsonl"), folder.join("audit.jsonl.1"));
    let audit = JsonlAudit::open(&path).unwrap();
    put(&audit, "1");
    assert!(audit.flush(SOON));
    fs::rename(&path, &old).unwrap();
    put(&audit, "2");
    assert!(audit.flush(SOON));
    assert_eq!((lines(&old).len(), lines(&path).len()), (1, 1));

    // Where a new file cannot be made, records are kept until one can.
    fs::remove_dir_all(&folder).unwrap();
    put(&audit, "3");
    assert!(!audit.flush(Duration::from_millis(300)));
    assert_eq!(audit.status().waiting, 1);
    fs::create_dir(&folder).unwrap();
    assert!(audit.flush(SOON));
    assert!(ids_of(&lines(&path)).eq(["3"]));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = folder("unopened");
    for path in [folder.clone(), folder.join("missing/audit.jsonl")] {
        let error = JsonlAudit::open(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
