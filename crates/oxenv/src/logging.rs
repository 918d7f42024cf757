//! Logs: on stderr, as text or as JSON, in colour only on a terminal.
//!
//! Invariant: stdout is left to output for scripts; below warnings, only our own crates log. An event is one
//! line of at most [`MAX_LINE`] bytes, whatever it quotes.

use std::io::{IsTerminal, Write};

use clap::ValueEnum;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// Most bytes of a line.
const MAX_LINE: usize = 4096;
/// Bytes that are kept of each text of a line that is too long, at first; then half of it, and so on.
const MAX_TEXT: usize = 2048;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// One line per event, for people.
    Text,
    /// One JSON object per event.
    Json,
}

/// Where lines go. The library writes each with one call.
struct LogWriter(LogFormat);

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        // JSON escapes what would begin a line by itself.
        let is_plain = matches!(self.0, LogFormat::Json) || !content.iter().any(is_control);
        if line.len() <= MAX_LINE && is_plain {
            std::io::stderr().write_all(line)?;
        } else {
            let text = String::from_utf8_lossy(content);
            let short = match self.0 {
                LogFormat::Text => short_text(&without_controls(text.trim_end()), MAX_LINE - 1),
                LogFormat::Json => short_json(&text),
            };
            std::io::stderr().write_all(format!("{short}\n").as_bytes())?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Whether a byte would begin a line, or hide what stands before it. Colours begin with an escape, which the
/// library takes out of what is quoted.
fn is_control(byte: &u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | b'\x1b')
}

/// A text in one line.
fn without_controls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match u8::try_from(character) {
            Ok(byte) if is_control(&byte) => out.extend(character.escape_default()),
            _ => out.push(character),
        }
    }
    out
}

/// The beginning of a text, in that many bytes including a note of how much is left out.
fn short_text(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = format!("… <{} bytes in all>", text.len());
    format!("{}{end}", &text[..text.floor_char_boundary(limit.saturating_sub(end.len()))])
}

/// A line that is an object, and stays one: its texts are shortened, and if that is not enough, all fields
/// that are not common to every event are left out.
fn short_json(line: &str) -> String {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(line) else {
        return json!({ "message": short_text(line, MAX_TEXT) }).to_string();
    };
    let mut limit = MAX_TEXT;
    while limit >= 64 {
        for value in fields.values_mut() {
            if let Value::String(text) = value {
                *text = short_text(text, limit);
            }
        }
        let short = json!(fields).to_string();
        if short.len() < MAX_LINE {
            return short;
        }
        limit /= 2;
    }
    let known = |key: &String| matches!(key.as_str(), "timestamp" | "level" | "target" | "message");
    let kept: Map<String, Value> = fields.into_iter().filter(|(key, _)| known(key)).collect();
    json!(kept).to_string()
}

/// Starts logging. Called once.
pub(crate) fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = fmt::layer().with_writer(move || LogWriter(format));
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    // Other crates log what crosses a wire when their level is below warnings, and rmcp logs addresses
    // with its errors, which we report ourselves: that may hold secrets which only we know.
    let ours = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("rmcp", LevelFilter::OFF)
        .with_target("oxenv", level);
    tracing_subscriber::registry().with(lines.with_filter(ours)).init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_is_cut_and_says_so() {
        let line = format!("INFO é {}", "é".repeat(1 << 20));
        let short = short_text(&line, MAX_LINE - 1);
        assert!(short.len() < MAX_LINE && short.starts_with("INFO é é"), "{}", short.len());
        assert!(short.ends_with(&format!("… <{} bytes in all>", line.len())), "{short}");
        assert_eq!(short_text("short", MAX_LINE - 1), "short");
    }

    #[test]
    fn what_is_quoted_begins_no_line() {
        assert_eq!(without_controls("a\nERROR b\r\0\tc é \x1b[0m"), "a\\nERROR b\\r\\u{0}\tc é \x1b[0m");
    }

    #[test]
    fn a_line_of_json_stays_an_object() {
        let quoted = "\"".repeat(1 << 20);
        let event =
            json!({ "timestamp": "now", "level": "WARN", "message": quoted, "session": quoted, "seq": 5 });
        let mut many = event.clone();
        for index in 0..10_000 {
            many[format!("field {index}")] = json!(index);
        }
        for (event, seq) in [(event, json!(5)), (many, Value::Null)] {
            let line = short_json(&event.to_string());
            let read: Value = serde_json::from_str(&line).unwrap();
            assert!(line.len() < MAX_LINE, "{}", line.len());
            assert_eq!((&read["level"], &read["seq"]), (&json!("WARN"), &seq));
            assert!(read["message"].as_str().unwrap().contains("bytes in all>"), "{line}");
        }
    }
}
