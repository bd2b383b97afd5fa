//! Tables and their migrations. A released migration is never changed, only followed by another.

use cooee_proto::identity::NetworkId;
use sqlx::{AssertSqlSafe, Row};

use super::{Backend, Storage, StorageError};

/// `{bytes}` and `{text}` differ: names compare byte by byte in both databases.
const MIGRATIONS: [&[&str]; 1] = [&[
    "CREATE TABLE network (
        id BIGINT PRIMARY KEY CHECK (id = 1),
        network_id {text} NOT NULL,
        registration BIGINT NOT NULL,
        newest_program_version BIGINT NOT NULL,
        oldest_program_version BIGINT NOT NULL,
        revocation_number BIGINT NOT NULL,
        revocation_changed_at BIGINT NOT NULL
    )",
    // A removed account keeps its name, so that nobody can take it over.
    "CREATE TABLE accounts (
        name {text} PRIMARY KEY,
        skeleton {text} NOT NULL UNIQUE,
        display_name {text} NOT NULL,
        hidden BIGINT NOT NULL,
        registration_record {bytes} NOT NULL,
        memory_kib BIGINT NOT NULL,
        passes BIGINT NOT NULL,
        lanes BIGINT NOT NULL,
        sealed_account_key {bytes} NOT NULL,
        created_at BIGINT NOT NULL,
        removed_at BIGINT NOT NULL
    )",
    // user_name is '' and role 1 for a dedicated super node.
    "CREATE TABLE devices (
        node {text} PRIMARY KEY,
        user_name {text} NOT NULL,
        role BIGINT NOT NULL,
        name {text} NOT NULL,
        addresses {text} NOT NULL,
        added_at BIGINT NOT NULL,
        certified_until BIGINT NOT NULL,
        removed_at BIGINT NOT NULL
    )",
    "CREATE INDEX devices_by_user ON devices (user_name)",
    "CREATE INDEX devices_by_state ON devices (role, removed_at, certified_until)",
    "CREATE TABLE sealed (
        user_name {text} NOT NULL,
        slot BIGINT NOT NULL,
        version BIGINT NOT NULL,
        data {bytes} NOT NULL,
        PRIMARY KEY (user_name, slot)
    )",
    // kind 0: invitation code, 1: enrolment of a super node.
    "CREATE TABLE tokens (
        hash {text} PRIMARY KEY,
        kind BIGINT NOT NULL,
        note {text} NOT NULL,
        uses_left BIGINT NOT NULL,
        expires_at BIGINT NOT NULL,
        created_at BIGINT NOT NULL
    )",
]];

/// Any number that no other program takes as its advisory lock: "cooee" in ASCII.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(426969196901)";

impl Storage {
    /// Brings the tables up to date, in one transaction; other servers wait for it.
    pub(super) async fn migrate(&self) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        if self.backend == Backend::Postgres {
            sqlx::query(MIGRATION_LOCK).execute(&mut *transaction).await?;
        }
        let create = "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)";
        sqlx::query(create).execute(&mut *transaction).await?;
        let found = sqlx::query("SELECT COALESCE(MAX(version), 0) FROM schema_version")
            .fetch_one(&mut *transaction)
            .await?
            .get::<i64, _>(0);
        let done = usize::try_from(found).map_err(|_| StorageError::Illegal("schema version"))?;
        if done > MIGRATIONS.len() {
            return Err(StorageError::Newer(found));
        }
        let (bytes, text) = match self.backend {
            Backend::Sqlite => ("BLOB", "TEXT"),
            Backend::Postgres => ("BYTEA", "TEXT COLLATE \"C\""),
        };
        for (version, statements) in (1_i64..).zip(MIGRATIONS).skip(done) {
            for statement in statements {
                let sql = statement.replace("{bytes}", bytes).replace("{text}", text);
                sqlx::query(AssertSqlSafe(sql)).execute(&mut *transaction).await?;
            }
            let insert = "INSERT INTO schema_version (version) VALUES ($1)";
            sqlx::query(insert).bind(version).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// Makes the database that of `network`, or finds that it is another's.
    pub(super) async fn claim(&self, network: NetworkId) -> Result<(), StorageError> {
        let insert = "INSERT INTO network VALUES (1, $1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING";
        sqlx::query(insert).bind(network.to_string()).execute(&self.pool).await?;
        let owner = sqlx::query("SELECT network_id FROM network WHERE id = 1")
            .fetch_one(&self.pool)
            .await?
            .get::<String, _>(0);
        let owner: NetworkId = owner.parse().map_err(|_| StorageError::Illegal("network id"))?;
        if owner != network {
            return Err(StorageError::OtherNetwork(owner));
        }
        Ok(())
    }
}
