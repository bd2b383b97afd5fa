//! What the call task says to whoever runs the media legs, and what it hears.

use cooee_proto::{
    call::{CallId, MediaState, MediaSummary},
    identity::NodeId,
    wire::v1::{IceCandidate, MediaOffer, TransportParameters},
};
use tokio::sync::oneshot;

use super::LiveStatistics;
use crate::audio::AudioEvent;

/// One leg: a call and the remote device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegId {
    /// The call.
    pub call: CallId,
    /// The remote device.
    pub peer: NodeId,
}

/// What to do with a leg; in the order given. See `proto::call::Output` for the meaning.
#[derive(Debug)]
pub enum MediaCommand {
    /// Start the transport; answer with [`MediaEvent::Parameters`] at once.
    Start {
        /// The leg.
        leg: LegId,
        /// ICE controlling side and DTLS client.
        controlling: bool,
        /// Only relayed candidates until [`MediaCommand::Reveal`].
        relay_only: bool,
    },
    /// The peer's parameters, first or after a restart.
    RemoteParameters {
        /// The leg.
        leg: LegId,
        /// ICE and DTLS.
        transport: TransportParameters,
        /// Codecs and SSRC, at first.
        media: Option<MediaOffer>,
    },
    /// One more candidate of the peer.
    RemoteCandidate {
        /// The leg.
        leg: LegId,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// All addresses may be used and told.
    Reveal {
        /// The leg.
        leg: LegId,
    },
    /// Restart ICE unless that generation is current; answer with [`MediaEvent::Parameters`].
    Restart {
        /// The leg.
        leg: LegId,
        /// Generation to reach.
        generation: u32,
    },
    /// Connect microphone and speaker, or change what flows.
    Voice {
        /// The leg.
        leg: LegId,
        /// Voice flows in both directions; otherwise the call is on hold.
        flows: bool,
        /// Silence instead of the microphone.
        muted: bool,
    },
    /// End the leg.
    Stop {
        /// The leg.
        leg: LegId,
        /// Where its figures go, if it ever carried voice.
        report: oneshot::Sender<Option<MediaSummary>>,
    },
}

impl MediaCommand {
    /// The leg that it is about.
    pub fn leg(&self) -> LegId {
        match self {
            Self::Start { leg, .. }
            | Self::RemoteParameters { leg, .. }
            | Self::RemoteCandidate { leg, .. }
            | Self::Reveal { leg }
            | Self::Restart { leg, .. }
            | Self::Voice { leg, .. }
            | Self::Stop { leg, .. } => *leg,
        }
    }
}

/// What happened to a leg.
#[derive(Debug)]
pub enum MediaEvent {
    /// Local parameters, first or after a restart.
    Parameters {
        /// The leg.
        leg: LegId,
        /// ICE and DTLS.
        transport: TransportParameters,
        /// Codecs and SSRC.
        media: MediaOffer,
    },
    /// A candidate was found.
    Candidate {
        /// The leg.
        leg: LegId,
        /// Generation of the parameters it belongs to.
        generation: u32,
        /// The candidate.
        candidate: IceCandidate,
    },
    /// The path came up, went deaf or failed.
    State {
        /// The leg.
        leg: LegId,
        /// What it is now.
        state: MediaState,
    },
    /// How the voice fares, once a second while it flows.
    Statistics {
        /// The leg.
        leg: LegId,
        /// The figures.
        statistics: LiveStatistics,
    },
    /// Microphone or speaker changed.
    Devices {
        /// The leg.
        leg: LegId,
        /// How.
        change: AudioEvent,
    },
    /// The sound devices could not be opened; the call goes on in silence.
    NoSound {
        /// The leg.
        leg: LegId,
        /// Why, and what to do.
        message: String,
    },
}
