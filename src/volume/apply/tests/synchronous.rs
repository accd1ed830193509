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
