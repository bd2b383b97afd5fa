//! A login server that answers anything: the node refuses or takes it, and takes no certificate that
//! the network did not sign.

use crate::network::{UNIX, device, name, network};
use cooee_proto::{
    identity::RevocationList,
    login::{Authenticated, ClientConfig, Hello, LoginAttempt, Password, Stretching},
    wire::v1::LoginResponse,
};
use prost::Message;

pub(crate) fn run(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    let Ok(response) = LoginResponse::decode(bytes) else { return };
    let root = network().root();
    let (key, _) = device(1, Some("alice"), None);
    match choice % 3 {
        0 => drop(Hello::check(UNIX, response)),
        1 => {
            let (expected, _) = Authenticated::renew(root, &key, "desk", &[3; 32], 0, &[]);
            if let Ok(session) = expected.complete(UNIX, response) {
                let none = RevocationList::empty(root.network_id());
                assert!(session.certificate.verify(&root, UNIX, &none).is_ok());
            }
        }
        _ => {
            let stretching = Stretching { memory_kib: 64, passes: 1, lanes: 1 };
            let config = ClientConfig { root, stretching };
            let password = Password::new("correct horse").expect("legal");
            let (attempt, _) = LoginAttempt::start(config, [5; 32], &name("alice"), &password);
            assert!(attempt.finish(response, &key, "desk", &[3; 32], 0).is_err());
        }
    }
}
