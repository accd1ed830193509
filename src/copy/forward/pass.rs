//! The way of one write at the upstream array: held, marked, sent, ended. The states and their owners stand in `mod.rs`.

use super::ranges::Hold;
use super::{Because, Channel, ForwardError, Forwarder, Outgoing, Phase, State, WINDOW};
use crate::clock::MonotonicNs;
use crate::copy::change::Change;
use crate::volume::kind::Fence;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// A host's write that holds its ranges, which are marked. Its drop is its end: what it is by then decides whether its
/// regions have to be copied.
pub(crate) struct Admitted {
    forwarder: Arc<Forwarder>,
    volume: u32,
    ranges: Vec<Range<u64>>,
    extents: BTreeSet<u64>,
    fate: Fate,
    since: MonotonicNs,
    // Dropped last: what is stale is known before the range is free.
    _hold: Hold,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What is known of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// Nothing of it was sent or shown.
    Nothing,
    /// It may be at the primary, also yet, and may not be here.
    Unknown,
    /// It is only here, which is noted.
    OnlyHere,
    /// It is durable at both sides.
    Whole,
}

/// Why a write is not admitted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum AdmitError {
    /// The volume is not forwarded any more: it has another role now.
    #[error("its writes are not forwarded any more")]
    Gone,
    /// Its marks cannot be recorded.
    #[error("{0}")]
    Store(String),
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Passed {
    /// It is durable at the primary.
    On,
    /// It is answered without the primary.
    Alone,
}

/// What is to be done with a write now.
enum Step {
    /// It is only here.
    Alone,
    /// There is no connection.
    Wait,
    /// The oldest write under way is too old.
    WaitForWindow,
    Send(Channel),
}

impl Forwarder {
    /// Holds the ranges of a write, and marks them durably.
    ///
    /// # Errors
    /// The marks cannot be recorded, or the volume is not forwarded any more.
    pub(crate) async fn admit(
        self: &Arc<Self>,
        volume: u32,
        ranges: Vec<Range<u64>>,
    ) -> Result<Admitted, AdmitError> {
        let since = self.parts.clock.now();
        let hold = self.ranges.hold(volume, ranges.clone()).await;
        // The semaphore is never closed.
        let permit = self.room.clone().acquire_owned().await.ok();
        let extents = {
            let mut state = self.lock();
            state.host_writes += 1;
            state.pairs.get_mut(&volume).ok_or(AdmitError::Gone)?.enter(&ranges)
        };
        let (forwarder, fate) = (self.clone(), Fate::Nothing);
        let admitted =
            Admitted { forwarder, volume, ranges, extents, fate, since, _hold: hold, _permit: permit };
        self.write_marks().await.map_err(AdmitError::Store)?;
        Ok(admitted)
    }

    /// Passes a write on until it is durable at the primary or the array goes on alone. `given_up`: nobody waits for it any
    /// more.
    ///
    /// # Errors
    /// It was given up; or with the fence `data` it was not answered in time, or is refused. It must not be shown.
    pub(crate) async fn pass_on(
        self: &Arc<Self>,
        admitted: &mut Admitted,
        change: Arc<Change>,
        checksum: u32,
        given_up: impl Future<Output = ()>,
    ) -> Result<Passed, String> {
        let mut sending = None;
        let mut is_late = false;
        let deadline = self.parts.clock.sleep(self.patience(admitted.since));
        tokio::pin!(deadline, given_up);
        loop {
            let (changed, window) = (self.changed.notified(), self.window.notified());
            tokio::pin!(changed, window);
            changed.as_mut().enable();
            window.as_mut().enable();
            let step = self.next_step(admitted, &mut sending, (&change, checksum));
            if matches!(step, Step::Alone) {
                return Ok(Passed::Alone);
            }
            if is_late {
                self.fence("the primary did not answer in time")?;
                continue;
            }
            let pause = match (&step, &sending) {
                (Step::Send(channel), Some(sending)) => {
                    admitted.fate = Fate::Unknown;
                    let answer = tokio::select! {
                        biased;
                        answer = channel.to.write(&sending.write) => answer,
                        () = self.channel_ends(channel.id) => continue,
                        () = &mut given_up => return Err(GIVEN_UP.into()),
                        () = &mut deadline => {
                            is_late = true;
                            continue;
                        }
                    };
                    match answer {
                        Ok(()) => return Ok(Passed::On),
                        Err(ForwardError::Again(_)) => Some(AGAIN),
                        Err(ForwardError::Lost(error)) => {
                            self.lost(channel.id, &error);
                            continue;
                        }
                        Err(error) => {
                            self.fence(&error.to_string())?;
                            continue;
                        }
                    }
                }
                _ => None,
            };
            let is_window = matches!(step, Step::WaitForWindow);
            let pause = async {
                match pause {
                    Some(pause) => self.parts.clock.sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = window, if is_window => {}
                () = pause => {}
                () = &mut given_up => return Err(GIVEN_UP.into()),
                () = &mut deadline => is_late = true,
            }
        }
    }

    fn next_step<'a>(
        &'a self,
        admitted: &mut Admitted,
        sending: &mut Option<Sending<'a>>,
        (change, checksum): (&Arc<Change>, u32),
    ) -> Step {
        let mut state = self.lock();
        let is_alone = matches!(state.phase, Phase::Alone(_));
        let Some(pair) = state.pairs.get_mut(&admitted.volume).filter(|pair| !pair.is_leaving && !is_alone)
        else {
            // Stale from this moment on: what begins to be copied now waits for its range.
            if let Some(pair) = state.pairs.get_mut(&admitted.volume) {
                pair.set_stale(&admitted.ranges);
            }
            admitted.fate = Fate::OnlyHere;
            return Step::Alone;
        };
        let remote = pair.remote;
        let Some(channel) = state.channel.clone().filter(|_| !state.is_stopped) else { return Step::Wait };
        match sending {
            Some(sending) => sending.write.oldest = state.oldest(),
            None => match Sending::begin(self, &mut state, remote, (change, checksum)) {
                Some(begun) => *sending = Some(begun),
                None => return Step::WaitForWindow,
            },
        }
        Step::Send(channel)
    }

    /// A number for a copy of a region; none: the pair is being taken away.
    pub(super) async fn begin_sending(
        &self,
        volume: u32,
        change: &Arc<Change>,
        checksum: u32,
    ) -> Option<Sending<'_>> {
        loop {
            let window = self.window.notified();
            tokio::pin!(window);
            window.as_mut().enable();
            {
                let mut state = self.lock();
                let remote = state.pairs.get(&volume).filter(|pair| !pair.is_leaving)?.remote;
                let begun = Sending::begin(self, &mut state, remote, (change, checksum));
                if begun.is_some() {
                    return begun;
                }
            }
            window.await;
        }
    }

    /// How long a write that came then still waits for the primary.
    fn patience(&self, since: MonotonicNs) -> Duration {
        let now = self.parts.clock.now();
        let mut waited = self.lock().down_since.map_or(Duration::ZERO, |since| now.since(since));
        if self.parts.fence != Fence::Never {
            waited = waited.max(now.since(since)); // Its host is told then, whatever it waits for.
        }
        self.parts.fence_wait.saturating_sub(waited)
    }

    /// A write cannot be forwarded: the group goes on alone, or the write fails.
    fn fence(&self, reason: &str) -> Result<(), String> {
        match self.parts.fence {
            Fence::Never => self.go_alone(Because::Unreachable, reason),
            Fence::Data | Fence::Status => Err(reason.to_owned()),
        }
    }
}

/// A write with its number, which is given up when this is dropped.
pub(super) struct Sending<'a> {
    forwarder: &'a Forwarder,
    pub(super) write: Outgoing,
}

impl<'a> Sending<'a> {
    /// The next number, if it is not too far from the oldest one under way.
    fn begin(
        forwarder: &'a Forwarder,
        state: &mut State,
        remote: u32,
        (change, checksum): (&Arc<Change>, u32),
    ) -> Option<Self> {
        let sequence = state.next_sequence;
        if sequence - state.oldest() >= WINDOW as u64 {
            return None;
        }
        state.next_sequence += 1;
        state.under_way.insert(sequence);
        let oldest = state.oldest();
        Some(Self {
            forwarder,
            write: Outgoing { remote, sequence, oldest, change: change.clone(), checksum },
        })
    }

    /// What is the oldest write under way may have changed since it was sent.
    pub(super) fn refresh(&mut self) {
        self.write.oldest = self.forwarder.lock().oldest();
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut state = self.forwarder.lock();
        let was_oldest = state.oldest() == self.write.sequence;
        state.under_way.remove(&self.write.sequence);
        drop(state);
        if was_oldest {
            self.forwarder.window.notify_waiters();
        }
    }
}

impl State {
    fn oldest(&self) -> u64 {
        self.under_way.first().copied().unwrap_or(self.next_sequence)
    }
}

impl Admitted {
    /// The write is durable at the primary and here.
    pub(crate) fn is_whole(&mut self) {
        if self.fate == Fate::Unknown {
            self.fate = Fate::Whole;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let now = self.forwarder.parts.clock.now();
        {
            let mut state = self.forwarder.lock();
            let Some(pair) = state.pairs.get_mut(&self.volume) else { return };
            pair.leave(&self.extents);
            if self.fate != Fate::Unknown || pair.is_leaving {
                return;
            }
            pair.set_stale(&self.ranges);
            if state.phase == Phase::InStep {
                state.phase = Phase::Copying;
            }
            // What was sent over it lands before the next one begins, or never.
            state.drop_channel(now);
        }
        self.forwarder.changed.notify_waiters();
    }
}

/// Between two attempts of a write that the primary had no room for.
pub(super) const AGAIN: Duration = Duration::from_millis(20);
const GIVEN_UP: &str = "nobody waits for it any more";
