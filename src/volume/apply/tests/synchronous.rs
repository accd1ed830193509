//! Which pairs of a group are synchronous, and how (decision 20).

use super::cascade::link;
use super::*;
use crate::volume::kind::Fence;

fn pair_as(name: &str, pvol: &str, svol: &str, as_said: CopyMode) -> Designation {
    match pair(name, pvol, svol) {
        Designation::CreatePair { name, group, pvol, svol, .. } => {
            Designation::CreatePair { name, group, pvol, svol, copy: as_said }
        }
        other => other,
    }
}

fn mode(array: &Array, name: &str) -> CopyMode {
    array.tables.pair_named(&name.parse().unwrap()).unwrap().copy
}

#[test]
fn a_group_with_a_journal_has_one_synchronous_copy_and_others_beside_it() {
    let mut alpha = Array::new(1, "alpha").with(&["data1", "data2", "jnl"], "beta", 2);
    alpha.say(link("gamma", 3)).unwrap();
    let mut beta = Array::new(2, "beta").with(&["copy1", "copy2", "jnl"], "alpha", 1);
    alpha.say(group()).unwrap();
    alpha.say(journal("jnl", None)).unwrap();
    alpha.say(pair_as("p1", "data1", "beta:copy1", CopyMode::Sync)).unwrap();
    alpha.say(pair("q1", "data1", "gamma:copy1")).unwrap();
    for (what, why) in [
        (pair("p2", "data2", "beta:copy2"), "is sync, not async"),
        (pair_as("q2", "data2", "gamma:copy2", CopyMode::Sync), "is async, not sync"),
    ] {
        let refused = alpha.say(what).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    alpha.say(link("delta", 4)).unwrap();
    let refused = alpha.say(pair_as("r1", "data1", "delta:copy1", CopyMode::Sync)).unwrap_err().to_string();
    assert!(refused.contains("has its synchronous copy at beta"), "{refused}");
    alpha.say(pair_as("p2", "data2", "beta:copy2", CopyMode::Sync)).unwrap();
    assert_eq!((mode(&alpha, "p2"), mode(&alpha, "q1")), (CopyMode::SyncJournal, CopyMode::Async));
    let number = alpha.tables.group_named(&"g1".parse().unwrap()).unwrap().number;
    assert!(!alpha.tables.is_forwarded(number));
    while deliver(&mut alpha, &mut beta, "beta") > 0 {}
    assert_eq!(mode(&beta, "p1"), CopyMode::SyncJournal, "the other array knows it, too");
}

#[test]
fn the_fence_status_is_for_groups_with_a_journal() {
    let mut alpha = Array::new(1, "alpha").with(&["data1", "jnl"], "beta", 2);
    let settings = GroupSettings { fence: Fence::Status, ..SETTINGS };
    alpha.say(Designation::CreateGroup { name: "g1".parse().unwrap(), settings }).unwrap();
    let forwarded = pair_as("p1", "data1", "beta:copy1", CopyMode::Sync);
    let refused = alpha.say(forwarded.clone()).unwrap_err().to_string();
    assert!(refused.contains("for status the group needs a journal"), "{refused}");
    alpha.say(journal("jnl", None)).unwrap();
    alpha.say(forwarded).unwrap();
    assert_eq!(mode(&alpha, "p1"), CopyMode::SyncJournal);
}

fn set(array: &mut Array, with: Option<&str>) -> Result<Outcome, Refusal> {
    let with = with.map(|link| link.parse().unwrap());
    array.say(Designation::SetSynchronous("g1".parse().unwrap(), with))
}

/// Alpha with two copies at beta and one at gamma; none of them is synchronous.
fn with_two_copies() -> Array {
    let mut alpha = Array::new(1, "alpha").with(&["data1", "data2", "jnl"], "beta", 2);
    alpha.say(link("gamma", 3)).unwrap();
    alpha.say(link("delta", 4)).unwrap();
    alpha.say(group()).unwrap();
    alpha.say(journal("jnl", None)).unwrap();
    for (name, pvol, svol) in
        [("p1", "data1", "beta:copy1"), ("p2", "data2", "beta:copy2"), ("q1", "data1", "gamma:copy1")]
    {
        alpha.say(pair(name, pvol, svol)).unwrap();
    }
    alpha
}

fn modes(array: &Array) -> [CopyMode; 3] {
    ["p1", "p2", "q1"].map(|name| mode(array, name))
}

#[test]
fn an_operator_names_the_one_copy_that_hosts_wait_for_and_names_another_one_or_none() {
    use CopyMode::{Async, SyncJournal};
    let mut alpha = with_two_copies();
    let refused = set(&mut alpha, Some("delta")).unwrap_err().to_string();
    assert!(refused.contains("does not copy it"), "{refused}");
    for (with, expected) in [
        (Some("beta"), [SyncJournal, SyncJournal, Async]),
        (Some("gamma"), [Async, Async, SyncJournal]),
        (None, [Async; 3]),
        (Some("beta"), [SyncJournal, SyncJournal, Async]),
    ] {
        set(&mut alpha, with).unwrap();
        assert_eq!(modes(&alpha), expected, "{with:?}");
    }
}

#[test]
fn a_copy_is_the_synchronous_one_if_its_source_says_so_and_its_partner_is_for_when_it_is_the_primary() {
    let mut alpha = Array::new(1, "alpha").with(&["data1", "jnl"], "beta", 2);
    let mut beta = Array::new(2, "beta").with(&["copy1", "jnl"], "alpha", 1);
    beta.say(link("gamma", 3)).unwrap();
    alpha.say(group()).unwrap();
    alpha.say(journal("jnl", None)).unwrap();
    alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
    while deliver(&mut alpha, &mut beta, "beta") > 0 {}
    let number = beta.tables.group_named(&"g1".parse().unwrap()).unwrap().number;
    let partner = |beta: &Array| beta.tables.groups.get(&number).unwrap().partner;
    set(&mut beta, Some("gamma")).unwrap();
    assert_eq!((mode(&beta, "p1"), partner(&beta)), (CopyMode::Async, Some(ArrayNumber(3))));
    beta.tables.is_second(number, ArrayNumber(3), true);
    assert_eq!(mode(&beta, "p1"), CopyMode::Async, "gamma is not its source");
    beta.tables.is_second(number, ArrayNumber(1), true);
    assert_eq!((mode(&beta, "p1"), partner(&beta)), (CopyMode::SyncJournal, Some(ArrayNumber(1))));
    let refused = set(&mut beta, None).unwrap_err().to_string();
    assert!(refused.contains("said there"), "{refused}");
    beta.tables.is_second(number, ArrayNumber(1), false);
    assert_eq!((mode(&beta, "p1"), partner(&beta)), (CopyMode::Async, None));
}

#[test]
fn a_reader_that_was_taken_away_by_command_is_not_made_again_by_what_is_declared_of_it() {
    let mut alpha = with_two_copies();
    let declared = [pair("q1", "data1", "gamma:copy1"), journal("jnl", Some("gamma"))];
    let beside = [pair("p1", "data1", "beta:copy1"), journal("jnl", None)];
    let dropped = |alpha: &Array, what: &Designation| alpha.tables.was_dropped(what);
    assert!(!declared.iter().any(|what| dropped(&alpha, what)));
    let (group, link) = ("g1".parse().unwrap(), "gamma".parse().unwrap());
    alpha.say(Designation::DeleteReader { group, link }).unwrap();
    assert!(declared.iter().all(|what| dropped(&alpha, what)));
    assert!(!beside.iter().any(|what| dropped(&alpha, what)));
    // Named by its operator it is a reader again.
    let number = alpha.tables.pair_named(&"q1".parse().unwrap()).unwrap().number;
    alpha.tables.pair_is_gone(number, Identity(77));
    assert!(alpha.tables.readers.iter().all(|reader| reader.array != ArrayNumber(3)));
    alpha.say(pair("q1", "data1", "gamma:copy1")).unwrap();
    assert!(!declared.iter().any(|what| dropped(&alpha, what)));
}
