//! A receiver's report, and the sender that acts on it.

use cooee_media::rate::{Feedback, feedback::FEEDBACK_BYTES_MAX};

pub(crate) fn run(input: &[u8]) {
    if let Ok(feedback) = Feedback::decode(input) {
        let mut bytes = [0; FEEDBACK_BYTES_MAX];
        feedback.encode(&mut bytes);
        assert_eq!(Feedback::decode(&bytes), Ok(feedback));
    }
}
