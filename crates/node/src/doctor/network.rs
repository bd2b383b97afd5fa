//! What gets out of this network: super nodes, ports, UDP, the NAT, IPv6, proxy, login server.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use cooee_proto::{
    identity::{Invitation, NodeKey},
    login::{ClientConfig, ClientError},
};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{net::UdpSocket, time::timeout};

use super::{Finding, Verdict};
use crate::{
    account::{PROGRAM_VERSION, resolve},
    attachment::{LoginPath, Prober, UdpProber, open_login_path},
    login_server::{
        client::{LoginClient, LoginError},
        random_seed, unix_now,
    },
    profile::HostCacheFile,
    reachability::probe_reachability,
    settings::Settings,
    transport::{ConnectionLimits, Credentials, Dialer, ProxyConfig, Tls, Trust, connect_tcp},
};

/// Super nodes that are tried. Chosen: enough to tell, few enough to be polite.
const SUPER_NODES_MAX: usize = 6;
/// Patience with one attempt.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Ports through which firewalls let most.
const WELL_KNOWN_PORTS: [u16; 2] = [443, 80];
/// A clock that differs by more leads to surprises with certificates of a few days.
const CLOCK_FAIR_MS: u64 = 60_000;

/// How one super node answered.
struct Tried {
    address: SocketAddr,
    /// TLS as a node of this network would use it, through the proxy if one is set; there the
    /// well-known ports are tried too, for many a proxy lets nothing else through.
    tls: Result<Duration, String>,
    /// The port that answered, if it is a well-known one behind a proxy.
    proxied_port: Option<u16>,
    udp: Option<Duration>,
    /// The well-known ports that a direct connection was opened to.
    open_ports: Vec<u16>,
}

pub(super) async fn examine(
    folder: &Path,
    settings: &Settings,
    invitation: &Invitation,
    add: &mut impl FnMut(Finding),
) {
    let proxy = settings.proxy().unwrap_or_default();
    let trust = Trust::new(invitation.root);
    let key = NodeKey::from_seed(random_seed());
    let tls = match Tls::new(trust, Credentials::anonymous(key)) {
        Ok(tls) => tls,
        Err(error) => return add(Finding::new("tls", Verdict::Bad, format!("{error}."))),
    };
    let dialer = Dialer::new(tls, proxy.clone());
    let mut addresses = resolve(&invitation.super_nodes).await;
    let cache = HostCacheFile::new(folder.join("host-cache.json"));
    let known = cache.restore(Vec::new(), unix_now()).host_cache;
    addresses.extend(known.entries().map(|entry| entry.address));
    let distinct: BTreeSet<SocketAddr> = addresses.into_iter().collect();
    let super_nodes: Vec<SocketAddr> = distinct.into_iter().take(SUPER_NODES_MAX).collect();
    let tried =
        join_all(super_nodes.iter().map(|address| attempt(&dialer, &proxy, *address))).await;

    add(super_nodes_answer(&tried));
    add(ports(&tried, &proxy));
    add(udp(&tried));
    add(nat(&tried).await);
    add(ipv6(&super_nodes).await);
    add(proxy_finding(settings, &proxy, &tried));
    let login_servers = resolve(&invitation.login_servers).await;
    login_server(&dialer, invitation, &login_servers, &super_nodes, add).await;
}

async fn attempt(dialer: &Dialer, proxy: &ProxyConfig, address: SocketAddr) -> Tried {
    let greet = async |to: SocketAddr| {
        let start = Instant::now();
        match timeout(ATTEMPT, dialer.connect(to, ConnectionLimits::ANONYMOUS)).await {
            Ok(Ok(_)) => Ok(start.elapsed()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer".to_owned()),
        }
    };
    let udp = async {
        let start = Instant::now();
        let answered = timeout(ATTEMPT, UdpProber.probe(address)).await;
        matches!(answered, Ok(Ok(()))).then(|| start.elapsed())
    };
    let open = WELL_KNOWN_PORTS.map(|port| async move {
        let to = SocketAddr::new(address.ip(), port);
        let opened = timeout(ATTEMPT, connect_tcp(to, &ProxyConfig::none())).await;
        matches!(opened, Ok(Ok(_))).then_some(port)
    });
    // One after the other: what a handshake computes would count as the network's time.
    let (udp, open) = tokio::join!(udp, join_all(open));
    let mut tls = greet(address).await;
    let mut proxied_port = None;
    for port in WELL_KNOWN_PORTS {
        if tls.is_err() && proxy.proxy_for(address).is_some() {
            let answered = greet(SocketAddr::new(address.ip(), port)).await;
            if answered.is_ok() {
                (tls, proxied_port) = (answered, Some(port));
            }
        }
    }
    let open_ports = open.into_iter().flatten().collect();
    Tried { address, tls, proxied_port, udp, open_ports }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn super_nodes_answer(tried: &[Tried]) -> Finding {
    let answers: Vec<Duration> = tried.iter().filter_map(|it| it.tls.clone().ok()).collect();
    let data = tried.iter().map(|it| {
        json!({
            "address": it.address, "tls_ms": it.tls.as_ref().ok().map(|t| milliseconds(*t)),
            "udp_ms": it.udp.map(milliseconds), "problem": it.tls.as_ref().err(),
        })
    });
    let data = Value::Array(data.collect());
    let finding = match answers.iter().min() {
        Some(fastest) => {
            let lines = tried.iter().map(|it| match &it.tls {
                Ok(time) => format!("{} in {} ms", it.address, milliseconds(*time)),
                Err(problem) => format!("{} not: {problem}", it.address),
            });
            let says = format!(
                "{} of {} super nodes answer, the fastest in {} ms ({}).",
                answers.len(),
                tried.len(),
                milliseconds(*fastest),
                lines.collect::<Vec<_>>().join("; ")
            );
            Finding::new("super_nodes", Verdict::Good, says)
        }
        None if tried.is_empty() => {
            Finding::new("super_nodes", Verdict::Bad, "No super node is known.")
                .advise("Ask the operator of the network for a new invitation.")
        }
        None => {
            let problem = tried.iter().find_map(|it| it.tls.as_ref().err());
            let says = format!(
                "None of {} super nodes answers: {}.",
                tried.len(),
                problem.map_or("no answer", String::as_str)
            );
            Finding::new("super_nodes", Verdict::Bad, says).advise(
                "Check that this machine is on-line. If a web browser works here and this does \
                 not, a firewall stands between: set --proxy, or ask for TCP port 443 to be \
                 opened.",
            )
        }
    };
    finding.with(data)
}

fn ports(tried: &[Tried], proxy: &ProxyConfig) -> Finding {
    let is_proxied = tried.iter().any(|it| proxy.proxy_for(it.address).is_some());
    let own = tried.iter().any(|it| it.tls.is_ok());
    let open: BTreeSet<u16> = tried.iter().flat_map(|it| it.open_ports.clone()).collect();
    let data = json!({ "own_ports": own, "well_known": open });
    let list = open.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
    match (own, open.is_empty()) {
        (true, _) if is_proxied => {
            let ports: BTreeSet<_> = tried.iter().filter_map(|it| it.proxied_port).collect();
            let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
            let to = if ports.is_empty() { "the super nodes' own ports" } else { &ports };
            Finding::new("tcp", Verdict::Good, format!("Through the proxy TCP gets out, to {to}."))
        }
        (true, false) => Finding::new(
            "tcp",
            Verdict::Good,
            format!("TCP gets out, to the super nodes' own ports and to {list}."),
        ),
        (true, true) => Finding::new(
            "tcp",
            Verdict::Good,
            "TCP gets out to the super nodes' own ports. Whether 443 and 80 get out could not be \
             told: no super node listens there.",
        ),
        (false, false) => Finding::new(
            "tcp",
            Verdict::Fair,
            format!("TCP gets out to {list} only: a firewall blocks other ports."),
        )
        .advise("Nothing need be done: super nodes that listen there are used."),
        (false, true) => Finding::new("tcp", Verdict::Bad, "No TCP connection gets out.")
            .advise("Ask for outgoing TCP 443 to be opened, or set an HTTP proxy with --proxy."),
    }
    .with(data)
}

fn udp(tried: &[Tried]) -> Finding {
    let fastest = tried.iter().filter_map(|it| it.udp).min();
    match fastest {
        Some(time) => {
            let time = milliseconds(time);
            Finding::new("udp", Verdict::Good, format!("UDP gets out; answered in {time} ms."))
                .with(json!({ "round_trip_ms": time }))
        }
        None if tried.iter().any(|it| it.tls.is_ok()) => {
            Finding::new("udp", Verdict::Fair, "UDP is blocked: voice goes over TCP.")
                .advise("Calls work, with more delay. Open outgoing UDP for better ones.")
        }
        None => Finding::new(
            "udp",
            Verdict::Unknown,
            "The super nodes' own ports answer neither by UDP nor by TCP; what else gets out is \
             said beside ports and proxy.",
        ),
    }
}

async fn nat(tried: &[Tried]) -> Finding {
    let unknown = |says: &str| Finding::new("nat", Verdict::Unknown, says);
    let answering: Vec<SocketAddr> =
        tried.iter().filter(|it| it.udp.is_some()).map(|it| it.address).collect();
    let pair = answering.iter().enumerate().find_map(|(at, first)| {
        let mut others = answering[at + 1..].iter();
        let same_family = |other: &&SocketAddr| other.is_ipv4() == first.is_ipv4();
        others.find(same_family).map(|other| [*first, *other])
    });
    let Some(pair) = pair else {
        return unknown(
            "What kind of NAT or firewall this is could not be told: that takes two super nodes \
             that answer by UDP.",
        );
    };
    let result = match probe_reachability(pair).await {
        Ok(result) => result,
        Err(error) => return unknown(&format!("The NAT could not be told: {error}.")),
    };
    let mut sentences = result.sentences();
    if pair[0].ip() == pair[1].ip() {
        sentences.push(
            "Both super nodes have one address: whether the NAT tells addresses apart could not \
             be told."
                .to_owned(),
        );
    }
    let verdict = if result.udp { Verdict::Good } else { Verdict::Fair };
    let data = json!({
        "udp": result.udp, "mapped": result.mapped, "translated": result.translated,
        "mapping": result.mapping.map(|it| format!("{it:?}")),
        "filtering": result.filtering.map(|it| format!("{it:?}")),
        "hairpin": result.hairpin, "public": result.is_public(),
    });
    Finding::new("nat", verdict, sentences.join(" ")).with(data)
}

pub(super) async fn ipv6(super_nodes: &[SocketAddr]) -> Finding {
    // Any global address will do: connecting a UDP socket sends nothing.
    let anywhere: SocketAddr = ([0x2001, 0x500, 0x88, 0x200, 0, 0, 0, 0x10], 53).into();
    let source = async {
        let socket = UdpSocket::bind("[::]:0").await?;
        socket.connect(anywhere).await?;
        socket.local_addr()
    };
    let source: Option<IpAddr> = source.await.ok().map(|address| address.ip());
    let known = super_nodes.iter().filter(|address| address.is_ipv6()).count();
    let says = match source {
        Some(ip) => format!("IPv6 is here ({ip}); {known} known super nodes use it."),
        None => "No IPv6 here; IPv4 is used.".to_owned(),
    };
    Finding::new("ipv6", Verdict::Good, says).with(json!({ "source": source, "known": known }))
}

fn proxy_finding(settings: &Settings, proxy: &ProxyConfig, tried: &[Tried]) -> Finding {
    let used = tried.iter().any(|it| proxy.proxy_for(it.address).is_some());
    let works = tried.iter().any(|it| it.tls.is_ok());
    let from = if settings.proxy.is_some() { "the settings" } else { "the environment" };
    let data = json!({ "used": used, "works": works });
    match (used, works) {
        (true, true) => Finding::new(
            "proxy",
            Verdict::Good,
            format!("The HTTP proxy of {from} is used and lets us through."),
        ),
        (true, false) => Finding::new(
            "proxy",
            Verdict::Bad,
            format!("The HTTP proxy of {from} does not let us through."),
        )
        .advise("Check its address and password, or leave it out and try again."),
        (false, true) => Finding::new("proxy", Verdict::Good, "No proxy is needed."),
        (false, false) => {
            Finding::new("proxy", Verdict::Unknown, "No proxy is set; one may be needed here.")
                .advise("If web browsers here use a proxy, give it with --proxy http://HOST:PORT.")
        }
    }
    .with(data)
}

async fn login_server(
    dialer: &Dialer,
    invitation: &Invitation,
    login_servers: &[SocketAddr],
    super_nodes: &[SocketAddr],
    add: &mut impl FnMut(Finding),
) {
    let unknown = || Finding::new("clock", Verdict::Unknown, "The clock could not be compared.");
    let start = Instant::now();
    let path = open_login_path(dialer, login_servers, super_nodes).await;
    let LoginPath { stream, through } = match path {
        Ok(path) => path,
        Err(error) => {
            let says = format!("The login server cannot be reached: {error}.");
            let finding = Finding::new("login_server", Verdict::Fair, says);
            add(finding.advise("Calls work as before; logging in anew has to wait."));
            return add(unknown());
        }
    };
    let config = ClientConfig::new(invitation.root);
    let welcome =
        async { LoginClient::connect(stream, config, PROGRAM_VERSION).await?.welcome().await };
    let welcome = welcome.await;
    let took_ms = milliseconds(start.elapsed());
    let way = through.map_or("directly".to_owned(), |node| format!("through {node}"));
    let data = json!({ "took_ms": took_ms, "through": through });
    match welcome {
        Ok(welcome) => {
            let says = format!("The login server answers {way}, in {took_ms} ms.");
            add(Finding::new("login_server", Verdict::Good, says).with(data));
            add(clock(welcome.offset_ms));
        }
        Err(LoginError::Protocol(ClientError::ClockWrong { offset_ms })) => {
            let says = format!("The login server answers {way}, in {took_ms} ms.");
            add(Finding::new("login_server", Verdict::Good, says).with(data));
            add(clock(offset_ms));
        }
        Err(error) => {
            add(Finding::new("login_server", Verdict::Bad, format!("{error}.")).with(data));
            add(unknown());
        }
    }
}

fn clock(offset_ms: i64) -> Finding {
    let off_ms = offset_ms.unsigned_abs();
    let way = if offset_ms > 0 { "slow" } else { "fast" };
    let seconds = off_ms / 1000;
    let data = json!({ "offset_ms": offset_ms });
    let advice = "Set the clock, best by the network: `timedatectl set-ntp true`.";
    if off_ms <= CLOCK_FAIR_MS {
        Finding::new("clock", Verdict::Good, "The clock is right.").with(data)
    } else if off_ms <= cooee_proto::login::CLOCK_OFFSET_MS_MAX {
        let says = format!("The clock is {seconds} s {way}; it still works.");
        Finding::new("clock", Verdict::Fair, says).advise(advice).with(data)
    } else {
        let says = format!("The clock is {seconds} s {way}: certificates do not hold.");
        Finding::new("clock", Verdict::Bad, says).advise(advice).with(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_judged_by_how_far_it_is_off() {
        let verdicts = [0, -30_000, 120_000, -86_400_000].map(|offset| clock(offset).verdict);
        assert_eq!(verdicts, [Verdict::Good, Verdict::Good, Verdict::Fair, Verdict::Bad]);
        assert!(clock(-86_400_000).says.contains("fast"));
    }

    #[test]
    fn blocked_udp_is_told_from_no_network_at_all() {
        let tried = |tls: Result<Duration, String>| Tried {
            address: ([192, 0, 2, 1], 4000).into(),
            tls,
            proxied_port: None,
            udp: None,
            open_ports: Vec::new(),
        };
        let only_tcp = [tried(Ok(Duration::from_millis(30)))];
        assert_eq!(udp(&only_tcp).verdict, Verdict::Fair);
        let nothing = [tried(Err("no answer".to_owned()))];
        assert_eq!(udp(&nothing).verdict, Verdict::Unknown);
        assert_eq!(ports(&nothing, &ProxyConfig::default()).verdict, Verdict::Bad);
        assert!(super_nodes_answer(&nothing).advice.is_some());
    }
}
