//! A write to a volume whose writes are forwarded: figure 23, step 2310, and figure 24, step 2410.
//!
//! # Steps
//! 1. What may wait or fail here comes first: partial pages, and with [`Manner::IfSame`] and [`Manner::Or`] the look at what the
//!    range holds. From before that look until the end the range is held, so it stays true.
//! 2. The regions are marked, durably.
//! 3. The write is passed on, until it is durable at the primary or the array goes on alone.
//! 4. It becomes visible here, and durable unless the array is alone. WRITE ATOMIC, and what looks before it writes, is kept in the control store from before the
//!    one until after the other, so that a start finds all of it or nothing (`volume/store/atomic.rs`).
//!
//! From step 3 on it runs by itself. Its host is answered when it has ended, and so is the end of its session: one that has
//! not been answered by the primary after a while is given up then, and never becomes visible here (invariant 8). What a
//! write can be, and who decides that, stands in `copy/forward/mod.rs`.

use super::manner::Manner;
use super::volume::{IoError, Pending, Stop, TRIES_MAX, Volume};
use crate::copy::change::{Change, apply};
use crate::copy::forward::{AdmitError, Admitted, Forwarder, Passed};
use crate::disk::{Prepared, VolumeId};
use crate::volume::kind::Fence;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// What came of an attempt.
pub(super) enum Way {
    /// The write has been made.
    Made,
    /// The volume has another role by now, and nothing has happened.
    Turned(Box<Pending>),
}

impl Pending {
    /// Makes it visible as the role of its volume demands, which may change while it waits.
    pub(super) async fn wait_and_write(self, prepared: Option<Vec<Prepared>>) -> Result<(), IoError> {
        let (mut pending, mut prepared) = (self, prepared);
        loop {
            let way = match pending.volume.forwarder() {
                Some(forwarder) => {
                    drop(prepared.take());
                    pending.forward(forwarder).await?
                }
                None => pending.write_here(prepared.take()).await?,
            };
            match way {
                Way::Made => return Ok(()),
                Way::Turned(again) => pending = *again,
            }
        }
    }

    /// The whole way of a write that is forwarded.
    async fn forward(mut self, forwarder: Arc<Forwarder>) -> Result<Way, IoError> {
        let nexus = self.nexus.clone();
        // For the primary, and for it alone, this is when the command was made.
        self.change.created_ns.get_or_insert(forwarder.parts.clock.wall().0);
        let begun = async {
            let prepared = self.prepare().await?;
            let ranges: Vec<Range<u64>> = self.change.parts.iter().map(range_of).collect();
            let admitted = match forwarder.admit(self.volume.number, ranges).await {
                Ok(admitted) => admitted,
                Err(AdmitError::Gone) => return Ok(None),
                Err(AdmitError::Store(error)) => return Err(IoError::Refused(error)),
            };
            self.look_held().await?;
            Ok::<_, IoError>(Some((prepared, admitted)))
        };
        let begun = tokio::select! {
            biased;
            begun = begun => begun?,
            () = nexus.ending() => return Err(IoError::SessionEnded),
            () = forwarder.limit() => return Err(not_in_time()),
        };
        let Some((prepared, admitted)) = begun else {
            return if self.volume.is_forwarded_by(&forwarder) {
                Err(IoError::Refused(AdmitError::Gone.to_string()))
            } else {
                Ok(Way::Turned(Box::new(self)))
            };
        };
        let (told, mut answer) = oneshot::channel();
        let (wanted, given_up) = oneshot::channel::<()>();
        let given_up = async move { drop(given_up.await) };
        let work = self.pass_on(forwarder.clone(), admitted, prepared, given_up);
        forwarder.spawn(async move {
            // Nobody may wait for it any more.
            let _ = told.send(work.await);
        });
        let answered = tokio::select! {
            biased;
            answered = &mut answer => Some(answered),
            () = nexus.ending() => None,
        };
        let answered = match answered {
            Some(answered) => answered,
            None => {
                tokio::select! {
                    biased;
                    answered = &mut answer => answered,
                    () = forwarder.parts.clock.sleep(SESSION_GRACE) => {
                        drop(wanted);
                        answer.await
                    }
                }
            }
        };
        // It is not told when the array ends.
        answered.unwrap_or(Err(IoError::SessionEnded)).map(|()| Way::Made)
    }

    /// Looks at what the range holds, as the manner asks; nobody changes it meanwhile.
    async fn look_held(&mut self) -> Result<(), IoError> {
        for _ in 0..TRIES_MAX {
            self.supply().await?;
            match self.look() {
                Err(Stop::NotCached) => self.bring_into_cache().await?,
                outcome => return outcome.map_err(IoError::from),
            }
        }
        Err(IoError::Contended)
    }

    async fn pass_on(
        mut self,
        forwarder: Arc<Forwarder>,
        mut admitted: Admitted,
        mut prepared: Vec<Prepared>,
        given_up: impl Future<Output = ()>,
    ) -> Result<(), IoError> {
        let change = Arc::new(std::mem::replace(&mut self.change, Change::new(0, Vec::new())));
        let checksum = change.payload().checksum();
        let passed = forwarder.pass_on(&mut admitted, change.clone(), checksum, given_up).await;
        let passed = passed.map_err(IoError::Refused)?;
        let ledger = forwarder.parts.ledger.clone();
        // There is no journal that would make it whole here: what a start has to write again is kept meanwhile. One block is
        // whole on its unit.
        let is_long =
            change.parts.iter().map(|part| part.length_bytes).sum::<u64>() > self.volume.block_bytes.into();
        let kept = if change.whole || self.manner.is_alone() && is_long {
            Some(ledger.keep_atomic(self.volume.number, &change).map_err(IoError::Refused)?)
        } else {
            None
        };
        self.volume.show(&change, &self.manner, &mut prepared);
        if passed == Passed::Alone && !self.durable && kept.is_none() {
            return Ok(());
        }
        let durable = self.volume.make_durable_here(&change).await;
        if let Some(error) = kept.and_then(|kept| ledger.forget_atomic(kept).err()) {
            // A start writes it again, over whatever came later: so nothing may, until then.
            forwarder.spawn(async move {
                let _held = admitted;
                std::future::pending::<()>().await;
            });
            return Err(IoError::Refused(error));
        }
        durable?;
        admitted.is_whole();
        Ok(())
    }
}

impl Volume {
    async fn make_durable_here(&self, change: &Change) -> Result<(), IoError> {
        for part in &change.parts {
            let (offset, length) = (part.offset_bytes, part.length_bytes);
            self.disk.destage_range(VolumeId(self.number), offset, length).await?;
        }
        Ok(())
    }

    /// Makes a write visible that nothing else can come between: its range is held.
    fn show(&self, change: &Change, manner: &Manner, prepared: &mut Vec<Prepared>) {
        if manner.is_alone() {
            let _alone = self.alone();
            apply(&self.disk, change, prepared, 0);
        } else {
            let _shared = self.shared();
            apply(&self.disk, change, prepared, 0);
        }
    }
}

impl Forwarder {
    /// With the fence `data`: when a write fails that is not forwarded by then. Otherwise never.
    async fn limit(&self) {
        match self.parts.fence {
            Fence::Data | Fence::Status => self.parts.clock.sleep(self.parts.fence_wait).await,
            Fence::Never => std::future::pending().await,
        }
    }
}

fn range_of(part: &crate::copy::change::Part) -> Range<u64> {
    part.offset_bytes..part.offset_bytes + part.length_bytes
}

fn not_in_time() -> IoError {
    IoError::Refused("it could not be forwarded in time".into())
}

/// How long the end of a session waits for the primary's answer to a write of it.
const SESSION_GRACE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
