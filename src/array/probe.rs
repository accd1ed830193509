//! Looking at volumes and numbers behind the hosts' back, for simulations.

use super::Array;
use crate::disk::VolumeId;
use crate::disk::cache::Piece;
use crate::disk::slot::Class;

impl Array {
    /// The newest updates of a group that are durable here, and restored; cheap enough for each millisecond.
    #[doc(hidden)]
    #[must_use]
    pub fn restore_position(&self, group: &str) -> Option<(u64, u64)> {
        let number = self.store.read(|tables| {
            let record = tables.groups.iter().find(|record| record.name.as_str() == group);
            record.map(|record| record.number.0)
        })?;
        let group = self.runtime().groups.get(&number).cloned()?;
        Some((group.within_reach().last.get(), group.restored_now().get()))
    }

    /// The content of a volume as a host would read it now, which a volume that hosts may not have has not. The caller
    /// sees to it that nothing changes meanwhile.
    ///
    /// # Errors
    /// There is no such volume, it cannot be used, or it cannot be read.
    #[doc(hidden)]
    pub async fn read_volume(&self, name: &str) -> Result<Vec<u8>, String> {
        let (number, size_bytes) = self
            .store
            .read(|tables| {
                let record = tables.volumes.iter().find(|record| record.name.as_str() == name);
                record.map(|record| (record.number.0, record.size_bytes))
            })
            .ok_or_else(|| format!("no volume {name}"))?;
        if let Some(reason) = self.runtime().volume_trouble.get(&number) {
            return Err(reason.clone());
        }
        let mut image = Vec::with_capacity(usize::try_from(size_bytes).unwrap_or(0));
        while (image.len() as u64) < size_bytes {
            let at = image.len() as u64;
            let length = usize::try_from((size_bytes - at).min(STEP_BYTES)).unwrap_or(0);
            let pieces = self.disk.read(VolumeId(number), at, length, Class::Host).await;
            for piece in pieces.map_err(|error| error.to_string())?.iter() {
                match piece {
                    Piece::Bytes { slot, start, length } => {
                        image.extend_from_slice(&slot[*start..*start + *length]);
                    }
                    Piece::Zero { length } => image.resize(image.len() + length, 0),
                }
            }
        }
        Ok(image)
    }
}

/// Read at a time.
const STEP_BYTES: u64 = 1 << 20;
