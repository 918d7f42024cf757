//! The tokens of `serve`: those of files and variables, and those that it makes itself.
//!
//! Invariant: an invalid token is reported by its place, never by its text; one that was made here
//! is printed once, on stdout, and never logged.

use std::path::PathBuf;

use clap::Args;
use oxenv_core::Principal;
use oxenv_server::{TokenError, Tokens};
use serde::Deserialize;

use crate::env;
use crate::exit::usage;

/// The tokens that are accepted.
#[derive(Args, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenArgs {
    /// A file with the control tokens, one a line, as TOKEN or NAME:TOKEN. The variable OXENV_CONTROL_TOKEN
    /// adds one. With a control token, callers need one of the tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) control_token_file: Option<PathBuf>,

    /// A file with the observer tokens: observers see everything and change nothing. OXENV_OBSERVER_TOKEN
    /// adds one
    #[arg(long, value_name = "FILE")]
    pub(crate) observer_token_file: Option<PathBuf>,

    /// Generate a control token and an observer token, where none is given, and print them once
    #[arg(long)]
    pub(crate) generate_tokens: bool,

    /// Maximum number of sessions at a time of all tokens with one name [default: --max-sessions]
    #[arg(long, value_name = "N")]
    pub(crate) max_sessions_per_token: Option<usize>,
}

/// The tokens of a server.
#[derive(Default)]
pub(crate) struct ServerTokens {
    pub(crate) tokens: Tokens,
    pub(crate) generated: Vec<GeneratedToken>,
}

/// A new random token.
pub(crate) struct GeneratedToken {
    /// Its role: control or observer.
    pub(crate) role: &'static str,
    pub(crate) token: String,
}

/// Reads the tokens, and makes those that have to be made.
pub(crate) fn gather(args: &TokenArgs) -> anyhow::Result<ServerTokens> {
    let mut given = ServerTokens::default();
    let TokenArgs { control_token_file, observer_token_file, .. } = args;
    let tokens = &mut given.tokens;
    from_file(control_token_file.as_ref(), |text| tokens.add_control(text))?;
    from_file(observer_token_file.as_ref(), |text| tokens.add_observer(text))?;
    // From the environment alone: every user of the machine can read an argument.
    from_variable("OXENV_CONTROL_TOKEN", |text| tokens.add_control(text))?;
    from_variable("OXENV_OBSERVER_TOKEN", |text| tokens.add_observer(text))?;
    if args.generate_tokens {
        if tokens.count(Principal::Control) == 0 {
            let token = Tokens::generate()?;
            tokens.add_control(&format!("control:{token}"))?;
            given.generated.push(GeneratedToken { role: "control", token });
        }
        if tokens.count(Principal::Observer) == 0 {
            let token = Tokens::generate()?;
            tokens.add_observer(&format!("observer:{token}"))?;
            given.generated.push(GeneratedToken { role: "observer", token });
        }
    }
    if tokens.count(Principal::Control) == 0 {
        refuse_without_control(args, tokens)?;
    }
    Ok(given)
}

fn from_file(path: Option<&PathBuf>, add: impl FnOnce(&str) -> Result<(), TokenError>) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| usage(format!("cannot read the tokens of {}: {error}", path.display())))?;
    add(&text).map_err(|fault| usage(format!("{}: {fault}", path.display())))
}

fn from_variable(name: &str, add: impl FnOnce(&str) -> Result<(), TokenError>) -> anyhow::Result<()> {
    let Some(text) = env::nonempty(name) else { return Ok(()) };
    add(&text).map_err(|fault| usage(format!("{name}: {fault}")))
}

fn refuse_without_control(args: &TokenArgs, tokens: &Tokens) -> anyhow::Result<()> {
    if !tokens.is_empty() {
        return Err(usage(
            "there are tokens for observers and none for control, so nobody could control this server: \
             add --control-token-file FILE or --generate-tokens",
        ));
    }
    if args.max_sessions_per_token.is_some() {
        return Err(usage(
            "max_sessions_per_token counts sessions by token, and there is none: \
             add --control-token-file FILE or --generate-tokens",
        ));
    }
    Ok(())
}
