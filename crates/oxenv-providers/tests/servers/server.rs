//! A small server for the tests, of the standard library alone: it is compiled into a static binary that runs
//! as a process as well as in an image that holds nothing else.
//!
//! Invariant: its first argument says how it behaves; `healthy` is the only way in which it serves.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::thread;

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_else(|| "healthy".to_owned());
    let secret = std::env::var("SECRET").unwrap_or_default();
    println!("out: {mode} {secret}");
    eprintln!("err: {mode} {secret}");
    match mode.as_str() {
        "exits" => std::process::exit(3),
        "deaf" => sleep(),
        "sick" => serve("503 Service Unavailable"),
        "stubborn" => {
            ignore_the_polite_signal();
            serve("200 OK");
        }
        "eats" => eat(),
        "chatty" => {
            for _ in 0..1 << 16 {
                println!("one of very many lines that are said, and which nobody wants");
            }
            println!("the last line");
            serve("200 OK");
        }
        _ => serve("200 OK"),
    }
}

fn sleep() {
    loop {
        thread::park();
    }
}

/// Takes memory for ever.
fn eat() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 20]);
    }
}

fn ignore_the_polite_signal() {
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    // SAFETY: SIG_IGN is no handler that could run.
    unsafe {
        signal(15, 1);
    }
}

fn serve(health: &'static str) {
    if let Some(path) = std::env::var_os("OXENV_UDS") {
        for stream in UnixListener::bind(path).unwrap().incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || answer(stream.try_clone().unwrap(), stream, health));
        }
    }
    let argument = std::env::args().nth(2).or_else(|| std::env::var("PORT").ok());
    let port = argument.map_or(8000, |port| port.parse().unwrap());
    let host = std::env::var("HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    for stream in TcpListener::bind((host.as_str(), port)).unwrap().incoming() {
        let stream = stream.unwrap();
        thread::spawn(move || answer(stream.try_clone().unwrap(), stream, health));
    }
}

fn answer(reader: impl Read, mut writer: impl Write, health: &str) {
    let mut head = String::new();
    let mut lines = BufReader::new(reader).lines();
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
        head.push_str(&line);
        head.push('\n');
    }
    let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
    let (status, body) = match path.as_str() {
        "/health" => (health, "{}".to_owned()),
        other => ("200 OK", act(other)),
    };
    let _ = write!(
        writer,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}

/// Does what the path names, and says what came of it.
fn act(path: &str) -> String {
    let (what, rest) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
    let file = format!("/{rest}");
    match what {
        "env" => std::env::var(rest).unwrap_or_else(|_| "unset".to_owned()),
        "read" => fs::read_to_string(&file).unwrap_or_else(|error| error.to_string()),
        "write" => {
            fs::write(&file, "written").map_or_else(|error| error.to_string(), |()| "written".to_owned())
        }
        "owner" => fs::metadata(&file)
            .map_or_else(|error| error.to_string(), |found| format!("{}:{}", found.uid(), found.gid())),
        "folder" => std::env::current_dir().unwrap().display().to_string(),
        "fill" => fill(&file),
        "threads" => threads(rest.parse().unwrap()),
        other => format!("nothing is called {other}"),
    }
}

/// Writes until nothing more fits.
fn fill(path: &str) -> String {
    let mut file = match fs::File::create(path) {
        Ok(file) => file,
        Err(error) => return error.to_string(),
    };
    let chunk = vec![0; 1 << 20];
    loop {
        if let Err(error) = file.write_all(&chunk) {
            return error.to_string();
        }
    }
}

/// Starts so many threads, or as many as it may.
fn threads(wanted: usize) -> String {
    for number in 0..wanted {
        if thread::Builder::new().spawn(sleep).is_err() {
            return format!("stopped at {number}");
        }
    }
    format!("started {wanted}")
}
