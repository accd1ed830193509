//! A database file that is read and never written: what the library writes stays in memory.

use redb::StorageBackend;
use rustix::fs::FlockOperation;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The file, and what was written over it. The library writes a few pages when it opens what a killed process left.
pub(super) struct Untouched {
    file: File,
    state: Mutex<State>,
}

struct State {
    /// What the file has, cut off where it was made shorter.
    from_file: u64,
    length: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Untouched {
    /// Opens it, if no array uses it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if one does; whatever the system says otherwise.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared)?;
        let length = file.metadata()?.len();
        Ok(Self { file, state: Mutex::new(State { from_file: length, length, pages: BTreeMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file has of a page, zeros behind its end.
    fn of_file(&self, page: u64, from_file: u64) -> io::Result<Box<[u8; PAGE]>> {
        let mut bytes = Box::new([0; PAGE]);
        let start = page * PAGE as u64;
        let length = from_file.saturating_sub(start).min(PAGE as u64);
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.file.read_exact_at(&mut bytes[..length], start)?;
        Ok(bytes)
    }
}

/// The parts of a range: page, first byte in it, bytes.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE as u64).ok()?;
        let bytes = (length - done).min(PAGE - within);
        done += bytes;
        (bytes > 0).then_some((at / PAGE as u64, within, bytes))
    })
}

impl StorageBackend for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().length)
    }

    fn read(&self, offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > state.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, bytes) in parts(offset, out.len()) {
            let (now, later) = out.split_at_mut(bytes);
            match state.pages.get(&page) {
                Some(written) => now.copy_from_slice(&written[within..within + bytes]),
                None => now.copy_from_slice(&self.of_file(page, state.from_file)?[within..within + bytes]),
            }
            out = later;
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.state();
        if length < state.length {
            // What was cut off is zeros if it grows again.
            state.from_file = state.from_file.min(length);
            let (last, within) = (length / PAGE as u64, usize::try_from(length % PAGE as u64).unwrap_or(0));
            let _ = state.pages.split_off(&(last + u64::from(within > 0)));
            if let Some(page) = state.pages.get_mut(&last) {
                page[within..].fill(0);
            }
        }
        state.length = length;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.length = state.length.max(offset.saturating_add(data.len() as u64));
        for (page, within, bytes) in parts(offset, data.len()) {
            let (now, later) = data.split_at(bytes);
            if !state.pages.contains_key(&page) {
                let before = self.of_file(page, state.from_file)?;
                state.pages.insert(page, before);
            }
            if let Some(written) = state.pages.get_mut(&page) {
                written[within..within + bytes].copy_from_slice(now);
            }
            data = later;
        }
        Ok(())
    }
}

impl fmt::Debug for Untouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Untouched({} pages written over it)", self.state().pages.len())
    }
}

const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_the_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let before: Vec<u8> = (0..10_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        std::fs::write(&path, &before).unwrap();
        let file = Untouched::open(&path).unwrap();
        let mut model = before.clone();
        file.write(4000, &[7; 5000]).unwrap();
        model[4000..9000].fill(7);
        file.set_len(4100).unwrap();
        model.truncate(4100);
        file.set_len(12_000).unwrap();
        model.resize(12_000, 0);
        file.write(11_000, &[9; 2000]).unwrap();
        model.resize(13_000, 0);
        model[11_000..].fill(9);
        assert_eq!(file.len().unwrap(), 13_000);
        for (offset, length) in [(0, 13_000), (3999, 102), (4099, 2), (8191, 4000)] {
            let mut out = vec![1; length];
            file.read(offset as u64, &mut out).unwrap();
            assert_eq!(out, model[offset..offset + length], "{length} bytes at {offset}");
        }
        assert!(file.read(12_999, &mut [0; 2]).is_err(), "behind its end");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert!(Untouched::open(&path).is_ok(), "two may look");
        let used = File::open(&path).unwrap();
        drop(file);
        rustix::fs::flock(&used, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(Untouched::open(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
