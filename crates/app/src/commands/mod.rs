//! The subcommands, one file for each family.

pub(crate) mod account;
pub(crate) mod account_care;
pub(crate) mod call;
pub(crate) mod doctor;
pub(crate) mod measure;
pub(crate) mod people;
pub(crate) mod search;
pub(crate) mod status;
pub(crate) mod talk;
pub(crate) mod trial;
pub(crate) mod up;
