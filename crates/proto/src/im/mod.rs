//! Instant messages (`docs/protocol/peer.md`): every message reaches the devices of its receiver
//! once, however often connections break, and the sender learns of it.
//!
//! The sender keeps a message until a device of the receiver acknowledges it; an offline
//! receiver's messages wait at the sender, repeated with growing pauses and at once when the
//! receiver is seen. The receiver shows each id once. Messages live in no server.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::{
    clock::{Now, UnixTime},
    identity::{NodeId, UserName},
    wire::v1::{InstantMessage, MessageReceipt, message_receipt::Kind},
};

/// Bytes of one text. Specified in docs/protocol/peer.md.
pub const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Messages that wait for their receivers. Chosen.
pub const WAITING_MAX: usize = 1_000;
/// How long a message waits for its receiver. Chosen.
pub const WAIT_DAYS_MAX: u64 = 7;
/// Ids remembered per sender, so that a repetition is shown once. Chosen.
const SEEN_MAX: usize = 512;
/// Senders whose ids are remembered. Chosen: those heard longest ago are forgotten.
const SENDERS_MAX: usize = 1_000;
/// First pause before a repetition. Chosen.
const REPEAT_FIRST: Duration = Duration::from_secs(10);
/// Longest pause. Chosen: seeing the receiver come online ends it anyway.
const REPEAT_MAX: Duration = Duration::from_secs(15 * 60);

/// Names one message: 16 random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

/// What to do, and what to report.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Bring the message to every device of the user that can be reached now.
    Send {
        /// The receiver.
        to: UserName,
        /// The message.
        message: InstantMessage,
    },
    /// Answer the device that a message came from.
    SendReceipt {
        /// The device.
        to: NodeId,
        /// The receipt.
        receipt: MessageReceipt,
    },
    /// Show a message; it comes once.
    Received {
        /// Who wrote it.
        from: UserName,
        /// Its id.
        id: MessageId,
        /// What it says.
        text: String,
        /// When it was written, by the writer's clock, but never in our future.
        sent: UnixTime,
    },
    /// What became of a message of ours.
    Progressed {
        /// The message.
        id: MessageId,
        /// To whom it was.
        to: UserName,
        /// What is known now.
        state: Progress,
    },
    /// Nothing before this moment.
    Timeout(Instant),
    /// Nothing before the next input.
    Idle,
}

/// What is known of a message of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for the receiver.
    Waiting,
    /// A device of the receiver has it.
    Delivered,
    /// The receiver has seen it.
    Read,
    /// The receiver takes no messages of ours.
    Refused,
    /// The receiver was not seen for [`WAIT_DAYS_MAX`].
    Expired,
}

/// Why a message is not taken. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// No text.
    #[error("the message is empty")]
    Empty,
    /// Longer than [`TEXT_BYTES_MAX`].
    #[error("the message has {0} bytes; {TEXT_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// [`WAITING_MAX`] messages wait already.
    #[error("too many messages wait for users who are not online")]
    QueueFull,
}

#[derive(Clone, Debug)]
struct Waiting {
    to: UserName,
    message: InstantMessage,
    repeat_at: Instant,
    repeat_after: Duration,
    expires: UnixTime,
}

/// The messages of one device.
#[derive(Debug)]
pub struct Messages {
    rng: ChaCha12Rng,
    waiting: BTreeMap<MessageId, Waiting>,
    /// Delivered, of which the receiver may still say "read".
    delivered: VecDeque<(MessageId, UserName)>,
    seen: indexmap::IndexMap<UserName, VecDeque<MessageId>>,
    outputs: VecDeque<Output>,
}

impl Messages {
    /// No messages yet. The seed makes ids.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: ChaCha12Rng::from_seed(seed),
            waiting: BTreeMap::new(),
            delivered: VecDeque::new(),
            seen: indexmap::IndexMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Writes `text` to a user.
    pub fn send(&mut self, now: Now, to: &UserName, text: &str) -> Result<MessageId, MessageError> {
        match text.len() {
            0 => return Err(MessageError::Empty),
            length if length > TEXT_BYTES_MAX => return Err(MessageError::TooLong(length)),
            _ if self.waiting.len() >= WAITING_MAX => return Err(MessageError::QueueFull),
            _ => {}
        }
        let mut id = [0; 16];
        self.rng.fill_bytes(&mut id);
        let message = InstantMessage {
            id: Bytes::copy_from_slice(&id),
            text: text.to_owned(),
            sent_unix_ms: now.unix.0,
            copy_to: String::new(),
        };
        self.keep(now, MessageId(id), to, message);
        Ok(MessageId(id))
    }

    /// Gives up a message just written, which could not be kept; nothing of it is sent.
    pub fn forget(&mut self, id: MessageId) {
        self.waiting.remove(&id);
        self.outputs.retain(|output| match output {
            Output::Send { message, .. } => message.id != id.0[..],
            Output::Progressed { id: other, .. } => *other != id,
            _ => true,
        });
    }

    /// Takes up a message that was written before the program was restarted.
    pub fn restore(&mut self, now: Now, to: &UserName, message: InstantMessage) {
        let id = MessageId::from_wire(&message.id);
        if let Some(id) = id.filter(|_| self.waiting.len() < WAITING_MAX) {
            self.keep(now, id, to, message);
        }
    }

    /// A device of `user` was seen: what waits for them goes out at once.
    pub fn handle_online(&mut self, now: Now, user: &UserName) {
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.to == *user) {
            waiting.repeat_after = REPEAT_FIRST;
            waiting.repeat_at = now.instant + REPEAT_FIRST;
            let (to, message) = (user.clone(), waiting.message.clone());
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    /// A message arrived from a device of `from`. `may_write` is false for blocked users: they
    /// get no sign that anybody is here.
    pub fn handle_message(
        &mut self,
        now: Now,
        from: &UserName,
        node: NodeId,
        message: &InstantMessage,
        may_write: bool,
    ) {
        let Some(id) = MessageId::from_wire(&message.id).filter(|_| may_write) else { return };
        let length = message.text.len();
        if length == 0 || length > TEXT_BYTES_MAX || !message.copy_to.is_empty() {
            return self.receipt(node, id, Kind::Refused);
        }
        self.receipt(node, id, Kind::Delivered);
        if self.is_new(from, id) {
            self.outputs.push_back(Output::Received {
                from: from.clone(),
                id,
                text: message.text.clone(),
                sent: UnixTime(message.sent_unix_ms).min(now.unix),
            });
        }
    }

    /// The user has seen a message of the device `node`.
    pub fn mark_read(&mut self, node: NodeId, id: MessageId) {
        self.receipt(node, id, Kind::Read);
    }

    /// A device of `from` says what became of a message of ours.
    pub fn handle_receipt(&mut self, from: &UserName, receipt: &MessageReceipt) {
        let Some(id) = MessageId::from_wire(&receipt.id) else { return };
        let kind = Kind::try_from(receipt.kind).unwrap_or(Kind::Unspecified);
        let was_waiting = self.waiting.get(&id).is_some_and(|waiting| waiting.to == *from);
        let state = match kind {
            Kind::Delivered | Kind::Read | Kind::Refused if was_waiting => {
                self.waiting.remove(&id);
                self.delivered.push_back((id, from.clone()));
                while self.delivered.len() > WAITING_MAX {
                    self.delivered.pop_front();
                }
                match kind {
                    Kind::Refused => Progress::Refused,
                    Kind::Read => Progress::Read,
                    _ => Progress::Delivered,
                }
            }
            Kind::Read if self.delivered.iter().any(|(i, to)| *i == id && to == from) => {
                self.delivered.retain(|(i, _)| *i != id);
                Progress::Read
            }
            _ => return,
        };
        self.outputs.push_back(Output::Progressed { id, to: from.clone(), state });
    }

    /// Repeats what is due and gives up what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        let expired: Vec<MessageId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| now.unix >= waiting.expires)
            .map(|(id, _)| *id)
            .collect();
        for id in expired {
            if let Some(waiting) = self.waiting.remove(&id) {
                let (to, state) = (waiting.to, Progress::Expired);
                self.outputs.push_back(Output::Progressed { id, to, state });
            }
        }
        for waiting in self.waiting.values_mut().filter(|w| now.instant >= w.repeat_at) {
            waiting.repeat_after = (waiting.repeat_after * 2).min(REPEAT_MAX);
            waiting.repeat_at = now.instant + waiting.repeat_after;
            let (to, message) = (waiting.to.clone(), waiting.message.clone());
            self.outputs.push_back(Output::Send { to, message });
        }
    }

    /// The next thing to do; drain until [`Output::Timeout`] or [`Output::Idle`].
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        match self.waiting.values().map(|waiting| waiting.repeat_at).min() {
            Some(at) => Output::Timeout(at),
            None => Output::Idle,
        }
    }

    fn keep(&mut self, now: Now, id: MessageId, to: &UserName, message: InstantMessage) {
        let sent = UnixTime(message.sent_unix_ms);
        let waiting = Waiting {
            to: to.clone(),
            message: message.clone(),
            repeat_at: now.instant + REPEAT_FIRST,
            repeat_after: REPEAT_FIRST,
            expires: sent.plus(Duration::from_secs(WAIT_DAYS_MAX * 24 * 60 * 60)),
        };
        self.waiting.insert(id, waiting);
        let (to, state) = (to.clone(), Progress::Waiting);
        self.outputs.push_back(Output::Progressed { id, to: to.clone(), state });
        self.outputs.push_back(Output::Send { to, message });
    }

    fn is_new(&mut self, from: &UserName, id: MessageId) -> bool {
        // Moves the sender to the end: the front is who was heard longest ago.
        let mut seen = self.seen.shift_remove(from).unwrap_or_default();
        let is_new = !seen.contains(&id);
        if is_new {
            seen.push_back(id);
            if seen.len() > SEEN_MAX {
                seen.pop_front();
            }
        }
        self.seen.insert(from.clone(), seen);
        if self.seen.len() > SENDERS_MAX {
            self.seen.shift_remove_index(0);
        }
        is_new
    }

    fn receipt(&mut self, to: NodeId, id: MessageId, kind: Kind) {
        let receipt = MessageReceipt { id: Bytes::copy_from_slice(&id.0), kind: kind as i32 };
        self.outputs.push_back(Output::SendReceipt { to, receipt });
    }
}

impl MessageId {
    fn from_wire(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::str::FromStr for MessageId {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).map(|()| Self(id))
    }
}

impl std::fmt::Display for MessageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // any moment will do as a beginning
mod tests;
