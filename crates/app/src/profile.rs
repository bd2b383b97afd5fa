//! Which profile a command works on.

use std::path::PathBuf;

use anyhow::{Context, Result};
use cooee_node::profile::Profile;

/// The profile options that every command of a user shares.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Name of the profile, where one machine has several; "default" by default, "super-node" for a
    /// dedicated super node
    #[arg(long, env = "COOEE_PROFILE", value_name = "NAME")]
    profile: Option<String>,
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
        let name = self.profile.as_deref().unwrap_or("default");
        Profile::default_directory(name, variable)
            .context("neither HOME nor XDG_DATA_HOME is set: name the profile with --profile-dir")
    }

    /// The same, with another name where none was given.
    pub(crate) fn or_named(&self, name: &str) -> Self {
        let mut named = self.clone();
        named.profile.get_or_insert_with(|| name.to_owned());
        named
    }

    /// Opens and locks the profile.
    pub(crate) fn open(&self) -> Result<Profile> {
        Ok(Profile::open(self.directory()?)?)
    }
}
