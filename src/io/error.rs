//! Why a host's command fails, and what the host is told: the one place that maps it to sense data.

use crate::copy::CopyError;
use crate::copy::quota::NotAdmitted;
use crate::disk::VolumeError;
use crate::disk::raid::DiskError;
use holdfast_scsi::{Lba, Sense};

/// Why a host's command fails; nothing of it is visible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// The disk adapter could not.
    #[error("{0}")]
    Disk(#[from] VolumeError),
    /// The journal could not.
    #[error("{0}")]
    Copy(#[from] CopyError),
    /// The session ended while the change waited for room; nothing of it is visible.
    #[error("the session ended before there was room for the write")]
    SessionEnded,
    /// The journal refuses the change for good.
    #[error("{0}")]
    Refused(String),
    /// The synchronous copy does not confirm the write, and the group's fence forbids to go on alone; it may be visible.
    #[error("{0}")]
    Fenced(String),
    /// The volume is a clone of a drill whose quota does not suffice; nothing of the change is visible.
    #[error("the quota of the drill to which the volume belongs is used up")]
    OverQuota,
    /// COMPARE AND WRITE or VERIFY: the first byte that differs, counted from the first one compared.
    #[error("byte {0} is not as expected")]
    Differs(u64),
    /// Others changed or evicted the range again and again meanwhile; a repeat may succeed.
    #[error("the range did not stay still for long enough")]
    Contended,
}

impl From<NotAdmitted> for IoError {
    fn from(why: NotAdmitted) -> Self {
        match why {
            NotAdmitted::UsedUp => Self::OverQuota,
            NotAdmitted::Ended(reason) => Self::Refused(reason),
        }
    }
}

impl IoError {
    /// What the host is told; `lba` is where its command began.
    #[must_use]
    pub fn sense(&self, lba: Lba) -> Sense {
        match self {
            Self::Disk(error) | Self::Copy(CopyError::Volume(error)) => match error {
                VolumeError::NoSpace { .. } => Sense::SPACE_ALLOCATION_FAILED,
                VolumeError::Disk(DiskError::Lost { .. }) => Sense::unrecovered_read(lba),
                VolumeError::Range { .. } => Sense::LBA_OUT_OF_RANGE,
                _ => Sense::UNIT_FAILURE,
            },
            Self::Copy(CopyError::Damaged(_) | CopyError::Journal { .. }) | Self::Refused(_) => {
                Sense::INTERNAL_FAILURE
            }
            Self::OverQuota => Sense::SPACE_ALLOCATION_FAILED,
            Self::Fenced(_) => Sense::MANUAL_INTERVENTION,
            Self::SessionEnded => Sense::NEXUS_TIMEOUT,
            Self::Differs(offset_bytes) => Sense::miscompare(*offset_bytes),
            Self::Contended => Sense::INSUFFICIENT_RESOURCES,
        }
    }
}
