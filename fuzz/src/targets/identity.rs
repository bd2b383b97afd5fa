//! Names, certificates and invitations: what is read writes the same again.

use crate::network::{UNIX, network};
use cooee_proto::{
    identity::{Certificate, HostPort, Invitation, NodeId, RevocationList, UserName},
    index::Pattern,
};

pub(crate) fn run(input: &[u8]) {
    let Some((&choice, bytes)) = input.split_first() else { return };
    if choice % 4 == 0 {
        if let Ok(certificate) = Certificate::parse(bytes) {
            assert_eq!(certificate.der(), bytes);
            let root = network().root();
            let none = RevocationList::empty(root.network_id());
            let _ = certificate.verify(&root, UNIX, &none);
            let _ = (certificate.renew_at(), certificate.node(), certificate.user());
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match choice % 4 {
        1 => {
            if let Ok(invitation) = text.parse::<Invitation>() {
                let again: Invitation = invitation.to_string().parse().expect("own text");
                assert_eq!(again, invitation);
            }
        }
        2 => {
            if let Ok(host) = text.parse::<HostPort>() {
                assert_eq!(host.to_string().parse::<HostPort>().expect("own text"), host);
            }
            let _ = text.parse::<NodeId>();
        }
        _ => {
            if let Ok(name) = text.parse::<UserName>() {
                assert!((3..=32).contains(&name.as_str().len()));
                assert!(!name.skeleton().is_empty());
            }
            let _ = Pattern::parse(text);
        }
    }
}
