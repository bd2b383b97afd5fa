//! The telephones that are compared: Cooee and others, each driven from outside.

mod baresip;
mod chromium;
mod cooee;
mod signalling;

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

pub(crate) use self::{baresip::Baresip, chromium::Chromium, cooee::Cooee};
use super::rig::Rig;
use crate::{deployment::Ground, network::Network};

/// Hosts of the laboratory. Alice's link is the one that is made bad.
pub(crate) const HOSTS: [&str; 5] = ["alice", "bob", "login", "sn1", "web"];

/// Packets in each direction after which a call counts as up.
const PACKETS_FLOWING: u64 = 40;

/// How long a call may take to be up.
const CALL_PATIENCE: Duration = Duration::from_secs(40);

/// A telephone that can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PulseAudio's own loop: what the rig itself delays.
    Rig,
    /// This program.
    Cooee,
    /// This program with echo cancellation, noise suppression and gain control switched off, as
    /// telephones are that have none.
    CooeePlain,
    /// baresip as it comes.
    Baresip,
    /// baresip with the shortest buffers it can be set to.
    BaresipTuned,
    /// A pair of pages in headless Chromium, WebRTC as a page gets it by default.
    Chromium,
}

impl Kind {
    /// All, in the order of the report.
    pub const ALL: [Self; 6] = [
        Self::Rig,
        Self::Cooee,
        Self::CooeePlain,
        Self::Baresip,
        Self::BaresipTuned,
        Self::Chromium,
    ];

    /// Name on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rig => "rig",
            Self::Cooee => "cooee",
            Self::CooeePlain => "cooee-plain",
            Self::Baresip => "baresip",
            Self::BaresipTuned => "baresip-tuned",
            Self::Chromium => "chromium",
        }
    }

    /// The program that must be installed and the Debian package that has it.
    pub(crate) fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Rig | Self::Cooee | Self::CooeePlain => None,
            Self::Baresip | Self::BaresipTuned => Some(("baresip", "baresip libasound2-plugins")),
            Self::Chromium => Some(("chromium", "chromium")),
        }
    }
}

/// The network of one rig: what peers start their programs with.
pub(crate) struct Stage<'r> {
    /// Microphones and speakers.
    pub(crate) rig: &'r Rig,
    /// Hosts and links.
    pub(crate) network: &'r Network,
}

impl Stage<'_> {
    /// A command on a host, with the rig's sound server.
    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        Ground::command(self, host, Path::new(program))
    }

    /// Address of a host.
    pub(crate) fn ipv4(&self, host: &str) -> Result<Ipv4Addr> {
        self.network.ipv4(host).with_context(|| format!("{host} has no address"))
    }

    /// Packets that Alice's link was offered so far, up and down.
    fn offered(&self) -> Result<[u64; 2]> {
        let link = self.network.link(HOSTS[0]).context("Alice's link is emulated")?;
        Ok(link.counts().map(|counts| counts.offered))
    }

    /// Waits until packets flow both ways.
    pub(crate) fn wait_for_voice(&self) -> Result<()> {
        let deadline = Instant::now() + CALL_PATIENCE;
        loop {
            let before = self.offered()?;
            std::thread::sleep(Duration::from_secs(1));
            let after = self.offered()?;
            if before.iter().zip(after).all(|(before, after)| after - before >= PACKETS_FLOWING / 2)
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("no voice flows within {CALL_PATIENCE:?}");
            }
        }
    }
}

impl Ground for Stage<'_> {
    fn command(&self, host: &str, program: &Path) -> Command {
        let mut command = Network::command(self.network, host, program);
        let (key, value) = self.rig.environment();
        command.env(key, value);
        command
    }

    fn address(&self, host: &str) -> Option<std::net::IpAddr> {
        Ground::address(self.network, host)
    }

    fn addresses(&self) -> &'static str {
        Ground::addresses(self.network)
    }
}

/// A call that goes on; it ends when dropped.
pub(crate) trait Call {
    /// The two programs.
    fn pids(&self) -> Vec<u32>;
}
