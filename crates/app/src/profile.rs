//! Which profile a command works on.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cooee_node::profile::Profile;

/// The profile options that every command of a user shares.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Name of the profile, where one machine has several
    #[arg(long, env = "COOEE_PROFILE", default_value = "default", value_name = "NAME")]
    profile: String,
    /// Directory of the profile, instead of one below $XDG_DATA_HOME/cooee
    #[arg(long, env = "COOEE_PROFILE_DIR", value_name = "PATH")]
    profile_dir: Option<PathBuf>,
}

impl ProfileArgs {
    /// The profile's directory.
    pub(crate) fn directory(&self) -> Result<PathBuf> {
        if let Some(directory) = &self.profile_dir {
            return Ok(directory.clone());
        }
        let variable = |name: &str| std::env::var(name).ok();
        Profile::default_directory(&self.profile, variable)
            .context("neither HOME nor XDG_DATA_HOME is set: name the profile with --profile-dir")
    }

    /// Opens and locks the profile.
    pub(crate) fn open(&self) -> Result<Profile> {
        Ok(Profile::open(self.directory()?)?)
    }
}
