//! Runs one program to its end, and asks the server for the tool calls that it makes.
//!
//! Invariant: whatever ends a program, its session comes back with the variables that it had set. What ends
//! it for the server (too late, too many calls) is no exception that it can catch.

use std::time::{Duration, Instant};

use monty::{ReplFunctionCall, ReplProgress, ReplStartError};
use monty_types::{ExcType, ExtFunctionResult, MontyException, MontyObject, NameLookupResult, PrintWriter};

use super::functions::{self, Arguments, Called, ToolCall};
use super::output::{Output, cut};
use super::session::{Random, Session};
use super::{Channel, values};
use crate::protocol::{
    CallRequest, ProgramEnd, ProgramError, RunRequest, TruncatedPart, WorkerReply, WorkerRequest,
};
use crate::signature::Signature;

/// What the message of monty's own clock begins with.
const TIME_LIMIT: &str = "time limit exceeded";

/// A program that is over.
pub(crate) struct Ran {
    pub(crate) session: Session,
    pub(crate) end: ProgramEnd,
}

/// A program that runs.
struct Running<'a> {
    channel: &'a mut Channel,
    tools: &'a [Signature],
    random: &'a mut Random,
    output: Output,
}

/// What a call of the program is answered with.
enum Answer {
    Result(ExtFunctionResult),
    /// An exception that it cannot catch.
    Abort(MontyException),
}

/// Runs a program. An error means that the server is gone.
pub(crate) fn run(session: Session, request: RunRequest<'_>, channel: &mut Channel) -> std::io::Result<Ran> {
    let Session { mut repl, mut random, tools } = session;
    let tools = request.tools.unwrap_or(tools);
    let time = Duration::from_micros(request.time_us);
    let end = oxenv_wire::after(Instant::now(), time);
    repl.tracker_mut().set_max_duration(time);
    let output = Output::new(request.output, end, request.too_late.into_owned());
    let mut running = Running { channel, tools: &tools, random: &mut random, output };
    let mut step = repl.feed_start(&request.code, Vec::new(), running.print());
    let (repl, value) = loop {
        step = match step {
            Err(stopped) => {
                let ReplStartError { repl, error } = *stopped;
                break (repl, Err(error));
            }
            Ok(ReplProgress::Complete { repl, value }) => break (repl, Ok(value)),
            Ok(progress) => running.resume(progress)?,
        };
    };
    let end = running.finish(value, request.output);
    Ok(Ran { session: Session { repl, random, tools }, end })
}

type Step = Result<ReplProgress, Box<ReplStartError>>;

impl Running<'_> {
    fn print(&mut self) -> PrintWriter<'_> {
        PrintWriter::Callback(&mut self.output)
    }

    /// Answers what a program waits for, and lets it go on.
    fn resume(&mut self, progress: ReplProgress) -> std::io::Result<Step> {
        Ok(match progress {
            ReplProgress::FunctionCall(call) => match self.answer(&call)? {
                Answer::Result(result) => call.resume(result, self.print()),
                Answer::Abort(exception) => call.abort(exception, self.print()),
            },
            ReplProgress::OsCall(call) => {
                let result = functions::system(&call.function_call);
                call.resume(result, self.print())
            }
            ReplProgress::NameLookup(lookup) => {
                // An attribute of an object of the host: there are none.
                let found = match lookup.object_id() {
                    Some(_) => None,
                    None => functions::find(&lookup.name, self.tools),
                };
                lookup.resume(NameLookupResult::from(found), self.print())
            }
            ReplProgress::ResolveFutures(futures) => {
                let message = "the program waits for something that nobody does";
                futures.abort(MontyException::runtime_error(message), self.print())
            }
            // The caller has taken it out.
            ReplProgress::Complete { repl, value } => Ok(ReplProgress::Complete { repl, value }),
        })
    }

    fn answer(&mut self, call: &ReplFunctionCall) -> std::io::Result<Answer> {
        if let Some(exception) = self.output.interruption() {
            return Ok(Answer::Abort(exception));
        }
        if call.object_id.is_some() {
            let message = format!("there is no method '{}' here", call.function_name);
            return Ok(Answer::Result(ExtFunctionResult::Error(MontyException::runtime_error(message))));
        }
        let arguments = Arguments { positional: &call.args, keywords: &call.kwargs };
        let name = &call.function_name;
        match functions::call(name, &arguments, self.tools, self.random, &mut self.output) {
            Called::Finished(result) => Ok(Answer::Result(result)),
            Called::Tool(call) => self.call_tool(&call),
        }
    }

    /// Lets the server call a tool.
    fn call_tool(&mut self, call: &ToolCall) -> std::io::Result<Answer> {
        let ToolCall { tool, arguments } = call;
        self.channel.send(&WorkerReply::Call(CallRequest { tool: tool.into(), arguments }))?;
        let frame = self.channel.receive()?;
        let result = match serde_json::from_slice(&frame)? {
            WorkerRequest::Return(value) => match values::from_json(value) {
                Ok(value) => ExtFunctionResult::Return(value),
                Err(why) => {
                    let message = format!("execution_error: the result of '{tool}' cannot be read: {why}");
                    ExtFunctionResult::Error(MontyException::runtime_error(message))
                }
            },
            WorkerRequest::Raise(message) => ExtFunctionResult::Error(MontyException::runtime_error(message)),
            WorkerRequest::Refuse(message) => {
                return Ok(Answer::Abort(MontyException::runtime_error(message)));
            }
            _ => return Err(std::io::Error::other("the server has not answered a tool call")),
        };
        Ok(self.output.interruption().map_or(Answer::Result(result), Answer::Abort))
    }

    fn finish(self, value: Result<MontyObject, MontyException>, limit: usize) -> ProgramEnd {
        let mut truncated = Vec::new();
        if self.output.truncated {
            truncated.push(TruncatedPart::Stdout);
        }
        let mut end = ProgramEnd::default();
        match value {
            Ok(value) => {
                if let Some(shown) = values::shown(&value, limit) {
                    truncated.extend(shown.truncated.then_some(TruncatedPart::Result));
                    end.result = Some(shown.json);
                }
            }
            Err(exception) if exception.exc_type() == ExcType::SystemExit => {
                end.exit_code = exception.message().map_or(0, |code| code.parse().unwrap_or(1));
            }
            Err(exception) => {
                end.exit_code = 1;
                let error = program_error(self.output.named(exception));
                let cut_message = cut(&error.message, limit);
                let cut_traceback = last(&error.traceback, limit);
                if cut_message.len() < error.message.len() || cut_traceback.len() < error.traceback.len() {
                    truncated.push(TruncatedPart::Error);
                }
                end.error = Some(ProgramError {
                    error_type: error.error_type,
                    message: cut_message.to_owned(),
                    traceback: cut_traceback.to_owned(),
                });
            }
        }
        ProgramEnd { stdout: self.output.text, truncated, ..end }
    }
}

impl Output {
    /// An exception with our words, if monty's own clock has raised it.
    fn named(&self, exception: MontyException) -> MontyException {
        let message = exception.message().unwrap_or_default();
        if exception.exc_type() != ExcType::TimeoutError || !message.starts_with(TIME_LIMIT) {
            return exception;
        }
        let mut named = self.too_late();
        named.add_traceback(exception.traceback().to_vec());
        named
    }
}

fn program_error(exception: MontyException) -> ProgramError {
    let traceback = format!("{exception}\n");
    let error_type = exception.exc_type().to_string();
    ProgramError { error_type, message: exception.into_message().unwrap_or_default(), traceback }
}

/// The end of a text, which says what was raised.
fn last(text: &str, bytes: usize) -> &str {
    &text[text.ceil_char_boundary(text.len().saturating_sub(bytes))..]
}
