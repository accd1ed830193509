//! Drills in the tables: what one may become, what stays of it, and how many are kept (decision 26).

use super::*;
use crate::volume::drill::{
    DrillAt, DrillBegun, DrillClose, DrillEnd, DrillNumber, DrillOrder, DrillRecord, DrillState, NewDrill,
};
use crate::volume::snapshot::{MadeSnapshot, MadeVolume, Moment, SnapshotOf};
use std::collections::BTreeSet;

/// Both sides of a group that has started.
fn copied() -> (Array, Array) {
    let (mut alpha, mut beta) = both();
    let pair = pair("p1", "data1", "beta:copy1");
    for step in [group(), journal("jnl", None), journal("jnl", Some("beta")), pair, start()] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    (alpha, beta)
}

/// The auxiliary, its volumes carved.
fn beta() -> Array {
    let (_, mut beta) = copied();
    let numbers: Vec<_> = beta.tables.volumes.iter().map(|row| row.number).collect();
    for number in numbers {
        beta.tables.volumes.edit(&number).unwrap().is_carved = true;
    }
    beta
}

fn new(name: &str, at: DrillAt, begun: Option<DrillBegun>) -> Designation {
    let (group, name) = ("g1".parse().unwrap(), name.parse().unwrap());
    let within = std::time::Duration::from_secs(10);
    let new = NewDrill { group, name, at, within, expire: None, quota_bytes: None, note: None, begun };
    Designation::Drill(Box::new(DrillOrder::Begin(new)))
}

fn made(array: &mut Array, number: u64) -> MadeSnapshot {
    let sources = array.tables.snapshot_sources(&SnapshotOf::Group("g1".parse().unwrap())).unwrap();
    let numbers = array.tables.reserve_snapshot(&sources).unwrap();
    let volumes = sources.iter().zip(numbers).map(|(of, volume)| MadeVolume {
        of: *of,
        volume,
        identity: Identity(u128::from(volume.0)),
        size_bytes: array.tables.volumes.get(of).unwrap().size_bytes,
    });
    let moment = Moment::Update(UpdateNumber(number));
    MadeSnapshot { volumes: volumes.collect(), moment, bookmark: None, made_unix_ns: 5, base: None }
}

fn begin(array: &mut Array, name: &str) -> Result<Outcome, Refusal> {
    let made = made(array, 7);
    array.say(new(name, DrillAt::Newest, Some(DrillBegun::Made(made))))
}

fn wait(array: &mut Array, name: &str, update: u64) -> Result<Outcome, Refusal> {
    let update = UpdateNumber(update);
    let waits = DrillBegun::Waits { update, now_unix_ns: 1 };
    array.say(new(name, DrillAt::Number(update), Some(waits)))
}

fn close(name: &str, passed: Option<bool>, end: bool) -> Designation {
    let (group, name) = ("g1".parse().unwrap(), name.parse().unwrap());
    let close = DrillClose { group, name, passed, note: None, end, now_unix_ns: Some(9) };
    Designation::Drill(Box::new(DrillOrder::Close(close)))
}

fn drill(array: &Array, name: &str) -> DrillRecord {
    array.tables.drill_named(&"g1".parse().unwrap(), &name.parse().unwrap()).unwrap().clone()
}

fn number_of(array: &Array, name: &str) -> DrillNumber {
    drill(array, name).number
}

#[test]
fn it_waits_is_made_judged_hidden_and_gone_and_its_record_stays() {
    let mut beta = beta();
    wait(&mut beta, "d1", 7).unwrap();
    let group = beta.tables.group_named(&"g1".parse().unwrap()).unwrap().number;
    assert_eq!(
        beta.tables.drill_cuts(group, &BTreeSet::new()).into_iter().collect::<Vec<_>>(),
        [UpdateNumber(7)]
    );
    assert!(
        matches!(beta.say(close("d1", Some(true), false)), Err(Refusal::Conflict(_))),
        "there is nothing yet"
    );
    let made = made(&mut beta, 7);
    let number = number_of(&beta, "d1");
    beta.tables.drill_made(number, &made).unwrap();
    assert!(beta.tables.drill_made(number, &made).is_err(), "once");
    assert!(beta.tables.drill_cuts(group, &BTreeSet::new()).is_empty() && beta.tables.doomed.is_empty());
    let clone = drill(&beta, "d1").volumes[0].clone();
    beta.say(target(&[(1, clone.as_str())])).unwrap();
    let volume = beta.tables.volume_named(&clone).unwrap().number;
    assert_eq!(beta.tables.host_access(volume), HostAccess::ReadWrite);
    beta.say(close("d1", Some(true), false)).unwrap();
    assert_eq!(drill(&beta, "d1").verdict_word(), "passed");
    beta.say(close("d1", Some(false), true)).unwrap();
    assert!(!beta.tables.is_mapped(volume), "hosts are told first");
    assert!(beta.tables.volume_named(&clone).is_some(), "then it goes");
    assert!(beta.say(close("d1", None, true)).is_err(), "once");
    beta.tables.drill_expires(number);
    beta.tables.drill_gone(number, 11);
    assert!(beta.tables.snapshots.is_empty() && beta.tables.volume_named(&clone).is_none());
    assert_eq!(beta.tables.doomed.get(&volume).map(|row| row.reserved_in), Some(None));
    let left = drill(&beta, "d1");
    assert_eq!((left.verdict_word(), left.ended_unix_ns), ("failed", Some(11)));
    assert_eq!(left.state, DrillState::Ended { how: DrillEnd::Operator });
    beta.tables.drill_gone(number, 12);
    assert_eq!(drill(&beta, "d1"), left, "nothing more can become of it");
    beta.say(close("d1", Some(true), false)).unwrap();
    assert_eq!(drill(&beta, "d1").verdict_word(), "passed", "it is judged later as well");
}

#[test]
fn what_was_never_made_or_never_judged_says_so() {
    let mut beta = beta();
    wait(&mut beta, "late", 9).unwrap();
    let late = number_of(&beta, "late");
    beta.tables.drill_given_up(late, "it is late", 3);
    assert_eq!(drill(&beta, "late").verdict_word(), "never made");
    begin(&mut beta, "d1").unwrap();
    assert_eq!(drill(&beta, "d1").verdict_word(), "open");
    let d1 = number_of(&beta, "d1");
    beta.tables.drill_given_up(d1, "it is made", 3);
    assert_eq!(drill(&beta, "d1").verdict_word(), "open", "only one that waits can be given up");
    beta.tables.drill_expires(d1);
    beta.tables.drill_gone(d1, 4);
    assert_eq!(drill(&beta, "d1").verdict_word(), "expired without a verdict");
    begin(&mut beta, "d2").unwrap();
    beta.say(close("d2", None, true)).unwrap();
    assert_eq!(drill(&beta, "d2").verdict_word(), "ended without a verdict");
}

#[test]
fn its_name_is_its_own_and_its_snapshot_goes_with_it_only() {
    let mut beta = beta();
    begin(&mut beta, "d1").unwrap();
    assert!(matches!(begin(&mut beta, "d1"), Err(Refusal::Exists { .. })));
    assert!(matches!(wait(&mut beta, "d1", 9), Err(Refusal::Exists { .. })));
    let snapshot = Designation::DeleteSnapshot { snapshot: "d1".parse().unwrap() };
    assert!(beta.say(snapshot).is_err_and(|refusal| refusal.to_string().contains("--end")));
    let clone = drill(&beta, "d1").volumes[0].clone();
    let resize = Designation::ResizeVolume { volume: clone, size_bytes: 16 << 20 };
    assert!(beta.say(resize).is_err_and(|refusal| refusal.to_string().contains("drill")));
    let (mut alpha, _) = copied();
    assert!(wait(&mut alpha, "d1", 9).is_err_and(|refusal| refusal.to_string().contains("--at newest")));
    assert!(alpha.say(close("d9", Some(true), false)).is_err());
}

/// The newest records are kept, those that have not ended in any case; of a group that is gone none.
#[test]
fn so_many_records_are_kept_and_so_many_drills_go_at_a_time() {
    let mut beta = beta();
    wait(&mut beta, "stays", 1_000).unwrap();
    for turn in 0..80_u64 {
        let name = format!("d{turn}");
        wait(&mut beta, &name, 1_000).unwrap();
        beta.say(close(&name, None, true)).unwrap();
    }
    let names: Vec<String> = beta.tables.drills.iter().map(|drill| drill.name.to_string()).collect();
    assert_eq!((names.len(), names[0].as_str(), names[1].as_str()), (64, "stays", "d17"));
    for turn in 1..16 {
        wait(&mut beta, &format!("e{turn}"), 1_000).unwrap();
    }
    assert!(matches!(wait(&mut beta, "more", 1_000), Err(Refusal::Limit { .. })));
    assert_eq!(beta.tables.drills.len(), 64);
}
