//! Two legs' audio threads with the real voice engine, headless devices, and UDP between them;
//! mouth-to-ear delay from their recordings.

use std::{net::UdpSocket as StdSocket, path::Path, time::Duration};

use bytes::Bytes;
use cooee_lab::{
    measure::{DelayReport, Recording, measure},
    speech::{RATE_HZ, Voice, speak},
};
use cooee_media::{VoicePacket, rate::Feedback};
use cooee_node::audio::{
    AudioConfig, AudioLeg, CallControls, CallPath, CallSound, MicrophoneSpec, SpeakerSpec,
    link::{VoiceMessage, VoiceReader, VoiceWriter, voice_link},
    tones::DtmfDigit,
};
use tokio::{net::UdpSocket, task::JoinHandle};

struct Leg {
    audio: AudioLeg,
    controls: CallControls,
    network: [JoinHandle<()>; 2],
}

impl Leg {
    async fn start(config: AudioConfig, sound: CallSound, socket: StdSocket) -> Self {
        let (end, reader, writer) = voice_link().unwrap();
        let (path, controls) = CallPath::new(sound, end).unwrap();
        let start = tokio::task::spawn_blocking(move || AudioLeg::start(&config, path));
        let audio = start.await.unwrap().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = std::sync::Arc::new(UdpSocket::from_std(socket).unwrap());
        let network =
            [tokio::spawn(send(reader, socket.clone())), tokio::spawn(receive(writer, socket))];
        Self { audio, controls, network }
    }

    async fn stop(self) {
        self.network.iter().for_each(JoinHandle::abort);
        tokio::task::spawn_blocking(move || self.audio.stop()).await.unwrap();
    }
}

async fn send(mut reader: VoiceReader, socket: std::sync::Arc<UdpSocket>) {
    while let Some(message) = reader.receive().await {
        let bytes = match message {
            VoiceMessage::Packet(packet) => {
                let mut bytes = vec![packet.payload_type];
                bytes.extend(packet.sequence.to_be_bytes());
                bytes.extend(packet.timestamp.to_be_bytes());
                bytes.push(u8::from(packet.marker));
                bytes.extend(&packet.payload[..]);
                bytes
            }
            VoiceMessage::Feedback(feedback) => {
                let mut bytes = [0; 512];
                let room = bytes[1..].first_chunk_mut().unwrap();
                let length = feedback.encode(room);
                bytes[..=length].to_vec()
            }
            _ => continue,
        };
        let _ = socket.send(&bytes).await;
    }
}

async fn receive(mut writer: VoiceWriter, socket: std::sync::Arc<UdpSocket>) {
    let mut bytes = [0; 2_000];
    while let Ok(length) = socket.recv(&mut bytes).await {
        let now = std::time::Instant::now();
        let message = match bytes[..length].split_at(8.min(length)) {
            ([0, ..], _) => VoiceMessage::Feedback(Feedback::decode(&bytes[1..length]).unwrap()),
            ([payload_type, s0, s1, t0, t1, t2, t3, marker], payload) => {
                VoiceMessage::Packet(VoicePacket {
                    payload_type: *payload_type,
                    sequence: u16::from_be_bytes([*s0, *s1]),
                    timestamp: u32::from_be_bytes([*t0, *t1, *t2, *t3]),
                    marker: *marker == 1,
                    payload: Bytes::copy_from_slice(payload),
                })
            }
            _ => continue,
        };
        writer.send(now, message);
    }
}

fn sockets() -> (StdSocket, StdSocket) {
    let a = StdSocket::bind("127.0.0.1:0").unwrap();
    let b = StdSocket::bind("127.0.0.1:0").unwrap();
    a.connect(b.local_addr().unwrap()).unwrap();
    b.connect(a.local_addr().unwrap()).unwrap();
    (a, b)
}

fn write_speech(path: &Path, seconds: f64) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in speak(Voice::High, 42, seconds) {
        writer.write_sample((sample * 32_767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

fn delay(folder: &Path) -> DelayReport {
    let pair = (folder.join("mouth.wav"), folder.join("ear.wav"));
    let recording = Recording::from_pair(&pair.0, &pair.1).unwrap();
    measure(&recording.mouth, &recording.ear, recording.rate_hz)
}

fn speaking(folder: &Path) -> AudioConfig {
    AudioConfig {
        microphone: MicrophoneSpec::Wav { path: folder.join("speech.wav"), repeat: true },
        speaker: SpeakerSpec::Null,
        mouth_recording: Some(folder.join("mouth.wav")),
    }
}

fn listening(folder: &Path) -> AudioConfig {
    AudioConfig {
        microphone: MicrophoneSpec::Silence,
        speaker: SpeakerSpec::Wav { path: folder.join("ear.wav") },
        mouth_recording: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_crosses_two_audio_threads_and_the_delay_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    write_speech(&folder.path().join("speech.wav"), 7.0);
    let (a, b) = sockets();
    let alice = Leg::start(speaking(folder.path()), CallSound::default(), a).await;
    let bob = Leg::start(listening(folder.path()), CallSound::default(), b).await;
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    let (sound, voice) = (bob.audio.statistics(), bob.controls.statistics());
    let priority = sound.priority;
    alice.stop().await;
    bob.stop().await;
    let report = delay(folder.path());
    println!("{priority}, {} % of a core\n{report:#?}\n{voice:#?}", sound.cpu_percent);
    // That it was heard, not how fast: speed is for the laboratory.
    assert!(report.delays().count() >= 3, "{report:?}");
    assert!(report.delays().all(|(_, delay_ms)| delay_ms > 0.0), "{report:?}");
    assert_eq!((voice.dropped_incoming, voice.dropped_outgoing), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_echo_user_says_its_prompt_and_then_what_it_hears() {
    let folder = tempfile::tempdir().unwrap();
    write_speech(&folder.path().join("speech.wav"), 20.0);
    let (a, b) = sockets();
    let mut config = speaking(folder.path());
    config.speaker = SpeakerSpec::Wav { path: folder.path().join("ear.wav") };
    let alice = Leg::start(config, CallSound::default(), a).await;
    let echo = CallSound { echo: Some(Duration::from_millis(500)), ..CallSound::default() };
    let nobody = AudioConfig {
        microphone: MicrophoneSpec::Silence,
        speaker: SpeakerSpec::Null,
        mouth_recording: None,
    };
    let user = Leg::start(nobody, echo, b).await;
    tokio::time::sleep(Duration::from_millis(10_500)).await;
    alice.stop().await;
    user.stop().await;
    let report = delay(folder.path());
    println!("{report:#?}");
    let heard: Vec<f64> = report.delays().map(|(_, delay_ms)| delay_ms).collect();
    assert!(heard.len() >= 2, "{report:?}");
    assert!(heard.iter().all(|delay_ms| *delay_ms > 500.0), "{report:?}");
    let recording =
        Recording::from_pair(&folder.path().join("mouth.wav"), &folder.path().join("ear.wav"));
    let prompt = recording.unwrap().ear;
    let first = prompt.iter().position(|s| s.abs() > 0.05).unwrap();
    assert!(tone_share(&prompt[first..first + 9_600], 523.25) > 0.5, "no prompt");
}

#[tokio::test(flavor = "multi_thread")]
async fn mute_hold_and_digits_are_heard_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = sockets();
    let tone = AudioConfig {
        microphone: MicrophoneSpec::Tone { hz: 1_000.0, level_dbfs: -12.0 },
        speaker: SpeakerSpec::Null,
        mouth_recording: None,
    };
    let mut alice = Leg::start(tone, CallSound::default(), a).await;
    let bob = Leg::start(listening(folder.path()), CallSound::default(), b).await;
    let step = Duration::from_millis(1_500);
    tokio::time::sleep(step).await;
    alice.controls.set_muted(true);
    tokio::time::sleep(step).await;
    for digit in "19".chars() {
        assert!(alice.controls.send_dtmf(DtmfDigit::new(digit).unwrap()));
    }
    tokio::time::sleep(step).await;
    alice.controls.set_muted(false);
    tokio::time::sleep(step).await;
    let packets = bob.controls.statistics().receiver.packets;
    alice.controls.set_held(true);
    tokio::time::sleep(step / 2).await;
    let on_hold = bob.controls.statistics().receiver.packets;
    tokio::time::sleep(step).await;
    let after = bob.controls.statistics().receiver.packets;
    alice.stop().await;
    bob.stop().await;
    assert!(packets > 100 && after == on_hold, "{packets} {on_hold} {after}");
    let ear: Vec<f32> = hound::WavReader::open(folder.path().join("ear.wav"))
        .unwrap()
        .into_samples::<i16>()
        .map(|s| f32::from(s.unwrap()) / 32_768.0)
        .collect();
    let (half, second) = (24_000, 48_000);
    assert!(is_tone(&ear[half..second], 1_000.0), "the tone before the mute");
    let muted = &ear[second * 2..second * 2 + half];
    assert!(muted.iter().all(|s| s.abs() < 0.02), "muted");
    let digits = &ear[second * 3 - half / 4..second * 4 + half];
    for hz in [697.0, 1_209.0, 852.0, 1_477.0] {
        let loudest = digits.chunks(2_400).map(|c| tone_share(c, hz)).fold(0.0, f64::max);
        assert!(loudest > 0.3, "{hz} Hz of 1 and 9: {loudest}");
    }
    assert!(is_tone(&ear[second * 5..second * 5 + half], 1_000.0), "unmuted");
}

/// Whether most chunks of 20 ms are that tone; time stretching may break its phase between them.
fn is_tone(samples: &[f32], hz: f64) -> bool {
    let chunks = samples.chunks_exact(960);
    let count = chunks.len();
    chunks.filter(|chunk| tone_share(chunk, hz) > 0.8).count() > count / 2
}

/// Which share of the power lies at one frequency.
fn tone_share(samples: &[f32], hz: f64) -> f64 {
    let (mut re, mut im, mut power) = (0.0, 0.0, 1e-12);
    for (n, sample) in samples.iter().enumerate() {
        let phase = std::f64::consts::TAU * hz * n as f64 / 48_000.0;
        re += f64::from(*sample) * phase.cos();
        im += f64::from(*sample) * phase.sin();
        power += f64::from(*sample).powi(2);
    }
    2.0 * (re * re + im * im) / (power * samples.len() as f64)
}
