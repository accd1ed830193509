//! Restore pauses at a number for as long as somebody wants to cut there, and holds nothing else (`cut.rs`, decision 26).

use super::reading::{IMMEDIATE, follow};
use super::rig::{Choice, Lane, Rig, Way, life};
use crate::copy::cut::Approach;
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
            (Approach::Past, Approach::There, Approach::Near)
        );
        assert_eq!(at(&rig, 2_000), Approach::Far);
        assert_eq!(restored(&rig).await, 2, "for as long as it takes");
        assert!(!rig.copy.is_stopped() && !rig.copy.has_stop(), "it is no stop");
        assert_eq!(rig.copy.add_cut(StoredNumber(1)), Err(StoredNumber(2)));
        let copy = rig.copy.clone();
        let comes = tokio::spawn(async move { copy.approaches(StoredNumber(4), Approach::Near).await });
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
