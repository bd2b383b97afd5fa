//! Sealed slots: bytes that only the user can read, with a version against lost updates.

use cooee_proto::{
    identity::UserName,
    login::{Refusal, SealedRecord, StorageAnswer},
};
use sqlx::Row;

use super::{
    Storage, StorageError,
    rows::{signed, unsigned},
};

impl Storage {
    pub(super) async fn put_sealed(
        &self,
        user: &UserName,
        slot: u32,
        replaces_version: u64,
        data: &[u8],
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        let select = "SELECT 1 FROM accounts WHERE name = $1 AND removed_at = 0";
        let account = sqlx::query(select).bind(user.as_str()).fetch_optional(&mut *transaction);
        if account.await?.is_none() {
            return Ok(StorageAnswer::Refused(Refusal::DeviceUnknown));
        }
        let statement = if replaces_version == 0 {
            "INSERT INTO sealed (data, user_name, slot, version) VALUES ($1, $2, $3, $4 + 1)
                ON CONFLICT DO NOTHING"
        } else {
            "UPDATE sealed SET data = $1, version = version + 1
                WHERE user_name = $2 AND slot = $3 AND version = $4"
        };
        let done = sqlx::query(statement)
            .bind(data)
            .bind(user.as_str())
            .bind(i64::from(slot))
            .bind(signed(replaces_version))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(match done.rows_affected() {
            0 => StorageAnswer::Refused(Refusal::VersionConflict),
            _ => StorageAnswer::SealedVersion(replaces_version + 1),
        })
    }

    pub(super) async fn get_sealed(
        &self,
        user: &UserName,
        slot: u32,
    ) -> Result<StorageAnswer, StorageError> {
        let select = "SELECT version, data FROM sealed WHERE user_name = $1 AND slot = $2";
        let row = sqlx::query(select)
            .bind(user.as_str())
            .bind(i64::from(slot))
            .fetch_optional(&self.pool)
            .await?;
        let record =
            row.map(|row| SealedRecord { version: unsigned(row.get(0)), data: row.get(1) });
        Ok(StorageAnswer::Sealed(record.unwrap_or_default()))
    }
}
