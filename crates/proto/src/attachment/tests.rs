//! The machine in virtual time against hosts that answer, drop, refuse, redirect or lie.

#![allow(clippy::disallowed_methods, reason = "a test needs some moment to start from")]

use proptest::prelude::*;

use self::world::{Tcp, World, host, node, port};
use super::*;
use crate::host_cache::PATIENT_AFTER;

mod world;

/// By then a second super node is warm.
const WARM: Duration = Duration::from_secs(3);

#[test]
fn an_open_network_attaches_after_one_handshake_and_warms_a_second() {
    let mut world = World::new(&[1, 2, 3]);
    world.start();
    world.run_for(WARM);
    assert_eq!(world.attached_after(), Some(300));
    assert!(world.warm().is_some_and(|warm| Some(warm) != world.in_use()));
    assert_eq!(world.open.len(), 2, "no third connection stays open");
}

#[test]
fn no_second_handshake_begins_while_the_first_one_makes_progress() {
    let mut world = World::new(&[1, 2, 3]);
    world.start();
    world.run_for(Duration::from_millis(800));
    assert_eq!(world.attached_after(), Some(300));
    assert_eq!(world.connects.len(), 1, "{:?}", world.connects);
}

#[test]
fn with_udp_blocked_the_login_costs_no_more_and_says_so() {
    let mut world = World::new(&[1, 2, 3]).no_udp();
    world.start();
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.attached_after(), Some(300));
    assert!(world.events.iter().any(|(_, e)| *e == Event::UdpChanged(Udp::Blocked)));
}

#[test]
fn with_only_port_443_open_the_login_takes_less_than_a_second_and_a_half() {
    let mut world = World::new(&[1, 2, 3]).all_tcp(&Tcp::Dropped).no_udp();
    for n in 1..=3 {
        world.tcp.insert(port(n, 80), Tcp::Dropped);
        world.tcp.insert(port(n, 443), Tcp::Attaches(n));
    }
    world.start();
    world.run_for(Duration::from_secs(3));
    assert!(world.attached_after().unwrap() < 1500, "{:?}", world.connects);
    assert_eq!(world.machine.port_kind(), PortKind::Https);
    // The next login starts with what worked.
    let cache = world.machine.host_cache().clone();
    let tcp = world.tcp.clone();
    let mut next = World::new(&[1, 2, 3]).no_udp();
    next.machine = Attachment::new(Config::default(), node(255), cache, PortKind::Https, [3; 32]);
    next.tcp = tcp;
    next.start();
    next.run_for(Duration::from_secs(1));
    assert_eq!(next.attached_after(), Some(300));
}

#[test]
fn an_answered_probe_brings_its_host_forward() {
    let hosts: Vec<u8> = (1..=5).collect();
    let mut world = World::new(&hosts).all_tcp(&Tcp::Dropped).no_udp();
    world.tcp.insert(host(4), Tcp::Attaches(4));
    world.udp_hosts.insert(host(4));
    world.start();
    world.run_for(Duration::from_secs(3));
    // One round trip of the probe, three of the handshake, whatever the order was; and the grace
    // that the attempt under way has.
    assert!(world.attached_after().unwrap() <= 470, "{:?}", world.connects);
}

#[test]
fn the_answer_of_another_host_starts_no_second_handshake() {
    for seed in 0..8 {
        let mut world = World::new(&[1, 2, 3, 4, 5]);
        let cache = world.machine.host_cache().clone();
        world.machine =
            Attachment::new(Config::default(), node(255), cache, PortKind::Own, [seed; 32]);
        world.start();
        world.run_for(Duration::from_millis(500));
        assert!(world.in_use().is_some());
        assert_eq!(world.connects.len(), 1, "{:?}", world.connects);
    }
}

#[test]
fn a_refused_attempt_starts_the_next_at_once() {
    let mut world =
        World::new(&[1, 2, 3]).all_tcp(&Tcp::Answers(Failure::ConnectionRefused)).no_udp();
    world.start();
    world.run_for(Duration::from_millis(1000));
    assert!(world.connects.len() >= 9, "{:?}", world.connects);
}

#[test]
fn the_warm_super_node_takes_over_at_once() {
    let mut world = World::new(&[1, 2, 3]);
    world.start();
    world.run_for(WARM);
    let (first, second) = (world.in_use().unwrap(), world.warm().unwrap());
    let lost_at = world.elapsed_ms();
    world.lose(first.0[0]);
    assert_eq!(world.in_use(), Some(second));
    let (at, _) =
        world.events.iter().rev().find(|(_, e)| matches!(e, Event::Attached { .. })).unwrap();
    assert_eq!(*at, lost_at);
    world.run_for(Duration::from_secs(5));
    assert!(world.warm().is_some_and(|warm| warm != first), "a new warm one is found");
}

#[test]
fn one_whose_connections_end_at_once_comes_last() {
    for seed in 0..8 {
        let mut world = World::with_seed(&[1, 2, 3], seed);
        world.start();
        let mut misbehaved = 0;
        for _ in 0..200 {
            world.run_for(Duration::from_millis(50));
            if world.open.values().any(|at| at.ip() == host(1).ip()) {
                misbehaved += 1;
                world.break_off(1);
            }
        }
        assert!(misbehaved <= 2, "attached {misbehaved} times: {:?}", world.connects);
        assert_ne!(world.in_use(), Some(node(1)));
    }
}

#[test]
fn the_only_super_node_is_not_asked_without_end_when_it_ends_every_connection() {
    let mut world = World::new(&[1]);
    world.start();
    for _ in 0..600 {
        world.run_for(Duration::from_millis(100));
        world.break_off(1);
    }
    assert!((10..60).contains(&world.connects.len()), "{} in a minute", world.connects.len());
}

#[test]
fn losing_both_at_once_is_healed_within_two_seconds() {
    let mut world = World::new(&[1, 2, 3, 4]);
    world.start();
    world.run_for(WARM);
    let (first, second) = (world.in_use().unwrap(), world.warm().unwrap());
    world.lose(second.0[0]);
    world.lose(first.0[0]);
    world.run_for(Duration::from_secs(2));
    assert!(world.in_use().is_some(), "{:?}", world.connects);
}

#[test]
fn a_full_super_node_leads_to_the_others_it_names() {
    let mut world = World::new(&[1]);
    world.tcp.insert(host(1), Tcp::Answers(Failure::Busy { try_these: vec![host(7), host(8)] }));
    world.tcp.insert(host(7), Tcp::Attaches(7));
    world.tcp.insert(host(8), Tcp::Answers(Failure::Busy { try_these: vec![host(1)] }));
    world.start();
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.in_use(), Some(node(7)));
}

#[test]
fn super_nodes_that_send_in_circles_are_given_up() {
    let mut world = World::new(&[1]);
    for n in 1..=200 {
        let try_these = (0..20).map(|k| host((n + k) % 200 + 1)).collect();
        world.tcp.insert(host(n), Tcp::Answers(Failure::Busy { try_these }));
    }
    world.start();
    world.run_for(Duration::from_millis(5_000));
    assert!(world.connects.len() < 120, "{}", world.connects.len());
    assert!(!world.events.iter().any(|(_, e)| matches!(e, Event::Attached { .. })));
}

#[test]
fn draining_moves_to_the_warm_one_and_without_it_waits_for_the_new() {
    let mut world = World::new(&[1, 2]);
    world.start();
    world.run_for(WARM);
    let (first, second) = (world.in_use().unwrap(), world.warm().unwrap());
    let attempt = |world: &World, n: NodeId| {
        *world.open.iter().find(|(_, at)| at.ip() == host(n.0[0]).ip()).unwrap().0
    };
    let leaving = attempt(&world, first);
    world.tcp.insert(host(first.0[0]), Tcp::Dropped);
    world.machine.handle_drain(world.now, leaving, &[]);
    world.run_for(Duration::from_millis(500));
    assert_eq!(world.in_use(), Some(second));
    // Nobody warm but the leaving one: the second drains too and names a third.
    world.tcp.insert(host(9), Tcp::Attaches(9));
    world.run_for(Duration::from_secs(15));
    let leaving = attempt(&world, second);
    world.machine.handle_drain(world.now, leaving, &[host(9)]);
    world.drain();
    assert!(world.in_use().is_some(), "the old one serves until there is a new one");
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.in_use(), Some(node(9)));
}

#[test]
fn each_trouble_is_told_by_its_name() {
    let cases: [(Tcp, Trouble); 8] = [
        (Tcp::Answers(Failure::NoNetwork), Trouble::NoNetwork),
        (Tcp::Answers(Failure::ConnectionRefused), Trouble::TurnedAway),
        (Tcp::Answers(Failure::Clock("c".into())), Trouble::Clock("c".into())),
        (Tcp::Answers(Failure::OwnCertificate("x".into())), Trouble::OwnCertificate("x".into())),
        (Tcp::Answers(Failure::Proxy("407".into())), Trouble::Proxy("407".into())),
        (Tcp::Answers(Failure::Foreign), Trouble::Foreign),
        (Tcp::Answers(Failure::Busy { try_these: vec![] }), Trouble::AllBusy),
        (Tcp::Answers(Failure::Refused("no".into())), Trouble::Refused("no".into())),
    ];
    for (tcp, expected) in cases {
        let mut world = World::new(&[1, 2]).all_tcp(&tcp).no_udp();
        for n in 1..=2 {
            world.tcp.insert(port(n, 443), tcp.clone());
            world.tcp.insert(port(n, 80), tcp.clone());
        }
        world.start();
        let mut told = None;
        for _ in 0..100 {
            world.run_for(Duration::from_millis(10));
            told = told.or_else(|| world.trouble());
        }
        assert_eq!(told, Some(expected));
    }
    let mut nobody = World::new(&[]);
    nobody.start();
    assert_eq!(nobody.trouble(), Some(Trouble::NoneKnown));
}

#[test]
fn while_it_tries_again_the_last_reason_is_still_told() {
    let refused = Tcp::Answers(Failure::ConnectionRefused);
    for (tcp, expected) in [(refused, Trouble::TurnedAway), (Tcp::Dropped, Trouble::NothingAnswers)]
    {
        let mut world = World::new(&[1, 2]).all_tcp(&tcp).no_udp();
        for n in 1..=2 {
            world.tcp.insert(port(n, 443), tcp.clone());
            world.tcp.insert(port(n, 80), tcp.clone());
        }
        world.start();
        assert_eq!(*world.status(), Status::Racing { before: None });
        let mut failed = false;
        let mut raced_again = false;
        for _ in 0..6_000 {
            world.run_for(Duration::from_millis(10));
            failed |= world.trouble().is_some();
            if let Status::Racing { before } = world.status()
                && failed
            {
                raced_again = true;
                assert_eq!(*before, Some(expected.clone()));
            }
        }
        assert!(raced_again, "it tries again within a minute");
        world.tcp = [1, 2].into_iter().map(|n| (host(n), Tcp::Attaches(n))).collect();
        world.machine.handle_network_change(world.now);
        world.run_for(Duration::ZERO);
        assert!(!matches!(world.status(), Status::Racing { before: Some(_) }));
    }
}

#[test]
fn with_everything_blocked_the_races_become_rare_and_end_when_the_network_is_back() {
    let mut world = World::new(&[1, 2, 3]).all_tcp(&Tcp::Dropped).no_udp();
    world.start();
    world.run_for(PATIENT_AFTER);
    let at_first = world.connects.len();
    // A race of nine attempts lasts twelve seconds and is followed by a pause of eight at most.
    assert!((200..550).contains(&at_first), "{at_first} attempts while somebody waits");
    world.run_for(Duration::from_secs(3600));
    let last_hour = world.connects.len() - at_first;
    assert!(last_hour < 400, "{last_hour} attempts in an hour");
    world.tcp = [1, 2, 3].into_iter().map(|n| (host(n), Tcp::Attaches(n))).collect();
    world.machine.handle_network_change(world.now);
    world.run_for(Duration::from_secs(1));
    assert!(world.in_use().is_some());
}

#[test]
fn who_wants_a_super_node_waits_for_no_pause_and_no_attempt_that_hangs() {
    for spent in [Duration::from_secs(3), Duration::from_secs(200), Duration::from_secs(1000)] {
        let mut world = World::new(&[1, 2]).all_tcp(&Tcp::Dropped).no_udp();
        world.start();
        world.run_for(spent);
        world.tcp = [1, 2].into_iter().map(|n| (host(n), Tcp::Attaches(n))).collect();
        let before = world.connects.len();
        for _ in 0..100 {
            world.machine.handle_wanted(world.now);
        }
        world.run_for(Duration::from_secs(2));
        assert!(world.in_use().is_some(), "{spent:?}");
        assert!(world.connects.len() - before <= 12, "{} attempts", world.connects.len() - before);
    }
}

#[test]
fn a_change_of_network_checks_what_is_held_and_races_beside_it() {
    let mut world = World::new(&[1, 2, 3]);
    world.start();
    world.run_for(WARM);
    world.machine.handle_network_change(world.now);
    world.drain();
    assert_eq!(world.checks, 2);
}

#[test]
fn this_node_never_attaches_to_itself() {
    let mut world = World::new(&[1, 2]);
    world.tcp.insert(host(1), Tcp::Attaches(255));
    world.start();
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.in_use(), Some(node(2)));
    assert_eq!(world.warm(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails for a while: once one super node works, the node is attached.
    #[test]
    fn when_the_faults_stop_the_node_attaches(
        seed in any::<u8>(),
        faults in prop::collection::vec((1_u8..5, 0_u8..6, 0_u64..30_000), 0..20),
    ) {
        let mut world = World::with_seed(&[1, 2, 3, 4], seed);
        world.start();
        for (n, kind, wait_ms) in faults {
            match kind {
                0 => world.lose(n),
                1 => { world.tcp.insert(host(n), Tcp::Answers(Failure::Foreign)); }
                2 => { world.tcp.insert(host(n), Tcp::Answers(Failure::NoNetwork)); }
                3 => {
                    let try_these = vec![host(n % 4 + 1)];
                    world.tcp.insert(host(n), Tcp::Answers(Failure::Busy { try_these }));
                }
                4 => { world.machine.handle_network_change(world.now); }
                _ => { world.tcp.insert(host(n), Tcp::Attaches(n)); }
            }
            world.run_for(Duration::from_millis(wait_ms));
        }
        for n in 1..=4 {
            world.tcp.insert(host(n), Tcp::Attaches(n));
        }
        // The longest back-off and one round.
        world.run_for(Duration::from_secs(320));
        prop_assert!(world.in_use().is_some(), "{:?}", world.status());
        prop_assert!(world.open.len() <= 3);
    }
}
