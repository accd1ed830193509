//! Execution with one parity: computing what a member cannot give, and keeping the parity true.
//!
//! Whoever relies on a stripe's parity or changes it holds the stripe's lock. A stripe is suspect from before its
//! first transfer of a write until all of them have ended well.

use super::DiskError;
use super::group::{Inner, Piece, first_error};
use super::parity::xor_all_into;
use super::stripe::{Band, Health, ParityHealth, Set, Strategy, bands, choose, columns};
use crate::disk::device::DeviceError;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::{MutexGuard, PoisonError};

/// One slot to be written.
struct Cell {
    stripe: u64,
    row: u64,
    data: usize,
    slot: Slot,
}

/// A band with what is known about who can be read in it.
struct Step {
    band: Band,
    unreadable_members: Set,
    strategy: Strategy,
    /// What was read: the columns whose sum with the written slots is the parity. The first becomes the parity;
    /// when nothing needs to be read it is room for it.
    read: Vec<Vec<SlotMut>>,
}

impl Inner {
    /// Writes runs of the group, stripe by stripe at once.
    pub(super) async fn write_with_parity(&self, runs: Vec<(u64, Vec<Slot>)>) -> Result<(), DiskError> {
        let mut cells: Vec<Cell> = Vec::with_capacity(runs.iter().map(|(_, slots)| slots.len()).sum());
        for (first, slots) in runs {
            for (at, slot) in (first..).zip(slots) {
                let place = self.layout.locate(at);
                cells.push(Cell { stripe: place.stripe, row: place.row, data: place.data, slot });
            }
        }
        cells.sort_unstable_by_key(|cell| (cell.stripe, cell.row, cell.data));
        let same =
            |one: &Cell, next: &Cell| (one.stripe, one.row, one.data) == (next.stripe, next.row, next.data);
        if cells.windows(2).any(|pair| same(&pair[0], &pair[1])) {
            return Err(DiskError::Overlap { group: self.spec.name.clone() });
        }
        let stripes = cells.chunk_by(|one, next| one.stripe == next.stripe);
        first_error(join_all(stripes.map(|cells| self.write_stripe(cells))).await)
    }

    async fn write_stripe(&self, cells: &[Cell]) -> Result<(), DiskError> {
        let Some(stripe) = cells.first().map(|cell| cell.stripe) else { return Ok(()) };
        let _lock = self.lock(stripe).lock().await;
        let whole = cells.len() as u64 == self.layout.stripe_slots();
        if !whole && self.suspects().contains(&stripe) {
            self.compute_parity_again(stripe).await?;
        }
        let places: Vec<(u64, usize)> = cells.iter().map(|cell| (cell.row, cell.data)).collect();
        let budget = self.scratch_slots();
        let rows_max = if whole { budget } else { budget / self.layout.data_units() }.max(1);
        let mut waiting = bands(&places, rows_max).into_iter().peekable();
        let mut at = 0;
        while waiting.peek().is_some() {
            let (mut steps, mut taken) = (Vec::new(), 0);
            while let Some(band) =
                waiting.next_if(|band| taken == 0 || taken + self.scratch_of(band) <= budget)
            {
                taken += self.scratch_of(&band);
                steps.push(Step { band, unreadable_members: 0, strategy: Strategy::Full, read: Vec::new() });
            }
            let count: usize = steps.iter().map(|step| step.cells()).sum();
            self.write_steps(stripe, steps, &cells[at..at + count]).await?;
            at += count;
        }
        Ok(())
    }

    /// Reads what the parity needs, computes it, and writes data and parity.
    async fn write_steps(&self, stripe: u64, mut steps: Vec<Step>, cells: &[Cell]) -> Result<(), DiskError> {
        self.read_columns(stripe, &mut steps).await?;
        let parity_member = self.layout.parity_member(stripe);
        let mut transfers: Vec<(usize, u64, Slot)> = cells
            .iter()
            .map(|cell| (self.layout.data_member(stripe, cell.data), cell.row, cell.slot.clone()))
            .collect();
        let mut rest = cells;
        for step in steps {
            let (mine, others) = rest.split_at(step.cells());
            rest = others;
            let first_row = step.band.first_row;
            let (Some(member), Some(parity)) = (parity_member, sum(step, mine)) else { continue };
            transfers.extend((first_row..).zip(parity).map(|(row, slot)| (member, row, slot)));
        }
        transfers.sort_by_key(|(member, row, _)| (*member, *row));
        // From the first transfer on a loss of this future or an error leaves data and parity of different writes.
        self.suspects().insert(stripe);
        let pieces = gather(transfers, stripe * self.layout.unit_slots());
        first_error(join_all(pieces.into_iter().map(|piece| self.write_redundant(piece))).await)?;
        self.suspects().remove(&stripe);
        Ok(())
    }

    /// Fills `read` of every step. When a column cannot be read, everything is given back and begun again without
    /// it: a call that waits for memory never holds any.
    async fn read_columns(&self, stripe: u64, steps: &mut [Step]) -> Result<(), DiskError> {
        loop {
            let mut wanted = Vec::new();
            for (index, step) in steps.iter_mut().enumerate() {
                step.read.clear();
                let health = self.health(stripe, step.unreadable_members);
                step.strategy = choose(step.band.written, health)
                    .ok_or_else(|| self.lost(stripe, "its parity or a neighbour is missing too"))?;
                let columns = columns(step.strategy, step.band.written, health.data_units);
                let data = (0..health.data_units).filter(|data| columns & (1 << data) != 0);
                let mut members: Vec<usize> =
                    data.map(|data| self.layout.data_member(stripe, data)).collect();
                if step.strategy == Strategy::ReadModifyWrite {
                    members.extend(self.layout.parity_member(stripe));
                }
                wanted.extend(members.into_iter().map(|member| (index, member, step.band)));
            }
            let full = |step: &&mut Step| step.strategy == Strategy::Full;
            let for_full: u64 = steps.iter_mut().filter(full).map(|step| step.band.rows).sum();
            let count: u64 = wanted.iter().map(|(_, _, band)| band.rows).sum();
            // All at once: whoever waits for memory holds none.
            let mut slots = self.scratch(count + for_full).await.into_iter();
            for step in steps.iter_mut().filter(full) {
                step.read.push(slots.by_ref().take(small(step.band.rows)).collect());
            }
            let reads = wanted.into_iter().map(|(index, member, band)| {
                let into: Vec<SlotMut> = slots.by_ref().take(small(band.rows)).collect();
                let member_slot = stripe * self.layout.unit_slots() + band.first_row;
                async move { (index, member, self.read_member(member, member_slot, into).await) }
            });
            let mut again = false;
            for (index, member, result) in join_all(reads).await {
                match result {
                    Ok(column) => steps[index].read.push(column),
                    Err(_) => {
                        steps[index].unreadable_members |= 1 << member;
                        again = true;
                    }
                }
            }
            if !again {
                return Ok(());
            }
            self.usable()?;
        }
    }

    /// Writes a piece; the loss of the member alone is borne by the others.
    async fn write_redundant(&self, piece: Piece<Slot>) -> Result<(), DiskError> {
        let Some(device) = self.device(piece.member) else { return Ok(()) };
        let Err(error) = device.write(self.offset_bytes(piece.member_slot), piece.slots).await else {
            return Ok(());
        };
        self.note_failure(piece.member, &error);
        self.usable()?;
        if self.is_out(piece.member) { Ok(()) } else { Err(self.device_error(error)) }
    }

    /// Fills `into` with what a member that is out would hold.
    pub(super) async fn reconstruct(
        &self,
        member: usize,
        member_slot: u64,
        into: Vec<SlotMut>,
    ) -> Result<Vec<SlotMut>, DiskError> {
        let unit = self.layout.unit_slots();
        let rows_max = (self.scratch_slots() / self.layout.data_units()).max(1);
        let (mut next, mut into) = (member_slot, into.into_iter().peekable());
        let mut filled = Vec::with_capacity(into.len());
        while into.peek().is_some() {
            let rows = (unit - next % unit).min(rows_max);
            let part: Vec<SlotMut> = into.by_ref().take(small(rows)).collect();
            let count = part.len() as u64;
            let _lock = self.lock(next / unit).lock().await;
            filled.extend(self.sum_of_others(member, next, part).await?);
            next += count;
        }
        Ok(filled)
    }

    /// Gives the slots of a member of which a read has failed: each is read alone, and what still cannot be read is
    /// computed and written back, since a medium that remaps a bad place does so when it is written.
    pub(super) async fn repair(
        &self,
        member: usize,
        member_slot: u64,
        count: usize,
    ) -> Result<Vec<SlotMut>, DiskError> {
        let mut slots = Vec::with_capacity(count);
        for at in member_slot..member_slot + count as u64 {
            let _lock = self.lock(at / self.layout.unit_slots()).lock().await;
            let into = self.scratch(1).await;
            if let Ok(read) = self.read_member(member, at, into).await {
                slots.extend(read);
                continue;
            }
            let into = self.scratch(1).await;
            let computed = self.sum_of_others(member, at, into).await?;
            let mut copies = self.scratch(computed.len() as u64).await;
            for (copy, slot) in copies.iter_mut().zip(&computed) {
                copy.copy_from_slice(&slot[..]);
            }
            if let Some(device) = self.device(member) {
                let copies = copies.into_iter().map(SlotMut::freeze).collect();
                if let Err(error) = device.write(self.offset_bytes(at), copies).await {
                    self.note_failure(member, &error);
                }
            }
            slots.extend(computed);
        }
        Ok(slots)
    }

    /// The sum of all other members at a place, which is what this member holds or held. Under the stripe's lock.
    async fn sum_of_others(
        &self,
        member: usize,
        member_slot: u64,
        into: Vec<SlotMut>,
    ) -> Result<Vec<SlotMut>, DiskError> {
        let stripe = member_slot / self.layout.unit_slots();
        if self.suspects().contains(&stripe) {
            return Err(self.lost(stripe, "a write of it was cut off"));
        }
        let rows = into.len() as u64;
        let others = (0..self.layout.members()).filter(|other| *other != member);
        let mut slots = self.scratch(rows * (self.layout.data_units() - 1)).await.into_iter();
        // The first of the others is read into place.
        let mut targets = Some(into);
        let reads = others.map(|other| {
            let column = targets.take().unwrap_or_else(|| slots.by_ref().take(small(rows)).collect());
            self.read_member(other, member_slot, column)
        });
        let mut columns = Vec::new();
        for column in join_all(reads).await {
            columns.push(column.map_err(|error| self.lost(stripe, &error.to_string()))?);
        }
        let mut columns = columns.into_iter();
        let mut sums = columns.next().unwrap_or_default();
        let columns: Vec<Vec<SlotMut>> = columns.collect();
        for (row, sum) in sums.iter_mut().enumerate() {
            xor_all_into(sum, columns.iter().map(|column| &*column[row]));
        }
        Ok(sums)
    }

    /// Makes the parity of a suspect stripe that of its data again. Under the stripe's lock.
    async fn compute_parity_again(&self, stripe: u64) -> Result<(), DiskError> {
        let unit = self.layout.unit_slots();
        let Some(parity) = self.layout.parity_member(stripe) else { return Ok(()) };
        let rows_max = (self.scratch_slots() / self.layout.data_units()).max(1);
        let mut row = 0;
        while row < unit && self.device(parity).is_some() {
            let rows = rows_max.min(unit - row);
            let members = (0..self.layout.members()).filter(|member| *member != parity);
            let mut slots = self.scratch(rows * self.layout.data_units()).await.into_iter();
            let member_slot = stripe * unit + row;
            let reads = members.map(|member| {
                self.read_member(member, member_slot, slots.by_ref().take(small(rows)).collect())
            });
            let columns: Result<Vec<_>, _> = join_all(reads).await.into_iter().collect();
            let mut columns = columns.map_err(|error| self.lost(stripe, &error.to_string()))?;
            let mut sums = columns.pop().unwrap_or_default();
            for (row, sum) in sums.iter_mut().enumerate() {
                xor_all_into(sum, columns.iter().map(|column| &*column[row]));
            }
            let slots = sums.into_iter().map(SlotMut::freeze).collect();
            self.write_redundant(Piece { member: parity, member_slot, slots, indices: Vec::new() }).await?;
            row += rows;
        }
        self.suspects().remove(&stripe);
        Ok(())
    }

    async fn read_member(
        &self,
        member: usize,
        member_slot: u64,
        into: Vec<SlotMut>,
    ) -> Result<Vec<SlotMut>, DeviceError> {
        let Some(device) = self.device(member) else { return Err(self.gone(member)) };
        let result = device.read(self.offset_bytes(member_slot), into).await;
        result.inspect_err(|error| self.note_failure(member, error))
    }

    fn health(&self, stripe: u64, unreadable_members: Set) -> Health {
        let data_units = small(self.layout.data_units());
        let unreadable = (0..data_units).fold(0, |set, data| {
            let member = self.layout.data_member(stripe, data);
            let bad = unreadable_members & (1 << member) != 0 || self.device(member).is_none();
            set | Set::from(bad) << data
        });
        let parity = match self.layout.parity_member(stripe) {
            Some(member) if self.device(member).is_none() => ParityHealth::Out,
            Some(member) if unreadable_members & (1 << member) != 0 => ParityHealth::Unreadable,
            Some(_) if self.suspects().contains(&stripe) => ParityHealth::Unreadable,
            Some(_) => ParityHealth::Good,
            None => ParityHealth::Out,
        };
        Health { data_units, unreadable, parity }
    }

    fn lost(&self, stripe: u64, reason: &str) -> DiskError {
        match self.usable() {
            Ok(()) => DiskError::Lost { group: self.spec.name.clone(), stripe, reason: reason.to_owned() },
            Err(failed) => failed,
        }
    }

    fn lock(&self, stripe: u64) -> &tokio::sync::Mutex<()> {
        &self.stripe_locks[small(stripe % self.stripe_locks.len() as u64)]
    }

    fn suspects(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What one call may take at once: the reserve of the class, which is free sooner or later whatever others do.
    fn scratch_slots(&self) -> u64 {
        let reserve = self.pool.limit() - self.pool.largest_request(Class::Journal);
        reserve.max(1) as u64
    }

    fn scratch_of(&self, band: &Band) -> u64 {
        let full = u64::from(band.written.count_ones()) == self.layout.data_units();
        band.rows * if full { 1 } else { self.layout.data_units() }
    }

    async fn scratch(&self, slots: u64) -> Vec<SlotMut> {
        self.pool.take(Class::Raid, small(slots)).await
    }
}

impl Step {
    /// How many slots it writes.
    fn cells(&self) -> usize {
        small(self.band.rows) * self.band.written.count_ones() as usize
    }
}

/// The parity of a step; none when nobody can hold it.
fn sum(step: Step, cells: &[Cell]) -> Option<Vec<Slot>> {
    let mut columns = step.read.into_iter();
    let mut parity = columns.next()?;
    let columns: Vec<Vec<SlotMut>> = columns.collect();
    let rows = cells.chunk_by(|one, next| one.row == next.row);
    for (row, (parity, mut cells)) in parity.iter_mut().zip(rows).enumerate() {
        if let (Strategy::Full, Some((first, others))) = (step.strategy, cells.split_first()) {
            parity.copy_from_slice(&first.slot[..]);
            cells = others;
        }
        let read = columns.iter().map(|column| &*column[row]);
        xor_all_into(parity, read.chain(cells.iter().map(|cell| &*cell.slot)));
    }
    Some(parity.into_iter().map(SlotMut::freeze).collect())
}

/// Joins sorted single slots of a stripe into pieces, one for each contiguous range of a member.
fn gather(transfers: Vec<(usize, u64, Slot)>, first_member_slot: u64) -> Vec<Piece<Slot>> {
    let mut pieces: Vec<Piece<Slot>> = Vec::new();
    for (member, row, slot) in transfers {
        let member_slot = first_member_slot + row;
        match pieces.last_mut() {
            Some(piece)
                if piece.member == member && piece.member_slot + piece.slots.len() as u64 == member_slot =>
            {
                piece.slots.push(slot);
            }
            _ => pieces.push(Piece { member, member_slot, slots: vec![slot], indices: Vec::new() }),
        }
    }
    pieces
}

/// Numbers bounded by the slots of a stripe or of the pool.
fn small(count: u64) -> usize {
    usize::try_from(count).expect("bounded by a stripe or by the pool")
}

const _: () = assert!(SLOT_BYTES == 4096);
