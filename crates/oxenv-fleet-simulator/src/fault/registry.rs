//! The injected faults, and those that apply to one request.
//!
//! Invariant: a fault that is used up never happens again, however many requests come at once.

use std::time::Duration;

use parking_lot::Mutex;

use super::{Effect, Fault, FaultTarget, PendingOutcome};

/// The injected faults, oldest first.
#[derive(Default)]
pub(crate) struct FaultRegistry {
    faults: Mutex<Vec<Fault>>,
}

/// The faults that apply to one request.
#[derive(Debug, Default)]
pub(crate) struct RequestFaults {
    /// How long it waits before anything else.
    pub(crate) delay: Duration,
    /// What happens instead of it.
    pub(crate) instead: Option<Effect>,
    /// What else is wrong with it.
    changes: Vec<Effect>,
}

impl RequestFaults {
    /// Whether that is wrong with it.
    pub(crate) fn has(&self, effect: &Effect) -> bool {
        self.changes.contains(effect)
    }

    /// The outcome of the instance that it makes, if it is pending first.
    pub(crate) fn pending_outcome(&self) -> Option<PendingOutcome> {
        self.changes.iter().find_map(|effect| match effect {
            Effect::Pending(outcome) => Some(*outcome),
            _ => None,
        })
    }
}

impl FaultRegistry {
    pub(crate) fn add(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.faults.lock().clear();
    }

    /// The faults as they are now, with what is left of them.
    pub(crate) fn remaining(&self) -> Vec<Fault> {
        self.faults.lock().clone()
    }

    /// The faults that a request meets: the first one that answers it, or else all that change it. These
    /// are used up.
    pub(crate) fn take_for(&self, request: FaultTarget) -> RequestFaults {
        let mut met = RequestFaults::default();
        let mut faults = self.faults.lock();
        let here = |fault: &Fault| fault.target.covers(request) && fault.effect != Effect::Refuse;
        let first = faults.iter().position(|fault| here(fault) && fault.effect.ends_request());
        for (at, fault) in faults.iter_mut().enumerate() {
            let slow = matches!(fault.effect, Effect::Slow(_));
            if !here(fault) || (first.is_some() && first != Some(at) && !slow) {
                continue;
            }
            match fault.use_once() {
                Effect::Slow(time) => met.delay += time,
                effect if Some(at) == first => met.instead = Some(effect),
                effect => met.changes.push(effect),
            }
        }
        faults.retain(|fault| fault.times != Some(0));
        met
    }

    /// Whether one more instance is not to listen.
    pub(crate) fn take_refusal(&self) -> bool {
        let mut faults = self.faults.lock();
        let Some(fault) = faults.iter_mut().find(|fault| fault.effect == Effect::Refuse) else {
            return false;
        };
        fault.use_once();
        faults.retain(|fault| fault.times != Some(0));
        true
    }
}

impl Fault {
    fn use_once(&mut self) -> Effect {
        self.times = self.times.map(|times| times.saturating_sub(1));
        self.effect.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::McpMethod;

    fn book(faults: &[&str]) -> FaultRegistry {
        let book = FaultRegistry::default();
        for fault in faults {
            book.add(fault.parse().unwrap());
        }
        book
    }

    #[test]
    fn answers_come_one_after_the_other_and_changes_together() {
        let book = book(&["create:429*1", "create:503*1", "create:pending*1", "create:drop-after*1"]);
        let statuses = [(); 2].map(|()| match book.take_for(FaultTarget::Create).instead {
            Some(Effect::Respond(reply)) => reply.status,
            other => panic!("{other:?}"),
        });
        assert_eq!(statuses, [429, 503]);
        let faults = book.take_for(FaultTarget::Create);
        assert_eq!(
            (faults.pending_outcome(), faults.has(&Effect::DropAfter)),
            (Some(PendingOutcome::Running), true)
        );
        assert!(book.remaining().is_empty());
    }

    #[test]
    fn a_suffix_is_no_match() {
        let book = book(&["mcp:404", "mcps.call:hang"]);
        assert!(book.take_for(FaultTarget::ApiMcp(McpMethod::List)).instead.is_none());
        assert_eq!(book.take_for(FaultTarget::ApiMcp(McpMethod::Call)).instead, Some(Effect::Hang));
        assert!(matches!(book.take_for(FaultTarget::Mcp(McpMethod::Call)).instead, Some(Effect::Respond(_))));
        assert!(book.take_for(FaultTarget::Reset).instead.is_none());
    }

    #[test]
    fn whole_hosts() {
        let book = book(&["control:503", "instance:502*2"]);
        assert!(book.take_for(FaultTarget::Token).instead.is_some());
        assert!(book.take_for(FaultTarget::Query).instead.is_some());
        assert!(book.take_for(FaultTarget::Mcp(McpMethod::Any)).instead.is_some());
        assert!(book.take_for(FaultTarget::Query).instead.is_none());
    }
}
