//! Drives the machine: one task, one queue of inputs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use cooee_proto::{
    attachment::{Attachment as Machine, AttemptId, Event, Output, Status, Udp},
    clock::{Now, describe_offset},
    control::CLOCK_SKEW_MAX,
    host_cache::HostCache,
    wire::v1::{Publish, request},
};
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep, sleep_until, timeout},
};

use super::{
    AttachmentConfig, AttachmentEvent, IncomingSplice, Shared,
    attempt::{self, Connected, Greeted, Place},
    connection::{self, Served},
    watch_request,
};
use crate::{
    network_watch,
    transport::{ControlChannel, Dialer, TransportError},
};

/// How often the super node in use is asked for a sign of life while nothing happens, by one
/// datagram of 48 bytes with its headers, answered by one of 80: half a megabyte a day.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// When that datagram is repeated, from the first one on. After the last has had its time, the
/// connection itself is asked.
const LIFE_REPEATS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(400), Duration::from_millis(1000)];

/// Time for each answer. Chosen.
const LIFE_ANSWER: Duration = Duration::from_millis(1000);

/// What the handles want.
pub(super) enum Command {
    NetworkChanged,
    /// Somebody waits for a connection.
    Wanted,
    SetBootstrap(Vec<SocketAddr>),
    Stop,
}

/// What the tasks report.
pub(super) enum Input {
    ProbeAnswered(SocketAddr),
    Opened(AttemptId),
    Attempted(AttemptId, Box<Result<Connected, TransportError>>),
    Lost(AttemptId),
    Drain(AttemptId, Vec<SocketAddr>),
    Report(Vec<SocketAddr>),
}

pub(super) struct Start {
    pub(super) config: AttachmentConfig,
    pub(super) dialer: Dialer,
    pub(super) host_cache: HostCache,
    pub(super) shared: Arc<Shared>,
    pub(super) splices: mpsc::Sender<IncomingSplice>,
    pub(super) events: mpsc::Sender<AttachmentEvent>,
    pub(super) status: watch::Sender<Status>,
}

pub(super) struct Driver {
    start: Start,
    machine: Machine,
    attempts: BTreeMap<AttemptId, AbortHandle>,
    channels: BTreeMap<AttemptId, ControlChannel>,
    greeted: Greeted,
    places: BTreeMap<AttemptId, Place>,
    in_use: Option<AttemptId>,
    inputs: mpsc::Sender<Input>,
    input_queue: mpsc::Receiver<Input>,
    /// Since when there is no connection in use.
    seeking_since: Instant,
    bytes: u64,
    observed_address: Option<SocketAddr>,
    told_of_clock: bool,
}

impl Driver {
    pub(super) fn new(start: Start) -> Self {
        let (inputs, input_queue) = mpsc::channel(64);
        let own = start.dialer.tls().credentials().node();
        let machine = Machine::new(
            start.config.race.clone(),
            own,
            start.host_cache.clone(),
            start.config.port_kind,
            start.config.seed,
        );
        Self {
            start,
            machine,
            attempts: BTreeMap::new(),
            channels: BTreeMap::new(),
            greeted: Greeted::default(),
            places: BTreeMap::new(),
            in_use: None,
            inputs,
            input_queue,
            seeking_since: Instant::now(),
            bytes: 0,
            observed_address: None,
            told_of_clock: false,
        }
    }

    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        self.machine.start(self.now());
        let mut sign_of_life = interval(SIGN_OF_LIFE);
        sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let timeout = self.drain();
            let sleep = async {
                match timeout {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::NetworkChanged) => self.handle_network_change(),
                    Some(Command::Wanted) => self.machine.handle_wanted(self.now()),
                    Some(Command::SetBootstrap(addresses)) => {
                        self.machine.set_bootstrap(self.now(), addresses);
                    }
                    Some(Command::Stop) | None => break,
                },
                Some(input) = self.input_queue.recv() => self.handle(input),
                _ = sign_of_life.tick() => self.look_for_life(),
                () = sleep => self.machine.handle_timeout(self.now()),
            }
        }
        for attempt in self.attempts.values() {
            attempt.abort();
        }
        for channel in self.channels.values() {
            channel.connection().close();
        }
    }

    fn now(&self) -> Now {
        Now { instant: Instant::now(), unix: self.start.dialer.tls().trust().unix_now() }
    }

    fn handle(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Opened(id) => self.machine.handle_progress(now, id),
            Input::ProbeAnswered(from) => self.machine.handle_probe_answer(now, from),
            Input::Attempted(id, result) => {
                self.attempts.remove(&id);
                match *result {
                    Ok(connected) => self.attached(now, id, connected),
                    Err(error) => {
                        tracing::debug!(attempt = id.0, %error, "attempt failed");
                        self.machine.handle_failure(now, id, attempt::failure(error));
                    }
                }
            }
            Input::Lost(id) => {
                self.places.remove(&id);
                if let Some(channel) = self.channels.remove(&id) {
                    tracing::info!(connection = ?channel.connection(), "super node lost");
                    self.machine.handle_lost(now, id);
                }
                self.publish_held();
            }
            Input::Drain(id, try_these) => self.machine.handle_drain(now, id, &try_these),
            Input::Report(addresses) => self.machine.handle_report(now, &addresses),
        }
    }

    /// Connections from addresses that this machine no longer has are lost now, not when somebody
    /// notices.
    fn handle_network_change(&mut self) {
        let addresses = network_watch::addresses();
        let dead = self.channels.iter().filter(|(_, channel)| {
            let ip = channel.connection().local_address().ip();
            !ip.is_loopback() && !addresses.contains(&ip.to_canonical())
        });
        let dead: Vec<AttemptId> = dead.map(|(id, _)| *id).collect();
        for id in dead {
            if let Some(channel) = self.channels.get(&id) {
                channel.connection().close();
            }
            self.handle(Input::Lost(id));
        }
        self.machine.handle_network_change(self.now());
    }

    fn attached(&mut self, now: Now, id: AttemptId, connected: Connected) {
        let Connected { channel, inbox, theirs, round_trip, place } = connected;
        let Some(node) = channel.connection().node() else { return };
        self.bytes += channel.connection().bytes().total();
        self.observed_address = theirs.observed_address;
        self.note_clock(now, theirs.unix);
        self.channels.insert(id, channel.clone());
        self.places.insert(id, place);
        tokio::spawn(connection::serve(Served {
            attempt: id,
            channel,
            inbox,
            inputs: self.inputs.clone(),
            splices: self.start.splices.clone(),
            events: self.start.events.clone(),
            trust: self.start.dialer.tls().trust().clone(),
            status: self.start.status.subscribe(),
        }));
        self.machine.handle_attached(now, id, node, round_trip);
    }

    fn note_clock(&mut self, now: Now, theirs: cooee_proto::clock::UnixTime) {
        let by = now.unix.since(theirs).max(theirs.since(now.unix));
        if by > CLOCK_SKEW_MAX && !self.told_of_clock {
            self.told_of_clock = true;
            let behind_ms = theirs.0.cast_signed().saturating_sub(now.unix.0.cast_signed());
            tracing::warn!(
                "the clock of this machine is {}: set it, or nobody can call you",
                describe_offset(behind_ms)
            );
            self.tell(AttachmentEvent::ClockDiffers { by });
        }
    }

    fn tell(&self, event: AttachmentEvent) {
        let _ = self.start.events.try_send(event);
    }

    /// Carries out what the machine wants; returns when it wants to be called.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.machine.poll_output() {
                Output::Probe { to } => self.probe(to),
                Output::Connect { attempt, to } => self.connect(attempt, to),
                Output::Abandon { attempt } => {
                    if let Some(task) = self.attempts.remove(&attempt) {
                        task.abort();
                    }
                }
                Output::Close { attempt } => {
                    self.places.remove(&attempt);
                    if let Some(channel) = self.channels.remove(&attempt) {
                        channel.connection().close();
                    }
                }
                Output::Check { attempt } => self.check(attempt),
                Output::Event(event) => self.event(event),
                Output::Timeout(at) => return at,
            }
        }
    }

    fn probe(&self, to: SocketAddr) {
        let (probe, inputs) = (self.start.config.prober.probe(to), self.inputs.clone());
        tokio::spawn(async move {
            if probe.await.is_ok() {
                let _ = inputs.send(Input::ProbeAnswered(to)).await;
            }
        });
    }

    fn connect(&mut self, id: AttemptId, to: SocketAddr) {
        let (dialer, inputs) = (self.start.dialer.clone(), self.inputs.clone());
        let port = self.start.config.listening_port;
        let greeted = self.greeted.clone();
        let task = tokio::spawn(async move {
            let is_open = async {
                let _ = inputs.send(Input::Opened(id)).await;
            };
            let connected = attempt::connect(&dialer, to, port, &greeted, is_open).await;
            let result = Box::new(connected);
            let _ = inputs.send(Input::Attempted(id, result)).await;
        });
        self.attempts.insert(id, task.abort_handle());
    }

    fn check(&self, id: AttemptId) {
        if let Some(channel) = self.channels.get(&id).cloned() {
            connection::check(channel, self.others(id), self.start.config.room.clone());
        }
    }

    /// The other connections that are held.
    fn others(&self, id: AttemptId) -> Vec<ControlChannel> {
        let others = self.channels.iter().filter(|(other, _)| **other != id);
        others.map(|(_, channel)| channel.clone()).collect()
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Attached { attempt, node, address, .. } => {
                tracing::info!(%node, %address, "attached");
                self.in_use = Some(attempt);
                self.publish_held();
                let bytes = std::mem::take(&mut self.bytes);
                self.tell(AttachmentEvent::Attached {
                    super_nodes: self.super_nodes(),
                    observed_address: self.observed_address,
                    took: self.seeking_since.elapsed(),
                    bytes,
                });
                self.introduce(attempt, true);
            }
            Event::WarmReady { attempt, .. } => {
                self.publish_held();
                self.tell(AttachmentEvent::SuperNodesChanged(self.super_nodes()));
                self.introduce(attempt, false);
            }
            Event::WarmLost { .. } => {
                self.publish_held();
                self.tell(AttachmentEvent::SuperNodesChanged(self.super_nodes()));
            }
            Event::Lost { .. } => {
                self.seeking_since = Instant::now();
                self.in_use = None;
                self.publish_held();
            }
            Event::UdpChanged(udp) => tracing::info!(?udp, "UDP"),
            Event::StatusChanged(status) => {
                self.start.status.send_replace(status.clone());
                self.tell(AttachmentEvent::StatusChanged(status));
            }
        }
        let entries = self.machine.host_cache().entries().cloned().collect();
        let stored = (entries, self.machine.port_kind());
        *self.start.shared.stored.lock().expect("no holder of this lock panics") = stored;
    }

    /// Asks by UDP whether the super node in use is still there; silence makes the connection
    /// itself be asked, which closes it if there is no answer either.
    fn look_for_life(&self) {
        let held = self.in_use.and_then(|id| Some((id, self.channels.get(&id)?.clone())));
        let (Some((id, channel)), Some(to)) = (held, self.machine.entry_in_use()) else { return };
        let (others, room) = (self.others(id), self.start.config.room.clone());
        if room.is_little() {
            return;
        }
        if !matches!(self.machine.status(), Status::Attached { udp: Udp::Works, .. }) {
            return;
        }
        let prober = self.start.config.prober.clone();
        tokio::spawn(async move {
            let ask = |after: Duration| {
                let prober = prober.clone();
                async move {
                    sleep(after).await;
                    timeout(LIFE_ANSWER, prober.probe(to)).await.ok()?.ok()
                }
                .boxed()
            };
            let asked = LIFE_REPEATS.map(ask);
            let mut answers: FuturesUnordered<_> = asked.into_iter().collect();
            while let Some(answer) = answers.next().await {
                if answer.is_some() {
                    return;
                }
            }
            tracing::info!(%to, "the super node does not answer by UDP");
            connection::check(channel, others, room);
        });
    }

    /// Makes the connections known to the handles, the one in use first.
    fn publish_held(&self) {
        let mut ids: Vec<AttemptId> = self.channels.keys().copied().collect();
        ids.sort_by_key(|id| Some(*id) != self.in_use);
        let channels = ids.iter().filter_map(|id| self.channels.get(id)).cloned().collect();
        self.start.shared.held.lock().expect("no holder of this lock panics").channels = channels;
    }

    fn super_nodes(&self) -> Vec<cooee_proto::identity::NodeId> {
        let held = self.start.shared.held.lock().expect("no holder of this lock panics");
        held.channels.iter().filter_map(|channel| channel.connection().node()).collect()
    }

    /// Gives a new super node our record, and to the one in use what we watch.
    fn introduce(&self, id: AttemptId, in_use: bool) {
        let Some(channel) = self.channels.get(&id).cloned() else { return };
        let (record, watched) = {
            let held = self.start.shared.held.lock().expect("no holder of this lock panics");
            (held.record.clone(), held.watched.clone())
        };
        tokio::spawn(async move {
            if let Some(record) = record {
                let _ = channel.request(request::Kind::Publish(Publish { record })).await;
            }
            if in_use && !watched.is_empty() {
                let _ = channel.request(watch_request(&watched)).await;
            }
        });
    }
}
