//! Runs the built binary with nothing of this process's environment.
//!
//! Invariant: every wait has an end, and a server that a test started ends with the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use oxenv_test_support::{WAIT_TIMEOUT, upgrade_request};
use serde_json::Value;

pub(crate) fn oxenv() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oxenv"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    Ended::of(oxenv().args(arguments).output().unwrap())
}

/// What a command left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn of(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// That it failed with this code and said all of this, on stderr alone.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for words in says {
            assert!(self.stderr.contains(words), "'{words}' is not said: {self:#?}");
        }
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        assert_eq!(self.stdout, "", "an error stands on stdout");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }

    /// That it succeeded; gives what it printed.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &str {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:#?}");
        &self.stdout
    }
}

/// A server that a test started.
pub(crate) struct Serving {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) first_line: String,
    pub(crate) address: SocketAddr,
}

impl Serving {
    /// Starts `oxenv serve --port 0` with more arguments.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::of(oxenv().args(["serve", "--port", "0"]).args(arguments))
    }

    /// Starts a command that serves, and waits for its first line.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first_line = String::new();
        stdout.read_line(&mut first_line).unwrap();
        let Some((_, address)) = first_line.trim_end().split_once("http://") else {
            let output = child.wait_with_output().unwrap();
            panic!("it did not serve: {:#?}", Ended::of(output));
        };
        let address = address.parse().unwrap();
        Serving { child, stdout, first_line, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal by name: `TERM`, `INT`.
    pub(crate) fn signal(&self, name: &str) {
        // The shell's own `kill`, which is always there.
        let sent = Command::new("/bin/sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end; gives what it left, stdout without the lines that were read.
    pub(crate) fn ended(mut self) -> Ended {
        let status = wait(&mut self.child);
        let mut ended = Ended { code: status.code(), stdout: String::new(), stderr: String::new() };
        self.stdout.read_to_string(&mut ended.stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut ended.stderr).unwrap();
        ended
    }

    /// Stops it as a container runtime does, and expects that it obeys.
    pub(crate) fn stop(self) -> Ended {
        self.signal("TERM");
        let ended = self.ended();
        assert_eq!(ended.code, Some(0), "{ended:#?}");
        ended
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask("POST", path, &body.to_string())
    }

    pub(crate) fn delete(&self, path: &str) -> (u16, Value) {
        self.ask("DELETE", path, "")
    }

    /// What stands at a path that has no JSON.
    pub(crate) fn text(&self, path: &str) -> String {
        let reply = self.reply("GET", path, "");
        reply.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let reply = self.reply(method, path, body);
        let status =
            reply.split(' ').nth(1).unwrap_or_else(|| panic!("no reply: {reply:?}")).parse().unwrap();
        (status, serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap_or_default())
    }

    fn reply(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = self.connect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        stream
    }

    /// A WebSocket that is open and says nothing more.
    pub(crate) fn websocket(&self, path: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(upgrade_request(self.address, path).as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        stream
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Nothing to do about one that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(started.elapsed() < WAIT_TIMEOUT, "it does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A file with that text, which goes with the test.
pub(crate) struct File(pub(crate) std::path::PathBuf);

impl File {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let name = format!("oxenv-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        File(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
