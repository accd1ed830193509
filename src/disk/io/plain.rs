//! Units by `preadv`, `pwritev` and `fdatasync` on a few threads: for machines without the ring, and for fault
//! injection at the system call, which does not see transfers of the ring.

use super::file::{UnitFile, VECTORS_MAX};
use super::opener::{OpenMode, OpenUnitError};
use crate::clock::BoxFuture;
use crate::disk::device::{BlockDevice, DeviceError};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotMut};
use rustix::io::Errno;
use std::io::{IoSlice, IoSliceMut};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. They end with the last handle and the last unit.
#[derive(Clone, Debug)]
pub struct PlainEngine(Sender<Job>);

#[derive(Debug)]
struct PlainUnit {
    file: Arc<UnitFile>,
    engine: PlainEngine,
}

impl PlainEngine {
    /// Starts `threads` threads: as many transfers run at once.
    ///
    /// # Errors
    /// The system has no more threads.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (sender, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        for index in 0..threads.max(1) {
            let receiver = Arc::clone(&receiver);
            std::thread::Builder::new().name(format!("unit-io-{index}")).spawn(move || work(&receiver))?;
        }
        Ok(Self(sender))
    }

    /// Opens or makes a unit.
    ///
    /// # Errors
    /// Names the file.
    pub async fn open(&self, path: &str, mode: OpenMode) -> Result<Arc<dyn BlockDevice>, OpenUnitError> {
        let file = self.open_file(path, mode).await?;
        Ok(Arc::new(PlainUnit { file, engine: self.clone() }))
    }

    pub(super) async fn open_file(&self, path: &str, mode: OpenMode) -> Result<Arc<UnitFile>, OpenUnitError> {
        let name = path.to_owned();
        let opened = run(&self.0, move || UnitFile::open(&name, mode)).await;
        let ended = || OpenUnitError::Other { path: path.to_owned(), reason: ENDED.to_owned() };
        Ok(Arc::new(opened.ok_or_else(ended)??))
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // One thread waits in the channel, the others for the lock: a job wakes one.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}

/// Runs `job` on one of the threads; none when they have ended.
async fn run<T: Send + 'static>(jobs: &Sender<Job>, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let job = Box::new(move || {
        // Nobody may be listening any more; the transfer has happened all the same.
        let _ = done.send(job());
    });
    jobs.send(job).ok()?;
    result.await.ok()
}

/// Runs `job` on a unit on one of the threads.
pub(super) async fn on_threads<T: Send + 'static>(
    engine: &PlainEngine,
    file: &Arc<UnitFile>,
    job: impl FnOnce(&UnitFile) -> Result<T, DeviceError> + Send + 'static,
) -> Result<T, DeviceError> {
    let theirs = Arc::clone(file);
    run(&engine.0, move || job(&theirs)).await.unwrap_or_else(|| Err(file.gone(ENDED)))
}

impl BlockDevice for PlainUnit {
    fn length_bytes(&self) -> u64 {
        self.file.length_bytes
    }

    fn read(
        &self,
        offset_bytes: u64,
        into: Vec<SlotMut>,
    ) -> BoxFuture<'_, Result<Vec<SlotMut>, DeviceError>> {
        Box::pin(async move {
            self.file.check(offset_bytes, into.len())?;
            on_threads(&self.engine, &self.file, move |file| read_all(file, offset_bytes, into)).await
        })
    }

    fn write(&self, offset_bytes: u64, from: Vec<Slot>) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.file.check(offset_bytes, from.len())?;
            on_threads(&self.engine, &self.file, move |file| write_all(file, offset_bytes, &from)).await
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            let turn = Arc::clone(&self.file.flushing).lock_owned().await;
            self.file.alive()?;
            on_threads(&self.engine, &self.file, move |file| {
                let _turn = turn;
                rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&file.fd))
                    .map_err(|errno| file.flush_error(errno))
            })
            .await
        })
    }

    fn discard(&self, offset_bytes: u64, length_bytes: u64) -> BoxFuture<'_, Result<(), DeviceError>> {
        Box::pin(async move {
            self.file.alive()?;
            on_threads(&self.engine, &self.file, move |file| file.punch(offset_bytes, length_bytes)).await
        })
    }

    fn starts_zeroed(&self) -> bool {
        self.file.starts_zeroed
    }
}

fn read_all(file: &UnitFile, offset_bytes: u64, mut into: Vec<SlotMut>) -> Result<Vec<SlotMut>, DeviceError> {
    let mut at = offset_bytes;
    for part in into.chunks_mut(VECTORS_MAX) {
        let length_bytes = (part.len() * SLOT_BYTES) as u64;
        let mut vectors: Vec<IoSliceMut<'_>> =
            part.iter_mut().map(|slot| IoSliceMut::new(&mut slot[..])).collect();
        let mut vectors = &mut vectors[..];
        while !vectors.is_empty() {
            let read = rustix::io::retry_on_intr(|| rustix::io::preadv(&file.fd, vectors, at));
            // The file has been cut short behind our back: not the zeros that a hole would be.
            let read = read.and_then(|read| if read == 0 { Err(Errno::NODATA) } else { Ok(read) });
            let read = read.map_err(|errno| file.read_error(at, length_bytes, errno))?;
            IoSliceMut::advance_slices(&mut vectors, read);
            at += read as u64;
        }
    }
    Ok(into)
}

fn write_all(file: &UnitFile, offset_bytes: u64, from: &[Slot]) -> Result<(), DeviceError> {
    let mut at = offset_bytes;
    for part in from.chunks(VECTORS_MAX) {
        let mut vectors: Vec<IoSlice<'_>> = part.iter().map(|slot| IoSlice::new(&slot[..])).collect();
        let mut vectors = &mut vectors[..];
        while !vectors.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::pwritev(&file.fd, vectors, at));
            let written = written.and_then(|written| if written == 0 { Err(Errno::IO) } else { Ok(written) });
            let written = written.map_err(|errno| file.write_error(at, errno))?;
            IoSlice::advance_slices(&mut vectors, written);
            at += written as u64;
        }
    }
    Ok(())
}

const ENDED: &str = "the threads for unit transfers have ended";
