//! Time as the machines see it: always an argument, never read.
//!
//! Timers use the monotonic [`Instant`]; whatever two nodes must agree on (validity of a
//! certificate, age of a record) uses [`UnixTime`].

use std::{
    fmt,
    time::{Duration, Instant},
};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(pub u64);

impl UnixTime {
    /// The time in whole seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// From whole seconds since 1970; saturates at the end of time.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// How long ago `earlier` was; zero if it lies in the future.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time plus `span`, saturating.
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time minus `span`, saturating at 1970.
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// How far a clock is off, for people: "1 day 2 h behind the network's". `behind_ms` is negative
/// where it is ahead.
pub fn describe_offset(behind_ms: i64) -> String {
    let minutes = (behind_ms.unsigned_abs() + 30_000) / 60_000;
    let days = minutes / 1440;
    let parts = [
        (days, if days == 1 { " day" } else { " days" }),
        (minutes / 60 % 24, " h"),
        (minutes % 60, " min"),
    ];
    let said = parts.iter().filter(|(count, _)| *count > 0);
    let said: Vec<String> = said.map(|(count, unit)| format!("{count}{unit}")).collect();
    let direction = if behind_ms > 0 { "behind" } else { "ahead of" };
    let said = if said.is_empty() { "less than a minute".to_owned() } else { said.join(" ") };
    format!("{said} {direction} the network's")
}

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock, for timers.
    pub instant: Instant,
    /// The wall clock, for what crosses the network.
    pub unix: UnixTime,
}

impl Now {
    /// The moment `span` later on both clocks.
    pub fn plus(self, span: Duration) -> Self {
        Self { instant: self.instant + span, unix: self.unix.plus(span) }
    }
}
