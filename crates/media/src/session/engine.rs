//! The wrapper around str0m: ICE until the first path works, DTLS, SRTP.
//!
//! It knows nothing of relays or of which path media should take: it is fed datagrams with their
//! addresses and yields datagrams with the addresses that ICE chose, sorted by what they are,
//! so that the session can send the secured ones elsewhere. Why: `docs/decisions`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use str0m::{
    Candidate, Event, IceCreds, Input, Output, Rtc, RtcConfig,
    config::{DtlsVersion, Fingerprint},
    format::{Codec, FormatParams},
    media::{Frequency, MediaKind, Mid, Pt},
    net::{Protocol, Receive},
    rtp::{ExtensionMap, RtpWrite, SeqNo, Ssrc},
};

use super::{
    candidate::{CandidateKind, RemoteCandidate},
    parameters::{DtlsRole, SessionConfig, TransportParameters},
    profile,
    report::REPORT_PAYLOAD_TYPE,
};
use crate::packet::VoicePacket;

/// Payload types that voice may use: the dynamic range (RFC 3551) less the reports'.
pub const VOICE_PAYLOAD_TYPES: std::ops::RangeInclusive<u8> = 96..=126;
/// One round of str0m yields a handful of outputs; far more means it is stuck.
const OUTPUTS_PER_DRAIN_MAX: usize = 1_000;
/// First wait for the answer to a check, doubled from then on. RFC 8445 asks for 500 ms for the
/// sake of slow links; a check of 100 bytes too many costs less than voice that comes late. A check
/// that crossed the peer's on a NAT that was not open yet is repeated after this.
const CHECK_INTERVAL_FIRST: Duration = Duration::from_millis(100);
/// ICE checks its pairs this often at the slowest: once keys exist, reports do that work.
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// How many checks leave at once when a candidate is added: a burst instead of str0m's 50 ms
/// pacing, bounded as RFC 8445 appendix B.1 asks.
const CHECKS_AT_ONCE: usize = 6;

/// SSRCs are fixed: keys are fresh for each session and differ by direction (RFC 5764).
#[derive(Clone, Copy, Debug)]
struct Ssrcs {
    voice: u32,
    report: u32,
}

impl Ssrcs {
    fn of(controlling: bool) -> Self {
        if controlling { Self { voice: 1, report: 3 } } else { Self { voice: 2, report: 4 } }
    }
}

/// What a drain yields.
#[derive(Debug)]
pub(super) enum EngineOutput {
    /// A STUN message of ICE: only on the path that ICE chose.
    Ice { source: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    /// DTLS or SRTCP: on the path that ICE chose, or a better one.
    Secured { source: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    /// An encrypted voice packet.
    Voice { bytes: Vec<u8> },
    /// An encrypted report.
    Report { bytes: Vec<u8> },
    /// A voice packet came in, authenticated.
    VoiceReceived { packet: VoicePacket, extended_sequence: u64 },
    /// A report came in, authenticated.
    ReportReceived(Bytes),
    /// Keys agreed with the peer whose fingerprint was signalled.
    Secure,
    /// The peer closed.
    Closed,
    /// The handshake cannot succeed; most likely the certificate is not the signalled one.
    Refused,
}

pub(super) struct Engine {
    rtc: Rtc,
    role: DtlsRole,
    local: Ssrcs,
    remote: Ssrcs,
    voice_mid: Mid,
    report_mid: Mid,
    voice_sequence: SequenceExtender,
    report_sequence: u64,
    started: bool,
    refused: bool,
    deadline: Instant,
}

impl Engine {
    pub(super) fn new(config: &SessionConfig, credentials: (String, String), now: Instant) -> Self {
        let mut rtc_config = RtcConfig::new()
            .set_crypto_provider(profile::provider())
            .set_dtls_version(DtlsVersion::Dtls13)
            .set_local_ice_credentials(IceCreds { ufrag: credentials.0, pass: credentials.1 })
            .clear_codecs()
            .set_extension_map(ExtensionMap::empty())
            .set_rtp_mode(true);
        rtc_config.set_initial_stun_rto(CHECK_INTERVAL_FIRST);
        rtc_config.set_max_stun_rto(CHECK_INTERVAL_MAX);
        for payload_type in *VOICE_PAYLOAD_TYPES.start()..=REPORT_PAYLOAD_TYPE {
            rtc_config.codec_config().add_config(
                Pt::from(payload_type),
                None,
                Codec::Opus,
                Frequency::FORTY_EIGHT_KHZ,
                Some(2),
                FormatParams::default(),
            );
        }
        let mut rtc = rtc_config.build(now);
        let voice_mid = Mid::from("v");
        let report_mid = Mid::from("r");
        let local = Ssrcs::of(config.controlling);
        let remote = Ssrcs::of(!config.controlling);
        let mut api = rtc.direct_api();
        api.set_ice_controlling(config.controlling);
        api.declare_media(voice_mid, MediaKind::Audio);
        api.declare_media(report_mid, MediaKind::Audio);
        for (mid, ours, theirs) in
            [(voice_mid, local.voice, remote.voice), (report_mid, local.report, remote.report)]
        {
            api.declare_stream_tx(Ssrc::from(ours), None, mid, None).set_unpaced(true);
            api.expect_stream_rx(Ssrc::from(theirs), None, mid, None).suppress_nack(true);
        }
        let role = if config.controlling { DtlsRole::Active } else { DtlsRole::Passive };
        Self {
            rtc,
            role,
            local,
            remote,
            voice_mid,
            report_mid,
            voice_sequence: SequenceExtender::default(),
            report_sequence: 1,
            started: false,
            refused: false,
            deadline: now,
        }
    }

    pub(super) fn fingerprint(&mut self) -> [u8; 32] {
        let api = self.rtc.direct_api();
        let mut digest = [0; 32];
        let bytes = &api.local_dtls_fingerprint().bytes;
        // str0m's own fingerprints are SHA-256, 32 bytes.
        digest.copy_from_slice(&bytes[..32]);
        digest
    }

    pub(super) fn set_local_credentials(&mut self, ufrag: &str, pwd: &str) {
        let credentials = IceCreds { ufrag: ufrag.to_owned(), pass: pwd.to_owned() };
        self.rtc.direct_api().set_local_ice_credentials(credentials);
    }

    pub(super) fn set_remote(&mut self, remote: &TransportParameters) {
        let mut api = self.rtc.direct_api();
        api.set_remote_ice_credentials(IceCreds {
            ufrag: remote.ufrag.clone(),
            pass: remote.pwd.clone(),
        });
        api.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".to_owned(),
            bytes: remote.fingerprint.to_vec(),
        });
        // The passive side must be ready for a ClientHello that overtakes its own ICE; the
        // active side starts when it has a path, so that no retransmission is wasted.
        if self.role == DtlsRole::Passive {
            self.start_dtls();
        }
    }

    fn start_dtls(&mut self) {
        if !self.started {
            self.started = true;
            let active = self.role == DtlsRole::Active;
            self.refused |= self.rtc.direct_api().start_dtls(active).is_err();
        }
    }

    pub(super) fn add_local(&mut self, candidate: Candidate, now: Instant) {
        self.rtc.add_local_candidate(candidate);
        self.check_at_once(now);
    }

    pub(super) fn add_remote(&mut self, candidate: RemoteCandidate, now: Instant) {
        let address = candidate.address;
        let built = match candidate.kind {
            CandidateKind::Host => Candidate::host(address, "udp"),
            CandidateKind::ServerReflexive => Candidate::server_reflexive(address, address, "udp"),
            CandidateKind::Relayed | CandidateKind::RelayedOverStream => {
                Candidate::relayed(address, address, "udp")
            }
        };
        if let Ok(candidate) = built {
            self.rtc.add_remote_candidate(candidate);
            self.check_at_once(now);
        }
    }

    pub(super) fn remove_local(&mut self, candidate: &Candidate) {
        self.rtc.direct_api().invalidate_candidate(candidate);
    }

    fn check_at_once(&mut self, now: Instant) {
        for _ in 0..CHECKS_AT_ONCE {
            self.handle_timeout(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        // Errors of a timeout end the session inside str0m; the drain notices.
        let _ = self.rtc.handle_input(Input::Timeout(now));
    }

    /// Feeds one datagram; what does not parse or authenticate changes nothing.
    pub(super) fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        local: SocketAddr,
        bytes: &[u8],
    ) {
        if let Ok(receive) = Receive::new(Protocol::Udp, from, local, bytes) {
            let _ = self.rtc.handle_input(Input::Receive(now, receive));
        }
    }

    /// Queues one voice packet for encryption; it comes out of the next drain.
    pub(super) fn send_voice(&mut self, now: Instant, packet: &VoicePacket) {
        let sequence = self.voice_sequence.extend(packet.sequence);
        let write = RtpWrite::new(
            Pt::from(packet.payload_type),
            SeqNo::from(sequence),
            packet.timestamp,
            now,
            packet.payload.as_ref(),
        )
        .marker(packet.marker);
        if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(self.voice_mid, None) {
            stream.write_rtp(write);
        }
        self.handle_timeout(now);
    }

    /// Queues one report for encryption; it comes out of the next drain.
    pub(super) fn send_report(&mut self, now: Instant, clock_ms: u32, payload: &[u8]) {
        let sequence = SeqNo::from(self.report_sequence);
        self.report_sequence += 1;
        let payload_type = Pt::from(REPORT_PAYLOAD_TYPE);
        let write = RtpWrite::new(payload_type, sequence, clock_ms.wrapping_mul(48), now, payload);
        if let Some(stream) = self.rtc.direct_api().stream_tx_by_mid(self.report_mid, None) {
            stream.write_rtp(write);
        }
        self.handle_timeout(now);
    }

    pub(super) fn close(&mut self) {
        self.refused |= self.rtc.close().is_err();
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Everything that str0m has to say at `now`.
    pub(super) fn drain(&mut self, now: Instant) -> Vec<EngineOutput> {
        let mut outputs = Vec::new();
        for _ in 0..OUTPUTS_PER_DRAIN_MAX {
            match self.rtc.poll_output() {
                Ok(Output::Timeout(at)) if at > now => {
                    self.deadline = at;
                    return outputs;
                }
                Ok(Output::Timeout(_)) => self.handle_timeout(now),
                Ok(Output::Transmit(transmit)) => {
                    let bytes: Vec<u8> = transmit.contents.into();
                    outputs.push(self.sort(transmit.source, transmit.destination, bytes));
                }
                Ok(Output::Event(event)) => outputs.extend(self.translate(event)),
                Err(_) if !self.rtc.is_alive() && !self.refused => {
                    self.refused = true;
                    outputs.push(EngineOutput::Refused);
                }
                Err(_) => {}
            }
        }
        self.deadline = now + Duration::from_millis(10);
        outputs
    }

    fn sort(&self, source: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> EngineOutput {
        // RFC 9443: the first byte tells STUN, DTLS and RTP apart; RFC 5761: the second RTCP.
        match (bytes.first(), bytes.get(1)) {
            (Some(0..=3), _) => EngineOutput::Ice { source, to, bytes },
            (Some(128..=191), Some(kind)) if !(192..=223).contains(kind) => {
                let ssrc =
                    bytes.get(8..12).map_or([0; 4], |four| [four[0], four[1], four[2], four[3]]);
                if u32::from_be_bytes(ssrc) == self.local.voice {
                    EngineOutput::Voice { bytes }
                } else {
                    EngineOutput::Report { bytes }
                }
            }
            _ => EngineOutput::Secured { source, to, bytes },
        }
    }

    fn translate(&mut self, event: Event) -> Option<EngineOutput> {
        match event {
            Event::IceConnectionStateChange(state) => {
                if state.is_connected() {
                    self.start_dtls();
                }
                None
            }
            Event::Connected => Some(EngineOutput::Secure),
            Event::Closed => Some(EngineOutput::Closed),
            Event::RtpPacket(packet) => {
                let payload = Bytes::copy_from_slice(&packet.payload);
                if *packet.header.ssrc == self.remote.report {
                    return Some(EngineOutput::ReportReceived(payload));
                }
                Some(EngineOutput::VoiceReceived {
                    extended_sequence: *packet.seq_no,
                    packet: VoicePacket {
                        sequence: packet.header.sequence_number,
                        timestamp: packet.header.timestamp,
                        payload_type: *packet.header.payload_type,
                        marker: packet.header.marker,
                        payload,
                    },
                })
            }
            _ => None,
        }
    }
}

/// Turns 16-bit sequence numbers into the 48-bit index that SRTP counts by (RFC 3711).
#[derive(Debug, Default)]
struct SequenceExtender {
    highest: Option<u64>,
}

impl SequenceExtender {
    fn extend(&mut self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else {
            self.highest = Some(u64::from(sequence));
            return u64::from(sequence);
        };
        let step = i64::from(sequence.wrapping_sub(highest as u16) as i16);
        let extended = highest.saturating_add_signed(step);
        self.highest = Some(highest.max(extended));
        extended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_that_wraps_goes_on_counting() {
        let mut extender = SequenceExtender::default();
        let extended: Vec<_> =
            [65_534, 65_535, 0, 65_533, 1].map(|sequence| extender.extend(sequence)).into();
        assert_eq!(extended, [65_534, 65_535, 65_536, 65_533, 65_537]);
    }
}
