//! Figure 13, command reception, step by step: one session of a host at a target, before it volumes in each state.

use super::host::HostStorage;
use super::lun::LunUnit;
use super::luns::LunMap;
use super::volume::{Volume, VolumeRole};
use crate::channel::piece::{Received, Room};
use crate::channel::storage::{
    AfterData, Completed, Completion, Execution, Nexus, Receive, Reserved, ScsiCommand, Storage,
};
use crate::copy::tests::rig::{Choice, DATA, MIB, Rig, life};
use crate::disk::cache::{ParityGroupId, VolumeSpec};
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::disk::{VolumeId, VolumeKind};
use holdfast_iscsi::pdu::command::TaskAttribute;
use holdfast_journal::{Kind, UpdateNumber};
use holdfast_scsi::{
    Access, AsciiText, BlockSize, CacheControl, Geometry, Identity, LogicalUnit, Naa, Provisioning,
    WriteCache,
};
use std::sync::Arc;

/// LUNs, and the volumes behind them: a P-VOL (`main`), one without pairs (`normal`), an S-VOL (`auxiliary`), and one that
/// has failed (`abnormal`).
const MAIN: u16 = 1;
const _: () = assert!(DATA == 1);
pub(super) const NORMAL: u16 = 5;
const AUXILIARY: u16 = 6;
const ABNORMAL: u16 = 7;

const JOURNAL_READ: u8 = 0xC1;
const FUA: u8 = 0x08;

pub(super) fn logical_unit(number: u16, access: Access) -> LogicalUnit {
    let mut naa = [7; 16];
    (naa[0], naa[15]) = (0x60, u8::try_from(number).unwrap());
    let identity = Identity {
        product: AsciiText::new("VOLUME").unwrap(),
        revision: AsciiText::new("1").unwrap(),
        serial: AsciiText::new("7").unwrap(),
        naa: Naa::new(naa).unwrap(),
        target_name: AsciiText::new("iqn.2026-11.io.holdfast:array").unwrap(),
        relative_port: 1,
        portal_group: 1,
        target_port_group: 1,
    };
    let provisioning = Provisioning::Thin { unmap_granularity_blocks: 8 };
    let geometry =
        Geometry { block_size: BlockSize::B512, blocks: 16 * MIB / 512, provisioning, atomic: false };
    LogicalUnit::new(identity, geometry, access, CacheControl::Host(WriteCache::Back))
}

pub(super) struct Session {
    pub(super) luns: Arc<LunMap>,
    storage: HostStorage,
    nexus: Arc<Nexus>,
}

impl Session {
    pub(super) async fn new(rig: &Rig) -> Self {
        let (luns, disk) = (Arc::new(LunMap::default()), &rig.source.disk);
        let roles = [
            (MAIN, Access::ReadWrite, VolumeRole::Source(rig.source.clone())),
            (NORMAL, Access::ReadWrite, VolumeRole::Plain),
            (AUXILIARY, Access::ReadOnly, VolumeRole::Copy),
            (ABNORMAL, Access::Failed, VolumeRole::Waiting),
        ];
        for (number, access, role) in roles {
            let id = VolumeId(number.into());
            if number != MAIN {
                let (parity_group, size_bytes, kind) = (ParityGroupId(1), 16 * MIB, VolumeKind::Thin);
                disk.create_volume(VolumeSpec { id, parity_group, size_bytes, kind }).await.unwrap();
            }
            let volume = Volume::new(number.into(), 512, 16 * MIB, false, disk.clone());
            volume.set_role(role);
            luns.insert(number, Arc::new(LunUnit::new(logical_unit(number, access), Arc::new(volume))));
        }
        Self::at(rig, luns, Nexus::for_tests())
    }

    /// Another one at the same target.
    pub(super) fn at(rig: &Rig, luns: Arc<LunMap>, nexus: Arc<Nexus>) -> Self {
        let (pool, demand) = (rig.source.pool.clone(), rig.source.settings.demand.clone());
        Self { storage: HostStorage::attach(luns.clone(), pool, demand, &nexus), luns, nexus }
    }

    /// Steps 1200 to 1250.
    pub(super) fn command(&self, lun: u16, cdb: [u8; 16], writes_bytes: Option<u32>) -> Execution {
        let expected_length = writes_bytes.unwrap_or(1 << 20);
        let command = ScsiCommand {
            lun: [0, u8::try_from(lun).unwrap(), 0, 0, 0, 0, 0, 0],
            cdb: &cdb,
            attribute: TaskAttribute::Simple,
            expected_length,
            reads: writes_bytes.is_none(),
            writes: writes_bytes.is_some(),
        };
        self.storage.execute(&self.nexus, command)
    }

    pub(super) fn write(&self, lun: u16, page: u8, pages: u8, flags: u8) -> Execution {
        self.command(lun, ten(0x2A, flags, page, pages), Some(u32::from(pages) * 4096))
    }

    /// A write to the end, of one page.
    pub(super) async fn written(&self, lun: u16, page: u8, byte: u8, flags: u8) -> Completion {
        let Execution::Receive(receive) = self.write(lun, page, 1, flags) else { panic!("no room for data") };
        status(sent(receive, byte).await).await
    }

    pub(super) async fn read(&self, lun: u16, page: u8) -> Vec<u8> {
        let completed = match self.command(lun, ten(0x28, 0, page, 1), None) {
            Execution::Now(completed) => completed,
            Execution::Later(later) => later.await,
            Execution::Receive(_) => panic!("a read takes nothing"),
        };
        let Completed::DataIn(pieces) = completed else { panic!("{completed:?}") };
        pieces.to_vec()
    }
}

/// READ(10) or WRITE(10) of whole pages.
fn ten(code: u8, flags: u8, page: u8, pages: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (code, flags);
    cdb[2..6].copy_from_slice(&(u32::from(page) * 8).to_be_bytes());
    cdb[7..9].copy_from_slice(&(u16::from(pages) * 8).to_be_bytes());
    cdb
}

/// The host sends what it was asked for, all `byte`.
pub(super) async fn sent(receive: Receive, byte: u8) -> AfterData {
    let mut room: Room = match receive.room {
        Reserved::Now(room) => room,
        Reserved::Later(later) => later.await,
    };
    let bytes = receive.bytes as usize;
    room.put_for_tests(&vec![byte; bytes]);
    (receive.then)(Received::seal_for_tests(room, bytes))
}

/// The same with these bytes.
pub(super) async fn sent_bytes(receive: Receive, bytes: &[u8]) -> AfterData {
    let mut room: Room = match receive.room {
        Reserved::Now(room) => room,
        Reserved::Later(later) => later.await,
    };
    room.put_for_tests(bytes);
    (receive.then)(Received::seal_for_tests(room, bytes.len()))
}

pub(super) async fn status(after: AfterData) -> Completion {
    let completed = match after {
        AfterData::Now(completed) => completed,
        AfterData::Later(later) => later.await,
    };
    let Completed::Done(completion) = completed else { panic!("a write gives no data") };
    completion
}

/// Sense key and additional sense code of a refusal in fixed format.
pub(super) fn sense(execution: Execution) -> (u8, u8) {
    let Execution::Now(Completed::Done(completion)) = execution else { panic!("it is not refused at once") };
    assert_eq!(completion.status, 2, "CHECK CONDITION");
    // The iSCSI sense begins with its length, or not: the response code says where.
    let sense = &completion.sense;
    (sense[2] & 0x0f, sense[12])
}

#[test]
fn figure_13_steps_1210_to_1230_other_commands_than_writes() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let session = Session::new(&rig).await;
        assert_eq!(session.written(MAIN, 3, 7, 0).await.status, 0);
        let next = rig.source.lock().next;
        // Step 1215: a journal read is one only from an array at its own portal; for a host there is no such command.
        let mut cdb = [0; 16];
        cdb[0] = JOURNAL_READ;
        assert_eq!(sense(session.command(MAIN, cdb, None)), (5, 0x20), "ILLEGAL REQUEST, no such operation");
        // Step 1230: a read, as ever.
        assert_eq!(session.read(MAIN, 3).await, vec![7; SLOT_BYTES]);
        assert_eq!(session.read(AUXILIARY, 3).await, vec![0; SLOT_BYTES]);
        assert_eq!(rig.source.lock().next, next, "nothing is journaled");
    });
}

#[test]
fn figure_13_steps_1240_and_1245_a_volume_that_is_neither_normal_nor_main_takes_no_write() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let session = Session::new(&rig).await;
        let (next, in_use) = (rig.source.lock().next, rig.source.pool.in_use());
        assert_eq!(sense(session.write(AUXILIARY, 0, 1, 0)), (7, 0x27), "WRITE PROTECTED");
        let (key, _) = sense(session.write(ABNORMAL, 0, 1, 0));
        assert!(key == 2 || key == 4, "NOT READY or HARDWARE ERROR: {key}");
        assert_eq!((rig.source.lock().next, rig.source.pool.in_use()), (next, in_use), "no cache, no number");
        for lun in [MAIN, NORMAL] {
            assert!(matches!(session.write(lun, 0, 1, 0), Execution::Receive(_)));
        }
    });
}

#[test]
fn figure_13_step_1250_cache_is_reserved_before_the_host_is_told_to_send() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let session = Session::new(&rig).await;
        let pool = &rig.source.pool;
        let before = pool.in_use();
        let Execution::Receive(receive) = session.write(MAIN, 0, 8, 0) else { panic!("it is a write") };
        assert!(matches!(&receive.room, Reserved::Now(room) if room.capacity() == 8 * SLOT_BYTES));
        assert_eq!((receive.bytes as usize, pool.in_use()), (8 * SLOT_BYTES, before + 8));
        drop(receive);
        assert_eq!(pool.in_use(), before, "a command that is aborted gives it back");
        // No cache: the host waits, and with it only this command.
        let all = pool.try_take(Class::Host, pool.largest_request(Class::Host) - before).unwrap();
        let Execution::Receive(receive) = session.write(MAIN, 0, 8, 0) else { panic!("it is a write") };
        let Reserved::Later(later) = receive.room else { panic!("there is none") };
        tokio::pin!(later);
        tokio::select! {
            biased;
            _ = &mut later => panic!("there is none"),
            () = rig.sleep_ms(1_000) => {}
        }
        drop(all);
        assert_eq!(later.await.capacity(), 8 * SLOT_BYTES);
    });
}

#[test]
fn figure_13_steps_1260_to_1280_a_main_volume_makes_a_journal_then_both_are_written_and_the_host_is_told() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let session = Session::new(&rig).await;
        let first = rig.source.lock().next;
        // Step 1260, no: step 1270 and 1280 alone.
        assert_eq!(session.written(NORMAL, 2, 5, 0).await, Completion::good(SLOT_BYTES as u64));
        assert_eq!(session.read(NORMAL, 2).await, vec![5; SLOT_BYTES]);
        assert_eq!(rig.source.lock().next, first);
        // Step 1260, yes: step 1265 makes a journal of just this.
        let Execution::Receive(receive) = session.write(MAIN, 2, 1, 0) else { panic!("it is a write") };
        let after = sent(receive, 6).await;
        assert!(matches!(after, AfterData::Now(_)), "write-back: the host is told when the cache has it");
        assert!(rig.source.durable_here() < first, "and before the units have");
        assert_eq!(status(after).await, Completion::good(SLOT_BYTES as u64));
        assert_eq!(rig.source.lock().next, first.next());
        let record = rig.source.load_information(first, Class::Restore).await.unwrap().remove(0);
        assert_eq!((record.number, record.kind), (first, Kind::HostWrite));
        let extent = record.extents[0];
        assert_eq!((extent.volume.0, extent.start_bytes), (DATA, 2 * SLOT_BYTES as u64));
        assert_eq!(u64::from(record.data_bytes), extent.length_bytes);
        assert_eq!(session.read(MAIN, 2).await, vec![6; SLOT_BYTES], "step 1270");
        // Step 1280 with FUA: when it is durable.
        assert_eq!(session.written(MAIN, 3, 7, FUA).await.status, 0);
        assert!(rig.source.durable_here() >= UpdateNumber::new(first.get() + 1));
        // Step 1270: the disk adapter has both on its units in the end.
        rig.source.settle().await.unwrap();
        rig.source.disk.destage(&[VolumeId(NORMAL.into())]).await.unwrap();
        let dirty = rig.source.disk.load_permille();
        assert_eq!(dirty, 0, "nothing is only in the cache");
    });
}
