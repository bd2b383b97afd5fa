//! What the node says of itself: status, metrics, one sentence on how it is doing.

use cooee_proto::attachment::{Status as Attached, Udp};
use prometheus_client::{encoding::text::encode, metrics::gauge::Gauge, registry::Registry};

use super::{Node, serving::seconds_since};
use crate::{
    api::types::{OverlayFacts, Status},
    overlay::OverlayDirectory,
};

/// Bytes of a page of memory; `/proc` counts in pages.
fn page_bytes() -> u64 {
    rustix::param::page_size() as u64
}

/// Resident memory of this process in MiB; 0 where the system does not tell.
pub(super) fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    (pages * page_bytes()) as f64 / (1024.0 * 1024.0)
}

impl Node {
    /// How the node is doing.
    pub fn status(&self) -> Status {
        let certificate = self.tls.credentials().certificate;
        let attached = self.attachment.as_ref().map(|it| it.status().borrow().clone());
        let (state, detail) = match &attached {
            Some(status) => describe(status),
            None => ("attached", "serves others as a dedicated super node".to_owned()),
        };
        let (super_node, spare) = match &attached {
            Some(Attached::Attached { address, warm, .. }) => {
                (Some(address.to_string()), warm.map(|node| node.to_string()))
            }
            _ => (None, None),
        };
        let active = self.serving.as_ref().and_then(super::serving::Serving::active);
        let relay = active.as_ref().map(|active| &active.relay);
        let (login_ms, login_bytes) = {
            let facts = self.facts();
            (facts.login_ms, facts.login_bytes)
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            user: certificate.as_ref().and_then(|it| it.user()).map(ToString::to_string),
            node: self.tls.credentials().node().to_string(),
            network: self.invitation.root.network_id().to_string(),
            state: state.to_owned(),
            detail,
            super_node,
            spare,
            login_ms,
            login_bytes,
            port: self.port,
            overlay: active.as_ref().map(|active| overlay_facts(&active.overlay)),
            is_super_node: active.is_some(),
            election: self.candidacy_words(),
            presence: self.presence().name().to_owned(),
            relayed_bytes: relay.map_or(0, |relay| relay.counts().relayed_bytes),
            certificate_expires_unix_ms: certificate.map_or(0, |it| it.not_after().0),
            calls: self.calls.as_ref().map_or(0, |calls| calls.list().len()),
            talks: self.calls().as_array().cloned().unwrap_or_default(),
            rss_mib: resident_mib(),
            uptime_s: seconds_since(self.started),
        }
    }

    /// OpenMetrics text.
    pub fn metrics(&self) -> String {
        let mut registry = Registry::with_prefix("cooee");
        let memory = Gauge::<i64>::default();
        memory.set((resident_mib() * 1024.0 * 1024.0) as i64);
        registry.register("resident_memory_bytes", "Resident memory of the process", memory);
        let calls = Gauge::<i64>::default();
        calls.set(self.calls.as_ref().map_or(0, |calls| calls.list().len()) as i64);
        registry.register("calls", "Calls that are not over", calls);
        let counts = self.endpoint.counts();
        let dropped = Gauge::<i64>::default();
        dropped.set(i64::try_from(counts.unclaimed_dropped).unwrap_or(i64::MAX));
        registry.register("udp_unclaimed", "Datagrams that nobody here expected", dropped);
        for (name, help, value) in [
            ("udp_sent_bytes", "Bytes of UDP payload sent", counts.sent_bytes),
            ("udp_received_bytes", "Bytes of UDP payload received", counts.received_bytes),
        ] {
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            registry.register(name, help, gauge);
        }
        if let Some(active) = self.serving.as_ref().and_then(super::serving::Serving::active) {
            let super_node = &active.super_node;
            super_node.metrics().register(registry.sub_registry_with_prefix("super_node"));
            let attached = Gauge::<i64>::default();
            attached.set(super_node.attached().len() as i64);
            registry.register("super_node_attached", "Nodes attached here", attached);
            register_overlay(&mut registry, &overlay_facts(&active.overlay));
            let counts = active.relay.counts();
            for (name, help, value) in [
                ("relay_allocations", "Allocations that stand", counts.allocations),
                ("relay_packets", "Payloads relayed", counts.relayed_packets),
                ("relay_bytes", "Bytes of payload relayed", counts.relayed_bytes),
            ] {
                let gauge = Gauge::<i64>::default();
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
                registry.register(name, help, gauge);
            }
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("strings take anything");
        text
    }
}

fn overlay_facts(overlay: &OverlayDirectory) -> OverlayFacts {
    let status = overlay.status();
    OverlayFacts {
        address: overlay.address().to_string(),
        members: status.members,
        dead: status.dead,
        joined: status.joined,
        attached: status.attached,
        load_percent: status.load_percent,
        shards: status.shards,
        entries: status.entries,
        cached: status.cached,
        watched: status.watched,
        distrusted: status.distrusted,
        look_ups: status.look_ups.look_ups,
        cache_hits: status.look_ups.cache_hits,
        by_keepers: status.look_ups.by_keepers,
        by_more_keepers: status.look_ups.by_more_keepers,
        by_nobody: status.look_ups.by_nobody,
        refutations: status.membership.refutations,
    }
}

fn register_overlay(registry: &mut Registry, facts: &OverlayFacts) {
    let registry = registry.sub_registry_with_prefix("overlay");
    for (name, help, value) in [
        ("members", "Super nodes alive or suspect, this one among them", facts.members as u64),
        ("dead", "Super nodes remembered as dead", facts.dead as u64),
        ("load_percent", "Attached nodes in percent of capacity", facts.load_percent.into()),
        ("shards", "Shards of the Global Index kept", facts.shards as u64),
        ("entries", "Entries of the Global Index kept", facts.entries as u64),
        ("cached_names", "Names in the cache", facts.cached as u64),
        ("watched_names", "Names watched for attached nodes", facts.watched as u64),
        ("distrusted_keepers", "Keepers whose voice does not count", facts.distrusted as u64),
        ("look_ups", "Look-ups begun", facts.look_ups),
        ("look_ups_from_cache", "Look-ups answered from the cache", facts.cache_hits),
        ("look_ups_by_keepers", "Look-ups answered by the first keepers", facts.by_keepers),
        ("look_ups_by_more", "Look-ups answered by more keepers", facts.by_more_keepers),
        ("look_ups_by_nobody", "Look-ups answered by nobody", facts.by_nobody),
        ("refutations", "Suspicions of this node refuted", facts.refutations),
    ] {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}

/// The state in one word and in one sentence.
pub(super) fn describe(status: &Attached) -> (&'static str, String) {
    match status {
        Attached::Idle => ("offline", "not started".to_owned()),
        Attached::Racing { before: None } => ("attaching", "looking for a super node".to_owned()),
        Attached::Racing { before: Some(why) } => ("attaching", format!("{why}; trying again now")),
        Attached::Attached { address, udp, .. } => {
            let voice = match udp {
                Udp::Blocked => "; UDP is blocked here, voice goes over TCP",
                _ => "",
            };
            ("attached", format!("attached to the super node {address}{voice}"))
        }
        Attached::Waiting { why, .. } => ("waiting", format!("{why}; trying again by itself")),
    }
}
