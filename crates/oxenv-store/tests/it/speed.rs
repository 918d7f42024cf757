//! How fast entries are taken down; a figure, not a test.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oxenv_store::{Durability, LogOptions};

use crate::sample::{entry, folder, open, put, raw, step};

/// `cargo test -p oxenv-store --release --test it speed -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn appends_of_64_tasks() {
    const EACH: u64 = 5000;
    let reply = r#"{"observation":{"metadata":{},"agent":[3,4],"goal":[7,7],"walls":[[1,1],[2,2]],"legal":["up","down"]},"reward":-0.01,"done":false}"#;
    let action = raw(r#"{"direction":"up"}"#);
    let modes = [Durability::Process, Durability::Interval(Duration::from_millis(100))];
    for durability in modes {
        for threads in [1, 2] {
            let folder = folder("speed");
            let recorder = Arc::new(open(&folder, LogOptions { durability, ..LogOptions::default() }));
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
            let (began, busy) = (Instant::now(), processor_seconds());
            let tasks = (0..64).map(|number| {
                let (recorder, id) =
                    (Arc::clone(&recorder), format!("5f2b6c1e-7a54-4a7e-9a53-0c1d2e3f4a{number:02}"));
                runtime.spawn(async move {
                    for seq in 0..EACH {
                        put(&recorder, &entry(&id, seq, step(action, reply, &[]))).await;
                    }
                })
            });
            let tasks: Vec<_> = tasks.collect();
            runtime.block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            let all = (64 * EACH) as f64;
            let rate = all / began.elapsed().as_secs_f64();
            let cost = (processor_seconds() - busy) * 1e6 / all;
            eprintln!(
                "{durability:?}, {threads} threads: {rate:.0} entries/s, {cost:.2} µs of processor each"
            );
        }
    }
}

/// What this process has used, all threads together.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let ticks: Vec<f64> =
        stat.rsplit(')').next().unwrap().split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // User and system time; the state, which is a letter, was passed over.
    (ticks[10] + ticks[11]) / 100.0
}
