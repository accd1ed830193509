//! A journal over several volumes, one of which cannot be read any more.

use super::rig::{Choice, DATA, MIB, READER, Rig, life};
use crate::copy::commit::Trouble;
use crate::copy::error::CopyError;
use crate::copy::serve::Carrier;
use crate::copy::volumes::Spare;
use crate::disk::cache::{ParityGroupId, VolumeSpec};
use crate::disk::{VolumeId, VolumeKind};
use holdfast_journal::format::{Layout, head::DEFAULT_RATIO};
use holdfast_journal::reader::Report;
use holdfast_journal::{UpdateNumber, VolumeNumber};

/// The rig's first journal volume and the one that follows it.
const EARLIER: u32 = 2;
const NEXT: u32 = 4;
/// Writes that only the earlier volume holds, each in a mebibyte of its own.
const WRITES: u64 = 10;

fn spare(volume: u32) -> Spare {
    Spare { volume, is_reserve: false, layout: Layout::default(), data_per_info: DEFAULT_RATIO }
}

async fn create(rig: &Rig, volume: u32) {
    let (id, parity_group) = (VolumeId(volume), ParityGroupId(1));
    let spec = VolumeSpec { id, parity_group, size_bytes: 16 * MIB, kind: VolumeKind::Journal };
    rig.source.disk.create_volume(spec).await.unwrap();
}

/// Nothing is kept in memory, and the journal shall go on in its next volume.
async fn before_the_change(store_fails: bool) -> Rig {
    let rig = Rig::new(Choice { cache_bytes: 0, store_fails, ..Choice::default() }).await;
    for at in 0..WRITES {
        let number = rig.write(at * 256, 1, 7).await;
        rig.source.durable(number).await;
    }
    create(&rig, NEXT).await;
    rig.source.set_volumes(vec![spare(NEXT)], [EARLIER].into());
    rig
}

/// The journal has gone on there.
async fn in_its_next_volume() -> Rig {
    let rig = before_the_change(false).await;
    rig.source.change_volume().await.unwrap();
    assert_eq!(rig.source.lock().journal.volume(), VolumeNumber(NEXT));
    let number = rig.write(4000, 1, 8).await;
    rig.source.durable(number).await;
    rig
}

async fn lose_the_earlier(rig: &Rig) {
    rig.source.disk.delete_volume(VolumeId(EARLIER)).await.unwrap();
    assert_eq!(rig.source.lock().journal.lost_below(), UpdateNumber::NONE, "nobody has found out");
}

/// Mebibytes of the pair's volume in which something is marked.
fn marked(rig: &Rig) -> Vec<u64> {
    let seq = rig.source.lock();
    let map = seq.pairs[&DATA][0].resync.differences.as_ref().unwrap();
    (0..16)
        .filter(|at| map.next_run(at * MIB, MIB).is_some_and(|(start, _)| start < (at + 1) * MIB))
        .collect()
}

#[test]
fn a_suspension_that_is_first_to_find_a_volume_lost_marks_what_only_that_held() {
    life(async {
        let rig = in_its_next_volume().await;
        lose_the_earlier(&rig).await;
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        assert!(rig.source.lock().journal.lost_below() > UpdateNumber::new(WRITES));
        let wanted: Vec<u64> = (0..WRITES).chain([15]).collect();
        assert_eq!(marked(&rig), wanted);
    });
}

#[test]
fn what_is_lost_is_marked_though_the_reader_has_it_and_only_not_settled_it() {
    life(async {
        let rig = in_its_next_volume().await;
        let durable = rig.source.durable_here();
        {
            let mut seq = rig.source.lock();
            seq.readers.set_rule(holdfast_journal::reader::ReleaseRule::Restored);
            let mut report = seq.readers.reader(READER).unwrap().report;
            (report.acknowledged, report.settled) = (durable, UpdateNumber::new(4));
            report.restored = report.restored.max(report.settled);
            seq.readers.may_have(READER, durable);
            seq.readers.handle_report(READER, report).unwrap();
            let end = seq.journal.first_of_last();
            seq.journal.lose_below(end);
        }
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        let wanted: Vec<u64> = (4..WRITES).chain([15]).collect();
        assert_eq!(marked(&rig), wanted);
    });
}

/// The reader's next journal begins where the source says, and takes what it lost for settled. That was once believed when it was
/// reported before the owner of the groups had seen to the loss: what was lost was in no map.
#[test]
fn what_a_reader_reports_behind_the_loss_of_its_journal_hides_nothing_of_what_it_lost() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let mut last = UpdateNumber::NONE;
        for at in 0..WRITES {
            last = rig.write(at * 256, 1, 7).await;
        }
        rig.source.durable(last).await;
        rig.source.lock().readers.may_have(READER, last);
        let report = |settled| {
            let report = Report { acknowledged: last, restored: settled, settled, ..Report::default() };
            rig.source.report(READER, report, Carrier::Report).unwrap();
        };
        report(UpdateNumber::new(4));
        rig.source.strand(READER);
        report(last);
        rig.source.strand(READER);
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        assert_eq!(marked(&rig), (4..WRITES).collect::<Vec<u64>>());
        rig.source.suspended(&marking);
        report(last);
        assert_eq!(rig.source.lock().readers.reader(READER).unwrap().report.settled, last);
    });
}

/// A copy that began anew says nothing of what was before it. A reader that loses its journal then may lack any of that.
#[test]
fn a_reader_that_loses_its_journal_while_a_copy_begins_anew_has_everything_marked() {
    life(async {
        let rig = in_its_next_volume().await;
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        rig.source.suspended(&marking);
        rig.source.lock().journal.drop_oldest(1);
        drop(rig.source.take_marks(&[1])); // As if the store had them.
        let start = rig.source.begin_resync(READER, &[1]).await.unwrap();
        rig.source.resyncing(1, start);
        rig.source.strand(READER);
        let marking = rig.source.begin_marking(READER, &[1]);
        rig.source.mark_unsettled(&marking).await.unwrap();
        assert_eq!(marked(&rig), (0..16).collect::<Vec<u64>>());
    });
}

/// A pair that could not be suspended once counted as being suspended for ever: it was copied no further, and hosts did not wait
/// for a synchronous one any more.
#[test]
fn a_suspension_that_fails_leaves_its_pair_as_it_was() {
    life(async {
        let rig = Rig::new(Choice { cache_bytes: 0, ..Choice::default() }).await;
        let last = rig.write(0, 1, 7).await;
        rig.source.durable(last).await;
        rig.source.set_pair_state(1, crate::volume::pair::PairState::BeingCopied);
        assert!(rig.source.wants_copy(1));
        rig.source.disk.delete_volume(VolumeId(EARLIER)).await.unwrap();
        let marking = rig.source.begin_marking(READER, &[1]);
        assert!(!rig.source.wants_copy(1), "it is being suspended");
        rig.source.mark_unsettled(&marking).await.unwrap_err();
        assert!(rig.source.wants_copy(1));
        assert!(rig.source.lock().pairs[&DATA][0].resync.differences.is_none());
    });
}

#[test]
fn a_read_of_a_volume_that_has_left_meanwhile_loses_nothing() {
    life(async {
        let rig = in_its_next_volume().await;
        let number = UpdateNumber::new(5);
        let held = rig.source.lock().journal.locate(number).unwrap();
        rig.source.lock().journal.drop_oldest(1);
        let failed = CopyError::Damaged("it is gone".to_owned());
        assert!(rig.source.lose(number, &held, &failed));
        assert_eq!(rig.source.lock().journal.lost_below(), UpdateNumber::NONE);
    });
}

#[test]
fn a_group_that_ends_leaves_nothing_restored_to_the_cache_alone() {
    life(async {
        let rig = in_its_next_volume().await;
        assert!(rig.source.disk.oldest_dirty().is_some());
        rig.source.close_destaged().await.unwrap();
        assert!(rig.source.disk.oldest_dirty().is_none());
    });
}

fn failed(volume: u32) -> Trouble {
    Trouble::of(VolumeNumber(volume), &CopyError::Damaged("a late write".to_owned()))
}

#[test]
fn a_late_failure_of_a_volume_that_was_left_does_not_fail_the_one_that_is_written() {
    life(async {
        let rig = in_its_next_volume().await;
        assert!(rig.source.take_over(&failed(EARLIER)).await);
        let number = rig.write(1, 1, 9).await;
        rig.source.durable(number).await;
        let seq = rig.source.lock();
        assert_eq!((seq.journal.volume(), &seq.failed), (VolumeNumber(NEXT), &None));
    });
}

#[test]
fn nothing_is_appended_once_nobody_knows_which_volume_the_store_names() {
    life(async {
        let rig = before_the_change(true).await;
        rig.source.change_volume().await.unwrap_err();
        assert!(rig.source.leaving().blocks());
        assert!(!rig.source.wants_change(), "no second head on a volume that the store may name");
        rig.until("the journal is left", |rig| rig.source.lock().failed.is_some()).await;
        assert_eq!(rig.source.lock().journal.volume(), VolumeNumber(EARLIER));
    });
}

#[test]
fn a_volume_that_was_given_back_and_comes_again_is_used() {
    life(async {
        let rig = in_its_next_volume().await;
        assert!(rig.source.take_over(&failed(EARLIER)).await);
        rig.source.lock().journal.drop_oldest(1);
        rig.source.disk.delete_volume(VolumeId(EARLIER)).await.unwrap();
        rig.source.forget_journals([EARLIER].into_iter());
        create(&rig, EARLIER).await;
        rig.source.set_volumes(vec![spare(EARLIER)], [NEXT].into());
        rig.source.change_volume().await.unwrap();
        assert_eq!(rig.source.lock().journal.volume(), VolumeNumber(EARLIER));
    });
}

/// A5: a set of the eight addresses for each reader and each journal volume.
#[test]
fn each_journal_volume_has_pointers_of_each_reader() {
    life(async {
        let rig = in_its_next_volume().await;
        let status = rig.source.status();
        let volumes: Vec<u32> = status.segments.iter().map(|segment| segment.volume.0).collect();
        assert_eq!((volumes, status.pointers.len()), (vec![EARLIER, NEXT], 2));
        let of = |at: usize, array: u32| {
            let found = rig.source.status().pointers[at].iter().find(|(reader, _)| *reader == array).copied();
            found.unwrap().1
        };
        // The reader has read nothing: it begins in the earlier volume, and in the next one with the oldest.
        let (earlier, next) = (of(0, READER.0), of(1, READER.0));
        assert!(earlier.read_start < earlier.update_information_newest);
        assert_eq!(earlier.read_start, earlier.update_information_oldest);
        assert_eq!((next.read_start, next.retry_start), (next.update_information_oldest, next.read_start));
        assert!(next.read_start < next.update_information_newest);
        // It has the earlier volume's: there all is newest, in the next one nothing has changed.
        let last = UpdateNumber::new(WRITES);
        rig.source.lock().readers.handle_sent(READER, last, UpdateNumber::NONE).unwrap();
        let report = Report { acknowledged: last, ..Report::default() };
        rig.source.report(READER, report, Carrier::Report).unwrap();
        let read = of(0, READER.0);
        assert_eq!(read.update_information_newest, earlier.update_information_newest);
        assert_eq!([read.read_start, read.retry_start], [read.update_information_newest; 2]);
        assert_eq!(read.update_information_oldest, read.update_information_newest);
        assert_eq!(read.write_data_oldest, read.write_data_newest);
        assert_eq!(of(1, READER.0), next);
    });
}
