//! Prometheus's text format, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
//!
//! Invariant: a family's help and type come once and before its samples, which stand together.

use std::fmt::{Display, Write as _};

use super::histogram::Histogram;

/// Names and values that tell a sample from the others of its family.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// A page that is being written.
#[derive(Default)]
pub(super) struct Page {
    text: String,
    /// The family that samples belong to.
    family: &'static str,
}

impl Page {
    pub(super) fn counter(&mut self, name: &'static str, help: &str) {
        self.begin(name, "counter", help);
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) {
        self.begin(name, "gauge", help);
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str) {
        self.begin(name, "histogram", help);
    }

    /// A sample of the family that was begun last.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// A histogram of the family that was begun last.
    pub(super) fn times(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        for (bound, count) in histogram.cumulative() {
            self.line("_bucket", labels, Some(bound), count);
        }
        self.line("_sum", labels, None, histogram.seconds());
        self.line("_count", labels, None, histogram.count());
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a String cannot fail, here and below. Help holds no backslash and no line end.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, le: Option<&str>, value: impl Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let le = le.map(|bound| ("le", bound));
        for (index, (name, value)) in labels.iter().copied().chain(le).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        if !labels.is_empty() || le.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

fn escape(out: &mut String, value: &str) {
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_labels_hold_is_escaped() {
        let mut page = Page::default();
        page.counter("calls_total", "Calls.");
        page.sample(&[("tool", "a\"b\\c\nd"), ("toolset", "")], 3);
        page.sample(&[], 0.25);
        let expected = "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
                        calls_total{tool=\"a\\\"b\\\\c\\nd\",toolset=\"\"} 3\ncalls_total 0.25\n";
        assert_eq!(page.into_text(), expected);
    }
}
