//! Counters of a super node, in the shape that Prometheus reads.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// Counters of one super node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SuperNodeMetrics {
    attached: Gauge,
    links: Gauge,
    splices_open: Gauge,
    pub(super) splices: Counter,
    pub(super) splice_bytes: Counter,
    pub(super) splices_refused: Counter,
    pub(super) login_splices: Counter,
    pub(super) busy: Counter,
    pub(super) look_ups: Counter,
    pub(super) anonymous_refused: Counter,
    pub(super) certificates_ended: Counter,
}

impl SuperNodeMetrics {
    /// Registers all counters, each with its help text.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("cooee_super_node");
        registry.register("attached", "Nodes attached now", self.attached.clone());
        registry.register("links", "Links to super nodes now", self.links.clone());
        registry.register("splices_open", "Splices open now", self.splices_open.clone());
        registry.register("splices", "Splices made", self.splices.clone());
        registry.register("splice_bytes", "Bytes spliced", self.splice_bytes.clone());
        registry.register("splices_refused", "Splices refused", self.splices_refused.clone());
        registry.register("login_splices", "Ways to the login server", self.login_splices.clone());
        registry.register("busy", "Nodes told to go elsewhere", self.busy.clone());
        registry.register("look_ups", "Names looked up", self.look_ups.clone());
        let help = "Connections closed because the device was removed or its certificate ended";
        registry.register("certificates_ended", help, self.certificates_ended.clone());
        let help = "Clients without certificate refused";
        registry.register("anonymous_refused", help, self.anonymous_refused.clone());
    }

    /// Splices open now.
    pub fn splices_open(&self) -> i64 {
        self.splices_open.get()
    }

    /// Splices made so far.
    pub fn splices(&self) -> u64 {
        self.splices.get()
    }

    /// Bytes spliced so far, both directions together.
    pub fn splice_bytes(&self) -> u64 {
        self.splice_bytes.get()
    }

    /// Nodes told to go elsewhere so far.
    pub fn busy(&self) -> u64 {
        self.busy.get()
    }

    pub(super) fn set_attached(&self, count: usize) {
        self.attached.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn set_links(&self, count: usize) {
        self.links.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a splice as open until the guard is dropped.
    pub(super) fn open_splice(&self) -> OpenSplice {
        self.splices.inc();
        self.splices_open.inc();
        OpenSplice(self.splices_open.clone())
    }
}

/// A splice that is open.
pub(super) struct OpenSplice(Gauge);

impl Drop for OpenSplice {
    fn drop(&mut self) {
        self.0.dec();
    }
}
