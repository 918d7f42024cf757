//! Compares an entry of a record with the same entry of its replay.
//!
//! Invariant: bytes are compared, not meanings; only the sessions' own ids are taken for the same.
//! Times are not compared, nor why toolsets did not work; of failures the code and the kind are.

use std::borrow::Cow;
use std::collections::BTreeMap;

use oxenv_store::{LogError, StoredEntry, StoredEvent, StoredOutcome};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Number of characters before and behind a difference that are shown.
const CONTEXT_CHARS: usize = 40;

/// How two entries differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) what: String,
    pub(super) recorded: String,
    pub(super) replayed: String,
}

/// What sessions of the replay are called in the record.
#[derive(Debug, Default)]
pub(super) struct SessionNames(Vec<(String, String)>);

impl SessionNames {
    pub(super) fn add(&mut self, replayed: &str, recorded: &str) {
        self.0.push((replayed.to_owned(), recorded.to_owned()));
    }

    /// A text of the replay in the names of the record.
    fn replace_names(&self, text: &str) -> String {
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
    names: &SessionNames,
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
            Some(differs("it failed", &comparable_text(recorded)?, &comparable_text(replayed)?))
        }
        (StoredOutcome::Failed(_), StoredOutcome::Answered { .. }) => {
            Some(differs("it did not fail", &comparable_text(recorded)?, &comparable_text(replayed)?))
        }
    })
}

/// The outcome of an entry, in short.
///
/// # Errors
/// When a blob cannot be read.
pub(super) fn comparable_text(entry: &StoredEntry) -> Result<String, LogError> {
    Ok(match outcome(entry) {
        None => String::new(),
        Some(StoredOutcome::Answered { reply, .. }) => excerpt(&reply.text()?, 0),
        Some(StoredOutcome::Failed(failure)) => format!("{:?}: {}", failure.code, failure.message),
    })
}

fn answers(
    one: &StoredOutcome,
    two: &StoredOutcome,
    names: &SessionNames,
) -> Result<Option<Difference>, LogError> {
    let (
        StoredOutcome::Answered { reply: one, reward: one_reward, done: one_done },
        StoredOutcome::Answered { reply: two, reward: two_reward, done: two_done },
    ) = (one, two)
    else {
        return Ok(None);
    };
    let (mut one, mut two) = (one.text()?, Cow::from(names.replace_names(&two.text()?)));
    (one, two) = (without_problems(one), without_problems(two));
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

/// A reply without what did not work of its toolsets, which is the machine's state and not the episode's. All
/// else keeps its bytes.
fn without_problems(mut reply: Cow<'_, str>) -> Cow<'_, str> {
    if !reply.contains("\"problems\"") {
        return reply;
    }
    for path in [&["observation", "metadata", "oxenv", "problems"][..], &["metadata", "oxenv", "problems"]] {
        // Empty metadata stands within the observation only.
        let vanishes = |key: &str| key == "oxenv" || key == path[0];
        if let Some(cut) = without(&reply, path, &vanishes) {
            reply = cut.into();
        }
    }
    reply
}

/// An object's text without the member at the end of a path, if that is there, nor objects on the way that
/// are empty then and are to vanish so.
fn without(object: &str, path: &[&str], vanishes: &dyn Fn(&str) -> bool) -> Option<String> {
    let (key, rest) = path.split_first()?;
    let members: BTreeMap<MemberName<'_>, &RawValue> = serde_json::from_str(object).ok()?;
    let (name, value) = members.get_key_value(&MemberName(Cow::Borrowed(key)))?;
    // A name is borrowed unless it is written with escapes, as none of ours is.
    let MemberName(Cow::Borrowed(name)) = name else { return None };
    let at = |part: &str| part.as_ptr() as usize - object.as_ptr() as usize;
    let (begin, from) = (at(name) - 1, at(value.get()));
    let (before, behind) = (&object[..begin], &object[from + value.get().len()..]);
    if !rest.is_empty() {
        let value = without(value.get(), rest, vanishes)?;
        if !(vanishes(key) && value[1..].trim_start() == "}") {
            return Some(format!("{}{value}{behind}", &object[..from]));
        }
    }
    Some(match behind.trim_start().strip_prefix(',') {
        Some(behind) => format!("{before}{}", behind.trim_start()),
        None => format!("{}{behind}", before.trim_end().trim_end_matches(',')),
    })
}

/// The name of an object's member.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

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
    let from = text[..at].char_indices().rev().nth(CONTEXT_CHARS - 1).map_or(0, |(index, _)| index);
    let to = text[at..].char_indices().nth(CONTEXT_CHARS).map_or(text.len(), |(index, _)| at + index);
    let (before, behind) = (if from > 0 { "…" } else { "" }, if to < text.len() { "…" } else { "" });
    format!("{before}{}{behind}", &text[from..to])
}

#[cfg(test)]
mod tests {
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
        let text = |reply: &str| without_problems(reply.into()).into_owned();
        let problems = r#""problems":[{"toolset":"git"}]"#;
        for (told, works) in [
            (
                format!(
                    r#"{{"observation":{{"metadata":{{"oxenv":{{{problems}}}}},"a":1.0}},"metadata":{{"oxenv":{{{problems}}}}},"done":false}}"#
                ),
                r#"{"observation":{"metadata":{},"a":1.0},"done":false}"#,
            ),
            (
                format!(r#"{{"done":false,"metadata":{{"oxenv":{{"scores":{{}},{problems}}},"a":1}}}}"#),
                r#"{"done":false,"metadata":{"oxenv":{"scores":{}},"a":1}}"#,
            ),
            (
                format!(r#"{{"done":false,"metadata":{{"b":2,"oxenv":{{{problems}}}}}}}"#),
                r#"{"done":false,"metadata":{"b":2}}"#,
            ),
            // All else keeps its bytes.
            (
                format!(
                    r#"{{"observation":{{"metadata":{{"oxenv":{{{problems},"b" : 1e2}}}}, "n":1.50,"a":12345678901234567890123}}}}"#
                ),
                r#"{"observation":{"metadata":{"oxenv":{"b" : 1e2}}, "n":1.50,"a":12345678901234567890123}}"#,
            ),
        ] {
            assert_eq!(text(&told), works);
            assert_eq!(text(works), works);
        }
        for other in [
            r#"{"observation": {"problems":[1.50], "metadata":{"problems":[1e2]}}}"#,
            r#"{"observation":"\"problems\":" ,"b":1, "a":[{"metadata":{"oxenv":{"problems":1}}}]}"#,
        ] {
            assert_eq!(text(other), other);
        }
    }

    #[test]
    fn the_sessions_own_ids_are_taken_for_the_same() {
        let mut names = SessionNames::default();
        names.add("b-2", "a-1");
        assert_eq!(names.replace_names("{\"id\":\"b-2\"}"), "{\"id\":\"a-1\"}");
    }
}
