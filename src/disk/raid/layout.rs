//! Where a slot of a group is on its members. Pure.
//!
//! A stripe is one row of stripe units, one on each member, at the same place of each. RAID 0: all units of a row are
//! data. RAID 5, left-symmetric: the parity of stripe `s` is on member `n - 1 - s mod n`, and the data follow it round
//! the members, so that `n` consecutive units of data are on `n` different members.
//!
//! ```text
//!            m0  m1  m2  m3
//! stripe 0   0   1   2   P
//! stripe 1   4   5   P   3
//! stripe 2   8   P   6   7
//! stripe 3   P   9  10  11
//! ```

use super::{Level, MEMBERS_MAX, STRIPE_UNIT_BYTES_MAX};
use crate::disk::slot::SLOT_BYTES;

/// The shape of a group. Only shapes that can work exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    scheme: Scheme,
    members: u64,
    unit_slots: u64,
    stripes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Striped,
    RotatingParity,
}

/// Where one slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its stripe.
    pub stripe: u64,
    /// Which of the data units of the stripe.
    pub data: usize,
    /// Which slot of the unit.
    pub row: u64,
    /// On which member.
    pub member: usize,
    /// Which slot of the member's data area.
    pub member_slot: u64,
}

/// What a slot of a member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// This slot of the group.
    Data(u64),
    /// The parity of a row of a stripe.
    Parity {
        /// The stripe.
        stripe: u64,
        /// The slot in its units.
        row: u64,
    },
}

/// Contiguous slots of the group that are contiguous on one member too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the first of them is.
    pub place: Place,
    /// How many.
    pub slots: usize,
}

impl Layout {
    /// A layout of `members` units with `member_slots` slots of data area each, of which whole stripe units count.
    ///
    /// # Errors
    /// Says what is wrong with the wish.
    pub fn new(
        level: Level,
        members: usize,
        stripe_unit_bytes: u32,
        member_slots: u64,
    ) -> Result<Self, String> {
        let scheme = match level {
            Level::Raid0 => Scheme::Striped,
            Level::Raid5 => Scheme::RotatingParity,
            Level::Raid1 | Level::Raid10 | Level::Raid6 => {
                return Err(format!("{level} is not built yet; raid0 and raid5 are"));
            }
        };
        let least = if scheme == Scheme::Striped { 1 } else { 3 };
        if !(least..=MEMBERS_MAX).contains(&members) {
            return Err(format!("{level} takes {least} to {MEMBERS_MAX} units, not {members}"));
        }
        let unit_bytes = u64::from(stripe_unit_bytes);
        if unit_bytes == 0
            || !unit_bytes.is_multiple_of(SLOT_BYTES as u64)
            || stripe_unit_bytes > STRIPE_UNIT_BYTES_MAX
        {
            return Err(format!(
                "a stripe unit is a multiple of {SLOT_BYTES} bytes up to {STRIPE_UNIT_BYTES_MAX}, not {stripe_unit_bytes}"
            ));
        }
        let unit_slots = unit_bytes / SLOT_BYTES as u64;
        let stripes = member_slots / unit_slots;
        if stripes == 0 || member_slots > MEMBER_SLOTS_MAX {
            return Err(format!("units with {member_slots} slots for data are too small or too large"));
        }
        Ok(Self { scheme, members: members as u64, unit_slots, stripes })
    }

    /// Units of data in a stripe.
    #[must_use]
    pub fn data_units(&self) -> u64 {
        match self.scheme {
            Scheme::Striped => self.members,
            Scheme::RotatingParity => self.members - 1,
        }
    }

    /// How many members.
    #[must_use]
    pub fn members(&self) -> usize {
        to_index(self.members)
    }

    /// Whether a stripe has parity.
    #[must_use]
    pub fn has_parity(&self) -> bool {
        self.scheme == Scheme::RotatingParity
    }

    /// Slots of one member in one stripe.
    #[must_use]
    pub fn unit_slots(&self) -> u64 {
        self.unit_slots
    }

    /// How many stripes.
    #[must_use]
    pub fn stripes(&self) -> u64 {
        self.stripes
    }

    /// Slots of data in a stripe.
    #[must_use]
    pub fn stripe_slots(&self) -> u64 {
        self.unit_slots * self.data_units()
    }

    /// Slots of the whole group.
    #[must_use]
    pub fn capacity_slots(&self) -> u64 {
        self.stripes * self.stripe_slots()
    }

    /// Where a slot of the group is. The caller has checked that the slot is within the capacity.
    #[must_use]
    pub fn locate(&self, slot: u64) -> Place {
        debug_assert!(slot < self.capacity_slots());
        let stripe = slot / self.stripe_slots();
        let within = slot % self.stripe_slots();
        let data = to_index(within / self.unit_slots);
        let row = within % self.unit_slots;
        let member = self.data_member(stripe, data);
        Place { stripe, data, row, member, member_slot: stripe * self.unit_slots + row }
    }

    /// The member that holds a data unit of a stripe.
    #[must_use]
    pub fn data_member(&self, stripe: u64, data: usize) -> usize {
        match self.parity_member(stripe) {
            None => data,
            Some(parity) => (parity + 1 + data) % self.members(),
        }
    }

    /// The member that holds the parity of a stripe.
    #[must_use]
    pub fn parity_member(&self, stripe: u64) -> Option<usize> {
        match self.scheme {
            Scheme::Striped => None,
            Scheme::RotatingParity => Some(to_index(self.members - 1 - stripe % self.members)),
        }
    }

    /// What a slot of a member's data area holds: the inverse of [`locate`](Self::locate).
    #[must_use]
    pub fn content(&self, member: usize, member_slot: u64) -> Content {
        let (stripe, row) = (member_slot / self.unit_slots, member_slot % self.unit_slots);
        let data = match self.parity_member(stripe) {
            Some(parity) if parity == member => return Content::Parity { stripe, row },
            Some(parity) => (member + self.members() - parity - 1) % self.members(),
            None => member,
        };
        Content::Data(stripe * self.stripe_slots() + data as u64 * self.unit_slots + row)
    }

    /// The range cut into extents of one stripe unit or less, in order.
    pub fn extents(&self, first: u64, slots: usize) -> impl Iterator<Item = Extent> + use<> {
        let (layout, end) = (*self, first + slots as u64);
        let mut next = first;
        std::iter::from_fn(move || {
            if next >= end {
                return None;
            }
            let place = layout.locate(next);
            let slots = (layout.unit_slots - place.row).min(end - next);
            next += slots;
            Some(Extent { place, slots: to_index(slots) })
        })
    }
}

/// Numbers that are bounded by the members or the slots of one call.
fn to_index(small: u64) -> usize {
    usize::try_from(small).expect("bounded by a stripe unit or the number of members")
}

/// Slots of one member at most: 2^48 bytes, so that no sum of offsets overflows.
pub const MEMBER_SLOTS_MAX: u64 = 1 << 36;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn assert_bijection(layout: &Layout) {
        let mut seen = BTreeSet::new();
        for slot in 0..layout.capacity_slots() {
            let place = layout.locate(slot);
            assert_eq!(layout.content(place.member, place.member_slot), Content::Data(slot));
            assert!(seen.insert((place.member, place.member_slot)), "two slots at one place");
            assert_ne!(Some(place.member), layout.parity_member(place.stripe));
        }
        let member_slots = layout.stripes() * layout.unit_slots();
        let parities = (0..layout.members())
            .flat_map(|member| (0..member_slots).map(move |slot| (member, slot)))
            .filter(|(member, slot)| matches!(layout.content(*member, *slot), Content::Parity { .. }))
            .count() as u64;
        assert_eq!(seen.len() as u64 + parities, member_slots * layout.members() as u64);
        assert_eq!(parities, if layout.has_parity() { member_slots } else { 0 });
    }

    #[test]
    fn every_slot_has_a_place_of_its_own_in_all_small_groups() {
        for level in [Level::Raid0, Level::Raid5] {
            for members in 1..=8 {
                for unit_slots in 1..=4_u32 {
                    for stripes in 1..=9_u64 {
                        let slots = stripes * u64::from(unit_slots) + u64::from(unit_slots) - 1;
                        let layout = Layout::new(level, members, unit_slots * 4096, slots);
                        if level == Level::Raid5 && members < 3 {
                            assert!(layout.is_err());
                        } else {
                            assert_bijection(&layout.unwrap());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_left_symmetric_picture_is_what_is_built() {
        let layout = Layout::new(Level::Raid5, 4, 4096, 4).unwrap();
        let members: Vec<usize> = (0..12).map(|slot| layout.locate(slot).member).collect();
        assert_eq!(members, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
        assert_eq!(
            (0..4).map(|s| layout.parity_member(s)).collect::<Vec<_>>(),
            [Some(3), Some(2), Some(1), Some(0)]
        );
    }

    #[test]
    fn levels_that_are_not_built_are_refused_by_name() {
        let error = Layout::new(Level::Raid6, 6, 65536, 1000).unwrap_err();
        assert!(error.contains("raid6 is not built yet"), "{error}");
        assert!("raid7".parse::<Level>().is_err());
        assert_eq!("raid10".parse::<Level>(), Ok(Level::Raid10));
    }

    proptest! {
        #[test]
        fn large_groups_are_bijective_too(
            raid5: bool, members in 3_usize..=16, unit in 1_u32..=256, member_slots in 256_u64..MEMBER_SLOTS_MAX, at: u64
        ) {
            let level = if raid5 { Level::Raid5 } else { Level::Raid0 };
            let layout = Layout::new(level, members, unit * 4096, member_slots).unwrap();
            let slot = at % layout.capacity_slots();
            let place = layout.locate(slot);
            prop_assert!(place.member_slot < member_slots);
            prop_assert_eq!(layout.content(place.member, place.member_slot), Content::Data(slot));
        }

        #[test]
        fn extents_cover_a_range_in_order(raid5: bool, members in 3_usize..=7, unit in 1_u32..=9, first in 0_u64..200, slots in 0_usize..200) {
            let level = if raid5 { Level::Raid5 } else { Level::Raid0 };
            let layout = Layout::new(level, members, unit * 4096, 2000).unwrap();
            let mut next = first;
            for extent in layout.extents(first, slots) {
                for offset in 0..extent.slots as u64 {
                    let place = layout.locate(next);
                    prop_assert_eq!((place.member, place.member_slot), (extent.place.member, extent.place.member_slot + offset));
                    next += 1;
                }
            }
            prop_assert_eq!(next, first + slots as u64);
        }
    }
}
