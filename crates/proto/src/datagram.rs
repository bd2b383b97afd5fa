//! Tells apart what shares a node's one UDP port, by first byte (RFC 9443 and RFC 8656 section 12).
//!
//! ```text
//!   0..=3     STUN             64..=79    TURN channel (to 127 from clients of RFC 5766)
//!   20..=63   DTLS             128..=191  RTP and RTCP
//!   192       sealed overlay datagram between two nodes of the network
//! ```
//! Only the fixed part of a header is read here: whoever consumes a datagram parses the rest.

/// Fixed STUN header, in bytes (RFC 8489 section 5).
pub const STUN_HEADER_BYTES: usize = 20;
/// First byte of a sealed overlay datagram. Chosen: outside every range of RFC 9443.
pub const OVERLAY_FIRST_BYTE: u8 = 0xC0;

const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const USERNAME: u16 = 0x0006;
/// Longest USERNAME, in bytes (RFC 8489 section 14.3: fewer than 509).
const USERNAME_BYTES_MAX: usize = 508;

/// 96 bits that pair a STUN response with its request.
pub type TransactionBytes = [u8; 12];

/// Protocol of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A STUN or TURN message with a sound fixed header.
    Stun(StunHeader),
    /// A DTLS record.
    Dtls,
    /// TURN ChannelData.
    Channel,
    /// RTP or RTCP, protected or not.
    Rtp,
    /// Sealed overlay datagram.
    Overlay,
    /// None of these.
    Unknown,
}

/// What the fixed STUN header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StunHeader {
    /// Request, indication, success or error.
    pub class: StunClass,
    /// Method; below 0x100, since the first byte is at most 3.
    pub method: u16,
    /// Transaction identifier.
    pub transaction: TransactionBytes,
}

/// Class of a STUN message (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StunClass {
    /// Wants a response.
    Request,
    /// Wants none.
    Indication,
    /// The request was carried out.
    Success,
    /// The request was refused.
    Error,
}

/// Which protocol `bytes` belong to. Never fails: what fits nothing is [`Datagram::Unknown`].
pub fn classify(bytes: &[u8]) -> Datagram {
    match bytes.first() {
        Some(0..=3) => stun_header(bytes).map_or(Datagram::Unknown, Datagram::Stun),
        Some(20..=63) => Datagram::Dtls,
        // RFC 8656 narrowed the range to 79; nothing of ours uses 80 to 127, and older clients do.
        Some(64..=127) => Datagram::Channel,
        Some(128..=191) => Datagram::Rtp,
        Some(&OVERLAY_FIRST_BYTE) => Datagram::Overlay,
        _ => Datagram::Unknown,
    }
}

fn stun_header(bytes: &[u8]) -> Option<StunHeader> {
    let header: &[u8; STUN_HEADER_BYTES] = bytes.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[4..8] != MAGIC_COOKIE || length % 4 != 0 || bytes.len() != STUN_HEADER_BYTES + length
    {
        return None;
    }
    let kind = u16::from_be_bytes([header[0], header[1]]);
    let class = match (kind >> 7 & 2) | (kind >> 4 & 1) {
        0 => StunClass::Request,
        1 => StunClass::Indication,
        2 => StunClass::Success,
        _ => StunClass::Error,
    };
    let method = (kind & 0xF) | (kind >> 1 & 0x70) | (kind >> 2 & 0xF80);
    let transaction = header[8..].try_into().ok()?;
    Some(StunHeader { class, method, transaction })
}

/// The receiver's own ICE user fragment of a connectivity check: the part of USERNAME before the
/// colon (RFC 8445 section 7.2.2). `None` when there is no such attribute or it is malformed.
pub fn receiver_ufrag(stun: &[u8]) -> Option<&str> {
    let mut rest = stun.get(STUN_HEADER_BYTES..)?;
    while let Some((header, tail)) = rest.split_first_chunk::<4>() {
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = tail.get(..length)?;
        if kind == USERNAME {
            if length > USERNAME_BYTES_MAX {
                return None;
            }
            return str::from_utf8(value).ok()?.split_once(':').map(|(ufrag, _)| ufrag);
        }
        rest = tail.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stun_types::{
        attribute::Username,
        message::{
            BINDING, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt,
            MessageWriteVec, Method, TransactionId,
        },
    };

    use super::*;

    fn message(class: MessageClass, method: u16, username: Option<&str>) -> Vec<u8> {
        let kind = MessageType::from_class_method(class, Method::new(method));
        let id = TransactionId::from(0x0102_0304_0506_0708_090A_0B0C_u128);
        let mut message = Message::builder(kind, id, MessageWriteVec::new());
        if let Some(name) = username {
            message.add_attribute(&Username::new(name).unwrap()).unwrap();
        }
        message.finish()
    }

    proptest! {
        #[test]
        fn any_class_and_method_reads_as_the_stun_library_writes_it(
            // A first byte of at most 3 leaves methods below 0x100.
            method in 0_u16..0x100,
            class in 0_usize..4,
        ) {
            let (theirs, ours) = [
                (MessageClass::Request, StunClass::Request),
                (MessageClass::Indication, StunClass::Indication),
                (MessageClass::Success, StunClass::Success),
                (MessageClass::Error, StunClass::Error),
            ][class];
            let Datagram::Stun(header) = classify(&message(theirs, method, None)) else {
                panic!("not STUN");
            };
            prop_assert_eq!(header.class, ours);
            prop_assert_eq!(header.method, method);
            prop_assert_eq!(header.transaction, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        }

        #[test]
        fn any_bytes_are_classified_without_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            classify(&bytes);
            receiver_ufrag(&bytes);
        }

        #[test]
        fn a_truncated_stun_message_is_unknown(cut in 1_usize..32) {
            let whole = message(MessageClass::Request, BINDING.value(), Some("abcd:efgh"));
            prop_assert_eq!(classify(&whole[..whole.len() - cut]), Datagram::Unknown);
        }
    }

    #[test]
    fn first_bytes_follow_rfc_9443() {
        for byte in 0..=255_u8 {
            let expected = match byte {
                20..=63 => Datagram::Dtls,
                64..=127 => Datagram::Channel,
                128..=191 => Datagram::Rtp,
                192 => Datagram::Overlay,
                _ => Datagram::Unknown,
            };
            assert_eq!(classify(&[byte]), expected, "first byte {byte}");
        }
        assert_eq!(classify(&[]), Datagram::Unknown);
    }

    #[test]
    fn the_receivers_ufrag_is_the_part_before_the_colon() {
        let check = message(MessageClass::Request, BINDING.value(), Some("mine:theirs"));
        assert_eq!(receiver_ufrag(&check), Some("mine"));
        let turn = message(MessageClass::Request, BINDING.value(), Some("nocolon"));
        assert_eq!(receiver_ufrag(&turn), None);
        assert_eq!(receiver_ufrag(&message(MessageClass::Request, 1, None)), None);
    }
}
