//! The command window of a session (RFC 7143 section 4.2.2.1).
//!
//! ExpCmdSN is the number that comes next, MaxCmdSN the last that may come. Invariant: MaxCmdSN never moves back,
//! and never lets more than [`QUEUE_DEPTH`] commands be open.

use super::QUEUE_DEPTH;
use crate::pdu::bhs::Immediate;
use crate::serial::CmdSn;

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is next, or outside the order.
    Take,
    /// It came before, or lies beyond the window.
    Ignore,
    /// One before it is missing.
    Gap,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    expected: CmdSn,
    last: CmdSn,
}

impl Window {
    pub(super) fn new(first: CmdSn) -> Self {
        Self { expected: first, last: first.after(QUEUE_DEPTH - 1) }
    }

    pub(super) fn admit(&mut self, number: CmdSn, immediate: Immediate) -> Admission {
        match immediate {
            Immediate::Yes => Admission::Take,
            Immediate::No if !number.is_within(self.expected, self.last) => Admission::Ignore,
            Immediate::No if number != self.expected => Admission::Gap,
            Immediate::No => {
                self.expected = self.expected.next();
                Admission::Take
            }
        }
    }

    /// Opens the window as far as `open` commands that are still there allow.
    pub(super) fn open(&mut self, open: u32) {
        let last = self.expected.after(QUEUE_DEPTH.saturating_sub(open)).after(u32::MAX);
        if self.last.precedes(last) {
            self.last = last;
        }
    }

    pub(super) fn expected(&self) -> CmdSn {
        self.expected
    }

    pub(super) fn last(&self) -> CmdSn {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_once_and_in_order_and_within_the_window() {
        let mut window = Window::new(CmdSn(u32::MAX));
        assert_eq!(window.admit(CmdSn(u32::MAX), Immediate::No), Admission::Take);
        assert_eq!(window.admit(CmdSn(u32::MAX), Immediate::No), Admission::Ignore);
        assert_eq!(window.admit(CmdSn(1), Immediate::No), Admission::Gap);
        assert_eq!(window.admit(CmdSn(77), Immediate::Yes), Admission::Take);
        assert_eq!(window.admit(window.last().next(), Immediate::No), Admission::Ignore);
        assert_eq!(window.expected(), CmdSn(0));
    }

    #[test]
    fn the_window_opens_as_commands_end_and_never_closes_again() {
        let mut window = Window::new(CmdSn(1));
        for number in 1..=QUEUE_DEPTH {
            assert_eq!(window.admit(CmdSn(number), Immediate::No), Admission::Take);
            window.open(number);
            assert_eq!(window.last(), CmdSn(QUEUE_DEPTH));
        }
        assert_eq!(window.admit(CmdSn(QUEUE_DEPTH + 1), Immediate::No), Admission::Ignore);
        window.open(QUEUE_DEPTH - 1);
        assert_eq!(window.last(), CmdSn(QUEUE_DEPTH + 1));
        window.open(QUEUE_DEPTH);
        assert_eq!(window.last(), CmdSn(QUEUE_DEPTH + 1));
    }
}
