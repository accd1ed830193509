//! Disaster drills: begun, judged, ended (decision 26).

use super::{Change, Here, How, one};
use crate::config::{ByteSize, parse_duration};
use crate::volume::designation::Designation;
use crate::volume::drill::{DrillAt, DrillClose, DrillNote, DrillOrder, NewDrill, WITHIN_DEFAULT};
use crate::volume::name::{GroupName, SnapshotName};
use clap::{ArgGroup, Args};
use std::time::Duration;

/// Begin a drill under a name that the group has none of; judge one; end one; or show all.
///
/// Its clones are the volumes of a writable snapshot, called NAME.VOLUME: hosts are shown them by `lun map`.
#[derive(Clone, Debug, Args)]
#[command(group = ArgGroup::new("closes").multiple(true).args(["passed", "failed", "end"])
    .conflicts_with_all(["at", "within", "expire", "quota"]))]
pub struct DrillWords {
    /// The group.
    pub group: GroupName,
    /// The drill's name.
    #[arg(required_unless_present = "list")]
    pub name: Option<SnapshotName>,
    /// Show all drills of the group of which there is a record.
    #[arg(long, conflicts_with_all = ["name", "closes", "at", "within", "expire", "quota", "note", "dry_run", "yes", "id"])]
    pub list: bool,
    /// "newest" (what the volumes here are now), or, where the group is copied: an update number or bookmark:NAME,
    /// which is waited for if it is not restored yet. Default newest.
    #[arg(long, value_name = "WHEN")]
    pub at: Option<DrillAt>,
    /// How long to wait for that at most. Default 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "at")]
    pub within: Option<Duration>,
    /// The clones are deleted after this time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub expire: Option<Duration>,
    /// How much hosts may write to the clones, counted by each MiB that they write into.
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse)]
    pub quota: Option<ByteSize>,
    /// One line about it, kept with it: when it begins, or with the verdict.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<DrillNote>,
    /// What was tried worked.
    #[arg(long, conflicts_with = "failed")]
    pub passed: bool,
    /// What was tried did not work.
    #[arg(long)]
    pub failed: bool,
    /// Delete the clones, also those that are mapped; the record stays.
    #[arg(long)]
    pub end: bool,
    #[command(flatten)]
    /// How.
    pub how: How,
}

impl DrillWords {
    pub(super) fn drill(&self, here: &Here<'_>) -> Result<Change, String> {
        let (group, note) = (self.group.clone(), self.note.clone());
        let name = self.name.clone().ok_or_else(|| "say the drill's name".to_owned())?;
        let passed = (self.passed || self.failed).then_some(self.passed);
        let order = if passed.is_some() || self.end {
            if note.is_some() && passed.is_none() {
                return Err(
                    "a note belongs to a beginning or to a verdict: say --passed or --failed with it".into(),
                );
            }
            DrillOrder::Close(DrillClose { group, name, passed, note, end: self.end, now_unix_ns: None })
        } else {
            DrillOrder::Begin(NewDrill {
                group,
                name,
                at: self.at.unwrap_or(DrillAt::Newest),
                within: self.within.unwrap_or(WITHIN_DEFAULT),
                expire: self.expire,
                quota_bytes: self.quota.map(|size| size.0),
                note,
                begun: None,
            })
        };
        Ok(one(here, &self.how, Designation::Drill(Box::new(order))))
    }
}
