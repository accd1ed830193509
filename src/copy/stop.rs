//! Restore that stops where an operator wants it: at an update number or at a time (promise J11).
//!
//! # What it guarantees
//! Nothing behind the stop is restored, also not after a crash: the stop is in the control store before it is answered,
//! and it never lies before what is or may be visible. So what a replay has to do once more is all before it, and the
//! S-VOLs are the image of the newest update before the stop. Journals are read on; what is full then is full as ever
//! (promise O1).
//!
//! A stop at a time is before the first update, in the order of numbers, that the primary's clock dated later. In a
//! stretch in which P-VOLs are no image (`whole.rs`) nothing stops: it is entered only if its end lies before the stop.
//!
//! Figure 22: the stop is asked in step 2010, where the auxiliary decides whether to restore.

use super::error::CopyError;
use super::group::{Group, Sequencer};
use crate::disk::slot::Class;
use crate::volume::name::UpdateNumber as StoredNumber;
use crate::volume::timing::{RestoreStop, StopWish};
use holdfast_journal::{Update, UpdateNumber};

impl RestoreStop {
    /// Whether the update is behind it.
    pub(crate) fn is_before(self, update: &Update) -> bool {
        match self {
            Self::Number(number) => update.number.get() > number.0,
            Self::Time { unix_ns } => update.time_ns > unix_ns,
        }
    }
}

impl Group {
    /// What the control store says: at the start of the group, and when what was taken up is durable.
    pub(crate) fn set_restore_stops(&self, stops: [Option<RestoreStop>; 2]) {
        self.lock().unrecorded_stop = None;
        self.take_up_recorded(stops);
    }

    /// What the control store says about stops that it has. One that it may have, or may not, goes on to count.
    pub(crate) fn take_up_recorded(&self, stops: [Option<RestoreStop>; 2]) {
        self.lock().restore_stops = stops;
        self.changed.notify_waiters();
    }

    /// Whether a stop counts now.
    pub(crate) fn has_stop(&self) -> bool {
        self.lock().stops() != [None; 3]
    }

    /// Whether everything that is durable here is restored.
    pub(super) fn is_restored(&self) -> bool {
        let seq = self.lock();
        seq.restored >= seq.journal.durable()
    }

    /// Whether it has been reached.
    pub(crate) fn is_stopped(&self) -> bool {
        let seq = self.lock();
        seq.restore_stops.into_iter().flatten().any(|stop| match stop {
            RestoreStop::Number(number) => seq.restored.get() >= number.0,
            RestoreStop::Time { .. } => false,
        } || seq.has_stopped)
    }

    /// Takes a stop up, in memory and beside the one that there is: nothing behind either becomes visible from here on.
    /// Nothing is let go before the control store has it, because a replay stops where that says. The caller records what
    /// comes of it, and says so by [`Group::set_restore_stops`] or [`Group::stop_not_recorded`].
    ///
    /// # Errors
    /// It lies before what is restored.
    pub(crate) fn take_stop(&self, wanted: StopWish) -> Result<Option<RestoreStop>, String> {
        let mut seq = self.lock();
        let visible = seq.restored.max(seq.restored_in_part.unwrap_or(UpdateNumber::NONE));
        let restored = || format!("the S-VOLs are at update {visible} already");
        let stop = match wanted {
            StopWish::GoOn => return Ok(None),
            _ if visible < seq.wholeness.through => {
                let text = "the S-VOLs are no image of one moment until update";
                return Err(format!("{text} {}: say it again then", seq.wholeness.through));
            }
            StopWish::Now => RestoreStop::Number(StoredNumber(visible.get())),
            StopWish::At(RestoreStop::Number(number)) if number.0 < visible.get() => {
                return Err(format!("{}; they do not go back", restored()));
            }
            StopWish::At(stop @ RestoreStop::Number(_)) => stop,
            StopWish::Bookmark(name) => {
                let found = seq.journal.bookmarks().filter(|bookmark| bookmark.name == name.0).last();
                match found.map(|bookmark| bookmark.number) {
                    Some(number) if number >= visible => RestoreStop::Number(StoredNumber(number.get())),
                    Some(number) => {
                        return Err(format!(
                            "{} and bookmark {name} is update {number}; they do not go back",
                            restored()
                        ));
                    }
                    None => {
                        return Err(format!(
                            "the journal here holds no bookmark {name}: it has not come yet, or is freed"
                        ));
                    }
                }
            }
            StopWish::At(stop @ RestoreStop::Time { unix_ns }) => {
                // Nothing restored since the start: what was before is at most as late as this array's clock.
                let newest_ns = seq.restored_time_ns.unwrap_or_else(|| self.clock.wall().0);
                if newest_ns > unix_ns {
                    return Err(format!("{}, which is later; they do not go back", restored()));
                }
                stop
            }
        };
        seq.unrecorded_stop = Some(stop);
        Ok(Some(stop))
    }

    /// The control store certainly does not have what was taken up.
    pub(crate) fn stop_not_recorded(&self) {
        self.lock().unrecorded_stop = None;
        self.changed.notify_waiters();
    }

    /// Whether none of the stops is before this update, which is in the journal here.
    pub(super) async fn is_before_stops(
        &self,
        whole: UpdateNumber,
        stops: [Option<RestoreStop>; 3],
    ) -> Result<bool, CopyError> {
        for stop in stops {
            if !self.is_before_stop(whole, stop).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn is_before_stop(
        &self,
        whole: UpdateNumber,
        stop: Option<RestoreStop>,
    ) -> Result<bool, CopyError> {
        match stop {
            None => Ok(true),
            Some(RestoreStop::Number(number)) => Ok(whole.get() <= number.0),
            Some(stop @ RestoreStop::Time { .. }) => {
                let last = self.load_information(whole, Class::Restore).await?;
                Ok(last.first().is_some_and(|last| last.number == whole && !stop.is_before(last)))
            }
        }
    }
}

impl Sequencer {
    /// Those that count now: the two that are recorded, and one that may be.
    pub(super) fn stops(&self) -> [Option<RestoreStop>; 3] {
        let [said, suspended] = self.restore_stops;
        [said, suspended, self.unrecorded_stop]
    }

    /// Figure 22, step 2010: whether this update may be restored. If so, it counts as visible from here on.
    pub(super) fn begin_restore(&mut self, update: &Update) -> bool {
        let is_in_stretch = update.number <= self.wholeness.through;
        self.has_stopped =
            !is_in_stretch && self.stops().into_iter().flatten().any(|stop| stop.is_before(update));
        if self.has_stopped {
            return false;
        }
        self.restored_in_part = Some(update.number);
        self.note_begun(update);
        self.restored_time_ns = self.restored_time_ns.max(Some(update.time_ns));
        true
    }
}
