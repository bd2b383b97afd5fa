//! The overlay of super nodes by the thousand, with up to a million users, in virtual time.
//!
//! Super nodes run the real machine ([`cooee_proto::overlay::SuperNodeOverlay`]); users are rows
//! of a
//! table that attach, publish, look up and leave as a device does. `world` is the event queue and
//! the
//! network, `users` the population, `hostile` what hostile super nodes do, `oracle` what must be
//! found,
//! `scenario` what happens in each named scenario, `report` the figures.

mod election;
mod hostile;
mod measure;
mod names;
mod oracle;
mod presence;
mod queue;
pub mod report;
mod run;
pub mod scenario;
mod tag_trust;
mod users;
mod wildcard;
mod world;

pub use report::Report;
pub use run::{run, run_telling};
pub use scenario::{Scenario, Size};
