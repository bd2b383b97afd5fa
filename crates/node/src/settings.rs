//! What a node is told: built-in values, then the profile's `config.toml`, then the environment,
//! then flags; the later wins.
//!
//! Only this file knows the layering. Everything below gets a plain [`Settings`].

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Why the settings cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be; the message names line and key.
    #[error("{path} is not a valid configuration:\n{message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The parser's message.
        message: String,
    },
}

/// Whether this node offers itself as a super node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuperNodeRole {
    /// By capability: when others can reach it and it has resources to spare.
    #[default]
    Auto,
    /// Always: a dedicated super node.
    Always,
    /// Never.
    Never,
}

/// What happens when a call arrives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerMode {
    /// It rings until somebody runs `cooee answer`.
    #[default]
    Ring,
    /// It is answered at once.
    Auto,
}

/// Whether captured sound is cleaned up: echo cancellation, noise suppression, gain control.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoundProcessing {
    /// For real microphones, not for files and tones.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: for headsets with their own, and for measuring.
    Off,
}

/// Everything a node can be told. The names are the keys of `config.toml`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// TCP and UDP port; none: the one drawn at installation.
    pub port: Option<u16>,
    /// Addresses to bind.
    pub bind: String,
    /// Also listen on 443 and 80 where the system lets us.
    pub well_known_ports: bool,
    /// Whether this node serves others.
    pub super_node: SuperNodeRole,
    /// Attached nodes that this node takes at most as a super node; none: 5,000.
    pub capacity: Option<u32>,
    /// Seconds that a user's node must have been up before it offers itself as a super node.
    pub super_node_after_s: u64,
    /// Bytes per second that this node relays for others at most; 0 relays nothing.
    pub relay_budget: u64,
    /// Address blocks that the relay may forward to although they are not public, such as
    /// `192.168.0.0/16`: for networks without Internet.
    pub relay_to: Vec<String>,
    /// Addresses under which others reach this super node, where it cannot tell by itself.
    pub advertise: Vec<String>,
    /// Offer loopback addresses for voice too: for networks of one machine.
    pub loopback: bool,
    /// Microphone: `default`, `device:NAME`, `wav:PATH`, `tone:HZ`, `silence`.
    pub microphone: String,
    /// Speaker: `default`, `device:NAME`, `wav:PATH`, `null`.
    pub speaker: String,
    /// Echo cancellation, noise suppression and gain control: `auto`, `on`, `off`.
    pub processing: SoundProcessing,
    /// Keep what a headless microphone says in this file, with a time base, to measure against.
    pub mouth_recording: Option<PathBuf>,
    /// Play back what is heard, so much later: the echo user.
    pub echo_delay_ms: Option<u64>,
    /// What happens when a call arrives.
    pub answer: AnswerMode,
    /// What others see beside the user name; none: the user name alone.
    pub display_name: Option<String>,
    /// Searches by wildcard may show this user.
    pub listed: bool,
    /// A second call rings while one goes on; otherwise its caller hears "busy".
    pub call_waiting: bool,
    /// How long a call placed here rings before it ends with "no answer", in seconds.
    pub ring_seconds: u64,
    /// HTTP CONNECT proxy, `http://host:port`; none: the environment's.
    pub proxy: Option<String>,
    /// While serving others: seconds between two questions to the login server for devices that
    /// were removed. A removed device is cut off within this time.
    pub revocations_every_s: u64,
    /// Port of the local API on loopback; 0: any free one.
    pub api_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: None,
            bind: "0.0.0.0".to_owned(),
            well_known_ports: true,
            super_node: SuperNodeRole::Auto,
            capacity: None,
            super_node_after_s: cooee_proto::overlay::election::UPTIME_MIN.as_secs(),
            relay_budget: 5_000_000,
            relay_to: Vec::new(),
            advertise: Vec::new(),
            loopback: false,
            microphone: "default".to_owned(),
            speaker: "default".to_owned(),
            processing: SoundProcessing::Auto,
            mouth_recording: None,
            echo_delay_ms: None,
            answer: AnswerMode::Ring,
            display_name: None,
            listed: true,
            call_waiting: true,
            ring_seconds: 45,
            proxy: None,
            revocations_every_s: 60,
            api_port: 0,
        }
    }
}

impl Settings {
    /// Attached nodes that this node takes at most.
    pub fn attached_max(&self) -> usize {
        self.capacity.unwrap_or(5_000) as usize
    }

    /// Reads `config.toml` of a profile; the built-in values where there is none.
    pub fn load(profile: &Path) -> Result<Self, SettingsError> {
        let path = profile.join("config.toml");
        match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| SettingsError::Malformed {
                path,
                message: error.to_string().trim_end().to_owned(),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(SettingsError::Unreadable { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_gives_the_built_in_values() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Settings::load(folder.path()).unwrap(), Settings::default());
    }

    #[test]
    fn a_file_overrides_only_what_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let text = "relay-budget = 0\nanswer = \"auto\"\nsuper-node = \"never\"\n";
        fs::write(folder.path().join("config.toml"), text).unwrap();
        let settings = Settings::load(folder.path()).unwrap();
        assert_eq!(settings.relay_budget, 0);
        assert_eq!(settings.answer, AnswerMode::Auto);
        assert_eq!(settings.super_node, SuperNodeRole::Never);
        assert_eq!(settings.microphone, "default");
    }

    #[test]
    fn a_misspelt_key_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.toml"), "relay-budgte = 0\n").unwrap();
        let error = Settings::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains("relay-budgte") && error.contains("config.toml"), "{error}");
    }
}
