//! The one path by which agents know a session's folder, although a fork of the session has another folder.
//!
//! Invariant: servers see the real path and agents the known one; a path that is part of neither is left
//! alone.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::SessionContext;

/// Turns one path into the other within JSON texts. Both hold a session's random id, so neither is in a text
/// by chance.
pub(super) struct WorkspacePaths {
    known: String,
    real: String,
}

impl WorkspacePaths {
    /// The view of a session whose agents know its folder by another path; nothing for all others.
    pub(super) fn of(place: &SessionContext) -> Option<Self> {
        let spelled = |path: &std::path::Path| {
            let quoted = serde_json::to_string(path.to_str()?).ok()?;
            Some(quoted[1..quoted.len() - 1].to_owned())
        };
        if place.known_as == place.workspace {
            return None;
        }
        Some(WorkspacePaths { known: spelled(&place.known_as)?, real: spelled(&place.workspace)? })
    }

    /// The text of an agent with the path that the server knows.
    pub(super) fn inward<'a>(&self, json: &'a RawValue) -> Cow<'a, RawValue> {
        if !json.get().contains(&self.known) {
            return Cow::Borrowed(json);
        }
        let turned = json.get().replace(&self.known, &self.real);
        RawValue::from_string(turned).map_or(Cow::Borrowed(json), Cow::Owned)
    }

    /// The text of a server with the path that the agent knows.
    pub(super) fn outward(&self, text: String) -> String {
        match text.contains(&self.real) {
            true => text.replace(&self.real, &self.known),
            false => text,
        }
    }
}
