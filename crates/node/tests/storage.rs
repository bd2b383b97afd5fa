//! The login server's database: the same cases on SQLite and on a real PostgreSQL.

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::postgres::Postgres;
use cooee_node::storage::{Storage, StorageError, TokenEntry, TokenKind};
use cooee_proto::{
    clock::UnixTime,
    identity::{HostPort, NetworkId, NodeKey, Role, UserName},
    login::{
        DEVICES_MAX, NewAccount, NewDevice, Policy, Refusal, SessionRecord, StorageAnswer,
        StorageRequest as Q, Stretching,
    },
    wire::v1::RegistrationPolicy,
};

const NETWORK: NetworkId = NetworkId([7; 16]);
const NOW: UnixTime = UnixTime(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn device(number: u8) -> NewDevice {
    let public_key = NodeKey::from_seed([number; 32]).public();
    NewDevice { public_key, name: "laptop".into(), certified_until: NOW.plus(7 * DAY) }
}

fn account(user: &str, number: u8, code: &str) -> Q {
    let account = Box::new(NewAccount {
        name: name(user),
        display_name: "Zoë".into(),
        registration_record: vec![number; 192],
        stretching: Stretching::default(),
        sealed_account_key: vec![1, 2, 3],
        code: code.into(),
        device: device(number),
    });
    Q::CreateAccount { now: NOW, account }
}

async fn ask(storage: &Storage, request: Q) -> StorageAnswer {
    storage.perform(request).await.unwrap()
}

async fn session(storage: &Storage, request: Q) -> SessionRecord {
    match ask(storage, request).await {
        StorageAnswer::Session(record) => *record,
        other => panic!("expected a session, got {other:?}"),
    }
}

async fn refusal(storage: &Storage, request: Q) -> Refusal {
    match ask(storage, request).await {
        StorageAnswer::Refused(refusal) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

async fn names_are_unique_and_do_not_look_alike(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    let record = session(&storage, account("alice", 1, "")).await;
    assert_eq!((record.user, record.display_name.as_str()), (Some(name("alice")), "Zoë"));
    assert_eq!(refusal(&storage, account("alice", 2, "")).await, Refusal::NameTaken);
    assert_eq!(refusal(&storage, account("a1ice", 3, "")).await, Refusal::NameLooksAlike);
    let check = Q::CheckName { name: name("al-ice"), code: String::new() };
    assert_eq!(refusal(&storage, check).await, Refusal::NameLooksAlike);
    let StorageAnswer::Account(Some(found)) =
        ask(&storage, Q::FindAccount { name: name("alice") }).await
    else {
        panic!("no account");
    };
    assert_eq!(found.registration_record, vec![1; 192]);
    assert_eq!(found.stretching, Stretching::default());
}

async fn of_many_who_want_a_name_at_once_one_gets_it(url: &str) {
    let servers =
        [Storage::open(url, NETWORK).await.unwrap(), Storage::open(url, NETWORK).await.unwrap()];
    let attempts = (1..=24).map(|number| {
        let storage = servers[usize::from(number) % 2].clone();
        let look = ["bobby", "b0bby", "bob.by"][usize::from(number) % 3];
        tokio::spawn(async move { ask(&storage, account(look, number, "")).await })
    });
    let mut created = 0;
    for attempt in attempts.collect::<Vec<_>>() {
        match attempt.await.unwrap() {
            StorageAnswer::Session(_) => created += 1,
            StorageAnswer::Refused(Refusal::NameTaken | Refusal::NameLooksAlike) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(created, 1);
    assert_eq!(servers[0].statistics(NOW).await.unwrap().users, 1);
}

async fn the_policy_decides_who_registers(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    let mut policy = Policy {
        registration: RegistrationPolicy::RegistrationByCode,
        newest_program_version: 9,
        oldest_program_version: 3,
    };
    storage.set_policy(&policy).await.unwrap();
    assert_eq!(storage.policy().await.unwrap(), policy);
    let expires_at = NOW.plus(DAY);
    let kind = TokenKind::InvitationCode;
    let entry = TokenEntry { kind, note: String::new(), uses_left: 2, expires_at };
    storage.add_token(NOW, "sesame", &entry).await.unwrap();
    let old = TokenEntry { expires_at: NOW, ..entry.clone() };
    storage.add_token(NOW, "old", &old).await.unwrap();
    assert_eq!(refusal(&storage, account("alice", 1, "guess")).await, Refusal::CodeWrong);
    assert_eq!(refusal(&storage, account("alice", 1, "old")).await, Refusal::CodeWrong);
    session(&storage, account("alice", 1, "sesame")).await;
    // A refused registration does not use the code up.
    assert_eq!(refusal(&storage, account("alice", 2, "sesame")).await, Refusal::NameTaken);
    session(&storage, account("carol", 2, "sesame")).await;
    assert_eq!(refusal(&storage, account("david", 3, "sesame")).await, Refusal::CodeWrong);
    policy.registration = RegistrationPolicy::RegistrationClosed;
    storage.set_policy(&policy).await.unwrap();
    assert_eq!(refusal(&storage, account("david", 3, "sesame")).await, Refusal::Closed);
}

async fn a_removed_device_is_listed_and_stays_out(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    let add = |number| Q::AddDevice { now: NOW, user: name("alice"), device: device(number) };
    let record = session(&storage, add(2)).await;
    assert_eq!((record.revocation_number, record.revoked.len()), (0, 0));
    let node = device(2).public_key.node_id();
    let remove = |user: &str| Q::RemoveDevice { now: NOW, user: Some(name(user)), node };
    assert_eq!(refusal(&storage, remove("mallory")).await, Refusal::DeviceUnknown);
    assert_eq!(ask(&storage, remove("alice")).await, StorageAnswer::Done);
    let record = session(&storage, Q::Network { now: NOW }).await;
    assert_eq!((record.revocation_number, record.revoked), (1, BTreeSet::from([node])));
    let renew = Q::RenewDevice { now: NOW, device: device(2), addresses: Vec::new() };
    assert_eq!(refusal(&storage, renew).await, Refusal::DeviceRemoved);
    assert_eq!(refusal(&storage, add(2)).await, Refusal::DeviceRemoved);
    let later = session(&storage, Q::Network { now: NOW.plus(8 * DAY) }).await;
    assert_eq!(later.revoked.len(), 0, "its certificate has expired");
}

async fn a_device_renews_until_it_is_forgotten(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    let renew = |now: UnixTime, number| {
        let certified_until = now.plus(7 * DAY);
        let device = NewDevice { certified_until, ..device(number) };
        Q::RenewDevice { now, device, addresses: Vec::new() }
    };
    let record = session(&storage, renew(NOW.plus(30 * DAY), 1)).await;
    assert_eq!((record.user, record.role), (Some(name("alice")), None));
    let late = NOW.plus((37 + 91) * DAY);
    assert_eq!(refusal(&storage, renew(late, 1)).await, Refusal::DeviceUnknown);
    assert_eq!(refusal(&storage, renew(NOW, 99)).await, Refusal::DeviceUnknown);
}

async fn devices_are_bounded_and_have_one_owner(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    session(&storage, account("carol", 101, "")).await;
    let add = |user: &str, number| {
        let user = name(user);
        Q::AddDevice { now: NOW, user, device: device(number) }
    };
    for number in 2..=DEVICES_MAX as u8 {
        session(&storage, add("alice", number)).await;
    }
    assert_eq!(refusal(&storage, add("alice", 50)).await, Refusal::TooManyDevices);
    session(&storage, add("alice", 1)).await;
    assert_eq!(refusal(&storage, add("carol", 1)).await, Refusal::DeviceOfAnother);
    let StorageAnswer::Devices(devices) =
        ask(&storage, Q::ListDevices { user: name("alice") }).await
    else {
        panic!("no list");
    };
    assert_eq!(devices.len(), DEVICES_MAX);
}

async fn a_removed_account_is_gone_and_keeps_its_name(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    let put = Q::PutSealed { user: name("alice"), slot: 0, replaces_version: 0, data: vec![1] };
    assert_eq!(ask(&storage, put.clone()).await, StorageAnswer::SealedVersion(1));
    assert!(storage.remove_account(NOW, &name("alice")).await.unwrap());
    assert!(!storage.remove_account(NOW, &name("alice")).await.unwrap());
    assert_eq!(refusal(&storage, account("alice", 9, "")).await, Refusal::NameTaken);
    let find = Q::FindAccount { name: name("alice") };
    assert_eq!(ask(&storage, find).await, StorageAnswer::Account(None));
    let add = Q::AddDevice { now: NOW, user: name("alice"), device: device(2) };
    assert_eq!(refusal(&storage, add).await, Refusal::WrongPassword);
    assert_eq!(refusal(&storage, put).await, Refusal::DeviceUnknown);
    let get = Q::GetSealed { user: name("alice"), slot: 0 };
    assert_eq!(ask(&storage, get).await, StorageAnswer::Sealed(Default::default()));
    let record = session(&storage, Q::Network { now: NOW }).await;
    assert_eq!(record.revoked, BTreeSet::from([device(1).public_key.node_id()]));
}

async fn sealed_data_is_never_overwritten_unseen(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    let put = |replaces_version, data: &[u8]| Q::PutSealed {
        user: name("alice"),
        slot: 1,
        replaces_version,
        data: data.to_vec(),
    };
    assert_eq!(refusal(&storage, put(1, b"x")).await, Refusal::VersionConflict);
    assert_eq!(ask(&storage, put(0, b"one")).await, StorageAnswer::SealedVersion(1));
    assert_eq!(refusal(&storage, put(0, b"x")).await, Refusal::VersionConflict);
    assert_eq!(ask(&storage, put(1, b"two")).await, StorageAnswer::SealedVersion(2));
    assert_eq!(refusal(&storage, put(1, b"x")).await, Refusal::VersionConflict);
    let get = Q::GetSealed { user: name("alice"), slot: 1 };
    let StorageAnswer::Sealed(record) = ask(&storage, get).await else { panic!("no data") };
    assert_eq!((record.version, record.data.as_slice()), (2, b"two".as_slice()));
}

async fn a_super_node_enrols_once_per_token_and_is_announced(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    let kind = TokenKind::SuperNode;
    let expires_at = NOW.plus(DAY);
    let entry = TokenEntry { kind, note: "rack 1".into(), uses_left: 1, expires_at };
    storage.add_token(NOW, "token", &entry).await.unwrap();
    let address: HostPort = "sn1.example:443".parse().unwrap();
    let enrol = |number| Q::EnrolSuperNode {
        now: NOW,
        token: "token".into(),
        device: device(number),
        addresses: vec![address.clone()],
    };
    let record = session(&storage, enrol(1)).await;
    assert_eq!((record.user, record.role), (None, Some(Role::SuperNode)));
    assert_eq!(record.super_nodes, vec![address.clone()]);
    assert_eq!(refusal(&storage, enrol(2)).await, Refusal::TokenWrong);
    let moved: HostPort = "sn2.example:443".parse().unwrap();
    let renew = Q::RenewDevice { now: NOW, device: device(1), addresses: vec![moved.clone()] };
    let record = session(&storage, renew).await;
    assert_eq!((record.role, record.super_nodes), (Some(Role::SuperNode), vec![moved]));
    assert_eq!(storage.statistics(NOW).await.unwrap().super_nodes, 1);
}

async fn a_search_finds_who_wants_to_be_found(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    for (number, user) in (1..).zip(["alice", "alicia", "al_x", "bob"]) {
        session(&storage, account(user, number, "")).await;
    }
    let user = name("alicia");
    let hide = Q::SetProfile { user, display_name: "A".into(), hidden: true };
    assert_eq!(ask(&storage, hide).await, StorageAnswer::Done);
    let find = async |text: &str, prefix| {
        let StorageAnswer::Users(users) =
            ask(&storage, Q::LookUpUser { text: text.into(), prefix }).await
        else {
            panic!("no users");
        };
        users.iter().map(|user| user.name.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(find("al", true).await, "al_x alice");
    assert_eq!(find("al_", true).await, "al_x", "an underscore is no wildcard");
    assert_eq!(find("alicia", false).await, "alicia");
    assert_eq!(find("alic", false).await, "");
}

async fn a_password_change_keeps_the_account(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    let StorageAnswer::Account(Some(mut record)) =
        ask(&storage, Q::FindAccount { name: name("alice") }).await
    else {
        panic!("no account");
    };
    record.registration_record = vec![42; 192];
    let replace = |user: &str| Q::ReplacePassword { user: name(user), record: record.clone() };
    assert_eq!(ask(&storage, replace("alice")).await, StorageAnswer::Done);
    assert_eq!(refusal(&storage, replace("nobody")).await, Refusal::DeviceUnknown);
    let find = Q::FindAccount { name: name("alice") };
    assert_eq!(ask(&storage, find).await, StorageAnswer::Account(Some(record.clone())));
}

async fn a_database_belongs_to_one_network_and_survives_reopening(url: &str) {
    let storage = Storage::open(url, NETWORK).await.unwrap();
    session(&storage, account("alice", 1, "")).await;
    storage.tidy(NOW).await.unwrap();
    storage.close().await;
    let other = NetworkId([8; 16]);
    let error = Storage::open(url, other).await.unwrap_err();
    assert!(matches!(error, StorageError::OtherNetwork(NETWORK)), "{error}");
    let storage = Storage::open(url, NETWORK).await.unwrap();
    let users = storage.users(None, 10).await.unwrap();
    assert_eq!((users.len(), users[0].devices), (1, 1));
    assert_eq!(storage.users(Some(&users[0].name), 10).await.unwrap(), Vec::new());
    assert_eq!(storage.devices(Some(&users[0].name)).await.unwrap().len(), 1);
}

/// Runs every case against a database of its own.
macro_rules! on_every_database {
    ($new_database:expr, $($case:ident),* $(,)?) => {
        $({
            println!("case {}", stringify!($case));
            $case(&$new_database(stringify!($case))).await;
        })*
    };
}

macro_rules! all_cases {
    ($new_database:expr) => {
        on_every_database!(
            $new_database,
            names_are_unique_and_do_not_look_alike,
            of_many_who_want_a_name_at_once_one_gets_it,
            the_policy_decides_who_registers,
            a_removed_device_is_listed_and_stays_out,
            a_device_renews_until_it_is_forgotten,
            devices_are_bounded_and_have_one_owner,
            a_removed_account_is_gone_and_keeps_its_name,
            sealed_data_is_never_overwritten_unseen,
            a_super_node_enrols_once_per_token_and_is_announced,
            a_search_finds_who_wants_to_be_found,
            a_password_change_keeps_the_account,
            a_database_belongs_to_one_network_and_survives_reopening,
        )
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let new = |case: &str| format!("sqlite:{}/{case}.sqlite", directory.path().display());
    all_cases!(new);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_case_holds_on_postgresql() {
    let server = Postgres::start();
    all_cases!(|case| server.create_database(case));
}

#[tokio::test]
async fn a_damaged_or_missing_database_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.sqlite");
    std::fs::write(&path, vec![0x55; 8192]).unwrap();
    let url = format!("sqlite:{}", path.display());
    let error = Storage::open(&url, NETWORK).await.unwrap_err();
    assert!(matches!(error, StorageError::Corrupt(_)), "{error}");
    let url = format!("sqlite:{}/missing/database.sqlite", directory.path().display());
    let error = Storage::open(&url, NETWORK).await.unwrap_err();
    assert!(error.to_string().contains("its directory exists"), "{error}");
    let error = Storage::open("mysql://x", NETWORK).await.unwrap_err();
    assert!(matches!(error, StorageError::Url(_)), "{error}");
}
