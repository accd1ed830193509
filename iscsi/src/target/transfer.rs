//! The payload of one write (RFC 7143 sections 4.2.5 and 11.7, 11.8).
//!
//! ```text
//! 0 .. immediate .. unsolicited Data-Out .. | sequence of R2T 0 | sequence of R2T 1 | ..        | wanted
//!                                           ^start              each at most MaxBurstLength     ^end
//! ```
//!
//! DataPDUInOrder and DataSequenceInOrder are Yes, so one number says what has been announced: every Data-Out
//! must begin there. Invariant: `received <= announced`, `start <= asked <= wanted` once R2Ts go out.

use super::Progress;
use crate::params::Parameters;
use crate::pdu::data::DataOut;
use crate::pdu::{Itt, Lun, Ttt};

/// Why the transfer of a command cannot go on; becomes sense data (RFC 7143 section 11.4.7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferError {
    /// Data came that nobody had allowed.
    Unexpected,
    /// More or less data than agreed, or not in time.
    WrongAmount,
    /// A digest was wrong, or a number is missing.
    Corrupt,
    /// A bidirectional command.
    Bidirectional,
}

impl TransferError {
    /// Fixed-format sense data: sense key, additional sense code and its qualifier.
    pub(super) fn sense(self) -> [u8; 18] {
        let (key, code, qualifier) = match self {
            Self::Unexpected => (0x0b, 0x0c, 0x0c),
            Self::WrongAmount => (0x0b, 0x0c, 0x0d),
            Self::Corrupt => (0x0b, 0x47, 0x05),
            Self::Bidirectional => (0x05, 0x24, 0x00),
        };
        [0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
    }
}

/// Unsolicited Data-Out PDUs that the initiator has promised.
#[derive(Clone, Copy, Debug)]
struct Unsolicited {
    end: u32,
    next_data_sn: u32,
}

/// One R2T to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) ttt: Ttt,
    pub(super) r2t_sn: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// What has come and what is to come of one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    unsolicited: Option<Unsolicited>,
    announced: u32,
    received: u32,
    wanted: Option<u32>,
    asked: u32,
    start: u32,
    next_data_sn: u32,
    next_r2t_sn: u32,
    answered: u32,
    is_complete: bool,
    pub(super) deadline_ns: Option<u64>,
}

impl Transfer {
    /// The state after a command with `immediate` bytes; `more` if unsolicited Data-Out PDUs follow.
    pub(super) fn new(
        parameters: &Parameters,
        expected_length: u32,
        immediate: u32,
        more: bool,
    ) -> Result<Self, TransferError> {
        let first_burst = parameters.first_burst_bytes.min(expected_length);
        if immediate > 0 && !parameters.immediate_data || more && parameters.initial_r2t {
            return Err(TransferError::Unexpected);
        }
        if immediate > first_burst {
            return Err(TransferError::WrongAmount);
        }
        Ok(Self {
            unsolicited: more.then_some(Unsolicited { end: first_burst, next_data_sn: 0 }),
            announced: immediate,
            received: 0,
            wanted: None,
            asked: 0,
            start: 0,
            next_data_sn: 0,
            next_r2t_sn: 0,
            answered: 0,
            is_complete: false,
            deadline_ns: None,
        })
    }

    /// Takes the header of a Data-Out.
    pub(super) fn announce(
        &mut self,
        parameters: &Parameters,
        data: &DataOut,
        slot: u16,
    ) -> Result<(), TransferError> {
        if data.buffer_offset != self.announced {
            return Err(TransferError::Corrupt);
        }
        let after = self.announced.checked_add(data.data_bytes).ok_or(TransferError::WrongAmount)?;
        if data.ttt == Ttt::RESERVED {
            let open = self.unsolicited.as_mut().ok_or(TransferError::Unexpected)?;
            if data.data_sn != open.next_data_sn {
                return Err(TransferError::Corrupt);
            }
            open.next_data_sn = open.next_data_sn.wrapping_add(1);
            if after > open.end || after == open.end && !data.is_final {
                return Err(TransferError::WrongAmount);
            }
            if data.is_final {
                self.unsolicited = None;
            }
            self.announced = after;
            return Ok(());
        }
        if self.start >= self.asked || data.ttt != tag(slot, self.answered) {
            return Err(TransferError::Unexpected);
        }
        if data.data_sn != self.next_data_sn {
            return Err(TransferError::Corrupt);
        }
        self.next_data_sn = self.next_data_sn.wrapping_add(1);
        let end = self.sequence_end(parameters, self.start);
        // The final bit closes the sequence and nothing else does.
        if after > end || data.is_final != (after == end) {
            return Err(TransferError::WrongAmount);
        }
        self.announced = after;
        if data.is_final {
            self.start = end;
            self.next_data_sn = 0;
            self.answered = self.answered.wrapping_add(1);
        }
        Ok(())
    }

    /// Bytes have arrived in their place.
    pub(super) fn receive(&mut self, length: u32) -> Progress {
        self.received = self.received.saturating_add(length).min(self.announced);
        self.progress()
    }

    /// The caller is ready for `bytes` in all; only the first call counts.
    pub(super) fn solicit(&mut self, bytes: u32) -> Progress {
        if self.wanted.is_none() {
            self.wanted = Some(bytes);
        }
        self.progress()
    }

    /// The next R2T to be sent, if one is due.
    pub(super) fn next_request(&mut self, parameters: &Parameters, slot: u16) -> Option<Request> {
        let wanted = self.wanted?;
        if self.unsolicited.is_some() {
            return None;
        }
        if self.next_r2t_sn == 0 {
            self.start = self.announced;
            self.asked = self.announced;
        }
        let open = self.next_r2t_sn.wrapping_sub(self.answered);
        if self.asked >= wanted || open >= parameters.max_outstanding_r2t {
            return None;
        }
        let offset = self.asked;
        self.asked = self.sequence_end(parameters, offset);
        let r2t_sn = self.next_r2t_sn;
        self.next_r2t_sn = r2t_sn.wrapping_add(1);
        Some(Request { ttt: tag(slot, r2t_sn), r2t_sn, offset, length: self.asked - offset })
    }

    /// Whether the initiator owes data.
    pub(super) fn is_awaited(&self) -> bool {
        self.unsolicited.is_some() || self.start < self.asked
    }

    fn sequence_end(&self, parameters: &Parameters, start: u32) -> u32 {
        start.saturating_add(parameters.max_burst_bytes).min(self.wanted.unwrap_or(start))
    }

    fn progress(&mut self) -> Progress {
        let all = self.wanted.is_some_and(|wanted| self.received >= wanted)
            && self.received == self.announced
            && self.unsolicited.is_none();
        if all && !self.is_complete {
            self.is_complete = true;
            return Progress::Complete { received: self.received };
        }
        Progress::More
    }
}

/// The tag of an R2T: the slot of its task and the low half of its number. Never reserved, because slots are few.
fn tag(slot: u16, r2t_sn: u32) -> Ttt {
    Ttt(u32::from(slot) << 16 | r2t_sn & 0xffff)
}

/// What a Data-Out looks like whose task is to be found: its tags and unit.
pub(super) fn names(data: &DataOut, itt: Itt, lun: Lun) -> bool {
    // The unit is valid only beside a transfer tag.
    data.itt == itt && (data.ttt == Ttt::RESERVED || data.lun == lun)
}
