//! `cooee register`, `cooee login`: get an account, or use one on one more device.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use cooee_node::{
    account::{Account, AccountError, AccountReport},
    login_server::{Invitation, Password, UserName, client::LoginError},
    settings::Settings,
};
use serde_json::json;

use crate::{
    failure::{Failure, FailureKind},
    output::Output,
    profile::ProfileArgs,
    signals,
};

/// What Ctrl-C says: the login server may or may not have been asked already.
const INTERRUPTED: &str = "interrupted; nothing is lost: give the same command again";

/// What both commands need.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The password is asked for on the terminal, or read from COOEE_PASSWORD or \
--password-file.

Examples:
  cooee register alice --invitation 'cooee:…'
  cooee login alice --invitation 'cooee:…'      on another device of Alice's"
)]
pub(crate) struct AccountArgs {
    /// User name: 3 to 32 letters, digits, '.', '_' and '-', the first a letter
    name: String,
    /// The invitation to the network, as its operator gave it
    #[arg(long, env = "COOEE_INVITATION", value_name = "LINK")]
    invitation: Option<String>,
    /// Name to show to others; any letters
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
    /// File with the password; - for standard input
    #[arg(long, value_name = "PATH")]
    password_file: Option<PathBuf>,
    /// HTTP CONNECT proxy, http://host:port; the environment's by default
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Registers a new user.
pub(crate) async fn register(arguments: AccountArgs, output: Output) -> Result<()> {
    run(arguments, output, true).await
}

/// Adds this device to a user.
pub(crate) async fn login(arguments: AccountArgs, output: Output) -> Result<()> {
    run(arguments, output, false).await
}

async fn run(arguments: AccountArgs, output: Output, is_new: bool) -> Result<()> {
    let name: UserName = arguments.name.parse().with_context(|| format!("{:?}", arguments.name))?;
    let invitation: Option<Invitation> =
        arguments.invitation.as_deref().map(str::parse).transpose()?;
    let profile = arguments.profile.open()?;
    let settings =
        Settings { proxy: arguments.proxy.clone(), ..Settings::load(profile.directory())? };
    let password = password(arguments.password_file.as_deref(), is_new)?;
    let account = Account::new(&profile, invitation, settings.proxy()?)?;
    signals::exit_when_interrupted(INTERRUPTED);
    output.note("talking to the login server …");
    let display_name = arguments.display_name.as_deref().unwrap_or(name.as_str());
    let done = if is_new {
        account.register(&name, &password, display_name).await
    } else {
        account.login(&name, &password).await
    };
    let AccountReport { took_ms, through } = done.map_err(explain)?;
    let node = profile.device_key()?.node_id().to_string();
    let way = through.map_or("directly".to_owned(), |node| format!("through super node {node}"));
    output.result(
        &json!({
            "ok": true, "user": name.as_str(), "node": node, "took_ms": took_ms, "through": through,
        }),
        format!(
            "{name} is {} on this device ({took_ms} ms, {way}).\nNext: cooee up",
            if is_new { "registered" } else { "logged in" }
        ),
    );
    Ok(())
}

/// Gives the exit code that fits.
pub(crate) fn explain(error: AccountError) -> anyhow::Error {
    let kind = match &error {
        AccountError::Unreachable(_)
        | AccountError::Login(LoginError::Broken(_) | LoginError::TimedOut) => {
            FailureKind::Unreachable
        }
        AccountError::Login(LoginError::Protocol(_) | LoginError::NotOurs(_)) => {
            FailureKind::Refused
        }
        _ => return error.into(),
    };
    Failure::new(kind, error.to_string()).into()
}

/// The password of the file, the environment or the terminal.
pub(crate) fn password(file: Option<&Path>, is_new: bool) -> Result<Password> {
    let text = match file {
        Some(path) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the password from {}", path.display()))?,
        None => match std::env::var("COOEE_PASSWORD") {
            Ok(text) => text,
            Err(_) => ask("Password: ", is_new)?,
        },
    };
    Ok(Password::new(text.trim_end_matches(['\r', '\n']))?)
}

/// Asks on the terminal; twice where a mistake would lock somebody out.
pub(crate) fn ask(question: &str, is_new: bool) -> Result<String> {
    let text = rpassword::prompt_password(question).context(
        "no terminal to ask for the password on: set COOEE_PASSWORD or give --password-file",
    )?;
    if is_new && text != rpassword::prompt_password("The same again: ")? {
        bail!("the two passwords differ; nothing was changed");
    }
    Ok(text)
}
