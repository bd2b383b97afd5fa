//! Runs the media legs of calls: one task for each, between the call task, the leg's transport
//! and the audio thread.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use cooee_media::{
    session::{
        CandidateKind, DtlsRole, PathDescription, RemoteCandidate, SessionEvent,
        TransportParameters,
    },
    voice::{PAYLOAD_TYPE_BUNDLE, PAYLOAD_TYPE_OPUS, PAYLOAD_TYPE_REDUNDANT},
};
use cooee_proto::{
    call::{CallId, MediaState},
    wire::v1::{self, Codec, IceCandidate, MediaOffer, codec, ice_candidate},
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{LegId, MediaCommand, MediaEvent, live::Counts};
use crate::{
    audio::{
        AudioConfig, AudioEvent, AudioLeg, CallControls, CallPath, CallSound, link::voice_link,
    },
    media::{MediaLeg, MediaLegConfig},
    udp::UdpEndpoint,
};

/// Commands that wait for one leg. Chosen: all candidates of a peer and more.
const COMMANDS_MAX: usize = 256;

/// How often people who look are told how the voice fares. Chosen: as often as a person reads.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);

const RECORDING_FAILED: &str = "the recording stopped: it cannot be written (is the disk full?); \
    the call goes on";

/// What a leg needs of the rest of the node, known without waiting.
pub trait LegResources: Send + Sync + 'static {
    /// STUN servers, relays with credentials, and whether addresses may be told at once.
    fn transport(&self, controlling: bool, reveal_addresses: bool) -> MediaLegConfig;

    /// The voice of a call takes this path now; none: the leg has ended. For people to see.
    fn path_changed(&self, _call: CallId, _path: Option<PathDescription>) {}

    /// Sound devices and voice settings of a call.
    fn sound(&self, call: CallId) -> (AudioConfig, CallSound);
}

/// Runs legs until the commands end. Give the other ends to [`super::CallServiceConfig`].
pub async fn run_legs(
    endpoint: UdpEndpoint,
    resources: Arc<dyn LegResources>,
    mut commands: mpsc::Receiver<MediaCommand>,
    events: mpsc::Sender<MediaEvent>,
) {
    let mut legs: BTreeMap<LegId, mpsc::Sender<MediaCommand>> = BTreeMap::new();
    while let Some(command) = commands.recv().await {
        let leg = command.leg();
        if let MediaCommand::Start { controlling, relay_only, .. } = command {
            let config = resources.transport(controlling, !relay_only);
            match MediaLeg::start(&endpoint, config) {
                Ok((media, happened)) => {
                    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
                    let own = Leg::new(leg, controlling, media, resources.clone(), events.clone());
                    tokio::spawn(own.run(receiver, happened));
                    legs.insert(leg, sender);
                }
                // The call machine waits for parameters in vain and ends the leg.
                Err(error) => tracing::error!(%error, call = %leg.call, "no media leg"),
            }
            continue;
        }
        let is_last = matches!(command, MediaCommand::Stop { .. });
        if let Some(sender) = legs.get(&leg)
            && sender.send(command).await.is_err()
        {
            tracing::debug!(call = %leg.call, "a media leg has ended before its call");
        }
        if is_last {
            legs.remove(&leg);
        }
    }
}

struct Leg {
    id: LegId,
    controlling: bool,
    media: MediaLeg,
    resources: Arc<dyn LegResources>,
    events: mpsc::Sender<MediaEvent>,
    local: TransportParameters,
    /// Generation that the peer has reached; the session follows it by itself.
    remote_generation: u32,
    remote_takes_bundles: bool,
    sound: Option<(AudioLeg, CallControls)>,
    /// What was counted at the last telling.
    told: Option<(Instant, Counts)>,
}

impl Leg {
    fn new(
        id: LegId,
        controlling: bool,
        media: MediaLeg,
        resources: Arc<dyn LegResources>,
        events: mpsc::Sender<MediaEvent>,
    ) -> Self {
        let local = media.local_parameters().clone();
        Self {
            id,
            controlling,
            media,
            resources,
            events,
            local,
            remote_generation: 0,
            remote_takes_bundles: false,
            sound: None,
            told: None,
        }
    }

    async fn run(
        mut self,
        mut commands: mpsc::Receiver<MediaCommand>,
        mut happened: mpsc::Receiver<SessionEvent>,
    ) {
        self.tell_parameters().await;
        let mut look = interval(STATISTICS_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let report = loop {
            let changed = async {
                match &mut self.sound {
                    Some((audio, _)) => audio.next_event().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(MediaCommand::Stop { report, .. }) => break Some(report),
                    Some(command) => self.perform(command).await,
                    None => break None,
                },
                Some(event) = happened.recv() => self.handle_event(event).await,
                Some(change) = changed => self.tell_devices(change).await,
                _ = look.tick() => self.tell_statistics().await,
            }
        };
        self.resources.path_changed(self.id.call, None);
        let counts = self.counts();
        self.sound = None;
        let session = self.media.close().await;
        if let Some(report) = report {
            // A call task that no longer asks needs no answer.
            let _ = report.send(counts.map(|counts| Counts { session, ..counts }.summary()));
        }
    }

    fn counts(&self) -> Option<Counts> {
        let (audio, controls) = self.sound.as_ref()?;
        let (voice, audio) = (controls.statistics(), audio.statistics());
        Some(Counts { session: self.media.statistics(), voice, audio })
    }

    async fn tell_statistics(&mut self) {
        let Some(counts) = self.counts() else { return };
        let now = Instant::now();
        let statistics = counts.since(self.told.as_ref(), now);
        let failed_before =
            self.told.as_ref().is_some_and(|(_, before)| before.audio.recording_failed);
        let recording_failed = counts.audio.recording_failed && !failed_before;
        self.told = Some((now, counts));
        self.tell(MediaEvent::Statistics { leg: self.id, statistics }).await;
        if recording_failed {
            let message = RECORDING_FAILED.to_owned();
            self.tell_devices(AudioEvent::RecordingFailed { message }).await;
        }
    }

    async fn tell_devices(&mut self, change: AudioEvent) {
        self.tell(MediaEvent::Devices { leg: self.id, change }).await;
    }

    async fn perform(&mut self, command: MediaCommand) {
        let result = match command {
            MediaCommand::RemoteParameters { transport, media, .. } => {
                self.remote_generation = transport.generation;
                if let Some(media) = media {
                    self.take_offer(&media);
                }
                let candidates = transport.candidates.clone();
                let mut result = match self.remote(transport) {
                    Some(parameters) => self.media.set_remote(parameters).await,
                    None => Ok(()),
                };
                for candidate in candidates.iter().filter_map(remote_candidate) {
                    result = result.and(self.media.add_remote_candidate(candidate).await);
                }
                result
            }
            MediaCommand::RemoteCandidate { candidate, .. } => match remote_candidate(&candidate) {
                Some(candidate) => self.media.add_remote_candidate(candidate).await,
                None => Ok(()),
            },
            MediaCommand::Reveal { .. } => self.media.reveal_addresses().await,
            MediaCommand::Restart { generation, .. } => {
                if generation > self.local.generation.max(self.remote_generation) {
                    self.media.network_changed().await
                } else {
                    Ok(())
                }
            }
            MediaCommand::Voice { flows, muted, .. } => self.voice(flows, muted).await,
            MediaCommand::Start { .. } | MediaCommand::Stop { .. } => Ok(()),
        };
        if let Err(error) = result {
            tracing::warn!(call = %self.id.call, %error, "media leg");
        }
    }

    async fn handle_event(&mut self, event: SessionEvent) {
        let leg = self.id;
        if let SessionEvent::Connected { path, .. } | SessionEvent::PathChanged(path) = &event {
            self.resources.path_changed(leg.call, Some(*path));
        }
        let event = match event {
            SessionEvent::CandidateFound(found) => MediaEvent::Candidate {
                leg,
                generation: self.local.generation,
                candidate: wire_candidate(found),
            },
            SessionEvent::ParametersChanged(parameters) => {
                self.local = parameters;
                return self.tell_parameters().await;
            }
            SessionEvent::Connected { .. } | SessionEvent::PathRestored => {
                MediaEvent::State { leg, state: MediaState::Alive }
            }
            SessionEvent::PathLost | SessionEvent::Closed => {
                MediaEvent::State { leg, state: MediaState::Deaf }
            }
            SessionEvent::Refused => MediaEvent::State { leg, state: MediaState::Failed },
            other => return tracing::debug!(call = %leg.call, ?other, "media leg"),
        };
        self.tell(event).await;
    }

    /// Connects the sound devices at first, then lets voice flow or not.
    async fn voice(&mut self, flows: bool, muted: bool) -> Result<(), crate::media::MediaError> {
        if self.sound.is_none() {
            let (config, sound) = self.resources.sound(self.id.call);
            let (end, reader, writer) = voice_link()?;
            let opened = tokio::task::spawn_blocking(move || {
                let (path, controls) = CallPath::new(sound, end).map_err(|e| e.to_string())?;
                let audio = AudioLeg::start(&config, path).map_err(|error| error.to_string())?;
                Ok::<_, String>((audio, controls))
            });
            match opened.await.unwrap_or_else(|error| Err(error.to_string())) {
                Ok(sound) => {
                    self.media.attach_voice(reader, writer).await?;
                    sound.1.set_bundles(self.remote_takes_bundles);
                    self.sound = Some(sound);
                }
                Err(message) => {
                    tracing::error!(call = %self.id.call, %message, "no sound");
                    self.tell(MediaEvent::NoSound { leg: self.id, message }).await;
                }
            }
        }
        if let Some((_, controls)) = &self.sound {
            controls.set_muted(muted);
            controls.set_held(!flows);
        }
        if flows { self.media.resume().await } else { self.media.hold().await }
    }

    /// What the other side can play.
    fn take_offer(&mut self, media: &MediaOffer) {
        self.remote_takes_bundles = takes_bundles(media);
        if let Some((_, controls)) = &self.sound {
            controls.set_bundles(self.remote_takes_bundles);
        }
    }

    async fn tell_parameters(&mut self) {
        let transport = v1::TransportParameters {
            ufrag: self.local.ufrag.clone(),
            pwd: self.local.pwd.clone(),
            fingerprint: self.local.fingerprint.to_vec().into(),
            candidates: Vec::new(),
            generation: self.local.generation,
        };
        self.tell(MediaEvent::Parameters { leg: self.id, transport, media: offer() }).await;
    }

    async fn tell(&mut self, event: MediaEvent) {
        // The call task has ended: so will this leg.
        let _ = self.events.send(event).await;
    }

    fn remote(&self, transport: v1::TransportParameters) -> Option<TransportParameters> {
        let dtls_role = if self.controlling { DtlsRole::Passive } else { DtlsRole::Active };
        Some(TransportParameters {
            ufrag: transport.ufrag,
            pwd: transport.pwd,
            fingerprint: transport.fingerprint.as_ref().try_into().ok()?,
            dtls_role,
            generation: transport.generation,
        })
    }
}

/// What every node can receive.
fn offer() -> MediaOffer {
    let codec = |kind: codec::Kind, payload_type: u8| Codec {
        kind: kind as i32,
        payload_type: u32::from(payload_type),
        frame_tenths_ms: Vec::new(),
    };
    let codecs = vec![
        codec(codec::Kind::Opus, PAYLOAD_TYPE_OPUS),
        codec(codec::Kind::Redundancy, PAYLOAD_TYPE_REDUNDANT),
        codec(codec::Kind::Bundle, PAYLOAD_TYPE_BUNDLE),
    ];
    MediaOffer { codecs, ssrc: 0 }
}

/// Whether the other side can play bundles: older nodes cannot.
fn takes_bundles(media: &MediaOffer) -> bool {
    let is_bundle = |codec: &Codec| {
        codec.kind() == codec::Kind::Bundle && codec.payload_type == u32::from(PAYLOAD_TYPE_BUNDLE)
    };
    media.codecs.iter().any(is_bundle)
}

fn wire_candidate(found: RemoteCandidate) -> IceCandidate {
    let kind = match found.kind {
        CandidateKind::Host => ice_candidate::Kind::Host,
        CandidateKind::ServerReflexive => ice_candidate::Kind::ServerReflexive,
        CandidateKind::Relayed => ice_candidate::Kind::Relayed,
        CandidateKind::RelayedOverStream => ice_candidate::Kind::RelayedOverStream,
    };
    let address = match found.address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    IceCandidate {
        kind: kind as i32,
        transport: ice_candidate::Transport::Udp as i32,
        priority: 0,
        address: address.into(),
        port: u32::from(found.address.port()),
        foundation: String::new(),
    }
}

fn remote_candidate(candidate: &IceCandidate) -> Option<RemoteCandidate> {
    let kind = match candidate.kind() {
        ice_candidate::Kind::Host => CandidateKind::Host,
        ice_candidate::Kind::Relayed => CandidateKind::Relayed,
        ice_candidate::Kind::RelayedOverStream => CandidateKind::RelayedOverStream,
        _ => CandidateKind::ServerReflexive,
    };
    if candidate.transport() != ice_candidate::Transport::Udp {
        return None;
    }
    let port = u16::try_from(candidate.port).ok()?;
    let bytes = candidate.address.as_ref();
    let address = match bytes.len() {
        4 => SocketAddr::from((<[u8; 4]>::try_from(bytes).ok()?, port)),
        _ => SocketAddr::from((<[u8; 16]>::try_from(bytes).ok()?, port)),
    };
    Some(RemoteCandidate { kind, address })
}
