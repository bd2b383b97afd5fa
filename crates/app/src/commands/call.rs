//! `cooee call`: places a call and stays with it until it ends.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use cooee_node::{api::types::PlaceCall, call::EndReason};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::{
    client::{Client, Events},
    failure::{Failure, FailureKind},
    output::Output,
    signals::{self, Interrupts},
};

/// `cooee call NAME`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cooee call bob                  talk until one of you hangs up (Ctrl-C hangs up)
  cooee call echo --for 10        talk to the echo user for ten seconds
  cooee call bob --microphone wav:question.wav --speaker wav:answer.wav")]
pub(crate) struct CallArgs {
    /// Whom to call
    name: String,
    /// Hang up after this many seconds of talk
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds)]
    limit: Option<Duration>,
    /// Microphone: default, device:NAME, wav:PATH[,loop], tone:HZ, silence
    #[arg(long, value_name = "SPEC")]
    microphone: Option<String>,
    /// Speaker: default, device:NAME, wav:PATH, null
    #[arg(long, value_name = "SPEC")]
    speaker: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Places a call and stays with it until it ends.
pub(crate) async fn run(arguments: CallArgs, client: &Client, output: Output) -> Result<()> {
    let mut interrupts = Interrupts::new();
    let mut events = client.events().await?;
    let place = PlaceCall {
        to: arguments.name.clone(),
        microphone: arguments.microphone,
        speaker: arguments.speaker,
    };
    let placed: Value = client.post("/v1/calls", &place).await?;
    let call = placed["call"].as_str().context("the node names the call")?.to_owned();
    output.note(format!("calling {} … (Ctrl-C hangs up)", arguments.name));
    let mut follow = Follow {
        client,
        output,
        call,
        answered: false,
        ending: false,
        sent_by: None,
        has_figures: false,
    };
    follow.until_end(&mut events, &mut interrupts, arguments.limit).await
}

/// Follows one call and speaks of its changes.
struct Follow<'a> {
    client: &'a Client,
    output: Output,
    call: String,
    answered: bool,
    ending: bool,
    /// The call that sent us to this one, until it is answered.
    sent_by: Option<String>,
    /// A line of figures stands on the terminal and is to be overwritten.
    has_figures: bool,
}

impl Follow<'_> {
    async fn until_end(
        &mut self,
        events: &mut Events,
        interrupts: &mut Interrupts,
        limit: Option<Duration>,
    ) -> Result<()> {
        let mut hang_up_at = None;
        loop {
            let due = async {
                match hang_up_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let ending = self.ending;
            tokio::select! {
                event = events.next() => {
                    let Some(event) = event? else { bail!("the node ended during the call") };
                    if let Some(end) = self.handle(&event) {
                        return end;
                    }
                    if self.answered && !self.ending && hang_up_at.is_none() {
                        hang_up_at = limit.map(|limit| Instant::now() + limit);
                    }
                }
                () = due, if !ending => self.hang_up().await?,
                () = interrupts.next() => {
                    if ending {
                        signals::exit("interrupted; the node goes on ending the call");
                    }
                    self.hang_up().await?;
                }
            }
        }
    }

    async fn hang_up(&mut self) -> Result<()> {
        self.ending = true;
        let path = format!("/v1/calls/{}/hang-up", self.call);
        self.client.post::<Value>(&path, &json!({})).await.map(drop)
    }

    /// Speaks of an event; the result of the command when it was the last.
    fn handle(&mut self, event: &Value) -> Option<Result<()>> {
        let kind = event["event"].as_str()?;
        if kind == "replaced" && event["old"] == self.call.as_str() {
            self.call = event["new"].as_str()?.to_owned();
        }
        if event["call"] != self.call.as_str() {
            return None;
        }
        self.output.json_line(event);
        let text = |key: &str| event[key].as_str().unwrap_or("none").to_owned();
        match kind {
            "statistics" => self.show_figures(event),
            "changed" => self.say_phase(event),
            "media_established" => self.note("voice path is up"),
            "media_interrupted" => self.note("voice path lost, rebuilding"),
            "signalling_lost" => self.note("signalling lost, the call goes on"),
            "microphone_changed" => self.note(&format!("microphone: {}", text("device"))),
            "speaker_changed" => self.note(&format!("speaker: {}", text("device"))),
            "sound_server_lost" => self.note("the sound server is gone, waiting for it"),
            "sound_server_returned" => self.note("the sound server is back"),
            "no_sound" | "recording_failed" => self.note(&text("message")),
            "dtmf_received" => self.note(&format!("key {}", text("digit"))),
            "transferring" => self.follow_transfer(event),
            "transfer_finished" if event["succeeded"] == true => self.note("sent on"),
            "transfer_finished" => self.note("could not be sent on, the call stays"),
            "recorded" => return self.finish_or_return(&event["record"]),
            _ => {}
        }
        None
    }

    /// The other side sent us to somebody else: from now on that call is followed.
    fn follow_transfer(&mut self, event: &Value) {
        let Some(new) = event["new"].as_str() else { return };
        self.note(&format!("sent on to {}", event["to"].as_str().unwrap_or("somebody")));
        self.sent_by = Some(std::mem::replace(&mut self.call, new.to_owned()));
    }

    fn finish_or_return(&mut self, record: &Value) -> Option<Result<()>> {
        if record["answered_unix_ms"].is_null()
            && let Some(before) = self.sent_by.take()
        {
            self.note("nobody there, back to the call before");
            self.call = before;
            return None;
        }
        self.end_figures();
        Some(self.finish(record))
    }

    /// A line of the call's story, in place of the figures.
    fn note(&mut self, text: &str) {
        self.end_figures();
        self.output.note(format!("  {text}"));
    }

    fn show_figures(&mut self, statistics: &Value) {
        if !self.output.json && io::stderr().is_terminal() {
            eprint!("\r\x1b[2K  {}", describe_statistics(statistics));
            self.has_figures = true;
        }
    }

    fn end_figures(&mut self) {
        if std::mem::take(&mut self.has_figures) {
            eprint!("\r\x1b[2K");
        }
    }

    fn say_phase(&mut self, summary: &Value) {
        match summary["phase"].as_str() {
            Some("remote_ringing") => self.note("it rings"),
            Some("active") if !self.answered || self.sent_by.is_some() => {
                self.answered = true;
                self.sent_by = None;
                self.note("answered");
            }
            _ => {}
        }
        if summary["held_remotely"] == true {
            self.note("the other side holds the call");
        }
    }

    fn finish(&self, record: &Value) -> Result<()> {
        self.output.line(describe_record(record));
        if record["answered_unix_ms"].is_null() {
            return Err(not_taken(record).into());
        }
        Ok(())
    }
}

/// The word that scripts look for, and what it means.
fn meaning(reason: &Value) -> String {
    let word = reason.as_str().unwrap_or("unknown").replace('_', " ");
    match serde_json::from_value::<EndReason>(reason.clone()).map(|reason| reason.to_string()) {
        Ok(meaning) if meaning != word => format!("the call was not taken: {word} ({meaning})"),
        _ => format!("the call was not taken: {word}"),
    }
}

/// Why nobody answered, and what to do about it.
fn not_taken(record: &Value) -> Failure {
    let user = record["user"].as_str().unwrap_or("the user");
    let reason = record["reason"].as_str().unwrap_or("unknown");
    let message = match reason {
        "unknown_user" => {
            let message = format!(
                "there is no user of the name {user} in this network: check the spelling, or look \
                 for them with `cooee search '{}*'`",
                user.chars().take(3).collect::<String>()
            );
            return Failure::new(FailureKind::UnknownUser, message);
        }
        "unreachable" => format!(
            "{user} cannot be reached now: no device of theirs is online. Leave a message with \
             `cooee message {user} TEXT`, it is delivered when they come back"
        ),
        _ => meaning(&record["reason"]),
    };
    Failure::new(FailureKind::NotTaken, message)
}

/// How the voice fares, in a line.
pub(crate) fn describe_statistics(statistics: &Value) -> String {
    let number = |key: &str| statistics[key].as_f64().unwrap_or(0.0);
    let delay = statistics["mouth_to_ear_ms"].as_f64();
    format!(
        "mouth to ear {} ms · loss {:.1} % · jitter {:.1} ms · concealed {:.1} % · up {:.1} down \
         {:.1} kB/s · {}",
        delay.map_or_else(|| "?".to_owned(), |ms| format!("{ms:.0}")),
        100.0 * number("loss"),
        number("jitter_ms"),
        100.0 * number("concealed"),
        number("sent_bytes_per_s") / 1_000.0,
        number("received_bytes_per_s") / 1_000.0,
        statistics["path"].as_str().unwrap_or("no path"),
    )
}

/// A call record in a few lines.
pub(crate) fn describe_record(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().unwrap_or("-").replace('_', " ");
    let mut lines = format!("call with {}: {}", text("user"), text("reason"));
    if let Some(media) = record["media"].as_object() {
        for (key, value) in media {
            if !value.is_null() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let _ = write!(lines, "\n  {}: {value}", key.replace('_', " "));
            }
        }
    }
    if record["safety_number"].is_string() {
        let _ = write!(lines, "\n  safety number: {}", text("safety_number"));
    }
    lines
}
