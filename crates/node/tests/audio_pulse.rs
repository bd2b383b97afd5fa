//! Real PulseAudio: a private daemon with null sinks, speech through them, latency by
//! cross-correlation, devices unplugged and plugged in again, the server killed.
//!
//! A null sink keeps time like a card; its monitor is the microphone at the other end of the
//! wire. Needs the program `pulseaudio` (Debian: `apt-get install pulseaudio pulseaudio-utils`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use cooee_lab::{
    measure::{Recording, measure},
    speech::{Voice, speak},
};
use cooee_node::audio::{
    AudioConfig, AudioEvent, AudioLeg, AudioStatistics, DeviceKind, MicrophoneSpec, SpeakerSpec,
    clock::BLOCK_SAMPLES, list_devices, path::Loop, path::SoundPath,
};

/// The environment names the server, so one test at a time.
static ONE_SERVER: Mutex<()> = Mutex::new(());

struct Server {
    daemon: Child,
    folder: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Server {
    fn start() -> Self {
        let one = ONE_SERVER.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("native");
        // SAFETY: no other thread of this test program runs while the lock is being taken over;
        // the audio threads of the test before have been joined.
        #[expect(unsafe_code)]
        unsafe {
            std::env::set_var("PULSE_SERVER", format!("unix:{}", socket.display()));
        }
        let daemon = spawn_daemon(folder.path());
        let server = Self { daemon, folder, _one: one };
        server.wait_until_up();
        server
    }

    fn wait_until_up(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.pactl(&["info"]).status.success() {
            assert!(Instant::now() < deadline, "pulseaudio does not start");
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn pactl(&self, arguments: &[&str]) -> Output {
        let socket = self.folder.path().join("native");
        Command::new("pactl")
            .arg(format!("--server=unix:{}", socket.display()))
            .args(arguments)
            .env("HOME", self.folder.path())
            .output()
            .unwrap_or_else(|e| panic!("pactl: {e}; apt-get install pulseaudio-utils"))
    }

    fn plug(&self, name: &str) -> String {
        let sink = format!("sink_name={name}");
        let output = self.pactl(&["load-module", "module-null-sink", &sink, "rate=48000"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn unplug(&self, module: &str) {
        assert!(self.pactl(&["unload-module", module]).status.success());
    }

    fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        let _ = fs::remove_file(self.folder.path().join("native"));
        thread::sleep(Duration::from_millis(300));
        self.daemon = spawn_daemon(self.folder.path());
        self.wait_until_up();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn spawn_daemon(folder: &Path) -> Child {
    let socket = folder.join("native");
    let protocol =
        format!("module-native-protocol-unix socket={} auth-anonymous=1", socket.display());
    Command::new("pulseaudio")
        .args(["--system=false", "-n", "--daemonize=no", "--exit-idle-time=-1"])
        .args(["--use-pid-file=no", "--disable-shm=yes", "--realtime=yes", "--log-target=stderr"])
        .args(["-L", &protocol])
        .env("HOME", folder)
        .env("XDG_RUNTIME_DIR", folder)
        .env("PULSE_RUNTIME_PATH", folder)
        .env_remove("PULSE_SERVER")
        .stdin(Stdio::null())
        .stderr(fs::File::create(folder.join("log")).unwrap())
        .spawn()
        .unwrap_or_else(|e| panic!("pulseaudio: {e}; apt-get install pulseaudio pulseaudio-utils"))
}

fn speech(folder: &Path) -> PathBuf {
    let path = folder.join("speech.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 48_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for sample in speak(Voice::Low, 5, 15.0) {
        writer.write_sample((sample * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    path
}

/// Speaks a file into a sink, as a person at a loudspeaker would.
fn mouth(folder: &Path, sink: &str) -> AudioLeg {
    let config = AudioConfig {
        microphone: MicrophoneSpec::Wav { path: speech(folder), repeat: true },
        speaker: SpeakerSpec::Device(sink.into()),
        mouth_recording: Some(folder.join("mouth.wav")),
    };
    AudioLeg::start(&config, Loop::new(0)).unwrap()
}

/// Records a source.
fn ear(folder: &Path, source: &str) -> AudioLeg {
    let config = AudioConfig {
        microphone: MicrophoneSpec::Device(source.into()),
        speaker: SpeakerSpec::Wav { path: folder.join("ear.wav") },
        mouth_recording: None,
    };
    AudioLeg::start(&config, Loop::new(0)).unwrap()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} never comes");
        thread::sleep(Duration::from_millis(10));
    }
}

fn speaker_of(leg: &AudioLeg) -> Option<String> {
    leg.statistics().devices.speaker
}

fn events(leg: &mut AudioLeg) -> Vec<AudioEvent> {
    std::iter::from_fn(|| leg.try_next_event()).collect()
}

#[test]
fn speech_through_null_sinks_is_heard_and_its_latency_measured() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    server.plug("wire");
    let listener = ear(folder.path(), "wire.monitor");
    let speaker = mouth(folder.path(), "wire");
    thread::sleep(Duration::from_millis(14_500));
    let (spoken, heard): (AudioStatistics, AudioStatistics) = (speaker.stop(), listener.stop());
    let recordings = (folder.path().join("mouth.wav"), folder.path().join("ear.wav"));
    let recording = Recording::from_pair(&recordings.0, &recordings.1).unwrap();
    // Until both streams run, the wire swallows what is said.
    let from = 3 * recording.rate_hz as usize;
    let report = measure(&recording.mouth[from..], &recording.ear[from..], recording.rate_hz);
    println!(
        "floor of a PulseAudio null sink, mouth to ear: {:?} ms, sd {:?} ms\n{:#?}\n{:#?}\n{:?}",
        report.mean_ms, report.sd_ms, spoken.devices, heard.devices, report.windows
    );
    assert!(report.delays().count() >= 2, "{report:?}");
    assert_eq!(spoken.devices.speaker.as_deref(), Some("wire"));
    assert_eq!(heard.devices.microphone.as_deref(), Some("wire.monitor"));
    assert!(spoken.devices.speaker_latency_ms.unwrap() > 0.0);
}

#[test]
fn a_device_that_is_unplugged_is_replaced_and_returned_to() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    server.plug("builtin");
    let headset = server.plug("headset");
    server.pactl(&["set-default-sink", "builtin"]);
    let mut leg = mouth(folder.path(), "headset");
    let on = |name: &str| Some(name.to_owned());
    wait_for("the headset", || (speaker_of(&leg) == on("headset")).then_some(()));
    server.unplug(&headset);
    wait_for("the fall-back", || (speaker_of(&leg) == on("builtin")).then_some(()));
    server.plug("headset");
    wait_for("the return", || (speaker_of(&leg) == on("headset")).then_some(()));
    let seen = events(&mut leg);
    for device in ["headset", "builtin"] {
        let event = AudioEvent::SpeakerChanged { device: on(device) };
        assert!(seen.contains(&event), "{seen:?}");
    }
    leg.stop();
}

#[test]
fn a_leg_on_the_default_device_follows_it() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    server.plug("first");
    server.plug("second");
    server.pactl(&["set-default-sink", "first"]);
    let config = AudioConfig {
        microphone: MicrophoneSpec::Wav { path: speech(folder.path()), repeat: true },
        speaker: SpeakerSpec::Default,
        mouth_recording: None,
    };
    let leg = AudioLeg::start(&config, Loop::new(0)).unwrap();
    wait_for("the first", || (speaker_of(&leg).as_deref() == Some("first")).then_some(()));
    server.pactl(&["set-default-sink", "second"]);
    wait_for("the second", || (speaker_of(&leg).as_deref() == Some("second")).then_some(()));
    leg.stop();
}

/// Counts the blocks that pass, in either direction.
struct Counting(std::sync::Arc<[std::sync::atomic::AtomicU64; 2]>);

impl SoundPath for Counting {
    fn exchange(&mut self, _now: Instant) {}
    fn capture(&mut self, _now: Instant, _block: &mut [f32; BLOCK_SAMPLES]) {
        self.0[0].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn playout(&mut self, _now: Instant, _block: &mut [f32; BLOCK_SAMPLES]) {
        self.0[1].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    fn finish(&mut self, _now: Instant) {}
}

#[test]
fn when_the_sound_server_dies_time_goes_on_and_it_is_found_again() {
    let mut server = Server::start();
    server.plug("wire");
    let blocks = std::sync::Arc::<[std::sync::atomic::AtomicU64; 2]>::default();
    let count = |way: usize| blocks[way].load(std::sync::atomic::Ordering::Relaxed);
    let mut leg =
        AudioLeg::start(&AudioConfig::default(), Counting(blocks.clone())).expect("it is up");
    wait_for("the device", || (speaker_of(&leg).as_deref() == Some("wire")).then_some(()));
    let _ = server.daemon.kill();
    let mut seen = Vec::new();
    wait_for("the loss", || {
        seen.extend(events(&mut leg));
        seen.iter().any(|e| matches!(e, AudioEvent::SoundServerLost { .. })).then_some(())
    });
    let before = (count(0), count(1));
    thread::sleep(Duration::from_secs(1));
    let (captured, played) = (count(0) - before.0, count(1) - before.1);
    // 400 blocks a second on each side; bounds leave room for a busy machine.
    assert!((200..800).contains(&captured) && (200..800).contains(&played), "{captured} {played}");
    server.restart();
    server.plug("wire");
    wait_for("the return", || (speaker_of(&leg).as_deref() == Some("wire")).then_some(()));
    assert!(events(&mut leg).contains(&AudioEvent::SoundServerReturned));
    leg.stop();
}

#[test]
fn devices_are_listed_with_their_kinds_and_the_default() {
    let server = Server::start();
    server.plug("wire");
    let devices = list_devices().unwrap();
    let find = |name: &str| devices.iter().find(|d| d.name == name).expect(name);
    assert_eq!(find("wire").kind, DeviceKind::Speaker);
    assert!(find("wire").is_default);
    assert_eq!(find("wire.monitor").kind, DeviceKind::Monitor);
    drop(server);
    let error = list_devices().unwrap_err().to_string();
    assert!(error.contains("PULSE_SERVER") || error.contains("pactl"), "{error}");
}
