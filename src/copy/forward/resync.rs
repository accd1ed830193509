//! A connection at work: what differs is copied, then both arrays are in step (K1 of mission row T2).
//!
//! 1. The connection is announced with the pairs that it is about; if something is stale, as one over which differences come.
//!    From then on the primary's readers pass no image on that is none (`copy/whole.rs`).
//! 2. That is recorded; from then on hosts' writes are forwarded again, those that were answered alone are stale.
//! 3. Region by region, under the same hold as hosts' writes: what is here becomes durable, is read and forwarded. It is not
//!    stale from then on, and its mark goes with those of what is at rest: a copy that is cut goes on where it was.
//! 4. When all pairs of the group are among them, *in step* is announced and then recorded.
//!
//! A crash or a cut between two steps begins again with 1. A pair that comes or goes ends the connection.

use super::{Announced, Announcement, Because, Channel, Downstream, ForwardError, Forwarder, Phase};
use crate::copy::change::{Change, Part};
use crate::disk::cache::{Piece, Pieces};
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::disk::{VolumeError, VolumeId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::Arc;
use std::time::Duration;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// It is gone, or the primary refuses what comes over it.
    #[error("{0}")]
    Forward(#[from] ForwardError),
    /// What is to be copied cannot be read here.
    #[error("{0}")]
    Disk(#[from] VolumeError),
    /// A state cannot be recorded.
    #[error("{0}")]
    Store(String),
    /// It is not wanted any more.
    #[error("it is not needed any more")]
    Unwanted,
}

impl Forwarder {
    /// Works over a connection for as long as it lives and is wanted.
    pub(crate) async fn serve(self: &Arc<Self>, to: Arc<dyn Downstream>) -> ServeError {
        let outcome = tokio::select! {
            biased;
            outcome = self.work(to.clone()) => outcome,
            () = to.closed() => Err(ForwardError::Lost("the connection was closed".into()).into()),
        };
        let error = outcome.err().unwrap_or(ServeError::Unwanted);
        {
            let mut state = self.lock();
            if state.channel.as_ref().is_some_and(|channel| Arc::ptr_eq(&channel.to, &to)) {
                state.drop_channel(self.parts.clock.now());
            }
        }
        self.changed.notify_waiters();
        error
    }

    async fn work(self: &Arc<Self>, to: Arc<dyn Downstream>) -> Result<(), ServeError> {
        let (before, pair_changes, said) = self.say();
        if before == Phase::Alone(Because::Operator) || said.volumes.is_empty() {
            return Ok(());
        }
        if let Err(error) = to.announce(said.clone()).await {
            if error == ForwardError::NotInStep {
                self.distrust().await?;
            }
            return Err(error.into());
        }
        let channel = self.begin((before, pair_changes), &to)?;
        if said.what == Announced::Copying {
            tokio::select! {
                biased;
                copied = self.copy_all(&channel) => copied?,
                () = self.channel_ends(channel.id) => return Ok(()),
                error = self.forget_idle() => return Err(error),
            }
            tokio::select! {
                biased;
                () = self.is_complete() => {}
                () = self.channel_ends(channel.id) => return Ok(()),
                error = self.forget_idle() => return Err(error),
            }
            to.announce(Announcement { what: Announced::InStep, whole: Vec::new(), ..said }).await?;
            self.end_copy(&channel)?;
        }
        tokio::select! {
            biased;
            () = self.channel_ends(channel.id) => Ok(()),
            error = self.forget_idle() => Err(error),
        }
    }

    /// What is to be said of a connection, as things are: the phase, and how often a pair has come or gone.
    fn say(&self) -> (Phase, u64, Announcement) {
        let state = self.lock();
        let what = if state.phase == Phase::InStep { Announced::InStep } else { Announced::Copying };
        let volumes = state.members().map(|(_, pair)| pair.remote).collect();
        let whole = state.members().filter(|(_, pair)| pair.is_all_stale()).map(|(_, pair)| pair.remote);
        let said = Announcement { what, volumes, whole: whole.collect() };
        (state.phase, state.pair_changes, said)
    }

    /// The primary lacks what it had: everything is copied over the next connection.
    async fn distrust(&self) -> Result<(), ServeError> {
        {
            let _turn = self.turn();
            let mut state = self.lock();
            state.pairs.values_mut().for_each(super::ForwardPair::mark_all);
            if state.phase == Phase::InStep {
                state.phase = Phase::Copying;
            }
        }
        self.write_marks().await.map_err(ServeError::Store)
    }

    /// Step 2: the connection is used, unless things are not as they were when it was announced.
    fn begin(&self, announced: (Phase, u64), to: &Arc<dyn Downstream>) -> Result<Channel, ServeError> {
        let _turn = self.turn();
        let is_as_announced = |state: &super::State| (state.phase, state.pair_changes) == announced;
        if !is_as_announced(&self.lock()) {
            return Err(ServeError::Unwanted);
        }
        if announced.0 != Phase::InStep {
            self.parts.ledger.copying(&self.pair_numbers()).map_err(ServeError::Store)?;
        }
        let mut state = self.lock();
        if !is_as_announced(&state) {
            return Err(ServeError::Unwanted);
        }
        state.channels += 1;
        let channel = Channel { id: state.channels, to: to.clone() };
        if announced.0 != Phase::InStep {
            state.phase = Phase::Copying;
        }
        (state.channel, state.down_since) = (Some(channel.clone()), None);
        drop(state);
        self.changed.notify_waiters();
        Ok(channel)
    }

    /// Step 4.
    fn end_copy(&self, channel: &Channel) -> Result<(), ServeError> {
        let _turn = self.turn();
        let may_end = |state: &super::State| {
            let is_ours = state.channel.as_ref().is_some_and(|ours| ours.id == channel.id);
            is_ours && state.phase == Phase::Copying && !state.members().any(|(_, pair)| pair.is_stale())
        };
        if !may_end(&self.lock()) {
            return Err(ServeError::Unwanted);
        }
        self.parts.ledger.in_step(&self.pair_numbers()).map_err(ServeError::Store)?;
        let mut state = self.lock();
        if !may_end(&state) {
            return Err(ServeError::Unwanted); // A write ended badly meanwhile; the next connection records that it copies.
        }
        state.phase = Phase::InStep;
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// Step 3: several regions side by side.
    async fn copy_all(self: &Arc<Self>, channel: &Channel) -> Result<(), ServeError> {
        let mut under_way = FuturesUnordered::new();
        let mut places: Vec<(u32, u64)> = Vec::new();
        loop {
            while under_way.len() < COPIES_AT_ONCE {
                let next = self.lock().next_to_copy(&places, self.parts.copy_unit_bytes);
                let Some((volume, start, length)) = next else { break };
                places.push((volume, start));
                under_way.push(self.copy_unit(channel, volume, start, length));
            }
            let Some(copied) = under_way.next().await else { return Ok(()) };
            let done = copied?;
            places.retain(|place| *place != done);
        }
    }

    async fn copy_unit(
        self: &Arc<Self>,
        channel: &Channel,
        volume: u32,
        start: u64,
        length: u64,
    ) -> Result<(u32, u64), ServeError> {
        let (begun, writes) = (self.parts.clock.now(), self.lock().host_writes);
        let hold = self.ranges.hold(volume, vec![std::ops::Range { start, end: start + length }]).await;
        // What the primary gets survives here too, whatever was answered before it was durable.
        self.parts.disk.destage_range(VolumeId(volume), start, length).await?;
        // A region of a very large volume is more than one write may be.
        let mut at = start;
        while at < start + length {
            let piece = (start + length - at).min(PIECE_BYTES);
            if !self.copy_piece(channel, volume, (at, piece)).await? {
                return Ok((volume, start)); // The pair is being taken away.
            }
            at += piece;
        }
        let is_shared = {
            let mut state = self.lock();
            if let Some(pair) = state.pairs.get_mut(&volume) {
                pair.is_copied(start, length);
            }
            state.host_writes != writes
        };
        drop(hold);
        if is_shared {
            // Hosts use the way as well: at most half of the time is the copy's.
            let pause = self.parts.clock.now().since(begun).min(PAUSE_MAX);
            self.parts.clock.sleep(pause).await;
        }
        Ok((volume, start))
    }

    async fn copy_piece(
        &self,
        channel: &Channel,
        volume: u32,
        (start, length): (u64, u64),
    ) -> Result<bool, ServeError> {
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let pieces = self.parts.disk.read(VolumeId(volume), start, bytes, Class::JournalRead).await?;
        let change = Arc::new(change_of(volume, start, &pieces));
        let checksum = change.payload().checksum();
        let Some(mut sending) = self.begin_sending(volume, &change, checksum).await else { return Ok(false) };
        loop {
            match channel.to.write(&sending.write).await {
                Ok(()) => return Ok(true),
                Err(ForwardError::Again(_)) => self.parts.clock.sleep(super::pass::AGAIN).await,
                Err(error) => return Err(error.into()),
            }
            sending.refresh();
        }
    }

    /// Marks of what is at rest go, for as long as a connection is at work.
    async fn forget_idle(&self) -> ServeError {
        loop {
            self.parts.clock.sleep(ROUND).await;
            if let Err(error) = self.forget_once().await {
                return ServeError::Store(error);
            }
        }
    }

    /// One round of that.
    pub(crate) async fn forget_once(&self) -> Result<(), String> {
        {
            // Not while marks are being written: what is taken off now must not seem to be written.
            let _one_at_a_time = self.marking.lock().await;
            let mut state = self.lock();
            if matches!(state.phase, Phase::Alone(_)) {
                return Ok(());
            }
            state.pairs.values_mut().for_each(super::ForwardPair::forget_idle);
        }
        self.write_marks().await
    }
}

impl super::State {
    /// The next unit to be copied that does not begin at one of `places`.
    fn next_to_copy(&self, places: &[(u32, u64)], longest: u64) -> Option<(u32, u64, u64)> {
        for (volume, pair) in self.members() {
            let mut from = 0;
            while let Some((start, length)) = pair.next_stale(from, longest) {
                // A unit under way is still stale, and one that begins in it would be copied twice.
                if !places.contains(&(volume, start)) {
                    return Some((volume, start, length));
                }
                from = start + length;
            }
        }
        None
    }
}

/// What was read, as a change.
fn change_of(volume: u32, start: u64, pieces: &Pieces) -> Change {
    let mut parts: Vec<Part> = Vec::new();
    let (mut at, mut slots, mut data_from) = (start, Vec::new(), start);
    let page = SLOT_BYTES as u64;
    for piece in pieces.iter() {
        let length = piece.length() as u64;
        match piece {
            Piece::Bytes { slot, .. } => {
                if slots.is_empty() {
                    data_from = at;
                }
                slots.push(slot.clone());
            }
            Piece::Zero { .. } => {
                if !slots.is_empty() {
                    parts.push(Part::data(data_from, at - data_from, std::mem::take(&mut slots)));
                }
                parts.push(Part::zero(at, length));
            }
        }
        at += length;
    }
    if !slots.is_empty() {
        parts.push(Part::data(data_from, at - data_from, slots));
    }
    debug_assert!(start.is_multiple_of(page), "regions begin at pages");
    Change::new(volume, parts)
}

/// Bytes of one forwarded write of a copy at most: with its head it is no longer than a list may be.
const PIECE_BYTES: u64 = 1 << 20;
/// Copies of regions under way.
const COPIES_AT_ONCE: usize = 4;
/// Longest pause of a copy that shares the way with hosts.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Between two rounds in which marks go.
const ROUND: Duration = Duration::from_secs(2);
