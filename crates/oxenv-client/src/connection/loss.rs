//! [`SocketLoss`]: why a socket is not used any more, and what to do about it.
//!
//! Invariant: what would break the connection again is not sent again.

use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::error::{ClientError, Code};

/// Why a socket is not used any more.
pub(super) struct SocketLoss {
    pub(super) error: ClientError,
    pub(super) recovery: LossRecovery,
}

/// What to do about a lost socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum LossRecovery {
    /// Reconnect and send the requests in flight again.
    Resend,
    /// Reconnect, but fail the requests in flight: sent again they would break the connection again.
    Reconnect,
    /// Do not reconnect: the server does not speak the protocol.
    GiveUp,
}

impl SocketLoss {
    pub(super) fn new(why: &str, recovery: LossRecovery) -> Self {
        let message = format!("the connection was lost: {why}");
        SocketLoss { error: ClientError::new(Code::ConnectionLost, message), recovery }
    }

    pub(super) fn protocol_violation(what: &str) -> Self {
        let message = format!("the server does not keep to oxenv.1: {what}");
        SocketLoss { error: ClientError::new(Code::InvalidReply, message), recovery: LossRecovery::GiveUp }
    }

    pub(super) fn closed(frame: Option<CloseFrame>) -> Self {
        let Some(frame) = frame else {
            return SocketLoss::new("the server closed it", LossRecovery::Resend);
        };
        let code = u16::from(frame.code);
        // 1009: a frame was too long for the server, and would be again.
        let recovery = if code == 1009 { LossRecovery::Reconnect } else { LossRecovery::Resend };
        let what = if code == 1009 { ": a request was longer than it takes" } else { "" };
        SocketLoss::new(&format!("the server closed it with {code} {}{what}", frame.reason), recovery)
    }
}

impl From<SocketError> for SocketLoss {
    fn from(error: SocketError) -> Self {
        let recovery = match &error {
            SocketError::Capacity(_) => LossRecovery::Reconnect,
            SocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => LossRecovery::Resend,
            SocketError::Protocol(_) | SocketError::Utf8(_) => {
                return SocketLoss::protocol_violation(&error.to_string());
            }
            _ => LossRecovery::Resend,
        };
        SocketLoss::new(&error.to_string(), recovery)
    }
}
