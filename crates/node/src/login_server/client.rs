//! A node's connection to the login server, over any byte stream.
//!
//! The greeting travels with the first request, so a login takes one round trip for TLS and two for
//! itself.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use cooee_proto::{
    clock::UnixTime,
    identity::{Certificate, HostPort, NetworkRoot, NodeId, NodeKey, RevocationList, UserName},
    login::{
        AccountKey, Authenticated, ChannelBinding, ClientConfig, ClientError, Hello, LoginAttempt,
        Password, PasswordChange, Registration, Session, Welcome, device_proof,
    },
    wire::{
        encode_frame,
        v1::{
            self, LoginRequest, LoginResponse, login_request::Kind, login_response::Kind as Answer,
        },
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    random_seed,
    tls::{ServerVerifier, channel_binding, client_config, server_name},
    unix_now,
};
use crate::transport::{TransportError, read_frame};

/// Patience with the login server, for the handshake and for each answer (chosen).
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a request to the login server failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The login server refused, or answered against the protocol.
    #[error(transparent)]
    Protocol(#[from] ClientError),
    /// The other side is no login server of this network.
    #[error("this is not a login server of the network: {0}")]
    NotOurs(String),
    /// The connection broke.
    #[error("the connection to the login server broke: {0}")]
    Broken(String),
    /// No answer came in time.
    #[error("the login server did not answer within {} s", PATIENCE.as_secs())]
    TimedOut,
}

impl From<TransportError> for LoginError {
    fn from(error: TransportError) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<io::Error> for LoginError {
    fn from(error: io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls {
            Some(tls) => Self::NotOurs(tls.to_string()),
            None => Self::Broken(error.to_string()),
        }
    }
}

/// This device towards the login server.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its key.
    pub key: NodeKey,
    /// What its owner calls it; at most 64 bytes.
    pub name: String,
}

/// A device of the user, as the login server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedDevice {
    /// The node it makes.
    pub node: NodeId,
    /// What its owner calls it.
    pub name: String,
    /// When it first logged in.
    pub added_at: UnixTime,
    /// End of its last certificate.
    pub certified_until: UnixTime,
}

/// Data of a slot, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSlot {
    /// Counts the changes; 0 if nothing was ever put.
    pub version: u64,
    /// The sealed bytes; empty if the version held is the newest.
    pub data: Vec<u8>,
}

/// A connection to the login server. One request at a time.
pub struct LoginClient<S> {
    stream: TlsStream<S>,
    config: ClientConfig,
    binding: ChannelBinding,
    verifier: Arc<ServerVerifier>,
    clock: fn() -> UnixTime,
    program_version: u64,
    welcome: Option<Welcome>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> LoginClient<S> {
    /// TLS with the login server at the other end of `stream`.
    pub async fn connect(
        stream: S,
        config: ClientConfig,
        program_version: u64,
    ) -> Result<Self, LoginError> {
        Self::connect_by_clock(stream, config, program_version, unix_now).await
    }

    /// The same by another clock than this machine's.
    pub async fn connect_by_clock(
        stream: S,
        config: ClientConfig,
        program_version: u64,
        clock: fn() -> UnixTime,
    ) -> Result<Self, LoginError> {
        let (tls, verifier) =
            client_config(config.root).map_err(|error| LoginError::NotOurs(error.to_string()))?;
        let handshake = TlsConnector::from(tls).connect(server_name(), stream);
        let stream = timeout(PATIENCE, handshake).await.map_err(|_| LoginError::TimedOut)??;
        let binding = channel_binding(stream.get_ref().1)
            .map_err(|error| LoginError::Broken(error.to_string()))?;
        let welcome = None;
        Ok(Self { stream, config, binding, verifier, clock, program_version, welcome })
    }

    /// What the login server said first: version, policy, clock.
    pub async fn welcome(&mut self) -> Result<Welcome, LoginError> {
        if let Some(welcome) = self.welcome {
            return Ok(welcome);
        }
        let hello = encode_frame(&Hello::request(self.program_version));
        self.send(&hello).await?;
        self.read_welcome().await
    }

    /// Creates an account with this device as its first.
    pub async fn register(
        &mut self,
        name: &UserName,
        password: &Password,
        display_name: &str,
        code: &str,
        device: &Device,
    ) -> Result<Session, LoginError> {
        let (machine, start) =
            Registration::start(self.config, random_seed(), name, password, code);
        let challenge = self.exchange(start).await?;
        let (device, display_name, binding) =
            (device.clone(), display_name.to_owned(), self.binding);
        let (expected, finish) = stretch(move || {
            machine.finish(challenge, &device.key, &device.name, &display_name, &binding)
        })
        .await?;
        self.complete(expected, finish).await
    }

    /// Logs this device in with the password. `held_revocation_list`: number of the list held.
    pub async fn login(
        &mut self,
        name: &UserName,
        password: &Password,
        device: &Device,
        held_revocation_list: u64,
    ) -> Result<Session, LoginError> {
        let (machine, start) = LoginAttempt::start(self.config, random_seed(), name, password);
        let challenge = self.exchange(start).await?;
        let (device, binding) = (device.clone(), self.binding);
        let (expected, finish) = stretch(move || {
            machine.finish(challenge, &device.key, &device.name, &binding, held_revocation_list)
        })
        .await?;
        self.complete(expected, finish).await
    }

    /// Gets the next certificate of a device that logged in before, without a password.
    /// `addresses`: where a dedicated super node can be reached.
    pub async fn renew(
        &mut self,
        device: &Device,
        held_revocation_list: u64,
        addresses: &[HostPort],
    ) -> Result<Session, LoginError> {
        let (expected, request) = Authenticated::renew(
            self.config.root,
            &device.key,
            &device.name,
            &self.binding,
            held_revocation_list,
            addresses,
        );
        self.complete(expected, request).await
    }

    /// Makes this device a dedicated super node.
    pub async fn enrol_super_node(
        &mut self,
        token: &str,
        device: &Device,
        addresses: &[HostPort],
    ) -> Result<Session, LoginError> {
        let (expected, request) = Authenticated::enrol(
            self.config.root,
            &device.key,
            &device.name,
            &self.binding,
            token,
            addresses,
        );
        self.complete(expected, request).await
    }

    /// Sets another password, after a login with the old one on this connection.
    pub async fn change_password(
        &mut self,
        password: &Password,
        account_key: &AccountKey,
    ) -> Result<(), LoginError> {
        let (machine, start) = PasswordChange::start(self.config, random_seed(), password);
        let challenge = self.exchange(start).await?;
        let account_key = account_key.clone();
        let finish = stretch(move || machine.finish(challenge, &account_key)).await?;
        self.expect_done(finish).await
    }

    /// Removes the account for good, after a login with the password on this connection.
    pub async fn remove_account(&mut self) -> Result<(), LoginError> {
        self.expect_done(request(Kind::RemoveAccount(v1::RemoveAccount {}))).await
    }

    /// Removes a device: this one, or another after a login with the password.
    pub async fn remove_device(&mut self, node: NodeId) -> Result<(), LoginError> {
        let node = node.0.to_vec().into();
        self.expect_done(request(Kind::RemoveDevice(v1::RemoveDevice { node }))).await
    }

    /// The user's devices.
    pub async fn devices(&mut self) -> Result<Vec<ListedDevice>, LoginError> {
        match self.ask(Kind::ListDevices(v1::ListDevices {})).await? {
            Answer::Devices(list) => list.devices.into_iter().map(listed).collect(),
            _ => Err(unexpected()),
        }
    }

    /// Searches among all users: a name, or its beginning and `*`. Name and display name of each.
    pub async fn look_up(&mut self, pattern: &str) -> Result<Vec<(UserName, String)>, LoginError> {
        let pattern = pattern.to_owned();
        match self.ask(Kind::LookUpUser(v1::LookUpUser { pattern })).await? {
            Answer::Users(list) => {
                let users = list.users.into_iter();
                let users =
                    users.map(|user| Some((user.user_name.parse().ok()?, user.display_name)));
                users.collect::<Option<_>>().ok_or_else(unexpected)
            }
            _ => Err(unexpected()),
        }
    }

    /// Whether there is a user of this name; asked in the name of a certified device.
    pub async fn user_exists(
        &mut self,
        name: &UserName,
        key: &NodeKey,
        certificate: &Certificate,
    ) -> Result<bool, LoginError> {
        let network = self.config.root.network_id();
        let question = v1::UserExists {
            user_name: name.to_string(),
            certificate: certificate.der().to_vec().into(),
            device: Some(device_proof(network, key, "", &self.binding)),
        };
        match self.ask(Kind::UserExists(question)).await? {
            Answer::UserExistence(existence) => Ok(existence.exists),
            _ => Err(unexpected()),
        }
    }

    /// Sets the display name, and whether searches with `*` leave this user out.
    pub async fn set_profile(
        &mut self,
        display_name: &str,
        hidden: bool,
    ) -> Result<(), LoginError> {
        let display_name = display_name.to_owned();
        self.expect_done(request(Kind::SetProfile(v1::SetProfile { display_name, hidden }))).await
    }

    /// Replaces the data of a slot if its version is still `replaces_version`; gives the new one.
    pub async fn put_sealed(
        &mut self,
        slot: u32,
        replaces_version: u64,
        data: Vec<u8>,
    ) -> Result<u64, LoginError> {
        let put = v1::PutSealed { slot, replaces_version, data: data.into() };
        match self.ask(Kind::PutSealed(put)).await? {
            Answer::Sealed(sealed) => Ok(sealed.version),
            _ => Err(unexpected()),
        }
    }

    /// The data of a slot, unless `held_version` is the newest.
    pub async fn get_sealed(
        &mut self,
        slot: u32,
        held_version: u64,
    ) -> Result<SealedSlot, LoginError> {
        match self.ask(Kind::GetSealed(v1::GetSealed { slot, held_version })).await? {
            Answer::Sealed(sealed) => {
                Ok(SealedSlot { version: sealed.version, data: sealed.data.into() })
            }
            _ => Err(unexpected()),
        }
    }

    /// The list of removed devices, if there is a newer one than the one held.
    pub async fn revocation_list(
        &mut self,
        held: u64,
    ) -> Result<Option<RevocationList>, LoginError> {
        let held = Some(v1::Held { revocation_list_number: held });
        match self.ask(Kind::GetRevocationList(v1::GetRevocationList { held })).await? {
            Answer::RevocationList(signed) if signed.body.is_empty() => Ok(None),
            Answer::RevocationList(signed) => RevocationList::verify(&self.config.root, &signed)
                .map(Some)
                .map_err(|_| ClientError::Protocol("revocation list not signed").into()),
            _ => Err(unexpected()),
        }
    }

    /// Ends the connection cleanly.
    pub async fn close(mut self) {
        let _ = timeout(PATIENCE, self.stream.shutdown()).await;
    }

    async fn complete(
        &mut self,
        expected: Authenticated,
        request: LoginRequest,
    ) -> Result<Session, LoginError> {
        let response = self.exchange(request).await?;
        Ok(expected.complete((self.clock)(), response)?)
    }

    async fn expect_done(&mut self, request: LoginRequest) -> Result<(), LoginError> {
        match accepted(self.exchange(request).await?)? {
            Answer::Done(_) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&mut self, kind: Kind) -> Result<Answer, LoginError> {
        accepted(self.exchange(request(kind)).await?)
    }

    /// Sends a request, with the greeting if it was not sent yet, and reads the answer.
    async fn exchange(&mut self, request: LoginRequest) -> Result<LoginResponse, LoginError> {
        let mut bytes = BytesMut::new();
        if self.welcome.is_none() {
            bytes.extend_from_slice(&encode_frame(&Hello::request(self.program_version)));
        }
        bytes.extend_from_slice(&encode_frame(&request));
        self.send(&bytes).await?;
        if self.welcome.is_none() {
            self.read_welcome().await?;
        }
        self.receive().await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), LoginError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(PATIENCE, write).await.map_err(|_| LoginError::TimedOut)??)
    }

    async fn receive(&mut self) -> Result<LoginResponse, LoginError> {
        let read = timeout(PATIENCE, read_frame(&mut self.stream)).await;
        let response = read.map_err(|_| LoginError::TimedOut)??;
        response.ok_or_else(|| LoginError::Broken("it closed the connection".into()))
    }

    async fn read_welcome(&mut self) -> Result<Welcome, LoginError> {
        let response = self.receive().await?;
        let now = (self.clock)();
        let welcome = Hello::check(now, response)?;
        // The clocks agree: now the validity that the handshake left out.
        let certificate = self.verifier.server_certificate();
        let certificate =
            certificate.ok_or_else(|| LoginError::NotOurs("no certificate".into()))?;
        check_validity(&certificate, &self.config.root, now)?;
        self.welcome = Some(welcome);
        Ok(welcome)
    }
}

impl<S> std::fmt::Debug for LoginClient<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginClient").field("welcome", &self.welcome).finish_non_exhaustive()
    }
}

fn check_validity(
    certificate: &Certificate,
    root: &NetworkRoot,
    now: UnixTime,
) -> Result<(), LoginError> {
    let checked = certificate.verify(root, now, &RevocationList::empty(root.network_id()));
    checked.map_err(|error| LoginError::NotOurs(error.to_string()))
}

/// Runs what costs the time of the password hash where blocking is allowed.
async fn stretch<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, LoginError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| LoginError::Broken(error.to_string()))??)
}

fn listed(device: v1::Device) -> Result<ListedDevice, LoginError> {
    Ok(ListedDevice {
        node: NodeId::from_slice(&device.node).ok_or_else(unexpected)?,
        name: device.name,
        added_at: UnixTime(device.added_at_ms),
        certified_until: UnixTime(device.certified_until_ms),
    })
}

fn request(kind: Kind) -> LoginRequest {
    LoginRequest { kind: Some(kind) }
}

fn accepted(response: LoginResponse) -> Result<Answer, LoginError> {
    Ok(cooee_proto::login::accepted(response)?)
}

fn unexpected() -> LoginError {
    ClientError::Protocol("unexpected answer").into()
}
