//! Reading side by side what a batch of updates changes only in part, before they are restored one after the other (J11).
//!
//! An update that begins or ends inside a page is laid over what the page holds, and where the cache has not got it, it is
//! read from the units. One such read after the other is what makes a restore slow; nothing else in it waits. So all
//! of a batch are asked for together, and the restore itself, in strict number order as ever, finds them in the cache.
//!
//! **What it guarantees**: nothing, and so it can do no harm. No content is taken from here: an update is laid over what
//! the cache holds when its turn comes, and a page that could not be read, or was given up again, is read then.

use super::change::Payload;
use super::group::Group;
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES};
use futures_util::stream::{self, StreamExt};
use holdfast_journal::{Extent, Update};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Group {
    /// Brings the pages into the cache that the updates of a batch change in part.
    pub(super) async fn read_edges(&self, batch: &[(Arc<Update>, Payload)]) {
        let edges: BTreeSet<(u32, u64)> = {
            let seq = self.lock();
            let extents = batch.iter().flat_map(|(update, _)| &update.extents);
            let of_svols =
                extents.filter_map(|extent| Some((seq.svols.get(&extent.volume.0)?.volume, extent)));
            of_svols.flat_map(|(volume, extent)| edges(extent).map(move |page| (volume, page))).collect()
        };
        let cold = edges.into_iter().map(|(volume, page)| (VolumeId(volume), page * PAGE_BYTES));
        let cold: Vec<_> =
            cold.filter(|(id, at)| self.disk.try_read(*id, *at, SLOT_BYTES).is_none()).collect();
        if cold.len() < 2 {
            return; // Alone it is read when its turn comes.
        }
        let reads = cold.into_iter().map(|(volume, offset_bytes)| async move {
            // The last page of a volume may be a short one; who restores it reads it.
            drop(self.disk.read(volume, offset_bytes, SLOT_BYTES, Class::Restore).await);
        });
        stream::iter(reads).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

/// The pages in which an extent begins or ends without filling them.
fn edges(extent: &Extent) -> impl Iterator<Item = u64> {
    let ends = [extent.start_bytes, extent.end_bytes()].into_iter();
    ends.filter(|at| !at.is_multiple_of(PAGE_BYTES)).map(|at| at / PAGE_BYTES)
}

const PAGE_BYTES: u64 = SLOT_BYTES as u64;

/// Reads under way at the same time.
const AT_ONCE: usize = 32;
