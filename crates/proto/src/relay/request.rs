//! TURN requests: Allocate, Refresh, CreatePermission, ChannelBind, and who may make them.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::Rng;
use stun_types::{
    attribute::{
        Attribute, AttributeStaticType, AttributeType, MessageIntegrity, MessageIntegritySha256,
        Nonce, Realm, UnknownAttributes, Username,
    },
    message::{
        BINDING, IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass,
        MessageIntegrityCredentials, Method,
    },
};
use turn_types::{
    attribute::{
        ChannelNumber, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
        ReservationToken, XorPeerAddress, XorRelayedAddress,
    },
    message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH},
};

use super::{
    AllocationId, ClientId, REALM, RelayOutput, RelayServer,
    allocation::{Allocation, PeerError},
    credentials::RelayUser,
    nonce::{self, NonceState},
    response::Response,
};
use crate::{
    clock::Now,
    datagram::{Datagram, classify},
};

/// RFC 8656 section 3.2.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(600);
/// RFC 8656 section 7.2 proposes an hour.
const LIFETIME_MAX: Duration = Duration::from_secs(3600);
/// How long an allocation may be refreshed after its credentials expired. Chosen: longer than
/// calls are; the client cannot change user names within an allocation (RFC 8656 section 5).
const REFRESH_GRACE: Duration = Duration::from_secs(12 * 3600);
/// IANA protocol number of UDP.
const UDP: u8 = 17;
/// Ports tried in the range, and by the shell, before giving up.
const PORT_TRIES: u32 = 16;

const KNOWN: [AttributeType; 11] = [
    Username::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    Lifetime::TYPE,
    RequestedTransport::TYPE,
    RequestedAddressFamily::TYPE,
    XorPeerAddress::TYPE,
    ChannelNumber::TYPE,
    EvenPort::TYPE,
];

/// An Allocate request whose relayed port the shell is opening.
#[derive(Debug)]
pub(super) struct PendingAllocate {
    request: Vec<u8>,
    key: MessageIntegrityCredentials,
    algorithm: IntegrityAlgorithm,
    lifetime: Duration,
    even_port: bool,
    tries: u32,
}

/// A request on its way through the checks.
struct Request<'a> {
    now: Now,
    client: ClientId,
    local_ip: Option<IpAddr>,
    message: &'a Message<'a>,
}

/// Who signed a request.
struct Signed {
    user: RelayUser,
    key: MessageIntegrityCredentials,
    algorithm: IntegrityAlgorithm,
}

impl RelayServer {
    /// A STUN message of `client` that was sent to our address `local_ip`.
    pub fn handle_message(
        &mut self,
        now: Now,
        client: ClientId,
        local_ip: Option<IpAddr>,
        bytes: &[u8],
    ) {
        // The library ignores what the header says of the length, and integrity does not cover it.
        let whole = matches!(classify(bytes), Datagram::Stun(_));
        let Some(message) = Message::from_bytes(bytes).ok().filter(|_| whole) else {
            self.counts.dropped_malformed += 1;
            return;
        };
        if message.class() != MessageClass::Request {
            return;
        }
        if message.has_method(BINDING) {
            self.handle_binding(now, client, local_ip, &message);
            return;
        }
        let request = Request { now, client, local_ip, message: &message };
        if ![ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND].contains(&message.method()) {
            self.refuse_unproven(&request, |message| Response::error(message, 400));
            return;
        }
        let Some(signed) = self.authenticate(&request) else { return };
        let unknown: Vec<_> = message
            .iter_attributes()
            .map(|(_, attribute)| attribute.get_type())
            .filter(|kind| kind.comprehension_required() && !KNOWN.contains(kind))
            .take(8)
            .collect();
        if unknown.contains(&ReservationToken::TYPE) {
            self.answer(&request, &signed, Response::error(&message, 508));
        } else if !unknown.is_empty() {
            let response = Response::error(&message, 420).with(&UnknownAttributes::new(&unknown));
            self.answer(&request, &signed, response);
        } else {
            self.dispatch(&request, signed, message.method(), bytes);
        }
    }

    fn dispatch(&mut self, request: &Request<'_>, signed: Signed, method: Method, bytes: &[u8]) {
        if method == ALLOCATE {
            match self.allocate(request, &signed) {
                Ok((id, lifetime, even_port)) => {
                    let Signed { key, algorithm, .. } = signed;
                    let request = bytes.to_vec();
                    let tries = 1;
                    let pending =
                        PendingAllocate { request, key, algorithm, lifetime, even_port, tries };
                    self.pending.insert(id, pending);
                    self.ask_to_bind(id);
                }
                Err(Some(response)) => self.answer(request, &signed, response),
                Err(None) => {}
            }
            return;
        }
        let response = match self.standing_allocation(request, &signed) {
            Err(code) => Response::error(request.message, code),
            Ok(id) if method == REFRESH => self.refresh(request, id),
            Ok(id) => {
                let done = if method == CREATE_PERMISSION {
                    self.create_permission(request, id)
                } else {
                    self.bind_channel(request, id)
                };
                match done {
                    Ok(()) => Response::success(request.message),
                    Err(code) => Response::error(request.message, code),
                }
            }
        };
        self.answer(request, &signed, response);
    }

    /// RFC 8489 section 9.2.4. Nothing is remembered about who fails.
    fn authenticate(&mut self, request: &Request<'_>) -> Option<Signed> {
        let (message, now) = (request.message, request.now);
        let integrity = [MessageIntegrity::TYPE, MessageIntegritySha256::TYPE];
        if !integrity.iter().any(|kind| message.has_attribute(*kind)) {
            self.challenge(request, 401);
            return None;
        }
        let parts = (
            message.attribute::<Username>(),
            message.attribute::<Realm>(),
            message.attribute::<Nonce>(),
        );
        let (Ok(username), Ok(realm), Ok(nonce)) = parts else {
            self.refuse_unproven(request, |message| Response::error(message, 400));
            return None;
        };
        let remote = request.client.remote();
        if nonce::check(&self.secret, now.unix, remote, nonce.nonce()) == NonceState::Stale {
            self.challenge(request, 438);
            return None;
        }
        let user = RelayUser::parse(username.username()).filter(|_| realm.realm() == REALM);
        let signed = user.and_then(|user| {
            let password = self.secret.password(username.username());
            let key = LongTermKeyCredentials::new(
                username.username().to_owned(),
                password,
                REALM.to_owned(),
            );
            let key = MessageIntegrityCredentials::from(key);
            let algorithm = message.validate_integrity(&key).ok()?;
            Some(Signed { user, key, algorithm })
        });
        if signed.is_none() {
            self.counts.unauthorized += 1;
            self.challenge(request, 401);
        }
        signed
    }

    fn challenge(&mut self, request: &Request<'_>, code: u16) {
        let nonce = nonce::issue(&self.secret, request.now.unix, request.client.remote());
        self.refuse_unproven(request, |message| Response::challenge(message, code, REALM, &nonce));
    }

    /// An answer to somebody who may have forged the address: bounded in rate.
    fn refuse_unproven(
        &mut self,
        request: &Request<'_>,
        response: impl FnOnce(&Message<'_>) -> Response,
    ) {
        if self.may_reply(request.now.instant, &request.client) {
            let bytes = response(request.message).finish(None);
            let (client, local_ip) = (request.client, request.local_ip);
            self.emit(RelayOutput::Transmit { client, local_ip, bytes });
        }
    }

    pub(super) fn may_reply(&mut self, now: Instant, client: &ClientId) -> bool {
        let may = client.is_stream() || self.replies.take(now, client.remote().ip());
        self.counts.replies_withheld += u64::from(!may);
        may
    }

    fn answer(&mut self, request: &Request<'_>, signed: &Signed, response: Response) {
        let bytes = response.finish(Some((&signed.key, signed.algorithm)));
        let (client, local_ip) = (request.client, request.local_ip);
        self.emit(RelayOutput::Transmit { client, local_ip, bytes });
    }

    /// RFC 8656 section 7.2. `Err(None)` answers nothing: the first copy is still in work.
    fn allocate(
        &mut self,
        request: &Request<'_>,
        signed: &Signed,
    ) -> Result<(AllocationId, Duration, bool), Option<Response>> {
        let (message, now) = (request.message, request.now);
        let refuse = |code| Err(Some(Response::error(message, code)));
        if let Some(id) = self.table.by_client(&request.client) {
            return Err(self.repeated_allocate(request, signed, id));
        }
        if signed.user.expires <= now.unix {
            self.counts.unauthorized += 1;
            return refuse(401);
        }
        match message.attribute::<RequestedTransport>() {
            Ok(transport) if transport.protocol() == UDP => {}
            Ok(_) => return refuse(442),
            Err(_) => return refuse(400),
        }
        let ip = match relayed_ip(self, message) {
            Ok(ip) => ip,
            Err(code) => return refuse(code),
        };
        let even = message.attribute::<EvenPort>();
        let reserve_next = even.as_ref().is_ok_and(EvenPort::requested);
        if self.table.of_node(signed.user.node) >= self.config.allocations_per_node_max {
            self.counts.allocations_refused += 1;
            return refuse(486);
        }
        let full = self.table.len() >= self.config.allocations_max as usize;
        let port = self.free_port(ip, even.is_ok());
        let (false, false, true, Some(port)) = (full, reserve_next, self.admits(now.instant), port)
        else {
            self.counts.allocations_refused += 1;
            return refuse(508);
        };
        let lifetime = lifetime_of(message).clamp(LIFETIME_DEFAULT, LIFETIME_MAX);
        let id = self.table.insert(Allocation::new(
            request.client,
            request.local_ip,
            signed.user,
            SocketAddr::new(ip, port),
            now.instant + lifetime,
            message.transaction_id().into(),
        ));
        self.schedule_sweep(now.instant);
        Ok((id, lifetime, even.is_ok()))
    }

    /// A retransmission is answered as before, anything else refused.
    fn repeated_allocate(
        &self,
        request: &Request<'_>,
        signed: &Signed,
        id: AllocationId,
    ) -> Option<Response> {
        let allocation = self.table.get(id)?;
        let same = allocation.transaction == request.message.transaction_id().into()
            && allocation.user == signed.user;
        if !same {
            return Some(Response::error(request.message, 437));
        }
        let lifetime = allocation.expires.saturating_duration_since(request.now.instant);
        let relayed = allocation.relayed;
        let response = || allocate_success(request.message, relayed, request.client, lifetime);
        allocation.standing.then(response)
    }

    fn ask_to_bind(&mut self, allocation: AllocationId) {
        if let Some(relayed) = self.table.get(allocation).map(|allocation| allocation.relayed) {
            self.emit(RelayOutput::BindRelayed { allocation, relayed });
        }
    }

    /// The shell opened the relayed port, or could not and another is tried.
    pub fn handle_bound(&mut self, allocation: AllocationId, opened: bool) {
        let (Some(mut pending), Some(found)) =
            (self.pending.remove(&allocation), self.table.get_mut(allocation))
        else {
            return;
        };
        found.standing = opened;
        let (client, local_ip, relayed) = (found.client, found.local_ip, found.relayed);
        let response = if opened {
            self.counts.allocations_made += 1;
            Message::from_bytes(&pending.request)
                .map(|message| allocate_success(&message, relayed, client, pending.lifetime))
        } else {
            let port = self.free_port(relayed.ip(), pending.even_port);
            if let (Some(port), true) = (port, pending.tries < PORT_TRIES) {
                self.table.change_relayed(allocation, SocketAddr::new(relayed.ip(), port));
                pending.tries += 1;
                self.pending.insert(allocation, pending);
                self.ask_to_bind(allocation);
                return;
            }
            self.counts.allocations_refused += 1;
            self.table.remove(allocation);
            Message::from_bytes(&pending.request).map(|message| Response::error(&message, 508))
        };
        if let Ok(response) = response {
            let bytes = response.finish(Some((&pending.key, pending.algorithm)));
            self.emit(RelayOutput::Transmit { client, local_ip, bytes });
        }
    }

    fn free_port(&mut self, ip: IpAddr, even: bool) -> Option<u16> {
        let (first, last) = (*self.config.ports.start(), *self.config.ports.end());
        let usable = |port: u16, table: &super::allocation::Table| {
            port != 0
                && !(even && port % 2 == 1)
                && table.by_relayed(&SocketAddr::new(ip, port)).is_none()
        };
        if first > last {
            return None;
        }
        for _ in 0..PORT_TRIES {
            let port = self.random.random_range(first..=last);
            if usable(port, &self.table) {
                return Some(port);
            }
        }
        // A crowded range: from a random place upwards, once around.
        let start = self.random.random_range(first..=last);
        (start..=last).chain(first..start).find(|port| usable(*port, &self.table))
    }

    fn standing_allocation(
        &self,
        request: &Request<'_>,
        signed: &Signed,
    ) -> Result<AllocationId, u16> {
        let id = self.table.by_client(&request.client).ok_or(437_u16)?;
        let allocation = self.table.get(id).ok_or(437_u16)?;
        if allocation.user != signed.user {
            return Err(441);
        }
        let lapsed = allocation.expires <= request.now.instant || !allocation.standing;
        let too_old = signed.user.expires.plus(REFRESH_GRACE) <= request.now.unix;
        match (lapsed, too_old) {
            (true, _) => Err(437),
            (_, true) => Err(401),
            _ => Ok(id),
        }
    }

    fn refresh(&mut self, request: &Request<'_>, id: AllocationId) -> Response {
        let wanted = lifetime_of(request.message);
        let mut lifetime = Duration::ZERO;
        if wanted.is_zero() {
            self.remove(id);
        } else if let Some(allocation) = self.table.get_mut(id) {
            lifetime = wanted.clamp(LIFETIME_DEFAULT, LIFETIME_MAX);
            allocation.expires = request.now.instant + lifetime;
        }
        Response::success(request.message).with(&lifetime_attribute(lifetime))
    }

    fn create_permission(&mut self, request: &Request<'_>, id: AllocationId) -> Result<(), u16> {
        let message = request.message;
        let mut peers = Vec::new();
        // More than the table takes need not be read: it answers 508.
        for (_, attribute) in message.iter_attributes().take(64) {
            if attribute.get_type() == XorPeerAddress::TYPE {
                let peer = XorPeerAddress::try_from(&attribute).map_err(|_| 400_u16)?;
                peers.push(peer.addr(message.transaction_id()));
            }
        }
        if peers.is_empty() {
            return Err(400);
        }
        for peer in &peers {
            // A permission is for an address, whatever the port.
            self.check_peer(id, SocketAddr::new(peer.ip(), peer.port().max(1)))?;
        }
        let ips: Vec<_> = peers.iter().map(SocketAddr::ip).collect();
        let allocation = self.table.get_mut(id).ok_or(437_u16)?;
        allocation.install_permissions(request.now.instant, &ips).map_err(|_| 508)
    }

    fn bind_channel(&mut self, request: &Request<'_>, id: AllocationId) -> Result<(), u16> {
        let message = request.message;
        let number = message.attribute::<ChannelNumber>().map_err(|_| 400_u16)?.channel();
        let peer = message.attribute::<XorPeerAddress>().map_err(|_| 400_u16)?;
        let peer = peer.addr(message.transaction_id());
        // RFC 5766 section 11, which clients still follow; RFC 8656 stops at 0x4FFF.
        if !(0x4000..=0x7FFE).contains(&number) {
            return Err(400);
        }
        self.check_peer(id, peer)?;
        let allocation = self.table.get_mut(id).ok_or(437_u16)?;
        allocation.bind_channel(request.now.instant, number, peer).map_err(|error| match error {
            PeerError::Conflict => 400,
            PeerError::Full => 508,
        })
    }

    fn check_peer(&mut self, id: AllocationId, peer: SocketAddr) -> Result<(), u16> {
        let relayed = self.table.get(id).ok_or(437_u16)?.relayed;
        if relayed.is_ipv4() != peer.is_ipv4() {
            return Err(443);
        }
        if self.config.peers.permits(peer) {
            return Ok(());
        }
        self.counts.forbidden_peers += 1;
        Err(403)
    }
}

fn relayed_ip(server: &RelayServer, message: &Message<'_>) -> Result<IpAddr, u16> {
    let wanted = match message.attribute::<RequestedAddressFamily>() {
        Ok(family) => family.family(),
        Err(_) if message.has_attribute(RequestedAddressFamily::TYPE) => return Err(440),
        Err(_) => turn_types::AddressFamily::IPV4,
    };
    let ip = match wanted {
        turn_types::AddressFamily::IPV4 => server.config.relayed_v4,
        turn_types::AddressFamily::IPV6 => server.config.relayed_v6,
    };
    ip.ok_or(440)
}

fn lifetime_of(message: &Message<'_>) -> Duration {
    let wanted = message.attribute::<Lifetime>();
    wanted.map_or(LIFETIME_DEFAULT, |l| Duration::from_secs(l.seconds().into()))
}

fn lifetime_attribute(lifetime: Duration) -> Lifetime {
    Lifetime::new(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
}

fn allocate_success(
    request: &Message<'_>,
    relayed: SocketAddr,
    client: ClientId,
    lifetime: Duration,
) -> Response {
    Response::success(request)
        .with(&XorRelayedAddress::new(relayed, request.transaction_id()))
        .with_mapped(request, client.remote())
        .with(&lifetime_attribute(lifetime))
}
