//! Changes of copies: groups, journal volumes, pairs (figure 10), said at either array.

use super::copies::{PairResyncWords, PairSuspendWords, PairWords, ResyncWords, ReverseWords, SuspendWords};
use super::drill::DrillWords;
use super::rewind::{KeepWords, RewindWords};
use super::takeover::{FailbackWords, TakeoverWords};
use super::words::{PvolWord, SvolWord, copy_mode, release, svol_access};
use super::{Change, Here, How, one, one_at};
use crate::config::{
    ByteSize, CopyMode, Release, SvolAccess, parse_duration, parse_no_room, parse_release_by, parse_stop,
};
use crate::shell::schedule::ScheduleWords;
use crate::volume::designation::{Designation, SettingsChange};
use crate::volume::group::{GroupSettings, JournalOptions};
use crate::volume::kind::{
    FENCE_WAIT_DEFAULT, Fence, IdentityChoice, JournalLayout, JournalRatio, NoRoom, ReleaseBy, WhenOvertaken,
};
use crate::volume::name::{BookmarkName, GroupName, LinkName, PairName, VolumeName};
use crate::volume::timing::StopWish;
use clap::{Args, Subcommand};
use std::time::Duration;

/// What can be changed about groups.
#[derive(Clone, Debug, Subcommand)]
pub enum GroupChange {
    /// Make a group: at the array that hosts write, or, with --source, at an array that copies it.
    Create {
        /// Its name, the same at every array.
        name: GroupName,
        #[command(flatten)]
        /// What is chosen for it; the rest has defaults.
        settings: SettingsWords,
        /// Make the group, which is here already, known at the array behind this link, which shall copy it.
        #[arg(long, value_name = "LINK", conflicts_with_all = ["source", "svol_access", "release", "release_by", "no_room", "read_updates", "read_bytes", "copy_unit", "throttle", "fence", "fence_wait", "identity", "overtaken"])]
        at: Option<LinkName>,
        /// This array copies the group from the array behind this link, which is asked to make it known here.
        #[arg(long, value_name = "LINK", conflicts_with_all = ["svol_access", "release", "release_by", "no_room", "read_updates", "read_bytes", "copy_unit", "throttle", "fence", "fence_wait", "identity", "overtaken"])]
        source: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Change what was chosen for a group, at its primary; while it runs, --svol-access only.
    Set {
        /// Its name.
        name: GroupName,
        #[command(flatten)]
        /// What is chosen anew.
        settings: SettingsWords,
        /// At an array that copies the group, or with --reader: read it from the array behind this link, which copies it
        /// too; "primary": from the array whose copy it is.
        #[arg(long, value_name = "LINK")]
        source: Option<LinkName>,
        /// With --source: at the array behind this link.
        #[arg(long, value_name = "LINK", requires = "source")]
        reader: Option<LinkName>,
        /// With --source: only while the array whose copy it is is under load.
        #[arg(long, requires = "source")]
        by_load: bool,
        /// The copy behind this link is the one that hosts which write here wait for; "none": they wait for none. At an array that
        /// copies the group: when it is its primary.
        #[arg(long, value_name = "LINK", conflicts_with = "source")]
        synchronous: Option<LinkName>,
        #[command(flatten)]
        /// Images that are kept for rewinds.
        keep: KeepWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Put a volume of this array into it, before it is paired there or after that. It is paired in no other group then.
    Add {
        /// Group.
        name: GroupName,
        /// The volume.
        #[arg(long)]
        volume: VolumeName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Take a volume out that was put into it and is not paired.
    Remove {
        /// Group.
        name: GroupName,
        /// The volume.
        #[arg(long)]
        volume: VolumeName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Stop its pairs: what changes from here on is marked, and the copies stay as they are.
    Suspend(SuspendWords),
    /// Go on after a suspension: only what was marked is copied.
    Resume(ResyncWords),
    /// Copy the differences of its suspended and abnormal pairs.
    Resync(ResyncWords),
    /// At an array that copies it: give up the image of the S-VOLs that is kept until a resync has ended.
    DropImage {
        /// Its name.
        name: GroupName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// At an array that copies it: let restore stop somewhere, or go on. Journals are read on.
    Restore {
        /// Its name.
        name: GroupName,
        /// "now", an update number, bookmark:NAME, or a time like 2026-11-21T20:00:00Z: nothing behind it is restored.
        #[arg(long, value_name = "WHEN", value_parser = parse_stop, required_unless_present = "go_on")]
        until: Option<StopWish>,
        /// Restore everything again.
        #[arg(long, conflicts_with = "until")]
        go_on: bool,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// At its primary: give the point that it has reached a name, which travels to every copy. Of several groups all have it at one
    /// instant.
    Bookmark {
        /// The group, or several of them.
        #[arg(required = true, num_args = 1..)]
        names: Vec<GroupName>,
        /// The bookmark's.
        bookmark: BookmarkName,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// At an array that copies it: its S-VOLs as they are at another moment, as a snapshot, while restore and reading go on.
    Rewind(RewindWords),
    /// Try the copy in earnest, on clones of it, while it goes on being read and restored; keep what was found.
    Drill(DrillWords),
    /// At its primary: let the array behind a link be the primary, and this one copy from it. Hosts are shut out here first.
    Reverse(ReverseWords),
    /// At an array that copies it: be its primary, because that one is gone. Or at a primary whose hosts were shut out.
    Takeover(TakeoverWords),
    /// At the array that took over: let the former primary copy from here; said once more when it has, it is the primary again.
    Failback(FailbackWords),
    /// Take it away, with its pairs: all volumes stay as they are and are ordinary volumes then.
    Delete {
        /// Its name.
        name: GroupName,
        /// Only the copies at the array behind this link, and that array as a reader.
        #[arg(long, value_name = "LINK")]
        reader: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Start it: initial copy, journal reads, restores.
    Start {
        /// Its name.
        name: GroupName,
        /// At the array behind this link; at an array that copies the group its primary is meant without it.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
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
    #[expect(clippy::too_many_lines, reason = "a line or two for each word, and none may be forgotten")]
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        Ok(match self {
            Self::Create { name, settings, at, source, how } => {
                let (group, at, source) = (name.clone(), at.clone(), source.clone());
                let what = match (at, source) {
                    (Some(link), _) => Designation::IntroduceGroup { group, link },
                    (None, Some(link)) => Designation::FollowGroup { group, link },
                    (None, None) => {
                        let settings = settings.change().applied_to(DEFAULTS);
                        Designation::CreateGroup { name: group, settings }
                    }
                };
                one(here, how, what)
            }
            Self::Set { name, settings, synchronous: Some(link), how, .. } => {
                one(here, how, settings.synchronous(name, link)?)
            }
            Self::Set { name, settings, source: None, keep, how, .. } if keep.designation(name).is_some() => {
                if settings.change() != SettingsChange::default() {
                    return Err("--keep-images is said alone".into());
                }
                let what = keep.designation(name);
                one(here, how, what.ok_or("nothing is chosen anew: say what")?)
            }
            Self::Set { name, settings, source: Some(source), reader, by_load, how, .. } => {
                if settings.change() != SettingsChange::default() {
                    return Err("--source is said alone".into());
                }
                let from = Some(source.clone()).filter(|from| from.as_str() != PRIMARY);
                let (group, reader) = (name.clone(), reader.clone());
                one(here, how, Designation::SetSource { group, reader, from, by_load: *by_load })
            }
            Self::Set { name, settings, how, .. } => {
                let settings = settings.change();
                if settings == SettingsChange::default() {
                    return Err("nothing is chosen anew: say what".into());
                }
                one(here, how, Designation::SetGroup { group: name.clone(), settings })
            }
            Self::Add { name, volume, how } => {
                let (group, volume) = (name.clone(), volume.clone());
                one(here, how, Designation::AddMember { group, volume })
            }
            Self::Remove { name, volume, how } => {
                let (group, volume) = (name.clone(), volume.clone());
                one(here, how, Designation::RemoveMember { group, volume })
            }
            Self::Suspend(words) => words.suspend(here),
            Self::Resume(words) | Self::Resync(words) => words.resync(here),
            Self::DropImage { name, how } => one(here, how, Designation::DropImage { group: name.clone() }),
            Self::Restore { name, until, go_on: _, how } => {
                let wish = until.unwrap_or(StopWish::GoOn);
                one(here, how, Designation::StopRestore { group: name.clone(), wish, for_suspension: false })
            }
            Self::Bookmark { names, bookmark, how } => bookmarks(here, how, names, *bookmark)?,
            Self::Rewind(words) => words.rewind(here),
            Self::Drill(words) => words.drill(here)?,
            Self::Reverse(words) => words.reverse(here),
            Self::Takeover(words) => words.take_over(here)?,
            Self::Failback(words) => words.fail_back(here),
            Self::Delete { name, reader: None, how } => {
                one(here, how, Designation::DeleteGroup { group: name.clone() })
            }
            Self::Delete { name, reader: Some(link), how } => {
                one(here, how, Designation::DeleteReader { group: name.clone(), link: link.clone() })
            }
            Self::Start { name, at, how } => {
                one_at(here, how, at.as_ref(), Designation::StartGroup { group: name.clone() })
            }
            Self::Schedule { name, link, schedule, how } => {
                let (link, group, schedule) = (link.clone(), name.clone(), schedule.schedule());
                one(here, how, Designation::SetSchedule { link, group, schedule })
            }
        })
    }
}

/// One bookmark in each group, all in one transaction.
fn bookmarks(here: &Here<'_>, how: &How, names: &[GroupName], name: BookmarkName) -> Result<Change, String> {
    let (first, others) = names.split_first().ok_or("say a group")?;
    if others.len() >= BOOKMARK_GROUPS_MAX {
        return Err(format!("a bookmark is set in {BOOKMARK_GROUPS_MAX} groups at a time at most"));
    }
    let set = |group: &GroupName| Designation::SetBookmark { group: group.clone(), name, number: None };
    let mut change = one(here, how, set(first));
    let id = change.orders.first().map(|(id, _)| *id).ok_or("say a group")?;
    for (index, group) in (1..).zip(others) {
        change.orders.push((id.caused(index), set(group)));
    }
    Ok(change)
}

/// What an operator chooses for a group.
#[derive(Clone, Copy, Debug, Args)]
pub struct SettingsWords {
    /// What hosts may do with the S-VOLs: none or read. Default none.
    #[arg(long, value_parser = svol_access)]
    pub svol_access: Option<SvolAccess>,
    /// When a journal is freed: when it is read, or when it is restored. Default read.
    #[arg(long, value_parser = release)]
    pub release: Option<Release>,
    /// Which report frees it: named, next-command or at-once. Default named.
    #[arg(long, value_parser = parse_release_by)]
    pub release_by: Option<ReleaseBy>,
    /// What an auxiliary without room does with journals: hold or retry. Default hold.
    #[arg(long, value_parser = parse_no_room)]
    pub no_room: Option<NoRoom>,
    /// Updates of one journal read at most. Default 1024.
    #[arg(long)]
    pub read_updates: Option<u32>,
    /// Bytes of one journal read at most. Default 1MiB.
    #[arg(long, value_parser = ByteSize::parse)]
    pub read_bytes: Option<ByteSize>,
    /// Unit of the initial copy. Default 1MiB.
    #[arg(long, value_parser = ByteSize::parse)]
    pub copy_unit: Option<ByteSize>,
    /// How long hosts wait for journal room that a reader holds before its pairs go to difference maps. Default 0ms.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub throttle: Option<Duration>,
    /// For synchronous pairs: what becomes of writes that the second array does not confirm in time: never (go on alone), data
    /// (they fail), or status (alone only once the second knows that it is not synchronised). Default never.
    #[arg(long)]
    pub fence: Option<Fence>,
    /// For synchronous pairs: how long such writes wait before. Default 5s.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub fence_wait: Option<Duration>,
    /// For synchronous pairs: what hosts are told that the S-VOLs are: own (other volumes), or shared (the same as their P-VOLs, with
    /// ports at both arrays, of which one side is in standby). Shared needs --fence data and --svol-access none. Default own.
    #[arg(long)]
    pub identity: Option<IdentityChoice>,
    /// What becomes of a primary that another array has overtaken, where it has nothing that the other one lacks: wait (for
    /// group failback there), or rejoin (it becomes a copy by itself, by differences). Default wait.
    #[arg(long)]
    pub overtaken: Option<WhenOvertaken>,
}

impl SettingsWords {
    /// Which copy hosts wait for is chosen apart from these.
    fn synchronous(self, group: &GroupName, link: &LinkName) -> Result<Designation, String> {
        if self.change() != SettingsChange::default() {
            return Err("--synchronous is said alone".into());
        }
        let with = Some(link.clone()).filter(|with| with.as_str() != NONE);
        Ok(Designation::SetSynchronous(group.clone(), with))
    }

    fn change(self) -> SettingsChange {
        SettingsChange {
            svol_access: self.svol_access,
            release: self.release,
            read_updates: self.read_updates,
            read_bytes: self.read_bytes.map(|size| size.0),
            copy_unit_bytes: self.copy_unit.map(|size| size.0),
            throttle: self.throttle,
            release_by: self.release_by,
            no_room: self.no_room,
            fence: self.fence,
            fence_wait: self.fence_wait,
            identity: self.identity,
            overtaken: self.overtaken,
        }
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
        /// Keep it in reserve: it takes over when another one fails or its parity group is degraded.
        #[arg(long)]
        reserve: bool,
        /// How its areas divide it: update information to write data.
        #[arg(long, value_name = "1:N", default_value_t)]
        ratio: JournalRatio,
        /// "two-rings", or "interleaved": the write data of each group commit lies behind its update information.
        #[arg(long, default_value_t)]
        layout: JournalLayout,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Take a journal volume away, as soon as nothing needs what it holds; it becomes an ordinary volume.
    Remove {
        /// Group.
        group: GroupName,
        /// Journal volume, of the array that --at names.
        #[arg(long)]
        volume: VolumeName,
        /// The array behind this link; without it, this array.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Put an ordinary volume in the place of a journal volume that failed; an abnormal group goes on.
    Replace {
        /// Group.
        group: GroupName,
        /// The journal volume that goes, of the array that --at names.
        #[arg(long)]
        volume: VolumeName,
        /// The ordinary volume that takes its place.
        #[arg(long)]
        by: VolumeName,
        /// The array behind this link; without it, this array.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

impl JournalChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let (how, at, what) = match self {
            Self::Add { group, volume, at, reserve, ratio, layout, how } => {
                let options = JournalOptions { reserve: *reserve, ratio: *ratio, layout: *layout };
                let (group, volume) = (group.clone(), volume.clone());
                // The primary keeps account of the journal volumes at its auxiliaries.
                let what = Designation::AddJournal { group, volume, at: at.clone(), options };
                return Ok(one(here, how, what));
            }
            Self::Remove { group, volume, at, how } => {
                let (group, volume) = (group.clone(), volume.clone());
                (how, at, Designation::RemoveJournal { group, volume })
            }
            Self::Replace { group, volume, by, at, how } => {
                let (group, volume, by) = (group.clone(), volume.clone(), by.clone());
                (how, at, Designation::ReplaceJournal { group, volume, by })
            }
        };
        Ok(one_at(here, how, at.as_ref(), what))
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
        /// The volume that hosts write: VOLUME at the primary, LINK:VOLUME at the auxiliary.
        #[arg(long, value_name = "[LINK:]VOLUME")]
        pvol: PvolWord,
        /// The volume that follows it: LINK:VOLUME at the primary, VOLUME at the auxiliary.
        #[arg(long, value_name = "[LINK:]VOLUME")]
        svol: SvolWord,
        /// How it follows.
        #[arg(long, default_value = "async", value_parser = copy_mode)]
        copy: CopyMode,
        /// Say it to the array behind this link, which is the primary; VOLUME and LINK:VOLUME are as seen there.
        #[arg(long, value_name = "LINK")]
        at: Option<LinkName>,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Stop it: what changes from here on is marked, and the copy stays as it is.
    Suspend(PairSuspendWords),
    /// Copy its differences, after a suspension or a failure.
    Resync(PairResyncWords),
    /// Take it away: both volumes stay as they are and are ordinary volumes then.
    Delete(PairWords),
}

impl PairChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        let Self::Create { name, group, pvol, svol, copy, at, how } = self else {
            return self.change_pair(here);
        };
        let (name, group, copy) = (name.clone(), group.clone(), *copy);
        match (pvol.place.clone(), svol.place.clone()) {
            ((None, pvol), (Some(link), volume)) => {
                let svol = crate::config::SvolSpec { link, volume };
                let what = Designation::CreatePair { name, group, pvol, svol, copy };
                Ok(one_at(here, how, at.as_ref(), what))
            }
            // The group knows over which link it comes; another one named here is a mistake.
            ((Some(link), pvol), (None, svol)) if at.is_none() => {
                let what = Designation::FollowPair { name, group, link, pvol, svol, copy };
                Ok(one(here, how, what))
            }
            (_, _) => Err("one volume is here and the other LINK:VOLUME".into()),
        }
    }
}

/// The word for the array whose copy a group is.
const PRIMARY: &str = "primary";
/// Groups of one bookmark: while it is set none of them gives a number.
const BOOKMARK_GROUPS_MAX: usize = 64;
/// With --synchronous: hosts wait for nobody.
const NONE: &str = "none";

/// What a group has that nothing was chosen for.
const DEFAULTS: GroupSettings = GroupSettings {
    svol_access: SvolAccess::None,
    release: Release::Read,
    read_updates: 1_024,
    read_bytes: 1 << 20,
    copy_unit_bytes: 1 << 20,
    throttle: Duration::ZERO,
    release_by: ReleaseBy::Named,
    no_room: NoRoom::Hold,
    fence: Fence::Never,
    fence_wait: FENCE_WAIT_DEFAULT,
    identity: IdentityChoice::Own,
    overtaken: WhenOvertaken::Wait,
};
