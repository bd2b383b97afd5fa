//! Counters of a login server, in the Prometheus text format.

use std::{fmt::Write as _, sync::Mutex};

use cooee_proto::{
    login::StorageFault,
    wire::v1::{LoginRefusal, login_request, login_response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::storage::Statistics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// What a login server counts. Labels are kinds of messages: their number is fixed.
pub struct Metrics {
    registry: Mutex<Registry>,
    pub(super) open_connections: Gauge,
    pub(super) connections: Counter,
    pub(super) refused_connections: Counter,
    pub(super) failed_handshakes: Counter,
    requests: Family<KindLabel, Counter>,
    refusals: Family<ReasonLabel, Counter>,
    storage_faults: Family<ReasonLabel, Counter>,
    users: Gauge,
    devices: Gauge,
    super_nodes: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Mutex::new(Registry::with_prefix("cooee_login")),
            open_connections: Gauge::default(),
            connections: Counter::default(),
            refused_connections: Counter::default(),
            failed_handshakes: Counter::default(),
            requests: Family::default(),
            refusals: Family::default(),
            storage_faults: Family::default(),
            users: Gauge::default(),
            devices: Gauge::default(),
            super_nodes: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&self) {
        let mut registry = self.registry.lock().expect("no holder of this lock panics");
        let open = self.open_connections.clone();
        registry.register("open_connections", "Connections open now", open);
        registry.register("connections", "Connections accepted", self.connections.clone());
        let refused = self.refused_connections.clone();
        registry.register("refused_connections", "Connections above the bound", refused);
        let failed = self.failed_handshakes.clone();
        registry.register("failed_handshakes", "TLS handshakes that failed", failed);
        registry.register("requests", "Requests by kind", self.requests.clone());
        registry.register("refusals", "Refused requests by reason", self.refusals.clone());
        let faults = self.storage_faults.clone();
        registry.register("storage_faults", "Faults of the database", faults);
        registry.register("users", "Accounts", self.users.clone());
        registry.register("devices", "Devices with a running certificate", self.devices.clone());
        let super_nodes = self.super_nodes.clone();
        registry.register("super_nodes", "Dedicated super nodes", super_nodes);
    }

    pub(super) fn request(&self, kind: Option<&login_request::Kind>) {
        use login_request::Kind as K;
        let kind = match kind {
            Some(K::Hello(_)) => "hello",
            Some(K::RegisterStart(_)) => "register_start",
            Some(K::RegisterFinish(_)) => "register",
            Some(K::LoginStart(_)) => "login_start",
            Some(K::LoginFinish(_)) => "login",
            Some(K::Renew(_)) => "renew",
            Some(K::EnrolSuperNode(_)) => "enrol_super_node",
            Some(K::LookUpUser(_)) => "look_up_user",
            Some(_) => "other",
            None => "malformed",
        };
        self.requests.get_or_create(&KindLabel { kind }).inc();
    }

    pub(super) fn response(&self, kind: Option<&login_response::Kind>) {
        if let Some(login_response::Kind::Refused(refused)) = kind {
            let reason = LoginRefusal::as_str_name(&refused.reason());
            self.refusals.get_or_create(&ReasonLabel { reason }).inc();
        }
    }

    pub(super) fn storage_fault(&self, fault: StorageFault) {
        let reason = match fault {
            StorageFault::Full => "full",
            StorageFault::Broken => "broken",
            StorageFault::Busy => "busy",
        };
        self.storage_faults.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(super) fn set_statistics(&self, statistics: &Statistics) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.users.set(number(statistics.users));
        self.devices.set(number(statistics.devices));
        self.super_nodes.set(number(statistics.super_nodes));
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let registry = self.registry.lock().expect("no holder of this lock panics");
        let mut text = String::new();
        if encode(&mut text, &registry).is_err() {
            let _ = writeln!(text, "# a metric could not be written");
        }
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
