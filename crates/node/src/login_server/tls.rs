//! TLS of the login protocol: TLS 1.3, the server shows a certificate that the network root issued
//! to it, the node shows none (it proves its key inside).
//!
//! The node checks root, signature and role in the handshake but not the validity in time: with a
//! wrong clock it could not learn how wrong. It checks that after the server told its clock.

use std::{
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use cooee_proto::{
    clock::UnixTime,
    identity::{
        Certificate, CertificateRequest, NetworkKey, NetworkRoot, NodeKey, RevocationList, Role,
        Roles,
    },
    login::{CHANNEL_BINDING_LABEL, CLOCK_OFFSET_MS_MAX, ChannelBinding, LOGIN_ALPN},
};
use rustls::{
    CertificateError, ClientConfig, ConnectionCommon, Error, ServerConfig, SideData,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime as TlsTime},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{random_seed, unix_now};
use crate::transport::handshake_by_device_key;

/// How long the login server's own certificate lasts (chosen; it renews itself after half of it).
const SERVER_CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

/// The server's certificate, renewed while it runs.
#[derive(Debug)]
pub(super) struct OwnCertificate {
    network: NetworkKey,
    current: RwLock<(Arc<CertifiedKey>, UnixTime)>,
}

impl OwnCertificate {
    pub(super) fn new(network: NetworkKey) -> Result<Arc<Self>, Error> {
        let current = RwLock::new(issue(&network)?);
        Ok(Arc::new(Self { network, current }))
    }

    /// Issues the next certificate once half of the current one's life is over.
    pub(super) fn renew_if_due(&self) -> Result<(), Error> {
        let due = self.current.read().expect("no holder of this lock panics").1 <= unix_now();
        if due {
            *self.current.write().expect("no holder of this lock panics") = issue(&self.network)?;
        }
        Ok(())
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.read().expect("no holder of this lock panics").0.clone())
    }
}

fn issue(network: &NetworkKey) -> Result<(Arc<CertifiedKey>, UnixTime), Error> {
    let seed = random_seed();
    let key = NodeKey::from_seed(random_seed());
    let now = unix_now();
    let request = CertificateRequest {
        public_key: key.public(),
        user: None,
        roles: Roles::NONE.with(Role::LoginServer),
        serial: u64::from_be_bytes(*seed.first_chunk().expect("32 bytes have 8")),
        not_before: UnixTime(now.0.saturating_sub(CLOCK_OFFSET_MS_MAX)),
        not_after: now.plus(SERVER_CERTIFICATE_LIFE),
    };
    let certificate =
        Certificate::issue(network, &request).map_err(|error| Error::General(error.to_string()))?;
    let private = PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec()).into();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let certified = CertifiedKey::from_der(chain, private, &provider())?;
    Ok((Arc::new(certified), certificate.renew_at()))
}

/// The server's side.
pub(super) fn server_config(certificate: Arc<OwnCertificate>) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![LOGIN_ALPN.to_vec()];
    // Logins are rare: a ticket costs more bytes than it saves.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The node's side, and where the server's certificate will be found after the handshake.
pub(super) fn client_config(
    root: NetworkRoot,
) -> Result<(Arc<ClientConfig>, Arc<ServerVerifier>), Error> {
    let verifier = Arc::new(ServerVerifier { root, seen: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.alpn_protocols = vec![LOGIN_ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), verifier))
}

/// A name that TLS wants and nobody sends.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("login.cooee.invalid").expect("a legal name")
}

/// What binds the protocol inside to this TLS connection (RFC 9266).
pub(super) fn channel_binding<D: SideData>(
    connection: &ConnectionCommon<D>,
) -> Result<ChannelBinding, Error> {
    connection.export_keying_material([0; 32], CHANNEL_BINDING_LABEL, None)
}

/// Accepts the login servers of one network.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    root: NetworkRoot,
    seen: Mutex<Option<Certificate>>,
}

impl ServerVerifier {
    /// The certificate that the server showed.
    pub(super) fn server_certificate(&self) -> Option<Certificate> {
        self.seen.lock().expect("no holder of this lock panics").clone()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: TlsTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = Certificate::parse(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let nothing_removed = RevocationList::empty(self.root.network_id());
        parsed
            .verify(&self.root, parsed.not_before(), &nothing_removed)
            .map_err(|_| CertificateError::UnknownIssuer)?;
        if !parsed.roles().contains(Role::LoginServer) {
            return Err(CertificateError::NotValidForName.into());
        }
        *self.seen.lock().expect("no holder of this lock panics") = Some(parsed);
        Ok(ServerCertVerified::assertion())
    }

    handshake_by_device_key!();
}
