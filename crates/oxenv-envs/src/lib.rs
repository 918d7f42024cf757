//! Bundled environments: `echo`, `connect4`, `grid_world`, `number_guess`.
//!
//! Invariant: same seed and same actions give the same bytes. An environment is one file and one
//! folder of the same name with its README; it has a `factory()` and nothing else is public.

pub mod connect4;
pub mod echo;
pub mod grid_world;
pub mod number_guess;

use std::fmt;
use std::sync::Arc;

use oxenv_core::EnvironmentFactory;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

/// A factory of every bundled environment, in alphabetical order.
#[must_use]
pub fn all() -> Vec<Arc<dyn EnvironmentFactory>> {
    vec![connect4::factory(), echo::factory(), grid_world::factory(), number_guess::factory()]
}

/// The state as bytes, for environments whose state is plain data.
fn save<T: serde::Serialize>(state: &T) -> Option<Vec<u8>> {
    serde_json::to_vec(state).ok()
}

fn load<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes).ok()
}

/// An object that a client may send and nobody looks at. It is checked to be one and let go: built as a value
/// it would take many times the bytes that it was sent as.
struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Unread)
    }
}

impl<'de> Visitor<'de> for Unread {
    type Value = Unread;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unread, A::Error> {
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Unread)
    }
}

#[cfg(test)]
mod tests {
    use oxenv_core::contract;
    use serde_json::{Value, json};

    async fn keeps_the_contract(
        factory: std::sync::Arc<dyn oxenv_core::EnvironmentFactory>,
        actions: &[Value],
    ) {
        let violations = contract::check(factory, actions).await;
        assert!(violations.is_empty(), "{violations:#?}");
    }

    #[test]
    fn metadata_is_an_object_and_nothing_of_it_is_kept() {
        let read =
            |text: &str| serde_json::from_str::<Option<super::Unread>>(text).map(|unread| unread.is_some());
        assert!(read(r#"{"a": [1, {"b": null}], "a": 1e999}"#).unwrap());
        assert!(!read("null").unwrap());
        assert_eq!(size_of::<super::Unread>(), 0);
        for text in ["[]", "5", "\"x\"", "{\"a\":}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn connect4_keeps_the_contract() {
        let moves: Vec<Value> = [3, 3, 2, 2, 1].iter().map(|column| json!({ "column": column })).collect();
        keeps_the_contract(super::connect4::factory(), &moves).await;
    }

    #[tokio::test]
    async fn echo_keeps_the_contract() {
        let call = |text: &str| {
            let arguments = json!({ "message": text });
            json!({ "type": "call_tool", "tool_name": "echo_message", "arguments": arguments })
        };
        keeps_the_contract(super::echo::factory(), &[call("a"), call("é\n"), json!({ "message": "old" })])
            .await;
    }

    #[tokio::test]
    async fn grid_world_keeps_the_contract() {
        let moves: Vec<Value> =
            ["DOWN", "RIGHT", "UP", "UP", "LEFT"].iter().map(|way| json!({ "action": way })).collect();
        keeps_the_contract(super::grid_world::factory(), &moves).await;
    }

    #[tokio::test]
    async fn number_guess_keeps_the_contract() {
        let guesses: Vec<Value> =
            [101, 102, 103, 104].iter().map(|guess| json!({ "guess": guess })).collect();
        keeps_the_contract(super::number_guess::factory(), &guesses).await;
    }
}
