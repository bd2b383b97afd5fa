//! TLS configurations: TLS 1.3, AES-256-GCM only, X25519MLKEM768 before X25519, Ed25519.
//!
//! A device that attaches to a super node offers X25519 alone: the hybrid costs 2.3 kB, a quarter
//! of a login, and what a later quantum computer would read is what the super node, a stranger,
//! reads today (`docs/decisions`). Between devices, to the login server and between super nodes it
//! is the hybrid.
//!
//! One [`Tls`] serves every layer: control connections, the login layer and the end-to-end layer
//! differ in ALPN and in whom they expect.

use std::sync::{Arc, RwLock};

use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    server::ServerSessionMemoryCache,
    version::TLS13,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{ByteStream, Credentials, ExpectedPeer, TransportError, Trust, verifier::Verifier};

/// Names of the protocols inside TLS.
pub mod alpn {
    /// Control connection, version 1.
    pub const CONTROL: &[u8] = b"cooee/1";
    /// Login server, version 1.
    pub const LOGIN: &[u8] = b"cooee-login/1";
    /// Between two devices, version 1.
    pub const END_TO_END: &[u8] = b"cooee-e2e/1";
    /// TURN over TLS (RFC 7443).
    pub const TURN: &[u8] = b"stun.turn";
}

/// Sessions remembered for resumption, per side. Chosen: a session is about 1 KiB.
const SESSIONS_MAX: usize = 1024;

/// This node's TLS: whom it trusts, who it is.
#[derive(Debug)]
pub struct Tls {
    trust: Arc<Trust>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    credentials: Credentials,
    /// For control connections; kept for its memory of sessions.
    control: Controls,
}

/// Client sides of control connections.
#[derive(Clone, Debug)]
struct Controls {
    /// Of a device that attaches.
    attaching: Arc<ClientConfig>,
    /// Of a super node, and of who has no certificate yet: the way to the login server may lead
    /// through.
    hybrid: Arc<ClientConfig>,
}

impl Controls {
    fn new(trust: &Arc<Trust>, credentials: &Credentials) -> Result<Self, TransportError> {
        let with = |groups| {
            client_config(trust, credentials, alpn::CONTROL, ExpectedPeer::Anybody, groups)
        };
        Ok(Self { attaching: with(CLASSICAL)?, hybrid: with(HYBRID)? })
    }
}

/// Key exchanges offered; the first one's share is sent with the first message.
type Groups = &'static [&'static dyn SupportedKxGroup];
const HYBRID: Groups = &[aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
const CLASSICAL: Groups = &[aws_lc_rs::kx_group::X25519];

impl Tls {
    /// TLS of a node.
    pub fn new(trust: Arc<Trust>, credentials: Credentials) -> Result<Arc<Self>, TransportError> {
        warm_randomness();
        let control = Controls::new(&trust, &credentials)?;
        Ok(Arc::new(Self { trust, state: RwLock::new(State { credentials, control }) }))
    }

    /// Replaces the certificate, after a login or a renewal. Holds for connections from now on.
    pub fn replace_credentials(&self, credentials: Credentials) -> Result<(), TransportError> {
        let control = Controls::new(&self.trust, &credentials)?;
        *self.state.write().expect("no holder of this lock panics") =
            State { credentials, control };
        Ok(())
    }

    /// Whom this node trusts.
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Who this node is.
    pub fn credentials(&self) -> Credentials {
        self.state.read().expect("no holder of this lock panics").credentials.clone()
    }

    /// Whether our own certificate is outside its validity by our clock.
    pub(super) fn own_certificate_is_out_of_date(&self) -> bool {
        let now = self.trust.unix_now();
        self.credentials().certificate.is_some_and(|certificate| {
            now < certificate.not_before() || now > certificate.not_after()
        })
    }

    /// Client side for control connections, with resumption; `attaching` as an ordinary node.
    pub(super) fn control_client(&self, attaching: bool) -> Arc<ClientConfig> {
        let controls = self.state.read().expect("no holder of this lock panics").control.clone();
        if attaching { controls.attaching } else { controls.hybrid }
    }

    /// Client side for any layer: one ALPN, one expectation.
    pub fn client_config(
        &self,
        alpn: &[u8],
        expected: ExpectedPeer,
    ) -> Result<Arc<ClientConfig>, TransportError> {
        client_config(&self.trust, &self.credentials(), alpn, expected, HYBRID)
    }

    /// Server side for any layer. `anonymous_allowed` lets clients in that have no certificate.
    pub fn server_config(
        &self,
        alpns: &[&[u8]],
        expected: ExpectedPeer,
        anonymous_allowed: bool,
    ) -> Result<Arc<ServerConfig>, TransportError> {
        let (chain, key) = identity(&self.credentials())?.ok_or(TransportError::NoCertificate)?;
        let verifier =
            Arc::new(Verifier { trust: self.trust.clone(), expected, anonymous_allowed });
        let mut config = ServerConfig::builder_with_provider(provider(HYBRID))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| credentials_error(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| credentials_error(&error))?;
        config.alpn_protocols = alpns.iter().map(|name| name.to_vec()).collect();
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS_MAX);
        // A node resumes with one connection at a time; end-to-end configurations live too shortly.
        config.send_tls13_tickets =
            usize::from(!alpns.contains(&alpn::END_TO_END) || alpns.len() > 1);
        Ok(Arc::new(config))
    }

    /// Server side for clients that are not of the network: standard TURN programs.
    pub fn server_config_for_strangers(
        &self,
        alpns: &[&[u8]],
    ) -> Result<Arc<ServerConfig>, TransportError> {
        let (chain, key) = identity(&self.credentials())?.ok_or(TransportError::NoCertificate)?;
        let mut config = ServerConfig::builder_with_provider(provider(HYBRID))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| credentials_error(&error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| credentials_error(&error))?;
        config.alpn_protocols = alpns.iter().map(|name| name.to_vec()).collect();
        Ok(Arc::new(config))
    }

    /// End-to-end TLS as the caller's side, inside a splice or over direct TCP.
    pub async fn connect_end_to_end<S: ByteStream>(
        &self,
        stream: S,
        expected: ExpectedPeer,
    ) -> Result<client::TlsStream<S>, TransportError> {
        let config = self.client_config(alpn::END_TO_END, expected)?;
        let stream = TlsConnector::from(config).connect(server_name("e2e"), stream).await;
        let stream = stream.map_err(|error| self.explain(error.into()))?;
        check_alpn(stream.get_ref().1.alpn_protocol(), alpn::END_TO_END)?;
        Ok(stream)
    }

    /// End-to-end TLS as the callee's side.
    pub async fn accept_end_to_end<S: ByteStream>(
        &self,
        stream: S,
        expected: ExpectedPeer,
    ) -> Result<server::TlsStream<S>, TransportError> {
        let config = self.server_config(&[alpn::END_TO_END], expected, false)?;
        let stream = TlsAcceptor::from(config).accept(stream).await;
        let stream = stream.map_err(|error| self.explain(error.into()))?;
        check_alpn(stream.get_ref().1.alpn_protocol(), alpn::END_TO_END)?;
        Ok(stream)
    }

    /// Adds what we know of our own clock to an error.
    pub(super) fn explain(&self, error: TransportError) -> TransportError {
        match error {
            TransportError::PeerCertificate { problem, .. } => TransportError::PeerCertificate {
                problem,
                ours_bad: self.own_certificate_is_out_of_date(),
            },
            other => other,
        }
    }
}

/// The library gathers its first randomness from the processor's jitter, which takes about 35 ms
/// (measured): done while TCP connects, it does not delay the first ClientHello.
fn warm_randomness() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let warm = || {
            // Whoever needs it first meets the same error and reports it.
            let _ = aws_lc_rs::default_provider().secure_random.fill(&mut [0; 32]);
        };
        // Without a thread it is gathered when it is needed.
        let _ = std::thread::Builder::new().name("randomness".to_owned()).spawn(warm);
    });
}

/// A name for the memory of sessions only: it never crosses the network (no SNI is sent).
pub(super) fn server_name(text: &str) -> ServerName<'static> {
    let name = format!("{text}.cooee.invalid");
    ServerName::try_from(name).expect("callers pass letters, digits and hyphens")
}

pub(super) fn check_alpn(chosen: Option<&[u8]>, wanted: &[u8]) -> Result<(), TransportError> {
    if chosen == Some(wanted) {
        return Ok(());
    }
    Err(TransportError::Protocol(format!("it does not speak {}", String::from_utf8_lossy(wanted))))
}

fn provider(groups: Groups) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        kx_groups: groups.to_vec(),
        ..aws_lc_rs::default_provider()
    })
}

fn client_config(
    trust: &Arc<Trust>,
    credentials: &Credentials,
    alpn: &[u8],
    expected: ExpectedPeer,
    groups: Groups,
) -> Result<Arc<ClientConfig>, TransportError> {
    let verifier = Arc::new(Verifier { trust: trust.clone(), expected, anonymous_allowed: false });
    let builder = ClientConfig::builder_with_provider(provider(groups))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| credentials_error(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity(credentials)? {
        Some((chain, key)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| credentials_error(&error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    Ok(Arc::new(config))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(credentials: &Credentials) -> Result<Option<Identity>, TransportError> {
    let Some(certificate) = &credentials.certificate else { return Ok(None) };
    if certificate.node() != credentials.node() {
        return Err(TransportError::Credentials("the certificate is of another device".into()));
    }
    let key = PrivatePkcs8KeyDer::from(credentials.key.pkcs8_der().to_vec());
    Ok(Some((vec![CertificateDer::from(certificate.der().to_vec())], key.into())))
}

fn credentials_error(error: &rustls::Error) -> TransportError {
    TransportError::Credentials(error.to_string())
}
