//! Making equal what differs: by updates.
//!
//! What is right is written once more at the primary, as a host would write it: with a number, in its journal, to every copy. So each
//! S-VOL is the image of some number the whole time, and what hosts write meanwhile is never undone: the page is written only while
//! it holds what it was compared as, or what it is to hold.

use super::super::Array;
use super::Line;
use super::copy::{DifferentPages, Job, Plan};
use crate::channel::storage::Nexus;
use crate::copy::change::{Change, Part};
use crate::disk::VolumeId;
use crate::disk::slot::{Class, SLOT_BYTES, Slot, SlotMut};
use crate::io::manner::{Expected, Manner};
use crate::io::volume::{IoError, Outcome, Volume};
use crate::volume::compare::{REWRITE_MAX, Repair, Side, Step, TellCompare};
use crate::volume::designation::Refusal;
use crate::volume::name::{GroupNumber, VolumeNumber};
use std::fmt::Write;
use std::sync::Arc;

impl Array {
    /// At the copy: has what differs made equal, as far as it is known which side is right.
    pub(super) async fn repair(
        &self,
        (job, wish): (&Job, Repair),
        plan: &Plan,
        (line, images): (&mut Line<'_>, &[VolumeId]),
        different: &[DifferentPages],
    ) -> Result<(), Refusal> {
        for one in different {
            let right = match (one.wrong, wish) {
                (Some(Side::Copy), _) | (None, Repair::FromPrimary) => Side::Primary,
                (Some(Side::Primary), _) | (None, Repair::FromCopy) => Side::Copy,
                (None, Repair::Proven) => continue,
            };
            let volume = plan.volumes[one.at].pvol;
            let pages: Vec<u64> = one.pages.clone().collect();
            for some in pages.chunks(REWRITE_MAX) {
                let mut written = 0;
                match right {
                    Side::Primary => {
                        let step = Step::Rewrite { volume, pages: some.to_vec() };
                        if let TellCompare::Written(pages) = line.ask(step).await? {
                            written = pages;
                        }
                    }
                    Side::Copy => {
                        for page in some {
                            let bytes = self.page_text(images[one.at], *page).await?;
                            let step = Step::Put { volume, page: *page, bytes };
                            if let TellCompare::Written(pages) = line.ask(step).await? {
                                written += pages;
                            }
                        }
                    }
                }
                job.shown().found.repaired_bytes += u64::from(written) * SLOT_BYTES as u64;
            }
        }
        Ok(())
    }

    async fn page_text(&self, image: VolumeId, page: u64) -> Result<String, Refusal> {
        let bytes = self.image_page(image, page).await?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(String::new());
        }
        let mut text = String::with_capacity(2 * SLOT_BYTES);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}"); // A string takes everything.
        }
        Ok(text)
    }

    async fn image_page(&self, image: VolumeId, page: u64) -> Result<Vec<u8>, Refusal> {
        let read =
            self.disk.read(image, page.saturating_mul(SLOT_BYTES as u64), SLOT_BYTES, Class::Host).await;
        read.map(|pieces| pieces.to_vec()).map_err(|error| Refusal::Conflict(error.to_string()))
    }

    /// At the source: these pages become updates that write what the P-VOL holds.
    pub(super) async fn rewrite_pages(
        &self,
        group: GroupNumber,
        volume: VolumeNumber,
        pages: &[u64],
        nexus: &Arc<Nexus>,
    ) -> Result<TellCompare, Refusal> {
        let volume = self.repaired_volume(group, volume)?;
        let mut written = 0;
        for page in pages {
            for _ in 0..TRIES_MAX {
                let bytes = ready(volume.read(page.saturating_mul(SLOT_BYTES as u64), SLOT_BYTES)).await;
                let bytes = bytes.map_err(|error| Refusal::Conflict(error.to_string()))?.to_vec();
                // A host may write it between the two: then that goes to the copy, and the rest of the page comes with the next try.
                if self.write_if_same(&volume, *page, (&bytes, &bytes), nexus).await? {
                    written += 1;
                    break;
                }
            }
        }
        Ok(TellCompare::Written(written))
    }

    /// At the source: the page becomes what the copy has, unless hosts have written it since the image was cut.
    pub(super) async fn put_page(
        &self,
        group: GroupNumber,
        (volume, image): (VolumeNumber, VolumeId),
        page: u64,
        text: &str,
        nexus: &Arc<Nexus>,
    ) -> Result<TellCompare, Refusal> {
        let volume = self.repaired_volume(group, volume)?;
        let bytes = bytes_of(text).ok_or_else(|| Refusal::conflict("it is no page"))?;
        let was = self.image_page(image, page).await?;
        // The cache may hold what the unit has lost.
        let written = self.write_if_same(&volume, page, (&was, &bytes), nexus).await?
            || self.write_if_same(&volume, page, (&bytes, &bytes), nexus).await?;
        Ok(TellCompare::Written(u32::from(written)))
    }

    fn repaired_volume(&self, group: GroupNumber, volume: VolumeNumber) -> Result<Arc<Volume>, Refusal> {
        if self.store.read(|tables| tables.followed_pairs(group).next().is_some()) {
            return Err(Refusal::conflict(
                "it is itself a copy: compare it with the array that it is copied from, and repair there",
            ));
        }
        let open = self.runtime().volumes.get(&volume.0).cloned();
        open.ok_or_else(|| Refusal::conflict("the volume is not open"))
    }

    /// Writes a page if it holds `was`; whether it did.
    async fn write_if_same(
        &self,
        volume: &Arc<Volume>,
        page: u64,
        (was, bytes): (&[u8], &[u8]),
        nexus: &Arc<Nexus>,
    ) -> Result<bool, Refusal> {
        let offset = page.saturating_mul(SLOT_BYTES as u64);
        let mut slots = self.pool.take(Class::Host, 2).await;
        let (new, old) = (filled(slots.remove(1), bytes), filled(slots.remove(0), was));
        let expected = Expected { slots: vec![old], at: 0 };
        let part = match bytes.iter().all(|byte| *byte == 0) {
            true => Part::zero(offset, SLOT_BYTES as u64),
            false => Part::data(offset, SLOT_BYTES as u64, vec![new]),
        };
        let change = Change::new(volume.number, vec![part]);
        match ready(volume.write_as(change, Manner::IfSame(expected), true, nexus)).await {
            Ok(()) => Ok(true),
            Err(IoError::Differs(_)) => Ok(false),
            Err(error) => Err(Refusal::Conflict(error.to_string())),
        }
    }
}

fn filled(mut slot: SlotMut, bytes: &[u8]) -> Slot {
    let length = bytes.len().min(SLOT_BYTES);
    slot[..length].copy_from_slice(&bytes[..length]);
    slot[length..].fill(0);
    slot.freeze()
}

async fn ready<T>(outcome: Outcome<T>) -> Result<T, IoError> {
    match outcome {
        Outcome::Ready(result) => result,
        Outcome::Later(later) => later.await,
    }
}

/// A page in hexadecimal digits; nothing: zeros.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    if text.is_empty() {
        return Some(vec![0; SLOT_BYTES]);
    }
    if text.len() != 2 * SLOT_BYTES || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// How often a page is tried that hosts write meanwhile.
const TRIES_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_travels_as_digits_and_nothing_else_is_one() {
        let page: Vec<u8> = (0..SLOT_BYTES).map(|at| u8::try_from(at % 253).unwrap()).collect();
        let text: String = page.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(bytes_of(&text), Some(page));
        assert_eq!(bytes_of(""), Some(vec![0; SLOT_BYTES]));
        for wrong in ["00".to_owned(), "+1".repeat(SLOT_BYTES), "é".repeat(SLOT_BYTES)] {
            assert_eq!(bytes_of(&wrong), None);
        }
    }
}
