//! How the voice of a call fares: figures of the last second for people who look, and of the whole
//! call for its record.

use cooee_media::session::SessionStatistics;
use cooee_proto::call::MediaSummary;
use serde::Serialize;
use tokio::time::Instant;

use crate::audio::{AudioStatistics, VoiceStatistics};

/// IPv4 and UDP headers of one datagram, in bytes.
const HEADER_BYTES: u64 = 28;

/// Figures of the voice in the last second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LiveStatistics {
    /// How packets travel now.
    pub path: String,
    /// Estimate of the delay from the remote mouth to the local ear, in ms; see [`MediaSummary`].
    pub mouth_to_ear_ms: Option<f32>,
    /// Round trip of the path, in ms.
    pub round_trip_ms: Option<f32>,
    /// Interarrival jitter (RFC 3550), in ms.
    pub jitter_ms: f32,
    /// From network to speaker, in ms.
    pub playout_delay_ms: f32,
    /// Share of the remote side's packets lost in the last second, 0 to 1.
    pub loss: f32,
    /// Share of what was played in the last second that had to be made up, 0 to 1.
    pub concealed: f32,
    /// Sent in the last second, everything and all headers included.
    pub sent_bytes_per_s: u32,
    /// Received likewise.
    pub received_bytes_per_s: u32,
    /// Loudest sound of the microphone of late, dB below full scale.
    pub microphone_dbfs: f32,
    /// Loudest sound of the speaker of late, dB below full scale.
    pub speaker_dbfs: f32,
    /// Times the local speaker had nothing to play, in the whole call.
    pub speaker_underruns: u64,
    /// Times captured sound was lost because this side was late, in the whole call.
    pub microphone_overruns: u64,
    /// Voice that a TCP or TLS stream had not taken in time and that was dropped before it, in the
    /// whole call.
    pub stale_messages: u64,
    /// The microphone in use, if it is a real one.
    pub microphone: Option<String>,
    /// The speaker in use, if it is a real one.
    pub speaker: Option<String>,
}

/// What the parts of a leg count.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    pub(super) session: SessionStatistics,
    pub(super) voice: VoiceStatistics,
    pub(super) audio: AudioStatistics,
}

impl Counts {
    fn speaker_ms(&self) -> f32 {
        self.audio.devices.speaker_latency_ms.unwrap_or(self.audio.headless_buffer_ms)
    }

    fn round_trip_ms(&self) -> Option<f32> {
        let of_path = self.session.round_trip.map(|trip| trip.as_secs_f32() * 1_000.0);
        of_path.or(self.voice.sender.round_trip_ms.map(|ms| ms as f32))
    }

    fn mouth_to_ear_ms(&self) -> Option<f32> {
        self.voice.mouth_to_ear_ms(self.round_trip_ms()?, self.speaker_ms())
    }

    fn path(&self) -> String {
        self.session.path.map_or_else(|| "none".into(), |path| path.kind.to_string())
    }

    fn underruns(&self) -> u64 {
        self.audio.devices.speaker_underruns + self.audio.speaker_gaps
    }

    /// The figures between two counts.
    pub(super) fn since(&self, before: Option<&(Instant, Self)>, now: Instant) -> LiveStatistics {
        let seconds = before.map_or(1.0, |(at, _)| (now - *at).as_secs_f32()).max(0.1);
        let before = before.map(|(_, counts)| counts);
        let grown =
            |count: fn(&Self) -> u64| count(self).saturating_sub(before.map_or(0, count)) as f32;
        let lost = grown(|it| it.session.voice_packets_lost);
        let due = lost + grown(|it| it.session.voice_packets_received);
        let made_up = grown(|it| it.voice.receiver.concealed_samples);
        let played = grown(|it| it.voice.receiver.played_samples);
        let sent = grown(|it| it.session.bytes_sent + HEADER_BYTES * it.session.datagrams_sent);
        let received =
            grown(|it| it.session.bytes_received + HEADER_BYTES * it.session.datagrams_received);
        LiveStatistics {
            path: self.path(),
            mouth_to_ear_ms: self.mouth_to_ear_ms(),
            round_trip_ms: self.round_trip_ms(),
            jitter_ms: self.session.jitter.as_secs_f32() * 1_000.0,
            playout_delay_ms: self.voice.receiver.playout_delay_ms as f32,
            loss: lost / due.max(1.0),
            concealed: made_up / played.max(1.0),
            sent_bytes_per_s: (sent / seconds) as u32,
            received_bytes_per_s: (received / seconds) as u32,
            microphone_dbfs: self.audio.microphone_level_dbfs,
            speaker_dbfs: self.audio.speaker_level_dbfs,
            speaker_underruns: self.underruns(),
            microphone_overruns: self.audio.devices.microphone_overruns,
            stale_messages: self.session.stale_messages,
            microphone: self.audio.devices.microphone.clone(),
            speaker: self.audio.devices.speaker.clone(),
        }
    }

    /// The figures of the whole call.
    pub(super) fn summary(&self) -> MediaSummary {
        let (session, receiver) = (&self.session, &self.voice.receiver);
        let path = session.path;
        MediaSummary {
            path: self.path(),
            local_address: path.map(|path| format!("{:?}", path.local)),
            remote_address: path.map(|path| path.remote.to_string()),
            codec: "opus".into(),
            cipher: session.cipher.unwrap_or("none").into(),
            packets_sent: session.voice_packets_sent,
            packets_received: session.voice_packets_received,
            bytes_sent: session.voice_bytes_sent,
            bytes_received: session.voice_bytes_received,
            loss: session.loss_ratio() as f32,
            round_trip_ms: self.round_trip_ms(),
            jitter_ms: Some(session.jitter.as_secs_f32() * 1_000.0),
            playout_delay_ms: Some(receiver.playout_delay_ms as f32),
            mouth_to_ear_ms: self.mouth_to_ear_ms(),
            concealed: receiver.concealed_samples as f32 / receiver.played_samples.max(1) as f32,
            frames_repaired: receiver.repaired,
            frames_late: receiver.late,
            speaker_underruns: self.underruns(),
            microphone_overruns: self.audio.devices.microphone_overruns,
            audio_cpu_percent: self.audio.cpu_percent,
            path_changes: session.path_changes,
            stale_messages: session.stale_messages,
        }
    }
}
