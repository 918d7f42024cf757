//! The faults that are to be met, and what they make of one request.
//!
//! Invariant: a fault that is used up never happens again, however many requests come at once.

use std::time::Duration;

use parking_lot::Mutex;

use super::{Effect, Fate, Fault, Place};

/// The faults that are to be met.
#[derive(Default)]
pub(crate) struct FaultBook {
    faults: Mutex<Vec<Fault>>,
}

/// What happens to one request.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// How long it waits before anything else.
    pub(crate) slow: Duration,
    /// What happens instead of it.
    pub(crate) instead: Option<Effect>,
    /// What else is wrong with it.
    wrong: Vec<Effect>,
}

impl Plan {
    /// Whether that is wrong with it.
    pub(crate) fn has(&self, effect: &Effect) -> bool {
        self.wrong.contains(effect)
    }

    /// What becomes of the instance that it makes, if it is pending first.
    pub(crate) fn fate(&self) -> Option<Fate> {
        self.wrong.iter().find_map(|effect| match effect {
            Effect::Pending(fate) => Some(*fate),
            _ => None,
        })
    }
}

impl FaultBook {
    pub(crate) fn add(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }

    pub(crate) fn clear(&self) {
        self.faults.lock().clear();
    }

    /// The faults as they are now, with what is left of them.
    pub(crate) fn left(&self) -> Vec<Fault> {
        self.faults.lock().clone()
    }

    /// What a request meets: the first fault that answers it, or else all that change it. What it meets is used.
    pub(crate) fn meet(&self, request: Place) -> Plan {
        let mut plan = Plan::default();
        let mut faults = self.faults.lock();
        let here = |fault: &Fault| fault.place.covers(request) && fault.effect != Effect::Refuse;
        let first = faults.iter().position(|fault| here(fault) && fault.effect.answers());
        for (at, fault) in faults.iter_mut().enumerate() {
            let slow = matches!(fault.effect, Effect::Slow(_));
            if !here(fault) || (first.is_some() && first != Some(at) && !slow) {
                continue;
            }
            match fault.take() {
                Effect::Slow(time) => plan.slow += time,
                effect if Some(at) == first => plan.instead = Some(effect),
                effect => plan.wrong.push(effect),
            }
        }
        faults.retain(|fault| fault.times != Some(0));
        plan
    }

    /// Whether one more instance is not to listen.
    pub(crate) fn refuses(&self) -> bool {
        let mut faults = self.faults.lock();
        let Some(fault) = faults.iter_mut().find(|fault| fault.effect == Effect::Refuse) else {
            return false;
        };
        fault.take();
        faults.retain(|fault| fault.times != Some(0));
        true
    }
}

impl Fault {
    fn take(&mut self) -> Effect {
        self.times = self.times.map(|times| times.saturating_sub(1));
        self.effect.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::McpMethod;

    fn book(faults: &[&str]) -> FaultBook {
        let book = FaultBook::default();
        for fault in faults {
            book.add(fault.parse().unwrap());
        }
        book
    }

    #[test]
    fn answers_come_one_after_the_other_and_changes_together() {
        let book = book(&["create:429*1", "create:503*1", "create:pending*1", "create:drop-after*1"]);
        let statuses = [(); 2].map(|()| match book.meet(Place::Create).instead {
            Some(Effect::Reply(reply)) => reply.status,
            other => panic!("{other:?}"),
        });
        assert_eq!(statuses, [429, 503]);
        let plan = book.meet(Place::Create);
        assert_eq!((plan.fate(), plan.has(&Effect::DropAfter)), (Some(Fate::Running), true));
        assert!(book.left().is_empty());
    }

    #[test]
    fn a_suffix_is_no_match() {
        let book = book(&["mcp:404", "mcps.call:hang"]);
        assert!(book.meet(Place::ApiMcp(McpMethod::List)).instead.is_none());
        assert_eq!(book.meet(Place::ApiMcp(McpMethod::Call)).instead, Some(Effect::Hang));
        assert!(matches!(book.meet(Place::Mcp(McpMethod::Call)).instead, Some(Effect::Reply(_))));
        assert!(book.meet(Place::Reset).instead.is_none());
    }

    #[test]
    fn whole_hosts() {
        let book = book(&["control:503", "instance:502*2"]);
        assert!(book.meet(Place::Token).instead.is_some());
        assert!(book.meet(Place::Query).instead.is_some());
        assert!(book.meet(Place::Mcp(McpMethod::Any)).instead.is_some());
        assert!(book.meet(Place::Query).instead.is_none());
    }
}
