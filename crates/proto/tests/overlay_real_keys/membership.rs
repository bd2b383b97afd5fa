//! Entering, suspicion, admission, and what strangers get.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use cooee_proto::{
    identity::NodeKey,
    overlay::{OverlayConfig, SuperNodeOverlay, Trust, sealed::Sealed},
    wire::v1,
};

use crate::world::{ONE_WAY, START, World, joined};

#[test]
fn a_newcomer_whose_contact_dies_enters_through_another_and_finds_whom_it_was_asked_for() {
    let mut world = joined(2);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    world.nodes[1].1.attach(world.now, node);
    let record = world.record(&alice, 1, v1::Presence::Online);
    world.nodes[1].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(1));
    // Only the first contact hears the introductions, and it dies when it is asked to let us in.
    let (deaf, first) = (world.nodes.pop().unwrap(), world.nodes[0].0);
    let device = world.device(102, None);
    let sealed = Sealed::new(&NodeKey::from_seed(device.key), [2; 32]);
    let address: SocketAddr = "127.2.0.1:4000".parse().unwrap();
    let (config, now) = (OverlayConfig::new(address), world.now);
    let trust = Box::new(device.trust);
    let mut newcomer = SuperNodeOverlay::new(now, config, trust, Box::new(sealed), [2; 32]);
    newcomer.join(now, &[first, deaf.0]);
    world.nodes.push((address, newcomer));
    world.run(ONE_WAY * 2 + ONE_WAY / 2);
    world.nodes.remove(0);
    world.nodes.push(deaf);
    assert!(world.nodes[0].1.admit().is_err(), "no device may attach while it knows nobody");
    let answer = world.look_up_for(0, "alice", Duration::from_secs(9));
    assert_eq!(answer.found.len(), 1, "{:?}", answer.source);
    assert!(world.nodes[0].1.status().joined && world.nodes[0].1.admit().is_ok());
}

#[test]
fn the_death_of_one_super_node_is_noticed_and_its_return_too() {
    let mut world = joined(3);
    let dead = world.nodes.pop().unwrap();
    world.run(Duration::from_secs(60));
    assert!(world.nodes.iter().all(|(_, node)| node.status().members == 2));
    world.nodes.push(dead);
    world.run(Duration::from_secs(60));
    assert!(world.nodes.iter().all(|(_, node)| node.status().members == 3));
}

#[test]
fn a_newcomer_of_whom_only_its_contact_heard_is_known_to_all_after_a_few_pings() {
    const MEMBERS: usize = 8;
    let mut world = joined(MEMBERS as u8);
    world.add_super_node(MEMBERS as u8);
    let (contact, newcomer) = (world.nodes[0].0, world.nodes[MEMBERS].0);
    for _ in 0..400 {
        let heard = |to: &SocketAddr| *to == contact || *to == newcomer;
        world.wire.retain(|(_, from, to, _)| heard(from) && heard(to));
        world.run(Duration::from_millis(10));
    }
    let known = |world: &World| {
        let nodes = world.nodes.iter();
        nodes.filter(|(_, node)| node.status().members == MEMBERS + 1).count()
    };
    assert_eq!(known(&world), 2, "only the two that could talk");
    world.run(Duration::from_secs(30));
    assert_eq!(known(&world), MEMBERS + 1);
}

#[test]
fn an_unproven_address_never_gets_more_than_it_sent() {
    let mut world = joined(1);
    let victim: SocketAddr = "127.9.9.9:9".parse().unwrap();
    let mut hello = vec![0_u8; 1000];
    hello[..2].copy_from_slice(&[0xC0, 1]);
    hello[2..34].copy_from_slice(&[7; 32]);
    for length in [34, 100, 500, 999, 1000, 1200] {
        hello.resize(length, 0);
        let before = world.bytes_to.get(&victim).copied().unwrap_or(0);
        let now = world.now;
        world.nodes[0].1.handle_datagram(now, victim, &Bytes::copy_from_slice(&hello));
        world.collect();
        let after = world.bytes_to.get(&victim).copied().unwrap_or(0);
        assert!(after - before <= length);
    }
}

#[test]
fn a_user_is_a_super_node_only_where_a_dedicated_one_admits_it() {
    use cooee_proto::overlay::admission::{ADMISSION_LIFE, admit, is_admitted};
    let world = World::new(1);
    let dedicated = world.device(150, None).trust;
    let user = world.device(151, Some("alice")).trust;
    let here: SocketAddr = "127.9.0.1:4000".parse().unwrap();
    let elsewhere: SocketAddr = "127.9.0.2:4000".parse().unwrap();
    let node = user.node();
    let admission = admit(&dedicated, START, node, here);
    let judge =
        |admission: &_, node, address, at| is_admitted(&dedicated, admission, node, address, at);
    assert!(judge(&admission, node, here, START));
    assert!(!judge(&admission, node, elsewhere, START), "another address than was dialled");
    assert!(!judge(&admission, dedicated.node(), here, START), "another node");
    assert!(!judge(&admission, node, here, START.plus(ADMISSION_LIFE)), "over");
    let by_a_user = admit(&world.device(152, Some("mallory")).trust, START, node, here);
    assert!(!judge(&by_a_user, node, here, START), "users admit nobody");
    let mut forged = admission.clone();
    forged.expiry_unix_ms += 1;
    assert!(!judge(&forged, node, here, START), "a changed end");
}

#[test]
fn the_membership_takes_a_user_with_an_admission_and_not_without() {
    use cooee_proto::overlay::admission::admit;
    let mut world = World::new(2);
    let address: SocketAddr = "127.77.0.1:4000".parse().unwrap();
    for admitted in [false, true] {
        let device = world.device(140 + u8::from(admitted), Some("alice"));
        let mut config = OverlayConfig::new(address);
        if admitted {
            let dedicated = world.device(100, None).trust;
            let node = cooee_proto::overlay::Trust::node(&device.trust);
            config.admission = Some(admit(&dedicated, world.now.unix, node, address));
        }
        let sealed = Sealed::new(&NodeKey::from_seed(device.key), [9; 32]);
        let (trust, now) = (Box::new(device.trust), world.now);
        let mut node = SuperNodeOverlay::new(now, config, trust, Box::new(sealed), [9; 32]);
        let contact = world.nodes[0].0;
        node.join(now, &[contact]);
        world.nodes.truncate(2);
        world.nodes.push((address, node));
        world.run(Duration::from_secs(20));
        let members = world.nodes[0].1.status().members;
        assert_eq!(members, if admitted { 3 } else { 2 });
    }
}
