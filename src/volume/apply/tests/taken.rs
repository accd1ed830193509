//! What was found in takeovers, reversals and rejoining by reading them with hostile eyes (decisions 17 and 19): each story here once ended
//! in a group that nobody could take over, reverse or move any more.

use super::onward::{link, three, turn};
use super::takeover::{
    access, count, fail_back, g1, held_up, ids, overtaken, state, take_over, taken, turns_round,
};
use super::written::{normal, number};
use super::*;
use crate::volume::apply::rejoin::{check_joining, give_up_lead};
use crate::volume::apply::taken::Journal;
use crate::volume::designation::Which;
use crate::volume::group::SegmentRecord;
use crate::volume::name::{PairNumber, VolumeNumber};
use crate::volume::rejoin::{Has, JoinOnward, RemoteRejoin};
use crate::volume::resync::TakeoverPoint;
use crate::volume::takeover::{OTHERS_WAIT, RemoteTakeover, Takeover};
use crate::volume::timing::{RestoreStop, StopWish};

/// What an array that is about to take over says to the primary.
fn fence(from: &Array, to: &mut Array) -> Result<Outcome, Refusal> {
    let told = RemoteTakeover {
        group: "g1".parse().unwrap(),
        generations: g1(from).generations,
        knows: g1(from).largest_counter(),
        is_complete: false,
        attempt: g1(from).attempts,
    };
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    to.apply(DesignationId(ids()()), &Designation::RemoteTakeover(told), &who)
}

/// Alpha was fenced, took itself back and failed back to beta, which had been its copy all along.
#[test]
fn an_array_that_was_failed_back_to_while_it_was_a_copy_can_take_over_again() {
    let (mut alpha, mut beta) = normal();
    beta.say(take_over()).unwrap();
    fence(&beta, &mut alpha).unwrap();
    let (here, there) = (g1(&alpha).number, g1(&beta).number);
    beta.tables.takeover_given_up(there, ids()());
    alpha.say(take_over()).unwrap();
    count(&mut alpha);
    alpha.tables.retaken(here, UpdateNumber(43), &mut ids());
    deliver(&mut alpha, &mut beta, "beta");
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    alpha.say(fail_back("beta")).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("", ""));
    beta.say(take_over()).unwrap();
    assert_eq!(fence(&beta, &mut alpha), Ok(Outcome::Done), "alpha lives, and is to be shut first");
    assert_eq!(state(&alpha), "fenced");
}

fn point(array: &Array) -> Option<u64> {
    match array.tables.takeover_point(g1(array).number, None) {
        Ok(TakeoverPoint::Volumes(number)) => Some(number.0),
        Ok(TakeoverPoint::Image(_)) | Err(_) => None,
    }
}

/// As the array at work formats its journal where its source says.
fn journal_begins(array: &mut Array, first: u64) {
    let (group, volume) = (g1(array).number, g1(array).journals[0].volume);
    let segment = SegmentRecord { volume, incarnation: Identity(9), first: UpdateNumber(first) };
    array.tables.journal_is_in(group, vec![segment], None).unwrap();
}

/// The new primary is lost before the journal of the old one has begun: nobody knew any more of which number the old one's volumes are.
#[test]
fn who_has_just_been_turned_into_a_copy_is_an_image_of_the_last_number_and_takes_over_from_it() {
    let (mut alpha, mut beta) = normal();
    turns_round(&mut alpha, &mut beta, "beta");
    assert_eq!(point(&alpha), Some(60));
    let copy = alpha.tables.clone();
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    alpha.tables.primary_reached(group);
    alpha
        .tables
        .takeover_done(group, UpdateNumber(60), UpdateNumber(u64::MAX), Journal::BeginsAnew, &mut ids())
        .unwrap();
    assert_eq!((state(&alpha).as_str(), access(&alpha, "data1")), ("taken", HostAccess::ReadWrite));
    let newest = *g1(&alpha).generations.last().unwrap();
    assert_eq!(newest.first, UpdateNumber(61));
    assert!(newest.counter > g1(&beta).generations.last().unwrap().counter);

    // With the journal the number moves: but not over a gap.
    for (first, expected) in [(61, None), (75, Some(60))] {
        let mut copy = Array { tables: copy.clone(), ids: 1 };
        journal_begins(&mut copy, first);
        assert_eq!(point(&copy), expected, "{first}");
    }
}

#[test]
fn another_reader_that_has_just_gone_on_from_the_new_primary_is_an_image_of_the_last_number() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    turn(&mut alpha, &mut beta).unwrap();
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(point(&gamma), Some(40));
    journal_begins(&mut gamma, 41);
    let restored = Some(UpdateNumber(55));
    let found = gamma.tables.takeover_point(g1(&gamma).number, restored);
    assert_eq!(found, Ok(TakeoverPoint::Volumes(UpdateNumber(55))), "it follows its journal");
}

fn delete_reader(link: &str) -> Designation {
    Designation::DeleteReader { group: "g1".parse().unwrap(), link: link.parse().unwrap() }
}

/// Alpha, which gamma reads too, was overtaken by beta, and has said what only it has.
fn overtaken_of_three() -> (Array, Array, Array) {
    let (mut alpha, mut beta, gamma) = three(true);
    beta.say(take_over()).unwrap();
    let group = g1(&beta).number;
    beta.tables.primary_reached(group);
    beta.tables
        .takeover_done(group, UpdateNumber(40), UpdateNumber(41), Journal::BeginsAnew, &mut ids())
        .unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    (alpha, beta, gamma)
}

/// Gamma is dead, so it never says that it has left, and never answers that its pairs go.
#[test]
fn an_overtaken_primary_yields_when_its_operator_has_taken_a_dead_reader_away() {
    let (mut alpha, mut beta, _) = overtaken_of_three();
    beta.say(fail_back("alpha")).unwrap();
    deliver(&mut beta, &mut alpha, "alpha");
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("overtaken", "taken"));
    alpha.say(delete_reader("gamma")).unwrap();
    let numbers = ["p1-gamma", "p2-gamma"].map(|name| number(&alpha, name));
    numbers.iter().for_each(|pair| alpha.tables.deletion_sent(*pair, ids()()));
    beta.say(fail_back("alpha")).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!(state(&alpha), "yielding");
    let group = g1(&alpha).number;
    alpha.tables.yielded(group, &[], &mut ids());
    assert_eq!(alpha.tables.readers.len(), 0);
    assert_eq!(alpha.tables.pairs_of_group(group).count(), 2);
    assert_eq!(alpha.tables.forwards_to(&"gamma".parse().unwrap()).count(), 0, "that is beta's now");
}

/// What the array at work does with pairs that shall go and are cut off.
fn pairs_go(array: &mut Array) {
    let leaving = array.tables.pairs.iter().filter(|pair| pair.is_leaving()).map(|pair| pair.number);
    let leaving: Vec<PairNumber> = leaving.collect();
    leaving.into_iter().for_each(|pair| array.tables.pair_is_gone(pair, ids()()));
}

/// Alpha has burnt. Its pairs are taken away at beta.
#[test]
fn a_takeover_is_over_when_the_array_that_was_overtaken_is_taken_away() {
    let group = || "g1".parse().unwrap();
    let orders = [delete_reader("alpha"), Designation::DeletePairs { group: group(), which: Which::All }];
    for order in orders {
        for has_spoken in [false, true] {
            let (alpha, mut beta) = if has_spoken { overtaken() } else { taken() };
            let largest = g1(&beta).largest_counter();
            if has_spoken {
                beta.say(fail_back("alpha")).unwrap();
            }
            beta.say(order.clone()).unwrap();
            assert!(state(&beta) == "taken", "not before they are gone");
            pairs_go(&mut beta);
            assert_eq!((state(&beta).as_str(), access(&beta, "copy1")), ("", HostAccess::ReadWrite));
            assert!(g1(&beta).largest_counter() >= largest);
            assert_eq!(beta.tables.readers.len(), 0);
            let said = held_up(&beta);
            let is_known = |what: &Designation| {
                matches!(what, Designation::RemoteTakeover(_) | Designation::RemoteRejoin(_))
            };
            assert!(said.iter().all(|one| is_known(&one.designation)), "{said:?}");
            // Should it come back after all, it is shut.
            let mut alpha = if has_spoken { alpha } else { normal().0 };
            deliver(&mut beta, &mut alpha, "alpha");
            assert_eq!(access(&alpha, "data1"), HostAccess::None);
        }
    }
}

/// Its pairs with alpha are gone, and beta may be turned round to gamma again, or fail back to it.
#[test]
fn behind_the_end_of_a_takeover_the_group_is_turned_round_like_any_other() {
    let (_, mut beta, _) = overtaken_of_three();
    let reverse = |to: &str| Designation::ReverseGroup {
        group: "g1".parse().unwrap(),
        to: to.parse().unwrap(),
        wait: OTHERS_WAIT,
    };
    assert!(beta.say(reverse("gamma")).unwrap_err().to_string().contains("takeover"));
    beta.say(delete_reader("alpha")).unwrap();
    pairs_go(&mut beta);
    let refusal = beta.say(reverse("gamma")).unwrap_err().to_string();
    assert!(refusal.contains("reader"), "gamma has not been taken on yet: {refusal}");
    let refusal = beta.say(fail_back("gamma")).unwrap_err().to_string();
    assert!(refusal.contains("reader"), "{refusal}");
}

fn rejoin(from: &Array, former: u32, to: &mut Array) -> Result<Outcome, Refusal> {
    let told = RemoteRejoin {
        group: "g1".parse().unwrap(),
        former: ArrayNumber(former),
        generations: g1(from).generations,
        by: None,
        asks: false,
        knows: 0,
    };
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    to.apply(DesignationId(ids()()), &Designation::RemoteRejoin(told), &who)
}

/// It waits for its operator, and its operator was refused.
#[test]
fn a_reader_that_goes_on_from_another_array_is_let_on_and_given_a_journal_by_its_operator() {
    let (_, beta, mut gamma) = overtaken_of_three();
    let here = g1(&gamma).number;
    gamma.tables.groups.edit(&here).unwrap().restore_stop = Some(RestoreStop::Number(UpdateNumber(7)));
    rejoin(&beta, 1, &mut gamma).unwrap();
    assert_eq!(state(&gamma), "moving");
    let group = || "g1".parse().unwrap();
    let stop = |wish| Designation::StopRestore { group: group(), wish, for_suspension: false };
    let refused = gamma.say(stop(StopWish::At(RestoreStop::Number(UpdateNumber(3))))).unwrap_err();
    assert!(refused.to_string().contains("moving"), "{refused}");
    gamma.say(stop(StopWish::GoOn)).unwrap();
    assert_eq!(g1(&gamma).restore_stops(), [None; 2]);

    gamma.tables.group_event(here, GroupEvent::Fail, Some("its journal failed".into())).unwrap();
    gamma.say(volume("jnl2")).unwrap();
    gamma.say(journal("jnl2", None)).unwrap();
    gamma.say(volume("jnl3")).unwrap();
    let (volume, by) = ("jnl".parse().unwrap(), "jnl3".parse().unwrap());
    gamma.say(Designation::ReplaceJournal { group: group(), volume, by }).unwrap();
    assert_eq!((g1(&gamma).state, state(&gamma).as_str()), (GroupState::Normal, "moving"));
    gamma.say(Designation::RemoveJournal { group: group(), volume: "jnl2".parse().unwrap() }).unwrap();
    let all = Which::All;
    assert!(gamma.say(Designation::DeletePairs { group: group(), which: all }).is_err());
    assert!(matches!(g1(&gamma).takeover, Some(Takeover::Moving(_))));
}

/// What a reader that has stopped says to the array that it is told to go on from.
fn asks(reader: &mut Array) -> JoinOnward {
    let group = g1(reader).number;
    reader.tables.asks_to_join(group, Has::of(UpdateNumber(40)), ids()());
    let asked = reader.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::JoinOnward(told) => Some(told.clone()),
        _ => None,
    });
    asked.unwrap()
}

/// As the array at work does it.
fn takes_on(primary: &mut Array, reader: u32, told: &JoinOnward) -> Result<(), Refusal> {
    let who = Who::Peer { array: ArrayNumber(reader), from: "test".into() };
    let (group, former, onward) = check_joining(&primary.tables, told, &who)?;
    let numbers = primary.tables.reserve_pair_numbers(onward.pairs.len())?;
    primary.tables.take_on(group, &onward, former, &numbers, ids()());
    Ok(())
}

/// Gamma asked beta, was called back by alpha before it heard the answer, let hosts write its S-VOLs, and is told once more. What beta
/// marked for it rests on what it said first.
#[test]
fn what_was_judged_by_an_earlier_word_is_not_believed() {
    let (_, mut beta, mut gamma) = overtaken_of_three();
    rejoin(&beta, 1, &mut gamma).unwrap();
    let told = asks(&mut gamma);
    takes_on(&mut beta, 3, &told).unwrap();
    let here = g1(&beta).number;
    // As the array at work judged it: what is marked there is all that it lacks.
    let is_answer = |forward: &&mut Designation| matches!(forward, Designation::RemoteOnward(_));
    let number =
        beta.tables.forwards.iter().find(|one| matches!(one.designation, Designation::RemoteOnward(_)));
    let sequence = number.unwrap().sequence;
    let mut forward = beta.tables.forwards.edit(&sequence).map(|one| &mut one.designation).filter(is_answer);
    let Some(Designation::RemoteOnward(answer)) = forward.as_mut() else { panic!("it was taken on") };
    answer.assumed = UpdateNumber(40);
    // Told once more without having been called back, it has been at rest all along.
    let mut at_rest = Array { tables: gamma.tables.clone(), ids: 1 };
    let mut row = g1(&beta);
    row.generations.last_mut().unwrap().counter += 1;
    let mut newer = Array { tables: beta.tables.clone(), ids: 1 };
    newer.tables.groups.put(row);
    rejoin(&newer, 1, &mut at_rest).unwrap();
    asks(&mut at_rest);
    let mut other = Array { tables: beta.tables.clone(), ids: 1 };
    assert_eq!(deliver(&mut other, &mut at_rest, "gamma"), 0);
    assert_eq!(state(&at_rest), "");

    let group = g1(&gamma).number;
    gamma.tables.groups.edit(&group).unwrap().takeover = None;
    rejoin(&beta, 1, &mut gamma).unwrap();
    asks(&mut gamma);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 1, "it is offered again");
    assert!(beta.tables.readers.get(&(here, ArrayNumber(3))).unwrap().is_lacking);
    assert_eq!(state(&gamma), "moving");
    beta.tables.lacks_are_marked(here, ArrayNumber(3), "all of it differs");
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(state(&gamma), "");
}

/// Alpha's pairs were taken away at beta before gamma came, which names volumes as alpha did.
#[test]
fn a_reader_that_comes_when_the_pairs_with_its_old_primary_are_gone_is_taken_on() {
    let (_, mut beta, mut gamma) = overtaken_of_three();
    rejoin(&beta, 1, &mut gamma).unwrap();
    let told = asks(&mut gamma);
    beta.say(delete_reader("alpha")).unwrap();
    let refusal = takes_on(&mut beta, 3, &told).unwrap_err().to_string();
    assert!(refusal.contains("being taken away"), "nobody journals the volume in between: {refusal}");
    pairs_go(&mut beta);
    let copy1 = beta.tables.volume_named(&"copy1".parse().unwrap()).unwrap().clone();
    assert_eq!(copy1.state, VolumeState::Normal);

    let mut strange = told.clone();
    strange.pairs[0].pvol = VolumeNumber(4_711);
    assert!(takes_on(&mut beta, 3, &strange).unwrap_err().to_string().contains("not copied here"));
    let mut grown = beta.tables.clone();
    grown.volumes.edit(&copy1.number).unwrap().size_bytes += 4_096;
    let mut other = Array { tables: grown, ids: 1 };
    assert!(takes_on(&mut other, 3, &told).is_err(), "it is not what it was");

    takes_on(&mut beta, 3, &told).unwrap();
    let pair = beta.tables.pair_named(&"p1-gamma".parse().unwrap()).unwrap();
    assert_eq!((pair.primary.volume, pair.state), (Some(copy1.number), PairState::Suspended));
    assert_eq!(beta.tables.volumes.get(&copy1.number).unwrap().state, VolumeState::Main);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert!(matches!(g1(&gamma).role, GroupRole::Auxiliary { source: ArrayNumber(2), .. }));
    assert_eq!(state(&gamma), "");
    // It says where its journal is, in case that was replaced meanwhile.
    assert_eq!(deliver(&mut gamma, &mut beta, "beta"), 0);
    assert_eq!(g1(&beta).remote_journals.len(), 1);
}

/// Beta, to which gamma was about to go, is overtaken by delta, which had gone there before.
#[test]
fn a_reader_that_was_about_to_go_on_from_an_array_that_is_overtaken_itself_goes_on_from_the_next() {
    let (_, beta, mut gamma) = overtaken_of_three();
    gamma.say(link("delta", 4)).unwrap();
    let away = gamma.tables.clone();
    rejoin(&beta, 1, &mut gamma).unwrap();
    asks(&mut gamma);
    let mut delta = Array::new(4, "delta");
    let mut row = g1(&beta);
    let (counter, array, first) = (g1(&beta).largest_counter() + 1, ArrayNumber(4), UpdateNumber(70));
    row.generations.push(crate::volume::group::Generation { counter, array, first });
    delta.tables.groups.put(row);
    // It has heard of beta, or was away for all of that.
    for tables in [gamma.tables.clone(), away] {
        let mut gamma = Array { tables, ids: 1 };
        rejoin(&delta, 2, &mut gamma).unwrap();
        let Some(Takeover::Moving(moving)) = g1(&gamma).takeover else { panic!("{}", state(&gamma)) };
        assert_eq!((moving.array, moving.has), (ArrayNumber(4), None), "it asks there");
        let is_asking = |what: &Designation| matches!(what, Designation::JoinOnward(_));
        assert!(!gamma.tables.forwards.iter().any(|one| is_asking(&one.designation)));
        rejoin(&beta, 1, &mut gamma).unwrap();
        assert!(matches!(g1(&gamma).takeover, Some(Takeover::Moving(now)) if now == moving), "that is older");
    }
    // A reader of another array is told nothing by that.
    let mut below = Array { tables: gamma.tables.clone(), ids: 1 };
    let here = g1(&gamma).number;
    let row = below.tables.groups.edit(&here).unwrap();
    row.takeover = None;
    row.role =
        GroupRole::Auxiliary { link: "x".parse().unwrap(), source: ArrayNumber(9), remote: Some(here) };
    assert_eq!(rejoin(&delta, 2, &mut below), Ok(Outcome::Done));
    assert_eq!(state(&below), "");
}

/// Gamma went on from beta and then took over from it; delta, which still copies alpha, names the volumes as alpha did.
#[test]
fn whoever_copied_an_array_before_knows_the_volumes_by_its_numbers() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    turn(&mut alpha, &mut beta).unwrap();
    let data1 = alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().number;
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    gamma.say(take_over()).unwrap();
    let here = g1(&gamma).number;
    gamma.tables.primary_reached(here);
    gamma
        .tables
        .takeover_done(here, UpdateNumber(40), UpdateNumber(41), Journal::BeginsAnew, &mut ids())
        .unwrap();
    gamma.say(link("delta", 4)).unwrap();
    let mut told = JoinOnward {
        group: "g1".parse().unwrap(),
        number: here,
        former: ArrayNumber(1),
        generations: vec![g1(&gamma).generations[0]],
        has: UpdateNumber(12),
        are_all_normal: true,
        contains: UpdateNumber(12),
        told_by: None,
        journals: Vec::new(),
        pairs: Vec::new(),
    };
    told.pairs.push(crate::volume::onward::OnwardPair {
        name: "p1-delta".parse().unwrap(),
        pvol: data1,
        svol: crate::volume::pair::PairSide {
            array: ArrayNumber(4),
            volume: Some(VolumeNumber(77)),
            name: None,
        },
        stopped: Some(crate::volume::onward::Stopped {
            cause: Some(crate::volume::pair::SuspendCause::Operator),
            reason: String::new(),
            goes_on: true,
            told: false,
            withheld_from: None,
            runs: Vec::new(),
            reaches: None,
        }),
    });
    takes_on(&mut gamma, 4, &told).unwrap();
    let copy1 = gamma.tables.volume_named(&"copy1".parse().unwrap()).unwrap().number;
    let pair = gamma.tables.pair_named(&"p1-delta".parse().unwrap()).unwrap();
    assert_eq!(pair.primary.volume, Some(copy1));
}

/// Gamma has three updates of alpha that beta had not, and beta's operator gave them up. Numbers from 41 on are beta's now: gamma's S-VOLs
/// were once said to be of number 43 of the new history, which they have nothing of.
#[test]
fn what_was_given_up_is_counted_for_nothing_of_the_new_history() {
    let (_, mut beta, mut gamma) = overtaken_of_three();
    rejoin(&beta, 1, &mut gamma).unwrap();
    let mut told = asks(&mut gamma);
    let group = g1(&gamma).number;
    gamma.tables.asks_to_join(group, Has::of(UpdateNumber(43)), ids()());
    told.has = UpdateNumber(43);
    let (here, link) = (g1(&beta).number, "gamma".parse().unwrap());
    assert_eq!(beta.tables.note_lead(here, &told, ArrayNumber(3)), 3);
    assert!(give_up_lead(&mut beta.tables, here, &link));
    takes_on(&mut beta, 3, &told).unwrap();
    // As the array at work does it: everything is restored. One pair was copied once and has an image still, of a number of its own.
    gamma.tables.stop_images(group, Some(UpdateNumber(43)));
    let p1 = number(&gamma, "p1-gamma");
    gamma.tables.pairs.edit(&p1).unwrap().control.image = Some(UpdateNumber(42));
    gamma.tables.pairs.edit(&p1).unwrap().control.had_from_elsewhere = UpdateNumber(41);
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!(g1(&gamma).generations, g1(&beta).generations);
    assert_eq!(point(&gamma), Some(40), "as far as the two have the same");
    let control = |gamma: &Array| gamma.tables.pairs.get(&p1).unwrap().control.clone();
    assert_eq!(
        (control(&gamma).image, control(&gamma).had_from_elsewhere),
        (Some(UpdateNumber(40)), UpdateNumber(40))
    );
    // Its image is kept, and it is copied: that is what a takeover goes back to.
    gamma.tables.pairs.edit(&p1).unwrap().control.is_image = false;
    let found = gamma.tables.takeover_point(group, None);
    assert_eq!(found, Ok(TakeoverPoint::Image(UpdateNumber(40))));
    // What is below 41 stays what it is.
    assert_eq!(
        gamma.tables.pairs.get(&number(&gamma, "p2-gamma")).unwrap().control.stopped_at,
        Some(UpdateNumber(40))
    );
}
