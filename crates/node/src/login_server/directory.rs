//! Where a login server lives on disk: the network's root key and the operator's configuration.
//!
//! `network.key` (mode 0600) is all that makes the network: whoever copies it can issue
//! certificates. `login-server.toml` is plain configuration. Several login servers of a network
//! have the same `network.key` and the same PostgreSQL database.

use std::{
    fs, io,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use cooee_proto::identity::{
    HostPort, Invitation, InvitationError, LOGIN_SERVERS_MAX, NetworkKey, SUPER_NODES_MAX,
};
use serde::{Deserialize, Serialize};

use super::{LoginServerOptions, random_seed};
use crate::storage::{Storage, StorageError};

const KEY_FILE: &str = "network.key";
const CONFIGURATION_FILE: &str = "login-server.toml";
const DATABASE_FILE: &str = "database.sqlite";

/// Why the directory of a login server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is a network already.
    #[error("{0} holds a network already: run it, or choose another directory with --dir")]
    Exists(PathBuf),
    /// There is no network yet.
    #[error("there is no network in {0}: make one with 'cooee login-server init'")]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file does not hold a key.
    #[error("{0} is damaged: restore it from a backup")]
    Key(PathBuf),
    /// The configuration cannot be understood; the message names line and key.
    #[error("{path} is not a valid configuration:\n{message}")]
    Configuration {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An address is not host:port.
    #[error(transparent)]
    Address(#[from] InvitationError),
    /// The database.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What `login-server.toml` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectoryConfig {
    /// What people call the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// Under which host:port others reach the login servers; goes into invitations.
    #[serde(default)]
    pub advertise: Vec<String>,
    /// `sqlite:PATH` or `postgres://…`; a file in the directory if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Where to answer metrics and health, if anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_listen: Option<SocketAddr>,
}

/// The directory of a login server.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    key: NetworkKey,
    /// What `login-server.toml` holds.
    pub config: DirectoryConfig,
}

impl Directory {
    /// Makes a network: a new root key and the configuration. Refuses where there is one.
    pub fn create(path: &Path, config: DirectoryConfig) -> Result<Self, DirectoryError> {
        fs::create_dir_all(path).map_err(|source| file_error(path, source))?;
        let key = NetworkKey::from_seed(random_seed());
        let directory = Self { path: path.to_owned(), key, config };
        directory.addresses()?;
        let text =
            toml::to_string_pretty(&directory.config).expect("the configuration has a TOML form");
        // The key last and never over another: with it, the network exists.
        let key_path = path.join(KEY_FILE);
        if key_path.exists() {
            return Err(DirectoryError::Exists(path.to_owned()));
        }
        write_new(&path.join(CONFIGURATION_FILE), text.as_bytes(), 0o644, true)?;
        write_new(&key_path, directory.key.seed().as_slice(), 0o600, false)?;
        Ok(directory)
    }

    /// Opens the directory of an existing network.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let key_path = path.join(KEY_FILE);
        let seed = match fs::read(&key_path) {
            Ok(bytes) => zeroize::Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DirectoryError::Missing(path.to_owned()));
            }
            Err(source) => return Err(file_error(&key_path, source)),
        };
        let seed = seed.as_slice().try_into().map_err(|_| DirectoryError::Key(key_path))?;
        let configuration_path = path.join(CONFIGURATION_FILE);
        let text = fs::read_to_string(&configuration_path)
            .map_err(|source| file_error(&configuration_path, source))?;
        let config = toml::from_str(&text).map_err(|error| DirectoryError::Configuration {
            path: configuration_path,
            message: error.to_string(),
        })?;
        Ok(Self { path: path.to_owned(), key: NetworkKey::from_seed(seed), config })
    }

    /// The network's root key.
    pub fn key(&self) -> &NetworkKey {
        &self.key
    }

    /// Where the database is.
    pub fn database(&self) -> String {
        let file = || format!("sqlite:{}", self.path.join(DATABASE_FILE).display());
        self.config.database.clone().unwrap_or_else(file)
    }

    /// What the server is started with.
    pub fn options(&self) -> LoginServerOptions {
        let mut options = LoginServerOptions::new(self.config.listen.clone(), self.database());
        options.metrics_listen = self.config.metrics_listen;
        options
    }

    /// Opens the database, next to servers that may be running.
    pub async fn storage(&self) -> Result<Storage, DirectoryError> {
        Ok(Storage::open(&self.database(), self.key.root().network_id()).await?)
    }

    /// The invitation to this network, with the super nodes to start from.
    pub fn invitation(
        &self,
        super_nodes: Vec<HostPort>,
        code: Option<String>,
    ) -> Result<Invitation, DirectoryError> {
        let mut invitation = Invitation::new(self.key.root());
        invitation.login_servers = self.addresses()?;
        invitation.super_nodes = super_nodes.into_iter().take(SUPER_NODES_MAX).collect();
        invitation.name = self.config.name.clone();
        invitation.code = code;
        Ok(invitation)
    }

    fn addresses(&self) -> Result<Vec<HostPort>, DirectoryError> {
        let addresses = self.config.advertise.iter().take(LOGIN_SERVERS_MAX);
        Ok(addresses.map(|text| text.parse()).collect::<Result<_, _>>()?)
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32, replace: bool) -> Result<(), DirectoryError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).mode(mode);
    let options =
        if replace { options.create(true).truncate(true) } else { options.create_new(true) };
    let written = options.open(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> DirectoryError {
    DirectoryError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn config() -> DirectoryConfig {
        DirectoryConfig {
            name: Some("Example".into()),
            listen: vec!["127.0.0.1:33033".parse().unwrap()],
            advertise: vec!["login.example:33033".into()],
            database: None,
            metrics_listen: None,
        }
    }

    #[test]
    fn a_network_is_made_once_and_opened_again() {
        let place = tempfile::tempdir().unwrap();
        let made = Directory::create(place.path(), config()).unwrap();
        let opened = Directory::open(place.path()).unwrap();
        assert_eq!(opened.key().root(), made.key().root());
        assert_eq!(opened.config, config());
        let mode = fs::metadata(place.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Directory::create(place.path(), config());
        assert!(matches!(again, Err(DirectoryError::Exists(_))));
        let invitation = opened.invitation(Vec::new(), None).unwrap().to_string();
        assert!(invitation.ends_with("?name=Example&login=login.example:33033"), "{invitation}");
    }

    #[test]
    fn what_is_wrong_with_a_directory_is_said() {
        let place = tempfile::tempdir().unwrap();
        assert!(matches!(Directory::open(place.path()), Err(DirectoryError::Missing(_))));
        let mut bad = config();
        bad.advertise = vec!["nowhere".into()];
        let made = Directory::create(place.path(), bad);
        assert!(matches!(made, Err(DirectoryError::Address(_))));
        Directory::create(place.path(), config()).unwrap();
        fs::write(place.path().join(CONFIGURATION_FILE), "listn = 5").unwrap();
        let error = Directory::open(place.path()).unwrap_err().to_string();
        assert!(error.contains("line 1"), "{error}");
        fs::write(place.path().join(KEY_FILE), "short").unwrap();
        assert!(matches!(Directory::open(place.path()), Err(DirectoryError::Key(_))));
    }
}
