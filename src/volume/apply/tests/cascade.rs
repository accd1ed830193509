//! Cascades, readers that are taken away, and other sources (promises T1, T4, T5).

use super::*;

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

/// Alpha is copied by beta, and gamma has links to both.
pub(super) fn three() -> (Array, Array, Array) {
    let (mut alpha, mut beta) = both();
    let mut gamma = Array::new(3, "gamma").with(&["copy1", "copy2", "jnl"], "beta", 2);
    gamma.say(link("alpha", 1)).unwrap();
    beta.say(link("gamma", 3)).unwrap();
    alpha.say(link("gamma", 3)).unwrap();
    for step in [
        group(),
        journal("jnl", None),
        journal("jnl", Some("beta")),
        pair("p1", "data1", "beta:copy1"),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    (alpha, beta, gamma)
}

fn source(reader: Option<&str>, from: Option<&str>) -> Designation {
    Designation::SetSource {
        group: "g1".parse().unwrap(),
        reader: reader.map(|link| link.parse().unwrap()),
        from: from.map(|link| link.parse().unwrap()),
        by_load: false,
    }
}

#[test]
fn an_auxiliary_hands_on_what_it_copies_by_the_numbers_of_the_first_array() {
    let (mut alpha, mut beta, mut gamma) = three();
    assert!(beta.say(pair("p1c", "copy1", "gamma:copy1")).is_err(), "nothing is known of the group yet");
    deliver(&mut alpha, &mut beta, "beta");
    assert!(beta.say(pair("p1c", "copy2", "gamma:copy1")).is_err(), "it is no copy");
    assert!(beta.say(pair("p1c", "copy1", "alpha:data2")).is_err(), "it does not go back");
    beta.say(journal("jnl", Some("gamma"))).unwrap();
    beta.say(pair("p1c", "copy1", "gamma:copy1")).unwrap();
    assert_eq!(deliver(&mut beta, &mut gamma, "gamma"), 0);

    let name = "p1c".parse().unwrap();
    let (ours, theirs) = (beta.tables.pair_named(&name).unwrap(), gamma.tables.pair_named(&name).unwrap());
    let data1 = alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().number;
    assert_eq!((ours.record_volume(), theirs.record_volume()), (Some(data1), Some(data1)));
    assert!(ours.is_cascaded() && ours.control.copies != 0 && ours.control.copies == theirs.control.copies);
    let group = gamma.tables.group_named(&"g1".parse().unwrap()).unwrap();
    assert!(group.is_started, "it was started above before it was known here");
    assert!(matches!(group.role, GroupRole::Auxiliary { source: ArrayNumber(2), .. }));
    // What the first array changes goes down.
    let settings = crate::volume::designation::SettingsChange {
        svol_access: Some(SvolAccess::Read),
        ..Default::default()
    };
    alpha.say(Designation::SetGroup { group: "g1".parse().unwrap(), settings }).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    deliver(&mut beta, &mut gamma, "gamma");
    let group = gamma.tables.group_named(&"g1".parse().unwrap()).unwrap();
    assert_eq!(group.settings.svol_access, SvolAccess::Read);
}

#[test]
fn each_copy_of_a_cascaded_pair_is_another_one() {
    let (mut alpha, mut beta, mut gamma) = three();
    deliver(&mut alpha, &mut beta, "beta");
    beta.say(pair("p1c", "copy1", "gamma:copy1")).unwrap();
    deliver(&mut beta, &mut gamma, "gamma");
    let name = "p1c".parse().unwrap();
    let pair = beta.tables.pair_named(&name).unwrap();
    let (number, first) = (pair.number, pair.control.copies);
    beta.tables.resync_sent(&[(number, 1 << 20)], UpdateNumber(17), &mut || Identity(99));
    deliver(&mut beta, &mut gamma, "gamma");
    let (ours, theirs) = (beta.tables.pair_named(&name).unwrap(), gamma.tables.pair_named(&name).unwrap());
    assert_eq!((ours.control.copies, theirs.control.copies), (first + 1, first + 1));
    assert_eq!(theirs.control.copy_from, UpdateNumber(16), "the largest number that its pieces contain");
}

#[test]
fn a_reader_is_taken_away_with_its_pairs_and_comes_back() {
    let (mut alpha, mut beta, _) = three();
    deliver(&mut alpha, &mut beta, "beta");
    let gone = || Designation::DeleteReader { group: "g1".parse().unwrap(), link: "beta".parse().unwrap() };
    alpha.say(gone()).unwrap();
    assert!(alpha.say(pair("p2", "data2", "beta:copy2")).is_err(), "it is on its way out");
    let pair1 = alpha.tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
    alpha.tables.deletion_sent(pair1, Identity(500));
    deliver(&mut alpha, &mut beta, "beta");
    // The arrays at work take their sides away.
    alpha.tables.pair_is_gone(pair1, Identity(51));
    let there = beta.tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
    beta.tables.pair_is_gone(there, Identity(52));
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert!(beta.tables.groups.iter().next().is_none());
    assert_eq!(alpha.tables.readers.len(), 0);
    assert!(alpha.tables.groups.iter().all(|group| group.remote_journals.is_empty()));
    alpha.say(journal("jnl", Some("beta"))).unwrap();
    alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
}

#[test]
fn another_source_has_to_let_the_reader_in_and_the_source_has_to_know() {
    let (mut alpha, mut beta, mut gamma) = three();
    for step in [journal("jnl", Some("gamma")), pair("p1g", "data1", "gamma:copy1")] {
        alpha.say(step).unwrap();
    }
    deliver(&mut alpha, &mut beta, "beta");
    deliver(&mut alpha, &mut gamma, "gamma");
    let other = |array: &Array| array.tables.groups.iter().next().unwrap().other_source.clone();
    // Said at the primary, for the reader.
    alpha.say(source(Some("gamma"), Some("beta"))).unwrap();
    deliver(&mut alpha, &mut gamma, "gamma");
    let chosen = other(&gamma).unwrap();
    assert_eq!((chosen.link.as_str(), chosen.remote, chosen.is_told), ("beta", None, false));
    deliver(&mut gamma, &mut beta, "beta");
    deliver(&mut gamma, &mut alpha, "alpha");
    let at_beta = beta.tables.groups.iter().next().unwrap().number;
    let chosen = other(&gamma).unwrap();
    assert_eq!((chosen.remote, chosen.is_told), (Some(at_beta), true));
    let reads = |array: &Array| array.tables.readers.iter().find(|r| r.array == ArrayNumber(3)).cloned();
    assert!(reads(&beta).unwrap().is_attached);
    assert_eq!(reads(&alpha).unwrap().reads_from, Some(ArrayNumber(2)));
    // Nobody waits for one who waits for him.
    assert!(beta.say(source(None, Some("gamma"))).is_err());
    // Said at the reader itself, back again.
    gamma.say(source(None, None)).unwrap();
    deliver(&mut gamma, &mut beta, "beta");
    deliver(&mut gamma, &mut alpha, "alpha");
    assert_eq!((other(&gamma), reads(&beta)), (None, None));
    assert_eq!(reads(&alpha).unwrap().reads_from, None);
    beta.say(source(None, Some("gamma"))).unwrap();
}
