//! What the binary says about itself.

use crate::process::run;

#[test]
fn every_help_text_has_examples() {
    let commands = "serve, run, mcp, envs, env, env install, call, step, validate, tools, tools \
                    import, tools schema, policy, policy explain, trajectories, trajectories list, \
                    trajectories show, trajectories export, replay, rescore, check, up, ps, down, \
                    build, fleet, fleet up, fleet list, fleet down, fleet shell, fleet simulate, \
                    health, bench, bench ws, bench http, bench mcp, bench tools, bench churn, bench \
                    idle, completions";
    for command in commands.split(", ") {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run(&arguments);
        let text = help.succeeded();
        let examples = text.split_once("Example").map_or("", |(_, examples)| examples);
        assert!(examples.contains(&format!("oxenv {command}")), "{text}");
        assert!(!text.contains('\x1b'), "colour without a terminal");
        assert!(text.lines().all(|line| line.chars().count() <= 100 || line.contains("call_tool")), "{text}");
    }
}

#[test]
fn the_help_lists_the_commands_and_the_exit_codes() {
    let help = run(&["--help"]);
    let text = help.succeeded();
    for word in ["serve", "envs", "call", "step", "bench", "completions", "Exit codes", "  4  ", "  6  "] {
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(run(&["-h"]).succeeded(), text);
    assert_eq!(run(&["help"]).succeeded(), text);
    assert_eq!(run(&["--version"]).succeeded(), concat!("oxenv ", env!("CARGO_PKG_VERSION"), "\n"));
}

/// Every default that the help names is one that a server has.
#[test]
fn the_help_of_serve_names_the_defaults() {
    let help = run(&["serve", "--help"]);
    for default in [
        "[default: echo, or the tools alone",
        "[default: 127.0.0.1]",
        "[default: 8000]",
        "[default: 256]",
        "[default: 15m]",
        "[default: 5s]",
    ] {
        assert!(
            help.succeeded()
                .replace("\n", " ")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .contains(default),
            "{default}"
        );
    }
}

#[test]
fn no_command_is_wrong_usage() {
    let ended = run(&[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), ""), "{ended:#?}");
    assert!(ended.stderr.contains("Usage: oxenv <COMMAND>"), "{ended:#?}");
    let ended = run(&["srve"]);
    ended.failed(2, &["srve", "serve"]);
    assert!(!ended.stderr.contains('\x1b'), "colour without a terminal");
}
