//! Three super nodes with real keys, certificates and sealed datagrams, in virtual time.

// Virtual time starts somewhere: an `Instant` can only be had from the clock.
#![allow(clippy::disallowed_methods)]

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_proto::{
    clock::{Now, UnixTime},
    identity::{
        Certificate, CertificateRequest, NetworkKey, NodeKey, RevocationList, Role, Roles, UserName,
    },
    index::{Pattern, PublishRefused, RECORD_LIFE_HOURS, Source},
    overlay::{NetworkTrust, Output, OverlayConfig, SuperNodeOverlay, Trust, sealed::Sealed},
    wire::v1,
};
use prost::Message;

const START: UnixTime = UnixTime(1_800_000_000_000);
const ONE_WAY: Duration = Duration::from_millis(20);

struct Device {
    key: [u8; 32],
    trust: NetworkTrust,
}

struct World {
    network: NetworkKey,
    nodes: Vec<(SocketAddr, SuperNodeOverlay)>,
    wire: VecDeque<(Instant, SocketAddr, SocketAddr, Bytes)>,
    now: Now,
    told: Vec<(usize, Output)>,
    bytes_to: std::collections::BTreeMap<SocketAddr, usize>,
}

impl World {
    fn new(super_nodes: u8) -> Self {
        let network = NetworkKey::from_seed([9; 32]);
        let now = Now { instant: Instant::now(), unix: START };
        let mut world = Self {
            network,
            nodes: Vec::new(),
            wire: VecDeque::new(),
            now,
            told: Vec::new(),
            bytes_to: Default::default(),
        };
        for n in 0..super_nodes {
            world.add_super_node(n);
        }
        world
    }

    fn device(&self, seed: u8, user: Option<&str>) -> Device {
        let key = NodeKey::from_seed([seed; 32]);
        let request = CertificateRequest {
            public_key: key.public(),
            user: user.map(|name| name.parse::<UserName>().unwrap()),
            roles: if user.is_some() { Roles::NONE } else { Roles::NONE.with(Role::SuperNode) },
            serial: u64::from(seed) + 1,
            not_before: START.minus(Duration::from_secs(3600)),
            not_after: START.plus(Duration::from_secs(7 * 86_400)),
        };
        let certificate = Certificate::issue(&self.network, &request).unwrap();
        let root = self.network.root();
        let revoked = RevocationList::empty(root.network_id());
        Device { key: [seed; 32], trust: NetworkTrust::new(key, certificate, root, revoked) }
    }

    fn add_super_node(&mut self, n: u8) {
        let device = self.device(100 + n, None);
        let address: SocketAddr = format!("127.{n}.0.1:4000").parse().unwrap();
        let sealed = Sealed::new(&NodeKey::from_seed(device.key), [n; 32]);
        let config = OverlayConfig::new(address);
        let trust = Box::new(device.trust);
        let node = SuperNodeOverlay::new(self.now, config, trust, Box::new(sealed), [n; 32]);
        self.nodes.push((address, node));
        if n > 0 {
            let contact = self.nodes[0].0;
            let now = self.now;
            self.nodes[usize::from(n)].1.join(now, &[contact]);
            self.collect();
        }
    }

    fn collect(&mut self) {
        for (place, (address, node)) in self.nodes.iter_mut().enumerate() {
            while let Some(output) = node.poll_output() {
                match output {
                    Output::Datagram { to, bytes } => {
                        assert!(bytes.len() <= 1232, "fits every path");
                        *self.bytes_to.entry(to).or_default() += bytes.len();
                        self.wire.push_back((self.now.instant + ONE_WAY, *address, to, bytes));
                    }
                    other => self.told.push((place, other)),
                }
            }
        }
    }

    fn run(&mut self, span: Duration) {
        let end = self.now.instant + span;
        self.collect();
        loop {
            let timer = self.nodes.iter().map(|(_, node)| node.next_timeout()).min().unwrap();
            let arrival = self.wire.front().map_or(end, |(at, ..)| *at);
            let next = timer.min(arrival).min(end).max(self.now.instant);
            self.now = self.now.plus(next - self.now.instant);
            if next >= end {
                return;
            }
            let now = self.now;
            while self.wire.front().is_some_and(|(at, ..)| *at <= now.instant) {
                let (_, from, to, bytes) = self.wire.pop_front().unwrap();
                if let Some((_, node)) = self.nodes.iter_mut().find(|(address, _)| *address == to) {
                    node.handle_datagram(now, from, &bytes);
                }
            }
            for (_, node) in &mut self.nodes {
                if node.next_timeout() <= now.instant {
                    node.handle_timeout(now);
                }
            }
            self.collect();
        }
    }

    fn record(&self, device: &Device, home: usize, presence: v1::Presence) -> Vec<u8> {
        let home = self.nodes[home].1.own().node;
        let record = v1::UserRecord {
            super_nodes: vec![Bytes::copy_from_slice(&home.0)],
            sequence: self.now.unix.0,
            expiry_unix_ms: self.now.unix.0 + RECORD_LIFE_HOURS * 3_600_000,
            presence: presence.into(),
            listed: true,
            display_name: "Alice Liddell".to_owned(),
            ..Default::default()
        };
        device.trust.sign_record(record).encode_to_vec()
    }

    fn look_up(&mut self, at: usize, name: &str) -> cooee_proto::index::Answer {
        self.look_up_for(at, name, Duration::from_secs(3))
    }

    fn look_up_for(&mut self, at: usize, name: &str, span: Duration) -> cooee_proto::index::Answer {
        let key = name.parse::<UserName>().unwrap().key(self.network.root().network_id());
        let asker = self.nodes[at].1.own().node;
        let now = self.now;
        let id = self.nodes[at].1.look_up(now, asker, key, false).unwrap();
        self.told.clear();
        self.run(span);
        let mine = |(place, output): (usize, Output)| match output {
            Output::LookedUp(answer) if place == at && answer.look_up == id => Some(answer),
            _ => None,
        };
        self.told.drain(..).find_map(mine).expect("every look-up ends")
    }
}

fn joined(super_nodes: u8) -> World {
    let mut world = World::new(super_nodes);
    world.run(Duration::from_secs(10));
    for (_, node) in &world.nodes {
        assert_eq!(node.status().members, usize::from(super_nodes));
        assert!(node.status().joined);
    }
    world
}

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
