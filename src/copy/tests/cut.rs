//! Restore pauses at a number for as long as somebody wants to cut there, and holds nothing else (`cut.rs`, decision 26).

use super::reading::{IMMEDIATE, follow};
use super::rig::{Choice, DATA, Lane, Rig, Way, life};
use crate::copy::cut::{Approach, Nearness};
use crate::copy::group::Group;
use crate::disk::cache::Piece;
use crate::disk::slot::Class;
use crate::disk::{Snapshot, SnapshotsCut, VolumeId};
use crate::volume::name::UpdateNumber as StoredNumber;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Five updates, stored and not restored: each writes its number.
async fn stored(rig: &mut Rig) {
    let way = Arc::new(Way::new(rig, &[Lane::default()]));
    follow(rig, &way, IMMEDIATE);
    for byte in 1..=5 {
        rig.write(3, 1, byte).await;
    }
    rig.until("stored", Rig::is_read).await;
}

/// What the group's own restore has made of it after a while.
async fn restored(rig: &Rig) -> u8 {
    tokio::select! {
        biased;
        () = rig.copy.clone().restore_loop() => unreachable!("it ends with its group"),
        () = rig.sleep_ms(50) => {}
    }
    rig.copied(3).await
}

fn cuts(rig: &Rig, numbers: &[u64]) {
    let numbers: BTreeSet<StoredNumber> = numbers.iter().copied().map(StoredNumber).collect();
    rig.copy.set_cuts(&numbers);
}

#[test]
fn restore_pauses_at_each_number_and_goes_on_when_that_is_cut() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        let at = |rig: &Rig, number| rig.copy.approach(StoredNumber(number));
        cuts(&rig, &[2]);
        rig.copy.add_cut(StoredNumber(4)).unwrap();
        stored(&mut rig).await;
        assert_eq!(restored(&rig).await, 2);
        assert_eq!(
            (at(&rig, 1), at(&rig, 2), at(&rig, 4)),
            (Approach::Past, Approach::There, Approach::Near(Nearness::LAST))
        );
        assert_eq!(at(&rig, 40_000), Approach::Far);
        assert_eq!(restored(&rig).await, 2, "for as long as it takes");
        assert!(!rig.copy.is_stopped() && !rig.copy.has_stop(), "it is no stop");
        assert_eq!(rig.copy.add_cut(StoredNumber(1)), Err(StoredNumber(2)));
        let copy = rig.copy.clone();
        let comes =
            tokio::spawn(
                async move { copy.approaches(StoredNumber(4), Approach::Near(Nearness::LAST)).await },
            );
        cuts(&rig, &[4]);
        assert_eq!((restored(&rig).await, at(&rig, 4)), (4, Approach::There));
        comes.await.unwrap();
        cuts(&rig, &[]);
        assert_eq!((restored(&rig).await, at(&rig, 4)), (5, Approach::Past));
    });
}

/// A takeover, a resync, a restart: whoever has to have everything that is here has it.
#[test]
fn who_restores_everything_goes_past_a_number_and_so_does_a_stretch_without_an_image() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        cuts(&rig, &[2]);
        stored(&mut rig).await;
        assert_eq!(rig.copy.restore_available(Duration::ZERO).await.unwrap(), 5);
        assert_eq!(rig.copy.approach(StoredNumber(2)), Approach::Past);
        rig.source.break_image().await.unwrap(); // 6
        rig.write(3, 1, 7).await;
        rig.write(3, 1, 8).await;
        rig.source.make_whole().await.unwrap(); // 9
        rig.write(3, 1, 10).await;
        cuts(&rig, &[7, 9]);
        rig.until("stored", Rig::is_read).await;
        assert_eq!(restored(&rig).await, 8, "its end is a number like others");
        assert_eq!(rig.copy.approach(StoredNumber(9)), Approach::There);
        cuts(&rig, &[]);
        assert_eq!(restored(&rig).await, 10);
    });
}

/// Cuts a clone of the S-VOL at a number; none, if restore did not come there in time.
async fn cut(copy: Arc<Group>, number: u64, clone: u32) -> Option<SnapshotsCut> {
    let wanted = [Snapshot { volume: VolumeId(DATA), snapshot: VolumeId(clone) }];
    let cut = copy.cut_ahead(StoredNumber(number), &wanted, || (), |newest| newest.number.get()).await;
    let (cut, at) = cut.unwrap()?;
    assert_eq!(at, number);
    Some(cut)
}

async fn byte_of(rig: &Rig, volume: u32) -> u8 {
    let pieces = rig.copy.disk.read(VolumeId(volume), 3 * 4096, 4096, Class::Host).await.unwrap();
    match pieces.iter().next() {
        Some(Piece::Bytes { slot, .. }) => slot[0],
        _ => 0,
    }
}

/// Restore goes on behind the cut, and the clone is what it was: though it is written later.
#[test]
fn clones_of_neighbouring_numbers_are_cut_without_a_destage_in_between() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        cuts(&rig, &[2, 4]);
        let cutting = [(2, 20), (2, 21), (4, 40)]
            .map(|(number, clone)| tokio::spawn(cut(rig.copy.clone(), number, clone)));
        rig.sleep_ms(5).await;
        stored(&mut rig).await;
        let (copy, mut made) = (rig.copy.clone(), Vec::new());
        tokio::select! {
            biased;
            () = copy.restore_loop() => unreachable!("it ends with its group"),
            () = async {
                for (index, cutting) in cutting.into_iter().enumerate() {
                    made.push(cutting.await.unwrap().expect("it is near"));
                    match index {
                        0 => {}
                        1 => cuts(&rig, &[4]),
                        _ => cuts(&rig, &[]),
                    }
                }
                rig.until("restored", Rig::is_restored).await;
            } => {}
        }
        assert_eq!(rig.copied(3).await, 5, "restore has not waited for them");
        for cut in made {
            cut.complete().await.unwrap();
        }
        assert_eq!([byte_of(&rig, 20).await, byte_of(&rig, 21).await, byte_of(&rig, 40).await], [2, 2, 4]);
    });
}

/// What is held back for a number that does not come is so for half a second, and not at all when somebody needs the room.
#[test]
fn nothing_is_held_back_for_long_or_while_somebody_waits_for_room() {
    life(async {
        let mut rig = Rig::new(Choice::default()).await;
        stored(&mut rig).await;
        assert_eq!(restored(&rig).await, 5);
        let began = rig.now_ms();
        assert!(cut(rig.copy.clone(), 9, 20).await.is_none());
        assert!((500..510).contains(&(rig.now_ms() - began)), "{} ms", rig.now_ms() - began);
        let held = tokio::spawn(cut(rig.copy.clone(), 9, 20));
        rig.sleep_ms(5).await;
        let destage = tokio::spawn({
            let disk = rig.copy.disk.clone();
            async move { disk.destage(&[VolumeId(DATA)]).await }
        });
        rig.sleep_ms(50).await;
        assert!(!destage.is_finished() && !held.is_finished());
        // Nobody gets all the memory while something is dirty.
        assert!(rig.copy.pool.try_take(Class::Host, rig.copy.pool.limit()).is_none());
        rig.sleep_ms(5).await;
        assert!(destage.is_finished() && held.await.unwrap().is_none());
    });
}
