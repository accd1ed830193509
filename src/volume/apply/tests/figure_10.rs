//! Figure 10: a copy is started by designations at either side, in either order, each of them given twice.

use super::*;

/// Step 900 of figure 10 said at the auxiliary.
pub(super) fn follow() -> Designation {
    Designation::FollowGroup { group: "g1".parse().unwrap(), link: "alpha".parse().unwrap() }
}

pub(super) fn follow_pair(name: &str, pvol: &str, svol: &str) -> Designation {
    Designation::FollowPair {
        name: name.parse().unwrap(),
        group: "g1".parse().unwrap(),
        link: "alpha".parse().unwrap(),
        pvol: pvol.parse().unwrap(),
        svol: svol.parse().unwrap(),
        copy: CopyMode::Async,
    }
}

/// Both links carry what is on its way until nothing moves any more.
pub(super) fn settle(alpha: &mut Array, beta: &mut Array) {
    for _ in 0..6 {
        deliver(alpha, beta, "beta");
        deliver(beta, alpha, "alpha");
    }
    assert!(alpha.tables.forwards.is_empty(), "{:?}", alpha.tables.forwards);
    assert!(beta.tables.forwards.is_empty(), "{:?}", beta.tables.forwards);
}

/// What figure 10 leads to, whichever side its steps were said at.
fn expect_a_started_copy(alpha: &Array, beta: &Array, what: &str) {
    let (g1, p1) = ("g1".parse().unwrap(), "p1".parse().unwrap());
    let (at_alpha, at_beta) = (alpha.tables.group_named(&g1).unwrap(), beta.tables.group_named(&g1).unwrap());
    assert!(at_alpha.is_started && at_beta.is_started, "{what}");
    assert_eq!((at_alpha.state, at_beta.state), (GroupState::Normal, GroupState::Normal), "{what}");
    assert_eq!(
        (&at_alpha.generations, at_alpha.settings),
        (&at_beta.generations, at_beta.settings),
        "{what}"
    );
    assert_eq!((at_alpha.journals.len(), at_beta.journals.len()), (1, 1), "{what}");
    assert_eq!(at_alpha.remote_journals.len(), 1, "{what}: the primary knows of the journal there");
    let reader = alpha.tables.readers_of_group(at_alpha.number).next().unwrap();
    assert_eq!(reader.remote_group, Some(at_beta.number), "{what}");
    assert!(
        matches!(at_beta.role, GroupRole::Auxiliary { remote: Some(number), .. } if number == at_alpha.number)
    );
    let (ours, theirs) = (alpha.tables.pair_named(&p1).unwrap(), beta.tables.pair_named(&p1).unwrap());
    assert_eq!((ours.state, theirs.state), (PairState::NotYetCopied, PairState::NotYetCopied), "{what}");
    assert_eq!((&ours.primary, &ours.auxiliary), (&theirs.primary, &theirs.auxiliary), "{what}");
    assert_eq!(ours.copy_completion_bytes, 0, "{what}: step 930 begins at address 0");
}

/// Steps 900, 910, 920, 930, each with the array it is said at: 0 the primary, 1 the auxiliary.
type Script = (&'static str, Vec<(usize, Designation)>);

fn introduce() -> Designation {
    Designation::IntroduceGroup { group: "g1".parse().unwrap(), link: "beta".parse().unwrap() }
}

fn scripts_of_one_side() -> [Script; 3] {
    [
        (
            "all at the primary",
            vec![
                (0, group()),
                (0, introduce()),
                (0, pair("p1", "data1", "beta:copy1")),
                (0, journal("jnl", None)),
                (0, journal("jnl", Some("beta"))),
                (0, start()),
            ],
        ),
        (
            "920 before 910",
            vec![
                (0, group()),
                (0, journal("jnl", Some("beta"))),
                (0, journal("jnl", None)),
                (0, pair("p1", "data1", "beta:copy1")),
                (0, start()),
            ],
        ),
        (
            "all but the group at the auxiliary",
            vec![
                (0, group()),
                (1, follow()),
                (1, journal("jnl", Some("alpha"))),
                (1, journal("jnl", None)),
                (1, follow_pair("p1", "data1", "copy1")),
                (1, start()),
            ],
        ),
    ]
}

fn scripts_of_both_sides() -> [Script; 3] {
    [
        (
            "the auxiliary first",
            vec![
                (1, follow()),
                (1, journal("jnl", None)),
                (0, group()),
                (0, journal("jnl", None)),
                (0, pair("p1", "data1", "beta:copy1")),
                (0, start()),
            ],
        ),
        (
            "both make the group known",
            vec![
                (0, group()),
                (0, introduce()),
                (1, follow()),
                (0, journal("jnl", None)),
                (1, journal("jnl", None)),
                (0, pair("p1", "data1", "beta:copy1")),
                (1, start()),
            ],
        ),
        (
            "the pair passed on from the auxiliary",
            vec![
                (0, group()),
                (0, journal("jnl", None)),
                (1, follow()),
                (1, journal("jnl", None)),
                (
                    1,
                    Designation::PassOn {
                        link: "alpha".parse().unwrap(),
                        what: Box::new(pair("p1", "data1", "beta:copy1")),
                    },
                ),
                (1, start()),
            ],
        ),
    ]
}

#[test]
fn figure_10_steps_900_to_940_are_the_same_from_either_side() {
    let g1: GroupName = "g1".parse().unwrap();
    for (what, steps) in scripts_of_one_side().into_iter().chain(scripts_of_both_sides()) {
        // The links carry nothing until the end, or everything after each step, or after every other one.
        for every in [usize::MAX, 1, 2] {
            let (mut alpha, mut beta) = both();
            for (index, (at, step)) in steps.iter().enumerate() {
                let id = DesignationId(Identity(0xf16 + index as u128));
                let array = if *at == 0 { &mut alpha } else { &mut beta };
                let first = array.apply(id, step, &Who::Provision);
                // Who comes second with the same step is told that it is done already.
                let is_second = matches!(step, Designation::FollowGroup { .. })
                    && first == Err(Refusal::exists("group", "g1"));
                assert!(first.is_ok() || is_second, "{what}: {step}: {first:?}");
                assert_eq!(array.apply(id, step, &Who::Provision), first, "{what}: repeated");
                if (index + 1) % every == 0 {
                    for _ in 0..3 {
                        deliver(&mut alpha, &mut beta, "beta");
                        deliver(&mut beta, &mut alpha, "alpha");
                    }
                }
            }
            settle(&mut alpha, &mut beta);
            expect_a_started_copy(&alpha, &beta, &format!("{what}, links every {every}"));
            assert_eq!(beta.tables.groups.len(), 1, "{what}: {g1} once");
        }
    }
}
