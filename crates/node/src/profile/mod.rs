//! The profile: everything that one node keeps on disk, in one directory with one lock.
//!
//! | file | what | mode |
//! | --- | --- | --- |
//! | `device.key` | the device's Ed25519 seed, hexadecimal | 0600 |
//! | `certificate.der` | what the network says about the device | |
//! | `invitation` | the network, one line | |
//! | `account.key` | opens what the login server keeps sealed for the user | 0600 |
//! | `revocation-list` | devices that the network took back | |
//! | `port` | the port drawn at installation | |
//! | `host-cache.json` | super nodes met, what was learnt of our NAT | |
//! | `lock` | held while a node runs on the profile | |
//!
//! Files are replaced atomically: after a crash at any moment the old or the new one is there,
//! whole.

mod atomic;
mod host_cache;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use cooee_proto::{
    identity::{Certificate, Invitation, NetworkRoot, NodeKey, RevocationList},
    login::AccountKey,
    wire::v1::SignedRevocationList,
};
use prost::Message as _;
use zeroize::Zeroizing;

pub use atomic::write_atomically;
pub use host_cache::{HostCacheFile, Restored};

/// Ports drawn at installation. Below lie the registered services, above what Linux lends to
/// outgoing connections by default.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Above what a login stores: certificate, invitation, key, list of removed devices.
const ROOM_BYTES: usize = 64 * 1024;

/// Why a profile cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The operating system refuses.
    #[error("{path}: {source}{}", way_out(.source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another node runs on it.
    #[error(
        "another node{} is running on the profile {path}: stop it, or use another profile \
         (--profile-dir)", process.map_or_else(String::new, |id| format!(" (process {id})"))
    )]
    InUse {
        /// The profile.
        path: PathBuf,
        /// Its process, if it said so.
        process: Option<u32>,
    },
    /// A file that cannot be made again is damaged.
    #[error("{path} is damaged: {what}; restore it from a backup, or remove it and log in again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// An open profile. The lock is given back when it is dropped.
#[derive(Debug)]
pub struct Profile {
    directory: PathBuf,
    _lock: File,
}

impl Profile {
    /// `COOEE_PROFILE_DIR`, else `$XDG_DATA_HOME/cooee/<name>`, else `~/.local/share/cooee/<name>`.
    /// `lookup` reads a variable.
    pub fn default_directory(
        name: &str,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Option<PathBuf> {
        let variable = |name: &str| lookup(name).filter(|value| !value.is_empty());
        if let Some(directory) = variable("COOEE_PROFILE_DIR") {
            return Some(directory.into());
        }
        let data = variable("XDG_DATA_HOME").map(PathBuf::from).or_else(|| {
            variable("HOME").map(|home| Path::new(&home).join(".local").join("share"))
        })?;
        Some(data.join("cooee").join(name))
    }

    /// Opens a profile, made if it is not there, and locks it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, ProfileError> {
        let directory = directory.into();
        create_private_directory(&directory).map_err(at(&directory))?;
        let path = directory.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let process = fs::read_to_string(&path).ok().and_then(|id| id.trim().parse().ok());
                return Err(ProfileError::InUse { path: directory, process });
            }
            Err(TryLockError::Error(source)) => return Err(ProfileError::Io { path, source }),
        }
        lock.set_len(0).map_err(at(&path))?;
        writeln!(lock, "{}", std::process::id()).map_err(at(&path))?;
        Ok(Self { directory, _lock: lock })
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a file in the profile.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Finds out whether what a login brings can be stored, before anybody is asked for it.
    pub fn check_room(&self) -> Result<(), ProfileError> {
        let path = self.path("room");
        let written = write_atomically(&path, &[0; ROOM_BYTES], true);
        let _ = fs::remove_file(&path);
        written.map_err(at(&path))
    }

    /// The device's key, drawn at the first call.
    pub fn device_key(&self) -> Result<NodeKey, ProfileError> {
        let path = self.path("device.key");
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => {
                restrict(&path).map_err(at(&path))?;
                let damaged = || ProfileError::Damaged {
                    path: path.clone(),
                    what: "it should hold 64 hexadecimal digits".into(),
                };
                seed_from_hex(text.trim()).map(|seed| NodeKey::from_seed(*seed)).ok_or_else(damaged)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut seed = Zeroizing::new([0; 32]);
                getrandom::fill(&mut *seed)
                    .map_err(|error| at(&path)(io::Error::other(error.to_string())))?;
                let text = Zeroizing::new(format!("{}\n", hex(&*seed)));
                write_atomically(&path, text.as_bytes(), true).map_err(at(&path))?;
                Ok(NodeKey::from_seed(*seed))
            }
            Err(source) => Err(ProfileError::Io { path, source }),
        }
    }

    /// The device's certificate, if it has logged in. A damaged one counts as none: the next login
    /// brings a new one.
    pub fn certificate(&self) -> Result<Option<Certificate>, ProfileError> {
        let path = self.path("certificate.der");
        match fs::read(&path) {
            Ok(der) => Ok(Certificate::parse(&der)
                .inspect_err(|error| tracing::warn!(?path, %error, "damaged certificate ignored"))
                .ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProfileError::Io { path, source }),
        }
    }

    /// Keeps a certificate.
    pub fn store_certificate(&self, certificate: &Certificate) -> Result<(), ProfileError> {
        let path = self.path("certificate.der");
        write_atomically(&path, certificate.der(), false).map_err(at(&path))
    }

    /// The invitation of the network, if one was accepted.
    pub fn invitation(&self) -> Result<Option<Invitation>, ProfileError> {
        let path = self.path("invitation");
        match fs::read_to_string(&path) {
            Ok(line) => match line.trim().parse() {
                Ok(invitation) => Ok(Some(invitation)),
                Err(error) => Err(ProfileError::Damaged { path, what: format!("{error}") }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProfileError::Io { path, source }),
        }
    }

    /// Keeps an invitation.
    pub fn store_invitation(&self, invitation: &Invitation) -> Result<(), ProfileError> {
        let path = self.path("invitation");
        write_atomically(&path, format!("{invitation}\n").as_bytes(), false).map_err(at(&path))
    }

    /// The list of removed devices as it was last seen; none if there is no usable one: the next is
    /// not far.
    pub fn revocation_list(&self, root: &NetworkRoot) -> Option<RevocationList> {
        let bytes = fs::read(self.path("revocation-list")).ok()?;
        let signed = SignedRevocationList::decode(bytes.as_slice()).ok()?;
        RevocationList::verify(root, &signed).ok()
    }

    /// Keeps a list of removed devices.
    pub fn store_revocation_list(&self, list: &RevocationList) -> Result<(), ProfileError> {
        let Some(signed) = list.signed() else { return Ok(()) };
        let path = self.path("revocation-list");
        write_atomically(&path, &signed.encode_to_vec(), false).map_err(at(&path))
    }

    /// The key of what the login server keeps sealed for the user; none before the first login
    /// with a password.
    pub fn account_key(&self) -> Result<Option<AccountKey>, ProfileError> {
        let path = self.path("account.key");
        match fs::read_to_string(&path).map(Zeroizing::new) {
            Ok(text) => {
                restrict(&path).map_err(at(&path))?;
                let seed = seed_from_hex(text.trim());
                if seed.is_none() {
                    tracing::warn!(?path, "damaged key ignored: log in again to have it back");
                }
                Ok(seed.map(|seed| AccountKey::from_bytes(*seed)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ProfileError::Io { path, source }),
        }
    }

    /// Keeps the key of the user's sealed data, readable by its owner only.
    pub fn store_account_key(&self, key: &AccountKey) -> Result<(), ProfileError> {
        let path = self.path("account.key");
        let text = Zeroizing::new(format!("{}\n", hex(key.bytes())));
        write_atomically(&path, text.as_bytes(), true).map_err(at(&path))
    }

    /// The port of this installation, drawn at the first call (as the paper's client does).
    pub fn port(&self) -> Result<u16, ProfileError> {
        let path = self.path("port");
        let stored = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
        if let Some(port) = stored.filter(|port: &u16| *port != 0) {
            return Ok(port);
        }
        let mut random = [0; 2];
        getrandom::fill(&mut random)
            .map_err(|error| at(&path)(io::Error::other(error.to_string())))?;
        let port = PORTS.start + u16::from_be_bytes(random) % (PORTS.end - PORTS.start);
        write_atomically(&path, format!("{port}\n").as_bytes(), false).map_err(at(&path))?;
        Ok(port)
    }

    /// The stored host cache.
    pub fn host_cache_file(&self) -> HostCacheFile {
        HostCacheFile::new(self.path("host-cache.json"))
    }
}

/// What to do about what the system says.
fn way_out(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space and try again, nothing was changed"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; use a directory that you can write to (--profile-dir)"
        }
        _ => "",
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> ProfileError + '_ {
    move |source| ProfileError::Io { path: path.into(), source }
}

fn create_private_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Takes a key away from everybody but its owner, whatever a copy or a restore made of it.
fn restrict(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
            tracing::warn!(?path, "others could read this key: access withdrawn");
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seed_from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut seed = Zeroizing::new([0; 32]);
    for (place, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[place * 2..place * 2 + 2], 16).ok()?;
    }
    Some(seed)
}

#[cfg(test)]
mod tests;
