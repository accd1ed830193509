//! Changes that find another volume than they were prepared for.

use super::*;
use crate::copy::change::Part;
use crate::copy::tests::rig::{Choice, MIB, Rig, life};
use crate::disk::cache::{ParityGroupId, VolumeSpec};
use crate::disk::slot::SLOT_BYTES;
use crate::disk::{Snapshot, VolumeKind};
use crate::io::manner::Oring;

const SVOL: u32 = 5;
const IMAGE: u32 = 6;

/// An ORWRITE waited for memory while its S-VOL became what a rewind had shown: it was answered, and nothing of it was there.
#[test]
fn what_waits_while_its_volume_becomes_a_snapshot_is_written_into_what_it_has_become() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let (disk, pool) = (&rig.source.disk, &rig.source.pool);
        let (id, parity_group, size_bytes) = (VolumeId(SVOL), ParityGroupId(1), 16 * MIB);
        let spec = VolumeSpec { id, parity_group, size_bytes, kind: VolumeKind::Thin };
        disk.create_volume(spec).await.unwrap();
        let wanted = [Snapshot { volume: id, snapshot: VolumeId(IMAGE) }];
        disk.snapshot(&wanted, 0).await.unwrap();
        let volume = Arc::new(Volume::new(SVOL, 512, size_bytes, false, disk.clone()));
        let mut page = pool.try_take(Class::Host, 1).unwrap().remove(0);
        page.fill(7);
        let change = Change::new(SVOL, vec![Part::data(0, SLOT_BYTES as u64, vec![page.freeze()])]);
        let manner = Manner::Or(Oring::new(pool.clone(), &change));
        let left = pool.largest_request(Class::JournalRead) - pool.in_use();
        let all = pool.try_take(Class::JournalRead, left).unwrap();
        let Outcome::Later(writing) = volume.write_as(change, manner, false, &Nexus::for_tests()) else {
            panic!("there is no memory for it")
        };
        let writing = tokio::spawn(writing);
        rig.sleep_ms(10).await;
        assert!(!writing.is_finished());
        volume.set_role(VolumeRole::Waiting);
        disk.restore_snapshots(&wanted).await.unwrap();
        volume.set_role(VolumeRole::Plain);
        drop(all);
        writing.await.unwrap().unwrap();
        let read = match volume.read(0, SLOT_BYTES) {
            Outcome::Ready(read) => read,
            Outcome::Later(reading) => reading.await,
        };
        assert_eq!(read.unwrap().to_vec(), vec![7; SLOT_BYTES]);
    });
}
