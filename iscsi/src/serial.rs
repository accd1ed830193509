//! Serial numbers of RFC 7143 section 4.2.2, compared as RFC 1982 says.
//!
//! Invariant: two numbers are ordered only when they are less than 2^31 apart; [`CmdSn::precedes`] and its kin
//! say nothing useful beyond that, and no window of this crate is wider than a few hundred.

macro_rules! serial_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The number `count` steps after this one, around the end of the circle if need be.
            #[must_use]
            pub const fn after(self, count: u32) -> Self {
                Self(self.0.wrapping_add(count))
            }

            /// The number one step after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                self.after(1)
            }

            /// Hands out this number and moves on to the next one.
            pub const fn take(&mut self) -> Self {
                let current = *self;
                *self = current.next();
                current
            }

            /// How many steps lead forward from `earlier` to this number.
            #[must_use]
            pub const fn distance_from(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }

            /// Whether this number comes before `other` (RFC 1982 section 3.2).
            #[must_use]
            pub const fn precedes(self, other: Self) -> bool {
                let distance = other.0.wrapping_sub(self.0);
                distance != 0 && distance < 1 << 31
            }

            /// Whether this number lies in the closed range from `first` to `last`.
            #[must_use]
            pub const fn is_within(self, first: Self, last: Self) -> bool {
                !self.precedes(first) && !last.precedes(self)
            }
        }
    };
}

serial_number! {
    /// Number of a command in its session.
    CmdSn
}
serial_number! {
    /// Number of a status on its connection.
    StatSn
}

#[cfg(test)]
mod tests {
    use super::CmdSn;

    #[test]
    fn order_goes_around_the_end_of_the_circle() {
        assert!(CmdSn(u32::MAX).precedes(CmdSn(0)));
        assert!(!CmdSn(0).precedes(CmdSn(u32::MAX)));
        assert!(!CmdSn(7).precedes(CmdSn(7)));
        assert_eq!(CmdSn(u32::MAX).next(), CmdSn(0));
        assert_eq!(CmdSn(2).distance_from(CmdSn(u32::MAX)), 3);
    }

    #[test]
    fn a_window_over_the_end_of_the_circle_contains_both_of_its_ends() {
        let (first, last) = (CmdSn(u32::MAX - 1), CmdSn(3));
        for inside in [u32::MAX - 1, u32::MAX, 0, 3] {
            assert!(CmdSn(inside).is_within(first, last));
        }
        assert!(!CmdSn(u32::MAX - 2).is_within(first, last));
        assert!(!CmdSn(4).is_within(first, last));
    }
}
