//! A group at another moment than now (decision 27).

use super::{Change, Here, How, one};
use crate::config::parse_stop;
use crate::volume::designation::{Designation, NewSnapshot};
use crate::volume::name::{GroupName, SnapshotName};
use crate::volume::snapshot::{SnapshotAt, SnapshotHosts, SnapshotOf};
use crate::volume::timing::{RestoreStop, StopWish};
use clap::Args;

/// Where a group is to be seen, and how.
#[derive(Clone, Debug, Args)]
pub struct RewindWords {
    /// The group.
    name: GroupName,
    /// The snapshot that it will be; its volumes are called NAME.VOLUME.
    snapshot: SnapshotName,
    /// An update number, bookmark:NAME, or a time like 2026-11-21T20:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = moment)]
    to: SnapshotAt,
    /// Hosts may read it. Else they may write it, too: a clone.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    /// How.
    how: How,
}

impl RewindWords {
    pub(super) fn rewind(&self, here: &Here<'_>) -> Change {
        let (name, of) = (self.snapshot.clone(), SnapshotOf::Group(self.name.clone()));
        let hosts = if self.read_only { SnapshotHosts::ReadOnly } else { SnapshotHosts::ReadWrite };
        let new = NewSnapshot { name, of, hosts, at: self.to, made: None };
        one(here, &self.how, Designation::CreateSnapshot(Box::new(new)))
    }
}

fn moment(text: &str) -> Result<SnapshotAt, String> {
    match parse_stop(text)? {
        StopWish::At(RestoreStop::Number(number)) => Ok(SnapshotAt::Update(number)),
        StopWish::At(RestoreStop::Time { unix_ns }) => Ok(SnapshotAt::Time { unix_ns }),
        StopWish::Bookmark(name) => Ok(SnapshotAt::Bookmark(name)),
        StopWish::Now | StopWish::GoOn => Err("what it is now, `snapshot create --group` keeps".to_owned()),
    }
}
