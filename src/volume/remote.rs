//! Groups and pairs as a primary passes them on (figure 10).

use super::group::{Generation, GroupSettings};
use super::kind::CopyMode;
use super::name::{GroupName, GroupNumber, PairName, VolumeName, VolumeNumber};
use super::shown::SharedIdentity;
use serde::{Deserialize, Serialize};

/// A group as its primary passes it on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoteGroup {
    /// Name.
    pub name: GroupName,
    /// Its number at the primary, by which journal reads name it.
    pub number: GroupNumber,
    /// What the operator chose for it.
    pub settings: GroupSettings,
    /// Its generations.
    pub generations: Vec<Generation>,
}

/// A pair as its primary passes it on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemotePair {
    /// Name.
    pub name: PairName,
    /// Group.
    pub group: GroupName,
    /// Number of the P-VOL at the primary.
    pub pvol: VolumeNumber,
    /// Name of the P-VOL at the primary.
    pub pvol_name: VolumeName,
    /// By which number the group's records name it, if the P-VOL is itself a copy.
    #[serde(default)]
    pub origin: Option<VolumeNumber>,
    /// Which copy of it begins, where numbers do not say it.
    #[serde(default)]
    pub copies: u32,
    /// Name of the S-VOL here.
    pub svol: VolumeName,
    /// Size of the P-VOL.
    pub size_bytes: u64,
    /// Logical block size of the P-VOL.
    pub block_size_bytes: u32,
    /// How it follows.
    pub copy: CopyMode,
    /// Both volumes show hosts one identity.
    #[serde(default)]
    pub shared: Option<SharedIdentity>,
}
