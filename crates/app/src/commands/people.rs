//! `cooee buddies`, `cooee message`, `cooee messages`, `cooee search`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{client::Client, output::Output};

/// `cooee buddies …`.
#[derive(Debug, clap::Subcommand)]
pub enum BuddiesCommand {
    /// Show the buddy list with presence
    List,
    /// Ask somebody to be a buddy
    Add {
        /// User name
        name: String,
    },
    /// Accept somebody who asked
    Accept {
        /// User name
        name: String,
    },
    /// Remove a buddy
    Remove {
        /// User name
        name: String,
    },
}

/// `cooee message`.
#[derive(Debug, clap::Args)]
pub struct MessageArgs {
    /// User name
    name: String,
    /// What to say
    text: String,
}

/// `cooee search`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cooee search bob\n  cooee search 'ali*'")]
pub struct SearchArgs {
    /// A user name, or the start of a name followed by *
    query: String,
}

/// Shows or changes the buddy list.
pub async fn buddies(command: BuddiesCommand, client: &Client, output: Output) -> Result<()> {
    match command {
        BuddiesCommand::List => list(client, output).await,
        BuddiesCommand::Add { name } => {
            let answer: Value =
                client.post("/v1/buddies", &json!({ "name": name })).await?;
            output.result(&answer, format!("{name} has been asked"));
            Ok(())
        }
        BuddiesCommand::Accept { name } => {
            let answer: Value =
                client.post(&format!("/v1/buddies/{name}/accept"), &json!({})).await?;
            output.result(&answer, format!("{name} is a buddy now"));
            Ok(())
        }
        BuddiesCommand::Remove { name } => {
            let answer: Value = client.delete(&format!("/v1/buddies/{name}")).await?;
            output.result(&answer, format!("{name} is no buddy any more"));
            Ok(())
        }
    }
}

async fn list(client: &Client, output: Output) -> Result<()> {
    let buddies: Vec<Value> = client.get("/v1/buddies").await?;
    if buddies.is_empty() {
        output.line("no buddies yet: `cooee buddies add NAME`");
    }
    for buddy in &buddies {
        let words = ["user", "state", "presence"]
            .map(|key| buddy[key].as_str().unwrap_or("-").replace('_', " "));
        output.result(buddy, words.join("  "));
    }
    Ok(())
}

/// Sends an instant message.
pub async fn message(arguments: MessageArgs, client: &Client, output: Output) -> Result<()> {
    let body = json!({ "to": arguments.name, "text": arguments.text });
    let answer: Value = client.post("/v1/messages", &body).await?;
    output.result(&answer, "sent; it is delivered when the other side is online");
    Ok(())
}

/// Shows the messages of this profile.
pub async fn messages(client: &Client, output: Output) -> Result<()> {
    let messages: Vec<Value> = client.get("/v1/messages").await?;
    if messages.is_empty() {
        output.line("no messages");
    }
    for message in &messages {
        let text = |key: &str| message[key].as_str().unwrap_or("-").to_owned();
        output.result(message, format!("{} {}: {}", text("direction"), text("user"), text("text")));
    }
    Ok(())
}

/// Finds users.
pub async fn search(arguments: SearchArgs, client: &Client, output: Output) -> Result<()> {
    let path = format!("/v1/search?query={}", percent(&arguments.query));
    let found: Vec<Value> = client.get(&path).await?;
    if found.is_empty() {
        output.line(format!("nobody is called {}", arguments.query));
    }
    for user in &found {
        let words = ["user", "display_name", "presence"]
            .map(|key| user[key].as_str().unwrap_or("-").to_owned());
        output.result(user, words.join("  "));
    }
    Ok(())
}

/// Percent-encodes what a query string cannot carry.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
