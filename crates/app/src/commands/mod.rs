//! The subcommands, one file for each family.

pub mod account;
pub mod call;
pub mod people;
pub mod status;
pub mod talk;
pub mod up;
