//! Foreign TURN programs against our relay: coturn's `turnutils_uclient` over UDP, TCP and TLS.
//!
//! Needs the Debian package `coturn` (its service is not started); without it these tests fail.

mod relay_support;

use relay_support::{
    Relay, echo_peer, relay_through, serve_tcp, serve_tls, spawn_coturn, turn_tool, uclient_report,
};

const MESSAGES: u32 = 30;

#[tokio::test(flavor = "multi_thread")]
async fn uclient_relays_over_udp_between_two_of_our_clients() {
    let relay = Relay::start();
    let report = uclient_report(&relay, &["-y", "-m", "4"], MESSAGES).await;
    assert_eq!(report.lost, 0, "{}", report.text);
    assert!(report.received >= u64::from(MESSAGES), "{}", report.text);
    let counts = relay.handle.counts();
    assert!(counts.allocations_made >= 4 && counts.relayed_packets > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn uclient_reaches_a_plain_peer_by_channel_and_by_send_indication() {
    let relay = Relay::start();
    let (ip, port) = echo_peer();
    for extra in [&[][..], &["-s"]] {
        let arguments = [&["-e", &ip, "-r", &port], extra].concat();
        let report = uclient_report(&relay, &arguments, MESSAGES).await;
        assert_eq!(report.lost, 0, "{extra:?}: {}", report.text);
        assert!(report.received >= u64::from(MESSAGES), "{extra:?}: {}", report.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uclient_relays_over_tcp() {
    let mut relay = Relay::start();
    relay.port = serve_tcp(&relay).await;
    let (ip, port) = echo_peer();
    let report = uclient_report(&relay, &["-t", "-e", &ip, "-r", &port], MESSAGES).await;
    assert_eq!(report.lost, 0, "{}", report.text);
    assert!(report.received >= u64::from(MESSAGES), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn uclient_relays_over_tls() {
    let mut relay = Relay::start();
    relay.port = serve_tls(&relay).await;
    let (ip, port) = echo_peer();
    let report = uclient_report(&relay, &["-t", "-S", "-e", &ip, "-r", &port], MESSAGES).await;
    assert_eq!(report.lost, 0, "{}", report.text);
    assert!(report.received >= u64::from(MESSAGES), "{}", report.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn uclient_with_a_wrong_password_gets_no_allocation() {
    let mut relay = Relay::start();
    relay.credentials.password = "wrong".into();
    let report = uclient_report(&relay, &["-y"], 1).await;
    assert_eq!(report.received, 0, "{}", report.text);
    assert_eq!(relay.handle.counts().allocations_made, 0);
    assert!(relay.handle.counts().unauthorized > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn uclient_cannot_reach_loopback_through_a_relay_with_the_default_policy() {
    let relay = Relay::start_with(cooee_proto::relay::PeerPolicy::default());
    let (ip, port) = echo_peer();
    let report = uclient_report(&relay, &["-e", &ip, "-r", &port], 1).await;
    assert_eq!(report.received, 0, "{}", report.text);
    assert!(relay.handle.counts().forbidden_peers > 0);
    assert_eq!(relay.handle.counts().relayed_packets, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn turnutils_stunclient_learns_its_address_from_us() {
    let relay = Relay::start();
    let port = relay.port.to_string();
    let mut command = turn_tool("turnutils_stunclient");
    let output = command.args(["-p", &port, "127.0.0.1"]).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("UDP reflexive addr: 127.0.0.1:"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_library_of_our_calls_works_with_a_real_coturn_and_with_us() {
    spawn_coturn().await.relay_with_our_client().await;
    let relay = Relay::start();
    let server = relay.endpoint.local_addresses()[0];
    let (username, password) = (&relay.credentials.username, &relay.credentials.password);
    relay_through(server, username, password).await;
    assert_eq!(relay.handle.counts().allocations_made, 1);
}
