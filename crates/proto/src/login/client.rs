//! The node's side of the login protocol: each exchange as a machine with one request at a time.
//!
//! ```text
//! Hello ─▶ Welcome
//! Registration::start ─▶ RegisterChallenge ─▶ finish ─▶ LoginSession ─▶ Authenticated::complete
//! LoginAttempt::start ─▶ LoginChallenge    ─▶ finish ─▶ LoginSession ─▶ Authenticated::complete
//! ```
//!
//! The two `finish` spend the Argon2id time: run them where blocking is allowed.

use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialResponse, RegistrationResponse,
    errors::ProtocolError, rand::RngCore,
};
use zeroize::Zeroizing;

use super::{
    AccountKey, BOOTSTRAP_MAX, CLOCK_OFFSET_MS_MAX, ChannelBinding, LOGIN_PROTOCOL_VERSION,
    Refusal, Stretching,
    opaque::{Random, Suite, context},
};
use crate::{
    clock::{UnixTime, describe_offset},
    identity::{
        Certificate, CertificateError, HostPort, NetworkId, NetworkRoot, NodeKey, RevocationList,
        UserName,
    },
    wire::v1::{
        self, LoginRequest, LoginResponse, ProgramVersionStatus, RegistrationPolicy,
        login_request::Kind, login_response::Kind as Answer,
    },
};

/// Why an exchange with the login server failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The login server said no. Nothing was changed.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The clocks differ too much for certificates to work.
    #[error("{}", clock_wrong(*.offset_ms))]
    ClockWrong {
        /// How far our clock is behind the network's, in milliseconds; negative if ahead.
        offset_ms: i64,
    },
    /// The answer breaks the protocol.
    #[error("the login server answered against the protocol: {0}")]
    Protocol(&'static str),
    /// The server asks to stretch the password less than we accept, or more than we can.
    #[error("the login server asks for an unacceptable cost of the password hash")]
    Stretching,
    /// The certificate in the answer is not what was asked for.
    #[error("the login server sent a wrong certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// No password, or a very long one.
    #[error("a password has 1 to 1024 bytes")]
    PasswordLength,
    /// The key of the sealed data does not open.
    #[error("the account's sealed key does not open with this password")]
    SealedKey,
}

/// What all exchanges of a node share.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// The network.
    pub root: NetworkRoot,
    /// Cost of the password hash at registration, and the least that is accepted at login.
    pub stretching: Stretching,
}

impl ClientConfig {
    /// The usual configuration for a network.
    pub fn new(root: NetworkRoot) -> Self {
        Self { root, stretching: Stretching::default() }
    }
}

/// What the login server said first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// How far our clock is behind the network's, in milliseconds; negative if ahead.
    pub offset_ms: i64,
    /// Whether this program is recent enough.
    pub program_version: ProgramVersionStatus,
    /// Version of the program that the operator recommends.
    pub newest_program_version: u64,
    /// Who may register.
    pub registration: RegistrationPolicy,
}

/// The greeting.
#[derive(Debug)]
pub struct Hello;

impl Hello {
    /// The first request of a connection.
    pub fn request(program_version: u64) -> LoginRequest {
        let version = LOGIN_PROTOCOL_VERSION;
        request(Kind::Hello(v1::LoginHello { version, program_version }))
    }

    /// Checks the answer, which arrived at `now`.
    pub fn check(now: UnixTime, response: LoginResponse) -> Result<Welcome, ClientError> {
        let Answer::Welcome(welcome) = accepted(response)? else {
            return Err(ClientError::Protocol("no welcome"));
        };
        let difference = i128::from(welcome.now_ms) - i128::from(now.0);
        let offset_ms = i64::try_from(difference).unwrap_or(i64::MAX);
        if offset_ms.unsigned_abs() > CLOCK_OFFSET_MS_MAX {
            return Err(ClientError::ClockWrong { offset_ms });
        }
        if welcome.program_version() == ProgramVersionStatus::ProgramVersionTooOld {
            return Err(Refusal::TooOld.into());
        }
        Ok(Welcome {
            offset_ms,
            program_version: welcome.program_version(),
            newest_program_version: welcome.newest_program_version,
            registration: welcome.registration(),
        })
    }
}

/// A password, wiped from memory when dropped.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password of 1 to 1,024 bytes (chosen; OPAQUE's own bound is 65,535).
    pub fn new(text: &str) -> Result<Self, ClientError> {
        let legal = (1..=1024).contains(&text.len());
        legal.then(|| Self(Zeroizing::new(text.to_owned()))).ok_or(ClientError::PasswordLength)
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password")
    }
}

/// A registration, between its two requests.
pub struct Registration {
    config: ClientConfig,
    random: Random,
    name: UserName,
    password: Password,
    state: ClientRegistration<Suite>,
}

impl Registration {
    /// Starts to register `name`. `seed` must be random and secret.
    pub fn start(
        config: ClientConfig,
        seed: [u8; 32],
        name: &UserName,
        password: &Password,
        code: &str,
    ) -> (Self, LoginRequest) {
        let mut random = Random::new(seed);
        let password = password.clone();
        let (state, registration_request) = blind(&mut random, &password);
        let start = v1::RegisterStart {
            user_name: name.to_string(),
            registration_request,
            code: code.to_owned(),
        };
        let machine = Self { config, random, name: name.clone(), password, state };
        (machine, request(Kind::RegisterStart(start)))
    }

    /// Answers the challenge. Slow: stretches the password.
    pub fn finish(
        self,
        response: LoginResponse,
        device: &NodeKey,
        device_name: &str,
        display_name: &str,
        binding: &ChannelBinding,
    ) -> Result<(Authenticated, LoginRequest), ClientError> {
        let Self { config, mut random, name, password, state } = self;
        let record = record(&mut random, &password, state, response, config.stretching)?;
        let mut key = Zeroizing::new([0; 32]);
        random.fill_bytes(key.as_mut_slice());
        let account_key = AccountKey::from_bytes(*key);
        let finish = v1::RegisterFinish {
            registration_record: record.upload.into(),
            stretching: Some(config.stretching.into()),
            sealed_account_key: account_key.wrap(&record.export_key, nonce(&mut random)).into(),
            display_name: display_name.to_owned(),
            device: Some(device_proof(config.root.network_id(), device, device_name, binding)),
        };
        let expected = Authenticated {
            root: config.root,
            device: device.clone(),
            user: Some(name),
            key: Key::Own(account_key),
        };
        Ok((expected, request(Kind::RegisterFinish(finish))))
    }
}

/// A login with a password, between its two requests.
pub struct LoginAttempt {
    config: ClientConfig,
    random: Random,
    name: UserName,
    password: Password,
    state: ClientLogin<Suite>,
}

impl LoginAttempt {
    /// Starts to log in. `seed` must be random and secret.
    pub fn start(
        config: ClientConfig,
        seed: [u8; 32],
        name: &UserName,
        password: &Password,
    ) -> (Self, LoginRequest) {
        let mut random = Random::new(seed);
        let password = password.clone();
        let started = ClientLogin::start(&mut random, password.bytes())
            .expect("blinding fails only for a password that hashes to zero");
        let ke1 = started.message.serialize().to_vec().into();
        let start = v1::LoginStart { user_name: name.to_string(), ke1 };
        let name = name.clone();
        let machine = Self { config, random, name, password, state: started.state };
        (machine, request(Kind::LoginStart(start)))
    }

    /// Answers the challenge. Slow: stretches the password. Fails here if the password is wrong.
    pub fn finish(
        self,
        response: LoginResponse,
        device: &NodeKey,
        device_name: &str,
        binding: &ChannelBinding,
        held_revocation_list: u64,
    ) -> Result<(Authenticated, LoginRequest), ClientError> {
        let Self { config, mut random, name, password, state } = self;
        let Answer::LoginChallenge(challenge) = accepted(response)? else {
            return Err(ClientError::Protocol("no login challenge"));
        };
        let ke2 = CredentialResponse::deserialize(&challenge.ke2)
            .map_err(|_| ClientError::Protocol("malformed KE2"))?;
        let cost = challenge.stretching.map(Stretching::from).ok_or(ClientError::Stretching)?;
        let cost = Some(cost).filter(|cost| cost.is_acceptable(&config.stretching));
        let function = cost.and_then(|cost| cost.function()).ok_or(ClientError::Stretching)?;
        let context = context(config.root.network_id(), binding);
        let parameters =
            ClientLoginFinishParameters::new(Some(&context), Default::default(), Some(&function));
        let finished =
            state.finish(&mut random, password.bytes(), ke2, parameters).map_err(|error| {
                match error {
                    ProtocolError::InvalidLoginError => Refusal::WrongPassword.into(),
                    _ => ClientError::Protocol("OPAQUE failed"),
                }
            })?;
        let finish = v1::LoginFinish {
            ke3: finished.message.serialize().to_vec().into(),
            device: Some(device_proof(config.root.network_id(), device, device_name, binding)),
            held: Some(v1::Held { revocation_list_number: held_revocation_list }),
        };
        let expected = Authenticated {
            root: config.root,
            device: device.clone(),
            user: Some(name),
            key: Key::Sealed(Zeroizing::new(finished.export_key.to_vec())),
        };
        Ok((expected, request(Kind::LoginFinish(finish))))
    }
}

enum Key {
    None,
    Own(AccountKey),
    Sealed(Zeroizing<Vec<u8>>),
}

/// A device that proved itself and waits for its certificate.
pub struct Authenticated {
    root: NetworkRoot,
    device: NodeKey,
    user: Option<UserName>,
    key: Key,
}

impl Authenticated {
    /// Asks for the next certificate of a device that the login server knows.
    pub fn renew(
        root: NetworkRoot,
        device: &NodeKey,
        device_name: &str,
        binding: &ChannelBinding,
        held_revocation_list: u64,
        addresses: &[HostPort],
    ) -> (Self, LoginRequest) {
        let renew = v1::Renew {
            device: Some(device_proof(root.network_id(), device, device_name, binding)),
            held: Some(v1::Held { revocation_list_number: held_revocation_list }),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        };
        let expected = Self { root, device: device.clone(), user: None, key: Key::None };
        (expected, request(Kind::Renew(renew)))
    }

    /// Enrols a dedicated super node.
    pub fn enrol(
        root: NetworkRoot,
        device: &NodeKey,
        device_name: &str,
        binding: &ChannelBinding,
        token: &str,
        addresses: &[HostPort],
    ) -> (Self, LoginRequest) {
        let enrol = v1::EnrolSuperNode {
            token: token.to_owned(),
            device: Some(device_proof(root.network_id(), device, device_name, binding)),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        };
        let expected = Self { root, device: device.clone(), user: None, key: Key::None };
        (expected, request(Kind::EnrolSuperNode(enrol)))
    }

    /// Checks the session that the login server sent.
    pub fn complete(self, now: UnixTime, response: LoginResponse) -> Result<Session, ClientError> {
        let Answer::Session(session) = accepted(response)? else {
            return Err(ClientError::Protocol("no session"));
        };
        let certificate = Certificate::parse(&session.certificate)?;
        certificate.verify(&self.root, now, &RevocationList::empty(self.root.network_id()))?;
        let other_user = self.user.is_some() && self.user.as_ref() != certificate.user();
        if certificate.public_key() != self.device.public() || other_user {
            return Err(ClientError::Protocol("certificate of another device or user"));
        }
        let revocation_list = session
            .revocation_list
            .map(|signed| RevocationList::verify(&self.root, &signed))
            .transpose()
            .map_err(|_| ClientError::Protocol("revocation list not signed by the network"))?;
        let super_nodes = session.super_nodes.iter().take(BOOTSTRAP_MAX);
        let account_key = match self.key {
            Key::None => None,
            Key::Own(key) => Some(key),
            Key::Sealed(export_key) => Some(
                AccountKey::unwrap(&export_key, &session.sealed_account_key)
                    .map_err(|_| ClientError::SealedKey)?,
            ),
        };
        Ok(Session {
            certificate,
            revocation_list,
            // An address that we cannot read is one that we cannot use.
            super_nodes: super_nodes.filter_map(|text| text.parse().ok()).collect(),
            account_key,
            display_name: session.display_name,
        })
    }
}

/// What a login gives.
#[derive(Clone, Debug)]
pub struct Session {
    /// The device's certificate.
    pub certificate: Certificate,
    /// A newer list of removed devices than the one held; none if that is the newest.
    pub revocation_list: Option<RevocationList>,
    /// Super nodes to start from.
    pub super_nodes: Vec<HostPort>,
    /// Key of the sealed data; after a registration or a login with the password.
    pub account_key: Option<AccountKey>,
    /// The user's display name.
    pub display_name: String,
}

/// A change of password, between its two requests.
pub struct PasswordChange {
    stretching: Stretching,
    random: Random,
    password: Password,
    state: ClientRegistration<Suite>,
}

impl PasswordChange {
    /// Starts to set `password`, on a connection that a login with the old one authenticated.
    pub fn start(
        config: ClientConfig,
        seed: [u8; 32],
        password: &Password,
    ) -> (Self, LoginRequest) {
        let mut random = Random::new(seed);
        let password = password.clone();
        let (state, registration_request) = blind(&mut random, &password);
        let machine = Self { stretching: config.stretching, random, password, state };
        let start = v1::ChangePasswordStart { registration_request };
        (machine, request(Kind::ChangePasswordStart(start)))
    }

    /// Answers the challenge and seals the account key anew. Slow: stretches the password.
    pub fn finish(
        self,
        response: LoginResponse,
        account_key: &AccountKey,
    ) -> Result<LoginRequest, ClientError> {
        let Self { stretching, mut random, password, state } = self;
        let record = record(&mut random, &password, state, response, stretching)?;
        Ok(request(Kind::ChangePasswordFinish(v1::ChangePasswordFinish {
            registration_record: record.upload.into(),
            stretching: Some(stretching.into()),
            sealed_account_key: account_key.wrap(&record.export_key, nonce(&mut random)).into(),
        })))
    }
}

/// Signs the channel binding with the device key.
pub fn device_proof(
    network: NetworkId,
    device: &NodeKey,
    device_name: &str,
    binding: &ChannelBinding,
) -> v1::DeviceProof {
    v1::DeviceProof {
        public_key: device.public().0.to_vec().into(),
        signature: device.sign(&device_proof_bytes(network, binding)).to_vec().into(),
        device_name: device_name.to_owned(),
    }
}

pub(super) fn device_proof_bytes(network: NetworkId, binding: &ChannelBinding) -> Vec<u8> {
    [b"cooee device proof".as_slice(), &network.0, binding].concat()
}

struct Record {
    upload: Vec<u8>,
    export_key: Zeroizing<Vec<u8>>,
}

fn blind(random: &mut Random, password: &Password) -> (ClientRegistration<Suite>, bytes::Bytes) {
    let started = ClientRegistration::start(random, password.bytes())
        .expect("blinding fails only for a password that hashes to zero");
    (started.state, started.message.serialize().to_vec().into())
}

fn record(
    random: &mut Random,
    password: &Password,
    state: ClientRegistration<Suite>,
    response: LoginResponse,
    stretching: Stretching,
) -> Result<Record, ClientError> {
    let Answer::RegisterChallenge(challenge) = accepted(response)? else {
        return Err(ClientError::Protocol("no registration challenge"));
    };
    let response = RegistrationResponse::deserialize(&challenge.registration_response)
        .map_err(|_| ClientError::Protocol("malformed registration response"))?;
    let function = stretching.function().ok_or(ClientError::Stretching)?;
    let parameters = ClientRegistrationFinishParameters::new(Default::default(), Some(&function));
    let finished = state
        .finish(random, password.bytes(), response, parameters)
        .map_err(|_| ClientError::Protocol("OPAQUE failed"))?;
    let export_key = Zeroizing::new(finished.export_key.to_vec());
    Ok(Record { upload: finished.message.serialize().to_vec(), export_key })
}

fn nonce(random: &mut Random) -> [u8; 12] {
    let mut nonce = [0; 12];
    random.fill_bytes(&mut nonce);
    nonce
}

fn request(kind: Kind) -> LoginRequest {
    LoginRequest { kind: Some(kind) }
}

/// The answer, unless it is a refusal.
pub fn accepted(response: LoginResponse) -> Result<Answer, ClientError> {
    match response.kind {
        Some(Answer::Refused(refused)) => Err(Refusal::from(&refused).into()),
        Some(answer) => Ok(answer),
        None => Err(ClientError::Protocol("empty answer")),
    }
}

fn clock_wrong(offset_ms: i64) -> String {
    format!("the clock of this machine is {}: set it and try again", describe_offset(offset_ms))
}
