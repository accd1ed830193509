//! A copy that lost its journal with updates that it had stored, some of whose pairs are suspended: its primary hears of it, and
//! copies nothing before.

use super::written::{normal, number};
use super::*;
use crate::volume::group::ResumeRecord;
use crate::volume::name::GroupNumber;
use crate::volume::pair::SuspendCause;

fn g1(array: &Array) -> GroupNumber {
    array.tables.group_named(&"g1".parse().unwrap()).unwrap().number
}

/// It had stored a thousand updates and restored four hundred.
fn loses(beta: &mut Array) {
    let resume =
        ResumeRecord { first: UpdateNumber(401), handed: UpdateNumber(1_000), ..ResumeRecord::default() };
    let group = g1(beta);
    beta.tables.journal_is_lost(group, Some(UpdateNumber(400)), &resume, Identity(800));
}

fn suspends(alpha: &mut Array, beta: &mut Array) {
    let (pair, mut ids) = (number(alpha, "p1"), 900);
    let mut identity = || {
        ids += 1;
        Identity(ids)
    };
    alpha
        .tables
        .pairs_suspended(&[pair], (SuspendCause::Operator, "by its operator"), UpdateNumber(0), &mut identity)
        .unwrap();
    assert_eq!(deliver(alpha, beta, "beta"), 0);
}

fn told(beta: &Array) -> usize {
    let is_loss = |what: &Designation| matches!(what, Designation::JournalLost { .. });
    beta.tables.forwards.iter().filter(|forward| is_loss(&forward.designation)).count()
}

#[test]
fn a_loss_is_told_when_a_pair_is_suspended_whichever_comes_first() {
    let (mut alpha, mut beta) = normal();
    loses(&mut beta);
    assert_eq!(told(&beta), 0, "it is read again, and found to be released then");
    suspends(&mut alpha, &mut beta);
    assert_eq!(told(&beta), 1);
    let (mut alpha, mut beta) = normal();
    suspends(&mut alpha, &mut beta);
    loses(&mut beta);
    assert_eq!(told(&beta), 1);
    let (mut alpha, mut beta) = normal();
    loses(&mut beta);
    let group = g1(&beta);
    beta.tables.has_read_again(group);
    suspends(&mut alpha, &mut beta);
    assert_eq!(told(&beta), 0, "it has everything again");
}

#[test]
fn nothing_is_copied_again_before_the_primary_has_heard_of_the_loss() {
    let (mut alpha, mut beta) = normal();
    suspends(&mut alpha, &mut beta);
    loses(&mut beta);
    let pair = number(&alpha, "p1");
    alpha.tables.resync_sent(&[(pair, 0)], UpdateNumber(1_001), &mut || Identity(950));
    let svol = number(&beta, "p1");
    beta.tables.pairs.edit(&svol).unwrap().control.is_image = false; // No image has to be kept first.
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1, "it is refused, and offered again");
    assert_eq!(beta.tables.pairs.get(&number(&beta, "p1")).unwrap().state, PairState::Suspended);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert!(alpha.tables.readers_of_group(g1(&alpha)).all(|reader| reader.journal_lost));
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert_eq!(beta.tables.pairs.get(&svol).unwrap().state, PairState::BeingCopied);
}
