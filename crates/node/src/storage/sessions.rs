//! What every session tells a device: who it is, which devices were taken back, where super nodes
//! are.

use std::collections::BTreeSet;

use cooee_proto::{
    clock::UnixTime,
    identity::{HostPort, NodeId, REVOKED_NODES_MAX, Role, UserName},
    login::{BOOTSTRAP_MAX, SessionRecord, StorageAnswer},
};
use sqlx::{AnyConnection, Row};

use super::{
    Storage, StorageError,
    rows::{SUPER_NODE, millis, parse_node, unsigned},
};

impl Storage {
    pub(super) async fn network_record(
        &self,
        connection: &mut AnyConnection,
        now: UnixTime,
    ) -> Result<StorageAnswer, StorageError> {
        self.session(connection, now, None, None).await
    }

    /// What a session tells a device, as of this transaction.
    pub(super) async fn session(
        &self,
        connection: &mut AnyConnection,
        now: UnixTime,
        user: Option<&UserName>,
        role: Option<Role>,
    ) -> Result<StorageAnswer, StorageError> {
        let select = "SELECT revocation_number, revocation_changed_at FROM network WHERE id = 1";
        let row = sqlx::query(select).fetch_one(&mut *connection).await?;
        let (number, changed_at) = (row.get::<i64, _>(0), row.get::<i64, _>(1));
        let mut display_name = String::new();
        if let Some(user) = user {
            let select = "SELECT display_name FROM accounts WHERE name = $1";
            let row = sqlx::query(select).bind(user.as_str()).fetch_optional(&mut *connection);
            display_name = row.await?.map(|row| row.get(0)).unwrap_or_default();
        }
        Ok(StorageAnswer::Session(Box::new(SessionRecord {
            user: user.cloned(),
            role,
            display_name,
            revocation_number: unsigned(number),
            revocation_changed_at: UnixTime(unsigned(changed_at)),
            revoked: revoked(connection, now).await?,
            super_nodes: super_nodes(connection, now).await?,
        })))
    }
}

async fn revoked(
    connection: &mut AnyConnection,
    now: UnixTime,
) -> Result<BTreeSet<NodeId>, StorageError> {
    let select = "SELECT node FROM devices WHERE removed_at > 0 AND certified_until > $1
        ORDER BY certified_until DESC LIMIT $2";
    let rows = sqlx::query(select)
        .bind(millis(now))
        .bind(REVOKED_NODES_MAX as i64)
        .fetch_all(connection)
        .await?;
    rows.into_iter().map(|row| parse_node(&row.get::<String, _>(0))).collect()
}

async fn super_nodes(
    connection: &mut AnyConnection,
    now: UnixTime,
) -> Result<Vec<HostPort>, StorageError> {
    let select = "SELECT addresses FROM devices
        WHERE role = $1 AND removed_at = 0 AND certified_until > $2
        ORDER BY certified_until DESC LIMIT $3";
    let rows = sqlx::query(select)
        .bind(SUPER_NODE)
        .bind(millis(now))
        .bind(BOOTSTRAP_MAX as i64)
        .fetch_all(connection)
        .await?;
    let texts = rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>();
    let addresses = texts.iter().flat_map(|text| text.split_whitespace());
    Ok(addresses.take(BOOTSTRAP_MAX).filter_map(|address| address.parse().ok()).collect())
}
