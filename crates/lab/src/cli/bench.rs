//! `cooee lab link`: sends real packets over an emulated link and compares what came of them with
//! what the link was told to do. Also what the emulator itself adds and costs.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::{
    namespace::inside,
    network::Network,
    sandbox,
    topology::{Family, Host, LinkConfig, Loss, Topology},
};

/// `cooee lab link`.
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// One-way delay in ms
    #[arg(long, default_value_t = 0.0)]
    delay_ms: f64,
    /// Standard deviation of the delay in ms
    #[arg(long, default_value_t = 0.0)]
    jitter_ms: f64,
    /// Loss, as a probability
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Mean length of a burst of losses; 0: independent losses
    #[arg(long, default_value_t = 0.0)]
    burst: f64,
    /// Rate in bits per second
    #[arg(long)]
    rate_bps: Option<u64>,
    /// Packets to send
    #[arg(long, default_value_t = 2000)]
    packets: u32,
    /// Time between packets in ms
    #[arg(long, default_value_t = 1.0)]
    every_ms: f64,
    /// Bytes of payload in each
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

pub(super) fn link(arguments: &LinkArgs, json: bool) -> Result<()> {
    let loss = match (arguments.loss > 0.0, arguments.burst > 0.0) {
        (false, _) => Loss::None,
        (true, false) => Loss::Random(arguments.loss),
        (true, true) => Loss::bursts(arguments.loss, arguments.burst),
    };
    let config = LinkConfig {
        delay_ms: arguments.delay_ms,
        jitter_ms: arguments.jitter_ms,
        loss,
        rate_bps: arguments.rate_bps,
        ..LinkConfig::default()
    };
    config.check()?;
    sandbox::enter()?;
    let host =
        |name: &str, link| Host { name: name.to_owned(), behind: None, family: Family::Ipv4, link };
    let topology = Topology {
        name: "link".to_owned(),
        seed: 1,
        gateways: Vec::new(),
        hosts: vec![host("alice", Some(config)), host("bob", None)],
    };
    let network = Network::up(&topology, "lab")?;
    let cpu_before = cpu_seconds();
    let mut delays_ms = send(&network, arguments)?;
    let cpu_us = (cpu_seconds() - cpu_before) * 1e6 / f64::from(arguments.packets);
    delays_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (delays_ms.len().saturating_sub(1) as f64 * share).round() as usize;
        delays_ms.get(index).copied().unwrap_or(f64::NAN)
    };
    let lost = 1.0 - delays_ms.len() as f64 / f64::from(arguments.packets);
    let (median, p95) = (at(0.5), at(0.95));
    let added_ms = at(0.0) - arguments.delay_ms;
    if json {
        let line = json!({
            "ok": true, "sent": arguments.packets, "arrived": delays_ms.len(), "lost": lost,
            "delay_ms_min": at(0.0), "delay_ms_median": median, "delay_ms_p95": p95,
            "cpu_us_per_packet": cpu_us,
        });
        println!("{line}");
    } else {
        println!("arrived        {} of {}", delays_ms.len(), arguments.packets);
        println!("lost           {:.2} % (told: {:.2} %)", lost * 100.0, arguments.loss * 100.0);
        println!("delay          median {median:.3} ms, 95 % below {p95:.3} ms");
        println!("beyond told    {added_ms:.3} ms at least");
        println!("processor      {cpu_us:.1} µs a packet (sender and receiver included)");
    }
    Ok(())
}

/// The one-way delays in ms of the packets that arrived.
fn send(network: &Network, arguments: &LinkArgs) -> Result<Vec<f64>> {
    let socket = |host: &str| {
        inside(&network.namespace(host), || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))
    };
    let (alice, bob) = (socket("alice")?, socket("bob")?);
    bob.set_read_timeout(Some(Duration::from_secs(1)))?;
    let to = (network.ipv4("bob").context("bob has an address")?, bob.local_addr()?.port());
    let length = arguments.bytes.clamp(8, 1400);
    let start = Instant::now();
    let receiver = std::thread::spawn(move || {
        let mut delays = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((8.., _)) = bob.recv_from(&mut buffer) {
            let sent = u64::from_be_bytes(buffer[..8].try_into().expect("8 bytes are there"));
            let delay = start.elapsed().saturating_sub(Duration::from_nanos(sent));
            delays.push(delay.as_secs_f64() * 1000.0);
        }
        delays
    });
    let mut packet = vec![0; length];
    for number in 0..arguments.packets {
        let due = start + Duration::from_secs_f64(arguments.every_ms / 1e3 * f64::from(number));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        packet[..8].copy_from_slice(&u64::try_from(start.elapsed().as_nanos())?.to_be_bytes());
        alice.send_to(&packet, to)?;
    }
    receiver.join().map_err(|_| anyhow!("the receiver panicked"))
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
