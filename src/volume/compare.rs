//! Comparing the volumes of a group at two arrays (promise O8, decision 28): what is wished, what the two say to each other, and what
//! is kept of the result.

use super::ask::AskedBy;
use super::group::Generation;
use super::name::{ArrayNumber, GroupName, GroupNumber, UpdateNumber, VolumeName, VolumeNumber};
use super::proof::VolumeRoots;
use super::record::Identity;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// What an operator chooses for a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CompareOptions {
    /// Bytes that each side reads in a second at most.
    pub rate_bytes_per_s: Option<u64>,
    /// Read also what was not written since it was read last.
    pub is_full: bool,
    /// Make equal what differs.
    pub repair: Option<Repair>,
}

/// Comparisons that an array leads by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CompareSchedule {
    /// So long after the beginning of the last one.
    pub every: Duration,
    /// How.
    pub options: CompareOptions,
}

/// From which side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Only where one side is proven wrong.
    Proven,
    /// Where nothing is proven the source is right.
    FromPrimary,
    /// Where nothing is proven the copy is right.
    FromCopy,
}

impl fmt::Display for CompareOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rate) = self.rate_bytes_per_s {
            write!(f, " --rate {rate}B/s")?;
        }
        if self.is_full {
            f.write_str(" --full")?;
        }
        f.write_str(match self.repair {
            None => "",
            Some(Repair::Proven) => " --repair",
            Some(Repair::FromPrimary) => " --repair --from primary",
            Some(Repair::FromCopy) => " --repair --from copy",
        })
    }
}

/// What one array says to another about a comparison.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AskCompare {
    /// To an array that copies the group from the one that asks: compare.
    Start {
        /// The group.
        group: GroupName,
        /// How.
        options: CompareOptions,
        /// Who asked there.
        by: AskedBy,
    },
    /// To an array that copies the group from the same array as the one that asks: make ready to compare these copies.
    Beside {
        /// Which comparison.
        id: Identity,
        /// The group.
        group: GroupName,
        /// Of what they are copies.
        of: CopiesOf,
        /// How.
        options: CompareOptions,
    },
    /// To the source, or to the other copy: a step of a comparison.
    Step {
        /// Which comparison.
        id: Identity,
        /// The group's number there.
        group: u32,
        /// Which attempt at two images of one number it is: 0 before the first. What belongs to an earlier one comes too late.
        attempt: u32,
        /// What.
        step: Step,
    },
}

/// Of what two copies are copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopiesOf {
    /// The array from which both copy.
    pub source: ArrayNumber,
    /// The group's number there.
    pub group: GroupNumber,
    /// The numbers there of the volumes whose copies are compared; the steps name them so.
    pub volumes: Vec<VolumeNumber>,
}

/// What the copy asks of the source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Make ready to compare these P-VOLs.
    Begin {
        /// Their numbers there.
        volumes: Vec<VolumeNumber>,
        /// How.
        options: CompareOptions,
    },
    /// Cut an image of them now, in place of the one that was cut before.
    Cut,
    /// To another copy: cut an image at this update or any later one, as soon as that many are restored; in place of the one before.
    CutFrom {
        /// What is restored at the array that asks, and held there.
        at_least: UpdateNumber,
    },
    /// Hash it: the copy has one of the same number.
    Hash,
    /// How far is it?
    State,
    /// What are the digests of the children of these nodes?
    Nodes {
        /// Which volume.
        volume: VolumeNumber,
        /// At most [`NODES_MAX`].
        nodes: Vec<Node>,
    },
    /// What are the digests of the pages of this extent?
    Pages {
        /// Which volume.
        volume: VolumeNumber,
        /// Which extent.
        extent: u32,
    },
    /// Give the copy once more what these pages hold, as updates of their own.
    Rewrite {
        /// Which volume.
        volume: VolumeNumber,
        /// Numbers of pages, at most [`REWRITE_MAX`].
        pages: Vec<u64>,
    },
    /// Write what the copy has, where nothing was written since.
    Put {
        /// Which volume.
        volume: VolumeNumber,
        /// Which page.
        page: u64,
        /// Its bytes, in hexadecimal digits; empty for zeros.
        bytes: String,
    },
    /// It is over.
    End {
        /// What came of it.
        result: Box<Compared>,
    },
}

/// What the source answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TellCompare {
    /// It is begun, or noted.
    Done,
    /// It is begun at another copy.
    Begun {
        /// The group's number there.
        group: u32,
    },
    /// An image was cut.
    Cut {
        /// It has all updates up to this one and nothing else.
        number: UpdateNumber,
        /// Its generation.
        generation: Generation,
        /// What the volumes are called there, in the order in which they were named.
        names: Vec<VolumeName>,
    },
    /// Restore at the other copy is not that far: it is held at that number, and the image is cut when it comes there.
    Behind {
        /// What is restored there.
        restored: UpdateNumber,
        /// So much later than it can it restores, ms.
        delay_ms: u64,
    },
    /// How far hashing is.
    State {
        /// Bytes to hash.
        total_bytes: u64,
        /// Of them, done.
        done_bytes: u64,
        /// Of these, read.
        read_bytes: u64,
        /// The roots of the volumes, when all is done.
        roots: Option<Vec<Digest>>,
    },
    /// The children of the nodes, one after the other.
    Nodes(Vec<Vec<Digest>>),
    /// The pages of an extent.
    Pages {
        /// Their digests.
        digests: Vec<Digest>,
        /// It was read before, not written since, and is another one now.
        is_rotten: bool,
    },
    /// So many of the pages were written; the others have changed since.
    Written(u32),
}

impl TellCompare {
    /// Whether it can be an answer.
    #[must_use]
    pub fn is_possible(&self, asked: &Step) -> bool {
        match (self, asked) {
            (Self::Done, Step::Begin { .. } | Step::Hash | Step::End { .. })
            | (Self::Cut { .. }, Step::Cut)
            | (Self::State { .. }, Step::State) => true,
            (Self::Cut { number, .. }, Step::CutFrom { at_least }) => number >= at_least,
            (Self::Behind { restored, .. }, Step::CutFrom { at_least }) => restored <= at_least,
            (Self::Nodes(all), Step::Nodes { nodes, .. }) => {
                all.len() == nodes.len() && all.iter().all(|children| children.len() == FAN)
            }
            (Self::Pages { digests, .. }, Step::Pages { .. }) => digests.len() == PAGES,
            (Self::Written(written), Step::Rewrite { pages, .. }) => {
                usize::try_from(*written).is_ok_and(|written| written <= pages.len())
            }
            (Self::Written(written), Step::Put { .. }) => *written <= 1,
            _ => false,
        }
    }
}

/// What came of a comparison, as both arrays keep it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// Which it was.
    pub id: Identity,
    /// What the two have to do with each other.
    #[serde(default, skip_serializing_if = "Between::is_source_and_copy")]
    pub between: Between,
    /// The array that gives or hands on the numbers; of two copies the one that was asked.
    pub source: ArrayNumber,
    /// The array that copies; of two copies the one that led.
    pub copy: ArrayNumber,
    /// Both were compared as of this update.
    pub number: Option<UpdateNumber>,
    /// The generation to which it belonged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// By the clock of the copy, ns since 1970.
    pub began_unix_ns: u64,
    /// The same.
    pub ended_unix_ns: u64,
    /// How it was chosen.
    pub options: CompareOptions,
    /// Bytes that were held against each other, as far as they are not zeros that were never written.
    pub compared_bytes: u64,
    /// Of them, read at the copy.
    pub read_bytes: u64,
    /// Of them, read at the source.
    pub source_read_bytes: u64,
    /// What came of it.
    pub outcome: CompareOutcome,
    /// Bytes that differ, in whole pages; where too much differs, in whole MiB.
    pub different_bytes: u64,
    /// Where, at most [`RANGES_KEPT`].
    pub ranges: Vec<DifferentRange>,
    /// Bytes that were made equal again.
    pub repaired_bytes: u64,
    /// The seal of the result before it, of the same two arrays; zero: there is none.
    #[serde(default)]
    pub previous: Digest,
    /// Of the roots.
    #[serde(default)]
    pub roots_digest: Digest,
    /// What both sides found of each volume; kept of the newest result only.
    #[serde(default)]
    pub roots: Vec<VolumeRoots>,
    /// Over all of this but the roots (`proof.rs`).
    #[serde(default)]
    pub seal: Digest,
}

/// What two arrays that were compared have to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Between {
    /// One copies from the other.
    #[default]
    SourceAndCopy,
    /// Both copy from the same array: neither is right by itself.
    Copies,
    /// It is one array: nothing was compared, what is said are the roots of a snapshot.
    Snapshot,
}

impl Between {
    /// What results say that were sealed before there was anything else; so it is left out.
    #[must_use]
    pub fn is_source_and_copy(&self) -> bool {
        *self == Self::SourceAndCopy
    }
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompareOutcome {
    /// Not a byte differs.
    Equal,
    /// Something differs.
    Different,
    /// An operator ended it.
    Cancelled,
    /// It could not be done.
    Failed(String),
}

impl CompareOutcome {
    /// Whether it was compared to the end.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Equal | Self::Different)
    }
}

/// Where two volumes differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DifferentRange {
    /// The volume at the source; of two copies at the one that was asked.
    pub pvol: VolumeName,
    /// The volume at the copy; of two copies at the one that led.
    pub svol: VolumeName,
    /// First byte, the same in both.
    pub offset_bytes: u64,
    /// How many.
    pub length_bytes: u64,
    /// The side that is proven to be wrong there: what it read before has changed without being written.
    pub wrong: Option<Side>,
}

/// A comparison that is led here: while this stands in a group, a start of the array begins it again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Comparing {
    /// What was wished.
    pub options: CompareOptions,
    /// The other copy, if it is not compared with its source.
    pub beside: Option<ArrayNumber>,
    /// When it was said, by this array's clock.
    pub began_unix_ns: u64,
    /// How often it was begun.
    pub begun: u32,
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the numbers come from; of two copies the one that was asked.
    Primary,
    /// Where they are restored; of two copies the one that led.
    Copy,
}

impl Compared {
    /// As another array may say it: nothing is kept that is longer than this array would have made it.
    #[must_use]
    pub fn within_limits(mut self) -> Self {
        self.ranges.truncate(RANGES_KEPT);
        self.roots.truncate(VOLUMES_MAX);
        if let CompareOutcome::Failed(why) = &mut self.outcome {
            *why = why.chars().filter(|c| !c.is_control()).take(REASON_MAX_CHARS).collect();
        }
        self
    }
}

impl fmt::Display for Compared {
    /// What the audit log says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.between {
            Between::SourceAndCopy => write!(f, "array {} with array {}", self.copy, self.source)?,
            Between::Copies => write!(f, "array {} with array {}, two copies,", self.copy, self.source)?,
            Between::Snapshot => write!(f, "array {}, a snapshot,", self.copy)?,
        }
        if let Some(number) = self.number {
            write!(f, " as of update {number}")?;
        }
        write!(f, "{}: ", self.options)?;
        match &self.outcome {
            CompareOutcome::Equal if self.between == Between::Snapshot => {
                write!(f, "roots of {} bytes", self.compared_bytes)?;
            }
            CompareOutcome::Equal => write!(f, "equal, {} bytes", self.compared_bytes)?,
            CompareOutcome::Cancelled => f.write_str("cancelled")?,
            CompareOutcome::Failed(why) => write!(f, "not done: {why}")?,
            CompareOutcome::Different => {
                write!(f, "{} of {} bytes differ", self.different_bytes, self.compared_bytes)?;
                for range in self.ranges.iter().take(RANGES_NAMED) {
                    write!(
                        f,
                        ", {} and {} at {}+{}",
                        range.pvol, range.svol, range.offset_bytes, range.length_bytes
                    )?;
                }
                write!(f, "; {} bytes repaired", self.repaired_bytes)?;
            }
        }
        Ok(())
    }
}

/// Puts a result behind the others and lets the oldest go; the newest of two arrays goes last. Of the results of two arrays the last that
/// has roots keeps them.
pub fn keep(all: &mut Vec<Compared>, one: Compared) {
    all.retain(|kept| kept.id != one.id);
    let same =
        |kept: &&mut Compared| !one.roots.is_empty() && (kept.source, kept.copy) == (one.source, one.copy);
    all.iter_mut().filter(same).for_each(|kept| kept.roots = Vec::new());
    all.push(one);
    while all.len() > RESULTS_KEPT {
        let is_followed = |(at, one): (usize, &Compared)| {
            all[at + 1..].iter().any(|later| (later.source, later.copy) == (one.source, one.copy))
        };
        let goes = all.iter().enumerate().position(is_followed);
        all.remove(goes.unwrap_or(0));
    }
}

/// A digest; [`Digest::ZERO`] of zeros.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of zeros, however many.
    pub const ZERO: Self = Self([0; 32]);
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    /// As it travels: nothing for zeros, which are most.
    fn from(digest: Digest) -> Self {
        if digest == Digest::ZERO { Self::new() } else { digest.to_string() }
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            return Ok(Self::ZERO);
        }
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("a digest is 64 hexadecimal digits, or nothing");
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).unwrap_or_default();
            *byte = u8::from_str_radix(digits, 16).map_err(|_| "not hexadecimal")?;
        }
        Ok(Self(bytes))
    }
}

/// A node of a tree: level 0 is an extent, [`ROOT_LEVEL`] the root, which is number 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Node {
    /// How far above the extents it stands.
    pub level: u8,
    /// Its number on that level.
    pub number: u32,
}

impl Node {
    /// The root of every tree.
    pub const ROOT: Self = Self { level: ROOT_LEVEL, number: 0 };

    /// Whether a tree can have it, and it has children among nodes.
    #[must_use]
    pub fn is_inner(self) -> bool {
        let below = FAN_BITS * u32::from(ROOT_LEVEL.saturating_sub(self.level));
        (1..=ROOT_LEVEL).contains(&self.level) && (self.number >> below) == 0
    }

    /// One of its children.
    #[must_use]
    pub fn child(self, at: usize) -> Self {
        let at = u32::try_from(at).unwrap_or(0);
        Self { level: self.level.saturating_sub(1), number: (self.number << FAN_BITS) | at }
    }
}

/// Pages of an extent.
pub const PAGES: usize = 256;
/// Children of a node.
pub const FAN: usize = 1 << FAN_BITS;
/// The same as a power of two.
pub const FAN_BITS: u32 = 6;
/// The root's level: 64 to the fifth extents are more than any volume has.
pub const ROOT_LEVEL: u8 = 5;
/// Volumes of one comparison; more are refused. What is said of all of them fits into one answer.
pub const VOLUMES_MAX: usize = 512;
/// Nodes that one question names: their children fit into an answer.
pub const NODES_MAX: usize = 8;
/// Pages that one question wants written.
pub const REWRITE_MAX: usize = 64;
/// Ranges that are kept with a result; more are counted only.
pub const RANGES_KEPT: usize = 64;
/// Results that are kept of a group.
const RESULTS_KEPT: usize = 8;
/// Ranges that the audit log names.
const RANGES_NAMED: usize = 8;
/// Longer reasons are cut.
const REASON_MAX_CHARS: usize = 400;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_from_another_array_is_one_or_is_refused() {
        let digest = Digest([0xa5; 32]);
        let text = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&text).unwrap(), digest);
        assert_eq!(serde_json::from_str::<Digest>("\"\"").unwrap(), Digest::ZERO);
        for wrong in ["\"12\"", "7", "null"] {
            assert!(serde_json::from_str::<Digest>(wrong).is_err(), "{wrong}");
        }
        let accents = "é".repeat(32);
        assert!(Digest::try_from(accents).is_err());
        for (level, number, is_inner) in [
            (5, 0, true),
            (5, 1, false),
            (1, 1 << 24, false),
            (1, (1 << 24) - 1, true),
            (0, 0, false),
            (6, 0, false),
        ] {
            assert_eq!(Node { level, number }.is_inner(), is_inner, "{level} {number}");
        }
    }
}
