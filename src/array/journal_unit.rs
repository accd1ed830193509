//! Journal volumes as further LUNs of the peer target: readable, and by the readers of their group only (J9).
//!
//! To everybody else they do not exist. They are write-protected disks of blocks of 4096 bytes. What a READ returns is
//! what lies there, whether it is a journal or not any more: the reader checks it.

use super::Array;
use crate::channel::piece::{Piece, Pieces};
use crate::channel::storage::{Completed, Execution};
use crate::copy::group::Group;
use crate::copy::tables::journal_lun;
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::disk::{RawVolume, VolumeId};
use crate::io::host::completed;
use crate::volume::name::ArrayNumber;
use crate::volume::record::VolumeRecord;
use holdfast_journal::ArrayNumber as JournalArray;
use holdfast_scsi::{
    Access, Admission, BlockRange, BlockSize, CacheControl, Geometry, Grant, LogicalUnit, Lun, NexusId,
    Provisioning, Response, Sense, SenseFormat, WriteCache, report_luns,
};
use std::sync::Arc;

/// A journal volume that a peer may read.
pub(super) struct JournalUnit {
    group: Arc<Group>,
    raw: RawVolume,
    record: VolumeRecord,
}

impl Array {
    /// The journal volumes that `peer` may read, by LUN.
    pub(super) fn journal_units(&self, peer: u32) -> Vec<(Lun, JournalUnit)> {
        let tables = self.store.tables();
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        let read = groups.into_iter().filter(|group| group.is_read_by(JournalArray(peer)));
        let mut units = Vec::new();
        for group in read {
            let record = tables.groups.iter().find(|record| record.number.0 == group.number);
            for number in record.into_iter().flat_map(|record| &record.journals).map(|journal| journal.volume)
            {
                let lun = journal_lun(number.0).and_then(Lun::new);
                let volume = tables.volumes.get(&number).cloned();
                if let (Some(lun), Some(record), Ok(raw)) = (lun, volume, self.disk.raw(VolumeId(number.0))) {
                    units.push((lun, JournalUnit { group: group.clone(), raw, record }));
                }
            }
        }
        units
    }
}

impl JournalUnit {
    /// Carries out a command of a peer that is told of `luns`.
    pub(super) fn execute(self, target: &str, luns: &[Lun], cdb: &[u8]) -> Execution {
        let Some(mut unit) =
            logical_unit(&self.record, self.raw.size_bytes(), target, ArrayNumber(self.group.array.0))
        else {
            return refused(Sense::INTERNAL_FAILURE);
        };
        match unit.admit(NexusId(0), Grant::ReadOnly, cdb, None) {
            Admission::Done(response) => Execution::Now(completed(response, SenseFormat::Fixed)),
            Admission::ReportLuns => Execution::Now(completed(report_luns(luns, cdb), SenseFormat::Fixed)),
            Admission::Read { range, .. } => self.read(range),
            _ => refused(Sense::INVALID_COMMAND),
        }
    }

    fn read(self, range: BlockRange) -> Execution {
        let count = usize::try_from(range.blocks).unwrap_or(usize::MAX);
        if count > self.group.pool.largest_request(Class::JournalRead) {
            return refused(Sense::invalid_field_in_cdb(LENGTH_BYTE));
        }
        Execution::Later(Box::pin(async move {
            match self.raw.read(range.start.0 * SLOT_BYTES as u64, count, Class::JournalRead).await {
                Ok(slots) => Completed::DataIn(slots.into_iter().map(Piece::page).collect::<Pieces>()),
                Err(error) => {
                    tracing::warn!(group = %self.group.name, %error, "a peer's READ of the journal failed");
                    completed(Response::check(Sense::INTERNAL_FAILURE), SenseFormat::Fixed)
                }
            }
        }))
    }
}

fn logical_unit(
    record: &VolumeRecord,
    size_bytes: u64,
    target: &str,
    array: ArrayNumber,
) -> Option<LogicalUnit> {
    let identity = super::identity::identity(record, "JOURNAL", target, array)?;
    let blocks = size_bytes / SLOT_BYTES as u64;
    let geometry =
        Geometry { block_size: BlockSize::B4096, blocks, provisioning: Provisioning::Full, atomic: false };
    Some(LogicalUnit::new(identity, geometry, Access::ReadOnly, CacheControl::Array(WriteCache::Through)))
}

fn refused(sense: Sense) -> Execution {
    Execution::Now(completed(Response::check(sense), SenseFormat::Fixed))
}

/// Where READ(16) has its length.
const LENGTH_BYTE: u16 = 10;
