//! The login server's database: SQLite in a file, or PostgreSQL shared by several login servers.
//!
//! One SQL text serves both. What must hold between several servers is enforced by the database
//! itself: unique names and skeletons by constraints, single use of tokens and versions of sealed
//! data by conditional updates inside one transaction. An answered change is durable: PostgreSQL
//! flushes its log at commit, SQLite runs with WAL and `synchronous=FULL`.
//!
//! Who uses whom: `accounts` and `operator` use `devices`; these and `sealed` use `sessions`,
//! `tokens` and `rows`, which use none of them.

mod accounts;
mod devices;
mod error;
mod operator;
mod rows;
mod schema;
mod sealed;
mod sessions;
mod tokens;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use cooee_proto::{
    identity::NetworkId,
    login::{StorageAnswer, StorageFault, StorageRequest},
};
use sqlx::{
    Any, AnyConnection, AnyPool, Connection, SqlSafeStr, Transaction,
    any::{AnyPoolOptions, install_default_drivers},
};

pub use error::StorageError;
pub use operator::{DeviceEntry, Statistics, UserEntry};
pub use tokens::{TokenEntry, TokenKind};

/// Connections to the database at once (chosen: PostgreSQL allows 100 to all its clients).
const CONNECTIONS_MAX: u32 = 16;

/// A device that did not renew for so long must log in with the password again.
const DEVICE_FORGOTTEN_AFTER: Duration = Duration::from_secs(90 * 86_400);

/// An open database.
#[derive(Clone, Debug)]
pub struct Storage {
    pool: AnyPool,
    backend: Backend,
    /// Whether the last request failed.
    failing: Arc<AtomicBool>,
    /// So many connections are to be tried before they are used.
    suspects: Arc<AtomicU32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Sqlite,
    Postgres,
}

impl Storage {
    /// Opens the database at `url` (`sqlite:PATH` or `postgres://…`), creating or migrating its
    /// tables. Refuses a database that belongs to another network.
    pub async fn open(url: &str, network: NetworkId) -> Result<Self, StorageError> {
        install_default_drivers();
        let backend = Backend::of(url)?;
        let url = match backend {
            Backend::Sqlite if !url.contains('?') => format!("{url}?mode=rwc"),
            _ => url.to_owned(),
        };
        let suspects = Arc::new(AtomicU32::new(0));
        let mut options = AnyPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(Duration::from_secs(10));
        if backend == Backend::Sqlite {
            let suspects = suspects.clone();
            options = options
                .after_connect(|connection, _| Box::pin(set_pragmas(connection)))
                .before_acquire(move |connection, _| {
                    let is_suspect = take_one(&suspects);
                    Box::pin(async move { Ok(!is_suspect || begins(connection).await) })
                });
        }
        // A pool hides why it cannot connect; one connection of its own tells.
        let probe = async {
            let mut connection = AnyConnection::connect(&url).await?;
            if backend == Backend::Sqlite {
                set_pragmas(&mut connection).await?;
            }
            connection.close().await
        };
        probe.await.map_err(|error| StorageError::open(&url, error))?;
        let pool = options.connect(&url).await.map_err(|e| StorageError::open(&url, e))?;
        let storage = Self { pool, backend, failing: Arc::default(), suspects };
        storage.migrate().await?;
        storage.claim(network).await?;
        Ok(storage)
    }

    /// Answers a question of the login protocol.
    pub async fn perform(&self, request: StorageRequest) -> Result<StorageAnswer, StorageFault> {
        let answer = self.answer(request).await;
        if answer.is_err() {
            self.suspects.store(CONNECTIONS_MAX, Ordering::Relaxed);
        }
        let was_failing = self.failing.swap(answer.is_err(), Ordering::Relaxed);
        match &answer {
            // Once, however many requests fail meanwhile.
            Err(error) if !was_failing => {
                tracing::error!(%error, "the database does not answer; clients are told to wait");
            }
            Err(error) => tracing::debug!(%error, "the database does not answer"),
            Ok(_) if was_failing => tracing::warn!("the database answers again"),
            Ok(_) => {}
        }
        answer.map_err(|error| error.fault())
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<(), StorageError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Looks at every page of a SQLite file: damage is found before it is served or spreads. Takes
    /// about a second a gigabyte. PostgreSQL has checksums of its own.
    pub async fn check_whole(&self) -> Result<(), StorageError> {
        if self.backend == Backend::Sqlite {
            let found: String =
                sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&self.pool).await?;
            if found != "ok" {
                return Err(StorageError::Corrupt(found));
            }
        }
        Ok(())
    }

    /// Ends all connections, after what is under way.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    async fn answer(&self, request: StorageRequest) -> Result<StorageAnswer, StorageError> {
        use StorageRequest as Q;
        match request {
            Q::Policy => Ok(StorageAnswer::Policy(self.policy().await?)),
            Q::CheckName { name, code } => self.check_name(&name, &code).await,
            Q::CreateAccount { now, account } => self.create_account(now, &account).await,
            Q::FindAccount { name } => self.find_account(&name).await,
            Q::AddDevice { now, user, device } => self.add_device(now, &user, &device).await,
            Q::RenewDevice { now, device, addresses } => {
                self.renew_device(now, &device, &addresses).await
            }
            Q::EnrolSuperNode { now, token, device, addresses } => {
                self.enrol_super_node(now, &token, &device, &addresses).await
            }
            Q::ReplacePassword { user, record } => self.replace_password(&user, &record).await,
            Q::RemoveAccount { now, user } => {
                self.remove_account(now, &user).await.map(|_| StorageAnswer::Done)
            }
            Q::RemoveDevice { now, user, node } => {
                self.remove_device(now, user.as_ref(), node).await
            }
            Q::ListDevices { user } => self.list_devices(&user).await,
            Q::LookUpUser { text, prefix } => self.look_up(&text, prefix).await,
            Q::SetProfile { user, display_name, hidden } => {
                self.set_profile(&user, &display_name, hidden).await
            }
            Q::PutSealed { user, slot, replaces_version, data } => {
                self.put_sealed(&user, slot, replaces_version, &data).await
            }
            Q::GetSealed { user, slot } => self.get_sealed(&user, slot).await,
            Q::UserExists { name, asker } => self.user_exists(&name, asker).await,
            Q::Network { now } => {
                let mut connection = self.pool.acquire().await?;
                self.network_record(&mut connection, now).await
            }
        }
    }

    /// A transaction that will write; SQLite takes the write lock at once, so that it cannot fail
    /// later for having read before.
    async fn begin(&self) -> Result<Transaction<'static, Any>, StorageError> {
        Ok(match self.backend {
            Backend::Sqlite => self.pool.begin_with("BEGIN IMMEDIATE".into_sql_str()).await?,
            Backend::Postgres => self.pool.begin().await?,
        })
    }
}

/// WAL and FULL: a commit is on the disk when it is answered. 10 s: as the pool's own patience.
const SQLITE_PRAGMAS: [&str; 4] = [
    "PRAGMA busy_timeout = 10000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
];

fn take_one(count: &AtomicU32) -> bool {
    let taken =
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
    taken.is_ok()
}

/// Whether a transaction can begin. SQLite ends one by itself when the disk is full; the driver
/// does not notice and its connection is of no more use.
async fn begins(connection: &mut AnyConnection) -> bool {
    // Only with words of our own: the driver would take a plain one for a savepoint.
    match connection.begin_with("BEGIN".into_sql_str()).await {
        Ok(transaction) => transaction.rollback().await.is_ok(),
        Err(_) => false,
    }
}

async fn set_pragmas(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    for pragma in SQLITE_PRAGMAS {
        sqlx::raw_sql(pragma).execute(&mut *connection).await?;
    }
    Ok(())
}

impl Backend {
    fn of(url: &str) -> Result<Self, StorageError> {
        match url.split_once(':') {
            Some(("sqlite", _)) => Ok(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            _ => Err(StorageError::Url(url.to_owned())),
        }
    }
}
