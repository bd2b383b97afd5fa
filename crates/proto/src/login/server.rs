//! The login server's side of one connection.
//!
//! ```text
//! request ──▶ Respond                        (refused, or answered from memory)
//!         └─▶ Store ── answer ──▶ Respond    (one question to the database for each request)
//! ```
//!
//! A connection starts unauthenticated; LoginFinish (password), Renew (device key), RegisterFinish
//! and EnrolSuperNode authenticate it. What a thief of a device must not do needs the password.

mod session;

use std::{net::IpAddr, sync::Arc, time::Duration};

use opaque_ke::{
    CredentialFinalization, CredentialRequest, RegistrationRequest, RegistrationUpload,
    ServerLogin, ServerLoginParameters, ServerRegistration,
};

use super::{
    ChannelBinding, LABEL_BYTES_MAX, LOGIN_PROTOCOL_VERSION, Limits, NewAccount, NewDevice,
    Refusal, SEALED_BYTES_MAX, SEALED_SLOTS_MAX, ServerSecret, StorageAnswer, StorageFault,
    StorageRequest, Stretching,
    client::device_proof_bytes,
    opaque::{Random, Suite, context, credential_identifier},
    storage::AccountRecord,
};
use crate::{
    clock::Now,
    identity::{
        Certificate, HostPort, NetworkKey, NodeId, NodePublicKey, RevocationList, UserName,
    },
    wire::v1::{self, LoginRequest, LoginResponse, login_request::Kind, login_response},
};

/// Longest sealed account key, in bytes (nonce, key and tag are 60).
const SEALED_ACCOUNT_KEY_BYTES_MAX: usize = 128;

/// What all connections of a login server share.
#[derive(Debug)]
pub struct ServerConfig {
    /// The network's root key.
    pub key: NetworkKey,
    /// The network's OPAQUE secret.
    pub secret: ServerSecret,
    /// How long a certificate lasts. Nodes renew after half of it, so an outage of half of it
    /// stops nobody.
    pub certificate_life: Duration,
}

impl ServerConfig {
    /// Seven days, so that a device outlives an outage of three and a half (chosen: 72 h at least).
    pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);

    /// The usual configuration of the network that `key` makes.
    pub fn new(key: NetworkKey) -> Self {
        let secret = ServerSecret::derive(&key);
        Self { key, secret, certificate_life: Self::CERTIFICATE_LIFE }
    }
}

/// What the shell does next for a connection.
#[derive(Debug)]
pub enum Step {
    /// Send this and read the next request.
    Respond(LoginResponse),
    /// Ask the database and hand its answer to [`ServerConnection::handle_stored`].
    Store(StorageRequest),
}

/// Who is at the other end.
#[derive(Clone, Debug)]
struct Peer {
    node: NodeId,
    user: Option<UserName>,
    by_password: bool,
}

/// What lies between two requests of one exchange.
enum Flow {
    None,
    Registering { name: UserName, code: String },
    LoggingIn { name: UserName, state: Box<ServerLogin<Suite>>, account: Option<AccountRecord> },
    ChangingPassword,
}

/// Which answer of the database is awaited, and what for.
enum Awaited {
    Nothing,
    Hello { program_version: u64 },
    NameCheck { name: UserName, code: String, request: RegistrationRequest<Suite> },
    Account { name: UserName, request: CredentialRequest<Suite> },
    Session { device: NewDevice, by_password: bool, held: u64, sealed_account_key: Vec<u8> },
    RevocationList { held: u64 },
    Sealed { slot: u32, held: u64 },
    SealedVersion { slot: u32 },
    Plain,
}

/// One connection.
pub struct ServerConnection {
    config: Arc<ServerConfig>,
    binding: ChannelBinding,
    address: IpAddr,
    random: Random,
    greeted: bool,
    peer: Option<Peer>,
    flow: Flow,
    awaited: Awaited,
}

impl ServerConnection {
    /// A new connection from `address`, bound to its TLS session, with randomness from `seed`.
    pub fn new(
        config: Arc<ServerConfig>,
        binding: ChannelBinding,
        address: IpAddr,
        seed: [u8; 32],
    ) -> Self {
        let random = Random::new(seed);
        let (flow, awaited) = (Flow::None, Awaited::Nothing);
        Self { config, binding, address, random, greeted: false, peer: None, flow, awaited }
    }

    /// The user that the connection belongs to, once authenticated.
    pub fn user(&self) -> Option<&UserName> {
        self.peer.as_ref()?.user.as_ref()
    }

    /// Takes the next request. Only after the previous one was answered.
    pub fn handle_request(&mut self, now: Now, request: LoginRequest, limits: &mut Limits) -> Step {
        let step = self.dispatch(now, request, limits);
        step.unwrap_or_else(|refusal| {
            self.flow = Flow::None;
            Step::Respond(refusal.response())
        })
    }

    /// Takes the answer of the database to the last [`Step::Store`].
    pub fn handle_stored(
        &mut self,
        now: Now,
        answer: Result<StorageAnswer, StorageFault>,
    ) -> LoginResponse {
        let awaited = std::mem::replace(&mut self.awaited, Awaited::Nothing);
        let response = match answer {
            Ok(StorageAnswer::Refused(refusal)) => Err(refusal),
            Ok(answer) => self.answer(now, awaited, answer),
            Err(StorageFault::Full) => Err(Refusal::StorageFull),
            Err(StorageFault::Broken) => Err(Refusal::StorageFault),
            Err(StorageFault::Busy) => Err(Refusal::Busy(Duration::from_secs(1))),
        };
        response.unwrap_or_else(|refusal| {
            self.flow = Flow::None;
            refusal.response()
        })
    }

    fn dispatch(
        &mut self,
        now: Now,
        request: LoginRequest,
        limits: &mut Limits,
    ) -> Result<Step, Refusal> {
        let kind = request.kind.ok_or(Refusal::BadRequest)?;
        if let Kind::Hello(hello) = kind {
            return self.hello(&hello);
        }
        if !self.greeted {
            return Err(Refusal::BadRequest);
        }
        let flow = std::mem::replace(&mut self.flow, Flow::None);
        match kind {
            Kind::RegisterStart(start) => {
                self.allow(now, limits)?;
                self.register_start(start)
            }
            Kind::RegisterFinish(finish) => self.register_finish(now, flow, finish),
            Kind::LoginStart(start) => {
                self.allow(now, limits)?;
                self.login_start(now, &start, limits)
            }
            Kind::LoginFinish(finish) => self.login_finish(now, flow, finish, limits),
            Kind::Renew(renew) => self.renew(now, renew),
            Kind::EnrolSuperNode(enrol) => {
                self.allow(now, limits)?;
                self.enrol(now, enrol)
            }
            Kind::LookUpUser(look_up) => {
                self.allow(now, limits)?;
                self.look_up(&look_up.pattern)
            }
            Kind::UserExists(question) => self.user_exists(now, &question, limits),
            Kind::ChangePasswordStart(start) => self.change_password_start(&start),
            Kind::ChangePasswordFinish(finish) => self.change_password_finish(&flow, finish),
            Kind::GetRevocationList(get) => {
                self.awaited = Awaited::RevocationList { held: held(get.held) };
                Ok(Step::Store(StorageRequest::Network { now: now.unix }))
            }
            other => self.manage(now, other),
        }
    }

    /// Requests that need no more than a known user.
    fn manage(&mut self, now: Now, kind: Kind) -> Result<Step, Refusal> {
        let now = now.unix;
        self.awaited = Awaited::Plain;
        let request = match kind {
            Kind::RemoveAccount(_) => {
                StorageRequest::RemoveAccount { now, user: self.password_user()? }
            }
            Kind::RemoveDevice(remove) => {
                let node = NodeId::from_slice(&remove.node).ok_or(Refusal::BadRequest)?;
                let own = self.peer.as_ref().is_some_and(|peer| peer.node == node);
                let user = if own { self.any_user()? } else { self.password_user()? };
                StorageRequest::RemoveDevice { now, user: Some(user), node }
            }
            Kind::ListDevices(_) => StorageRequest::ListDevices { user: self.any_user()? },
            Kind::SetProfile(set) => StorageRequest::SetProfile {
                user: self.any_user()?,
                display_name: label(set.display_name)?,
                hidden: set.hidden,
            },
            Kind::PutSealed(put) => {
                if put.slot >= SEALED_SLOTS_MAX || put.data.len() > SEALED_BYTES_MAX {
                    return Err(Refusal::BadRequest);
                }
                let user = self.any_user()?;
                self.awaited = Awaited::SealedVersion { slot: put.slot };
                let (slot, replaces_version) = (put.slot, put.replaces_version);
                StorageRequest::PutSealed { user, slot, replaces_version, data: put.data.into() }
            }
            Kind::GetSealed(get) => {
                let user = self.any_user()?;
                self.awaited = Awaited::Sealed { slot: get.slot, held: get.held_version };
                StorageRequest::GetSealed { user, slot: get.slot }
            }
            _ => return Err(Refusal::BadRequest),
        };
        Ok(Step::Store(request))
    }

    fn hello(&mut self, hello: &v1::LoginHello) -> Result<Step, Refusal> {
        if hello.version != LOGIN_PROTOCOL_VERSION || self.greeted {
            return Err(Refusal::BadRequest);
        }
        self.awaited = Awaited::Hello { program_version: hello.program_version };
        Ok(Step::Store(StorageRequest::Policy))
    }

    fn allow(&self, now: Now, limits: &mut Limits) -> Result<(), Refusal> {
        limits.attempt_from(now.instant, self.address).map_err(Refusal::RateLimited)
    }

    fn register_start(&mut self, start: v1::RegisterStart) -> Result<Step, Refusal> {
        let name: UserName = start.user_name.parse().map_err(|_| Refusal::NameIllegal)?;
        let request = RegistrationRequest::deserialize(&start.registration_request)
            .map_err(|_| Refusal::BadRequest)?;
        let code = label(start.code)?;
        self.awaited = Awaited::NameCheck { name: name.clone(), code: code.clone(), request };
        Ok(Step::Store(StorageRequest::CheckName { name, code }))
    }

    fn register_finish(
        &mut self,
        now: Now,
        flow: Flow,
        finish: v1::RegisterFinish,
    ) -> Result<Step, Refusal> {
        let Flow::Registering { name, code } = flow else { return Err(Refusal::BadRequest) };
        let stretching = finish.stretching.map(Stretching::from).ok_or(Refusal::BadRequest)?;
        let record = account_record(
            &finish.registration_record,
            stretching,
            finish.sealed_account_key.to_vec(),
        )?;
        let device = self.device(now, finish.device)?;
        self.awaited = Awaited::Session {
            device: device.clone(),
            by_password: true,
            held: 0,
            sealed_account_key: Vec::new(),
        };
        let account = Box::new(NewAccount {
            name,
            display_name: label(finish.display_name)?,
            registration_record: record.registration_record,
            stretching: record.stretching,
            sealed_account_key: record.sealed_account_key,
            code,
            device,
        });
        Ok(Step::Store(StorageRequest::CreateAccount { now: now.unix, account }))
    }

    fn login_start(
        &mut self,
        now: Now,
        start: &v1::LoginStart,
        limits: &mut Limits,
    ) -> Result<Step, Refusal> {
        // A name that cannot exist is answered as one that does not.
        let name: UserName = start.user_name.parse().map_err(|_| Refusal::WrongPassword)?;
        let request =
            CredentialRequest::deserialize(&start.ke1).map_err(|_| Refusal::BadRequest)?;
        limits.attempt_on(now.instant, &name).map_err(Refusal::RateLimited)?;
        self.awaited = Awaited::Account { name: name.clone(), request };
        Ok(Step::Store(StorageRequest::FindAccount { name }))
    }

    fn login_finish(
        &mut self,
        now: Now,
        flow: Flow,
        finish: v1::LoginFinish,
        limits: &mut Limits,
    ) -> Result<Step, Refusal> {
        let Flow::LoggingIn { name, state, account } = flow else {
            return Err(Refusal::BadRequest);
        };
        let ke3 =
            CredentialFinalization::deserialize(&finish.ke3).map_err(|_| Refusal::BadRequest)?;
        let context = context(self.config.key.root().network_id(), &self.binding);
        let parameters = ServerLoginParameters { context: Some(&context), ..Default::default() };
        state.finish(ke3, parameters).map_err(|_| Refusal::WrongPassword)?;
        let account = account.ok_or(Refusal::WrongPassword)?;
        limits.succeeded_on(&name);
        let device = self.device(now, finish.device)?;
        self.awaited = Awaited::Session {
            device: device.clone(),
            by_password: true,
            held: held(finish.held),
            sealed_account_key: account.sealed_account_key,
        };
        Ok(Step::Store(StorageRequest::AddDevice { now: now.unix, user: name, device }))
    }

    fn renew(&mut self, now: Now, renew: v1::Renew) -> Result<Step, Refusal> {
        let device = self.device(now, renew.device)?;
        let addresses = addresses(&renew.addresses)?;
        self.awaited = Awaited::Session {
            device: device.clone(),
            by_password: false,
            held: held(renew.held),
            sealed_account_key: Vec::new(),
        };
        Ok(Step::Store(StorageRequest::RenewDevice { now: now.unix, device, addresses }))
    }

    fn enrol(&mut self, now: Now, enrol: v1::EnrolSuperNode) -> Result<Step, Refusal> {
        let device = self.device(now, enrol.device)?;
        let (token, addresses) = (label(enrol.token)?, addresses(&enrol.addresses)?);
        self.awaited = Awaited::Session {
            device: device.clone(),
            by_password: false,
            held: 0,
            sealed_account_key: Vec::new(),
        };
        let now = now.unix;
        Ok(Step::Store(StorageRequest::EnrolSuperNode { now, token, device, addresses }))
    }

    fn look_up(&mut self, pattern: &str) -> Result<Step, Refusal> {
        if self.peer.is_none() {
            return Err(Refusal::NotAuthenticated);
        }
        let pattern = label(pattern.to_ascii_lowercase())?;
        let (text, prefix) =
            pattern.strip_suffix('*').map_or((pattern.as_str(), false), |text| (text, true));
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if text.is_empty() || !text.chars().all(legal) {
            return Err(Refusal::NameIllegal);
        }
        self.awaited = Awaited::Plain;
        Ok(Step::Store(StorageRequest::LookUpUser { text: text.into(), prefix }))
    }

    /// A whole name, asked by a certified device: nothing to walk through, and each user is allowed
    /// so many.
    fn user_exists(
        &mut self,
        now: Now,
        question: &v1::UserExists,
        limits: &mut Limits,
    ) -> Result<Step, Refusal> {
        let name: UserName = question.user_name.parse().map_err(|_| Refusal::NameIllegal)?;
        let asker = Certificate::parse(&question.certificate).map_err(|_| Refusal::BadRequest)?;
        let root = self.config.key.root();
        let nothing_removed = RevocationList::empty(root.network_id());
        asker.verify(&root, now.unix, &nothing_removed).map_err(|_| Refusal::DeviceUnknown)?;
        let proof = question.device.as_ref().ok_or(Refusal::BadRequest)?;
        let signed = device_proof_bytes(root.network_id(), &self.binding);
        if asker.public_key().0[..] != proof.public_key[..]
            || asker.public_key().verify(&signed, &proof.signature).is_err()
        {
            return Err(Refusal::NotAuthenticated);
        }
        let user = asker.user().ok_or(Refusal::NotAuthenticated)?;
        limits.question_by(now.instant, user).map_err(Refusal::RateLimited)?;
        self.awaited = Awaited::Plain;
        Ok(Step::Store(StorageRequest::UserExists { name, asker: asker.node() }))
    }

    fn change_password_start(&mut self, start: &v1::ChangePasswordStart) -> Result<Step, Refusal> {
        let user = self.password_user()?;
        let request = RegistrationRequest::deserialize(&start.registration_request)
            .map_err(|_| Refusal::BadRequest)?;
        let response = self.registration_response(&user, request)?;
        self.flow = Flow::ChangingPassword;
        Ok(Step::Respond(response))
    }

    fn change_password_finish(
        &mut self,
        flow: &Flow,
        finish: v1::ChangePasswordFinish,
    ) -> Result<Step, Refusal> {
        let user = self.password_user()?;
        if !matches!(flow, Flow::ChangingPassword) {
            return Err(Refusal::BadRequest);
        }
        let stretching = finish.stretching.map(Stretching::from).ok_or(Refusal::BadRequest)?;
        let sealed = finish.sealed_account_key.to_vec();
        let record = account_record(&finish.registration_record, stretching, sealed)?;
        self.awaited = Awaited::Plain;
        Ok(Step::Store(StorageRequest::ReplacePassword { user, record }))
    }

    fn registration_response(
        &self,
        name: &UserName,
        request: RegistrationRequest<Suite>,
    ) -> Result<LoginResponse, Refusal> {
        let secret = &self.config.secret.0;
        let started = ServerRegistration::start(secret, request, credential_identifier(name))
            .map_err(|_| Refusal::BadRequest)?;
        let registration_response = started.message.serialize().to_vec().into();
        Ok(respond(login_response::Kind::RegisterChallenge(v1::RegisterChallenge {
            registration_response,
        })))
    }

    /// Checks the proof of a device and says until when it will be certified.
    fn device(&self, now: Now, proof: Option<v1::DeviceProof>) -> Result<NewDevice, Refusal> {
        let proof = proof.ok_or(Refusal::BadRequest)?;
        let key = NodePublicKey::from_slice(&proof.public_key).ok_or(Refusal::BadRequest)?;
        let network = self.config.key.root().network_id();
        key.verify(&device_proof_bytes(network, &self.binding), &proof.signature)
            .map_err(|_| Refusal::BadRequest)?;
        key.x25519().ok_or(Refusal::BadRequest)?;
        let certified_until = now.unix.plus(self.config.certificate_life);
        Ok(NewDevice { public_key: key, name: label(proof.device_name)?, certified_until })
    }

    fn any_user(&self) -> Result<UserName, Refusal> {
        let peer = self.peer.as_ref().ok_or(Refusal::NotAuthenticated)?;
        peer.user.clone().ok_or(Refusal::NotAuthenticated)
    }

    fn password_user(&self) -> Result<UserName, Refusal> {
        let peer = self.peer.as_ref().filter(|peer| peer.by_password);
        peer.and_then(|peer| peer.user.clone()).ok_or(Refusal::NotAuthenticated)
    }
}

fn respond(kind: login_response::Kind) -> LoginResponse {
    LoginResponse { kind: Some(kind) }
}

fn held(held: Option<v1::Held>) -> u64 {
    held.map_or(0, |held| held.revocation_list_number)
}

fn label(text: String) -> Result<String, Refusal> {
    let printable = !text.chars().any(char::is_control);
    (text.len() <= LABEL_BYTES_MAX && printable).then_some(text).ok_or(Refusal::BadRequest)
}

fn addresses(texts: &[String]) -> Result<Vec<HostPort>, Refusal> {
    if texts.len() > super::ADDRESSES_MAX {
        return Err(Refusal::BadRequest);
    }
    texts.iter().map(|text| text.parse().map_err(|_| Refusal::BadRequest)).collect()
}

fn account_record(
    registration_record: &[u8],
    stretching: Stretching,
    sealed_account_key: Vec<u8>,
) -> Result<AccountRecord, Refusal> {
    let upload = RegistrationUpload::<Suite>::deserialize(registration_record)
        .map_err(|_| Refusal::BadRequest)?;
    let registration_record = ServerRegistration::finish(upload).serialize().to_vec();
    let bounded = sealed_account_key.len() <= SEALED_ACCOUNT_KEY_BYTES_MAX;
    if !bounded || stretching.function().is_none() {
        return Err(Refusal::BadRequest);
    }
    Ok(AccountRecord { registration_record, stretching, sealed_account_key })
}
