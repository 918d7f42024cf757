//! What manifests mean: every key of one that has them all, the RFC's own, secrets and their places.
//!
//! Invariant: variables come from a table in the test, never from the process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oxenv_core::{ForkMode, Principal, RateScope, Scope};
use oxenv_upstream::manifest::{
    Manifest, OnReset, Prefix, PrefixRule, Problem, Severity, Startup, Text, ToolsetEntry, Transport,
    find_command,
};

/// A manifest of `fixtures/`, by its path there.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// The variables of these tests.
pub(crate) fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "GITHUB_TOKEN" => "ghp_of_the_test",
        "API_TOKEN" => "hunter22-api",
        "EMPTY" => "",
        "BASE_URL" => "https://host",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(path: &str) -> (Manifest, Vec<Problem>) {
    let path = fixture(path);
    let bytes = Manifest::read(&path).unwrap();
    Manifest::parse_bytes(&bytes, Some(&path), &lookup).unwrap()
}

fn toolset<'a>(manifest: &'a Manifest, name: &str) -> &'a ToolsetEntry {
    manifest.toolsets.iter().find(|toolset| toolset.name == name).unwrap()
}

fn resolved(text: &Text) -> String {
    text.resolve(Path::new("/tmp/w"), 42).expose().to_owned()
}

fn resolved_map(texts: &BTreeMap<String, Text>) -> Vec<String> {
    texts.iter().map(|(name, text)| format!("{name}={}", resolved(text))).collect()
}

#[test]
fn every_key_is_read() {
    let (manifest, warnings) = parse("valid/everything.yaml");
    let warned: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warned, ["tools[0].on_reset"]);
    assert_eq!((manifest.version.as_str(), manifest.prefix), ("1.0", PrefixRule::Always));
    let files = toolset(&manifest, "files");
    assert!(files.enabled && files.required);
    assert_eq!((files.startup, files.scope), (Startup::Eager, Scope::Session));
    assert_eq!(files.timeout, Duration::from_millis(2500));
    assert_eq!(files.start_timeout, Duration::from_secs(120));
    assert_eq!(files.on_reset, OnReset::Call("forget_everything".to_owned()));
    assert_eq!(files.on_fork, ForkMode::Workspace);
    assert_eq!(files.prefix, Some(Prefix::Named("fs".to_owned())));
    assert_eq!(files.at.line, 5);
    let rules = &files.rules;
    assert_eq!((rules.allow.len(), rules.deny.len(), rules.arguments.len()), (3, 1, 1));
    assert_eq!(rules.roles[&Principal::Agent].rate_limit.unwrap().calls, 5);
    assert_eq!(rules.roles[&Principal::Control].deny, ["write_file"]);
    let rate = rules.rate_limit.unwrap();
    assert_eq!((rate.calls, rate.per.as_secs(), rate.burst, rate.scope), (100, 60, 10, RateScope::Server));
    let Transport::Stdio { command, args, env, cwd } = &files.transport else { panic!("{files:?}") };
    assert_eq!(resolved(command), "npx");
    let args: Vec<String> = args.iter().map(resolved).collect();
    assert_eq!(args, ["-y", "server-files", "/tmp/w", "--seed=42", "${literal}"]);
    assert_eq!(resolved_map(env), ["API_TOKEN=hunter22-api", "FROM_FILE=from-the-file"]);
    assert_eq!(resolved(cwd.as_ref().unwrap()), "/tmp/w/inside");
}

#[test]
fn what_is_absent_has_its_default() {
    let (manifest, _) = parse("valid/everything.yaml");
    let calendar = toolset(&manifest, "calendar");
    assert!(calendar.enabled && !calendar.required);
    assert_eq!((calendar.startup, &calendar.on_reset), (Startup::Lazy, &OnReset::Keep));
    assert_eq!((calendar.timeout.as_secs(), calendar.start_timeout.as_secs()), (30, 60));
    assert_eq!(calendar.rules, oxenv_core::Rules::default());
    let modes = ["search", "calendar", "functions", "switched_off"].map(|name| {
        let toolset = toolset(&manifest, name);
        (toolset.scope, toolset.on_fork)
    });
    let expected = [
        (Scope::Server, ForkMode::None),
        (Scope::Session, ForkMode::Native),
        (Scope::Server, ForkMode::None),
        (Scope::Session, ForkMode::None),
    ];
    assert_eq!(modes, expected);
    let (rfc, _) = parse("rfc/external.yaml");
    assert_eq!((rfc.version.as_str(), rfc.prefix), ("1.0", PrefixRule::Conflict));
    assert_eq!(rfc.toolsets[0].prefix, None);
}

#[test]
fn transports_are_told_by_their_keys() {
    let (manifest, _) = parse("valid/everything.yaml");
    let Transport::Http { url, headers } = &toolset(&manifest, "search").transport else { panic!() };
    assert_eq!(resolved(url), "https://search.example/mcp?region=eu");
    assert_eq!(resolved_map(headers), ["Authorization=Bearer hunter22-api"]);
    let Transport::Builtin { toolset: name } = &toolset(&manifest, "calendar").transport else { panic!() };
    assert_eq!(name, "calendar_simulator");
    let Transport::Python { path, env } = &toolset(&manifest, "functions").transport else { panic!() };
    assert_eq!((path, env.len()), (&fixture("valid/functions.py"), 1));
}

#[test]
fn the_rfc_s_manifests_are_read() {
    let (full, warnings) = parse("rfc/full.yaml");
    let enabled: Vec<(&str, bool)> =
        full.toolsets.iter().map(|toolset| (toolset.name.as_str(), toolset.enabled)).collect();
    assert_eq!(enabled, [("filesystem", true), ("github", true), ("brave_search", false)]);
    let warnings: Vec<&str> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warnings, ["tools[0].mcp_server.args[2]", "tools[1].mcp_server.env"]);
    for (fragment, name) in [
        ("rfc/external.yaml", "github"),
        ("rfc/simulated.yaml", "airbnb_simulator"),
        ("rfc/self_contained.yaml", "filesystem"),
    ] {
        assert_eq!(parse(fragment).0.toolsets[0].name, name);
    }
}

#[test]
fn a_disabled_toolset_is_not_interpolated() {
    let (manifest, _) = parse("valid/everything.yaml");
    let Transport::Stdio { env, .. } = &toolset(&manifest, "switched_off").transport else { panic!() };
    assert_eq!(resolved_map(env), ["TOKEN=${NOBODY_SETS_THIS}"]);
}

#[test]
fn secrets_are_not_printed() {
    let (manifest, _) = parse("valid/everything.yaml");
    let printed = format!("{manifest:?} {manifest:#?}");
    assert!(printed.contains("Bearer ***"), "{printed}");
    let redactor = manifest.secrets();
    for secret in ["hunter22-api", "from-the-file"] {
        assert!(!printed.contains(secret), "{secret}");
        assert_eq!(redactor.redact(&format!("a {secret} b")), "a *** b");
    }
}

#[test]
fn what_is_told_the_seed_is_restarted_by_default() {
    let (manifest, _) = parse("problems/warnings.yaml");
    let told = |name: &str| {
        let entry = toolset(&manifest, name);
        (entry.on_reset.clone(), entry.follows_seed())
    };
    assert_eq!(told("seeded"), (OnReset::Restart, true));
    assert_eq!(told("seeded_once"), (OnReset::Keep, false));
    assert_eq!(told("github"), (OnReset::Keep, false));
}

#[test]
fn a_secret_that_was_written_out_is_one_too() {
    let (manifest, _) = parse("problems/warnings.yaml");
    assert!(!format!("{manifest:?}").contains("written-out"));
    assert!(!format!("{manifest:?}").contains("sk-0123"));
    assert_eq!(manifest.secrets().redact("Bearer written-out"), "Bearer ***");
}

#[test]
fn commands_and_files_that_are_missing_are_told() {
    let (manifest, _) = parse("valid/everything.yaml");
    let path = |name: &str| (name == "PATH").then(|| "/nowhere:/nowhere/else".to_owned());
    let missing = manifest.missing(&path, Severity::Error);
    let missing: Vec<(&str, bool)> =
        missing.iter().map(|problem| (problem.path.as_str(), problem.is_error())).collect();
    assert_eq!(missing, [("tools[0].mcp_server.command", true), ("tools[3].mcp_server.path", true)]);
}

#[test]
fn commands_are_found_as_a_shell_would() {
    let here = Path::new("/");
    assert_eq!(find_command("sh", here, "/nowhere:/bin"), Some(PathBuf::from("/bin/sh")));
    assert_eq!(find_command("bin/sh", here, ""), Some(PathBuf::from("/bin/sh")));
    assert_eq!(find_command("/bin/sh", here, ""), Some(PathBuf::from("/bin/sh")));
    assert_eq!(find_command("sh", here, ""), None);
    assert_eq!(find_command("etc", here, "/"), None);
    assert_eq!(find_command("passwd", here, "/etc"), None);
}

#[test]
fn a_toolset_s_tools_are_held_against_its_entry() {
    let (manifest, _) = parse("valid/everything.yaml");
    let files = toolset(&manifest, "files");
    let tools = ["read_file", "write_file", "read_all", "forget_everything"];
    assert_eq!(manifest.check_tools(files, &tools), []);
    let problems = manifest.check_tools(files, &["read_file", "forget_everythin", "write_files"]);
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let prefix = fixture("valid/everything.yaml").display().to_string();
    assert_eq!(
        told[0],
        format!(
            "{prefix}:5:5: error: toolset 'files' has no tool 'forget_everything', which on_reset names: did \
             you mean 'forget_everythin'?"
        )
    );
    assert!(
        told.iter()
            .any(|told| told.ends_with("'write_file', which arguments names: did you mean 'write_files'?")),
        "{told:?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let problems = Manifest::load(&fixture("nowhere.yaml"), &lookup).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().contains("nowhere.yaml: error: cannot be read: "), "{}", problems[0]);
    assert!(Manifest::load(&fixture("valid"), &lookup).is_err());
    let problems = Manifest::parse_bytes(b"tools:\n\xff", None, &lookup).unwrap_err();
    assert_eq!(problems[0].to_string(), "tools.yaml:2:1: error: a byte that is no UTF-8");
    let long = vec![b' '; 2 << 20];
    assert!(Manifest::parse_bytes(&long, None, &lookup).unwrap_err()[0].message.starts_with("longer than"));
}

#[test]
fn loading_warns_of_missing_commands() {
    let (_, warnings) = Manifest::load(&fixture("valid/everything.yaml"), &|name| match name {
        "PATH" => Some("/nowhere".to_owned()),
        other => lookup(other),
    })
    .unwrap();
    assert_eq!(warnings.len(), 3);
    assert!(warnings.iter().all(|warning| !warning.is_error()));
}

#[test]
fn json_is_a_manifest_too() {
    let text = r#"{"tools": [{"name": "a", "mcp_server": {"command": "npx", "args": ["\u00e9"]}}]}"#;
    let (manifest, _) = Manifest::parse(text, None, &lookup).unwrap();
    let Transport::Stdio { args, .. } = &manifest.toolsets[0].transport else { panic!() };
    assert_eq!(resolved(&args[0]), "é");
}

/// A few letters put in a whole variable, or a whole file, each time they stand there.
#[test]
fn what_variables_and_files_put_in_is_bounded() {
    let folder = std::env::temp_dir().join(format!("oxenv-filled-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("key"), "x".repeat(60_000)).unwrap();
    let value = "y".repeat(60_000);
    let lookup = |name: &str| (name == "LONG").then(|| value.clone());
    for part in ["${file:key}", "${LONG}"] {
        let text = |times: usize| {
            format!(
                "tools:\n  - name: a\n    mcp_server: {{command: x, args: ['{}', 'b']}}",
                part.repeat(times)
            )
        };
        let parse = |times| Manifest::parse(&text(times), Some(&folder.join("tools.yaml")), &lookup);
        assert!(parse(279).is_ok(), "{part}");
        let problems = parse(50_000).unwrap_err();
        assert_eq!(problems.len(), 1, "{part}");
        assert!(problems[0].message.contains("more than 16777216 bytes"), "{}", problems[0].message);
    }
    fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_secret_file_is_bounded_and_regular() {
    let folder = std::env::temp_dir().join(format!("oxenv-manifest-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("long"), "x".repeat(70_000)).unwrap();
    fs::write(folder.join("bytes"), [0xff, 0xfe]).unwrap();
    fs::write(folder.join("blank"), "\n").unwrap();
    let problem = |file: &str| {
        let text = format!("tools:\n  - name: a\n    mcp_server: {{command: x, args: ['${{file:{file}}}']}}");
        Manifest::parse(&text, Some(&folder.join("tools.yaml")), &lookup).unwrap_err()[0].message.clone()
    };
    assert!(problem("long").ends_with("it is longer than 65536 bytes"), "{}", problem("long"));
    assert!(problem("bytes").ends_with("it is not UTF-8"));
    assert!(problem("blank").ends_with("it is empty"));
    assert!(problem("/dev/zero").ends_with("it is not a regular file"));
    fs::remove_dir_all(&folder).unwrap();
}
