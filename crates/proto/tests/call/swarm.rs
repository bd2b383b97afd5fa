//! Random users and faults from a seed; then the faults stop and all must settle.
//!
//! The oracle: both ends of every call are in the same state, nobody rings for ever, media and
//! voice exist exactly for the calls that stand, and no call has two talking devices at one side.

use std::{collections::BTreeMap, time::Duration};

use cooee_proto::{
    call::{CallEvent, CallId, CallPhase, CallsConfig},
    identity::NodeId,
};
use rand::{Rng, seq::IndexedRandom};

use crate::world::{World, user};

const SEEDS: u64 = 300;
const STEPS: usize = 60;

#[test]
fn whatever_happens_all_ends_agree_when_the_faults_stop() {
    for seed in 0..SEEDS {
        run(seed);
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    world.delay_ms = 5..600;
    world.buddies = seed.is_multiple_of(2);
    let nodes: Vec<NodeId> = [(1, "alice"), (2, "bob"), (3, "bob"), (4, "carol")]
        .into_iter()
        .map(|(number, name)| world.add(number, name, CallsConfig::default()))
        .collect();
    for _ in 0..STEPS {
        act(&mut world, &nodes);
        let pause = Duration::from_millis(world.rng.random_range(0..2_000));
        world.run(pause);
    }
    settle(&mut world, &nodes);
    check(&world, &nodes, seed);
}

fn act(world: &mut World, nodes: &[NodeId]) {
    let at = *nodes.choose(&mut world.rng).expect("nodes");
    let other = *nodes.choose(&mut world.rng).expect("nodes");
    let ids: Vec<CallId> = world.list(at).iter().map(|call| call.call).collect();
    let call = ids.choose(&mut world.rng).copied();
    // Commands may be refused in any phase; the oracle looks at what remains.
    match (world.rng.random_range(0..20), call) {
        (0..=3, _) => {
            let to = user(["alice", "bob", "carol"][world.rng.random_range(0..3)]);
            if world.devices[&at].user != to {
                let relation = world.relation(at, &to);
                let _ = world.command(at, |c, now| c.place_call(now, &to, relation));
            }
        }
        (4..=8, Some(id)) => drop(world.command(at, |c, now| c.answer(now, id))),
        (9, Some(id)) => drop(world.command(at, |c, now| c.hang_up(now, id))),
        (10, Some(id)) => drop(world.command(at, |c, now| c.hold(now, id))),
        (11, Some(id)) => drop(world.command(at, |c, now| c.resume(now, id))),
        (12, Some(id)) => drop(world.command(at, |c, now| c.dtmf(now, id, '5'))),
        (13, Some(id)) => drop(world.command(at, |c, now| c.transfer(now, id, &user("carol")))),
        (14, _) if at != other => world.cut(at, other),
        (15, _) if at != other => world.mend(at, other),
        (16, _) if at != other => drop(world.deaf.insert((at.min(other), at.max(other)))),
        (17, _) => world.deaf.clear(),
        (18, _) if !world.sent.is_empty() => {
            let number = world.rng.random_range(0..world.sent.len());
            let (from, to, message) = world.sent[number].clone();
            world.deliver(from, to, message);
        }
        (19, _) if world.rng.random_range(0..4) == 0 => world.restart(at),
        _ => world.command(at, |c, now| c.handle_network_changed(now)),
    }
}

fn settle(world: &mut World, nodes: &[NodeId]) {
    world.deaf.clear();
    for a in nodes {
        for b in nodes.iter().filter(|b| a < b) {
            world.mend(*a, *b);
        }
    }
    world.run(Duration::from_secs(200));
}

fn check(world: &World, nodes: &[NodeId], seed: u64) {
    let mut ends: BTreeMap<CallId, Vec<NodeId>> = BTreeMap::new();
    for at in nodes {
        let device = &world.devices[at];
        let calls = world.list(*at);
        for call in &calls {
            assert_eq!(call.phase, CallPhase::Active, "seed {seed}: {at} still {call:?}");
            ends.entry(call.call).or_default().push(*at);
        }
        assert_eq!(device.legs.len(), calls.len(), "seed {seed}: media of {at}");
        assert_eq!(device.voice.len(), calls.len(), "seed {seed}: voice of {at}");
        let ended: Vec<CallId> = device
            .events
            .iter()
            .filter_map(|event| match event {
                CallEvent::Ended(end) => Some(end.summary.call),
                _ => None,
            })
            .collect();
        let mut unique = ended.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), ended.len(), "seed {seed}: {at} ended a call twice");
    }
    for (call, at) in ends {
        assert_eq!(at.len(), 2, "seed {seed}: {call} stands at {at:?} only");
        let (a, b) = (&world.devices[&at[0]], &world.devices[&at[1]]);
        assert_eq!((a.voice[&call].0, b.voice[&call].0), (at[1], at[0]), "seed {seed}");
        assert_eq!(a.voice[&call].1, b.voice[&call].1, "seed {seed}: holds agree");
    }
}
