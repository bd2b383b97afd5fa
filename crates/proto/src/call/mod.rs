//! Call signalling between two users' devices (paper section IV.E; `docs/protocol/call.md`).
//!
//! [`Calls`] is all calls of one device, a pure machine: commands and messages go in, [`Output`]s
//! come out. It decides who rings, who talks, what may be revealed and when a call is over; it
//! moves no voice and opens no connection.

mod calls;
mod glare;
mod incoming;
mod leg;
mod machine;
mod message;
mod outgoing;
mod output;
mod reason;
pub mod record;
mod sequencer;
mod talk;
mod timers;
mod transport;
pub mod types;

pub use calls::Calls;
pub use machine::Call;
pub use message::{CANDIDATES_IN_PARAMETERS_MAX, CANDIDATES_MAX, DISPLAY_NAME_BYTES_MAX};
pub use output::{CallEnd, CallEvent, Output, TimerReason};
pub use reason::EndReason;
pub use record::{CallRecord, MediaSummary};
pub use types::{
    AutoAnswer, CallId, CallPhase, CallSummary, CallsConfig, CommandError, Direction,
    LookUpFailure, MediaState, Relation, Remote,
};
