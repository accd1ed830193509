//! Stretches of a journal in which the P-VOLs are no image of one moment (promises T2, O3).
//!
//! While an upstream array copies differences into the P-VOLs, region by region, their history is nobody's: a takeover in
//! the middle of it would find some volumes newer than others. The primary writes a record of the kind *broken* before the
//! first of these writes, and one of the kind *whole* behind the last. An auxiliary whose S-VOLs are an image stops its
//! restore before *broken* until it holds *whole* durably; then it goes through to it without a stop. So what a takeover
//! finds is the image before, or the one after. As long as it is in between ([`Sequencer::inside_until`]) nobody takes
//! the S-VOLs for an image, also not behind a restart. Both travel in the journal, so a restart and a cascade know them as well.
//!
//! An auxiliary with less journal than the stretch has data falls behind and overflows like any other (O1): its pairs go
//! to difference maps, and their copy ends only when the P-VOLs are an image again.

use super::change::Payload;
use super::error::CopyError;
use super::group::{Group, PairRuntime, Refusal, Role, Sequencer};
use super::promise::{Promise, Promises};
use crate::disk::VolumeId;
use crate::disk::slot::Class;
use crate::volume::pair::PairState;
use holdfast_journal::{Kind, Update, UpdateNumber};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a group knows of broken stretches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wholeness {
    /// At the primary: the P-VOLs are no image now.
    pub(crate) is_broken: bool,
    /// At an auxiliary: up to here it goes without a stop (`promise.rs` makes it durable).
    pub(crate) through: UpdateNumber,
    /// `through` of the stretch that restore began last: until it has come there the S-VOLs are no image. A stretch that is
    /// promised and not begun leaves them what they are.
    begun_through: UpdateNumber,
    /// Behind this record *broken* there is no *whole* up to the second number: what a search has found.
    pub(super) searched: Option<(UpdateNumber, UpdateNumber)>,
}

/// The copy of a virtual P-VOL: the upstream array sends all of it, as writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fill {
    /// It has to be asked.
    #[default]
    Wanted,
    /// It is doing so.
    Begun,
    /// Everything has come since the copy of the pair began: that can end.
    Done,
}

impl Group {
    /// Whether nothing but the journal of a volume is here. In the middle of a cascade the volumes of a group bear numbers of another array.
    pub(crate) fn is_virtual(&self, volume: u32) -> bool {
        self.role == Role::Source && self.disk.is_virtual(VolumeId(volume))
    }

    /// Whether the update changes a volume of which nothing but the journal is here.
    pub(crate) fn is_of_virtual(&self, update: &Update) -> bool {
        update.extents.first().is_some_and(|extent| self.is_virtual(extent.volume.0))
    }

    /// Virtual P-VOLs of which the upstream array has to send everything.
    pub(crate) fn wants_fill(&self) -> Vec<u32> {
        let seq = self.lock();
        let wants = |pair: &PairRuntime| {
            pair.facts.state == PairState::BeingCopied
                && pair.copy_end.is_none()
                && !pair.resync.marking
                && pair.resync.fill == Fill::Wanted
        };
        let virtuals = seq.pairs.iter().filter(|(volume, _)| self.is_virtual(**volume));
        virtuals.filter(|(_, pairs)| pairs.iter().any(wants)).map(|(volume, _)| *volume).collect()
    }

    /// The upstream array begins to send all of these volumes: what is being copied by now gets everything.
    pub(crate) fn begin_fill(&self, volumes: &BTreeSet<u32>) {
        self.set_fill((Fill::Wanted, Fill::Begun), |volume| volumes.contains(volume));
    }

    /// It has sent everything.
    pub(crate) fn end_fill(&self) {
        self.set_fill((Fill::Begun, Fill::Done), |_| true);
        self.changed.notify_waiters();
    }

    /// Whether the P-VOLs are no image of one moment now.
    pub(crate) fn is_broken(&self) -> bool {
        self.lock().wholeness.is_broken
    }

    /// The store says so of a group that has just been opened.
    pub(crate) fn note_broken(&self, is_broken: bool) {
        self.lock().wholeness.is_broken |= is_broken;
    }

    fn set_fill(&self, (from, to): (Fill, Fill), is_meant: impl Fn(&u32) -> bool) {
        let mut seq = self.lock();
        let meant = seq.pairs.iter_mut().filter(|(volume, _)| is_meant(volume));
        for pair in meant.flat_map(|(_, pairs)| pairs) {
            let is_copied = pair.facts.state == PairState::BeingCopied && !pair.resync.marking;
            if pair.resync.fill == from && is_copied {
                pair.resync.fill = to;
            }
        }
    }
}

impl Group {
    /// At the primary: from here on, and until [`Group::make_whole`], the P-VOLs are no image. Durable when it returns.
    pub(crate) async fn break_image(&self) -> Result<(), CopyError> {
        self.lock().wholeness.is_broken = true;
        self.append_mark(Kind::Broken).await
    }

    /// At the primary: everything in the P-VOLs is of one moment again.
    pub(crate) async fn make_whole(&self) -> Result<(), CopyError> {
        self.append_mark(Kind::Whole).await?;
        self.lock().wholeness.is_broken = false;
        self.changed.notify_waiters(); // Copies that waited for it can end.
        Ok(())
    }

    async fn append_mark(&self, kind: Kind) -> Result<(), CopyError> {
        let number = {
            let mut seq = self.lock();
            if seq.failed.is_some() {
                return Ok(()); // Nothing is journaled any more, and no copy is an image.
            }
            let number = seq.next;
            let update = Update {
                number,
                generation: seq.generation,
                kind,
                time_ns: self.clock.wall().0,
                extents: Vec::new(),
                data_bytes: 0,
                data_checksum: 0,
            };
            self.append(&mut seq, &Arc::new(update), &Payload::default()).map_err(
                |refusal| match refusal {
                    Refusal::NoRoom | Refusal::Leaving | Refusal::Again | Refusal::Fenced => {
                        CopyError::Damaged(format!("the journal of group {} is full", self.name))
                    }
                    Refusal::Invalid(reason) => CopyError::Damaged(reason),
                },
            )?;
            seq.restored = number;
            number
        };
        self.work_arrived();
        self.try_durable(number).await
    }

    /// At an auxiliary: whether the restore may go past this update now.
    pub(crate) async fn may_pass(&self, update: &Update) -> Result<bool, CopyError> {
        if update.kind != Kind::Broken || !self.lock().holds_image() {
            return Ok(true);
        }
        // A later stretch may be one that a delay or a stop holds back: this one's own end is what counts.
        let own = self.first_whole_behind(update.number, self.durable_here()).await?;
        self.go_through(own).await
    }

    /// Each record is looked at once, however often a stretch whose end has not come is asked for.
    async fn first_whole_behind(
        &self,
        broken: UpdateNumber,
        durable: UpdateNumber,
    ) -> Result<Option<UpdateNumber>, CopyError> {
        let searched = self.lock().wholeness.searched.filter(|(known, _)| *known == broken);
        let mut next = searched.map_or(broken, |(_, searched)| searched).next();
        while next <= durable {
            let updates = self.load_information(next, Class::Restore).await?;
            let Some(last) = updates.iter().rfind(|update| update.number <= durable) else { break };
            let whole = updates.iter().find(|update| update.kind == Kind::Whole && update.number <= durable);
            if let Some(whole) = whole {
                return Ok(Some(whole.number));
            }
            self.lock().wholeness.searched = Some((broken, last.number));
            next = last.number.next();
        }
        Ok(None)
    }

    /// Goes through to that record without a stop, unless restore is to stop before it (`stop.rs`).
    async fn go_through(&self, whole: Option<UpdateNumber>) -> Result<bool, CopyError> {
        let Some(whole) = whole else { return Ok(false) };
        loop {
            let stops = self.lock().stops();
            let may_enter = self.is_before_stops(whole, stops).await?;
            let promised = {
                let mut seq = self.lock();
                if seq.stops() != stops {
                    continue; // Another one was said meanwhile.
                }
                if !may_enter {
                    seq.has_stopped = true;
                    return Ok(false);
                }
                let visible = seq.promised().visible.max(whole);
                seq.promise(Promise { visible, through: whole })?
            };
            // A restart in its midst goes through to its end.
            self.keep_promise(promised).await?;
            return Ok(true);
        }
    }
}

impl Sequencer {
    /// What a restart finds promised. Where what may be visible ends before the end of the stretch, that was not begun.
    pub(crate) fn found_promised(&mut self, promise: Promise) {
        self.promises = Promises::found(promise);
        self.wholeness.through = promise.through;
        if promise.visible >= promise.through {
            self.wholeness.begun_through = promise.through;
        }
    }

    /// An update becomes visible from here on.
    pub(super) fn note_begun(&mut self, update: &Update) {
        if update.kind == Kind::Broken && update.number <= self.wholeness.through {
            self.wholeness.begun_through = self.wholeness.through;
        }
    }

    /// The end of the stretch that the S-VOLs are in: they are no image, and nothing may leave them there.
    pub(super) fn inside_until(&self) -> Option<UpdateNumber> {
        let until = self.wholeness.begun_through;
        (self.restored < until).then_some(until)
    }

    /// Whether an S-VOL here is an image that a takeover could use.
    fn holds_image(&self) -> bool {
        self.svols.values().any(|svol| match svol.state {
            PairState::Normal | PairState::Suspended | PairState::Abnormal => true,
            PairState::Unused | PairState::NotYetCopied | PairState::BeingCopied => false,
        })
    }
}
