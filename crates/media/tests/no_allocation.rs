//! The audio path asks the allocator for nothing once a call runs.
//!
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
static ALLOCATOR: Counting = Counting;

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
