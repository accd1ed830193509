//! The commands that change something: words become designations, nothing else happens here.
//!
//! Every change goes the same way: a command line is parsed into one of the types below, which turns into a list of
//! designations ([`Change`]); the array checks and applies them in one transaction, and the audit log says who gave
//! them. A new change needs a variant here with its words, an arm in its `designations`, and the designation itself.
//! What a change destroys is said by `destroys` beside the designations, so that no command can forget to ask.

use super::parse::{
    GroupVerb, JournalVerb, LinkVerb, LunVerb, PairVerb, ParityGroupVerb, ShellCommand, TargetVerb,
    VolumeVerb,
};
use super::view::Console;
use crate::config::{
    ByteSize, CacheMode, CopyMode, InitiatorRule, PortalAddress, RaidLevel, Release, Schedule, Secret,
    SvolAccess, SvolSpec, parse_duration,
};
use crate::volume::designation::{Designation, DesignationId, NewLink, NewParityGroup, NewTarget, NewVolume};
use crate::volume::group::GroupSettings;
use crate::volume::name::{
    ARRAY_NUMBER_MAX, ArrayNumber, GroupName, IscsiName, LUN_MAX, LinkName, Lun, PairName, ParityGroupName,
    VolumeName,
};
use crate::volume::record::{ChapRecord, Credential, Identity, UnitRecord};
use crate::volume::store::Order;
use clap::{Args, Subcommand};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A command that changes something, ready to be applied.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) orders: Vec<Order>,
    pub(super) dry_run: bool,
    pub(super) yes: bool,
    /// What is lost by it, in words; empty when nothing is.
    pub(super) destroys: Vec<String>,
    /// What it does not touch although it was named.
    pub(super) left: Vec<String>,
}

/// Where a command was given.
pub(super) struct Here<'a> {
    pub(super) directory: Option<&'a Path>,
    pub(super) console: &'a dyn Console,
}

impl Here<'_> {
    /// A path as the operator meant it.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.directory.map_or_else(|| path.to_owned(), |directory| directory.join(path))
    }

    fn secret(&self, file: &Path) -> Result<Secret, String> {
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
#[derive(Clone, Debug, Default, Args)]
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
            Self::Target(TargetVerb::Change(change)) => change.change(here),
            Self::Lun(LunVerb::Change(change)) => change.change(here),
            Self::Link(LinkVerb::Change(change)) => change.change(here),
            Self::Group(GroupVerb::Change(change)) => change.change(here),
            Self::Journal(JournalVerb::Change(change)) => change.change(here),
            Self::Pair(PairVerb::Change(change)) => change.change(here),
            Self::Array(_)
            | Self::Unit(_)
            | Self::ParityGroup(ParityGroupVerb::Look(_))
            | Self::Volume(VolumeVerb::Look(_))
            | Self::Target(TargetVerb::Look(_))
            | Self::Lun(LunVerb::List { .. })
            | Self::Session(_)
            | Self::Link(LinkVerb::Look(_))
            | Self::Group(GroupVerb::Look(_))
            | Self::Journal(JournalVerb::Look(_))
            | Self::Pair(PairVerb::List | PairVerb::Show { .. } | PairVerb::Wait(_))
            | Self::Audit(_)
            | Self::Config(_) => return None,
        })
    }
}

fn one(here: &Here<'_>, how: &How, what: Designation) -> Change {
    let id = how.id.unwrap_or_else(|| DesignationId(here.console.identity()));
    Change {
        orders: vec![(id, what)],
        dry_run: how.dry_run,
        yes: how.yes,
        destroys: Vec::new(),
        left: Vec::new(),
    }
}

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
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
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
        #[arg(long)]
        parity_group: ParityGroupName,
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
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl VolumeChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { name, parity_group, size, thin, cache, block_size, how } = self;
        let new = NewVolume {
            name: name.clone(),
            identity: here.console.identity(),
            parity_group: parity_group.clone(),
            size_bytes: size.0,
            block_size_bytes: *block_size,
            is_thin: *thin,
            cache: *cache,
        };
        Ok(one(here, how, Designation::CreateVolume(new)))
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
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { iqn, luns, initiators, chap, how } = self;
        let new = NewTarget {
            iqn: iqn.clone(),
            luns: luns.clone(),
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
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl LunChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Map { target, lun, volume, how } = self;
        let what = Designation::MapLun { target: target.clone(), lun: *lun, volume: volume.clone() };
        Ok(one(here, how, what))
    }
}

/// What can be changed about links.
#[derive(Clone, Debug, Subcommand)]
pub enum LinkChange {
    /// Make a link, called like the array behind it; the other array needs one back, with the same secret.
    Create {
        /// Its name: that of the array behind it.
        name: LinkName,
        /// Number of the array behind it.
        #[arg(long, value_parser = array_number)]
        array: ArrayNumber,
        /// Where that array serves arrays; several are tried in turn.
        #[arg(long = "portal", required = true, num_args = 1.., value_name = "HOST:PORT")]
        portals: Vec<PortalAddress>,
        /// File with the secret that both arrays know.
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
        #[command(flatten)]
        /// When what comes over it is read and restored.
        schedule: ScheduleWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl LinkChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { name, array, portals, secret_file, schedule, how } = self;
        let new = NewLink {
            name: name.clone(),
            array: *array,
            portals: portals.clone(),
            secret: here.secret(secret_file)?,
            schedule: schedule.schedule(),
        };
        Ok(one(here, how, Designation::CreateLink(new)))
    }
}

/// When a copy is read and restored.
#[derive(Clone, Copy, Debug, Args)]
pub struct ScheduleWords {
    /// Between two rounds of journal reads, for example 250ms; "immediate": at once.
    #[arg(long, value_name = "TIME", default_value = "immediate", value_parser = interval)]
    pub read_interval: Interval,
    /// Between two rounds of restores; "immediate": at once.
    #[arg(long, value_name = "TIME", default_value = "immediate", value_parser = interval)]
    pub restore_interval: Interval,
    /// An update is restored no earlier than this after it was made.
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = parse_duration)]
    pub restore_delay: Duration,
}

impl ScheduleWords {
    fn schedule(self) -> Schedule {
        Schedule {
            read_interval: self.read_interval.0,
            restore_interval: self.restore_interval.0,
            restore_delay: self.restore_delay,
        }
    }
}

/// A time between two rounds; none: at once.
#[derive(Clone, Copy, Debug)]
pub struct Interval(Option<Duration>);

/// What can be changed about groups.
#[derive(Clone, Debug, Subcommand)]
pub enum GroupChange {
    /// Make a group, at the array that hosts write.
    Create {
        /// Its name.
        name: GroupName,
        /// What hosts may do with the S-VOLs: none or read.
        #[arg(long, default_value = "none", value_parser = svol_access)]
        svol_access: SvolAccess,
        /// When a journal is freed: when it is read, or when it is restored.
        #[arg(long, default_value = "read", value_parser = release)]
        release: Release,
        /// Updates of one journal read at most.
        #[arg(long, default_value_t = 1_024)]
        read_updates: u32,
        /// Bytes of one journal read at most.
        #[arg(long, default_value = "1MiB", value_parser = ByteSize::parse)]
        read_bytes: ByteSize,
        /// Unit of the initial copy.
        #[arg(long, default_value = "1MiB", value_parser = ByteSize::parse)]
        copy_unit: ByteSize,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Start it: initial copy, journal reads, restores.
    Start {
        /// Its name.
        name: GroupName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Set when this array reads and restores a group, instead of the schedule of its link.
    Schedule {
        /// Its name.
        name: GroupName,
        /// Link to the array it is read from.
        #[arg(long)]
        link: LinkName,
        #[command(flatten)]
        /// When.
        schedule: ScheduleWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl GroupChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        Ok(match self {
            Self::Create { name, svol_access, release, read_updates, read_bytes, copy_unit, how } => {
                let settings = GroupSettings {
                    svol_access: *svol_access,
                    release: *release,
                    read_updates: *read_updates,
                    read_bytes: read_bytes.0,
                    copy_unit_bytes: copy_unit.0,
                };
                one(here, how, Designation::CreateGroup { name: name.clone(), settings })
            }
            Self::Start { name, how } => one(here, how, Designation::StartGroup { group: name.clone() }),
            Self::Schedule { name, link, schedule, how } => {
                let (link, group, schedule) = (link.clone(), name.clone(), schedule.schedule());
                one(here, how, Designation::SetSchedule { link, group, schedule })
            }
        })
    }
}

/// What can be changed about journal volumes.
#[derive(Clone, Debug, Subcommand)]
pub enum JournalChange {
    /// Make an ordinary volume a journal volume of a group; what is on it is lost.
    Add {
        /// Group.
        group: GroupName,
        /// Volume, of the array that --at names.
        #[arg(long)]
        volume: VolumeName,
        /// The array behind this link; without it, this array.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl JournalChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Add { group, volume, at, how } = self;
        let what = Designation::AddJournal { group: group.clone(), volume: volume.clone(), at: at.clone() };
        Ok(one(here, how, what))
    }
}

/// What can be changed about pairs.
#[derive(Clone, Debug, Subcommand)]
pub enum PairChange {
    /// Catalogue a pair: the S-VOL becomes a copy of the P-VOL, what was on it is lost.
    Create {
        /// Its name.
        name: PairName,
        /// Its group.
        #[arg(long)]
        group: GroupName,
        /// The volume that hosts write.
        #[arg(long)]
        pvol: VolumeName,
        /// The volume that follows it: LINK:VOLUME.
        #[arg(long, value_name = "LINK:VOLUME")]
        svol: SvolSpec,
        /// How it follows.
        #[arg(long, default_value = "async", value_parser = copy_mode)]
        copy: CopyMode,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl PairChange {
    fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { name, group, pvol, svol, copy, how } = self;
        let what = Designation::CreatePair {
            name: name.clone(),
            group: group.clone(),
            pvol: pvol.clone(),
            svol: svol.clone(),
            copy: *copy,
        };
        Ok(one(here, how, what))
    }
}

/// A unit as a word.
#[derive(Clone, Debug)]
pub struct UnitWord {
    path: PathBuf,
    size: Option<ByteSize>,
}

impl std::str::FromStr for UnitWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sized = text.rsplit_once(':').and_then(|(path, size)| Some((path, ByteSize::parse(size).ok()?)));
        let (path, size) = sized.map_or((text, None), |(path, size)| (path, Some(size)));
        if path.is_empty() || path.contains('\0') {
            return Err(format!("{text:?} is not PATH:SIZE or PATH"));
        }
        Ok(Self { path: path.into(), size })
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

fn word<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("none of {}", names.join(", "))
    })
}

fn level(text: &str) -> Result<RaidLevel, String> {
    word(text, &[("raid0", RaidLevel::Raid0), ("raid5", RaidLevel::Raid5)])
}

fn cache_mode(text: &str) -> Result<CacheMode, String> {
    word(text, &[("write-back", CacheMode::WriteBack), ("write-through", CacheMode::WriteThrough)])
}

fn svol_access(text: &str) -> Result<SvolAccess, String> {
    word(text, &[("none", SvolAccess::None), ("read", SvolAccess::Read)])
}

fn release(text: &str) -> Result<Release, String> {
    word(text, &[("read", Release::Read), ("restored", Release::Restored)])
}

fn copy_mode(text: &str) -> Result<CopyMode, String> {
    match text {
        "sync" => Err("synchronous copies are not built yet; async is".into()),
        other => word(other, &[("async", CopyMode::Async)]),
    }
}

fn interval(text: &str) -> Result<Interval, String> {
    match text {
        "immediate" => Ok(Interval(None)),
        given => parse_duration(given)
            .map(|time| Interval(Some(time).filter(|time| !time.is_zero())))
            .map_err(|error| format!("{error}, or immediate")),
    }
}

fn lun(text: &str) -> Result<Lun, String> {
    let number = text.parse::<u16>().ok().filter(|number| *number <= LUN_MAX);
    number.map(Lun).ok_or_else(|| format!("a LUN is a number from 0 to {LUN_MAX}"))
}

fn lun_word(text: &str) -> Result<(Lun, VolumeName), String> {
    let (number, volume) = text.split_once('=').ok_or("not NUMBER=VOLUME")?;
    Ok((lun(number)?, volume.parse().map_err(|error| format!("{error}"))?))
}

fn initiator(text: &str) -> Result<InitiatorRule, String> {
    match text {
        "*" => Ok(InitiatorRule::Any),
        name => name.parse().map(InitiatorRule::Named).map_err(|error| format!("* or a name; {error}")),
    }
}

fn array_number(text: &str) -> Result<ArrayNumber, String> {
    let number = text.parse::<u32>().ok().filter(|number| (1..=ARRAY_NUMBER_MAX).contains(number));
    number.map(ArrayNumber).ok_or_else(|| format!("the number of an array is 1 to {ARRAY_NUMBER_MAX}"))
}

/// Longer identities of designations are refused.
const ID_MAX_BYTES: usize = 256;

#[cfg(test)]
mod tests;
