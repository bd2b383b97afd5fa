//! The checks of what control messages carry.

use crate::network::UNIX;
use cooee_proto::{
    control::{Greeting, addresses_from_wire, name_key, node_id},
    host_cache::HostCache,
    wire::v1::{ControlMessage, control_message::Kind, request},
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let Ok(ControlMessage { kind: Some(kind) }) = ControlMessage::decode(input) else { return };
    match kind {
        Kind::Hello(hello) => {
            if let Ok(greeting) = Greeting::from_wire(&hello) {
                let again = Greeting::from_wire(&greeting.to_wire()).expect("own message");
                assert_eq!(again, greeting);
            }
        }
        Kind::HostCacheUpdate(update) => {
            let mut cache = HostCache::new([]);
            let told = addresses_from_wire(&update.super_nodes);
            assert!(told.len() <= 50);
            cache.handle_report(told, UNIX);
            assert!(cache.entries().count() <= 200);
        }
        Kind::Notify(notify) => drop(name_key(&notify.name_key)),
        Kind::Request(request) => {
            if let Some(request::Kind::LookUp(look_up)) = request.kind {
                let _ = name_key(&look_up.name_key);
            }
        }
        _ => drop(node_id(input)),
    }
}
