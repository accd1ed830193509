//! Takeovers that come to nothing, and messages of them that come late (decision 19): nobody stays shut out by one, and none of them is finished
//! when its primary has been taken back.

use super::onward::{link, three};
use super::takeover::{access, count, g1, ids, state, take_over};
use super::written::normal;
use super::*;
use crate::volume::apply::taken::Journal;
use crate::volume::group::Generation;
use crate::volume::rejoin::RemoteRejoin;
use crate::volume::takeover::{RemoteTakeover, Takeover};

/// What an array says to its primary that is about to take over.
fn fence(from: &Array) -> RemoteTakeover {
    RemoteTakeover {
        group: "g1".parse().unwrap(),
        generations: g1(from).generations,
        knows: g1(from).largest_counter(),
        is_complete: false,
        attempt: g1(from).attempts,
    }
}

fn hears(to: &mut Array, from: u32, what: Designation) -> Result<Outcome, Refusal> {
    let who = Who::Peer { array: ArrayNumber(from), from: "test".into() };
    to.apply(DesignationId(ids()()), &what, &who)
}

fn gives_up(array: &mut Array) {
    let group = g1(array).number;
    array.tables.takeover_given_up(group, ids()());
}

/// As the array at work does it, as of update 40.
fn turns(array: &mut Array) -> Result<(), Refusal> {
    let group = g1(array).number;
    let (last, from) = (UpdateNumber(40), UpdateNumber(41));
    array.tables.takeover_done(group, last, from, Journal::BeginsAnew, &mut ids())
}

#[test]
fn hosts_are_let_in_again_when_the_takeover_that_has_shut_them_out_is_given_up() {
    let (mut alpha, mut beta) = normal();
    beta.say(take_over()).unwrap();
    let early = Designation::RemoteTakeover(fence(&beta));
    hears(&mut alpha, 2, early.clone()).unwrap();
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("fenced", HostAccess::None));
    gives_up(&mut beta);
    let before_it_is_heard = beta.tables.clone();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("", HostAccess::ReadWrite));
    let refusal = hears(&mut alpha, 2, early).unwrap_err().to_string();
    assert!(refusal.contains("any more"), "a copy of that message, however late: {refusal}");
    assert_eq!(state(&alpha), "");

    // The next attempt is another one, and what is said of the first does not end it.
    beta.say(take_over()).unwrap();
    let next = Designation::RemoteTakeover(fence(&beta));
    hears(&mut alpha, 2, next).unwrap();
    assert_eq!(state(&alpha), "fenced");
    let mut late = Array { tables: before_it_is_heard, ids: 1 };
    assert_eq!(deliver(&mut late, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("fenced", HostAccess::None));
    let other = Designation::TakeoverGivenUp { group: "g1".parse().unwrap(), attempt: 99 };
    assert!(hears(&mut alpha, 7, other).is_err(), "nobody else ends it");
    assert_eq!(state(&alpha), "fenced");
}

/// Said twice it stands in the list once; a takeover that is done leaves nothing of it.
#[test]
fn an_attempt_that_was_given_up_is_said_until_the_next_one_is_done() {
    let (_, mut beta) = normal();
    let said = |array: &Array| {
        let is_it = |what: &Designation| matches!(what, Designation::TakeoverGivenUp { .. });
        array.tables.forwards.iter().filter(|one| is_it(&one.designation)).count()
    };
    for _ in 0..2 {
        beta.say(take_over()).unwrap();
        gives_up(&mut beta);
        assert_eq!(said(&beta), 1);
    }
    beta.say(take_over()).unwrap();
    let group = g1(&beta).number;
    beta.tables.primary_reached(group);
    turns(&mut beta).unwrap();
    assert_eq!((said(&beta), state(&beta).as_str()), (0, "taken"));
}

/// Alpha was shut by beta's takeover, which hangs in the middle; alpha's operator takes it back, and its hosts go on.
fn taken_back_in_the_middle() -> (Array, Array) {
    let (mut alpha, mut beta) = normal();
    beta.say(take_over()).unwrap();
    hears(&mut alpha, 2, Designation::RemoteTakeover(fence(&beta))).unwrap();
    let (here, there) = (g1(&alpha).number, g1(&beta).number);
    beta.tables.primary_reached(there);
    alpha.say(take_over()).unwrap();
    count(&mut alpha);
    alpha.tables.retaken(here, UpdateNumber(43), &mut ids());
    (alpha, beta)
}

#[test]
fn a_takeover_that_hangs_is_given_up_when_its_primary_has_been_taken_back() {
    let (mut alpha, mut beta) = taken_back_in_the_middle();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(state(&beta), "");
    assert!(turns(&mut beta).is_err(), "whatever was on its way to its end");
    assert!(matches!(g1(&beta).role, GroupRole::Auxiliary { .. }));
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    let Some(Takeover::Taken(taken)) = g1(&alpha).takeover else { panic!("{}", state(&alpha)) };
    assert_eq!(taken.branch.map(|branch| branch.updates()), Some(0), "beta has nothing of its own");
}

/// What has gone back to an image, or may, is no copy that could follow again: that takeover is done.
#[test]
fn a_takeover_that_goes_back_to_an_image_is_not_given_up_in_the_middle() {
    let (mut alpha, mut beta) = taken_back_in_the_middle();
    let pair = beta.tables.pairs.iter().next().unwrap().number;
    beta.tables.pairs.edit(&pair).unwrap().control.image = Some(UpdateNumber(12));
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
    assert_eq!(state(&beta), "restoring");
}

/// A start asks the primary once more: it may have been taken back since.
#[test]
fn a_takeover_that_was_cut_off_begins_with_its_primary_again() {
    let (alpha, mut beta) = taken_back_in_the_middle();
    assert_eq!(beta.tables.takeovers_cut_off(), [g1(&beta).number]);
    beta.tables.takeovers_ask_again();
    assert_eq!(state(&beta), "reaching");
    let mut alpha = alpha;
    let refusal = hears(&mut alpha, 2, Designation::RemoteTakeover(fence(&beta))).unwrap_err().to_string();
    assert!(refusal.contains("taken over by this array"), "{refusal}");
    // Not if it has gone back to an image already.
    let group = g1(&beta).number;
    beta.tables.primary_reached(group);
    beta.tables.group_event(group, GroupEvent::Suspend, Some("gone back".into())).unwrap();
    assert_eq!(beta.tables.takeovers_cut_off(), []);
}

/// An array with as many generations as are kept could never say again that it has taken over.
#[test]
fn who_takes_itself_back_keeps_no_more_generations_than_are_told() {
    let (mut alpha, beta) = normal();
    let first = g1(&alpha).generations[0];
    let later = |index: u64| Generation {
        counter: first.counter + index,
        first: UpdateNumber(first.first.0 + index),
        ..first
    };
    let most = u64::try_from(super::super::reverse::GENERATIONS_MAX).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.groups.edit(&group).unwrap().generations = (0..most).map(later).collect();
    hears(&mut alpha, 2, Designation::RemoteTakeover(fence(&beta))).unwrap();
    alpha.say(take_over()).unwrap();
    alpha.tables.retaken(group, UpdateNumber(2_000), &mut ids());
    let kept = g1(&alpha).generations;
    assert_eq!((kept.len() as u64, kept[0]), (most, first));
    assert_eq!(kept.last().unwrap().first, UpdateNumber(2_001));
}

fn rejoin(from: &Array, former: u32, by: Option<u32>) -> Designation {
    Designation::RemoteRejoin(RemoteRejoin {
        group: "g1".parse().unwrap(),
        former: ArrayNumber(former),
        generations: g1(from).generations,
        by: by.map(ArrayNumber),
        asks: false,
        knows: 0,
    })
}

/// Alpha was overtaken by beta and has taken itself back; what beta said to gamma before that comes last.
#[test]
fn a_reader_that_stays_with_who_took_itself_back_believes_no_earlier_takeover() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    beta.say(take_over()).unwrap();
    let group = g1(&beta).number;
    beta.tables.primary_reached(group);
    turns(&mut beta).unwrap();
    let early = rejoin(&beta, 1, None);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let here = g1(&alpha).number;
    alpha.tables.retaken(here, UpdateNumber(43), &mut ids());
    hears(&mut gamma, 1, rejoin(&alpha, 1, None)).unwrap();
    let refusal = hears(&mut gamma, 2, early).unwrap_err().to_string();
    assert!(refusal.contains("newer"), "{refusal}");
    assert_eq!(state(&gamma), "");
}

/// Gamma has no link to beta: alpha's branch is read no further all the same, and gamma goes on when there is one.
#[test]
fn a_reader_without_a_link_to_the_new_primary_stops_and_goes_on_when_it_has_one() {
    let (alpha, mut beta, mut gamma) = three(true);
    gamma.say(Designation::DeleteLink { link: "beta".parse().unwrap() }).unwrap();
    beta.say(take_over()).unwrap();
    let there = g1(&beta).number;
    beta.tables.primary_reached(there);
    turns(&mut beta).unwrap();
    drop(alpha);
    hears(&mut gamma, 1, rejoin(&beta, 1, Some(2))).unwrap();
    let moving = |gamma: &Array| match g1(gamma).takeover {
        Some(Takeover::Moving(moving)) => moving,
        other => panic!("{other:?}"),
    };
    assert_eq!((moving(&gamma).array, moving(&gamma).link), (ArrayNumber(2), None));
    let told = g1(&gamma).takeover.unwrap().told().unwrap();
    assert!(told.contains("array 2 (to which there is no link)"), "{told}");
    let group = g1(&gamma).number;
    gamma.tables.asks_to_join(group, crate::volume::rejoin::Has::of(UpdateNumber(40)), ids()());
    assert_eq!((moving(&gamma).has, gamma.tables.forwards.iter().count()), (None, 0), "whom could it ask");
    gamma.say(link("beta", 2)).unwrap();
    gamma.tables.asks_to_join(group, crate::volume::rejoin::Has::of(UpdateNumber(40)), ids()());
    assert_eq!(moving(&gamma).has, Some(UpdateNumber(40)));
    let asked = gamma
        .tables
        .forwards_to(&"beta".parse().unwrap())
        .any(|one| matches!(&one.designation, Designation::JoinOnward(told) if told.has == UpdateNumber(40)));
    assert!(asked);
}

/// Gamma is to move to beta, and has asked; or beta has taken over and has had no link to gamma so far.
fn moving_to_beta(is_linked: bool) -> (Array, Array) {
    let (_, mut beta, mut gamma) = three(true);
    if !is_linked {
        beta.say(Designation::DeleteLink { link: "gamma".parse().unwrap() }).unwrap();
    }
    beta.say(take_over()).unwrap();
    let there = g1(&beta).number;
    beta.tables.primary_reached(there);
    turns(&mut beta).unwrap();
    if is_linked {
        assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
        let group = g1(&gamma).number;
        gamma.tables.asks_to_join(group, crate::volume::rejoin::Has::of(UpdateNumber(40)), ids()());
    }
    (beta, gamma)
}

fn moving(gamma: &Array) -> crate::volume::rejoin::Moving {
    match g1(gamma).takeover {
        Some(Takeover::Moving(moving)) => moving,
        other => panic!("{other:?}"),
    }
}

/// What it had asked went with the link, and it once waited for an answer for ever.
#[test]
fn a_reader_whose_link_to_the_new_primary_is_made_again_asks_again() {
    let (_, mut gamma) = moving_to_beta(true);
    assert_eq!(moving(&gamma).has, Some(UpdateNumber(40)));
    gamma.say(Designation::DeleteLink { link: "beta".parse().unwrap() }).unwrap();
    assert_eq!((moving(&gamma).has, moving(&gamma).link), (None, None), "nothing is said there");
    gamma.say(link("beta", 2)).unwrap();
    let group = g1(&gamma).number;
    gamma.tables.asks_to_join(group, crate::volume::rejoin::Has::of(UpdateNumber(40)), ids()());
    assert_eq!(moving(&gamma).has, Some(UpdateNumber(40)));
    assert_eq!(gamma.tables.forwards_to(&"beta".parse().unwrap()).count(), 1);
}

/// Only the links that there were at the takeover once brought the news.
#[test]
fn an_array_that_is_linked_behind_a_takeover_hears_of_it() {
    let (mut beta, mut gamma) = moving_to_beta(false);
    let news = |beta: &Array| beta.tables.forwards_to(&"gamma".parse().unwrap()).count();
    assert_eq!((news(&beta), state(&gamma).as_str()), (0, ""));
    beta.say(link("gamma", 3)).unwrap();
    assert_eq!(news(&beta), 1);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(moving(&gamma).array, ArrayNumber(2));

    // The link goes with what is on its way there, and comes again.
    let (mut beta, mut gamma) = moving_to_beta(false);
    beta.say(link("gamma", 3)).unwrap();
    beta.say(Designation::DeleteLink { link: "gamma".parse().unwrap() }).unwrap();
    beta.say(link("gamma", 3)).unwrap();
    assert_eq!(news(&beta), 1);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(moving(&gamma).array, ArrayNumber(2));
}

/// An array that took itself back has no readers but its own: whoever reads the other one stays there.
#[test]
fn who_took_itself_back_says_nothing_of_that_to_an_array_that_reads_the_other_one() {
    let (mut alpha, mut beta, _) = three(true);
    beta.say(take_over()).unwrap();
    let there = g1(&beta).number;
    beta.tables.primary_reached(there);
    turns(&mut beta).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let here = g1(&alpha).number;
    alpha.tables.retaken(here, UpdateNumber(43), &mut ids());
    alpha.say(link("delta", 4)).unwrap();
    let delta = "delta".parse().unwrap();
    for one in alpha.tables.forwards_to(&delta) {
        let Designation::RemoteRejoin(told) = &one.designation else { panic!("{:?}", one.designation) };
        assert_eq!(told.former, ArrayNumber(1), "its own readers are meant");
    }
}
