//! What the operator does to the database, also while login servers run: policy, lists, counts.

use cooee_proto::{
    clock::UnixTime,
    identity::{NodeId, UserName},
    login::{Policy, StorageAnswer},
};
use sqlx::Row;

use super::{
    Storage, StorageError,
    devices::forget_devices,
    rows::{millis, parse_node, signed, unsigned},
};

/// A user as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserEntry {
    /// The name.
    pub name: UserName,
    /// Free text of the user.
    pub display_name: String,
    /// When the account was created.
    pub created_at: UnixTime,
    /// Devices that were not removed.
    pub devices: u64,
}

/// A device as the operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// The node it makes.
    pub node: NodeId,
    /// Its user; none for a dedicated super node.
    pub user: Option<UserName>,
    /// What its owner calls it.
    pub name: String,
    /// Addresses of a dedicated super node.
    pub addresses: String,
    /// End of its last certificate.
    pub certified_until: UnixTime,
    /// Whether it was taken back.
    pub removed: bool,
}

/// Counts for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Accounts that were not removed.
    pub users: u64,
    /// Devices that hold a running certificate.
    pub devices: u64,
    /// Dedicated super nodes that hold a running certificate.
    pub super_nodes: u64,
}

impl Storage {
    /// Sets what all login servers of the network follow from now on.
    pub async fn set_policy(&self, policy: &Policy) -> Result<(), StorageError> {
        let update = "UPDATE network SET registration = $1, newest_program_version = $2,
            oldest_program_version = $3 WHERE id = 1";
        sqlx::query(update)
            .bind(i64::from(i32::from(policy.registration)))
            .bind(signed(policy.newest_program_version))
            .bind(signed(policy.oldest_program_version))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The users from `after` on in the order of their names, at most `limit`.
    pub async fn users(
        &self,
        after: Option<&UserName>,
        limit: u32,
    ) -> Result<Vec<UserEntry>, StorageError> {
        let select = "SELECT name, display_name, created_at,
                (SELECT COUNT(*) FROM devices WHERE user_name = accounts.name AND removed_at = 0)
            FROM accounts WHERE name > $1 AND removed_at = 0 ORDER BY name LIMIT $2";
        let rows = sqlx::query(select)
            .bind(after.map_or("", UserName::as_str))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await?;
        let users = rows.into_iter().map(|row| {
            let name = row.get::<String, _>(0).parse();
            Ok(UserEntry {
                name: name.map_err(|_| StorageError::Illegal("user name"))?,
                display_name: row.get(1),
                created_at: UnixTime(unsigned(row.get(2))),
                devices: unsigned(row.get(3)),
            })
        });
        users.collect()
    }

    /// The devices of `user`, or the dedicated super nodes if none.
    pub async fn devices(&self, user: Option<&UserName>) -> Result<Vec<DeviceEntry>, StorageError> {
        let select = "SELECT node, name, addresses, certified_until, removed_at FROM devices
            WHERE user_name = $1 ORDER BY added_at";
        let rows = sqlx::query(select)
            .bind(user.map_or("", UserName::as_str))
            .fetch_all(&self.pool)
            .await?;
        let devices = rows.into_iter().map(|row| {
            Ok(DeviceEntry {
                node: parse_node(&row.get::<String, _>(0))?,
                user: user.cloned(),
                name: row.get(1),
                addresses: row.get(2),
                certified_until: UnixTime(unsigned(row.get(3))),
                removed: row.get::<i64, _>(4) != 0,
            })
        });
        devices.collect()
    }

    /// Takes a device back, whosoever it is. Says whether it was there.
    pub async fn take_back(&self, now: UnixTime, node: NodeId) -> Result<bool, StorageError> {
        Ok(self.remove_device(now, None, node).await? == StorageAnswer::Done)
    }

    /// Counts users and devices.
    pub async fn statistics(&self, now: UnixTime) -> Result<Statistics, StorageError> {
        let select = "SELECT (SELECT COUNT(*) FROM accounts WHERE removed_at = 0),
            (SELECT COUNT(*) FROM devices WHERE removed_at = 0 AND role = 0
                AND certified_until > $1),
            (SELECT COUNT(*) FROM devices WHERE removed_at = 0 AND role = 1
                AND certified_until > $2)";
        let row =
            sqlx::query(select).bind(millis(now)).bind(millis(now)).fetch_one(&self.pool).await?;
        Ok(Statistics {
            users: unsigned(row.get(0)),
            devices: unsigned(row.get(1)),
            super_nodes: unsigned(row.get(2)),
        })
    }

    /// Deletes what no longer matters: used and expired tokens, devices gone for over a year.
    pub async fn tidy(&self, now: UnixTime) -> Result<(), StorageError> {
        let mut transaction = self.begin().await?;
        sqlx::query("DELETE FROM tokens WHERE uses_left <= 0 OR expires_at < $1")
            .bind(millis(now))
            .execute(&mut *transaction)
            .await?;
        forget_devices(&mut transaction, now).await?;
        transaction.commit().await?;
        Ok(())
    }
}
