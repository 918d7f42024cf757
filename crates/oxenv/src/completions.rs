//! `oxenv completions`: a completion script for a shell.
//!
//! Entry point: [`run`].

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output::print;

#[derive(Args)]
#[command(after_help = "Example:
  oxenv completions bash > ~/.local/share/bash-completion/completions/oxenv")]
pub(crate) struct CompletionsArgs {
    /// The shell to complete in
    pub(crate) shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "oxenv", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}
