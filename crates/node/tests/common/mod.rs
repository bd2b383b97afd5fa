//! What several tests of the shell need.

pub(crate) mod postgres;
