//! The audit file: under load, when the disk is full, when it is rotated.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use oxenv_core::{AuditOutcome, AuditRecord, AuditSink, Decision, Principal};
use oxenv_store::JsonlAudit;
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
    audit.record(&record("7"));
    // It is there at once, and for its owner alone.
    expect_test::expect![[r#"{"v":1,"time_us":1767225600000000,"call_id":"7","principal":"agent","session_id":"5f2b6c1e-7a54-4a7e-9a53-0c1d2e3f4a5b","epoch":3,"step":17,"tool":"files__read_file","toolset":"files","upstream_tool":"read_file","decision":"denied","rule":"roles.agent.deny: read_*","duration_us":1234,"outcome":"error","error_type":"execution_error","code":"CANCELLED","message":"a message\nof two lines, with \"quotes\" and é"}"#]]
    .assert_eq(fs::read_to_string(&path).unwrap().trim_end());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn arguments_of_several_lines_stand_in_one() {
    let path = folder("spread").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    let arguments = RawValue::from_string("{\n\t\"text\":\r\n  \"a\\nb\"\n}".to_owned()).unwrap();
    audit.record(&AuditRecord { arguments: Some(&arguments), ..record("7") });
    let lines = lines(&path);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["arguments"]["text"], "a\nb");
}

#[test]
fn nothing_is_lost_under_load() {
    const THREADS: usize = 8;
    const EACH: usize = 20_000;
    let path = folder("load").join("audit.jsonl");
    let audit = JsonlAudit::open(&path).unwrap();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let audit = &audit;
            scope.spawn(move || {
                (0..EACH).for_each(|number| audit.record(&record(&format!("{thread}-{number}"))));
            });
        }
    });
    let rate = (THREADS * EACH) as f64 / begun.elapsed().as_secs_f64();
    println!("{rate:.0} records a second");
    assert_eq!(audit.lost(), 0);
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

#[test]
fn a_full_disk_is_told_when_there_is_room_again() {
    let folder = folder("full");
    let path = folder.join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let audit = JsonlAudit::open(&path).unwrap();
    let logged = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    tracing::subscriber::with_default(Logged(Arc::clone(&logged)), || {
        (0..1000).for_each(|number: u32| audit.record(&record(&number.to_string())));
    });
    assert_eq!(audit.lost(), 1000);
    assert!((1..=begun.elapsed().as_secs() + 1).contains(&logged.load(Ordering::Relaxed)));

    fs::remove_file(&path).unwrap();
    audit.reopen().unwrap();
    audit.record(&record("after"));
    audit.record(&record("later"));
    let lines = lines(&path);
    assert_eq!((&lines[0]["v"], &lines[0]["lost"]), (&1.into(), &1000.into()));
    assert!(lines[0]["time_us"].as_u64().unwrap() > 1_767_225_600_000_000);
    assert!(ids_of(&lines[1..]).eq(["after", "later"]));
    assert_eq!(audit.lost(), 1000);
}

#[test]
fn losses_are_told_at_the_end_at_the_latest() {
    let path = folder("end").join("audit.jsonl");
    symlink("/dev/full", &path).unwrap();
    let audit = JsonlAudit::open(&path).unwrap();
    audit.record(&record("lost"));
    fs::remove_file(&path).unwrap();
    audit.reopen().unwrap();
    drop(audit);
    assert_eq!(lines(&path)[0]["lost"], 1);
}

#[test]
fn a_torn_last_line_is_left_alone() {
    let path = folder("torn").join("audit.jsonl");
    fs::write(&path, "{\"v\":1}\n{\"v\":1,\"call_").unwrap();
    JsonlAudit::open(&path).unwrap().record(&record("whole"));
    JsonlAudit::open(&path).unwrap().record(&record("appended"));
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
    audit.record(&record("1"));
    fs::rename(&path, &old).unwrap();
    audit.record(&record("2"));
    audit.reopen().unwrap();
    audit.record(&record("3"));
    assert_eq!((lines(&old).len(), lines(&path).len(), audit.lost()), (2, 1, 0));

    // Where a new file cannot be made, the old one is kept.
    fs::remove_dir_all(&folder).unwrap();
    let error = audit.reopen().unwrap_err().to_string();
    assert!(error.starts_with("cannot open the audit file '") && error.contains("rotation"), "{error}");
    audit.record(&record("4"));
    assert_eq!(audit.lost(), 0);
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let folder = folder("unopened");
    for path in [folder.clone(), folder.join("missing/audit.jsonl")] {
        let error = JsonlAudit::open(&path).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
}
