//! Rate control: what the receiver reports, what the sender makes of it.
//!
//! ```text
//! receiver: arrivals ─▶ log ─▶ Feedback ─▶ (path) ─▶ estimator ─▶ plan ─▶ point :sender
//! ```
//! [`feedback`] is the report on the wire, [`log`] the record it is made from; the sender's
//! estimator finds rate, loss and queue, and the plan turns them into frame length, bit rate and
//! redundancy. [`FreshQueue`] keeps old voice out of a stream transport.

mod control;
mod estimator;
pub mod feedback;
mod fresh_queue;
pub mod log;
mod plan;

pub use control::RateControl;
pub use feedback::{Feedback, FeedbackError};
pub use fresh_queue::FreshQueue;
