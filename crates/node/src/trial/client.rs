//! The light clients and what their look-ups should have given.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use cooee_proto::{
    attachment::{Config as Race, PortKind, Status},
    host_cache::HostCache,
    identity::{NameKey, NodeId, UserName},
    index::{CACHE_LIFE, RECORD_LIFE_HOURS, RECORD_SUPER_NODES_MAX},
    overlay::Trust as _,
    wire::v1::{Presence, UserRecord},
};
use prost::Message;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha12Rng;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{TrialError, network::Network};
use crate::{
    attachment::{Attachment, AttachmentConfig, AttachmentEvent, FoundDevice, UdpProber},
    login_server::{random_seed, unix_now},
    overlay::LiveTrust,
    transport::{Credentials, Dialer, ProxyConfig, Tls, Trust},
};

/// A published record may take so long to reach every keeper and outlive every cache, as in the
/// simulator.
const SETTLING: Duration = Duration::from_secs(CACHE_LIFE.as_secs() + 5);

/// Bootstrap entries of a client. Chosen, as an invitation names some.
const BOOTSTRAP: usize = 8;

/// A record that was not taken is published again after this.
const PUBLISH_AGAIN: Duration = Duration::from_secs(3);

/// A look-up that takes longer has failed.
const LOOK_UP_MAX: Duration = Duration::from_secs(15);

/// Wrong look-ups that are described. Chosen: more say nothing new.
const TOLD_MAX: usize = 20;

/// Counts of what look-ups gave.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) lookups: u64,
    pub(super) found: u64,
    pub(super) wrong: u64,
    pub(super) missing: u64,
    pub(super) failed: u64,
    /// What was wrong, in words. Bound: [`TOLD_MAX`].
    pub(super) errors: Vec<String>,
    delays_ms: Vec<f64>,
}

impl Tally {
    pub(super) fn quantile(&self, share: f64) -> f64 {
        quantile(&self.delays_ms, share)
    }
}

/// The value below which this share of them lies; 0 of none.
pub(super) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let place = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
    sorted.get(place).copied().unwrap_or(0.0)
}

/// A watched name, what its device shows now, and when the watcher was told.
type Notice = (NameKey, Presence, Instant);

enum Verdict {
    Right(Duration),
    Wrong(String),
    Missing,
    Failed,
}

/// Sequences of a client's records, the newest last, with the moment of each. Bound: four.
#[derive(Default)]
struct Truth(VecDeque<(u64, Instant)>);

impl Truth {
    fn newest(&self) -> u64 {
        self.0.back().map_or(0, |(sequence, _)| *sequence)
    }

    fn publish(&mut self, sequence: u64) {
        self.0.push_back((sequence, Instant::now()));
        if self.0.len() > 4 {
            self.0.pop_front();
        }
    }

    /// Whether a record of this sequence was the newest within the time that caches live.
    fn allows(&self, sequence: u64, asked: Instant) -> bool {
        let replaced = self.0.iter().find(|(newer, _)| *newer > sequence);
        replaced.is_none_or(|(_, at)| asked < *at + SETTLING)
    }
}

pub(super) struct Client {
    pub(super) key: NameKey,
    node: NodeId,
    tls: Arc<Tls>,
    /// `None` while it is offline.
    attachment: Mutex<Option<Attachment>>,
    truth: Mutex<Truth>,
    shown: Mutex<Presence>,
    notices: mpsc::UnboundedSender<Notice>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Client {
    pub(super) fn attachment(&self) -> Option<Attachment> {
        lock(&self.attachment).clone()
    }

    fn home(&self) -> Option<NodeId> {
        match &*self.attachment()?.status().borrow() {
            Status::Attached { node, .. } => Some(*node),
            _ => None,
        }
    }

    fn start(self: &Arc<Self>, bootstrap: Vec<std::net::SocketAddr>) {
        let config = AttachmentConfig {
            race: Race { other_ports: false, ..Race::default() },
            port_kind: PortKind::default(),
            listening_port: None,
            prober: Arc::new(UdpProber),
            seed: random_seed(),
            room: crate::room::Room::default(),
        };
        let dialer = Dialer::new(self.tls.clone(), ProxyConfig::default());
        let (attachment, mut incoming) =
            Attachment::start(config, dialer, HostCache::new(bootstrap));
        *lock(&self.attachment) = Some(attachment);
        let client = Arc::downgrade(self);
        tokio::spawn(async move {
            // Splices are not taken: the other side hears that nobody is there.
            while let Some(event) = incoming.events.recv().await {
                let Some(client) = client.upgrade() else { return };
                if let AttachmentEvent::Notified { key, found } = &event {
                    client.notice(*key, found);
                }
                if let AttachmentEvent::Attached { .. } | AttachmentEvent::SuperNodesChanged(_) =
                    event
                {
                    while !client.publish().await && client.attachment().is_some() {
                        sleep(PUBLISH_AGAIN).await;
                    }
                }
            }
        });
    }

    fn notice(&self, key: NameKey, found: &[FoundDevice]) {
        for device in found {
            if let Ok(record) = UserRecord::decode(device.record.clone()) {
                let _ = self.notices.send((key, record.presence(), Instant::now()));
            }
        }
    }

    async fn publish(&self) -> bool {
        let Some(attachment) = self.attachment() else { return false };
        let super_nodes = attachment.super_nodes().into_iter().take(RECORD_SUPER_NODES_MAX);
        let sequence = unix_now().0.max(lock(&self.truth).newest() + 1);
        let record = UserRecord {
            super_nodes: super_nodes.map(|node| Bytes::copy_from_slice(&node.0)).collect(),
            sequence,
            expiry_unix_ms: sequence + RECORD_LIFE_HOURS * 3_600_000,
            presence: (*lock(&self.shown)).into(),
            ..UserRecord::default()
        };
        let record = LiveTrust::new(self.tls.clone()).sign_record(record);
        let published = attachment.publish(record.encode_to_vec().into()).await.is_ok();
        if published {
            lock(&self.truth).publish(sequence);
        }
        published
    }

    fn judge(&self, asked: Instant, devices: &[FoundDevice], trust: &LiveTrust) -> Verdict {
        let newest =
            devices.iter().filter(|device| device.node == self.node).filter_map(|device| {
                let wire = UserRecord::decode(device.record.clone()).ok()?;
                trust.record(&wire, unix_now()).map(|record| record.sequence)
            });
        match newest.max() {
            None => Verdict::Missing,
            Some(newest) if lock(&self.truth).allows(newest, asked) => {
                Verdict::Right(asked.elapsed())
            }
            Some(newest) => Verdict::Wrong(self.describe(asked, newest)),
        }
    }
}

impl Client {
    /// How wrong an answer with the record of this sequence is.
    fn describe(&self, asked: Instant, sequence: u64) -> String {
        let published = |(of, at): &(u64, Instant)| {
            format!("{of} published {:.1} s before", (asked - *at).as_secs_f64())
        };
        let truth: Vec<String> = lock(&self.truth).0.iter().map(published).collect();
        let took = asked.elapsed().as_secs_f64();
        format!("{}: found {sequence} in {took:.1} s of {}", self.node, truth.join(", "))
    }
}

/// All clients.
pub(super) struct Clients {
    clients: Vec<Arc<Client>>,
    addresses: Vec<std::net::SocketAddr>,
    answers: mpsc::UnboundedReceiver<Verdict>,
    answered: mpsc::UnboundedSender<Verdict>,
    /// Bound: what the watches of the presence measurement bring.
    notices: mpsc::UnboundedReceiver<Notice>,
    rng: ChaCha12Rng,
    under_way: usize,
}

/// Clients started in a row before a short pause. Chosen: a start-up, not a flood; the flood is one
/// of the scenarios.
const STARTED_AT_ONCE: usize = 20;

impl Clients {
    pub(super) async fn start(
        network: &Network,
        count: usize,
        seed: u64,
    ) -> Result<Self, TrialError> {
        let trust = Trust::new(network.root());
        let (answered, answers) = mpsc::unbounded_channel();
        let (noticed, notices) = mpsc::unbounded_channel();
        let mut clients = Self {
            clients: Vec::with_capacity(count),
            addresses: network.addresses(),
            answers,
            answered,
            notices,
            rng: ChaCha12Rng::seed_from_u64(seed ^ 0xc11e),
            under_way: 0,
        };
        for number in 0..count {
            let user: UserName = format!("light{number:05}").parse().expect("a legal name");
            let key = user.key(network.root().network_id());
            let (device, certificate) = network.device(user)?;
            let node = device.node_id();
            let tls = Tls::new(trust.clone(), Credentials::new(device, certificate));
            let tls = tls.map_err(|error| TrialError::Failed(error.to_string()))?;
            let (attachment, truth) = (Mutex::new(None), Mutex::default());
            let (shown, notices) = (Mutex::new(Presence::Online), noticed.clone());
            let client = Client { key, node, tls, attachment, truth, shown, notices };
            let client = Arc::new(client);
            client.start(clients.bootstrap());
            clients.clients.push(client);
            if number % STARTED_AT_ONCE == 0 {
                sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(clients)
    }

    fn bootstrap(&mut self) -> Vec<std::net::SocketAddr> {
        self.addresses.choose_multiple(&mut self.rng, BOOTSTRAP).copied().collect()
    }

    pub(super) async fn wait_until_published(&self, patience: Duration) -> Result<(), TrialError> {
        let begin = Instant::now();
        loop {
            let published =
                self.clients.iter().filter(|client| lock(&client.truth).newest() > 0).count();
            if published == self.clients.len() {
                return Ok(());
            }
            if begin.elapsed() > patience {
                let what = format!("{published} of {} clients published", self.clients.len());
                return Err(TrialError::TooLong(patience, what));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    pub(super) async fn stop(&self, numbers: &[usize]) {
        for number in numbers {
            let attachment = lock(&self.clients[*number].attachment).take();
            if let Some(attachment) = attachment {
                attachment.stop().await;
            }
        }
    }

    /// Every client that is there restarts: no connection, no table, the bootstrap entries only.
    pub(super) async fn restart_all(&mut self) {
        let there: Vec<usize> =
            (0..self.clients.len()).filter(|n| self.clients[*n].attachment().is_some()).collect();
        let stopping = there.iter().map(|number| self.stop(std::slice::from_ref(number)));
        futures::future::join_all(stopping).await;
        for number in there {
            let mut bootstrap = self.bootstrap();
            // The operator's, the last resort of every invitation.
            bootstrap.push(self.addresses[0]);
            self.clients[number].start(bootstrap);
        }
    }

    /// Pairs of clients that are there, in use of different super nodes where that is so.
    pub(super) fn pairs(&self, count_max: usize) -> Vec<[Arc<Client>; 2]> {
        let mut there: Vec<Arc<Client>> =
            self.clients.iter().filter(|client| client.home().is_some()).cloned().collect();
        there.sort_by_key(|client| client.home());
        // The first half watches the second: sorted by super node, neighbours would share one.
        let second = there.split_off(there.len() / 2);
        there.into_iter().zip(second).map(|(one, other)| [one, other]).take(count_max).collect()
    }

    /// A client that is there shows something else.
    pub(super) fn show(&self, key: &NameKey, presence: Presence) {
        let Some(client) = self.clients.iter().find(|client| client.key == *key).cloned() else {
            return;
        };
        *lock(&client.shown) = presence;
        tokio::spawn(async move { client.publish().await });
    }

    /// What the watchers have been told since this was asked last.
    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::iter::from_fn(|| self.notices.try_recv().ok()).collect()
    }

    /// Clients in use of a super node for which this holds.
    pub(super) fn attached_to(&self, wanted: impl Fn(NodeId) -> bool) -> Vec<usize> {
        let home = |number: &usize| self.clients[*number].home().is_some_and(&wanted);
        (0..self.clients.len()).filter(home).collect()
    }

    /// How many of these use a super node that lives.
    pub(super) fn attached_among(
        &self,
        numbers: &[usize],
        lives: impl Fn(NodeId) -> bool,
    ) -> usize {
        numbers.iter().filter(|number| self.clients[**number].home().is_some_and(&lives)).count()
    }

    /// One look-up: somebody who is there asks for anybody.
    pub(super) fn ask(&mut self, rng: &mut ChaCha12Rng) {
        let asker = self.clients[rng.random_range(0..self.clients.len())].clone();
        let target = self.clients[rng.random_range(0..self.clients.len())].clone();
        let Some(attachment) = asker.attachment().filter(|_| asker.home().is_some()) else {
            return;
        };
        let answered = self.answered.clone();
        self.under_way += 1;
        tokio::spawn(async move {
            let asked = Instant::now();
            let found = timeout(LOOK_UP_MAX, attachment.look_up(target.key)).await;
            let trust = LiveTrust::new(asker.tls.clone());
            let verdict = match found {
                Ok(Ok(devices)) => target.judge(asked, &devices, &trust),
                _ => Verdict::Failed,
            };
            let _ = answered.send(verdict);
        });
    }

    pub(super) fn take_answers(&mut self, tally: &mut Tally) {
        while let Ok(verdict) = self.answers.try_recv() {
            self.under_way -= 1;
            count(tally, verdict);
        }
    }

    /// Waits for the look-ups under way.
    pub(super) async fn finish(&mut self, tally: &mut Tally) {
        while self.under_way > 0 {
            let Some(verdict) = self.answers.recv().await else { return };
            self.under_way -= 1;
            count(tally, verdict);
        }
    }

    /// Whether somebody who is there finds this client's record, asking the keepers themselves.
    pub(super) async fn is_found(&mut self, number: usize) -> bool {
        const TRIES: usize = 5;
        let target = self.clients[number].clone();
        for _ in 0..TRIES {
            let there: Vec<&Arc<Client>> =
                self.clients.iter().filter(|client| client.home().is_some()).collect();
            let Some(asker) = there.choose(&mut self.rng).map(|asker| (*asker).clone()) else {
                return false;
            };
            let Some(attachment) = asker.attachment() else { continue };
            let found = timeout(LOOK_UP_MAX, attachment.look_up_fresh(target.key)).await;
            let trust = LiveTrust::new(asker.tls.clone());
            let Ok(Ok(devices)) = found else { continue };
            if matches!(target.judge(Instant::now(), &devices, &trust), Verdict::Right(_)) {
                return true;
            }
            sleep(Duration::from_secs(1)).await;
        }
        false
    }
}

fn count(tally: &mut Tally, verdict: Verdict) {
    tally.lookups += 1;
    match verdict {
        Verdict::Right(delay) => {
            tally.found += 1;
            tally.delays_ms.push(delay.as_secs_f64() * 1000.0);
        }
        Verdict::Wrong(how) => {
            tally.wrong += 1;
            if tally.errors.len() < TOLD_MAX {
                tally.errors.push(how);
            }
        }
        Verdict::Missing => tally.missing += 1,
        Verdict::Failed => tally.failed += 1,
    }
}
