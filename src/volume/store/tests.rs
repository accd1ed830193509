//! The store under power cuts, failures and second processes.

use super::*;
use crate::clock::SystemClock;
use crate::volume::designation::{NewLink, NewTarget};
use crate::volume::kind::{InitiatorRule, Schedule};
use crate::volume::secret::Secret;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn owner(number: u32) -> Owner {
    Owner {
        number: ArrayNumber(number),
        name: "alpha".parse().unwrap(),
        identity: Identity(0xfeed),
        audit_records_max: 5,
    }
}

fn open(backend: &Backend) -> Result<Store, StoreError> {
    Store::open(backend, &owner(1), Arc::new(SystemClock::default()))
}

fn id(number: u64) -> DesignationId {
    DesignationId(Identity(number.into()))
}

fn target(index: u64) -> Designation {
    Designation::CreateTarget(NewTarget {
        iqn: format!("iqn.2026-11.io.holdfast:t{index}").parse().unwrap(),
        luns: vec![],
        read_only_for: vec![],
        initiators: vec![InitiatorRule::Any],
        chap: None,
    })
}

fn link() -> Designation {
    Designation::CreateLink(NewLink {
        name: "beta".parse().unwrap(),
        array: ArrayNumber(2),
        portals: vec!["[::1]:3260".parse().unwrap()],
        secret: Secret::new("do not tell this").unwrap(),
        schedule: Schedule::default(),
        options: Default::default(),
    })
}

#[tokio::test]
async fn tables_and_audit_log_survive_a_restart() {
    let storage = SimStorage::new();
    let backend = Backend::Simulated(storage.clone());
    let store = open(&backend).unwrap();
    store.designate(id(1), &link(), &Who::Provision).unwrap();
    let refused = store.designate(id(2), &link(), &Who::Array).unwrap_err();
    assert_eq!(refused.to_string(), "there is a link \"beta\" already");
    drop(store);
    let store = open(&Backend::Simulated(storage.crash(1))).unwrap();
    let tables = store.tables();
    assert_eq!(tables.meta().incarnation, 2);
    assert_eq!(tables.meta().identity, Identity(0xfeed));
    let found = tables.links.get(&"beta".parse().unwrap()).unwrap();
    assert_eq!(found.secret.expose(), b"do not tell this");
    let audit = store.audit(10).unwrap();
    assert_eq!(audit.len(), 2);
    assert_eq!((audit[0].what.as_str(), audit[0].result.as_str()), ("link create beta --array 2", "done"));
    assert_eq!(audit[1].result, refused.to_string());
    assert_eq!(audit[1].number, 2);
    // The answer to a repetition survives as well, and is not recorded again.
    assert_eq!(store.designate(id(1), &link(), &Who::Provision), Ok(Outcome::Done));
    assert_eq!(store.audit(10).unwrap().len(), 2);
}

#[tokio::test]
async fn the_audit_log_forgets_its_oldest_records() {
    let store = open(&Backend::Simulated(SimStorage::new())).unwrap();
    for index in 1..=20 {
        store.designate(id(index), &target(index), &Who::Array).unwrap();
    }
    let kept: Vec<u64> = store.audit(100).unwrap().iter().map(|record| record.number).collect();
    assert_eq!(*kept.last().unwrap(), 20);
    assert!(kept.len() <= 6, "{kept:?}");
    assert_eq!(store.audit(2).unwrap().len(), 2);
}

#[tokio::test]
async fn a_refused_change_of_a_peer_costs_no_write() {
    let storage = SimStorage::new();
    let store = open(&Backend::Simulated(storage.clone())).unwrap();
    let before = storage.syncs();
    let peer = Who::Peer { array: ArrayNumber(2), from: "x".into() };
    let what = Designation::RemoteStart { group: "g1".parse().unwrap() };
    assert!(store.designate(id(1), &what, &peer).is_err());
    assert_eq!(storage.syncs(), before);
}

#[tokio::test]
async fn a_second_process_is_refused_with_the_name_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let backend = Backend::Directory(directory.path().join("data"));
    let store = open(&backend).unwrap();
    let message = open(&backend).unwrap_err().to_string();
    assert!(message.contains("control.redb is in use"), "{message}");
    drop(store);
    let file = directory.path().join("data/control.redb");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    open(&backend).unwrap();
}

#[tokio::test]
async fn a_store_of_another_array_is_not_taken() {
    let backend = Backend::Simulated(SimStorage::new());
    drop(open(&backend).unwrap());
    let refused = Store::open(&backend, &owner(2), Arc::new(SystemClock::default())).unwrap_err();
    assert!(refused.to_string().contains("it belongs to array 1, the configuration says 2"), "{refused}");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("control.redb");
    std::fs::write(&file, vec![7u8; 8_192]).unwrap();
    assert!(matches!(open(&Backend::Directory(directory.path().into())), Err(StoreError::Unusable { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), vec![7u8; 8_192]);
}

#[test]
fn a_row_of_a_newer_version_is_not_read() {
    let refused = decode::<AuditRecord>(br#"{"version":2,"row":{"strange":true}}"#).err().unwrap();
    assert!(refused.0.contains("newer version"), "{}", refused.0);
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_changed_any_more() {
    let storage = SimStorage::new();
    let store = open(&Backend::Simulated(storage.clone())).unwrap();
    store.designate(id(1), &target(1), &Who::Array).unwrap();
    storage.fail_after(0);
    assert!(matches!(store.designate(id(2), &target(2), &Who::Array), Err(Refusal::Store(_))));
    storage.fail_after(u64::MAX);
    assert!(matches!(store.designate(id(3), &target(3), &Who::Array), Err(Refusal::Store(_))));
    assert!(matches!(store.checkpoint(|_| ()), Err(Refusal::Store(_))));
    assert_eq!(store.read(|tables| tables.targets.len()), 1, "what is shown is what was durable");
}

/// Opens what a power cut left and checks that it is a state between two changes: `at_least` acknowledged ones.
fn check_after_crash(storage: &SimStorage, seed: u64, at_least: u64) {
    let found = storage.crash(seed);
    let store = open(&Backend::Simulated(found)).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let tables = store.tables();
    let count = u64::try_from(tables.targets.len()).unwrap();
    assert!(count >= at_least && count <= at_least + 1, "seed {seed}: {count} of {at_least} acknowledged");
    // The rows, the answers and the audit log of one change are there together or not at all.
    assert_eq!(tables.results.len(), tables.targets.len(), "seed {seed}");
    assert_eq!(store.audit(1).unwrap().last().map_or(0, |record| record.number), count, "seed {seed}");
}

/// Makes so many changes, until the storage fails after `cut` writes, and loses power with the store still open.
fn check_cut(cut: u64, changes: u64, seeds: std::ops::Range<u64>) {
    let storage = SimStorage::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _guard = runtime.enter();
    let store = open(&Backend::Simulated(storage.clone())).unwrap();
    storage.fail_after(cut);
    let wanted = 1..=changes;
    let done = wanted.take_while(|index| store.designate(id(*index), &target(*index), &Who::Array).is_ok());
    let acknowledged = done.last().unwrap_or(0);
    for seed in seeds {
        check_after_crash(&storage, seed, acknowledged);
    }
}

#[test]
fn a_power_cut_at_any_write_leaves_the_old_state_or_the_new() {
    for cut in 0..160 {
        check_cut(cut, 6, cut * 1_000..cut * 1_000 + 4);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_power_cut_leaves_a_state_between_two_changes(cut in 0u64..400, seed: u64) {
        check_cut(cut, 12, seed..seed.saturating_add(1));
    }
}

#[test]
fn an_atomic_write_is_kept_until_it_is_forgotten_whatever_happens_to_the_power() {
    let write = |volume: u32, byte: u8| AtomicWrite {
        volume: VolumeNumber(volume),
        identity: Identity(7),
        offset_bytes: 512,
        data: vec![byte; 9000],
    };
    for seed in 0..20 {
        let storage = SimStorage::new();
        let store = open(&Backend::Simulated(storage.clone())).unwrap();
        assert_eq!(store.atomic_writes(VolumeNumber(1)).unwrap(), []);
        let first = store.keep_atomic(&write(1, 1)).unwrap();
        let other = store.keep_atomic(&write(2, 2)).unwrap();
        let newer = store.keep_atomic(&write(1, 3)).unwrap();
        store.forget_atomic(first).unwrap();
        let store = open(&Backend::Simulated(storage.crash(seed))).unwrap();
        assert_eq!(store.atomic_writes(VolumeNumber(1)).unwrap(), [(newer, write(1, 3))]);
        assert_eq!(store.atomic_writes(VolumeNumber(2)).unwrap(), [(other, write(2, 2))]);
        assert!(store.keep_atomic(&write(1, 4)).unwrap() > newer);
    }
}
