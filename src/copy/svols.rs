//! S-VOLs that leave restore: because hosts may write them, or because their pair is taken away.

use super::error::CopyError;
use super::group::{Group, SvolRuntime};
use crate::disk::slot::Class;
use std::collections::BTreeMap;
use std::time::Duration;

impl Group {
    /// Takes pairs out of restore at the auxiliary as they are, behind the update that was restored last: a delay of
    /// the restore stays. `record` notes it when what they were at that moment is on the units. It is told where what
    /// is held here and is passed over from now on would have changed each of them: their source need not know that.
    ///
    /// # Errors
    /// The S-VOLs are the image of no number now; or `record`'s, and that they cannot come to the units.
    ///
    /// Nothing is restored meanwhile: a crash before `record` leaves S-VOLs that the journal here brings to the moment at
    /// which they are taken out the next time, and one behind it such as are of the moment of this one.
    pub(crate) async fn take_out_svols<E: From<CopyError>>(
        &self,
        pairs: &[u32],
        record: impl FnOnce(PassedOver) -> Result<(), E>,
    ) -> Result<(), E> {
        let _others_give_way = self.wants_to_cut_alone();
        let _nothing_is_restored = self.restoring.lock().await;
        self.image_number().map_err(E::from)?;
        self.take_out(pairs, record).await
    }

    /// With nothing being restored.
    async fn take_out<E: From<CopyError>>(
        &self,
        pairs: &[u32],
        record: impl FnOnce(PassedOver) -> Result<(), E>,
    ) -> Result<(), E> {
        self.settle().await.map_err(E::from)?;
        record(self.passed_over(pairs).await?)?;
        let mut seq = self.lock();
        let is_meant = |svol: &SvolRuntime| pairs.contains(&svol.pair);
        let gone: Vec<u32> =
            seq.svols.iter().filter(|(_, svol)| is_meant(svol)).map(|(pvol, _)| *pvol).collect();
        seq.gone.extend(gone);
        seq.svols.retain(|_, svol| !is_meant(svol));
        Ok(())
    }

    /// What is held here and not restored, as ranges of the S-VOLs of these pairs.
    async fn passed_over(&self, pairs: &[u32]) -> Result<PassedOver, CopyError> {
        let mut passed_over: PassedOver = BTreeMap::new();
        let mut next = self.lock().restored.next();
        while next <= self.durable_here() {
            let updates = self.load_information(next, Class::Restore).await?;
            let Some(last) = updates.last().map(|update| update.number) else {
                let text = format!("group {}: update {next} is missing in its journal", self.name);
                return Err(CopyError::Damaged(text));
            };
            let seq = self.lock();
            for extent in updates.iter().flat_map(|update| &update.extents) {
                let svol = seq.svols.get(&extent.volume.0).filter(|svol| pairs.contains(&svol.pair));
                if let Some(svol) = svol {
                    let range = (extent.start_bytes, extent.length_bytes);
                    passed_over.entry(svol.pair).or_default().push(range);
                }
            }
            drop(seq);
            next = last.next();
        }
        Ok(passed_over)
    }

    /// Takes a pair out at the auxiliary, when what this array holds of it and is older than `delay` has been restored.
    pub(crate) async fn forget_svol(&self, pair: u32, delay: Duration) -> Result<(), CopyError> {
        self.restore_available(delay).await?;
        if self.has_stop() && !self.is_restored() {
            // What is behind the stop would be met later, by nobody who knows that it is to be passed over.
            return Err(CopyError::Damaged(format!(
                "group {}: restore is stopped, and its S-VOLs stay what they are: let it go on first",
                self.name
            )));
        }
        let _others_give_way = self.wants_to_cut_alone();
        let _nothing_is_restored = self.restoring.lock().await;
        if let Some(update) = self.lock().restored_in_part {
            return Err(CopyError::Damaged(format!("update {update} is restored in part")));
        }
        // Nobody takes it for an image any more: it may go from inside a stretch in which it is none.
        self.take_out(&[pair], |_| Ok(())).await
    }
}

/// For each pair ranges of its S-VOL.
pub(crate) type PassedOver = BTreeMap<u32, Vec<(u64, u64)>>;
