//! The processes: a network key, certified profiles, `cooee super-node` for each.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cooee_proto::identity::{
    Certificate, CertificateRequest, HostPort, Invitation, NetworkKey, NodeId, NodeKey,
    NodePublicKey, Role, Roles, UserName,
};
use rand::Rng;
use tokio::time::sleep;

use super::{TrialConfig, TrialError};
use crate::{api::types::Access, login_server::unix_now, profile::Profile};

/// Validity of the certificates. Chosen: longer than any run.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);

pub(super) struct Network {
    key: NetworkKey,
    program: PathBuf,
    folder: PathBuf,
    nodes: Vec<Node>,
    http: reqwest::Client,
}

struct Node {
    id: NodeId,
    address: SocketAddr,
    profile: PathBuf,
    process: Option<Child>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn failed(what: &str) -> impl Fn(&dyn std::fmt::Display) -> TrialError + use<'_> {
    move |error| TrialError::Failed(format!("{what}: {error}"))
}

impl Network {
    /// Draws keys, issues certificates, writes the profiles.
    pub(super) fn new(config: &TrialConfig) -> Result<Self, TrialError> {
        let key = NetworkKey::from_seed(rand::rng().random());
        let mut invitation = Invitation::new(key.root());
        let mut addresses = Vec::new();
        for number in 0..config.super_nodes {
            addresses.push(free_address(number)?);
        }
        for address in addresses.iter().take(3) {
            let host = HostPort::new(&address.ip().to_string(), address.port());
            invitation.super_nodes.push(host.map_err(|e| failed("invitation")(&e))?);
        }
        let mut network = Self {
            key,
            program: config.program.clone(),
            folder: config.folder.clone(),
            nodes: Vec::new(),
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(10))
                .build()
                .map_err(|e| failed("HTTP")(&e))?,
        };
        for (number, address) in addresses.into_iter().enumerate() {
            let folder = config.folder.join(format!("super-node-{number}"));
            let wrong = failed("profile");
            let profile = Profile::open(folder.clone()).map_err(|e| wrong(&e))?;
            let device = profile.device_key().map_err(|e| wrong(&e))?;
            let roles = Roles::NONE.with(Role::SuperNode);
            let certificate = network.certify(device.public(), None, roles)?;
            profile.store_certificate(&certificate).map_err(|e| wrong(&e))?;
            profile.store_invitation(&invitation).map_err(|e| wrong(&e))?;
            let id = device.node_id();
            network.nodes.push(Node { id, address, profile: folder, process: None });
        }
        Ok(network)
    }

    fn certify(
        &self,
        public_key: NodePublicKey,
        user: Option<UserName>,
        roles: Roles,
    ) -> Result<Certificate, TrialError> {
        let now = unix_now();
        let request = CertificateRequest {
            public_key,
            user,
            roles,
            serial: rand::rng().random::<u64>() >> 1,
            not_before: cooee_proto::clock::UnixTime(now.0.saturating_sub(3_600_000)),
            not_after: now.plus(CERTIFICATE_LIFE),
        };
        Certificate::issue(&self.key, &request).map_err(|e| failed("certificate")(&e))
    }

    /// A key and a certificate for a user's device.
    pub(super) fn device(&self, user: UserName) -> Result<(NodeKey, Certificate), TrialError> {
        let key = NodeKey::from_seed(rand::rng().random());
        let certificate = self.certify(key.public(), Some(user), Roles::NONE)?;
        Ok((key, certificate))
    }

    pub(super) fn root(&self) -> cooee_proto::identity::NetworkRoot {
        self.key.root()
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.address).collect()
    }

    pub(super) fn node(&self, number: usize) -> NodeId {
        self.nodes[number].id
    }

    /// Processes that run.
    pub(super) fn running(&self) -> usize {
        self.nodes.iter().filter(|node| node.process.is_some()).count()
    }

    /// Whether the process of this super node runs.
    pub(super) fn is_running(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|node| node.id == id && node.process.is_some())
    }

    pub(super) fn start_all(&mut self) -> Result<(), TrialError> {
        (0..self.nodes.len()).try_for_each(|number| self.start(number))
    }

    /// Starts a process, for the first time or again.
    pub(super) fn start(&mut self, number: usize) -> Result<(), TrialError> {
        let log = |kind: &str| {
            let path = self.folder.join(format!("super-node-{number}.{kind}"));
            File::create(&path)
                .map_err(|error| TrialError::System(path.display().to_string(), error))
        };
        let (out, errors) = (log("out")?, log("err")?);
        let node = &mut self.nodes[number];
        let ip = node.address.ip().to_string();
        let mut command = Command::new(&self.program);
        command.args(["--json", "super-node", "--no-well-known-ports", "--loopback"]);
        command.args(["--relay-budget", "0", "--bind", &ip, "--advertise", &ip, "--port"]);
        command.arg(node.address.port().to_string()).arg("--profile-dir").arg(&node.profile);
        command.stdin(Stdio::null()).stdout(out).stderr(errors);
        let spawned = command.spawn();
        let system = |error| TrialError::System(self.program.display().to_string(), error);
        node.process = Some(spawned.map_err(system)?);
        Ok(())
    }

    /// SIGKILL: no good-bye.
    pub(super) fn kill(&mut self, numbers: &[usize]) {
        let processes = numbers.iter().map(|number| self.nodes[*number].process.take());
        // All signals first, so that they die together.
        let mut dying: Vec<Child> = processes.into_iter().flatten().collect();
        if numbers.is_empty() {
            return;
        }
        for process in &mut dying {
            let _ = process.kill();
        }
        for mut process in dying {
            let _ = process.wait();
        }
        for number in numbers {
            let _ = std::fs::remove_file(self.nodes[*number].profile.join(crate::api::ACCESS_FILE));
        }
    }

    pub(super) async fn wait_for_members(
        &self,
        members: usize,
        patience: Duration,
    ) -> Result<(), TrialError> {
        let begin = Instant::now();
        loop {
            let mut knowing = 0;
            for status in self.statuses().await.values() {
                knowing += usize::from(status["overlay"]["members"] == members);
            }
            if knowing == members {
                return Ok(());
            }
            if begin.elapsed() > patience {
                let what = format!("{knowing} of {members} super nodes know all others");
                return Err(TrialError::TooLong(patience, what));
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// The status of every process that runs and answers.
    async fn statuses(&self) -> BTreeMap<usize, serde_json::Value> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.process.is_some());
        let asked = running.map(|(number, node)| async move {
            let text = self.get(&node.profile, "/v1/status").await?;
            Some((number, serde_json::from_str(&text).ok()?))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn get(&self, profile: &std::path::Path, path: &str) -> Option<String> {
        let access = std::fs::read(profile.join(crate::api::ACCESS_FILE)).ok()?;
        let access: Access = serde_json::from_slice(&access).ok()?;
        let url = format!("http://{}{path}", access.address);
        let answer = self.http.get(url).bearer_auth(access.token).send().await.ok()?;
        answer.text().await.ok()
    }

    pub(super) async fn attached_max(&self) -> u64 {
        let statuses = self.statuses().await;
        let attached = statuses.values().filter_map(|it| it["overlay"]["attached"].as_u64());
        attached.max().unwrap_or(0)
    }

    /// UDP bytes sent per second and super node since the processes started.
    pub(super) async fn traffic(&self) -> f64 {
        let mut rates = Vec::new();
        for node in self.nodes.iter().filter(|node| node.process.is_some()) {
            let Some(metrics) = self.get(&node.profile, "/metrics").await else { continue };
            let Some(status) = self.get(&node.profile, "/v1/status").await else { continue };
            let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
            let line = metrics.lines().find_map(|line| line.strip_prefix("cooee_udp_sent_bytes "));
            let sent = line.and_then(|value| value.trim().parse::<f64>().ok());
            if let (Some(sent), Some(seconds)) = (sent, status["uptime_s"].as_f64()) {
                rates.push(sent / seconds.max(1.0));
            }
        }
        rates.iter().sum::<f64>() / rates.len().max(1) as f64
    }

    /// Mean resident memory of the processes in bytes.
    pub(super) fn mean_memory(&self) -> u64 {
        let running = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let resident: Vec<u64> = running
            .filter_map(|process| {
                let path = format!("/proc/{}/status", process.id());
                let text = std::fs::read_to_string(path).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
                line.split_whitespace().next()?.parse::<u64>().ok().map(|kibi| kibi * 1024)
            })
            .collect();
        resident.iter().sum::<u64>() / resident.len().max(1) as u64
    }
}

/// An address block of its own for each: 127.1.0.1, 127.2.0.1 …
fn free_address(number: usize) -> Result<SocketAddr, TrialError> {
    let block = u8::try_from(1 + number % 250).expect("at most 250");
    let host = u8::try_from(1 + number / 250 % 250).expect("at most 250");
    let address = SocketAddr::from((Ipv4Addr::new(127, block, 0, host), 0));
    let system = |error| TrialError::System(format!("{address}"), error);
    TcpListener::bind(address).and_then(|listener| listener.local_addr()).map_err(system)
}
