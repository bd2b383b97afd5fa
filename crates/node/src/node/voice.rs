//! What the legs of calls are given: relays and STUN servers, microphones and speakers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cooee_media::{
    processing::ProcessingConfig,
    session::{PathDescription, RelayServer, RelayTransport},
};
use cooee_proto::{
    attachment::Udp, call::CallId, control::addresses_from_wire, wire::v1::TurnCredentials,
};

use tokio::sync::watch;

use super::NodeError;
use crate::{
    api::types::Problem,
    audio::{AudioConfig, CallSound, MicrophoneSpec, SpeakerSpec},
    call::LegResources,
    media::MediaLegConfig,
    room::Room,
    settings::{Settings, SoundProcessing},
    transport::ProxyConfig,
};

/// Calls whose devices were chosen one by one; the oldest choice is forgotten above it.
const CHOICES_MAX: usize = 64;

/// Relays and sound devices for calls.
pub(super) struct Voice {
    audio: AudioConfig,
    sound: CallSound,
    processing: SoundProcessing,
    loopback: bool,
    proxy: ProxyConfig,
    room: Room,
    state: Mutex<State>,
    /// The relays of `state`, for the legs that run.
    relay_updates: watch::Sender<Vec<RelayServer>>,
}

#[derive(Default)]
struct State {
    relays: Vec<RelayServer>,
    reserve: Vec<RelayServer>,
    stun_servers: Vec<SocketAddr>,
    relay_tls: Option<Arc<rustls::ClientConfig>>,
    chosen: BTreeMap<CallId, AudioConfig>,
    paths: BTreeMap<CallId, PathDescription>,
}

impl Voice {
    pub(super) fn new(settings: &Settings) -> Result<Self, NodeError> {
        let microphone = settings.microphone.parse().map_err(|error| NodeError::Setting {
            key: "microphone",
            value: settings.microphone.clone(),
            problem: format!("{error}"),
        })?;
        let speaker = settings.speaker.parse().map_err(|error| NodeError::Setting {
            key: "speaker",
            value: settings.speaker.clone(),
            problem: format!("{error}"),
        })?;
        let mouth_recording = settings.mouth_recording.clone();
        let echo = settings.echo_delay_ms.map(Duration::from_millis);
        Ok(Self {
            audio: AudioConfig { microphone, speaker, mouth_recording },
            sound: CallSound { echo, ..CallSound::default() },
            processing: settings.processing,
            loopback: settings.loopback,
            proxy: settings.proxy()?,
            room: Room::default(),
            state: Mutex::default(),
            relay_updates: watch::Sender::new(Vec::new()),
        })
    }

    /// Whether the calls have little room.
    pub(super) fn room(&self) -> &Room {
        &self.room
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices of a call that is being placed; the configured ones where none is named.
    pub(super) fn choose(
        &self,
        microphone: Option<String>,
        speaker: Option<String>,
    ) -> Result<AudioConfig, Problem> {
        let mut audio = self.audio.clone();
        if let Some(text) = microphone {
            audio.microphone = text
                .parse::<MicrophoneSpec>()
                .map_err(|error| Problem::bad_request(error.to_string()))?;
        }
        if let Some(text) = speaker {
            audio.speaker = text
                .parse::<SpeakerSpec>()
                .map_err(|error| Problem::bad_request(error.to_string()))?;
        }
        Ok(audio)
    }

    /// How the voice of a call travels now, in words.
    pub(super) fn path_of(&self, call: CallId) -> Option<String> {
        self.state().paths.get(&call).map(|path| path.kind.to_string())
    }

    /// Uses these devices for a call.
    pub(super) fn use_for(&self, call: CallId, audio: AudioConfig) {
        let mut state = self.state();
        while state.chosen.len() >= CHOICES_MAX {
            state.chosen.pop_first();
        }
        state.chosen.insert(call, audio);
    }

    /// Replaces the relays by those that the credentials are for. Where UDP is known to
    /// work or not, only that way is worth a try at first; one way by TLS stays in reserve.
    pub(super) fn learn_relays(
        &self,
        credentials: &[TurnCredentials],
        udp: Udp,
        relay_tls: Option<Arc<rustls::ClientConfig>>,
    ) {
        let (mut relays, mut reserve) = (Vec::new(), Vec::new());
        let mut stun_servers = Vec::new();
        for minted in credentials {
            let addresses: Vec<_> = addresses_from_wire(&minted.addresses).into_iter().collect();
            // UDP is served at the first; the last is on a port that lets our TCP through.
            let (Some(&first), Some(&last)) = (addresses.first(), addresses.last()) else {
                continue;
            };
            stun_servers.push(first);
            let ways: &[(RelayTransport, SocketAddr)] = match udp {
                Udp::Works => &[(RelayTransport::Udp, first)],
                Udp::Unknown => &[(RelayTransport::Udp, first), (RelayTransport::Tls, last)],
                Udp::Blocked => &[(RelayTransport::Tls, last), (RelayTransport::Tcp, last)],
            };
            let server = |&(transport, address): &(RelayTransport, SocketAddr)| RelayServer {
                address,
                transport,
                username: minted.username.clone(),
                password: minted.password.clone(),
            };
            relays.extend(ways.iter().map(server));
            if udp == Udp::Works {
                // The last one known: the media most likely goes by the first.
                reserve = vec![server(&(RelayTransport::Tls, last))];
            }
        }
        self.relay_updates.send_replace(relays.clone());
        let mut state = self.state();
        state.relays = relays;
        state.reserve = reserve;
        state.stun_servers = stun_servers;
        state.relay_tls = relay_tls;
    }
}

impl LegResources for Voice {
    fn transport(&self, controlling: bool, reveal_addresses: bool) -> MediaLegConfig {
        let state = self.state();
        MediaLegConfig {
            controlling,
            reveal_addresses,
            stun_servers: state.stun_servers.iter().copied().take(2).collect(),
            relays: state.relays.clone(),
            reserve_relays: state.reserve.clone(),
            relay_updates: Some(self.relay_updates.subscribe()),
            relay_tls: state.relay_tls.clone(),
            loopback: self.loopback,
            proxy: self.proxy.clone(),
            room: self.room.clone(),
        }
    }

    fn path_changed(&self, call: CallId, path: Option<PathDescription>) {
        tracing::info!(%call, path = ?path.map(|path| path.kind.to_string()), "voice path");
        let paths = &mut self.state().paths;
        match path {
            Some(path) => paths.insert(call, path),
            None => paths.remove(&call),
        };
    }

    fn sound(&self, call: CallId) -> (AudioConfig, CallSound) {
        let chosen = self.state().chosen.remove(&call);
        let audio = chosen.unwrap_or_else(|| self.audio.clone());
        let wanted = match self.processing {
            SoundProcessing::Auto => audio.microphone.is_device(),
            SoundProcessing::On => true,
            SoundProcessing::Off => false,
        };
        (audio, CallSound { processing: wanted.then(ProcessingConfig::default), ..self.sound })
    }
}
