//! Suspension, resync and deletion said at the auxiliary: every combination ends as it does when the primary's own
//! operator says it of that reader (promise J15).

use super::cascade::{link, three};
use super::written::normal;
use super::*;
use crate::volume::ask::AskedBy;
use crate::volume::designation::{Ask, ImageWish, SvolHosts, Which, Wish};
use crate::volume::name::{PairName, PairNumber};
use crate::volume::pair::Asked;
use crate::volume::timing::{RestoreStop, StopWish};

fn g1() -> GroupName {
    "g1".parse().unwrap()
}

fn suspend(which: Which, svol: SvolHosts) -> Designation {
    Designation::SuspendPairs { group: g1(), which, svol }
}

fn resync(which: Which, image: ImageWish) -> Designation {
    Designation::ResyncPairs { group: g1(), which, image }
}

fn one(name: &str) -> Which {
    Which::Pair(name.parse().unwrap())
}

fn reader() -> Which {
    Which::Reader("beta".parse().unwrap())
}

/// What is asked of all pairs, as the primary has noted it.
fn noted(array: &Array) -> Vec<(PairName, Option<Asked>, bool, bool)> {
    let noted = array.tables.pairs.iter().map(|pair| {
        (pair.name.clone(), pair.control.asked, pair.control.svol_write, pair.control.without_image)
    });
    noted.collect()
}

/// The pairs stop, as the array at work records it.
fn stopped(array: &mut Array) {
    let pairs: Vec<PairNumber> = array.tables.pairs.iter().map(|pair| pair.number).collect();
    let cause = crate::volume::pair::SuspendCause::Operator;
    let mut ids = 900;
    let mut identity = || {
        ids += 1;
        Identity(ids)
    };
    array.tables.pairs_suspended(&pairs, (cause, "by its operator"), UpdateNumber(0), &mut identity).unwrap();
}

fn forged(pair: Option<&str>, wish: Wish) -> Designation {
    let pair = pair.map(|name| name.parse().unwrap());
    Designation::AskPrimary(Ask { group: g1(), pair, wish, by: AskedBy::from("nobody".to_owned()) })
}

#[test]
fn what_is_said_at_the_auxiliary_is_done_as_if_the_primary_had_said_it() {
    let (keep, write) = (SvolHosts::Keep, SvolHosts::Write);
    let (with, without) = (ImageWish::Keep, ImageWish::Without);
    let delete = |which| Designation::DeletePairs { group: g1(), which };
    let leave = Designation::DeleteReader { group: g1(), link: "beta".parse().unwrap() };
    let whole = Designation::DeleteGroup { group: g1() };
    // Whether the pairs are suspended before; what is said at beta; what alpha would say.
    let table = [
        (false, suspend(Which::All, keep), suspend(reader(), keep)),
        (false, suspend(Which::All, write), suspend(reader(), write)),
        (false, suspend(one("p1"), keep), suspend(one("p1"), keep)),
        (false, suspend(one("p2"), write), suspend(one("p2"), write)),
        (true, resync(Which::All, with), resync(reader(), with)),
        (true, resync(Which::All, without), resync(reader(), without)),
        (true, resync(one("p1"), with), resync(one("p1"), with)),
        (true, suspend(Which::All, write), suspend(reader(), write)),
        (false, delete(Which::All), delete(reader())),
        (true, delete(one("p2")), delete(one("p2"))),
        (false, whole.clone(), leave.clone()),
        (true, whole, leave),
    ];
    for (is_stopped, at_beta, at_alpha) in table {
        let (mut alpha, mut beta) = normal();
        let (mut other, _) = normal();
        for array in [&mut alpha, &mut other] {
            if is_stopped {
                stopped(array);
            }
        }
        deliver(&mut alpha, &mut beta, "beta");
        deliver(&mut other, &mut normal().1, "beta");
        other.say(at_alpha).unwrap();
        let before = noted(&alpha);
        let id = DesignationId(Identity(7));
        let who = Who::Operator { name: "admin".into(), from: "10.0.0.9".into() };
        beta.apply(id, &at_beta, &who).unwrap();
        beta.apply(id, &at_beta, &who).unwrap();
        assert_eq!(beta.tables.forwards.len(), 1, "{at_beta}: said twice, asked once");
        assert_eq!(noted(&alpha), before, "{at_beta}: nothing is done before the link carries it");
        let told = beta.tables.forwards.iter().next().unwrap().designation.to_string();
        assert!(told.contains("admin from 10.0.0.9"), "{told}");
        assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0, "{at_beta}");
        assert_eq!(noted(&alpha), noted(&other), "{at_beta}");
        let leaving = |array: &Array| array.tables.readers.iter().map(|r| r.is_leaving).collect::<Vec<_>>();
        assert_eq!(leaving(&alpha), leaving(&other), "{at_beta}");
    }
}

#[test]
fn an_array_speaks_of_its_own_pairs_only() {
    let (mut alpha, _) = normal();
    alpha.say(link("gamma", 3)).unwrap();
    let gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    let wishes =
        [Wish::Suspend { svol: SvolHosts::Keep }, Wish::Resync { image: ImageWish::Keep }, Wish::Delete];
    for joined in [false, true] {
        if joined {
            alpha.say(pair("p3", "data1", "gamma:copy1")).unwrap();
        }
        for wish in wishes {
            for what in [forged(Some("p1"), wish), forged(Some("nothing"), wish)] {
                let id = DesignationId(Identity(77));
                assert!(alpha.apply(id, &what, &gamma).is_err(), "{what}, joined {joined}");
            }
            let all = alpha.apply(DesignationId(Identity(78)), &forged(None, wish), &gamma);
            assert_eq!(all.is_ok(), joined, "{wish:?}");
            alpha.tables.results.remove(&DesignationId(Identity(78)));
            let asked = |name: &str| alpha.tables.pair_named(&name.parse().unwrap()).unwrap().control.asked;
            assert_eq!((asked("p1"), asked("p2")), (None, None), "{wish:?} concerns gamma's pairs alone");
        }
    }
    for what in [suspend(Which::All, SvolHosts::Keep), Designation::DeleteGroup { group: g1() }] {
        assert!(alpha.apply(DesignationId(Identity(79)), &what, &gamma).is_err(), "{what}");
    }
    let own = alpha.apply(DesignationId(Identity(80)), &forged(None, Wish::Delete), &Who::Provision);
    assert!(own.is_err(), "an operator is no peer");
}

#[test]
fn a_refusal_there_is_the_end_of_it_and_nothing_is_left_here() {
    let (mut alpha, mut beta) = normal();
    alpha.say(Designation::DeletePairs { group: g1(), which: Which::All }).unwrap();
    let before = noted(&beta);
    beta.say(suspend(Which::All, SvolHosts::Keep)).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0, "not offered again");
    assert_eq!(noted(&beta), before);
    assert!(beta.say(suspend(one("nothing"), SvolHosts::Keep)).is_err(), "what is not here is refused here");
    assert!(beta.say(suspend(reader(), SvolHosts::Keep)).is_err(), "nobody reads it here");
}

#[test]
fn in_the_middle_of_a_cascade_a_name_says_which_pair_is_meant() {
    let (mut alpha, mut beta, mut gamma) = three();
    deliver(&mut alpha, &mut beta, "beta");
    beta.say(pair("p1c", "copy1", "gamma:copy1")).unwrap();
    deliver(&mut beta, &mut gamma, "gamma");
    deliver(&mut beta, &mut alpha, "alpha");
    let asked =
        |array: &Array, name: &str| array.tables.pair_named(&name.parse().unwrap()).unwrap().control.asked;
    beta.say(suspend(one("p1"), SvolHosts::Keep)).unwrap();
    deliver(&mut beta, &mut alpha, "alpha");
    assert!(asked(&alpha, "p1").is_some() && asked(&beta, "p1c").is_none());
    beta.say(Designation::DeletePairs { group: g1(), which: Which::All }).unwrap();
    assert_eq!(asked(&beta, "p1c"), Some(Asked::Delete), "its own verbs mean what it hands on");
    // At the end of the cascade the array in the middle is the primary.
    gamma.say(Designation::DeleteGroup { group: g1() }).unwrap();
    assert_eq!(deliver(&mut gamma, &mut beta, "beta"), 0);
    assert!(beta.tables.readers.iter().any(|reader| reader.is_leaving));
}

#[test]
fn a_group_that_its_primary_never_made_known_can_be_left() {
    for is_there in [false, true] {
        let (mut alpha, mut beta) = both();
        if is_there {
            alpha.say(group()).unwrap();
        }
        beta.say(follow()).unwrap();
        beta.say(journal("jnl", None)).unwrap();
        assert!(beta.say(suspend(Which::All, SvolHosts::Keep)).is_err(), "there is nothing yet");
        beta.say(Designation::DeleteGroup { group: g1() }).unwrap();
        settle(&mut alpha, &mut beta);
        assert!(beta.tables.groups.is_empty(), "{is_there}");
        let jnl = beta.tables.volume_named(&"jnl".parse().unwrap()).unwrap();
        assert_eq!(jnl.usage, VolumeUsage::Host, "{is_there}");
        assert!(alpha.tables.readers.is_empty(), "{is_there}");
    }
    // The primary's answer is on its way while the group is left.
    let (mut alpha, mut beta) = both();
    alpha.say(group()).unwrap();
    beta.say(follow()).unwrap();
    deliver(&mut beta, &mut alpha, "alpha");
    beta.say(Designation::DeleteGroup { group: g1() }).unwrap();
    settle(&mut alpha, &mut beta);
    assert!(beta.tables.groups.is_empty() && alpha.tables.readers.is_empty());
}

/// The stop that a suspension brings, at this number.
fn stop_of_suspension(number: u64) -> Designation {
    let wish = StopWish::At(RestoreStop::Number(UpdateNumber(number)));
    Designation::StopRestore { group: g1(), wish, for_suspension: true }
}

/// Both arrays with pairs whose S-VOLs are images, and beta's suspension on its way with its stop.
fn suspended_unheard() -> (Array, Array) {
    let (alpha, mut beta) = normal();
    for pair in beta.tables.pairs.iter().map(|pair| pair.number).collect::<Vec<_>>() {
        beta.tables.pairs.edit(&pair).unwrap().control.is_image = true;
    }
    beta.say(stop_of_suspension(7)).unwrap();
    beta.say(suspend(Which::All, SvolHosts::Keep)).unwrap();
    (alpha, beta)
}

fn stops(array: &Array) -> [Option<RestoreStop>; 2] {
    array.tables.group_named(&g1()).unwrap().restore_stops()
}

#[test]
fn what_a_primary_with_a_failed_store_may_have_noted_is_asked_again() {
    let (mut alpha, mut beta) = suspended_unheard();
    let asked = beta.tables.forwards.iter().next().unwrap().sequence;
    beta.tables.delivered(asked, &Err(Refusal::Store("its disk failed".to_owned())));
    let waiting = beta.tables.forwards.iter().next().expect("it may be durable there");
    assert!(waiting.refusal.as_ref().is_some_and(|why| why.contains("its disk failed")));
    assert_ne!(stops(&beta), [None; 2]);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert!(noted(&alpha).iter().all(|(_, asked, _, _)| asked.is_some()));
}

/// What the owner task does, then everything on its way between both.
fn told(alpha: &mut Array, beta: &mut Array) {
    let mut ids = 7_000;
    alpha.tables.tell_ended_suspensions(&mut || {
        ids += 1;
        Identity(ids)
    });
    deliver(alpha, beta, "beta");
}

fn set_state(array: &mut Array, name: &str, state: PairState) {
    let number = array.tables.pair_named(&name.parse().unwrap()).unwrap().number;
    array.tables.pairs.edit(&number).unwrap().state = state;
}

#[test]
fn a_stop_goes_when_the_primary_suspends_less_than_was_asked() {
    // What happens at the primary: its pairs cannot be stopped; its operator has them go on; they go; one is new.
    for case in 0..4 {
        let (mut alpha, mut beta) = suspended_unheard();
        if case == 0 {
            set_state(&mut alpha, "p1", PairState::Abnormal);
            set_state(&mut alpha, "p2", PairState::Abnormal);
        }
        deliver(&mut beta, &mut alpha, "alpha");
        match case {
            0 => {}
            1 => {
                told(&mut alpha, &mut beta);
                assert_ne!(stops(&beta), [None; 2], "they are to be stopped still");
                alpha.say(resync(Which::All, ImageWish::Keep)).unwrap();
            }
            2 => drop(alpha.say(Designation::DeletePairs { group: g1(), which: Which::All }).unwrap()),
            _ => {
                stopped(&mut alpha);
                // Another one goes on at the auxiliary: pair states alone would say that the stop is needed.
                set_state(&mut beta, "p2", PairState::Normal);
            }
        }
        told(&mut alpha, &mut beta);
        assert_eq!(stops(&beta), [None; 2], "case {case}");
        assert!(alpha.tables.readers.iter().all(|reader| reader.awaits_suspension.is_none()));
    }
}

#[test]
fn a_stop_goes_with_the_pairs_that_are_taken_away() {
    let (mut alpha, mut beta) = suspended_unheard();
    deliver(&mut beta, &mut alpha, "alpha");
    assert_ne!(stops(&beta), [None; 2]);
    let primary = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    for (id, pair) in [(31, "p1"), (32, "p2")] {
        let gone = Designation::RemoteDeletePair { pair: pair.parse().unwrap(), is_gone: false };
        beta.apply(DesignationId(Identity(id)), &gone, &primary).unwrap();
    }
    assert_eq!(stops(&beta), [None; 2], "else none of them could be taken out of restore");
}

#[test]
fn a_stop_outlives_what_does_not_answer_its_suspension() {
    let (mut alpha, mut beta) = suspended_unheard();
    // An overflow stops all pairs before the primary has heard; a resync of one pair; one pair's ask is refused.
    stopped(&mut alpha);
    deliver(&mut alpha, &mut beta, "beta");
    assert_ne!(stops(&beta), [None; 2], "suspended, but not as it was asked");
    beta.say(resync(one("p1"), ImageWish::Keep)).unwrap();
    assert_ne!(stops(&beta), [None; 2]);
    beta.say(suspend(one("p2"), SvolHosts::Keep)).unwrap();
    let of_pair = beta.tables.forwards.iter().last().unwrap().sequence;
    beta.tables.delivered(of_pair, &Err(Refusal::conflict("no")));
    assert_ne!(stops(&beta), [None; 2], "it was not about all pairs");
    let all = beta.tables.forwards.iter().next().unwrap().sequence;
    beta.tables.delivered(all, &Err(Refusal::conflict("no")));
    assert_eq!(stops(&beta), [None; 2]);
}

/// The refusal of a second one once took the stop of the first away, which the primary had noted and not carried out yet.
#[test]
fn a_stop_outlives_the_refusal_of_what_was_said_again() {
    for is_over_before in [false, true] {
        let (mut alpha, mut beta) = suspended_unheard();
        deliver(&mut beta, &mut alpha, "alpha");
        assert_ne!(stops(&beta), [None; 2], "noted, not carried out");
        beta.apply(DesignationId(Identity(71)), &suspend(Which::All, SvolHosts::Keep), &Who::Provision)
            .unwrap();
        let again = beta.tables.forwards.iter().last().unwrap().sequence;
        if is_over_before {
            stopped(&mut alpha);
            told(&mut alpha, &mut beta);
            assert_ne!(stops(&beta), [None; 2], "the second one has not been answered");
        }
        beta.tables.delivered(again, &Err(Refusal::conflict("no")));
        assert_eq!(stops(&beta) != [None; 2], !is_over_before, "as long as the first one is not over");
        stopped(&mut alpha);
        told(&mut alpha, &mut beta);
        assert_eq!(stops(&beta), [None; 2]);
        assert!(!beta.tables.group_named(&g1()).unwrap().suspension_is_accepted, "nothing is left of it");
    }
}

/// The end of a suspension once left its stop in place for good, when the answer to its request was on its way still.
#[test]
fn a_stop_goes_with_its_suspension_also_before_the_answer_has_come() {
    let (mut alpha, mut beta) = suspended_unheard();
    let forward = beta.tables.forwards.iter().next().unwrap().clone();
    let who = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    let answer = alpha.apply(forward.id, &forward.designation, &who);
    stopped(&mut alpha);
    told(&mut alpha, &mut beta);
    assert_eq!(stops(&beta), [None; 2]);
    beta.tables.delivered(forward.sequence, &answer);
    assert!(!beta.tables.group_named(&g1()).unwrap().suspension_is_accepted, "nothing more comes of it");
}

#[test]
fn a_group_that_its_primary_forgot_with_its_last_pair_can_be_left() {
    let (mut alpha, mut beta) = normal();
    let pairs: Vec<PairNumber> = beta.tables.pairs.iter().map(|pair| pair.number).collect();
    for (id, pair) in (50..).zip(pairs) {
        beta.tables.pair_is_gone(pair, Identity(id));
    }
    let keys: Vec<_> = alpha.tables.readers.iter().map(|reader| (reader.group, reader.array)).collect();
    for key in keys {
        alpha.tables.readers.remove(&key);
    }
    beta.say(Designation::DeleteGroup { group: g1() }).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert!(beta.tables.group_named(&g1()).is_none());
}

#[test]
fn a_linked_array_that_asks_again_and_again_leaves_nothing_behind_in_the_store() {
    let (mut alpha, mut beta) = normal();
    for _ in 0..5 {
        beta.say(suspend(Which::All, SvolHosts::Keep)).unwrap();
        deliver(&mut beta, &mut alpha, "alpha");
        let again = alpha.tables.pairs.iter().any(|pair| pair.control.asked.is_some());
        if again {
            stopped(&mut alpha);
        }
        let mut id = 600;
        alpha.tables.tell_ended_suspensions(&mut || {
            id += 1;
            Identity(id)
        });
    }
    // One for each pair, and one for the end of the suspension.
    assert_eq!(alpha.tables.forwards.iter().count(), 3);
    // What it leaves without being in it is told once, too.
    let reader = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    for id in 0..5 {
        let leave = Designation::AskPrimary(Ask {
            group: "other".parse().unwrap(),
            pair: None,
            wish: Wish::Leave,
            by: AskedBy::from(String::new()),
        });
        alpha.apply(DesignationId(Identity(800 + id)), &leave, &reader).unwrap();
    }
    assert_eq!(alpha.tables.forwards.iter().count(), 4);
    // Also when its primary does suspend them again, for another reason.
    stopped(&mut alpha);
    assert_eq!(alpha.tables.forwards.iter().count(), 4);
}

#[test]
fn the_stop_of_a_suspension_counts_beside_that_of_an_operator() {
    let (_, mut beta) = suspended_unheard();
    let at = |number| Some(RestoreStop::Number(UpdateNumber(number)));
    let wish = StopWish::At(RestoreStop::Number(UpdateNumber(9)));
    beta.say(Designation::StopRestore { group: g1(), wish, for_suspension: false }).unwrap();
    assert_eq!(stops(&beta), [at(9), at(7)], "neither takes the place of the other");
    beta.say(resync(Which::All, ImageWish::Keep)).unwrap();
    assert_eq!(stops(&beta), [at(9), None]);
    beta.say(stop_of_suspension(8)).unwrap();
    let wish = StopWish::GoOn;
    beta.say(Designation::StopRestore { group: g1(), wish, for_suspension: false }).unwrap();
    assert_eq!(stops(&beta), [None; 2]);
}

#[test]
fn a_stop_that_came_of_a_suspension_goes_when_the_primary_has_heard_of_it() {
    let stop = Designation::StopRestore {
        group: g1(),
        wish: StopWish::At(RestoreStop::Number(UpdateNumber(7))),
        for_suspension: true,
    };
    let own = |array: &Array| array.tables.group_named(&g1()).unwrap().restore_stops() != [None; 2];
    // All pairs suspended there; refused there; resynchronised here instead.
    for case in 0..3 {
        let (mut alpha, mut beta) = normal();
        for array in [&mut alpha, &mut beta] {
            let pairs: Vec<PairNumber> = array.tables.pairs.iter().map(|pair| pair.number).collect();
            for pair in pairs {
                array.tables.pairs.edit(&pair).unwrap().control.is_image = true;
            }
        }
        beta.say(stop.clone()).unwrap();
        beta.say(suspend(Which::All, SvolHosts::Keep)).unwrap();
        assert!(own(&beta));
        match case {
            0 => {
                deliver(&mut beta, &mut alpha, "alpha");
                assert!(own(&beta), "asked for, not done yet");
                stopped(&mut alpha);
                deliver(&mut alpha, &mut beta, "beta");
            }
            1 => {
                alpha.say(Designation::DeletePairs { group: g1(), which: Which::All }).unwrap();
                deliver(&mut beta, &mut alpha, "alpha");
            }
            _ => drop(beta.say(resync(Which::All, ImageWish::Keep)).unwrap()),
        }
        assert!(!own(&beta), "case {case}");
    }
    // One that an operator said stays.
    let (mut alpha, mut beta) = normal();
    for pair in beta.tables.pairs.iter().map(|pair| pair.number).collect::<Vec<_>>() {
        beta.tables.pairs.edit(&pair).unwrap().control.is_image = true;
    }
    let Designation::StopRestore { group, wish, .. } = stop else { unreachable!() };
    beta.say(Designation::StopRestore { group, wish, for_suspension: false }).unwrap();
    stopped(&mut alpha);
    deliver(&mut alpha, &mut beta, "beta");
    assert!(own(&beta));
}
