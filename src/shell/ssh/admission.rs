//! Who may try: how many connections wait for authentication, and from where.
//!
//! # What it guarantees
//! * At most [`UNAUTHENTICATED_MAX`] connections have not authenticated yet, at most [`UNAUTHENTICATED_EACH`] of one
//!   source. From [`DROP_FROM`] on new ones are dropped at random, the more the fuller it is.
//! * [`RESERVED`] of those places are for sources from which somebody has authenticated in the last
//!   [`REMEMBERED`]: a flood from elsewhere does not lock them out.
//! * A source that fails pays: every failure adds to a penalty, and while that is more than [`PENALTY_LIMIT`] its
//!   connections are closed at once. Sources that have authenticated lately are excused, because whoever shares the
//!   operator's address must not be able to lock the operator out.
//!
//! A source is an IPv4 address or an IPv6 network of 64 bits. All tables have limits. Pure: time and chance are
//! arguments.

use crate::clock::MonotonicNs;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Where connections come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Source(IpAddr);

impl Source {
    /// The source of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
            v4 => v4,
        })
    }
}

/// Why a connection is closed at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too many wait already.
    #[error("too many connections wait for authentication")]
    Full,
    /// Dropped at random before it is full.
    #[error("dropped at random: many connections wait for authentication")]
    Dropped,
    /// Too many of this source wait already.
    #[error("too many connections from there wait for authentication")]
    SourceFull,
    /// The source has failed too often.
    #[error("too many failures from there")]
    Penalty,
}

/// What a connection did wrong before it authenticated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It tried and was refused.
    Refused,
    /// It used up its time, or broke a rule.
    Misused,
    /// It left without trying.
    Left,
}

/// The places and the penalties.
#[derive(Debug, Default)]
pub struct Admission {
    /// Connections that wait, by source.
    waiting: BTreeMap<Source, usize>,
    /// Until when the penalty of a source lasts.
    penalties: BTreeMap<Source, MonotonicNs>,
    /// When somebody authenticated from there last.
    known: BTreeMap<Source, MonotonicNs>,
}

impl Admission {
    /// Takes a place for a new connection; `chance` is random, from 0 to 99. A place that was given has to be given
    /// back by [`Admission::authenticated`] or [`Admission::failed`].
    ///
    /// # Errors
    /// The connection has to be closed.
    pub fn admit(&mut self, source: Source, now: MonotonicNs, chance: u8) -> Result<(), Refusal> {
        let is_known = self.is_known(source, now);
        let of_source = self.waiting.get(&source).copied().unwrap_or(0);
        let all: usize = self.waiting.values().sum();
        if !is_known && self.penalty(source, now) > PENALTY_LIMIT {
            return Err(Refusal::Penalty);
        }
        if of_source >= UNAUTHENTICATED_EACH {
            return Err(Refusal::SourceFull);
        }
        let strangers: usize =
            self.waiting.iter().filter(|(source, _)| !self.is_known(**source, now)).map(|(_, n)| n).sum();
        if all >= UNAUTHENTICATED_MAX || (!is_known && strangers >= UNAUTHENTICATED_MAX - RESERVED) {
            return Err(Refusal::Full);
        }
        if !is_known && usize::from(chance) < drop_percent(strangers) {
            return Err(Refusal::Dropped);
        }
        *self.waiting.entry(source).or_default() += 1;
        Ok(())
    }

    /// The connection has authenticated: its place is free, its source known and forgiven.
    pub fn authenticated(&mut self, source: Source, now: MonotonicNs) {
        self.give_back(source);
        self.penalties.remove(&source);
        if self.known.len() >= KNOWN_MAX && !self.known.contains_key(&source) {
            let oldest = self.known.iter().min_by_key(|(_, at)| **at).map(|(source, _)| *source);
            oldest.map(|oldest| self.known.remove(&oldest));
        }
        self.known.insert(source, now);
    }

    /// The connection ended without authentication: its place is free, its source pays.
    pub fn failed(&mut self, source: Source, fault: Fault, now: MonotonicNs) {
        self.give_back(source);
        let price = match fault {
            Fault::Refused => PRICE_REFUSED,
            Fault::Misused => PRICE_MISUSED,
            Fault::Left => PRICE_LEFT,
        };
        self.penalties.retain(|_, until| *until > now);
        if self.penalties.len() >= PENALTIES_MAX && !self.penalties.contains_key(&source) {
            let least = self.penalties.iter().min_by_key(|(_, until)| **until).map(|(source, _)| *source);
            least.map(|least| self.penalties.remove(&least));
        }
        let penalty = (self.penalty(source, now) + price).min(PENALTY_MAX);
        self.penalties.insert(source, after(now, penalty));
    }

    /// Connections that wait for authentication.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.values().sum()
    }

    fn give_back(&mut self, source: Source) {
        if let Some(count) = self.waiting.get_mut(&source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.waiting.remove(&source);
            }
        }
    }

    fn is_known(&self, source: Source, now: MonotonicNs) -> bool {
        self.known.get(&source).is_some_and(|at| now.since(*at) < REMEMBERED)
    }

    fn penalty(&self, source: Source, now: MonotonicNs) -> Duration {
        self.penalties.get(&source).map_or(Duration::ZERO, |until| until.since(now))
    }
}

/// How likely a stranger is dropped when so many wait: not at all below [`DROP_FROM`], then more with each.
fn drop_percent(strangers: usize) -> usize {
    match strangers.checked_sub(DROP_FROM) {
        None => 0,
        Some(over) => 30 + 70 * over / (UNAUTHENTICATED_MAX - RESERVED - DROP_FROM),
    }
}

fn after(now: MonotonicNs, duration: Duration) -> MonotonicNs {
    MonotonicNs(now.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
}

/// Connections that have not authenticated yet; further ones are closed at once.
pub const UNAUTHENTICATED_MAX: usize = 10;
/// Of them, from one source.
pub const UNAUTHENTICATED_EACH: usize = 4;
/// Of them, kept for sources from which somebody has authenticated lately.
pub const RESERVED: usize = 4;
/// With so many strangers waiting, new ones are dropped at random.
pub const DROP_FROM: usize = 3;
/// A source counts as known for so long after somebody authenticated from there.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 3_600);
/// With more than this, connections of a source are closed at once.
pub const PENALTY_LIMIT: Duration = Duration::from_secs(15);
/// No penalty is longer.
pub const PENALTY_MAX: Duration = Duration::from_secs(600);
/// For an attempt that was refused.
const PRICE_REFUSED: Duration = Duration::from_secs(5);
/// For time used up, or a broken rule.
const PRICE_MISUSED: Duration = Duration::from_secs(10);
/// For leaving without an attempt.
const PRICE_LEFT: Duration = Duration::from_secs(1);
/// Sources that are remembered as known; the oldest goes first.
const KNOWN_MAX: usize = 64;
/// Sources with a penalty; the one that ends first goes first.
const PENALTIES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER_DROP: u8 = 99;

    fn source(n: u32) -> Source {
        Source::of(IpAddr::from(n.to_be_bytes()))
    }

    fn at(s: u64) -> MonotonicNs {
        MonotonicNs(s * 1_000_000_000)
    }

    #[test]
    fn places_have_a_limit_for_each_source_and_for_all() {
        let mut admission = Admission::default();
        for _ in 0..UNAUTHENTICATED_EACH {
            assert_eq!(admission.admit(source(1), at(0), NEVER_DROP), Ok(()));
        }
        assert_eq!(admission.admit(source(1), at(0), NEVER_DROP), Err(Refusal::SourceFull));
        let strangers = UNAUTHENTICATED_MAX - RESERVED;
        for n in UNAUTHENTICATED_EACH..strangers {
            let n = u32::try_from(n).unwrap();
            assert_eq!(admission.admit(source(10 + n), at(0), NEVER_DROP), Ok(()));
        }
        assert_eq!(admission.admit(source(99), at(0), NEVER_DROP), Err(Refusal::Full));
        admission.failed(source(1), Fault::Left, at(0));
        assert_eq!(admission.admit(source(99), at(0), NEVER_DROP), Ok(()));
    }

    #[test]
    fn strangers_are_dropped_at_random_before_it_is_full() {
        let mut admission = Admission::default();
        for n in 0..DROP_FROM {
            assert_eq!(admission.admit(source(u32::try_from(n).unwrap()), at(0), 0), Ok(()), "none below");
        }
        assert_eq!(admission.admit(source(50), at(0), 29), Err(Refusal::Dropped));
        assert_eq!(admission.admit(source(50), at(0), 30), Ok(()));
        assert_eq!(admission.admit(source(51), at(0), 52), Err(Refusal::Dropped), "more when it is fuller");
        assert_eq!(drop_percent(UNAUTHENTICATED_MAX - RESERVED), 100);
    }

    #[test]
    fn a_thousand_attackers_do_not_lock_a_known_source_out() {
        let mut admission = Admission::default();
        admission.admit(source(1), at(0), NEVER_DROP).unwrap();
        admission.authenticated(source(1), at(0));
        for n in 0..1_000 {
            let _ = admission.admit(source(1_000 + n), at(1), NEVER_DROP);
        }
        assert_eq!(admission.waiting(), UNAUTHENTICATED_MAX - RESERVED);
        for _ in 0..UNAUTHENTICATED_EACH.min(RESERVED) {
            assert_eq!(admission.admit(source(1), at(1), 0), Ok(()));
        }
        assert_eq!(admission.waiting(), UNAUTHENTICATED_MAX);
        admission.failed(source(1), Fault::Misused, at(2));
        admission.failed(source(1), Fault::Misused, at(2));
        assert_eq!(admission.admit(source(1), at(2), 0), Ok(()), "a known source is excused");
        let later = at(3 + REMEMBERED.as_secs());
        assert_eq!(admission.admit(source(1), later, 0), Err(Refusal::Full), "and forgotten after a day");
    }

    #[test]
    fn who_fails_too_often_is_closed_at_once_until_the_penalty_is_over() {
        let mut admission = Admission::default();
        for n in 0..4 {
            assert_eq!(admission.admit(source(1), at(0), NEVER_DROP), Ok(()), "failure {n}");
            admission.failed(source(1), Fault::Refused, at(0));
        }
        assert_eq!(admission.admit(source(1), at(0), NEVER_DROP), Err(Refusal::Penalty));
        assert_eq!(admission.admit(source(2), at(0), NEVER_DROP), Ok(()), "others do not pay");
        assert_eq!(admission.admit(source(1), at(6), NEVER_DROP), Ok(()));
        for _ in 0..1_000 {
            admission.failed(source(3), Fault::Misused, at(0));
        }
        assert_eq!(admission.penalty(source(3), at(0)), PENALTY_MAX);
    }

    #[test]
    fn tables_have_limits_and_an_ipv6_network_is_one_source() {
        let mut admission = Admission::default();
        for n in 0..10_000 {
            admission.failed(source(n), Fault::Misused, at(u64::from(n) / 2_000));
            admission.authenticated(source(1_000_000 + n), at(u64::from(n)));
        }
        assert!(admission.penalties.len() <= PENALTIES_MAX);
        assert_eq!(admission.known.len(), KNOWN_MAX);
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
