//! Answers of the database become answers of the protocol: challenges, certificates, lists.

use opaque_ke::{ServerLogin, ServerLoginParameters, ServerRegistration};

use super::{Awaited, Flow, Peer, ServerConnection, respond};
use crate::{
    clock::{Now, UnixTime},
    identity::{Certificate, CertificateRequest, RevocationList, Roles, UserName},
    login::{
        CLOCK_OFFSET_MS_MAX, NewDevice, Policy, Refusal, StorageAnswer, Stretching,
        opaque::{Suite, context, credential_identifier},
        storage::{AccountRecord, SessionRecord},
    },
    wire::v1::{
        self, LoginResponse, ProgramVersionStatus, SignedRevocationList, login_response::Kind,
    },
};

impl ServerConnection {
    pub(super) fn answer(
        &mut self,
        now: Now,
        awaited: Awaited,
        answer: StorageAnswer,
    ) -> Result<LoginResponse, Refusal> {
        let kind = match (awaited, answer) {
            (Awaited::Hello { program_version }, StorageAnswer::Policy(policy)) => {
                self.welcome(now, program_version, &policy)
            }
            (Awaited::NameCheck { name, code, request }, StorageAnswer::Done) => {
                let response = self.registration_response(&name, request)?;
                self.flow = Flow::Registering { name, code };
                return Ok(response);
            }
            (Awaited::Account { name, request }, StorageAnswer::Account(account)) => {
                self.challenge(name, request, account)?
            }
            (
                Awaited::Session { device, by_password, held, sealed_account_key },
                StorageAnswer::Session(record),
            ) => self.session(now, &device, by_password, held, sealed_account_key, *record)?,
            (Awaited::RevocationList { held }, StorageAnswer::Session(record)) => {
                let list = self.revocation_list(held, &record)?;
                Kind::RevocationList(list.unwrap_or_default())
            }
            (Awaited::Sealed { slot, held }, StorageAnswer::Sealed(record)) => {
                let data = if record.version == held { Vec::new() } else { record.data };
                Kind::Sealed(v1::Sealed { slot, version: record.version, data: data.into() })
            }
            (Awaited::SealedVersion { slot }, StorageAnswer::SealedVersion(version)) => {
                Kind::Sealed(v1::Sealed { slot, version, data: Default::default() })
            }
            (Awaited::Plain, StorageAnswer::Done) => Kind::Done(v1::Done {}),
            (Awaited::Plain, StorageAnswer::Devices(devices)) => {
                let devices = devices.into_iter().map(|device| v1::Device {
                    node: device.node.0.to_vec().into(),
                    name: device.name,
                    added_at_ms: device.added_at.0,
                    certified_until_ms: device.certified_until.0,
                });
                Kind::Devices(v1::DeviceList { devices: devices.collect() })
            }
            (Awaited::Plain, StorageAnswer::Users(users)) => {
                let users = users.into_iter().map(|user| v1::FoundUser {
                    user_name: user.name.to_string(),
                    display_name: user.display_name,
                });
                Kind::Users(v1::UserList { users: users.collect() })
            }
            (Awaited::Plain, StorageAnswer::Exists(exists)) => {
                Kind::UserExistence(v1::UserExistence { exists })
            }
            // The shell answered another question than the one that was asked.
            _ => return Err(Refusal::StorageFault),
        };
        Ok(respond(kind))
    }

    fn welcome(&mut self, now: Now, program_version: u64, policy: &Policy) -> Kind {
        let status = if program_version < policy.oldest_program_version {
            ProgramVersionStatus::ProgramVersionTooOld
        } else if program_version < policy.newest_program_version {
            ProgramVersionStatus::ProgramVersionUpdateAvailable
        } else {
            ProgramVersionStatus::ProgramVersionUpToDate
        };
        self.greeted = status != ProgramVersionStatus::ProgramVersionTooOld;
        Kind::Welcome(v1::LoginWelcome {
            now_ms: now.unix.0,
            program_version: status.into(),
            newest_program_version: policy.newest_program_version,
            registration: policy.registration.into(),
        })
    }

    /// The same for a user that does not exist (RFC 9807, 10.9): OPAQUE makes up a record.
    fn challenge(
        &mut self,
        name: UserName,
        request: opaque_ke::CredentialRequest<Suite>,
        account: Option<AccountRecord>,
    ) -> Result<Kind, Refusal> {
        let record = account
            .as_ref()
            .map(|account| ServerRegistration::<Suite>::deserialize(&account.registration_record));
        let record = record.transpose().map_err(|_| Refusal::StorageFault)?;
        let context = context(self.config.key.root().network_id(), &self.binding);
        let parameters = ServerLoginParameters { context: Some(&context), ..Default::default() };
        let started = ServerLogin::start(
            &mut self.random,
            &self.config.secret.0,
            record,
            request,
            credential_identifier(&name),
            parameters,
        );
        let started = started.map_err(|_| Refusal::BadRequest)?;
        let stretching = account.as_ref().map_or(Stretching::default(), |a| a.stretching);
        let state = Box::new(started.state);
        self.flow = Flow::LoggingIn { name, state, account };
        Ok(Kind::LoginChallenge(v1::LoginChallenge {
            ke2: started.message.serialize().to_vec().into(),
            stretching: Some(stretching.into()),
        }))
    }

    fn session(
        &mut self,
        now: Now,
        device: &NewDevice,
        by_password: bool,
        held: u64,
        sealed_account_key: Vec<u8>,
        record: SessionRecord,
    ) -> Result<Kind, Refusal> {
        let certificate = self.certify(now.unix, device, &record)?;
        let revocation_list = self.revocation_list(held, &record)?;
        let node = device.public_key.node_id();
        self.peer = Some(Peer { node, user: record.user, by_password });
        Ok(Kind::Session(v1::LoginSession {
            certificate: certificate.der().to_vec().into(),
            revocation_list,
            super_nodes: record.super_nodes.iter().map(ToString::to_string).collect(),
            sealed_account_key: sealed_account_key.into(),
            display_name: record.display_name,
        }))
    }

    fn certify(
        &mut self,
        now: UnixTime,
        device: &NewDevice,
        record: &SessionRecord,
    ) -> Result<Certificate, Refusal> {
        let roles = record.role.map_or(Roles::NONE, |role| Roles::NONE.with(role));
        let request = CertificateRequest {
            public_key: device.public_key,
            user: record.user.clone(),
            roles,
            serial: opaque_ke::rand::RngCore::next_u64(&mut self.random),
            not_before: UnixTime(now.0.saturating_sub(CLOCK_OFFSET_MS_MAX)),
            not_after: device.certified_until,
        };
        Certificate::issue(&self.config.key, &request).map_err(|_| Refusal::BadRequest)
    }

    fn revocation_list(
        &self,
        held: u64,
        record: &SessionRecord,
    ) -> Result<Option<SignedRevocationList>, Refusal> {
        if record.revocation_number <= held {
            return Ok(None);
        }
        let (number, changed_at) = (record.revocation_number, record.revocation_changed_at);
        let nodes = record.revoked.clone();
        let list = RevocationList::issue(&self.config.key, number, changed_at, nodes)
            .map_err(|_| Refusal::StorageFault)?;
        Ok(list.signed().cloned())
    }
}
