//! What the node says of itself: status, metrics, one sentence on how it is doing.

use cooee_proto::attachment::{Status as Attached, Udp};
use prometheus_client::{encoding::text::encode, metrics::gauge::Gauge, registry::Registry};

use super::{Node, serving::seconds_since};
use crate::api::types::Status;

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
        let relay = self.serving.as_ref().and_then(|serving| serving.relay.as_ref());
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
            is_super_node: self.serving.as_ref().is_some_and(|it| it.super_node.is_some()),
            relayed_bytes: relay.map_or(0, |relay| relay.counts().relayed_bytes),
            certificate_expires_unix_ms: certificate.map_or(0, |it| it.not_after().0),
            calls: self.calls.as_ref().map_or(0, |calls| calls.list().len()),
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
        if let Some(serving) = &self.serving {
            if let Some(super_node) = &serving.super_node {
                super_node.metrics().register(registry.sub_registry_with_prefix("super_node"));
                let attached = Gauge::<i64>::default();
                attached.set(super_node.attached().len() as i64);
                registry.register("super_node_attached", "Nodes attached here", attached);
            }
            if let Some(relay) = &serving.relay {
                let counts = relay.counts();
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
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("strings take anything");
        text
    }
}

/// The state in one word and in one sentence.
pub(super) fn describe(status: &Attached) -> (&'static str, String) {
    match status {
        Attached::Idle => ("offline", "not started".to_owned()),
        Attached::Racing => ("attaching", "looking for a super node".to_owned()),
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
