//! A copy comes to rest: what was asked for before is not taken any more (promise O3).
//!
//! While all pairs of a copy are suspended its source hands out nothing for it. But an answer that it gave before that may
//! still be on its way, on another connection, and what has come may not be durable yet; both would be restored later. Whoever says
//! as of which number these S-VOLs stay rules that out first: [`Group::come_to_rest`], then everything that is here is restored, then
//! [`Group::number_at_rest`] gives the number, or none where something is left.
//!
//! A read that begins afterwards counts again: what its source hands out then, it hands out knowing that the pairs are suspended.
//!
//! So does a reader of a primary that was overtaken, before it says which number it has: the one that it reads may serve its hosts still.
//!
//! Proved by the unit test here, and by seed 8598 of `tests/sim/story.rs`, in which the copy noted a number while updates behind it
//! were not durable.

use super::error::{CopyError, Refusal};
use super::fetch::Whose;
use super::group::{Group, Sequencer};
use holdfast_journal::UpdateNumber;

/// How often a copy has come to rest since it is at work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rests(u64);

impl Group {
    /// Nothing is taken any more of what was asked for before, or was pushed; what is here is durable when this returns.
    ///
    /// # Errors
    /// It cannot be made durable, or the group ends.
    pub(crate) async fn come_to_rest(&self) -> Result<(), CopyError> {
        let has_failed = {
            let mut seq = self.lock();
            seq.rests = Rests(seq.rests.0.wrapping_add(1));
            seq.pushed.begin_anew();
            seq.failed.is_some()
        };
        self.changed.notify_waiters();
        self.room.notify_waiters();
        if has_failed {
            return Ok(()); // Nothing more becomes durable or is restored.
        }
        self.all_durable().await
    }

    /// The update that was restored last, if the S-VOLs are an image as of it and nothing is held here behind it.
    pub(crate) fn number_at_rest(&self) -> Option<UpdateNumber> {
        let seq = self.lock();
        let is_all = seq.restored.next() == seq.next;
        is_all.then(|| seq.image_number().ok()).flatten()
    }

    /// For a read that begins now.
    pub(crate) fn rests(&self) -> Rests {
        self.lock().rests
    }
}

impl Sequencer {
    /// Whether what a peer sent may be stored; `begun`: what [`Group::rests`] was when it was asked for.
    pub(super) fn may_store(&self, whose: Whose, begun: Option<Rests>) -> Result<(), Refusal> {
        let invalid = |text: &str| Err(Refusal::Invalid(text.to_owned()));
        if whose == Whose::Other && !self.other_allowed {
            return invalid("a pair here is not normal: what it needs comes from the source");
        }
        if self.failed.is_some() {
            return invalid("the journal has failed");
        }
        if self.takes_nothing {
            return invalid("this array is taking over");
        }
        if begun.is_some_and(|begun| begun != self.rests) {
            return invalid("it was asked for before this copy came to rest");
        }
        Ok(())
    }
}
