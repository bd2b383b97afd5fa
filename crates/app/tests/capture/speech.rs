//! What an eavesdropper can make of captured packets: RTP streams, however they travel, decoded as
//! Opus, and how even their bytes are.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use cooee_lab::{
    eavesdropper::{Packet, Protocol},
    measure::{CONFIDENCE_MIN, measure},
};
use cooee_media::{
    VoicePacket,
    voice::{
        PAYLOAD_TYPE_BUNDLE, PAYLOAD_TYPE_OPUS, PAYLOAD_TYPE_REDUNDANT, VoiceConfig, VoiceReceiver,
    },
};

pub(crate) const RATE_HZ: u32 = 48_000;
/// Sound is decoded in steps of 10 ms.
const STEP: usize = 480;
/// Silence put before decoded sound: the microphone may have spoken before the first packet left.
const LEAD_S: usize = 1;

/// Payload types of voice.
pub(crate) const VOICE: [u8; 3] = [PAYLOAD_TYPE_OPUS, PAYLOAD_TYPE_REDUNDANT, PAYLOAD_TYPE_BUNDLE];

/// One RTP stream as it was captured on one of its hops.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) from: IpAddr,
    pub(crate) ssrc: u32,
    pub(crate) packets: Vec<(Instant, VoicePacket)>,
    /// Payload bytes of all packets, each packet once.
    pub(crate) bytes: Vec<u8>,
    /// Some packets had an RTP header extension, which SRTP leaves readable.
    pub(crate) has_extension: bool,
}

/// All RTP streams with at least `packets_min` packets of these payload types, plain or inside
/// TURN over UDP.
pub(crate) fn streams(captured: &[Packet], types: &[u8], packets_min: usize) -> Vec<Stream> {
    let mut streams = BTreeMap::<(IpAddr, u32), Stream>::new();
    let mut seen = BTreeSet::new();
    for packet in captured.iter().filter(|packet| packet.protocol == Protocol::Udp) {
        let Some((ssrc, has_extension, voice)) = inner(&packet.payload).and_then(rtp) else {
            continue;
        };
        if !types.contains(&voice.payload_type) {
            continue;
        }
        let from = packet.from.ip();
        let stream = streams.entry((from, ssrc)).or_insert_with(|| Stream {
            from,
            ssrc,
            packets: Vec::new(),
            bytes: Vec::new(),
            has_extension: false,
        });
        stream.has_extension |= has_extension;
        // A packet may try two paths; more than 65,536 of one stream are not captured here.
        if seen.insert((from, ssrc, voice.sequence)) {
            stream.bytes.extend_from_slice(&voice.payload);
            stream.packets.push((packet.at, voice));
        }
    }
    streams.into_values().filter(|stream| stream.packets.len() >= packets_min).collect()
}

/// What is in a datagram: itself, TURN ChannelData (RFC 8656 section 12.4), or the DATA attribute
/// of a Send or Data indication (sections 11.1, 11.4).
fn inner(datagram: &[u8]) -> Option<&[u8]> {
    match *datagram.first()? {
        128..=191 => Some(datagram),
        64..=79 => datagram.get(4..),
        0..=3 => {
            let mut attributes = datagram.get(20..)?;
            while let [kind_high, kind_low, high, low, rest @ ..] = attributes {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if [*kind_high, *kind_low] == [0x00, 0x13] {
                    return rest.get(..length);
                }
                attributes = rest.get(length.next_multiple_of(4)..)?;
            }
            None
        }
        _ => None,
    }
}

/// Reads RTP (RFC 3550 section 5.1), RTCP left out (RFC 5761 section 4).
fn rtp(bytes: &[u8]) -> Option<(u32, bool, VoicePacket)> {
    let [first, second, ..] = *bytes else { return None };
    if first >> 6 != 2 || (192..224).contains(&second) {
        return None;
    }
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let mut start = 12 + 4 * usize::from(first & 15);
    let mut has_extension = false;
    if first & 0x10 != 0 {
        let length = (number(start)? & 0xFFFF) as usize;
        has_extension = length > 0;
        start += 4 + 4 * length;
    }
    let voice = VoicePacket {
        sequence: (number(0)? & 0xFFFF) as u16,
        timestamp: number(4)?,
        payload_type: second & 0x7F,
        marker: second & 0x80 != 0,
        payload: bytes.get(start..)?.to_vec().into(),
    };
    Some((number(8)?, has_extension, voice))
}

impl Stream {
    /// The sound, as our own receiver decodes it; it takes plain Opus too. Who listens afterwards
    /// need not hurry: packets come when their timestamps say, whatever delayed them on the way.
    pub(crate) fn decode(&self) -> Vec<f32> {
        let mut receiver = VoiceReceiver::new(VoiceConfig::default()).unwrap();
        let mut sound = vec![0.0; LEAD_S * RATE_HZ as usize];
        let Some((first, _)) = self.packets.first() else { return sound };
        let times = self.times_by_timestamp();
        let mut arriving = times.iter().zip(&self.packets).peekable();
        let last = times.last().unwrap_or(first).to_owned() + Duration::from_millis(500);
        let mut now = *first;
        while now < last {
            while let Some((at, (_, packet))) = arriving.next_if(|(at, _)| **at <= now) {
                receiver.handle_packet(*at, packet.clone());
            }
            let mut step = [0.0; STEP];
            receiver.playout(now, &mut step);
            sound.extend_from_slice(&step);
            now += Duration::from_millis(10);
        }
        sound
    }

    /// When each packet was due, as far as its timestamp can be one; otherwise with the one before.
    fn times_by_timestamp(&self) -> Vec<Instant> {
        let mut times: Vec<Instant> = Vec::with_capacity(self.packets.len());
        for (index, (at, packet)) in self.packets.iter().enumerate() {
            let before =
                index.checked_sub(1).map(|before| (times[before], &self.packets[before].1));
            times.push(before.map_or(*at, |(time, before)| {
                let samples = packet.timestamp.wrapping_sub(before.timestamp);
                let apart = if samples < RATE_HZ { samples } else { 0 };
                time + Duration::from_secs_f64(f64::from(apart) / f64::from(RATE_HZ))
            }));
        }
        times
    }

    /// The payloads as bare 16-bit samples.
    pub(crate) fn as_samples(&self) -> Vec<f32> {
        let samples = self.bytes.chunks_exact(2).map(|s| i16::from_le_bytes([s[0], s[1]]));
        let lead = std::iter::repeat_n(0.0, LEAD_S * RATE_HZ as usize);
        lead.chain(samples.map(|sample| f32::from(sample) / 32_768.0)).collect()
    }

    /// χ² of the bytes' histogram against the even one, with 255 degrees of freedom: 255 ± 23 for
    /// ciphertext, thousands for anything encoded.
    pub(crate) fn unevenness(&self) -> f64 {
        let mut counts = [0.0_f64; 256];
        for byte in &self.bytes {
            counts[usize::from(*byte)] += 1.0;
        }
        let expected = self.bytes.len() as f64 / 256.0;
        counts.iter().map(|count| (count - expected).powi(2) / expected).sum()
    }
}

/// The recording of a microphone.
pub(crate) fn read(path: &Path) -> Vec<f32> {
    let mut reader = hound::WavReader::open(path).unwrap();
    assert_eq!(reader.spec().sample_rate, RATE_HZ);
    let channels = usize::from(reader.spec().channels);
    let all: Vec<f32> = match reader.spec().sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().map(Result::unwrap).collect(),
        hound::SampleFormat::Int => {
            reader.samples::<i16>().map(|s| f32::from(s.unwrap()) / 32_768.0).collect()
        }
    };
    all.into_iter().step_by(channels).collect()
}

/// Windows of two seconds in which `sound` says what the microphone said, and the closest likeness
/// of any window.
pub(crate) fn likeness(mouth: &[f32], sound: &[f32]) -> (usize, f64) {
    let report = measure(mouth, sound, RATE_HZ);
    let best = report.windows.iter().map(|window| window.confidence).fold(0.0, f64::max);
    let alike = report.windows.iter().filter(|window| window.confidence >= CONFIDENCE_MIN).count();
    (alike, best)
}
