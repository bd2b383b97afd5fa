//! How this user shows themself to others, kept over a restart: online, away, do not disturb,
//! invisible. And how a watched user is shown here.

use cooee_proto::wire::v1::Presence;
use serde::{Deserialize, Serialize};

use super::{Node, NodeError, searching::checked};
use crate::{
    api::types::Problem,
    attachment::FoundDevice,
    overlay::LiveTrust,
    people::SeenAs,
    profile::{Profile, write_atomically},
};

/// Where the choice is kept in the profile.
const FILE: &str = "presence";

/// What a user can choose to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShownPresence {
    /// There.
    #[default]
    Online,
    /// Not at the device.
    Away,
    /// There; calls are declined as busy without ringing.
    DoNotDisturb,
    /// Shown as offline, though calls and messages come through.
    Invisible,
}

impl ShownPresence {
    /// The name on the command line and in the profile.
    pub fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Away => "away",
            Self::DoNotDisturb => "do-not-disturb",
            Self::Invisible => "invisible",
        }
    }

    /// The presence of this name.
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Online, Self::Away, Self::DoNotDisturb, Self::Invisible];
        all.into_iter().find(|presence| presence.name() == name)
    }

    /// What the record says.
    pub(super) fn published(self) -> Presence {
        match self {
            Self::Online => Presence::Online,
            Self::Away => Presence::Away,
            Self::DoNotDisturb => Presence::DoNotDisturb,
            Self::Invisible => Presence::Offline,
        }
    }

    /// What was chosen before; online if nothing was.
    pub(super) fn kept(profile: &Profile) -> Self {
        let text = std::fs::read_to_string(profile.path(FILE)).unwrap_or_default();
        Self::parse(text.trim()).unwrap_or_default()
    }

    fn keep(self, profile: &Profile) -> Result<(), NodeError> {
        let text = format!("{}\n", self.name());
        let path = profile.path(FILE);
        write_atomically(&path, text.as_bytes(), false).map_err(|error| NodeError::Setting {
            key: "presence",
            value: self.name().to_owned(),
            problem: format!("{} cannot be written: {error}", path.display()),
        })
    }
}

/// The word for a presence, as the local API says it.
pub(super) fn word(presence: Presence) -> &'static str {
    match presence {
        Presence::Online => "online",
        Presence::Away => "away",
        Presence::DoNotDisturb => "do_not_disturb",
        Presence::Unspecified | Presence::Offline => "offline",
    }
}

/// How present one device makes its user, compared with another.
pub(super) fn rank(presence: &Presence) -> u8 {
    match presence {
        Presence::DoNotDisturb => 3,
        Presence::Online => 2,
        Presence::Away => 1,
        Presence::Unspecified | Presence::Offline => 0,
    }
}

impl Node {
    /// Shows this presence to others from now on, over restarts too.
    pub async fn set_presence(&self, presence: ShownPresence) -> Result<(), Problem> {
        let user = self.tls.credentials().certificate.and_then(|it| it.user().cloned());
        let none = || Problem::refused("a dedicated super node shows no presence");
        let user = user.ok_or_else(none)?;
        presence.keep(&self.profile).map_err(|error| Problem::failed(error.to_string()))?;
        self.choose_presence(presence);
        if let Some(calls) = &self.calls {
            let config = self.calls_config(&user);
            calls.set_config(config).await.map_err(|error| Problem::failed(error.to_string()))?;
        }
        self.publish().await;
        self.tell(serde_json::json!({ "event": "own_presence", "presence": presence.name() }));
        Ok(())
    }

    /// How a watched user is shown, out of all their devices.
    pub(super) fn seen_as(&self, devices: &[FoundDevice]) -> SeenAs {
        let trust = LiveTrust::new(self.tls.clone());
        let found: Vec<_> = devices.iter().filter_map(|device| checked(device, &trust)).collect();
        let most = found.iter().map(|found| found.presence()).max_by_key(rank);
        let presence = word(most.unwrap_or(Presence::Offline));
        let last_seen = found.iter().filter_map(|found| found.last_seen()).max();
        SeenAs { presence, last_seen_unix_ms: last_seen.map(|at| at.0) }
    }
}
