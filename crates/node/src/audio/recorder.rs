//! Recordings with a time base: what was spoken or heard, and when.
//!
//! The audio thread hands samples over through a lock-free ring; a writer thread owns the files.
//! `X.wav` is 48 kHz, 16 bit, mono, and its header is brought up to date every [`FLUSH_INTERVAL`],
//! so that it is a valid WAV file even after a crash. `X.wav.json` beside it says when sample 0
//! was spoken or heard on CLOCK_MONOTONIC, and where silence stands for sound that did not come:
//!
//! ```json
//! {"version":1,"clock":"CLOCK_MONOTONIC","rate_hz":48000,"sample_0_ns":81234567890123,
//!  "samples":96000,"gaps":[{"at_sample":4800,"samples":120}],"gaps_left_out":0,"finished":true}
//! ```
//!
//! Sample `k` was heard at `sample_0_ns + k / rate_hz`, gaps included: the time line has no holes.

use std::{
    fs,
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rtrb::{Consumer, Producer, RingBuffer};
use serde::{Deserialize, Serialize};

use super::{
    AudioError,
    clock::{MonotonicNs, SAMPLE_RATE_HZ},
    sources::to_i16,
};

/// How often header and time base are brought up to date (chosen: at most this much is lost).
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(250);

/// The writer may fall so far behind before sound is replaced by silence: 2 s.
const RING_SAMPLES: usize = 96_000;

/// Gaps listed one by one; further ones are only counted.
const GAPS_MAX: usize = 1_000;

/// The writer looks for samples this often.
const WRITER_INTERVAL: Duration = Duration::from_millis(20);

/// The file beside a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeBase {
    /// Format of this file: 1.
    pub version: u32,
    /// Always `CLOCK_MONOTONIC`.
    pub clock: String,
    /// Samples per second.
    pub rate_hz: u32,
    /// When sample 0 was spoken or heard.
    pub sample_0_ns: MonotonicNs,
    /// Samples in the WAV file so far.
    pub samples: u64,
    /// Silence that stands for missing sound, oldest first, at most 1,000.
    pub gaps: Vec<Gap>,
    /// Gaps beyond those listed.
    pub gaps_left_out: u64,
    /// False while recording, and for ever after a crash.
    pub finished: bool,
}

/// Silence in a recording that stands for missing sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Its first sample.
    pub at_sample: u64,
    /// Its length.
    pub samples: u64,
}

/// The path of the time base beside a recording.
pub fn time_base_path(recording: &Path) -> PathBuf {
    let mut path = recording.as_os_str().to_owned();
    path.push(".json");
    path.into()
}

/// The audio thread's end of a recording.
pub struct Recorder {
    samples: Producer<f32>,
    gaps: Producer<Gap>,
    shared: Arc<Shared>,
    written: u64,
    owed_silence: u64,
    open_gap: Option<Gap>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    sample_0_ns: AtomicU64,
    stopped: AtomicBool,
    failed: AtomicBool,
}

impl Recorder {
    /// Creates both files and starts the writer. Nothing is written until [`Self::start`].
    pub fn create(path: &Path) -> Result<Self, AudioError> {
        let (samples, sample_reader) = RingBuffer::new(RING_SAMPLES);
        let (gaps, gap_reader) = RingBuffer::new(256);
        let shared = Arc::new(Shared::default());
        let files = Files::create(path, sample_reader, gap_reader, shared.clone())
            .map_err(|e| AudioError::Recording { path: path.to_owned(), reason: e.to_string() })?;
        let writer = thread::Builder::new()
            .name("cooee-recorder".into())
            .spawn(move || files.run())
            .map_err(AudioError::Thread)?;
        Ok(Self {
            samples,
            gaps,
            shared,
            written: 0,
            owed_silence: 0,
            open_gap: None,
            writer: Some(writer),
        })
    }

    /// Says when sample 0 is spoken or heard.
    pub fn start(&mut self, sample_0_ns: MonotonicNs) {
        self.shared.sample_0_ns.store(sample_0_ns, Ordering::Release);
    }

    /// Appends sound; never blocks. What the writer cannot take becomes a gap of silence.
    pub fn write(&mut self, block: &[f32]) {
        self.pay_silence();
        if self.owed_silence > 0 || self.samples.push_entire_slice(block).is_err() {
            self.gap(block.len() as u64);
        } else {
            self.written += block.len() as u64;
            self.close_gap();
        }
    }

    /// Appends silence that stands for missing sound; never blocks.
    pub fn gap(&mut self, samples: u64) {
        let at_sample = self.written + self.owed_silence;
        match &mut self.open_gap {
            Some(gap) if gap.at_sample + gap.samples == at_sample => gap.samples += samples,
            _ => {
                self.close_gap();
                self.open_gap = Some(Gap { at_sample, samples });
            }
        }
        self.owed_silence += samples;
        self.pay_silence();
    }

    /// Whether the writer has failed (a full disk); the call goes on without recording.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    fn close_gap(&mut self) {
        if let Some(gap) = self.open_gap.take() {
            // A full ring of gaps loses the notice, not the silence.
            let _ = self.gaps.push(gap);
        }
    }

    fn pay_silence(&mut self) {
        let room = self.samples.slots().min(usize::try_from(self.owed_silence).unwrap_or(0));
        if room > 0
            && let Ok(chunk) = self.samples.write_chunk(room)
        {
            chunk.commit_all(); // initialised to zero
            self.written += room as u64;
            self.owed_silence -= room as u64;
        }
    }
}

impl Drop for Recorder {
    /// Waits until the writer has finished both files.
    fn drop(&mut self) {
        self.close_gap();
        self.shared.stopped.store(true, Ordering::Release);
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            let _ = writer.join();
        }
    }
}

struct Files {
    wav: hound::WavWriter<BufWriter<fs::File>>,
    path: PathBuf,
    samples: Consumer<f32>,
    gap_notices: Consumer<Gap>,
    shared: Arc<Shared>,
    base: TimeBase,
}

impl Files {
    fn create(
        path: &Path,
        samples: Consumer<f32>,
        gap_notices: Consumer<Gap>,
        shared: Arc<Shared>,
    ) -> Result<Self, hound::Error> {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: SAMPLE_RATE_HZ,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        // A time base left by an earlier recording must not date this one.
        let _ = fs::remove_file(time_base_path(path));
        let mut wav = hound::WavWriter::create(path, spec)?;
        wav.flush()?;
        let base = TimeBase {
            version: 1,
            clock: "CLOCK_MONOTONIC".into(),
            rate_hz: SAMPLE_RATE_HZ,
            sample_0_ns: 0,
            samples: 0,
            gaps: Vec::new(),
            gaps_left_out: 0,
            finished: false,
        };
        Ok(Self { wav, path: path.to_owned(), samples, gap_notices, shared, base })
    }

    fn run(mut self) {
        let shared = self.shared.clone();
        if let Err(error) = self.write_until_stopped() {
            tracing::warn!(path = %self.path.display(), %error, "recording failed");
            shared.failed.store(true, Ordering::Relaxed);
        }
    }

    fn write_until_stopped(&mut self) -> Result<(), hound::Error> {
        let mut flushed = Instant::now();
        loop {
            let stopped = self.shared.stopped.load(Ordering::Acquire);
            self.drain()?;
            if stopped || flushed.elapsed() >= FLUSH_INTERVAL {
                flushed = Instant::now();
                self.base.finished = stopped;
                self.flush()?;
            }
            if stopped {
                return Ok(());
            }
            thread::park_timeout(WRITER_INTERVAL);
        }
    }

    fn drain(&mut self) -> Result<(), hound::Error> {
        while let Ok(sample) = self.samples.pop() {
            self.wav.write_sample(to_i16(sample))?;
            self.base.samples += 1;
        }
        while let Ok(gap) = self.gap_notices.pop() {
            let listed = self.base.gaps.len();
            match self.base.gaps.last_mut() {
                Some(last) if last.at_sample + last.samples == gap.at_sample => {
                    last.samples += gap.samples;
                }
                _ if listed < GAPS_MAX => self.base.gaps.push(gap),
                _ => self.base.gaps_left_out += 1,
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), hound::Error> {
        self.wav.flush()?;
        self.base.sample_0_ns = self.shared.sample_0_ns.load(Ordering::Acquire);
        if self.base.sample_0_ns == 0 {
            return Ok(());
        }
        let path = time_base_path(&self.path);
        let partial = path.with_extension("json.partial");
        let json = serde_json::to_vec(&self.base).map_err(std::io::Error::other)?;
        fs::File::create(&partial)?.write_all(&json)?;
        fs::rename(&partial, &path)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_time_base(path: &Path) -> TimeBase {
        serde_json::from_slice(&fs::read(time_base_path(path)).unwrap()).unwrap()
    }

    #[test]
    fn sound_gaps_and_time_are_on_disk_when_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ear.wav");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.start(77);
        recorder.write(&[0.5; 120]);
        recorder.gap(240);
        recorder.write(&[-0.5; 120]);
        drop(recorder);
        let samples: Vec<i16> =
            hound::WavReader::open(&path).unwrap().samples().map(Result::unwrap).collect();
        assert_eq!(samples.len(), 480);
        assert!(samples[..120].iter().all(|s| *s == 16_384));
        assert!(samples[120..360].iter().all(|s| *s == 0));
        assert!(samples[360..].iter().all(|s| *s == -16_384));
        let base = read_time_base(&path);
        assert_eq!((base.sample_0_ns, base.samples, base.finished), (77, 480, true));
        assert_eq!(base.gaps, [Gap { at_sample: 120, samples: 240 }]);
    }

    #[test]
    fn the_files_are_valid_in_the_middle_of_a_recording() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ear.wav");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.start(1);
        recorder.write(&[0.1; 4_800]);
        let deadline = Instant::now() + Duration::from_secs(20);
        while hound::WavReader::open(&path).unwrap().duration() < 4_800
            || !time_base_path(&path).exists()
            || read_time_base(&path).samples < 4_800
        {
            assert!(Instant::now() < deadline, "the header is never brought up to date");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(!read_time_base(&path).finished);
        drop(recorder);
    }

    #[test]
    fn more_than_the_writer_can_take_becomes_silence_on_the_same_time_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ear.wav");
        let mut recorder = Recorder::create(&path).unwrap();
        recorder.start(1);
        let mut given = 0_u64;
        while given < 4 * RING_SAMPLES as u64 {
            recorder.write(&[0.25; 120]);
            given += 120;
        }
        // Time passes; the writer catches up and what is owed can be paid.
        let deadline = Instant::now() + Duration::from_secs(20);
        while recorder.owed_silence > 0 {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
            recorder.pay_silence();
        }
        drop(recorder);
        let base = read_time_base(&path);
        assert_eq!(base.samples, given);
        let silent: u64 = base.gaps.iter().map(|g| g.samples).sum();
        let zeroes = hound::WavReader::open(&path)
            .unwrap()
            .into_samples::<i16>()
            .filter(|s| matches!(s, Ok(0)))
            .count();
        assert_eq!(silent, zeroes as u64);
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_at_once() {
        let error = Recorder::create(Path::new("/nonexistent/ear.wav")).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/ear.wav"), "{error}");
    }
}
