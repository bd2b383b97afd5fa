//! Builds STUN responses, signed when the request was.

use std::net::SocketAddr;

use stun_types::{
    attribute::{AttributeWrite, ErrorCode, Fingerprint, Nonce, Realm, XorMappedAddress},
    message::{
        IntegrityAlgorithm, Message, MessageIntegrityCredentials, MessageWrite, MessageWriteExt,
        MessageWriteVec,
    },
};

/// A response under construction. Every attribute written here is of bounded size, so that adding
/// it cannot fail; a failure would leave it out, never panic.
pub(super) struct Response {
    write: MessageWriteVec,
    fingerprint: bool,
}

impl Response {
    pub(super) fn success(request: &Message<'_>) -> Self {
        let write = Message::builder_success(request, MessageWriteVec::new());
        Self { write, fingerprint: wants_fingerprint(request) }
    }

    pub(super) fn error(request: &Message<'_>, code: u16) -> Self {
        let write = Message::builder_error(request, MessageWriteVec::new());
        let response = Self { write, fingerprint: wants_fingerprint(request) };
        // 508 is RFC 8656's, and stun-types' own table of phrases does not matter to clients.
        match ErrorCode::new(code, reason(code)) {
            Ok(error) => response.with(&error),
            Err(_) => response,
        }
    }

    pub(super) fn challenge(request: &Message<'_>, code: u16, realm: &str, nonce: &str) -> Self {
        let mut response = Self::error(request, code);
        if let (Ok(realm), Ok(nonce)) = (Realm::new(realm), Nonce::new(nonce)) {
            response = response.with(&realm).with(&nonce);
        }
        response
    }

    pub(super) fn with(mut self, attribute: &dyn AttributeWrite) -> Self {
        let added = self.write.add_attribute(attribute);
        debug_assert!(added.is_ok(), "attribute of bounded size refused");
        self
    }

    pub(super) fn with_mapped(self, request: &Message<'_>, mapped: SocketAddr) -> Self {
        self.with(&XorMappedAddress::new(mapped, request.transaction_id()))
    }

    pub(super) fn finish(
        mut self,
        key: Option<(&MessageIntegrityCredentials, IntegrityAlgorithm)>,
    ) -> Vec<u8> {
        if let Some((credentials, algorithm)) = key {
            let signed = self.write.add_message_integrity(credentials, algorithm);
            debug_assert!(signed.is_ok(), "integrity is added once, before the fingerprint");
        }
        if self.fingerprint {
            let added = self.write.add_fingerprint();
            debug_assert!(added.is_ok(), "fingerprint is added once, last");
        }
        self.write.finish()
    }
}

fn wants_fingerprint(request: &Message<'_>) -> bool {
    use stun_types::attribute::AttributeStaticType;
    request.has_attribute(Fingerprint::TYPE)
}

/// Short phrases: an unproven address gets few bytes.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        420 => "Unknown Attribute",
        437 => "Allocation Mismatch",
        438 => "Stale Nonce",
        440 => "Address Family not Supported",
        441 => "Wrong Credentials",
        442 => "Unsupported Transport",
        443 => "Peer Address Family Mismatch",
        486 => "Quota Reached",
        508 => "Insufficient Capacity",
        _ => "Error",
    }
}
