//! One behaviour a test, in a network without faults unless the test brings one.

use std::time::Duration;

use cooee_proto::{
    call::{AutoAnswer, CallEvent, CallPhase, CallsConfig, CommandError, EndReason, Relation},
    identity::NodeId,
    wire::v1::{CallMessage, IceCandidate, Invite, bye, call_message::Body, ice_candidate},
};

use crate::world::{World, offer, user};

const SECOND: Duration = Duration::from_secs(1);

fn two() -> (World, NodeId, NodeId) {
    let mut world = World::new(1);
    let alice = world.add(1, "alice", CallsConfig::default());
    let bob = world.add(2, "bob", CallsConfig::default());
    (world, alice, bob)
}

/// Alice calls Bob and he answers.
fn talking() -> (World, NodeId, NodeId, cooee_proto::call::CallId) {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND);
    world.command(bob, |calls, now| calls.answer(now, call)).expect("rings");
    world.run(SECOND);
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
    assert_eq!(world.phase(bob, call), Some(CallPhase::Active));
    (world, alice, bob, call)
}

fn candidates(world: &World, from: NodeId) -> Vec<IceCandidate> {
    let all = world.sent.iter().filter(|(sender, ..)| *sender == from);
    all.flat_map(|(_, _, message)| match &message.body {
        Some(Body::Candidate(added)) => added.candidate.clone().into_iter().collect(),
        Some(Body::Invite(invite)) => {
            invite.transport.clone().map(|t| t.candidates).unwrap_or_default()
        }
        Some(Body::Ringing(ringing)) => {
            ringing.transport.clone().map(|t| t.candidates).unwrap_or_default()
        }
        _ => Vec::new(),
    })
    .collect()
}

#[test]
fn a_call_rings_is_answered_talks_and_ends() {
    let (mut world, alice, bob, call) = talking();
    world.run(SECOND * 600);
    assert_eq!(world.devices[&alice].voice[&call], (bob, true));
    assert_eq!(world.devices[&bob].voice[&call], (alice, true));
    world.command(alice, |calls, now| calls.hang_up(now, call)).expect("talks");
    world.run(SECOND);
    for at in [alice, bob] {
        assert_eq!(world.end_reason(at, call), Some(EndReason::HungUp));
        assert!(world.devices[&at].legs.is_empty());
        assert!(world.list(at).is_empty());
    }
    let ended = world.devices[&bob].events.iter().find_map(|event| match event {
        CallEvent::Ended(end) => Some(end.clone()),
        _ => None,
    });
    let ended = ended.expect("the call ended");
    assert!(ended.by_remote && ended.answered_unix_ms.is_some());
    assert_eq!(ended.node, Some(alice));
}

#[test]
fn media_is_ready_before_the_answer() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND * 2);
    assert_eq!(world.phase(bob, call), Some(CallPhase::Ringing));
    let reported = world.devices[&alice].legs[&(call, bob)].reported;
    assert_eq!(reported, Some(cooee_proto::call::MediaState::Alive));
    assert!(world.devices[&alice].voice.is_empty(), "nobody hears before the answer");
}

#[test]
fn a_stranger_learns_addresses_only_after_the_answer() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND * 5);
    for at in [alice, bob] {
        let seen = candidates(&world, at);
        assert!(!seen.is_empty());
        assert!(seen.iter().all(|c| c.kind == ice_candidate::Kind::Relayed as i32), "{seen:?}");
        // What the media leg finds too early stays here.
        let peer = if at == alice { bob } else { alice };
        let host = crate::world::candidate(ice_candidate::Kind::Host, 9);
        world.command(at, |c, now| c.handle_local_candidate(now, call, peer, 0, host));
    }
    world.command(bob, |calls, now| calls.hang_up(now, call)).expect("rings");
    world.run(SECOND * 5);
    for at in [alice, bob] {
        let seen = candidates(&world, at);
        assert!(seen.iter().all(|c| c.kind == ice_candidate::Kind::Relayed as i32));
    }
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Declined));

    let (world, alice, bob, _) = talking();
    for at in [alice, bob] {
        let hosts = candidates(&world, at);
        assert!(hosts.iter().any(|c| c.kind == ice_candidate::Kind::Host as i32));
    }
}

#[test]
fn mutual_buddies_reveal_addresses_at_once() {
    let (mut world, alice, bob) = two();
    world.buddies = true;
    let call = world.place(alice, "bob");
    world.run(SECOND);
    assert!(!world.devices[&alice].legs[&(call, bob)].relay_only);
    assert!(!world.devices[&bob].legs[&(call, alice)].relay_only);
}

#[test]
fn a_caller_who_gives_up_stops_the_ringing() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND);
    world.command(alice, |calls, now| calls.hang_up(now, call)).expect("calls");
    world.run(SECOND);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Cancelled));
    assert_eq!(world.end_reason(bob, call), Some(EndReason::Cancelled));
}

#[test]
fn nobody_answers() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND * 50);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::NoAnswer));
    assert_eq!(world.end_reason(bob, call), Some(EndReason::NoAnswer));
}

#[test]
fn an_unknown_user_an_absent_device_and_a_blocked_user_are_said_apart() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "carol");
    world.run(SECOND);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::UnknownUser));
    world.devices.get_mut(&bob).expect("bob").is_on = false;
    let call = world.place(alice, "bob");
    world.run(SECOND * 30);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Unreachable));
    let refused = world.command(alice, |c, now| c.place_call(now, &user("bob"), Relation::Blocked));
    assert_eq!(refused, Err(CommandError::Blocked));
}

#[test]
fn a_blocked_caller_rings_nobody_and_hears_nothing() {
    let (mut world, alice, bob) = two();
    world.blocked.insert((bob, user("alice")));
    let call = world.place(alice, "bob");
    world.run(SECOND * 30);
    assert!(world.devices[&bob].events.is_empty());
    assert!(world.sent.iter().all(|(from, ..)| *from != bob));
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Unreachable));
}

#[test]
fn without_call_waiting_a_second_caller_hears_busy() {
    let mut world = World::new(2);
    let config = CallsConfig { call_waiting: false, ..CallsConfig::default() };
    let alice = world.add(1, "alice", CallsConfig::default());
    let bob = world.add(2, "bob", config);
    let carol = world.add(3, "carol", CallsConfig::default());
    let first = world.place(alice, "bob");
    world.run(SECOND);
    let second = world.place(carol, "bob");
    world.run(SECOND);
    assert_eq!(world.end_reason(carol, second), Some(EndReason::Busy));
    assert_eq!(world.phase(bob, first), Some(CallPhase::Ringing));
}

#[test]
fn with_call_waiting_the_second_rings_and_answering_it_holds_the_first() {
    let (mut world, alice, bob, first) = talking();
    let carol = world.add(3, "carol", CallsConfig::default());
    let second = world.place(carol, "bob");
    world.run(SECOND);
    world.command(bob, |calls, now| calls.answer(now, second)).expect("rings");
    world.run(SECOND);
    assert_eq!(world.phase(carol, second), Some(CallPhase::Active));
    assert_eq!(world.phase(bob, first), Some(CallPhase::Active));
    assert_eq!(world.devices[&bob].voice[&first], (alice, false));
    assert_eq!(world.devices[&bob].voice[&second], (carol, true));
    assert!(world.list(alice)[0].held_remotely);
}

#[test]
fn auto_answer_is_for_those_it_is_meant_for() {
    let mut world = World::new(3);
    let config = CallsConfig { auto_answer: AutoAnswer::Buddies(SECOND), ..CallsConfig::default() };
    let alice = world.add(1, "alice", CallsConfig::default());
    let _bob = world.add(2, "bob", config);
    let call = world.place(alice, "bob");
    world.run(SECOND * 5);
    assert_eq!(world.phase(alice, call), Some(CallPhase::RemoteRinging));
    world.command(alice, |calls, now| calls.hang_up(now, call)).expect("calls");
    world.run(SECOND);
    world.buddies = true;
    let call = world.place(alice, "bob");
    world.run(SECOND * 5);
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
}

#[test]
fn holds_of_both_sides_are_independent() {
    let (mut world, alice, bob, call) = talking();
    world.command(alice, |calls, now| calls.hold(now, call)).expect("talks");
    world.run(SECOND);
    world.command(bob, |calls, now| calls.hold(now, call)).expect("talks");
    world.run(SECOND);
    world.command(alice, |calls, now| calls.resume(now, call)).expect("talks");
    world.run(SECOND);
    let (at_alice, at_bob) = (&world.list(alice)[0], &world.list(bob)[0]);
    assert_eq!((at_alice.held_locally, at_alice.held_remotely), (false, true));
    assert_eq!((at_bob.held_locally, at_bob.held_remotely), (true, false));
    assert!(!world.devices[&alice].voice[&call].1);
    world.command(bob, |calls, now| calls.resume(now, call)).expect("talks");
    world.run(SECOND);
    assert!(world.devices[&alice].voice[&call].1 && world.devices[&bob].voice[&call].1);
}

#[test]
fn mute_and_keypad_reach_the_other_side() {
    let (mut world, alice, bob, call) = talking();
    world.command(alice, |calls, now| calls.mute(now, call, true)).expect("talks");
    for digit in ['4', '2', '#'] {
        world.command(alice, |calls, now| calls.dtmf(now, call, digit)).expect("talks");
    }
    let refused = world.command(alice, |calls, now| calls.dtmf(now, call, 'x'));
    assert_eq!(refused, Err(CommandError::NoDigit('x')));
    world.run(SECOND);
    assert!(world.list(bob)[0].muted_remotely);
    let digits: String = world.devices[&bob]
        .events
        .iter()
        .filter_map(|event| match event {
            CallEvent::DtmfReceived { digit, .. } => Some(*digit),
            _ => None,
        })
        .collect();
    assert_eq!(digits, "42#");
}

#[test]
fn all_devices_ring_and_the_others_stop_within_a_second() {
    let (mut world, alice, bob) = two();
    let bob_phone = world.add(3, "bob", CallsConfig::default());
    let call = world.place(alice, "bob");
    world.run(SECOND);
    assert_eq!(world.phase(bob, call), Some(CallPhase::Ringing));
    assert_eq!(world.phase(bob_phone, call), Some(CallPhase::Ringing));
    world.command(bob_phone, |calls, now| calls.answer(now, call)).expect("rings");
    world.run(SECOND);
    assert_eq!(world.end_reason(bob, call), Some(EndReason::AnsweredElsewhere));
    assert_eq!(world.phase(bob_phone, call), Some(CallPhase::Active));
    assert_eq!(world.devices[&alice].voice[&call], (bob_phone, true));
    assert_eq!(world.devices[&alice].legs.len(), 1);
}

#[test]
fn two_devices_that_answer_at_once_give_one_call() {
    let (mut world, alice, bob) = two();
    let phone = world.add(3, "bob", CallsConfig::default());
    let call = world.place(alice, "bob");
    world.run(SECOND);
    for at in [bob, phone] {
        world.command(at, |calls, now| calls.answer(now, call)).expect("rings");
    }
    world.run(SECOND * 5);
    let active =
        [bob, phone].iter().filter(|at| world.phase(**at, call) == Some(CallPhase::Active)).count();
    assert_eq!(active, 1);
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
}

#[test]
fn one_device_that_declines_stops_all() {
    let (mut world, alice, bob) = two();
    let phone = world.add(3, "bob", CallsConfig::default());
    let call = world.place(alice, "bob");
    world.run(SECOND);
    world.command(phone, |calls, now| calls.hang_up(now, call)).expect("rings");
    world.run(SECOND);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Declined));
    assert_eq!(world.end_reason(bob, call), Some(EndReason::DeclinedElsewhere));
}

#[test]
fn two_who_call_each_other_at_once_get_one_call() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        world.delay_ms = 5..400;
        let alice = world.add(1, "alice", CallsConfig::default());
        let bob = world.add(2, "bob", CallsConfig::default());
        world.place(alice, "bob");
        world.run(Duration::from_millis(seed * 3));
        world.place(bob, "alice");
        world.run(SECOND * 10);
        let (a, b) = (world.list(alice), world.list(bob));
        assert_eq!((a.len(), b.len()), (1, 1), "seed {seed}");
        assert_eq!(a[0].call, b[0].call, "seed {seed}");
        assert_eq!((a[0].phase, b[0].phase), (CallPhase::Active, CallPhase::Active));
    }
}

#[test]
fn a_call_survives_the_loss_of_its_signalling_while_voice_flows() {
    let (mut world, alice, bob, call) = talking();
    world.cut(alice, bob);
    world.run(SECOND * 300);
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
    assert!(world.devices[&alice].events.contains(&CallEvent::SignallingLost { call }));
    world.command(alice, |calls, now| calls.hold(now, call)).expect("talks");
    world.mend(alice, bob);
    world.run(SECOND);
    assert!(world.list(bob)[0].held_remotely, "what was said meanwhile arrives");
    assert!(world.devices[&alice].events.contains(&CallEvent::SignallingRestored { call }));
}

#[test]
fn a_dead_path_is_replaced_without_ending_the_call() {
    let (mut world, alice, bob, call) = talking();
    world.deaf.insert((alice, bob));
    world.run(SECOND * 12);
    world.deaf.clear();
    world.run(SECOND * 10);
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
    assert!(world.devices[&alice].events.contains(&CallEvent::MediaInterrupted { call }));
    let leg = &world.devices[&bob].legs[&(call, alice)];
    assert!(leg.generation > 0 && leg.remote_generation == Some(leg.generation));
    assert_eq!(leg.reported, Some(cooee_proto::call::MediaState::Alive));
}

#[test]
fn voice_that_never_comes_back_ends_the_call_at_both_ends() {
    let (mut world, alice, bob, call) = talking();
    world.deaf.insert((alice, bob));
    world.run(SECOND * 40);
    for at in [alice, bob] {
        assert_eq!(world.end_reason(at, call), Some(EndReason::MediaFailed));
    }
}

#[test]
fn a_crash_of_the_other_side_ends_the_call_within_a_bound() {
    let (mut world, alice, bob, call) = talking();
    world.devices.get_mut(&bob).expect("bob").is_on = false;
    world.run(SECOND * 18);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::ConnectionLost));

    let (mut world, alice, bob, call) = talking();
    world.restart(bob);
    world.run(SECOND * 6);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::PeerRestarted));
}

#[test]
fn a_caller_that_dies_does_not_ring_on() {
    let (mut world, alice, bob) = two();
    let call = world.place(alice, "bob");
    world.run(SECOND);
    world.devices.get_mut(&alice).expect("alice").is_on = false;
    world.run(SECOND * 15);
    assert_eq!(world.end_reason(bob, call), Some(EndReason::ConnectionLost));
}

#[test]
fn replayed_messages_change_nothing() {
    let (mut world, alice, bob, call) = talking();
    let old = world.sent.clone();
    let before = (world.list(alice), world.list(bob), world.devices[&bob].events.len());
    for (from, to, message) in &old {
        world.deliver(*from, *to, message.clone());
    }
    world.run(SECOND);
    let after = (world.list(alice), world.list(bob), world.devices[&bob].events.len());
    assert_eq!(before, after);
    world.command(alice, |calls, now| calls.hang_up(now, call)).expect("talks");
    world.run(SECOND * 60);
    let events = world.devices[&bob].events.len();
    for (from, to, message) in old {
        world.deliver(from, to, message);
    }
    world.run(SECOND);
    assert!(world.list(bob).is_empty(), "a replayed invitation rings nobody");
    assert_eq!(world.devices[&bob].events.len(), events);
}

#[test]
fn messages_of_a_third_device_for_a_call_change_nothing() {
    let (mut world, alice, bob, call) = talking();
    let mallory = world.add(3, "mallory", CallsConfig::default());
    let before = (world.list(alice), world.list(bob));
    for (_, to, message) in world.sent.clone() {
        world.deliver(mallory, to, message);
    }
    let bye = cooee_proto::wire::v1::Bye { reason: bye::Reason::HungUp as i32 };
    let forged = CallMessage {
        call_id: call.0.to_vec().into(),
        sequence: 9,
        acknowledged: 0,
        body: Some(Body::Bye(bye)),
    };
    world.deliver(mallory, bob, forged);
    world.run(SECOND);
    assert_eq!(before, (world.list(alice), world.list(bob)));
}

#[test]
fn an_invitation_that_breaks_the_rules_is_refused_without_ringing() {
    let (mut world, alice, bob) = two();
    let invite = Invite { media: Some(offer(1)), ..Invite::default() };
    let message = CallMessage {
        call_id: vec![7; 16].into(),
        sequence: 1,
        acknowledged: 0,
        body: Some(Body::Invite(invite)),
    };
    world.deliver(alice, bob, message);
    assert!(world.list(bob).is_empty() && world.devices[&bob].events.is_empty());
    let (_, to, reply) = world.sent.last().expect("an answer").clone();
    assert_eq!(to, alice);
    let Some(Body::Bye(said)) = reply.body else { panic!("{reply:?}") };
    assert_eq!(said.reason, bye::Reason::ProtocolError as i32);
}

#[test]
fn calls_at_once_are_bounded() {
    let mut world = World::new(5);
    let config = CallsConfig { calls_max: 3, ..CallsConfig::default() };
    let bob = world.add(1, "bob", config);
    for number in 2..8 {
        let at = world.add(number, &format!("caller{number}"), CallsConfig::default());
        world.place(at, "bob");
    }
    world.run(SECOND);
    assert_eq!(world.list(bob).len(), 3);
}

#[test]
fn a_call_is_transferred_unattended() {
    let (mut world, alice, bob, call) = talking();
    let auto = CallsConfig { auto_answer: AutoAnswer::Everybody(SECOND), ..CallsConfig::default() };
    let carol = world.add(3, "carol", auto);
    world.command(alice, |c, now| c.transfer(now, call, &user("carol"))).expect("talks");
    world.run(SECOND * 5);
    assert_eq!(world.end_reason(alice, call), Some(EndReason::Transferred));
    assert!(world.list(alice).is_empty());
    let (b, c) = (world.list(bob), world.list(carol));
    assert_eq!((b.len(), c.len()), (1, 1));
    assert_eq!(b[0].call, c[0].call);
    assert_eq!(b[0].phase, CallPhase::Active);
}

#[test]
fn a_failed_transfer_leaves_the_call_as_it_was() {
    let (mut world, alice, bob, call) = talking();
    world.command(alice, |c, now| c.transfer(now, call, &user("nobody"))).expect("talks");
    world.run(SECOND * 5);
    let finished = CallEvent::TransferFinished { call, succeeded: false };
    assert!(world.devices[&alice].events.contains(&finished));
    assert_eq!(world.phase(alice, call), Some(CallPhase::Active));
    assert_eq!(world.phase(bob, call), Some(CallPhase::Active));
}

#[test]
fn a_call_is_transferred_attended() {
    let (mut world, alice, bob, first) = talking();
    let carol = world.add(3, "carol", CallsConfig::default());
    let second = world.place(alice, "carol");
    world.run(SECOND);
    world.command(carol, |c, now| c.answer(now, second)).expect("rings");
    world.run(SECOND);
    world.command(alice, |c, now| c.transfer_to_call(now, first, second)).expect("talks");
    world.run(SECOND * 5);
    assert!(world.list(alice).is_empty(), "{:?}", world.list(alice));
    let (b, c) = (world.list(bob), world.list(carol));
    assert_eq!((b.len(), c.len()), (1, 1));
    assert_eq!(b[0].call, c[0].call);
    assert_eq!((b[0].phase, c[0].phase), (CallPhase::Active, CallPhase::Active));
}
