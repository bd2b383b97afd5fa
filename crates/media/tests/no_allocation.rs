//! The audio path asks the allocator for nothing once a call runs.
//!
//! The program's allocator is in place, and counted is what it passes on to the system.
//! A counting allocator counts what this one test thread asks for between two marks; C code inside
//! libopus is not seen by it, but takes its memory at construction (its encoder and decoder are
//! created with all their state and use the stack otherwise).
#![allow(clippy::disallowed_methods, unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::VecDeque,
    time::{Duration, Instant},
};

use cooee_media::{
    VoicePacket,
    mixer::Mixer,
    processing::{ProcessingConfig, Processor},
    scratch::ScratchHeap,
    voice::{VoiceConfig, VoiceReceiver, VoiceSender},
};

struct Counting;

thread_local! {
    static COUNTED: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    let _ = COUNTED.try_with(|counted| counted.set(counted.get().map(|n| n + 1)));
}

// SAFETY: every call is passed on to the system allocator unchanged; counting touches only a
// thread-local cell that needs no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: ScratchHeap<Counting> = ScratchHeap(Counting);

/// Runs `work` and returns how often it asked the allocator.
fn allocations(work: impl FnOnce()) -> u64 {
    COUNTED.set(Some(0));
    work();
    COUNTED.replace(None).unwrap_or(0)
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1_u8; 100]))) >= 2);
}

#[test]
fn a_call_with_loss_jitter_and_rate_changes_never_allocates() {
    let mut sender = VoiceSender::new(VoiceConfig::default()).unwrap();
    let mut receiver = VoiceReceiver::new(VoiceConfig::default()).unwrap();
    let start = Instant::now();
    let mut way: VecDeque<(u64, VoicePacket)> = VecDeque::with_capacity(1_000);
    let mut out = [0.0; 240];
    let mut sent = 0_u64;
    let mut total = 0;
    for block in 0..20_000_u64 {
        let now = start + Duration::from_millis(block * 5);
        let sound: [f32; 240] = std::array::from_fn(|i| {
            let t = (block * 240 + i as u64) as f32 / 48_000.0;
            (t * 900.0).sin() * 0.2 * (t * 9.0).sin().max(0.0)
        });
        let counted = allocations(|| {
            sender.capture(now, &sound, &mut |packet| {
                sent += 1;
                // Loss in the second fifth, jitter in the third, a standing queue in the fourth.
                let phase = block / 4_000;
                let lost = phase == 1 && sent.wrapping_mul(2_654_435_761) >> 7 & 7 == 0;
                let queue = if phase == 3 { (block % 4_000) / 40 } else { 0 };
                let jitter = if phase == 2 { sent * 7 % 6 } else { 0 };
                if !lost && way.len() < 900 {
                    way.push_back((block + 4 + jitter + queue, packet));
                }
            });
            let waiting = way.len();
            for _ in 0..waiting {
                let Some((at, packet)) = way.pop_front() else { break };
                if at <= block {
                    receiver.handle_packet(now, packet);
                } else {
                    way.push_back((at, packet));
                }
            }
            receiver.playout(now, &mut out);
            if let Some(feedback) = receiver.poll_feedback(now) {
                sender.handle_feedback(now, &feedback);
            }
        });
        total += counted;
    }
    let statistics = receiver.statistics();
    assert!(statistics.repaired > 50 && statistics.concealed_samples > 0, "{statistics:?}");
    assert_eq!(total, 0, "allocations in 100 s of call");
}

#[test]
fn mixing_never_allocates() {
    let mut mixer = Mixer::default();
    let inputs = [[0.1_f32; 480]; 8];
    let slices: [&[f32]; 8] = std::array::from_fn(|i| &inputs[i][..]);
    mixer.mix(&slices, &mut |_, _| {});
    assert_eq!(allocations(|| mixer.mix(&slices, &mut |_, _| {})), 0);
}

/// Noise and a voice-like sound, loud and silent by turns.
fn spoken(block: u64, pitch: f32, noise: f32) -> [f32; 240] {
    let mut state = block.wrapping_mul(6_364_136_223_846_793_005) as u32;
    std::array::from_fn(|i| {
        let t = (block * 240 + i as u64) as f32 / 48_000.0;
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hiss = ((state >> 8) as f32 / 8_388_608.0 - 1.0) * noise;
        hiss + (1..12).map(|k| (t * pitch * k as f32).sin() * 0.1).sum::<f32>()
            * (t * 9.0).sin().max(0.0)
    })
}

/// One side of a call, with everything on.
struct End {
    sender: VoiceSender,
    receiver: VoiceReceiver,
    processor: Processor,
    /// Packets on their way to this end, and the block in which they come.
    way: VecDeque<(u64, VoicePacket)>,
    heard: [f32; 240],
    clean: [f32; 480],
    pitch: f32,
}

impl End {
    fn new(pitch: f32) -> Self {
        Self {
            sender: VoiceSender::new(VoiceConfig::default()).unwrap(),
            receiver: VoiceReceiver::new(VoiceConfig::default()).unwrap(),
            processor: Processor::new(ProcessingConfig::default()),
            way: VecDeque::with_capacity(1_000),
            heard: [0.0; 240],
            clean: [0.0; 480],
            pitch,
        }
    }

    /// 5 ms: the microphone hears the near voice, the room, and the loudspeaker.
    fn run(&mut self, now: Instant, block: u64, noise: f32, other: &mut Self) {
        let mut microphone = spoken(block, self.pitch, noise);
        microphone.iter_mut().zip(&self.heard).for_each(|(m, h)| *m += 0.2 * h);
        self.processor.set_device_delay_ms(20);
        let clean = &mut self.clean;
        self.processor.capture(&microphone, &mut |block| clean.copy_from_slice(block));
        if block % 2 == 1 {
            self.sender.capture(now, &self.clean, &mut |packet| {
                if packet.sequence % 13 != 0 {
                    other.way.push_back((block + 6, packet));
                }
            });
        }
        while self.way.front().is_some_and(|(at, _)| *at <= block) {
            let Some((_, packet)) = self.way.pop_front() else { break };
            self.receiver.handle_packet(now, packet);
        }
        self.receiver.playout(now, &mut self.heard);
        self.processor.render(&self.heard);
        if let Some(feedback) = self.receiver.poll_feedback(now) {
            other.sender.handle_feedback(now, &feedback);
        }
    }
}

/// Capture and playout of both ends: loss, an echo, and a room that becomes noisy and quiet
/// again, so that the suppressor starts and stops.
#[test]
fn a_call_with_all_processing_on_never_allocates() {
    let (mut here, mut there) = (End::new(900.0), End::new(1_300.0));
    let start = Instant::now();
    let (warm_up, blocks) = (400, 8_000_u64);
    let (mut suppressed, mut total) = (0_u64, 0);
    for block in 0..blocks {
        let now = start + Duration::from_millis(block * 5);
        let noise = if (1_000..5_000).contains(&block) { 0.02 } else { 1e-5 };
        let counted = allocations(|| {
            here.run(now, block, noise, &mut there);
            there.run(now, block, 1e-5, &mut here);
        });
        suppressed += u64::from(here.processor.suppresses_noise());
        if block >= warm_up {
            total += counted;
        }
    }
    let statistics = here.receiver.statistics();
    assert!(statistics.lost > 100, "{statistics:?}");
    assert!(suppressed > 1_000, "the suppressor ran for {suppressed} blocks");
    assert!(!here.processor.suppresses_noise(), "it stopped again");
    assert_eq!(total, 0, "allocations in {} blocks of 5 ms", blocks - warm_up);
}
