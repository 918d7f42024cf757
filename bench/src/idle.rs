//! Held sessions: what an open, idle session costs the server in memory.
//!
//! The invariant: one session is opened and closed before the first reading, so what a server sets up once
//! is not charged to the sessions. Memory that the kernel holds for sockets is in no process's figure.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::args::IdleArgs;
use crate::frame;
use crate::open::{self, RESET_MESSAGE};
use crate::procfs;
use crate::report::{IdleReport, round};
use crate::target::Target;
use crate::websocket::WebSocket;

/// How long the server is left alone before its memory is read the first time.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// How long a session may take to close; it is not measured.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens the sessions, holds them and reads the server's memory before and at the end.
pub(crate) async fn run(args: &IdleArgs) -> anyhow::Result<IdleReport> {
    let pid = args.server.pid.context("held needs --pid: it reads the server's memory")?;
    let target = Target::parse(&args.server.url, &args.server.headers)?;
    procfs::resident_bytes(pid).context("cannot measure the server")?;
    let first = open::within_timeout(open::websocket_session(&target, &frame::text(RESET_MESSAGE))).await?;
    first.close().await?;
    sleep(SETTLE_TIME).await;
    let before = procfs::resident_bytes(pid)?;

    let began = Instant::now();
    let (sockets, mut errors) = open_all(&target, args.sessions.get()).await;
    let (open_s, opened) = (began.elapsed().as_secs_f64(), sockets.len());
    ensure!(opened > 0, "no session could be opened: {}", first_of(&errors).unwrap_or_default());

    let (stop, _) = watch::channel(false);
    let mut holding = JoinSet::new();
    for socket in sockets {
        holding.spawn(hold(socket, stop.subscribe()));
    }
    sleep(args.duration).await;
    let held = procfs::resident_bytes(pid).context("the server is gone")?;
    stop.send_replace(true);
    let ended = holding.join_all().await;
    let lost = ended.iter().filter(|ended| ended.is_err()).count();
    errors.extend(ended.into_iter().filter_map(Result::err));
    Ok(IdleReport {
        bench: "held",
        url: args.server.url.clone(),
        sessions: args.sessions.get(),
        opened,
        lost,
        errors: errors.len() as u64,
        first_error: first_of(&errors),
        open_s: round(open_s, 1000.0),
        hold_s: args.duration.as_secs_f64(),
        pid,
        rss_before_bytes: before,
        rss_held_bytes: held,
        bytes_per_session: (held as i64 - before as i64) / opened as i64,
    })
}

async fn open_all(target: &Target, sessions: usize) -> (Vec<WebSocket>, Vec<anyhow::Error>) {
    open::open_concurrently((0..sessions).map(|_| {
        let target = target.clone();
        async move { open::websocket_session(&target, &frame::text(RESET_MESSAGE)).await }
    }))
    .await
}

fn first_of(errors: &[anyhow::Error]) -> Option<String> {
    errors.first().map(|error| format!("{error:#}"))
}

/// Answers pings until told to stop, then closes the session; fails if the server ended it first.
async fn hold(mut socket: WebSocket, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    loop {
        if let Some(message) = socket.next()? {
            bail!("the server ended or spoke on an idle session: {message:?}");
        }
        tokio::select! {
            read = socket.flush_and_read() => read.context("a held session was lost")?,
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    timeout(CLOSE_TIMEOUT, socket.close()).await.map_err(|_| anyhow!("a held session did not close"))?
}
