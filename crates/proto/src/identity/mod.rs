//! Who is who: networks, nodes, users, and the certificates that tie them together.
//!
//! A *network* is a root key; its login server holds it. A *device* is an Ed25519 key on a machine;
//! a *node* is a running device and is named by the hash of that key. The login server certifies
//! that a device belongs to a user (X.509, days long), and signs the list of devices it took back.

mod certificate;
mod identifier;
mod invitation;
mod key;
mod revocation;
mod user_name;

pub use certificate::{
    CERTIFICATE_BYTES_MAX, Certificate, CertificateError, CertificateRequest, Role, Roles,
};
pub use identifier::{IdentifierError, NameKey, NetworkId, NodeId};
pub use invitation::{
    HostPort, INVITATION_BYTES_MAX, Invitation, InvitationError, LOGIN_SERVERS_MAX, SUPER_NODES_MAX,
};
pub use key::{NetworkKey, NetworkRoot, NodeKey, NodePublicKey, SignatureError};
pub use revocation::{REVOKED_NODES_MAX, RevocationError, RevocationList};
pub use user_name::{USER_NAME_CHARACTERS_MAX, UserName, UserNameError};
