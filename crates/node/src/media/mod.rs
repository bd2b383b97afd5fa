//! One call leg's media on real sockets: the task that runs a [`MediaSession`].
//!
//! ```text
//!   call layer ──commands──▶ ┌──────────┐ ◀─datagrams─▶ the node's UDP port, own sockets
//!        ◀──────events────── │ leg task │ ◀──bytes────▶ TCP and TLS connections to relays
//!   audio thread ◀─packets─▶ └──────────┘   one MediaSession, one timer
//! ```
//!
//! The task carries out what the session says and decides nothing, except for what only the shell
//! can know: which addresses this machine has, and that they changed. All queues are bounded.

mod interfaces;
mod leg;
mod sockets;
mod streams;
mod unsent;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use cooee_media::session::{
    MediaSession, RelayServer, RemoteCandidate, SessionConfig, SessionError, SessionEvent,
    SessionStatistics, TransportParameters,
};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};

pub(crate) use self::interfaces::host_addresses;
use self::leg::{Command, LegTask};
use crate::{
    audio::link::{VoiceReader, VoiceWriter},
    room::Room,
    transport::ProxyConfig,
    udp::UdpEndpoint,
};

/// Commands that wait for the task at most; the call layer sends a few per call.
const COMMANDS_MAX: usize = 128;
/// Events that wait for the call layer at most; further ones are dropped with a warning.
const EVENTS_MAX: usize = 256;

/// How a leg is set up.
#[derive(Clone)]
pub struct MediaLegConfig {
    /// ICE role and DTLS client: true on the caller's side.
    pub controlling: bool,
    /// Tell the peer this node's addresses at once (mutual buddies); otherwise
    /// [`MediaLeg::reveal_addresses`] after the callee accepted.
    pub reveal_addresses: bool,
    /// STUN servers to ask for the mapping: two super nodes.
    pub stun_servers: Vec<SocketAddr>,
    /// Relays with minted credentials, best first: at least two if there are.
    pub relays: Vec<RelayServer>,
    /// Relays by TCP or TLS that are opened a second after the others, and kept: UDP may be
    /// blocked by now, or in the middle of the call.
    pub reserve_relays: Vec<RelayServer>,
    /// Relays that become known while the leg runs: further ones are added.
    pub relay_updates: Option<watch::Receiver<Vec<RelayServer>>>,
    /// For relays over TLS: whom to trust, with ALPN `stun.turn`.
    pub relay_tls: Option<Arc<ClientConfig>>,
    /// Offer loopback addresses too (everything on one machine).
    pub loopback: bool,
    /// Proxy through which streams to relays go.
    pub proxy: ProxyConfig,
    /// Is told whether the voice has little room.
    pub room: Room,
}

/// Why a leg cannot start.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The operating system gave no randomness.
    #[error("the system gives no random numbers: {0}")]
    Randomness(getrandom::Error),
    /// The peer's parameters or candidate cannot be used.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The leg has ended.
    #[error("the media of this call has ended")]
    Ended,
    /// A socket could not be opened.
    #[error("cannot open a socket for the call: {0}")]
    Socket(#[from] io::Error),
}

/// The handle of a running leg. Dropping it closes the leg.
#[derive(Debug)]
pub struct MediaLeg {
    parameters: TransportParameters,
    commands: mpsc::Sender<Command>,
    statistics: watch::Receiver<SessionStatistics>,
}

impl MediaLeg {
    /// Starts a leg on the node's UDP port. Must be called inside a tokio runtime. The receiver
    /// yields what happens: candidates for the peer, connected, changes of path, the end.
    pub fn start(
        endpoint: &UdpEndpoint,
        config: MediaLegConfig,
    ) -> Result<(Self, mpsc::Receiver<SessionEvent>), MediaError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(MediaError::Randomness)?;
        let session =
            MediaSession::new(SessionConfig::new(config.controlling, seed), Instant::now());
        let parameters = session.local_parameters().clone();
        let (commands, command_queue) = mpsc::channel(COMMANDS_MAX);
        let (events, event_queue) = mpsc::channel(EVENTS_MAX);
        let (statistics_sender, statistics) = watch::channel(SessionStatistics::default());
        let port = endpoint.register_media();
        port.claim_ufrag(&parameters.ufrag);
        let task = LegTask::new(session, port, config, command_queue, events, statistics_sender);
        tokio::spawn(task.run());
        Ok((Self { parameters, commands, statistics }, event_queue))
    }

    /// What the peer must be told, in authenticated signalling. After a restart the event
    /// [`SessionEvent::ParametersChanged`] carries the new ones.
    pub fn local_parameters(&self) -> &TransportParameters {
        &self.parameters
    }

    /// What the peer told: at first, and again after each of its restarts.
    pub async fn set_remote(&self, parameters: TransportParameters) -> Result<(), MediaError> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        self.command(Command::SetRemote(parameters, answer)).await?;
        Ok(answered.await.map_err(|_| MediaError::Ended)??)
    }

    /// A candidate of the peer.
    pub async fn add_remote_candidate(&self, candidate: RemoteCandidate) -> Result<(), MediaError> {
        self.command(Command::AddRemoteCandidate(candidate)).await
    }

    /// The callee accepted: direct paths may be tried.
    pub async fn reveal_addresses(&self) -> Result<(), MediaError> {
        self.command(Command::RevealAddresses).await
    }

    /// One more relay, for instance after a super node was found or the credentials renewed.
    pub async fn add_relay(&self, relay: RelayServer) -> Result<(), MediaError> {
        self.command(Command::AddRelay(relay)).await
    }

    /// Connects the audio thread's queues; replaces earlier ones.
    pub async fn attach_voice(
        &self,
        reader: VoiceReader,
        writer: VoiceWriter,
    ) -> Result<(), MediaError> {
        self.command(Command::AttachVoice(reader, writer)).await
    }

    /// No voice from now on; one packet every 3 s keeps the path open.
    pub async fn hold(&self) -> Result<(), MediaError> {
        self.command(Command::Hold(true)).await
    }

    /// Voice again.
    pub async fn resume(&self) -> Result<(), MediaError> {
        self.command(Command::Hold(false)).await
    }

    /// The machine's network changed; the leg also looks by itself every 2 s.
    pub async fn network_changed(&self) -> Result<(), MediaError> {
        self.command(Command::NetworkChanged).await
    }

    /// Restarts ICE; [`SessionEvent::ParametersChanged`] follows. Not needed when the peer
    /// restarted: [`Self::set_remote`] with a later generation does it.
    pub async fn restart(&self) -> Result<(), MediaError> {
        self.command(Command::Restart).await
    }

    /// Counters and estimates, at most 250 ms old.
    pub fn statistics(&self) -> SessionStatistics {
        self.statistics.borrow().clone()
    }

    /// Says goodbye, gives back relays, and returns the last counters.
    pub async fn close(mut self) -> SessionStatistics {
        if self.commands.send(Command::Close).await.is_ok() {
            // The task drops its sender at the end.
            while self.statistics.changed().await.is_ok() {}
        }
        self.statistics()
    }

    async fn command(&self, command: Command) -> Result<(), MediaError> {
        self.commands.send(command).await.map_err(|_| MediaError::Ended)
    }
}
