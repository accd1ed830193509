//! Groups that are turned round (decision 17): every step of the tables, said twice, refused, given up.

use super::written::{normal, number};
use super::*;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::GroupNumber;
use crate::volume::reversal::{Manner, RemoteReversal, ReversalStep};

fn g1(array: &Array) -> GroupRecord {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().clone()
}

fn reverse(to: &str) -> Designation {
    Designation::ReverseGroup { group: "g1".parse().unwrap(), to: to.parse().unwrap() }
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
    alpha.tables.handed_over(number, UpdateNumber(40), Identity(77));
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
    beta.tables.taken_over(here);
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
    beta.tables.handed_over(here, UpdateNumber(60), Identity(78));
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    alpha.tables.taken_over(there);
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
    refused(&mut alpha, "also read over");
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
