//! Accounts: unique names, OPAQUE records, profiles, search.

use cooee_proto::{
    clock::UnixTime,
    identity::{NodeId, UserName},
    login::{
        AccountRecord, FOUND_USERS_MAX, FoundUser, NewAccount, Policy, Refusal, StorageAnswer,
        Stretching,
    },
    wire::v1::RegistrationPolicy,
};
use sqlx::{AnyConnection, Row};

use super::{
    Storage, StorageError,
    rows::{done_or_unknown, millis, unsigned},
    tokens::{TokenKind, spend_token},
};

impl Storage {
    /// What the operator set.
    pub async fn policy(&self) -> Result<Policy, StorageError> {
        policy(&mut *self.pool.acquire().await?).await
    }

    pub(super) async fn check_name(
        &self,
        name: &UserName,
        code: &str,
    ) -> Result<StorageAnswer, StorageError> {
        let mut connection = self.pool.acquire().await?;
        let answer = match policy(&mut connection).await?.registration {
            RegistrationPolicy::RegistrationClosed => StorageAnswer::Refused(Refusal::Closed),
            RegistrationPolicy::RegistrationByCode if code.is_empty() => {
                StorageAnswer::Refused(Refusal::CodeWrong)
            }
            _ => taken(&mut connection, name)
                .await?
                .map_or(StorageAnswer::Done, StorageAnswer::Refused),
        };
        Ok(answer)
    }

    pub(super) async fn create_account(
        &self,
        now: UnixTime,
        account: &NewAccount,
    ) -> Result<StorageAnswer, StorageError> {
        let mut transaction = self.begin().await?;
        match policy(&mut transaction).await?.registration {
            RegistrationPolicy::RegistrationOpen => {}
            RegistrationPolicy::RegistrationClosed => {
                return Ok(StorageAnswer::Refused(Refusal::Closed));
            }
            RegistrationPolicy::RegistrationByCode => {
                let kind = TokenKind::InvitationCode;
                if !spend_token(&mut transaction, now, kind, &account.code).await? {
                    return Ok(StorageAnswer::Refused(Refusal::CodeWrong));
                }
            }
        }
        if !insert_account(&mut transaction, now, account).await? {
            // Leaves the transaction: nothing was changed.
            let refusal = taken(&mut transaction, &account.name).await?;
            return Ok(StorageAnswer::Refused(refusal.unwrap_or(Refusal::NameTaken)));
        }
        let user = Some(&account.name);
        if let Some(refusal) =
            self.insert_device(&mut transaction, now, user, &account.device).await?
        {
            return Ok(StorageAnswer::Refused(refusal));
        }
        let answer = self.session(&mut transaction, now, user, None).await?;
        transaction.commit().await?;
        Ok(answer)
    }

    pub(super) async fn find_account(
        &self,
        name: &UserName,
    ) -> Result<StorageAnswer, StorageError> {
        let select = "SELECT registration_record, memory_kib, passes, lanes, sealed_account_key
            FROM accounts WHERE name = $1 AND removed_at = 0";
        let row = sqlx::query(select).bind(name.as_str()).fetch_optional(&self.pool).await?;
        let small = |number: i64| u32::try_from(number).unwrap_or(0);
        let account = row.map(|row| AccountRecord {
            registration_record: row.get(0),
            stretching: Stretching {
                memory_kib: small(row.get(1)),
                passes: small(row.get(2)),
                lanes: small(row.get(3)),
            },
            sealed_account_key: row.get(4),
        });
        Ok(StorageAnswer::Account(account))
    }

    pub(super) async fn replace_password(
        &self,
        user: &UserName,
        record: &AccountRecord,
    ) -> Result<StorageAnswer, StorageError> {
        let update = "UPDATE accounts SET registration_record = $1, memory_kib = $2, passes = $3,
            lanes = $4, sealed_account_key = $5 WHERE name = $6 AND removed_at = 0";
        let done = sqlx::query(update)
            .bind(record.registration_record.as_slice())
            .bind(i64::from(record.stretching.memory_kib))
            .bind(i64::from(record.stretching.passes))
            .bind(i64::from(record.stretching.lanes))
            .bind(record.sealed_account_key.as_slice())
            .bind(user.as_str())
            .execute(&self.pool)
            .await?;
        Ok(done_or_unknown(done.rows_affected()))
    }

    pub(super) async fn set_profile(
        &self,
        user: &UserName,
        display_name: &str,
        hidden: bool,
    ) -> Result<StorageAnswer, StorageError> {
        let update = "UPDATE accounts SET display_name = $1, hidden = $2
            WHERE name = $3 AND removed_at = 0";
        let done = sqlx::query(update)
            .bind(display_name)
            .bind(i64::from(hidden))
            .bind(user.as_str())
            .execute(&self.pool)
            .await?;
        Ok(done_or_unknown(done.rows_affected()))
    }

    /// Whether there is such a user; a removed device learns nothing.
    pub(super) async fn user_exists(
        &self,
        name: &UserName,
        asker: NodeId,
    ) -> Result<StorageAnswer, StorageError> {
        let select = "SELECT (SELECT COUNT(*) FROM devices WHERE node = $1 AND removed_at > 0),
            (SELECT COUNT(*) FROM accounts WHERE name = $2 AND removed_at = 0)";
        let row = sqlx::query(select)
            .bind(asker.to_string())
            .bind(name.as_str())
            .fetch_one(&self.pool)
            .await?;
        Ok(match (row.get::<i64, _>(0), row.get::<i64, _>(1)) {
            (0, found) => StorageAnswer::Exists(found > 0),
            _ => StorageAnswer::Refused(Refusal::DeviceRemoved),
        })
    }

    pub(super) async fn look_up(
        &self,
        text: &str,
        prefix: bool,
    ) -> Result<StorageAnswer, StorageError> {
        // Names are ASCII and compare byte by byte: everything from `ali` to `ali~` begins so.
        let select = "SELECT name, display_name FROM accounts
            WHERE name >= $1 AND name <= $2 AND removed_at = 0 AND hidden <= $3
            ORDER BY name LIMIT $4";
        let end = if prefix { format!("{text}~") } else { text.to_owned() };
        let rows = sqlx::query(select)
            .bind(text)
            .bind(end)
            .bind(i64::from(!prefix))
            .bind(FOUND_USERS_MAX as i64)
            .fetch_all(&self.pool)
            .await?;
        let users = rows.into_iter().map(|row| {
            let name = row.get::<String, _>(0).parse();
            let name = name.map_err(|_| StorageError::Illegal("user name"))?;
            Ok(FoundUser { name, display_name: row.get(1) })
        });
        Ok(StorageAnswer::Users(users.collect::<Result<_, StorageError>>()?))
    }
}

async fn policy(connection: &mut AnyConnection) -> Result<Policy, StorageError> {
    let select = "SELECT registration, newest_program_version, oldest_program_version
        FROM network WHERE id = 1";
    let row = sqlx::query(select).fetch_one(connection).await?;
    let registration = i32::try_from(row.get::<i64, _>(0)).ok();
    let registration = registration.and_then(|number| RegistrationPolicy::try_from(number).ok());
    Ok(Policy {
        registration: registration.ok_or(StorageError::Illegal("registration policy"))?,
        newest_program_version: unsigned(row.get(1)),
        oldest_program_version: unsigned(row.get(2)),
    })
}

/// Why a name cannot be registered, if so.
async fn taken(
    connection: &mut AnyConnection,
    name: &UserName,
) -> Result<Option<Refusal>, StorageError> {
    let select = "SELECT name FROM accounts WHERE name = $1 OR skeleton = $2 LIMIT 2";
    let rows =
        sqlx::query(select).bind(name.as_str()).bind(name.skeleton()).fetch_all(connection).await?;
    let same = rows.iter().any(|row| row.get::<String, _>(0) == name.as_str());
    Ok(match (rows.is_empty(), same) {
        (true, _) => None,
        (false, true) => Some(Refusal::NameTaken),
        (false, false) => Some(Refusal::NameLooksAlike),
    })
}

/// Says whether name and skeleton were free.
async fn insert_account(
    connection: &mut AnyConnection,
    now: UnixTime,
    account: &NewAccount,
) -> Result<bool, StorageError> {
    let insert = "INSERT INTO accounts (name, skeleton, display_name, hidden, registration_record,
            memory_kib, passes, lanes, sealed_account_key, created_at, removed_at)
        VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9, 0) ON CONFLICT DO NOTHING";
    let done = sqlx::query(insert)
        .bind(account.name.as_str())
        .bind(account.name.skeleton())
        .bind(account.display_name.as_str())
        .bind(account.registration_record.as_slice())
        .bind(i64::from(account.stretching.memory_kib))
        .bind(i64::from(account.stretching.passes))
        .bind(i64::from(account.stretching.lanes))
        .bind(account.sealed_account_key.as_slice())
        .bind(millis(now))
        .execute(connection)
        .await?;
    Ok(done.rows_affected() == 1)
}
