//! When a host is answered: what was promised decides whether its write has to be durable here, and whether another array
//! has to have it, too (promise K1).

use super::error::IoError;
use super::volume::{FENCED, Pending, Volume};
use crate::clock::{BoxFuture, MonotonicNs};
use crate::copy::group::{Group, Sequenced};
use crate::copy::synchronous::Answered;
use crate::disk::VolumeId;
use std::sync::Arc;
use std::time::Duration;

impl Volume {
    /// SYNCHRONIZE CACHE: everything accepted before is durable afterwards, also at a synchronous copy, which nobody waits for
    /// any more who is `ending`.
    pub async fn synchronize(self: Arc<Self>, ending: impl Future<Output = ()>) -> Result<(), IoError> {
        let Some(group) = self.group() else {
            return Ok(self.disk.destage(&[VolumeId(self.number)]).await?);
        };
        let newest = group.newest_number();
        group.synchronize(self.number).await?;
        tokio::select! {
            biased;
            confirmed = group.confirmed(newest) => confirmed.map(|_| ()).map_err(IoError::Fenced),
            () = ending => Err(IoError::SessionEnded),
        }
    }

    /// What a read that forces unit access needs: what it returns is durable here.
    pub(super) async fn synchronize_here(self: Arc<Self>) -> Result<(), IoError> {
        match self.group() {
            Some(group) => group.synchronize(self.number).await?,
            None => self.disk.destage(&[VolumeId(self.number)]).await?,
        }
        Ok(())
    }
}

impl Pending {
    /// Whether another array has to have the write before its host is answered.
    pub(super) fn waits(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.hosts_wait())
    }

    /// Waits until the host of a write that is visible may be answered. The end of its session waits for no other array.
    pub(super) async fn until_answered(self, sequenced: Sequenced) -> Result<(), IoError> {
        if self.durable {
            self.make_durable(sequenced).await?;
        }
        let (Sequenced::Journaled(number), Some(group)) = (sequenced, &self.group) else { return Ok(()) };
        if !group.hosts_wait() {
            return Ok(());
        }
        let answered = tokio::select! {
            biased;
            answered = group.confirmed(number) => answered.map_err(IoError::Fenced)?,
            () = self.nexus.ending() => return Err(IoError::SessionEnded),
        };
        let is_still_ours = self.volume.group().is_some_and(|now| Arc::ptr_eq(&now, group));
        if answered == Answered::Alone && !is_still_ours {
            // It waited for another array, which may have taken over without it.
            return Err(IoError::Refused("another array may have taken over meanwhile".into()));
        }
        Ok(())
    }

    async fn make_durable(&self, sequenced: Sequenced) -> Result<(), IoError> {
        match (sequenced, &self.group) {
            (Sequenced::Journaled(number), Some(group)) => group.durable(number).await,
            _ => {
                for part in &self.change.parts {
                    let volume = VolumeId(self.volume.number);
                    self.volume.disk.destage_range(volume, part.offset_bytes, part.length_bytes).await?;
                }
            }
        }
        Ok(())
    }

    /// How long a write that there is no room for waits until it looks again; an error when it has waited for long enough.
    /// Most writes wait as long as it takes.
    pub(super) fn patience(
        &self,
        group: Option<&Arc<Group>>,
        since: &mut Option<MonotonicNs>,
    ) -> Result<BoxFuture<'static, ()>, IoError> {
        // A virtual volume has no difference map here: its upstream array notes what there is no room for.
        let within = group.and_then(|group| match self.volume.is_virtual {
            true => Some((group.settings.throttle.max(PATIENCE), IoError::Refused(FULL.into()))),
            false => group.patience().map(|limit| (limit, IoError::Fenced(FENCED.into()))),
        });
        let (Some(group), Some((limit, error))) = (group, within) else {
            return Ok(Box::pin(std::future::pending()));
        };
        let now = group.clock.now();
        if now.since(*since.get_or_insert(now)) >= limit {
            return Err(error);
        }
        Ok(group.clock.sleep(limit.min(PATIENCE)))
    }
}

/// How long a write to a virtual volume waits for room at least.
const PATIENCE: Duration = Duration::from_secs(1);
const FULL: &str = "the journal of the virtual volume is full";
