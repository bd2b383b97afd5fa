//! Admitting others to the overlay: dialling back over TCP and UDP, asking other super nodes to do
//! the same, signing. The rules are `cooee_proto::overlay::{admission, election}`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use cooee_proto::{
    control::{address_from_wire, address_to_wire, node_id},
    identity::{Certificate, NodeId, Role},
    overlay::{
        admission::{admit, verifications_needed},
        election::{Wanted, wanted},
        sealed::{Opened, Protection, Sealed},
        statement::AddressBlock,
    },
    wire::v1::{Admit, Admitted, DialBack, DialedBack, answer, request},
};
use futures::future::join_all;
use rand::seq::IndexedRandom;
use tokio::{net::UdpSocket, time::timeout};

use super::{LiveTrust, OverlayDirectory};
use crate::{
    login_server::random_seed,
    super_node::DirectoryError,
    transport::{ConnectionLimits, Dialer, ProxyConfig},
};

/// Patience with one dial-back. Chosen: three times a slow round trip with a lost packet.
const DIAL_BACK: Duration = Duration::from_secs(5);

/// Patience with another super node that dials back on our behalf.
const ASK: Duration = Duration::from_secs(8);

/// Times that a UDP introduction is sent, and the pause between. Chosen: one may be lost.
const INTRODUCTIONS: usize = 3;
const INTRODUCTION_PAUSE: Duration = Duration::from_millis(700);

/// Super nodes asked beyond those needed: one may be slow or hostile.
const SPARE: usize = 2;

/// A candidate that this super node is looking at. Bound: [`CANDIDATES_MAX`].
pub(super) type Candidates = std::collections::BTreeSet<NodeId>;
const CANDIDATES_MAX: usize = 16;

impl OverlayDirectory {
    /// A node wants to serve; `remote` is where its connection comes from, `None` if another super
    /// node has looked at that.
    pub(super) async fn consider(
        &self,
        from: &Certificate,
        remote: Option<SocketAddr>,
        wish: Admit,
    ) -> Result<Admitted, DirectoryError> {
        let malformed = || DirectoryError::Malformed("an address and a node are wanted".into());
        let address = wish.address.as_ref().and_then(address_from_wire).ok_or_else(malformed)?;
        let node = match remote {
            Some(remote) if remote.ip().to_canonical() != address.ip() => {
                return Ok(refused("your connection comes from another address: a NAT"));
            }
            Some(_) => from.node(),
            None => node_id(&wish.node).map_err(|_| malformed())?,
        };
        let certificate = self.tls.credentials().certificate;
        if !certificate.is_some_and(|own| own.roles().contains(Role::SuperNode)) {
            return self.pass_on(node, wish).await;
        }
        if let Err(reason) = self.is_wanted(node, address, &wish) {
            return Ok(refused(&reason.to_string()));
        }
        let _looking = Looking::begin(self, node)?;
        let reached = self.reached_by(node, address).await;
        let needed = verifications_needed(self.status().members);
        let own = self.dial_back(node, address).await;
        if !(own.tcp && own.udp && reached >= needed) {
            let how = |reached: bool| if reached { "was reached" } else { "was not reached" };
            let (tcp, udp) = (how(own.tcp), how(own.udp));
            return Ok(refused(&format!(
                "{address} {tcp} by TCP and {udp} by UDP from here, and by {reached} others of \
                 {needed}"
            )));
        }
        let trust = LiveTrust::new(self.tls.clone());
        let admission = admit(&trust, self.now().unix, node, address);
        tracing::info!(%node, %address, "admitted as a super node");
        Ok(Admitted { admission: Some(admission), refused: String::new() })
    }

    fn is_wanted(
        &self,
        node: NodeId,
        address: SocketAddr,
        wish: &Admit,
    ) -> Result<(), cooee_proto::overlay::election::NotElected> {
        let state = self.state();
        wanted(
            state.overlay.table(),
            Wanted {
                block: AddressBlock::of(address.ip()),
                program_version: wish.program_version,
                serving: wish.serving && state.overlay.table().is_present(&node),
                own_load_percent: state.overlay.status().load_percent,
            },
        )
    }

    /// Lets a dedicated super node decide.
    async fn pass_on(&self, node: NodeId, wish: Admit) -> Result<Admitted, DirectoryError> {
        let nobody = || DirectoryError::NotAvailable("no dedicated super node can be asked".into());
        let dedicated = self.others(|member| member.admission.is_none());
        let chosen = dedicated.choose(&mut rand::rng()).copied();
        let to = chosen.ok_or_else(nobody)?;
        let peers = self.peers.get().cloned().ok_or_else(nobody)?;
        let wish = Admit { node: Bytes::copy_from_slice(&node.0), ..wish };
        match timeout(ASK * 2, peers.request(to, request::Kind::Admit(wish))).await {
            Ok(Ok(answer::Kind::Admitted(admitted))) => Ok(admitted),
            _ => Err(nobody()),
        }
    }

    /// How many other super nodes reach the candidate, of those asked.
    async fn reached_by(&self, node: NodeId, address: SocketAddr) -> usize {
        let Some(peers) = self.peers.get().cloned() else { return 0 };
        let others = self.others(|member| member.node != node);
        let needed = verifications_needed(self.status().members);
        let asked = others.choose_multiple(&mut rand::rng(), needed + SPARE).copied();
        let asked: Vec<NodeId> = asked.collect();
        let questions = asked.into_iter().map(|other| {
            let dial_back = DialBack {
                address: Some(address_to_wire(address)),
                node: Bytes::copy_from_slice(&node.0),
            };
            let question = peers.request(other, request::Kind::DialBack(dial_back));
            async move {
                let answer = timeout(ASK, question).await;
                matches!(
                    answer,
                    Ok(Ok(answer::Kind::DialedBack(DialedBack { tcp: true, udp: true })))
                )
            }
        });
        join_all(questions).await.into_iter().filter(|reached| *reached).count()
    }

    fn others(
        &self,
        wanted: impl Fn(&cooee_proto::overlay::statement::SuperNode) -> bool,
    ) -> Vec<NodeId> {
        let state = self.state();
        let members = state.overlay.table().iter().map(|member| &member.super_node);
        members.filter(|member| wanted(member)).map(|member| member.node).collect()
    }

    /// Dials a node over TCP and UDP, from sockets that it has never sent anything to: what a NAT
    /// or
    /// a firewall lets in, it lets in from anybody.
    pub(super) async fn dial_back(&self, node: NodeId, address: SocketAddr) -> DialedBack {
        let (tcp, udp) = tokio::join!(self.dial_tcp(node, address), self.dial_udp(node, address));
        DialedBack { tcp, udp }
    }

    async fn dial_tcp(&self, node: NodeId, address: SocketAddr) -> bool {
        let dialer = Dialer::new(self.tls.clone(), ProxyConfig::default());
        match timeout(DIAL_BACK, dialer.connect(address, ConnectionLimits::ORDINARY)).await {
            Ok(Ok(connection)) => {
                let reached = connection.node() == Some(node);
                connection.close();
                reached
            }
            _ => false,
        }
    }

    /// A UDP introduction, answered only by whoever holds the node's key.
    async fn dial_udp(&self, node: NodeId, address: SocketAddr) -> bool {
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
            SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
        };
        let Ok(socket) = UdpSocket::bind(any).await else { return false };
        let mut sealed = Sealed::new(&self.tls.credentials().key, random_seed());
        let trust = LiveTrust::new(self.tls.clone());
        let mut buffer = [0; 2048];
        for _ in 0..INTRODUCTIONS {
            let hello = sealed.introduce(self.now(), address);
            if socket.send_to(&hello, address).await.is_err() {
                return false;
            }
            let answer = timeout(INTRODUCTION_PAUSE, socket.recv_from(&mut buffer)).await;
            let Ok(Ok((length, source))) = answer else { continue };
            let datagram = Bytes::copy_from_slice(&buffer[..length]);
            let known = |_: &NodeId| None;
            if let Opened::Met { node: met, .. } =
                sealed.open(self.now(), source, &datagram, &known, &trust)
            {
                return met == node;
            }
        }
        false
    }
}

/// At most one look at a candidate at a time, and at few at once: dialling is cheap for the asker.
struct Looking<'a>(&'a OverlayDirectory, NodeId);

impl<'a> Looking<'a> {
    fn begin(directory: &'a OverlayDirectory, node: NodeId) -> Result<Self, DirectoryError> {
        let mut state = directory.state();
        if state.candidates.len() >= CANDIDATES_MAX || !state.candidates.insert(node) {
            return Err(DirectoryError::TooMany("candidates at once: try again later"));
        }
        drop(state);
        Ok(Self(directory, node))
    }
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.state().candidates.remove(&self.1);
    }
}

fn refused(why: &str) -> Admitted {
    Admitted { admission: None, refused: why.to_owned() }
}
