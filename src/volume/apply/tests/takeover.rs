//! Takeover, split brain and the way back (decision 19): every step of the tables, said twice, out of order, by the wrong one.

use super::onward::link;
use super::written::{normal, number};
use super::*;
use crate::volume::apply::taken::Journal;
use crate::volume::group::{Generation, GroupRecord};
use crate::volume::name::PairNumber;
use crate::volume::pair::Asked;
use crate::volume::takeover::{Branch, RemoteTakeover, Takeover, parting};
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) fn g1(array: &Array) -> GroupRecord {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().clone()
}

pub(super) fn take_over() -> Designation {
    Designation::TakeOverGroup { group: "g1".parse().unwrap(), at_least: None }
}

pub(super) fn fail_back(to: &str) -> Designation {
    Designation::FailBackGroup { group: "g1".parse().unwrap(), to: to.parse().unwrap(), keep_branch: None }
}

pub(super) fn state(array: &Array) -> String {
    g1(array).takeover.map(|takeover| takeover.to_string()).unwrap_or_default()
}

pub(super) fn access(array: &Array, name: &str) -> HostAccess {
    array.tables.host_access(array.tables.volume_named(&name.parse().unwrap()).unwrap().number)
}

/// Never the same twice.
pub(super) fn ids() -> impl FnMut() -> Identity {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    || Identity(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// What the array at work does for a takeover as of update 40.
fn turn(beta: &mut Array) {
    let group = g1(beta).number;
    beta.tables.primary_reached(group);
    beta.tables
        .takeover_done(group, UpdateNumber(40), UpdateNumber(41), Journal::BeginsAnew, &mut ids())
        .unwrap();
}

/// What the array at work does when it was overtaken: 3 updates are only there.
pub(super) fn count(alpha: &mut Array) {
    let Some(Takeover::Overtaken(other) | Takeover::Retaking(other)) = g1(alpha).takeover else {
        let Some(Takeover::Yielding(yielding)) = g1(alpha).takeover else { panic!("it was not overtaken") };
        return count_against(alpha, &yielding.to.generations);
    };
    count_against(alpha, &other.generations);
}

fn branch(array: &Array, theirs: &[Generation], last: u64) -> Branch {
    let generations = g1(array).generations;
    let (first, against) = parting(&generations, theirs, UpdateNumber(41)).unwrap();
    Branch { of: *generations.last().unwrap(), against, first, last: UpdateNumber(last), bytes: 4_096 }
}

fn count_against(alpha: &mut Array, theirs: &[Generation]) {
    let branch = branch(alpha, theirs, 43);
    let group = g1(alpha).number;
    let going = alpha.tables.pairs_of_group(group).filter(|pair| !pair.state.is_stopped());
    let pairs: Vec<PairNumber> = going.map(|pair| pair.number).collect();
    alpha.tables.branch_counted(group, &pairs, branch, &mut ids()).unwrap();
}

/// What the array at work does when it hears that the other one took over as well.
fn tell_rival(array: &mut Array) {
    let Some(Takeover::Taken(taken)) = g1(array).takeover else { panic!("it did not take over") };
    let branch = branch(array, &taken.rival.unwrap(), 50);
    let group = g1(array).number;
    array.tables.rival_told(group, branch, &mut ids());
}

pub(super) fn taken() -> (Array, Array) {
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
        let told =
            RemoteTakeover { group: "g1".parse().unwrap(), generations, knows: 1, is_complete, attempt: 1 };
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
    wild.push(Generation { counter: u64::MAX, ..own[0] });
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

/// Alpha was overtaken and has said what only it has.
pub(super) fn overtaken() -> (Array, Array) {
    let (mut alpha, mut beta) = taken();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    (alpha, beta)
}

/// What is on its way from an array to the other one, as one that was held up has it.
pub(super) fn held_up(array: &Array) -> Vec<ForwardRecord> {
    array.tables.forwards.iter().cloned().collect()
}

/// It is delivered after all, under another identity: the first one is forgotten.
fn late(from: &Array, messages: &[ForwardRecord], to: &mut Array) -> Vec<Result<Outcome, Refusal>> {
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    messages.iter().map(|one| to.apply(DesignationId(ids()()), &one.designation, &who)).collect()
}

/// The loser becomes the copy, and everything is copied: as if the two had never parted.
fn yields_to(loser: &mut Array, winner: &mut Array, link: &str, back: &str) {
    winner.say(fail_back(link)).unwrap();
    assert_eq!(deliver(winner, loser, link), 0);
    assert_eq!(state(loser), "yielding");
    if matches!(g1(loser).takeover, Some(Takeover::Yielding(yielding)) if yielding.to.branch.is_none()) {
        count(loser);
    }
    let group = g1(loser).number;
    loser.tables.yielded(group, &[], &mut ids());
    assert_eq!(deliver(loser, winner, back), 0);
    for array in [loser, winner] {
        let numbers: Vec<PairNumber> = array.tables.pairs.iter().map(|pair| pair.number).collect();
        for pair in numbers {
            let pair = array.tables.pairs.edit(&pair).unwrap();
            (pair.state, pair.control.asked, pair.control.is_written) = (PairState::Normal, None, false);
            (pair.control.is_image, pair.control.image) = (true, None);
        }
    }
}

/// As the arrays at work turn a group round behind update 60.
pub(super) fn turns_round(from: &mut Array, to: &mut Array, link: &str) {
    let (here, there) = (g1(from).number, g1(to).number);
    let reverse = Designation::ReverseGroup {
        group: "g1".parse().unwrap(),
        to: link.parse().unwrap(),
        wait: crate::volume::takeover::OTHERS_WAIT,
    };
    from.say(reverse).unwrap();
    from.tables.handed_over(here, UpdateNumber(60), &std::collections::BTreeMap::new(), ids()());
    assert_eq!(deliver(from, to, link), 0);
    to.tables.taken_over(there, &[], &mut ids());
    from.tables.left(here);
}

/// The operator of the old primary took it back and its hosts went on, while the message that names it as the loser waited.
#[test]
fn a_failback_names_one_branch_and_no_later_one_obeys_it() {
    let (mut alpha, mut beta) = overtaken();
    beta.say(fail_back("alpha")).unwrap();
    let first = held_up(&beta);
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert!(late(&beta, &first, &mut alpha).iter().all(Result::is_err));
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("split-brain", HostAccess::ReadWrite));
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0, "refused for good");
    // Beta hears of the rival. What alpha had said of itself is not what it has now.
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(state(&beta), "split-brain");
    assert!(beta.say(fail_back("alpha")).unwrap_err().to_string().contains("has not said"));
}

/// Beta took over, alpha took itself back, and beta was named as the loser; what beta said before comes after all.
#[test]
fn what_an_array_said_before_it_yielded_shuts_nobody_out_later() {
    let (mut alpha, mut beta) = taken();
    let mut said = held_up(&beta);
    let fence = RemoteTakeover { is_complete: false, ..told_takeover(&said[0]) };
    said.push(ForwardRecord { designation: Designation::RemoteTakeover(fence), ..said[0].clone() });
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    said.extend(held_up(&alpha));
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    both_tell(&mut alpha, &mut beta);
    yields_to(&mut beta, &mut alpha, "beta", "alpha");
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("", ""));

    let _ = late(&beta, &said[..2], &mut alpha);
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("", HostAccess::ReadWrite));
    // Nor in any role that the two have later: turned round, taken over again.
    turns_round(&mut alpha, &mut beta, "beta");
    let _ = late(&alpha, &said[2..], &mut beta);
    assert_eq!((state(&beta).as_str(), access(&beta, "copy1")), ("", HostAccess::ReadWrite));
    alpha.say(take_over()).unwrap();
    turn(&mut alpha);
    let _ = late(&beta, &said[..2], &mut alpha);
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("taken", HostAccess::ReadWrite));
    let Some(Takeover::Taken(taken)) = g1(&alpha).takeover else { panic!("it took over") };
    assert_eq!(taken.branch, None, "what beta had then is not what it has now");
    // What is true is believed.
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!((state(&beta).as_str(), access(&beta, "copy1")), ("overtaken", HostAccess::None));
}

/// Beta took over, alpha takes itself back, and beta is started with a copy of its control store from before: it believes that it copies alpha and has
/// nothing of its own. Alpha knows better, and gives up nothing by the name of that.
#[test]
fn what_an_array_has_is_not_given_up_because_it_has_forgotten_it() {
    let (mut alpha, mut beta) = normal();
    let older = beta.tables.clone();
    beta.say(take_over()).unwrap();
    turn(&mut beta);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    beta.tables = older;
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.retaken(group, UpdateNumber(43), &mut ids());
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("split-brain", ""));
    // Nor when it has read alpha's generations since.
    let of = *g1(&alpha).generations.last().unwrap();
    let branch = Branch { of, against: of, first: UpdateNumber(1), last: UpdateNumber(0), bytes: 0 };
    let what = Designation::RemoteBranch { group: "g1".parse().unwrap(), branch };
    let by_beta = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    alpha.apply(DesignationId(ids()()), &what, &by_beta).unwrap();
    let Some(Takeover::Taken(taken)) = g1(&alpha).takeover else { panic!("it is the primary") };
    assert_eq!(taken.branch, None);
    let refusal = alpha.say(fail_back("beta")).unwrap_err().to_string();
    assert!(refusal.contains("does not know what it would lose"), "{refusal}");
}

fn told_takeover(forward: &ForwardRecord) -> RemoteTakeover {
    match &forward.designation {
        Designation::RemoteTakeover(told) => told.clone(),
        other => panic!("{other}"),
    }
}

/// Both are primaries and have heard of each other: each says what only it has.
fn both_tell(alpha: &mut Array, beta: &mut Array) {
    for array in [&mut *alpha, &mut *beta] {
        assert_eq!(state(array), "split-brain");
        tell_rival(array);
    }
    assert_eq!(deliver(alpha, beta, "beta"), 0);
    assert_eq!(deliver(beta, alpha, "alpha"), 0);
}

/// What an S-VOL is is settled while an array takes over: its primary makes nothing else of it.
#[test]
fn nothing_that_the_primary_says_changes_the_copies_in_the_middle_of_a_takeover() {
    let (mut alpha, mut beta) = normal();
    beta.say(take_over()).unwrap();
    let group = g1(&beta).number;
    for _ in 0..2 {
        let resync = Designation::RemoteResync {
            pairs: vec![crate::volume::resync::ResyncedPair {
                pair: "p1".parse().unwrap(),
                withheld_from: None,
                rewritten_bytes: 0,
                image: crate::volume::designation::ImageWish::Without,
                copies: 0,
            }],
            from: UpdateNumber(7),
        };
        let reversal = crate::volume::reversal::RemoteReversal {
            group: "g1".parse().unwrap(),
            number: g1(&alpha).number,
            manner: crate::volume::reversal::Manner::Planned,
            last: UpdateNumber(40),
            generations: g1(&alpha).generations,
            journals: vec![("jnl".parse().unwrap(), JournalOptions::default())],
            pairs: vec!["p1".parse().unwrap(), "p2".parse().unwrap()],
            others: Vec::new(),
        };
        let mut generations = g1(&alpha).generations;
        generations.push(Generation { counter: 2, array: ArrayNumber(1), first: UpdateNumber(41) });
        let pair = |name: &str| crate::volume::onward::RemoteOnwardPair {
            name: name.parse().unwrap(),
            pvol: crate::volume::name::VolumeNumber(1),
            pvol_name: "data1".parse().unwrap(),
            origin: None,
            stopped: None,
        };
        let onward = crate::volume::onward::RemoteOnward {
            group: "g1".parse().unwrap(),
            number: g1(&alpha).number,
            last: UpdateNumber(40),
            generations,
            pairs: vec![pair("p1"), pair("p2")],
            gives_up: None,
            assumed: UpdateNumber(0),
            begins: None,
            told_by: None,
        };
        let delete = Designation::RemoteDeletePair { pair: "p1".parse().unwrap(), is_gone: false };
        let said = [resync, Designation::RemoteReverse(reversal), Designation::RemoteOnward(onward), delete];
        for what in said {
            let who = Who::Peer { array: ArrayNumber(1), from: "x".into() };
            let before = (g1(&beta), beta.tables.pairs.iter().cloned().collect::<Vec<_>>());
            let answer = beta.apply(DesignationId(ids()()), &what, &who);
            let text = answer.expect_err(&what.to_string()).to_string();
            assert!(text.contains("taken over"), "{what}: {text}");
            let after = (g1(&beta), beta.tables.pairs.iter().cloned().collect::<Vec<_>>());
            assert_eq!(after, before);
        }
        assert!(beta.say(Designation::DropImage { group: "g1".parse().unwrap() }).is_err());
        beta.tables.primary_reached(group); // And once more when that is restoring.
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
}

/// Two arrays that are told to take over from each other at once: each is asked to stop while it is on its way itself.
#[test]
fn an_array_that_takes_over_itself_is_overtaken_by_nobody() {
    let (alpha, mut beta) = normal();
    beta.say(link("gamma", 3)).unwrap();
    beta.say(take_over()).unwrap();
    let group = g1(&beta).number;
    for _ in 0..2 {
        // Who has taken its own primary back is another matter.
        for (array, is_complete) in [(1, false), (3, false), (3, true)] {
            let mut generations = g1(&alpha).generations;
            generations.push(Generation { counter: 2, array: ArrayNumber(array), first: UpdateNumber(41) });
            let told = RemoteTakeover {
                group: "g1".parse().unwrap(),
                generations,
                knows: 2,
                is_complete,
                attempt: 1,
            };
            let who = Who::Peer { array: ArrayNumber(array), from: "x".into() };
            let answer = beta.apply(DesignationId(ids()()), &Designation::RemoteTakeover(told), &who);
            assert!(answer.unwrap_err().to_string().contains("being taken over here"));
        }
        beta.tables.primary_reached(group);
    }
    assert_eq!(state(&beta), "restoring");
}

/// An old primary whose journal is gone can be given another one, and then becomes a copy; or is taken back.
#[test]
fn the_journal_of_an_array_that_was_overtaken_can_be_replaced() {
    let (mut alpha, mut beta) = taken();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    let group = g1(&alpha).number;
    for name in ["p1", "p2"] {
        let pair = number(&alpha, name);
        alpha.tables.pair_event(pair, PairEvent::Fail, Some("its journal failed".into())).unwrap();
    }
    alpha.tables.group_event(group, GroupEvent::Fail, Some("its journal failed".into())).unwrap();
    alpha.say(volume("jnl2")).unwrap();
    let replace = Designation::ReplaceJournal {
        group: "g1".parse().unwrap(),
        volume: "jnl".parse().unwrap(),
        by: "jnl2".parse().unwrap(),
    };
    alpha.say(replace).unwrap();
    assert_eq!((g1(&alpha).state, state(&alpha).as_str()), (GroupState::Normal, "overtaken"));
    let asked: Vec<Option<Asked>> = alpha.tables.pairs.iter().map(|pair| pair.control.asked).collect();
    assert_eq!(asked, [None, None], "nothing is copied to the array that took over");
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    yields_to(&mut alpha, &mut beta, "alpha", "beta");
}

/// A limit that nobody holds is refused, and not answered with success.
#[test]
fn a_limit_that_comes_behind_the_command_is_refused() {
    let (mut alpha, mut beta) = normal();
    let limited = |number| Designation::TakeOverGroup {
        group: "g1".parse().unwrap(),
        at_least: Some(UpdateNumber(number)),
    };
    let refusal = alpha.say(limited(1)).unwrap_err().to_string();
    assert!(refusal.contains("its primary already"), "{refusal}");
    beta.say(limited(30)).unwrap();
    beta.say(limited(30)).unwrap();
    beta.say(take_over()).unwrap();
    let refusal = beta.say(limited(31)).unwrap_err().to_string();
    assert!(refusal.contains("without this limit"), "{refusal}");
    turn(&mut beta);
    beta.say(limited(40)).expect("it has that");
    assert!(beta.say(limited(41)).is_err());
}
