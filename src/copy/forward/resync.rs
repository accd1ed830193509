//! A connection at work: what differs is copied, then both arrays are in step (K1 of mission row T2).
//!
//! 1. The connection is announced; if something is marked, as one over which differences come. From then on the primary's
//!    readers pass no image on that is none (`copy/whole.rs`).
//! 2. That is recorded; from then on hosts' writes are forwarded again, those that were answered alone are marked.
//! 3. Region by region, under the same hold as hosts' writes: what is here becomes durable, is read and forwarded.
//! 4. *In step* is announced and then recorded.
//!
//! A crash or a cut between two steps begins again with 1; marks go only by step 3.

use super::{Announced, Because, Channel, Downstream, ForwardError, Forwarder, Phase, Sending};
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
        let before = self.lock().phase;
        let everything = self.lock().pairs.values().all(super::ForwardPair::is_all_marked);
        let what =
            if before == Phase::InStep { Announced::InStep } else { Announced::Copying { everything } };
        if before == Phase::Alone(Because::Operator) {
            return Ok(());
        }
        if let Err(error) = to.announce(what, self.remotes()).await {
            if error == ForwardError::NotInStep {
                self.distrust().await?;
            }
            return Err(error.into());
        }
        let channel = self.begin(before, &to)?;
        if what != Announced::InStep {
            tokio::select! {
                biased;
                copied = self.copy_all(&channel) => copied?,
                () = self.channel_ends(channel.id) => return Ok(()),
            }
            to.announce(Announced::InStep, self.remotes()).await?;
            self.end_copy(&channel)?;
        }
        tokio::select! {
            biased;
            () = self.channel_ends(channel.id) => Ok(()),
            error = self.forget_idle() => Err(error),
        }
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

    fn remotes(&self) -> Vec<u32> {
        self.lock().pairs.values().map(|pair| pair.remote).collect()
    }

    /// Step 2: the connection is used, unless things are not as they were when it was announced.
    fn begin(&self, announced_in: Phase, to: &Arc<dyn Downstream>) -> Result<Channel, ServeError> {
        let _turn = self.turn();
        if self.lock().phase != announced_in {
            return Err(ServeError::Unwanted);
        }
        if announced_in != Phase::InStep {
            self.parts.ledger.copying().map_err(ServeError::Store)?;
        }
        let mut state = self.lock();
        state.channels += 1;
        let channel = Channel { id: state.channels, to: to.clone() };
        if announced_in != Phase::InStep {
            state.phase = Phase::Copying;
            state.pairs.values_mut().for_each(super::ForwardPair::begin_copy);
        }
        (state.channel, state.down_since) = (Some(channel.clone()), None);
        drop(state);
        self.changed.notify_waiters();
        Ok(channel)
    }

    /// Step 4.
    fn end_copy(&self, channel: &Channel) -> Result<(), ServeError> {
        let _turn = self.turn();
        {
            let state = self.lock();
            let is_ours = state.channel.as_ref().is_some_and(|ours| ours.id == channel.id);
            if !is_ours || state.phase != Phase::Copying || state.next_to_copy(&[], u64::MAX).is_some() {
                return Err(ServeError::Unwanted);
            }
        }
        self.parts.ledger.in_step().map_err(ServeError::Store)?;
        let mut state = self.lock();
        state.phase = Phase::InStep;
        state.pairs.values_mut().for_each(super::ForwardPair::end_copy);
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
        let id = VolumeId(volume);
        // What the primary gets survives here too, whatever was answered before it was durable.
        self.parts.disk.destage_range(id, start, length).await?;
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        let pieces = self.parts.disk.read(id, start, bytes, Class::JournalRead).await?;
        let change = Arc::new(change_of(volume, start, &pieces));
        let checksum = change.payload().checksum();
        let Some(sending) = Sending::begin(self, volume, change, checksum) else {
            return Ok((volume, start)); // The pair was taken away.
        };
        channel.to.write(&sending.write).await?;
        drop(sending);
        let is_shared = {
            let mut state = self.lock();
            if let Some(map) = state.pairs.get_mut(&volume).and_then(|pair| pair.to_copy.as_mut()) {
                map.clear(start, length);
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

    /// Marks of what is at rest go, for as long as both arrays are in step.
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
            if state.phase != Phase::InStep {
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
        for (volume, pair) in &self.pairs {
            let Some(map) = &pair.to_copy else { continue };
            let mut from = 0;
            while let Some((start, length)) = map.next_run(from, longest) {
                // A unit under way is still marked, and one that begins in it would be copied twice.
                let taken = places.iter().any(|(other, at)| other == volume && *at == start);
                if !taken {
                    return Some((*volume, start, length));
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

/// Copies of regions under way.
const COPIES_AT_ONCE: usize = 4;
/// Longest pause of a copy that shares the way with hosts.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Between two rounds in which marks go.
const ROUND: Duration = Duration::from_secs(2);
