//! CPU per relayed packet and memory per call: our relay, coturn, and a plain recvfrom/sendto
//! loop as the floor, in one run, as ratios.
//!
//! `cargo bench -p cooee-node --bench relay` (needs Debian's `coturn`). Each server is a process of
//! its own; 1,000 clients with an allocation and a channel each send 100-byte payloads to a peer
//! that sends them back. What is counted is the server's processor time, user and system, of all
//! its threads, so that a busy machine disturbs little; rounds are interleaved and medians taken.

mod client;
mod servers;

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use client::Caller;
use servers::{Kind, Server};

const CALLS: usize = 1000;
const PAYLOAD_BYTES: usize = 100;
/// Packets in flight: what the smallest default socket buffer holds.
const WINDOW: usize = 200;
const ROUNDS: usize = 9;
/// Windows in one round of one server: 20,000 packets each way.
const WINDOWS_PER_ROUND: usize = 100;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("--serve-floor") => servers::serve_floor(),
        Some("--serve-relay") => servers::serve_relay(),
        _ => drive(),
    }
}

struct Bench {
    server: Server,
    callers: Vec<Caller>,
    nanoseconds_per_packet: Vec<f64>,
    lost: usize,
    bytes_per_call: f64,
}

fn drive() {
    let peer = echo_peer();
    let mut benches: Vec<Bench> = [Kind::Floor, Kind::Ours, Kind::OursPair, Kind::Coturn]
        .into_iter()
        .map(|kind| set_up(kind, peer))
        .collect();
    for round in 0..=ROUNDS {
        for bench in &mut benches {
            let (nanoseconds, lost) = run_round(bench);
            // The first round warms caches and is not counted.
            if round > 0 {
                bench.nanoseconds_per_packet.push(nanoseconds);
                bench.lost += lost;
            }
        }
    }
    let floor = median(&benches[0].nanoseconds_per_packet);
    println!("{CALLS} calls, {PAYLOAD_BYTES}-byte payloads, medians of {ROUNDS} rounds");
    println!(
        "| server | CPU per packet | ratio to floor | packets per CPU second | RSS per call | \
         lost |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for bench in &benches {
        let mine = median(&bench.nanoseconds_per_packet);
        println!(
            "| {} | {:.2} µs | {:.2} | {:.0} | {:.0} B | {} |",
            bench.server.kind.name(),
            mine / 1000.0,
            mine / floor,
            1e9 / mine,
            bench.bytes_per_call,
            bench.lost,
        );
    }
}

fn set_up(kind: Kind, peer: SocketAddr) -> Bench {
    let server = Server::start(kind);
    let before = server.resident_bytes();
    let callers = match kind {
        Kind::OursPair => client::pairs(&server, CALLS),
        _ => (0..CALLS).map(|_| Caller::new(&server, peer)).collect(),
    };
    let bytes_per_call = (server.resident_bytes() as f64 - before as f64) / CALLS as f64;
    Bench { server, callers, nanoseconds_per_packet: Vec::new(), lost: 0, bytes_per_call }
}

/// Nanoseconds of the server's processor time for each packet it forwarded, and round trips lost.
fn run_round(bench: &mut Bench) -> (f64, usize) {
    let before = bench.server.cpu_nanoseconds();
    let (mut forwarded, mut lost) = (0, 0);
    for window in 0..WINDOWS_PER_ROUND {
        let first = window * WINDOW % CALLS;
        let callers = &bench.callers[first..first + WINDOW];
        for caller in callers {
            caller.send();
        }
        for caller in callers {
            if caller.receive() {
                forwarded += caller.packets_per_answer();
            } else {
                lost += 1;
            }
        }
    }
    let spent = bench.server.cpu_nanoseconds() - before;
    (spent as f64 / f64::from(forwarded.max(1)), lost)
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Sends everything back, with the floor's two port fields exchanged.
fn echo_peer() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
    let address = socket.local_addr().expect("bound");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            buffer[..4].rotate_left(2);
            // A full buffer loses the packet, and the round counts it.
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}

/// How long one answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_millis(200);
