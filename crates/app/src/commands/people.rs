//! `cooee buddies`, `cooee message`, `cooee messages`, `cooee page`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{client::Client, output::Output, profile::ProfileArgs};

/// `cooee buddies …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BuddiesCommand {
    /// Show the buddy list with presence
    List(ProfileArgs),
    /// Ask somebody to be a buddy
    Add(NameArgs),
    /// Accept somebody who asked
    Accept(NameArgs),
    /// Remove a buddy, or decline somebody who asked
    Remove(NameArgs),
    /// Hear nothing more from somebody
    Block(NameArgs),
    /// Show the safety numbers of a buddy's devices, to compare with theirs
    Show(NameArgs),
    /// Say that the safety number of a buddy's device was compared
    Verify(VerifyArgs),
}

/// A user.
#[derive(Debug, clap::Args)]
pub(crate) struct NameArgs {
    /// User name
    name: String,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// A device of a buddy.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// User name
    name: String,
    /// The device, as `cooee buddies show NAME` lists it
    node: String,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// `cooee message`.
#[derive(Debug, clap::Args)]
pub(crate) struct MessageArgs {
    /// User name
    name: String,
    /// What to say
    text: String,
    #[command(flatten)]
    profile: ProfileArgs,
}

fn client(profile: &ProfileArgs) -> Result<Client> {
    Client::of_profile(&profile.directory()?)
}

/// Shows or changes the buddy list.
pub(crate) async fn buddies(command: BuddiesCommand, output: Output) -> Result<()> {
    match command {
        BuddiesCommand::List(profile) => list(&client(&profile)?, output).await,
        BuddiesCommand::Add(NameArgs { name, profile }) => {
            let answer: Value =
                client(&profile)?.post("/v1/buddies", &json!({ "name": name })).await?;
            output.result(&answer, format!("{name} is asked as soon as they are online"));
            Ok(())
        }
        BuddiesCommand::Accept(named) => act(&named, "accept", "is a buddy now", output).await,
        BuddiesCommand::Block(named) => act(&named, "block", "is blocked", output).await,
        BuddiesCommand::Remove(NameArgs { name, profile }) => {
            let answer: Value = client(&profile)?.delete(&format!("/v1/buddies/{name}")).await?;
            output.result(&answer, format!("{name} is no buddy any more"));
            Ok(())
        }
        BuddiesCommand::Show(NameArgs { name, profile }) => {
            show(&client(&profile)?, &name, output).await
        }
        BuddiesCommand::Verify(VerifyArgs { name, node, profile }) => {
            let path = format!("/v1/buddies/{name}/verify");
            let answer: Value = client(&profile)?.post(&path, &json!({ "node": node })).await?;
            output.result(&answer, format!("{name}'s device {node} is verified"));
            Ok(())
        }
    }
}

async fn act(named: &NameArgs, action: &str, done: &str, output: Output) -> Result<()> {
    let path = format!("/v1/buddies/{}/{action}", named.name);
    let answer: Value = client(&named.profile)?.post(&path, &json!({})).await?;
    output.result(&answer, format!("{} {done}", named.name));
    Ok(())
}

async fn list(client: &Client, output: Output) -> Result<()> {
    let buddies: Vec<Value> = client.get("/v1/buddies").await?;
    if buddies.is_empty() {
        output.line("no buddies yet: `cooee buddies add NAME`");
    }
    for buddy in &buddies {
        let user = buddy["user"].as_str().unwrap_or("-");
        let words = match buddy["state"].as_str().unwrap_or("-") {
            "mutual" => presence(buddy),
            "requested" => "asked by you, no answer yet".to_owned(),
            "asked" => format!("wants to be a buddy: `cooee buddies accept {user}`"),
            other => other.to_owned(),
        };
        output.result(buddy, format!("{user}  {words}"));
    }
    Ok(())
}

/// The presence in words, with the age of the last sight.
fn presence(buddy: &Value) -> String {
    let word = buddy["presence"].as_str().unwrap_or("-").replace('_', " ");
    let Some(at) = buddy["last_seen_unix_ms"].as_u64() else { return word };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_millis() as u64);
    format!("{word}, last seen {}", ago(now.saturating_sub(at) / 1000))
}

/// How long ago, in the largest unit that says something.
fn ago(seconds: u64) -> String {
    match seconds {
        0..60 => "less than a minute ago".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

async fn show(client: &Client, name: &str, output: Output) -> Result<()> {
    let devices: Vec<Value> = client.get(&format!("/v1/buddies/{name}")).await?;
    if devices.is_empty() {
        output.line(format!("no device of {name} was seen yet"));
    }
    for device in &devices {
        let text = |key: &str| device[key].as_str().unwrap_or("-").to_owned();
        let verified = if device["verified"] == true { "compared" } else { "not compared yet" };
        output.result(device, format!("{}  {verified}\n  {}", text("node"), text("safety_number")));
    }
    Ok(())
}

/// Sends an instant message.
pub(crate) async fn message(arguments: MessageArgs, output: Output) -> Result<()> {
    let body = json!({ "to": arguments.name, "text": arguments.text });
    let answer: Value = client(&arguments.profile)?.post("/v1/messages", &body).await?;
    output.result(&answer, "kept; it is delivered as soon as the other side is online");
    Ok(())
}

/// Shows the messages of this profile.
pub(crate) async fn messages(profile: &ProfileArgs, output: Output) -> Result<()> {
    let messages: Vec<Value> = client(profile)?.get("/v1/messages").await?;
    if messages.is_empty() {
        output.line("no messages");
    }
    for message in &messages {
        let text = |key: &str| message[key].as_str().unwrap_or("-").to_owned();
        let line = match text("direction").as_str() {
            "sent" => format!("to {} ({}): {}", text("user"), text("state"), text("text")),
            _ => format!("from {}: {}", text("user"), text("text")),
        };
        output.result(message, printable(&line));
    }
    Ok(())
}

/// What others wrote must not steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Prints where the page of the running node is.
pub(crate) fn page(profile: &ProfileArgs, output: Output) -> Result<()> {
    let client = client(profile)?;
    let access = client.access();
    let url = format!("http://{}/#token={}", access.address, access.token);
    output.result(&json!({ "url": url }), &url);
    Ok(())
}
