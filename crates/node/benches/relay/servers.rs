//! The servers under test, each in a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use cooee_node::{
    relay::{RelayHandle, RelayOptions},
    udp::{UdpConfig, UdpEndpoint},
};
use cooee_proto::{
    identity::NodeId,
    relay::{PeerPolicy, RelayConfig},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// recvfrom, sendto, nothing else.
    Floor,
    /// Our relay, peers outside it.
    Ours,
    /// Our relay, both ends of each call its clients.
    OursPair,
    /// coturn with one relay thread.
    Coturn,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor: recvfrom, sendto",
            Self::Ours => "cooee, peer outside",
            Self::OursPair => "cooee, both ends its clients",
            Self::Coturn => "coturn, peer outside",
        }
    }
}

pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    pub(crate) username: String,
    pub(crate) password: String,
    child: Child,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        if kind == Kind::Coturn {
            return Self::start_coturn(folder);
        }
        let role = if kind == Kind::Floor { "--serve-floor" } else { "--serve-relay" };
        let mut child = Command::new(std::env::current_exe().expect("our own path"))
            .arg(role)
            .stdout(Stdio::piped())
            .spawn()
            .expect("our own program");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("one line");
        let mut words = line.split_whitespace().map(str::to_owned);
        let mut word = || words.next().expect("address, name, password");
        let address = word().parse().expect("an address");
        let (username, password) = (word(), word());
        Self { kind, address, username, password, child, _folder: folder }
    }

    fn start_coturn(folder: tempfile::TempDir) -> Self {
        let probe = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
        let address = probe.local_addr().expect("bound");
        drop(probe);
        let port = address.port().to_string();
        let child = Command::new("turnserver")
            .args(["-n", "-a", "-u", "user:password", "-r", "cooee", "-L", "127.0.0.1"])
            .args(["-p", &port, "--allow-loopback-peers", "--no-cli", "--no-tls", "--no-dtls"])
            .args(["--no-tcp", "--log-file=stdout", "-m", "1"])
            .arg(format!("--pidfile={}", folder.path().join("pid").display()))
            .arg(format!("--userdb={}", folder.path().join("db").display()))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("turnserver: install the Debian package `coturn`");
        std::thread::sleep(Duration::from_secs(1));
        let (username, password) = ("user".into(), "password".into());
        Self { kind: Kind::Coturn, address, username, password, child, _folder: folder }
    }

    /// Processor time of all its threads so far.
    pub(crate) fn cpu_nanoseconds(&self) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = fs::read_dir(tasks).expect("the server runs");
        let of = |task: fs::DirEntry| -> Option<u64> {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse().ok()
        };
        tasks.filter_map(Result::ok).filter_map(of).sum()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(path).expect("the server runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kilobytes.expect("VmRSS") * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first two bytes of each packet say which loopback port it goes to.
pub(crate) fn serve_floor() {
    let config = UdpConfig::at(([127, 0, 0, 1], 0).into());
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    socket.set_recv_buffer_size(config.kernel_buffer_bytes).expect("a buffer");
    socket.bind(&config.bind[0].into()).expect("loopback");
    let socket = UdpSocket::from(socket);
    announce(&format!("{} - -", socket.local_addr().expect("bound")));
    let mut buffer = [0; 2048];
    while let Ok((length, _)) = socket.recv_from(&mut buffer) {
        let port = u16::from_be_bytes([buffer[0], buffer[1]]);
        let _ = socket.send_to(&buffer[..length], SocketAddr::from(([127, 0, 0, 1], port)));
    }
}

pub(crate) fn serve_relay() {
    let endpoint = UdpEndpoint::bind(&UdpConfig::at(([127, 0, 0, 1], 0).into())).expect("a port");
    let allowed = vec!["127.0.0.0/8".parse().expect("a block")];
    let config = RelayConfig {
        budget_bytes_per_s: u64::MAX / 4,
        allocations_max: 10_000,
        allocations_per_node_max: 10_000,
        peers: PeerPolicy { allowed, ..PeerPolicy::default() },
        unproven_replies_per_s: 100_000,
        ..RelayConfig::default()
    };
    let options = RelayOptions { config, bind_v4: None, bind_v6: None };
    let relay = RelayHandle::start(&endpoint, options).expect("a relay");
    let credentials = relay.mint(NodeId([1; 16]), Duration::from_secs(3600));
    let address = endpoint.local_addresses()[0];
    announce(&format!("{address} {} {}", credentials.username, credentials.password));
    loop {
        std::thread::park();
    }
}

fn announce(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("the driver reads");
}
