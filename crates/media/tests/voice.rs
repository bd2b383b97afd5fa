//! The voice engine end to end in virtual time: mouth, a link made of delays and losses, ear.

#![allow(clippy::disallowed_methods)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use cooee_media::{
    VoicePacket,
    codec::{Application, FrameDuration},
    loss::Code,
    voice::{OperatingPoint, PAYLOAD_TYPE_BUNDLE, VoiceConfig, VoiceReceiver, VoiceSender},
};

const BLOCK: usize = 240;

/// A voice-like sound: harmonics of a gliding pitch in syllables.
fn voice(samples: usize) -> Vec<f32> {
    let mut phase = 0.0_f32;
    (0..samples)
        .map(|i| {
            let seconds = i as f32 / 48_000.0;
            phase += core::f32::consts::TAU * (130.0 + 40.0 * (seconds * 3.0).sin()) / 48_000.0;
            let loud = (seconds * 4.0 * core::f32::consts::PI).sin().max(0.0);
            (1..20).map(|k| (phase * k as f32).sin() / k as f32).sum::<f32>() * 0.1 * loud
        })
        .collect()
}

struct Call {
    sender: VoiceSender,
    receiver: VoiceReceiver,
    start: Instant,
    /// Packets on the way, by arrival in µs and order.
    way: BTreeMap<(u64, u64), VoicePacket>,
    sent: u64,
    heard: Vec<f32>,
    /// Of what is heard these samples are not kept, for memory's sake.
    unheard: std::ops::Range<usize>,
    played: usize,
}

impl Call {
    fn new(config: VoiceConfig) -> Self {
        Self {
            sender: VoiceSender::new(config).unwrap(),
            receiver: VoiceReceiver::new(config).unwrap(),
            start: Instant::now(),
            way: BTreeMap::new(),
            sent: 0,
            heard: Vec::new(),
            unheard: 0..0,
            played: 0,
        }
    }

    /// Runs over `sound`; `link` gives each packet's delay in µs, or `None` to lose it. The
    /// sender's clock is fast by `drift_ppm`.
    fn run(
        &mut self,
        sound: &[f32],
        drift_ppm: f64,
        link: impl FnMut(u64) -> Option<u64>,
        each: impl FnMut(f64, &VoiceReceiver),
    ) {
        self.run_blocks(sound, sound.len() / BLOCK, drift_ppm, link, each);
    }

    /// The same for so many blocks, over `sound` again and again.
    fn run_blocks(
        &mut self,
        sound: &[f32],
        blocks: usize,
        drift_ppm: f64,
        mut link: impl FnMut(u64) -> Option<u64>,
        mut each: impl FnMut(f64, &VoiceReceiver),
    ) {
        let capture_us = |i: usize| ((i + 1) as f64 * 5_000.0 * (1.0 - drift_ppm * 1e-6)) as u64;
        let play_us = |i: usize| i as u64 * 5_000 + 1_700;
        let (mut captured, mut played) = (0, 0);
        while captured < blocks || played < blocks {
            let next = capture_us(captured).min(play_us(played));
            let arrival = self.way.first_key_value().map(|((at, _), _)| *at);
            if let Some(at) = arrival.filter(|at| *at <= next) {
                let (_, packet) = self.way.pop_first().unwrap();
                self.receiver.handle_packet(self.at(at), packet);
                continue;
            }
            if captured < blocks && capture_us(captured) <= play_us(played) {
                let now_us = capture_us(captured);
                let now = self.at(now_us);
                let from = captured % (sound.len() / BLOCK) * BLOCK;
                let block = &sound[from..from + BLOCK];
                let (way, sent) = (&mut self.way, &mut self.sent);
                self.sender.capture(now, block, &mut |packet| {
                    if let Some(delay_us) = link(*sent) {
                        way.insert((now_us + delay_us, *sent), packet);
                    }
                    *sent += 1;
                });
                captured += 1;
            } else if played < blocks {
                let now_us = play_us(played);
                let now = self.at(now_us);
                let mut block = [0.0; BLOCK];
                self.receiver.playout(now, &mut block);
                if !self.unheard.contains(&self.played) {
                    self.heard.extend(block);
                }
                self.played += BLOCK;
                if let Some(feedback) = self.receiver.poll_feedback(now) {
                    self.sender.handle_feedback(now, &feedback);
                }
                each(now_us as f64 / 1e6, &self.receiver);
                played += 1;
            } else {
                break;
            }
        }
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }
}

/// The shift, in samples, at which `heard` matches `sound` best around `at`, and the correlation.
fn shift(sound: &[f32], heard: &[f32], at: usize, length: usize) -> (usize, f32) {
    let score = |shift: usize| {
        let a = &sound[at..at + length];
        let b = &heard[at + shift..at + shift + length];
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(1e-9)
    };
    let best = (0..9_600).step_by(4).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
    let fine =
        (best.saturating_sub(4)..best + 5).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
    (fine, score(fine))
}

fn fixed(
    frame: FrameDuration,
    application: Application,
    bits: u32,
    code: Option<Code>,
) -> VoiceConfig {
    let point = OperatingPoint {
        frame,
        bundled: 1,
        application,
        codec_bits_per_s: bits,
        code,
        in_band: false,
        deep_10ms: 0,
    };
    VoiceConfig { fixed: Some(point), initial_sequence: 65_500, ..VoiceConfig::default() }
}

#[test]
fn on_a_quiet_path_the_engine_adds_less_than_twenty_four_milliseconds() {
    let sound = voice(48_000 * 8);
    let mut call = Call::new(VoiceConfig::default());
    call.run(&sound, 0.0, |_| Some(200), |_, _| {});
    let (shift, correlation) = shift(&sound, &call.heard, 48_000 * 5, 24_000);
    let ms = shift as f64 / 48.0;
    let statistics = call.receiver.statistics();
    println!("{ms:.2} ms, correlation {correlation:.4}, {statistics:?}");
    assert!(correlation > 0.97);
    assert!(ms < 24.0, "{ms} ms");
    assert_eq!((statistics.lost, statistics.late), (0, 0));
}

#[test]
fn loss_that_redundancy_covers_is_not_heard() {
    let sound = voice(48_000 * 10);
    let code = Some(Code::new(1, 1, 1, 8));
    let mut call = Call::new(fixed(FrameDuration::Ms20, Application::Voip, 16_000, code));
    call.run(&sound, 0.0, |packet| (packet % 6 != 3).then_some(20_000), |_, _| {});
    let statistics = call.receiver.statistics();
    println!("{statistics:?}");
    assert!(statistics.repaired > 70, "{statistics:?}");
    assert!(statistics.concealed_samples < 48_000 / 4, "{statistics:?}");
}

#[test]
fn jitter_raises_the_delay_and_quiet_lowers_it_again() {
    let sound = voice(48_000 * 90);
    let mut call = Call::new(VoiceConfig::default());
    let link = |packet: u64| {
        let jitter = if (1_000..2_000).contains(&packet) { packet * 7_919 % 40_000 } else { 0 };
        Some(20_000 + jitter)
    };
    let mut delays = BTreeMap::new();
    call.run(&sound, 0.0, link, |seconds, receiver| {
        delays.insert((seconds * 1e3) as u64, receiver.statistics().playout_delay_ms);
    });
    let at = |ms: u64| *delays.range(ms..).next().unwrap().1;
    println!("{} {} {} {:?}", at(9_500), at(19_500), at(88_000), call.receiver.statistics());
    assert!(at(9_500) < 22.0);
    assert!((35.0..70.0).contains(&at(19_500)));
    assert!(at(88_000) < 22.0);
}

#[test]
fn drift_of_two_hundred_ppm_either_way_never_moves_the_delay() {
    let sound = voice(48_000 * 10);
    for ppm in [-200.0, 200.0] {
        let mut call = Call::new(VoiceConfig::default());
        let long: Vec<f32> = sound.repeat(12);
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        call.run(
            &long,
            ppm,
            |_| Some(20_000),
            |seconds, receiver| {
                if seconds > 5.0 {
                    let delay = receiver.statistics().playout_delay_ms;
                    (least, most) = (least.min(delay), most.max(delay));
                }
            },
        );
        println!("{ppm}: {least} to {most} {:?}", call.receiver.statistics());
        assert!(most - least < 10.0, "{ppm} ppm: {least} to {most} ms");
    }
}

/// Half an hour with the sender's clock fast by `ppm`: the playout delay by the receiver's own
/// account, and the true one by the sound, after one minute and at the end.
fn half_an_hour_of_drift(ppm: f64) {
    const SECONDS: usize = 1_800;
    let sound = voice(48_000 * 10);
    let mut call = Call::new(VoiceConfig::default());
    let blocks = SECONDS * 48_000 / BLOCK;
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    let clock = 1.0 - ppm * 1e-6;
    // Heard time at which the sound said from `at` seconds on is looked for, and its true delay.
    let look = |heard: &[f32], at: usize, unheard: usize| {
        let said_at = at * 48_000;
        let from = (said_at as f64 * clock) as usize;
        let looped: Vec<f32> = (0..24_000).map(|i| sound[(said_at + i) % sound.len()]).collect();
        let (shift, correlation) = shift(&looped, &heard[from - unheard..], 0, 24_000);
        assert!(correlation > 0.9, "{correlation} at {at} s");
        (from + shift) as f64 / 48.0 - said_at as f64 * clock / 48.0
    };
    call.unheard = 70 * 48_000..(SECONDS - 20) * 48_000;
    call.run_blocks(
        &sound,
        blocks,
        ppm,
        |p| Some(20_000 + p * 7_919 % 3_000),
        |seconds, receiver| {
            if seconds > 10.0 {
                let delay = receiver.statistics().playout_delay_ms;
                (least, most) = (least.min(delay), most.max(delay));
            }
        },
    );
    let end = look(&call.heard, SECONDS - 10, call.unheard.len());
    let marks = [look(&call.heard, 60, 0), end];
    println!("{ppm} ppm: {least:.2} to {most:.2} ms; by the sound {marks:.2?} ms");
    assert!(most - least < 10.0, "{ppm} ppm: {least} to {most} ms");
    assert!((marks[1] - marks[0]).abs() < 10.0, "{ppm} ppm: {marks:?} ms");
}

#[test]
fn half_an_hour_of_a_fast_microphone_leaves_the_delay_where_it_was() {
    half_an_hour_of_drift(200.0);
}

#[test]
fn half_an_hour_of_a_slow_microphone_leaves_the_delay_where_it_was() {
    half_an_hour_of_drift(-200.0);
}

#[test]
fn reordered_packets_are_played_in_order() {
    let sound = voice(48_000 * 8);
    let mut call = Call::new(VoiceConfig::default());
    call.run(&sound, 0.0, |p| Some(if p % 10 == 0 { 35_000 } else { 20_000 }), |_, _| {});
    let (_, correlation) = shift(&sound, &call.heard, 48_000 * 5, 24_000);
    assert!(correlation > 0.97, "{correlation}");
}

#[test]
fn a_delay_spike_costs_no_words_and_leaves_no_delay() {
    let sound = voice(48_000 * 20);
    let mut call = Call::new(VoiceConfig::default());
    let link =
        |p: u64| Some(20_000 + if (1_000..1_015).contains(&p) { (1_015 - p) * 10_000 } else { 0 });
    let mut last = 0.0;
    call.run(&sound, 0.0, link, |_, receiver| last = receiver.statistics().playout_delay_ms);
    println!("{last} {:?}", call.receiver.statistics());
    assert!(last < 50.0, "{last} ms");
}

/// A generator good enough to make nonsense.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn nonsense_from_the_network_never_panics_and_true_voice_is_heard_after_it() {
    let mut call = Call::new(VoiceConfig::default());
    let mut state = 88_172_645_463_325_252;
    for round in 0..20_000_u64 {
        let length = next(&mut state) as usize % 120;
        let payload: Vec<u8> = (0..length).map(|_| next(&mut state) as u8).collect();
        let near = !next(&mut state).is_multiple_of(4);
        let packet = VoicePacket {
            sequence: if near { round as u16 } else { next(&mut state) as u16 },
            timestamp: if near { round as u32 * 480 } else { next(&mut state) as u32 },
            payload_type: 111 + (next(&mut state) % 3) as u8,
            marker: false,
            payload: payload.into(),
        };
        let now = call.at(round * 1_000);
        call.receiver.handle_packet(now, packet);
        if round % 5 == 0 {
            call.receiver.playout(now, &mut [0.0; BLOCK]);
            let _ = call.receiver.poll_feedback(now);
        }
    }
    call.start += Duration::from_secs(20);
    let sound = voice(48_000 * 10);
    call.run(&sound, 0.0, |_| Some(20_000), |_, _| {});
    let (_, correlation) = shift(&sound, &call.heard, 48_000 * 8, 24_000);
    assert!(correlation > 0.95, "{correlation}");
}

#[test]
fn after_a_hold_of_a_minute_voice_is_heard_at_once() {
    let sound = voice(48_000 * 4);
    let mut call = Call::new(VoiceConfig::default());
    call.run(&sound, 0.0, |_| Some(20_000), |_, _| {});
    call.start += Duration::from_secs(60);
    call.heard.clear();
    call.run(&sound, 0.0, |_| Some(20_000), |_, _| {});
    let (shift, correlation) = shift(&sound, &call.heard, 48_000 * 2, 24_000);
    assert!(correlation > 0.95 && shift < 48 * 60, "{correlation} at {shift}");
}

/// Bundles of 60 ms frames at 9 kbit/s.
fn bundles(bundled: u8) -> VoiceConfig {
    let mut config = fixed(FrameDuration::Ms60, Application::Voip, 9_000, None);
    if let Some(point) = &mut config.fixed {
        point.bundled = bundled;
    }
    config
}

#[test]
fn bundles_are_heard_without_a_gap_at_a_third_of_the_packets() {
    let sound = voice(48_000 * 12);
    let mut alone = Call::new(bundles(1));
    alone.run(&sound, 0.0, |_| Some(20_000), |_, _| {});
    let mut call = Call::new(bundles(3));
    call.run(&sound, 0.0, |_| Some(20_000), |_, _| {});
    assert!(call.sent * 3 <= alone.sent + 2, "{} packets, {} alone", call.sent, alone.sent);
    let statistics = call.receiver.statistics();
    assert_eq!((statistics.malformed, statistics.late, statistics.lost), (0, 0, 0));
    // At the beginning the length of a packet is not known yet.
    assert!(statistics.concealed_samples < 48 * 400, "{statistics:?}");
    // A bundle is longer than the shifts that are looked at.
    let (_, correlation) = shift(&sound, &call.heard[48 * 100..], 48_000 * 8, 48_000);
    let (_, without) = shift(&sound, &alone.heard, 48_000 * 8, 48_000);
    assert!(correlation > without - 0.02, "{correlation}, alone {without}");
}

#[test]
fn of_a_lost_bundle_only_its_own_sound_is_missed() {
    let sound = voice(48_000 * 12);
    let mut call = Call::new(bundles(3));
    let mut before = 0;
    let lose = |packet| (packet != 30).then_some(20_000);
    call.run(&sound, 0.0, lose, |seconds, receiver| {
        if seconds < 5.0 {
            before = receiver.statistics().concealed_samples;
        }
    });
    let statistics = call.receiver.statistics();
    assert_eq!(statistics.lost, 1);
    let concealed = statistics.concealed_samples - before;
    assert!((48 * 120..=48 * 260).contains(&concealed), "{} ms", concealed / 48);
}

#[test]
fn a_path_that_narrows_in_a_call_gets_bundles_and_one_that_widens_loses_them() {
    let sound = voice(48_000 * 10);
    let mut call = Call::new(VoiceConfig::default());
    call.sender.set_bundles(true);
    // Nobody hears of the first second: the handshake told of 11 kbit/s.
    call.sender.start_at(11_000);
    let mut bundled = 0;
    let mut missed = Vec::new();
    call.run_blocks(
        &sound,
        10_000,
        0.0,
        |_| Some(20_000),
        |seconds, receiver| {
            let statistics = receiver.statistics();
            bundled += u64::from(seconds < 2.0 && statistics.playout_delay_ms > 180.0);
            missed.push(statistics.concealed_samples);
        },
    );
    assert!(bundled > 100, "{bundled} blocks played from bundles");
    assert_eq!(call.sender.operating_point().bundled, 1);
    // Once the first packet has come nothing is missed, whatever the lengths change to.
    let (after_first, end) = (missed[200], missed[missed.len() - 1]);
    assert!(end - after_first < 48 * 100, "{} ms missed", (end - after_first) / 48);
    assert_eq!(call.receiver.statistics().malformed, 0);
}

#[test]
fn who_cannot_play_bundles_gets_none() {
    let sound = voice(48_000 * 4);
    let mut types = std::collections::BTreeSet::new();
    for taken in [false, true] {
        let mut sender = VoiceSender::new(VoiceConfig::default()).unwrap();
        sender.set_bundles(taken);
        sender.start_at(9_000);
        let now = Instant::now();
        sender.capture(now, &sound, &mut |packet| {
            types.insert((taken, packet.payload_type));
        });
    }
    assert!(types.contains(&(true, PAYLOAD_TYPE_BUNDLE)), "{types:?}");
    assert!(!types.contains(&(false, PAYLOAD_TYPE_BUNDLE)), "{types:?}");
}
