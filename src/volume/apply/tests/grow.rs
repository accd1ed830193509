//! Volumes that grow: room goes up, sizes go down, and at no moment an S-VOL is smaller than its P-VOL (decision 18).

use super::cascade::{link, three};
use super::written::normal;
use super::*;
use crate::volume::name::VolumeNumber;

const OLD: u64 = 8 << 20;
const NEW: u64 = 12 << 20;

fn resize(volume: &str, size_bytes: u64) -> Designation {
    Designation::ResizeVolume { volume: volume.parse().unwrap(), size_bytes }
}

fn row(array: &Array, name: &str) -> VolumeRecord {
    array.tables.volume_named(&name.parse().unwrap()).unwrap().clone()
}

/// The array at work makes the room, if it may.
fn make_room(array: &mut Array, name: &str) -> Result<(), Refusal> {
    let number: VolumeNumber = row(array, name).number;
    let mut copy = array.tables.clone();
    let mut ids = array.ids + 1_000;
    copy.room_was_made(number, &mut || {
        ids += 1;
        Identity(ids)
    })?;
    array.ids = ids;
    array.tables = copy;
    Ok(())
}

#[test]
fn a_volume_without_copies_grows_at_once_and_never_shrinks() {
    let (mut alpha, _) = both();
    for (wrong, why) in [(OLD - 4096, "shrink"), (OLD + 1, "multiple"), (1 << 60, "256TiB")] {
        let refusal = alpha.say(resize("data1", wrong)).unwrap_err().to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
    assert_eq!(alpha.say(resize("data1", OLD)), Ok(Outcome::Done));
    assert!(row(&alpha, "data1").growth.is_none());
    alpha.say(resize("data1", NEW)).unwrap();
    assert_eq!(row(&alpha, "data1").size_bytes, OLD, "the parity group has not said yes");
    assert!(alpha.say(resize("data1", 2 * NEW)).is_err(), "one after the other");
    assert!(alpha.say(group()).is_ok() && alpha.say(pair("p1", "data1", "beta:copy1")).is_err(), "not now");
    make_room(&mut alpha, "data1").unwrap();
    assert_eq!((row(&alpha, "data1").size_bytes, row(&alpha, "data1").growth), (NEW, None));
}

#[test]
fn the_s_vol_has_room_before_the_p_vol_grows_and_is_shown_larger_after_it() {
    let (mut alpha, mut beta) = normal();
    alpha.say(resize("data1", NEW)).unwrap();
    assert!(make_room(&mut alpha, "data1").is_err(), "its S-VOL has no room");
    deliver(&mut alpha, &mut beta, "beta");
    assert!(make_room(&mut alpha, "data1").is_err(), "asked for is not there");
    make_room(&mut beta, "copy1").unwrap();
    assert_eq!(row(&beta, "copy1").size_bytes, OLD, "there is nothing to see yet");
    assert!(make_room(&mut alpha, "data1").is_err(), "nobody has told");
    deliver(&mut beta, &mut alpha, "alpha");
    make_room(&mut alpha, "data1").unwrap();
    assert_eq!((row(&alpha, "data1").size_bytes, row(&beta, "copy1").size_bytes), (NEW, OLD));
    deliver(&mut alpha, &mut beta, "beta");
    assert_eq!((row(&beta, "copy1").size_bytes, row(&beta, "copy1").growth), (NEW, None));
    for array in [&alpha, &beta] {
        let size = |name: &str| array.tables.pair_named(&name.parse().unwrap()).unwrap().size_bytes;
        assert_eq!((size("p1"), size("p2")), (NEW, OLD));
    }
    // An S-VOL that is large enough already says so at once.
    let refusal = beta.say(resize("copy1", 2 * NEW)).unwrap_err().to_string();
    assert!(refusal.contains("at alpha"), "{refusal}");
}

/// Where hosts have written an S-VOL is marked in regions that are larger on a larger volume: they would be read at other places.
#[test]
fn a_stopped_pair_that_grows_is_known_to_reach_nothing() {
    let (mut alpha, mut beta) = normal();
    for name in ["p1", "p2"] {
        let number = beta.tables.pair_named(&name.parse().unwrap()).unwrap().number;
        beta.tables.pairs.edit(&number).unwrap().control.reaches = Some(UpdateNumber(20));
    }
    alpha.say(resize("data1", NEW)).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    let reaches =
        |array: &Array, name: &str| array.tables.pair_named(&name.parse().unwrap()).unwrap().control.reaches;
    assert_eq!(reaches(&beta, "p1"), Some(UpdateNumber(20)), "it has its old size");
    make_room(&mut beta, "copy1").unwrap();
    assert_eq!((reaches(&beta, "p1"), reaches(&beta, "p2")), (None, Some(UpdateNumber(20))));
}

#[test]
fn in_a_cascade_room_is_made_from_below() {
    let (mut alpha, mut beta, mut gamma) = three();
    deliver(&mut alpha, &mut beta, "beta");
    beta.say(pair("p1c", "copy1", "gamma:copy1")).unwrap();
    deliver(&mut beta, &mut gamma, "gamma");
    for array in [&mut alpha, &mut beta, &mut gamma] {
        let pairs: Vec<_> = array.tables.pairs.iter().map(|pair| pair.number).collect();
        for pair in pairs {
            array.tables.pair_event(pair, PairEvent::CopyBegins, None).unwrap();
            array.tables.pair_event(pair, PairEvent::CopyRestored, None).unwrap();
        }
    }
    alpha.say(resize("data1", NEW)).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    assert!(make_room(&mut beta, "copy1").is_err(), "gamma has none");
    deliver(&mut beta, &mut gamma, "gamma");
    make_room(&mut gamma, "copy1").unwrap();
    deliver(&mut gamma, &mut beta, "beta");
    make_room(&mut beta, "copy1").unwrap();
    deliver(&mut beta, &mut alpha, "alpha");
    make_room(&mut alpha, "data1").unwrap();
    assert_eq!(row(&gamma, "copy1").size_bytes, OLD);
    deliver(&mut alpha, &mut beta, "beta");
    deliver(&mut beta, &mut gamma, "gamma");
    for (array, name) in [(&alpha, "data1"), (&beta, "copy1"), (&gamma, "copy1")] {
        assert_eq!((row(array, name).size_bytes, row(array, name).growth), (NEW, None), "{name}");
    }
}

#[test]
fn what_would_be_cut_by_it_waits_or_is_refused() {
    let (mut alpha, mut beta) = normal();
    let p1 = alpha.tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
    alpha.say(resize("data1", NEW)).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    let at_beta = beta.tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
    beta.tables.pairs.edit(&at_beta).unwrap().control.svol_write = true;
    assert!(make_room(&mut beta, "copy1").is_err(), "hosts may write it");
    beta.tables.pairs.edit(&at_beta).unwrap().control.svol_write = false;
    make_room(&mut beta, "copy1").unwrap();
    deliver(&mut beta, &mut alpha, "alpha");
    alpha.tables.pairs.edit(&p1).unwrap().state = PairState::BeingCopied;
    assert!(make_room(&mut alpha, "data1").is_err(), "a copy knows its end");
    alpha.tables.pairs.edit(&p1).unwrap().state = PairState::Suspended;
    let reverse = Designation::ReverseGroup {
        group: "g1".parse().unwrap(),
        to: "beta".parse().unwrap(),
        wait: std::time::Duration::ZERO,
    };
    let refusal = alpha.say(reverse).unwrap_err().to_string();
    assert!(refusal.contains("growing"), "{refusal}");
    make_room(&mut alpha, "data1").unwrap();
    assert!(alpha.say(resize("jnl", NEW)).is_err(), "a journal volume");
    // Only the array with the S-VOL says that it has the room, and only its primary that it is shown.
    alpha.say(link("gamma", 3)).unwrap();
    let gamma = Who::Peer { array: ArrayNumber(3), from: "test".into() };
    let lie = Designation::JoinRoom { pair: "p2".parse().unwrap(), size_bytes: NEW };
    assert!(alpha.apply(DesignationId(Identity(5)), &lie, &gamma).is_err());
    let primary = Who::Peer { array: ArrayNumber(1), from: "test".into() };
    let lie = Designation::RemoteGrown { pair: "p2".parse().unwrap(), size_bytes: NEW };
    assert!(beta.apply(DesignationId(Identity(6)), &lie, &primary).is_err(), "there is no room");
    let lie = Designation::RemoteGrow { pair: "p2".parse().unwrap(), size_bytes: u64::MAX };
    assert!(beta.apply(DesignationId(Identity(7)), &lie, &primary).is_err());
}

#[test]
fn a_growth_that_waits_is_called_back_and_can_be_said_again() {
    for delivered in [false, true] {
        let (mut alpha, mut beta) = normal();
        alpha.say(resize("data1", NEW)).unwrap();
        if delivered {
            deliver(&mut alpha, &mut beta, "beta");
        }
        alpha.say(resize("data1", OLD)).unwrap();
        settle(&mut alpha, &mut beta);
        assert!(row(&alpha, "data1").growth.is_none() && row(&beta, "copy1").growth.is_none());
        alpha.say(resize("data1", 2 * NEW)).unwrap();
        settle(&mut alpha, &mut beta);
        make_room(&mut beta, "copy1").unwrap();
        settle(&mut alpha, &mut beta);
        make_room(&mut alpha, "data1").unwrap();
        settle(&mut alpha, &mut beta);
        assert_eq!((row(&alpha, "data1").size_bytes, row(&beta, "copy1").size_bytes), (2 * NEW, 2 * NEW));
    }
}

fn pair_size(array: &Array, name: &str) -> u64 {
    array.tables.pair_named(&name.parse().unwrap()).unwrap().size_bytes
}

/// The S-VOL had its room when the growth was called back. Behind a reversal the pair, whose size is that of its copy, was larger than the
/// volume at the other array for ever.
#[test]
fn a_growth_that_is_called_back_leaves_no_pair_that_is_larger_than_its_volumes() {
    let (mut alpha, mut beta) = normal();
    alpha.say(resize("data1", NEW)).unwrap();
    settle(&mut alpha, &mut beta);
    make_room(&mut beta, "copy1").unwrap();
    assert_eq!(pair_size(&beta, "p1"), NEW, "what comes from here on may be larger");
    settle(&mut alpha, &mut beta);
    alpha.say(resize("data1", OLD)).unwrap();
    settle(&mut alpha, &mut beta);
    assert_eq!((row(&beta, "copy1").size_bytes, row(&beta, "copy1").growth), (OLD, None));
    assert_eq!((pair_size(&alpha, "p1"), pair_size(&beta, "p1")), (OLD, OLD));

    // Said again, the S-VOL is asked again: its pair is not as large as its room any more.
    alpha.say(resize("data1", NEW)).unwrap();
    assert!(make_room(&mut alpha, "data1").is_err(), "the room of the first time is not counted");
    let late = Designation::JoinRoom { pair: "p1".parse().unwrap(), size_bytes: 2 * NEW };
    let from_beta = Who::Peer { array: ArrayNumber(2), from: "test".into() };
    assert!(alpha.apply(DesignationId(Identity(9)), &late, &from_beta).is_ok());
    assert!(make_room(&mut alpha, "data1").is_err(), "nor what is said of another growth");
    settle(&mut alpha, &mut beta);
    make_room(&mut beta, "copy1").unwrap();
    settle(&mut alpha, &mut beta);
    make_room(&mut alpha, "data1").unwrap();
    settle(&mut alpha, &mut beta);
    assert_eq!((pair_size(&alpha, "p1"), pair_size(&beta, "p1")), (NEW, NEW));
    assert_eq!((row(&alpha, "data1").size_bytes, row(&beta, "copy1").size_bytes), (NEW, NEW));
}
