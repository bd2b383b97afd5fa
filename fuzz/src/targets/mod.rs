//! The targets by name.

mod buddy_list;
mod control_messages;
mod identity;
mod index_records;
#[cfg(feature = "shell")]
mod local_api;
mod login_client;
mod login_server;
mod media_feedback;
mod media_payload;
mod media_session;
mod overlay_datagram;
mod overlay_message;
mod peer_call;
mod peer_messages;
mod planted;
#[cfg(feature = "shell")]
mod profile_files;
mod reachability;
mod relay_server;
mod relay_stream;
mod revocation_list;
mod voice_receiver;
mod wire_messages;

/// Name and code of every target.
pub(crate) const ALL: &[(&str, fn(&[u8]))] = &[
    ("buddy_list", buddy_list::run),
    ("control_messages", control_messages::run),
    ("identity", identity::run),
    ("index_records", index_records::run),
    #[cfg(feature = "shell")]
    ("local_api", local_api::run),
    ("login_client", login_client::run),
    ("login_server", login_server::run),
    ("media_feedback", media_feedback::run),
    ("media_payload", media_payload::run),
    ("media_session", media_session::run),
    ("overlay_datagram", overlay_datagram::run),
    ("overlay_message", overlay_message::run),
    ("peer_call", peer_call::run),
    ("peer_messages", peer_messages::run),
    #[cfg(feature = "shell")]
    ("profile_files", profile_files::run),
    ("reachability", reachability::run),
    ("relay_server", relay_server::run),
    ("relay_stream", relay_stream::run),
    ("revocation_list", revocation_list::run),
    ("voice_receiver", voice_receiver::run),
    ("wire_messages", wire_messages::run),
    ("planted", planted::run),
];
