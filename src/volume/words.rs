//! What people are told of a designation: what the audit log says, and what is lost by it.

use super::designation::{Designation, ImageWish, Refusal, ResyncedPair, SvolHosts};
use super::kind::InitiatorRule;
use std::fmt;

impl Refusal {
    pub(super) fn exists(what: &str, name: impl fmt::Display) -> Self {
        Self::Exists { what: what.to_owned(), name: name.to_string() }
    }

    pub(crate) fn missing(what: &str, name: impl fmt::Display) -> Self {
        Self::Missing { what: what.to_owned(), name: name.to_string() }
    }

    pub(crate) fn conflict(text: impl Into<String>) -> Self {
        Self::Conflict(text.into())
    }
}

impl Designation {
    /// What is lost by it, in words for the operator: whoever says it is asked first.
    #[must_use]
    pub fn destroys(&self) -> Option<String> {
        match self {
            Self::DeleteVolume { volume } => Some(format!("volume {volume} and everything on it")),
            Self::DeleteSnapshot { snapshot } => {
                Some(format!("snapshot {snapshot} with its volumes and what was written to them"))
            }
            Self::ApplyRewind { group, snapshot } => Some(format!(
                "what the S-VOLs of group {group} are here, and what hosts have written to them: they become what snapshot {snapshot} is, \
                 under hosts that use them"
            )),
            Self::Drill(order) => order.destroys(),
            Self::DeleteTarget { target } => Some(format!("target {target} with its LUNs and its secrets")),
            Self::DeletePairs { group, which } => {
                Some(format!("{which} of group {group}: the S-VOLs follow nothing any more"))
            }
            Self::DeleteGroup { group } => Some(format!(
                "group {group} with its pairs and its journal: the journal volumes become empty"
            )),
            Self::DeleteReader { group, link } => Some(format!(
                "the copies of group {group} at {link}: their S-VOLs follow nothing any more, the journal there becomes empty"
            )),
            Self::RemoveJournal { volume, .. } => {
                Some(format!("journal volume {volume} with what nobody needs any more"))
            }
            Self::ReplaceJournal { group, volume, .. } => Some(format!(
                "what only journal volume {volume} holds: if it cannot be read any more and group {group} could not be \
                 opened for it, writes that the volumes here did not have yet; pairs are copied again where needed"
            )),
            Self::DeleteLink { link } => {
                Some(format!("link {link} with its secret, and what is on its way over it"))
            }
            Self::DropImage { group } => Some(format!(
                "the kept image of the S-VOLs of group {group}: until its resync has ended a takeover finds nothing consistent"
            )),
            Self::ReverseGroup { group, to, .. } => Some(format!(
                "what hosts may do with the P-VOLs of group {group}: they are shut out here and write at {to}; of pairs that \
                 are suspended, everything that they wrote here since"
            )),
            Self::TakeOverGroup { group, .. } => Some(format!(
                "whatever the primary of group {group} has and this array has not, and its hosts' access there"
            )),
            Self::FailBackGroup { group, to, keep_branch: None } => {
                Some(format!("what only {to} has of group {group}, once it copies from here"))
            }
            Self::FailBackGroup { group, to, keep_branch: Some(name) } => Some(format!(
                "what only {to} has of group {group}, in the group; it is kept there as snapshot {name}"
            )),
            _ => None,
        }
    }
}

impl Designation {
    /// What is said about volumes that are put into groups by themselves.
    fn fmt_members(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddMember { group, volume } => write!(f, "group add {group} --volume {volume}"),
            Self::RemoveMember { group, volume } => write!(f, "group remove {group} --volume {volume}"),
            _ => Ok(()),
        }
    }

    /// What is said between arrays while a volume grows.
    fn fmt_growth(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResizeVolume { volume, size_bytes } => write!(f, "volume resize {volume} {size_bytes}B"),
            Self::RemoteGrow { pair, size_bytes } => {
                write!(f, "pair {pair}: room for {size_bytes} bytes is wanted by its primary")
            }
            Self::JoinRoom { pair, size_bytes } => {
                write!(f, "pair {pair}: its S-VOL has room for {size_bytes} bytes, told by its auxiliary")
            }
            Self::RemoteGrown { pair, size_bytes } => {
                write!(f, "pair {pair}: its P-VOL has {size_bytes} bytes, told by its primary")
            }
            _ => Ok(()),
        }
    }

    /// What is said about where an auxiliary reads from and when, and how far it restores.
    fn fmt_following(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetSchedule { link, group, .. } => write!(f, "schedule {group} from {link}"),
            Self::StopRestore { group, wish, .. } => write!(f, "group restore {group} {wish}"),
            Self::KeepImages { group, keep: Some(keep) } => write!(f, "group set {group} {keep}"),
            Self::KeepImages { group, keep: None } => write!(f, "group set {group} --keep-images off"),
            Self::ApplyRewind { group, snapshot } => write!(f, "group rewind {group} {snapshot} --apply"),
            // Without the number: who says it again gets the first answer, and does not know it.
            Self::SetBookmark { group, name, number: _ } => write!(f, "group bookmark {group} {name}"),
            Self::SetSource { group, reader, from, by_load } => {
                let from = from.as_ref().map_or("primary", |from| from.as_str());
                write!(f, "group set {group} --source {from}")?;
                reader.iter().try_for_each(|reader| write!(f, " --reader {reader}"))?;
                f.write_str(if *by_load { " --by-load" } else { "" })
            }
            Self::SetSynchronous(group, with) => {
                let with = with.as_ref().map_or("none", |with| with.as_str());
                write!(f, "group set {group} --synchronous {with}")
            }
            Self::RemoteSource { group, array: None, .. } => {
                write!(f, "group {group} to be read from its source")
            }
            Self::RemoteSource { group, array: Some(array), by_load } => {
                let when = if *by_load { ", by load" } else { "" };
                write!(f, "group {group} to be read from array {array}{when}")
            }
            Self::AttachReader { group } => write!(f, "group {group} to be read here by another copy"),
            Self::DetachReader { group } => write!(f, "group {group} read here no more by another copy"),
            Self::ReadsElsewhere { group, array: Some(array) } => {
                write!(f, "group {group} read from array {array} by its auxiliary")
            }
            Self::ReadsElsewhere { group, .. } => {
                write!(f, "group {group} read from here by its auxiliary")
            }
            _ => Ok(()),
        }
    }

    /// The journal volumes.
    fn fmt_journal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddJournal { group, volume, at, .. } => {
                write!(f, "journal add {group} --volume {volume}")?;
                at.iter().try_for_each(|at| write!(f, " --at {at}"))
            }
            Self::RemoteJournal { group, volume, .. } => {
                write!(f, "journal volume {volume} of group {group} designated by its primary")
            }
            Self::JoinJournal { group, volume, .. } => {
                write!(f, "journal volume {volume} of group {group} told by its auxiliary")
            }
            Self::LeaveJournal { group, volume } => {
                write!(f, "journal volume {volume} taken from group {group} by its auxiliary")
            }
            Self::JournalLost { group } => write!(f, "journal of group {group} lost at its auxiliary"),
            Self::RemoveJournal { group, volume } => write!(f, "journal remove {group} --volume {volume}"),
            Self::ReplaceJournal { group, volume, by } => {
                write!(f, "journal replace {group} --volume {volume} --by {by}")
            }
            Self::RemoteRejoin(told) => {
                write!(f, "group {} has another primary than array {}, said by it", told.group, told.former)
            }
            Self::JoinOnward(told) => {
                write!(
                    f,
                    "group {} to be read from here, said by a reader that has update {}",
                    told.group, told.has
                )
            }
            Self::LeftOnward { group } => {
                write!(f, "group {group} read from another array, said by its reader")
            }
            _ => Ok(()),
        }
    }
}

impl Designation {
    /// What is said about differences that travel, in either direction.
    fn fmt_differences(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuspensionEnded { group, .. } => {
                write!(f, "suspension of group {group} that was asked for is over")
            }
            Self::RemoteResync { pairs, .. } => {
                write!(f, "resynchronised by their primary: pairs {}", names(pairs))
            }
            Self::RemoteSvolWrite { pairs } => {
                write!(f, "opened to hosts' writes by their primary: S-VOLs of pairs {}", names(pairs))
            }
            Self::JoinMarks { pair, runs } => {
                write!(
                    f,
                    "pair {pair}: its S-VOL was written in {} places, told by its auxiliary",
                    runs.len()
                )
            }
            Self::ReverseGroup { group, to, wait } => {
                write!(f, "group reverse {group} --to {to} --wait {}ms", wait.as_millis())
            }
            Self::CancelReversal { group } => write!(f, "group reverse {group} --cancel"),
            Self::RemoteReverse(told) => {
                write!(f, "group {} taken over behind update {}, said by its primary", told.group, told.last)
            }
            Self::RemoteOnward(told) => {
                write!(f, "group {} is read from its new primary behind update {}", told.group, told.last)
            }
            Self::ReverseMarks { pair, runs } => {
                write!(f, "pair {pair}: its P-VOL was written in {} places, told by its primary", runs.len())
            }
            _ => Ok(()),
        }
    }
}

impl Designation {
    /// Who is the primary, and who loses what.
    fn fmt_takeover(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeOverGroup { group, at_least } => {
                write!(f, "group takeover {group}")?;
                at_least.iter().try_for_each(|number| write!(f, " --at-least {number}"))
            }
            Self::FailBackGroup { group, to, keep_branch } => {
                write!(f, "group failback {group} --to {to}")?;
                keep_branch.iter().try_for_each(|name| write!(f, " --keep-branch {name}"))
            }
            Self::RemoteTakeover(told) if told.is_complete => {
                write!(f, "group {} taken over by another array, said by it", told.group)
            }
            Self::RemoteTakeover(told) => {
                write!(f, "group {} to be taken over by another array, said by it", told.group)
            }
            Self::TakeoverGivenUp { group, attempt } => {
                write!(
                    f,
                    "group {group}: attempt {attempt} of another array to take it over is given up, said by it"
                )
            }
            Self::RemoteBranch { group, branch } => write!(
                f,
                "group {group}: {} updates are only at the array that says so, in up to {} bytes",
                branch.updates(),
                branch.bytes
            ),
            Self::RemoteFailback(told) => {
                write!(f, "group {} to be copied from the array that took over, said by it", told.group)
            }
            _ => Ok(()),
        }
    }
}

/// As an operator writes it.
fn fmt_readers(read_only_for: &[InitiatorRule], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if !read_only_for.is_empty() {
        write!(f, " --read-only-for")?;
    }
    read_only_for.iter().try_for_each(|rule| write!(f, " {rule}"))
}

impl fmt::Display for Designation {
    /// What the audit log says; never a secret.
    #[expect(clippy::too_many_lines, reason = "a line for each designation, and none may be forgotten")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateParityGroup(new) => write!(f, "parity-group create {}", new.name),
            Self::CreateVolume(new) => write!(f, "volume create {}", new.name),
            Self::CreateTarget(new) => write!(f, "target create {}", new.iqn),
            Self::MapLun { target, lun, volume, read_only_for } => {
                write!(f, "lun map {target} {lun} {volume}")?;
                fmt_readers(read_only_for, f)
            }
            Self::SetLun { target, lun, read_only_for } if read_only_for.is_empty() => {
                write!(f, "lun set {target} {lun} --read-write")
            }
            Self::SetLun { target, lun, read_only_for } => {
                write!(f, "lun set {target} {lun}")?;
                fmt_readers(read_only_for, f)
            }
            Self::UnmapLun { target, lun } => write!(f, "lun unmap {target} {lun}"),
            Self::RenameVolume { volume, name } => write!(f, "volume rename {volume} {name}"),
            Self::AddMember { .. } | Self::RemoveMember { .. } => self.fmt_members(f),
            Self::ResizeVolume { .. }
            | Self::RemoteGrow { .. }
            | Self::JoinRoom { .. }
            | Self::RemoteGrown { .. } => self.fmt_growth(f),
            Self::DeleteVolume { volume } => write!(f, "volume delete {volume}"),
            Self::CreateSnapshot(new) => write!(f, "{new}"),
            Self::DeleteSnapshot { snapshot } => write!(f, "snapshot delete {snapshot}"),
            Self::Drill(order) => write!(f, "{order}"),
            Self::DeleteTarget { target } => write!(f, "target delete {target}"),
            Self::DeleteLink { link } => write!(f, "link delete {link}"),
            Self::PassOn { link, what } => write!(f, "{what} --at {link}"),
            Self::IntroduceGroup { group, link } => write!(f, "group create {group} --at {link}"),
            Self::FollowGroup { group, link } => write!(f, "group create {group} --source {link}"),
            Self::SetGroup { group, .. } => write!(f, "group set {group}"),
            Self::FollowPair { name, group, link, pvol, svol, .. } => {
                write!(f, "pair create {name} --group {group} --pvol {link}:{pvol} --svol {svol}")
            }
            Self::SetSource { .. }
            | Self::SetSynchronous(..)
            | Self::RemoteSource { .. }
            | Self::AttachReader { .. }
            | Self::DetachReader { .. }
            | Self::ReadsElsewhere { .. }
            | Self::SetSchedule { .. }
            | Self::StopRestore { .. }
            | Self::KeepImages { .. }
            | Self::ApplyRewind { .. }
            | Self::SetBookmark { .. } => self.fmt_following(f),
            Self::JoinGroup { group } => write!(f, "group {group} asked for by an auxiliary"),
            Self::AddJournal { .. }
            | Self::RemoteJournal { .. }
            | Self::JoinJournal { .. }
            | Self::LeaveJournal { .. }
            | Self::JournalLost { .. }
            | Self::RemoveJournal { .. }
            | Self::ReplaceJournal { .. } => self.fmt_journal(f),
            Self::RemoteSettings { group, .. } => write!(f, "group {group} set by its primary"),
            Self::SetLink { link, .. } => write!(f, "link set {link}"),
            Self::CreateLink(new) => write!(f, "link create {} --array {}", new.name, new.array),
            Self::CreateRelay(new) => write!(
                f,
                "link create {} --array {} --target {} --group {} --as {}",
                new.name, new.array, new.target, new.group, new.side
            ),
            Self::CreateGroup { name, .. } => write!(f, "group create {name}"),
            Self::CreatePair { name, group, pvol, svol, .. } => {
                write!(f, "pair create {name} --group {group} --pvol {pvol} --svol {svol}")
            }
            Self::StartGroup { group } => write!(f, "group start {group}"),
            Self::SuspendPairs { group, which, svol } => write!(f, "group suspend {group}: {which}{svol}"),
            Self::ResyncPairs { group, which, image } => write!(f, "group resync {group}: {which}{image}"),
            Self::DropImage { group } => write!(f, "group drop-image {group}"),
            Self::DeletePairs { group, which } => write!(f, "pair delete, group {group}: {which}"),
            Self::DeleteGroup { group } => write!(f, "group delete {group}"),
            Self::DeleteReader { group, link } => write!(f, "group delete {group} --reader {link}"),
            Self::AskPrimary(ask) => write!(f, "{ask}"),
            Self::RemoteSuspend { pair, .. } => write!(f, "pair {pair} suspended by its primary"),
            Self::SuspensionEnded { .. }
            | Self::RemoteResync { .. }
            | Self::RemoteSvolWrite { .. }
            | Self::JoinMarks { .. }
            | Self::ReverseGroup { .. }
            | Self::CancelReversal { .. }
            | Self::RemoteReverse(_)
            | Self::RemoteOnward(_)
            | Self::ReverseMarks { .. } => self.fmt_differences(f),
            Self::TakeOverGroup { .. }
            | Self::FailBackGroup { .. }
            | Self::RemoteTakeover(_)
            | Self::TakeoverGivenUp { .. }
            | Self::RemoteBranch { .. }
            | Self::RemoteFailback(_)
            | Self::RemoteRejoin(_)
            | Self::JoinOnward(_)
            | Self::LeftOnward { .. } => self.fmt_takeover(f),
            Self::RemoteDeletePair { pair, .. } => write!(f, "pair {pair} deleted by its primary"),
            Self::RemoteDeleteGroup { group } => write!(f, "group {group} deleted by its primary"),
            Self::RemoteGroup(remote) => write!(f, "group {} designated by its primary", remote.name),
            Self::RemotePair(remote) => write!(f, "pair {} designated by its primary", remote.name),
            Self::RemoteStart { group } => write!(f, "group {group} started by its primary"),
        }
    }
}

fn names(pairs: &[ResyncedPair]) -> String {
    let named: Vec<&str> = pairs.iter().map(|one| one.pair.as_str()).collect();
    named.join(", ")
}

/// As the end of a sentence about pairs.
impl fmt::Display for SvolHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "",
            Self::Write => ", hosts may write the S-VOLs",
        })
    }
}

/// As the end of a sentence about pairs.
impl fmt::Display for ImageWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "",
            Self::Without => ", without an image",
        })
    }
}
