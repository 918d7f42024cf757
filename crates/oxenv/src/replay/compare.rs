//! Compares an entry of a record with the same entry of its replay.
//!
//! Invariant: bytes are compared, not meanings; only the sessions' own ids are taken for the same.
//! Times are not compared, nor why toolsets did not work; of failures the code and the kind are.

use std::borrow::Cow;

use oxenv_store::{LogError, StoredEntry, StoredEvent, StoredOutcome};
use serde_json::Value;

/// So many characters before and behind a difference are shown.
const CONTEXT: usize = 40;

/// How two entries differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) what: String,
    pub(super) recorded: String,
    pub(super) replayed: String,
}

/// What sessions of the replay are called in the record.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<(String, String)>);

impl Names {
    pub(super) fn add(&mut self, replayed: &str, recorded: &str) {
        self.0.push((replayed.to_owned(), recorded.to_owned()));
    }

    /// A text of the replay in the names of the record.
    fn spell(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (replayed, recorded)| text.replace(replayed, recorded))
    }
}

/// The first difference between the two, if there is one.
///
/// # Errors
/// When a blob cannot be read.
pub(super) fn compare(
    recorded: &StoredEntry,
    replayed: &StoredEntry,
    names: &Names,
) -> Result<Option<Difference>, LogError> {
    if let (StoredEvent::Reset { seed: one, .. }, StoredEvent::Reset { seed: two, .. }) =
        (&recorded.event, &replayed.event)
        && one != two
    {
        return Ok(Some(differs("the seed", &one.to_string(), &two.to_string())));
    }
    let (Some(one), Some(two)) = (outcome(recorded), outcome(replayed)) else { return Ok(None) };
    Ok(match (one, two) {
        (StoredOutcome::Answered { .. }, StoredOutcome::Answered { .. }) => answers(one, two, names)?,
        (StoredOutcome::Failed(one), StoredOutcome::Failed(two)) => {
            let (one, two) = ((one.code, one.kind), (two.code, two.kind));
            (one != two).then(|| differs("the failure", &format!("{one:?}"), &format!("{two:?}")))
        }
        (StoredOutcome::Answered { .. }, StoredOutcome::Failed(_)) => {
            Some(differs("it failed", &shown(recorded)?, &shown(replayed)?))
        }
        (StoredOutcome::Failed(_), StoredOutcome::Answered { .. }) => {
            Some(differs("it did not fail", &shown(recorded)?, &shown(replayed)?))
        }
    })
}

/// What came of an entry, in short.
///
/// # Errors
/// When a blob cannot be read.
pub(super) fn shown(entry: &StoredEntry) -> Result<String, LogError> {
    Ok(match outcome(entry) {
        None => String::new(),
        Some(StoredOutcome::Answered { reply, .. }) => excerpt(&reply.text()?, 0),
        Some(StoredOutcome::Failed(failure)) => format!("{:?}: {}", failure.code, failure.message),
    })
}

fn answers(one: &StoredOutcome, two: &StoredOutcome, names: &Names) -> Result<Option<Difference>, LogError> {
    let (
        StoredOutcome::Answered { reply: one, reward: one_reward, done: one_done },
        StoredOutcome::Answered { reply: two, reward: two_reward, done: two_done },
    ) = (one, two)
    else {
        return Ok(None);
    };
    let (mut one, mut two) = (one.text()?, Cow::from(names.spell(&two.text()?)));
    if [&one, &two].iter().any(|reply| reply.contains("\"problems\":")) {
        (one, two) = (without_problems(one), without_problems(two));
    }
    if one != two {
        let at = one.bytes().zip(two.bytes()).take_while(|(one, two)| one == two).count();
        let what = format!("the reply, from byte {at} on");
        return Ok(Some(Difference { what, recorded: excerpt(&one, at), replayed: excerpt(&two, at) }));
    }
    if (one_reward, one_done) != (two_reward, two_done) {
        let (one, two) = ((one_reward, one_done), (two_reward, two_done));
        return Ok(Some(differs("reward and done", &format!("{one:?}"), &format!("{two:?}"))));
    }
    Ok(None)
}

/// A reply without what did not work of its toolsets, which is the machine's state and not the episode's.
fn without_problems(reply: Cow<'_, str>) -> Cow<'_, str> {
    let Ok(mut read) = serde_json::from_str::<Value>(&reply) else { return reply };
    for place in ["/observation/metadata", "/metadata"] {
        let metadata = read.pointer_mut(place).and_then(Value::as_object_mut);
        let Some(metadata) = metadata else { continue };
        let Some(ours) = metadata.get_mut("oxenv").and_then(Value::as_object_mut) else { continue };
        ours.remove("problems");
        if ours.is_empty() {
            metadata.remove("oxenv");
        }
    }
    // Empty metadata stands within the observation only.
    if let Some(read) = read.as_object_mut()
        && read.get("metadata").and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
    {
        read.remove("metadata");
    }
    read.to_string().into()
}

fn outcome(entry: &StoredEntry) -> Option<&StoredOutcome> {
    match &entry.event {
        StoredEvent::Reset { outcome, .. } | StoredEvent::Step { outcome, .. } => Some(outcome),
        StoredEvent::Opened { .. } | StoredEvent::Closed { .. } => None,
    }
}

fn differs(what: &str, recorded: &str, replayed: &str) -> Difference {
    Difference { what: what.to_owned(), recorded: recorded.to_owned(), replayed: replayed.to_owned() }
}

/// A text around one of its bytes.
fn excerpt(text: &str, at: usize) -> String {
    let at = text.floor_char_boundary(at);
    let from = text[..at].char_indices().rev().nth(CONTEXT - 1).map_or(0, |(index, _)| index);
    let to = text[at..].char_indices().nth(CONTEXT).map_or(text.len(), |(index, _)| at + index);
    let (before, behind) = (if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" });
    format!("{before}{}{behind}", &text[from..to])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_excerpt_is_around_its_byte_and_cuts_no_character() {
        let text = format!("{}X{}", "é".repeat(100), "ü".repeat(100));
        let shown = excerpt(&text, 200);
        assert_eq!(shown, format!("…{}X{}…", "é".repeat(40), "ü".repeat(39)));
        assert_eq!(excerpt("ab", 9), "ab");
        assert_eq!(excerpt("éa", 1), "éa");
    }

    #[test]
    fn what_did_not_work_is_no_difference() {
        let broken = json!({ "oxenv": { "problems": [{ "toolset": "git" }] } });
        let told =
            json!({ "observation": { "metadata": broken, "a": 1 }, "metadata": broken, "done": false });
        let works = json!({ "observation": { "metadata": {}, "a": 1 }, "done": false });
        let text = |reply: Value| without_problems(reply.to_string().into()).into_owned();
        assert_eq!(text(told), text(works));
    }

    #[test]
    fn the_sessions_own_ids_are_taken_for_the_same() {
        let mut names = Names::default();
        names.add("b-2", "a-1");
        assert_eq!(names.spell("{\"id\":\"b-2\"}"), "{\"id\":\"a-1\"}");
    }
}
