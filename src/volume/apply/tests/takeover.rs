//! Takeover, split brain and the way back (decision 19): every step of the tables, said twice, out of order, by the wrong one.

use super::written::{normal, number};
use super::*;
use crate::volume::group::GroupRecord;
use crate::volume::name::PairNumber;
use crate::volume::pair::Asked;
use crate::volume::takeover::{Branch, RemoteTakeover, Takeover};
use std::sync::atomic::{AtomicU64, Ordering};

fn g1(array: &Array) -> GroupRecord {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().clone()
}

fn take_over() -> Designation {
    Designation::TakeOverGroup { group: "g1".parse().unwrap() }
}

fn fail_back(to: &str) -> Designation {
    Designation::FailBackGroup { group: "g1".parse().unwrap(), to: to.parse().unwrap() }
}

fn state(array: &Array) -> String {
    g1(array).takeover.map(|takeover| takeover.to_string()).unwrap_or_default()
}

fn access(array: &Array, name: &str) -> HostAccess {
    array.tables.host_access(array.tables.volume_named(&name.parse().unwrap()).unwrap().number)
}

/// Never the same twice.
fn ids() -> impl FnMut() -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    || Identity(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// What the array at work does for a takeover as of update 40.
fn turn(beta: &mut Array) {
    let group = g1(beta).number;
    beta.tables.primary_reached(group);
    beta.tables.takeover_done(group, UpdateNumber(40), &mut ids()).unwrap();
}

/// What the array at work does when it was overtaken: 3 updates are only there.
fn count(alpha: &mut Array) {
    let group = g1(alpha).number;
    let pairs: Vec<PairNumber> = alpha.tables.pairs_of_group(group).map(|pair| pair.number).collect();
    let branch = Branch { first: UpdateNumber(41), last: UpdateNumber(43), bytes: 4_096 };
    alpha.tables.branch_counted(group, &pairs, branch, &mut ids()).unwrap();
}

fn taken() -> (Array, Array) {
    let (alpha, mut beta) = normal();
    beta.say(take_over()).unwrap();
    assert_eq!(state(&beta), "reaching");
    assert_eq!(access(&beta, "copy1"), HostAccess::None, "not before everything is one image");
    turn(&mut beta);
    (alpha, beta)
}

fn pair_states(array: &Array) -> Vec<PairState> {
    array.tables.pairs.iter().map(|pair| pair.state).collect()
}

#[test]
fn an_auxiliary_that_takes_over_is_the_primary_in_a_generation_of_its_own_with_suspended_pairs() {
    let (alpha, mut beta) = taken();
    let row = g1(&beta);
    assert_eq!((state(&beta).as_str(), &row.role), ("taken", &GroupRole::Primary));
    let newest = row.generations.last().unwrap();
    assert_eq!((newest.array, newest.first), (ArrayNumber(2), UpdateNumber(41)));
    assert!(newest.counter > g1(&alpha).generations.last().unwrap().counter);
    assert_eq!(access(&beta, "copy1"), HostAccess::ReadWrite);
    assert!(pair_states(&beta).iter().all(|state| *state == PairState::Suspended));
    assert_eq!(beta.say(take_over()), Ok(Outcome::Done), "said once more it changes nothing");
    assert_eq!(g1(&beta), row);
    // Nobody copies over what the old primary has before it has spoken and its loss is named.
    let resync = Designation::ResyncPairs {
        group: "g1".parse().unwrap(),
        which: crate::volume::designation::Which::All,
        image: crate::volume::designation::ImageWish::Keep,
    };
    assert!(beta.say(resync).unwrap_err().to_string().contains("takeover"));
    assert!(beta.say(fail_back("alpha")).unwrap_err().to_string().contains("has not said"));
}

#[test]
fn an_old_primary_is_shut_on_first_contact_tells_what_only_it_has_and_yields_when_it_is_named() {
    let (mut alpha, mut beta) = taken();
    assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite, "it does not know yet");
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!(state(&alpha), "overtaken");
    assert_eq!(access(&alpha, "data1"), HostAccess::None);
    let start = Designation::StartGroup { group: "g1".parse().unwrap() };
    assert!(alpha.say(start).unwrap_err().to_string().contains("overtaken"));
    assert!(alpha.say(fail_back("beta")).unwrap_err().to_string().contains("has taken over"));
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let Some(Takeover::Taken(known)) = g1(&beta).takeover else { panic!("it took over") };
    assert_eq!(known.branch.map(|branch| branch.updates()), Some(3));

    beta.say(fail_back("alpha")).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("yielding", ""));
    assert_eq!(access(&alpha, "data1"), HostAccess::None);
    assert!(beta.tables.pairs.iter().all(|pair| pair.control.asked == Some(Asked::Resync)));
    let (group, p1) = (g1(&alpha).number, number(&alpha, "p1"));
    alpha.tables.yielded(group, &[(p1, vec![(0, 65_536)])], &mut ids());
    let row = g1(&alpha);
    let there = g1(&beta).number;
    assert!(matches!(row.role, GroupRole::Auxiliary { remote: Some(remote), .. } if remote == there));
    assert_eq!((row.takeover, row.reversal, &row.generations), (None, None, &g1(&beta).generations));
    let pair = alpha.tables.pairs.get(&p1).unwrap();
    assert_eq!((pair.primary.array, pair.auxiliary.array), (ArrayNumber(2), ArrayNumber(1)));
    assert!(
        pair.control.is_image && pair.control.is_written,
        "its branch is an image, and its marks are told"
    );
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(g1(&beta).remote_journals.len(), 1, "where its journal is, it says too");
}

#[test]
fn a_primary_that_was_only_fenced_or_overtaken_goes_on_by_command_in_a_newer_generation() {
    let (mut alpha, mut beta) = taken();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("retaking", HostAccess::None));
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite);
    let newest = *g1(&alpha).generations.last().unwrap();
    assert!(newest.counter > g1(&beta).generations.last().unwrap().counter);
    // Both took over: each hears it from the other, and neither is shut.
    let _ = deliver(&mut alpha, &mut beta, "beta");
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("split-brain", "split-brain"));
    assert_eq!(access(&beta, "copy1"), HostAccess::ReadWrite);
}

#[test]
fn who_cannot_have_taken_over_is_not_believed() {
    let (mut alpha, beta) = normal();
    let peer = Who::Peer { array: ArrayNumber(2), from: "x".into() };
    let mut say = |generations, is_complete| {
        let told = RemoteTakeover { group: "g1".parse().unwrap(), generations, is_complete };
        alpha.apply(DesignationId(ids()()), &Designation::RemoteTakeover(told), &peer)
    };
    let own = g1(&beta).generations;
    let is_refused = |answer: Result<Outcome, Refusal>| assert!(answer.is_err());
    is_refused(say(own.clone(), true)); // No newer generation.
    is_refused(say(Vec::new(), true));
    let mut other = own.clone();
    other[0].array = ArrayNumber(7);
    is_refused(say(other, true)); // Nothing in common.
    let mut wild = own.clone();
    wild.push(crate::volume::group::Generation { counter: u64::MAX, ..own[0] });
    is_refused(say(wild, true));
    is_refused(say(vec![own[0]; 5_000], false));
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("", HostAccess::ReadWrite));
}

#[test]
fn a_reversal_whose_new_primary_is_gone_is_ended_by_a_takeover_at_the_old_one() {
    let (mut alpha, _) = normal();
    let reverse = Designation::ReverseGroup {
        group: "g1".parse().unwrap(),
        to: "beta".parse().unwrap(),
        wait: crate::volume::takeover::OTHERS_WAIT,
    };
    alpha.say(reverse).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.handed_over(group, UpdateNumber(40), &std::collections::BTreeMap::new(), Identity(77));
    alpha.say(take_over()).unwrap();
    assert_eq!((state(&alpha).as_str(), g1(&alpha).reversal), ("retaking", None));
    let is_promise = |what: &Designation| matches!(what, Designation::RemoteReverse(_));
    assert!(!alpha.tables.forwards.iter().any(|forward| is_promise(&forward.designation)));
    alpha.tables.retaken(group, UpdateNumber(40), &mut ids());
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("taken", HostAccess::ReadWrite));
}
