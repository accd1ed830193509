//! S-VOLs that hosts write, pairs that go while something is on its way, and what a takeover finds then.

use super::*;
use crate::volume::designation::{ImageWish, ResyncedPair, SvolHosts, Which};
use crate::volume::name::{PairNumber, SnapshotNumber};
use crate::volume::pair::SuspendCause;
use crate::volume::resync::TakeoverPoint;

/// Alpha is copied by beta, two pairs that are normal.
pub(super) fn normal() -> (Array, Array) {
    let (mut alpha, mut beta) = both();
    for step in [
        group(),
        journal("jnl", None),
        journal("jnl", Some("beta")),
        pair("p1", "data1", "beta:copy1"),
        pair("p2", "data2", "beta:copy2"),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    for array in [&mut alpha, &mut beta] {
        for name in ["p1", "p2"] {
            let number = number(array, name);
            array.tables.pair_event(number, PairEvent::CopyBegins, None).unwrap();
            array.tables.pair_event(number, PairEvent::CopyRestored, None).unwrap();
        }
    }
    (alpha, beta)
}

pub(super) fn number(array: &Array, name: &str) -> PairNumber {
    array.tables.pair_named(&name.parse().unwrap()).unwrap().number
}

fn suspend(array: &mut Array, svol: SvolHosts, names: &[&str]) {
    for name in names {
        let which = Which::Pair(name.parse().unwrap());
        array.say(Designation::SuspendPairs { group: "g1".parse().unwrap(), which, svol }).unwrap();
    }
    let numbers: Vec<PairNumber> = names.iter().map(|name| number(array, name)).collect();
    let Array { tables, ids } = array;
    let mut identity = || {
        *ids += 1;
        Identity(*ids)
    };
    tables
        .pairs_suspended(&numbers, (SuspendCause::Operator, "for a test"), UpdateNumber(0), &mut identity)
        .unwrap();
}

fn on_their_way(array: &Array) -> Vec<Designation> {
    array.tables.forwards.iter().map(|forward| forward.designation.clone()).collect()
}

fn resynced(name: &str) -> ResyncedPair {
    ResyncedPair {
        pair: name.parse().unwrap(),
        withheld_from: None,
        rewritten_bytes: 0,
        image: ImageWish::Keep,
        copies: 0,
    }
}

/// The message was once built in the transaction of the suspension, when nobody knew the number yet: where other pairs went
/// on, the image was given a later number than the S-VOL was of.
#[test]
fn the_message_that_opens_s_vols_names_the_number_from_which_on_updates_are_withheld() {
    let (mut alpha, mut beta) = normal();
    suspend(&mut alpha, SvolHosts::Write, &["p1"]);
    let opens = |array: &Array| {
        on_their_way(array).into_iter().find_map(|what| match what {
            Designation::RemoteSvolWrite { pairs } => Some(pairs),
            _ => None,
        })
    };
    assert_eq!(opens(&alpha), None, "nobody knows the number yet");
    deliver(&mut alpha, &mut beta, "beta");
    let p1 = number(&alpha, "p1");
    assert!(alpha.tables.pairs.get(&p1).unwrap().control.told);
    alpha.tables.withhold(p1, UpdateNumber(77));
    alpha.tables.svol_write_sent(&[p1], &mut || Identity(12_345));
    assert_eq!(opens(&alpha).unwrap()[0].withheld_from, Some(UpdateNumber(77)));
}

#[test]
fn an_s_vol_is_opened_only_if_it_is_an_image_and_its_number_is_known() {
    let (alpha, mut beta) = normal();
    let source = Who::Peer { array: alpha.tables.meta().number, from: "x".into() };
    let p1 = number(&beta, "p1");
    beta.tables.pair_event(p1, PairEvent::Suspend, None).unwrap();
    beta.tables.images_kept(&[(p1, UpdateNumber(60))]);
    let say = |beta: &mut Array, withheld_from| {
        beta.ids += 1;
        let pairs = vec![ResyncedPair { withheld_from, ..resynced("p1") }];
        let id = DesignationId(Identity(beta.ids));
        beta.apply(id, &Designation::RemoteSvolWrite { pairs }, &source)
    };
    // In the middle of a resync that was stopped there is an image, but the S-VOL is none.
    beta.tables.pairs.edit(&p1).unwrap().control.is_image = false;
    assert!(say(&mut beta, None).unwrap_err().to_string().contains("half a copy"));
    let control = &mut beta.tables.pairs.edit(&p1).unwrap().control;
    (control.is_image, control.left_behind) = (true, true);
    assert!(say(&mut beta, None).unwrap_err().to_string().contains("nobody says"));
    say(&mut beta, Some(UpdateNumber(61))).unwrap();
    say(&mut beta, None).unwrap();
    assert!(beta.tables.pairs.get(&p1).unwrap().control.svol_write);
}

/// What named a pair that was gone was refused, and so offered for ever.
#[test]
fn nothing_that_names_a_deleted_pair_stays_on_its_way() {
    let (mut alpha, mut beta) = normal();
    suspend(&mut alpha, SvolHosts::Keep, &["p1", "p2"]);
    let both = [number(&alpha, "p1"), number(&alpha, "p2")];
    alpha.tables.svol_write_sent(&both, &mut || Identity(50));
    alpha.tables.resync_sent(&[(both[0], 0)], UpdateNumber(5), &mut || Identity(51));
    beta.tables.svols_closed(&[(number(&beta, "p1"), vec![(0, 4096)])], &mut || Identity(52));
    alpha.tables.pair_is_gone(both[0], Identity(1 << 20));
    let beta_p1 = number(&beta, "p1");
    beta.tables.pair_is_gone(beta_p1, Identity(2 << 20));
    let names_p1 = |what: &Designation| match what {
        Designation::RemoteSuspend { pair, .. } | Designation::JoinMarks { pair, .. } => {
            pair.as_str() == "p1"
        }
        Designation::RemoteSvolWrite { pairs } | Designation::RemoteResync { pairs, .. } => {
            pairs.iter().any(|one| one.pair.as_str() == "p1")
        }
        _ => false,
    };
    assert!(!on_their_way(&alpha).iter().any(names_p1), "{:?}", on_their_way(&alpha));
    assert!(!on_their_way(&beta).iter().any(names_p1));
    let is_told = |what: &Designation| matches!(what, Designation::RemoteDeletePair { .. });
    let others =
        |what: &Designation| matches!(what, Designation::RemoteSvolWrite { pairs } if pairs.len() == 1);
    let left = on_their_way(&alpha);
    assert!(left.iter().any(is_told) && left.iter().any(others), "the other pair's stays: {left:?}");
}

/// A resync closed S-VOLs beside a rewind that had just been said: the group was on the way to a snapshot for ever.
#[test]
fn s_vols_on_the_way_to_a_snapshot_stay_open() {
    let (_, mut beta) = normal();
    let p1 = number(&beta, "p1");
    let pair = beta.tables.pairs.edit(&p1).unwrap();
    (pair.control.svol_write, pair.control.svol_open) = (true, true);
    let group = pair.group;
    beta.tables.groups.edit(&group).unwrap().rewinding = Some(SnapshotNumber(77));
    let close = |beta: &mut Array| beta.tables.close_svols(&[(p1, vec![(0, 4096)])], &mut || Identity(52));
    let is_open = |beta: &Array| beta.tables.pairs.get(&p1).unwrap().control.svol_open;
    let is_told =
        |beta: &Array| on_their_way(beta).iter().any(|what| matches!(what, Designation::JoinMarks { .. }));
    assert!(close(&mut beta).unwrap_err().to_string().contains("on the way to a snapshot"));
    assert!(is_open(&beta) && !is_told(&beta));
    beta.tables.rewound(group);
    close(&mut beta).unwrap();
    assert!(!is_open(&beta) && is_told(&beta));
}

/// An image was kept for ever when the pair for which it was needed was taken away.
#[test]
fn images_go_with_the_last_pair_that_needed_them() {
    let (alpha, mut beta) = normal();
    let (p1, p2) = (number(&beta, "p1"), number(&beta, "p2"));
    let group = beta.tables.pairs.get(&p1).unwrap().group;
    beta.tables.images_kept(&[(p1, UpdateNumber(60)), (p2, UpdateNumber(60))]);
    let p1_row = beta.tables.pairs.edit(&p1).unwrap();
    (p1_row.state, p1_row.control.is_image) = (PairState::BeingCopied, false);
    let restored = Some(UpdateNumber(90));
    assert_eq!(beta.tables.takeover_point(group, restored), Ok(TakeoverPoint::Image(UpdateNumber(60))));
    // From here on nothing more comes for it, and it is no member.
    let source = Who::Peer { array: alpha.tables.meta().number, from: "x".into() };
    let gone = Designation::RemoteDeletePair { pair: "p1".parse().unwrap(), is_gone: false };
    beta.apply(DesignationId(Identity(9)), &gone, &source).unwrap();
    assert_eq!(beta.tables.takeover_point(group, restored), Ok(TakeoverPoint::Volumes(UpdateNumber(90))));
    beta.tables.pair_is_gone(p1, Identity(10));
    assert_eq!(beta.tables.pairs.get(&p2).unwrap().control.image, None, "nobody needs it");
}

/// An image is kept through changes of roles: its number may be one of another history, and says nothing of what nobody has noted.
#[test]
fn who_goes_back_to_an_image_reaches_only_what_was_noted() {
    for (noted, expected) in [(None, None), (Some(70), Some(60)), (Some(50), Some(50))] {
        let (_, mut beta) = normal();
        let p1 = number(&beta, "p1");
        let group = beta.tables.pairs.get(&p1).unwrap().group;
        beta.tables.images_kept(&[(p1, UpdateNumber(60))]);
        beta.tables.pairs.edit(&p1).unwrap().control.reaches = noted.map(UpdateNumber);
        beta.tables.fallen_back(group, Some(UpdateNumber(60)));
        let control = &beta.tables.pairs.get(&p1).unwrap().control;
        assert_eq!(
            (control.stopped_at, control.reaches),
            (Some(UpdateNumber(60)), expected.map(UpdateNumber))
        );
    }
}

/// The number of an earlier suspension was once named for a later one: the image that was kept then was said to be older than it was.
#[test]
fn a_second_suspension_is_a_new_one_to_the_auxiliary() {
    let (mut alpha, mut beta) = normal();
    let p1 = number(&alpha, "p1");
    let withheld = |array: &Array| {
        let control = &array.tables.pairs.get(&p1).unwrap().control;
        (control.withheld_from.map(|number| number.0), control.withheld_until.map(|number| number.0))
    };
    suspend(&mut alpha, SvolHosts::Keep, &["p1"]);
    deliver(&mut alpha, &mut beta, "beta");
    alpha.tables.withhold(p1, UpdateNumber(77));
    // Another reason for the same suspension.
    suspend(&mut alpha, SvolHosts::Keep, &["p1"]);
    assert_eq!(withheld(&alpha), (Some(77), None));
    deliver(&mut alpha, &mut beta, "beta");
    alpha.tables.resync_begins(p1, UpdateNumber(90), false).unwrap();
    assert_eq!(withheld(&alpha), (Some(77), Some(90)));
    suspend(&mut alpha, SvolHosts::Keep, &["p1"]);
    assert_eq!(withheld(&alpha), (None, None), "nobody has told beta of it yet");
    deliver(&mut alpha, &mut beta, "beta");
    alpha.tables.withhold(p1, UpdateNumber(120));
    assert_eq!(withheld(&alpha), (Some(120), None));
}
