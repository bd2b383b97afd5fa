//! Two sessions over a virtual network in virtual time.

mod access;
mod nat;
mod questions;
mod world;

use std::time::{Duration, Instant};

use cooee_media::{
    rate::VoiceRate,
    session::{PathKind, RelayTransport, SessionEvent},
};
use nat::NatKind;
use world::{SPEECH, World};

/// A world in which both ends have a relay and, unless hidden, their addresses.
fn world(kinds: [NatKind; 2], transports: &[&[RelayTransport]; 2], relays: usize) -> World {
    let mut world = World::new(kinds);
    let addresses: Vec<_> = (0..relays).map(|_| world.add_relay_node()).collect();
    world.exchange_parameters();
    for end in 0..2 {
        for (index, transport) in transports[end].iter().enumerate() {
            world.use_relay(end, addresses[(index + end) % relays], *transport);
        }
        world.add_host(end);
        if relays > 0 {
            world.gather(end, addresses[0]);
        }
    }
    world
}

const UDP: &[RelayTransport] = &[RelayTransport::Udp];
const UDP_TWICE: &[RelayTransport] = &[RelayTransport::Udp, RelayTransport::Udp];

fn connect(world: &mut World) {
    for end in 0..2 {
        world.reveal(end);
        world.talk(end);
    }
    let until = world.now + Duration::from_secs(10);
    assert!(world.run_until(until, |world| world.is_secure(0) && world.is_secure(1)));
}

fn assert_talking(world: &mut World) {
    let from = world.now;
    world.run_ms(1_000);
    for end in 0..2 {
        let gap = world.longest_gap(end, from, world.now);
        assert!(gap <= Duration::from_millis(120), "end {end} heard nothing for {gap:?}");
    }
}

#[test]
fn two_public_ends_talk_directly_within_three_round_trips() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    world.signalling_delay = Duration::ZERO;
    for end in 0..2 {
        world.reveal(end);
        world.talk(end);
    }
    let start = world.now;
    let until = start + Duration::from_secs(3);
    assert!(world.run_until(until, |world| world.ends.iter().all(|end| !end.heard.is_empty())));
    let round_trips: Vec<f64> = (0..2)
        .map(|end| {
            let first: Instant = *world.ends[end].heard.values().min().unwrap();
            (first - start).as_secs_f64() / 0.1
        })
        .collect();
    println!("round trips until the first voice packet is heard: {round_trips:?}");
    assert!(round_trips.iter().all(|count| *count <= 3.3), "{round_trips:?}");
    assert_eq!(world.kind(0), Some(PathKind::Direct));
    assert_talking(&mut world);
}

#[test]
fn two_ends_behind_port_restricted_nats_talk_directly() {
    let kinds = [NatKind::PortRestricted, NatKind::PortRestricted];
    let mut world = world(kinds, &[UDP, UDP], 2);
    connect(&mut world);
    world.run_ms(2_000);
    assert_eq!([world.kind(0), world.kind(1)], [Some(PathKind::Direct); 2]);
    assert_talking(&mut world);
}

#[test]
fn two_ends_behind_symmetric_nats_talk_through_a_relay() {
    let kinds = [NatKind::Symmetric, NatKind::Symmetric];
    let mut world = world(kinds, &[UDP, UDP], 2);
    connect(&mut world);
    world.run_ms(6_000);
    for end in 0..2 {
        let kind = world.kind(end).unwrap();
        assert!(matches!(kind, PathKind::RelayedUdp | PathKind::RelayedByPeer), "{kind}");
        assert!(world.has_event(end, |event| *event == SessionEvent::NewPortWanted).is_some());
    }
    assert_talking(&mut world);
}

#[test]
fn without_udp_the_voice_goes_through_a_relay_over_tcp_and_back_to_udp_when_that_works() {
    for transport in [RelayTransport::Tcp, RelayTransport::Tls] {
        let kinds = [NatKind::PortRestricted, NatKind::PortRestricted];
        let mut world = World::new(kinds);
        let relay = world.add_relay_node();
        world.ends[0].nat.udp_blocked = true;
        world.exchange_parameters();
        world.use_relay(0, relay, transport);
        world.use_relay(1, relay, RelayTransport::Udp);
        for end in 0..2 {
            world.add_host(end);
            world.gather(end, relay);
        }
        connect(&mut world);
        world.run_ms(1_000);
        let kind = world.kind(0).unwrap();
        assert!(matches!(kind, PathKind::RelayedTcp | PathKind::RelayedTls), "{kind}");
        assert_talking(&mut world);
        world.ends[0].nat.udp_blocked = false;
        let until = world.now + Duration::from_secs(15);
        let direct = |world: &World| world.kind(0) < Some(PathKind::RelayedTcp);
        assert!(world.run_until(until, direct), "UDP must be tried again");
        assert_talking(&mut world);
    }
}

#[test]
fn where_room_is_little_no_stream_is_opened_until_the_voice_needs_it() {
    let kinds = [NatKind::PortRestricted, NatKind::PortRestricted];
    let mut world = world(kinds, &[UDP, UDP], 2);
    connect(&mut world);
    world.run_ms(1_000);
    world.ends[0]
        .session
        .set_voice_rate(world.now, VoiceRate { bits_per_s: 12_000, has_queue: false });
    let relay = world.add_relay_node();
    world.use_relay(0, relay, RelayTransport::Tls);
    world.run_ms(60_000);
    assert_eq!(world.ends[0].opened, [], "UDP works");
    assert_talking(&mut world);
    world.ends[0].nat.udp_blocked = true;
    let by_stream = |world: &World| world.kind(0) == Some(PathKind::RelayedTls);
    let until = world.now + Duration::from_secs(8);
    assert!(world.run_until(until, by_stream), "{:?}", world.ends[0].opened);
    world.run_ms(2_000);
    assert_talking(&mut world);
}

#[test]
fn an_access_that_is_nearly_full_from_the_start_makes_nobody_doubt_the_path() {
    let kinds = [NatKind::None, NatKind::PortRestricted];
    let mut world = world(kinds, &[UDP_TWICE, UDP], 2);
    world.delay = Duration::from_millis(5);
    for access in &mut world.ends[0].access {
        // The voice takes 43 of them.
        access.bits_per_s = Some(50_000);
        access.queue_max = Duration::from_millis(500);
    }
    for end in &mut world.ends {
        end.sequence = 0;
    }
    connect(&mut world);
    let begin = world.now;
    world.run_ms(10_000);
    for end in &world.ends {
        assert_eq!(end.session.statistics().path_changes, 0);
        let sent = end.sent.iter().filter(|(at, _)| *at >= begin);
        let bytes: usize = sent.map(|(_, datagram)| datagram.bytes.len() + 28).sum();
        // The voice alone is 56,000; what is said beside it is most in the first second.
        assert!(bytes < 90_000, "{bytes} bytes in ten seconds");
    }
}

#[test]
fn a_stream_that_fails_is_tried_ever_more_rarely_while_the_voice_has_another_path() {
    let kinds = [NatKind::PortRestricted, NatKind::PortRestricted];
    let mut world = world(kinds, &[UDP, UDP], 2);
    connect(&mut world);
    let relay = world.add_relay_node();
    world.dead.insert(relay.ip());
    world.use_relay(0, relay, RelayTransport::Tls);
    let mut tries = Vec::new();
    while tries.len() < 10 {
        let opened = |world: &World| world.ends[0].opened.len() > tries.len();
        let until = world.now + Duration::from_secs(300);
        assert!(world.run_until(until, opened), "given up after {}", tries.len());
        let (at, id) = *world.ends[0].opened.last().unwrap();
        tries.push(at);
        world.ends[0].session.handle_stream_closed(at, id);
        world.drain(0);
    }
    let waits: Vec<_> = tries.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 256]);
    // Without any path, not so rarely.
    world.ends[0].nat.udp_blocked = true;
    let opened = |world: &World| world.ends[0].opened.len() > tries.len();
    let until = world.now + Duration::from_secs(35);
    assert!(world.run_until(until, opened), "the voice has no path");
}

#[test]
fn while_it_rings_only_relays_are_used_and_the_answer_finds_the_voice_ready() {
    let kinds = [NatKind::PortRestricted, NatKind::PortRestricted];
    let mut world = world(kinds, &[UDP, UDP], 2);
    world.run_ms(3_000);
    assert!(world.is_secure(0) && world.is_secure(1), "ready while it rings");
    for end in 0..2 {
        let other = world.ends[1 - end].bases[0].ip();
        let public = std::net::IpAddr::from([198, 51, 100, 2 - end as u8]);
        let to_peer = |ip| ip == other || ip == public;
        assert!(!world.ends[end].sent.iter().any(|(_, datagram)| to_peer(datagram.to.ip())));
    }
    let answered = world.now;
    for end in 0..2 {
        world.reveal(end);
        world.talk(end);
    }
    world.run_ms(5_000);
    let first: Instant = *world.ends[0].heard.values().min().unwrap();
    println!("answer to first voice: {:?}", first - answered);
    assert!(first - answered <= Duration::from_millis(110));
    assert_eq!([world.kind(0), world.kind(1)], [Some(PathKind::Direct); 2]);
    let gap = world.longest_gap(0, first, world.now);
    assert!(gap <= Duration::from_millis(100), "moving to the direct path cost {gap:?}");
}

#[test]
fn a_long_ringing_does_not_wear_the_handshake_out() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    world.run_ms(60_000);
    connect(&mut world);
    assert_talking(&mut world);
}

#[test]
fn the_death_of_a_relay_costs_at_most_half_a_second_of_sound() {
    let kinds = [NatKind::Symmetric, NatKind::Symmetric];
    for victim in 0..2 {
        let mut world = world(kinds, &[UDP_TWICE, UDP_TWICE], 2);
        connect(&mut world);
        world.run_ms(5_000);
        let died = world.now;
        world.dead.insert([192, 0, 2, victim + 1].into());
        world.run_ms(3_000);
        for end in 0..2 {
            let gap = world.longest_gap(end, died, world.now);
            println!("relay {victim} died: end {end} heard nothing for {gap:?}");
            assert!(gap <= Duration::from_millis(500), "{gap:?}");
        }
        assert_talking(&mut world);
    }
}

#[test]
fn the_death_of_one_of_two_chained_relays_costs_little_more() {
    let kinds = [NatKind::Symmetric, NatKind::Symmetric];
    for victim in 0..2 {
        let mut world = world(kinds, &[UDP_TWICE, UDP_TWICE], 2);
        for end in 0..2 {
            world.talk(end);
        }
        world.run_ms(6_000);
        let died = world.now;
        world.dead.insert([192, 0, 2, victim + 1].into());
        world.run_ms(3_000);
        for end in 0..2 {
            let gap = world.longest_gap(end, died, world.now);
            println!("relay {victim} of two died: end {end} heard nothing for {gap:?}");
            assert!(gap <= Duration::from_millis(500), "{gap:?}");
        }
    }
}

#[test]
fn a_path_that_goes_deaf_in_one_direction_is_replaced() {
    let mut world = world([NatKind::None, NatKind::None], &[UDP, UDP], 2);
    connect(&mut world);
    world.run_ms(4_000);
    assert_eq!([world.kind(0), world.kind(1)], [Some(PathKind::Direct); 2]);
    let from = world.now;
    world.cut.insert(([198, 51, 100, 1].into(), [198, 51, 100, 2].into()));
    world.run_ms(3_000);
    let noticed = world
        .has_event(0, |event| matches!(event, SessionEvent::PathDeaf { .. }))
        .expect("the sender must learn that the other is deaf");
    let gap = world.longest_gap(1, from, world.now);
    println!("noticed after {:?}, gap in sound {gap:?}", noticed - from);
    assert!(noticed - from <= Duration::from_secs(2));
    assert!(gap <= Duration::from_millis(500), "{gap:?}");
    assert!(world.kind(0) != Some(PathKind::Direct));
    assert_talking(&mut world);
}

#[test]
fn a_change_of_network_keeps_the_session() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    connect(&mut world);
    world.run_ms(1_000);
    let old = world.ends[0].bases[0];
    let new = std::net::SocketAddr::from(([198, 51, 100, 1], 6000));
    let from = world.now;
    world.ends[0].bases = vec![new];
    world.ends[0].session.remove_local_address(from, old);
    world.drain(0);
    world.add_host(0);
    world.restart(0);
    world.run_ms(2_000);
    let gap = world.longest_gap(1, from, world.now);
    println!("change of address: the other end heard nothing for {gap:?}");
    assert!(gap <= Duration::from_secs(1), "{gap:?}");
    assert_eq!(world.ends[1].session.local_parameters().generation, 1);
    assert_talking(&mut world);
}

#[test]
fn a_change_of_network_moves_the_relays_too() {
    let kinds = [NatKind::Symmetric, NatKind::Symmetric];
    let mut world = World::new(kinds);
    let relay = world.add_relay_node();
    world.exchange_parameters();
    let ids = [0, 1].map(|end| world.use_relay(end, relay, RelayTransport::Udp));
    for end in 0..2 {
        world.add_host(end);
    }
    connect(&mut world);
    world.run_ms(2_000);
    let from = world.now;
    let old = world.ends[0].bases[0];
    let new = std::net::SocketAddr::from(([10, 0, 1, 2], 6000));
    world.ends[0].bases = vec![new];
    world.ends[0].session.remove_local_address(from, old);
    world.ends[0].session.move_relay(from, ids[0], new).unwrap();
    world.drain(0);
    world.add_host(0);
    world.restart(0);
    world.run_ms(3_000);
    for end in 0..2 {
        let gap = world.longest_gap(end, from, world.now);
        println!("change of network with one relay: end {end} heard nothing for {gap:?}");
        assert!(gap <= Duration::from_secs(1), "{gap:?}");
    }
    assert_talking(&mut world);
}

#[test]
fn everything_dead_is_said_and_healed_when_the_network_comes_back() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    connect(&mut world);
    world.run_ms(1_000);
    world.loss = 1.0;
    world.run_ms(10_000);
    for end in 0..2 {
        assert!(world.has_event(end, |event| *event == SessionEvent::PathLost).is_some());
        assert!(world.has_event(end, |event| *event == SessionEvent::RestartWanted).is_some());
    }
    world.loss = 0.0;
    world.run_ms(4_000);
    for end in 0..2 {
        assert!(world.has_event(end, |event| *event == SessionEvent::PathRestored).is_some());
    }
    assert_talking(&mut world);
}

#[test]
fn another_certificate_than_the_signalled_one_is_refused() {
    let mut world = World::new([NatKind::None, NatKind::None]);
    for end in 0..2 {
        let mut parameters = world.ends[1 - end].session.local_parameters().clone();
        if end == 0 {
            parameters.fingerprint[3] ^= 1;
        }
        let now = world.now;
        world.ends[end].session.set_remote_parameters(now, parameters).unwrap();
        world.drain(end);
        world.add_host(end);
        world.reveal(end);
        world.talk(end);
    }
    // Speech sent into an ended session is an error for the caller, so nobody talks on.
    world.ends[0].talking = false;
    world.run_ms(3_000);
    assert!(world.has_event(0, |event| *event == SessionEvent::Refused).is_some());
    assert!(!world.is_secure(0));
    assert!(world.ends.iter().all(|end| end.heard.is_empty()));
}

#[test]
fn forged_replayed_and_damaged_datagrams_are_harmless() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    connect(&mut world);
    world.run_ms(1_000);
    let captured: Vec<_> = world.ends[0].sent.iter().map(|(_, one)| one.clone()).collect();
    for (index, datagram) in captured.iter().enumerate() {
        world.inject(datagram.clone());
        let mut cut = datagram.clone();
        cut.bytes.truncate(index % datagram.bytes.len());
        world.inject(cut);
        let mut flipped = datagram.clone();
        let place = (index * 7) % flipped.bytes.len();
        flipped.bytes[place] ^= 1 << (index % 8);
        world.inject(flipped);
        let mut elsewhere = datagram.clone();
        elsewhere.from.set_port(999);
        world.inject(elsewhere);
        world.run_ms(5);
    }
    assert_eq!(world.ends[1].duplicates, 0);
    assert_talking(&mut world);
    assert_eq!([world.kind(0), world.kind(1)], [Some(PathKind::Direct); 2]);
}

#[test]
fn no_datagram_contains_plain_speech() {
    let kinds = [NatKind::Symmetric, NatKind::Symmetric];
    let mut world = world(kinds, &[UDP, &[RelayTransport::Tcp]], 2);
    connect(&mut world);
    world.run_ms(1_000);
    assert_talking(&mut world);
    for end in &world.ends {
        assert!(end.heard.len() > 40);
        for (_, datagram) in &end.sent {
            assert!(!datagram.bytes.windows(12).any(|window| window == &SPEECH[..12]));
        }
    }
}

#[test]
fn on_hold_a_packet_every_three_seconds_keeps_the_path() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    connect(&mut world);
    world.run_ms(1_000);
    for end in 0..2 {
        world.ends[end].talking = false;
        let now = world.now;
        world.ends[end].session.set_hold(now, true);
        world.drain(end);
    }
    world.run_ms(3_000);
    let from = world.now;
    world.run_ms(60_000);
    let sent: Vec<_> =
        world.ends[0].sent.iter().filter(|(at, _)| *at >= from).map(|(at, _)| *at).collect();
    println!("on hold: {} datagrams in 60 s", sent.len());
    assert!(sent.len() <= 60, "{}", sent.len());
    assert!(sent.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_millis(3_100)));
    assert!(world.has_event(0, |event| matches!(event, SessionEvent::PathDeaf { .. })).is_none());
    for end in 0..2 {
        let now = world.now;
        world.ends[end].session.set_hold(now, false);
        world.drain(end);
        world.talk(end);
    }
    world.run_ms(200);
    assert_talking(&mut world);
}

#[test]
fn feedback_arrives_and_statistics_tell_loss_and_round_trip() {
    let mut world = world([NatKind::None, NatKind::None], &[&[], &[]], 0);
    connect(&mut world);
    world.loss = 0.1;
    for _ in 0..20 {
        world.run_ms(500);
        let now = world.now;
        world.ends[0].session.send_feedback(now, bytes::Bytes::from_static(b"more")).unwrap();
        world.drain(0);
    }
    world.run_ms(200);
    let arrived = world.ends[1].feedback.len();
    assert!((10..=20).contains(&arrived), "{arrived}");
    let statistics = world.ends[1].session.statistics();
    assert!((0.05..0.16).contains(&statistics.loss_ratio()), "{statistics:?}");
    let round_trip = statistics.round_trip.unwrap();
    assert!((95..=110).contains(&round_trip.as_millis()), "{round_trip:?}");
    assert!(statistics.jitter < Duration::from_millis(2));
}
