//! The server's memory per idle session.
//!
//! Invariant: one session is opened and closed before the first reading, so that memory which the server
//! allocates only once is not counted. The kernel's memory for sockets belongs to no process and is not
//! counted either.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::args::IdleArgs;
use crate::frame;
use crate::open::{self, Opened, RESET_MESSAGE};
use crate::procfs;
use crate::report::{IdleReport, round};
use crate::target::Target;
use crate::websocket::WebSocket;

/// Time between that first session and the first reading.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// Maximum time for closing a session; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads the server's memory, opens the sessions, leaves them idle and reads the memory again.
pub(crate) async fn run(args: &IdleArgs) -> anyhow::Result<IdleReport> {
    let pid = args.server.pid.context("idle needs --pid: it reads the server's memory")?;
    let target = Target::parse(&args.server.url, &args.server.headers)?;
    procfs::resident_bytes(pid).context("cannot measure the server")?;
    let first = open::within_timeout(open::websocket_session(&target, &frame::text(RESET_MESSAGE))).await?;
    first.close().await?;
    sleep(SETTLE_TIME).await;
    let before = procfs::resident_bytes(pid)?;

    let began = Instant::now();
    let Opened { sessions, mut errors } = open_all(&target, args.sessions.get()).await;
    let (open_s, opened) = (began.elapsed().as_secs_f64(), sessions.len());
    ensure!(opened > 0, "no session could be opened: {}", first_error(&errors).unwrap_or_default());

    let (stop, _) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for socket in sessions {
        tasks.spawn(stay_idle(socket, stop.subscribe()));
    }
    sleep(args.duration).await;
    let idle = procfs::resident_bytes(pid).context("the server is gone")?;
    stop.send_replace(true);
    let results = tasks.join_all().await;
    let lost = results.iter().filter(|result| result.is_err()).count();
    errors.extend(results.into_iter().filter_map(Result::err));
    Ok(IdleReport {
        bench: "idle",
        url: args.server.url.clone(),
        sessions: args.sessions.get(),
        opened,
        lost,
        errors: errors.len() as u64,
        first_error: first_error(&errors),
        open_s: round(open_s, 1000.0),
        idle_s: args.duration.as_secs_f64(),
        pid,
        rss_before_bytes: before,
        rss_idle_bytes: idle,
        bytes_per_session: (idle as i64 - before as i64) / opened as i64,
    })
}

async fn open_all(target: &Target, sessions: usize) -> Opened<WebSocket> {
    open::open_concurrently((0..sessions).map(|_| {
        let target = target.clone();
        async move { open::websocket_session(&target, &frame::text(RESET_MESSAGE)).await }
    }))
    .await
}

fn first_error(errors: &[anyhow::Error]) -> Option<String> {
    errors.first().map(|error| format!("{error:#}"))
}

/// Answers pings until `stop`, then closes the session; fails if the server ends the session first.
async fn stay_idle(mut socket: WebSocket, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        if let Some(message) = socket.next()? {
            bail!("the server sent a message on an idle session: {message:?}");
        }
        tokio::select! {
            read = socket.flush_and_read() => read.context("an idle session was lost")?,
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    timeout(CLOSE_TIMEOUT, socket.close()).await.map_err(|_| anyhow!("an idle session did not close"))?
}
