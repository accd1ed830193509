//! Designations as a primary and an auxiliary give and get them.

mod asked;
mod attempts;
mod between;
mod cascade;
mod drills;
mod figure_10;
mod grow;
mod lost;
mod members;
mod onward;
mod relay_words;
mod reverse;
mod rivals;
mod shown;
mod snapshots;
mod synchronous;
mod taken;
mod takeover;
mod written;

use super::*;
use crate::volume::designation::{NewLink, NewParityGroup, NewTarget, NewVolume};
use crate::volume::group::{GroupEvent, GroupRole, GroupSettings, GroupState, JournalOptions};
use crate::volume::kind::{CacheMode, CopyMode, InitiatorRule, RaidLevel, Release, Schedule, SvolAccess};
use crate::volume::name::{ArrayNumber, IscsiName, Lun, UpdateNumber};
use crate::volume::pair::{PairEvent, PairState};
use crate::volume::record::{
    Identity, LunRecord, MetaRecord, UnitRecord, VolumeRecord, VolumeState, VolumeUsage,
};
use crate::volume::secret::Secret;
use crate::volume::table::HostAccess;
use figure_10::{follow, follow_pair, settle};

const SETTINGS: GroupSettings = GroupSettings {
    svol_access: SvolAccess::None,
    release: Release::Read,
    read_updates: 10,
    read_bytes: 1 << 20,
    copy_unit_bytes: 1 << 20,
    throttle: std::time::Duration::ZERO,
    release_by: crate::volume::kind::ReleaseBy::Named,
    no_room: crate::volume::kind::NoRoom::Hold,
    fence: crate::volume::kind::Fence::Never,
    fence_wait: crate::volume::kind::FENCE_WAIT_DEFAULT,
    identity: crate::volume::kind::IdentityChoice::Own,
    overtaken: crate::volume::kind::WhenOvertaken::Wait,
};

/// One array: its tables, and a supply of identities.
struct Array {
    tables: Tables,
    ids: u128,
}

impl Array {
    fn new(number: u32, name: &str) -> Self {
        let mut tables = Tables::default();
        tables.meta.put(MetaRecord {
            identity: Identity(number.into()),
            number: ArrayNumber(number),
            name: name.parse().unwrap(),
            incarnation: 1,
            last_number: 0,
            last_sequence: 0,
        });
        Self { tables, ids: u128::from(number) << 64 }
    }

    /// As the store does it: a refused change leaves no trace.
    fn apply(&mut self, id: DesignationId, what: &Designation, who: &Who) -> Result<Outcome, Refusal> {
        let mut copy = self.tables.clone();
        let outcome = copy.apply(id, what, who)?;
        self.tables = copy;
        Ok(outcome)
    }

    fn say(&mut self, what: Designation) -> Result<Outcome, Refusal> {
        self.ids += 1;
        self.apply(DesignationId(Identity(self.ids)), &what, &Who::Provision)
    }

    /// A parity group, volumes of 8 MiB with these names, and a link.
    fn with(mut self, volumes: &[&str], link: &str, other: u32) -> Self {
        self.say(parity_group("pg0", "u")).unwrap();
        for name in volumes {
            self.say(volume(name)).unwrap();
        }
        self.say(Designation::CreateLink(NewLink {
            name: link.parse().unwrap(),
            array: ArrayNumber(other),
            portals: vec!["127.0.0.1:3262".parse().unwrap()],
            secret: Secret::new("0123456789ab").unwrap(),
            schedule: Schedule::default(),
            options: Default::default(),
        }))
        .unwrap();
        self
    }
}

fn parity_group(name: &str, unit: &str) -> Designation {
    let unit = |index: u8| UnitRecord {
        identity: Identity(index.into()),
        path: format!("{unit}{index}").into(),
        size_bytes: Some(1 << 26),
        is_ours: false,
    };
    Designation::CreateParityGroup(NewParityGroup {
        name: name.parse().unwrap(),
        identity: Identity(1),
        level: RaidLevel::Raid5,
        stripe_unit_bytes: 65_536,
        units: (0..3).map(unit).collect(),
        spares: vec![],
    })
}

fn volume(name: &str) -> Designation {
    Designation::CreateVolume(NewVolume {
        name: name.parse().unwrap(),
        identity: Identity(7),
        parity_group: Some("pg0".parse().unwrap()),
        size_bytes: 8 << 20,
        block_size_bytes: 512,
        is_thin: false,
        cache: CacheMode::WriteBack,
    })
}

fn target(luns: &[(u16, &str)]) -> Designation {
    Designation::CreateTarget(NewTarget {
        iqn: "iqn.2026-11.io.holdfast:x".parse().unwrap(),
        luns: luns.iter().map(|(lun, volume)| (Lun(*lun), volume.parse().unwrap())).collect(),
        read_only_for: vec![],
        initiators: vec![InitiatorRule::Any],
        chap: None,
    })
}

fn journal(volume: &str, at: Option<&str>) -> Designation {
    Designation::AddJournal {
        group: "g1".parse().unwrap(),
        volume: volume.parse().unwrap(),
        at: at.map(|link| link.parse().unwrap()),
        options: JournalOptions::default(),
    }
}

fn pair(name: &str, pvol: &str, svol: &str) -> Designation {
    Designation::CreatePair {
        name: name.parse().unwrap(),
        group: "g1".parse().unwrap(),
        pvol: pvol.parse().unwrap(),
        svol: svol.parse().unwrap(),
        copy: CopyMode::Async,
    }
}

fn group() -> Designation {
    Designation::CreateGroup { name: "g1".parse().unwrap(), settings: SETTINGS }
}

fn start() -> Designation {
    Designation::StartGroup { group: "g1".parse().unwrap() }
}

/// Offers everything that is on its way from one array to the other once; answers how much is still on its way.
fn deliver(from: &mut Array, to: &mut Array, link: &str) -> usize {
    let link: LinkName = link.parse().unwrap();
    let who = Who::Peer { array: from.tables.meta().number, from: "test".into() };
    let all: Vec<ForwardRecord> = from.tables.forwards_to(&link).cloned().collect();
    for forward in all {
        // On the wire it is JSON.
        let wire = serde_json::to_vec(&forward.designation).unwrap();
        let designation: Designation = serde_json::from_slice(&wire).unwrap();
        let answer = to.apply(forward.id, &designation, &who);
        assert_eq!(to.apply(forward.id, &designation, &who), answer, "a repetition gets the same answer");
        from.tables.delivered(forward.sequence, &answer);
    }
    from.tables.forwards_to(&link).count()
}

fn both() -> (Array, Array) {
    (
        Array::new(1, "alpha").with(&["data1", "data2", "jnl"], "beta", 2),
        Array::new(2, "beta").with(&["copy1", "copy2", "jnl"], "alpha", 1),
    )
}

#[test]
fn a_copy_is_designated_at_the_primary_and_passed_on() {
    let (mut alpha, mut beta) = both();
    for step in [
        group(),
        journal("jnl", None),
        journal("jnl", Some("beta")),
        pair("p1", "data1", "beta:copy1"),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);

    let (g1, p1) = ("g1".parse().unwrap(), "p1".parse().unwrap());
    let at_alpha = alpha.tables.group_named(&g1).unwrap();
    let at_beta = beta.tables.group_named(&g1).unwrap();
    assert_eq!(at_alpha.next_update_number, UpdateNumber(1));
    assert_eq!(at_alpha.generations, at_beta.generations);
    assert!(at_alpha.is_started && at_beta.is_started);
    assert_eq!(at_beta.state, GroupState::Normal);
    assert_eq!(at_beta.journals.len(), 1);
    let reader = alpha.tables.readers_of_group(at_alpha.number).next().unwrap();
    assert_eq!(reader.remote_group, Some(at_beta.number));
    let (ours, theirs) = (alpha.tables.pair_named(&p1).unwrap(), beta.tables.pair_named(&p1).unwrap());
    assert_eq!((ours.state, theirs.state), (PairState::NotYetCopied, PairState::NotYetCopied));
    assert_eq!((&ours.primary, &ours.auxiliary), (&theirs.primary, &theirs.auxiliary));
    let state = |array: &Array, name: &str| array.tables.volume_named(&name.parse().unwrap()).unwrap().state;
    assert_eq!((state(&alpha, "data1"), state(&beta, "copy1")), (VolumeState::Main, VolumeState::Auxiliary));
}

#[test]
fn journals_and_pairs_come_in_either_order() {
    let (mut alpha, mut beta) = both();
    for step in [
        group(),
        pair("p1", "data1", "beta:copy1"),
        journal("jnl", Some("beta")),
        journal("jnl", None),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
    assert!(beta.tables.group_named(&"g1".parse().unwrap()).unwrap().is_started);
}

#[test]
fn what_the_other_array_is_not_ready_for_waits_and_holds_up_nothing_else() {
    let (mut alpha, mut beta) = both();
    for step in [
        group(),
        journal("jnl", None),
        journal("jnl", Some("beta")),
        pair("late", "data1", "beta:later"),
        pair("p2", "data2", "beta:copy2"),
        start(),
    ] {
        alpha.say(step).unwrap();
    }
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
    let waiting = alpha.tables.forwards.iter().next().unwrap();
    assert_eq!(waiting.refusal.as_deref(), Some("there is no volume \"later\""));
    assert!(beta.tables.pair_named(&"p2".parse().unwrap()).is_some());
    beta.say(volume("later")).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
}

#[test]
fn a_repeated_designation_gets_the_first_answer_and_changes_nothing() {
    let mut alpha = Array::new(1, "alpha").with(&[], "beta", 2);
    let id = DesignationId(Identity(99));
    let first = alpha.apply(id, &volume("v"), &Who::Provision);
    assert_eq!(alpha.apply(id, &volume("v"), &Who::Provision), first);
    assert_eq!(alpha.tables.volumes.len(), 1);
    assert_eq!(alpha.say(volume("v")), Err(Refusal::exists("volume", "v")));
}

#[test]
fn only_the_source_of_a_group_designates_for_it() {
    let (mut alpha, mut beta) = both();
    alpha.say(group()).unwrap();
    alpha.say(journal("jnl", Some("beta"))).unwrap();
    deliver(&mut alpha, &mut beta, "beta");
    let remote = Designation::RemoteStart { group: "g1".parse().unwrap() };
    let id = DesignationId(Identity(5));
    assert!(beta.apply(id, &remote, &Who::Provision).is_err(), "an operator is no peer");
    let stranger = Who::Peer { array: ArrayNumber(9), from: "x".into() };
    assert!(beta.apply(id, &remote, &stranger).is_err(), "no link leads there");
    let source = Who::Peer { array: ArrayNumber(1), from: "x".into() };
    assert!(alpha.apply(id, &remote, &source).is_err(), "at the primary itself it is no copy");
    assert!(beta.apply(id, &remote, &source).is_ok());
}

#[test]
fn what_excludes_each_other_is_refused_with_its_reason() {
    let (mut alpha, mut beta) = both();
    alpha.say(group()).unwrap();
    let mut refused = |what: Designation, expected: &str| {
        let refusal = alpha.say(what).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{expected:?} is not in {refusal:?}");
    };
    refused(start(), "no journal volume here");
    refused(parity_group("pg1", "u"), "there is a unit \"u0\" already");
    refused(target(&[(1, "nothing")]), "no volume \"nothing\"");
    refused(target(&[(1, "data1"), (1, "data2")]), "there is a LUN \"1\" already");
    refused(pair("p", "nothing", "beta:x"), "no volume \"nothing\"");
    refused(pair("p", "data1", "gamma:x"), "no link \"gamma\"");
    assert!(alpha.tables.targets.is_empty(), "a refused change leaves nothing behind");

    alpha.say(target(&[(1, "data1")])).unwrap();
    alpha.say(journal("jnl", None)).unwrap();
    alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
    let mut refused = |what: Designation, expected: &str| {
        let refusal = alpha.say(what).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{expected:?} is not in {refusal:?}");
    };
    refused(journal("data1", None), "cannot become a journal volume: it is main");
    refused(journal("jnl", None), "it is a journal volume");
    refused(pair("p2", "jnl", "beta:copy2"), "cannot be a P-VOL: it is a journal volume");
    refused(pair("p2", "data1", "beta:copy2"), "has a copy there already");
    refused(pair("p2", "data2", "beta:copy1"), "follows another volume already");
    let lun = |volume: &str| Designation::MapLun {
        target: "iqn.2026-11.io.holdfast:x".parse().unwrap(),
        lun: Lun(9),
        volume: volume.parse().unwrap(),
        read_only_for: vec![],
    };
    refused(lun("jnl"), "hosts never see");

    // The auxiliary looks for itself.
    beta.say(target(&[(1, "jnl")])).unwrap();
    alpha.say(journal("jnl", Some("beta"))).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
    let waiting = alpha.tables.forwards.iter().next().unwrap();
    assert_eq!(waiting.refusal.as_deref(), Some("volume jnl is mapped to hosts"));
    let jnl = beta.tables.volume_named(&"jnl".parse().unwrap()).unwrap();
    assert_eq!(jnl.usage, VolumeUsage::Host);
}

#[test]
fn some_initiators_may_only_read_a_lun() {
    let (mut alpha, _) = both();
    alpha.say(target(&[(1, "data1")])).unwrap();
    let target: IscsiName = "iqn.2026-11.io.holdfast:x".parse().unwrap();
    let named = |name: &str| InitiatorRule::Named(name.parse().unwrap());
    let map = |lun: u16, read_only_for: Vec<InitiatorRule>| Designation::MapLun {
        target: target.clone(),
        lun: Lun(lun),
        volume: "data1".parse().unwrap(),
        read_only_for,
    };
    let set = |lun: u16, read_only_for: Vec<InitiatorRule>| Designation::SetLun {
        target: target.clone(),
        lun: Lun(lun),
        read_only_for,
    };
    let readers = |array: &Array, lun: u16| {
        let row = array.tables.targets.get(&target).unwrap();
        row.luns.iter().find(|entry| entry.lun == Lun(lun)).unwrap().read_only_for.clone()
    };
    let one = vec![named("iqn.2026-11.io.holdfast:beta.relay")];
    alpha.say(map(2, one.clone())).unwrap();
    assert_eq!((readers(&alpha, 1), readers(&alpha, 2)), (vec![], one.clone()));
    alpha.say(set(1, vec![InitiatorRule::Any])).unwrap();
    alpha.say(set(2, vec![])).unwrap();
    assert_eq!((readers(&alpha, 1), readers(&alpha, 2)), (vec![InitiatorRule::Any], vec![]));
    let many = vec![InitiatorRule::Any; 1_025];
    for (what, expected) in [
        (set(3, vec![]), "no LUN \"3\""),
        (set(1, many.clone()), "initiators that may only read a LUN"),
        (map(3, many), "initiators that may only read a LUN"),
    ] {
        let refusal = alpha.say(what).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    // As an operator writes it, for the audit log.
    assert_eq!(
        map(2, one).to_string(),
        "lun map iqn.2026-11.io.holdfast:x 2 data1 --read-only-for iqn.2026-11.io.holdfast:beta.relay"
    );
    assert_eq!(set(2, vec![]).to_string(), "lun set iqn.2026-11.io.holdfast:x 2 --read-write");
    // Records from before know nothing of it.
    let old: LunRecord = serde_json::from_str("{\"lun\":3,\"volume\":1}").unwrap();
    assert_eq!(old.read_only_for, vec![]);
}

#[test]
fn figure_5_hosts_may_do_with_a_volume_what_its_role_allows() {
    for (svol_access, expected) in
        [(SvolAccess::None, HostAccess::None), (SvolAccess::Read, HostAccess::ReadOnly)]
    {
        let (mut alpha, mut beta) = both();
        let settings = GroupSettings { svol_access, ..SETTINGS };
        alpha.say(Designation::CreateGroup { name: "g1".parse().unwrap(), settings }).unwrap();
        for step in [journal("jnl", None), pair("p1", "data1", "beta:copy1")] {
            alpha.say(step).unwrap();
        }
        deliver(&mut alpha, &mut beta, "beta");
        let access = |array: &Array, name: &str| {
            let volume = array.tables.volume_named(&name.parse().unwrap()).unwrap().number;
            array.tables.host_access(volume)
        };
        assert_eq!(access(&alpha, "data1"), HostAccess::ReadWrite);
        assert_eq!(access(&alpha, "data2"), HostAccess::ReadWrite);
        assert_eq!(access(&alpha, "jnl"), HostAccess::None);
        assert_eq!(access(&beta, "copy1"), expected);
    }
}

#[test]
fn states_change_through_their_table_and_unused_rows_go() {
    let (mut alpha, _) = both();
    for step in [group(), pair("p1", "data1", "beta:copy1")] {
        alpha.say(step).unwrap();
    }
    let tables = &mut alpha.tables;
    let pair = tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
    assert!(tables.pair_event(pair, PairEvent::CopyRestored, None).is_err());
    assert_eq!(tables.pair_event(pair, PairEvent::Suspend, Some("full".into())), Ok(PairState::Suspended));
    assert_eq!(tables.pairs.get(&pair).unwrap().reason.as_deref(), Some("full"));
    assert_eq!(tables.pair_event(pair, PairEvent::Delete, None), Ok(PairState::Unused));
    assert!(tables.pairs.is_empty());
    let group = tables.group_named(&"g1".parse().unwrap()).unwrap().number;
    assert_eq!(tables.group_event(group, GroupEvent::Suspend, None), Ok(GroupState::Suspended));
    assert!(tables.group_event(group, GroupEvent::Create, None).is_err());
}

#[test]
fn an_s_vol_must_have_the_size_of_its_p_vol() {
    let (mut alpha, mut beta) = both();
    let Designation::CreateVolume(mut small) = volume("small") else { unreachable!() };
    small.size_bytes = 4 << 20;
    beta.say(Designation::CreateVolume(small)).unwrap();
    alpha.say(group()).unwrap();
    alpha.say(pair("p1", "data1", "beta:small")).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 1);
    assert!(
        alpha.tables.forwards.iter().next().unwrap().refusal.as_ref().unwrap().contains("has 4194304 bytes")
    );
}

#[test]
fn no_secret_is_in_what_the_audit_log_says() {
    let link = Designation::CreateLink(NewLink {
        name: "beta".parse().unwrap(),
        array: ArrayNumber(2),
        portals: vec![],
        secret: Secret::new("do not tell this").unwrap(),
        schedule: Schedule::default(),
        options: Default::default(),
    });
    assert!(!link.to_string().contains("tell") && !format!("{link:?}").contains("tell"));
}

#[test]
fn another_array_says_what_concerns_its_own_copies_and_nothing_else() {
    let (mut alpha, _) = both();
    alpha.say(group()).unwrap();
    let beta = Who::Peer { array: ArrayNumber(2), from: "x".into() };
    let mut count = 0;
    let mut from_beta = |alpha: &mut Array, what: &Designation| {
        count += 1;
        alpha.apply(DesignationId(Identity(0xbe7a_0000 + count)), what, &beta)
    };
    let boxed = || Designation::PassOn { link: "beta".parse().unwrap(), what: Box::new(volume("v")) };
    for never in [
        Designation::DeleteVolume { volume: "data1".parse().unwrap() },
        Designation::DeleteLink { link: "beta".parse().unwrap() },
        parity_group("pg9", "w"),
        target(&[(1, "data1")]),
        group(),
        follow(),
        boxed(),
        Designation::SetGroup { group: "g1".parse().unwrap(), settings: Default::default() },
    ] {
        let refused = from_beta(&mut alpha, &never).unwrap_err().to_string();
        assert!(refused.contains("only its operator"), "{never}: {refused}");
    }
    // Before it is a reader of the group, it has nothing to say about it.
    for early in [journal("jnl", None), start(), pair("p1", "data1", "beta:copy1")] {
        let refused = from_beta(&mut alpha, &early).unwrap_err().to_string();
        assert!(refused.contains("does not copy group g1"), "{early}: {refused}");
    }
    assert!(from_beta(&mut alpha, &volume("made-by-beta")).is_ok());
    assert!(from_beta(&mut alpha, &Designation::JoinGroup { group: "g1".parse().unwrap() }).is_ok());
    let stolen = from_beta(&mut alpha, &pair("p1", "data1", "gamma:copy1")).unwrap_err().to_string();
    assert!(stolen.contains("of its own"), "{stolen}");
    assert!(from_beta(&mut alpha, &pair("p1", "data1", "beta:copy1")).is_ok());
    let stranger = Who::Peer { array: ArrayNumber(9), from: "x".into() };
    assert!(alpha.apply(DesignationId(Identity(1 << 90)), &volume("w"), &stranger).is_err());
}

#[test]
fn what_was_passed_on_and_refused_is_not_offered_again() {
    let (mut alpha, mut beta) = both();
    let what = Box::new(volume("copy1"));
    alpha.say(Designation::PassOn { link: "beta".parse().unwrap(), what }).unwrap();
    assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0, "copy1 exists at beta");
    let nested = Designation::PassOn { link: "beta".parse().unwrap(), what: Box::new(group()) };
    assert!(alpha.say(nested).unwrap_err().to_string().contains("at the array itself"));
}

#[test]
fn a_pair_that_cannot_be_is_refused_at_the_auxiliary_already() {
    let (mut alpha, mut beta) = both();
    alpha.say(group()).unwrap();
    beta.say(follow()).unwrap();
    for (what, why) in [
        (follow_pair("p1", "data1", "nothing"), "no volume \"nothing\""),
        (pair("p1", "data1", "alpha:copy1"), "is a copy here"),
    ] {
        let refused = beta.say(what).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
    assert!(
        alpha.say(follow_pair("p1", "data1", "data1")).unwrap_err().to_string().contains("is the primary")
    );
}

/// Figure 23: beta forwards the writes of its hosts to alpha, whose volume is a P-VOL itself.
#[test]
fn a_volume_is_forwarded_to_before_or_after_it_becomes_a_p_vol_and_its_own_hosts_do_not_write_it() {
    let named = |what: Designation| -> Designation {
        match what {
            Designation::CreatePair { name, pvol, svol, .. } => {
                let group = "up".parse().unwrap();
                Designation::CreatePair { name, group, pvol, svol, copy: CopyMode::Sync }
            }
            other => other,
        }
    };
    for is_source_first in [true, false] {
        let (mut alpha, mut beta) = (
            Array::new(1, "alpha").with(&["data1", "jnl"], "beta", 2),
            Array::new(2, "beta").with(&["copy1", "copy2", "jnl"], "alpha", 1),
        );
        let own = |alpha: &mut Array| {
            alpha.say(group()).unwrap();
            alpha.say(pair("p1", "data1", "beta:copy1")).unwrap();
        };
        let forwarded = |alpha: &mut Array, beta: &mut Array| {
            beta.say(Designation::CreateGroup { name: "up".parse().unwrap(), settings: SETTINGS }).unwrap();
            beta.say(named(pair("s1", "copy2", "alpha:data1"))).unwrap();
            // A second way of following, or a second place, would break the order over the group.
            let group = "up".parse().unwrap();
            let options = JournalOptions::default();
            let other = Designation::AddJournal { group, volume: "jnl".parse().unwrap(), at: None, options };
            assert!(beta.say(other).unwrap_err().to_string().contains("forwarded"));
            beta.say(Designation::StartGroup { group: "up".parse().unwrap() }).unwrap();
            settle(alpha, beta);
        };
        if is_source_first {
            own(&mut alpha);
            forwarded(&mut alpha, &mut beta);
        } else {
            forwarded(&mut alpha, &mut beta);
            own(&mut alpha);
        }
        let volume = alpha.tables.volume_named(&"data1".parse().unwrap()).unwrap().number;
        assert_eq!(alpha.tables.host_access(volume), HostAccess::None, "its hosts sit upstream");
        let pair = alpha.tables.forwarded_here(volume).unwrap();
        assert_eq!((pair.name.as_str(), pair.copy), ("s1", CopyMode::Sync));
        let again = alpha.say(Designation::DeleteVolume { volume: "data1".parse().unwrap() });
        assert!(again.is_err());
    }
}

/// Its group once stayed at the auxiliary, without pairs.
#[test]
fn a_reader_whose_last_pair_goes_is_told_that_its_group_has_gone_unless_it_reads_again() {
    for reads_again in [false, true] {
        let (mut alpha, mut beta) = both();
        for step in [group(), journal("jnl", None), pair("p1", "data1", "beta:copy1"), start()] {
            alpha.say(step).unwrap();
        }
        assert_eq!(deliver(&mut alpha, &mut beta, "beta"), 0);
        let p1 = |array: &Array| array.tables.pair_named(&"p1".parse().unwrap()).unwrap().number;
        let here = p1(&alpha);
        alpha.tables.pair_is_gone(here, Identity(9));
        let tells = |alpha: &Array| {
            let mut told = alpha.tables.forwards.iter();
            told.any(|forward| matches!(forward.designation, Designation::RemoteDeleteGroup { .. }))
        };
        assert!(tells(&alpha));
        if reads_again {
            alpha.say(pair("p2", "data2", "beta:copy2")).unwrap();
            assert!(!tells(&alpha));
        }
        deliver(&mut alpha, &mut beta, "beta");
        let there = p1(&beta);
        beta.tables.pair_is_gone(there, Identity(10));
        deliver(&mut alpha, &mut beta, "beta");
        assert_eq!(beta.tables.groups.len(), usize::from(reads_again));
        assert_eq!(beta.tables.pairs.len(), usize::from(reads_again));
    }
}
