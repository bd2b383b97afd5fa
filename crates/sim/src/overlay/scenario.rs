//! The named scenarios: how large, how long, what happens when.

use super::world::{Micros, SECOND};

/// A scenario by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Super nodes and users come and go.
    SteadyChurn,
    /// Many look-ups, nobody dies.
    LookupDelay,
    /// 30 % of the super nodes are killed at once.
    Kill30,
    /// 90 % of the super nodes are killed, all nodes restart at once.
    Kill90Restart,
    /// The network is split in two, then healed.
    SplitHeal,
    /// No login server for the whole run.
    LoginServerGone,
    /// 30 % of the super nodes are hostile.
    Hostile30,
    /// One version of the program crashes on one message.
    VersionCrash,
    /// Buddies are watched.
    Presence,
    /// People search by pattern.
    Wildcard,
    /// The network grows and shrinks.
    Election,
}

impl Scenario {
    /// All, in the order of the list.
    pub const ALL: [Self; 11] = [
        Self::SteadyChurn,
        Self::LookupDelay,
        Self::Kill30,
        Self::Kill90Restart,
        Self::SplitHeal,
        Self::LoginServerGone,
        Self::Hostile30,
        Self::VersionCrash,
        Self::Presence,
        Self::Wildcard,
        Self::Election,
    ];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::SteadyChurn => "steady-churn",
            Self::LookupDelay => "lookup-delay",
            Self::Kill30 => "kill-30",
            Self::Kill90Restart => "kill-90-restart",
            Self::SplitHeal => "split-heal",
            Self::LoginServerGone => "login-server-gone",
            Self::Hostile30 => "hostile-30",
            Self::VersionCrash => "version-crash",
            Self::Presence => "presence",
            Self::Wildcard => "wildcard",
            Self::Election => "election",
        }
    }

    /// What it shows, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Self::SteadyChurn => {
                "super nodes live 5.5 h in the median: everyone seen in 72 h is found"
            }
            Self::LookupDelay => {
                "look-ups over world-wide delays: median at most 250 ms, 99 % in 1 s"
            }
            Self::Kill30 => "30 % of the super nodes die at once: 99.9 % attached again in 60 s",
            Self::Kill90Restart => {
                "90 % die and all devices restart: all attached within 5 minutes"
            }
            Self::SplitHeal => "split in two for an hour: one consistent index 60 s after healing",
            Self::LoginServerGone => "no login server for 72 h: devices attach and search",
            Self::Hostile30 => {
                "30 % withhold, lie and accuse: 99.9 % of look-ups right, none wrong"
            }
            Self::VersionCrash => {
                "one version crashes on one message: the survivors carry the load"
            }
            Self::Presence => {
                "99 % of changes reach watching buddies in 1 s; who vanishes is offline in 280 s"
            }
            Self::Wildcard => {
                "ali* finds all who match and are listed, ranked, paged, rate limited"
            }
            Self::Election => "users' nodes serve as needed, diverse, and retire when they are not",
        }
    }

    /// The scenario of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// The size in which the targets are stated.
    pub fn full(self) -> Size {
        let size = Size { super_nodes: 2000, users: 1_000_000, ..Size::SHORT };
        match self {
            Self::SteadyChurn => Size { minutes: 72 * 60, look_ups_per_minute: 60, ..size },
            Self::LookupDelay => {
                Size { users: 100_000, minutes: 10, look_ups_per_minute: 6000, ..size }
            }
            Self::LoginServerGone => {
                Size { super_nodes: 300, users: 30_000, minutes: 72 * 60, ..size }
            }
            Self::SplitHeal => Size { users: 100_000, minutes: 70, ..size },
            Self::Hostile30 => {
                Size { users: 100_000, minutes: 60, look_ups_per_minute: 1800, ..size }
            }
            Self::Kill90Restart => Size { minutes: 15, look_ups_per_minute: 3000, ..size },
            Self::Presence | Self::Wildcard => Size { users: 100_000, minutes: 30, ..size },
            Self::Election => Size { super_nodes: 50, users: 10_000, minutes: 60, ..size },
            _ => Size { minutes: 11, look_ups_per_minute: 3000, ..size },
        }
    }

    /// A size that runs within seconds, for tests.
    pub fn short(self) -> Size {
        match self {
            Self::SplitHeal => Size { minutes: 25, ..Size::SHORT },
            Self::SteadyChurn | Self::LoginServerGone => Size { minutes: 120, ..Size::SHORT },
            Self::Hostile30 => Size { minutes: 20, ..Size::SHORT },
            Self::Kill90Restart => Size { minutes: 15, ..Size::SHORT },
            Self::Presence => Size { minutes: 12, ..Size::SHORT },
            Self::Wildcard => Size { users: 1500, minutes: 12, ..Size::SHORT },
            Self::Election => Size { super_nodes: 12, users: 1000, minutes: 60, ..Size::SHORT },
            _ => Size::SHORT,
        }
    }

    /// When the fault strikes.
    pub fn fault_at(self, size: &Size) -> Micros {
        let minutes = match self {
            Self::SplitHeal => size.minutes.min(70) * 5 / 70,
            _ => 4,
        };
        minutes * 60 * SECOND
    }

    /// When a partition heals.
    pub fn heal_at(self, size: &Size) -> Micros {
        let minutes = size.minutes.saturating_sub(5).min(65);
        minutes * 60 * SECOND
    }

    /// Whether super nodes come and go all the time.
    pub fn super_nodes_churn(self) -> bool {
        matches!(self, Self::SteadyChurn | Self::LoginServerGone | Self::Hostile30)
    }
}

/// How large and how long.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Super nodes alive at a time.
    pub super_nodes: u32,
    /// Users, a third of whom are online at a time.
    pub users: u32,
    /// Virtual minutes.
    pub minutes: u64,
    /// Look-ups in the whole network.
    pub look_ups_per_minute: u64,
    /// Days that a certificate holds; it is renewed after half of them.
    pub certificate_days: u64,
}

impl Size {
    const SHORT: Self = Self {
        super_nodes: 120,
        users: 3000,
        minutes: 8,
        look_ups_per_minute: 300,
        certificate_days: 7,
    };
}
