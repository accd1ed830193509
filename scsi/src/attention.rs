//! Unit attention conditions (SAM-5, 5.14): what each nexus still has to be told.
//!
//! A condition is pending for a nexus until a command of that nexus reports it. Pending ones are a set of bits, reported in the order of
//! the enumeration below (a reset before what follows from it), so a nexus that never asks costs no memory.

use alloc::collections::BTreeMap;

use crate::{nexus::NexusId, sense::Sense};

/// Something that changed behind an initiator's back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitAttention {
    /// 29/00: the array started, or was reset; what a host had set is at its default again.
    PowerOn,
    /// 29/07: the nexus was lost and is back.
    NexusLoss,
    /// 2F/00: commands were cleared on behalf of another initiator.
    CommandsCleared,
    /// 2A/01: another nexus changed mode parameters.
    ModeParametersChanged,
    /// 2A/09: the volume was resized.
    CapacityChanged,
    /// 3F/03: identity or access of the unit changed.
    InquiryDataChanged,
    /// 3F/0E: LUNs came or went.
    ReportedLunsChanged,
    /// 2A/06: the ports here take commands for the unit now, or do not any more.
    AccessStateChanged,
}

/// What a nexus is told when it is new. An iSCSI session that merely logs in has lost no state, and some initiators count the condition
/// as an error, so silence is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FreshNexus {
    /// Nothing.
    #[default]
    Silent,
    /// 29/00 with its first command.
    PowerOn,
}

/// The conditions of all attached nexuses of one logical unit.
#[derive(Debug, Default)]
pub(crate) struct Attentions {
    pending: BTreeMap<NexusId, Pending>,
    /// How many entries of `pending` are not empty: lets the hot path skip the map.
    waiting: usize,
}

impl UnitAttention {
    const ALL: [Self; 8] = [
        Self::PowerOn,
        Self::NexusLoss,
        Self::CommandsCleared,
        Self::ModeParametersChanged,
        Self::CapacityChanged,
        Self::InquiryDataChanged,
        Self::ReportedLunsChanged,
        Self::AccessStateChanged,
    ];

    /// The condition as sense data.
    #[must_use]
    pub fn sense(self) -> Sense {
        let (asc, ascq) = match self {
            Self::PowerOn => (0x29, 0x00),
            Self::NexusLoss => (0x29, 0x07),
            Self::CommandsCleared => (0x2F, 0x00),
            Self::ModeParametersChanged => (0x2A, 0x01),
            Self::CapacityChanged => (0x2A, 0x09),
            Self::InquiryDataChanged => (0x3F, 0x03),
            Self::ReportedLunsChanged => (0x3F, 0x0E),
            Self::AccessStateChanged => (0x2A, 0x06),
        };
        Sense::attention(asc, ascq)
    }

    fn bit(self) -> u8 {
        match self {
            Self::PowerOn => 1 << 0,
            Self::NexusLoss => 1 << 1,
            Self::CommandsCleared => 1 << 2,
            Self::ModeParametersChanged => 1 << 3,
            Self::CapacityChanged => 1 << 4,
            Self::InquiryDataChanged => 1 << 5,
            Self::ReportedLunsChanged => 1 << 6,
            Self::AccessStateChanged => 1 << 7,
        }
    }
}

impl Attentions {
    pub(crate) fn attach(&mut self, nexus: NexusId, fresh: FreshNexus) {
        self.detach(nexus);
        self.pending.insert(nexus, Pending(0));
        match fresh {
            FreshNexus::Silent => {}
            FreshNexus::PowerOn => self.raise_for(nexus, UnitAttention::PowerOn),
        }
    }

    pub(crate) fn detach(&mut self, nexus: NexusId) {
        self.pending.remove(&nexus);
        self.recount();
    }

    pub(crate) fn raise_for(&mut self, nexus: NexusId, attention: UnitAttention) {
        if let Some(pending) = self.pending.get_mut(&nexus) {
            pending.0 |= attention.bit();
        }
        self.recount();
    }

    pub(crate) fn raise(&mut self, attention: UnitAttention) {
        self.pending.values_mut().for_each(|pending| pending.0 |= attention.bit());
        self.recount();
    }

    pub(crate) fn raise_except(&mut self, nexus: NexusId, attention: UnitAttention) {
        let others = self.pending.iter_mut().filter(|(other, _)| **other != nexus);
        others.for_each(|(_, pending)| pending.0 |= attention.bit());
        self.recount();
    }

    pub(crate) fn clear(&mut self, nexus: NexusId, attention: UnitAttention) {
        if let Some(pending) = self.pending.get_mut(&nexus) {
            pending.0 &= !attention.bit();
        }
        self.recount();
    }

    /// The next condition for this nexus, which is thereby reported.
    pub(crate) fn poll(&mut self, nexus: NexusId) -> Option<UnitAttention> {
        if self.waiting == 0 {
            return None;
        }
        let pending = self.pending.get(&nexus)?.0;
        let next = UnitAttention::ALL.into_iter().find(|attention| pending & attention.bit() != 0)?;
        self.clear(nexus, next);
        Some(next)
    }

    fn recount(&mut self) {
        self.waiting = self.pending.values().filter(|pending| pending.0 != 0).count();
    }
}

#[derive(Debug, Clone, Copy)]
struct Pending(u8);

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: NexusId = NexusId(1);
    const TWO: NexusId = NexusId(2);

    fn two_silent() -> Attentions {
        let mut attentions = Attentions::default();
        attentions.attach(ONE, FreshNexus::Silent);
        attentions.attach(TWO, FreshNexus::Silent);
        attentions
    }

    #[test]
    fn each_nexus_is_told_once_and_resets_come_first() {
        let mut attentions = two_silent();
        attentions.raise(UnitAttention::CapacityChanged);
        attentions.raise_for(TWO, UnitAttention::PowerOn);
        attentions.raise(UnitAttention::CapacityChanged);
        assert_eq!(attentions.poll(ONE), Some(UnitAttention::CapacityChanged));
        assert_eq!(attentions.poll(ONE), None);
        assert_eq!(attentions.poll(TWO), Some(UnitAttention::PowerOn));
        assert_eq!(attentions.poll(TWO), Some(UnitAttention::CapacityChanged));
        assert_eq!(attentions.poll(TWO), None);
        assert_eq!(attentions.waiting, 0);
    }

    #[test]
    fn a_nexus_that_left_is_forgotten_and_an_unknown_one_gathers_nothing() {
        let mut attentions = two_silent();
        attentions.raise(UnitAttention::NexusLoss);
        attentions.detach(ONE);
        attentions.raise_for(NexusId(9), UnitAttention::PowerOn);
        assert_eq!(attentions.poll(ONE), None);
        assert_eq!(attentions.poll(NexusId(9)), None);
        attentions.attach(TWO, FreshNexus::Silent);
        assert_eq!(attentions.poll(TWO), None);
    }

    #[test]
    fn bits_are_distinct_and_all_conditions_are_listed() {
        let all = UnitAttention::ALL.iter().fold(0_u8, |bits, attention| {
            assert_eq!(bits & attention.bit(), 0);
            bits | attention.bit()
        });
        assert_eq!(all, 0xFF);
        assert!(UnitAttention::ALL.is_sorted());
    }
}
