//! What hostile super nodes do: withhold, lie with old records, say nothing, swallow news, accuse.
//!
//! They are certified members and together: all give the same old record of a user, the first that
//! was ever published, so that their lies agree. They cannot forge (tested with real keys
//! elsewhere).

use std::collections::BTreeMap;

use cooee_proto::{
    identity::{NameKey, NodeId},
    overlay::mix::mix64,
    wire::v1::{self, overlay_message::Kind},
};
use prost::Message;

use super::{
    tag_trust::{CLEAR_HEADER_BYTES, clear_datagram},
    world::World,
};

/// The old records that hostile super nodes share.
#[derive(Default)]
pub(super) struct Conspiracy {
    first: BTreeMap<NameKey, v1::Entry>,
}

impl Conspiracy {
    /// A datagram reaches a hostile super node. Returns whether its honest machine may have it too.
    pub(super) fn meet(
        &mut self,
        world: &mut World,
        from: u32,
        host: u32,
        bytes: &bytes::Bytes,
    ) -> bool {
        let Ok(message) = v1::OverlayMessage::decode(bytes.slice(CLEAR_HEADER_BYTES..)) else {
            return true;
        };
        match message.kind {
            Some(Kind::Store(store)) => {
                for entry in &store.entries {
                    if let (Some(key), Some(_)) = (NameKey::from_slice(&entry.key), &entry.record) {
                        self.first.entry(key).or_insert_with(|| entry.clone());
                    }
                }
                let stored = v1::Stored { request: store.request, refused: 0 };
                self.say(world, host, from, Kind::Stored(stored));
                false
            }
            Some(Kind::Find(find)) => {
                self.lie(world, from, host, &find);
                false
            }
            // News is learnt but not passed on; shards are never given away.
            Some(Kind::Spread(mut spread)) => {
                spread.hops = 0;
                let node = world.hosts[from as usize].node;
                let message = v1::OverlayMessage { kind: Some(Kind::Spread(spread)) };
                let quiet = clear_datagram(node, &message.encode_to_vec());
                world.deliver(from, host, &quiet);
                false
            }
            Some(Kind::ShardPull(_) | Kind::WatchKeys(_) | Kind::PingRequest(_)) => false,
            _ => true,
        }
    }

    fn lie(&self, world: &mut World, from: u32, host: u32, find: &v1::Find) {
        const SILENT_PERCENT: u64 = 20;
        const WITHHOLD_PERCENT: u64 = 40;
        let choice = mix64(u64::from(host)) % 100;
        if choice < SILENT_PERCENT {
            return;
        }
        let mut answer = v1::FindAnswer { request: find.request, ..Default::default() };
        if choice >= SILENT_PERCENT + WITHHOLD_PERCENT
            && let Some(old) = NameKey::from_slice(&find.key).and_then(|key| self.first.get(&key))
        {
            answer.entries.push(old.clone());
        }
        self.say(world, host, from, Kind::FindAnswer(answer));
    }

    /// A hostile super node accuses an honest one.
    pub(super) fn accuse(&self, world: &mut World, host: u32, victim: u32) {
        let Some(overlay) = world.hosts[victim as usize].overlay.as_ref() else { return };
        let own = overlay.own();
        let suspicion = v1::Suspicion {
            node: bytes::Bytes::copy_from_slice(&own.node.0),
            incarnation: own.incarnation,
        };
        let kind = Some(v1::member_update::Kind::Suspicion(suspicion));
        let spread = v1::Spread { updates: vec![v1::MemberUpdate { kind }], hops: 2 };
        let to = world.random_alive();
        self.say(world, host, to, Kind::Spread(spread));
    }

    fn say(&self, world: &mut World, host: u32, to: u32, kind: Kind) {
        let node: NodeId = world.hosts[host as usize].node;
        let message = v1::OverlayMessage { kind: Some(kind) };
        world.send(host, to, clear_datagram(node, &message.encode_to_vec()));
    }
}
