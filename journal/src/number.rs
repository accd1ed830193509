//! The identifiers of the journal: newtypes, so that an update number is never taken for an offset.

use core::fmt;

/// The number of an update in its group: the first is 1, each following one is greater by one, over all arrays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpdateNumber(u64);

impl UpdateNumber {
    /// No update: what is durable, restored or settled before the first update is.
    pub const NONE: Self = Self(0);
    /// The first update of a new group.
    pub const FIRST: Self = Self(1);

    /// The number `value`; 0 is [`UpdateNumber::NONE`].
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The bare number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number behind this one. At a million updates a second the last one is 580,000 years away, so it saturates.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The number before this one; before the first comes [`UpdateNumber::NONE`].
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// How many updates lie after `earlier` up to and including this one.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UpdateNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of an array (storage system).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArrayNumber(pub u32);

/// The number of a consistency group, local to its array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u32);

/// The number of a logical volume, local to its array.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeNumber(pub u32);

/// A stretch of the group's history: which array gave the numbers from `first` on, and the how-manieth stretch it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// Counts the stretches of the group.
    pub counter: u32,
    /// The array that gives the numbers.
    pub array: ArrayNumber,
    /// The first number given in it.
    pub first: UpdateNumber,
}

/// Random identity of one formatting of a journal volume: what an earlier one left behind never counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u128);

impl Incarnation {
    /// The identity made of 128 random bits given by the caller.
    pub const fn new(random: u128) -> Self {
        Self(random)
    }

    /// All bits, as the superblock and the checkpoints carry them.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The part that each record carries: both halves folded into 64 bits.
    pub(crate) fn record_part(self) -> u64 {
        let bytes = self.0.to_le_bytes();
        let (low, high) = bytes.split_at(8);
        let mut folded = [0_u8; 8];
        for ((out, a), b) in folded.iter_mut().zip(low).zip(high) {
            *out = a ^ b;
        }
        u64::from_le_bytes(folded)
    }
}
