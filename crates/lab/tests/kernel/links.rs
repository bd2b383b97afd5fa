//! The emulated link carries real packets with the delay, loss and rate that it was given.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use cooee_lab::{
    namespace::inside,
    network::Network,
    topology::{Host, LinkConfig, Loss, Topology},
};

fn topology(link: LinkConfig) -> Topology {
    let host = |name: &str, link| Host {
        name: name.to_owned(),
        behind: None,
        family: Default::default(),
        link,
    };
    Topology {
        name: "link".to_owned(),
        seed: 5,
        gateways: Vec::new(),
        hosts: vec![host("alice", Some(link)), host("bob", None)],
    }
}

/// Sends `packets` of 100 bytes, one every `gap`; the one-way delays in ms of those that came.
fn send(network: &Network, packets: u16, gap: Duration) -> Result<Vec<f64>> {
    let socket = |host: &str| {
        inside(&network.namespace(host), || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))
    };
    let (alice, bob) = (socket("alice")?, socket("bob")?);
    bob.set_read_timeout(Some(Duration::from_millis(500)))?;
    let to = (network.ipv4("bob").context("address")?, bob.local_addr()?.port());
    let start = Instant::now();
    let receiver = std::thread::spawn(move || {
        let mut delays = Vec::new();
        let mut buffer = [0; 100];
        while let Ok((100, _)) = bob.recv_from(&mut buffer) {
            let sent = u64::from_be_bytes(buffer[..8].try_into().expect("8 bytes"));
            delays.push((start.elapsed() - Duration::from_nanos(sent)).as_secs_f64() * 1000.0);
        }
        delays
    });
    for number in 0..packets {
        let due = start + gap * u32::from(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let mut packet = [0; 100];
        let elapsed = u64::try_from(start.elapsed().as_nanos())?;
        packet[..8].copy_from_slice(&elapsed.to_be_bytes());
        alice.send_to(&packet, to)?;
    }
    Ok(receiver.join().expect("the receiver does not panic"))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub(crate) fn an_emulated_link_delays_loses_and_limits() -> Result<()> {
    let millisecond = Duration::from_millis(1);
    let slow = LinkConfig { delay_ms: 40.0, ..LinkConfig::default() };
    let network = Network::up(&topology(slow), "l")?;
    let delays = send(&network, 200, millisecond)?;
    ensure!(delays.len() == 200, "{} of 200 arrived", delays.len());
    ensure!(delays.iter().all(|delay| *delay >= 40.0), "a packet was faster than the link");
    println!("  emulator adds {:.3} ms at the median", median(&delays) - 40.0);

    let link = network.link("alice").context("alice's link is emulated")?;
    link.set(LinkConfig { loss: Loss::Random(0.3), ..LinkConfig::default() });
    let arrived = send(&network, 1000, millisecond / 4)?.len();
    ensure!((620..780).contains(&arrived), "{arrived} of 1000 arrived at 30 % loss");

    link.set(LinkConfig { rate_bps: Some(102_400), queue_ms: 50.0, ..LinkConfig::default() });
    // 128 bytes with headers each millisecond is ten times the rate.
    let delays = send(&network, 500, millisecond)?;
    ensure!((50..62).contains(&delays.len()), "{} of 500 passed the limit", delays.len());

    link.set(LinkConfig { up: false, ..LinkConfig::default() });
    ensure!(send(&network, 10, millisecond)?.is_empty(), "packets passed a link that is down");
    let lost = link.counts()[0].lost;
    ensure!((230..=400).contains(&lost), "{lost} counted as lost");
    Ok(())
}
