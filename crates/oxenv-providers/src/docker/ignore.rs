//! `.dockerignore`: which files of a folder are not sent to the daemon.
//!
//! Invariant: the last pattern that fits a path, or a folder that it is in, decides, as with Docker's own commands;
//! before the folder's patterns come ours, of files that usually hold secrets or belong to one machine.

use std::io;
use std::path::Path;

/// What stays out of images unless `.dockerignore` lets it in with a `!`.
const USUAL: [&str; 12] = [
    "**/.git",
    "**/.env",
    "**/.env.*",
    "**/.npmrc",
    "**/.netrc",
    "**/.pypirc",
    "**/*.pem",
    "**/*.key",
    "**/.venv",
    "**/node_modules",
    "**/__pycache__",
    "**/.DS_Store",
];

/// The patterns of a folder.
#[derive(Debug, Clone, Default)]
pub struct Ignored {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone)]
struct Pattern {
    lets_in: bool,
    parts: Vec<String>,
}

impl Ignored {
    /// Reads the `.dockerignore` of a folder; where there is none, only the usual stays out.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn of(folder: &Path) -> io::Result<Self> {
        let own = match std::fs::read_to_string(folder.join(".dockerignore")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Ok(Ignored::parse(&own))
    }

    fn parse(own: &str) -> Self {
        let patterns = USUAL.into_iter().chain(own.lines()).filter_map(Pattern::parse).collect();
        Ignored { patterns }
    }

    /// Whether a path, relative to the folder and with `/` between its parts, stays out.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let fitting = self.patterns.iter().rev().find(|pattern| pattern.fits(&parts));
        fitting.is_some_and(|pattern| !pattern.lets_in)
    }

    /// Whether a file in a folder that stays out may be let in again.
    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.lets_in)
    }
}

impl Pattern {
    fn parse(line: &str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let line = line.trim();
        let (lets_in, path) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        let mut parts: Vec<String> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part.to_owned()),
            }
        }
        (!parts.is_empty()).then_some(Pattern { lets_in, parts })
    }

    /// Whether it names the path, or a folder that the path is in.
    fn fits(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|end| parts_fit(&self.parts, &path[..end]))
    }
}

fn parts_fit(pattern: &[String], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((any, rest)) if any == "**" => (0..=path.len()).any(|skipped| parts_fit(rest, &path[skipped..])),
        Some((first, rest)) => match path.split_first() {
            Some((name, deeper)) => name_fits(first.as_bytes(), name.as_bytes()) && parts_fit(rest, deeper),
            None => false,
        },
    }
}

/// Whether a name fits a pattern with `*`, `?`, `[a-z]`, `[^a-z]` and `\`.
fn name_fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| name_fits(rest, &name[skipped..])),
        ([b'?', rest @ ..], [_, others @ ..]) => name_fits(rest, others),
        ([b'[', rest @ ..], [first, others @ ..]) => match class(rest, *first) {
            Some((fits, rest)) => fits && name_fits(rest, others),
            None => false,
        },
        ([b'\\', literal, rest @ ..], [first, others @ ..]) => literal == first && name_fits(rest, others),
        ([literal, rest @ ..], [first, others @ ..]) => literal == first && name_fits(rest, others),
        _ => false,
    }
}

/// Whether a byte is in the class that begins behind the `[`, and what stands behind the class.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let end = pattern.iter().skip(1).position(|byte| *byte == b']')? + 1;
    let (inside, rest) = (&pattern[..end], &pattern[end + 1..]);
    let (negated, mut inside) = match inside {
        [b'^', inside @ ..] => (true, inside),
        inside => (false, inside),
    };
    let mut found = false;
    while let [first, others @ ..] = inside {
        inside = match others {
            [b'-', last, others @ ..] => {
                found |= (*first..=*last).contains(&byte);
                others
            }
            others => {
                found |= *first == byte;
                others
            }
        };
    }
    Some((found != negated, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_as_docker_reads_them() {
        let ignored = Ignored::parse(
            "# a comment\n*.log\n/build/\n**/cache\ndocs/*\n!docs/keep.md\ntmp?\nv[0-9]\n  ./notes  \n",
        );
        for path in
            ["a.log", "build", "build/deep/file", "x/y/cache/z", "docs/other.md", "tmp1", "v7", "notes"]
        {
            assert!(ignored.holds(path), "{path}");
        }
        for path in ["sub/a.log", "builder", "docs", "docs/keep.md", "tmp", "vx", "# a comment", "x/notes"] {
            assert!(!ignored.holds(path), "{path}");
        }
        assert!(ignored.has_exceptions());
    }

    #[test]
    fn files_of_secrets_stay_out_unless_they_are_let_in() {
        let usual = Ignored::parse("");
        for path in
            [".env", "server/.env.local", ".git/config", "keys/host.pem", "web/node_modules/x/index.js"]
        {
            assert!(usual.holds(path), "{path}");
        }
        assert!(!usual.holds("tools.yaml") && !usual.has_exceptions());
        assert!(!Ignored::parse("!.env.example").holds(".env.example"));
    }

    #[test]
    fn everything_but_a_few() {
        let ignored = Ignored::parse("*\n!src\nsrc/*.pyc");
        assert!(ignored.holds("README.md") && ignored.holds("src/a.pyc"));
        assert!(!ignored.holds("src") && !ignored.holds("src/a.py"));
    }
}
