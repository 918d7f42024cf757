//! Runs a load on its threads and measures the processes meanwhile.
//!
//! Invariant: a worker thread owns its sessions and its statistics, and shares nothing while the load runs.
//! The calling thread sleeps, and reads `/proc` at the start and at the end of the measurement.

use std::io::{IsTerminal, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use oxenv_wire::after;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::churn;
use crate::open::{self, OpenSession};
use crate::pacing::{self, DueQueue, LoadWindow, Pacer, Schedule};
use crate::plan::LoadPlan;
use crate::procfs::{self, CpuUsage};
use crate::protocol::McpProtocol;
use crate::report::{LoadReport, ServerUsage, round};
use crate::statistics::{Recorder, Statistics};
use crate::websocket_steps::WebSocketSession;

/// How long to wait for replies after the end of the load.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// One thread of the load generator.
#[derive(Debug)]
struct Worker {
    plan: Arc<LoadPlan>,
    /// The index of its first session among those of all threads, and the number of its sessions.
    first: usize,
    session_count: usize,
    statistics: Arc<Mutex<Statistics>>,
}

/// A thread that runs a [`Worker`], and the sender that starts its load.
#[derive(Debug)]
struct WorkerHandle {
    thread: JoinHandle<anyhow::Result<()>>,
    start: oneshot::Sender<LoadWindow>,
    statistics: Arc<Mutex<Statistics>>,
}

/// CPU time used so far by the server and by this process.
#[derive(Clone, Copy, Debug)]
struct UsageReading {
    at: Instant,
    server: Option<Duration>,
    load: Option<Duration>,
}

/// Runs a plan and returns its report. Blocks.
pub(crate) fn run(plan: &LoadPlan) -> anyhow::Result<LoadReport> {
    let plan = Arc::new(plan.clone());
    if let Some(pid) = plan.pid {
        procfs::resident_bytes(pid).context("cannot measure the server")?;
    }
    let (opened, all_opened) = mpsc::channel();
    let workers = start(&plan, &opened)?;
    drop(opened);
    let opened: usize = all_opened.iter().take(workers.len()).sum();
    if opened == 0 || (plan.rate.is_some() && opened < plan.sessions) {
        let first = total(&workers)?.first_error.unwrap_or_else(|| "a worker thread ended".to_owned());
        return Err(anyhow!("{opened} of {} sessions could be opened: {first}", plan.sessions));
    }
    let window = LoadWindow::new(Instant::now(), plan.warmup, plan.duration);
    let (mut threads, mut thread_statistics) = (Vec::new(), Vec::new());
    for worker in workers {
        // If the thread has failed, joining it returns its error.
        let _ = worker.start.send(window);
        threads.push(worker.thread);
        thread_statistics.push(worker.statistics);
    }
    let readings = measure(&plan, window, &thread_statistics)?;
    let rss = plan.pid.map(procfs::resident_bytes).transpose().context("the server is gone")?;
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a worker thread panicked"))??;
    }
    report(&plan, opened, &merge(&thread_statistics)?, readings, rss)
}

fn start(plan: &Arc<LoadPlan>, opened: &mpsc::Sender<usize>) -> anyhow::Result<Vec<WorkerHandle>> {
    let mut workers = Vec::with_capacity(plan.threads);
    let mut first = 0;
    for index in 0..plan.threads {
        let session_count = plan.sessions / plan.threads + usize::from(index < plan.sessions % plan.threads);
        let statistics = Arc::new(Mutex::new(Statistics::new()?));
        let worker = Worker { plan: plan.clone(), first, session_count, statistics: statistics.clone() };
        let (start, started) = oneshot::channel();
        let opened = opened.clone();
        let thread = thread::Builder::new()
            .name(format!("load-{index}"))
            .spawn(move || worker.run(&opened, started))
            .context("cannot start a thread")?;
        workers.push(WorkerHandle { thread, start, statistics });
        first += session_count;
    }
    Ok(workers)
}

impl Worker {
    fn run(self, opened: &mpsc::Sender<usize>, started: oneshot::Receiver<LoadWindow>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            // The caller waits for this message.
            .inspect_err(|_| _ = opened.send(0))
            .context("cannot start a runtime")?;
        runtime.block_on(async {
            let sessions =
                open::open_sessions(&self.plan, self.first, self.session_count, &self.statistics).await;
            opened.send(sessions.iter().map(OpenSession::sessions).sum()).context("the run was cancelled")?;
            // The sender is dropped if too few sessions could be opened.
            let Ok(window) = started.await else { return Ok(()) };
            self.load(sessions, window).await;
            Ok(())
        })
    }

    async fn load(&self, sessions: Vec<OpenSession>, window: LoadWindow) {
        let mut tasks = JoinSet::new();
        let open_loop = self.plan.rate.is_some();
        let queues: Vec<_> = sessions.iter().map(|_| Arc::new(DueQueue::default())).collect();
        for (session, queue) in sessions.into_iter().zip(&queues) {
            let pacer = if open_loop { Pacer::Open(window, queue.clone()) } else { Pacer::Closed(window) };
            let recorder = Recorder { statistics: self.statistics.clone(), window, open_loop };
            tasks.spawn(run_session(session, self.plan.clone(), pacer, recorder));
        }
        if let Some(rate) = self.plan.rate {
            let schedule = Schedule::new(window.start, rate);
            let (first, total) = (self.first as u64, self.plan.sessions as u64);
            tasks.spawn(
                async move { pacing::run_schedule(schedule, window.end, &queues, first, total).await },
            );
        }
        tasks.join_all().await;
    }
}

async fn run_session(session: OpenSession, plan: Arc<LoadPlan>, pacer: Pacer, recorder: Recorder) {
    let deadline = after(recorder.window.end, REPLY_TIMEOUT);
    match session {
        OpenSession::Ws(socket) => WebSocketSession::new(socket, &plan, pacer, recorder).run(deadline).await,
        OpenSession::Multiplexed(many) => many.run(plan.depth, pacer, recorder, deadline).await,
        OpenSession::Client(clients) => clients.run(&plan, pacer, recorder, deadline).await,
        OpenSession::Http(client) => client.run(&plan, pacer, recorder, deadline).await,
        OpenSession::Churn => churn::run(&plan, pacer, recorder, deadline).await,
    }
}

/// Sleeps until the end of the load; reads the CPU times at the start and at the end of the measurement.
fn measure(
    plan: &LoadPlan,
    window: LoadWindow,
    thread_statistics: &[Arc<Mutex<Statistics>>],
) -> anyhow::Result<[UsageReading; 2]> {
    sleep_until(window.measured_from);
    let before = read_usage(plan)?;
    if std::io::stderr().is_terminal() {
        while after(Instant::now(), Duration::from_millis(500)) < window.end {
            thread::sleep(Duration::from_millis(500));
            progress(window, thread_statistics);
        }
    }
    sleep_until(window.end);
    Ok([before, read_usage(plan)?])
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

fn read_usage(plan: &LoadPlan) -> anyhow::Result<UsageReading> {
    let server = plan.pid.map(|pid| procfs::cpu_time(&pid.to_string())).transpose();
    let load = procfs::cpu_time("self").ok();
    Ok(UsageReading { at: Instant::now(), server: server.context("the server is gone")?, load })
}

fn progress(window: LoadWindow, thread_statistics: &[Arc<Mutex<Statistics>>]) {
    let requests: u64 = thread_statistics.iter().map(|statistics| lock(statistics).requests).sum();
    let left = window.end.saturating_duration_since(Instant::now()).as_secs_f64();
    // An error is ignored: the run does not depend on the terminal.
    let _ = write!(std::io::stderr(), "\r{requests} requests, {left:.0} s left \r");
}

fn report(
    plan: &LoadPlan,
    opened: usize,
    statistics: &Statistics,
    [before, after]: [UsageReading; 2],
    rss: Option<u64>,
) -> anyhow::Result<LoadReport> {
    let wall = after.at - before.at;
    let used = |from: Option<Duration>, to: Option<Duration>| Some(CpuUsage::between(from?, to?, wall));
    let server = used(before.server, after.server).zip(plan.pid.zip(rss));
    ensure!(!wall.is_zero(), "nothing was measured");
    Ok(LoadReport {
        bench: plan.kind.name(),
        protocol: plan.kind.protocol().map(McpProtocol::name),
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
        requests: statistics.requests,
        errors: statistics.errors,
        first_error: statistics.first_error.clone(),
        unsent: statistics.unsent,
        reply: plan.first_reply.get().map(|reply| reply.text.clone()),
        reply_bytes: plan.first_reply.get().map(|reply| reply.bytes),
        rate: round(statistics.requests as f64 / plan.duration.as_secs_f64(), 10.0),
        latency_us: statistics.latency_summary(),
        server: server.map(|(cpu, (pid, rss))| ServerUsage::new(pid, cpu, rss, statistics.requests)),
        load: used(before.load, after.load),
    })
}

fn total(workers: &[WorkerHandle]) -> anyhow::Result<Statistics> {
    let thread_statistics: Vec<_> = workers.iter().map(|worker| worker.statistics.clone()).collect();
    merge(&thread_statistics)
}

fn merge(thread_statistics: &[Arc<Mutex<Statistics>>]) -> anyhow::Result<Statistics> {
    let mut whole = Statistics::new()?;
    for statistics in thread_statistics {
        whole.add(&lock(statistics))?;
    }
    Ok(whole)
}

fn lock(statistics: &Mutex<Statistics>) -> std::sync::MutexGuard<'_, Statistics> {
    statistics.lock().unwrap_or_else(PoisonError::into_inner)
}
