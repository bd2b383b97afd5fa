//! `cooee status`, `cooee devices`, `cooee events`, `cooee down`,
//! `cooee drain`.

use anyhow::Result;
use cooee_node::api::types::Status;
use serde_json::{Value, json};

use crate::{
    client::Client, commands::call::describe_statistics, output::Output, signals::Interrupts,
};

/// Shows how the node is doing.
pub(crate) async fn status(client: &Client, output: Output) -> Result<()> {
    let status: Status = client.get("/v1/status").await?;
    output.json_line(&status);
    let mark = if status.state == "attached" {
        output.good(&status.state)
    } else {
        output.bad(&status.state)
    };
    let who = status.user.as_deref().unwrap_or("super node");
    output.line(format!("{} {mark}: {}", output.bold(who), status.detail));
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
    output.line(format!("  super node   {}", or_none(&status.super_node)));
    output.line(format!("  warm spare   {}", or_none(&status.spare)));
    if let (Some(ms), Some(bytes)) = (status.login_ms, status.login_bytes) {
        output.line(format!("  login        {ms} ms, {bytes} bytes"));
    }
    output.line(format!("  port         {} (TCP and UDP)", status.port));
    output.line(format!("  node         {}", status.node));
    output.line(format!("  network      {}", status.network));
    if let Some(overlay) = &status.overlay {
        output.line(format!(
            "  overlay      {} super nodes ({} dead), {} nodes attached here ({} %), {} entries \
             kept",
            overlay.members, overlay.dead, overlay.attached, overlay.load_percent, overlay.entries
        ));
        output.line(format!(
            "  look-ups     {}, {} from the cache, {} answered by nobody",
            overlay.look_ups, overlay.cache_hits, overlay.by_nobody
        ));
    }
    output.line(format!("  memory       {:.1} MiB", status.rss_mib));
    output.line(format!("  calls        {}", status.calls));
    for talk in status.talks.iter().filter(|talk| talk["statistics"].is_object()) {
        let user = talk["user"].as_str().unwrap_or("-");
        output.line(format!("    {user}: {}", describe_statistics(&talk["statistics"])));
    }
    Ok(())
}

/// Lists microphones and speakers.
pub(crate) async fn devices(output: Output) -> Result<()> {
    let devices = tokio::task::spawn_blocking(cooee_node::audio::list_devices).await??;
    if devices.is_empty() {
        output.line("the sound server has no devices");
    }
    for device in &devices {
        output.result(device, format!("{device:?}"));
    }
    Ok(())
}

/// Prints what happens as it happens, one JSON object a line.
pub(crate) async fn events(client: &Client) -> Result<()> {
    let mut events = client.events().await?;
    let output = Output::new(true);
    let mut interrupts = Interrupts::new();
    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => output.json_line(&event),
                None => return Ok(()),
            },
            () = interrupts.next() => return Ok(()),
        }
    }
}

/// Ends the running node.
pub(crate) async fn down(client: &Client, output: Output) -> Result<()> {
    let answer: Value = client.post("/v1/shut-down", &json!({})).await?;
    output.result(&answer, "the node ends");
    Ok(())
}

/// `cooee drain`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee drain                      before an update of the machine
  cooee drain --patience 3600      let relayed calls of up to an hour end

Prints how many nodes, splices and relayed calls there were, and how many were left when the time
was up. SIGTERM and Ctrl-C on the super node do the same with two seconds of patience.")]
pub(crate) struct DrainArgs {
    /// Seconds to wait at most for attached nodes and relayed calls
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    patience: u64,
}

/// Takes a dedicated super node out of service; returns when it is done.
pub(crate) async fn drain(arguments: DrainArgs, client: &Client, output: Output) -> Result<()> {
    let wish = json!({ "patience_s": arguments.patience });
    let drained: Value = client.post("/v1/drain", &wish).await?;
    let said = format!(
        "{} attached nodes went elsewhere, {} had not when the time was up; {} relayed calls were \
         cut. The super node ends.",
        drained["attached"].as_u64().unwrap_or(0) - drained["attached_left"].as_u64().unwrap_or(0),
        drained["attached_left"],
        drained["allocations_left"]
    );
    output.result(&drained, &said);
    Ok(())
}
