//! The audio thread's loop: waits for a deadline or for the sound server, moves blocks.
//!
//! ```text
//!   microphone (paced | device) ──▶ mouth recording ──▶ SoundPath::capture
//!   SoundPath::playout ──▶ ear recording ──▶ speaker (paced | device)
//! ```
//!
//! A device that is away is stood in for by a paced one: silence is sent, what arrives is played
//! to nobody, and neither side's delay grows.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    clock::{AudioClock, BLOCK_SAMPLES, MonotonicNs, samples_to_ns, thread_cpu_ns},
    headless::{PacedMicrophone, PacedSpeaker, SpeakerDue},
    path::SoundPath,
    priority,
    pulse::PulseSession,
    recorder::Recorder,
    shared::Shared,
    sources::Source,
    statistics::AudioEvent,
};

/// The loop looks for a stop at least this often.
const IDLE_NS: u64 = 20_000_000;

/// Length of a block.
const BLOCK_NS: i64 = 2_500_000;

/// How often figures are published (chosen).
const PUBLISH_NS: u64 = 100_000_000;

pub(super) struct Engine<P> {
    pub(super) path: P,
    pub(super) microphone: Microphone,
    pub(super) speaker: Speaker,
    pub(super) pulse: Option<PulseSession>,
    pub(super) events: tokio::sync::mpsc::Sender<AudioEvent>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: AudioClock,
}

pub(super) struct Microphone {
    pub(super) source: Source,
    pub(super) is_device: bool,
    pub(super) recording: Option<Recorder>,
    paced: Option<PacedMicrophone>,
    lost_samples: u64,
}

pub(super) struct Speaker {
    pub(super) is_device: bool,
    pub(super) recording: Option<Recorder>,
    recording_started: bool,
    paced: Option<PacedSpeaker>,
    pace: Pace,
}

/// How far a device's demands are ahead of time. A sound server that is starved asks for the same
/// time again and again (measured under heavy load: four times what it plays); it gets silence
/// then, so that the call's sound is not used up before it arrives.
#[derive(Default)]
struct Pace {
    ahead_ns: i64,
    last_ns: Option<MonotonicNs>,
}

impl Pace {
    /// Demands this far ahead of time are met. Chosen: the longest buffer and a short stall.
    const AHEAD_MAX_NS: i64 = 300_000_000;
    /// Time that was not asked for may be caught up with to this length. Chosen.
    const BEHIND_MAX_NS: i64 = 1_000_000_000;
    /// One part of this many is forgiven: a device's clock may be fast by 1,000 ppm.
    const DRIFT: u64 = 1_000;

    /// A block is asked for at `now_ns`; whether it may be one of the call.
    fn take(&mut self, now_ns: MonotonicNs) -> bool {
        let passed_ns = now_ns - self.last_ns.unwrap_or(now_ns);
        self.last_ns = Some(now_ns);
        let passed_ns = i64::try_from(passed_ns + passed_ns / Self::DRIFT).unwrap_or(i64::MAX);
        self.ahead_ns = self.ahead_ns.saturating_sub(passed_ns).max(-Self::BEHIND_MAX_NS);
        let may_play = self.ahead_ns <= Self::AHEAD_MAX_NS;
        if may_play {
            self.ahead_ns += BLOCK_NS;
        }
        may_play
    }
}

impl Microphone {
    pub(super) fn new(source: Source, is_device: bool, recording: Option<Recorder>) -> Self {
        Self { source, is_device, recording, paced: None, lost_samples: 0 }
    }
}

impl Speaker {
    pub(super) fn new(is_device: bool, recording: Option<Recorder>) -> Self {
        Self { is_device, recording, recording_started: false, paced: None, pace: Pace::default() }
    }
}

impl<P: SoundPath> Engine<P> {
    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        self.shared.set_rank(priority::raise_current_thread());
        let started_ns = self.clock.now_ns();
        let mut publish_at_ns = 0;
        while !self.shared.stop.load(Ordering::Acquire) {
            let now_ns = self.clock.now_ns();
            let now = self.clock.instant(now_ns);
            if let Some(pulse) = &mut self.pulse {
                let events = &self.events;
                pulse.advance(now_ns, &mut |event| drop(events.try_send(event)));
            }
            self.path.exchange(now);
            self.run_microphone(now_ns);
            self.run_speaker(now_ns);
            self.path.finish(now);
            if now_ns >= publish_at_ns {
                publish_at_ns = now_ns + PUBLISH_NS;
                self.publish(now_ns - started_ns);
            }
            self.wait(now_ns);
        }
        self.publish(self.clock.now_ns() - started_ns);
    }

    fn run_microphone(&mut self, now_ns: MonotonicNs) {
        let now = self.clock.instant(now_ns);
        let mut block = [0.0; BLOCK_SAMPLES];
        if self.microphone.is_device
            && let Some(pulse) = &mut self.pulse
            && pulse.microphone_runs()
        {
            self.microphone.paced = None;
            while pulse.take_block(&mut block) {
                self.shared.microphone_level.measure(&block);
                self.path.capture(now, &mut block);
            }
            return;
        }
        let microphone = &mut self.microphone;
        if microphone.paced.is_none() {
            microphone.paced = Some(PacedMicrophone::new(now_ns));
            if let Some(recording) = &mut microphone.recording {
                recording.start(now_ns);
            }
        }
        let Some(paced) = &mut microphone.paced else { return };
        while let Some(position) = paced.next_block(now_ns) {
            microphone.source.fill(position, &mut block);
            if let Some(recording) = &mut microphone.recording {
                let lost = paced.lost_samples();
                if lost > microphone.lost_samples {
                    recording.gap(lost - microphone.lost_samples);
                    microphone.lost_samples = lost;
                }
                recording.write(&block);
            }
            self.shared.microphone_level.measure(&block);
            self.path.capture(now, &mut block);
        }
    }

    fn run_speaker(&mut self, now_ns: MonotonicNs) {
        let now = self.clock.instant(now_ns);
        let mut block = [0.0; BLOCK_SAMPLES];
        if self.speaker.is_device
            && let Some(pulse) = &mut self.pulse
            && pulse.speaker_runs()
        {
            self.speaker.paced = None;
            while pulse.wants_block() {
                if self.speaker.pace.take(now_ns) {
                    self.path.playout(now, &mut block);
                } else {
                    block.fill(0.0);
                }
                self.shared.speaker_level.measure(&block);
                pulse.play(&block);
            }
            return;
        }
        let speaker = &mut self.speaker;
        let paced = speaker.paced.get_or_insert_with(|| PacedSpeaker::new(now_ns));
        if let (Some(recording), false) = (&mut speaker.recording, speaker.recording_started) {
            speaker.recording_started = true;
            recording.start(paced.origin_ns());
        }
        while let Some(due) = paced.next_due(now_ns) {
            match due {
                SpeakerDue::Block => {
                    self.path.playout(now, &mut block);
                    self.shared.speaker_level.measure(&block);
                    if let Some(recording) = &mut speaker.recording {
                        recording.write(&block);
                    }
                }
                SpeakerDue::Gap { samples } => {
                    self.shared.speaker_gaps.fetch_add(1, Ordering::Relaxed);
                    if let Some(recording) = &mut speaker.recording {
                        recording.gap(samples);
                    }
                }
            }
        }
        let buffer_ns = samples_to_ns(paced.head_start_samples());
        self.shared.paced_buffer_ns.store(buffer_ns, Ordering::Relaxed);
    }

    fn wait(&self, now_ns: MonotonicNs) {
        let paced = [
            self.microphone.paced.as_ref().map(PacedMicrophone::deadline_ns),
            self.speaker.paced.as_ref().map(PacedSpeaker::deadline_ns),
            self.pulse.as_ref().map(PulseSession::deadline_ns),
        ];
        let deadline_ns = paced.into_iter().flatten().min().unwrap_or(MonotonicNs::MAX);
        let deadline_ns = deadline_ns.min(now_ns + IDLE_NS);
        let span = Duration::from_nanos(deadline_ns.saturating_sub(self.clock.now_ns()));
        if span.is_zero() {
            return;
        }
        let timeout = Timespec::try_from(span).expect("at most 20 ms");
        let result = match self.pulse.as_ref().and_then(PulseSession::wait_for) {
            Some((socket, for_room)) => {
                let room = if for_room { PollFlags::OUT } else { PollFlags::empty() };
                poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN | room)], Some(&timeout))
            }
            None => poll(&mut [], Some(&timeout)),
        };
        debug_assert!(matches!(result, Ok(_) | Err(Errno::INTR)), "{result:?}");
    }

    fn publish(&mut self, running_ns: u64) {
        self.shared.cpu_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        self.shared.running_ns.store(running_ns, Ordering::Relaxed);
        if let Some(pulse) = &self.pulse {
            let statistics = pulse.statistics();
            self.path.set_microphone_delay(statistics.microphone_latency_ms.unwrap_or(0.0));
            if let Ok(mut devices) = self.shared.devices.try_lock() {
                *devices = statistics;
            }
        }
        let failed = |r: &Option<Recorder>| r.as_ref().is_some_and(Recorder::has_failed);
        if failed(&self.microphone.recording) || failed(&self.speaker.recording) {
            self.shared.recording_failed.store(true, Ordering::Relaxed);
        }
        let lost_ns = samples_to_ns(self.microphone.lost_samples);
        self.shared.microphone_lost_ns.store(lost_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of the call that a device gets in `seconds` if it asks for `factor` times real time.
    fn taken(seconds: u64, factor: f64) -> f64 {
        let mut pace = Pace::default();
        let asked = (seconds as f64 * 400.0 * factor) as u64;
        let due = |n: u64| (n as f64 * 2_500_000.0 / factor) as u64;
        (0..asked).filter(|n| pace.take(due(*n))).count() as f64
    }

    #[test]
    fn a_device_of_the_right_pace_or_with_a_fast_clock_gets_all_it_asks_for() {
        assert_eq!(taken(60, 1.0), 24_000.0);
        assert_eq!(taken(3_600, 1.000_5), (3_600.0_f64 * 400.0 * 1.000_5).floor());
    }

    #[test]
    fn a_server_that_asks_too_much_gets_what_time_allows() {
        let share = taken(60, 4.0) / 24_000.0;
        assert!((1.0..1.01).contains(&share), "{share}");
        let mut pace = Pace::default();
        assert!(pace.take(0));
        let after_a_stall = (0..1_000).filter(|_| pace.take(5_000_000_000)).count();
        assert!((400..600).contains(&after_a_stall), "{after_a_stall} blocks to catch up");
    }
}
