//! A super node that was enrolled and then turned: it stalls, closes, lies, floods. Real TLS, a
//! real certificate; the node goes on to another super node, in bounded memory.

mod support;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cooee_lab::deployment::Deployment;
use cooee_node::{
    login_server::Invitation,
    profile::Profile,
    transport::{
        Accepted, Connection, ControlChannel, Credentials, Listener, ListenerConfig, Tls, Trust,
        greeting,
    },
};
use cooee_proto::{
    control::{NodeRole, addresses_to_wire},
    wire::v1::{
        Found, HostCacheUpdate, LookUpResult, Notify, answer, control_message::Kind, request,
    },
};
use serde_json::Value;
use support::{COOEE, command, network, run, signal, wait_for};

/// What it does to those who attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evil {
    Stalls,
    Closes,
    Lies,
    Floods,
}

/// Resident memory that a node may reach under a flood; idle it has a fraction of it.
const RSS_MIB_MAX: f64 = 150.0;

/// Makes a super node of the network, and takes its key and certificate away from it.
fn enrolled(network: &Deployment<'_>, folder: &Path, port: u16) -> Credentials {
    let folder_of = |name: &str| folder.join(name);
    let token = Command::new(COOEE)
        .args(["--json", "login-server", "enrol-token", "--dir"])
        .arg(folder_of("login-server"))
        .output()
        .unwrap();
    let token: Value = serde_json::from_slice(&token.stdout).unwrap();
    let port = port.to_string();
    let profile = folder_of("evil");
    let arguments = ["super-node", "--enrol", token["token"].as_str().unwrap()];
    let more = ["--invitation", network.invitation(), "--advertise", "127.0.0.1", "--port", &port];
    let last = ["--bind", "127.0.0.1", "--no-well-known-ports"];
    let mut child = command(&profile, &[&arguments[..], &more, &last].concat())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the super node", || (run(&profile, &["status"]).code == Some(0)).then_some(()));
    signal(child.id(), "TERM");
    child.wait().unwrap();
    let profile = Profile::open(profile).unwrap();
    Credentials::new(profile.device_key().unwrap(), profile.certificate().unwrap().unwrap())
}

async fn serve(
    credentials: Credentials,
    root: Invitation,
    port: u16,
    evil: Evil,
    seen: Arc<AtomicUsize>,
) {
    let tls = Tls::new(Trust::new(root.root), credentials).unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut listener = Listener::bind(ListenerConfig::new(address), tls).await.unwrap();
    while let Some(accepted) = listener.accept().await {
        if let Accepted::Control(connection) = accepted {
            seen.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(misbehave(connection, evil));
        }
    }
}

async fn misbehave(connection: Connection, evil: Evil) {
    match evil {
        Evil::Closes => return connection.close(),
        Evil::Stalls => return std::future::pending().await,
        Evil::Lies | Evil::Floods => {}
    }
    let Some(mut incoming) = connection.accept().await else { return };
    let Ok(theirs) = ControlChannel::read_greeting(&mut incoming.stream).await else { return };
    let (channel, mut inbox) = ControlChannel::start(connection.clone(), incoming.stream);
    let hello = greeting(NodeRole::SuperNode, &connection, Some(1), theirs.unix);
    let _ = channel.send(Kind::Hello(hello.to_wire())).await;
    if evil == Evil::Floods {
        let mut number = 0_u32;
        loop {
            number += 50;
            let junk = (number..number + 50).map(|n| SocketAddr::from((Ipv4Addr::from(n), 1)));
            let update = HostCacheUpdate { super_nodes: addresses_to_wire(junk) };
            let found = Found { record: vec![7; 4000].into(), ..Found::default() };
            let name_key = vec![number as u8; 32].into();
            let notify = Notify { name_key, found: vec![found; 12] };
            for kind in [Kind::HostCacheUpdate(update), Kind::Notify(notify)] {
                if channel.send(kind).await.is_err() {
                    return;
                }
            }
        }
    }
    while let Some(kind) = inbox.recv().await {
        let Kind::Request(asked) = kind else { continue };
        let lie = Found {
            node: vec![9; 16].into(),
            super_nodes: vec![vec![8; 16].into(); 3],
            record: vec![1, 2, 3].into(),
            departed_unix_ms: 0,
        };
        let answer = match asked.kind {
            Some(request::Kind::LookUp(_)) => LookUpResult { found: vec![lie; 20] },
            _ => LookUpResult::default(),
        };
        let _ = channel.answer(asked.id, answer::Kind::LookUpResult(answer)).await;
    }
}

fn status(profile: &Path) -> Value {
    serde_json::from_str(run(profile, &["status"]).out.trim()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_super_node_costs_a_moment_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let network = network(folder.path(), 1);
    let good = network.super_node_pids()[0];
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let credentials = enrolled(&network, folder.path(), port);
    let (alice, bob) = (folder.path().join("alice"), folder.path().join("bob"));
    let register = |profile: &Path, name: &str| {
        run(profile, &["register", name, "--invitation", network.invitation()])
    };
    assert_eq!((register(&alice, "alice").code, register(&bob, "bob").code), (Some(0), Some(0)));
    let invitation: Invitation =
        fs::read_to_string(alice.join("invitation")).unwrap().trim().parse().unwrap();
    assert_eq!(invitation.super_nodes.len(), 2, "the good one and the evil one");
    let good_address = network.super_node_addresses()[0].to_string();

    for evil in [Evil::Stalls, Evil::Closes, Evil::Lies, Evil::Floods] {
        let seen = Arc::new(AtomicUsize::new(0));
        let credentials = credentials.clone();
        let serving =
            tokio::spawn(serve(credentials, invitation.clone(), port, evil, seen.clone()));
        let _ = fs::remove_file(alice.join("host-cache.json"));
        // While the good one cannot answer, the evil one has the node to itself.
        signal(good, "STOP");
        let up = ["up", "--bind", "127.0.0.1", "--loopback", "--super-node", "never"];
        let mut node = command(&alice, &up).stdout(Stdio::null()).spawn().unwrap();
        wait_for("a victim", || (seen.load(Ordering::Relaxed) > 0).then_some(()));
        if matches!(evil, Evil::Lies | Evil::Floods) {
            wait_for("the evil one in use", || {
                (status(&alice)["state"] == "attached").then_some(())
            });
            let called = tokio::task::block_in_place(|| run(&alice, &["call", "bob"]));
            assert_eq!(called.code, Some(5), "{evil:?}: {called:?}");
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        signal(good, "CONT");
        let rss = status(&alice)["rss_mib"].as_f64().expect("it still answers");
        println!("{evil:?}: {rss:.0} MiB, {} connections", seen.load(Ordering::Relaxed));
        assert!(rss < RSS_MIB_MAX, "{evil:?}: {rss} MiB");
        // It goes on being evil; a liar is found out when it is asked.
        wait_for("the good one in use", || {
            if evil == Evil::Lies {
                tokio::task::block_in_place(|| run(&alice, &["call", "bob"]));
            }
            (status(&alice)["super_node"] == good_address.as_str()).then_some(())
        });
        serving.abort();
        signal(node.id(), "TERM");
        assert!(node.wait().unwrap().success(), "{evil:?}");
    }
}
