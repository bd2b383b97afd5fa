//! Rate limits of a login server: token buckets per address and per name, in bounded memory.
//!
//! A bucket holds a burst and refills at a rate. At the bound of the table the bucket that was used
//! longest ago is forgotten: it is the one nearest to full.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use indexmap::IndexMap;

use crate::identity::UserName;

/// Burst and rate of one kind of bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitConfig {
    /// Attempts at once.
    pub burst: u32,
    /// Time until one more attempt is allowed.
    pub refill: Duration,
    /// Most buckets held.
    pub buckets_max: usize,
}

impl LimitConfig {
    /// Per address: generous, as many nodes share the address of a super node or of a NAT (chosen).
    pub const ADDRESS: Self =
        Self { burst: 240, refill: Duration::from_millis(500), buckets_max: 50_000 };
    /// Per name: a person mistypes ten times, a guesser waits half a minute for each (chosen).
    pub const NAME: Self = Self { burst: 10, refill: Duration::from_secs(30), buckets_max: 50_000 };
    /// Per user who asks whether names exist: a person mistypes a few times a day; a list of names
    /// would take years (chosen).
    pub const QUESTIONS: Self =
        Self { burst: 30, refill: Duration::from_secs(30), buckets_max: 50_000 };
}

/// The buckets of one login server.
#[derive(Debug)]
pub struct Limits {
    addresses: Buckets<IpAddr>,
    names: Buckets<UserName>,
    questions: Buckets<UserName>,
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(LimitConfig::ADDRESS, LimitConfig::NAME)
    }
}

impl Limits {
    /// Limits of these sizes.
    pub fn new(address: LimitConfig, name: LimitConfig) -> Self {
        let questions = Buckets::new(LimitConfig::QUESTIONS);
        Self { addresses: Buckets::new(address), names: Buckets::new(name), questions }
    }

    /// Counts an attempt from `address`. `Err` says how long to wait.
    pub fn attempt_from(&mut self, now: Instant, address: IpAddr) -> Result<(), Duration> {
        self.addresses.take(now, network_of(address))
    }

    /// Counts an attempt on `name`. `Err` says how long to wait.
    pub fn attempt_on(&mut self, now: Instant, name: &UserName) -> Result<(), Duration> {
        self.names.take(now, name.clone())
    }

    /// Counts a question of `user` about a name. `Err` says how long to wait.
    pub fn question_by(&mut self, now: Instant, user: &UserName) -> Result<(), Duration> {
        self.questions.take(now, user.clone())
    }

    /// Forgets the attempts on `name`: its user got in.
    pub fn succeeded_on(&mut self, name: &UserName) {
        self.names.held.swap_remove(name);
    }
}

/// IPv6 hosts own a /64: one bucket for all of it.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[derive(Debug)]
struct Buckets<K> {
    config: LimitConfig,
    /// When each bucket will be full again.
    held: IndexMap<K, Instant>,
}

impl<K: std::hash::Hash + Eq> Buckets<K> {
    fn new(config: LimitConfig) -> Self {
        Self { config, held: IndexMap::new() }
    }

    fn take(&mut self, now: Instant, key: K) -> Result<(), Duration> {
        let full_at = self.held.get(&key).copied().unwrap_or(now).max(now);
        let allowed_until = now + self.config.refill * self.config.burst.saturating_sub(1);
        if full_at > allowed_until {
            return Err(full_at - allowed_until);
        }
        if self.held.len() >= self.config.buckets_max && !self.held.contains_key(&key) {
            self.make_room(now);
        }
        self.held.insert(key, full_at + self.config.refill);
        Ok(())
    }

    /// Drops the full buckets; if there are none, the one nearest to full.
    fn make_room(&mut self, now: Instant) {
        self.held.retain(|_, full_at| *full_at > now);
        if self.held.len() >= self.config.buckets_max {
            let nearest = self.held.values().enumerate().min_by_key(|(_, full_at)| **full_at);
            if let Some((index, _)) = nearest {
                self.held.swap_remove_index(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LimitConfig =
        LimitConfig { burst: 3, refill: Duration::from_secs(10), buckets_max: 2 };

    fn limits() -> Limits {
        Limits::new(SMALL, SMALL)
    }

    #[test]
    fn a_burst_is_allowed_and_then_the_rate() {
        let (mut limits, now) = (limits(), Instant::now());
        let address = "192.0.2.1".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(limits.attempt_from(now, address), Ok(()));
        }
        assert_eq!(limits.attempt_from(now, address), Err(Duration::from_secs(10)));
        let later = now + Duration::from_secs(10);
        assert_eq!(limits.attempt_from(later, address), Ok(()));
        assert!(limits.attempt_from(later, address).is_err());
    }

    #[test]
    fn the_hosts_of_an_ipv6_network_share_a_bucket() {
        let (mut limits, now) = (limits(), Instant::now());
        for host in 1..=3 {
            let address = format!("2001:db8::{host}").parse().unwrap();
            assert_eq!(limits.attempt_from(now, address), Ok(()));
        }
        assert!(limits.attempt_from(now, "2001:db8::99".parse().unwrap()).is_err());
        assert!(limits.attempt_from(now, "2001:db8:0:1::1".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_success_forgets_the_failures() {
        let (mut limits, now) = (limits(), Instant::now());
        let alice: UserName = "alice".parse().unwrap();
        while limits.attempt_on(now, &alice).is_ok() {}
        limits.succeeded_on(&alice);
        assert_eq!(limits.attempt_on(now, &alice), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_the_fullest_bucket_is_forgotten() {
        let (mut limits, now) = (limits(), Instant::now());
        let name = |text: &str| text.parse::<UserName>().unwrap();
        while limits.attempt_on(now, &name("attacked")).is_ok() {}
        for one in ["bob", "carol", "dave"] {
            assert_eq!(limits.attempt_on(now, &name(one)), Ok(()));
        }
        assert_eq!(limits.names.held.len(), 2);
        assert!(limits.attempt_on(now, &name("attacked")).is_err());
    }
}
