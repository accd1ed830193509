//! A third array beside two that have both taken over, or of which one is about to (decision 19): it finds its way to the one that stays, and what was
//! decided before is not forgotten.

use super::onward::{link, three};
use super::takeover::{access, count, fail_back, g1, ids, overtaken, state, take_over};
use super::written::normal;
use super::*;
use crate::volume::apply::taken::Journal;
use crate::volume::group::Generation;
use crate::volume::pair::{Asked, PairRecord};
use crate::volume::rejoin::{Ahead, Has, RemoteRejoin};
use crate::volume::takeover::{Branch, RemoteTakeover, Takeover, parting};

/// Gamma reads alpha, which took over from beta; beta takes itself back, and says so to whoever read it once. Alpha is no former primary by that: gamma went over to
/// beta, and hung between the two when alpha was named to stay.
#[test]
fn a_reader_stays_with_its_primary_when_the_one_that_this_has_overtaken_takes_itself_back() {
    let (_, _, mut gamma) = three(true);
    let first = g1(&gamma).generations[0];
    let of =
        |counter, array, first| Generation { counter, array: ArrayNumber(array), first: UpdateNumber(first) };
    let (second, own) = (of(first.counter + 1, 2, 9), of(first.counter + 2, 1, 11));
    let group = g1(&gamma).number;
    gamma.tables.groups.edit(&group).unwrap().generations = vec![first, second, own];
    let hears = |gamma: &mut Array, generations: Vec<Generation>| {
        let (group, former) = ("g1".parse().unwrap(), ArrayNumber(2));
        let told = RemoteRejoin { group, former, generations, by: None, asks: false, knows: 0 };
        let who = Who::Peer { array: ArrayNumber(2), from: "test".into() };
        gamma.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &who).unwrap();
        state(gamma)
    };
    assert_eq!(hears(&mut gamma, vec![first, second, of(first.counter + 3, 2, 11)]), "");
    // Behind alpha's own time as the primary it is.
    assert_eq!(hears(&mut gamma, vec![first, second, own, of(first.counter + 3, 2, 11)]), "moving");
}

/// Alpha and beta have both taken over, gamma is about to go on from beta, and alpha is named to stay: when gamma asks beta, that is a copy of alpha.
#[test]
fn a_reader_that_asks_a_copy_to_be_taken_on_hears_whose_copy_that_is() {
    let asks = |mut gamma: Array, alphas: Vec<Generation>, is_late: bool| {
        let of = |counter, array, first| Generation {
            counter,
            array: ArrayNumber(array),
            first: UpdateNumber(first),
        };
        let first = alphas[0];
        let told = RemoteRejoin {
            group: "g1".parse().unwrap(),
            former: ArrayNumber(1),
            generations: vec![first, of(first.counter + 2, 2, 41)],
            by: None,
            asks: false,
            knows: 0,
        };
        let by_beta = Who::Peer { array: ArrayNumber(2), from: "test".into() };
        gamma.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &by_beta).unwrap();
        assert_eq!(state(&gamma), "moving");
        let group = g1(&gamma).number;
        gamma.tables.asks_to_join(group, Has::of(UpdateNumber(40)), ids()());
        let asked = |gamma: &Array| {
            gamma.tables.forwards.iter().find_map(|forward| match &forward.designation {
                Designation::JoinOnward(told) => Some((forward.link.to_string(), told.clone())),
                _ => None,
            })
        };
        // Beta, as a copy of alpha once more.
        let (_, mut beta, _) = three(true);
        let there = g1(&beta).number;
        let named = if is_late { 1 } else { first.counter + 9 };
        let edit = beta.tables.groups.edit(&there).unwrap();
        (edit.generations, edit.named_counter) = (alphas, named);
        if is_late {
            edit.generations.truncate(1);
        }
        let (_, told) = asked(&gamma).expect("beta is asked");
        let (link, says) = beta.tables.whose_copy_it_asks(&told, ArrayNumber(3)).expect("it is told");
        beta.tables.forward(&link, DesignationId(ids()()), says);
        assert!(beta.tables.whose_copy_it_asks(&told, ArrayNumber(3)).is_none(), "it is on its way");
        assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
        (state(&gamma), asked(&gamma).is_some())
    };
    let (alpha, _, gamma) = three(true);
    let first = g1(&alpha).generations[0];
    let retaken = Generation { counter: first.counter + 1, array: ArrayNumber(1), first: UpdateNumber(41) };
    let copy = |gamma: &Array| Array { tables: gamma.tables.clone(), ids: 1 };
    assert_eq!(asks(copy(&gamma), vec![first, retaken], false), (String::new(), false), "alpha has stayed");
    assert_eq!(asks(copy(&gamma), vec![first], false), (String::new(), false));
    assert_eq!(
        asks(copy(&gamma), vec![first], true),
        ("moving".to_owned(), true),
        "said before beta took over"
    );
    // Alpha was a copy in between, and is asked in its turn.
    let by_beta = Generation { counter: first.counter + 2, array: ArrayNumber(2), first: UpdateNumber(41) };
    let again = Generation { counter: first.counter + 3, array: ArrayNumber(1), first: UpdateNumber(50) };
    assert_eq!(asks(copy(&gamma), vec![first, by_beta, again], false), ("moving".to_owned(), false));
}

/// As the array at work does it, as of this update.
fn takes_over(array: &mut Array, last: u64) {
    array.say(take_over()).unwrap();
    let group = g1(array).number;
    array.tables.primary_reached(group);
    let from = UpdateNumber(last + 1);
    array.tables.takeover_done(group, UpdateNumber(last), from, Journal::BeginsAnew, &mut ids()).unwrap();
}

/// What an array says that has taken over, or is about to.
fn says_takeover(from: &Array, to: &mut Array, is_complete: bool) -> Result<Outcome, Refusal> {
    let told = RemoteTakeover {
        group: "g1".parse().unwrap(),
        generations: g1(from).generations,
        knows: g1(from).largest_counter(),
        is_complete,
        attempt: g1(from).attempts,
    };
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    to.apply(DesignationId(ids()()), &Designation::RemoteTakeover(told), &who)
}

/// What an array at work says that hears that another one took over as well.
fn tells_what_it_has(array: &mut Array) {
    let Some(Takeover::Taken(taken)) = g1(array).takeover else { panic!("it did not take over") };
    let (ours, theirs) = (g1(array).generations, taken.rival.expect("there is another one"));
    let (first, against) = parting(&ours, &theirs, UpdateNumber(41)).unwrap();
    let branch = Branch { of: *ours.last().unwrap(), against, first, last: UpdateNumber(50), bytes: 4_096 };
    let group = g1(array).number;
    array.tables.rival_told(group, branch, &mut ids());
}

/// Beta took over, alpha took itself back, and gamma reads alpha, which is named as the loser: gamma kept it from that for ever.
#[test]
fn a_reader_of_the_one_that_is_to_lose_hears_who_stays() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    for array in [&mut alpha, &mut beta] {
        tells_what_it_has(array);
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta") + deliver(&mut beta, &mut alpha, "alpha"), 0);
    let _ = deliver(&mut beta, &mut gamma, "gamma");
    assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0);
    assert_eq!(
        (state(&alpha).as_str(), state(&beta).as_str(), state(&gamma).as_str()),
        ("split-brain", "split-brain", "")
    );
    beta.say(fail_back("alpha")).unwrap();
    let told = beta.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::RemoteFailback(told) => Some(told.clone()),
        _ => None,
    });
    let told = told.expect("alpha is named");
    let by_beta = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    let what = Designation::RemoteFailback(told.clone());
    let refusal = alpha.apply(DesignationId(ids()()), &what, &by_beta).unwrap_err().to_string();
    assert!(refusal.contains("also read over gamma"), "{refusal}");
    // Not for one that names another branch.
    let mut other = told.clone();
    other.branch.last = UpdateNumber(49);
    alpha.tables.tell_readers_who_stays(&other, ArrayNumber(2), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0);
    assert_eq!(state(&gamma), "");
    for _ in 0..2 {
        alpha.tables.tell_readers_who_stays(&told, ArrayNumber(2), &mut ids());
    }
    let to_gamma = "gamma".parse().unwrap();
    assert_eq!(alpha.tables.forwards_to(&to_gamma).count(), 1);
    assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0);
    let Some(Takeover::Moving(moving)) = g1(&gamma).takeover else { panic!("it goes on from beta") };
    assert_eq!(moving.array, ArrayNumber(2));
    let left = Designation::LeftOnward { group: "g1".parse().unwrap() };
    let by_gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    alpha.apply(DesignationId(ids()()), &left, &by_gamma).unwrap();
    alpha.apply(DesignationId(ids()()), &what, &by_beta).unwrap();
    assert_eq!(state(&alpha), "yielding");
}

/// Gamma went over to beta, alpha took itself back and was named to stay: gamma asked alpha, which had it among its readers still, and was taken for one.
#[test]
fn a_reader_that_left_a_primary_that_goes_on_is_none_of_its_own() {
    let gone = |alpha: &mut Array| {
        let group = g1(alpha).number;
        let pairs: Vec<_> = alpha.tables.pairs_with(group, ArrayNumber(3)).cloned().collect();
        for pair in &pairs {
            assert_eq!(pair.control.asked, Some(Asked::DeleteAccepted));
            alpha.tables.pair_is_gone(pair.number, ids()());
        }
        assert!(!pairs.is_empty() && alpha.tables.readers.get(&(group, ArrayNumber(3))).is_none());
        let is_end = |what: &Designation| matches!(what, Designation::RemoteDeleteGroup { .. });
        assert!(!alpha.tables.forwards.iter().any(|forward| is_end(&forward.designation)), "it has a group");
    };
    let left = Designation::LeftOnward { group: "g1".parse().unwrap() };
    let by_gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    for is_late in [false, true] {
        let (mut alpha, mut beta, _) = three(true);
        takes_over(&mut beta, 40);
        assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
        count(&mut alpha);
        let group = g1(&alpha).number;
        if !is_late {
            alpha.apply(DesignationId(ids()()), &left, &by_gamma).unwrap();
            let stays = |pair: &PairRecord| pair.control.asked.is_none();
            assert!(alpha.tables.pairs_with(group, ArrayNumber(3)).all(stays), "nobody knows who stays");
        }
        alpha.say(take_over()).unwrap();
        alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
        if is_late {
            alpha.apply(DesignationId(ids()()), &left, &by_gamma).unwrap();
        }
        gone(&mut alpha);
    }
}

/// Gamma goes on from beta, which has taken over, and alpha does not know that yet: were gamma let go, hosts of alpha that wait for it would be answered alone.
#[test]
fn a_reader_that_left_is_waited_for_where_nobody_knows_yet_who_took_over() {
    let (mut alpha, ..) = three(true);
    let group = g1(&alpha).number;
    let left = Designation::LeftOnward { group: "g1".parse().unwrap() };
    let by_gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    alpha.apply(DesignationId(ids()()), &left, &by_gamma).unwrap();
    assert!(alpha.tables.readers.get(&(group, ArrayNumber(3))).is_some_and(|reader| reader.has_left));
    let mut pairs = alpha.tables.pairs_with(group, ArrayNumber(3));
    assert!(pairs.all(|pair| pair.control.asked.is_none()), "a fence is not opened by who leaves");
    drop(pairs);
    // It was only shut for a moment, and took itself back: of a primary beside it it knows nothing.
    let taken = {
        let (mut other, mut beta, _) = three(true);
        takes_over(&mut beta, 40);
        assert_eq!(deliver(&mut beta, &mut other, "alpha"), 0);
        other.say(take_over()).unwrap();
        other.tables.retaken(group, UpdateNumber(43), &mut ids());
        g1(&other).takeover
    };
    let (mut alpha, ..) = three(true);
    let Some(Takeover::Taken(taken)) = taken else { panic!("{taken:?}") };
    let taken = Takeover::Taken(crate::volume::takeover::Taken { rival: None, ..taken });
    alpha.tables.groups.edit(&group).unwrap().takeover = Some(taken);
    alpha.apply(DesignationId(ids()()), &left, &by_gamma).unwrap();
    let mut pairs = alpha.tables.pairs_with(group, ArrayNumber(3));
    assert!(pairs.all(|pair| pair.control.asked.is_none()), "nor where another one gave up");
}

/// Gamma has taken over from alpha, beta, which reads gamma, begins to take over and gives that up.
#[test]
fn a_takeover_that_is_given_up_leaves_its_primary_what_that_had_overtaken() {
    let (mut alpha, mut beta) = overtaken();
    let branch = match g1(&beta).takeover {
        Some(Takeover::Taken(taken)) => taken.branch,
        other => panic!("{other:?}"),
    };
    assert!(branch.is_some());
    // A third one that reads beta by now.
    let (group, to_gamma) = (g1(&beta).number, "gamma".parse().unwrap());
    beta.say(link("gamma", 3)).unwrap();
    let pairs: Vec<_> = beta.tables.pairs_of_group(group).cloned().collect();
    for (index, mut pair) in (90..).zip(pairs) {
        pair.number = crate::volume::name::PairNumber(index);
        pair.name = format!("third{index}").parse().unwrap();
        (pair.link, pair.auxiliary.array) = ("gamma".parse().unwrap(), ArrayNumber(3));
        beta.tables.pairs.put(pair);
    }
    let reader = crate::volume::record::ReaderRecord::new(group, ArrayNumber(3), to_gamma);
    beta.tables.readers.put(reader);
    let by_gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    let fence = |attempt| {
        Designation::RemoteTakeover(RemoteTakeover {
            group: "g1".parse().unwrap(),
            generations: g1(&beta).generations,
            knows: g1(&beta).largest_counter(),
            is_complete: false,
            attempt,
        })
    };
    let (first, second) = (fence(1), fence(2));
    beta.apply(DesignationId(ids()()), &first, &by_gamma).unwrap();
    assert_eq!((state(&beta).as_str(), access(&beta, "copy1")), ("fenced", HostAccess::None));
    // Alpha takes itself back meanwhile: that waits until it is known who is the primary.
    let here = g1(&alpha).number;
    let before = alpha.tables.clone();
    alpha.say(take_over()).unwrap();
    alpha.tables.retaken(here, UpdateNumber(43), &mut ids());
    assert!(says_takeover(&alpha, &mut beta, true).is_err());
    alpha.tables = before;
    assert_eq!(state(&beta), "fenced");
    let given_up = |attempt| Designation::TakeoverGivenUp { group: "g1".parse().unwrap(), attempt };
    beta.apply(DesignationId(ids()()), &given_up(1), &by_gamma).unwrap();
    assert_eq!((state(&beta).as_str(), access(&beta, "copy1")), ("taken", HostAccess::ReadWrite));
    let known = g1(&beta).takeover.and_then(|takeover| takeover.taken().and_then(|taken| taken.branch));
    assert_eq!(known, branch);
    // What alpha answers in the middle of the next one is noted as well.
    beta.say(fail_back("alpha")).unwrap();
    beta.apply(DesignationId(ids()()), &second, &by_gamma).unwrap();
    assert_eq!(state(&beta), "fenced");
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("yielding", "fenced"));
    beta.apply(DesignationId(ids()()), &given_up(2), &by_gamma).unwrap();
    assert_eq!(state(&beta), "");
    let is_asked = |pair: &PairRecord| pair.control.asked == Some(Asked::Resync);
    assert!(beta.tables.pairs_with(group, ArrayNumber(1)).all(is_asked));
}

/// Alpha took itself back, and is started with a store from before it was overtaken: what it says is no name of what it has, and beta's operator was told that
/// it has said nothing.
#[test]
fn an_array_that_took_itself_back_and_has_forgotten_it_is_said_to_have() {
    let (mut alpha, mut beta) = normal();
    let older = alpha.tables.clone();
    takes_over(&mut beta, 40);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(state(&beta), "split-brain");
    alpha.tables = older;
    says_takeover(&beta, &mut alpha, true).unwrap();
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let told = g1(&beta).takeover.and_then(|takeover| takeover.told()).unwrap();
    assert!(told.contains("does not know that any more"), "{told}");
    let refusal = beta.say(fail_back("alpha")).unwrap_err().to_string();
    assert!(
        refusal.contains("older copy") && refusal.contains("group delete g1 --reader alpha"),
        "{refusal}"
    );
}

/// The deletion of a pair was on its way when the array with its S-VOL took over: that answered that it is gone, and its own stayed.
#[test]
fn a_pair_that_was_to_go_stays_when_its_copy_took_over_before_it_heard_of_that() {
    let (mut alpha, mut beta) = normal();
    let group = g1(&alpha).number;
    alpha.say(Designation::DeleteGroup { group: "g1".parse().unwrap() }).unwrap();
    let pairs: Vec<_> = alpha.tables.pairs.iter().map(|pair| pair.number).collect();
    for pair in &pairs {
        alpha.tables.deletion_sent(*pair, ids()());
    }
    takes_over(&mut beta, 40);
    assert_eq!(
        deliver(&mut alpha, &mut beta, "beta"),
        pairs.len(),
        "beta says first what alpha does not know"
    );
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("overtaken", HostAccess::None));
    let stays = |array: &Array| array.tables.pairs.iter().all(|pair| pair.control.asked.is_none());
    assert!(stays(&alpha) && stays(&beta) && !g1(&alpha).is_leaving);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0, "it is asked no more");
    // Alpha takes itself back and says it again, and knows what it says.
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    alpha.tables.deletion_sent(pairs[0], ids()());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    let pair = alpha.tables.pairs.get(&pairs[0]).unwrap();
    assert_eq!(pair.control.asked, Some(Asked::DeleteAccepted));
}

/// Beta took over from alpha, which has no pairs with it any more, or answers why that is nothing to it: what it says of its pairs is believed.
#[test]
fn who_knows_better_than_a_takeover_is_told_that_its_pair_is_gone() {
    let is_deletion = |what: &Designation| matches!(what, Designation::RemoteDeletePair { .. });
    for is_gone in [true, false] {
        let (mut alpha, mut beta) = normal();
        let pairs: Vec<_> = alpha.tables.pairs.iter().map(|pair| pair.number).collect();
        takes_over(&mut beta, 40);
        for pair in &pairs {
            match is_gone {
                true => alpha.tables.pair_is_gone(*pair, ids()()),
                false => alpha.tables.deletion_sent(*pair, ids()()),
            }
        }
        let asks = |alpha: &Array| alpha.tables.forwards.iter().any(|one| is_deletion(&one.designation));
        let _ = deliver(&mut alpha, &mut beta, "beta");
        assert_eq!(asks(&alpha), !is_gone);
        let said: Vec<_> = beta.tables.forwards.iter().map(|forward| forward.sequence).collect();
        for sequence in said {
            beta.tables
                .delivered(sequence, &Err(Refusal::conflict("group g1 is handed over to another one")));
        }
        let _ = deliver(&mut alpha, &mut beta, "beta");
        assert!(!asks(&alpha));
    }
}

/// What beta knew as the primary of readers that had more than it says nothing of the copy that it is.
#[test]
fn an_array_that_becomes_a_copy_shows_nobody_to_be_ahead_of_it() {
    let (mut alpha, mut beta) = overtaken();
    let group = g1(&alpha).number;
    let lead = Ahead {
        link: "gamma".parse().unwrap(),
        array: ArrayNumber(3),
        has: UpdateNumber(44),
        updates: 1,
        is_given_up: false,
    };
    alpha.tables.groups.edit(&group).unwrap().ahead.push(lead);
    beta.say(fail_back("alpha")).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    alpha.tables.yielded(group, &[], &mut ids());
    assert!(matches!(g1(&alpha).role, GroupRole::Auxiliary { .. }));
    assert_eq!(g1(&alpha).ahead, []);
}
