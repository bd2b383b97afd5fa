//! The control: names, keys, words and speech sent in the clear through the same core are found by
//! the same search.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cooee_lab::{eavesdropper::Capture, namespace::inside, network::Network};
use cooee_media::voice::{VoiceConfig, VoiceSender};

use crate::{
    LIKENESS_MAX, Secrets, UNEVENNESS_MAX, USERS, sightings,
    speech::{RATE_HZ, VOICE, likeness, read, streams},
};

/// Seconds of speech in the clear.
const SPEECH_S: usize = 5;

pub(crate) fn is_found(network: &Network, folder: &Path, secrets: &Secrets) -> Result<()> {
    let capture = Capture::start(&network.namespace("core"))?;
    let to = network.ipv4("sn1").context("an address")?;
    let listener =
        inside(&network.namespace("sn1"), || TcpListener::bind((to, 7000)).context("a listener"))?;
    inside(&network.namespace("u0"), || {
        let mut stream = TcpStream::connect((to, 7000))?;
        for (_, bytes) in secrets {
            stream.write_all(bytes)?;
        }
        Ok(())
    })?;
    let mouth = read(&folder.join(format!("{}-mouth.wav", USERS[0].0)));
    let mouth = &mouth[..SPEECH_S * RATE_HZ as usize];
    for wrapping in [&[][..], &[0x40, 0, 0, 0]] {
        inside(&network.namespace("u0"), || speak_openly(mouth, (to, 7001).into(), wrapping))?;
    }
    let packets = capture.finish()?;
    drop(listener);
    let seen = sightings(&packets, secrets);
    for (what, _) in secrets {
        ensure!(seen.iter().any(|sighting| sighting.what == *what), "{what} went unseen");
    }
    let streams = streams(&packets, &VOICE, 100);
    ensure!(streams.len() == 2, "speech in the clear went unseen");
    for stream in &streams {
        let (windows, best) = likeness(mouth, &stream.decode());
        let uneven = stream.unevenness();
        println!("in the clear: {windows} windows heard, likeness {best:.2}, χ² {uneven:.0}");
        ensure!(windows >= 2 && best > 1.5 * LIKENESS_MAX, "speech in the clear went unheard");
        ensure!(uneven > UNEVENNESS_MAX, "speech in the clear looks like noise");
    }
    Ok(())
}

/// Sends speech as RTP, without encryption, in real time; each packet behind `wrapping`.
fn speak_openly(mouth: &[f32], to: SocketAddr, wrapping: &[u8]) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut sender = VoiceSender::new(VoiceConfig::default()).context("an encoder")?;
    let ssrc = 0xC1EA_0000 + wrapping.len() as u32;
    let start = Instant::now();
    for (index, block) in mouth.chunks_exact(480).enumerate() {
        let due = start + Duration::from_millis(10 * index as u64);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        sender.capture(due, block, &mut |packet| {
            let mut bytes = wrapping.to_vec();
            bytes.extend([0x80, packet.payload_type]);
            bytes.extend(packet.sequence.to_be_bytes());
            bytes.extend(packet.timestamp.to_be_bytes());
            bytes.extend(ssrc.to_be_bytes());
            bytes.extend_from_slice(&packet.payload);
            // A lost packet is less to be heard, and the check will say so.
            let _ = socket.send_to(&bytes, to);
        });
    }
    Ok(())
}
