//! A pair: a P-VOL and the S-VOL that follows it (mission row A3), and which state may follow which.
//!
//! ```text
//! unused -create-> not-yet-copied -copy begins-> being-copied -copy restored-> normal
//!                        |                         |   ^                        |
//!                        +-------- suspend --------+---|------------------------+
//!                                      v               |
//!                                  suspended -resync---+         any state but unused -fail-> abnormal -resync-> ...
//! ```
//!
//! `suspended` is stopped on purpose or by overflow, `abnormal` is a failure; differences are recorded in both. A link
//! that is cut changes no pair's state. `normal` is reached when the reader has *restored* up to the copy's end.

use super::kind::CopyMode;
use super::name::{
    ArrayNumber, GroupNumber, LinkName, PairName, PairNumber, UpdateNumber, VolumeName, VolumeNumber,
};
use super::record::Identity;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A row of the pair information. Numbers of pair and group are local to this array.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PairRecord {
    /// Number.
    pub number: PairNumber,
    /// Name, the same at both arrays.
    pub name: PairName,
    /// State.
    pub state: PairState,
    /// Why it is suspended or abnormal.
    pub reason: Option<String>,
    /// The volume that hosts write.
    pub primary: PairSide,
    /// The volume that follows.
    pub auxiliary: PairSide,
    /// Group, here.
    pub group: GroupNumber,
    /// Link to the other array.
    pub link: LinkName,
    /// How it follows.
    pub copy: CopyMode,
    /// Size of both volumes.
    pub size_bytes: u64,
    /// Checkpoint of the copy completion address: everything below it has been copied.
    pub copy_completion_bytes: u64,
    /// Where the copy ended, if so many pairs of the group are copied at once that the journal's checkpoint cannot say it
    /// of this one; 0: it does. In a cascade `copy_completion_bytes` then says which copy of the pair that was.
    pub copy_end: UpdateNumber,
    /// What was asked of it, and what a copy of differences has to know.
    #[serde(default)]
    pub control: PairControl,
    /// Both volumes show hosts one identity (decision 25); this is what the one whose own it is shows when it gives it up.
    #[serde(default)]
    pub shared: Option<Identity>,
}

/// Suspension, resynchronisation and deletion of a pair, as far as a restart has to know about them (promise O2).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PairControl {
    /// What was asked and is not done yet.
    pub asked: Option<Asked>,
    /// The S-VOL has durable room for so many bytes, if it has grown before the P-VOL.
    pub room_bytes: u64,
    /// Why it is suspended.
    pub cause: Option<SuspendCause>,
    /// At the primary: the auxiliary knows that the pair is suspended, so that updates may be kept from it.
    pub told: bool,
    /// At the primary: updates from this number on are not handed to the reader, their places are marked …
    pub withheld_from: Option<UpdateNumber>,
    /// … up to this one, from which on they are handed to it again; none: withheld for the time being.
    pub withheld_until: Option<UpdateNumber>,
    /// Records of a copy with smaller numbers belong to an earlier copy of this pair.
    pub copy_from: UpdateNumber,
    /// At the primary: records of a copy with smaller numbers belong to an earlier pair of the same volumes.
    pub born: UpdateNumber,
    /// At the auxiliary: the S-VOL is the image of one number. True from the first `normal` to the beginning of a resync.
    pub is_image: bool,
    /// At the auxiliary: what the S-VOL was as of this number is kept, until all pairs of the group that have such an
    /// image are normal.
    pub image: Option<UpdateNumber>,
    /// At the auxiliary: the S-VOL stopped while others of its group went on, so that nobody here knows its number.
    pub left_behind: bool,
    /// At the auxiliary: the S-VOL is of no later number than this one; none: of what the group has restored.
    pub stopped_at: Option<UpdateNumber>,
    /// While it is not normal: the S-VOL differs from what the P-VOL was as of this number in nothing but what was changed later, or by
    /// hosts here (decision 29). At the auxiliary that is so; at the primary it is no later number than the auxiliary has. None: nobody knows
    /// such a number, or the pair is normal. It is of the numbers of this source, and forgotten with it.
    pub reaches: Option<UpdateNumber>,
    /// At the auxiliary: what it had stored when it took note of the suspension, while it read from another array than its
    /// source: the S-VOL is of no earlier number, whatever the source knew it to have. 0: it read from its source.
    pub had_from_elsewhere: UpdateNumber,
    /// At the auxiliary: hosts may write the S-VOL while the pair is suspended; at the primary: that was asked.
    pub svol_write: bool,
    /// At the primary: the auxiliary is told so. It was not before it is known from which number on updates are withheld.
    pub is_svol_write_sent: bool,
    /// At the auxiliary: the S-VOL is out of restore, and what it was then is on the units: only then hosts are let in, and
    /// no start puts anything over it.
    pub svol_open: bool,
    /// At the auxiliary: hosts have written the S-VOL, and its primary has not been told where.
    pub is_written: bool,
    /// At the primary: the next copy of differences begins also if the auxiliary cannot keep an image of the S-VOL.
    pub without_image: bool,
    /// By which number the group's records name the volume, where that is not the P-VOL's: the P-VOL is itself a copy, and
    /// records keep the number that the array gave which takes the hosts' writes (promise T4).
    pub origin: Option<VolumeNumber>,
    /// Which copy of the pair this is. Where the P-VOL is itself a copy nothing else tells one copy from the next, because
    /// no numbers are given there; 0 elsewhere.
    pub copies: u32,
}

impl PairRecord {
    /// The number by which the group's records name the volume; none as long as the other array has not said it.
    #[must_use]
    pub fn record_volume(&self) -> Option<VolumeNumber> {
        self.control.origin.or(self.primary.volume)
    }

    /// Whether it is being taken away.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(self.control.asked, Some(Asked::Delete | Asked::DeleteSent | Asked::DeleteAccepted))
    }

    /// What tells a copy that begins at `from` from an earlier one: where numbers are given the first number of its
    /// records, else the largest that all its pieces contain.
    #[must_use]
    pub fn first_of_copy(&self, from: UpdateNumber) -> UpdateNumber {
        if self.is_cascaded() { UpdateNumber(from.0.saturating_sub(1)) } else { from }
    }

    /// At the auxiliary, which has restored `restored`: see [`PairControl::reaches`]. Of a normal pair it is what was restored; of one that
    /// was stopped only what was noted then.
    #[must_use]
    pub fn reaches(&self, restored: Option<UpdateNumber>) -> Option<UpdateNumber> {
        let control = &self.control;
        if self.is_cascaded() || matches!(self.state, PairState::NotYetCopied | PairState::Abnormal) {
            return None; // Its copy has no numbers; or nobody knows what is in it.
        }
        let is_apart = control.left_behind || control.svol_open || control.is_written;
        let is_whole = self.state == PairState::Normal && control.is_image && !is_apart;
        control.reaches.or_else(|| restored.filter(|_| is_whole).map(|restored| self.at_most(restored)))
    }

    /// Whether the P-VOL is itself a copy: the S-VOL is copied outside of the number space.
    #[must_use]
    pub fn is_cascaded(&self) -> bool {
        self.control.origin.is_some()
    }
}

/// What was asked of a pair. Every step is durable before the next one begins, and each may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Stop it.
    Suspend(SuspendCause),
    /// Copy its differences. The auxiliary has to be told first.
    Resync,
    /// It is on its way to the auxiliary.
    ResyncSent,
    /// The auxiliary no longer takes its S-VOL for an image: the copy may begin.
    ResyncAccepted,
    /// Take it away.
    Delete,
    /// The auxiliary is being told first: it must not take its S-VOL for a member of the group while nothing more comes.
    DeleteSent,
    /// It knows.
    DeleteAccepted,
}

impl Asked {
    /// What an operator calls it.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Suspend(_) => "suspend",
            Self::Resync | Self::ResyncSent | Self::ResyncAccepted => "resync",
            Self::Delete | Self::DeleteSent | Self::DeleteAccepted => "delete",
        }
    }
}

/// Why a pair is suspended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SuspendCause {
    /// The operator said so; it stays suspended until the operator says otherwise.
    Operator,
    /// The journal ran full because of its reader; it is copied again by itself once that reader is back (promise O1).
    Overflow,
    /// Hosts' writes could not be forwarded; it is copied again by itself once the other array answers (promise T2).
    Unreachable,
    /// The P-VOL is a copy and stopped being the image of one number; it goes on by itself when that is over (promise
    /// T4).
    Above,
}

/// One volume of a pair.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PairSide {
    /// Its array.
    pub array: ArrayNumber,
    /// Its number there; none until that array has said so.
    pub volume: Option<VolumeNumber>,
    /// Its name there; empty when that array has not said it.
    pub name: Option<VolumeName>,
}

/// State of a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairState {
    /// No pair.
    Unused,
    /// Catalogued.
    NotYetCopied,
    /// Initial copy or resync.
    BeingCopied,
    /// The S-VOL is the image of all updates up to one number.
    Normal,
    /// Stopped on purpose or by overflow.
    Suspended,
    /// Failed.
    Abnormal,
}

/// What happens to a pair.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PairEvent {
    /// It is catalogued.
    Create,
    /// Its initial copy begins.
    CopyBegins,
    /// The reader has restored up to the copy's end.
    CopyRestored,
    /// It is stopped, by the operator or by overflow.
    Suspend,
    /// Something broke.
    Fail,
    /// It is copied again, differences only where they are known.
    Resync,
    /// It is deleted.
    Delete,
}

impl PairState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Unused, Self::NotYetCopied, Self::BeingCopied, Self::Normal, Self::Suspended, Self::Abnormal];

    /// Whether nothing of it moves: suspended or abnormal.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        matches!(self, Self::Suspended | Self::Abnormal)
    }

    /// The state after `event`, or `None` where the event has no meaning. An event that has happened already (a
    /// repeated `Suspend`, say) leaves the state as it is.
    #[must_use]
    pub fn after(self, event: PairEvent) -> Option<Self> {
        use PairEvent::{CopyBegins, CopyRestored, Create, Delete, Fail, Resync, Suspend};
        use PairState::{Abnormal, BeingCopied, Normal, NotYetCopied, Suspended, Unused};
        match (self, event) {
            (Unused, Create) => Some(NotYetCopied),
            (NotYetCopied | BeingCopied, CopyBegins) => Some(BeingCopied),
            (BeingCopied | Normal, CopyRestored) => Some(Normal),
            (NotYetCopied | BeingCopied | Normal | Suspended, Suspend) => Some(Suspended),
            (NotYetCopied | BeingCopied | Normal | Suspended | Abnormal, Fail) => Some(Abnormal),
            (Suspended | Abnormal | BeingCopied, Resync) => Some(BeingCopied),
            (Unused | NotYetCopied | BeingCopied | Normal | Suspended | Abnormal, Delete) => Some(Unused),
            (Unused, CopyBegins | CopyRestored | Suspend | Fail | Resync)
            | (NotYetCopied | Normal, Create | Resync)
            | (BeingCopied, Create)
            | (Suspended | Abnormal, Create | CopyBegins | CopyRestored)
            | (Normal, CopyBegins)
            | (NotYetCopied, CopyRestored)
            | (Abnormal, Suspend) => None,
        }
    }
}

impl fmt::Display for PairState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unused => "unused",
            Self::NotYetCopied => "not-yet-copied",
            Self::BeingCopied => "being-copied",
            Self::Normal => "normal",
            Self::Suspended => "suspended",
            Self::Abnormal => "abnormal",
        })
    }
}

impl std::str::FromStr for PairState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.to_string() == text).ok_or_else(|| {
            let all: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("{text:?} is none of {}", all.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table, a row for each state, a column for each event in this order.
    const EVENTS: [PairEvent; 7] = [
        PairEvent::Create,
        PairEvent::CopyBegins,
        PairEvent::CopyRestored,
        PairEvent::Suspend,
        PairEvent::Fail,
        PairEvent::Resync,
        PairEvent::Delete,
    ];

    #[test]
    fn figure_6_every_state_and_event_of_a_pair_meet_as_the_table_says() {
        use PairState::{
            Abnormal as A, BeingCopied as B, Normal as N, NotYetCopied as Y, Suspended as S, Unused as U,
        };
        let table = [
            (U, [Some(Y), None, None, None, None, None, Some(U)]),
            (Y, [None, Some(B), None, Some(S), Some(A), None, Some(U)]),
            (B, [None, Some(B), Some(N), Some(S), Some(A), Some(B), Some(U)]),
            (N, [None, None, Some(N), Some(S), Some(A), None, Some(U)]),
            (S, [None, None, None, Some(S), Some(A), Some(B), Some(U)]),
            (A, [None, None, None, None, Some(A), Some(B), Some(U)]),
        ];
        assert_eq!(table.map(|(state, _)| state), PairState::ALL);
        for (state, row) in table {
            assert_eq!(EVENTS.map(|event| state.after(event)), row, "{state}");
        }
    }

    #[test]
    fn a_failure_is_never_hidden_by_a_suspension_and_nothing_skips_the_copy() {
        assert_eq!(PairState::Abnormal.after(PairEvent::Suspend), None);
        for state in PairState::ALL {
            for event in EVENTS {
                if state.after(event) == Some(PairState::Normal) {
                    assert!(matches!(state, PairState::BeingCopied | PairState::Normal));
                }
            }
        }
    }

    fn pair(state: PairState, control: PairControl) -> PairRecord {
        let side = |array| PairSide { array: ArrayNumber(array), volume: Some(VolumeNumber(1)), name: None };
        PairRecord {
            number: PairNumber(1),
            name: "p1".parse().unwrap(),
            state,
            reason: None,
            primary: side(1),
            auxiliary: side(2),
            group: GroupNumber(1),
            link: "alpha".parse().unwrap(),
            copy: CopyMode::Async,
            size_bytes: 1 << 20,
            copy_completion_bytes: 0,
            copy_end: UpdateNumber(0),
            control,
            shared: None,
        }
    }

    /// One that is stopped may be of any older number than what is restored here: also one that was before its source was the source.
    #[test]
    fn what_a_pair_reaches_is_noted_when_it_is_stopped_or_not_known() {
        let image = || PairControl { is_image: true, ..PairControl::default() };
        let noted = |control| PairControl { reaches: Some(UpdateNumber(20)), ..control };
        let reaches = |state, control| pair(state, control).reaches(Some(UpdateNumber(40))).map(|at| at.0);
        assert_eq!(reaches(PairState::Normal, image()), Some(40));
        let stopped = PairControl { stopped_at: Some(UpdateNumber(30)), ..image() };
        assert_eq!(reaches(PairState::Normal, stopped.clone()), Some(30));
        for state in [PairState::Suspended, PairState::BeingCopied] {
            assert_eq!(reaches(state, stopped.clone()), None, "{state}");
            assert_eq!(reaches(state, noted(PairControl::default())), Some(20), "{state}");
        }
        for control in [
            PairControl { left_behind: true, ..image() },
            PairControl { svol_open: true, ..image() },
            PairControl { is_written: true, ..image() },
            PairControl::default(),
        ] {
            assert_eq!(reaches(PairState::Normal, control), None);
        }
        for state in [PairState::NotYetCopied, PairState::Abnormal] {
            assert_eq!(reaches(state, noted(image())), None, "{state}");
        }
        let cascaded = PairControl { origin: Some(VolumeNumber(7)), ..noted(image()) };
        assert_eq!(reaches(PairState::Suspended, cascaded), None);
    }

    #[test]
    fn state_names_are_read_back() {
        for state in PairState::ALL {
            assert_eq!(state.to_string().parse::<PairState>(), Ok(state));
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }
}
