//! Running a load: threads, the measured time, and the figures read at its edges.
//!
//! The invariant: a thread owns its sessions and its tally, and nothing is shared while the load runs; this
//! thread only sleeps, and reads `/proc` at the two edges.

use oxenv_core::after;
use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::churn;
use crate::mcp::Protocol;
use crate::open::{self, Session};
use crate::pacing::{self, Lane, Pace, Schedule, Window};
use crate::plan::Plan;
use crate::procfs::{self, Cpu};
use crate::report::{Report, Server, round};
use crate::statistics::{Recorder, Tally};
use crate::websocket_steps::Steps;

/// How long replies are waited for after the measured time.
const GRACE: Duration = Duration::from_secs(10);

/// One thread of the load generator.
#[derive(Debug)]
struct Worker {
    plan: Arc<Plan>,
    /// The number of its first session among all, and how many it has.
    first: usize,
    share: usize,
    tally: Arc<Mutex<Tally>>,
}

/// A thread that runs a [`Worker`], and what starts its load.
#[derive(Debug)]
struct Running {
    thread: JoinHandle<anyhow::Result<()>>,
    start: oneshot::Sender<Window>,
    tally: Arc<Mutex<Tally>>,
}

/// Readings at one edge of the measured time.
#[derive(Clone, Copy, Debug)]
struct Edge {
    at: Instant,
    server: Option<Duration>,
    load: Option<Duration>,
}

/// Runs the plan to its end. Blocks.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Report> {
    let plan = Arc::new(plan.clone());
    if let Some(pid) = plan.pid {
        procfs::rss(pid).context("cannot measure the server")?;
    }
    let (opened, all_opened) = mpsc::channel();
    let workers = start(&plan, &opened)?;
    drop(opened);
    let opened: usize = all_opened.iter().take(workers.len()).sum();
    if opened == 0 || (plan.rate.is_some() && opened < plan.sessions) {
        let first = total(&workers)?.first_error.unwrap_or_else(|| "a thread ended".to_owned());
        return Err(anyhow!("{opened} of {} sessions could be opened: {first}", plan.sessions));
    }
    let window = Window::new(Instant::now(), plan.warmup, plan.duration);
    let (mut threads, mut tallies) = (Vec::new(), Vec::new());
    for worker in workers {
        // A thread that is gone says why when it is joined.
        let _ = worker.start.send(window);
        threads.push(worker.thread);
        tallies.push(worker.tally);
    }
    let edges = watch(&plan, window, &tallies)?;
    let rss = plan.pid.map(procfs::rss).transpose().context("the server is gone")?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread of the load panicked"))??;
    }
    report(&plan, opened, &merge(&tallies)?, edges, rss)
}

fn start(plan: &Arc<Plan>, opened: &mpsc::Sender<usize>) -> anyhow::Result<Vec<Running>> {
    let mut workers = Vec::with_capacity(plan.threads);
    let mut first = 0;
    for index in 0..plan.threads {
        let share = plan.sessions / plan.threads + usize::from(index < plan.sessions % plan.threads);
        let tally = Arc::new(Mutex::new(Tally::new()?));
        let worker = Worker { plan: plan.clone(), first, share, tally: tally.clone() };
        let (start, started) = oneshot::channel();
        let opened = opened.clone();
        let thread = thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || worker.run(&opened, started))
            .context("cannot start a thread")?;
        workers.push(Running { thread, start, tally });
        first += share;
    }
    Ok(workers)
}

impl Worker {
    fn run(self, opened: &mpsc::Sender<usize>, started: oneshot::Receiver<Window>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            // Who waits for this thread's sessions must not wait forever.
            .inspect_err(|_| _ = opened.send(0))
            .context("cannot start a runtime")?;
        runtime.block_on(async {
            let sessions = open::all(&self.plan, self.first, self.share, &self.tally).await;
            opened.send(sessions.iter().map(Session::sessions).sum()).context("the run was given up")?;
            // Without a window the run was given up before it began.
            let Ok(window) = started.await else { return Ok(()) };
            self.load(sessions, window).await;
            Ok(())
        })
    }

    async fn load(&self, sessions: Vec<Session>, window: Window) {
        let mut tasks = JoinSet::new();
        let open_loop = self.plan.rate.is_some();
        let lanes: Vec<_> = sessions.iter().map(|_| Arc::new(Lane::default())).collect();
        for (session, lane) in sessions.into_iter().zip(&lanes) {
            let pace = if open_loop { Pace::Open(window, lane.clone()) } else { Pace::Closed(window) };
            let recorder = Recorder { tally: self.tally.clone(), window, open_loop };
            tasks.spawn(drive(session, self.plan.clone(), pace, recorder));
        }
        if let Some(rate) = self.plan.rate {
            let schedule = Schedule::new(window.start, rate);
            let (first, total) = (self.first as u64, self.plan.sessions as u64);
            tasks.spawn(async move { pacing::run(schedule, window.until, &lanes, first, total).await });
        }
        tasks.join_all().await;
    }
}

async fn drive(session: Session, plan: Arc<Plan>, pace: Pace, recorder: Recorder) {
    let deadline = after(recorder.window.until, GRACE);
    match session {
        Session::Ws(socket) => Steps::new(socket, &plan, pace, recorder).run(deadline).await,
        Session::Many(many) => many.run(plan.depth, pace, recorder, deadline).await,
        Session::Clients(clients) => clients.run(&plan, pace, recorder, deadline).await,
        Session::Http(client) => client.run(&plan, pace, recorder, deadline).await,
        Session::Churn => churn::run(&plan, pace, recorder, deadline).await,
    }
}

/// Sleeps through the load and reads the processes at both edges of the measured time.
fn watch(plan: &Plan, window: Window, tallies: &[Arc<Mutex<Tally>>]) -> anyhow::Result<[Edge; 2]> {
    sleep_until(window.from);
    let before = edge(plan)?;
    if std::io::stderr().is_terminal() {
        while after(Instant::now(), Duration::from_millis(500)) < window.until {
            thread::sleep(Duration::from_millis(500));
            progress(window, tallies);
        }
    }
    sleep_until(window.until);
    Ok([before, edge(plan)?])
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

fn edge(plan: &Plan) -> anyhow::Result<Edge> {
    let server = plan.pid.map(|pid| procfs::cpu_time(&pid.to_string())).transpose();
    let load = procfs::cpu_time("self").ok();
    Ok(Edge { at: Instant::now(), server: server.context("the server is gone")?, load })
}

fn progress(window: Window, tallies: &[Arc<Mutex<Tally>>]) {
    let requests: u64 = tallies.iter().map(|tally| lock(tally).requests).sum();
    let left = window.until.saturating_duration_since(Instant::now()).as_secs_f64();
    // Progress is a courtesy; a terminal that is gone must not end the run.
    let _ = write!(std::io::stderr(), "\r{requests} requests, {left:.0} s left \r");
}

fn report(
    plan: &Plan,
    opened: usize,
    tally: &Tally,
    [before, after]: [Edge; 2],
    rss: Option<u64>,
) -> anyhow::Result<Report> {
    let wall = after.at - before.at;
    let used = |from: Option<Duration>, to: Option<Duration>| Some(Cpu::between(from?, to?, wall));
    let server = used(before.server, after.server).zip(plan.pid.zip(rss));
    ensure!(!wall.is_zero(), "nothing was measured");
    Ok(Report {
        bench: plan.kind.name(),
        protocol: plan.kind.protocol().map(Protocol::name),
        url: plan.url.clone(),
        mode: if plan.rate.is_some() { "open" } else { "closed" },
        sessions: plan.sessions,
        opened,
        depth: plan.depth,
        threads: plan.threads,
        request_bytes: plan.request.len(),
        rate_target: plan.rate,
        warmup_s: plan.warmup.as_secs_f64(),
        duration_s: plan.duration.as_secs_f64(),
        requests: tally.requests,
        errors: tally.errors,
        first_error: tally.first_error.clone(),
        unsent: tally.unsent,
        reply: plan.sample.get().map(|(reply, _)| reply.clone()),
        reply_bytes: plan.sample.get().map(|(_, bytes)| *bytes),
        rate: round(tally.requests as f64 / plan.duration.as_secs_f64(), 10.0),
        latency_us: tally.latency(),
        server: server.map(|(cpu, (pid, rss))| Server::new(pid, cpu, rss, tally.requests)),
        load: used(before.load, after.load),
    })
}

fn total(workers: &[Running]) -> anyhow::Result<Tally> {
    let tallies: Vec<_> = workers.iter().map(|worker| worker.tally.clone()).collect();
    merge(&tallies)
}

fn merge(tallies: &[Arc<Mutex<Tally>>]) -> anyhow::Result<Tally> {
    let mut whole = Tally::new()?;
    for tally in tallies {
        whole.add(&lock(tally))?;
    }
    Ok(whole)
}

fn lock(tally: &Mutex<Tally>) -> std::sync::MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
