//! Rate control: what the receiver reports, what the sender makes of it.
//!
//! [`feedback`] is the report on the wire, [`log`] the receiver's record of arrivals it is made
//! from.

mod control;
pub mod feedback;
pub mod log;

pub use control::RateControl;
pub use feedback::{Feedback, FeedbackError};
