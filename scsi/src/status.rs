//! Status codes (SAM-5, 5.3) and the finished answer to a command.

use alloc::vec::Vec;

use crate::sense::Sense;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Completed without error.
    Good,
    /// Sense data says what happened.
    CheckCondition,
    /// A requested operation was satisfied (PRE-FETCH).
    ConditionMet,
    /// Try again later.
    Busy,
    /// Another nexus holds a reservation.
    ReservationConflict,
    /// No room in the task set.
    TaskSetFull,
    /// Ended by another nexus.
    TaskAborted,
}

impl Status {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0x00,
            Self::CheckCondition => 0x02,
            Self::ConditionMet => 0x04,
            Self::Busy => 0x08,
            Self::ReservationConflict => 0x18,
            Self::TaskSetFull => 0x28,
            Self::TaskAborted => 0x40,
        }
    }
}

/// A finished answer. `data_in` is already cut to the command's allocation length; the transport only derives its residual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// How the command ended.
    pub status: Status,
    /// Why, for CHECK CONDITION; the transport encodes it as the logical unit's [`crate::SenseFormat`] says.
    pub sense: Option<Sense>,
    /// The data, possibly none.
    pub data_in: Vec<u8>,
}

impl Response {
    /// GOOD without data.
    #[must_use]
    pub fn good() -> Self {
        Self { status: Status::Good, sense: None, data_in: Vec::new() }
    }

    /// CHECK CONDITION with this sense.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), data_in: Vec::new() }
    }

    /// GOOD with as much of `data` as the initiator has room for.
    #[must_use]
    pub fn data(mut data: Vec<u8>, allocation_length: u32) -> Self {
        data.truncate(usize::try_from(allocation_length).unwrap_or(usize::MAX));
        Self { status: Status::Good, sense: None, data_in: data }
    }
}

impl From<Result<Response, Sense>> for Response {
    fn from(outcome: Result<Response, Sense>) -> Self {
        outcome.unwrap_or_else(Self::check)
    }
}
