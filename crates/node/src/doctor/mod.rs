//! What a user's machine and network allow, in plain words with what to do (`cooee doctor`).
//!
//! Works on a profile's invitation and host cache, beside a running node or without one: it uses
//! sockets and a device key of its own, changes nothing and takes at most about half a minute.

mod network;
mod sound;

use std::{fs, path::Path};

use cooee_proto::identity::Invitation;
use serde::Serialize;
use serde_json::Value;

use crate::settings::Settings;

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Calls work, not as well as they could.
    Fair,
    /// Calls do not work until this is mended.
    Bad,
    /// It could not be told.
    Unknown,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at, one word.
    pub check: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, one sentence or more.
    pub says: String,
    /// What to do, if something should be done.
    pub advice: Option<String>,
    /// The figures behind it.
    pub data: Value,
}

impl Finding {
    fn new(check: &'static str, verdict: Verdict, says: impl Into<String>) -> Self {
        Self { check, verdict, says: says.into(), advice: None, data: Value::Null }
    }

    fn advise(mut self, advice: &str) -> Self {
        self.advice = Some(advice.to_owned());
        self
    }

    fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

/// Looks at everything; `tell` hears each finding as soon as it is there.
pub async fn examine(
    folder: &Path,
    settings: &Settings,
    mut tell: impl FnMut(&Finding),
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |finding: Finding| {
        tell(&finding);
        findings.push(finding);
    };
    match invitation(folder) {
        Ok(invitation) => network::examine(folder, settings, &invitation, &mut add).await,
        Err(finding) => {
            add(finding);
            add(network::ipv6(&[]).await);
        }
    }
    for finding in sound::examine(settings).await {
        add(finding);
    }
    findings
}

fn invitation(folder: &Path) -> Result<Invitation, Finding> {
    let path = folder.join("invitation");
    let none = |says: String| {
        Finding::new("profile", Verdict::Bad, says)
            .advise("Register or log in first: `cooee register NAME --invitation LINK`.")
    };
    let text = fs::read_to_string(&path)
        .map_err(|_| none(format!("{} belongs to no network yet.", folder.display())))?;
    text.trim().parse().map_err(|error| none(format!("{} is damaged: {error}.", path.display())))
}
