//! The driver of an [`OrderedSocket`](super::OrderedSocket): it reads a socket that no caller reads, and
//! closes it after its last user is gone.
//!
//! Invariant: it ends at most `CLOSE_TIMEOUT` after the socket's last user is gone.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::Stream as _;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::SocketState;

/// How often the driver looks after a socket that callers may have left.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How long a socket without users may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Polls the socket until it has ended or is released, and then closes it.
pub(super) async fn drive(shared: Arc<Mutex<SocketState>>, left: CancellationToken) {
    let mut tick = interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = poll_fn(|cx| {
        while tick.poll_tick(cx).is_ready() {}
        let mut state = shared.lock();
        state.poll_io(cx, None);
        if state.ended.is_some() { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::select! {
        () = ended => {}
        () = left.cancelled() => {}
    }
    left.cancelled().await;
    // The last owner of the socket closes it, and reads until the server has closed it too.
    let Some(shared) = Arc::into_inner(shared) else { return };
    let mut socket = shared.into_inner().socket;
    let farewell = async {
        let _ = socket.close(None).await;
        poll_fn(|cx| {
            while let Poll::Ready(message) = Pin::new(&mut socket).poll_next(cx) {
                if !matches!(message, Some(Ok(_))) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    };
    let _ = timeout(CLOSE_TIMEOUT, farewell).await;
}
