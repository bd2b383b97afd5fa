//! A virtual network for call machines: devices, peer connections that can be cut, media that
//! works while both ends want it, time that jumps to the next thing to happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use cooee_proto::{
    call::{
        CallEvent, CallId, CallPhase, CallSummary, Calls, CallsConfig, EndReason, LookUpFailure,
        MediaState, Output, Relation, Remote,
    },
    clock::{Now, UnixTime},
    identity::{NodeId, UserName},
    wire::v1::{
        CallMessage, Codec, IceCandidate, MediaOffer, TransportParameters, codec, ice_candidate,
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// How long media may be silent before the media leg calls itself deaf, as the real one does.
const DEAF_AFTER: Duration = Duration::from_secs(2);

#[allow(clippy::large_enum_variant, reason = "a few hundred in a test")]
enum Happening {
    Arrive { from: NodeId, to: NodeId, epoch: u64, message: CallMessage },
    LookUp { at: NodeId, call: CallId, user: UserName },
    Media { at: NodeId, call: CallId, peer: NodeId },
}

/// One leg's media at one side.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) relay_only: bool,
    pub(crate) generation: u32,
    pub(crate) remote_generation: Option<u32>,
    pub(crate) reported: Option<MediaState>,
}

pub(crate) struct Device {
    pub(crate) calls: Calls,
    pub(crate) user: UserName,
    pub(crate) is_on: bool,
    pub(crate) events: Vec<CallEvent>,
    pub(crate) legs: BTreeMap<(CallId, NodeId), Leg>,
    /// Calls whose voice flows, with the peer device.
    pub(crate) voice: BTreeMap<CallId, (NodeId, bool)>,
    seed: u8,
    config: CallsConfig,
}

pub(crate) struct World {
    pub(crate) now: Now,
    pub(crate) devices: BTreeMap<NodeId, Device>,
    pub(crate) buddies: bool,
    pub(crate) blocked: BTreeSet<(NodeId, UserName)>,
    /// Pairs whose peer connection is cut, and since which connection.
    cut: BTreeSet<(NodeId, NodeId)>,
    epochs: BTreeMap<(NodeId, NodeId), u64>,
    /// Pairs between which no media passes.
    pub(crate) deaf: BTreeSet<(NodeId, NodeId)>,
    last_arrival: BTreeMap<(NodeId, NodeId), Instant>,
    queue: BTreeMap<(Instant, u64), Happening>,
    ticket: u64,
    pub(crate) rng: ChaCha12Rng,
    pub(crate) delay_ms: std::ops::Range<u64>,
    /// Every message that was ever sent, to be replayed.
    pub(crate) sent: Vec<(NodeId, NodeId, CallMessage)>,
}

pub(crate) fn user(name: &str) -> UserName {
    name.parse().expect("a legal name")
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

fn transport(seed: u8, generation: u32) -> TransportParameters {
    TransportParameters {
        ufrag: format!("ufrag{generation}"),
        pwd: format!("password{seed:03}padding{generation:06}"),
        fingerprint: vec![seed; 32].into(),
        candidates: Vec::new(),
        generation,
    }
}

pub(crate) fn candidate(kind: ice_candidate::Kind, last: u8) -> IceCandidate {
    IceCandidate {
        kind: kind as i32,
        transport: ice_candidate::Transport::Udp as i32,
        priority: 1,
        address: vec![192, 0, 2, last].into(),
        port: 4000,
        foundation: "1".into(),
    }
}

pub(crate) fn offer(ssrc: u32) -> MediaOffer {
    let opus = Codec {
        kind: codec::Kind::Opus as i32,
        payload_type: 111,
        frame_tenths_ms: vec![100, 200],
    };
    MediaOffer { codecs: vec![opus], ssrc }
}

impl World {
    #[allow(clippy::disallowed_methods)] // any moment will do as a beginning
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Now { instant: Instant::now(), unix: UnixTime(1_800_000_000_000) },
            devices: BTreeMap::new(),
            buddies: false,
            blocked: BTreeSet::new(),
            cut: BTreeSet::new(),
            epochs: BTreeMap::new(),
            deaf: BTreeSet::new(),
            last_arrival: BTreeMap::new(),
            queue: BTreeMap::new(),
            ticket: 0,
            rng: ChaCha12Rng::seed_from_u64(seed),
            delay_ms: 10..80,
            sent: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, number: u8, name: &str, config: CallsConfig) -> NodeId {
        let seed = self.rng.random();
        let device = Device {
            calls: Calls::new(config.clone(), seed),
            user: user(name),
            is_on: true,
            events: Vec::new(),
            legs: BTreeMap::new(),
            voice: BTreeMap::new(),
            seed: number,
            config,
        };
        self.devices.insert(node(number), device);
        node(number)
    }

    pub(crate) fn relation(&self, at: NodeId, other: &UserName) -> Relation {
        match (self.blocked.contains(&(at, other.clone())), self.buddies) {
            (true, _) => Relation::Blocked,
            (_, true) => Relation::MutualBuddy,
            _ => Relation::Stranger,
        }
    }

    /// Gives `at` a command and does what follows from it at once.
    pub(crate) fn command<T>(&mut self, at: NodeId, act: impl FnOnce(&mut Calls, Now) -> T) -> T {
        let now = self.now;
        let result = act(&mut self.devices.get_mut(&at).expect("a device").calls, now);
        self.drain(at);
        result
    }

    pub(crate) fn place(&mut self, at: NodeId, to: &str) -> CallId {
        let relation = self.relation(at, &user(to));
        self.command(at, |calls, now| calls.place_call(now, &user(to), relation)).expect("placed")
    }

    /// The calls of a device that are not over.
    pub(crate) fn list(&self, at: NodeId) -> Vec<CallSummary> {
        self.devices[&at].calls.list().collect()
    }

    pub(crate) fn phase(&self, at: NodeId, call: CallId) -> Option<CallPhase> {
        self.list(at).into_iter().find(|c| c.call == call).map(|c| c.phase)
    }

    pub(crate) fn end_reason(&self, at: NodeId, call: CallId) -> Option<EndReason> {
        self.devices[&at].events.iter().find_map(|event| match event {
            CallEvent::Ended(end) if end.summary.call == call => Some(end.reason),
            _ => None,
        })
    }

    pub(crate) fn cut(&mut self, a: NodeId, b: NodeId) {
        self.cut.insert(pair(a, b));
        *self.epochs.entry(pair(a, b)).or_default() += 1;
    }

    pub(crate) fn mend(&mut self, a: NodeId, b: NodeId) {
        if self.cut.remove(&pair(a, b)) {
            for (at, other) in [(a, b), (b, a)] {
                self.command(at, |calls, now| calls.handle_connected(now, other));
            }
        }
    }

    /// The program at `at` dies and starts anew, knowing nothing.
    pub(crate) fn restart(&mut self, at: NodeId) {
        let seed = self.rng.random();
        let device = self.devices.get_mut(&at).expect("a device");
        device.calls = Calls::new(device.config.clone(), seed);
        device.legs.clear();
        device.voice.clear();
        device.events.clear();
    }

    pub(crate) fn deliver(&mut self, from: NodeId, to: NodeId, message: CallMessage) {
        let remote = {
            let user = self.devices[&from].user.clone();
            let relation = self.relation(to, &user);
            Remote { node: from, user, relation }
        };
        self.command(to, |calls, now| calls.handle_message(now, &remote, message));
    }

    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now.instant + span;
        while self.step(end) {}
        let rest = end - self.now.instant;
        self.now = self.now.plus(rest);
    }

    fn step(&mut self, end: Instant) -> bool {
        let timer = self
            .devices
            .iter_mut()
            .filter(|(_, device)| device.is_on)
            .filter_map(|(node, device)| match device.calls.poll_output() {
                Output::Timeout(at, _) => Some((at, *node)),
                Output::Idle => None,
                other => panic!("not drained: {other:?}"),
            })
            .min();
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let Some(at) = timer.map(|(at, _)| at).into_iter().chain(queued).min() else {
            return false;
        };
        if at > end {
            return false;
        }
        if at > self.now.instant {
            self.now = self.now.plus(at - self.now.instant);
        }
        if queued == Some(at) {
            let (_, happening) = self.queue.pop_first().expect("just seen");
            self.happen(happening);
        } else if let Some((_, node)) = timer {
            self.command(node, |calls, now| calls.handle_timeout(now));
        }
        true
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Arrive { from, to, epoch, message } => {
                let is_same = self.epochs.get(&pair(from, to)).copied().unwrap_or(0) == epoch;
                if is_same && self.devices[&to].is_on {
                    self.deliver(from, to, message);
                }
            }
            Happening::LookUp { at, call, user } => {
                let found: Vec<NodeId> = self
                    .devices
                    .iter()
                    .filter(|(_, device)| device.user == user)
                    .map(|(node, _)| *node)
                    .collect();
                let found =
                    if found.is_empty() { Err(LookUpFailure::UnknownUser) } else { Ok(found) };
                self.command(at, |calls, now| calls.handle_look_up(now, call, found));
            }
            Happening::Media { at, call, peer } => self.judge_media(at, call, peer),
        }
    }

    fn later(&mut self, after: Duration, happening: Happening) {
        self.ticket += 1;
        self.queue.insert((self.now.instant + after, self.ticket), happening);
    }

    /// What the media leg at `at` would report now.
    fn judge_media(&mut self, at: NodeId, call: CallId, peer: NodeId) {
        let ours = self.devices[&at].legs.get(&(call, peer)).cloned();
        let Some(ours) = ours.filter(|_| self.devices[&at].is_on) else { return };
        let theirs = self.devices[&peer].legs.get(&(call, at));
        let flows = self.devices[&peer].is_on
            && !self.deaf.contains(&pair(at, peer))
            && theirs.is_some_and(|theirs| {
                ours.remote_generation == Some(theirs.generation)
                    && theirs.remote_generation == Some(ours.generation)
            });
        let state = if flows { MediaState::Alive } else { MediaState::Deaf };
        let is_news =
            ours.reported != Some(state) && (flows || ours.reported == Some(MediaState::Alive));
        if is_news {
            let leg = self.devices.get_mut(&at).expect("a device").legs.get_mut(&(call, peer));
            leg.expect("just seen").reported = Some(state);
            self.command(at, |calls, now| calls.handle_media_state(now, call, peer, state));
        }
        let after = if flows { DEAF_AFTER } else { Duration::from_millis(200) };
        self.later(after, Happening::Media { at, call, peer });
    }

    fn drain(&mut self, at: NodeId) {
        loop {
            let output = self.devices.get_mut(&at).expect("a device").calls.poll_output();
            match output {
                Output::Timeout(..) | Output::Idle => return,
                other => self.handle_output(at, other),
            }
        }
    }

    fn handle_output(&mut self, at: NodeId, output: Output) {
        let device = self.devices.get_mut(&at).expect("a device");
        match output {
            Output::Send { to, message } => self.send(at, to, message),
            Output::LookUp { call, user } => {
                let after = Duration::from_millis(self.rng.random_range(self.delay_ms.clone()));
                self.later(after, Happening::LookUp { at, call, user });
            }
            Output::StartMedia { call, peer, relay_only, .. } => {
                let leg =
                    Leg { relay_only, generation: 0, remote_generation: None, reported: None };
                assert!(device.legs.insert((call, peer), leg).is_none(), "media starts once");
                self.tell_parameters(at, call, peer, 0);
                self.later(Duration::from_millis(50), Happening::Media { at, call, peer });
            }
            Output::RestartMedia { call, peer, generation } => {
                let leg = device.legs.get_mut(&(call, peer)).expect("media was started");
                if leg.generation < generation {
                    leg.generation = generation;
                    self.tell_parameters(at, call, peer, generation);
                }
            }
            Output::RemoteParameters { call, peer, transport, .. } => {
                let leg = device.legs.get_mut(&(call, peer)).expect("media was started");
                leg.remote_generation = Some(transport.generation);
            }
            Output::RevealAddresses { call, peer } => {
                device.legs.get_mut(&(call, peer)).expect("media was started").relay_only = false;
                let host = candidate(ice_candidate::Kind::Host, at.0[0]);
                let generation = device.legs[&(call, peer)].generation;
                let now = self.now;
                device.calls.handle_local_candidate(now, call, peer, generation, host);
            }
            Output::StopMedia { call, peer } => {
                assert!(device.legs.remove(&(call, peer)).is_some(), "media stops once");
                device.voice.retain(|c, (p, _)| (*c, *p) != (call, peer));
            }
            Output::Voice { call, peer, send, receive, .. } => {
                assert!(device.legs.contains_key(&(call, peer)), "voice needs media");
                assert_eq!(send, receive);
                device.voice.insert(call, (peer, send));
            }
            Output::Event(event) => device.events.push(event),
            Output::RemoteCandidate { .. } => {}
            Output::Timeout(..) | Output::Idle => unreachable!("handled by the caller"),
        }
    }

    fn tell_parameters(&mut self, at: NodeId, call: CallId, peer: NodeId, generation: u32) {
        let now = self.now;
        let device = self.devices.get_mut(&at).expect("a device");
        let seed = device.seed;
        let (transport, offer) = (transport(seed, generation), offer(u32::from(seed)));
        device.calls.handle_local_parameters(now, call, peer, transport, offer);
        let relayed = candidate(ice_candidate::Kind::Relayed, 200);
        device.calls.handle_local_candidate(now, call, peer, generation, relayed);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: CallMessage) {
        self.sent.push((from, to, message.clone()));
        if self.cut.contains(&pair(from, to)) || !self.devices.contains_key(&to) {
            return;
        }
        let epoch = self.epochs.get(&pair(from, to)).copied().unwrap_or(0);
        let delay = Duration::from_millis(self.rng.random_range(self.delay_ms.clone()));
        // A stream keeps its order.
        let last = self.last_arrival.get(&(from, to)).copied().unwrap_or(self.now.instant);
        let arrival = (self.now.instant + delay).max(last);
        self.last_arrival.insert((from, to), arrival);
        self.ticket += 1;
        let happening = Happening::Arrive { from, to, epoch, message };
        self.queue.insert((arrival, self.ticket), happening);
    }
}
