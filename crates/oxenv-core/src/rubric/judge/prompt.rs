//! The prompt of a judge: text with places for parts of the episode.
//!
//! Invariant: what is filled in is never looked at for places again, so an agent cannot write one.

use std::fmt::Write as _;

use serde_json::json;
use serde_json::value::RawValue;

use super::super::reader::nearest;
use super::super::{EpisodeEvent, ScoringContext};

/// A prompt that was taken apart.
pub(in crate::rubric) struct Prompt {
    pieces: Vec<PromptPiece>,
}

enum PromptPiece {
    Text(String),
    Place(Placeholder),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Placeholder {
    Task,
    Action,
    Observation,
    Transcript,
}

const PLACEHOLDERS: [(&str, Placeholder); 4] = [
    ("task", Placeholder::Task),
    ("action", Placeholder::Action),
    ("observation", Placeholder::Observation),
    ("transcript", Placeholder::Transcript),
];

impl Prompt {
    /// Parses a prompt. `{word}` is a placeholder; other braces are text.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut plain = String::new();
        while let Some(open) = rest.find('{') {
            plain.push_str(&rest[..open]);
            rest = &rest[open..];
            let word = rest[1..].split('}').next().unwrap_or_default();
            let is_place =
                !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            if !is_place || rest.len() == word.len() + 1 {
                plain.push('{');
                rest = &rest[1..];
                continue;
            }
            let Some((_, place)) = PLACEHOLDERS.iter().find(|(name, _)| *name == word) else {
                let names: Vec<&str> = PLACEHOLDERS.iter().map(|(name, _)| *name).collect();
                return Err(format!("'{{{word}}}' is no part of an episode{}", nearest(word, &names)));
            };
            pieces.push(PromptPiece::Text(std::mem::take(&mut plain)));
            pieces.push(PromptPiece::Place(*place));
            rest = &rest[word.len() + 2..];
        }
        if pieces.is_empty() {
            let message = "the prompt shows nothing of the episode; \
                           put {transcript}, {action}, {observation} or {task} into it";
            return Err(message.to_owned());
        }
        plain.push_str(rest);
        pieces.push(PromptPiece::Text(plain));
        Ok(Prompt { pieces })
    }

    /// Whether it shows earlier acts.
    pub(super) fn looks_back(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, PromptPiece::Place(Placeholder::Transcript)))
    }

    /// The prompt about what was seen.
    pub(super) fn fill(&self, seen: &ScoringContext<'_>) -> String {
        let mut out = String::new();
        for piece in &self.pieces {
            match piece {
                PromptPiece::Text(text) => out.push_str(text),
                PromptPiece::Place(Placeholder::Task) => {
                    out.push_str(seen.task.map_or("null", RawValue::get));
                }
                PromptPiece::Place(Placeholder::Action) => push_action(&mut out, seen.act),
                PromptPiece::Place(Placeholder::Observation) => out.push_str(&seen.act.output()),
                PromptPiece::Place(Placeholder::Transcript) => push_transcript(&mut out, seen),
            }
        }
        out
    }
}

fn push_action(out: &mut String, act: EpisodeEvent<'_>) {
    // Writing to a string cannot fail.
    let _ = match act.tool() {
        None => write!(out, "{}", act.input()),
        Some(tool) => write!(out, "{{\"tool\":{},\"arguments\":{}}}", json!(tool), act.input()),
    };
}

fn push_transcript(out: &mut String, seen: &ScoringContext<'_>) {
    let last = seen.act.to_past();
    for (index, act) in seen.earlier.iter().chain([&last]).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(&serde_json::to_string(act).unwrap_or_default());
    }
}
