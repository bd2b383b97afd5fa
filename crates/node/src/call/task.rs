//! The one task that owns the call machines: feeds them, does what they want.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use cooee_proto::{
    call::{
        CallEnd, CallEvent, CallId, CallRecord, CallSummary, Calls, CallsConfig, CommandError,
        EndReason, LookUpFailure, MediaSummary, Output, Remote,
    },
    clock::{Now, UnixTime},
    contacts::safety_number,
    identity::{NodeId, NodePublicKey, UserName},
    wire::v1::peer_message::Body,
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{CallNotice, LegId, LiveStatistics, Log, LookUp, MediaCommand, MediaEvent, Relations};
use crate::peer::{PeerEvent, Peers};

type Act = Box<dyn FnOnce(&mut Calls, Now) -> Result<(), CommandError> + Send>;

/// What a handle asks for.
pub(super) enum Command {
    /// Call a user.
    Place(UserName, oneshot::Sender<Result<CallId, CommandError>>),
    /// Any other command of the machines.
    Act(Act, oneshot::Sender<Result<(), CommandError>>),
}

pub(super) struct Inputs {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) peer_events: mpsc::Receiver<PeerEvent>,
    pub(super) media_events: mpsc::Receiver<MediaEvent>,
}

pub(super) struct Task {
    calls: Calls,
    own: (UserName, NodePublicKey),
    look_up: Arc<dyn LookUp>,
    relations: Arc<dyn Relations>,
    peers: Peers,
    media: mpsc::Sender<MediaCommand>,
    other_messages: mpsc::Sender<PeerEvent>,
    notices: broadcast::Sender<CallNotice>,
    list: watch::Sender<Vec<CallSummary>>,
    live: watch::Sender<BTreeMap<CallId, LiveStatistics>>,
    records: Arc<Mutex<Log<CallRecord>>>,
    found: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
    /// Media figures of calls whose legs have stopped, until their end is told.
    reports: BTreeMap<CallId, Vec<(NodeId, Report)>>,
    /// Keys of the devices that calls were made with.
    keys: BTreeMap<NodeId, NodePublicKey>,
}

/// The figures of a leg, when it has stopped.
type Report = oneshot::Receiver<Option<MediaSummary>>;

/// Where a task tells what happens: notices, the calls that stand, how their voice fares, the
/// records of past ones.
pub(super) type Tellings = (
    broadcast::Sender<CallNotice>,
    watch::Sender<Vec<CallSummary>>,
    watch::Sender<BTreeMap<CallId, LiveStatistics>>,
    Arc<Mutex<Log<CallRecord>>>,
);

type Found = (CallId, Result<Vec<NodeId>, LookUpFailure>);

/// Device keys remembered for safety numbers. Chosen: far above the devices of calls at once.
const KEYS_MAX: usize = 1_024;

impl Task {
    pub(super) fn new(
        config: CallsConfig,
        seed: [u8; 32],
        own: (UserName, NodePublicKey),
        (look_up, relations): (Arc<dyn LookUp>, Arc<dyn Relations>),
        (peers, media, other_messages): (
            Peers,
            mpsc::Sender<MediaCommand>,
            mpsc::Sender<PeerEvent>,
        ),
        (notices, list, live, records): Tellings,
    ) -> Self {
        Self {
            calls: Calls::new(config, seed),
            own,
            look_up,
            relations,
            peers,
            media,
            other_messages,
            notices,
            list,
            live,
            records,
            found: mpsc::channel(64),
            reports: BTreeMap::new(),
            keys: BTreeMap::new(),
        }
    }

    /// Runs until the last handle is dropped; then ends the calls that stand.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let deadline = self.drain().await;
            let timer = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inputs.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => break,
                },
                Some(event) = inputs.peer_events.recv() => self.handle_peer(event),
                Some(event) = inputs.media_events.recv() => self.handle_media(event),
                Some((call, found)) = self.found.1.recv() => {
                    self.calls.handle_look_up(now(), call, found);
                }
                () = timer => self.calls.handle_timeout(now()),
            }
        }
        let standing: Vec<CallId> = self.calls.list().map(|call| call.call).collect();
        for call in standing {
            // Refused only by a call that has just ended.
            let _ = self.calls.hang_up(now(), call);
        }
        self.drain().await;
    }

    fn handle_command(&mut self, command: Command) {
        // A handle that no longer waits for its answer needs none.
        match command {
            Command::Place(user, reply) => {
                let relation = self.relations.relation(&user);
                let _ = reply.send(self.calls.place_call(now(), &user, relation));
            }
            Command::Act(act, reply) => drop(reply.send(act(&mut self.calls, now()))),
        }
    }

    fn handle_peer(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected(peer) => {
                self.calls.handle_connected(now(), peer.node);
                self.hand_on(PeerEvent::Connected(peer));
            }
            PeerEvent::Lost { peer, reason } => {
                tracing::debug!(node = %peer.node, %reason, "peer connection lost");
            }
            PeerEvent::Unreachable { node, reason } => {
                let said = if reason.is_impostor() {
                    tracing::warn!(%node, %reason, "somebody answered in a device's place");
                    EndReason::Impostor
                } else {
                    EndReason::Unreachable
                };
                self.calls.handle_unreachable(now(), node, said);
            }
            PeerEvent::Message { from, body: Body::Call(message) } => {
                if self.keys.len() >= KEYS_MAX {
                    self.keys.pop_first();
                }
                self.keys.insert(from.node, from.key);
                let relation = self.relations.relation(&from.user);
                let remote = Remote { node: from.node, user: from.user, relation };
                self.calls.handle_message(now(), &remote, message);
            }
            message @ PeerEvent::Message { .. } => self.hand_on(message),
        }
    }

    fn hand_on(&self, event: PeerEvent) {
        if self.other_messages.try_send(event).is_err() {
            tracing::debug!("a message was dropped: its taker is busy or gone");
        }
    }

    fn handle_media(&mut self, event: MediaEvent) {
        let calls = &mut self.calls;
        match event {
            MediaEvent::Parameters { leg, transport, media } => {
                calls.handle_local_parameters(now(), leg.call, leg.peer, transport, media);
            }
            MediaEvent::Candidate { leg, generation, candidate } => {
                calls.handle_local_candidate(now(), leg.call, leg.peer, generation, candidate);
            }
            MediaEvent::State { leg, state } => {
                calls.handle_media_state(now(), leg.call, leg.peer, state);
            }
            MediaEvent::Statistics { leg, statistics } => {
                let call = leg.call;
                self.live.send_modify(|live| drop(live.insert(call, statistics.clone())));
                self.notify(CallNotice::Statistics { event: "statistics", call, statistics });
            }
            MediaEvent::Devices { leg, change } => {
                self.notify(CallNotice::Devices { call: leg.call, change });
            }
            MediaEvent::NoSound { leg, message } => {
                self.notify(CallNotice::NoSound { event: "no_sound", call: leg.call, message });
            }
        }
    }

    /// Does all that the machines want; gives the next deadline.
    async fn drain(&mut self) -> Option<Instant> {
        let deadline = loop {
            match self.calls.poll_output() {
                Output::Timeout(at, _) => break Some(at),
                Output::Idle => break None,
                output => self.perform(output).await,
            }
        };
        let list: Vec<CallSummary> = self.calls.list().collect();
        self.list.send_if_modified(|before| {
            let is_new = *before != list;
            if is_new {
                *before = list;
            }
            is_new
        });
        deadline
    }

    async fn perform(&mut self, output: Output) {
        let leg = |call, peer| LegId { call, peer };
        let command = match output {
            Output::LookUp { call, user } => return self.find(call, user),
            Output::Send { to, message } => return self.peers.send(to, Body::Call(message)),
            Output::Event(event) => return self.tell(event).await,
            Output::StartMedia { call, peer, controlling, relay_only } => {
                MediaCommand::Start { leg: leg(call, peer), controlling, relay_only }
            }
            Output::RemoteParameters { call, peer, transport, media } => {
                MediaCommand::RemoteParameters { leg: leg(call, peer), transport, media }
            }
            Output::RemoteCandidate { call, peer, candidate } => {
                MediaCommand::RemoteCandidate { leg: leg(call, peer), candidate }
            }
            Output::RevealAddresses { call, peer } => MediaCommand::Reveal { leg: leg(call, peer) },
            Output::RestartMedia { call, peer, generation } => {
                MediaCommand::Restart { leg: leg(call, peer), generation }
            }
            Output::Voice { call, peer, send, receive, muted } => {
                MediaCommand::Voice { leg: leg(call, peer), flows: send && receive, muted }
            }
            Output::StopMedia { call, peer } => {
                let (report, reported) = oneshot::channel();
                self.reports.entry(call).or_default().push((peer, reported));
                MediaCommand::Stop { leg: leg(call, peer), report }
            }
            Output::Timeout(..) | Output::Idle => return,
        };
        if self.media.send(command).await.is_err() {
            tracing::error!("nobody runs the media legs any more");
        }
    }

    fn find(&self, call: CallId, user: UserName) {
        let look_up = self.look_up.devices(user.clone());
        let found = self.found.0.clone();
        let peers = self.peers.clone();
        tokio::spawn(async move {
            let result = look_up.await;
            for node in result.iter().flatten() {
                peers.expect(*node, user.clone());
            }
            // The task has ended with all its calls.
            let _ = found.send((call, result)).await;
        });
    }

    async fn tell(&mut self, event: CallEvent) {
        match &event {
            // The path of the signalling is most likely dead: look for another.
            CallEvent::SignallingLost { call } => {
                if let Some(peer) = self.calls.chosen(*call) {
                    self.peers.reconnect(peer);
                }
            }
            CallEvent::Ended(end) => self.record(end.clone()),
            _ => {}
        }
        self.notify(CallNotice::Event(event));
    }

    fn notify(&self, notice: CallNotice) {
        // Nobody listens: nobody needs to be told.
        let _ = self.notices.send(notice);
    }

    /// Completes and stores the record of an ended call, beside the calls that go on.
    fn record(&mut self, end: CallEnd) {
        let reports = self.reports.remove(&end.summary.call).unwrap_or_default();
        let chosen = reports.into_iter().find(|(peer, _)| Some(*peer) == end.node);
        let key = end.node.and_then(|node| self.keys.get(&node).copied());
        let (own, notices, records) =
            (self.own.clone(), self.notices.clone(), self.records.clone());
        tokio::spawn(async move {
            let media = match chosen {
                Some((_, report)) => report.await.ok().flatten(),
                None => None,
            };
            let stored = tokio::task::spawn_blocking(move || {
                let number =
                    key.map(|key| safety_number((&own.0, &own.1), (&end.summary.user, &key)));
                let record = CallRecord::new(&end, media, number);
                let mut log = records.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = log.append(record.clone()) {
                    tracing::error!(%error, "a call record is lost when the program ends");
                }
                record
            });
            if let Ok(record) = stored.await {
                let _ = notices.send(CallNotice::Recorded { event: "recorded", record });
            }
        });
        // Legs of calls that ended earlier have told all that they will.
        let standing: BTreeSet<CallId> = self.calls.list().map(|call| call.call).collect();
        self.reports.retain(|call, _| standing.contains(call));
        self.live.send_modify(|live| live.retain(|call, _| standing.contains(call)));
    }
}

fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix = UnixTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    Now { instant: Instant::now(), unix }
}
