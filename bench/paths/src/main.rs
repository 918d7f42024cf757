//! Walks one fixed path through the server many times, so that its instructions and allocations can be
//! counted.
//!
//! `oxenv-paths PATH TIMES` serves in this process, over memory instead of a socket, on one thread. It prints
//! one JSON object with the allocations of all walks together. `bench/counts` runs it under callgrind with
//! two numbers of walks: the difference is what the path costs, without the start. `oxenv-paths` alone lists
//! the paths.

mod connection;
mod paths;
mod servers;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Repetitions before anything is counted: tables have grown and lists are cached by then.
const WARM_UP: usize = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, times] = arguments.as_slice() else {
        return paths::NAMES.iter().for_each(|name| println!("{name}"));
    };
    let times: usize = times.parse().expect("TIMES is a number");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let allocated = runtime.block_on(async {
        let mut walk = paths::open(path).await;
        for _ in 0..WARM_UP {
            walk.once().await;
        }
        let region = Region::new(ALLOCATOR);
        for _ in 0..times {
            walk.once().await;
        }
        region.change()
    });
    // What still runs, such as a writer of records, ends with the process.
    runtime.shutdown_background();
    let report = serde_json::json!({
        "path": path,
        "times": times,
        "allocations": allocated.allocations + allocated.reallocations,
        "bytes": allocated.bytes_allocated,
    });
    println!("{report}");
}
