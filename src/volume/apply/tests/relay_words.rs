//! What a reader says on a relay at its primary, which nobody else connects with it: whether it is news, and when it is none any more.

use super::onward::{g1, three};
use super::rivals::{fence, ids, row, takes_over};
use super::*;
use crate::volume::group::Generation;
use crate::volume::record::ReaderRecord;
use crate::volume::relay::{RelayLuns, RelayRecord, RelaySide};

/// Alpha's relay to beta.
fn relay(name: &str) -> RelayRecord {
    RelayRecord {
        name: name.parse().unwrap(),
        group: "g1".parse().unwrap(),
        array: ArrayNumber(2),
        side: RelaySide::First,
        portals: vec!["127.0.0.1:3260".parse().unwrap()],
        target: format!("iqn.2026-11.test:{name}").parse().unwrap(),
        luns: RelayLuns { journal: Lun(1), first: Lun(2), second: Lun(3) },
        hosts: Default::default(),
        journals: Default::default(),
        control: Default::default(),
        chap: None,
    }
}

fn newest(array: &Array) -> Generation {
    *row(array).generations.last().unwrap()
}

/// What alpha goes by when it has read that on the relay.
fn read(alpha: &mut Array, relay: &RelayRecord, newest: Option<(u64, Generation)>) -> Option<Generation> {
    alpha.tables.note_relay_word(relay, newest);
    alpha.tables.said_on_relays(relay)
}

/// Alpha, with two relays to beta, which has taken over over a cut link.
fn cut() -> (Array, Array, [RelayRecord; 2]) {
    let (mut alpha, mut beta, _) = three(true);
    let relays = ["r1", "r2"].map(relay);
    for relay in &relays {
        alpha.tables.relays.put(relay.clone());
    }
    let copied = newest(&beta);
    assert_eq!(read(&mut alpha, &relays[0], Some((7, copied))), None, "a copy says where it is");
    takes_over(&mut beta, 40);
    (alpha, beta, relays)
}

/// A third array has opened newer generations, and alpha has heard of those: beta, which never did, has not told alpha of its own by that.
#[test]
fn what_others_have_told_makes_no_word_of_a_reader_known() {
    let (mut alpha, beta, [relay, other]) = cut();
    let group = g1(&alpha);
    if let Some(row) = alpha.tables.groups.edit(&group) {
        (row.seen_counter, row.followed_counter) = (50, 50);
    }
    let said = newest(&beta);
    assert!(said.counter < 50);
    assert_eq!(read(&mut alpha, &relay, Some((8, said))), Some(said));
    assert_eq!(alpha.tables.said_on_relays(&other), Some(said), "it is said of every relay to beta");
    // Beta says so itself: from then on it is known, whichever of them goes on.
    let (what, who) = fence(&beta, true);
    alpha.apply(DesignationId(ids()()), &what, &who).unwrap();
    assert_eq!(read(&mut alpha, &relay, Some((8, said))), None);
    assert_eq!(alpha.tables.relay_word(&relay), None);
    // And what it says later is news again.
    let later = Generation { counter: 60, ..said };
    assert_eq!(read(&mut alpha, &relay, Some((9, later))), Some(later));
}

#[test]
fn a_word_counts_until_the_reader_says_otherwise_there() {
    let (mut alpha, beta, [relay, other]) = cut();
    let (copied, said) = (newest(&alpha), newest(&beta));
    assert_eq!(read(&mut alpha, &relay, Some((8, said))), Some(said));
    // The target has lost it, and has what was there before.
    assert_eq!(read(&mut alpha, &relay, Some((7, copied))), Some(said));
    // On another relay that takes nothing back.
    assert_eq!(read(&mut alpha, &other, Some((99, copied))), Some(said));
    // Beta is a copy again that was set up anew, and says so in its own words.
    assert_eq!(read(&mut alpha, &relay, Some((9, copied))), None);
    // A LUN that was cleared, a relay that is taken away, and one of that name which was made anew.
    assert_eq!(read(&mut alpha, &relay, Some((10, said))), Some(said));
    assert_eq!(read(&mut alpha, &relay, None), None);
    assert_eq!(read(&mut alpha, &relay, Some((11, said))), Some(said));
    alpha.say(Designation::DeleteLink { link: relay.name.clone() }).unwrap();
    assert_eq!(read(&mut alpha, &relay, Some((12, said))), None);
    alpha.tables.relays.put(relay.clone());
    assert_eq!(alpha.tables.said_on_relays(&relay), None);
    // A reader that was taken away, and is set up anew.
    assert_eq!(read(&mut alpha, &relay, Some((3, said))), Some(said));
    let known = alpha.tables.readers.get(&(g1(&alpha), ArrayNumber(2))).unwrap().clone();
    alpha.tables.readers.put(ReaderRecord::new(known.group, known.array, known.link));
    assert_eq!(alpha.tables.said_on_relays(&relay), None);
}

/// Beta is the copy of gamma by now, which has taken over; alpha's own generations are no news, nor what it had when beta became its reader.
#[test]
fn a_reader_that_follows_another_primary_is_no_copy_any_more() {
    let (mut alpha, beta, [relay, _]) = cut();
    let gammas = Generation { array: ArrayNumber(3), ..newest(&beta) };
    assert_eq!(read(&mut alpha, &relay, Some((8, gammas))), Some(gammas));
    let group = g1(&alpha);
    for (since, heard) in [(gammas.counter, 0), (0, gammas.counter)] {
        let reader = alpha.tables.readers.edit(&(group, ArrayNumber(2))).unwrap();
        (reader.since, reader.heard) = (since, heard);
        assert_eq!(alpha.tables.said_on_relays(&relay), None);
    }
    let reader = alpha.tables.readers.edit(&(group, ArrayNumber(2))).unwrap();
    (reader.since, reader.heard) = (0, 0);
    assert_eq!(alpha.tables.said_on_relays(&relay), Some(gammas));
    // It was gamma's copy itself since.
    alpha.tables.groups.edit(&group).unwrap().generations.push(gammas);
    assert_eq!(alpha.tables.said_on_relays(&relay), None);
    let own = Generation { counter: 99, array: ArrayNumber(1), first: UpdateNumber(50) };
    assert_eq!(read(&mut alpha, &relay, Some((20, own))), None);
}
