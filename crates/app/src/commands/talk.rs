//! What one does to a call that is there: `answer`, `decline`, `hang-up`, `hold`, `resume`, `mute`,
//! `unmute`, `dtmf`, `transfer`, `calls`, `records`.

use anyhow::{Result, bail};
use cooee_node::api::types::{Digits, Transfer};
use serde_json::{Value, json};

use crate::{
    client::Client,
    commands::call::{describe_record, describe_statistics},
    output::Output,
};

/// A call named by its id, or the only one that what is asked can be done to.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichArgs {
    /// Id of the call or its first letters; not needed when only one is meant (rings, is held, …)
    #[arg(long, value_name = "ID")]
    call: Option<String>,
}

/// `cooee dtmf`.
#[derive(Debug, clap::Args)]
pub(crate) struct DtmfArgs {
    /// Keys to press: 0-9, *, #, A-D
    digits: String,
    #[command(flatten)]
    which: WhichArgs,
}

/// `cooee transfer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee transfer carol               whom you talk to calls Carol instead
  cooee transfer --with 3fa9         the two you talk to, one of them on hold, are joined")]
pub(crate) struct TransferArgs {
    /// Whom the other side shall call
    #[arg(required_unless_present = "with", conflicts_with = "with")]
    to: Option<String>,
    /// Join with the other side of this call, by its id or its first letters
    #[arg(long, value_name = "ID")]
    with: Option<String>,
    #[command(flatten)]
    which: WhichArgs,
}

/// Sends the other side to somebody else.
pub(crate) async fn transfer(
    arguments: TransferArgs,
    client: &Client,
    output: Output,
) -> Result<()> {
    let with = match &arguments.with {
        Some(start) => Some(find("transfer", Some(start), None, client).await?),
        None => None,
    };
    let start = arguments.which.call.as_deref();
    let id = find("transfer", start, with.as_deref(), client).await?;
    let transfer = Transfer { to: arguments.to, with };
    let answer: Value = client.post(&format!("/v1/calls/{id}/transfer"), &transfer).await?;
    output.result(&answer, "asked the other side; `cooee events` tells how it goes");
    Ok(())
}

/// Does `action` (a path of the local API) to the call meant.
pub(crate) async fn act(
    which: &WhichArgs,
    action: &str,
    done: &str,
    client: &Client,
    output: Output,
) -> Result<()> {
    let id = find(action, which.call.as_deref(), None, client).await?;
    let answer: Value = client.post(&format!("/v1/calls/{id}/{action}"), &json!({})).await?;
    output.result(&answer, done);
    Ok(())
}

/// Presses keys.
pub(crate) async fn dtmf(arguments: DtmfArgs, client: &Client, output: Output) -> Result<()> {
    let id = find("dtmf", arguments.which.call.as_deref(), None, client).await?;
    let digits = Digits { digits: arguments.digits };
    let answer: Value = client.post(&format!("/v1/calls/{id}/dtmf"), &digits).await?;
    output.result(&answer, format!("sent {}", digits.digits));
    Ok(())
}

/// Lists the calls that are not over.
pub(crate) async fn list(client: &Client, output: Output) -> Result<()> {
    let calls: Vec<Value> = client.get("/v1/calls").await?;
    if calls.is_empty() {
        output.line("no call");
    }
    for call in &calls {
        let words = ["call", "direction", "user", "phase"]
            .map(|key| call[key].as_str().unwrap_or("-").replace('_', " "));
        let mut line = words.join("  ");
        if call["statistics"].is_object() {
            line = format!("{line}\n  {}", describe_statistics(&call["statistics"]));
        }
        output.result(call, line);
    }
    Ok(())
}

/// Lists the records of past calls, the newest last.
pub(crate) async fn records(client: &Client, output: Output) -> Result<()> {
    let records: Vec<Value> = client.get("/v1/records").await?;
    if records.is_empty() {
        output.line("no call yet");
    }
    for record in &records {
        output.result(record, describe_record(record));
    }
    Ok(())
}

/// The id of the call that `action` is meant for: the one that begins with `start`, or the only one
/// (without `but`) that it can be done to, or the only one there is.
async fn find(
    action: &str,
    start: Option<&str>,
    but: Option<&str>,
    client: &Client,
) -> Result<String> {
    let calls: Vec<Value> = client.get("/v1/calls").await?;
    let named = |call: &&Value| {
        let id = call["call"].as_str().unwrap_or_default();
        id.starts_with(start.unwrap_or_default()) && Some(id) != but
    };
    let mut calls: Vec<&Value> = calls.iter().filter(named).collect();
    if calls.len() > 1 && calls.iter().any(|call| suits(call, action)) {
        calls.retain(|call| suits(call, action));
    }
    match calls[..] {
        [] => bail!("there is no such call"),
        [call] => Ok(call["call"].as_str().unwrap_or_default().to_owned()),
        _ => bail!("there are {} calls: name one with --call (see `cooee calls`)", calls.len()),
    }
}

/// Whether `action` changes anything in this call.
fn suits(call: &Value, action: &str) -> bool {
    let is_ringing = call["phase"] == "ringing";
    match action {
        "answer" | "decline" => is_ringing,
        "resume" => call["held_locally"] == true,
        "mute" | "unmute" | "dtmf" | "transfer" | "hold" => {
            !is_ringing && call["held_locally"] == false
        }
        _ => true,
    }
}
