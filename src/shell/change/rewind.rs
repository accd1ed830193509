//! A group at another moment than now (decision 27).

use super::{Change, Here, How, one};
use crate::config::{ByteSize, parse_duration, parse_stop};
use crate::volume::designation::{Designation, NewSnapshot};
use crate::volume::keep::KeepImages;
use crate::volume::name::{GroupName, SnapshotName};
use crate::volume::snapshot::{SnapshotAt, SnapshotHosts, SnapshotOf};
use crate::volume::timing::{RestoreStop, StopWish};
use clap::Args;
use std::time::Duration;

/// Where a group is to be seen, and how.
#[derive(Clone, Debug, Args)]
pub struct RewindWords {
    /// The group.
    name: GroupName,
    /// The snapshot that it will be; its volumes are called NAME.VOLUME.
    snapshot: SnapshotName,
    /// An update number, bookmark:NAME, or a time like 2026-11-21T20:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = moment, required_unless_present = "apply")]
    to: Option<SnapshotAt>,
    /// Hosts may read it. Else they may write it, too: a clone.
    #[arg(long)]
    read_only: bool,
    /// The S-VOLs become what this snapshot is. Hosts may write them already (`group suspend --svol-write` at the primary), and do not use
    /// them at that moment.
    #[arg(long, conflicts_with_all = ["to", "read_only"])]
    apply: bool,
    #[command(flatten)]
    /// How.
    how: How,
}

impl RewindWords {
    pub(super) fn rewind(&self, here: &Here<'_>) -> Change {
        let Some(at) = self.to else {
            let (group, snapshot) = (self.name.clone(), self.snapshot.clone());
            return one(here, &self.how, Designation::ApplyRewind { group, snapshot });
        };
        let (name, of) = (self.snapshot.clone(), SnapshotOf::Group(self.name.clone()));
        let hosts = if self.read_only { SnapshotHosts::ReadOnly } else { SnapshotHosts::ReadWrite };
        let new = NewSnapshot { name, of, hosts, at, made: None };
        one(here, &self.how, Designation::CreateSnapshot(Box::new(new)))
    }
}

/// Which images of S-VOLs an array makes and keeps.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeepWords {
    /// At an array that copies the group: how far back a rewind shall reach, as 24h or 2d; "off": no images are made. For that the
    /// array makes images by itself, and its journal keeps what came behind them, both as long as there is room.
    #[arg(long, value_name = "TIME", value_parser = keep_time)]
    keep_images: Option<KeepTime>,
    /// With --keep-images: what images and updates may take. Default: no limit but the room that there is.
    #[arg(long, value_name = "SIZE", value_parser = ByteSize::parse, requires = "keep_images")]
    keep_images_bytes: Option<ByteSize>,
    /// With --keep-images: how often an image is made. Default a 24th of that time.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "keep_images")]
    image_interval: Option<Duration>,
}

/// A time, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeepTime(Option<Duration>);

impl KeepWords {
    /// What is said with them, if anything is.
    pub(super) fn designation(&self, group: &GroupName) -> Option<Designation> {
        let KeepTime(for_time) = self.keep_images?;
        let keep = for_time.map(|for_time| KeepImages {
            for_time,
            every: self.image_interval.unwrap_or_else(|| KeepImages::usual_interval(for_time)),
            bytes: self.keep_images_bytes.map(|size| size.0),
        });
        Some(Designation::KeepImages { group: group.clone(), keep })
    }
}

fn keep_time(text: &str) -> Result<KeepTime, String> {
    if text == "off" {
        return Ok(KeepTime(None));
    }
    parse_duration(text).map(|time| KeepTime(Some(time))).map_err(|error| format!("{error}, or \"off\""))
}

fn moment(text: &str) -> Result<SnapshotAt, String> {
    match parse_stop(text)? {
        StopWish::At(RestoreStop::Number(number)) => Ok(SnapshotAt::Update(number)),
        StopWish::At(RestoreStop::Time { unix_ns }) => Ok(SnapshotAt::Time { unix_ns }),
        StopWish::Bookmark(name) => Ok(SnapshotAt::Bookmark(name)),
        StopWish::Now | StopWish::GoOn => Err("what it is now, `snapshot create --group` keeps".to_owned()),
    }
}
