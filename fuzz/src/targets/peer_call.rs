//! Calls with a device that says anything: the machine keeps its bounds.

use std::time::Duration;

use crate::network::{device, name, now, pieces};
use cooee_proto::{
    call::{AutoAnswer, Calls, CallsConfig, Output, Relation, Remote},
    wire::v1::CallMessage,
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let mut now = now();
    let auto_answer = AutoAnswer::Everybody(Duration::ZERO);
    let mut calls = Calls::new(CallsConfig { auto_answer, ..CallsConfig::default() }, [6; 32]);
    let (key, _) = device(2, Some("bob"), None);
    let remote = Remote { node: key.node_id(), user: name("bob"), relation: Relation::MutualBuddy };
    for (choice, piece) in pieces(input).take(64) {
        if choice & 1 != 0 {
            now = now.plus(Duration::from_secs(u64::from(choice)));
            calls.handle_timeout(now);
        }
        if choice & 2 != 0 {
            let _ = calls.place_call(now, &name("bob"), Relation::MutualBuddy);
        }
        if let Ok(message) = CallMessage::decode(piece) {
            calls.handle_message(now, &remote, message);
        }
        while !matches!(calls.poll_output(), Output::Timeout(..) | Output::Idle) {}
        assert!(calls.list().count() <= 2 * CallsConfig::default().calls_max);
    }
}
