//! Super nodes with real keys and certificates, and the wire between them, in virtual time.

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
    index::RECORD_LIFE_HOURS,
    overlay::{NetworkTrust, Output, OverlayConfig, SuperNodeOverlay, sealed::Sealed},
    wire::v1,
};
use prost::Message;

pub(crate) const START: UnixTime = UnixTime(1_800_000_000_000);
pub(crate) const ONE_WAY: Duration = Duration::from_millis(20);

pub(crate) struct Device {
    pub(crate) key: [u8; 32],
    pub(crate) trust: NetworkTrust,
}

pub(crate) struct World {
    pub(crate) network: NetworkKey,
    pub(crate) nodes: Vec<(SocketAddr, SuperNodeOverlay)>,
    pub(crate) wire: VecDeque<(Instant, SocketAddr, SocketAddr, Bytes)>,
    pub(crate) now: Now,
    pub(crate) told: Vec<(usize, Output)>,
    pub(crate) bytes_to: std::collections::BTreeMap<SocketAddr, usize>,
}

impl World {
    pub(crate) fn new(super_nodes: u8) -> Self {
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

    pub(crate) fn device(&self, seed: u8, user: Option<&str>) -> Device {
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

    pub(crate) fn add_super_node(&mut self, n: u8) {
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

    pub(crate) fn collect(&mut self) {
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

    pub(crate) fn run(&mut self, span: Duration) {
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

    pub(crate) fn record(&self, device: &Device, home: usize, presence: v1::Presence) -> Vec<u8> {
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

    pub(crate) fn look_up(&mut self, at: usize, name: &str) -> cooee_proto::index::Answer {
        self.look_up_for(at, name, Duration::from_secs(3))
    }

    pub(crate) fn look_up_for(
        &mut self,
        at: usize,
        name: &str,
        span: Duration,
    ) -> cooee_proto::index::Answer {
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

pub(crate) fn joined(super_nodes: u8) -> World {
    let mut world = World::new(super_nodes);
    world.run(Duration::from_secs(10));
    for (_, node) in &world.nodes {
        assert_eq!(node.status().members, usize::from(super_nodes));
        assert!(node.status().joined);
    }
    world
}
