//! A write to a volume whose writes are forwarded: figure 23, step 2310, and figure 24, step 2410.
//!
//! # Steps
//! 1. What may wait or fail here comes first: partial pages, and with [`Manner::IfSame`] and [`Manner::Or`] the look at what the
//!    range holds. From before that look until the end the range is held, so it stays true.
//! 2. The regions are marked, durably.
//! 3. The write is passed on, until it is durable at the primary or the array goes on alone.
//! 4. It becomes visible here, and durable unless the array is alone.
//!
//! From step 3 on it runs by itself: what was sent cannot be taken back, so a session that ends does not end it. Its range
//! stays held, so a repetition of the command comes behind it (invariant 8).

use super::manner::Manner;
use super::volume::{IoError, Pending, Stop, TRIES_MAX, Volume};
use crate::copy::change::{Change, apply};
use crate::copy::forward::{Admitted, Forwarder, Passed};
use crate::disk::{Prepared, VolumeId};
use crate::volume::kind::Fence;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Pending {
    /// The whole way of the write.
    pub(super) async fn forward(mut self, forwarder: Arc<Forwarder>) -> Result<(), IoError> {
        if self.change.whole {
            return Err(IoError::Refused(super::volume::NOT_ATOMIC.into()));
        }
        let nexus = self.nexus.clone();
        let limit = forwarder.limit();
        tokio::pin!(limit);
        let begun = async {
            let prepared = self.prepare().await?;
            let ranges: Vec<Range<u64>> = self.change.parts.iter().map(range_of).collect();
            let admitted = forwarder.admit(self.volume.number, ranges).await.map_err(IoError::Refused)?;
            self.look_held().await?;
            Ok::<_, IoError>((prepared, admitted))
        };
        let (prepared, admitted) = tokio::select! {
            biased;
            begun = begun => begun?,
            () = nexus.ending() => return Err(IoError::SessionEnded),
            () = &mut limit => return Err(not_in_time()),
        };
        let (told, answer) = oneshot::channel();
        let work = self.pass_on(forwarder.clone(), admitted, prepared);
        forwarder.spawn(async move {
            // Nobody may wait for it any more.
            let _ = told.send(work.await);
        });
        tokio::select! {
            biased;
            // It is not told when the array ends.
            answer = answer => answer.unwrap_or(Err(IoError::SessionEnded)),
            () = nexus.ending() => Err(IoError::SessionEnded),
            () = &mut limit => Err(not_in_time()),
        }
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
    ) -> Result<(), IoError> {
        let change = Arc::new(std::mem::replace(&mut self.change, Change::new(0, Vec::new())));
        let checksum = change.payload().checksum();
        let passed =
            forwarder.pass_on(&admitted, change.clone(), checksum).await.map_err(IoError::Refused)?;
        self.volume.show(&change, &self.manner, &mut prepared);
        if passed == Passed::Alone && !self.durable {
            return Ok(());
        }
        for part in &change.parts {
            let (offset, length) = (part.offset_bytes, part.length_bytes);
            let id = VolumeId(self.volume.number);
            if let Err(error) = self.volume.disk.destage_range(id, offset, length).await {
                admitted.leave_marked();
                return Err(error.into());
            }
        }
        Ok(())
    }
}

impl Volume {
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
            Fence::Data => self.parts.clock.sleep(self.parts.fence_wait).await,
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
