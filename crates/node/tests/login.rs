//! The login protocol over real sockets and TLS: what a person can do, and what goes wrong.

use std::{net::SocketAddr, time::Duration};

use cooee_node::{
    login_server::{
        LoginServer, LoginServerError, LoginServerOptions,
        client::{Device, LoginClient, LoginError},
        unix_now,
    },
    storage::{TokenEntry, TokenKind},
    transport::{ByteCount, Counted},
};
use cooee_proto::{
    clock::UnixTime,
    identity::{NetworkKey, NodeKey, Role, UserName},
    login::{
        AccountKey, ClientConfig, ClientError, LimitConfig, Password, Policy, Refusal, Stretching,
        program_version,
    },
    wire::v1::{ProgramVersionStatus, RegistrationPolicy},
};
use tokio::net::TcpStream;

/// Small on purpose and only here: the cost of the password hash is not what these tests are about.
const CHEAP: Stretching = Stretching { memory_kib: 64, passes: 1, lanes: 1 };
const DAY_MS: u64 = 86_400_000;

type Client = LoginClient<Counted<TcpStream>>;

struct Network {
    key: NetworkKey,
    server: LoginServer,
    directory: tempfile::TempDir,
}

impl Network {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut LoginServerOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = NetworkKey::from_seed([1; 32]);
        let mut options = LoginServerOptions::new(vec![any_port()], database(&directory));
        change(&mut options);
        let server = LoginServer::start(key.clone(), &options).await.unwrap();
        Self { key, server, directory }
    }

    fn config(&self) -> ClientConfig {
        ClientConfig { root: self.key.root(), stretching: CHEAP }
    }

    async fn connect(&self) -> Client {
        self.connect_counted(ByteCount::default()).await
    }

    async fn connect_counted(&self, count: ByteCount) -> Client {
        let stream = TcpStream::connect(self.server.addresses()[0]).await.unwrap();
        let stream = Counted::new(stream, count);
        LoginClient::connect(stream, self.config(), program_version(0, 1, 0)).await.unwrap()
    }

    async fn register(&self, user: &str, device: &Device) -> AccountKey {
        let mut client = self.connect().await;
        let session = client.register(&name(user), &secret(), "", "", device).await.unwrap();
        session.account_key.unwrap()
    }

    async fn set_policy(&self, registration: RegistrationPolicy) {
        let policy = Policy { registration, newest_program_version: 0, oldest_program_version: 0 };
        self.server.storage().set_policy(&policy).await.unwrap();
    }
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn database(directory: &tempfile::TempDir) -> String {
    format!("sqlite:{}/database.sqlite", directory.path().display())
}

fn name(text: &str) -> UserName {
    text.parse().unwrap()
}

fn secret() -> Password {
    Password::new("correct horse").unwrap()
}

fn device(number: u8) -> Device {
    Device { key: NodeKey::from_seed([number; 32]), name: format!("device {number}") }
}

fn refusal<T: std::fmt::Debug>(result: Result<T, LoginError>) -> Refusal {
    match result.unwrap_err() {
        LoginError::Protocol(ClientError::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_person_registers_logs_in_elsewhere_and_finds_the_sealed_data() {
    let network = Network::start().await;
    let mut client = network.connect().await;
    let alice = name("alice");
    let registered = client.register(&alice, &secret(), "Alice", "", &device(1)).await.unwrap();
    assert_eq!(registered.certificate.user(), Some(&alice));
    assert_eq!(registered.certificate.node(), device(1).key.node_id());
    let key = registered.account_key.unwrap();
    let sealed = key.seal(0, b"bob, carol", [1; 12]).unwrap();
    assert_eq!(client.put_sealed(0, 0, sealed.clone()).await.unwrap(), 1);
    assert_eq!(refusal(client.put_sealed(0, 0, sealed).await), Refusal::VersionConflict);
    client.close().await;

    let mut client = network.connect().await;
    let session = client.login(&name("ALICE"), &secret(), &device(2), 0).await.unwrap();
    assert_eq!(session.display_name, "Alice");
    let slot = client.get_sealed(0, 0).await.unwrap();
    assert_eq!(session.account_key.unwrap().open(0, &slot.data).unwrap(), b"bob, carol");
    assert!(client.get_sealed(0, slot.version).await.unwrap().data.is_empty());
    let names = client.devices().await.unwrap().into_iter().map(|device| device.name);
    assert_eq!(names.collect::<Vec<_>>(), ["device 1", "device 2"]);
}

#[tokio::test]
async fn a_whole_login_costs_below_six_kilobytes() {
    let network = Network::start().await;
    network.register("alice", &device(1)).await;
    let count = ByteCount::default();
    let mut client = network.connect_counted(count.clone()).await;
    client.login(&name("alice"), &secret(), &device(1), 0).await.unwrap();
    println!("login: {} bytes up, {} bytes down", count.sent(), count.received());
    assert!(count.total() < 6000, "{} bytes", count.total());
    let count = ByteCount::default();
    let mut client = network.connect_counted(count.clone()).await;
    client.renew(&device(1), 0, &[]).await.unwrap();
    println!("renewal: {} bytes up, {} bytes down", count.sent(), count.received());
    assert!(count.total() < 5000, "{} bytes", count.total());
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let network = Network::start().await;
    network.register("alice", &device(1)).await;
    let wrong = Password::new("incorrect horse").unwrap();
    let mut down = Vec::new();
    for user in ["alice", "nobod"] {
        let count = ByteCount::default();
        let mut client = network.connect_counted(count.clone()).await;
        let result = client.login(&name(user), &wrong, &device(2), 0).await;
        assert_eq!(refusal(result), Refusal::WrongPassword);
        down.push(count.received());
    }
    // The cost of the hash is sent as numbers of one to three bytes; this test's is smaller than
    // the default that an unknown user is said to have.
    assert!(down[0].abs_diff(down[1]) <= 2, "{down:?}");
}

#[tokio::test]
async fn names_are_refused_with_the_reason() {
    let network = Network::start().await;
    network.register("alice", &device(1)).await;
    let mut client = network.connect().await;
    let mut register = async |user: &str| {
        refusal(client.register(&name(user), &secret(), "", "", &device(2)).await)
    };
    assert_eq!(register("Alice").await, Refusal::NameTaken);
    assert_eq!(register("a1ice").await, Refusal::NameLooksAlike);
}

#[tokio::test]
async fn the_registration_policy_is_followed_while_running() {
    let network = Network::start().await;
    network.set_policy(RegistrationPolicy::RegistrationClosed).await;
    let mut client = network.connect().await;
    let welcome = client.welcome().await.unwrap();
    assert_eq!(welcome.registration, RegistrationPolicy::RegistrationClosed);
    let closed = client.register(&name("alice"), &secret(), "", "", &device(1)).await;
    assert_eq!(refusal(closed), Refusal::Closed);
    network.set_policy(RegistrationPolicy::RegistrationByCode).await;
    let kind = TokenKind::InvitationCode;
    let expires_at = UnixTime(unix_now().0 + DAY_MS);
    let entry = TokenEntry { kind, note: String::new(), uses_left: 1, expires_at };
    network.server.storage().add_token(unix_now(), "SESAME", &entry).await.unwrap();
    for (code, allowed) in [("", false), ("GUESS", false), ("SESAME", true)] {
        let result = client.register(&name("alice"), &secret(), "", code, &device(1)).await;
        assert_eq!(result.is_ok(), allowed, "{code:?} {result:?}");
    }
}

#[tokio::test]
async fn a_wrong_clock_is_told_with_its_offset() {
    let network = Network::start().await;
    let stream = TcpStream::connect(network.server.addresses()[0]).await.unwrap();
    let yesterday = || UnixTime(unix_now().0 - DAY_MS);
    let config = network.config();
    let mut client = LoginClient::connect_by_clock(stream, config, 0, yesterday).await.unwrap();
    let error = client.register(&name("alice"), &secret(), "", "", &device(1)).await.unwrap_err();
    assert!(
        matches!(error, LoginError::Protocol(ClientError::ClockWrong { offset_ms })
            if offset_ms.unsigned_abs().abs_diff(DAY_MS) < 60_000),
        "{error:?}"
    );
    assert!(error.to_string().contains("1 day behind"), "{error}");
}

#[tokio::test]
async fn a_server_of_another_network_is_refused() {
    let network = Network::start().await;
    let stream = TcpStream::connect(network.server.addresses()[0]).await.unwrap();
    let root = NetworkKey::from_seed([2; 32]).root();
    let error = LoginClient::connect(stream, ClientConfig::new(root), 0).await.unwrap_err();
    assert!(matches!(error, LoginError::NotOurs(_)), "{error}");
}

#[tokio::test]
async fn a_device_renews_without_password_until_it_is_removed() {
    let network = Network::start().await;
    network.register("alice", &device(1)).await;
    let mut phone = network.connect().await;
    phone.login(&name("alice"), &secret(), &device(2), 0).await.unwrap();
    let mut client = network.connect().await;
    let session = client.renew(&device(1), 0, &[]).await.unwrap();
    assert_eq!(session.certificate.user(), Some(&name("alice")));
    assert!(session.account_key.is_none());
    // Without the password a device removes itself only.
    let other = device(2).key.node_id();
    assert_eq!(refusal(client.remove_device(other).await), Refusal::NotAuthenticated);
    assert_eq!(refusal(client.remove_account().await), Refusal::NotAuthenticated);
    phone.remove_device(device(1).key.node_id()).await.unwrap();
    assert_eq!(refusal(client.renew(&device(1), 0, &[]).await), Refusal::DeviceRemoved);
    let list = phone.revocation_list(0).await.unwrap().unwrap();
    assert!(list.contains(device(1).key.node_id()));
    let root = network.key.root();
    assert!(session.certificate.verify(&root, unix_now(), &list).is_err());
    assert_eq!(phone.revocation_list(list.number()).await.unwrap(), None);
    let session = phone.renew(&device(2), 0, &[]).await.unwrap();
    assert_eq!(session.revocation_list, Some(list.clone()));
    assert!(phone.renew(&device(2), list.number(), &[]).await.unwrap().revocation_list.is_none());
}

#[tokio::test]
async fn a_changed_password_opens_the_same_sealed_data() {
    let network = Network::start().await;
    let key = network.register("alice", &device(1)).await;
    let new = Password::new("battery staple").unwrap();
    let mut client = network.connect().await;
    assert_eq!(refusal(client.change_password(&new, &key).await), Refusal::NotAuthenticated);
    client.login(&name("alice"), &secret(), &device(1), 0).await.unwrap();
    client.change_password(&new, &key).await.unwrap();
    let mut client = network.connect().await;
    let old = client.login(&name("alice"), &secret(), &device(1), 0).await;
    assert_eq!(refusal(old), Refusal::WrongPassword);
    let session = client.login(&name("alice"), &new, &device(1), 0).await.unwrap();
    assert_eq!(session.account_key, Some(key));
    client.remove_account().await.unwrap();
    let gone = client.login(&name("alice"), &new, &device(1), 0).await;
    assert_eq!(refusal(gone), Refusal::WrongPassword);
}

#[tokio::test]
async fn a_super_node_enrols_with_a_token_and_is_told_to_newcomers() {
    let network = Network::start().await;
    let kind = TokenKind::SuperNode;
    let expires_at = UnixTime(unix_now().0 + DAY_MS);
    let entry = TokenEntry { kind, note: String::new(), uses_left: 1, expires_at };
    network.server.storage().add_token(unix_now(), "TOKEN", &entry).await.unwrap();
    let address = "sn1.example:443".parse().unwrap();
    let mut client = network.connect().await;
    let addresses = std::slice::from_ref(&address);
    let wrong = client.enrol_super_node("GUESS", &device(9), addresses).await;
    assert_eq!(refusal(wrong), Refusal::TokenWrong);
    let session = client.enrol_super_node("TOKEN", &device(9), addresses).await.unwrap();
    assert!(session.certificate.roles().contains(Role::SuperNode));
    assert_eq!(session.certificate.user(), None);
    let session = network.connect().await.renew(&device(9), 0, &[]).await.unwrap();
    assert!(session.certificate.roles().contains(Role::SuperNode));
    let mut client = network.connect().await;
    let session = client.register(&name("alice"), &secret(), "", "", &device(1)).await.unwrap();
    assert_eq!(session.super_nodes, [address]);
}

#[tokio::test]
async fn the_last_resort_of_a_search_answers_certified_devices_only() {
    let network = Network::start().await;
    for (number, user) in (1..).zip(["alice", "alicia", "bobby"]) {
        network.register(user, &device(number)).await;
    }
    let mut client = network.connect().await;
    assert_eq!(refusal(client.look_up("ali*").await), Refusal::NotAuthenticated);
    client.renew(&device(2), 0, &[]).await.unwrap();
    client.set_profile("Alicia K.", true).await.unwrap();
    assert_eq!(client.look_up("ali*").await.unwrap(), [(name("alice"), String::new())]);
    let exact = client.look_up("alicia").await.unwrap();
    assert_eq!(exact, [(name("alicia"), "Alicia K.".to_owned())]);
    assert_eq!(refusal(client.look_up("*").await), Refusal::NameIllegal);
}

#[tokio::test]
async fn guessing_is_slowed_down_per_name_and_per_address() {
    let limit = LimitConfig { burst: 4, refill: Duration::from_secs(3600), buckets_max: 100 };
    let network = Network::start_with(|options| options.name_limit = limit).await;
    network.register("alice", &device(1)).await;
    let wrong = Password::new("guess").unwrap();
    let mut client = network.connect().await;
    for _ in 0..4 {
        let result = client.login(&name("alice"), &wrong, &device(2), 0).await;
        assert_eq!(refusal(result), Refusal::WrongPassword);
    }
    let result = client.login(&name("alice"), &secret(), &device(2), 0).await;
    assert!(matches!(refusal(result), Refusal::RateLimited(_)));
    // The device that is in already is not locked out by somebody's guesses.
    network.connect().await.renew(&device(1), 0, &[]).await.unwrap();

    let network = Network::start_with(|options| options.address_limit = limit).await;
    let mut client = network.connect().await;
    for number in 1..=4 {
        let user = name(&format!("user{number}x"));
        client.register(&user, &secret(), "", "", &device(number)).await.unwrap();
    }
    let result = client.register(&name("fifth"), &secret(), "", "", &device(5)).await;
    assert!(matches!(refusal(result), Refusal::RateLimited(_)));
}

#[tokio::test]
async fn versions_are_compared() {
    let network = Network::start().await;
    let policy = Policy {
        registration: RegistrationPolicy::RegistrationOpen,
        newest_program_version: program_version(0, 2, 0),
        oldest_program_version: program_version(0, 1, 0),
    };
    network.server.storage().set_policy(&policy).await.unwrap();
    let connect = async |version| {
        let stream = TcpStream::connect(network.server.addresses()[0]).await.unwrap();
        let mut client = LoginClient::connect(stream, network.config(), version).await.unwrap();
        client.welcome().await
    };
    let welcome = connect(program_version(0, 2, 0)).await.unwrap();
    assert_eq!(welcome.program_version, ProgramVersionStatus::ProgramVersionUpToDate);
    let welcome = connect(program_version(0, 1, 9)).await.unwrap();
    assert_eq!(welcome.program_version, ProgramVersionStatus::ProgramVersionUpdateAvailable);
    assert_eq!(welcome.newest_program_version, program_version(0, 2, 0));
    assert_eq!(refusal(connect(program_version(0, 0, 9)).await), Refusal::TooOld);
}

#[tokio::test]
async fn the_default_cost_of_the_password_hash_is_not_undercut() {
    let network = Network::start().await;
    network.register("alice", &device(1)).await;
    let stream = TcpStream::connect(network.server.addresses()[0]).await.unwrap();
    let strict = ClientConfig::new(network.key.root());
    let mut client = LoginClient::connect(stream, strict, 0).await.unwrap();
    let error = client.login(&name("alice"), &secret(), &device(1), 0).await.unwrap_err();
    assert!(matches!(error, LoginError::Protocol(ClientError::Stretching)), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let network = Network::start().await;
    let taken = network.server.addresses()[0];
    let options = LoginServerOptions::new(vec![taken], database(&network.directory));
    let error = LoginServer::start(network.key.clone(), &options).await.unwrap_err();
    assert!(matches!(error, LoginServerError::PortInUse(address) if address == taken), "{error}");
}

#[tokio::test]
async fn shutdown_closes_idle_connections_and_keeps_what_was_answered() {
    let network = Network::start().await;
    let mut client = network.connect().await;
    client.register(&name("alice"), &secret(), "", "", &device(1)).await.unwrap();
    let Network { key, server, directory } = network;
    assert!(server.shutdown().await);
    let error = client.renew(&device(1), 0, &[]).await.unwrap_err();
    assert!(matches!(error, LoginError::Broken(_)), "{error}");
    let options = LoginServerOptions::new(vec![any_port()], database(&directory));
    let server = LoginServer::start(key.clone(), &options).await.unwrap();
    let network = Network { key, server, directory };
    network.connect().await.renew(&device(1), 0, &[]).await.unwrap();
}

#[tokio::test]
async fn rubbish_on_the_port_harms_nobody() {
    use tokio::io::AsyncWriteExt;
    let network = Network::start().await;
    for number in 0..50_u8 {
        let mut stream = TcpStream::connect(network.server.addresses()[0]).await.unwrap();
        let _ = stream.write_all(&[number; 300]).await;
    }
    network.register("alice", &device(1)).await;
    let text = network.server.metrics().text();
    assert!(text.contains("cooee_login_requests_total{kind=\"register\"} 1"), "{text}");
}
