//! What a peer may say: the bounds of every field, checked before a machine sees it.

use bytes::Bytes;

use super::EndReason;
use crate::wire::v1::{
    Bye, CallMessage, IceCandidate, Invite, MediaOffer, TransportParameters, call_message::Body,
    codec, ice_candidate,
};

/// Candidates in one set of parameters. Specified in docs/protocol/call.md.
pub const CANDIDATES_IN_PARAMETERS_MAX: usize = 16;
/// Candidates of one side in one generation, trickled ones included. Chosen: a host with a dozen
/// addresses, over UDP and TCP, with two relays.
pub const CANDIDATES_MAX: usize = 64;
/// Bytes of a display name. Specified in docs/protocol/call.md.
pub const DISPLAY_NAME_BYTES_MAX: usize = 128;
/// Longest DTMF tone, in ms. Chosen.
pub(crate) const DTMF_DURATION_MS_MAX: u32 = 6_000;

/// Whether the parameters keep RFC 8839's and our bounds.
pub(crate) fn is_valid_transport(transport: &TransportParameters) -> bool {
    let is_ice = |text: &str, shortest: usize| {
        (shortest..=256).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
    };
    is_ice(&transport.ufrag, 4)
        && is_ice(&transport.pwd, 22)
        && transport.fingerprint.len() == 32
        && transport.candidates.len() <= CANDIDATES_IN_PARAMETERS_MAX
        && transport.candidates.iter().all(is_valid_candidate)
}

/// Whether a candidate could be one. A multicast, unspecified or zero-port address never is.
pub(crate) fn is_valid_candidate(candidate: &IceCandidate) -> bool {
    let address_is_usable = match candidate.address.as_ref() {
        bytes if bytes.len() == 4 => {
            bytes[0] != 0 && bytes[0] < 224 // RFC 5771, RFC 6890
        }
        bytes if bytes.len() == 16 => bytes[0] != 0xff && bytes.iter().any(|b| *b != 0),
        _ => false,
    };
    address_is_usable
        && (1..=65_535).contains(&candidate.port)
        && candidate.foundation.len() <= 32
        && candidate.foundation.bytes().all(|b| b.is_ascii_graphic())
        && ice_candidate::Kind::try_from(candidate.kind)
            .is_ok_and(|kind| kind != ice_candidate::Kind::Unspecified)
        && ice_candidate::Transport::try_from(candidate.transport)
            .is_ok_and(|transport| transport != ice_candidate::Transport::Unspecified)
}

/// Whether a candidate hides the address of the device.
pub(crate) fn is_relayed(candidate: &IceCandidate) -> bool {
    matches!(
        candidate.kind(),
        ice_candidate::Kind::Relayed | ice_candidate::Kind::RelayedOverStream
    )
}

/// Whether the offer keeps its bounds.
pub(crate) fn is_valid_media(media: &MediaOffer) -> bool {
    media.codecs.len() <= 8
        && media.codecs.iter().all(|codec| {
            matches!(codec.payload_type, 35..=63 | 96..=127) && codec.frame_tenths_ms.len() <= 8
        })
}

/// Whether the offer names the codec that every Cooee node has.
pub(crate) fn has_opus(media: &MediaOffer) -> bool {
    media.codecs.iter().any(|codec| codec.kind == codec::Kind::Opus as i32)
}

/// Whether an invitation may be looked at.
pub(crate) fn check_invite(invite: &Invite) -> Result<(), EndReason> {
    let (Some(transport), Some(media)) = (&invite.transport, &invite.media) else {
        return Err(EndReason::ProtocolError);
    };
    if !is_valid_transport(transport)
        || transport.generation != 0
        || !is_valid_media(media)
        || invite.display_name.len() > DISPLAY_NAME_BYTES_MAX
        || !matches!(invite.replaces.len(), 0 | 16)
    {
        return Err(EndReason::ProtocolError);
    }
    if has_opus(media) { Ok(()) } else { Err(EndReason::NoCommonCodec) }
}

/// The digit of a DTMF message, if it is one.
pub(crate) fn dtmf_digit(text: &str) -> Option<char> {
    let mut chars = text.chars();
    let digit = chars.next()?;
    (chars.next().is_none() && is_dtmf(digit)).then_some(digit)
}

/// Whether `digit` is on a telephone's keypad.
pub(crate) fn is_dtmf(digit: char) -> bool {
    matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D')
}

/// Cuts a display name at a character boundary below the bound.
pub(crate) fn bounded_name(name: &str) -> String {
    let mut end = name.len().min(DISPLAY_NAME_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// A display name as a person may see it: control and direction-changing characters taken out.
pub(crate) fn shown_name(name: &str) -> Option<String> {
    let is_shown = |c: &char| {
        !c.is_control()
            && !matches!(
                c,
                '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            )
    };
    let shown: String = name.chars().filter(is_shown).collect();
    let shown = shown.trim();
    (!shown.is_empty()).then(|| shown.to_owned())
}

/// Refuses an invitation of which no state is kept: every repetition is answered alike.
pub(crate) fn refusal(call_id: &Bytes, reason: EndReason) -> CallMessage {
    let bye = Bye { reason: reason.to_wire() as i32 };
    CallMessage {
        call_id: call_id.clone(),
        sequence: 1,
        acknowledged: 1,
        body: Some(Body::Bye(bye)),
    }
}
