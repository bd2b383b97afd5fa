//! The cryptographic profile: DTLS 1.3 and SRTP_AEAD_AES_256_GCM, nothing weaker.
//!
//! str0m negotiates the SRTP profile by preference and would accept AES-128 or the HMAC-SHA1
//! one from a peer that offers nothing better. This provider wraps its DTLS and closes the
//! association if anything but AES-256-GCM (RFC 7714) comes out. It is also the one place of
//! the voice engine where a library draws its own randomness (keys, nonces, certificate).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use str0m::{
    config::{CryptoProvider, DtlsCert, DtlsVersion},
    crypto::{
        CryptoError,
        dtls::{
            DtlsImplError, DtlsInstance, DtlsOutput, DtlsProvider, ProtocolVersion, SrtpProfile,
        },
        from_feature_flags,
    },
};

/// What protects the media, for the call record.
pub const CIPHER: &str = "DTLS 1.3, SRTP_AEAD_AES_256_GCM";

/// The library measures its 40 s for the handshake from the last time it was told, and str0m
/// tells a waiting server nothing: after a minute of ringing the first ClientHello would find
/// the time used up. So a waiting instance asks to be woken this often.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The provider that every session uses.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static STRICT: StrictDtls = StrictDtls;
    Arc::new(CryptoProvider { dtls_provider: &STRICT, ..from_feature_flags() })
}

#[derive(Debug)]
struct StrictDtls;

impl DtlsProvider for StrictDtls {
    fn generate_certificate(&self) -> Option<DtlsCert> {
        from_feature_flags().dtls_provider.generate_certificate()
    }

    fn new_dtls(
        &self,
        certificate: &DtlsCert,
        now: Instant,
        _version: DtlsVersion,
        mtu: Option<usize>,
    ) -> Result<Box<dyn DtlsInstance>, CryptoError> {
        let inner = from_feature_flags().dtls_provider.new_dtls(
            certificate,
            now,
            DtlsVersion::Dtls13,
            mtu,
        )?;
        Ok(Box::new(StrictInstance { inner, last_now: now, waiting: true }))
    }
}

#[derive(Debug)]
struct StrictInstance {
    inner: Box<dyn DtlsInstance>,
    last_now: Instant,
    /// No packet has come in yet.
    waiting: bool,
}

impl DtlsInstance for StrictInstance {
    fn set_active(&mut self, active: bool) {
        self.inner.set_active(active);
    }

    fn handle_packet(&mut self, packet: &[u8]) -> Result<(), DtlsImplError> {
        self.waiting &= packet.is_empty();
        self.inner.handle_packet(packet)
    }

    fn poll_output<'a>(&mut self, buffer: &'a mut [u8]) -> DtlsOutput<'a> {
        match self.inner.poll_output(buffer) {
            DtlsOutput::KeyingMaterial(_, profile) if profile != SrtpProfile::AEAD_AES_256_GCM => {
                DtlsOutput::CloseNotify
            }
            DtlsOutput::Timeout(at) if self.waiting => {
                DtlsOutput::Timeout(at.min(self.last_now + HEARTBEAT))
            }
            output => output,
        }
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), DtlsImplError> {
        self.last_now = now;
        self.inner.handle_timeout(now)
    }

    fn send_application_data(&mut self, data: &[u8]) -> Result<usize, DtlsImplError> {
        self.inner.send_application_data(data)
    }

    fn is_active(&self) -> bool {
        self.inner.is_active()
    }

    fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.inner.protocol_version()
    }

    fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    fn close(&mut self) -> Result<(), DtlsImplError> {
        self.inner.close()
    }
}
