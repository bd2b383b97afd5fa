//! `cooee account`: change the password, list and remove devices, remove the account.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use cooee_node::{
    account::{Account, LoginLine},
    login_server::{NodeId, Password, Session, client::LoginError},
    settings::Settings,
};
use serde_json::json;

use super::account::{ask, explain, password};
use crate::{output::Output, profile::ProfileArgs};

/// `cooee account …`.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AccountCommand {
    /// Set another password
    Password(PasswordArgs),
    /// List the devices of this account
    Devices(CareArgs),
    /// Remove a device: it can use the account no more
    RemoveDevice(RemoveDeviceArgs),
    /// Remove the account for good; its name is never given to somebody else
    Remove(RemoveArgs),
}

/// What all of them need. The node of the profile must not be running.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The password is asked for on the terminal, or read from COOEE_PASSWORD or \
--password-file. End the node first: `cooee down`."
)]
pub(crate) struct CareArgs {
    /// File with the password; - for standard input
    #[arg(long, value_name = "PATH")]
    password_file: Option<PathBuf>,
    /// HTTP CONNECT proxy, http://host:port; the environment's by default
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// `cooee account password`.
#[derive(Debug, clap::Args)]
pub(crate) struct PasswordArgs {
    /// File with the new password; else COOEE_NEW_PASSWORD, else it is asked for
    #[arg(long, value_name = "PATH")]
    new_password_file: Option<PathBuf>,
    #[command(flatten)]
    care: CareArgs,
}

/// `cooee account remove-device`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveDeviceArgs {
    /// The device, as `cooee account devices` lists it
    node: String,
    #[command(flatten)]
    care: CareArgs,
}

/// `cooee account remove`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Do it; without this nothing is removed
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    care: CareArgs,
}

/// Does what the command says.
pub(crate) async fn run(command: AccountCommand, output: Output) -> Result<()> {
    match command {
        AccountCommand::Password(arguments) => change_password(arguments, output).await,
        AccountCommand::Devices(care) => devices(&care, output).await,
        AccountCommand::RemoveDevice(arguments) => remove_device(arguments, output).await,
        AccountCommand::Remove(arguments) => remove(arguments, output).await,
    }
}

/// Logs in with the password; the line stays open.
async fn log_in(care: &CareArgs, output: Output) -> Result<(LoginLine, Session)> {
    let profile = care.profile.open()?;
    let certificate = profile.certificate()?;
    let name = certificate.as_ref().and_then(|certificate| certificate.user());
    let name = name.context("this profile has no account; log in first: `cooee login NAME`")?;
    let mut settings = Settings::load(profile.directory())?;
    settings.proxy = care.proxy.clone().or(settings.proxy);
    let password = password(care.password_file.as_deref(), false)?;
    let account = Account::new(&profile, None, settings.proxy()?)?;
    output.note("talking to the login server …");
    account.log_in_again(name, &password).await.map_err(explain)
}

fn refused(error: LoginError) -> anyhow::Error {
    explain(error.into())
}

async fn change_password(arguments: PasswordArgs, output: Output) -> Result<()> {
    let (mut line, session) = log_in(&arguments.care, output).await?;
    let new = match (&arguments.new_password_file, std::env::var("COOEE_NEW_PASSWORD")) {
        (Some(path), _) => std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the password from {}", path.display()))?,
        (None, Ok(text)) => text,
        (None, Err(_)) => ask("New password: ", true)?,
    };
    let new = Password::new(new.trim_end_matches(['\r', '\n']))?;
    let key = session.account_key.context("the login server gave no key of the account")?;
    line.client.change_password(&new, &key).await.map_err(refused)?;
    line.client.close().await;
    output.result(&json!({ "ok": true }), "the password is changed; devices stay logged in");
    Ok(())
}

async fn devices(care: &CareArgs, output: Output) -> Result<()> {
    let (mut line, session) = log_in(care, output).await?;
    let listed = line.client.devices().await.map_err(refused)?;
    line.client.close().await;
    for device in listed {
        let is_this = device.node == session.certificate.node();
        let this = if is_this { "  (this one)" } else { "" };
        output.result(
            &json!({
                "node": device.node.to_string(), "name": device.name, "this": is_this,
                "added_unix_ms": device.added_at.0,
                "certified_until_unix_ms": device.certified_until.0,
            }),
            format!("{}  {}{this}", device.node, device.name.escape_default()),
        );
    }
    Ok(())
}

async fn remove_device(arguments: RemoveDeviceArgs, output: Output) -> Result<()> {
    let node: NodeId = arguments
        .node
        .parse()
        .ok()
        .context("a device is 32 hexadecimal digits: `cooee account devices` lists them")?;
    let (mut line, _) = log_in(&arguments.care, output).await?;
    line.client.remove_device(node).await.map_err(refused)?;
    line.client.close().await;
    let object = json!({ "ok": true, "node": node.to_string() });
    output.result(&object, format!("the device {node} is removed"));
    Ok(())
}

async fn remove(arguments: RemoveArgs, output: Output) -> Result<()> {
    if !arguments.yes {
        bail!("this cannot be undone; say --yes to remove the account. Nothing was changed");
    }
    let (mut line, _) = log_in(&arguments.care, output).await?;
    line.client.remove_account().await.map_err(refused)?;
    line.client.close().await;
    output.result(&json!({ "ok": true }), "the account is removed; the profile can be deleted");
    Ok(())
}
