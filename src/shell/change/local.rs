//! Changes that concern one array alone: parity groups, volumes, targets, LUNs.

use super::words::{UnitWord, cache_mode, initiator, level, lun, lun_word};
use super::{Change, Here, How, one, one_at};
use crate::config::{ByteSize, CacheMode, InitiatorRule, RaidLevel};
use crate::volume::designation::{Designation, NewParityGroup, NewTarget, NewVolume};
use crate::volume::name::{IscsiName, LinkName, Lun, ParityGroupName, VolumeName};
use crate::volume::record::{ChapRecord, Credential};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What can be changed about parity groups.
#[derive(Clone, Debug, Subcommand)]
pub enum ParityGroupChange {
    /// Make one of files or block devices.
    Create {
        /// Its name.
        name: ParityGroupName,
        /// raid0 or raid5.
        #[arg(long, value_parser = level)]
        level: RaidLevel,
        /// Its units: PATH:SIZE for files to make, PATH for devices and files that exist.
        #[arg(long = "unit", required = true, num_args = 1.., value_name = "PATH[:SIZE]")]
        units: Vec<UnitWord>,
        /// Units that stand by.
        #[arg(long = "spare", num_args = 1.., value_name = "PATH[:SIZE]")]
        spares: Vec<UnitWord>,
        /// Bytes on one unit before the next one is used: a power of two.
        #[arg(long, default_value = "64KiB", value_parser = ByteSize::parse)]
        stripe_unit: ByteSize,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl ParityGroupChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { name, level, units, spares, stripe_unit, how } = self;
        let new = NewParityGroup {
            name: name.clone(),
            identity: here.console.identity(),
            level: *level,
            stripe_unit_bytes: stripe_unit.0,
            units: here.units(units),
            spares: here.units(spares),
        };
        Ok(one(here, how, Designation::CreateParityGroup(new)))
    }
}

/// What can be changed about volumes.
#[derive(Clone, Debug, Subcommand)]
pub enum VolumeChange {
    /// Make a volume.
    Create {
        /// Its name.
        name: VolumeName,
        /// Where its extents come from.
        #[arg(long, required_unless_present = "is_virtual", conflicts_with = "is_virtual")]
        parity_group: Option<ParityGroupName>,
        /// No units behind it: the array keeps only journals of what an upstream array forwards to it.
        #[arg(long = "virtual")]
        is_virtual: bool,
        /// Its capacity: a multiple of 4KiB.
        #[arg(long, value_parser = ByteSize::parse)]
        size: ByteSize,
        /// Take extents only when they are written.
        #[arg(long)]
        thin: bool,
        /// When a write is answered: write-back or write-through.
        #[arg(long, default_value = "write-back", value_parser = cache_mode)]
        cache: CacheMode,
        /// Logical block size: 512 or 4096.
        #[arg(long, default_value_t = 512)]
        block_size: u32,
        /// Make it at the array behind this link.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Make a volume larger while hosts use it, and its copies with it: they get the room first. What is new reads as zeros.
    /// Its present size calls back a growth that waits.
    Resize {
        /// Its name.
        name: VolumeName,
        /// Its size afterwards: a multiple of 4KiB.
        #[arg(value_parser = ByteSize::parse)]
        size: ByteSize,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Give a volume another name; pairs and journals keep theirs.
    Rename {
        /// Its name.
        name: VolumeName,
        /// Its new name.
        new: VolumeName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Delete a volume that nothing uses, with all that is on it.
    Delete {
        /// Its name.
        name: VolumeName,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl VolumeChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let (name, parity_group, size, thin, cache, block_size, at, how) = match self {
            Self::Create { name, parity_group, is_virtual: _, size, thin, cache, block_size, at, how } => {
                (name, parity_group, size, thin, cache, block_size, at, how)
            }
            Self::Resize { name, size, how } => {
                let what = Designation::ResizeVolume { volume: name.clone(), size_bytes: size.0 };
                return Ok(one(here, how, what));
            }
            Self::Rename { name, new, how } => {
                let what = Designation::RenameVolume { volume: name.clone(), name: new.clone() };
                return Ok(one(here, how, what));
            }
            Self::Delete { name, how } => {
                return Ok(one(here, how, Designation::DeleteVolume { volume: name.clone() }));
            }
        };
        let new = NewVolume {
            name: name.clone(),
            identity: here.console.identity(),
            parity_group: parity_group.clone(),
            size_bytes: size.0,
            block_size_bytes: *block_size,
            is_thin: *thin,
            cache: *cache,
        };
        Ok(one_at(here, how, at.as_ref(), Designation::CreateVolume(new)))
    }
}

/// What can be changed about targets.
#[derive(Clone, Debug, Subcommand)]
pub enum TargetChange {
    /// Make a target: nothing is open to anybody that is not named.
    Create {
        /// Its iSCSI name.
        iqn: IscsiName,
        /// What it shows: NUMBER=VOLUME.
        #[arg(long = "lun", num_args = 1.., value_name = "NUMBER=VOLUME", value_parser = lun_word)]
        luns: Vec<(Lun, VolumeName)>,
        /// Who may log in: a name, or * for anybody.
        #[arg(long = "initiator", num_args = 1.., value_parser = initiator)]
        initiators: Vec<InitiatorRule>,
        #[command(flatten)]
        /// What initiators must prove.
        chap: ChapWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Delete a target that nobody is logged in to, with its LUNs; the volumes stay.
    Delete {
        /// Its iSCSI name.
        iqn: IscsiName,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

/// What initiators must prove, and the target in turn.
#[derive(Clone, Debug, Args)]
pub struct ChapWords {
    /// Name that initiators must give.
    #[arg(long, requires = "chap_secret_file")]
    pub chap_user: Option<String>,
    /// File with their secret.
    #[arg(long, requires = "chap_user", value_name = "FILE")]
    pub chap_secret_file: Option<PathBuf>,
    /// Name that the target gives in turn.
    #[arg(long, requires = "mutual_secret_file", requires = "chap_user")]
    pub mutual_user: Option<String>,
    /// File with the target's secret, another one.
    #[arg(long, requires = "mutual_user", value_name = "FILE")]
    pub mutual_secret_file: Option<PathBuf>,
}

impl ChapWords {
    fn record(&self, here: &Here<'_>) -> Result<Option<ChapRecord>, String> {
        let credential = |user: &Option<String>, file: &Option<PathBuf>| match (user, file) {
            (Some(user), Some(file)) => {
                Ok::<_, String>(Some(Credential { user: user.clone(), secret: here.secret(file)? }))
            }
            (_, _) => Ok(None),
        };
        let initiator = credential(&self.chap_user, &self.chap_secret_file)?;
        let mutual = credential(&self.mutual_user, &self.mutual_secret_file)?;
        Ok(initiator.map(|initiator| ChapRecord { initiator, mutual }))
    }
}

impl TargetChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let (iqn, luns, initiators, chap, how) = match self {
            Self::Create { iqn, luns, initiators, chap, how } => (iqn, luns, initiators, chap, how),
            Self::Delete { iqn, how } => {
                return Ok(one(here, how, Designation::DeleteTarget { target: iqn.clone() }));
            }
        };
        let new = NewTarget {
            iqn: iqn.clone(),
            luns: luns.clone(),
            read_only_for: Vec::new(),
            initiators: initiators.clone(),
            chap: chap.record(here)?,
        };
        Ok(one(here, how, Designation::CreateTarget(new)))
    }
}

/// What can be changed about LUNs.
#[derive(Clone, Debug, Subcommand)]
pub enum LunChange {
    /// Show a volume under a number of a target.
    Map {
        /// Target.
        target: IscsiName,
        /// Number.
        #[arg(value_parser = lun)]
        lun: Lun,
        /// Volume.
        volume: VolumeName,
        /// Who may only read it: a name, or * for everybody. All others that may log in may write it, as far as its role allows.
        #[arg(long, num_args = 1.., value_name = "INITIATOR", value_parser = initiator)]
        read_only_for: Vec<InitiatorRule>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Say who may only read a LUN, while hosts use it: it counts from the next command on, and hosts are told.
    Set {
        /// Target.
        target: IscsiName,
        /// Number.
        #[arg(value_parser = lun)]
        lun: Lun,
        /// Who may only read it from now on, and nobody else: a name, or * for everybody.
        #[arg(long, num_args = 1.., value_name = "INITIATOR", value_parser = initiator)]
        #[arg(required_unless_present = "read_write")]
        read_only_for: Vec<InitiatorRule>,
        /// Nobody: all that may log in may write it, as far as its role allows.
        #[arg(long, conflicts_with = "read_only_for")]
        read_write: bool,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Show it no more.
    Unmap {
        /// Target.
        target: IscsiName,
        /// Number.
        #[arg(value_parser = lun)]
        lun: Lun,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl LunChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let (what, how) = match self {
            Self::Map { target, lun, volume, read_only_for, how } => {
                let (target, volume) = (target.clone(), volume.clone());
                let read_only_for = read_only_for.clone();
                (Designation::MapLun { target, lun: *lun, volume, read_only_for }, how)
            }
            Self::Set { target, lun, read_only_for, read_write: _, how } => {
                let (target, read_only_for) = (target.clone(), read_only_for.clone());
                (Designation::SetLun { target, lun: *lun, read_only_for }, how)
            }
            Self::Unmap { target, lun, how } => {
                (Designation::UnmapLun { target: target.clone(), lun: *lun }, how)
            }
        };
        Ok(one(here, how, what))
    }
}
