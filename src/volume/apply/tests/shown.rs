//! Whose identity volumes show (decision 25): what may be one unit to hosts, and who keeps the name when the pair ends.

use super::takeover::{count, fail_back, g1, ids, state, take_over};
use super::written::number;
use super::*;
use crate::volume::apply::taken::Journal;
use crate::volume::designation::{SettingsChange, SvolHosts, Which};
use crate::volume::kind::{Fence, IdentityChoice};
use crate::volume::name::PairNumber;

const SHARED: GroupSettings =
    GroupSettings { fence: Fence::Data, identity: IdentityChoice::Shared, ..SETTINGS };
const P_VOL: Identity = Identity(0xA1);
const S_VOL: Identity = Identity(0xB1);

fn volume_called(name: &str, identity: Identity) -> Designation {
    match volume(name) {
        Designation::CreateVolume(new) => Designation::CreateVolume(NewVolume { identity, ..new }),
        other => other,
    }
}

fn create(settings: GroupSettings) -> Designation {
    Designation::CreateGroup { name: "g1".parse().unwrap(), settings }
}

fn sync_pair(name: &str, pvol: &str, svol: &str) -> Designation {
    match pair(name, pvol, svol) {
        Designation::CreatePair { name, group, pvol, svol, .. } => {
            Designation::CreatePair { name, group, pvol, svol, copy: CopyMode::Sync }
        }
        other => other,
    }
}

/// As the store does it: what was said, and what follows from it, in one transaction.
fn in_store<T>(array: &mut Array, change: impl FnOnce(&mut Array) -> T) -> T {
    let before = array.tables.clone();
    let outcome = change(array);
    array.tables.settle_identities(&before);
    outcome
}

fn shown(array: &Array, name: &str) -> Identity {
    array.tables.volume_named(&name.parse().unwrap()).unwrap().shown()
}

fn is_active(array: &Array, name: &str) -> Option<bool> {
    let volume = array.tables.volume_named(&name.parse().unwrap()).unwrap().number;
    array.tables.shared_volume(volume).map(|shared| shared.is_active)
}

fn arrays() -> (Array, Array) {
    let mut alpha = Array::new(1, "alpha").with(&["jnl"], "beta", 2);
    let mut beta = Array::new(2, "beta").with(&["jnl"], "alpha", 1);
    alpha.say(volume_called("data1", P_VOL)).unwrap();
    beta.say(volume_called("copy1", S_VOL)).unwrap();
    (alpha, beta)
}

/// One shared pair, normal.
fn pair_of_one() -> (Array, Array) {
    let (mut alpha, mut beta) = arrays();
    for step in [
        create(SHARED),
        journal("jnl", None),
        journal("jnl", Some("beta")),
        sync_pair("p1", "data1", "beta:copy1"),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    for array in [&mut alpha, &mut beta] {
        let number = number(array, "p1");
        array.tables.pair_event(number, PairEvent::CopyBegins, None).unwrap();
        array.tables.pair_event(number, PairEvent::CopyRestored, None).unwrap();
    }
    (alpha, beta)
}

fn is_mapped(array: &Array) -> bool {
    array.tables.targets.iter().any(|target| !target.luns.is_empty())
}

fn gone(array: &mut Array, name: &str) {
    let number: PairNumber = number(array, name);
    in_store(array, |array| array.tables.pair_is_gone(number, ids()()));
}

fn takes_over(beta: &mut Array) {
    in_store(beta, |beta| {
        beta.say(take_over()).unwrap();
        let group = g1(beta).number;
        beta.tables.primary_reached(group);
        let (last, from) = (UpdateNumber(40), UpdateNumber(41));
        beta.tables.takeover_done(group, last, from, Journal::BeginsAnew, &mut ids()).unwrap();
    });
}

#[test]
fn the_s_vol_shows_what_the_p_vol_shows_and_only_the_primary_s_side_is_active() {
    let (alpha, beta) = pair_of_one();
    assert_eq!((shown(&alpha, "data1"), shown(&beta, "copy1")), (P_VOL, P_VOL));
    assert_eq!((is_active(&alpha, "data1"), is_active(&beta, "copy1")), (Some(true), Some(false)));
    let row = beta.tables.volume_named(&"copy1".parse().unwrap()).unwrap();
    assert_eq!(row.identity, S_VOL, "its own is not forgotten");
    assert_eq!(is_active(&alpha, "jnl"), None);
}

#[test]
fn one_identity_needs_the_fence_that_lets_only_one_array_answer_and_s_vols_that_nobody_reads() {
    let (mut alpha, _) = arrays();
    for (settings, why) in [
        (GroupSettings { fence: Fence::Never, ..SHARED }, "needs fence data"),
        (GroupSettings { fence: Fence::Status, ..SHARED }, "needs fence data"),
        (GroupSettings { svol_access: SvolAccess::Read, ..SHARED }, "needs svol-access none"),
    ] {
        let refused = alpha.say(create(settings)).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    alpha.say(create(SHARED)).unwrap();
    let set = |settings| Designation::SetGroup { group: "g1".parse().unwrap(), settings };
    let read = SettingsChange { svol_access: Some(SvolAccess::Read), ..SettingsChange::default() };
    assert!(alpha.say(set(read)).is_err());
    let refused = alpha.say(sync_pair("p1", "data1", "beta:copy1")).unwrap_err().to_string();
    assert!(refused.contains("journal volume before its first pair"), "{refused}");
    alpha.say(journal("jnl", None)).unwrap();
    alpha.say(sync_pair("p1", "data1", "beta:copy1")).unwrap();
    let own = SettingsChange { identity: Some(IdentityChoice::Own), ..SettingsChange::default() };
    let refused = alpha.say(set(own)).unwrap_err().to_string();
    assert!(refused.contains("has pairs"), "{refused}");
}

#[test]
fn volumes_that_hosts_could_tell_apart_are_not_shown_as_one() {
    for (wrong, why) in [("thin", "thin, cache"), ("cache", "thin, cache"), ("twice", "shows that identity")]
    {
        let (mut alpha, mut beta) = arrays();
        let Designation::CreateVolume(mut new) = volume_called("other", Identity(0xB2)) else {
            unreachable!()
        };
        match wrong {
            "thin" => new.is_thin = true,
            "cache" => new.cache = CacheMode::WriteThrough,
            _ => beta.say(volume_called("clone", P_VOL)).map(drop).unwrap(),
        }
        beta.say(Designation::CreateVolume(new)).unwrap();
        for step in [create(SHARED), journal("jnl", None), sync_pair("p1", "data1", "beta:other")] {
            alpha.say(step).unwrap();
        }
        assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
        let refusal = alpha.tables.forwards.iter().next().and_then(|one| one.refusal.clone()).unwrap();
        assert!(refusal.contains(why), "{refusal}");
        assert_eq!(shown(&beta, "other"), Identity(0xB2));
    }
}

#[test]
fn hosts_are_not_let_into_both_volumes_while_the_pair_is_suspended() {
    let (mut alpha, _) = pair_of_one();
    let suspend = |svol| Designation::SuspendPairs { group: "g1".parse().unwrap(), which: Which::All, svol };
    let refused = alpha.say(suspend(SvolHosts::Write)).unwrap_err().to_string();
    assert!(refused.contains("one of them only"), "{refused}");
    assert!(alpha.say(suspend(SvolHosts::Keep)).is_ok());
}

#[test]
fn other_copies_of_the_group_show_their_own_identity() {
    let (mut alpha, _) = pair_of_one();
    alpha.say(cascade::link("gamma", 3)).unwrap();
    alpha.say(pair("q1", "data1", "gamma:copy1")).unwrap();
    let pair = alpha.tables.pair_named(&"q1".parse().unwrap()).unwrap();
    assert_eq!(pair.shared, None);
    let said = alpha.tables.forwards.iter().find_map(|forward| match &forward.designation {
        Designation::RemotePair(remote) if remote.name == pair.name => Some(remote.shared),
        _ => None,
    });
    assert_eq!(said, Some(None));
    gone(&mut alpha, "q1");
    assert_eq!((shown(&alpha, "data1"), is_active(&alpha, "data1")), (P_VOL, Some(true)));
}

#[test]
fn when_the_pair_is_taken_away_the_primary_keeps_the_identity() {
    let (mut alpha, mut beta) = pair_of_one();
    alpha.say(target(&[(1, "data1")])).unwrap();
    beta.say(target(&[(1, "copy1")])).unwrap();
    gone(&mut beta, "p1");
    assert_eq!(shown(&beta, "copy1"), S_VOL);
    assert!(!is_mapped(&beta), "hosts would go on to use it as the other one");
    gone(&mut alpha, "p1");
    assert_eq!((shown(&alpha, "data1"), is_active(&alpha, "data1")), (P_VOL, None));
    assert!(is_mapped(&alpha));
}

/// Whoever is the primary when the pair ends keeps it, also if it was never its own; the other one gets a new one then.
#[test]
fn when_the_roles_have_changed_the_identity_stays_with_the_new_primary() {
    let (mut alpha, mut beta) = pair_of_one();
    takes_over(&mut beta);
    assert_eq!((is_active(&alpha, "data1"), is_active(&beta, "copy1")), (Some(true), Some(true)));
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    assert_eq!((is_active(&alpha, "data1"), is_active(&beta, "copy1")), (Some(false), Some(true)));
    count(&mut alpha);
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    beta.say(fail_back("alpha")).unwrap();
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    let (group, p1) = (g1(&alpha).number, number(&alpha, "p1"));
    in_store(&mut alpha, |alpha| alpha.tables.yielded(group, &[(p1, vec![(0, 65_536)])], &mut ids()));
    assert_eq!((shown(&alpha, "data1"), shown(&beta, "copy1")), (P_VOL, P_VOL), "still a pair");
    assert_eq!((is_active(&alpha, "data1"), is_active(&beta, "copy1")), (Some(false), Some(true)));
    gone(&mut alpha, "p1");
    gone(&mut beta, "p1");
    assert_eq!(shown(&beta, "copy1"), P_VOL);
    let fresh = shown(&alpha, "data1");
    assert!(fresh != P_VOL && fresh != S_VOL, "{fresh}");
    assert_eq!(alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().identity, P_VOL);
}

/// Beta took over and gave alpha up for lost; alpha is back and hears of both.
#[test]
fn an_array_that_was_given_up_for_lost_shows_the_identity_no_more_when_it_hears_of_it() {
    let (mut alpha, mut beta) = pair_of_one();
    alpha.say(target(&[(1, "data1")])).unwrap();
    beta.say(target(&[(1, "copy1")])).unwrap();
    takes_over(&mut beta);
    let lost = Designation::DeleteReader { group: "g1".parse().unwrap(), link: "alpha".parse().unwrap() };
    beta.say(lost).unwrap();
    gone(&mut beta, "p1");
    assert_eq!((shown(&beta, "copy1"), is_active(&beta, "copy1")), (P_VOL, None));
    assert_eq!(is_active(&alpha, "data1"), Some(true), "it does not know");
    assert_eq!(in_store(&mut alpha, |alpha| deliver(&mut beta, alpha, "alpha")), 0);
    assert_eq!((state(&alpha).as_str(), is_active(&alpha, "data1")), ("overtaken", None));
    assert_ne!(shown(&alpha, "data1"), P_VOL);
    assert_eq!((is_mapped(&alpha), is_mapped(&beta)), (false, true));
}

/// The other way round: alpha gave beta up for lost, which took over without hearing of it.
#[test]
fn an_array_that_took_over_and_had_been_taken_away_before_shows_its_own_identity_when_it_hears_of_it() {
    let (mut alpha, mut beta) = pair_of_one();
    let lost = Designation::DeleteReader { group: "g1".parse().unwrap(), link: "beta".parse().unwrap() };
    alpha.say(lost).unwrap();
    gone(&mut alpha, "p1");
    takes_over(&mut beta);
    assert_eq!(shown(&beta, "copy1"), P_VOL);
    in_store(&mut beta, |beta| deliver(&mut alpha, beta, "beta"));
    assert_eq!((shown(&alpha, "data1"), shown(&beta, "copy1")), (P_VOL, S_VOL));
}

#[test]
fn of_two_that_took_over_and_know_it_the_later_one_is_active() {
    let (mut alpha, mut beta) = pair_of_one();
    takes_over(&mut beta);
    assert_eq!(deliver(&mut beta, &mut alpha, "alpha"), 0);
    count(&mut alpha);
    alpha.say(take_over()).unwrap();
    let group = g1(&alpha).number;
    in_store(&mut alpha, |alpha| alpha.tables.retaken(group, UpdateNumber(43), &mut ids()));
    let _ = deliver(&mut alpha, &mut beta, "beta");
    assert_eq!((state(&alpha).as_str(), state(&beta).as_str()), ("split-brain", "split-brain"));
    assert_eq!((is_active(&alpha, "data1"), is_active(&beta, "copy1")), (Some(true), Some(false)));
    assert_eq!((shown(&alpha, "data1"), shown(&beta, "copy1")), (P_VOL, P_VOL));
}

/// A copy that goes on from another array is no pair with the one whose identity it showed.
#[test]
fn an_s_vol_that_follows_another_array_shows_its_own_identity() {
    let (_, mut beta) = pair_of_one();
    let p1 = number(&beta, "p1");
    in_store(&mut beta, |beta| {
        let pair = beta.tables.pairs.edit(&p1).unwrap();
        pair.primary.array = ArrayNumber(3);
    });
    assert_eq!((shown(&beta, "copy1"), is_active(&beta, "copy1")), (S_VOL, None));
    assert_eq!(beta.tables.pairs.get(&p1).unwrap().shared, None);
}
