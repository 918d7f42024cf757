//! What a child gets and what is heard of it: pipes, environment, folder, descriptors, stderr, its ending.
//!
//! Invariant: no process of a test is left when it ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use oxenv_process::child::{Supervisor, base_environment};
use oxenv_test_support::{soon, until};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::children_support::{
    Mark, children_of, descriptors, inheritable, ready, redactor, shell, spawn, supervisor,
};

#[tokio::test]
async fn a_command_reads_and_writes_and_ends_with_its_stdin() {
    let mark = Mark::new();
    let (child, mut stdin, mut stdout) = spawn(mark.spec("cat", &[]));
    stdin.write_all(b"hello").await.unwrap();
    drop(stdin);
    let mut said = String::new();
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said, "hello");
    assert!(soon(child.wait()).await.success());
    assert_eq!(soon(child.describe_end()).await, "exited with code 0");
    mark.count(0).await;
}

#[tokio::test]
async fn the_environment_is_the_base_and_what_is_given() {
    let mark = Mark::new();
    let given = |name: &str| match name {
        "PATH" => std::env::var(name).ok(),
        "HOME" => Some("/home/it".to_owned()),
        _ => None,
    };
    let base = base_environment(&given);
    let names: Vec<&str> = base.iter().map(|(name, _)| name.to_str().unwrap()).collect();
    assert_eq!(names, ["PATH", "HOME", "TMPDIR", "LANG"]);

    let mut spec = mark.spec("env", &[]);
    spec.environment.extend(base);
    let (_child, _stdin, mut stdout) = spawn(spec);
    let mut said = String::new();
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    let path = format!("PATH={}", std::env::var("PATH").unwrap());
    let marked = format!("OXENV_MARK={}", mark.0);
    let expected = [&path, "HOME=/home/it", "TMPDIR=/tmp", "LANG=C.UTF-8", &marked];
    assert_eq!(said.lines().collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    mark.count(0).await;
}

#[test]
fn an_unset_base_has_defaults_where_there_are_any() {
    assert_eq!(
        base_environment(&|_| None),
        [("TMPDIR".into(), "/tmp".into()), ("LANG".into(), "C.UTF-8".into())]
    );
}

#[tokio::test]
async fn a_command_runs_in_its_folder() {
    let mark = Mark::new();
    let folder = fs::canonicalize(std::env::temp_dir()).unwrap();
    let mut spec = mark.spec("pwd", &[]);
    spec.folder = Some(folder.clone());
    let (_child, _stdin, mut stdout) = spawn(spec);
    let mut said = String::new();
    soon(stdout.read_to_string(&mut said)).await.unwrap();
    assert_eq!(said.trim_end(), folder.to_str().unwrap());
    mark.count(0).await;
}

#[tokio::test]
async fn what_cannot_be_started_is_told_at_once() {
    let mark = Mark::new();
    let mut spec = mark.spec("pwd", &[]);
    spec.folder = Some("/no/such/folder".into());
    let error = supervisor().spawn(spec, redactor()).err().unwrap().to_string();
    assert_eq!(error, "the folder '/no/such/folder' does not exist; make it or name another");

    let missing = Supervisor::new("/no/such/supervisor", ["supervise"]);
    let error = missing.spawn(mark.spec("pwd", &[]), redactor()).err().unwrap().to_string();
    assert!(error.starts_with("cannot start the supervisor '/no/such/supervisor': "), "{error}");

    let error = supervisor().spawn(mark.spec("pwd", &["\0"]), redactor()).err().unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_command_that_cannot_be_run_is_told_by_its_ending() {
    let mark = Mark::new();
    let script = std::env::temp_dir().join(format!("{}-script", mark.0));
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let script = script.to_str().unwrap();
    let ending = async |program: &str| {
        let (child, _stdin, _stdout) = spawn(mark.spec(program, &[]));
        soon(child.describe_end()).await
    };
    assert_eq!(
        ending("no-such-command").await,
        "exited with code 127: command 'no-such-command' was not found on PATH; install it or give its full \
         path"
    );
    assert_eq!(
        ending("/no/such/command").await,
        "exited with code 127: command '/no/such/command' does not exist; correct its path"
    );
    assert_eq!(
        ending(script).await,
        format!("exited with code 126: command '{script}' may not be executed; check its permissions")
    );
    fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(
        ending(script).await,
        format!(
            "exited with code 126: command '{script}' needs an interpreter that does not exist; check its \
             first line"
        )
    );
    fs::remove_file(script).unwrap();
    mark.count(0).await;
}

#[tokio::test]
async fn an_ending_has_the_code_and_the_last_words() {
    let mark = Mark::new();
    let (child, _stdin, _stdout) = shell(&mark, "echo starting >&2; echo no key hunter2 >&2; exit 3");
    assert_eq!(soon(child.wait()).await.code(), Some(3));
    assert_eq!(soon(child.describe_end()).await, "exited with code 3: starting\nno key ***");

    let (child, _stdin, _stdout) = shell(&mark, "kill -9 $$");
    assert_eq!(soon(child.describe_end()).await, "was ended by signal 9 (SIGKILL)");

    let (child, _stdin, _stdout) = shell(&mark, "exit 255");
    assert_eq!(soon(child.describe_end()).await, "exited with code 255");
    mark.count(0).await;
}

#[tokio::test]
async fn nothing_but_three_pipes_is_inherited() {
    let mark = Mark::new();
    // Descriptors that must not reach a child, of the kinds that a server has.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let _file = fs::File::open("/proc/self/stat").unwrap();
    let _other = shell(&mark, "exec sleep 1000");

    let (child, _stdin, mut stdout) = shell(&mark, "echo ready; read line");
    ready(&mut stdout).await;
    let [command] = children_of(child.pid())[..] else { panic!("not one child") };
    // What this process was started with is not its own to close.
    let inherited: Vec<_> = inheritable().into_iter().filter(|(number, _)| *number > 2).collect();
    let held = descriptors(command);
    assert_eq!(held[3..], inherited);
    assert!(held[..3].iter().all(|(_, to)| to.to_str().unwrap().starts_with("pipe:")), "{held:?}");

    // The supervisor lets go of stdin and stdout, so that each side sees the other's close.
    let null = |descriptor: &(u32, PathBuf)| descriptor.1.to_str() == Some("/dev/null");
    until("it lets go", || descriptors(child.pid())[..2].iter().all(null)).await;
}

#[tokio::test]
async fn the_supervisor_has_a_name_of_its_own() {
    let mark = Mark::new();
    let (child, _stdin, mut stdout) = shell(&mark, "echo ready; read line");
    ready(&mut stdout).await;
    let read = |what: &str| fs::read_to_string(format!("/proc/{}/{what}", child.pid())).unwrap();
    assert_eq!(read("comm"), "mcp-supervisor\n");
    assert!(read("cmdline").starts_with("mcp-supervisor\0"), "{}", read("cmdline"));
}

#[tokio::test]
async fn a_flood_on_stderr_blocks_nothing() {
    let mark = Mark::new();
    // 100 MB, in lines, then as one line, then the last words.
    let script = "yes 'a line of a flood' | head -c 50000000 >&2
        head -c 50000000 /dev/zero >&2; echo >&2; echo the last words >&2; exit 7";
    let (child, _stdin, _stdout) = shell(&mark, script);
    assert_eq!(soon(child.wait()).await.code(), Some(7));
    let tail = child.output_tail();
    assert!(tail.ends_with("the last words") && tail.len() <= 4096, "{tail}");
    mark.count(0).await;
}

#[tokio::test]
async fn each_line_of_stderr_is_logged_without_secrets() {
    let log = Log::default();
    let _logging = tracing::subscriber::set_default(log.clone());
    let mark = Mark::new();
    let (child, _stdin, _stdout) = shell(&mark, "echo one >&2; echo the key is hunter2 >&2");
    soon(child.wait()).await;
    let mut lines = log.0.lock().clone();
    lines.retain(|line| line.contains("toolset"));
    assert_eq!(lines, [r#"toolset="files" message=one"#, r#"toolset="files" message=the key is ***"#]);
}

#[tokio::test]
async fn what_it_said_can_be_read_while_it_runs() {
    let mark = Mark::new();
    let (child, stdin, _stdout) = shell(&mark, "echo waiting >&2; read line");
    until("it says something", || child.output_tail() == "waiting").await;
    drop(stdin);
    assert_eq!(soon(child.stop()).await.unwrap().code(), Some(1));
}

/// Keeps the text of each event.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Vec::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            fields.push(format!("{field}={value:?}"));
        });
        fields.sort_by_key(|field| field.starts_with("message"));
        self.0.lock().push(fields.join(" "));
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test]
async fn a_worker_is_spoken_to_over_a_socket_and_ends_when_that_closes() {
    let mark = Mark::new();
    let worker = "
import socket, sys
socket = socket.socket(fileno=0)
print('to stdout hunter2', flush=True)
print('to stderr', file=sys.stderr, flush=True)
while message := socket.recv(100): socket.sendall(message.upper())
sys.exit(7)
";
    let (mut socket, theirs) = UnixStream::pair().unwrap();
    let theirs = theirs.into_std().unwrap();
    theirs.set_nonblocking(false).unwrap();
    let spec = mark.spec("python3", &["-c", worker]);
    let child = supervisor().spawn_with_socket(spec, theirs, redactor()).unwrap();
    socket.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    soon(socket.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HELLO");
    drop(socket);
    assert_eq!(soon(child.describe_end()).await, "exited with code 7: to stdout ***\nto stderr");
    mark.count(0).await;
}

#[tokio::test]
async fn the_socket_closes_when_a_worker_ends() {
    let mark = Mark::new();
    let (mut socket, theirs) = UnixStream::pair().unwrap();
    let theirs = theirs.into_std().unwrap();
    let child = supervisor().spawn_with_socket(mark.spec("true", &[]), theirs, redactor()).unwrap();
    assert_eq!(soon(socket.read(&mut [0; 5])).await.unwrap(), 0);
    assert!(soon(child.wait()).await.success());
}

#[tokio::test]
async fn the_output_of_a_command_is_one_stream_in_its_order() {
    let mark = Mark::new();
    let (input, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"one\n").unwrap();
    drop(writer);
    let spec = mark.spec("sh", &["-c", "cat; echo two >&2; echo three; exit 3"]);
    let (child, mut output) = supervisor().spawn_with_output(spec, Stdio::from(input)).unwrap();
    let mut seen = String::new();
    soon(output.read_to_string(&mut seen)).await.unwrap();
    assert_eq!(seen, "one\ntwo\nthree\n");
    assert_eq!(soon(child.describe_end()).await, "exited with code 3");
    mark.count(0).await;
}
