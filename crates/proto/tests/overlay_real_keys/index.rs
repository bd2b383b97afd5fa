//! Publishing, finding, watching, searching, and what outlives keepers.

use std::time::Duration;

use bytes::Bytes;
use cooee_proto::{
    index::{Pattern, PublishRefused, Source},
    overlay::{Output, SuperNodeOverlay, Trust},
    wire::v1,
};

use crate::world::{ONE_WAY, World, joined};

#[test]
fn a_published_user_is_found_from_every_super_node() {
    let mut world = joined(3);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    world.nodes[1].1.attach(world.now, node);
    let record = world.record(&alice, 1, v1::Presence::Online);
    world.nodes[1].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(1));
    for at in 0..3 {
        let answer = world.look_up(at, "alice");
        assert_eq!(answer.found.len(), 1);
        assert_eq!(answer.found[0].record.device, node);
        assert_eq!(answer.found[0].record.home(), Some(world.nodes[1].1.own().node));
        assert_eq!(answer.found[0].presence(), v1::Presence::Online);
    }
    assert_eq!(world.look_up(0, "alice").source, Source::Cache);
    assert_eq!(world.look_up(0, "mallory").source, Source::Nobody);
}

#[test]
fn whoever_moves_is_found_where_she_attached_though_another_survivor_holds_an_older_record() {
    let mut world = joined(20);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    let key = alice.trust.name_key(&"alice".parse().unwrap());
    let keepers = world.nodes[0].1.keepers_of(world.now, &key);
    let is_keeper = |node: &SuperNodeOverlay| keepers.contains(&node.own().node);
    let others = (0..20).filter(|place| !is_keeper(&world.nodes[*place].1)).collect::<Vec<_>>();
    let (home, refuge) = (others[0], others[1]);
    world.nodes[home].1.attach(world.now, node);
    let record = world.record(&alice, home, v1::Presence::Online);
    world.nodes[home].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(31));
    // All but a keeper and the one that she flees to die at once, and nobody knows it yet.
    let (refuge, keeper) = (world.nodes[refuge].1.own().node, keepers[0]);
    world.nodes.retain(|(_, node)| [refuge, keeper].contains(&node.own().node));
    let refuge = world.nodes.iter().position(|(_, node)| node.own().node == refuge).unwrap();
    world.nodes[refuge].1.attach(world.now, node);
    let record = world.record(&alice, refuge, v1::Presence::Online);
    let sequence = world.now.unix.0;
    world.nodes[refuge].1.publish(world.now, node, &record).unwrap();
    world.collect();
    world.wire.clear(); // The first store is lost.
    for _ in 0..20 {
        let answer = world.look_up(refuge, "alice");
        assert_eq!(answer.found[0].record.sequence, sequence, "{:?}", answer.source);
        assert_eq!(answer.found[0].presence(), v1::Presence::Online);
    }
}

#[test]
fn what_is_remembered_does_not_outlive_the_super_node_in_use() {
    let mut world = joined(6);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    world.nodes[1].1.attach(world.now, node);
    let record = world.record(&alice, 1, v1::Presence::Online);
    world.nodes[1].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(1));
    assert_eq!(world.look_up(0, "alice").found.len(), 1);
    assert_eq!(world.look_up(0, "alice").source, Source::Cache);
    world.nodes.remove(1);
    world.run(Duration::from_secs(25));
    let answer = world.look_up(0, "alice");
    assert_ne!(answer.source, Source::Cache);
    assert_eq!(answer.found[0].presence(), v1::Presence::Offline, "until she attaches elsewhere");
}

#[test]
fn a_watcher_hears_of_a_vanished_device_within_a_second() {
    let mut world = joined(3);
    let (alice, bob) = (world.device(1, Some("alice")), world.device(2, Some("bob")));
    let (alice_node, bob_node) = (alice.trust.node(), bob.trust.node());
    let key = alice.trust.name_key(&"alice".parse().unwrap());
    world.nodes[1].1.attach(world.now, alice_node);
    let record = world.record(&alice, 1, v1::Presence::Online);
    world.nodes[1].1.publish(world.now, alice_node, &record).unwrap();
    world.nodes[2].1.attach(world.now, bob_node);
    world.nodes[2].1.watch(world.now, bob_node, &[key]);
    world.run(Duration::from_secs(1));
    world.told.clear();
    world.nodes[1].1.detach(world.now, alice_node);
    world.run(Duration::from_secs(1));
    let told = world.told.iter().any(|(place, output)| {
        matches!(output, Output::Notify(change) if *place == 2 && change.device == bob_node
            && change.found[0].presence() == v1::Presence::Offline
            && change.found[0].last_seen().is_some())
    });
    assert!(told);
}

#[test]
fn a_new_keeper_that_was_deaf_when_a_shard_was_offered_is_offered_it_again() {
    let mut world = joined(2);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    world.nodes[0].1.attach(world.now, node);
    let record = world.record(&alice, 0, v1::Presence::Online);
    world.nodes[0].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(1));
    // Once she is offline only the keepers know her.
    world.nodes[0].1.detach(world.now, node);
    world.run(Duration::from_secs(1));
    let held = world.nodes[1].1.status().entries;
    assert!(held > 0, "her name and its search terms");
    world.add_super_node(2);
    world.run(Duration::from_secs(1));
    let newcomer = world.nodes[2].0;
    for _ in 0..150 {
        world.run(ONE_WAY / 2);
        world.wire.retain(|(_, _, to, _)| *to != newcomer);
    }
    assert_eq!(world.nodes[2].1.status().entries, 0, "the first offers did not get through");
    world.run(Duration::from_secs(6));
    assert_eq!(world.nodes[2].1.status().entries, held);
}

#[test]
fn sixteen_keepers_that_leave_together_hand_over_to_those_who_stay() {
    const MEMBERS: u8 = 20;
    let mut world = joined(MEMBERS);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    let key = alice.trust.name_key(&"alice".parse().unwrap());
    let keepers = world.nodes[0].1.keepers_of(world.now, &key);
    let is_keeper = |node: &SuperNodeOverlay| keepers.contains(&node.own().node);
    let home = world.nodes.iter().position(|(_, node)| !is_keeper(node)).unwrap();
    world.nodes[home].1.attach(world.now, node);
    let record = world.record(&alice, home, v1::Presence::Online);
    world.nodes[home].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(2));
    // Once she is offline only the keepers know her.
    world.nodes[home].1.detach(world.now, node);
    world.run(Duration::from_secs(2));
    let now = world.now;
    for (_, node) in world.nodes.iter_mut().filter(|(_, node)| is_keeper(node)) {
        node.leave(now);
        assert!(node.handing_over() > 0);
    }
    world.run(Duration::from_secs(20));
    let leaving = world.nodes.iter().filter(|(_, node)| node.handing_over() > 0).count();
    assert_eq!(leaving, 0, "each has heard that two others hold it");
    world.nodes.retain(|(_, node)| !is_keeper(node));
    assert_eq!(world.nodes.len(), 4);
    let answer = world.look_up(0, "alice");
    assert_eq!(answer.found.len(), 1, "{:?}", answer.source);
    assert!(answer.found[0].last_seen().is_some(), "and that she has gone");
}

#[test]
fn wildcard_search_finds_listed_users_by_name_and_display_name() {
    let mut world = joined(3);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    world.nodes[0].1.attach(world.now, node);
    let record = world.record(&alice, 0, v1::Presence::Online);
    world.nodes[0].1.publish(world.now, node, &record).unwrap();
    world.run(Duration::from_secs(1));
    for (pattern, matches) in [("ali*", 1), ("lid*", 1), ("alx*", 0), ("ali?e", 1)] {
        world.told.clear();
        let (now, asker) = (world.now, world.nodes[2].1.own().node);
        let parsed = Pattern::parse(pattern).unwrap();
        world.nodes[2].1.search(now, asker, parsed, Bytes::new()).unwrap();
        world.run(Duration::from_secs(3));
        let found = world.told.iter().find_map(|(_, output)| match output {
            Output::Searched(answer) => Some(answer.matches.len()),
            _ => None,
        });
        assert_eq!(found, Some(matches), "{pattern}");
    }
}

#[test]
fn forged_stale_and_foreign_records_are_refused() {
    let mut world = joined(3);
    let (alice, mallory) = (world.device(1, Some("alice")), world.device(3, Some("mallory")));
    let node = alice.trust.node();
    let old = world.record(&alice, 1, v1::Presence::Online);
    world.run(Duration::from_secs(1));
    let new = world.record(&alice, 1, v1::Presence::Away);
    let now = world.now;
    let home = &mut world.nodes[1].1;
    assert_eq!(home.publish(now, node, &new), Err(PublishRefused::NotAttached));
    home.attach(now, node);
    home.attach(now, mallory.trust.node());
    assert_eq!(home.publish(now, node, &new), Ok(()));
    assert_eq!(home.publish(now, node, &old), Err(PublishRefused::Stale));
    let stolen = home.publish(now, mallory.trust.node(), &new);
    assert_eq!(stolen, Err(PublishRefused::OtherDevice));
    let mut forged = new.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(home.publish(now, node, &forged), Err(PublishRefused::Invalid));
    let elsewhere = world.record(&alice, 2, v1::Presence::Online);
    let home = &mut world.nodes[1].1;
    assert_eq!(home.publish(now, node, &elsewhere), Err(PublishRefused::OtherHome));
}

#[test]
fn what_is_appended_to_the_file_of_a_keeper_makes_it_whole_again() {
    use cooee_proto::index::stored_entries;

    let mut world = joined(3);
    let alice = world.device(1, Some("alice"));
    let node = alice.trust.node();
    assert_eq!(world.nodes[0].1.keeper_mut().to_append(), None, "nothing was written yet");
    let mut file = world.nodes[0].1.keeper_mut().to_file();
    world.nodes[1].1.attach(world.now, node);
    for presence in [v1::Presence::Online, v1::Presence::Away] {
        world.run(Duration::from_secs(1));
        let record = world.record(&alice, 1, presence);
        world.nodes[1].1.publish(world.now, node, &record).unwrap();
        world.run(Duration::from_secs(1));
        let changes = world.nodes[0].1.keeper_mut().to_append().expect("little has changed");
        assert!(!changes.is_empty());
        file.extend_from_slice(&changes);
    }
    assert_eq!(world.nodes[0].1.keeper_mut().to_append(), Some(Vec::new()));
    let wanted = world.nodes[0].1.keeper().digest();

    let restored = |world: &mut World, file: Vec<u8>| {
        world.add_super_node(world.nodes.len() as u8);
        let (now, (_, newcomer)) = (world.now, world.nodes.last_mut().unwrap());
        newcomer.restore(now, stored_entries(Bytes::from(file)));
        newcomer.keeper().digest()
    };
    let cut = file[..file.len() - 7].to_vec();
    assert_eq!(restored(&mut world, file), wanted);
    let before_the_cut = restored(&mut world, cut);
    assert!(before_the_cut != 0 && before_the_cut != wanted, "all but the entry that was cut");
    world.nodes[0].1.keeper_mut().not_written();
    assert_eq!(world.nodes[0].1.keeper_mut().to_append(), None);
}
