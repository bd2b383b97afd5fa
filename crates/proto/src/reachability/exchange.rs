//! One STUN Binding request with its retransmissions (RFC 8489 section 6.2.1).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use stun_types::{
    attribute::{AttributeStaticType, ErrorCode, RawAttribute, XorMappedAddress},
    message::{
        BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt,
        MessageWriteVec, TransactionId,
    },
};

use super::ProbeSocket;
use crate::relay::{
    ALTERNATE_PORT, BindingRequestOptions, CHANGE_REQUEST, change_request_value, other_address,
};

/// First wait for an answer. Chosen: above the round trip of most paths; RFC 8489 says 500 ms,
/// and [`SENDS_MAX`] covers what is slower.
const FIRST_WAIT: Duration = Duration::from_millis(300);
/// Copies sent, each after twice the wait: given up after 4.5 s.
const SENDS_MAX: u32 = 4;

/// What an answer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) from: SocketAddr,
    pub(super) mapped: SocketAddr,
    pub(super) alternate_port: Option<u16>,
    pub(super) has_partner: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Answered(Answer),
    /// The server cannot do what was asked.
    Refused,
    Silent,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) socket: ProbeSocket,
    pub(super) to: SocketAddr,
    options: BindingRequestOptions,
    transaction: TransactionId,
    sends: u32,
    next_send: Instant,
    pub(super) state: State,
}

impl Exchange {
    pub(super) fn new(
        now: Instant,
        socket: ProbeSocket,
        to: SocketAddr,
        options: BindingRequestOptions,
        transaction: u128,
    ) -> Self {
        let transaction = TransactionId::from(transaction);
        Self { socket, to, options, transaction, sends: 0, next_send: now, state: State::Waiting }
    }

    /// When it wants [`Self::poll_transmit`] again.
    pub(super) fn timeout(&self) -> Option<Instant> {
        (self.state == State::Waiting).then_some(self.next_send)
    }

    /// A copy of the request if one is due; gives up after the last.
    pub(super) fn poll_transmit(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.state != State::Waiting || self.next_send > now {
            return None;
        }
        if self.sends == SENDS_MAX {
            self.state = State::Silent;
            return None;
        }
        self.next_send = now + FIRST_WAIT * 2_u32.pow(self.sends);
        self.sends += 1;
        Some(self.request())
    }

    fn request(&self) -> Vec<u8> {
        let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
        let mut message = Message::builder(kind, self.transaction, MessageWriteVec::new());
        let value = change_request_value(self.options);
        let change = RawAttribute::new(CHANGE_REQUEST, &value);
        let alternate = RawAttribute::new(ALTERNATE_PORT, &[]);
        let wanted = [
            (self.options.change_ip || self.options.change_port, &change),
            (self.options.alternate_port, &alternate),
        ];
        for (_, attribute) in wanted.iter().filter(|(wanted, _)| *wanted) {
            let added = message.add_attribute(*attribute);
            debug_assert!(added.is_ok(), "two small attributes fit an empty message");
        }
        message.finish()
    }

    /// Takes the answer if it is this one's. An answer counts only from where it may come.
    pub(super) fn handle(&mut self, from: SocketAddr, message: &Message<'_>) -> bool {
        if message.transaction_id() != self.transaction
            || !message.is_response()
            || self.state != State::Waiting
        {
            return false;
        }
        let elsewhere = self.options.change_ip || self.options.change_port;
        if message.has_attribute(ErrorCode::TYPE) {
            // Refusals come from the server itself.
            if from == self.to {
                self.state = State::Refused;
            }
            return true;
        }
        let Ok(mapped) = message.attribute::<XorMappedAddress>() else { return true };
        let right_place = if !elsewhere {
            from == self.to
        } else if self.options.change_ip {
            from.ip() != self.to.ip()
        } else {
            from.ip() == self.to.ip() && from.port() != self.to.port()
        };
        if right_place {
            let alternate = message.raw_attribute(ALTERNATE_PORT);
            let port = alternate.and_then(|raw| raw.value.first_chunk::<2>().copied());
            self.state = State::Answered(Answer {
                from,
                mapped: mapped.addr(self.transaction),
                alternate_port: port.map(u16::from_be_bytes),
                has_partner: other_address(message).is_some(),
            });
        }
        true
    }

    /// Whether this is our own request, come back in.
    pub(super) fn is_own_request(&self, message: &Message<'_>) -> bool {
        message.transaction_id() == self.transaction && message.has_class(MessageClass::Request)
    }

    pub(super) fn answer(&self) -> Option<Answer> {
        match self.state {
            State::Answered(answer) => Some(answer),
            _ => None,
        }
    }

    /// Ends it from outside: the hairpinned request arrived.
    pub(super) fn arrived(&mut self, from: SocketAddr) {
        self.state = State::Answered(Answer {
            from,
            mapped: from,
            alternate_port: None,
            has_partner: false,
        });
    }
}
