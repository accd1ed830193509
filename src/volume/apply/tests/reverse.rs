//! Groups that are turned round (decision 17): every step of the tables, said twice, refused, given up.

use super::written::{normal, number};
use super::*;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::{GroupNumber, PairNumber, VolumeName};
use crate::volume::reversal::{Manner, RemoteReversal, ReversalStep};
use std::collections::BTreeMap;
use std::time::Duration;

fn g1(array: &Array) -> GroupRecord {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().clone()
}

fn reverse(to: &str) -> Designation {
    Designation::ReverseGroup {
        group: "g1".parse().unwrap(),
        to: to.parse().unwrap(),
        wait: Duration::from_secs(10),
    }
}

fn cancel() -> Designation {
    Designation::CancelReversal { group: "g1".parse().unwrap() }
}

fn step(array: &Array) -> Option<String> {
    g1(array).reversal.map(|reversal| reversal.step.to_string())
}

fn access(array: &Array, name: &str) -> HostAccess {
    array.tables.host_access(array.tables.volume_named(&name.parse().unwrap()).unwrap().number)
}

fn told(array: &Array) -> RemoteReversal {
    let on_its_way = array.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::RemoteReverse(told) => Some(told.clone()),
        _ => None,
    });
    on_its_way.expect("it is handed over")
}

/// Handed over behind update 40.
fn handed_over(alpha: &mut Array) -> RemoteReversal {
    alpha.say(reverse("beta")).unwrap();
    let number = g1(alpha).number;
    alpha.tables.handed_over(number, UpdateNumber(40), &BTreeMap::new(), Identity(77));
    told(alpha)
}

#[test]
fn a_group_is_turned_round_step_by_step_and_at_no_step_both_let_hosts_write() {
    let (mut alpha, mut beta) = normal();
    let one_at_most = |alpha: &Array, beta: &Array| {
        let both = (access(alpha, "data1"), access(beta, "copy1"));
        assert_ne!(both, (HostAccess::ReadWrite, HostAccess::ReadWrite));
        both
    };
    assert_eq!(one_at_most(&alpha, &beta).0, HostAccess::ReadWrite);
    let told = handed_over(&mut alpha);
    assert_eq!((told.manner, told.last, told.pairs.len()), (Manner::Planned, UpdateNumber(40), 2));
    assert_eq!(one_at_most(&alpha, &beta), (HostAccess::None, HostAccess::None));
    assert!(alpha.say(cancel()).unwrap_err().to_string().contains("may have taken over"));

    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!((step(&alpha).as_deref(), step(&beta).as_deref()), (Some("leaving"), Some("taking-over")));
    assert_eq!(one_at_most(&alpha, &beta), (HostAccess::None, HostAccess::None));
    let here = g1(&beta).number;
    beta.tables.taken_over(here, &[], &mut || Identity(900));
    assert_eq!(one_at_most(&alpha, &beta), (HostAccess::None, HostAccess::ReadWrite));
    // The answer was lost, and the identity is forgotten: the rows say what came of it.
    let source = Who::Peer { array: alpha.tables.meta().number, from: "x".into() };
    let again = beta.apply(DesignationId(Identity(5)), &Designation::RemoteReverse(told.clone()), &source);
    assert_eq!(again, Ok(Outcome::Created { number: here.0 }));
    let there = g1(&alpha).number;
    alpha.tables.left(there);

    let (at_alpha, at_beta) = (g1(&alpha), g1(&beta));
    assert_eq!(at_beta.role, GroupRole::Primary);
    assert!(matches!(at_alpha.role, GroupRole::Auxiliary { remote: Some(remote), .. } if remote == here));
    assert_eq!((at_alpha.reversal, at_beta.reversal.clone()), (None, None));
    let newest = at_beta.generations.last().unwrap();
    assert_eq!((newest.array, newest.first, newest.counter), (ArrayNumber(2), UpdateNumber(41), 2));
    assert_eq!(at_beta.next_update_number, UpdateNumber(41));
    assert_eq!((at_alpha.remote_journals.len(), at_beta.remote_journals.len()), (0, 1));
    let reader = beta.tables.readers_of_group(here).next().unwrap();
    assert_eq!((reader.array, reader.remote_group), (ArrayNumber(1), Some(there)));
    assert_eq!(alpha.tables.readers_of_group(there).count(), 0);
    for name in ["p1", "p2"] {
        let ours = alpha.tables.pairs.get(&number(&alpha, name)).unwrap();
        let theirs = beta.tables.pairs.get(&number(&beta, name)).unwrap();
        assert_eq!((&ours.primary, &ours.auxiliary), (&theirs.primary, &theirs.auxiliary));
        assert_eq!(ours.primary.array, ArrayNumber(2));
        assert_eq!((ours.state, theirs.state), (PairState::Normal, PairState::Normal));
        assert!(ours.control.is_image);
    }
    // And back.
    beta.say(reverse("alpha")).unwrap();
    beta.tables.handed_over(here, UpdateNumber(60), &BTreeMap::new(), Identity(78));
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    alpha.tables.taken_over(there, &[], &mut || Identity(900));
    beta.tables.left(here);
    let counters: Vec<u64> = g1(&alpha).generations.iter().map(|generation| generation.counter).collect();
    assert_eq!(counters, [1, 2, 3]);
    assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite);
}

#[test]
fn a_refused_reversal_lets_hosts_write_where_they_did() {
    let (mut alpha, mut beta) = normal();
    handed_over(&mut alpha);
    let p1 = number(&beta, "p1");
    beta.tables.pair_event(p1, PairEvent::Suspend, None).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0, "it is said once");
    assert_eq!((step(&alpha), step(&beta)), (None, None));
    assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite);
}

#[test]
fn while_a_group_is_turned_round_nothing_else_is_said_for_it_and_it_can_be_given_up_at_first() {
    let (mut alpha, _) = normal();
    alpha.say(reverse("beta")).unwrap();
    alpha.say(reverse("beta")).unwrap();
    let group = || "g1".parse().unwrap();
    let which = crate::volume::designation::Which::All;
    for what in [
        Designation::SuspendPairs { group: group(), which: which.clone(), svol: Default::default() },
        Designation::DeletePairs { group: group(), which },
        Designation::DeleteGroup { group: group() },
        pair("p3", "data2", "beta:copy2"),
    ] {
        assert!(alpha.say(what).unwrap_err().to_string().contains("being reversed"));
    }
    alpha.say(cancel()).unwrap();
    alpha.say(cancel()).unwrap();
    assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite);
}

#[test]
fn what_cannot_be_turned_round_is_refused_with_its_reason() {
    let (mut alpha, _) = normal();
    let refused = |alpha: &mut Array, expected: &str| {
        let refusal = alpha.say(reverse("beta")).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{expected:?} is not in {refusal:?}");
    };
    let p1 = number(&alpha, "p1");
    alpha.tables.pair_event(p1, PairEvent::Suspend, None).unwrap();
    refused(&mut alpha, "neither all normal");
    let (mut alpha, _) = normal();
    let group = g1(&alpha).number;
    let mut other = alpha.tables.readers_of_group(group).next().unwrap().clone();
    other.array = ArrayNumber(3);
    alpha.tables.readers.put(other);
    refused(&mut alpha, "it keeps journals and has no pairs");
    let (mut alpha, _) = normal();
    alpha
        .say(Designation::SetGroup {
            group: "g1".parse().unwrap(),
            settings: crate::volume::designation::SettingsChange {
                svol_access: Some(SvolAccess::Read),
                ..Default::default()
            },
        })
        .unwrap();
    refused(&mut alpha, "still on its way");
}

/// Numbers of a peer are not believed.
#[test]
fn a_reversal_with_impossible_numbers_is_refused() {
    let (mut alpha, mut beta) = normal();
    let right = handed_over(&mut alpha);
    let source = Who::Peer { array: alpha.tables.meta().number, from: "x".into() };
    let generation = *right.generations.last().unwrap();
    let many = |counter, first| vec![Generation { counter, first: UpdateNumber(first), ..generation }];
    for (id, wrong) in (1_000..).zip([
        RemoteReversal { last: UpdateNumber(u64::MAX), ..right.clone() },
        RemoteReversal { generations: Vec::new(), ..right.clone() },
        RemoteReversal { generations: many(u64::MAX, 1), ..right.clone() },
        RemoteReversal { generations: many(1, 500), ..right.clone() },
        RemoteReversal { journals: Vec::new(), ..right.clone() },
        RemoteReversal { pairs: vec!["p1".parse().unwrap(), "p1".parse().unwrap()], ..right.clone() },
        RemoteReversal { manner: Manner::Differences, ..right.clone() },
    ]) {
        let what = Designation::RemoteReverse(wrong);
        assert!(beta.apply(DesignationId(Identity(id)), &what, &source).is_err(), "{what:?}");
    }
    let stranger = Who::Peer { array: ArrayNumber(9), from: "x".into() };
    let what = Designation::RemoteReverse(right.clone());
    assert!(beta.apply(DesignationId(Identity(9)), &what, &stranger).is_err(), "it is not the source");
    assert_eq!(step(&beta), None);
    beta.apply(DesignationId(Identity(10)), &what, &source).unwrap();
    assert!(matches!(g1(&beta).reversal.unwrap().step, ReversalStep::TakingOver(told) if told == right));
    // An answer about another group than the one that was handed over changes nothing.
    super::super::reverse::accepted(
        &mut alpha.tables,
        &RemoteReversal { last: UpdateNumber(1), ..right },
        GroupNumber(1),
    );
    assert_eq!(step(&alpha).as_deref(), Some("handed-over"));
}

/// A second group between the same two arrays, with one pair.
fn second_group(array: &mut Array) {
    let (mut group, mut pair) = (g1(array), array.tables.pairs.get(&number(array, "p1")).unwrap().clone());
    (group.number, group.name) = (GroupNumber(9), "g2".parse().unwrap());
    (pair.number, pair.name, pair.group) = (PairNumber(99), "q1".parse().unwrap(), GroupNumber(9));
    array.tables.groups.put(group);
    array.tables.pairs.put(pair);
}

fn marks_on_their_way(array: &Array) -> Vec<String> {
    let pair = |designation: &Designation| match designation {
        Designation::ReverseMarks { pair, .. } => Some(pair.to_string()),
        _ => None,
    };
    array.tables.forwards.iter().filter_map(|forward| pair(&forward.designation)).collect()
}

#[test]
fn a_cancelled_reversal_calls_back_its_own_marks_and_nobody_elses() {
    let (mut alpha, _) = normal();
    alpha.say(reverse("beta")).unwrap();
    second_group(&mut alpha);
    let p1 = number(&alpha, "p1");
    let mut ids = 500;
    let mut identity = || {
        ids += 1;
        Identity(ids)
    };
    let group = g1(&alpha).number;
    alpha.tables.reversal_told(group, &[(p1, vec![(0, 1)])], &mut identity);
    let marks = |pair: &str| Designation::ReverseMarks { pair: pair.parse().unwrap(), runs: vec![(0, 1)] };
    alpha.tables.forward(&"beta".parse().unwrap(), DesignationId(Identity(600)), marks("q1"));
    assert_eq!(marks_on_their_way(&alpha), ["p1", "q1"]);
    alpha.say(cancel()).unwrap();
    assert_eq!(marks_on_their_way(&alpha), ["q1"]);
}

/// The group was settling when its reversal was cancelled.
#[test]
fn marks_of_a_cancelled_reversal_are_not_told() {
    let (mut alpha, _) = normal();
    alpha.say(reverse("beta")).unwrap();
    alpha.say(cancel()).unwrap();
    let (group, p1) = (g1(&alpha).number, number(&alpha, "p1"));
    alpha.tables.reversal_told(group, &[(p1, vec![(0, 1)])], &mut || Identity(500));
    assert_eq!(marks_on_their_way(&alpha), [""; 0]);
    assert_eq!(step(&alpha), None);
}

#[test]
fn a_group_that_was_turned_round_a_thousand_times_can_be_turned_round_again() {
    let (mut alpha, mut beta) = normal();
    let group = g1(&alpha).number;
    let row = alpha.tables.groups.edit(&group).unwrap();
    row.generations = (1..=1_000)
        .map(|counter| Generation { counter, array: ArrayNumber(1), first: UpdateNumber(counter.min(41)) })
        .collect();
    handed_over(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let here = g1(&beta).number;
    beta.tables.taken_over(here, &[], &mut || Identity(900));
    let kept = g1(&beta).generations;
    assert_eq!((kept.len(), kept[0].counter, kept.last().unwrap().counter), (1_000, 1, 1_001));
}

/// As its source the other array would refuse them for ever, and what is on its way keeps a group from going back.
#[test]
fn a_new_primary_tells_the_old_one_nothing_more_as_its_source() {
    let (mut alpha, mut beta) = normal();
    let (group, volume): (GroupName, VolumeName) = ("g1".parse().unwrap(), "jnl".parse().unwrap());
    handed_over(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let to = "alpha".parse().unwrap();
    let other: GroupName = "g2".parse().unwrap();
    for (id, what) in (700..).zip([
        Designation::LeaveJournal { group: group.clone(), volume: volume.clone() },
        Designation::JournalLost { group },
        Designation::LeaveJournal { group: other, volume },
    ]) {
        beta.tables.forward(&to, DesignationId(Identity(id)), what);
    }
    let here = g1(&beta).number;
    beta.tables.taken_over(here, &[], &mut || Identity(900));
    let left: Vec<u128> = beta.tables.forwards_to(&to).map(|forward| forward.id.0.0).collect();
    assert_eq!(left, [702], "of another group");
}

/// Its journal failed between the promise and its keeping.
#[test]
fn a_new_primary_without_a_journal_has_pairs_that_failed() {
    let (mut alpha, mut beta) = normal();
    handed_over(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let here = g1(&beta).number;
    beta.tables.groups.edit(&here).unwrap().state = GroupState::Abnormal;
    beta.tables.taken_over(here, &[], &mut || Identity(900));
    for name in ["p1", "p2"] {
        let pair = beta.tables.pairs.get(&number(&beta, name)).unwrap();
        assert_eq!((pair.state, pair.primary.array), (PairState::Abnormal, ArrayNumber(2)));
    }
}

/// A second copy of the message comes over a session that was held up, when the primary's hosts write again.
#[test]
fn what_was_refused_once_is_never_promised_later() {
    let (mut alpha, mut beta) = normal();
    let what = Designation::RemoteReverse(handed_over(&mut alpha));
    let source = Who::Peer { array: alpha.tables.meta().number, from: "x".into() };
    let id = DesignationId(Identity(77));
    beta.tables.reversal_refused(id, &what, &Refusal::conflict("not just now"));
    assert_eq!(beta.apply(id, &what, &source), Err(Refusal::conflict("not just now")));
    assert_eq!(step(&beta), None);
    // Not even thousands of other answers later.
    let (link, schedule) = ("alpha".parse().unwrap(), Default::default());
    let other = Designation::SetSchedule { link, group: "g1".parse().unwrap(), schedule };
    for _ in 0..4_200 {
        beta.say(other.clone()).unwrap();
    }
    assert!(beta.apply(id, &what, &source).is_err());
    // And no promise is taken back.
    let id = DesignationId(Identity(78));
    let promise = beta.apply(id, &what, &source);
    assert!(promise.is_ok());
    beta.tables.reversal_refused(id, &what, &Refusal::conflict("too late"));
    assert_eq!(beta.apply(id, &what, &source), promise);
}

/// What the other array could not write may be durable there all the same.
#[test]
fn a_store_that_failed_is_no_answer_to_a_reversal() {
    let (mut alpha, _) = normal();
    handed_over(&mut alpha);
    let sequence = alpha.tables.forwards.iter().next().unwrap().sequence;
    alpha.tables.delivered(sequence, &Err(Refusal::Store("disk full".to_owned())));
    assert_eq!(step(&alpha).as_deref(), Some("handed-over"));
    assert_eq!(access(&alpha, "data1"), HostAccess::None);
    assert_eq!(alpha.tables.forwards.len(), 1, "it is asked for again");
}

/// Writes of its hosts would be in no journal and in no map, and the pairs would be `normal` all the same.
#[test]
fn a_new_primary_waits_for_its_journal_before_hosts_use_it() {
    let (mut alpha, mut beta) = normal();
    assert!(alpha.tables.needs_no_journal(&GroupRecord { number: GroupNumber(9), ..g1(&alpha) }), "no pair");
    handed_over(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let here = g1(&beta).number;
    beta.tables.taken_over(here, &[], &mut || Identity(900));
    assert!(g1(&beta).segments.is_empty());
    assert!(!beta.tables.needs_no_journal(&g1(&beta)));
    for name in ["p1", "p2"] {
        beta.tables.pair_event(number(&beta, name), PairEvent::Fail, None).unwrap();
    }
    assert!(beta.tables.needs_no_journal(&g1(&beta)), "everything counts as different");
}

#[test]
fn nothing_that_was_said_at_an_auxiliary_is_lost_when_it_becomes_the_primary() {
    let (mut alpha, mut beta) = normal();
    let which = crate::volume::designation::Which::Pair("p1".parse().unwrap());
    beta.say(Designation::DeletePairs { group: "g1".parse().unwrap(), which }).unwrap();
    handed_over(&mut alpha);
    deliver(&mut alpha, &mut beta, "beta");
    assert_eq!((step(&alpha), step(&beta)), (None, None), "refused, and hosts are let back in");
    assert_eq!(beta.tables.forwards.len(), 1);
}
