//! Each gateway kind against RFC 4787's words, with plain sockets: no STUN code of ours involved.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use cooee_lab::{
    namespace::inside,
    network::Network,
    topology::{Firewall, Gateway, Host, Nat, Refusal, Topology},
};

const WAIT: Duration = Duration::from_millis(150);

fn udp(network: &Network, host: &str) -> Result<UdpSocket> {
    inside(&network.namespace(host), || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(WAIT))?;
        Ok(socket)
    })
}

fn host(name: &str, behind: Option<&str>) -> Host {
    Host {
        name: name.to_owned(),
        behind: behind.map(str::to_owned),
        family: Default::default(),
        link: None,
    }
}

fn gateway(nat: Nat) -> Gateway {
    Gateway {
        name: "gw".to_owned(),
        behind: None,
        nat,
        hairpin: false,
        firewall: Firewall::Open,
        refusal: Refusal::Drop,
        udp_binding_s: None,
        block: Vec::new(),
        link: None,
    }
}

fn topology(gateway: Gateway) -> Topology {
    Topology {
        name: "nat".to_owned(),
        seed: 1,
        gateways: vec![gateway],
        hosts: vec![
            host("alice", Some("gw")),
            host("bob", Some("gw")),
            host("one", None),
            host("two", None),
        ],
    }
}

/// Sends from `from` to `to` and tells what address the packet came from, if it came.
fn arrives(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> Result<Option<SocketAddr>> {
    from.send_to(b"packet", address)?;
    let mut buffer = [0; 16];
    match to.recv_from(&mut buffer) {
        Ok((_, from)) => Ok(Some(from)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn address(network: &Network, host: &str, socket: &UdpSocket) -> Result<SocketAddr> {
    let ip = network.ipv4(host).context("host has an address")?;
    Ok((ip, socket.local_addr()?.port()).into())
}

pub(crate) fn every_kind_maps_and_filters_as_it_says() -> Result<()> {
    // Kind; same mapping to another address; stranger let in; asked address on another port let in.
    let kinds = [
        (Nat::FullCone, true, true, true),
        (Nat::AddressRestricted, true, false, true),
        (Nat::PortRestricted, true, false, false),
        (Nat::Symmetric, false, false, false),
    ];
    for (nat, same_mapping, stranger, other_port) in kinds {
        let network = Network::up(&topology(gateway(nat)), "n")?;
        let alice = udp(&network, "alice")?;
        let (one, one_other, two) =
            (udp(&network, "one")?, udp(&network, "one")?, udp(&network, "two")?);
        let (at_one, at_two) = (address(&network, "one", &one)?, address(&network, "two", &two)?);

        let mapped = arrives(&alice, &one, at_one)?.context("nothing arrived at one")?;
        ensure!(Some(mapped.ip()) == network.ipv4("gw").map(Into::into), "{nat:?}: not translated");
        ensure!(arrives(&one, &alice, mapped)?.is_some(), "{nat:?}: no answer came back");

        let in_from_stranger = arrives(&two, &alice, mapped)?.is_some();
        ensure!(in_from_stranger == stranger, "{nat:?}: stranger let in: {in_from_stranger}");
        let in_from_port = arrives(&one_other, &alice, mapped)?.is_some();
        ensure!(in_from_port == other_port, "{nat:?}: other port let in: {in_from_port}");

        let mapped_to_two = arrives(&alice, &two, at_two)?.context("nothing arrived at two")?;
        ensure!(
            (mapped_to_two == mapped) == same_mapping,
            "{nat:?}: mapped to {mapped}, then to {mapped_to_two}"
        );
    }
    let network =
        Network::up(&topology(Gateway { hairpin: true, ..gateway(Nat::PortRestricted) }), "n")?;
    hairpins(&network, true)?;
    drop(network);
    hairpins(&Network::up(&topology(gateway(Nat::PortRestricted)), "n")?, false)
}

/// Whether bob's mapped address can be reached from alice behind the same gateway.
fn hairpins(network: &Network, expected: bool) -> Result<()> {
    let (alice, bob, one) = (udp(network, "alice")?, udp(network, "bob")?, udp(network, "one")?);
    let at_one = address(network, "one", &one)?;
    let mapped = arrives(&bob, &one, at_one)?.context("nothing arrived at one")?;
    let seen_from = arrives(&alice, &bob, mapped)?;
    ensure!(seen_from.is_some() == expected, "hairpin {expected}: seen {seen_from:?}");
    if let Some(seen_from) = seen_from {
        ensure!(Some(seen_from.ip()) == network.ipv4("gw").map(Into::into), "inner address shown");
        ensure!(arrives(&bob, &alice, seen_from)?.is_some(), "no answer through the hairpin");
    }
    Ok(())
}

pub(crate) fn a_firewall_drops_or_rejects() -> Result<()> {
    for (refusal, told) in [(Refusal::Drop, false), (Refusal::Reject, true)] {
        let firewalled =
            Gateway { firewall: Firewall::Only443, refusal, ..gateway(Nat::PortRestricted) };
        let network = Network::up(&topology(firewalled), "n")?;
        let alice = udp(&network, "alice")?;
        let one = udp(&network, "one")?;
        let at_one = address(&network, "one", &one)?;
        ensure!(arrives(&alice, &one, at_one)?.is_none(), "{refusal:?}: UDP got out");

        let listen = |port| {
            inside(&network.namespace("one"), || {
                Ok(std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?)
            })
        };
        let (_https, _http) = (listen(443)?, listen(80)?);
        let connect = |port| {
            let to = SocketAddr::from((network.ipv4("one").context("address")?, port));
            inside(&network.namespace("alice"), || {
                Ok(TcpStream::connect_timeout(&to, Duration::from_millis(400)).map(drop))
            })
        };
        ensure!(connect(443)?.is_ok(), "{refusal:?}: 443 does not get out");
        let refused = connect(80)?.expect_err("80 must not get out").kind();
        ensure!(
            (refused == io::ErrorKind::ConnectionRefused) == told,
            "{refusal:?}: port 80 ends with {refused:?}"
        );
    }
    Ok(())
}
