//! The tools of many MCP servers as one list, and a call of one of them:
//! `cargo run -p oxenv-client --example tools -- [--strict] URL... [--call NAME ARGUMENTS]`

use std::process::ExitCode;

use oxenv_client::{ClientError, MultiplexOptions, Multiplexer, Strictness};
use serde_json::Value;

#[tokio::main]
async fn main() -> ExitCode {
    match list_and_call().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", error.code().name());
            ExitCode::FAILURE
        }
    }
}

async fn list_and_call() -> Result<(), ClientError> {
    let mut options = MultiplexOptions::default();
    let (mut urls, mut call) = (Vec::new(), None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--strict" => options.strictness = Strictness::Strict,
            "--call" => call = words.next().zip(words.next()),
            _ => urls.push(word),
        }
    }
    let multiplexer = Multiplexer::new(&urls, options)?;
    let listing = multiplexer.list().await?;
    for endpoint in &listing.endpoints {
        let state = endpoint.error.clone().unwrap_or_else(|| format!("{} tools", endpoint.tools));
        eprintln!("{}: {state}", endpoint.url);
    }
    for conflict in &listing.conflicts {
        eprintln!("'{}' is {}'s; also at {}", conflict.name, conflict.owner, conflict.shadowed.join(", "));
    }
    match call {
        None => listing.tools.iter().for_each(|tool| println!("{}", tool.name)),
        Some((name, arguments)) => {
            let arguments = serde_json::from_str(&arguments).unwrap_or(Value::String(arguments));
            let result = multiplexer.call_tool(&name, arguments).await?;
            let mut written = String::new();
            result.write_mcp(&mut written);
            println!("{written}");
        }
    }
    multiplexer.close().await;
    Ok(())
}
