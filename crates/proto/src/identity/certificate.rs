//! Certificates: the network says that a device belongs to a user, for some days.
//!
//! X.509 version 3 (RFC 5280) signed with Ed25519 (RFC 8410), as small as TLS accepts: the issuer's
//! common name is the network id, the subject is empty, and one critical subjectAltName holds the
//! URIs `cooee:node/<hex>`, `cooee:user/<name>` (devices of users) and `cooee:role/<role>`.
//! There is no chain: the network root signs every certificate.

use std::{fmt, str::FromStr};

use ed25519_dalek::Signature;
use x509_cert::{
    builder::{Builder, CertificateBuilder, profile::BuilderProfile},
    certificate::{TbsCertificate, Version},
    der::{
        Decode, Encode, Header, Reader, SliceReader,
        asn1::{Ia5String, ObjectIdentifier},
    },
    ext::{
        Extension, ToExtension,
        pkix::{SubjectAltName, name::GeneralName},
    },
    name::Name,
    serial_number::SerialNumber,
    spki::{SubjectPublicKeyInfo, SubjectPublicKeyInfoRef},
    time::{Time, Validity},
};

use super::{
    NetworkId, NetworkKey, NetworkRoot, NodeId, NodePublicKey, RevocationList, UserName,
    UserNameError,
};
use crate::clock::UnixTime;

/// Longest certificate, in bytes of DER (chosen: three times the longest that is issued).
pub const CERTIFICATE_BYTES_MAX: usize = 1500;

const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const NODE_URI: &str = "cooee:node/";
const USER_URI: &str = "cooee:user/";
const ROLE_URI: &str = "cooee:role/";

/// What the operator of the network lets a node be, beyond being a device of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A dedicated super node, enrolled with a token of the operator.
    SuperNode,
    /// A login server of the network.
    LoginServer,
}

impl Role {
    const ALL: [Self; 2] = [Self::SuperNode, Self::LoginServer];

    fn word(self) -> &'static str {
        match self {
            Self::SuperNode => "super-node",
            Self::LoginServer => "login-server",
        }
    }
}

/// A set of [`Role`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// No role: the device of a user.
    pub const NONE: Self = Self(0);

    /// This set with `role` in it.
    #[must_use]
    pub fn with(self, role: Role) -> Self {
        Self(self.0 | 1 << role as u8)
    }

    /// Whether `role` is in the set.
    pub fn contains(self, role: Role) -> bool {
        self.0 & 1 << role as u8 != 0
    }

    /// The roles of the set, in a fixed order.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.contains(*role))
    }
}

/// What is wrong with a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not DER, or not a certificate of this form.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// The user name in it is not legal.
    #[error("malformed certificate: {0}")]
    UserName(#[from] UserNameError),
    /// Another network issued it.
    #[error("this certificate belongs to network {0}")]
    OtherNetwork(NetworkId),
    /// The signature does not fit.
    #[error("the certificate is not signed by the network")]
    Signature,
    /// Our clock is before its validity.
    #[error("the certificate is valid only from {valid_from} on, it is {now}: check the clock")]
    NotYetValid {
        /// Begin of validity.
        valid_from: UnixTime,
        /// Time of the check.
        now: UnixTime,
    },
    /// Our clock is after its validity.
    #[error("the certificate expired at {expired}, it is {now}: log in again or check the clock")]
    Expired {
        /// End of validity.
        expired: UnixTime,
        /// Time of the check.
        now: UnixTime,
    },
    /// The network took the device back.
    #[error("the device {0} was removed from the network")]
    Revoked(NodeId),
}

/// What the network is asked to certify.
#[derive(Clone, Debug)]
pub struct CertificateRequest {
    /// Key of the device.
    pub public_key: NodePublicKey,
    /// User that the device belongs to; none for a dedicated super node.
    pub user: Option<UserName>,
    /// Roles that the operator gives.
    pub roles: Roles,
    /// Random number; 63 bits of it are used.
    pub serial: u64,
    /// Begin of validity; counted in whole seconds.
    pub not_before: UnixTime,
    /// End of validity; counted in whole seconds.
    pub not_after: UnixTime,
}

/// A parsed certificate. Parsing checks the form; [`Certificate::verify`] checks the rest.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    network: NetworkId,
    public_key: NodePublicKey,
    user: Option<UserName>,
    roles: Roles,
    serial: u64,
    not_before: UnixTime,
    not_after: UnixTime,
    signature: [u8; 64],
}

impl Certificate {
    /// Issues a certificate. Fails if the key is no Ed25519 point or the validity is not in
    /// order or beyond the year 9999.
    pub fn issue(
        network: &NetworkKey,
        request: &CertificateRequest,
    ) -> Result<Self, CertificateError> {
        if request.public_key.x25519().is_none() {
            return Err(malformed("not an Ed25519 key"));
        }
        if request.not_after < request.not_before {
            return Err(malformed("ends before it begins"));
        }
        let der = build(network, request).map_err(malformed)?;
        Self::parse(&der)
    }

    /// Reads a certificate.
    pub fn parse(der: &[u8]) -> Result<Self, CertificateError> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return Err(malformed("too long"));
        }
        let outer = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let tbs = outer.tbs_certificate();
        if tbs.version() != Version::V3 {
            return Err(malformed("not version 3"));
        }
        let key_info = tbs.subject_public_key_info();
        let algorithms = [tbs.signature(), outer.signature_algorithm(), &key_info.algorithm];
        if algorithms.iter().any(|a| a.oid != ED25519_OID || a.parameters.is_some()) {
            return Err(malformed("not Ed25519"));
        }
        let public_key = key_info.subject_public_key.as_bytes().and_then(NodePublicKey::from_slice);
        let public_key = public_key.ok_or_else(|| malformed("key of wrong length"))?;
        let (user, roles) = read_names(tbs, public_key.node_id())?;
        let signature = outer.signature().as_bytes().and_then(|bytes| bytes.try_into().ok());
        Ok(Self {
            der: der.to_vec(),
            network: read_issuer(tbs)?,
            public_key,
            user,
            roles,
            serial: read_serial(tbs)?,
            not_before: unix_time(tbs.validity().not_before),
            not_after: unix_time(tbs.validity().not_after),
            signature: signature.ok_or_else(|| malformed("signature of wrong length"))?,
        })
    }

    /// Checks that `root` issued the certificate, that it is valid at `at`, and not taken back.
    pub fn verify(
        &self,
        root: &NetworkRoot,
        at: UnixTime,
        revoked: &RevocationList,
    ) -> Result<(), CertificateError> {
        if self.network != root.network_id() {
            return Err(CertificateError::OtherNetwork(self.network));
        }
        let signed = signed_part(&self.der).map_err(malformed)?;
        root.verify(signed, &self.signature).map_err(|_| CertificateError::Signature)?;
        if at < self.not_before {
            return Err(CertificateError::NotYetValid { valid_from: self.not_before, now: at });
        }
        if at > self.not_after {
            return Err(CertificateError::Expired { expired: self.not_after, now: at });
        }
        if revoked.contains(self.node()) {
            return Err(CertificateError::Revoked(self.node()));
        }
        Ok(())
    }

    /// The bytes as they cross the network.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The network that claims to have issued it.
    pub fn network(&self) -> NetworkId {
        self.network
    }

    /// The node that it names.
    pub fn node(&self) -> NodeId {
        self.public_key.node_id()
    }

    /// The user that the node belongs to; none for a dedicated super node or a login server.
    pub fn user(&self) -> Option<&UserName> {
        self.user.as_ref()
    }

    /// The device's key.
    pub fn public_key(&self) -> NodePublicKey {
        self.public_key
    }

    /// What the operator lets the node be.
    pub fn roles(&self) -> Roles {
        self.roles
    }

    /// The issuer's number for it.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// Begin of validity.
    pub fn not_before(&self) -> UnixTime {
        self.not_before
    }

    /// End of validity.
    pub fn not_after(&self) -> UnixTime {
        self.not_after
    }

    /// When to ask for the next one: after half of the life, so that an outage of the login server
    /// as long as the other half is not felt.
    pub fn renew_at(&self) -> UnixTime {
        let life = self.not_after.since(self.not_before);
        self.not_before.plus(life / 2)
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("network", &self.network)
            .field("node", &self.node())
            .field("user", &self.user)
            .field("roles", &self.roles)
            .field("serial", &self.serial)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn malformed(reason: impl ToString) -> CertificateError {
    CertificateError::Malformed(reason.to_string())
}

/// The bytes that the signature covers.
fn signed_part(der: &[u8]) -> x509_cert::der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    Header::decode(&mut reader)?;
    reader.tlv_bytes()
}

fn unix_time(time: Time) -> UnixTime {
    UnixTime::from_seconds(time.to_unix_duration().as_secs())
}

fn read_issuer(tbs: &TbsCertificate) -> Result<NetworkId, CertificateError> {
    let text = tbs.issuer().to_string();
    let id = text.strip_prefix("CN=").ok_or_else(|| malformed("issuer is no network"))?;
    id.parse().map_err(malformed)
}

fn read_serial(tbs: &TbsCertificate) -> Result<u64, CertificateError> {
    let bytes = tbs.serial_number().as_bytes();
    if bytes.len() > 8 {
        return Err(malformed("serial number above 64 bits"));
    }
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

fn read_names(
    tbs: &TbsCertificate,
    node: NodeId,
) -> Result<(Option<UserName>, Roles), CertificateError> {
    if tbs.extensions().map_or(0, |extensions| extensions.len()) != 1 {
        return Err(malformed("expected one extension"));
    }
    let names = tbs.get_extension::<SubjectAltName>().map_err(malformed)?;
    let (_, SubjectAltName(names)) = names.ok_or_else(|| malformed("no subjectAltName"))?;
    let (mut named_node, mut user, mut roles) = (None, None, Roles::NONE);
    for name in &names {
        let GeneralName::UniformResourceIdentifier(uri) = name else {
            return Err(malformed("a name that is no URI"));
        };
        let uri = uri.as_str();
        if let Some(hex) = uri.strip_prefix(NODE_URI) {
            let earlier = named_node.replace(hex.parse::<NodeId>().map_err(malformed)?);
            reject_second(earlier)?;
        } else if let Some(text) = uri.strip_prefix(USER_URI) {
            reject_second(user.replace(UserName::from_str(text)?))?;
        } else if let Some(word) = uri.strip_prefix(ROLE_URI) {
            // A role that a later version adds is none that this version grants.
            let role = Role::ALL.into_iter().find(|role| role.word() == word);
            roles = role.map_or(roles, |role| roles.with(role));
        } else {
            return Err(malformed("a URI that is no name of this network"));
        }
    }
    if named_node != Some(node) {
        return Err(malformed("the node is not the hash of the key"));
    }
    Ok((user, roles))
}

fn reject_second<T>(earlier: Option<T>) -> Result<(), CertificateError> {
    earlier.map_or(Ok(()), |_| Err(malformed("two names of one kind")))
}

/// Issuer and names of a certificate; the builder asks for nothing else.
struct Profile {
    issuer: Name,
    names: SubjectAltName,
}

impl BuilderProfile for Profile {
    fn get_issuer(&self, _subject: &Name) -> Name {
        self.issuer.clone()
    }

    fn get_subject(&self) -> Name {
        Name::default()
    }

    fn build_extensions(
        &self,
        _key: SubjectPublicKeyInfoRef<'_>,
        _issuer_key: SubjectPublicKeyInfoRef<'_>,
        tbs: &TbsCertificate,
    ) -> x509_cert::builder::Result<Vec<Extension>> {
        Ok(vec![self.names.clone().to_extension(tbs.subject(), &[])?])
    }
}

fn build(
    network: &NetworkKey,
    request: &CertificateRequest,
) -> Result<Vec<u8>, x509_cert::builder::Error> {
    let mut uris = vec![format!("{NODE_URI}{}", request.public_key.node_id())];
    uris.extend(request.user.iter().map(|user| format!("{USER_URI}{user}")));
    uris.extend(request.roles.iter().map(|role| format!("{ROLE_URI}{}", role.word())));
    let names = uris
        .iter()
        .map(|uri| Ia5String::new(uri).map(GeneralName::UniformResourceIdentifier))
        .collect::<Result<Vec<_>, _>>()?;
    let profile = Profile {
        issuer: Name::from_str(&format!("CN={}", network.root().network_id()))?,
        names: SubjectAltName(names),
    };
    // RFC 5280 4.1.2.2: positive.
    let serial = (request.serial >> 1).max(1);
    let validity = Validity::new(time(request.not_before)?, time(request.not_after)?);
    let key = ed25519_dalek::VerifyingKey::from_bytes(&request.public_key.0)?;
    let builder = CertificateBuilder::new(
        profile,
        SerialNumber::new(&serial.to_be_bytes())?,
        validity,
        SubjectPublicKeyInfo::from_key(&key)?,
    )?;
    Ok(builder.build::<_, Signature>(network.signing_key())?.to_der()?)
}

fn time(at: UnixTime) -> x509_cert::der::Result<Time> {
    let since_1970 = std::time::Duration::from_secs(at.seconds());
    x509_cert::der::DateTime::from_unix_duration(since_1970).map(Time::from)
}

#[cfg(test)]
mod tests;
