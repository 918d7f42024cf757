//! The rules, each through a door.
//!
//! Invariant: each rule opens its own sessions and closes them, and compares with an undisturbed
//! episode.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::door::{CheckedReply, CheckedServer, CheckedSession, Optional, capacity_reason};
use super::report::Verdict;

/// How many sessions without a seed are compared.
const UNSEEDED_SESSIONS: usize = 64;
/// How many actions each of them takes at most.
const MAX_UNSEEDED_STEPS: usize = 8;
/// How many seeds are tried, to see whether anything is random.
const TRIED_SEEDS: u64 = 8;
/// How many of these must differ from the sessions without a seed: one may be a rare event.
const MIN_DIFFERENT_SEEDS: usize = 2;

/// An environment's description of itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeclaredCapabilities {
    /// The same seed and actions give the same bytes.
    pub(super) deterministic: bool,
    /// Each session may start servers of tools; not known of a server somewhere else.
    pub(super) starts_servers: bool,
}

/// An episode, and what an undisturbed session showed.
#[derive(Debug, Clone)]
pub(super) struct ReferenceEpisode {
    pub(super) seed: u64,
    pub(super) actions: Vec<Value>,
    /// To the reset, and to each action.
    pub(super) replies: Vec<CheckedReply>,
}

/// The same seed and the same actions give the same bytes, in another session and in the same one.
pub(super) async fn seed(door: &CheckedServer, episodes: &[ReferenceEpisode]) -> anyhow::Result<Verdict> {
    for episode in episodes {
        let mut player = door.open(episode.seed).await?;
        for which in ["another session", "the next episode of that session"] {
            let replies = play(&mut player, episode).await?;
            if let Some(difference) = difference(&episode.replies, &replies) {
                let why = format!("seed {} in {which}: {difference}", episode.seed);
                player.close().await?;
                return Ok(Verdict::Fails(why));
            }
        }
        player.close().await?;
    }
    let steps: usize = episodes.iter().map(|episode| episode.actions.len()).sum();
    Ok(Verdict::Holds(format!("{} episodes, {steps} steps, each three times", episodes.len())))
}

/// What one session does is not seen by another.
pub(super) async fn isolation(
    door: &CheckedServer,
    episodes: &[ReferenceEpisode],
) -> anyhow::Result<Verdict> {
    for episode in episodes {
        let (mut one, mut two) = (door.open(episode.seed).await?, door.open(episode.seed + 1).await?);
        let mut replies = vec![one.reset(episode.seed).await?];
        two.reset(episode.seed + 1).await?;
        for action in &episode.actions {
            two.step(action).await?;
            replies.push(one.step(action).await?);
        }
        one.close().await?;
        two.close().await?;
        if let Some(difference) = difference(&episode.replies, &replies) {
            return Ok(Verdict::Fails(format!("beside another session: {difference}")));
        }
    }
    Ok(Verdict::Holds(format!("{} episodes, each beside another session", episodes.len())))
}

/// Sessions without a seed do not all show the same, unless nothing is random.
pub(super) async fn unseeded(
    door: &CheckedServer,
    episode: &ReferenceEpisode,
    promises: DeclaredCapabilities,
) -> anyhow::Result<Verdict> {
    if promises.starts_servers {
        return Ok(Verdict::NotOffered(format!(
            "{UNSEEDED_SESSIONS} sessions at once would start as many servers of each toolset"
        )));
    }
    let actions = &episode.actions[..episode.actions.len().min(MAX_UNSEEDED_STEPS)];
    let mut players = Vec::with_capacity(UNSEEDED_SESSIONS);
    let played = play_unseeded(door, actions, &mut players).await;
    for player in players {
        player.close().await?;
    }
    let same = match played? {
        ControlFlow::Continue(replies) => replies,
        ControlFlow::Break(verdict) => return Ok(verdict),
    };
    let mut different = 0;
    for number in 0..TRIED_SEEDS {
        let seed = episode.seed.wrapping_add(number);
        let mut player = door.open(seed).await?;
        let mut replies = vec![player.reset(seed).await?];
        replies.extend(play_on(&mut player, actions).await?);
        player.close().await?;
        different += usize::from(replies != same);
    }
    Ok(match different < MIN_DIFFERENT_SEEDS {
        true => Verdict::NotOffered(format!(
            "{UNSEEDED_SESSIONS} sessions without a seed and {TRIED_SEEDS} seeds show the same in {} steps: \
             nothing in them seems to be random",
            actions.len()
        )),
        false => Verdict::Fails(format!(
            "{UNSEEDED_SESSIONS} sessions without a seed all show the same, and {different} of {TRIED_SEEDS} \
             seeds show something else: let each reset without a seed draw one"
        )),
    })
}

/// Plays all sessions, and leaves them open so that none of them helps the next. Continues with what they
/// show if that is the same.
async fn play_unseeded(
    door: &CheckedServer,
    actions: &[Value],
    players: &mut Vec<CheckedSession>,
) -> anyhow::Result<ControlFlow<Verdict, Vec<CheckedReply>>> {
    let full = |open: usize, why: &str| {
        ControlFlow::Break(Verdict::NotOffered(format!(
            "{UNSEEDED_SESSIONS} sessions at once are needed, and there is room for {open}: {why}"
        )))
    };
    let mut seen: Vec<Vec<CheckedReply>> = Vec::with_capacity(UNSEEDED_SESSIONS);
    for open in 0..UNSEEDED_SESSIONS {
        match door.open_unseeded().await? {
            Optional::Made(player) => players.push(player),
            Optional::None(why) => return Ok(full(open, &why)),
        }
        let player = &mut players[open];
        let reset = player.reset_unseeded().await?;
        if let Some(why) = capacity_reason(&reset.text).filter(|_| !reset.ok) {
            return Ok(full(open, &why));
        }
        if !reset.ok {
            let why = format!("a reset without a seed fails: {}", reset.text);
            return Ok(ControlFlow::Break(Verdict::Fails(why)));
        }
        let mut replies = vec![reset];
        replies.extend(play_on(player, actions).await?);
        seen.push(replies);
    }
    Ok(match seen.iter().position(|replies| *replies != seen[0]) {
        Some(other) => ControlFlow::Break(Verdict::Holds(format!(
            "{UNSEEDED_SESSIONS} sessions without a seed, of which number {} is the first that differs",
            other + 1
        ))),
        None => ControlFlow::Continue(seen.swap_remove(0)),
    })
}

/// A fork goes on as the original does, from wherever it was forked.
pub(super) async fn fork(door: &CheckedServer, episodes: &[ReferenceEpisode]) -> anyhow::Result<Verdict> {
    let mut forks = 0;
    for episode in episodes {
        let mut original = door.open(episode.seed).await?;
        original.reset(episode.seed).await?;
        for at in 0..=episode.actions.len() {
            let mut fork = match original.fork().await? {
                Optional::Made(fork) => fork,
                Optional::None(why) => {
                    original.close().await?;
                    return Ok(Verdict::NotOffered(why));
                }
            };
            let rest = play_on(&mut fork, &episode.actions[at..]).await?;
            fork.close().await?;
            if let Some(difference) = difference(&episode.replies[at + 1..], &rest) {
                original.close().await?;
                return Ok(Verdict::Fails(format!("a fork after {at} steps: {difference}")));
            }
            forks += 1;
            let Some(action) = episode.actions.get(at) else { break };
            let reply = original.step(action).await?;
            if let Some(difference) = difference(&episode.replies[at + 1..=at + 1], &[reply]) {
                original.close().await?;
                return Ok(Verdict::Fails(format!("the original after a fork at {at}: {difference}")));
            }
        }
        original.close().await?;
    }
    Ok(Verdict::Holds(format!("{forks} forks, one before each step and one at the end")))
}

/// A restored snapshot goes on as the original does.
pub(super) async fn snapshot(door: &CheckedServer, episodes: &[ReferenceEpisode]) -> anyhow::Result<Verdict> {
    for episode in episodes {
        let half = episode.actions.len() / 2;
        let mut original = door.open(episode.seed).await?;
        original.reset(episode.seed).await?;
        play_on(&mut original, &episode.actions[..half]).await?;
        let saved = original.snapshot().await?;
        original.close().await?;
        let text = match saved {
            Optional::Made(text) => text,
            Optional::None(why) => return Ok(Verdict::NotOffered(why)),
        };
        let mut restored = door.restore(&text).await?;
        let rest = play_on(&mut restored, &episode.actions[half..]).await?;
        restored.close().await?;
        if let Some(difference) = difference(&episode.replies[half + 1..], &rest) {
            return Ok(Verdict::Fails(format!("restored after {half} steps: {difference}")));
        }
    }
    Ok(Verdict::Holds(format!(
        "{} sessions restored at half, after their originals had ended",
        episodes.len()
    )))
}

/// A repeated request gets the first reply and is not run again.
pub(super) async fn at_most_once(
    door: &CheckedServer,
    episode: &ReferenceEpisode,
) -> anyhow::Result<Verdict> {
    let mut player = door.open(episode.seed).await?;
    player.reset(episode.seed).await?;
    let verdict = repeat(&mut player, episode).await?;
    player.close().await?;
    Ok(verdict)
}

async fn repeat(player: &mut CheckedSession, episode: &ReferenceEpisode) -> anyhow::Result<Verdict> {
    let action = &episode.actions[0];
    let Some(first) = player.step_once("check-1", action).await? else {
        return Ok(Verdict::NotOffered("the server knows no keys of requests".to_owned()));
    };
    let Some(again) = player.step_once("check-1", action).await? else {
        return Ok(Verdict::NotOffered("the server knows no keys of requests".to_owned()));
    };
    let steps = player.state().await?["step_count"].as_u64();
    if first != again {
        return Ok(Verdict::Fails(format!("a repeat was answered {} instead of {}", again.text, first.text)));
    }
    if steps != Some(1) {
        return Ok(Verdict::Fails(format!(
            "after one step and its repeat, the state counts {steps:?} steps"
        )));
    }
    let other = player.step_once("check-1", &json!({ "another": "request" })).await?;
    if other.as_ref().is_some_and(|reply| reply.ok) {
        return Ok(Verdict::Fails("another request with the same key was taken".to_owned()));
    }
    Ok(Verdict::Holds("a repeat, and another request with the same key".to_owned()))
}

/// A wrong action is the agent's fault, and the episode goes on as if it had not been.
pub(super) async fn bad_actions(
    door: &CheckedServer,
    episode: &ReferenceEpisode,
    promises: DeclaredCapabilities,
) -> anyhow::Result<Verdict> {
    let mut player = door.open(episode.seed).await?;
    player.reset(episode.seed).await?;
    let called = episode.actions[0].get("tool_name").is_some();
    let bad = match called {
        true => json!({ "type": "call_tool", "tool_name": "no such tool", "arguments": {} }),
        false => json!({ "no such field": [[]] }),
    };
    let reply = player.step(&bad).await?;
    if let Some(why) = accepted_wrongly(&reply, called) {
        player.close().await?;
        return Ok(why);
    }
    let rest = play_on(&mut player, &episode.actions).await?;
    player.close().await?;
    // A tool that is not there is asked for in a step of its own, which environments may count.
    let same = !promises.deterministic || called || difference(&episode.replies[1..], &rest).is_none();
    let broken = rest.iter().find(|reply| !reply.ok);
    Ok(match (broken, same) {
        (Some(reply), _) => {
            Verdict::Fails(format!("after a wrong action the episode does not go on: {}", reply.text))
        }
        (None, false) => Verdict::Fails("after a wrong action the episode goes on differently".to_owned()),
        (None, true) => Verdict::Holds("it is refused, and the episode goes on".to_owned()),
    })
}

/// Why an answer to a wrong action does not blame the agent.
fn accepted_wrongly(reply: &CheckedReply, called: bool) -> Option<Verdict> {
    let body: Value = serde_json::from_str(&reply.text).unwrap_or_default();
    let kind = body["oxenv"]["kind"].as_str();
    match reply.ok {
        false if reply.status >= 500 || kind.is_some_and(|kind| kind != "action") => {
            Some(Verdict::Fails(format!("it counts as the environment's fault: {}", reply.text)))
        }
        false => None,
        true if called && !body["reward"].is_null() => {
            Some(Verdict::Fails(format!("a call of no tool is rewarded: {}", reply.text)))
        }
        true if called => None,
        true => Some(Verdict::NotOffered("the environment takes any object for an action".to_owned())),
    }
}

/// Resets and takes all actions.
pub(super) async fn play(
    player: &mut CheckedSession,
    episode: &ReferenceEpisode,
) -> anyhow::Result<Vec<CheckedReply>> {
    let mut replies = vec![player.reset(episode.seed).await?];
    replies.extend(play_on(player, &episode.actions).await?);
    Ok(replies)
}

async fn play_on(player: &mut CheckedSession, actions: &[Value]) -> anyhow::Result<Vec<CheckedReply>> {
    let mut replies = Vec::with_capacity(actions.len());
    for action in actions {
        replies.push(player.step(action).await?);
    }
    Ok(replies)
}

/// The first reply that differs.
fn difference(expected: &[CheckedReply], seen: &[CheckedReply]) -> Option<String> {
    let at = expected.iter().zip(seen).position(|(one, two)| one != two)?;
    Some(format!("reply {at} is {} instead of {}", seen[at].text, expected[at].text))
}
