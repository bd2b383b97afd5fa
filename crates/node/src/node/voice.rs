//! What the legs of calls are given: relays and STUN servers, microphones and speakers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cooee_media::{
    processing::ProcessingConfig,
    session::{RelayServer, RelayTransport},
};
use cooee_proto::{
    attachment::Udp, call::CallId, control::addresses_from_wire, wire::v1::TurnCredentials,
};

use super::NodeError;
use crate::{
    api::types::Problem,
    audio::{AudioConfig, CallSound, MicrophoneSpec, SpeakerSpec},
    call::LegResources,
    media::MediaLegConfig,
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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    relays: Vec<RelayServer>,
    stun_servers: Vec<SocketAddr>,
    relay_tls: Option<Arc<rustls::ClientConfig>>,
    chosen: BTreeMap<CallId, AudioConfig>,
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
            state: Mutex::default(),
        })
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

    /// Uses these devices for a call.
    pub(super) fn use_for(&self, call: CallId, audio: AudioConfig) {
        let mut state = self.state();
        while state.chosen.len() >= CHOICES_MAX {
            state.chosen.pop_first();
        }
        state.chosen.insert(call, audio);
    }

    /// Replaces the relays by those that the credentials are for. Where UDP is known to
    /// work or not, only that way is worth a try.
    pub(super) fn learn_relays(
        &self,
        credentials: &[TurnCredentials],
        udp: Udp,
        relay_tls: Option<Arc<rustls::ClientConfig>>,
    ) {
        let mut relays = Vec::new();
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
            relays.extend(ways.iter().map(|&(transport, address)| RelayServer {
                address,
                transport,
                username: minted.username.clone(),
                password: minted.password.clone(),
            }));
        }
        let mut state = self.state();
        state.relays = relays;
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
            relay_tls: state.relay_tls.clone(),
            loopback: self.loopback,
            proxy: self.proxy.clone(),
        }
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
