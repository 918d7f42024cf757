//! SIGTERM for commands that are blocked: by a log that nobody reads, by a client that reads nothing, by a
//! call.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oxenv_test_support::block_until;
use serde_json::json;

use crate::process::{File, Serving, oxenv, wait};

/// Beyond what is promised, for a machine that has much else to do.
const SLACK: Duration = Duration::from_secs(4);

/// A server of one tool, `wait`, that never returns; it goes on when its input ends. Its processes bear the
/// mark. A call makes the file [`called`].
fn manifest(mark: &str) -> File {
    let python = concat!(
        "import json, sys, time\n",
        "for line in sys.stdin:\n",
        "    asked = json.loads(line)\n",
        "    if asked.get('method') == 'tools/call':\n",
        "        open(sys.argv[1], 'w').close()\n",
        "        time.sleep(600)\n",
        "    result = {'protocolVersion': '2025-06-18', 'capabilities': {'tools': {}},\n",
        "              'serverInfo': {'name': 'w', 'version': '0'},\n",
        "              'tools': [{'name': 'wait', 'inputSchema': {'type': 'object'}}]}\n",
        "    if 'id' in asked:\n",
        "        print(json.dumps({'jsonrpc': '2.0', 'id': asked['id'], 'result': result}), flush=True)\n",
        "time.sleep(600)\n",
    );
    let text = json!({ "tools": [{ "name": "waiting", "mcp_server": {
        "command": "python3", "args": ["-S", "-c", python, called(mark)], "env": { "MARK": mark },
    } }] });
    File::new(&format!("{mark}.yaml"), &text.to_string())
}

fn called(mark: &str) -> PathBuf {
    std::env::temp_dir().join(format!("oxenv-{mark}-called"))
}

/// How many processes bear a mark.
fn marked(mark: &str) -> usize {
    let needle = format!("MARK={mark}");
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let environments = processes.filter_map(|process| std::fs::read(process.path().join("environ")).ok());
    environments.filter(|all| all.split(|byte| *byte == 0).any(|one| one == needle.as_bytes())).count()
}

fn terminate(pid: u32) {
    assert!(Command::new("/bin/sh").args(["-c", &format!("kill -TERM {pid}")]).status().unwrap().success());
}

/// The exit code of a process that has this long to end.
fn ended(child: &mut Child, within: Duration) -> Option<i32> {
    let started = Instant::now();
    let status = wait(child);
    eprintln!("it ended after {:?}", started.elapsed());
    assert!(started.elapsed() < within + SLACK, "it ended after {:?}", started.elapsed());
    status.code()
}

/// Begins a call of the tool that never returns.
fn begin_call(server: &Serving) -> TcpStream {
    let mut call = server.connect();
    let body = json!({ "action": { "type": "call_tool", "tool_name": "wait", "arguments": {} } }).to_string();
    let head =
        format!("POST /step HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n", server.address);
    write!(call, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
    call
}

/// A log that nobody reads blocks every thread that writes to it.
#[test]
fn a_server_whose_log_nobody_reads_ends_in_time_with_its_tools() {
    let mark = format!("signals-log-{}", std::process::id());
    let manifest = manifest(&mark);
    let arguments = ["--tools", manifest.path(), "--log", "trace", "--drain-timeout", "500ms"];
    let path = std::env::var("PATH").unwrap();
    let mut server = Serving::of(oxenv().env("PATH", path).args(["serve", "--port", "0"]).args(arguments));
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(60), "its log is never full");
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        // What is no HTTP is refused, and told in the log.
        if stream.write_all(b"nonsense\r\n\r\n").is_err() || stream.read(&mut [0; 16]).is_err() {
            break;
        }
    }
    terminate(server.pid());
    let code = ended(server.child(), Duration::from_millis(1500));
    assert_eq!(code, Some(5));
    block_until("its tools have ended", || marked(&mark) == 0);
}

#[test]
fn a_second_signal_ends_a_call_and_its_tool_at_once() {
    let mark = format!("signals-call-{}", std::process::id());
    let manifest = manifest(&mark);
    let arguments = ["--tools", manifest.path(), "--drain-timeout", "10m"];
    let path = std::env::var("PATH").unwrap();
    let mut server = Serving::of(oxenv().env("PATH", path).args(["serve", "--port", "0"]).args(arguments));
    let call = begin_call(&server);
    block_until("the tool runs", || called(&mark).exists());
    std::fs::remove_file(called(&mark)).unwrap();
    terminate(server.pid());
    block_until("it drains", || TcpStream::connect(server.address).is_err());
    assert!(marked(&mark) >= 2, "the call is over");
    terminate(server.pid());
    // The tool goes on when it is told to end, and is not waited for.
    let code = ended(server.child(), Duration::from_secs(1));
    assert!(matches!(code, Some(0 | 5)), "{code:?}");
    block_until("its tools have ended", || marked(&mark) == 0);
    drop(call);
}

/// A client that sends requests and reads nothing.
#[test]
fn mcp_on_a_pipe_that_nobody_reads_ends_in_time() {
    let mut command = oxenv();
    command.args(["mcp", "echo"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let greeting = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": { "name": "c", "version": "1" },
    } });
    writeln!(input, "{greeting}").unwrap();
    let list = format!("{}\n", json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/list" })).repeat(100);
    let writing = std::thread::spawn(move || while input.write_all(list.as_bytes()).is_ok() {});
    block_until("its output is full", || {
        std::fs::read_to_string(format!("/proc/{}/wchan", child.id())).is_ok() && {
            let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).unwrap().flatten();
            let mut calls =
                threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("syscall")).ok());
            // write(1, …)
            calls.any(|call| call.starts_with("1 0x1 "))
        }
    });
    terminate(child.id());
    let code = ended(&mut child, Duration::from_secs(6));
    assert!(matches!(code, Some(0 | 5)), "{code:?}");
    writing.join().unwrap();
}
