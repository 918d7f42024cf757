//! Which callers may use a route.
//!
//! Invariant: what admits callers without a token is spelled out; the rest wants one.

use oxenv_core::Principal;

/// Which callers may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Also callers without a token.
    Everybody,
    /// Callers with any token.
    AnyToken,
    /// Control and observers.
    ControlOrObserver,
    /// Control and agents. An agent reaches its own session, and no path that names another.
    ControlOrAgent,
    /// Control.
    Control,
    /// No caller: the route does not exist in that mode.
    Nobody,
}

impl Access {
    /// Whether it lets in a caller with a token.
    pub(crate) fn admits(self, principal: Principal) -> bool {
        match self {
            Access::Everybody | Access::AnyToken => true,
            Access::ControlOrObserver => principal != Principal::Agent,
            Access::ControlOrAgent => principal != Principal::Observer,
            Access::Control => principal == Principal::Control,
            Access::Nobody => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_for_nobody_admits_nobody() {
        for principal in [Principal::Control, Principal::Agent, Principal::Observer] {
            assert!(!Access::Nobody.admits(principal));
            assert!(Access::AnyToken.admits(principal));
        }
    }
}
