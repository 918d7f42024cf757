//! `oxenv fleet shell`: an instance used by hand, a line for each request.
//!
//! Invariant: lines come from a terminal or from a file; answers go to stdout, all else to stderr. What the
//! shell made ends with it.

use std::io::{BufRead, IsTerminal};

use anyhow::bail;
use clap::Args;
use oxenv_client::fleet::FleetEnvClient;
use oxenv_client::{Multiplexer, ResetOptions, StepResult};
use oxenv_wire::ToolResult;
use oxenv_wire::preview;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::access::{FleetAccess, InstanceArgs, connect, stoppable, with_exit_code};
use crate::output::{print, printable};
use crate::values::object;

const COMMANDS: &str = "reset [SEED]       begin an episode
tools              list the tools
call NAME [JSON]   call a tool with an object of arguments
step JSON          take an action
state              print the state
help               print this list
quit               end the shell";

/// What to use.
#[derive(Args)]
#[command(after_help = format!("Commands, one a line:\n{COMMANDS}\n
Examples:
  oxenv fleet shell fira
  oxenv fleet shell 8b80c1cdd505                     an instance that runs, which is left running
  printf 'reset 7\\ncall computer {{\"action\":\"screenshot\"}}\\n' | oxenv fleet shell fira"))]
pub(super) struct ShellArgs {
    /// The environment to make an instance of, as KEY or KEY:VERSION; or the id of an instance
    #[arg(value_name = "ENV_KEY|ID")]
    environment: String,
    #[command(flatten)]
    making: InstanceArgs,
    #[command(flatten)]
    access: FleetAccess,
}

/// The request of a line.
#[derive(Debug, PartialEq)]
enum ShellCommand {
    Nothing,
    Help,
    Reset(Option<u64>),
    Tools,
    Call(String, Value),
    Step(Value),
    State,
    Quit,
}

pub(super) async fn run(args: ShellArgs) -> anyhow::Result<()> {
    let (key, control) = (args.access.key()?, args.access.control()?);
    let options = args.making.options(&args.access)?;
    stoppable(async {
        let (client, tools) = connect(&key, &args.environment, options, &control).await?;
        eprintln!("instance {} at {}; `help` tells what can be asked", client.instance_id(), client.root());
        let outcome = read_commands(&client, &tools).await;
        outcome.and(client.close().await.map_err(with_exit_code))
    })
    .await
    .map(|_| ())
}

async fn read_commands(client: &FleetEnvClient, tools: &Multiplexer) -> anyhow::Result<()> {
    let by_hand = std::io::stdin().is_terminal();
    let mut lines = lines();
    let mut failed = 0;
    loop {
        if by_hand {
            eprint!("> ");
        }
        let Some(line) = lines.recv().await else { break };
        let outcome = match ShellCommand::parse(&line) {
            Ok(ShellCommand::Quit) => break,
            Ok(line) => line.run(client, tools).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            failed += 1;
            eprintln!("error: {}", printable(&format!("{error:#}")));
        }
    }
    if failed > 0 && !by_hand {
        bail!("{failed} of the lines failed");
    }
    Ok(())
}

/// The lines of stdin, read by a thread of their own that is never joined.
fn lines() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    lines
}

impl ShellCommand {
    fn parse(line: &str) -> anyhow::Result<ShellCommand> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match (word, rest) {
            ("", _) => Ok(ShellCommand::Nothing),
            ("help", "") => Ok(ShellCommand::Help),
            ("reset", "") => Ok(ShellCommand::Reset(None)),
            ("reset", seed) => match seed.parse() {
                Ok(seed) => Ok(ShellCommand::Reset(Some(seed))),
                Err(_) => bail!("'{}' is no seed: write a whole number", preview(seed)),
            },
            ("tools", "") => Ok(ShellCommand::Tools),
            ("state", "") => Ok(ShellCommand::State),
            ("quit" | "exit", "") => Ok(ShellCommand::Quit),
            ("call", "") => bail!("which tool? write: call NAME {{\"argument\": 1}}"),
            ("call", rest) => {
                let (name, arguments) = rest.split_once(char::is_whitespace).unwrap_or((rest, "{}"));
                Ok(ShellCommand::Call(name.to_owned(), object("the arguments", arguments.trim())?))
            }
            ("step", action) => Ok(ShellCommand::Step(object("the action", action)?)),
            _ => bail!("'{}' is not known here; `help` tells what is", preview(line)),
        }
    }

    async fn run(self, client: &FleetEnvClient, tools: &Multiplexer) -> anyhow::Result<()> {
        match self {
            ShellCommand::Nothing | ShellCommand::Quit => Ok(()),
            ShellCommand::Help => print(COMMANDS),
            ShellCommand::Reset(seed) => {
                let options = ResetOptions { seed, ..ResetOptions::default() };
                result(&client.reset(&options).await.map_err(with_exit_code)?)
            }
            ShellCommand::Tools => {
                let listing = tools.list().await.map_err(with_exit_code)?;
                for endpoint in listing.endpoints {
                    if let Some(error) = endpoint.error {
                        eprintln!("{}: {error}", endpoint.url);
                    }
                }
                let line = |tool: &oxenv_wire::Tool| {
                    let first = tool.description.lines().next().unwrap_or_default();
                    format!("{}  {first}", tool.name).trim_end().to_owned()
                };
                print(&listing.tools.iter().map(line).collect::<Vec<_>>().join("\n"))
            }
            ShellCommand::Call(name, arguments) => {
                called(&name, &tools.call_tool(&name, arguments).await.map_err(with_exit_code)?)
            }
            ShellCommand::Step(action) => result(&client.step(&action).await.map_err(with_exit_code)?),
            ShellCommand::State => {
                print(&serde_json::to_string_pretty(&client.state().await.map_err(with_exit_code)?)?)
            }
        }
    }
}

fn called(name: &str, called: &ToolResult) -> anyhow::Result<()> {
    let text = called.text();
    if called.is_error {
        bail!("tool '{name}' failed: {text}");
    }
    if !text.is_empty() {
        return print(&text);
    }
    let mut whole = String::new();
    called.write_mcp(&mut whole);
    print(&whole)
}

fn result(result: &StepResult) -> anyhow::Result<()> {
    let shown =
        json!({ "observation": result.observation_value(), "reward": result.reward, "done": result.done });
    print(&serde_json::to_string_pretty(&shown)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_wrong_ones_are_told() {
        let read = |line: &str| ShellCommand::parse(line).map_err(|error| error.to_string());
        assert_eq!(read("  "), Ok(ShellCommand::Nothing));
        assert_eq!(read("reset 7"), Ok(ShellCommand::Reset(Some(7))));
        assert_eq!(read("call a"), Ok(ShellCommand::Call("a".to_owned(), json!({}))));
        assert_eq!(
            read("call a  {\"b\": [1, 2]}"),
            Ok(ShellCommand::Call("a".to_owned(), json!({ "b": [1, 2] })))
        );
        assert_eq!(read("exit"), Ok(ShellCommand::Quit));
        assert!(read("reset x").unwrap_err().contains("no seed"));
        assert!(read("call a [1]").unwrap_err().contains("must be a JSON object"));
        assert!(read("delete").unwrap_err().contains("`help`"));
    }
}
