//! The audio thread of a call asks the system for no memory: microphone to packet and packet to
//! speaker, as the node runs them, with all sound processing on.
//!
//! The program's allocator is in place; counted is what it passes on to the system.
#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    time::{Duration, Instant},
};

use cooee_media::{level::LevelMeter, processing::ProcessingConfig};
use cooee_node::audio::{
    CallPath, CallSound, ScratchHeap,
    clock::BLOCK_SAMPLES,
    link::{VoiceMessage, VoiceReader, VoiceWriter, voice_link},
    path::SoundPath,
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
}

#[global_allocator]
static ALLOCATOR: ScratchHeap<Counting> = ScratchHeap(Counting);

/// A leg and the network's ends of its link.
struct Leg {
    path: CallPath,
    reader: VoiceReader,
    writer: VoiceWriter,
    heard: [f32; BLOCK_SAMPLES],
    meter: LevelMeter,
    pitch: f32,
}

impl Leg {
    fn new(pitch: f32) -> Self {
        let (audio, reader, writer) = voice_link().expect("a link");
        let processing = Some(ProcessingConfig::default());
        let sound = CallSound { processing, ..CallSound::default() };
        let (path, _) = CallPath::new(sound, audio).expect("a path");
        let (heard, meter) = ([0.0; BLOCK_SAMPLES], LevelMeter::default());
        Self { path, reader, writer, heard, meter, pitch }
    }

    /// One wake-up of the audio thread; returns how often it asked the system for memory.
    fn wake_up(&mut self, now: Instant, block: u64, noise: f32) -> u64 {
        let mut microphone = spoken(block, self.pitch, noise);
        microphone.iter_mut().zip(&self.heard).for_each(|(m, h)| *m += 0.2 * h);
        COUNTED.set(Some(0));
        self.path.exchange(now);
        self.meter.add(&microphone);
        self.path.capture(now, &mut microphone);
        self.path.playout(now, &mut self.heard);
        self.meter.add(&self.heard);
        self.path.finish(now);
        COUNTED.replace(None).unwrap_or(0)
    }

    /// The network: one packet in 13 is lost.
    fn carry(&mut self, now: Instant, to: &mut Self) {
        while let Some(message) = self.reader.try_receive() {
            let lost = matches!(&message, VoiceMessage::Packet(p) if p.sequence % 13 == 0);
            if !lost {
                to.writer.send(now, message);
            }
        }
    }
}

/// A voice-like sound in syllables, and noise.
fn spoken(block: u64, pitch: f32, noise: f32) -> [f32; BLOCK_SAMPLES] {
    let mut state = block.wrapping_mul(6_364_136_223_846_793_005) as u32;
    std::array::from_fn(|i| {
        let t = (block * BLOCK_SAMPLES as u64 + i as u64) as f32 / 48_000.0;
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let hiss = ((state >> 8) as f32 / 8_388_608.0 - 1.0) * noise;
        let voice: f32 = (1..12).map(|k| (t * pitch * k as f32).sin() * 0.1).sum();
        hiss + voice * (t * 9.0).sin().max(0.0)
    })
}

#[tokio::test]
async fn the_audio_thread_of_a_call_never_asks_the_system_for_memory() {
    let (mut here, mut there) = (Leg::new(900.0), Leg::new(1_300.0));
    let start = Instant::now();
    let (warm_up, blocks) = (800, 12_000_u64);
    let mut total = 0;
    for block in 0..blocks {
        let now = start + Duration::from_micros(block * 2_500);
        let noise = if (2_000..8_000).contains(&block) { 0.02 } else { 1e-5 };
        let counted = here.wake_up(now, block, noise) + there.wake_up(now, block, 1e-5);
        here.carry(now, &mut there);
        there.carry(now, &mut here);
        if block >= warm_up {
            total += counted;
        }
    }
    assert!(here.meter.is_voice() || here.meter.level_dbov() > -60.0, "something was heard");
    assert_eq!(total, 0, "in {} wake-ups of two audio threads", blocks - warm_up);
}
