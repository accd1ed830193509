//! Who may say what: which designations an operator may have passed on, and which other arrays may send.

use super::designation::Designation;

impl Designation {
    /// Whether an operator may have it passed on to another array: what makes something there and destroys nothing
    /// that is in use.
    #[must_use]
    pub fn may_be_passed_on(&self) -> bool {
        matches!(
            self,
            Self::CreateVolume(_)
                | Self::AddJournal { at: None, .. }
                | Self::RemoveJournal { .. }
                | Self::ReplaceJournal { .. }
                | Self::CreatePair { .. }
                | Self::StartGroup { .. }
        )
    }

    /// Whether it can come from another array at all; what that array may do with it, the tables decide.
    #[must_use]
    pub fn may_come_from_a_peer(&self) -> bool {
        self.may_be_passed_on()
            || matches!(
                self,
                Self::JoinGroup { .. }
                    | Self::JoinJournal { .. }
                    | Self::AskPrimary(_)
                    | Self::RemoteGrow { .. }
                    | Self::JoinRoom { .. }
                    | Self::RemoteGrown { .. }
                    | Self::RemoteSource { .. }
                    | Self::AttachReader { .. }
                    | Self::DetachReader { .. }
                    | Self::ReadsElsewhere { .. }
                    | Self::LeaveJournal { .. }
                    | Self::JournalLost { .. }
                    | Self::RemoteSettings { .. }
                    | Self::RemoteGroup(_)
                    | Self::RemoteJournal { .. }
                    | Self::RemotePair(_)
                    | Self::RemoteStart { .. }
                    | Self::RemoteSuspend { .. }
                    | Self::SuspensionEnded { .. }
                    | Self::RemoteResync { .. }
                    | Self::RemoteSvolWrite { .. }
                    | Self::JoinMarks { .. }
                    | Self::RemoteReverse(_)
                    | Self::RemoteOnward(_)
                    | Self::ReverseMarks { .. }
                    | Self::RemoteTakeover(_)
                    | Self::TakeoverGivenUp { .. }
                    | Self::RemoteBranch { .. }
                    | Self::RemoteFailback(_)
                    | Self::RemoteRejoin(_)
                    | Self::JoinOnward(_)
                    | Self::LeftOnward { .. }
                    | Self::RemoteDeletePair { .. }
                    | Self::RemoteDeleteGroup { .. }
            )
    }

    /// The pair that comes to be here when another array has catalogued it.
    #[must_use]
    pub fn awaited_pair(&self) -> Option<String> {
        if let Self::FollowPair { name, .. } = self { Some(name.to_string()) } else { None }
    }
}
