//! What can be wrong with a database, and what its operator does about it.

use cooee_proto::{identity::NetworkId, login::StorageFault};

/// Why the database could not be opened or did not answer. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Not a database URL.
    #[error("{0:?} is no database: use sqlite:PATH or postgres://USER@HOST/NAME")]
    Url(String),
    /// The database cannot be reached or opened.
    #[error("cannot open the database {url}: {source}\n{}", advice(.source))]
    Open {
        /// Where it is, without password.
        url: String,
        /// What the driver says.
        source: sqlx::Error,
    },
    /// The tables are of a newer program.
    #[error("the database has schema {0}, made by a newer version: update this program")]
    Newer(i64),
    /// The database belongs to another network.
    #[error("the database belongs to network {0}: use its network.key, or another database")]
    OtherNetwork(NetworkId),
    /// No room left.
    #[error("the disk of the database is full: free some space, nothing was changed")]
    Full,
    /// The file is damaged.
    #[error("the database is damaged ({0}): restore it from a backup; nothing was changed")]
    Corrupt(String),
    /// A row that this program cannot have written.
    #[error("the database holds an illegal {0}: restore it from a backup")]
    Illegal(&'static str),
    /// Anything else.
    #[error("the database failed: {0}")]
    Failed(sqlx::Error),
}

impl StorageError {
    pub(super) fn open(url: &str, source: sqlx::Error) -> Self {
        match Self::from(source) {
            Self::Failed(source) => Self::Open { url: without_password(url), source },
            other => other,
        }
    }

    pub(super) fn fault(&self) -> StorageFault {
        match self {
            Self::Full => StorageFault::Full,
            // A database that is being restarted comes back.
            Self::Failed(sqlx::Error::PoolTimedOut | sqlx::Error::Io(_)) => StorageFault::Busy,
            Self::Failed(error) if code(error).is_some_and(|c| BUSY.contains(&c.as_str())) => {
                StorageFault::Busy
            }
            _ => StorageFault::Broken,
        }
    }
}

/// SQLITE_FULL; PostgreSQL's disk_full.
const FULL: [&str; 2] = ["13", "53100"];
/// SQLITE_CORRUPT, SQLITE_NOTADB; PostgreSQL's data_corrupted, index_corrupted.
const CORRUPT: [&str; 4] = ["11", "26", "XX001", "XX002"];
/// SQLITE_BUSY; PostgreSQL's too_many_connections, deadlock_detected, serialization_failure,
/// admin_shutdown, cannot_connect_now.
const BUSY: [&str; 6] = ["5", "53300", "40P01", "40001", "57P01", "57P03"];

impl From<sqlx::Error> for StorageError {
    fn from(error: sqlx::Error) -> Self {
        match code(&error) {
            Some(code) if FULL.contains(&code.as_str()) => Self::Full,
            Some(code) if CORRUPT.contains(&code.as_str()) => Self::Corrupt(error.to_string()),
            _ => Self::Failed(error),
        }
    }
}

/// The driver's code; SQLite's extended codes are reduced to the primary one.
fn code(error: &sqlx::Error) -> Option<String> {
    let code = error.as_database_error()?.code()?.into_owned();
    match code.parse::<u32>() {
        Ok(number) if code.len() < 5 => Some((number & 0xff).to_string()),
        _ => Some(code),
    }
}

fn advice(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => "Is PostgreSQL running there?",
        sqlx::Error::Database(_) => "Check that its directory exists and can be written.",
        _ => "Check the address of the database.",
    }
}

fn without_password(url: &str) -> String {
    let hidden = url.split_once("://").and_then(|(scheme, rest)| {
        let (user, place) = rest.split_once('@')?;
        let user = user.split_once(':')?.0;
        Some(format!("{scheme}://{user}:…@{place}"))
    });
    hidden.unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_reach_the_log() {
        assert_eq!(without_password("postgres://a:b@c/d"), "postgres://a:…@c/d");
        assert_eq!(without_password("postgres://a@c/d"), "postgres://a@c/d");
        assert_eq!(without_password("sqlite:/x:y@z"), "sqlite:/x:y@z");
    }
}
