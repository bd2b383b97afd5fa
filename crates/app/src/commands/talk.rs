//! What one does to a call that is there: `answer`, `decline`, `hang-up`, `hold`, `resume`, `mute`,
//! `unmute`, `dtmf`, `calls`, `records`.

use anyhow::{Result, bail};
use cooee_node::api::types::Digits;
use serde_json::{Value, json};

use crate::{client::Client, commands::call::describe_record, output::Output};

/// A call named by its id, or the only one there is.
#[derive(Debug, clap::Args)]
pub(crate) struct WhichArgs {
    /// Id of the call or its first letters; not needed when there is only one
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

/// Does `action` (a path of the local API) to the call meant.
pub(crate) async fn act(
    which: &WhichArgs,
    action: &str,
    done: &str,
    client: &Client,
    output: Output,
) -> Result<()> {
    let id = find(which, client).await?;
    let answer: Value = client.post(&format!("/v1/calls/{id}/{action}"), &json!({})).await?;
    output.result(&answer, done);
    Ok(())
}

/// Presses keys.
pub(crate) async fn dtmf(arguments: DtmfArgs, client: &Client, output: Output) -> Result<()> {
    let id = find(&arguments.which, client).await?;
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
        output.result(call, words.join("  "));
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

async fn find(which: &WhichArgs, client: &Client) -> Result<String> {
    let calls: Vec<Value> = client.get("/v1/calls").await?;
    let start = which.call.as_deref().unwrap_or_default();
    let ids: Vec<&str> = calls
        .iter()
        .filter_map(|call| call["call"].as_str())
        .filter(|id| id.starts_with(start))
        .collect();
    match ids[..] {
        [] => bail!("there is no such call"),
        [id] => Ok(id.to_owned()),
        _ => bail!("there are {} calls: name one with --call (see `cooee calls`)", ids.len()),
    }
}
