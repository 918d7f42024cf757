//! `.dockerignore`: which files of a folder are not sent to the daemon.
//!
//! Invariant: the last pattern that fits a path, or a folder that it is in, decides, as with Docker's own
//! commands; before the folder's patterns come ours, of files that usually hold secrets or belong to one
//! machine.

use std::io;
use std::path::Path;

/// What stays out of images unless `.dockerignore` lets it in with a `!`.
const DEFAULT_PATTERNS: [&str; 12] = [
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
pub struct DockerIgnore {
    patterns: Vec<IgnorePattern>,
}

#[derive(Debug, Clone)]
struct IgnorePattern {
    negated: bool,
    parts: Vec<String>,
}

impl DockerIgnore {
    /// Reads the `.dockerignore` of a folder; where there is none, only the usual stays out.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let own = match std::fs::read_to_string(folder.join(".dockerignore")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        Ok(DockerIgnore::parse(&own))
    }

    fn parse(own: &str) -> Self {
        let own = own.strip_prefix('\u{feff}').unwrap_or(own);
        let patterns =
            DEFAULT_PATTERNS.into_iter().chain(own.lines()).filter_map(IgnorePattern::parse).collect();
        DockerIgnore { patterns }
    }

    /// Whether a path, relative to the folder and with `/` between its parts, stays out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let fitting = self.patterns.iter().rev().find(|pattern| pattern.matches(&parts));
        fitting.is_some_and(|pattern| !pattern.negated)
    }

    /// Whether a file in a folder that stays out may be let in again.
    pub(super) fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }
}

impl IgnorePattern {
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
                // Above the folder there is nothing that could be sent.
                ".." if parts.is_empty() && !path.starts_with('/') => return None,
                ".." => drop(parts.pop()),
                part => parts.push(part.to_owned()),
            }
        }
        (!parts.is_empty()).then_some(IgnorePattern { negated: lets_in, parts })
    }

    /// Whether it names the path, or a folder that the path is in. The number of steps is at most the product
    /// of the lengths of both.
    fn matches(&self, path: &[&str]) -> bool {
        let end = self.parts.len();
        // How many parts of the pattern may stand for the path so far.
        let (mut reached, mut next) = (vec![false; end + 1], vec![false; end + 1]);
        reached[0] = true;
        self.skip_wildcards(&mut reached);
        for name in path {
            next.fill(false);
            for (at, part) in self.parts.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match part.as_str() {
                    "**" => next[at] = true,
                    part => next[at + 1] |= name_matches(part.as_bytes(), name.as_bytes()),
                }
            }
            self.skip_wildcards(&mut next);
            if next[end] {
                return true;
            }
            std::mem::swap(&mut reached, &mut next);
        }
        false
    }

    /// `**` may stand for nothing.
    fn skip_wildcards(&self, reached: &mut [bool]) {
        for (at, _) in self.parts.iter().enumerate().filter(|(_, part)| *part == "**") {
            reached[at + 1] |= reached[at];
        }
    }
}

/// Whether a name fits a pattern with `*`, `?`, `[a-z]`, `[^a-z]` and `\`.
fn name_matches(mut pattern: &[u8], mut name: &[u8]) -> bool {
    // What stands behind the last `*`, and the part of the name that it has not been tried on.
    let mut behind: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = pattern {
            (pattern, behind) = (rest, Some((rest, name)));
            continue;
        }
        if let [first, others @ ..] = name
            && let Some(rest) = match_byte(pattern, *first)
        {
            (pattern, name) = (rest, others);
            continue;
        }
        if pattern.is_empty() && name.is_empty() {
            return true;
        }
        let Some((rest, [_, untried @ ..])) = behind else { return false };
        (pattern, name, behind) = (rest, untried, Some((rest, untried)));
    }
}

/// What stands behind the beginning of a pattern that stands for one byte, if it stands for that byte.
fn match_byte(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => match_class(rest, byte).and_then(|(fits, rest)| fits.then_some(rest)),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
        [] => None,
    }
}

/// Whether a byte is in the class that begins behind the `[`, and what stands behind the class.
fn match_class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_are_read_as_docker_reads_them() {
        let ignored = DockerIgnore::parse(
            "# a comment\n*.log\n/build/\n**/cache\ndocs/*\n!docs/keep.md\ntmp?\nv[0-9]\n  ./notes  \n",
        );
        for path in
            ["a.log", "build", "build/deep/file", "x/y/cache/z", "docs/other.md", "tmp1", "v7", "notes"]
        {
            assert!(ignored.excludes(path), "{path}");
        }
        for path in ["sub/a.log", "builder", "docs", "docs/keep.md", "tmp", "vx", "# a comment", "x/notes"] {
            assert!(!ignored.excludes(path), "{path}");
        }
        assert!(ignored.has_exceptions());
    }

    /// The examples of Docker's reference, and what its own reader does with each line.
    #[test]
    fn documented_patterns() {
        for (patterns, path, stays_out) in [
            ("*/temp*", "somedir/temporary.txt", true),
            ("*/temp*", "somedir/subdir/temporary.txt", false),
            ("*/*/temp*", "somedir/subdir/temporary.txt", true),
            ("temp?", "tempa", true),
            ("**/*.go", "main.go", true),
            ("**/*.go", "a/b/main.go", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
            ("/foo/bar", "foo/bar", true),
            ("foo/bar", "x/foo/bar", false),
            ("docs\n!docs/keep.md", "docs/keep.md", false),
            ("foo/", "foo", true),
            ("a/../b", "b", true),
            ("/../b", "b", true),
            ("../b", "b", false),
            ("a/../../b", "b", false),
            ("[!a]x", "bx", false),
            ("{a,b}", "a", false),
            ("\u{feff}*.log", "a.log", true),
        ] {
            assert_eq!(DockerIgnore::parse(patterns).excludes(path), stays_out, "{patterns:?} and {path}");
        }
    }

    #[test]
    fn files_of_secrets_stay_out_unless_they_are_let_in() {
        let usual = DockerIgnore::parse("");
        for path in
            [".env", "server/.env.local", ".git/config", "keys/host.pem", "web/node_modules/x/index.js"]
        {
            assert!(usual.excludes(path), "{path}");
        }
        assert!(!usual.excludes("tools.yaml") && !usual.has_exceptions());
        assert!(!DockerIgnore::parse("!.env.example").excludes(".env.example"));
    }

    /// A pattern that could be tried in more ways than there is time for, on a name and on a path.
    #[test]
    fn no_pattern_takes_long() {
        let name = "a".repeat(255);
        let stars = format!("{}b", "*a".repeat(60));
        assert!(!DockerIgnore::parse(&stars).excludes(&name));
        assert!(DockerIgnore::parse(&stars).excludes(&format!("{name}b")));
        let deep = "a/".repeat(2000);
        let wildcards = format!("{}b", "**/a/".repeat(60));
        assert!(!DockerIgnore::parse(&wildcards).excludes(&format!("{deep}a")));
        assert!(DockerIgnore::parse(&wildcards).excludes(&format!("{deep}b/c")));
        assert!(
            DockerIgnore::parse("a\\*b\\").excludes("a*b\\") && !DockerIgnore::parse("[a").excludes("[a")
        );
    }

    /// What fits is defined by trying everything, as slow as that may be.
    fn defined_name(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=name.len()).any(|skipped| defined_name(rest, &name[skipped..])),
            ([b'?', rest @ ..], [_, others @ ..]) => defined_name(rest, others),
            ([b'[', rest @ ..], [first, others @ ..]) => {
                match_class(rest, *first).is_some_and(|(fits, rest)| fits && defined_name(rest, others))
            }
            ([b'\\', literal, rest @ ..] | [literal, rest @ ..], [first, others @ ..]) => {
                literal == first && defined_name(rest, others)
            }
            _ => false,
        }
    }

    fn defined_path(pattern: &[String], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, _) => path.is_empty(),
            (Some((any, rest)), _) if any == "**" => {
                (0..=path.len()).any(|skipped| defined_path(rest, &path[skipped..]))
            }
            (Some((first, rest)), Some((name, deeper))) => {
                defined_name(first.as_bytes(), name.as_bytes()) && defined_path(rest, deeper)
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn patterns_agree_with_their_definition(
            pattern in "(\\*\\*/|[ab*?]{1,3}/|\\[\\^?[ab]\\]?/|\\\\[ab*]?/){1,5}",
            path in "([ab*]{1,3}/){0,5}[ab]{1,3}",
        ) {
            let parts = pattern.split('/').filter(|part| !part.is_empty());
            let parts: Vec<String> = parts.map(str::to_owned).collect();
            let path: Vec<&str> = path.split('/').collect();
            let defined = (1..=path.len()).any(|end| defined_path(&parts, &path[..end]));
            prop_assert_eq!(IgnorePattern { negated: false, parts }.matches(&path), defined);
        }
    }

    #[test]
    fn everything_but_a_few() {
        let ignored = DockerIgnore::parse("*\n!src\nsrc/*.pyc");
        assert!(ignored.excludes("README.md") && ignored.excludes("src/a.pyc"));
        assert!(!ignored.excludes("src") && !ignored.excludes("src/a.py"));
    }
}
