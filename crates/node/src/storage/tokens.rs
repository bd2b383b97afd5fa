//! Tokens: what opens a registration or the enrolment of a super node, so many times.

use cooee_proto::clock::UnixTime;
use sha2::{Digest, Sha256};
use sqlx::AnyConnection;

use super::{
    Storage, StorageError,
    rows::{millis, signed},
};

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// One or more registrations.
    InvitationCode = 0,
    /// The enrolment of a dedicated super node.
    SuperNode = 1,
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenEntry {
    /// What it is good for.
    pub kind: TokenKind,
    /// What the operator noted.
    pub note: String,
    /// How often it can still be used.
    pub uses_left: u64,
    /// When it ends.
    pub expires_at: UnixTime,
}

impl Storage {
    /// Makes `secret` a token. The secret itself is not kept.
    pub async fn add_token(
        &self,
        now: UnixTime,
        secret: &str,
        entry: &TokenEntry,
    ) -> Result<(), StorageError> {
        let insert = "INSERT INTO tokens (hash, kind, note, uses_left, expires_at, created_at)
            VALUES ($1, $2, $3, $4, $5, $6)";
        sqlx::query(insert)
            .bind(token_hash(secret))
            .bind(entry.kind as i64)
            .bind(entry.note.as_str())
            .bind(signed(entry.uses_left))
            .bind(millis(entry.expires_at))
            .bind(millis(now))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

/// Uses a token once, if it is good. Part of the transaction of what it is used for.
pub(super) async fn spend_token(
    connection: &mut AnyConnection,
    now: UnixTime,
    kind: TokenKind,
    secret: &str,
) -> Result<bool, StorageError> {
    let update = "UPDATE tokens SET uses_left = uses_left - 1
        WHERE hash = $1 AND kind = $2 AND uses_left > 0 AND expires_at > $3";
    let done = sqlx::query(update)
        .bind(token_hash(secret))
        .bind(kind as i64)
        .bind(millis(now))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Codes and tokens are kept as hashes: a copy of the database opens no door.
fn token_hash(token: &str) -> String {
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}
