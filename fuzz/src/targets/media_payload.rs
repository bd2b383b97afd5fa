//! A voice payload with redundancy.

use cooee_media::loss::Payload;

pub(crate) fn run(input: &[u8]) {
    if let Ok(payload) = Payload::parse(input) {
        assert!(!payload.frame.is_empty());
        assert_eq!(payload.parity.len(), payload.symbol_bytes * usize::from(payload.code.parity));
    }
}
