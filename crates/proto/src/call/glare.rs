//! Two users call each other at once: which of the two calls goes on.
//!
//! Both sides know both ids once the invitations have crossed, so the lower id wins without a
//! word. A side whose own invitation has not left yet gives way: the peer knows of no conflict.

use super::CallId;

/// What to do with the call that arrives while our own to the same user is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Glare {
    /// Refuse theirs as superseded; they will answer ours.
    KeepOwn,
    /// Drop ours and answer theirs.
    TakeTheirs,
}

/// Decides for the device that placed `own` and receives `theirs`. `is_invited`: our invitation
/// to that very device has left.
pub(crate) fn decide(own: CallId, is_invited: bool, theirs: CallId) -> Glare {
    if is_invited && own < theirs { Glare::KeepOwn } else { Glare::TakeTheirs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_sides_always_decide_for_the_same_call() {
        let (low, high) = (CallId([1; 16]), CallId([2; 16]));
        assert_eq!(decide(low, true, high), Glare::KeepOwn);
        assert_eq!(decide(high, true, low), Glare::TakeTheirs);
    }

    #[test]
    fn a_side_that_has_said_nothing_gives_way() {
        assert_eq!(decide(CallId([1; 16]), false, CallId([2; 16])), Glare::TakeTheirs);
    }
}
