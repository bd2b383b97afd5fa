//! Runs real speech through sender, simulated link and receiver in virtual time.
//!
//! `cargo run -p cooee-media --example voice_bench -- IN.wav OUT.wav key=value …`; the keys are
//! those of [`Condition::set`]. Prints one JSON line of what was counted; the same arguments give
//! the same bytes. `scripts/quality/voice_quality.py` runs the matrix and scores it.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cooee_media::{
    VoicePacket,
    codec::{Application, FrameDuration, bundle::Bundle, opus},
    jitter::delay::WindowedMinimum,
    loss::Code,
    voice::{
        OperatingPoint, PAYLOAD_TYPE_BUNDLE, PAYLOAD_TYPE_OPUS, VoiceConfig, VoiceReceiver,
        VoiceSender,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A report with its headers (IPv4, UDP, SRTP), and the session's around it.
const REPORT_BYTES: usize = 120;

/// A packet of other traffic.
const OTHER_BYTES: usize = 1_000;

/// One experiment.
struct Condition {
    point: OperatingPoint,
    adaptive: bool,
    /// The receiver takes bundles.
    bundles: bool,
    config: VoiceConfig,
    loss: f64,
    /// Mean length of a loss burst, in packets; 1 is random loss.
    burst: f64,
    delay_ms: f64,
    /// Standard deviation of the delay added to each packet, order kept.
    jitter_ms: f64,
    /// Bit/s of the bottleneck, headers included; 0 is none.
    rate: f64,
    /// Seconds from the start until the bottleneck is there.
    narrows_s: f64,
    queue_ms: f64,
    /// The other side speaks as we do, and its link is ours: reports wait behind its voice.
    both: bool,
    /// Other traffic both ways: at so many seconds so many bytes at once.
    flood: Option<(f64, usize)>,
    drift_ppm: f64,
    block_ms: f64,
    seed: u64,
    repeat: usize,
    /// Seconds from one line of what is going on to the next; 0 is none.
    trace: f64,
    total: f64,
}

impl Default for Condition {
    fn default() -> Self {
        Self {
            point: OperatingPoint::QUIET,
            adaptive: false,
            bundles: true,
            config: VoiceConfig::default(),
            loss: 0.0,
            burst: 1.0,
            delay_ms: 20.0,
            jitter_ms: 0.0,
            rate: 0.0,
            narrows_s: 0.0,
            queue_ms: 300.0,
            both: false,
            flood: None,
            drift_ppm: 0.0,
            block_ms: 5.0,
            seed: 1,
            repeat: 1,
            trace: 0.0,
            total: 0.0,
        }
    }
}

impl Condition {
    /// Payload bit rate with redundancy: the codec gets what is left.
    fn share_total(&mut self) {
        if self.total > 0.0 {
            let bytes = (self.total / 8.0 * self.point.frame.samples() as f64 / 48e3) as usize;
            let frame = self.point.code.map_or(Some(bytes), |code| code.frame_bytes_for(bytes));
            let frame = frame.expect("total is large enough");
            let bits = (frame * 8 * 48_000).div_ceil(self.point.frame.samples());
            self.point.codec_bits_per_s = bits as u32;
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let number = || value.parse::<f64>().map_err(|e| format!("{key}={value}: {e}"));
        match key {
            "frame" => {
                let samples = (number()? * 48.0) as usize;
                self.point.frame =
                    FrameDuration::from_samples(samples).ok_or("no such frame length")?;
            }
            "bundled" => self.point.bundled = number()? as u8,
            "bundles" => self.bundles = number()? > 0.0,
            "app" => {
                self.point.application = match value {
                    "low" => Application::LowDelay,
                    "audio" => Application::Audio,
                    _ => Application::Voip,
                }
            }
            "codec" => self.point.codec_bits_per_s = number()? as u32,
            "code" => {
                let fields: Vec<u8> = value.split(',').filter_map(|f| f.parse().ok()).collect();
                let [pieces, parity, offset, window] = fields[..] else {
                    return Err("code=pieces,parity,offset,window".into());
                };
                self.point.code = Some(Code::new(pieces, parity, offset, window));
            }
            "total" => self.total = number()?,
            "inband" => self.point.in_band = number()? > 0.0,
            "deep" => self.point.deep_10ms = number()? as u8,
            "vbr" => self.config.variable_bit_rate = number()? > 0.0,
            "adaptive" => self.adaptive = number()? > 0.0,
            "max" => self.config.payload_bits_per_s_max = number()? as u32,
            "start" => self.config.wire_bits_per_s_start = number()? as u32,
            "enc" => self.config.encoder_complexity = number()? as u8,
            "dec" => self.config.decoder_complexity = number()? as u8,
            "margin" => self.config.margin_ms = number()?,
            "loss" => self.loss = number()?,
            "burst" => self.burst = number()?,
            "delay" => self.delay_ms = number()?,
            "jitter" => self.jitter_ms = number()?,
            "rate" => self.rate = number()?,
            "narrows" => self.narrows_s = number()?,
            "queue" => self.queue_ms = number()?,
            "both" => self.both = number()? > 0.0,
            "flood" => {
                let (at, bytes) = value.split_once(',').ok_or("flood=seconds,bytes")?;
                let number = |text: &str| text.parse::<f64>().map_err(|e| format!("{text}: {e}"));
                self.flood = Some((number(at)?, number(bytes)? as usize));
            }
            "drift" => self.drift_ppm = number()?,
            "block" => self.block_ms = number()?,
            "seed" => self.seed = number()? as u64,
            "slack" => self.config.initial_slack_ms = number()?,
            "repeat" => self.repeat = number()? as usize,
            "trace" => self.trace = number()?,
            _ => return Err(format!("no key {key}")),
        }
        Ok(())
    }
}

/// Loss (Gilbert), jitter (order kept), bottleneck with a drop-tail queue, in this order.
struct Link {
    random: ChaCha12Rng,
    bad: bool,
    last_out_us: f64,
    idle_at_us: f64,
}

impl Link {
    fn new(seed: u64) -> Self {
        let random = ChaCha12Rng::seed_from_u64(seed);
        Self { random, bad: false, last_out_us: 0.0, idle_at_us: 0.0 }
    }

    fn send(&mut self, condition: &Condition, now_us: f64, bytes: usize) -> Option<u64> {
        if condition.loss > 0.0 {
            let leave = 1.0 / condition.burst.max(1.0);
            let random_burst = condition.burst <= 1.0;
            self.bad = if random_burst {
                self.random.random::<f64>() < condition.loss
            } else if self.bad {
                self.random.random::<f64>() >= leave
            } else {
                self.random.random::<f64>() < leave * condition.loss / (1.0 - condition.loss)
            };
        }
        let mut at_us = now_us;
        if condition.rate > 0.0 && now_us >= condition.narrows_s * 1e6 {
            let start_us = self.idle_at_us.max(now_us);
            if start_us - now_us > condition.queue_ms * 1e3 {
                return None;
            }
            self.idle_at_us = start_us + bytes as f64 * 8e6 / condition.rate;
            at_us = self.idle_at_us;
        }
        if self.bad {
            return None;
        }
        let mut delay_ms = condition.delay_ms;
        if condition.jitter_ms > 0.0 {
            // Gaussian (Box-Muller), never negative, never out of order: the laboratory's model.
            let (u, v): (f64, f64) = (self.random.random(), self.random.random());
            let normal = (-2.0 * (1.0 - u).ln()).sqrt() * (core::f64::consts::TAU * v).cos();
            delay_ms += normal * condition.jitter_ms;
        }
        at_us += delay_ms.max(0.0) * 1e3;
        at_us = at_us.max(self.last_out_us);
        self.last_out_us = at_us;
        Some(at_us as u64)
    }
}

/// Samples in a packet without redundancy.
fn opus_samples(packet: &VoicePacket) -> Option<usize> {
    match packet.payload_type {
        PAYLOAD_TYPE_OPUS => opus::packet_samples(&packet.payload).ok(),
        PAYLOAD_TYPE_BUNDLE => Bundle::parse(&packet.payload).ok().map(|bundle| bundle.samples()),
        _ => None,
    }
}

fn read(path: &str) -> Vec<f32> {
    let mut reader = hound::WavReader::open(path).expect("input is a WAV file");
    assert_eq!(reader.spec().sample_rate, 48_000, "input is sampled at 48 kHz");
    reader.samples::<i16>().map(|s| f32::from(s.expect("readable")) / 32_768.0).collect()
}

fn write(path: &str, sound: &[f32]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 48_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).expect("output can be created");
    for sample in sound {
        writer.write_sample((sample * 32_767.0).clamp(-32_768.0, 32_767.0) as i16).expect("room");
    }
    writer.finalize().expect("room");
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let input = arguments.next().expect("IN.wav");
    let output = arguments.next().expect("OUT.wav");
    let mut condition = Condition::default();
    for argument in arguments {
        let (key, value) = argument.split_once('=').expect("key=value");
        condition.set(key, value).expect("valid condition");
    }
    condition.share_total();
    let sound = read(&input).repeat(condition.repeat);
    let (heard, json) = run(&condition, &sound);
    if output != "-" {
        // With repetitions only the last one is written: the engine has settled by then.
        write(&output, &heard[heard.len() - heard.len() / condition.repeat..]);
    }
    println!("{json}");
}

#[allow(clippy::too_many_lines)]
fn run(condition: &Condition, sound: &[f32]) -> (Vec<f32>, String) {
    let mut config = condition.config;
    config.fixed = (!condition.adaptive).then_some(condition.point);
    let mut sender = VoiceSender::new(config).expect("sender");
    sender.set_bundles(condition.bundles);
    let mut receiver = VoiceReceiver::new(config).expect("receiver");
    let mut link = Link::new(condition.seed);
    let mut back = Link::new(condition.seed ^ 1);
    let start = Instant::now();
    let at = |us: f64| start + Duration::from_nanos((us * 1e3) as u64);
    let block = (condition.block_ms * 48.0) as usize;
    let blocks = sound.len() / block;
    let mut way: BTreeMap<(u64, u64), VoicePacket> = BTreeMap::new();
    let mut reports: BTreeMap<(u64, u64), cooee_media::rate::Feedback> = BTreeMap::new();
    let (mut captured, mut played, mut sent, mut wire_bytes) = (0, 0, 0_u64, 0_usize);
    let mut heard = Vec::with_capacity(sound.len());
    let mut delays = Vec::new();
    // From the capture of a frame's first sample to its arrival, and of any sample to its playing.
    let (mut transits, mut whole) = (Vec::new(), Vec::new());
    let mut base = WindowedMinimum::new(10_000.0);
    let capture_us =
        |i: usize| (i + 1) as f64 * condition.block_ms * 1e3 * (1.0 - condition.drift_ppm * 1e-6);
    let play_us = |i: usize| i as f64 * condition.block_ms * 1e3 + 1_700.0;
    let mut flood = condition.flood;
    let mut busy_receive = Duration::ZERO;
    let mut busy_send = Duration::ZERO;
    while played < blocks {
        let capture_at = if captured < blocks { capture_us(captured) } else { f64::INFINITY };
        let next_us = capture_at.min(play_us(played));
        let arrival = way.first_key_value().map(|((us, _), _)| *us);
        if let Some(us) = arrival.filter(|us| *us as f64 <= next_us) {
            let (_, packet) = way.pop_first().expect("just seen");
            receiver.handle_packet(at(us as f64), packet);
            continue;
        }
        let report = reports.first_key_value().map(|((us, _), _)| *us);
        if let Some(us) = report.filter(|us| *us as f64 <= next_us) {
            let (_, report) = reports.pop_first().expect("just seen");
            sender.handle_feedback(at(us as f64), &report);
            continue;
        }
        if let Some((_, bytes)) = flood.take_if(|(at_s, _)| *at_s * 1e6 <= next_us) {
            for _ in 0..bytes / OTHER_BYTES {
                link.send(condition, next_us, OTHER_BYTES);
                back.send(condition, next_us, OTHER_BYTES);
            }
        }
        if capture_at <= play_us(played) {
            let began = Instant::now();
            sender.capture(at(capture_at), &sound[captured * block..][..block], &mut |packet| {
                let bytes = packet.payload.len() + config.overhead_bytes;
                wire_bytes += bytes;
                if let Some(us) = link.send(condition, capture_at, bytes) {
                    let path_ms = (us as f64 - capture_at) / 1e3;
                    if captured >= blocks - blocks / condition.repeat {
                        let frame_ms = opus_samples(&packet).map_or(0.0, |s| s as f64 / 48.0);
                        transits.push(path_ms + frame_ms + condition.block_ms);
                    }
                    base.add(us as f64 / 1e3, path_ms);
                    way.insert((us, sent), packet);
                }
                if condition.both {
                    back.send(condition, capture_at, bytes);
                }
                sent += 1;
            });
            busy_send += began.elapsed();
            captured += 1;
            continue;
        }
        let now_us = play_us(played);
        let mut out = vec![0.0; block];
        let began = Instant::now();
        receiver.playout(at(now_us), &mut out);
        busy_receive += began.elapsed();
        heard.extend(out);
        if let Some(report) = receiver.poll_feedback(at(now_us)) {
            let arrival = if condition.both {
                // So does our own report of the other's voice, before ours.
                link.send(condition, now_us, REPORT_BYTES);
                back.send(condition, now_us, REPORT_BYTES)
            } else {
                Some((now_us + condition.delay_ms * 1e3) as u64)
            };
            reports.extend(arrival.map(|us| ((us, played as u64), report)));
        }
        let statistics = receiver.statistics();
        if played >= (blocks - blocks / condition.repeat).max(200) {
            delays.push(statistics.playout_delay_ms);
            whole.push(statistics.playout_delay_ms + base.get());
        }
        let every = (condition.trace * 1e3 / condition.block_ms) as usize;
        if every > 0 && played % every == 0 {
            eprintln!("{:.1} s {:?} {statistics:?}", now_us / 1e6, sender.operating_point());
            eprintln!("      {:?}", sender.statistics());
        }
        played += 1;
    }
    let seconds = sound.len() as f64 / 48e3;
    let r = receiver.statistics();
    for all in [&mut delays, &mut transits, &mut whole] {
        all.sort_by(f64::total_cmp);
    }
    let of = |all: &[f64], share: f64| {
        let index = (all.len().saturating_sub(1) as f64 * share).ceil() as usize;
        all.get(index).copied().unwrap_or(f64::NAN)
    };
    let pick = |share: f64| of(&delays, share);
    let json = format!(
        "{{\"packets\":{},\"lost\":{},\"repaired\":{},\"late\":{},\"concealed\":{:.4},\
         \"playout_ms\":{:.2},\"playout_min_ms\":{:.2},\"playout_max_ms\":{:.2},\
         \"target_ms\":{:.1},\"payload_bps\":{:.0},\"wire_bytes_per_s\":{:.0},\
         \"path_to_ear_ms\":{:.1},\"limit_ms\":{:.1},\"limit_never_late_ms\":{:.1},\
         \"cut_ms\":{:.0},\"repeated_ms\":{:.0},\"send_cpu\":{:.5},\"receive_cpu\":{:.5}}}",
        r.packets,
        r.lost,
        r.repaired,
        r.late,
        r.concealed_samples as f64 / r.played_samples as f64,
        pick(0.5),
        pick(0.0),
        pick(1.0),
        r.target_ms,
        sender.statistics().payload_bytes as f64 * 8.0 / seconds,
        wire_bytes as f64 / seconds,
        of(&whole, 0.5),
        // Known beforehand: the least fixed delay at which 1 % of the frames come late, and none.
        of(&transits, 0.99),
        of(&transits, 1.0),
        r.cut_samples as f64 / 48.0,
        r.repeated_samples as f64 / 48.0,
        busy_send.as_secs_f64() / seconds,
        busy_receive.as_secs_f64() / seconds,
    );
    (heard, json)
}
