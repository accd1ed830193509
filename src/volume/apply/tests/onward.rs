//! The other readers of a group go on from its new primary (decision 17): what each side's rows become, and what is refused.

use super::written::number;
use super::*;
use crate::volume::apply::onward::check_onward;
use crate::volume::name::{GroupName, GroupNumber, LinkName};
use crate::volume::onward::RemoteOnward;
use crate::volume::pair::SuspendCause;
use std::collections::BTreeMap;
use std::time::Duration;

pub(super) fn link(name: &str, other: u32) -> Designation {
    Designation::CreateLink(NewLink {
        name: name.parse().unwrap(),
        array: ArrayNumber(other),
        portals: vec!["127.0.0.1:3262".parse().unwrap()],
        secret: Secret::new("0123456789ab").unwrap(),
        schedule: Schedule::default(),
        options: Default::default(),
    })
}

pub(super) fn pairs_of(array: &Array) -> Vec<(String, u32, PairState)> {
    let pairs = array.tables.pairs.iter();
    pairs.map(|pair| (pair.name.to_string(), pair.primary.array.0, pair.state)).collect()
}

/// Alpha is read by beta and by gamma; every pair is normal. There is a link between beta and gamma if that is wanted.
pub(super) fn three(is_linked: bool) -> (Array, Array, Array) {
    let (mut alpha, mut beta) = both();
    let mut gamma = Array::new(3, "gamma").with(&["other", "copy1", "copy2", "jnl"], "alpha", 1);
    alpha.say(link("gamma", 3)).unwrap();
    if is_linked {
        beta.say(link("gamma", 3)).unwrap();
        gamma.say(link("beta", 2)).unwrap();
    }
    let mut steps = vec![group(), journal("jnl", None)];
    for at in ["beta", "gamma"] {
        steps.push(journal("jnl", Some(at)));
        for volume in 1..=2 {
            let (name, svol) = (format!("p{volume}-{at}"), format!("{at}:copy{volume}"));
            steps.push(pair(&name, &format!("data{volume}"), &svol));
        }
    }
    steps.push(start());
    for step in steps {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta") + deliver(&mut alpha, &mut gamma, "gamma"), 0);
    for array in [&mut alpha, &mut beta, &mut gamma] {
        let numbers: Vec<_> = array.tables.pairs.iter().map(|pair| pair.number).collect();
        for number in numbers {
            array.tables.pair_event(number, PairEvent::CopyBegins, None).unwrap();
            array.tables.pair_event(number, PairEvent::CopyRestored, None).unwrap();
        }
    }
    (alpha, beta, gamma)
}

pub(super) fn g1(array: &Array) -> GroupNumber {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().number
}

/// Alpha hands over to beta, which takes over; the message that gamma gets from it.
pub(super) fn turn(alpha: &mut Array, beta: &mut Array) -> Option<RemoteOnward> {
    let wait = Duration::from_secs(1);
    let what = Designation::ReverseGroup { group: "g1".parse().unwrap(), to: "beta".parse().unwrap(), wait };
    alpha.say(what).unwrap();
    let runs = BTreeMap::from([(number(alpha, "p2-gamma"), vec![(4096, 8192)])]);
    let (there, here) = (g1(alpha), g1(beta));
    alpha.tables.handed_over(there, UpdateNumber(40), &runs, Identity(77));
    deliver(alpha, beta, "beta");
    alpha.tables.groups.get(&there).unwrap().reversal.as_ref()?;
    let numbers = beta.tables.reserve_pair_numbers(2).unwrap();
    let mut id = 900;
    beta.tables.taken_over(here, &numbers, &mut || {
        id += 1;
        Identity(id)
    });
    alpha.tables.left(there);
    beta.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::RemoteOnward(told) => Some(told.clone()),
        _ => None,
    })
}

#[test]
fn another_reader_goes_on_from_the_new_primary_and_its_pairs_stay_what_they_were() {
    use PairState::{Normal, Suspended};
    let (mut alpha, mut beta, mut gamma) = three(true);
    // It did not keep up with one of them.
    let p2 = number(&alpha, "p2-gamma");
    alpha
        .tables
        .pairs_suspended(&[p2], (SuspendCause::Overflow, "x"), UpdateNumber(0), &mut || Identity(5))
        .unwrap();
    let told = turn(&mut alpha, &mut beta).unwrap();
    assert_eq!((told.last, told.generations.len(), told.pairs.len()), (UpdateNumber(40), 2, 2));
    let name = |name: &str| name.to_owned();
    assert_eq!(pairs_of(&alpha), [(name("p1-beta"), 2, Normal), (name("p2-beta"), 2, Normal)]);
    assert_eq!(alpha.tables.readers.len(), 0);
    assert_eq!(alpha.tables.forwards_to(&"gamma".parse().unwrap()).count(), 0, "it has nothing to say to it");
    assert_eq!(
        pairs_of(&beta),
        [
            (name("p1-beta"), 2, Normal),
            (name("p2-beta"), 2, Normal),
            (name("p1-gamma"), 2, Normal),
            (name("p2-gamma"), 2, Suspended)
        ]
    );
    assert_eq!(beta.tables.readers_of_group(g1(&beta)).count(), 2);
    let is_untold = |beta: &Array| beta.tables.readers.get(&(g1(beta), ArrayNumber(3))).unwrap().is_untold;
    assert!(is_untold(&beta), "it is handed nothing yet");

    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert!(!is_untold(&beta));
    let at_gamma = gamma.tables.group_named(&"g1".parse().unwrap()).unwrap();
    assert!(
        matches!(at_gamma.role, GroupRole::Auxiliary { source: ArrayNumber(2), remote: Some(remote), .. } if remote == g1(&beta))
    );
    assert_eq!(pairs_of(&gamma), [(name("p1-gamma"), 2, Normal), (name("p2-gamma"), 2, Suspended)]);
    for pair in ["p1-gamma", "p2-gamma"] {
        let (ours, theirs) = (&beta.tables.pairs, &gamma.tables.pairs);
        let (ours, theirs) =
            (ours.get(&number(&beta, pair)).unwrap(), theirs.get(&number(&gamma, pair)).unwrap());
        assert_eq!((&ours.primary, &ours.auxiliary), (&theirs.primary, &theirs.auxiliary));
        assert!(theirs.control.is_image);
    }
    let p2 = beta.tables.pairs.get(&number(&beta, "p2-gamma")).unwrap();
    assert!(p2.control.told && p2.control.cause == Some(SuspendCause::Overflow), "it goes on by itself");
    assert_eq!(beta.tables.readers.get(&(g1(&beta), ArrayNumber(3))).unwrap().remote_group, Some(g1(&gamma)));
    // Alpha, which was its source, says nothing there any more.
    let source = Who::Peer { array: ArrayNumber(1), from: "x".into() };
    let what = Designation::RemoteSuspend {
        pair: "p1-gamma".parse().unwrap(),
        reason: String::new(),
        others_go_on: false,
        by_operator: true,
    };
    assert!(gamma.apply(DesignationId(Identity(6)), &what, &source).is_err());
}

#[test]
fn a_reader_keeps_the_schedule_that_its_operator_chose_for_the_group() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    let hour = Schedule { restore_delay: Duration::from_secs(3600), ..Schedule::default() };
    let (link, group): (LinkName, GroupName) = ("alpha".parse().unwrap(), "g1".parse().unwrap());
    gamma.say(Designation::SetSchedule { link, group: group.clone(), schedule: hour }).unwrap();
    turn(&mut alpha, &mut beta).unwrap();
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    let kept = gamma.tables.schedules.get(&("beta".parse().unwrap(), group)).map(|row| row.schedule);
    assert_eq!(kept, Some(hour));
}

#[test]
fn the_link_to_a_reader_that_is_being_taken_over_stays() {
    let (mut alpha, mut beta, _) = three(true);
    let wait = Duration::from_secs(1);
    let what = Designation::ReverseGroup { group: "g1".parse().unwrap(), to: "beta".parse().unwrap(), wait };
    alpha.say(what).unwrap();
    let there = g1(&alpha);
    alpha.tables.handed_over(there, UpdateNumber(40), &BTreeMap::new(), Identity(77));
    deliver(&mut alpha, &mut beta, "beta");
    let refusal = beta.say(Designation::DeleteLink { link: "gamma".parse().unwrap() }).unwrap_err();
    assert!(refusal.to_string().contains("group g1"), "{refusal}");
}

/// A pair of that name would have stood there twice.
#[test]
fn a_name_that_a_promise_brings_along_is_given_to_no_other_pair() {
    let (mut alpha, mut beta, _) = three(true);
    beta.say(volume("spare")).unwrap();
    let name = "g2".parse().unwrap();
    beta.say(Designation::CreateGroup { name, settings: SETTINGS }).unwrap();
    let new = |name: &str| Designation::CreatePair {
        name: name.parse().unwrap(),
        group: "g2".parse().unwrap(),
        pvol: "spare".parse().unwrap(),
        svol: "gamma:spare".parse().unwrap(),
        copy: CopyMode::Async,
    };
    let wait = Duration::from_secs(1);
    let what = Designation::ReverseGroup { group: "g1".parse().unwrap(), to: "beta".parse().unwrap(), wait };
    alpha.say(what).unwrap();
    let there = g1(&alpha);
    alpha.tables.handed_over(there, UpdateNumber(40), &BTreeMap::new(), Identity(77));
    deliver(&mut alpha, &mut beta, "beta");
    let refusal = beta.say(new("p1-gamma")).unwrap_err();
    assert_eq!(refusal, Refusal::exists("pair", "p1-gamma"));
    beta.say(new("p9")).unwrap();
}

/// Its S-VOLs were once taken for what it had acknowledged by whoever became the primary next.
#[test]
fn a_reader_that_lacks_what_it_had_acknowledged_is_believed_and_asked_until_it_has_answered() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    let told = turn(&mut alpha, &mut beta).unwrap();
    assert_eq!(told.assumed, UpdateNumber(40));
    let reader = |beta: &Array| beta.tables.readers.get(&(g1(beta), ArrayNumber(3))).unwrap().clone();
    assert_eq!(reader(&beta).assumed, UpdateNumber(40));
    // It goes along to the next primary as long as nobody has heard from it.
    let runs = BTreeMap::new();
    let next = beta.tables.others_going_on(g1(&beta), (ArrayNumber(1), UpdateNumber(60)), &runs, false);
    assert_eq!(next.iter().map(|other| other.assumed).collect::<Vec<_>>(), [UpdateNumber(60)]);
    let pairs: Vec<_> = ["p1-gamma", "p2-gamma"].map(|name| number(&beta, name)).into();
    let mut stopped = beta.tables.clone();
    stopped
        .pairs_suspended(&pairs, (SuspendCause::Overflow, "x"), UpdateNumber(0), &mut || Identity(6))
        .unwrap();
    let next = stopped.others_going_on(g1(&beta), (ArrayNumber(1), UpdateNumber(60)), &runs, false);
    assert_eq!(next[0].assumed, UpdateNumber(40));

    // Its journal was given up.
    let p1 = number(&gamma, "p1-gamma");
    gamma.tables.pair_event(p1, PairEvent::Fail, None).unwrap();
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 1);
    assert!(reader(&beta).is_lacking);
    assert_eq!(beta.tables.pairs_taken_for_normal(g1(&beta), ArrayNumber(3)).len(), 2);
    let mut id = 700;
    let mut identity = || {
        id += 1;
        Identity(id)
    };
    beta.tables
        .pairs_suspended(&pairs, (SuspendCause::Overflow, "x"), UpdateNumber(0), &mut identity)
        .unwrap();
    let group = g1(&beta);
    beta.tables.lacks_are_marked(group, ArrayNumber(3), "it lost it");
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    assert_eq!((reader(&beta).is_untold, reader(&beta).is_lacking), (false, false));
    let states: Vec<_> = pairs_of(&gamma).into_iter().map(|(_, _, state)| state).collect();
    assert_eq!(states, [PairState::Abnormal, PairState::Suspended]);
}

#[test]
fn a_new_primary_that_cannot_reach_another_reader_does_not_promise() {
    let (mut alpha, mut beta, _) = three(false);
    assert_eq!(turn(&mut alpha, &mut beta), None);
    assert_eq!(alpha.tables.group_named(&"g1".parse().unwrap()).unwrap().role, GroupRole::Primary);
    assert!(alpha.tables.pair_named(&"p1-gamma".parse().unwrap()).is_some(), "nothing has changed");
}

#[test]
fn a_reader_believes_only_a_longer_history_that_contains_its_own() {
    let (mut alpha, mut beta, mut gamma) = three(true);
    let told = turn(&mut alpha, &mut beta).unwrap();
    let who = Who::Peer { array: ArrayNumber(2), from: "x".into() };
    let refused = |gamma: &Array, told: &RemoteOnward, expected: &str| {
        let refusal = check_onward(&gamma.tables, told, &who).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{expected:?} is not in {refusal:?}");
    };
    let mut another = told.clone();
    another.generations[0].array = ArrayNumber(9);
    refused(&gamma, &another, "a branch");
    refused(&gamma, &RemoteOnward { last: UpdateNumber(7), ..told.clone() }, "does not begin behind");
    refused(&gamma, &RemoteOnward { generations: Vec::new(), ..told.clone() }, "no generation");
    refused(&gamma, &RemoteOnward { pairs: Vec::new(), ..told.clone() }, "other pairs");
    // A counter behind which there is none would shut out every later primary.
    let mut endless = told.clone();
    endless.generations[1].counter = u64::MAX;
    refused(&gamma, &endless, "numbers that nobody gives");
    let mut of_alpha = told.clone();
    of_alpha.generations[1].array = ArrayNumber(1);
    refused(&gamma, &of_alpha, "not that of its new primary");
    let stranger = Who::Peer { array: ArrayNumber(8), from: "x".into() };
    assert!(check_onward(&gamma.tables, &told, &stranger).is_err(), "there is no link to it");

    let p1 = number(&gamma, "p1-gamma");
    gamma.tables.pair_event(p1, PairEvent::Suspend, None).unwrap();
    refused(&gamma, &told, "cannot go on");
    gamma.tables.pair_event(p1, PairEvent::Resync, None).unwrap();
    gamma.tables.pair_event(p1, PairEvent::CopyRestored, None).unwrap();

    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);
    // The same message once more, with an identity that nobody remembers: it is older than what is known.
    refused(&gamma, &told, "newer primary");
}

#[test]
fn what_a_reader_had_asked_its_old_primary_is_asked_of_the_new_one() {
    use crate::volume::designation::{SvolHosts, Which};
    use crate::volume::timing::RestoreStop;
    let (mut alpha, mut beta, mut gamma) = three(true);
    let group = || "g1".parse().unwrap();
    turn(&mut alpha, &mut beta).unwrap();
    let one = Which::Pair("p2-gamma".parse().unwrap());
    gamma.say(Designation::DeletePairs { group: group(), which: one }).unwrap();
    let all = Which::All;
    gamma.say(Designation::SuspendPairs { group: group(), which: all, svol: SvolHosts::Keep }).unwrap();
    let here = g1(&gamma);
    let stop = Some(RestoreStop::Number(UpdateNumber(7)));
    gamma.tables.groups.edit(&here).unwrap().suspension_stop = stop;
    assert_ne!(deliver(&mut beta, &mut gamma, "gamma"), 0, "nothing may be restored behind the stop");
    assert_eq!(gamma.tables.groups.get(&here).unwrap().suspension_stop, stop);
    // The old primary answers the suspension: it has nothing to say to gamma any more.
    let suspension = gamma.tables.forwards.iter().last().unwrap().sequence;
    gamma.tables.delivered(suspension, &Err(Refusal::conflict("you read nothing here")));
    deliver(&mut beta, &mut gamma, "gamma");
    assert_eq!(gamma.tables.groups.get(&here).unwrap().suspension_stop, None);
    assert_eq!(gamma.tables.forwards_to(&"alpha".parse().unwrap()).count(), 0);
    assert_eq!(deliver(&mut gamma, &mut beta, "beta"), 0);
    let gone = beta.tables.pair_named(&"p2-gamma".parse().unwrap()).unwrap();
    assert!(gone.is_leaving(), "it was asked for before the group was turned round");
}
