//! What this device says about itself in the Global Index, and what a super node keeps for its next
//! start.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use cooee_proto::{
    index::{DISPLAY_NAME_BYTES_MAX, RECORD_LIFE_HOURS, RECORD_SUPER_NODES_MAX},
    wire::v1::UserRecord,
};
use prost::Message;

use super::{Node, ShownPresence};
use crate::{
    login_server::unix_now,
    overlay::{LiveTrust, OverlayDirectory},
    profile::{Profile, write_atomically},
};

const HOUR_MS: u64 = 3_600_000;

/// A record is signed anew after this, although nothing changed. Chosen: six times in its life.
const REFRESH_HOURS: u64 = 12;

/// Where a super node keeps the addresses of others.
const SUPER_NODES_FILE: &str = "super-nodes.json";

/// Where it keeps its shards of the Global Index.
const SHARDS_FILE: &str = "shards.bin";

/// A larger file is not ours.
const FILE_BYTES_MAX: usize = 64 * 1024;

/// What was published last.
#[derive(Debug)]
pub(super) struct Publication(Mutex<Published>);

impl Publication {
    /// Nothing yet; this is to be shown.
    pub(super) fn new(presence: ShownPresence) -> Self {
        Self(Mutex::new(Published { presence, sequence: 0, is_due: false }))
    }
}

#[derive(Debug)]
struct Published {
    presence: ShownPresence,
    sequence: u64,
    /// The last try failed.
    is_due: bool,
}

impl Node {
    /// The presence that the user chose to show.
    pub fn presence(&self) -> ShownPresence {
        self.published().presence
    }

    pub(super) fn choose_presence(&self, presence: ShownPresence) {
        self.published().presence = presence;
    }

    /// Makes this device findable through the super nodes that hold it now.
    pub(super) async fn publish(&self) {
        let Some(attachment) = &self.attachment else { return };
        let super_nodes = attachment.super_nodes().into_iter().take(RECORD_SUPER_NODES_MAX);
        let super_nodes = super_nodes.map(|node| Bytes::copy_from_slice(&node.0)).collect();
        let record = LiveTrust::new(self.tls.clone()).sign_record(self.unsigned(super_nodes));
        let published = attachment.publish(record.encode_to_vec().into()).await;
        if let Err(error) = &published {
            tracing::warn!(%error, "this device could not be published; trying again");
        }
        self.published().is_due = published.is_err();
    }

    /// Publishes again what a busy or dying super node did not take.
    pub(super) async fn publish_if_due(&self) {
        if self.published().is_due {
            self.publish().await;
        }
    }

    fn unsigned(&self, super_nodes: Vec<Bytes>) -> UserRecord {
        let presence = self.presence();
        let sequence = {
            let mut published = self.published();
            published.sequence = unix_now().0.max(published.sequence + 1);
            published.sequence
        };
        let listed = self.settings.listed;
        let display_name = self.settings.display_name.as_deref().filter(|_| listed);
        UserRecord {
            super_nodes,
            sequence,
            expiry_unix_ms: sequence + RECORD_LIFE_HOURS * HOUR_MS,
            presence: presence.published().into(),
            listed,
            display_name: display_name.map(shortened).unwrap_or_default(),
            ..UserRecord::default()
        }
    }

    /// Publishes again when the record has become old.
    pub(super) async fn publish_if_old(&self) {
        let sequence = self.published().sequence;
        if sequence > 0 && unix_now().0 > sequence + REFRESH_HOURS * HOUR_MS {
            self.publish().await;
        }
    }

    /// The overlay, if this node is a super node.
    pub(super) fn overlay(&self) -> Option<Arc<OverlayDirectory>> {
        Some(self.serving.as_ref()?.active()?.overlay)
    }

    /// Keeps where other super nodes are, so that the next start finds one although those of the
    /// invitation are gone.
    pub(super) fn store_super_nodes(&self) {
        let Some(overlay) = self.overlay() else { return };
        let addresses = overlay.contacts_to_store();
        if addresses.is_empty() {
            return;
        }
        let text = serde_json::to_vec(&addresses).expect("own types serialise");
        let path = self.profile.path(SUPER_NODES_FILE);
        if let Err(error) = write_atomically(&path, &text, false) {
            tracing::warn!(%error, "the addresses of super nodes cannot be stored");
        }
    }

    fn published(&self) -> std::sync::MutexGuard<'_, Published> {
        self.publication.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a super node kept of its last run.
pub(super) fn kept(profile: &Profile) -> super::serving::Kept {
    let shards_file = profile.path(SHARDS_FILE);
    super::serving::Kept { super_nodes: known_super_nodes(profile), shards_file }
}

/// Super nodes known from before; none if there is no such file or it is damaged: the invitation
/// names some too.
fn known_super_nodes(profile: &Profile) -> Vec<SocketAddr> {
    let text = std::fs::read(profile.path(SUPER_NODES_FILE)).unwrap_or_default();
    if text.is_empty() || text.len() > FILE_BYTES_MAX {
        return Vec::new();
    }
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!(%error, "{SUPER_NODES_FILE} is damaged and will be written anew");
        Vec::new()
    })
}

/// As much of a display name as a record carries, cut between characters.
fn shortened(name: &str) -> String {
    let mut short = String::new();
    for character in name.chars().filter(|character| !character.is_control()) {
        if short.len() + character.len_utf8() > DISPLAY_NAME_BYTES_MAX {
            break;
        }
        short.push(character);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_display_name_is_cut_between_characters() {
        assert_eq!(shortened("Åsa\nB"), "ÅsaB");
        let long = "ä".repeat(40);
        assert_eq!(shortened(&long), "ä".repeat(DISPLAY_NAME_BYTES_MAX / 2));
    }
}
