//! Rate control: what the receiver reports, what the sender makes of it.
//!
//! ```text
//! receiver: arrivals ─▶ log ─▶ Feedback ─▶ (path) ─▶ estimator ─▶ plan ─▶ point :sender
//! ```
//! [`feedback`] is the report on the wire, [`log`] the record it is made from; the sender's
//! estimator finds rate, loss and queue, and the plan turns them into frame length, bit rate and
//! redundancy.

mod control;
mod deep;
mod estimator;
pub mod feedback;
pub mod log;
mod losses;
mod plan;
mod silence;
mod sizes;
mod window;

pub use control::{RateControl, VoiceRate};
pub use feedback::{Feedback, FeedbackError};
