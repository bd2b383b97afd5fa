//! A device that the network took back, or whose certificate has ended, loses its connection here;
//! a newer list of removed devices is told to everybody connected.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::timeout;

use super::Shared;
use crate::transport::{ControlChannel, Trust, revocation_notice};

/// How often connections are looked through for certificates that have ended. Chosen.
const ROUND: Duration = Duration::from_secs(15);

/// Closes what no longer holds and hands newer lists on, until the super node is gone.
pub(super) async fn keep(shared: Weak<Shared>) {
    let Some(mut changed) = shared.upgrade().map(|shared| trust(&shared).revocations()) else {
        return;
    };
    loop {
        let news = timeout(ROUND, changed.changed()).await;
        let Some(shared) = shared.upgrade() else { return };
        let (held, ended): (Vec<_>, Vec<_>) =
            channels(&shared).into_iter().partition(|channel| holds(&shared, channel));
        for channel in ended {
            tracing::info!(connection = ?channel.connection(), "removed or out of date: closed");
            shared.metrics.certificates_ended.inc();
            channel.connection().close();
        }
        if matches!(news, Ok(Ok(())))
            && let Some(notice) = revocation_notice(trust(&shared))
        {
            for channel in held {
                // Who reads nothing now hears of it at the next connection.
                let _ = channel.try_send(notice.clone());
            }
        }
    }
}

pub(super) fn trust(shared: &Shared) -> &Arc<Trust> {
    shared.dialer.tls().trust()
}

fn channels(shared: &Shared) -> Vec<ControlChannel> {
    let attached = shared.attached();
    let mut channels: Vec<_> = attached.values().map(|entry| entry.channel.clone()).collect();
    channels.extend(shared.links.channels());
    channels
}

fn holds(shared: &Shared, channel: &ControlChannel) -> bool {
    channel.connection().peer().is_some_and(|peer| trust(shared).still_holds(peer))
}
