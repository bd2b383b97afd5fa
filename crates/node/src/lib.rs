//! The shell around the pure machines: sockets, TLS, timers, storage, sound devices, local API.
//!
//! It owns every effect and takes no protocol decision: those are in `cooee-proto` and
//! `cooee-media`.

pub mod account;
pub mod api;
pub mod attachment;
pub mod audio;
pub mod call;
pub mod doctor;
mod login_access;
pub mod login_server;
pub mod media;
mod memory;
pub mod network_watch;
pub mod node;
pub mod overlay;
pub mod peer;
pub mod people;
pub mod profile;
pub mod reachability;
pub mod relay;
pub mod room;
pub mod settings;
pub mod storage;
pub mod super_node;
pub mod transport;
pub mod trial;
pub mod udp;
