//! Files and block devices as units: opening, sizes, errors. Shared by the plain and the ring backend.
//!
//! A unit is opened with `O_DIRECT` where its file system has it, so that nothing stands between the cache of the
//! array and the medium, and locked against other processes (`flock`; a block device also with `O_EXCL`, which
//! refuses one that is mounted).

use super::opener::{OpenMode, OpenUnitError};
use crate::disk::device::DeviceError;
use crate::disk::slot::{Class, SLOT_BYTES, SlotPool};
use rustix::fs::{FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io::IoSliceMut;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// An open unit.
#[derive(Debug)]
pub(super) struct UnitFile {
    pub(super) fd: OwnedFd,
    pub(super) path: String,
    pub(super) length_bytes: u64,
    /// Just made, so all of it reads as zero.
    pub(super) starts_zeroed: bool,
    /// One flush at a time: the kernel tells an error to one caller only, and the next must hear of it too.
    pub(super) flushing: Arc<tokio::sync::Mutex<()>>,
    /// The first failed flush: nothing is believed after it.
    pub(super) dead: OnceLock<String>,
}

impl UnitFile {
    /// Opens or makes the unit. Blocks.
    pub(super) fn open(path: &str, mode: OpenMode) -> Result<Self, OpenUnitError> {
        let created = match mode {
            OpenMode::Existing => false,
            OpenMode::Create { size_bytes } | OpenMode::CreateSparse { size_bytes } => {
                if size_bytes == 0 || !size_bytes.is_multiple_of(SLOT_BYTES as u64) {
                    return Err(other(
                        path,
                        &format!("{size_bytes} bytes are not a multiple of {SLOT_BYTES}"),
                    ));
                }
                true
            }
        };
        let fd = open_direct(path, created)?;
        let taken = rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive);
        match taken {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(OpenUnitError::InUse { path: path.to_owned() }),
            Err(errno) => return Err(other(path, &errno.to_string())),
        }
        if created && let Err(error) = make(&fd, path, mode) {
            // Made a moment ago by this call and of no use: a repeated attempt must find the path free.
            let _ = rustix::fs::unlink(path);
            return Err(error);
        }
        let length_bytes = length(&fd).map_err(|errno| other(path, &errno.to_string()))?;
        let unit = Self {
            fd,
            path: path.to_owned(),
            length_bytes,
            starts_zeroed: created,
            flushing: Arc::default(),
            dead: OnceLock::new(),
        };
        unit.give_up_direct_if_refused().map_err(|errno| other(path, &errno.to_string()))?;
        Ok(unit)
    }

    /// An error when a flush has failed before, or when the range is not of whole slots within the unit.
    pub(super) fn check(&self, offset_bytes: u64, slots: usize) -> Result<(), DeviceError> {
        self.alive()?;
        let end = offset_bytes.checked_add((slots * SLOT_BYTES) as u64);
        if !offset_bytes.is_multiple_of(SLOT_BYTES as u64) || end.is_none_or(|end| end > self.length_bytes) {
            let reason = format!("{slots} slots are not in its {} bytes", self.length_bytes);
            return Err(DeviceError::Write { unit: self.path.clone(), offset_bytes, reason });
        }
        Ok(())
    }

    /// An error when a flush has failed before.
    pub(super) fn alive(&self) -> Result<(), DeviceError> {
        self.dead.get().map_or(Ok(()), |reason| Err(self.gone(reason)))
    }

    pub(super) fn gone(&self, reason: &str) -> DeviceError {
        DeviceError::Gone { unit: self.path.clone(), reason: reason.to_owned() }
    }

    pub(super) fn read_error(&self, offset_bytes: u64, length_bytes: u64, errno: Errno) -> DeviceError {
        if is_gone(errno) {
            return self.gone(&errno.to_string());
        }
        let (unit, reason) = (self.path.clone(), errno.to_string());
        DeviceError::Read { unit, offset_bytes, length_bytes, reason }
    }

    pub(super) fn write_error(&self, offset_bytes: u64, errno: Errno) -> DeviceError {
        let unit = self.path.clone();
        match errno {
            Errno::NOSPC | Errno::DQUOT => DeviceError::NoSpace { unit },
            errno if is_gone(errno) => self.gone(&errno.to_string()),
            errno => DeviceError::Write { unit, offset_bytes, reason: errno.to_string() },
        }
    }

    /// Notes that a flush failed, for ever.
    pub(super) fn flush_error(&self, errno: Errno) -> DeviceError {
        let reason = errno.to_string();
        let _ = self.dead.set(format!("a flush failed: {reason}"));
        DeviceError::Flush { unit: self.path.clone(), reason }
    }

    /// Gives the range back to the file system or the device. Blocks.
    pub(super) fn punch(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), DeviceError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.fd, flags, offset_bytes, length_bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(self.write_error(offset_bytes, errno)),
        }
    }

    /// Some file systems take the flag at opening and refuse it at the first transfer.
    fn give_up_direct_if_refused(&self) -> Result<(), Errno> {
        if self.length_bytes < SLOT_BYTES as u64 {
            return Ok(());
        }
        let probe = SlotPool::new(0);
        let Some(mut slot) = probe.try_take(Class::Raid, 1) else { return Ok(()) };
        let mut vectors: Vec<IoSliceMut<'_>> =
            slot.iter_mut().map(|slot| IoSliceMut::new(&mut slot[..])).collect();
        // Any other error is for the first real transfer to meet and to report.
        if rustix::io::preadv(&self.fd, &mut vectors, 0) == Err(Errno::INVAL) {
            let flags = rustix::fs::fcntl_getfl(&self.fd)?;
            rustix::fs::fcntl_setfl(&self.fd, flags - OFlags::DIRECT)?;
        }
        Ok(())
    }
}

fn open_direct(path: &str, created: bool) -> Result<OwnedFd, OpenUnitError> {
    let is_block = rustix::fs::stat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice);
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    if created {
        flags |= OFlags::CREATE | OFlags::EXCL;
    } else if is_block {
        flags |= OFlags::EXCL;
    }
    let mode = Mode::RUSR | Mode::WUSR;
    // A file system without direct transfers may have made the file before it refused the flag.
    let opened = match rustix::fs::open(path, flags | OFlags::DIRECT, mode) {
        Err(Errno::INVAL) if created => rustix::fs::open(path, flags - OFlags::EXCL, mode),
        Err(Errno::INVAL) => rustix::fs::open(path, flags, mode),
        opened => opened,
    };
    opened.map_err(|errno| match errno {
        Errno::NOENT if !created => OpenUnitError::Missing { path: path.to_owned() },
        Errno::EXIST => OpenUnitError::Exists { path: path.to_owned() },
        Errno::BUSY => OpenUnitError::InUse { path: path.to_owned() },
        errno => other(path, &errno.to_string()),
    })
}

/// Gives a new file its size and, for a thick one, its space; durable with its name when this returns.
fn make(fd: &OwnedFd, path: &str, mode: OpenMode) -> Result<(), OpenUnitError> {
    let failed = |errno: Errno| other(path, &errno.to_string());
    match mode {
        OpenMode::Existing => return Ok(()),
        OpenMode::CreateSparse { size_bytes } => rustix::fs::ftruncate(fd, size_bytes).map_err(failed)?,
        OpenMode::Create { size_bytes } => {
            // Asked first: the attempt would fill the file system for everybody before it failed.
            let room = rustix::fs::fstatvfs(fd).map_err(failed)?;
            let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
            if free_bytes < size_bytes {
                let reason = format!("{free_bytes} bytes are free");
                return Err(OpenUnitError::NoRoom { path: path.to_owned(), size_bytes, reason });
            }
            rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size_bytes).map_err(
                |errno| match errno {
                    Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
                        OpenUnitError::NoRoom { path: path.to_owned(), size_bytes, reason: errno.to_string() }
                    }
                    errno => failed(errno),
                },
            )?;
        }
    }
    rustix::fs::fsync(fd).map_err(failed)?;
    let folder = std::path::Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| std::path::Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(failed)?;
    rustix::fs::fsync(folder).map_err(failed)
}

/// Size of a regular file or of a block device.
fn length(fd: &OwnedFd) -> Result<u64, Errno> {
    rustix::fs::seek(fd, rustix::fs::SeekFrom::End(0))
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NODEV | Errno::NXIO | Errno::STALE | Errno::NOMEDIUM)
}

fn other(path: &str, reason: &str) -> OpenUnitError {
    OpenUnitError::Other { path: path.to_owned(), reason: reason.to_owned() }
}

/// Vectors in one system call at most (`IOV_MAX`).
pub(super) const VECTORS_MAX: usize = 1024;
