//! Hashing an image: from the units, past the cache, at a pace that leaves the array to its hosts.
//!
//! Digests of extents that were not written since somebody read them are taken as they are ([`Laid::known_digest`]), unless everything is
//! to be read. Then what is read is also held against them: an extent that is another one without having been written is wrong here,
//! and that is a proof which needs no other copy.

use super::tree::{Digest, PAGES, Tree};
use crate::clock::{Clock, MonotonicNs};
use crate::copy::compress::Workbench;
use crate::copy::error::CopyError;
use crate::copy::pace;
use crate::disk::DiskAdapter;
use crate::disk::VolumeId;
use crate::disk::cache::Laid;
use futures_util::future::try_join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What hashes the volumes of one image.
pub(crate) struct Hasher {
    pub(crate) disk: DiskAdapter,
    pub(crate) bench: Workbench,
    pub(crate) clock: Arc<dyn Clock>,
    /// How busy the array is, in permille.
    pub(crate) load: Box<dyn Fn() -> u32 + Send + Sync>,
    /// Bytes that are read in a second at most.
    pub(crate) rate_bytes_per_s: Option<u64>,
    /// Read what is known, too.
    pub(crate) is_full: bool,
    pub(crate) progress: Arc<Progress>,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes of extents that are to be hashed.
    pub(crate) total_bytes: AtomicU64,
    /// Of them, hashed or known.
    pub(crate) done_bytes: AtomicU64,
    /// Of these, read.
    pub(crate) read_bytes: AtomicU64,
}

/// What is known of a volume when it has been hashed.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(crate) tree: Tree,
    /// Extents that are not what they were when they were read before, although nobody has written them.
    pub(crate) rotten: BTreeSet<u32>,
}

impl Hasher {
    /// The tree of a volume to which nobody writes.
    ///
    /// # Errors
    /// The volume is gone or cannot be read, or its parity group runs out of room: an image is not worth that hosts wait.
    pub(crate) async fn volume(&self, volume: VolumeId) -> Result<Hashed, CopyError> {
        let (mut extents, mut rotten, mut next) = (Vec::new(), BTreeSet::new(), 0);
        loop {
            let mut some: Vec<Laid> = Vec::with_capacity(AT_ONCE);
            while some.len() < AT_ONCE {
                let Some(laid) = self.disk.laid(volume, next)? else { break };
                next = laid.at() + 1;
                some.push(laid);
            }
            if some.is_empty() {
                return Ok(Hashed { tree: Tree::of(extents), rotten });
            }
            if !self.disk.has_extents_to_spare(volume)? {
                let text = "the parity group has hardly any room left: images would make hosts wait";
                return Err(CopyError::Damaged(text.to_owned()));
            }
            let began = self.clock.now();
            let mut read_bytes = 0;
            for (laid, one) in some.iter().zip(try_join_all(some.iter().map(|laid| self.extent(laid))).await?)
            {
                read_bytes += if one.is_read { EXTENT_BYTES } else { 0 };
                if one.is_rotten {
                    rotten.insert(laid.at());
                }
                extents.push((laid.at(), one.digest));
            }
            self.progress.done_bytes.fetch_add(EXTENT_BYTES * some.len() as u64, Ordering::Relaxed);
            self.progress.read_bytes.fetch_add(read_bytes, Ordering::Relaxed);
            self.pause(read_bytes, began).await;
        }
    }

    async fn extent(&self, laid: &Laid) -> Result<One, CopyError> {
        let known = laid.known_digest().map(Digest);
        if let (Some(digest), false) = (known, self.is_full || laid.is_broken()) {
            return Ok(One { digest, is_read: false, is_rotten: false });
        }
        let digest = Digest::of_extent(&*self.laid_pages(laid).await?);
        let is_rotten = known.is_some_and(|known| known != digest);
        if is_rotten {
            laid.note_broken(); // The proof stays, and the next comparison reads it again.
        }
        if known.is_none() {
            laid.keep_digest(digest.0);
        }
        Ok(One { digest, is_read: true, is_rotten })
    }

    /// The digests of the pages of one extent of a volume, which may have none; and whether it is another one than it was when it was
    /// read before, although nobody has written it.
    ///
    /// # Errors
    /// As [`Hasher::volume`].
    pub(crate) async fn pages(
        &self,
        volume: VolumeId,
        at: u32,
    ) -> Result<(Box<[Digest; PAGES]>, bool), CopyError> {
        let Some(laid) = self.disk.laid(volume, at)?.filter(|laid| laid.at() == at) else {
            return Ok((Box::new([Digest::ZERO; PAGES]), false));
        };
        let pages = self.laid_pages(&laid).await?;
        let is_rotten = laid.known_digest().is_some_and(|known| Digest(known) != Digest::of_extent(&pages));
        Ok((pages, is_rotten))
    }

    async fn laid_pages(&self, laid: &Laid) -> Result<Box<[Digest; PAGES]>, CopyError> {
        let mut digests = Box::new([Digest::ZERO; PAGES]);
        let mut next = 0;
        while let Some((pages, then)) = laid.read_from(&self.disk, next).await? {
            let work =
                move || pages.iter().map(|(at, slot)| (*at, Digest::of_page(&slot[..]))).collect::<Vec<_>>();
            let hashed = self.bench.run(work).await;
            let hashed = hashed.ok_or_else(|| CopyError::Damaged("nothing can be hashed".to_owned()))?;
            hashed.into_iter().for_each(|(at, digest)| digests[usize::from(at)] = digest);
            next = then;
        }
        Ok(digests)
    }

    /// What was read is paid off with time; and the busier the array is, the longer nothing is read.
    async fn pause(&self, read_bytes: u64, began: MonotonicNs) {
        if read_bytes == 0 {
            tokio::task::yield_now().await;
            return;
        }
        let spent = self.clock.now().since(began);
        let wanted = self.rate_bytes_per_s.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos(read_bytes.saturating_mul(1_000_000_000) / rate.max(1))
        });
        let pause = wanted.saturating_sub(spent).max(pace::restore_pause((self.load)(), 0));
        if !pause.is_zero() {
            self.clock.sleep(pause).await;
        }
    }
}

struct One {
    digest: Digest,
    is_read: bool,
    is_rotten: bool,
}

/// Extents read and hashed side by side; between two such batches the array has a pause.
const AT_ONCE: usize = 4;
const EXTENT_BYTES: u64 = 1 << 20;
