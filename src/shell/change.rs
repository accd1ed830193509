//! The commands that change something: words become designations, nothing else happens here.
//!
//! Every change goes the same way: a command line is parsed into one of the types below, which turns into a list of
//! designations (`Change`); the array checks and applies them in one transaction, and the audit log says who gave
//! them. A new change needs a variant here with its words, an arm in its `designations`, and the designation itself.
//! What a change destroys is said by `destroys` beside the designations, so that no command can forget to ask.

mod copies;
mod copy;
mod drill;
mod link;
mod local;
mod positions;
mod rewind;
mod snapshot;
mod takeover;
mod words;

pub use copies::{
    PairResyncWords, PairSuspendWords, PairWords, ResyncWords, ReverseWords, SuspendWords, WhichWords,
};
pub use copy::{GroupChange, JournalChange, PairChange};
pub use drill::DrillWords;
pub use link::{LinkChange, RelayWords, TimingWords, TransferWords};
pub use local::{ChapWords, LunChange, ParityGroupChange, TargetChange, VolumeChange};
pub(super) use positions::hold_against;
pub use snapshot::SnapshotChange;
pub use takeover::{FailbackWords, TakeoverWords};
pub use words::UnitWord;

use super::parse::{
    ConfigVerb, GroupVerb, JournalVerb, LinkVerb, LunVerb, PairVerb, ParityGroupVerb, ShellCommand,
    SnapshotVerb, TargetVerb, VolumeVerb,
};
use super::view::{Console, PositionView};
use crate::config::{Provision, References, Secret};
use crate::volume::designation::{Designation, DesignationId};
use crate::volume::name::LinkName;
use crate::volume::record::{Identity, UnitRecord};
use crate::volume::store::Order;
use clap::Args;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A command that changes something, ready to be applied.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) orders: Vec<Order>,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    /// What is lost by it, in words; empty when nothing is.
    pub(super) destroys: Vec<String>,
    /// What happens with it besides, in sentences.
    pub(super) says: Vec<String>,
    /// What it does not touch although it was named.
    pub(super) left: Vec<String>,
    /// What other arrays have of a group that is taken over.
    pub(super) others: Vec<PositionView>,
}

/// Where a command was given.
pub(super) struct Here<'a> {
    pub(super) directory: Option<&'a Path>,
    pub(super) console: &'a dyn Console,
    /// Standard input.
    pub(super) input: Option<&'a str>,
    /// No file of this machine is read.
    pub(super) is_remote: bool,
}

impl Here<'_> {
    /// A path as the operator meant it.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }

    /// The standard input of the command.
    pub(super) fn input(&self) -> Result<&str, String> {
        self.input.ok_or_else(|| "there is no standard input here: say it with the command".to_owned())
    }

    /// Whether what is said may refer to files and variables of this machine.
    pub(super) fn references(&self) -> References {
        if self.is_remote { References::Refused } else { References::Followed }
    }

    fn secret(&self, file: &Path) -> Result<Secret, String> {
        if file == Path::new("-") {
            return Secret::new(self.input()?);
        }
        if self.is_remote {
            return Err("from another machine a secret comes by standard input: say - for the file".into());
        }
        let path = self.path(file);
        Secret::from_file(&path)
    }

    fn units(&self, units: &[UnitWord]) -> Vec<UnitRecord> {
        let unit = |unit: &UnitWord| UnitRecord {
            identity: self.console.identity(),
            path: self.path(&unit.path),
            size_bytes: unit.size.map(|size| size.0),
            is_ours: false,
        };
        units.iter().map(unit).collect()
    }
}

/// Words that every change takes.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct How {
    /// Only say what would change.
    #[arg(long)]
    pub dry_run: bool,
    /// Do it although something is destroyed.
    #[arg(long)]
    pub yes: bool,
    /// Identity of this change: given again, nothing happens and the first answer is repeated.
    #[arg(long, value_name = "TEXT", value_parser = designation_id)]
    pub id: Option<DesignationId>,
}

impl ShellCommand {
    /// The change that this command is, if it is one.
    pub(super) fn change(&self, here: &Here<'_>) -> Option<Result<Change, String>> {
        Some(match self {
            Self::ParityGroup(ParityGroupVerb::Change(change)) => change.change(here),
            Self::Volume(VolumeVerb::Change(change)) => change.change(here),
            Self::Snapshot(SnapshotVerb::Change(change)) => change.change(here),
            Self::Target(TargetVerb::Change(change)) => change.change(here),
            Self::Lun(LunVerb::Change(change)) => change.change(here),
            Self::Link(LinkVerb::Change(change)) => change.change(here),
            Self::Group(GroupVerb::Change(GroupChange::Drill(words))) if words.list => return None,
            Self::Group(GroupVerb::Change(change)) => change.change(here),
            Self::Journal(JournalVerb::Change(change)) => change.change(here),
            Self::Pair(PairVerb::Change(change)) => change.change(here),
            Self::Config(ConfigVerb::Apply { file, dry_run }) => apply(here, file, *dry_run),
            Self::Array(_)
            | Self::Unit(_)
            | Self::ParityGroup(ParityGroupVerb::Look(_))
            | Self::Volume(VolumeVerb::Look(_))
            | Self::Snapshot(SnapshotVerb::Look(_))
            | Self::Target(TargetVerb::Look(_))
            | Self::Lun(LunVerb::List { .. })
            | Self::Session(_)
            | Self::Link(LinkVerb::Look(_) | LinkVerb::Test { .. })
            | Self::Group(GroupVerb::Look(_) | GroupVerb::Compare(_) | GroupVerb::Proof { .. })
            | Self::Journal(JournalVerb::Look(_))
            | Self::Pair(PairVerb::List | PairVerb::Show { .. } | PairVerb::Wait(_))
            | Self::Event(_)
            | Self::Audit(_)
            | Self::Config(ConfigVerb::Export { .. } | ConfigVerb::Check { .. }) => return None,
        })
    }
}

/// What a file declares and this array does not have.
fn apply(here: &Here<'_>, file: &Path, dry_run: bool) -> Result<Change, String> {
    let base = here.directory.unwrap_or(Path::new(""));
    let read = if file == Path::new("-") {
        Provision::parse_from(file, here.input()?, base, here.references())
    } else if here.is_remote {
        return Err("from another machine it comes by standard input: say - for the file".into());
    } else {
        Provision::load(&here.path(file), base)
    };
    let (number, wanted) = read.map_err(|mistakes| {
        let all: Vec<String> = mistakes.iter().take(MISTAKES_SHOWN).map(ToString::to_string).collect();
        all.join("; ")
    })?;
    let own = here.console.snapshot().array.number;
    if let Some(number) = number.filter(|number| own != 0 && number.0 != own) {
        return Err(format!("{} is for array {number}, this is array {own}", file.display()));
    }
    let (orders, left) = here.console.compared(&wanted);
    Ok(Change {
        orders,
        dry_run,
        yes: false,
        destroys: Vec::new(),
        says: Vec::new(),
        left,
        others: Vec::new(),
    })
}

/// One designation, here or at the array behind a link.
fn one(here: &Here<'_>, how: &How, what: Designation) -> Change {
    let id = how.id.unwrap_or_else(|| DesignationId(here.console.identity()));
    let destroys = what.destroys().into_iter().collect();
    Change {
        orders: vec![(id, what)],
        dry_run: how.dry_run,
        yes: how.yes,
        destroys,
        says: Vec::new(),
        left: Vec::new(),
        others: Vec::new(),
    }
}

/// What was done before.
fn nothing(how: &How) -> Change {
    Change {
        orders: Vec::new(),
        dry_run: how.dry_run,
        yes: how.yes,
        destroys: Vec::new(),
        says: Vec::new(),
        left: Vec::new(),
        others: Vec::new(),
    }
}

fn one_at(here: &Here<'_>, how: &How, at: Option<&LinkName>, what: Designation) -> Change {
    match at {
        None => one(here, how, what),
        Some(link) => one(here, how, Designation::PassOn { link: link.clone(), what: Box::new(what) }),
    }
}

/// A text that names a designation: 32 hexadecimal digits as they are, anything else by its hash.
fn designation_id(text: &str) -> Result<DesignationId, String> {
    if !(1..=ID_MAX_BYTES).contains(&text.len()) {
        return Err(format!("an identity has 1 to {ID_MAX_BYTES} bytes"));
    }
    if let Ok(identity) = text.parse::<Identity>() {
        return Ok(DesignationId(identity));
    }
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    let half = hash.first_chunk::<16>().copied().unwrap_or_default();
    Ok(DesignationId(Identity(u128::from_be_bytes(half))))
}

/// Mistakes of a file that one refusal names.
const MISTAKES_SHOWN: usize = 20;
/// Longer identities of designations are refused.
const ID_MAX_BYTES: usize = 256;

#[cfg(test)]
mod tests;
