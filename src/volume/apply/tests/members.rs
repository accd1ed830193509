//! Volumes are put into a group apart from pairing them (figure 10, step 910), at either array and in either order.

use super::*;
use crate::volume::designation::Which;

fn add(group: &str, volume: &str) -> Designation {
    Designation::AddMember { group: group.parse().unwrap(), volume: volume.parse().unwrap() }
}

fn remove(volume: &str) -> Designation {
    Designation::RemoveMember { group: "g1".parse().unwrap(), volume: volume.parse().unwrap() }
}

fn second_group() -> Designation {
    Designation::CreateGroup { name: "g2".parse().unwrap(), settings: SETTINGS }
}

#[test]
fn step_910_puts_volumes_into_the_group_before_they_are_paired_or_after_it() {
    for first in [true, false] {
        let (mut alpha, mut beta) = both();
        alpha.say(group()).unwrap();
        alpha.say(journal("jnl", None)).unwrap();
        alpha.say(journal("jnl", Some("beta"))).unwrap();
        if first {
            alpha.say(add("g1", "data1")).unwrap();
        }
        deliver(&mut alpha, &mut beta, "beta");
        if first {
            beta.say(add("g1", "copy1")).unwrap();
        }
        alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
        deliver(&mut alpha, &mut beta, "beta");
        if !first {
            alpha.say(add("g1", "data1")).unwrap();
            beta.say(add("g1", "copy1")).unwrap();
        }
        alpha.say(start()).unwrap();
        deliver(&mut alpha, &mut beta, "beta");
        assert!(beta.tables.pair_named(&"p1".parse().unwrap()).is_some(), "paired, in either order");
        for (array, volume) in [(&mut alpha, "data1"), (&mut beta, "copy1")] {
            array.say(add("g1", volume)).unwrap();
            let members = &array.tables.group_named(&"g1".parse().unwrap()).unwrap().members;
            assert_eq!(members.len(), 1, "said twice");
            let refusal = array.say(remove(volume)).unwrap_err().to_string();
            assert!(refusal.contains("pair"), "{refusal}");
        }
    }
}

#[test]
fn a_member_is_paired_in_its_group_only_and_is_neither_deleted_nor_a_journal() {
    let (mut alpha, mut beta) = both();
    alpha.say(group()).unwrap();
    alpha.say(second_group()).unwrap();
    alpha.say(add("g2", "data1")).unwrap();
    assert!(alpha.say(add("g1", "data1")).is_err(), "one group");
    assert!(alpha.say(pair("p1", "data1", "beta:copy1")).unwrap_err().to_string().contains("group g2"));
    let name = "data1".parse().unwrap();
    assert!(alpha.say(Designation::DeleteVolume { volume: name }).is_err());
    assert!(alpha.say(journal("data1", None)).is_err());
    alpha.say(journal("jnl", None)).unwrap();
    assert!(alpha.say(add("g1", "jnl")).is_err(), "a journal volume");
    assert!(alpha.say(add("g1", "nothing")).is_err() && alpha.say(add("g9", "data2")).is_err());
    assert!(alpha.say(remove("data2")).is_err(), "it is no member");
    // At the auxiliary: the pair waits until its S-VOL may be paired.
    alpha.say(journal("jnl", Some("beta"))).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    beta.say(second_group()).unwrap();
    beta.say(add("g2", "copy2")).unwrap();
    alpha.say(pair("p2", "data2", "beta:copy2")).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
    let other = Designation::RemoveMember { group: "g2".parse().unwrap(), volume: "copy2".parse().unwrap() };
    beta.say(other).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    // With the group its members are free.
    alpha.say(Designation::DeletePairs { group: "g1".parse().unwrap(), which: Which::All }).unwrap();
    alpha.say(Designation::DeleteGroup { group: "g2".parse().unwrap() }).unwrap();
    let number = alpha.tables.group_named(&"g2".parse().unwrap()).unwrap().number;
    alpha.tables.group_is_gone(number, &mut || Identity(4_711));
    alpha.say(add("g1", "data1")).unwrap();
}
