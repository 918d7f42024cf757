//! Plays an episode on any OpenEnv server and prints each result as a line of JSON.
//!
//!     episode http://localhost:8000 '{"message":"hi"}' echo_message='{"message":"hi"}'
//!
//! What begins with a brace is an action; `NAME=ARGUMENTS` calls a tool. `OPENENV_PROTOCOL` is `stock`,
//! `oxenv1` or `http`; without it the best is taken that the server offers.

use oxenv_client::{ClientError, ClientOptions, EnvClient, OpenOptions, Protocol, ResetOptions};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("usage: episode URL [ACTION | TOOL=ARGUMENTS]…")?;
    let protocol = match std::env::var("OPENENV_PROTOCOL").as_deref() {
        Ok("stock") => Protocol::Stock,
        Ok("oxenv1") => Protocol::Oxenv1,
        Ok("http") => Protocol::Http,
        _ => Protocol::Auto,
    };
    let options = ClientOptions { protocol, ..ClientOptions::default() };
    let steps: Vec<String> = arguments.collect();
    if let Err(error) = play(&url, &options, &steps).await {
        println!("{}", error_json(&error));
    }
    Ok(())
}

async fn play(url: &str, options: &ClientOptions, steps: &[String]) -> Result<(), ClientError> {
    let env = EnvClient::connect_with(url, options, &OpenOptions::default()).await?;
    println!("{}", json!({ "protocol": format!("{:?}", env.protocol()) }));
    let reset = env.reset(&ResetOptions { seed: Some(7), ..ResetOptions::default() }).await?;
    println!("{}", json!({"reset": reset.observation, "reward": reset.reward, "done": reset.done}));
    for step in steps {
        match step.split_once('=') {
            Some((tool, arguments)) if !step.starts_with('{') => {
                let arguments = serde_json::from_str(arguments).unwrap_or(Value::Null);
                match env.call_tool(tool, arguments).await {
                    Ok(result) => println!("{}", json!({"text": result.text(), "is_error": result.is_error})),
                    Err(error) => println!("{}", error_json(&error)),
                }
            }
            _ => {
                let action: Value = serde_json::from_str(step).unwrap_or(Value::Null);
                match env.step(&action).await {
                    Ok(step) => {
                        println!(
                            "{}",
                            json!({"step": step.observation, "reward": step.reward, "done": step.done})
                        );
                    }
                    Err(error) => println!("{}", error_json(&error)),
                }
            }
        }
    }
    println!("{}", json!({ "state": env.state().await? }));
    env.close().await
}

fn error_json(error: &ClientError) -> Value {
    json!({"error": error.code().name(), "message": error.message(), "delivered": error.delivered()})
}
