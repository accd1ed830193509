//! S-VOLs that are taken out of restore.

use super::rig::{Choice, DATA, READER, Rig, Way, life};
use crate::copy::error::CopyError;
use crate::copy::fetch::Whose;
use crate::volume::pair::PairState;
use holdfast_journal::UpdateNumber;
use std::sync::Arc;
use std::time::Duration;

/// It was once recorded before what the S-VOL was had come to the units: a start in between found it there in part, and let
/// hosts in.
#[test]
fn an_s_vol_is_taken_out_of_restore_when_it_is_on_the_units_and_what_is_held_behind_that_is_told() {
    life(async {
        let rig = Rig::new(Choice::default()).await;
        let way = Arc::new(Way::new(&rig, &[Default::default()]));
        for page in 1..=8 {
            rig.write(page, 1, 7).await;
        }
        let following = rig.copy.follow(&*way, 1, Whose::Source);
        tokio::select! {
            biased;
            error = following => panic!("{error}"),
            () = rig.until("read", |rig| rig.copy.durable_here() == UpdateNumber::new(8)) => {}
        }
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        // Two more that a restore delay holds back.
        for page in [20, 21] {
            rig.write(page, 1, 9).await;
        }
        let following = rig.copy.follow(&*way, 1, Whose::Source);
        tokio::select! {
            biased;
            error = following => panic!("{error}"),
            () = rig.until("read", |rig| rig.copy.durable_here() == UpdateNumber::new(10)) => {}
        }
        let pair = rig.copy.lock().svols.values().next().unwrap().pair;
        let (settled, restored) = {
            let seq = rig.copy.lock();
            (seq.settled, seq.restored)
        };
        assert!(settled < restored, "there is something to lose");
        let refused: Result<(), CopyError> =
            rig.copy.take_out_svols(&[pair], |_| Err(CopyError::Damaged("the store fails".into()))).await;
        assert!(refused.is_err() && rig.copy.knows_pair(pair), "it is followed as before");
        let mut told = None;
        let taken: Result<(), CopyError> = rig
            .copy
            .take_out_svols(&[pair], |passed_over| {
                let seq = rig.copy.lock();
                assert_eq!((seq.settled, seq.restored), (UpdateNumber::new(8), UpdateNumber::new(8)));
                drop(seq);
                assert!(rig.copy.restoring.try_lock().is_err(), "nothing is restored meanwhile");
                told = Some(passed_over);
                Ok(())
            })
            .await;
        taken.unwrap();
        let ranges = told.unwrap().remove(&pair).unwrap();
        assert_eq!(ranges, [(20 * 4096, 4096), (21 * 4096, 4096)]);
        rig.copy.restore_available(Duration::ZERO).await.unwrap();
        assert_eq!(rig.copied(20).await, 0, "it is passed over");
        assert_eq!(rig.copied(8).await, 7);
    });
}

/// What an auxiliary's hosts had written was once marked while a checkpoint had an older part of the same map in its hands:
/// that was written last, and behind a restart those differences were forgotten.
#[test]
fn what_hosts_have_written_at_the_other_array_is_marked_behind_a_checkpoint_that_writes_older_marks() {
    life(async {
        let rig = Rig::new(Choice { pair: PairState::Suspended, ..Choice::default() }).await;
        rig.source.begin_marking(READER, &[1]);
        let checkpoint = rig.source.checkpointing.lock().await;
        let (runs, joins) = ([(0, 65_536)], rig.source.join_runs(1, &[(0, 65_536)]));
        tokio::pin!(joins);
        assert!(futures_util::poll!(joins.as_mut()).is_pending(), "its parts are older than these");
        assert_eq!(rig.source.marked_runs(1, 9), []);
        drop(checkpoint);
        assert!(joins.await.unwrap(), "there is a map");
        assert_eq!(rig.source.marked_runs(1, 9).first(), runs.first());
        assert!(!rig.source.join_runs(2, &runs).await.unwrap(), "there is none of a pair that is not here");
    });
}

/// A reader that joins gets the map of another pair only while that says everything: once that is copied its marks go.
#[test]
fn what_is_marked_is_everything_only_while_changes_are_marked() {
    life(async {
        let rig = Rig::new(Choice { pair: PairState::Suspended, ..Choice::default() }).await;
        rig.source.begin_marking(READER, &[1]);
        let mut joining = rig.source.lock().pairs[&DATA][0].clone();
        joining.pair = 2;
        rig.source.add_pair(DATA, joining);
        assert!(rig.source.mark_runs(1, &[(0, 65_536)]));
        assert!(rig.source.mark_like(2, 1));
        assert_eq!(rig.source.marked_runs(2, 9), [(0, 65_536)]);
        assert!(!rig.source.mark_like(2, 3), "there is none of a pair that is not here");
        assert!(!rig.source.mark_like(3, 1), "nor one of it");
        let start = crate::copy::suspend::ResyncStart { from: UpdateNumber::new(1), restarted: false };
        rig.source.resyncing(1, start);
        assert!(!rig.source.mark_like(2, 1), "it is being copied");
    });
}
