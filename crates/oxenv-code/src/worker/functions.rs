//! The functions that a program has beside Python's: tools by their names, and those of the host.
//!
//! Invariant: what a name means is decided here alone, in the order of [`find`]: a tool hides no function of
//! [`HOST_FUNCTIONS`] that programs find tools with.

use std::time::SystemTime;

use chrono::{DateTime, Datelike as _, NaiveDateTime, TimeDelta, Timelike as _};
use monty_types::{
    ExcType, ExtFunctionResult, MontyDate, MontyDateTime, MontyException, MontyObject, OsFunctionCall,
};
use oxenv_wire::RawJson;

use super::output::Output;
use super::session::Random;
use super::values::{JsonWriter, NotJson};
use crate::signature::Signature;

/// Bytes of the arguments of one call.
const MAX_ARGUMENTS: usize = 16 << 20;

/// A function of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostFunction {
    ListTools,
    Help,
    CallTool,
    Random,
    Randint,
    Time,
    Exit,
}

/// Each function's name and help; the first three are not hidden by tools.
const HOST_FUNCTIONS: [(HostFunction, &str, &str); 7] = [
    (HostFunction::ListTools, "list_tools", "list_tools() -> list\n    The names of the tools.\n"),
    (
        HostFunction::Help,
        "help",
        "help(tool=...)\n    Prints what a tool does and how it is called; without one, all calls.\n",
    ),
    (
        HostFunction::CallTool,
        "call_tool",
        "call_tool(name: str, **arguments)\n    Calls a tool by its name, which may be none that Python can \
         write.\n",
    ),
    (
        HostFunction::Random,
        "random",
        "random() -> float\n    The next random number from 0 to 1, of the episode's seed.\n",
    ),
    (
        HostFunction::Randint,
        "randint",
        "randint(a: int, b: int) -> int\n    The next random integer from a to b, both included, of the \
         episode's seed.\n",
    ),
    (HostFunction::Time, "time", "time() -> float\n    Seconds since 1970-01-01 UTC.\n"),
    (HostFunction::Exit, "exit", "exit(code: int = 0)\n    Ends the program.\n"),
];
/// How many of them come before tools.
const BEFORE_TOOLS: usize = 3;

/// What a call of a function leads to.
pub(crate) enum Called {
    /// It is over.
    Finished(ExtFunctionResult),
    /// A tool is to be called.
    Tool(ToolCall),
}

/// A tool call with its arguments, an object.
pub(crate) struct ToolCall {
    pub(crate) tool: String,
    pub(crate) arguments: RawJson,
}

/// The arguments of a call.
pub(crate) struct Arguments<'a> {
    pub(crate) positional: &'a [MontyObject],
    pub(crate) keywords: &'a [(MontyObject, MontyObject)],
}

/// What a name means that the program has not defined.
pub(crate) fn find(name: &str, tools: &[Signature]) -> Option<MontyObject> {
    let host = |functions: &'static [(HostFunction, &str, &str)]| {
        functions.iter().find(|(_, known, _)| *known == name).map(|(_, name, help)| function(name, help))
    };
    let (before, after) = HOST_FUNCTIONS.split_at(BEFORE_TOOLS);
    host(before)
        .or_else(|| tool(name, tools).map(|tool| function(&tool.name, &tool.help)))
        .or_else(|| host(after))
}

fn function(name: &str, help: &str) -> MontyObject {
    MontyObject::Function { name: name.to_owned(), docstring: Some(help.to_owned()) }
}

/// The tool of that name, or the only one that is spelled so in Python.
fn tool<'a>(name: &str, tools: &'a [Signature]) -> Option<&'a Signature> {
    tools.iter().find(|tool| tool.name == name).or_else(|| {
        let mut spelled = tools.iter().filter(|tool| tool.is_called(name));
        spelled.next().filter(|_| spelled.next().is_none())
    })
}

fn host_function(name: &str, tools: &[Signature]) -> Option<HostFunction> {
    let at = HOST_FUNCTIONS.iter().position(|(_, known, _)| *known == name)?;
    let hidden = at >= BEFORE_TOOLS && tools.iter().any(|tool| tool.name == name);
    (!hidden).then_some(HOST_FUNCTIONS[at].0)
}

/// Calls the function of that name.
pub(crate) fn call(
    name: &str,
    arguments: &Arguments<'_>,
    tools: &[Signature],
    random: &mut Random,
    output: &mut Output,
) -> Called {
    let called = match host_function(name, tools) {
        None => match tool(name, tools) {
            Some(tool) => bind(name, Some(tool), arguments).map(Called::Tool),
            None => return Called::Finished(ExtFunctionResult::NotFound(name.to_owned())),
        },
        Some(HostFunction::CallTool) => call_tool(arguments, tools).map(Called::Tool),
        Some(function) => call_host(function, arguments, tools, random, output)
            .map(|value| Called::Finished(ExtFunctionResult::Return(value))),
    };
    called.unwrap_or_else(|exception| Called::Finished(ExtFunctionResult::Error(exception)))
}

fn call_host(
    function: HostFunction,
    arguments: &Arguments<'_>,
    tools: &[Signature],
    random: &mut Random,
    output: &mut Output,
) -> Result<MontyObject, MontyException> {
    if !arguments.keywords.is_empty() {
        return Err(type_error("this function takes no keyword arguments"));
    }
    match (function, arguments.positional) {
        (HostFunction::ListTools, []) => {
            Ok(MontyObject::List(tools.iter().map(|tool| MontyObject::String(tool.name.clone())).collect()))
        }
        (HostFunction::Help, [] | [_]) => {
            output.push(&help(arguments.positional.first(), tools)?);
            Ok(MontyObject::None)
        }
        (HostFunction::Random, []) => {
            // Both are exact: a number of 53 bits, and a power of two.
            #[expect(clippy::cast_precision_loss, reason = "numbers of 53 bits are exact")]
            let (drawn, all) = (random.draw() as f64, (1_u64 << Random::BITS) as f64);
            Ok(MontyObject::Float(drawn / all))
        }
        (HostFunction::Randint, [MontyObject::Int(low), MontyObject::Int(high)]) => {
            let span = i128::from(*high) - i128::from(*low) + 1;
            let drawn = i128::from(random.draw());
            if !(1..=1 << Random::BITS).contains(&span) {
                let message =
                    format!("randint({low}, {high}): the range is empty, or has more than 2**53 numbers");
                return Err(MontyException::new(ExcType::ValueError, Some(message)));
            }
            let value = i64::try_from(i128::from(*low) + drawn % span);
            value.map(MontyObject::Int).map_err(|error| type_error(error.to_string()))
        }
        (HostFunction::Time, []) => Ok(MontyObject::Float(since_epoch())),
        (HostFunction::Exit, [] | [MontyObject::None]) => Err(exit(0)),
        (HostFunction::Exit, [MontyObject::Int(code)]) => Err(exit(*code)),
        _ => Err(type_error("these arguments do not fit; help() shows the functions that there are")),
    }
}

/// What `help` prints.
fn help(of: Option<&MontyObject>, tools: &[Signature]) -> Result<String, MontyException> {
    let name = match of {
        None => return Ok(overview(tools)),
        Some(MontyObject::String(name) | MontyObject::Function { name, .. }) => name,
        Some(MontyObject::BuiltinFunction(name)) => return Ok(format!("{name}: a function of Python\n")),
        Some(_) => return Err(type_error("help() takes a tool or its name")),
    };
    let host = HOST_FUNCTIONS.iter().find(|(_, known, _)| known == name);
    match (host_function(name, tools).and(host), tool(name, tools)) {
        (Some((_, _, help)), _) => Ok((*help).to_owned()),
        (None, Some(tool)) => Ok(tool.help.clone()),
        (None, None) => Ok(format!("there is no tool '{name}'; list_tools() has the names\n")),
    }
}

/// The first line of everything's help.
fn overview(tools: &[Signature]) -> String {
    let host = HOST_FUNCTIONS.iter().map(|(_, _, help)| *help);
    let lines = tools.iter().map(|tool| tool.help.as_str()).chain(host);
    lines.filter_map(|help| help.lines().next()).flat_map(|line| [line, "\n"]).collect()
}

/// `call_tool(name, **arguments)`, or with a dict of them.
fn call_tool(arguments: &Arguments<'_>, tools: &[Signature]) -> Result<ToolCall, MontyException> {
    let (name, keywords) = match arguments.positional {
        [MontyObject::String(name)] => (name, arguments.keywords.to_vec()),
        [MontyObject::String(name), MontyObject::Dict(pairs)] if arguments.keywords.is_empty() => {
            (name, pairs.into_iter().cloned().collect())
        }
        _ => {
            return Err(type_error(
                "call_tool() takes a tool's name, and its arguments as keywords or as a dict",
            ));
        }
    };
    bind(name, tool(name, tools), &Arguments { positional: &[], keywords: &keywords })
}

/// Puts the arguments of a call under the names of the tool's parameters. What its schema says about them is
/// checked where the call is made.
fn bind(
    name: &str,
    signature: Option<&Signature>,
    arguments: &Arguments<'_>,
) -> Result<ToolCall, MontyException> {
    let parameters = signature.map(|tool| tool.parameters.as_slice()).unwrap_or_default();
    let (given, most) = (arguments.positional.len(), parameters.len());
    if given > most {
        let (takes, were) = (plural(most, "positional argument"), if given == 1 { "was" } else { "were" });
        return Err(type_error(format!("{name}() takes {takes} but {given} {were} given")));
    }
    let mut pairs: Vec<(&str, &MontyObject)> = Vec::with_capacity(given + arguments.keywords.len());
    pairs.extend(parameters.iter().map(String::as_str).zip(arguments.positional));
    for (key, value) in arguments.keywords {
        let MontyObject::String(key) = key else { return Err(type_error("keywords must be strings")) };
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(type_error(format!("{name}() got multiple values for argument '{key}'")));
        }
        pairs.push((key, value));
    }
    let written = JsonWriter::new(MAX_ARGUMENTS).object(&pairs).map_err(|why| match why {
        NotJson::Float => MontyException::new(ExcType::ValueError, Some(format!("{name}(): {why}"))),
        why => type_error(format!("{name}(): {why}")),
    })?;
    let tool = signature.map_or(name, |tool| &tool.name).to_owned();
    Ok(ToolCall { tool, arguments: written })
}

fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn type_error(message: impl Into<String>) -> MontyException {
    MontyException::new(ExcType::TypeError, Some(message.into()))
}

fn exit(code: i64) -> MontyException {
    MontyException::new(ExcType::SystemExit, Some(code.to_string()))
}

fn since_epoch() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Answers what a program asks of the system: the date and the time, and nothing else.
pub(crate) fn system(call: &OsFunctionCall) -> ExtFunctionResult {
    let answer = match call {
        OsFunctionCall::DateToday => now(0).map(|now| MontyObject::Date(date(now))),
        OsFunctionCall::DateTimeNow(None) => {
            now(0).map(|now| MontyObject::DateTime(date_time(now, None, None)))
        }
        OsFunctionCall::DateTimeNow(Some(zone)) => now(zone.offset_seconds)
            .map(|now| MontyObject::DateTime(date_time(now, Some(zone.offset_seconds), zone.name.clone()))),
        _ => None,
    };
    answer.map_or_else(|| ExtFunctionResult::Error(call.on_no_handler()), ExtFunctionResult::Return)
}

/// The time of day in UTC, so many seconds later.
fn now(offset: i32) -> Option<NaiveDateTime> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    let utc = DateTime::from_timestamp(seconds, since.subsec_nanos())?.naive_utc();
    utc.checked_add_signed(TimeDelta::seconds(i64::from(offset)))
}

#[expect(clippy::cast_possible_truncation, reason = "months, days and times of day are small")]
fn date(now: NaiveDateTime) -> MontyDate {
    MontyDate { year: now.year(), month: now.month() as u8, day: now.day() as u8 }
}

#[expect(clippy::cast_possible_truncation, reason = "months, days and times of day are small")]
fn date_time(
    now: NaiveDateTime,
    offset_seconds: Option<i32>,
    timezone_name: Option<String>,
) -> MontyDateTime {
    let MontyDate { year, month, day } = date(now);
    let (hour, minute, second) = (now.hour() as u8, now.minute() as u8, now.second() as u8);
    let microsecond = now.nanosecond() / 1000;
    MontyDateTime { year, month, day, hour, minute, second, microsecond, offset_seconds, timezone_name }
}
