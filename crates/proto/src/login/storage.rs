//! What a login server asks of its database, as questions and answers.
//!
//! Every question is one transaction. The database enforces what must hold between several login
//! servers (unique names and skeletons, single use of codes and tokens, versions of sealed data)
//! and says so with a [`Refusal`].

use std::collections::BTreeSet;

use super::{Refusal, Stretching};
use crate::{
    clock::UnixTime,
    identity::{HostPort, NodeId, NodePublicKey, Role, UserName},
    wire::v1::RegistrationPolicy,
};

/// What the operator sets for all login servers of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Who may register.
    pub registration: RegistrationPolicy,
    /// Version of the program that is recommended.
    pub newest_program_version: u64,
    /// Oldest version of the program that is let in.
    pub oldest_program_version: u64,
}

/// A device to be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDevice {
    /// Its key.
    pub public_key: NodePublicKey,
    /// What its owner calls it.
    pub name: String,
    /// End of the certificate that it is about to get.
    pub certified_until: UnixTime,
}

/// An account to be created with its first device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// Its name.
    pub name: UserName,
    /// Free text.
    pub display_name: String,
    /// OPAQUE RegistrationRecord.
    pub registration_record: Vec<u8>,
    /// Cost of the key stretching.
    pub stretching: Stretching,
    /// The account key, sealed with the export key.
    pub sealed_account_key: Vec<u8>,
    /// Invitation code, used up where the policy asks for one.
    pub code: String,
    /// The first device.
    pub device: NewDevice,
}

/// What the login of an account needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRecord {
    /// OPAQUE RegistrationRecord.
    pub registration_record: Vec<u8>,
    /// Cost of the key stretching.
    pub stretching: Stretching,
    /// The account key, sealed with the export key.
    pub sealed_account_key: Vec<u8>,
}

/// What a session tells a certified device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRecord {
    /// User of the device; none for a dedicated super node.
    pub user: Option<UserName>,
    /// Role of the device.
    pub role: Option<Role>,
    /// Display name of the user.
    pub display_name: String,
    /// Number of the revocation list; 0 if no device was ever removed.
    pub revocation_number: u64,
    /// When the list last changed.
    pub revocation_changed_at: UnixTime,
    /// Removed devices with certificates still running; the longest running if too many.
    pub revoked: BTreeSet<NodeId>,
    /// Addresses of dedicated super nodes whose certificates run.
    pub super_nodes: Vec<HostPort>,
}

/// A device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// The node it makes.
    pub node: NodeId,
    /// What its owner calls it.
    pub name: String,
    /// When it first logged in.
    pub added_at: UnixTime,
    /// End of its last certificate.
    pub certified_until: UnixTime,
}

/// Data that a user sealed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedRecord {
    /// Counts the changes; 0 if nothing was ever put.
    pub version: u64,
    /// The sealed bytes.
    pub data: Vec<u8>,
}

/// A user that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    /// The user name.
    pub name: UserName,
    /// Free text.
    pub display_name: String,
}

/// A question to the database. Those that change something are durable once answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Fields are named after the records above.
pub enum StorageRequest {
    /// → [`StorageAnswer::Policy`].
    Policy,
    /// May this name be registered now? → `Done` or a refusal.
    CheckName { name: UserName, code: String },
    /// → `Session` or a refusal.
    CreateAccount { now: UnixTime, account: Box<NewAccount> },
    /// → `Account`.
    FindAccount { name: UserName },
    /// A device logs in with the password. → `Session` or a refusal.
    AddDevice { now: UnixTime, user: UserName, device: NewDevice },
    /// A known device asks for its next certificate. → `Session` or a refusal.
    RenewDevice { now: UnixTime, device: NewDevice, addresses: Vec<HostPort> },
    /// → `Session` or a refusal.
    EnrolSuperNode { now: UnixTime, token: String, device: NewDevice, addresses: Vec<HostPort> },
    /// → `Done`.
    ReplacePassword { user: UserName, record: AccountRecord },
    /// → `Done`.
    RemoveAccount { now: UnixTime, user: UserName },
    /// Remove a device of `user`, or any device if `user` is none. → `Done` or a refusal.
    RemoveDevice { now: UnixTime, user: Option<UserName>, node: NodeId },
    /// → `Devices`.
    ListDevices { user: UserName },
    /// → `Users`. `prefix`: the pattern ended with `*`.
    LookUpUser { text: String, prefix: bool },
    /// → `Done`.
    SetProfile { user: UserName, display_name: String, hidden: bool },
    /// → `SealedVersion` or a refusal.
    PutSealed { user: UserName, slot: u32, replaces_version: u64, data: Vec<u8> },
    /// → `Sealed`.
    GetSealed { user: UserName, slot: u32 },
    /// Is there a user of this name? → `Exists`, or a refusal if the asking device was removed.
    UserExists { name: UserName, asker: NodeId },
    /// → `Session` with no user: revocation list and super nodes.
    Network { now: UnixTime },
}

/// An answer of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // One for each kind of question.
pub enum StorageAnswer {
    Done,
    Refused(Refusal),
    Policy(Policy),
    Account(Option<AccountRecord>),
    Session(Box<SessionRecord>),
    Devices(Vec<DeviceRecord>),
    Users(Vec<FoundUser>),
    SealedVersion(u64),
    Sealed(SealedRecord),
    Exists(bool),
}

/// Why the database gave no answer. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// No room left.
    Full,
    /// Damaged, gone, or refusing.
    Broken,
    /// Overloaded: try again.
    Busy,
}
