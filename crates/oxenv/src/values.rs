//! Values of flags, variables and settings, as people write them.
//!
//! Invariant: a length of time that is read here is one that a clock can hold.

use std::time::Duration;

use oxenv_wire::{JsonError, Seconds, preview};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::byte_size::ByteSize;
use crate::exit::usage;

/// A length of time: `90s`, `15m`, `1h 30m`, or a plain number of seconds. It is above zero.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string()),
    };
    match parsed {
        Ok(Duration::ZERO) => Err("must be longer than 0".to_owned()),
        Ok(time) => bounded(time),
        Err(error) => Err(format!("{error}; write 90s, 15m or 2h")),
    }
}

/// That time, if a clock can hold it.
fn bounded(time: Duration) -> Result<Duration, String> {
    let longest = Seconds::MAX;
    if time > longest {
        Err(format!("must be at most {}s, which is 136 years", longest.as_secs()))
    } else {
        Ok(time)
    }
}

/// A length of time that may be zero: do not wait at all.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    if matches!(text.trim(), "0" | "0s") { Ok(Duration::ZERO) } else { duration(text) }
}

/// A part of a whole, from 0 to 1.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    let ratio: Option<f64> = text.trim().parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| {
        format!("'{}' is no part of a whole; write a number from 0 to 1, such as 0.01", preview(text))
    })
}

/// [`duration`] for a setting in a file or a variable, where it may also be a number.
pub(crate) fn duration_setting<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    setting(deserializer, duration)
}

/// [`timeout`] for a setting in a file or a variable.
pub(crate) fn timeout_setting<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    setting(deserializer, timeout)
}

/// [`ratio`] for a setting in a file or a variable.
pub(crate) fn ratio_setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    setting(deserializer, ratio)
}

/// A number of bytes for a setting in a file or a variable: `"4GiB"`, or a number.
pub(crate) fn byte_size_setting<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ByteSize>, D::Error> {
    setting(deserializer, str::parse)
}

fn setting<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a number")]
    enum TextOrNumber {
        Text(String),
        Number(f64),
    }
    let text = match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    };
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A JSON object in an argument; `what` names that argument in the error.
pub(crate) fn object(what: &str, text: &str) -> anyhow::Result<Value> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(other) => Err(usage(format!("{what} must be a JSON object, not {}", preview(&other.to_string())))),
        Err(_) => Err(usage(format!("{what}: {}", JsonError::diagnose(text)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("2.5"), Ok(Duration::from_millis(2500)));
        assert!(duration("0").is_err());
        assert!(duration("-1").is_err());
        assert!(duration("soon").is_err());
        assert_eq!(duration("4294967296s"), Ok(Seconds::MAX));
        for endless in ["4294967297s", "18446744073709551615s", "1e19", "1000years", "inf"] {
            assert!(duration(endless).is_err() && timeout(endless).is_err(), "{endless}");
        }
        assert_eq!(timeout("0s"), Ok(Duration::ZERO));
    }
}
