//! A connection to the login server: any requests in any order, with any answers of the database.

use std::sync::Arc;

use crate::network::{network, now, pieces};
use cooee_proto::{
    login::{
        AccountRecord, Hello, Limits, ServerConfig, ServerConnection, Step, StorageAnswer,
        StorageFault, Stretching,
    },
    wire::v1::{LoginRequest, login_response::Kind},
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let config = Arc::new(ServerConfig::new(network()));
    let address = [127, 0, 0, 1].into();
    let mut connection = ServerConnection::new(config, [3; 32], address, [4; 32]);
    let mut limits = Limits::default();
    let now = now();
    connection.handle_request(now, Hello::request(1), &mut limits);
    for (choice, bytes) in pieces(input) {
        let Ok(request) = LoginRequest::decode(bytes) else { continue };
        let Step::Store(_) = connection.handle_request(now, request, &mut limits) else { continue };
        let record = || AccountRecord {
            registration_record: bytes.to_vec(),
            stretching: Stretching::default(),
            sealed_account_key: Vec::new(),
        };
        let answer = match choice % 6 {
            0 => Ok(StorageAnswer::Done),
            1 => Ok(StorageAnswer::Account(None)),
            2 => Ok(StorageAnswer::Account(Some(record()))),
            3 => Ok(StorageAnswer::Exists(true)),
            4 => Ok(StorageAnswer::SealedVersion(1)),
            _ => Err(StorageFault::Busy),
        };
        let response = connection.handle_stored(now, answer);
        // Nobody gets a certificate without an account, a known device or a token.
        assert!(!matches!(response.kind, Some(Kind::Session(_))));
    }
    assert!(connection.user().is_none());
}
