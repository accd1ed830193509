//! What an array knows of a comparison that another one leads.

use crate::clock::MonotonicNs;
use crate::copy::compare::hash::{Hashed, Progress};
use crate::disk::VolumeId;
use crate::volume::compare::CompareOptions;
use crate::volume::designation::Refusal;
use crate::volume::group::Generation;
use crate::volume::name::{ArrayNumber, GroupNumber, UpdateNumber, VolumeNumber};
use crate::volume::record::Identity;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What the images here are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// P-VOLs, which the array that leads copies.
    Source,
    /// S-VOLs: both arrays copy the group from this one, where it has this number.
    Copies(ArrayNumber, GroupNumber),
}

/// A comparison that another array leads.
pub(in crate::array) struct Served {
    pub(super) id: Identity,
    pub(super) peer: ArrayNumber,
    pub(super) group: GroupNumber,
    pub(super) basis: Basis,
    /// As the steps name them, and as they are numbered here.
    pub(super) volumes: Vec<VolumeNumber>,
    pub(super) here: Vec<VolumeNumber>,
    pub(super) options: CompareOptions,
    pub(super) began: MonotonicNs,
    pub(super) began_unix_ns: u64,
    pub(super) state: Mutex<Serving>,
    pub(super) progress: Arc<Progress>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct Serving {
    pub(super) heard: MonotonicNs,
    /// What is asked and answered belongs to this attempt.
    pub(super) attempt: u32,
    pub(super) wanted: Option<Wanted>,
    /// Restore is on its way to the number at which the image is cut.
    pub(super) is_coming: bool,
    /// What came of the last cut.
    pub(super) cut: Option<Result<Image, String>>,
    pub(super) hashed: Option<Result<Arc<Vec<Hashed>>, String>>,
    /// Something was repaired, and that is in the audit log.
    pub(super) is_repairing: bool,
    /// It is over here; why, if its operator ended it.
    pub(super) ended: Option<Option<String>>,
}

#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Cut,
    CutFrom(UpdateNumber),
    Hash,
}

#[derive(Clone)]
pub(super) struct Image {
    pub(super) number: UpdateNumber,
    /// The one to which it belonged when the image was cut.
    pub(super) generation: Generation,
    /// In the order of the P-VOLs.
    pub(super) volumes: Vec<VolumeId>,
}

impl Served {
    pub(super) fn lock(&self) -> MutexGuard<'_, Serving> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it; the array that leads it hears why.
    pub(super) fn end(&self, why: Option<&str>) {
        self.lock().ended.get_or_insert_with(|| why.map(str::to_owned));
        self.changed.notify_waiters();
    }

    pub(super) fn number(&self) -> Option<UpdateNumber> {
        self.lock().cut.as_ref().and_then(|cut| cut.as_ref().ok()).map(|image| image.number)
    }

    pub(super) fn want(&self, attempt: u32, wanted: Wanted) {
        let mut state = self.lock();
        match wanted {
            // Said once more: it is on its way, or was cut.
            Wanted::Cut | Wanted::CutFrom(_) if attempt <= state.attempt => return,
            Wanted::Cut | Wanted::CutFrom(_) => {
                (state.attempt, state.is_coming, state.cut, state.hashed) = (attempt, false, None, None);
            }
            Wanted::Hash if attempt != state.attempt || state.hashed.is_some() => return,
            Wanted::Hash => {}
        }
        state.wanted = Some(wanted);
        drop(state);
        self.changed.notify_waiters();
    }

    /// What came of an attempt, unless there is another one since.
    pub(super) fn cut_done(&self, attempt: u32, cut: Result<Image, String>) {
        let mut state = self.lock();
        if state.attempt == attempt {
            (state.is_coming, state.cut) = (false, Some(cut));
        }
    }

    pub(super) fn hash_done(&self, attempt: u32, hashed: Result<Arc<Vec<Hashed>>, String>) {
        let mut state = self.lock();
        if state.attempt == attempt {
            state.hashed = Some(hashed);
        }
    }

    /// Waits until `look` gives something.
    pub(super) async fn until<T>(&self, look: impl Fn(&mut Serving) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn volume(&self, volume: VolumeNumber) -> Result<usize, Refusal> {
        let at = self.volumes.iter().position(|one| *one == volume);
        at.ok_or_else(|| Refusal::conflict("this volume is not compared"))
    }

    pub(super) fn image(&self) -> Result<Image, Refusal> {
        match &self.lock().cut {
            Some(Ok(image)) => Ok(image.clone()),
            Some(Err(why)) => Err(Refusal::Conflict(why.clone())),
            None => Err(Refusal::conflict("no image has been cut")),
        }
    }

    pub(super) fn hashed(&self) -> Result<Arc<Vec<Hashed>>, Refusal> {
        match &self.lock().hashed {
            Some(Ok(hashed)) => Ok(hashed.clone()),
            Some(Err(why)) => Err(Refusal::Conflict(why.clone())),
            None => Err(Refusal::conflict("it is not hashed yet")),
        }
    }
}
