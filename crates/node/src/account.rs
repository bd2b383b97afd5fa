//! Getting and renewing what makes a device part of a network: registration, login, enrolment.
//!
//! The way to the login server is direct or, when its address is blocked, through any super node
//! known; what is said on it is [`LoginClient`]'s.

use std::net::SocketAddr;

use cooee_proto::{
    identity::{HostPort, Invitation, NodeKey, RevocationList, UserName},
    login::{ClientConfig, ClientError, Password, Refusal, Session},
};
use tokio::{net::lookup_host, time::Instant};

use crate::{
    attachment::{LoginPath, open_login_path},
    login_server::{
        client::{Device, LoginClient, LoginError},
        program_version,
    },
    profile::{Profile, ProfileError},
    transport::{ByteStream, Credentials, Dialer, ProxyConfig, Tls, TransportError, Trust},
};

/// This program's version, as the login server is told.
pub(crate) const PROGRAM_VERSION: u64 = program_version(
    part(env!("CARGO_PKG_VERSION_MAJOR")),
    part(env!("CARGO_PKG_VERSION_MINOR")),
    part(env!("CARGO_PKG_VERSION_PATCH")),
);

/// Reads a decimal number when the program is compiled.
const fn part(digits: &str) -> u16 {
    let digits = digits.as_bytes();
    let (mut value, mut at) = (0, 0);
    while at < digits.len() {
        value = value * 10 + (digits[at] - b'0') as u16;
        at += 1;
    }
    value
}

/// Why an account cannot be had or used. The profile is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The profile cannot be read or written.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// No way to the login server.
    #[error("the login server cannot be reached, neither directly nor through a super node: {0}")]
    Unreachable(TransportError),
    /// This device cannot speak TLS with what the profile holds.
    #[error(transparent)]
    Transport(TransportError),
    /// The login server said no, or something stands in its place.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// The profile belongs to no network yet.
    #[error(
        "this profile belongs to no network yet: give the invitation with --invitation 'cooee:…'"
    )]
    NoInvitation,
}

/// What getting a certificate took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountReport {
    /// Milliseconds from the first packet to the certificate.
    pub took_ms: u64,
    /// Super node that the way led through; none if direct.
    pub through: Option<SocketAddr>,
}

/// A device on its way into a network, or in it.
pub struct Account<'p> {
    profile: &'p Profile,
    invitation: Invitation,
    key: NodeKey,
    proxy: ProxyConfig,
    device_name: String,
}

/// An open line to the login server.
pub struct LoginLine {
    /// The protocol.
    pub client: LoginClient<Box<dyn ByteStream>>,
    /// Super node that it leads through; none if direct.
    pub through: Option<SocketAddr>,
}

impl<'p> Account<'p> {
    /// The account of a profile. A new invitation replaces the stored one once it has worked.
    pub fn new(
        profile: &'p Profile,
        invitation: Option<Invitation>,
        proxy: ProxyConfig,
    ) -> Result<Self, AccountError> {
        let invitation = match invitation {
            Some(invitation) => invitation,
            None => profile.invitation()?.ok_or(AccountError::NoInvitation)?,
        };
        let key = profile.device_key()?;
        Ok(Self { profile, invitation, key, proxy, device_name: machine_name() })
    }

    /// The network it is for.
    pub fn invitation(&self) -> &Invitation {
        &self.invitation
    }

    /// Makes a new user with this device as its first. When an earlier try was cut off after the
    /// login server had made the user, this one finds it and completes it.
    pub async fn register(
        &self,
        name: &UserName,
        password: &Password,
        display_name: &str,
    ) -> Result<AccountReport, AccountError> {
        let code = self.invitation.code.clone().unwrap_or_default();
        self.profile.check_room()?;
        let start = Instant::now();
        let mut line = self.open().await?;
        let device = self.device();
        let made = line.client.register(name, password, display_name, &code, &device).await;
        let session = match made {
            Err(LoginError::Protocol(ClientError::Refused(Refusal::NameTaken))) => {
                let unfinished = self.unfinished(name, password).await;
                let (again, session) =
                    unfinished.ok_or(LoginError::Protocol(Refusal::NameTaken.into()))?;
                line = again;
                session
            }
            made => made?,
        };
        self.keep(&session, start, &line)
    }

    /// Adds this device to a user.
    pub async fn login(
        &self,
        name: &UserName,
        password: &Password,
    ) -> Result<AccountReport, AccountError> {
        self.profile.check_room()?;
        let start = Instant::now();
        let mut line = self.open().await?;
        let session = line.client.login(name, password, &self.device(), 0).await?;
        self.keep(&session, start, &line)
    }

    /// The user whose first device this is, although the profile does not know it.
    async fn unfinished(
        &self,
        name: &UserName,
        password: &Password,
    ) -> Option<(LoginLine, Session)> {
        let mut line = self.open().await.ok()?;
        let known = line.client.renew(&self.device(), 0, &[]).await.ok()?;
        if known.certificate.user() != Some(name) {
            return None;
        }
        self.log_in_again(name, password).await.ok()
    }

    /// Logs this device in again; the line stays open for what needs the password. Nothing in the
    /// profile changes.
    pub async fn log_in_again(
        &self,
        name: &UserName,
        password: &Password,
    ) -> Result<(LoginLine, Session), AccountError> {
        let mut line = self.open().await?;
        let session = line.client.login(name, password, &self.device(), 0).await?;
        Ok((line, session))
    }

    /// Makes this device a dedicated super node that is reached at `addresses`.
    pub async fn enrol(
        &self,
        token: &str,
        addresses: &[HostPort],
    ) -> Result<AccountReport, AccountError> {
        self.profile.check_room()?;
        let start = Instant::now();
        let mut line = self.open().await?;
        let made = line.client.enrol_super_node(token, &self.device(), addresses).await;
        let session = match made {
            // Perhaps this device itself has used the token, and was cut off before it knew.
            Err(LoginError::Protocol(ClientError::Refused(Refusal::TokenWrong))) => {
                line = self.open().await?;
                let renewed = line.client.renew(&self.device(), 0, addresses).await;
                renewed.map_err(|_| LoginError::Protocol(Refusal::TokenWrong.into()))?
            }
            made => made?,
        };
        self.keep(&session, start, &line)
    }

    /// Gets the next certificate; `addresses` tells where a dedicated super node is reached.
    pub async fn renew(
        &self,
        held: &RevocationList,
        addresses: &[HostPort],
    ) -> Result<Session, AccountError> {
        let mut line = self.open().await?;
        let session = line.client.renew(&self.device(), held.number(), addresses).await?;
        line.client.close().await;
        self.profile.store_certificate(&session.certificate)?;
        Ok(session)
    }

    /// Opens a line to the login server.
    pub async fn open(&self) -> Result<LoginLine, AccountError> {
        let trust = Trust::new(self.invitation.root);
        let credentials = Credentials::anonymous(NodeKey::from_seed(*self.key.seed()));
        let tls = Tls::new(trust, credentials).map_err(AccountError::Transport)?;
        let dialer = Dialer::new(tls, self.proxy.clone());
        let login_servers = resolve(&self.invitation.login_servers).await;
        let mut super_nodes = resolve(&self.invitation.super_nodes).await;
        let now = crate::login_server::unix_now();
        let known = self.profile.host_cache_file().restore(Vec::new(), now).host_cache;
        super_nodes.extend(known.entries().map(|entry| entry.address));
        let LoginPath { stream, through } = open_login_path(&dialer, &login_servers, &super_nodes)
            .await
            .map_err(AccountError::Unreachable)?;
        let config = ClientConfig::new(self.invitation.root);
        let client = LoginClient::connect(stream, config, PROGRAM_VERSION).await?;
        Ok(LoginLine { client, through })
    }

    fn device(&self) -> Device {
        Device { key: NodeKey::from_seed(*self.key.seed()), name: self.device_name.clone() }
    }

    /// Stores what a session brought: certificate, super nodes to start from.
    fn keep(
        &self,
        session: &Session,
        start: Instant,
        line: &LoginLine,
    ) -> Result<AccountReport, AccountError> {
        let mut invitation = self.invitation.clone();
        for super_node in &session.super_nodes {
            if !invitation.super_nodes.contains(super_node)
                && invitation.super_nodes.len() < cooee_proto::identity::SUPER_NODES_MAX
            {
                invitation.super_nodes.push(super_node.clone());
            }
        }
        self.profile.store_invitation(&invitation)?;
        if let Some(key) = &session.account_key {
            self.profile.store_account_key(key)?;
        }
        if let Some(list) = &session.revocation_list {
            self.profile.store_revocation_list(list)?;
        }
        self.profile.store_certificate(&session.certificate)?;
        let took_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(AccountReport { took_ms, through: line.through })
    }
}

/// Addresses of hosts; what cannot be resolved is left out with a warning.
pub async fn resolve(hosts: &[HostPort]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for host in hosts {
        if let Some(ip) = host.ip() {
            addresses.push(SocketAddr::new(ip, host.port()));
            continue;
        }
        match lookup_host((host.host(), host.port())).await {
            Ok(found) => addresses.extend(found),
            Err(error) => tracing::warn!(%host, %error, "this name cannot be resolved"),
        }
    }
    addresses
}

/// What the device is called in the list of a user's devices.
pub(crate) fn machine_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.chars().take(32).collect()
}
