//! What the two sides of a leg tell each other before the first packet, and the configuration.
//!
//! The parameters travel in the authenticated end-to-end signalling: the fingerprint ties the
//! DTLS handshake (RFC 5763) to the devices that signalled.

use std::time::Duration;

use rand::RngCore as _;
use rand_chacha::ChaCha12Rng;

/// Letters of ICE credentials (RFC 8445 `ice-char`).
const ICE_CHARS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// 8 characters of 6 bits: twice the 24 bits that RFC 8445 asks for.
const UFRAG_LENGTH: usize = 8;
/// 24 characters of 6 bits: above the 128 bits that RFC 8445 asks for.
const PASSWORD_LENGTH: usize = 24;
/// RFC 8839 allows up to 256 characters; ours are far shorter.
const CREDENTIAL_LENGTH_MAX: usize = 256;

/// Which side of a leg opens the DTLS handshake (RFC 8842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsRole {
    /// Sends the ClientHello: the controlling side.
    Active,
    /// Waits for it: the controlled side.
    Passive,
}

/// What one side tells the other, in authenticated signalling, before media can flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportParameters {
    /// ICE user name fragment.
    pub ufrag: String,
    /// ICE password.
    pub pwd: String,
    /// SHA-256 of the DTLS certificate.
    pub fingerprint: [u8; 32],
    /// Role in the DTLS handshake; the two sides' must differ.
    pub dtls_role: DtlsRole,
    /// 0 at first; one more after each ICE restart of this side.
    pub generation: u32,
}

impl TransportParameters {
    pub(crate) fn is_well_formed(&self) -> bool {
        let good = |text: &str, least: usize| {
            (least..=CREDENTIAL_LENGTH_MAX).contains(&text.len())
                && text.bytes().all(|byte| ICE_CHARS.contains(&byte))
        };
        good(&self.ufrag, 4) && good(&self.pwd, 22)
    }
}

/// How a session is set up.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// ICE role: the caller's side is controlling; it is also the DTLS client.
    pub controlling: bool,
    /// Secret and fresh for each session: ICE credentials and transaction identifiers come
    /// from it.
    pub seed: [u8; 32],
    /// Time to live of openers: enough to pass the own NAT, too little to reach the peer's,
    /// whose gateway might otherwise take the stray packet for its own (measured on Linux).
    pub opener_ttl: u8,
    /// How often a report is sent on the path that carries the media.
    pub report_interval: Duration,
}

impl SessionConfig {
    /// The defaults for one side, with a fresh secret seed.
    pub fn new(controlling: bool, seed: [u8; 32]) -> Self {
        Self { controlling, seed, opener_ttl: 2, report_interval: Duration::from_millis(250) }
    }
}

/// ICE credentials drawn from the session's generator: user name fragment and password.
pub(crate) fn draw_credentials(random: &mut ChaCha12Rng) -> (String, String) {
    let mut draw = |length: usize| {
        (0..length)
            .map(|_| char::from(ICE_CHARS[(random.next_u32() & 63) as usize]))
            .collect::<String>()
    };
    (draw(UFRAG_LENGTH), draw(PASSWORD_LENGTH))
}
