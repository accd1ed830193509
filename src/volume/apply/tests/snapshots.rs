//! Snapshots in the tables: reserved by dooming, named by lifting that, never half (decision 24).

use super::*;
use crate::volume::group::Generation;
use crate::volume::name::VolumeNumber;
use crate::volume::snapshot::{
    MadeSnapshot, MadeVolume, Moment, NewSnapshot, SnapshotAt, SnapshotHosts, SnapshotOf,
};
use crate::volume::takeover::Branch;

const VOLUME: &str = "data1";

fn new(name: &str, of: SnapshotOf, hosts: SnapshotHosts) -> NewSnapshot {
    NewSnapshot { name: name.parse().unwrap(), of, hosts, at: SnapshotAt::Now, made: None }
}

fn of_volume(name: &str) -> NewSnapshot {
    new(name, SnapshotOf::Volume(VOLUME.parse().unwrap()), SnapshotHosts::ReadOnly)
}

fn create(new: &NewSnapshot) -> Designation {
    Designation::CreateSnapshot(Box::new(new.clone()))
}

fn delete(name: &str) -> Designation {
    Designation::DeleteSnapshot { snapshot: name.parse().unwrap() }
}

/// The array, whose volumes have been carved.
fn alpha() -> Array {
    let mut alpha = both().0;
    let numbers: Vec<VolumeNumber> = alpha.tables.volumes.iter().map(|row| row.number).collect();
    for number in numbers {
        alpha.tables.volumes.edit(&number).unwrap().is_carved = true;
    }
    alpha
}

/// As the disk adapter makes it.
fn made(array: &mut Array, new: &NewSnapshot) -> NewSnapshot {
    let sources = array.tables.snapshot_sources(&new.of).unwrap();
    let numbers = array.tables.reserve_snapshot(&sources).unwrap();
    let volumes = sources.iter().zip(numbers).map(|(of, volume)| MadeVolume {
        of: *of,
        volume,
        identity: Identity(u128::from(volume.0)),
        size_bytes: array.tables.volumes.get(of).unwrap().size_bytes,
    });
    let made = MadeSnapshot {
        volumes: volumes.collect(),
        moment: Moment::Update(UpdateNumber(7)),
        bookmark: None,
        made_unix_ns: 1,
        base: None,
    };
    NewSnapshot { made: Some(made), ..new.clone() }
}

fn row(array: &Array, name: &str) -> VolumeRecord {
    array.tables.volume_named(&name.parse().unwrap()).unwrap().clone()
}

#[test]
fn its_numbers_are_doomed_until_it_is_named_and_again_when_it_is_deleted() {
    let mut alpha = alpha();
    let new = made(&mut alpha, &of_volume("s1"));
    assert_eq!(alpha.tables.doomed.len(), 1, "reserved");
    assert!(matches!(alpha.say(create(&new)), Ok(Outcome::Created { .. })));
    assert!(alpha.tables.doomed.is_empty(), "named");
    let volume = row(&alpha, "s1");
    assert!(matches!(volume.usage, VolumeUsage::Snapshot(_)) && volume.is_thin && volume.is_carved);
    assert_ne!(volume.identity, row(&alpha, VOLUME).identity, "it is another disk");
    alpha.say(delete("s1")).unwrap();
    assert!(alpha.tables.snapshots.is_empty() && alpha.tables.volume_named(&"s1".parse().unwrap()).is_none());
    let doomed: Vec<_> = alpha.tables.doomed.iter().map(|row| (row.number, row.reserved_in)).collect();
    assert_eq!(doomed, [(volume.number, None)]);
}

#[test]
fn what_was_reserved_before_a_restart_or_changed_meanwhile_is_not_named() {
    let mut alpha = alpha();
    let new = made(&mut alpha, &of_volume("s1"));
    let mut restarted = alpha.tables.clone();
    restarted.meta_mut().incarnation += 1;
    let mut later = Array { tables: restarted, ids: alpha.ids };
    assert!(later.say(create(&new)).unwrap_err().to_string().contains("meanwhile"));
    assert_eq!(later.tables.doomed.len(), 1, "still to be given back");
    // It has grown, or another one is in its place.
    let number = row(&alpha, VOLUME).number;
    alpha.tables.volumes.edit(&number).unwrap().size_bytes *= 2;
    assert!(alpha.say(create(&new)).unwrap_err().to_string().contains("meanwhile"));
    let given_up: Vec<_> = alpha.tables.doomed.iter().map(|row| row.number).collect();
    alpha.tables.release_snapshot(&given_up);
    assert!(alpha.tables.doomed.iter().all(|row| row.reserved_in.is_none()));
}

#[test]
fn hosts_may_do_with_it_what_was_said_and_nobody_else_uses_it() {
    let mut alpha = alpha();
    let of = SnapshotOf::Volume(VOLUME.parse().unwrap());
    for (name, hosts, access) in [
        ("r", SnapshotHosts::ReadOnly, HostAccess::ReadOnly),
        ("w", SnapshotHosts::ReadWrite, HostAccess::ReadWrite),
    ] {
        let new = made(&mut alpha, &new(name, of.clone(), hosts));
        alpha.say(create(&new)).unwrap();
        assert_eq!(alpha.tables.host_access(row(&alpha, name).number), access);
        let volume = || name.parse().unwrap();
        let refused = [
            Designation::DeleteVolume { volume: volume() },
            Designation::RenameVolume { volume: volume(), name: "other".parse().unwrap() },
        ];
        for what in refused {
            assert!(alpha.say(what).unwrap_err().to_string().contains("snapshot"));
        }
        let size_bytes = row(&alpha, name).size_bytes + (1 << 20);
        let resized = alpha.say(Designation::ResizeVolume { volume: volume(), size_bytes });
        assert_eq!(resized.is_ok(), hosts == SnapshotHosts::ReadWrite, "{name}");
    }
    alpha.say(group()).unwrap();
    for what in [
        pair("p9", "w", "beta:copy1"),
        Designation::AddMember { group: "g1".parse().unwrap(), volume: "w".parse().unwrap() },
        Designation::AddJournal {
            group: "g1".parse().unwrap(),
            volume: "w".parse().unwrap(),
            at: None,
            options: JournalOptions::default(),
        },
    ] {
        let refusal = alpha.say(what.clone()).unwrap_err().to_string();
        assert!(refusal.contains("of a snapshot"), "{what}: {refusal}");
    }
}

#[test]
fn one_of_a_group_has_a_volume_for_each_that_is_paired_and_is_not_deleted_while_mapped() {
    let mut alpha = alpha();
    let of = || new("night", SnapshotOf::Group("g1".parse().unwrap()), SnapshotHosts::ReadOnly);
    alpha.say(group()).unwrap();
    assert!(alpha.say(create(&of())).unwrap_err().to_string().contains("no paired volumes"));
    alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
    alpha.say(pair("p2", "data2", "beta:copy2")).unwrap();
    let new = made(&mut alpha, &of());
    alpha.say(create(&new)).unwrap();
    let names: Vec<String> = alpha.tables.volumes.iter().map(|row| row.name.to_string()).collect();
    assert!(names.contains(&"night.data1".to_owned()) && names.contains(&"night.data2".to_owned()));
    assert!(alpha.say(create(&of())).unwrap_err().to_string().contains("already"));
    alpha.say(target(&[])).unwrap();
    let target = alpha.tables.targets.iter().next().unwrap().iqn.clone();
    let volume = "night.data2".parse().unwrap();
    let map = Designation::MapLun { target, lun: Lun(77), volume, read_only_for: vec![] };
    alpha.say(map).unwrap();
    assert!(alpha.say(delete("night")).unwrap_err().to_string().contains("LUN 77"));
    assert!(alpha.say(delete("noon")).is_err());
}

#[test]
fn the_branch_of_a_loser_has_the_name_that_was_asked_for_or_the_next_one() {
    let mut alpha = alpha();
    alpha.say(group()).unwrap();
    alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
    let name: GroupName = "g1".parse().unwrap();
    let number = alpha.tables.group_named(&name).unwrap().number;
    let generation = |counter| Generation { counter, array: ArrayNumber(1), first: UpdateNumber(1) };
    let branch = Branch {
        of: generation(1),
        against: generation(2),
        first: UpdateNumber(5),
        last: UpdateNumber(9),
        bytes: 0,
    };
    let lost = "lost".parse().unwrap();
    alpha.tables.may_keep_branch(number, &lost).unwrap();
    for expected in ["lost", "lost-2", "lost-3"] {
        let new = made(&mut alpha, &new("any", SnapshotOf::Group(name.clone()), SnapshotHosts::ReadOnly));
        alpha.tables.name_branch(&name, &lost, &new.made.unwrap(), branch).unwrap();
        let kept = alpha.tables.snapshots.iter().find(|row| row.name.as_str() == expected).unwrap();
        assert_eq!(kept.branch, Some(branch));
        assert_eq!(row(&alpha, &format!("{expected}.data1")).usage, VolumeUsage::Snapshot(kept.number));
    }
    assert!(alpha.tables.may_keep_branch(number, &lost).is_err(), "refused before anything is given up");
    assert!(alpha.tables.doomed.is_empty());
}
