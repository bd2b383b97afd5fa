//! One connection in use or warm: keep-alives, incoming splices, notices.

use std::{pin::pin, sync::Arc, time::Duration};

use cooee_proto::{
    attachment::{AttemptId, Status, Udp},
    control::{
        KEEPALIVE_ANSWER_TIME, KEEPALIVE_INTERVAL, KEEPALIVE_INTERVAL_UDP, addresses_from_wire,
        node_id,
    },
    wire::v1::{Refusal, control_message::Kind, stream_header::Kind as HeaderKind},
};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{AttachmentEvent, IncomingSplice, driver::Input, notified};
use crate::room::Room;
use crate::transport::{
    ControlChannel, Inbox, IncomingStream, Trust, handle_revocation_notice, revocation_notice,
};

pub(super) struct Served {
    pub(super) attempt: AttemptId,
    pub(super) channel: ControlChannel,
    pub(super) inbox: Inbox,
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) splices: mpsc::Sender<IncomingSplice>,
    pub(super) events: mpsc::Sender<AttachmentEvent>,
    pub(super) trust: Arc<Trust>,
    pub(super) status: watch::Receiver<Status>,
}

impl Served {
    /// Where the super node in use gives signs of life by UDP, the connection is only kept open.
    fn keepalive_interval(&self) -> Duration {
        match *self.status.borrow() {
            Status::Attached { udp: Udp::Works, .. } => KEEPALIVE_INTERVAL_UDP,
            _ => KEEPALIVE_INTERVAL,
        }
    }
}

/// Time for a sign of life when one is asked for, if others answer. Chosen: a loss is healed within
/// two seconds.
const CHECK_TIME: Duration = Duration::from_millis(1500);
/// The same while nobody answers. Chosen: one loss in a full queue of a slow link.
const CHECK_TIME_ALONE: Duration = Duration::from_millis(2500);

/// Messages that a super node may send unasked at once, and each second from then on. Chosen: a
/// notice of every buddy of a long list after a return, and far more than a network's day brings.
const UNASKED_MAX: f64 = 2_000.0;
const UNASKED_PER_S: f64 = 20.0;

/// Notices a super node that floods.
struct Unasked {
    left: f64,
    at: Instant,
}

impl Unasked {
    /// Counts a message; false if it is one too many.
    fn allows(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.at).as_secs_f64() * UNASKED_PER_S;
        self.left = (self.left + gained).min(UNASKED_MAX) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}

/// Closes a connection that gives no sign of life; `others` are asked when it hesitates. If nobody
/// answers, the link is full, where a new connection would fare no better and take 4 kB of it, or a
/// NAT has forgotten them all: then it is waited a little longer.
///
/// Where a call has little room the link is full of its voice, and only silence beyond all queues
/// tells.
pub(super) fn check(channel: ControlChannel, others: Vec<ControlChannel>, room: Room) {
    tokio::spawn(async move {
        let mut is_alive = answers(&channel, others).await;
        if !is_alive && room.is_little() {
            is_alive = channel.ping(KEEPALIVE_ANSWER_TIME).await.is_ok();
        }
        if !is_alive {
            channel.connection().close();
        }
    });
}

/// Whether a connection gives a sign of life in the time that it has for that.
async fn answers(channel: &ControlChannel, others: Vec<ControlChannel>) -> bool {
    let half = channel.patience(CHECK_TIME) / 2;
    let mut ping = pin!(channel.ping(channel.patience(CHECK_TIME_ALONE)));
    let at_once = timeout(half, &mut ping).await;
    match at_once {
        Ok(answer) => answer.is_ok(),
        Err(_) => tokio::select! {
            answer = &mut ping => answer.is_ok(),
            () = somebody_answers(others) => {
                timeout(half, ping).await.is_ok_and(|answer| answer.is_ok())
            }
        },
    }
}

/// The same for one of several.
pub(super) fn check_among(place: usize, channels: &[ControlChannel], room: &Room) {
    let (before, rest) = channels.split_at(place.min(channels.len()));
    if let [channel, after @ ..] = rest {
        check(channel.clone(), before.iter().chain(after).cloned().collect(), room.clone());
    }
}

/// Returns when one of these has answered; never if none does.
async fn somebody_answers(channels: Vec<ControlChannel>) {
    let ping = async |channel: ControlChannel| channel.ping(CHECK_TIME_ALONE).await.is_ok();
    let mut pings: FuturesUnordered<_> = channels.into_iter().map(ping).collect();
    while let Some(is_alive) = pings.next().await {
        if is_alive {
            return;
        }
    }
    std::future::pending().await
}

/// Serves the connection until it ends, and reports the end.
pub(super) async fn serve(mut served: Served) {
    let connection = served.channel.connection().clone();
    if let Some(notice) = revocation_notice(&served.trust) {
        let _ = served.channel.send(notice).await;
    }
    let mut revocations = served.trust.revocations();
    let mut keepalive_at = Instant::now() + served.keepalive_interval();
    let mut unasked = Unasked { left: UNASKED_MAX, at: Instant::now() };
    loop {
        tokio::select! {
            incoming = connection.accept() => match incoming {
                Some(incoming) => take_splice(&served, incoming).await,
                None => break,
            },
            kind = served.inbox.recv() => match kind {
                Some(kind) if unasked.allows(Instant::now()) => handle(&served, kind).await,
                Some(_) => {
                    tracing::warn!(?connection, "this super node floods: left");
                    break;
                }
                None => break,
            },
            Ok(()) = revocations.changed() => {
                if !connection.peer().is_some_and(|peer| served.trust.still_holds(peer)) {
                    break;
                }
            }
            () = sleep_until(keepalive_at) => {
                keepalive_at = Instant::now() + served.keepalive_interval();
                let channel = served.channel.clone();
                tokio::spawn(async move {
                    if channel.ping(KEEPALIVE_ANSWER_TIME).await.is_err() {
                        channel.connection().close();
                    }
                });
            }
        }
    }
    connection.close();
    let _ = served.inputs.send(Input::Lost(served.attempt)).await;
}

async fn take_splice(served: &Served, incoming: IncomingStream) {
    let IncomingStream { header, mut stream } = incoming;
    let from = match header.kind {
        Some(HeaderKind::SpliceIncoming(splice)) => node_id(&splice.from),
        _ => {
            let _ = stream.refuse(Refusal::NotAllowed, "an ordinary node takes splices only").await;
            return;
        }
    };
    let Ok(from) = from else {
        let _ = stream.refuse(Refusal::Malformed, "identifier of wrong length").await;
        return;
    };
    let Ok(place) = served.splices.clone().try_reserve_owned() else {
        let _ = stream.refuse(Refusal::NotTaken, "too many splices at once").await;
        return;
    };
    if stream.accept().await.is_ok() {
        place.send(IncomingSplice { from, stream });
    }
}

async fn handle(served: &Served, kind: Kind) {
    match kind {
        Kind::HostCacheUpdate(update) => {
            let addresses = addresses_from_wire(&update.super_nodes);
            let _ = served.inputs.send(Input::Report(addresses)).await;
        }
        Kind::Drain(drain) => {
            let try_these = addresses_from_wire(&drain.try_these);
            let _ = served.inputs.send(Input::Drain(served.attempt, try_these)).await;
        }
        Kind::Notify(notify) => {
            if let Some(event) = notified(&notify) {
                let _ = served.events.try_send(event);
            }
        }
        Kind::RevocationNotice(notice) => {
            if let Some(answer) = handle_revocation_notice(&served.trust, &notice) {
                // If the connection has ended meanwhile, nobody waits for the answer.
                let _ = served.channel.send(answer).await;
            }
        }
        // An ordinary node answers no requests.
        _ => {}
    }
}
