//! `cooee doctor`: what this machine and its network allow, in plain words with what to do.

use anyhow::Result;
use cooee_node::{
    doctor::{Finding, Verdict, examine},
    settings::Settings,
};
use serde_json::{Value, json};

use crate::{client::Client, output::Output, profile::ProfileArgs};

/// `cooee doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Looks at what gets out of this network, what stands between, which super \
nodes answer, the clock, and the microphone. Works with and without a running node, and changes \
nothing. Exit code 0 however it goes; `ok` in the last JSON line says whether calls work.")]
pub(crate) struct DoctorArgs {
    /// HTTP CONNECT proxy, http://host:port; the environment's by default
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Microphone to listen to: default, device:NAME
    #[arg(long, env = "COOEE_MICROPHONE", value_name = "SPEC")]
    microphone: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
}

/// Looks at everything and says what it means.
pub(crate) async fn doctor(arguments: DoctorArgs, output: Output) -> Result<()> {
    let folder = arguments.profile.directory()?;
    let mut settings = Settings::load(&folder)?;
    settings.proxy = arguments.proxy.or(settings.proxy);
    settings.microphone = arguments.microphone.unwrap_or(settings.microphone);
    output.note("looking; this can take half a minute …");
    let running = running(&folder).await;
    output.result(&running, running["says"].as_str().unwrap_or_default());
    let findings = examine(&folder, &settings, |finding| show(finding, output)).await;
    let ok = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    output.result(
        &json!({ "ok": ok, "checks": findings.len() }),
        if ok {
            output.good("Calls should work.")
        } else {
            output.bad("Calls do not work until what is marked ✗ is mended.")
        },
    );
    Ok(())
}

fn show(finding: &Finding, output: Output) {
    let mark = match finding.verdict {
        Verdict::Good => output.good("✓"),
        Verdict::Fair => "!".to_owned(),
        Verdict::Bad => output.bad("✗"),
        Verdict::Unknown => "?".to_owned(),
    };
    output.result(finding, format!("{mark} {}", finding.says));
    if let Some(advice) = &finding.advice {
        output.line(format!("    → {advice}"));
    }
}

/// What the running node says of itself, if there is one.
async fn running(folder: &std::path::Path) -> Value {
    let status: Option<Value> = match Client::of_profile(folder) {
        Ok(client) => client.get("/v1/status").await.ok(),
        Err(_) => None,
    };
    let says = match &status {
        Some(status) => {
            format!("The node is running: {}.", status["detail"].as_str().unwrap_or_default())
        }
        None => "The node is not running (`cooee up`).".to_owned(),
    };
    json!({ "check": "node", "says": says, "data": status })
}
