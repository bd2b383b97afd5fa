//! What goes on while a node runs: events are handed on, splices taken, certificates renewed,
//! relays kept known, the host cache stored.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use cooee_proto::{
    attachment::{Status as Attached, Udp},
    call::{CallEvent, CallPhase},
    identity::{Certificate, RevocationList},
};
use serde_json::{Value, json};
use tokio::{sync::broadcast::error::RecvError, time::sleep};

use super::{Node, NodeError, serving::Arrivals, status::describe};
use crate::{
    account::{Account, AccountError},
    attachment::{AttachmentEvent, Incoming},
    call::CallNotice,
    login_server::{Session, unix_now},
    network_watch::{self, NetworkWatch},
    profile::Profile,
    settings::Settings,
    transport::{Credentials, alpn},
};

/// How often upkeep looks at the certificate and stores the host cache.
const ROUND: Duration = Duration::from_secs(60);

/// A record that no super node took is published again after this.
const PUBLISH_AGAIN: Duration = Duration::from_secs(5);

/// TURN credentials are asked for again after this: well within their life of hours.
const RELAYS_EVERY: Duration = Duration::from_secs(1800);

/// How often an ordinary node fetches the list of removed devices itself.
const REVOCATIONS_EVERY_ORDINARY: Duration = Duration::from_secs(6 * 3600);

/// Failed requests for credentials are repeated after this.
const RELAYS_RETRY: Duration = Duration::from_secs(2);

/// While a call goes on, the super nodes are asked for a sign of life so often: one that has died
/// without a word is noticed within this and 1.5 s, where the keep-alive alone takes two minutes.
const CHECK_IN_CALL: Duration = Duration::from_secs(4);

/// A state that has lasted this long has settled. Chosen: above what a call takes to set up.
const SETTLED: Duration = Duration::from_secs(4);

/// A certificate that holds: the stored one, or a renewed one if its time is near.
pub(super) async fn fresh(
    profile: &Profile,
    settings: &Settings,
    certificate: Certificate,
) -> Result<Certificate, NodeError> {
    let now = unix_now();
    if now < certificate.renew_at() {
        return Ok(certificate);
    }
    let has_ended = now > certificate.not_after();
    match renew(profile, settings).await {
        Ok(session) => Ok(session.certificate),
        Err(error) if has_ended => Err(NodeError::CertificateEnded(error.to_string())),
        Err(error) => {
            tracing::warn!(%error, "the certificate cannot be renewed yet; trying again later");
            Ok(certificate)
        }
    }
}

async fn renew(profile: &Profile, settings: &Settings) -> Result<Session, AccountError> {
    let proxy = settings.proxy().unwrap_or_default();
    let account = Account::new(profile, None, proxy)?;
    let root = account.invitation().root;
    let held = profile.revocation_list(&root);
    let held = held.unwrap_or_else(|| RevocationList::empty(root.network_id()));
    let session = account.renew(&held, &[]).await?;
    if let Some(list) = &session.revocation_list {
        profile.store_revocation_list(list)?;
    }
    Ok(session)
}

/// Starts the tasks. They hold the node weakly and end with it.
pub(super) fn start(node: &Arc<Node>, incoming: Option<Incoming>, arrivals: Arrivals) {
    if let Some(incoming) = incoming {
        tokio::spawn(take_splices(Arc::downgrade(node), incoming.splices));
        tokio::spawn(hand_on_attachment(Arc::downgrade(node), incoming.events));
        tokio::spawn(keep_relays(Arc::downgrade(node)));
        tokio::spawn(keep_published(Arc::downgrade(node)));
        tokio::spawn(check_in_calls(Arc::downgrade(node)));
        tokio::spawn(watch_network(Arc::downgrade(node)));
    }
    if let Some(calls) = &node.calls {
        tokio::spawn(hand_on_calls(Arc::downgrade(node), calls.subscribe()));
    }
    tokio::spawn(keep_small(Arc::downgrade(node)));
    tokio::spawn(take_arrivals(Arc::downgrade(node), arrivals));
    tokio::spawn(keep_up(Arc::downgrade(node)));
    tokio::spawn(keep_revocations(Arc::downgrade(node)));
    tokio::spawn(super::candidacy::stand(Arc::downgrade(node)));
}

async fn take_splices(
    node: Weak<Node>,
    mut splices: tokio::sync::mpsc::Receiver<crate::attachment::IncomingSplice>,
) {
    while let Some(splice) = splices.recv().await {
        let Some(node) = node.upgrade() else { return };
        if let Some(peers) = &node.peers {
            peers.accept_splice(splice.from, Box::new(splice.stream));
        }
    }
}

async fn take_arrivals(node: Weak<Node>, mut arrivals: Arrivals) {
    loop {
        tokio::select! {
            splice = arrivals.splices.recv() => {
                let (Some(splice), Some(node)) = (splice, node.upgrade()) else { return };
                if let Some(peers) = &node.peers {
                    peers.accept_splice(splice.from, splice.stream);
                }
            }
            direct = arrivals.direct.recv() => {
                let (Some(direct), Some(node)) = (direct, node.upgrade()) else { return };
                if let Some(peers) = &node.peers {
                    peers.accept_direct(*direct);
                }
            }
        }
    }
}

async fn hand_on_attachment(
    node: Weak<Node>,
    mut events: tokio::sync::mpsc::Receiver<AttachmentEvent>,
) {
    while let Some(event) = events.recv().await {
        let Some(node) = node.upgrade() else { return };
        match event {
            AttachmentEvent::StatusChanged(status) => {
                let (state, detail) = describe(&status);
                node.tell(json!({ "event": "state_changed", "state": state, "detail": detail }));
            }
            AttachmentEvent::Attached { observed_address, took, bytes, .. } => {
                let login_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                {
                    let mut facts = node.facts();
                    facts.login_ms = Some(login_ms);
                    facts.login_bytes = Some(bytes);
                }
                node.publish().await;
                node.store_host_cache();
                node.tell(json!({
                    "event": "attached", "login_ms": login_ms, "login_bytes": bytes,
                    "observed_address": observed_address,
                }));
            }
            AttachmentEvent::SuperNodesChanged(_) => node.publish().await,
            AttachmentEvent::Notified { key, found } => {
                if let Some(people) = &node.people {
                    people.handle_found(key, node.seen_as(&found)).await;
                }
            }
            AttachmentEvent::ClockDiffers { by } => {
                node.tell(json!({ "event": "clock_differs", "by_ms": by.as_millis() as u64 }));
            }
        }
    }
}

/// Looks for super nodes anew as soon as this machine's addresses have changed.
async fn watch_network(node: Weak<Node>) {
    let mut watch = NetworkWatch::new();
    let mut known = network_watch::addresses();
    loop {
        watch.changed().await;
        let Some(node) = node.upgrade() else { return };
        let addresses = network_watch::addresses();
        if addresses != known
            && let Some(attachment) = &node.attachment
        {
            known = addresses;
            attachment.network_changed().await;
        }
    }
}

/// Publishes again what was not taken.
async fn keep_published(node: Weak<Node>) {
    loop {
        sleep(PUBLISH_AGAIN).await;
        let Some(node) = node.upgrade() else { return };
        node.publish_if_due().await;
    }
}

/// Notices super nodes that fall silent while it matters.
async fn check_in_calls(node: Weak<Node>) {
    loop {
        sleep(CHECK_IN_CALL).await;
        let Some(node) = node.upgrade() else { return };
        if let (Some(calls), Some(attachment)) = (&node.calls, &node.attachment)
            && !calls.list().is_empty()
        {
            attachment.check();
        }
    }
}

async fn hand_on_calls(
    node: Weak<Node>,
    mut notices: tokio::sync::broadcast::Receiver<CallNotice>,
) {
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "call events were missed");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let Some(node) = node.upgrade() else { return };
        node.tell(call_event(&node, &notice));
    }
}

/// The notice as JSON; changes of a call placed here say how long ago it was dialled.
fn call_event(node: &Node, notice: &CallNotice) -> Value {
    let mut event = serde_json::to_value(notice).expect("own types serialise");
    match notice {
        CallNotice::Event(CallEvent::Changed(summary)) => {
            let mut facts = node.facts();
            if let Some(dialled) = facts.dialled.get(&summary.call) {
                event["since_dialled_ms"] = json!(dialled.elapsed().as_secs_f64() * 1000.0);
            }
            if summary.phase == CallPhase::Ended {
                facts.dialled.remove(&summary.call);
            }
        }
        CallNotice::Recorded { record, .. } => {
            event["call"] = json!(record.call);
            node.facts().dialled.remove(&record.call);
        }
        CallNotice::Event(CallEvent::MediaEstablished { call }) => {
            if let Some(dialled) = node.facts().dialled.get(call) {
                event["since_dialled_ms"] = json!(dialled.elapsed().as_secs_f64() * 1000.0);
            }
        }
        _ => {}
    }
    event
}

/// Gives back what only starting, attaching, or setting up and ending calls needed, once each of
/// them has settled.
async fn keep_small(node: Weak<Node>) {
    let mut look = tokio::time::interval(SETTLED);
    let (mut before, mut done) = (None, None);
    loop {
        look.tick().await;
        let Some(node) = node.upgrade() else { return };
        let calls = node.calls.as_ref().map_or(0, |calls| calls.list().len());
        let is_attached = node.attachment.as_ref().is_none_or(|attachment| {
            matches!(*attachment.status().borrow(), Attached::Attached { .. })
        });
        let now = Some((calls, is_attached));
        if now == before && now != done {
            let bytes = crate::memory::release_cold_code();
            tracing::debug!(bytes, "looked through the program's own memory");
            done = now;
        }
        before = now;
    }
}

/// Keeps the relays of the super nodes in use known, so that a call need not ask first.
async fn keep_relays(node: Weak<Node>) {
    loop {
        let Some((attachment, mut status)) = node.upgrade().and_then(|node| {
            let attachment = node.attachment.clone()?;
            let status = attachment.status();
            Some((attachment, status))
        }) else {
            return;
        };
        if attachment.attached().await.is_err() {
            return;
        }
        let credentials = attachment.all_turn_credentials().await;
        let is_known = !credentials.is_empty();
        let udp = match &*status.borrow_and_update() {
            Attached::Attached { udp, .. } => *udp,
            _ => Udp::Unknown,
        };
        {
            let Some(node) = node.upgrade() else { return };
            let tls = node.tls.client_config(alpn::TURN, crate::transport::ExpectedPeer::Anybody);
            node.voice.learn_relays(&credentials, udp, tls.ok());
        }
        let pause = if is_known { RELAYS_EVERY } else { RELAYS_RETRY };
        tokio::select! {
            () = sleep(pause) => {}
            // Another super node, or the spare came or went.
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

/// Fetches the list of removed devices and keeps it in the profile. Super nodes ask often and tell
/// each other and the nodes attached to them; an ordinary node asks only in case its super nodes
/// keep silent about it.
async fn keep_revocations(node: Weak<Node>) {
    let Some((mut changed, every)) = node.upgrade().map(|node| {
        let is_super_node = node.overlay().is_some();
        let often = Duration::from_secs(node.settings.revocations_every_s.max(1));
        let every = if is_super_node { often } else { often.max(REVOCATIONS_EVERY_ORDINARY) };
        (node.tls.trust().revocations(), every)
    }) else {
        return;
    };
    // An ordinary node has just been told by its super node, if there is anything to tell.
    let mut due = if every < REVOCATIONS_EVERY_ORDINARY { Duration::ZERO } else { every };
    loop {
        let news = tokio::time::timeout(due, changed.changed()).await;
        let Some(node) = node.upgrade() else { return };
        match news {
            Ok(Ok(())) => {
                let list = node.tls.trust().revocation_list();
                if let Err(error) = node.profile.store_revocation_list(&list) {
                    tracing::warn!(%error, "the list of removed devices cannot be stored");
                }
            }
            Ok(Err(_)) => return,
            Err(_) => {
                if let Err(error) = node.login.fetch_revocations().await {
                    tracing::debug!(%error, "the list of removed devices cannot be fetched now");
                }
            }
        }
        due = every;
    }
}

async fn keep_up(node: Weak<Node>) {
    loop {
        sleep(ROUND).await;
        let Some(node) = node.upgrade() else { return };
        node.store_host_cache();
        node.store_super_nodes();
        node.publish_if_old().await;
        let current = node.tls.credentials().certificate;
        if current.is_some_and(|certificate| unix_now() >= certificate.renew_at()) {
            match renew(&node.profile, &node.settings).await {
                Ok(Session { certificate, revocation_list, .. }) => {
                    if let Some(list) = revocation_list {
                        node.tls.trust().replace_revocation_list(list);
                    }
                    let key = node.tls.credentials().key;
                    let credentials = Credentials { key, certificate: Some(certificate) };
                    if let Err(error) = node.tls.replace_credentials(credentials) {
                        tracing::error!(%error, "the renewed certificate cannot be used");
                    }
                    if let Some(overlay) = node.overlay() {
                        overlay.renewed();
                    }
                    node.publish().await;
                }
                Err(error) => tracing::warn!(%error, "the certificate cannot be renewed yet"),
            }
        }
    }
}
