//! The list of removed devices travels along control connections: whoever gets a newer one tells
//! the others its number, and they ask for it. The network root signed it: anybody may hand it on.

use cooee_proto::{
    identity::RevocationList,
    wire::v1::{RevocationNotice, control_message::Kind},
};

use super::Trust;

/// Tells the number of the list that we hold; nothing if no device was ever removed.
pub fn revocation_notice(trust: &Trust) -> Option<Kind> {
    let number = trust.revocation_list().number();
    (number > 0).then(|| notice(RevocationNotice { number, ..RevocationNotice::default() }))
}

/// Takes what the other side told; gives the answer, if one is due.
pub fn handle_revocation_notice(trust: &Trust, theirs: &RevocationNotice) -> Option<Kind> {
    let ours = trust.revocation_list();
    if let Some(signed) = &theirs.list {
        match RevocationList::verify(trust.root(), signed) {
            Ok(list) => _ = trust.replace_revocation_list(list),
            Err(error) => tracing::warn!(%error, "a list of removed devices is refused"),
        }
        return None;
    }
    if theirs.wanted {
        let list = ours.signed().cloned();
        return Some(notice(RevocationNotice { number: ours.number(), wanted: false, list }));
    }
    let wanted = theirs.number > ours.number();
    wanted.then(|| notice(RevocationNotice { number: ours.number(), wanted, list: None }))
}

fn notice(notice: RevocationNotice) -> Kind {
    Kind::RevocationNotice(notice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cooee_proto::{
        clock::UnixTime,
        identity::{NetworkKey, NodeId},
    };

    use super::*;

    fn list(key: &NetworkKey, number: u64, node: u8) -> RevocationList {
        let nodes = BTreeSet::from([NodeId([node; 16])]);
        RevocationList::issue(key, number, UnixTime(1), nodes).expect("short")
    }

    fn told(kind: Option<Kind>) -> RevocationNotice {
        match kind {
            Some(Kind::RevocationNotice(notice)) => notice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn whoever_holds_an_older_list_asks_and_gets_the_newer() {
        let key = NetworkKey::from_seed([1; 32]);
        let (old, new) = (Trust::new(key.root()), Trust::new(key.root()));
        assert!(revocation_notice(&old).is_none());
        assert!(new.replace_revocation_list(list(&key, 2, 9)));
        let mut changed = old.revocations();
        let wanted = told(handle_revocation_notice(&old, &told(revocation_notice(&new))));
        let sent = told(handle_revocation_notice(&new, &wanted));
        assert!(handle_revocation_notice(&old, &sent).is_none());
        assert_eq!(old.revocation_list().number(), 2);
        assert!(changed.has_changed().expect("it lives"));
        changed.mark_unchanged();
        // Told again, nothing happens.
        assert!(handle_revocation_notice(&old, &told(revocation_notice(&new))).is_none());
    }

    #[test]
    fn a_list_of_another_network_or_an_older_one_changes_nothing() {
        let (key, other) = (NetworkKey::from_seed([1; 32]), NetworkKey::from_seed([2; 32]));
        let trust = Trust::new(key.root());
        trust.replace_revocation_list(list(&key, 5, 1));
        for list in [list(&other, 9, 2), list(&key, 4, 2)] {
            let list = list.signed().cloned();
            let notice = RevocationNotice { number: 9, wanted: false, list };
            assert!(handle_revocation_notice(&trust, &notice).is_none());
        }
        assert!(trust.revocation_list().contains(NodeId([1; 16])));
    }
}
