//! Disaster drills: what is tried on a copy, for how long, and what came of it (promise O7, decision 26).

use super::name::{BookmarkName, GroupName, SnapshotName, SnapshotNumber, UpdateNumber, VolumeName};
use super::record::Who;
use super::snapshot::{MadeSnapshot, Moment};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A drill: writable clones of what a group is here at one update number, and the evidence of what was found with them.
///
/// # What it guarantees
/// * Its clones are a snapshot ([`super::snapshot::SnapshotRecord`]), with all that this guarantees, and were made at just
///   [`DrillRecord::update_number`], if it has one.
/// * A drill keeps nothing from being read or restored, but for the cut at the number that it waits for. It is given up where it would.
/// * Its record outlives the clones, whatever ends them, with who began it, who judged it, and when. A judgement is
///   replaced by a later one; the audit log has both.
/// * Its clones are gone, room and all, some time after it has ended; no host sees them from then on.
///
/// # How it is proved
/// `tests/sim/drills.rs`: at numbers under load, over eight volumes, while arrays die at every step, each is byte for byte
/// what another copy is that stopped at its number.
/// `tests/process/drills.rs`: a file system in one, by `e2fsck`, with foreign initiators.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrillRecord {
    /// Number; later ones are larger.
    pub number: DrillNumber,
    /// The group. It may be gone since.
    pub group: GroupName,
    /// Its name, which is that of its snapshot.
    pub name: SnapshotName,
    /// What was asked for.
    pub at: DrillAt,
    /// How far it has come.
    pub state: DrillState,
    /// The clones have all updates up to this one and nothing else, or shall have; none: at a primary, not every write had a number.
    pub update_number: Option<UpdateNumber>,
    /// The bookmark at that number.
    pub bookmark: Option<BookmarkName>,
    /// Who began it.
    pub by: Who,
    /// When it was said: wall time, ns since 1970.
    pub begun_unix_ns: u64,
    /// When the clones were made: wall time, ns since 1970.
    pub made_unix_ns: Option<u64>,
    /// How long the clones stay when nobody ends it.
    pub expire: Option<Duration>,
    /// How much hosts may write to the clones, in bytes of extents.
    pub quota_bytes: Option<u64>,
    /// What was said when it began.
    pub note: Option<DrillNote>,
    /// What was found.
    pub verdict: Option<Verdict>,
    /// Names of the clones.
    pub volumes: Vec<VolumeName>,
    /// When it ended: wall time, ns since 1970.
    pub ended_unix_ns: Option<u64>,
}

impl DrillRecord {
    /// When it expires: wall time, ns since 1970; none: not by itself, or not yet known.
    #[must_use]
    pub fn expires_unix_ns(&self) -> Option<u64> {
        let expire = self.expire.map(|expire| u64::try_from(expire.as_nanos()).unwrap_or(u64::MAX));
        self.made_unix_ns.zip(expire).map(|(made, expire)| made.saturating_add(expire))
    }

    /// The snapshot that its clones are, while they are there.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotNumber> {
        match &self.state {
            DrillState::Running { snapshot } | DrillState::Ending { snapshot, .. } => Some(*snapshot),
            DrillState::Waiting { .. } | DrillState::Ended { .. } => None,
        }
    }

    /// The update that restore has to come to, if it waits for one.
    #[must_use]
    pub fn waits_for(&self) -> Option<UpdateNumber> {
        match self.state {
            DrillState::Waiting { update, .. } => Some(update),
            DrillState::Running { .. } | DrillState::Ending { .. } | DrillState::Ended { .. } => None,
        }
    }

    /// Whether nothing is left of it but the record.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        matches!(self.state, DrillState::Ended { .. })
    }

    /// What was found, in a word: `open`, `passed`, `failed`, or that there is no judgement and why there never was one.
    #[must_use]
    pub fn verdict_word(&self) -> &'static str {
        match (&self.verdict, &self.state) {
            (Some(Verdict { passed: true, .. }), _) => "passed",
            (Some(Verdict { passed: false, .. }), _) => "failed",
            (None, DrillState::Waiting { .. } | DrillState::Running { .. }) => "open",
            (None, DrillState::Ending { how, .. } | DrillState::Ended { how }) => match how {
                DrillEnd::Operator => "ended without a verdict",
                DrillEnd::Expired => "expired without a verdict",
                DrillEnd::GivenUp { .. } => "never made",
            },
        }
    }
}

/// Number of a drill of this array.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DrillNumber(pub u32);

/// At which update.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillAt {
    /// What the volumes here are when it begins: at a copy what it has restored.
    Newest,
    /// Exactly that update. If it is not restored yet, it is waited for.
    Number(UpdateNumber),
    /// That of the newest bookmark of this name that the journal here holds.
    Bookmark(BookmarkName),
}

impl fmt::Display for DrillAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bookmark(name) => write!(f, "bookmark:{name}"),
        }
    }
}

impl FromStr for DrillAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        if let Some(name) = text.strip_prefix("bookmark:") {
            return name.parse().map(Self::Bookmark).map_err(|bad: super::name::BadName| bad.to_string());
        }
        let number = text.parse::<u64>().ok().filter(|number| *number > 0);
        let number = number
            .ok_or_else(|| format!("{text:?} is not \"newest\", an update number, or bookmark:NAME"))?;
        Ok(Self::Number(UpdateNumber(number)))
    }
}

/// How far a drill has come. Each step is one transaction; a restart goes on from there.
///
/// ```text
/// Waiting ──▶ Running ──▶ Ending ──▶ Ended
///    └──────────────────────────────▶
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillState {
    /// For an update to be restored.
    Waiting {
        /// That update.
        update: UpdateNumber,
        /// Not longer than that: wall time, ns since 1970.
        until_unix_ns: u64,
    },
    /// The clones can be used.
    Running {
        /// They.
        snapshot: SnapshotNumber,
    },
    /// No LUN shows the clones any more; they go next.
    Ending {
        /// They.
        snapshot: SnapshotNumber,
        /// Why.
        how: DrillEnd,
    },
    /// Nothing is left but the record.
    Ended {
        /// Why.
        how: DrillEnd,
    },
}

impl fmt::Display for DrillState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Waiting { .. } => "waiting",
            Self::Running { .. } => "running",
            Self::Ending { .. } => "ending",
            Self::Ended { .. } => "ended",
        })
    }
}

/// Why a drill ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DrillEnd {
    /// Its operator said so.
    Operator,
    /// Its time was over.
    Expired,
    /// There never were clones.
    GivenUp {
        /// Why.
        why: String,
    },
}

/// What was found in a drill.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it was good.
    pub passed: bool,
    /// What was said with it.
    pub note: Option<DrillNote>,
    /// By whom.
    pub by: Who,
    /// When: wall time, ns since 1970.
    pub given_unix_ns: u64,
}

/// What an operator says about a drill: one line, 1 to [`NOTE_MAX_CHARS`] characters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DrillNote(String);

impl DrillNote {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DrillNote {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let count = text.chars().count();
        if !(1..=NOTE_MAX_CHARS).contains(&count) || text.chars().any(char::is_control) {
            return Err(format!("a note is one line of 1 to {NOTE_MAX_CHARS} characters"));
        }
        Ok(Self(text))
    }
}

impl FromStr for DrillNote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl From<DrillNote> for String {
    fn from(note: DrillNote) -> Self {
        note.0
    }
}

/// What an operator says of drills.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "it is boxed where it is kept")]
pub enum DrillOrder {
    /// Begin one.
    Begin(NewDrill),
    /// Judge it, end it, or both.
    Close(DrillClose),
}

/// A drill to begin.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NewDrill {
    /// The group.
    pub group: GroupName,
    /// Its name.
    pub name: SnapshotName,
    /// At which update.
    pub at: DrillAt,
    /// How long it waits for that at most.
    pub within: Duration,
    /// How long its clones stay.
    pub expire: Option<Duration>,
    /// How much hosts may write to them.
    pub quota_bytes: Option<u64>,
    /// What is said about it.
    pub note: Option<DrillNote>,
    /// What the array has made of it; none: nothing yet, it can only be rehearsed.
    pub begun: Option<DrillBegun>,
}

/// What the array fills in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "it is boxed where it is kept")]
pub enum DrillBegun {
    /// The clones, durable and named by nobody yet.
    Made(MadeSnapshot),
    /// It has to wait.
    Waits {
        /// For this update.
        update: UpdateNumber,
        /// Wall time, ns since 1970.
        now_unix_ns: u64,
    },
}

/// What is said of a drill that there is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DrillClose {
    /// The group.
    pub group: GroupName,
    /// Its name.
    pub name: SnapshotName,
    /// Whether it was good.
    pub passed: Option<bool>,
    /// What is said with that.
    pub note: Option<DrillNote>,
    /// Its clones go.
    pub end: bool,
    /// Wall time, ns since 1970; the array fills it in.
    pub now_unix_ns: Option<u64>,
}

impl fmt::Display for DrillOrder {
    /// The command, without what was made: who says it again gets the first answer, and does not know that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = match self {
            Self::Begin(new) => {
                write!(f, "group drill {} {} --at {}", new.group, new.name, new.at)?;
                if let Some(expire) = new.expire {
                    write!(f, " --expire {}s", expire.as_secs())?;
                }
                if let Some(quota_bytes) = new.quota_bytes {
                    write!(f, " --quota {quota_bytes}B")?;
                }
                &new.note
            }
            Self::Close(close) => {
                write!(f, "group drill {} {}", close.group, close.name)?;
                f.write_str(match close.passed {
                    Some(true) => " --passed",
                    Some(false) => " --failed",
                    None => "",
                })?;
                f.write_str(if close.end { " --end" } else { "" })?;
                &close.note
            }
        };
        match note {
            Some(note) => write!(f, " --note {:?}", note.as_str()),
            None => Ok(()),
        }
    }
}

impl DrillOrder {
    /// The clones that were made for it, if any.
    #[must_use]
    pub fn made(&self) -> Option<&MadeSnapshot> {
        match self {
            Self::Begin(NewDrill { begun: Some(DrillBegun::Made(made)), .. }) => Some(made),
            Self::Begin(_) | Self::Close(_) => None,
        }
    }

    /// What is lost by it, in words for the operator.
    #[must_use]
    pub fn destroys(&self) -> Option<String> {
        match self {
            Self::Close(DrillClose { end: true, name, .. }) => Some(format!(
                "the clones of drill {name} with their LUNs and what was written to them; its record stays"
            )),
            Self::Begin(_) | Self::Close(_) => None,
        }
    }
}

/// Why what the volumes were is of no use for a drill, if it is not.
///
/// # Errors
/// Why.
pub fn usable(moment: &Moment) -> Result<Option<UpdateNumber>, String> {
    match moment {
        Moment::Update(number) => Ok(Some(*number)),
        Moment::Time => Ok(None),
        Moment::NoImage { restored, why } => {
            Err(format!("the volumes are no image, restored was update {restored}: {why}"))
        }
    }
}

/// Characters of a note; longer ones are refused.
pub const NOTE_MAX_CHARS: usize = 300;
/// A drill waits at most so long for an update, if nothing else is said.
pub const WITHIN_DEFAULT: Duration = Duration::from_secs(3_600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_newest_a_number_or_a_bookmark() {
        for (text, at) in [
            ("newest", Some(DrillAt::Newest)),
            ("17", Some(DrillAt::Number(UpdateNumber(17)))),
            ("bookmark:noon", "noon".parse().ok().map(DrillAt::Bookmark)),
            ("0", None),
            ("now", None),
            ("bookmark:", None),
            ("-1", None),
        ] {
            assert_eq!(text.parse::<DrillAt>().ok(), at, "{text}");
            assert!(at.is_none_or(|at| at.to_string() == text));
        }
    }

    #[test]
    fn a_note_is_one_line() {
        assert!("all services came up".parse::<DrillNote>().is_ok());
        for bad in ["", "two\nlines", "\u{1b}[2J", &"x".repeat(NOTE_MAX_CHARS + 1)] {
            assert!(bad.parse::<DrillNote>().is_err(), "{bad:?}");
        }
    }
}
