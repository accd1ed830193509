//! Units that are read and not written.

use crate::clock::BoxFuture;
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::io::opener::{OpenMode, OpenUnitError, UnitOpener};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut};
use rustix::fs::{FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

/// Opens files and block devices for reading only, and keeps what could not be read: redundancy hides that from whoever reads.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadOnlyOpener {
    unread: Unread,
}

type Unread = Arc<Mutex<Vec<DeviceError>>>;

impl ReadOnlyOpener {
    /// Reads that failed, at most [`UNREAD_MAX`].
    pub(super) fn unread(&self) -> Vec<DeviceError> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl UnitOpener for ReadOnlyOpener {
    fn open<'a>(
        &'a self,
        path: &'a str,
        _mode: OpenMode,
    ) -> BoxFuture<'a, Result<Arc<dyn BlockDevice>, OpenUnitError>> {
        Box::pin(std::future::ready(
            ReadOnlyUnit::open(path, self.unread.clone()).map(|unit| Arc::new(unit) as _),
        ))
    }
}

#[derive(Debug)]
struct ReadOnlyUnit {
    fd: OwnedFd,
    path: String,
    length_bytes: u64,
    unread: Unread,
}

impl ReadOnlyUnit {
    fn open(path: &str, unread: Unread) -> Result<Self, OpenUnitError> {
        let failed = |errno: Errno| match errno {
            Errno::NOENT => OpenUnitError::Missing { path: path.to_owned() },
            // An array holds the lock, of a file or of a block device.
            Errno::BUSY | Errno::WOULDBLOCK => OpenUnitError::InUse { path: path.to_owned() },
            errno => OpenUnitError::Other { path: path.to_owned(), reason: errno.to_string() },
        };
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared).map_err(failed)?;
        let length_bytes = rustix::fs::seek(&fd, SeekFrom::End(0)).map_err(failed)?;
        Ok(Self { fd, path: path.to_owned(), length_bytes, unread })
    }

    fn read_now(&self, offset_bytes: u64, into: &mut [SlotMut]) -> Result<(), DeviceError> {
        let failed = |offset_bytes: u64, reason: String| DeviceError::Read {
            unit: self.path.clone(),
            offset_bytes,
            length_bytes: SLOT_BYTES as u64,
            reason,
        };
        let mut at = offset_bytes;
        for slots in into.chunks_mut(VECTORS_MAX) {
            let wanted = slots.len() * SLOT_BYTES;
            let mut vectors: Vec<IoSliceMut<'_>> =
                slots.iter_mut().map(|slot| IoSliceMut::new(&mut slot[..])).collect();
            let read = rustix::io::preadv(&self.fd, &mut vectors, at);
            if read == Ok(wanted) {
                at += wanted as u64;
                continue;
            }
            // One by one, so that it is known which cannot be read.
            for slot in slots {
                match rustix::io::pread(&self.fd, &mut slot[..], at) {
                    Ok(SLOT_BYTES) => at += SLOT_BYTES as u64,
                    Ok(_) => return Err(failed(at, "it ends there".to_owned())),
                    Err(errno) => return Err(failed(at, errno.to_string())),
                }
            }
        }
        Ok(())
    }
}

impl BlockDevice for ReadOnlyUnit {
    fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    fn read(
        &self,
        offset_bytes: u64,
        mut into: Vec<SlotMut>,
    ) -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>> {
        Box::pin(async move {
            self.read_now(offset_bytes, &mut into).inspect_err(|error| {
                let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
                if unread.len() < UNREAD_MAX && !unread.contains(error) {
                    unread.push(error.clone());
                }
            })?;
            Ok(into)
        })
    }

    /// Forgotten: what an opening would mend stays as it is. Nobody reads it back.
    fn write(&self, _offset_bytes: u64, _from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn discard(&self, _offset_bytes: u64, _length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Vectors in one system call at most (`IOV_MAX`).
const VECTORS_MAX: usize = 1024;

/// Failed reads that are kept.
const UNREAD_MAX: usize = 100;
