//! Rate limits, at instants that a test chooses.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oxenv_core::{Buckets, Policy, Principal, RateLimit, RateScope, RoleRules, Rules};
use proptest::prelude::*;

const AGENT: Principal = Principal::Agent;
const CONTROL: Principal = Principal::Control;

fn rate(text: &str) -> RateLimit {
    text.parse().unwrap()
}

fn limited(everybody: Option<RateLimit>, agent: Option<RateLimit>) -> Policy {
    let agent = RoleRules { rate_limit: agent, ..RoleRules::default() };
    let rules = Rules { rate_limit: everybody, roles: HashMap::from([(AGENT, agent)]), ..Rules::default() };
    Policy::compile(rules).unwrap()
}

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn rates_are_read_and_shown() {
    for (text, shown) in [
        ("10/s", "10/s, burst 10, per session"),
        (" 100 / m ", "100/m, burst 100, per session"),
        ("1000/h", "1000/h, burst 1000, per session"),
    ] {
        assert_eq!(rate(text).to_string(), shown);
    }
    let odd = RateLimit { per: millis(1500), burst: 2, scope: RateScope::Server, ..rate("3/s") };
    assert_eq!(odd.to_string(), "3 in 1.5s, burst 2, for the server");
    for text in ["", "10", "10/", "/s", "10/day", "-1/s", "1.5/s", "10/s/s", "99999999999/s", "0/s"] {
        let error = text.parse::<RateLimit>().unwrap_err();
        assert!(error.contains("10/s, 100/m") || error.contains("use deny"), "{text}: {error}");
    }
}

#[test]
fn limits_that_make_no_sense_do_not_compile() {
    let day = Duration::from_secs(24 * 60 * 60);
    for odd in [
        RateLimit { calls: 0, ..rate("1/s") },
        RateLimit { burst: 0, ..rate("1/s") },
        RateLimit { per: Duration::ZERO, ..rate("1/s") },
        RateLimit { per: day * 367, ..rate("1/s") },
        RateLimit { per: Duration::MAX, ..rate("1/s") },
    ] {
        let error = Policy::compile(Rules { rate_limit: Some(odd), ..Rules::default() }).unwrap_err();
        assert_eq!(error.place, "rate_limit");
    }
    // The largest that compiles does not overflow.
    let huge = RateLimit { calls: 1, per: day * 366, burst: u32::MAX, scope: RateScope::Session };
    let (policy, session, server) = (limited(Some(huge), None), Buckets::default(), Buckets::default());
    let now = Instant::now();
    for _ in 0..100 {
        policy.admit(AGENT, &session, &server, now).unwrap();
    }
}

#[test]
fn a_burst_then_one_at_a_time() {
    let policy = limited(Some(RateLimit { burst: 3, ..rate("10/s") }), None);
    let (session, server) = (Buckets::default(), Buckets::default());
    let start = Instant::now();
    let admit = |at| policy.admit(AGENT, &session, &server, start + at);
    for _ in 0..3 {
        admit(millis(0)).unwrap();
    }
    let refusal = admit(millis(0)).unwrap_err();
    assert_eq!((refusal.wait, refusal.rule), (millis(100), "rate_limit: 10/s, burst 3, per session"));
    assert_eq!(admit(millis(40)).unwrap_err().wait, millis(60));
    admit(millis(100)).unwrap();
    assert_eq!(admit(millis(100)).unwrap_err().wait, millis(100));
    // A time that lies back gives nothing, and takes nothing.
    assert_eq!(admit(millis(0)).unwrap_err().wait, millis(200));
    // Rest fills the bucket, and not beyond its size.
    for _ in 0..3 {
        admit(millis(10_000)).unwrap();
    }
    assert!(admit(millis(10_000)).is_err());
}

#[test]
fn sessions_have_their_own_buckets_and_share_the_servers() {
    let server_wide = RateLimit { burst: 3, scope: RateScope::Server, ..rate("3/s") };
    let policy = limited(Some(server_wide), Some(rate("2/s")));
    let (one, two, server) = (Buckets::default(), Buckets::default(), Buckets::default());
    let now = Instant::now();
    policy.admit(AGENT, &one, &server, now).unwrap();
    policy.admit(AGENT, &one, &server, now).unwrap();
    // The session's limit refuses the agent, without a token of the server's.
    let refusal = policy.admit(AGENT, &one, &server, now).unwrap_err();
    assert_eq!(refusal.rule, "roles.agent.rate_limit: 2/s, burst 2, per session");
    // It counts the agent only.
    policy.admit(CONTROL, &one, &server, now).unwrap();
    // Now the server's refuses everybody, without a token of the session's.
    for _ in 0..5 {
        let refusal = policy.admit(AGENT, &two, &server, now).unwrap_err();
        assert_eq!(refusal.rule, "rate_limit: 3/s, burst 3, for the server");
    }
    let later = now + Duration::from_secs(1);
    policy.admit(AGENT, &two, &server, later).unwrap();
    policy.admit(AGENT, &two, &server, later).unwrap();
    assert_eq!(policy.limits(AGENT).count(), 2);
    assert_eq!(policy.limits(CONTROL).count(), 1);
}

#[test]
fn the_longest_wait_is_told() {
    let policy = limited(Some(rate("1/m")), Some(rate("1/s")));
    let (session, server) = (Buckets::default(), Buckets::default());
    let now = Instant::now();
    policy.admit(AGENT, &session, &server, now).unwrap();
    let refusal = policy.admit(AGENT, &session, &server, now).unwrap_err();
    assert_eq!(
        (refusal.wait, refusal.rule),
        (Duration::from_secs(60), "rate_limit: 1/m, burst 1, per session")
    );
}

#[test]
fn many_threads_get_no_more_than_there_is() {
    let policy = limited(Some(RateLimit { scope: RateScope::Server, ..rate("1000/h") }), Some(rate("300/h")));
    let server = Buckets::default();
    let now = Instant::now();
    let admitted: usize = std::thread::scope(|scope| {
        let count = || {
            let session = Buckets::default();
            (0..1000).filter(|_| policy.admit(AGENT, &session, &server, now).is_ok()).count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(admitted, 1000);
}

proptest! {
    /// Whatever the times of the calls: no more pass in any window than the burst and what came back
    /// in that window, and whoever waits as told is let through.
    #[test]
    fn the_rate_is_kept(
        calls in 1_u32..50, seconds in 1_u64..100, burst in 1_u32..20,
        gaps in prop::collection::vec(0_u64..5_000_000_000, 1..200),
    ) {
        let per = Duration::from_secs(seconds);
        let limit = RateLimit { calls, per, burst, scope: RateScope::Session };
        let policy = limited(Some(limit), None);
        let (session, server) = (Buckets::default(), Buckets::default());
        let mut now = Instant::now();
        let mut passed = Vec::new();
        for gap in gaps {
            now += Duration::from_nanos(gap / u64::from(calls));
            if let Err(refusal) = policy.admit(CONTROL, &session, &server, now) {
                let nearly = now + refusal.wait - Duration::from_nanos(1);
                prop_assert!(policy.admit(CONTROL, &session, &server, nearly).is_err());
                now += refusal.wait;
                prop_assert!(policy.admit(CONTROL, &session, &server, now).is_ok());
            }
            passed.push(now);
        }
        for (index, from) in passed.iter().enumerate() {
            for (count, to) in passed[index..].iter().enumerate() {
                let back = (*to - *from).as_nanos() * u128::from(calls) / per.as_nanos();
                prop_assert!(count as u128 <= u128::from(burst) - 1 + back);
            }
        }
    }
}
