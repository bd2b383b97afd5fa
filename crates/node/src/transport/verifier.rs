//! Lets `proto::identity` decide about certificates inside a TLS handshake.
//!
//! No chain, no names: the network root signs every certificate, and whom we expect is checked
//! against node and user. The signature of the handshake is Ed25519 by the device's key.

use std::sync::Arc;

use cooee_proto::{
    clock::UnixTime,
    identity::{Certificate, CertificateError},
};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime as TlsTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{ExpectedPeer, Trust};

/// Checks the other side of a connection.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) trust: Arc<Trust>,
    pub(super) expected: ExpectedPeer,
    /// Whether a client without certificate may connect.
    pub(super) anonymous_allowed: bool,
}

impl Verifier {
    fn check(&self, der: &[u8], intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !intermediates.is_empty() {
            return Err(TlsCertificateError::BadEncoding.into());
        }
        let certificate = self.trust.check(der).map_err(|error| tls_error(&error))?;
        if self.expected.is_met_by(&certificate) {
            Ok(())
        } else {
            Err(TlsCertificateError::NotValidForName.into())
        }
    }
}

/// The TLS error whose alert tells the peer what is wrong.
fn tls_error(error: &CertificateError) -> Error {
    let time = |at: UnixTime| TlsTime::since_unix_epoch(std::time::Duration::from_millis(at.0));
    match error {
        CertificateError::OtherNetwork(_) | CertificateError::Signature => {
            TlsCertificateError::UnknownIssuer
        }
        CertificateError::NotYetValid { valid_from, now } => {
            TlsCertificateError::NotValidYetContext {
                time: time(*now),
                not_before: time(*valid_from),
            }
        }
        CertificateError::Expired { expired, now } => {
            TlsCertificateError::ExpiredContext { time: time(*now), not_after: time(*expired) }
        }
        CertificateError::Revoked(_) => TlsCertificateError::Revoked,
        _ => TlsCertificateError::BadEncoding,
    }
    .into()
}

/// Checks the signature of a handshake against the key in the certificate.
pub(crate) fn verify_handshake(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(Error::PeerIncompatible(rustls::PeerIncompatible::NoSignatureSchemesInCommon));
    }
    let certificate =
        Certificate::parse(certificate).map_err(|_| TlsCertificateError::BadEncoding)?;
    certificate
        .public_key()
        .verify(message, signed.signature())
        .map_err(|_| TlsCertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}

/// The half of a rustls verifier that is the same whoever is at the other end: TLS 1.3 only, the
/// handshake signed with Ed25519 by the key of the certificate.
macro_rules! handshake_by_device_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &rustls::pki_types::CertificateDer<'_>,
            _signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $crate::transport::verify_handshake(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            vec![rustls::SignatureScheme::ED25519]
        }
    };
}
pub(crate) use handshake_by_device_key;

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, intermediates).map(|()| ServerCertVerified::assertion())
    }

    handshake_by_device_key!();
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous_allowed
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: TlsTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(certificate, intermediates).map(|()| ClientCertVerified::assertion())
    }

    handshake_by_device_key!();
}
