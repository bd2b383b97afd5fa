//! A whole Cooee network of real processes, driven from outside by the program's own commands.

mod daemon;
mod ground;

pub use daemon::Daemon;
pub use ground::{Ground, ThisMachine};
