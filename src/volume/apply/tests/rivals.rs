//! Two arrays that become primaries of one group, by operators who do not know of each other, and what each message finds there
//! (decision 19): whoever may be one is not passed over, and both are shown.

use super::onward::{g1, three, turn};
use super::written::{normal, number};
use super::*;
use crate::volume::apply::taken::Journal;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::VolumeNumber;
use crate::volume::onward::RemoteOnwardPair;
use crate::volume::rejoin::{Has, RemoteRejoin};
use crate::volume::takeover::{Branch, Overtaken, RemoteFailback, RemoteTakeover, Takeover};
use crate::volume::timing::StopWish;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(super) fn row(array: &Array) -> GroupRecord {
    array.tables.groups.get(&g1(array)).unwrap().clone()
}

fn state(array: &Array) -> String {
    row(array).takeover.map(|takeover| takeover.to_string()).unwrap_or_default()
}

pub(super) fn ids() -> impl FnMut() -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 41);
    || Identity(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn take_over() -> Designation {
    Designation::TakeOverGroup { group: "g1".parse().unwrap(), at_least: None }
}

fn reverse(to: &str) -> Designation {
    let wait = Duration::from_secs(1);
    Designation::ReverseGroup { group: "g1".parse().unwrap(), to: to.parse().unwrap(), wait }
}

/// As the array at work does it, as of this update.
pub(super) fn takes_over(array: &mut Array, last: u64) {
    array.say(take_over()).unwrap();
    let group = g1(array);
    array.tables.primary_reached(group);
    let (journal, from) = (Journal::BeginsAnew, UpdateNumber(last + 1));
    array.tables.takeover_done(group, UpdateNumber(last), from, journal, &mut ids()).unwrap();
}

pub(super) fn fence(from: &Array, is_complete: bool) -> (Designation, Who) {
    let of = row(from);
    let told = RemoteTakeover {
        group: "g1".parse().unwrap(),
        generations: of.generations.clone(),
        knows: of.largest_counter(),
        is_complete,
        attempt: of.attempts,
    };
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    (Designation::RemoteTakeover(told), who)
}

/// Gamma may have promised, or may be the primary already: what beta says of its takeover must not make alpha forget that.
#[test]
fn a_group_that_is_handed_over_to_another_array_is_not_taken_over_behind_its_back() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    alpha.say(reverse("gamma")).unwrap();
    let group = g1(&alpha);
    alpha.tables.handed_over(group, UpdateNumber(40), &BTreeMap::new(), ids()());
    let (what, who) = fence(&beta, false);
    let refusal = alpha.apply(DesignationId(ids()()), &what, &who).unwrap_err().to_string();
    assert!(refusal.contains("handed over to gamma"), "{refusal}");
    assert_eq!(row(&alpha).reversal.unwrap().step.to_string(), "handed-over");
    // The same when beta has turned without having reached it.
    takes_over(&mut beta, 40);
    let (what, who) = fence(&beta, true);
    assert!(alpha.apply(DesignationId(ids()()), &what, &who).is_err());
    assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0);
    assert_eq!(row(&alpha).reversal.unwrap().step.to_string(), "leaving");
    assert!(alpha.apply(DesignationId(ids()()), &what, &who).is_err(), "nor when it has promised");
    let there = g1(&gamma);
    let numbers = gamma.tables.reserve_pair_numbers(2).unwrap();
    gamma.tables.taken_over(there, &numbers, &mut ids());
    alpha.tables.left(group);
    // Alpha is gamma's copy: beta, which is a primary too, is not told that all is well.
    let refusal = alpha.apply(DesignationId(ids()()), &what, &who).unwrap_err().to_string();
    assert!(refusal.contains("copy of array 3"), "{refusal}");
}

/// Both primaries hear of each other over the link between them, and say so; neither copies from the other.
#[test]
fn two_primaries_without_pairs_between_them_know_of_each_other() {
    let (_, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    takes_over(&mut gamma, 38);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    let rivals = |array: &Array| -> Vec<(String, u64)> {
        row(array).rivals.iter().map(|rival| (rival.link.to_string(), rival.first.0)).collect()
    };
    assert_eq!(rivals(&gamma), [("beta".to_owned(), 39)]);
    assert_eq!(deliver(&mut gamma, &mut beta, "beta"), 0);
    assert_eq!(rivals(&beta), [("gamma".to_owned(), 39)]);
    for _ in 0..3 {
        assert_eq!(deliver(&mut beta, &mut gamma, "gamma") + deliver(&mut gamma, &mut beta, "beta"), 0);
    }
    let is_call = |what: &Designation| matches!(what, Designation::RemoteRejoin(_));
    for (array, to) in [(&beta, "gamma"), (&gamma, "beta")] {
        let to = to.parse().unwrap();
        assert!(!array.tables.forwards_to(&to).any(|one| is_call(&one.designation)), "it comes to an end");
        assert_eq!((row(array).role, state(array).as_str()), (GroupRole::Primary, "taken"));
    }
    let back = Designation::FailBackGroup {
        group: "g1".parse().unwrap(),
        to: "gamma".parse().unwrap(),
        keep_branch: None,
    };
    let refusal = beta.say(back).unwrap_err().to_string();
    assert!(refusal.contains("no pairs"), "{refusal}");
}

/// Gamma took over from alpha, beta from gamma; alpha hears of it first, and says so to those that have read it. It is beta that has overtaken
/// gamma: it was alpha once, and then beta's own word was refused for ever.
#[test]
fn a_primary_that_hears_from_another_one_by_whom_it_was_overtaken_speaks_with_that_one() {
    let (_, _, mut gamma) = three(true);
    takes_over(&mut gamma, 40);
    let mut generations = row(&gamma).generations;
    generations.push(Generation { counter: 9, array: ArrayNumber(2), first: UpdateNumber(60) });
    let (former, by) = (ArrayNumber(1), Some(ArrayNumber(2)));
    let told = RemoteRejoin {
        group: "g1".parse().unwrap(),
        former,
        generations: generations.clone(),
        by,
        asks: false,
        knows: 0,
    };
    let who = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    gamma.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &who).unwrap();
    let Some(Takeover::Overtaken(other)) = row(&gamma).takeover else { panic!("it is overtaken") };
    assert_eq!((other.array, other.link.as_str()), (ArrayNumber(2), "beta"));
    // Told of itself by one that is behind, or a rival of somebody else: nothing.
    let (_, mut beta, _) = three(true);
    takes_over(&mut beta, 40);
    let by = Some(ArrayNumber(2));
    let told = RemoteRejoin { group: "g1".parse().unwrap(), former, generations, by, asks: false, knows: 0 };
    beta.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &who).unwrap();
    assert_eq!((state(&beta).as_str(), row(&beta).rivals.len()), ("taken", 0));
}

/// Alpha was gamma's copy, and took over in the middle of its resync: its image is older than the generation in which it became a copy. What
/// it says then is no late word of before; that was taken for one, and gamma never knew what alpha would lose.
#[test]
fn a_copy_that_took_over_from_an_old_image_says_what_it_has_to_a_primary_that_takes_itself_back() {
    let (_, _, mut gamma) = three(true);
    takes_over(&mut gamma, 40);
    let group = g1(&gamma);
    let against = *row(&gamma).generations.last().unwrap();
    let since = against.counter + 5;
    gamma.tables.readers.edit(&(group, ArrayNumber(1))).expect("alpha is to be its copy").since = since;
    let says = |gamma: &mut Array, counter: u64| {
        let of = Generation { counter, array: ArrayNumber(1), first: UpdateNumber(41) };
        let branch = Branch { of, against, first: UpdateNumber(41), last: UpdateNumber(44), bytes: 0 };
        let what = Designation::RemoteBranch { group: "g1".parse().unwrap(), branch };
        let who = Who::Peer { array: ArrayNumber(1), from: "test".into() };
        gamma.apply(DesignationId(ids()()), &what, &who).unwrap();
        let Some(Takeover::Taken(taken)) = row(gamma).takeover else { panic!("it has taken over") };
        taken.branch.map(|branch| branch.of.counter)
    };
    assert_eq!(says(&mut gamma, since), None, "from before it was a copy");
    assert_eq!(says(&mut gamma, since + 1), Some(since + 1));
}

/// Alpha, overtaken and left behind, is to forget the group: gamma has become somebody else's source, under the same names of pairs.
#[test]
fn a_pair_that_is_copied_from_somebody_else_by_now_is_gone_for_its_former_primary() {
    let (_, _, mut gamma) = three(true);
    let pairs: Vec<_> = gamma.tables.pairs_of_group(g1(&gamma)).map(|pair| pair.name.clone()).collect();
    takes_over(&mut gamma, 40);
    let who = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    for pair in &pairs {
        let before = gamma.tables.pair_named(pair).cloned();
        let what = Designation::RemoteDeletePair { pair: pair.clone(), is_gone: false };
        gamma.apply(DesignationId(ids()()), &what, &who).expect("it is gone");
        assert_eq!(gamma.tables.pair_named(pair).cloned(), before);
    }
    assert!(!pairs.is_empty());
}

/// Alpha was away while beta took over, and gamma from beta: whoever tells it, its hosts are shut out.
#[test]
fn a_primary_that_hears_of_a_history_which_goes_on_past_its_own_is_shut_whoever_says_so() {
    let (mut alpha, beta, _) = three(true);
    assert_eq!(state(&alpha), "");
    let mut generations = row(&alpha).generations;
    generations.push(Generation { counter: 2, array: ArrayNumber(2), first: UpdateNumber(41) });
    generations.push(Generation { counter: 3, array: ArrayNumber(3), first: UpdateNumber(60) });
    let told = RemoteRejoin {
        group: "g1".parse().unwrap(),
        former: ArrayNumber(2),
        generations,
        by: None,
        asks: false,
        knows: 0,
    };
    let who = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    let what = Designation::RemoteRejoin(told);
    alpha.apply(DesignationId(ids()()), &what, &who).unwrap();
    assert_eq!(state(&alpha), "overtaken");
    let data1 = alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().number;
    assert_eq!(alpha.tables.host_access(data1), HostAccess::None);
    let Some(Takeover::Overtaken(by)) = row(&alpha).takeover else { panic!("it is overtaken") };
    assert_eq!(by.array, ArrayNumber(3));
    // Beta, which gamma has overtaken, has nothing to say any more.
    let (what, who) = fence(&beta, false);
    assert!(alpha.apply(DesignationId(ids()()), &what, &who).is_err());
}

/// Beta has promised to be the primary, and not turned yet, when alpha says that it took itself back: that is no news for a copy.
#[test]
fn an_array_that_has_promised_does_not_say_that_it_has_nothing_of_its_own() {
    let (mut alpha, mut beta) = normal();
    alpha.say(reverse("beta")).unwrap();
    let (here, there) = (g1(&alpha), g1(&beta));
    alpha.tables.handed_over(here, UpdateNumber(40), &BTreeMap::new(), ids()());
    let promise: Vec<ForwardRecord> = alpha.tables.forwards.iter().cloned().collect();
    let by_alpha = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    for forward in &promise {
        beta.apply(DesignationId(ids()()), &forward.designation, &by_alpha).unwrap();
    }
    assert_eq!(row(&beta).reversal.unwrap().step.to_string(), "taking-over");
    // The answer is lost, and alpha goes on by command.
    alpha.say(take_over()).unwrap();
    let Some(Takeover::Retaking(mut other)) = row(&alpha).takeover else { panic!("it goes on") };
    other.branch = None;
    alpha.tables.retaken(here, UpdateNumber(40), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1, "it is asked again when it has turned");
    let is_branch = |what: &Designation| matches!(what, Designation::RemoteBranch { .. });
    assert!(!beta.tables.forwards.iter().any(|forward| is_branch(&forward.designation)));
    beta.tables.taken_over(there, &[], &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(state(&beta), "overtaken");
    let copy1 = beta.tables.volume_named(&"copy1".parse().unwrap()).unwrap().number;
    assert_eq!(beta.tables.host_access(copy1), HostAccess::None);
}

/// Behind a planned reversal the old primary, and every other reader, is an image as of its last number before it has read
/// anything: the new primary may be lost in that moment.
#[test]
fn a_copy_that_has_read_nothing_of_its_new_primary_knows_of_which_moment_it_is() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    turn(&mut alpha, &mut beta).unwrap();
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    for array in [&mut alpha, &mut gamma] {
        let group = g1(array);
        let point = array.tables.takeover_point(group, None).map(|point| point.number());
        assert_eq!(point, Ok(UpdateNumber(40)));
        takes_over(array, 40);
        assert_eq!(state(array), "taken");
    }
    // With the first journal it moves on.
    let (mut alpha, mut beta, _) = three(true);
    turn(&mut alpha, &mut beta).unwrap();
    let group = g1(&alpha);
    let volume = alpha.tables.groups.get(&group).unwrap().journals[0].volume;
    let begins =
        crate::volume::group::SegmentRecord { volume, incarnation: Identity(9), first: UpdateNumber(41) };
    alpha.tables.journal_is_in(group, vec![begins], None).unwrap();
    let point = alpha.tables.takeover_point(group, Some(UpdateNumber(57))).map(|point| point.number());
    assert_eq!(point, Ok(UpdateNumber(57)));
}

/// A message of the first of them that was held up has nothing to do with the second.
#[test]
fn a_group_that_is_made_anew_under_an_old_name_is_another_one() {
    let first = |id: u128| {
        let mut alpha = Array::new(1, "alpha").with(&["data1"], "beta", 2);
        alpha.apply(DesignationId(Identity(id)), &group(), &Who::Provision).unwrap();
        row(&alpha).generations
    };
    let (one, other) =
        (first(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834), first(0x2545_f491_4f6c_dd1d_9e37_79b9_7f4a_7c15));
    assert_eq!(crate::volume::group::common_point(&one, &other), crate::volume::group::CommonPoint::None);
    let largest = first(u128::MAX)[0].counter;
    assert!(largest <= 1 << 30, "others follow it, in 32 bits");
}

/// Gamma has heard that alpha was started again, in a generation as new as that of beta, which took over meanwhile without having heard of
/// it. Alpha may be lost for good, so beta is believed, and so is alpha.
#[test]
fn a_reader_that_has_heard_of_a_restart_of_its_source_believes_who_has_overtaken_it() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    let newest = *row(&alpha).generations.last().unwrap();
    let restarted = Generation { counter: newest.counter + 1, first: UpdateNumber(41), ..newest };
    for array in [&mut alpha, &mut gamma] {
        let group = g1(array);
        array.tables.groups.edit(&group).unwrap().generations.push(restarted);
    }
    let mut told = Array { tables: gamma.tables.clone(), ids: 1 };
    assert_eq!(deliver(&mut Array { tables: beta.tables.clone(), ids: 1 }, &mut told, "gamma"), 0);
    assert_eq!(state(&told), "moving");
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    let (group, theirs) = (g1(&alpha), row(&beta).generations);
    let (first, against) =
        crate::volume::takeover::parting(&row(&alpha).generations, &theirs, UpdateNumber(43)).unwrap();
    let branch = Branch { of: restarted, against, first, last: UpdateNumber(43), bytes: 0 };
    alpha.tables.branch_counted(group, &[], branch, &mut ids()).unwrap();
    assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0);
    let Some(Takeover::Moving(moving)) = row(&gamma).takeover else { panic!("it goes on from beta") };
    assert_eq!((moving.array, moving.generations), (ArrayNumber(2), theirs));
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0, "and what beta says is no news any more");
}

/// Alpha has named a counter with a loser, larger than any generation. Beta, which takes alpha over, never heard of it: gamma, which did,
/// refused for ever to go on from beta.
#[test]
fn a_counter_that_no_generation_has_keeps_no_reader_from_the_next_primary() {
    let (alpha, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    let of = *row(&alpha).generations.last().unwrap();
    let told = RemoteFailback {
        group: "g1".parse().unwrap(),
        number: g1(&alpha),
        generations: row(&alpha).generations,
        pairs: Vec::new(),
        branch: Branch { of, against: of, first: UpdateNumber(41), last: UpdateNumber(43), bytes: 0 },
        since: of.counter + 7,
        keep_branch: None,
    };
    let who = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    gamma.apply(DesignationId(ids()()), &Designation::RemoteFailback(told), &who).unwrap();
    assert_eq!(row(&gamma).largest_counter(), of.counter + 7, "what it says next has to bear that");
    assert!(row(&beta).largest_counter() < of.counter + 7);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(state(&gamma), "moving");
}

/// What a reader waits for that goes on from another primary can be said.
#[test]
fn what_holds_a_moving_reader_back_can_be_put_away() {
    let (_, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(state(&gamma), "moving");
    let group = g1(&gamma);
    let go_on = Designation::StopRestore {
        group: "g1".parse().unwrap(),
        wish: StopWish::GoOn,
        for_suspension: false,
    };
    gamma.say(go_on).unwrap();
    let now =
        Designation::StopRestore { group: "g1".parse().unwrap(), wish: StopWish::Now, for_suspension: false };
    assert!(gamma.say(now).is_err(), "only to go on");
    gamma.tables.group_event(group, GroupEvent::Fail, Some("its journal failed".into())).unwrap();
    gamma.say(volume("jnl2")).unwrap();
    let replace = Designation::ReplaceJournal {
        group: "g1".parse().unwrap(),
        volume: "jnl".parse().unwrap(),
        by: "jnl2".parse().unwrap(),
    };
    gamma.say(replace).unwrap();
    assert_eq!((row(&gamma).state, state(&gamma).as_str()), (GroupState::Normal, "moving"));
}

/// One pair of a reader stands still while the others went on: its new primary has it all copied.
#[test]
fn a_reader_that_moves_says_which_of_its_pairs_are_no_image() {
    let (_, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    let p2 = number(&gamma, "p2-gamma");
    gamma.tables.pair_event(p2, PairEvent::Suspend, Some("its operator".into())).unwrap();
    gamma.tables.pairs.edit(&p2).unwrap().control.stopped_at = Some(UpdateNumber(12));
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    let group = g1(&gamma);
    gamma.tables.asks_to_join(group, Has::of(UpdateNumber(40)), ids()());
    let told = gamma.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::JoinOnward(told) => Some(told.clone()),
        _ => None,
    });
    let size = gamma.tables.pairs.get(&p2).unwrap().size_bytes;
    let runs: Vec<_> = told.unwrap().pairs.into_iter().map(|pair| pair.stopped.unwrap().runs).collect();
    assert_eq!(runs, [vec![], vec![(0, size)]]);
}

/// The same where it is noted what the stopped pair reaches: it says that, and where hosts wrote. When it goes on from the new primary that
/// is over: what it is then called by numbers is nothing that the next one could hold against its marks.
#[test]
fn a_reader_that_moves_says_what_its_stopped_pairs_reach_and_forgets_it_behind_that() {
    for knows_where in [true, false] {
        let (_, mut beta, mut gamma) = three(true);
        takes_over(&mut beta, 40);
        let p2 = number(&gamma, "p2-gamma");
        gamma.tables.pair_event(p2, PairEvent::Suspend, Some("its operator".into())).unwrap();
        gamma.tables.pairs.edit(&p2).unwrap().control.reaches = Some(UpdateNumber(12));
        assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
        let written = [(p2, vec![(65_536, 65_536)])].into_iter().filter(|_| knows_where).collect();
        let has = Has { up_to: UpdateNumber(40), contains: UpdateNumber(43), written };
        let group = g1(&gamma);
        gamma.tables.asks_to_join(group, has, ids()());
        let told = gamma.tables.forwards.iter().find_map(|forward| match &forward.designation {
            Designation::JoinOnward(told) => Some(told.clone()),
            _ => None,
        });
        let told = told.unwrap();
        assert_eq!((told.are_all_normal, told.contains), (false, UpdateNumber(43)));
        let said = |index: usize| {
            let stopped = told.pairs[index].stopped.clone().unwrap();
            (stopped.reaches.map(|at| at.0), stopped.runs)
        };
        let size = gamma.tables.pairs.get(&p2).unwrap().size_bytes;
        assert_eq!(said(0), (Some(40), vec![]));
        assert_eq!(
            said(1),
            if knows_where { (Some(12), vec![(65_536, 65_536)]) } else { (None, vec![(0, size)]) }
        );
        let mut pair = gamma.tables.pairs.get(&p2).unwrap().clone();
        let one = RemoteOnwardPair {
            name: pair.name.clone(),
            pvol: VolumeNumber(1),
            pvol_name: "data2".parse().unwrap(),
            origin: None,
            stopped: Some("stopped".to_owned()),
        };
        rejoin::goes_on_from(&mut pair, &one, (&"beta".parse().unwrap(), ArrayNumber(2)), UpdateNumber(40));
        assert_eq!((pair.control.reaches, pair.reaches(Some(UpdateNumber(90)))), (None, None));
    }
}

/// Beta has told alpha that it took over, and says no such thing twice. Alpha is started with a copy of its control store from before: it asks, and is shut
/// by whoever knows more, also by one that it knows no pairs with.
#[test]
fn a_primary_with_an_older_store_is_told_again_who_took_over() {
    for knows_its_pairs in [true, false] {
        let (mut alpha, mut beta, mut gamma) = three(true);
        let mut older = alpha.tables.clone();
        takes_over(&mut beta, 40);
        assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
        assert_eq!(state(&alpha), "overtaken");
        if !knows_its_pairs {
            let pairs: Vec<_> = older.pairs.iter().map(|pair| pair.number).collect();
            for pair in pairs {
                older.pairs.remove(&pair);
            }
        }
        alpha.tables = older;
        assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
        assert_eq!(state(&alpha), "", "nobody says it again");
        for _ in 0..2 {
            alpha.tables.ask_who_is_primary(&mut ids());
        }
        let (to_alpha, to_beta): (LinkName, LinkName) = ("alpha".parse().unwrap(), "beta".parse().unwrap());
        let waiting = alpha.tables.forwards_to(&to_beta);
        let is_call = |what: &Designation| matches!(what, Designation::RemoteRejoin(_));
        assert_eq!(waiting.filter(|one| is_call(&one.designation)).count(), 1, "however often it is started");
        assert_eq!(deliver(&mut alpha, &mut gamma, "gamma"), 0, "its own copies have heard nothing else");
        assert_eq!((state(&gamma), row(&gamma).takeover), (String::new(), None));
        deliver(&mut alpha, &mut beta, "beta");
        assert_eq!(state(&beta), "taken");
        deliver(&mut beta, &mut alpha, "alpha");
        assert_eq!(state(&alpha), "overtaken", "pairs: {knows_its_pairs}");
        if knows_its_pairs {
            let data1 = alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().number;
            assert_eq!(alpha.tables.host_access(data1), HostAccess::None);
        }
        deliver(&mut alpha, &mut beta, "beta");
        let left = beta.tables.forwards_to(&to_alpha);
        assert_eq!(left.filter(|one| is_call(&one.designation)).count(), 0, "it comes to an end");
    }
}

/// Its hosts are shut out, and its branch is counted and told: a question would make the new primary forget that.
#[test]
fn an_array_that_knows_that_it_was_overtaken_asks_nobody() {
    let (mut alpha, mut beta, _) = three(true);
    takes_over(&mut beta, 40);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    let before: Vec<_> = alpha.tables.forwards.iter().cloned().collect();
    alpha.tables.ask_who_is_primary(&mut ids());
    assert_eq!(alpha.tables.forwards.iter().cloned().collect::<Vec<_>>(), before);
}

/// Alpha has been started twice since it was overtaken, and asks with a counter larger than beta's. Only its operator's word brings gamma back; and when
/// gamma is beta's copy it says so, whatever links alpha has.
#[test]
fn a_question_calls_no_reader_back_and_a_copy_says_whose_it_is() {
    let (alpha, mut beta, mut gamma) = three(true);
    takes_over(&mut beta, 40);
    deliver(&mut beta, &mut gamma, "gamma");
    assert_eq!(state(&gamma), "moving");
    let first = row(&alpha).generations;
    let mut restarted = first.clone();
    restarted.push(Generation { counter: 9, array: ArrayNumber(1), first: UpdateNumber(50) });
    let asks = |generations| {
        let (group, former) = ("g1".parse().unwrap(), ArrayNumber(1));
        Designation::RemoteRejoin(RemoteRejoin { group, former, generations, by: None, asks: true, knows: 0 })
    };
    let who = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    gamma.apply(DesignationId(ids()()), &asks(restarted), &who).unwrap();
    assert_eq!(state(&gamma), "moving");
    let number = g1(&gamma);
    let role = GroupRole::Auxiliary {
        link: "beta".parse().unwrap(),
        source: ArrayNumber(2),
        remote: Some(g1(&beta)),
    };
    let here = gamma.tables.groups.edit(&number).unwrap();
    (here.role, here.takeover, here.generations) = (role, None, row(&beta).generations);
    gamma.apply(DesignationId(ids()()), &asks(first), &who).unwrap();
    let to_alpha: LinkName = "alpha".parse().unwrap();
    let by = |what: &Designation| match what {
        Designation::RemoteRejoin(told) => told.by,
        _ => None,
    };
    assert!(gamma.tables.forwards_to(&to_alpha).any(|one| by(&one.designation) == Some(ArrayNumber(2))));
}

/// Beta is being overtaken itself in that moment: who will be the primary nobody knows yet, and the question is asked again.
#[test]
fn a_question_is_asked_again_while_the_primary_is_being_taken_over() {
    let (_, mut beta, gamma) = three(true);
    let first = row(&beta).generations;
    takes_over(&mut beta, 40);
    let other = Overtaken {
        link: "gamma".parse().unwrap(),
        array: ArrayNumber(3),
        generations: row(&gamma).generations,
        is_complete: false,
        attempt: 1,
        branch: None,
        had_taken: None,
    };
    let number = g1(&beta);
    let open = beta.tables.groups.edit(&number).unwrap().takeover.replace(Takeover::Overtaken(other));
    let (group, former) = ("g1".parse().unwrap(), ArrayNumber(1));
    let asked = RemoteRejoin { group, former, generations: first, by: None, asks: true, knows: 0 };
    let who = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    let asked = Designation::RemoteRejoin(asked);
    assert!(beta.apply(DesignationId(ids()()), &asked, &who).is_err());
    beta.tables.groups.edit(&number).unwrap().takeover = open;
    beta.apply(DesignationId(ids()()), &asked, &who).unwrap();
    let to_alpha: LinkName = "alpha".parse().unwrap();
    assert!(beta.tables.forwards_to(&to_alpha).next().is_some());
}

/// Alpha, which was shut for a long time, tells gamma at last that beta had overtaken it; beta has been paired anew with gamma since. What beta says
/// of itself is no old news.
#[test]
fn what_a_third_array_says_late_of_one_that_is_a_reader_here_makes_no_rival_of_it() {
    for (is_reader, is_untold, by_itself) in
        [(true, false, false), (true, true, false), (false, false, false), (true, false, true)]
    {
        let (_, _, mut gamma) = three(true);
        takes_over(&mut gamma, 40);
        let number = g1(&gamma);
        if is_reader {
            let link = "beta".parse().unwrap();
            let mut reader = crate::volume::record::ReaderRecord::new(number, ArrayNumber(2), link);
            reader.is_untold = is_untold; // It is about to be one, and may not know.
            gamma.tables.readers.put(reader);
        }
        let mut generations = vec![row(&gamma).generations[0]];
        generations.push(Generation { counter: 9, array: ArrayNumber(2), first: UpdateNumber(41) });
        let (group, former) = ("g1".parse().unwrap(), ArrayNumber(1));
        let (by, teller) = if by_itself { (None, 2) } else { (Some(ArrayNumber(2)), 1) };
        let told = RemoteRejoin { group, former, generations, by, asks: false, knows: 0 };
        let who = Who::Peer { array: ArrayNumber(teller), from: "test".into() };
        gamma.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &who).unwrap();
        assert_eq!(row(&gamma).rivals.is_empty(), is_reader && !is_untold && !by_itself);
    }
}
