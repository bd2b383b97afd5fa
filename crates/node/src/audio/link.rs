//! The bounded, lock-free exchange between the audio thread and the network side of a call leg.
//!
//! Two single-producer single-consumer rings. Towards the network one byte on a socket pair
//! wakes the async task: a system call that cannot block (a full socket is awake already).
//! Towards the audio thread nobody is woken: it looks before every block it plays, and the
//! moment of arrival travels with each message. A full ring refuses the newest message and
//! counts it: sound that late is of no use.

use std::{
    io::{self, Write as _},
    os::unix::net::UnixStream as WakeSender,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use cooee_media::{
    VoicePacket,
    rate::{Feedback, VoiceRate},
    session::PathDescription,
};
use rtrb::{Consumer, Producer, RingBuffer};
use tokio::net::UnixStream as WakeReceiver;

/// Messages waiting in one direction at most: over a second of 2.5 ms packets.
const RING_MESSAGES: usize = 512;

/// What crosses between audio thread and network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoiceMessage {
    /// Voice.
    Packet(VoicePacket),
    /// The receiver's report to the sender.
    Feedback(Feedback),
    /// Towards the network alone: what rate control lets the voice have on the wire.
    Rate(VoiceRate),
    /// Towards the audio thread alone: the voice leaves by this path from now on.
    Path(PathDescription),
    /// Towards the audio thread alone: the handshake told of little room, start with this, in bit/s
    /// on the wire.
    Start(u32),
}

/// The audio thread's end.
pub struct AudioEnd {
    // Dropped before `wake`, so that a reader woken by its end finds the ring abandoned.
    outgoing: Producer<VoiceMessage>,
    incoming: Consumer<(Instant, VoiceMessage)>,
    wake: WakeSender,
    woken: bool,
    dropped: Arc<Dropped>,
}

/// The network's end for what the audio thread sends.
pub struct VoiceReader {
    messages: Consumer<VoiceMessage>,
    wake: WakeReceiver,
}

/// The network's end for what arrived.
pub struct VoiceWriter {
    messages: Producer<(Instant, VoiceMessage)>,
    dropped: Arc<Dropped>,
}

/// Messages refused by a full ring.
#[derive(Debug, Default)]
pub struct Dropped {
    outgoing: AtomicU64,
    incoming: AtomicU64,
}

impl Dropped {
    /// Towards the network.
    pub fn outgoing(&self) -> u64 {
        self.outgoing.load(Ordering::Relaxed)
    }

    /// Towards the audio thread.
    pub fn incoming(&self) -> u64 {
        self.incoming.load(Ordering::Relaxed)
    }
}

/// Makes one leg's exchange. Must be called inside a tokio runtime.
pub fn voice_link() -> io::Result<(AudioEnd, VoiceReader, VoiceWriter)> {
    let (outgoing, outgoing_reader) = RingBuffer::new(RING_MESSAGES);
    let (incoming_writer, incoming) = RingBuffer::new(RING_MESSAGES);
    let (wake, woken) = WakeSender::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    let dropped = Arc::new(Dropped::default());
    let reader = VoiceReader { messages: outgoing_reader, wake: WakeReceiver::from_std(woken)? };
    let writer = VoiceWriter { messages: incoming_writer, dropped: dropped.clone() };
    Ok((AudioEnd { outgoing, incoming, wake, woken: false, dropped }, reader, writer))
}

impl AudioEnd {
    /// Queues a message for the network; wakes it at the next [`Self::wake`].
    pub fn send(&mut self, message: VoiceMessage) {
        match self.outgoing.push(message) {
            Ok(()) => self.woken = true,
            Err(_) => {
                self.dropped.outgoing.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Wakes the network side if anything was queued since.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.woken) {
            // A full socket means that the reader has been woken often enough.
            let _ = (&self.wake).write(&[1]);
        }
    }

    /// The oldest message that arrived, and when.
    pub fn receive(&mut self) -> Option<(Instant, VoiceMessage)> {
        self.incoming.pop().ok()
    }

    /// Counters of this link.
    pub fn dropped(&self) -> Arc<Dropped> {
        self.dropped.clone()
    }
}

impl VoiceReader {
    /// The next message of the audio thread if one is waiting.
    pub fn try_receive(&mut self) -> Option<VoiceMessage> {
        self.messages.pop().ok()
    }

    /// The next message of the audio thread; `None` when the leg has ended. Cancel safe.
    pub async fn receive(&mut self) -> Option<VoiceMessage> {
        loop {
            let ended = self.messages.is_abandoned();
            if let Ok(message) = self.messages.pop() {
                return Some(message);
            }
            if ended {
                return None;
            }
            // The other end's drop makes it readable for ever, and the ring abandoned.
            self.wake.readable().await.ok()?;
            let mut wakes = [0; 64];
            let _ = self.wake.try_read(&mut wakes);
        }
    }
}

impl VoiceWriter {
    /// Hands over what arrived at `now`; never blocks.
    pub fn send(&mut self, now: Instant, message: VoiceMessage) {
        if self.messages.push((now, message)).is_err() {
            self.dropped.incoming.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the leg has ended.
    pub fn is_closed(&self) -> bool {
        self.messages.is_abandoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feedback(byte: u16) -> VoiceMessage {
        VoiceMessage::Feedback(Feedback::new(byte))
    }

    #[tokio::test]
    async fn what_the_audio_thread_sends_wakes_the_network_in_order() {
        let (mut audio, mut reader, _writer) = voice_link().unwrap();
        let thread = std::thread::spawn(move || {
            for byte in 0..200 {
                audio.send(feedback(byte));
                audio.wake();
            }
        });
        for byte in 0..200 {
            assert_eq!(reader.receive().await, Some(feedback(byte)));
        }
        assert_eq!(reader.receive().await, None, "the leg has ended");
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn a_full_ring_refuses_the_newest_and_counts() {
        let (mut audio, _reader, mut writer) = voice_link().unwrap();
        let now = Instant::now();
        for _ in 0..RING_MESSAGES + 3 {
            writer.send(now, feedback(1));
            audio.send(feedback(2));
        }
        assert_eq!(audio.dropped().incoming(), 3);
        assert_eq!(audio.dropped().outgoing(), 3);
        assert_eq!(std::iter::from_fn(|| audio.receive()).count(), RING_MESSAGES);
    }
}
