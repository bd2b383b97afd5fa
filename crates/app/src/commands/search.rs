//! `cooee search`: finds users. `cooee keepers`: which super nodes keep a name. `cooee presence`:
//! what
//! others see.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{client::Client, output::Output};

/// `cooee search`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee search bob
  cooee search 'ali*'     three characters at least before the first * or ?")]
pub(crate) struct SearchArgs {
    /// A user name, or a pattern of * and ? for names and words of display names
    query: String,
}

/// `cooee keepers`.
#[derive(Debug, clap::Args)]
pub(crate) struct KeepersArgs {
    /// User name
    name: String,
}

/// `cooee presence`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee presence                  what is shown now
  cooee presence away
  cooee presence do-not-disturb   calls hear busy, nothing rings
  cooee presence invisible        shown as offline; calls and messages come through")]
pub(crate) struct PresenceArgs {
    /// What to show from now on, over restarts too; without it: tell what is shown
    #[arg(value_parser = ["online", "away", "do-not-disturb", "invisible"])]
    presence: Option<String>,
}

/// Shows or changes what others see of this user.
pub(crate) async fn presence(
    arguments: PresenceArgs,
    client: &Client,
    output: Output,
) -> Result<()> {
    let answer: Value = match arguments.presence {
        Some(presence) => client.post("/v1/presence", &json!({ "presence": presence })).await?,
        None => client.get("/v1/presence").await?,
    };
    output.result(&answer, answer["presence"].as_str().unwrap_or("-"));
    Ok(())
}

/// Finds users.
pub(crate) async fn search(arguments: SearchArgs, client: &Client, output: Output) -> Result<()> {
    let path = format!("/v1/search?query={}", percent(&arguments.query));
    let found: Vec<Value> = client.get(&path).await?;
    if found.is_empty() {
        output.line(format!("nobody is called {}", arguments.query));
    }
    for user in &found {
        let word = |key: &str| user[key].as_str().unwrap_or("-").replace('_', " ");
        let line = format!("{}  {}  {}", word("user"), word("display_name"), word("presence"));
        output.result(user, line);
    }
    Ok(())
}

/// Shows which super nodes keep a name.
pub(crate) async fn keepers(arguments: KeepersArgs, client: &Client, output: Output) -> Result<()> {
    let path = format!("/v1/keepers?name={}", percent(&arguments.name));
    let keepers: Vec<String> = client.get(&path).await?;
    for keeper in &keepers {
        output.result(keeper, keeper);
    }
    Ok(())
}

/// Percent-encodes what a query string cannot carry.
fn percent(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn patterns_and_umlauts_survive_a_query_string() {
        assert_eq!(percent("ali*"), "ali%2A");
        assert_eq!(percent("å&b=?"), "%C3%A5%26b%3D%3F");
    }
}
