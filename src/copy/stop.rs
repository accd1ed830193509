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

/// A stop that a group has taken up, and the one that it had before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenStop {
    pub(crate) stop: Option<RestoreStop>,
    before: Option<RestoreStop>,
}

impl Group {
    /// What the control store says.
    pub(crate) fn set_restore_stop(&self, stop: Option<RestoreStop>) {
        let before = std::mem::replace(&mut self.lock().restore_stop, stop);
        if before != stop {
            self.changed.notify_waiters();
        }
    }

    /// The stop that counts now.
    pub(crate) fn restore_stop(&self) -> Option<RestoreStop> {
        self.lock().restore_stop
    }

    /// Whether it has been reached.
    pub(crate) fn is_stopped(&self) -> bool {
        let seq = self.lock();
        seq.restore_stop.is_some_and(|stop| match stop {
            RestoreStop::Number(number) => seq.restored.get() >= number.0,
            RestoreStop::Time { .. } => false,
        } || seq.has_stopped)
    }

    /// Takes a stop up, in memory: nothing behind it becomes visible from here on. The caller records it, or gives it
    /// back with [`Group::give_stop_back`].
    ///
    /// # Errors
    /// It lies before what is restored.
    pub(crate) fn take_stop(&self, wanted: StopWish) -> Result<TakenStop, String> {
        let mut seq = self.lock();
        let visible = seq.restored.max(seq.restored_in_part.unwrap_or(UpdateNumber::NONE));
        let restored = || format!("the S-VOLs are at update {visible} already");
        let stop = match wanted {
            StopWish::GoOn => None,
            _ if visible < seq.wholeness.through => {
                let text = "the S-VOLs are no image of one moment until update";
                return Err(format!("{text} {}: say it again then", seq.wholeness.through));
            }
            StopWish::Now => Some(RestoreStop::Number(StoredNumber(visible.get()))),
            StopWish::At(RestoreStop::Number(number)) if number.0 < visible.get() => {
                return Err(format!("{}; they do not go back", restored()));
            }
            StopWish::At(stop @ RestoreStop::Number(_)) => Some(stop),
            StopWish::At(stop @ RestoreStop::Time { unix_ns }) => {
                // Nothing restored since the start: what was before is at most as late as this array's clock.
                let newest_ns = seq.restored_time_ns.unwrap_or_else(|| self.clock.wall().0);
                if newest_ns > unix_ns {
                    return Err(format!("{}, which is later; they do not go back", restored()));
                }
                Some(stop)
            }
        };
        let before = std::mem::replace(&mut seq.restore_stop, stop);
        drop(seq);
        self.changed.notify_waiters();
        Ok(TakenStop { stop, before })
    }

    /// What was taken up could not be recorded.
    pub(crate) fn give_stop_back(&self, taken: TakenStop) {
        self.set_restore_stop(taken.before);
    }

    /// Whether the stop is not before this update, which is in the journal here.
    pub(super) async fn is_before_stop(
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
    /// Figure 22, step 2010: whether this update may be restored. If so, it counts as visible from here on.
    pub(super) fn begin_restore(&mut self, update: &Update) -> bool {
        let is_in_stretch = update.number <= self.wholeness.through;
        self.has_stopped = !is_in_stretch && self.restore_stop.is_some_and(|stop| stop.is_before(update));
        if self.has_stopped {
            return false;
        }
        self.restored_in_part = Some(update.number);
        self.restored_time_ns = self.restored_time_ns.max(Some(update.time_ns));
        true
    }
}
