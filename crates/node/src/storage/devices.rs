//! Devices: which keys belong to whom, until when they are certified, and which were taken back.

use cooee_proto::{
    clock::UnixTime,
    identity::{HostPort, NodeId, Role, UserName},
    login::{DEVICES_MAX, DeviceRecord, NewDevice, Refusal, StorageAnswer},
};
use sqlx::{AnyConnection, Row};

use super::{
    DEVICE_FORGOTTEN_AFTER, Storage, StorageError,
    rows::{SUPER_NODE, done_or_unknown, millis, parse_node, signed, unsigned},
    tokens::{TokenKind, spend_token},
};

impl Storage {
    pub(super) async fn add_device(
        &self,
        now: UnixTime,
        user: &UserName,
        device: &NewDevice,
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        // Changes nothing but locks the row: the account cannot go, nor gain devices, meanwhile.
        let lock = "UPDATE accounts SET hidden = hidden WHERE name = $1 AND removed_at = 0";
        let found = sqlx::query(lock).bind(user.as_str()).execute(&mut *transaction).await?;
        if found.rows_affected() == 0 {
            return Ok(StorageAnswer::Refused(Refusal::WrongPassword));
        }
        if let Some(refusal) = self.insert_device(&mut transaction, now, Some(user), device).await?
        {
            return Ok(StorageAnswer::Refused(refusal));
        }
        let answer = self.session(&mut transaction, now, Some(user), None).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    pub(super) async fn renew_device(
        &self,
        now: UnixTime,
        device: &NewDevice,
        addresses: &[HostPort],
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        let node = device.public_key.node_id();
        let Some(known) = find_device(&mut transaction, node).await? else {
            return Ok(StorageAnswer::Refused(Refusal::DeviceUnknown));
        };
        if known.removed {
            return Ok(StorageAnswer::Refused(Refusal::DeviceRemoved));
        }
        if known.certified_until.plus(DEVICE_FORGOTTEN_AFTER) < now {
            return Ok(StorageAnswer::Refused(Refusal::DeviceUnknown));
        }
        let update = "UPDATE devices SET certified_until = $1,
                addresses = CASE WHEN $2 = '' THEN addresses ELSE $3 END
            WHERE node = $4 AND removed_at = 0";
        let addresses = if known.role == SUPER_NODE { join(addresses) } else { String::new() };
        sqlx::query(update)
            .bind(millis(device.certified_until))
            .bind(addresses.clone())
            .bind(addresses)
            .bind(node.to_string())
            .execute(&mut *transaction)
            .await?;
        let role = (known.role == SUPER_NODE).then_some(Role::SuperNode);
        let answer = self.session(&mut transaction, now, known.user.as_ref(), role).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    pub(super) async fn enrol_super_node(
        &self,
        now: UnixTime,
        token: &str,
        device: &NewDevice,
        addresses: &[HostPort],
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        if !spend_token(&mut transaction, now, TokenKind::SuperNode, token).await? {
            return Ok(StorageAnswer::Refused(Refusal::TokenWrong));
        }
        if let Some(refusal) = self.insert_device(&mut transaction, now, None, device).await? {
            return Ok(StorageAnswer::Refused(refusal));
        }
        let update = "UPDATE devices SET role = $1, addresses = $2 WHERE node = $3";
        sqlx::query(update)
            .bind(SUPER_NODE)
            .bind(join(addresses))
            .bind(device.public_key.node_id().to_string())
            .execute(&mut *transaction)
            .await?;
        let answer = self.session(&mut transaction, now, None, Some(Role::SuperNode)).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    /// Adds a device or finds it again; says why not otherwise.
    pub(super) async fn insert_device(
        &self,
        connection: &mut AnyConnection,
        now: UnixTime,
        user: Option<&UserName>,
        device: &NewDevice,
    ) -> Result<Option<Refusal>, StorageError> {
        let node = device.public_key.node_id();
        if let Some(known) = find_device(connection, node).await? {
            if known.user.as_ref() != user {
                return Ok(Some(Refusal::DeviceOfAnother));
            }
            if known.removed {
                return Ok(Some(Refusal::DeviceRemoved));
            }
        } else if let Some(user) = user
            && count_devices(connection, now, user).await? >= DEVICES_MAX
        {
            return Ok(Some(Refusal::TooManyDevices));
        }
        let insert = "INSERT INTO devices (node, user_name, role, name, addresses, added_at,
                certified_until, removed_at) VALUES ($1, $2, 0, $3, '', $4, $5, 0)
            ON CONFLICT (node) DO UPDATE SET name = excluded.name,
                certified_until = excluded.certified_until
            WHERE devices.user_name = excluded.user_name AND devices.removed_at = 0";
        let done = sqlx::query(insert)
            .bind(node.to_string())
            .bind(user.map_or("", UserName::as_str))
            .bind(device.name.as_str())
            .bind(millis(now))
            .bind(millis(device.certified_until))
            .execute(connection)
            .await?;
        // Nothing: another login server was faster with the same key.
        Ok((done.rows_affected() == 0).then_some(Refusal::DeviceOfAnother))
    }

    /// Removes an account and all its devices; its name stays taken. Says whether it existed.
    pub async fn remove_account(
        &self,
        now: UnixTime,
        user: &UserName,
    ) -> Result<bool, StorageError> {
        let mut transaction = self.begin().await?;
        let empty: &[u8] = &[];
        let update = "UPDATE accounts SET removed_at = $1, display_name = '', hidden = 1,
            registration_record = $2, sealed_account_key = $3 WHERE name = $4 AND removed_at = 0";
        let done = sqlx::query(update)
            .bind(millis(now))
            .bind(empty)
            .bind(empty)
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM sealed WHERE user_name = $1")
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        let update = "UPDATE devices SET removed_at = $1 WHERE user_name = $2 AND removed_at = 0";
        let removed = sqlx::query(update)
            .bind(millis(now))
            .bind(user.as_str())
            .execute(&mut *transaction)
            .await?;
        if removed.rows_affected() > 0 {
            count_revocation(&mut transaction, now).await?;
        }
        transaction.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Takes a device back: of `user`, or whosoever if none.
    pub async fn remove_device(
        &self,
        now: UnixTime,
        user: Option<&UserName>,
        node: NodeId,
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        let update = "UPDATE devices SET removed_at = $1
            WHERE node = $2 AND removed_at = 0 AND (user_name = $3 OR $4 = 1)";
        let done = sqlx::query(update)
            .bind(millis(now))
            .bind(node.to_string())
            .bind(user.map_or("", UserName::as_str))
            .bind(i64::from(user.is_none()))
            .execute(&mut *transaction)
            .await?;
        if done.rows_affected() > 0 {
            count_revocation(&mut transaction, now).await?;
        }
        transaction.commit().await?;
        Ok(done_or_unknown(done.rows_affected()))
    }

    pub(super) async fn list_devices(
        &self,
        user: &UserName,
    ) -> Result<StorageAnswer, StorageError> {
        let select = "SELECT node, name, added_at, certified_until FROM devices
            WHERE user_name = $1 AND removed_at = 0 ORDER BY added_at LIMIT $2";
        let rows = sqlx::query(select)
            .bind(user.as_str())
            .bind(2 * DEVICES_MAX as i64)
            .fetch_all(&self.pool)
            .await?;
        let devices = rows.into_iter().map(|row| {
            Ok(DeviceRecord {
                node: parse_node(&row.get::<String, _>(0))?,
                name: row.get(1),
                added_at: UnixTime(unsigned(row.get(2))),
                certified_until: UnixTime(unsigned(row.get(3))),
            })
        });
        Ok(StorageAnswer::Devices(devices.collect::<Result<_, StorageError>>()?))
    }
}

struct KnownDevice {
    user: Option<UserName>,
    role: i64,
    certified_until: UnixTime,
    removed: bool,
}

async fn find_device(
    connection: &mut AnyConnection,
    node: NodeId,
) -> Result<Option<KnownDevice>, StorageError> {
    let select = "SELECT user_name, role, certified_until, removed_at FROM devices WHERE node = $1";
    let row = sqlx::query(select).bind(node.to_string()).fetch_optional(connection).await?;
    let Some(row) = row else { return Ok(None) };
    let user: String = row.get(0);
    let user = (!user.is_empty()).then(|| user.parse()).transpose();
    Ok(Some(KnownDevice {
        user: user.map_err(|_| StorageError::Illegal("user name"))?,
        role: row.get(1),
        certified_until: UnixTime(unsigned(row.get(2))),
        removed: row.get::<i64, _>(3) != 0,
    }))
}

/// Devices that still can renew; forgotten ones make room.
async fn count_devices(
    connection: &mut AnyConnection,
    now: UnixTime,
    user: &UserName,
) -> Result<usize, StorageError> {
    let select = "SELECT COUNT(*) FROM devices
        WHERE user_name = $1 AND removed_at = 0 AND certified_until > $2";
    let row = sqlx::query(select)
        .bind(user.as_str())
        .bind(millis(now.minus(DEVICE_FORGOTTEN_AFTER)))
        .fetch_one(connection)
        .await?;
    Ok(usize::try_from(row.get::<i64, _>(0)).unwrap_or(usize::MAX))
}

async fn count_revocation(
    connection: &mut AnyConnection,
    now: UnixTime,
) -> Result<(), StorageError> {
    let update = "UPDATE network SET revocation_number = revocation_number + 1,
        revocation_changed_at = $1 WHERE id = 1";
    sqlx::query(update).bind(millis(now)).execute(connection).await?;
    Ok(())
}

fn join(addresses: &[HostPort]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Rows of devices that are long gone make no sense to keep.
pub(super) async fn forget_devices(
    connection: &mut AnyConnection,
    now: UnixTime,
) -> Result<u64, StorageError> {
    const KEPT: std::time::Duration = std::time::Duration::from_secs(400 * 86_400);
    let delete = "DELETE FROM devices WHERE certified_until < $1";
    let done = sqlx::query(delete).bind(signed(now.minus(KEPT).0)).execute(connection).await?;
    Ok(done.rows_affected())
}
