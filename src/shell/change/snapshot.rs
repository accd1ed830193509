//! Snapshots are made and deleted (decision 24).

use super::{Change, Here, How, one};
use crate::volume::designation::{Designation, NewSnapshot};
use crate::volume::name::{GroupName, SnapshotName, VolumeName};
use crate::volume::snapshot::{SnapshotAt, SnapshotHosts, SnapshotOf};
use clap::{ArgGroup, Subcommand};

/// What can be changed about snapshots.
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotChange {
    /// Keep what a volume, or all volumes of a group, are at this moment, while hosts go on writing.
    ///
    /// Its volumes are called as the snapshot or, of a group, NAME.VOLUME; hosts are shown them by `lun map`. Of a group
    /// it is exactly all updates up to the number that is said.
    #[command(group = ArgGroup::new("of").required(true).args(["volume", "group"]))]
    Create {
        /// Its name.
        name: SnapshotName,
        /// The volume; also one of another snapshot.
        #[arg(long)]
        volume: Option<VolumeName>,
        /// The group: all its volumes here that are paired.
        #[arg(long)]
        group: Option<GroupName>,
        /// Hosts may write it: a clone. Else they read it.
        #[arg(long)]
        writable: bool,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Delete a snapshot that is not mapped, with its volumes and what was written to them.
    Delete {
        /// Its name.
        name: SnapshotName,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl SnapshotChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let (what, how) = match self {
            Self::Create { name, volume, group, writable, how } => {
                let of = match (volume, group) {
                    (Some(volume), _) => SnapshotOf::Volume(volume.clone()),
                    (None, Some(group)) => SnapshotOf::Group(group.clone()),
                    (None, None) => return Err("say --volume or --group".to_owned()),
                };
                let hosts = if *writable { SnapshotHosts::ReadWrite } else { SnapshotHosts::ReadOnly };
                let new = NewSnapshot { name: name.clone(), of, hosts, at: SnapshotAt::Now, made: None };
                (Designation::CreateSnapshot(Box::new(new)), how)
            }
            Self::Delete { name, how } => (Designation::DeleteSnapshot { snapshot: name.clone() }, how),
        };
        Ok(one(here, how, what))
    }
}
