//! Changes by command against a control store in memory.

use super::words::UnitWord;
use super::*;
use crate::clock::{BoxFuture, SimClock};
use crate::config::{ByteSize, Provision};
use crate::shell::command::{Request, Response, Shell};
use crate::shell::view::{ArrayView, AuditView, Options, Snapshot};
use crate::volume::designation::Refusal;
use crate::volume::effect::Effect;
use crate::volume::name::ArrayNumber;
use crate::volume::record::Who;
use crate::volume::store::{Backend, Owner, SimStorage, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An array that is nothing but its tables.
pub(in crate::shell) struct Tabled {
    pub(in crate::shell) store: Store,
    identities: AtomicU64,
}

impl Tabled {
    pub(in crate::shell) fn new(number: u32, name: &str) -> Arc<Self> {
        let owner = Owner {
            number: ArrayNumber(number),
            name: name.parse().unwrap(),
            identity: Identity(number.into()),
            audit_records_max: 1_000,
        };
        let backend = Backend::Simulated(SimStorage::new());
        let store = Store::open(&backend, &owner, Arc::new(SimClock::new(0))).unwrap();
        Arc::new(Self { store, identities: AtomicU64::new(1) })
    }
}

impl Console for Tabled {
    fn snapshot(&self) -> Snapshot {
        let array = ArrayView { number: self.store.tables().meta().number.0, ..ArrayView::default() };
        Snapshot { array, ..Snapshot::default() }
    }

    fn audit(&self, last: usize) -> Vec<AuditView> {
        let view = |record: crate::volume::record::AuditRecord| {
            let (who, from) = record.who.named();
            AuditView { who, from, what: record.what, result: record.result, ..AuditView::default() }
        };
        self.store.audit(last).unwrap().into_iter().map(view).collect()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn designate(&self, orders: &[Order], who: &Who, options: Options) -> Result<Effect, Refusal> {
        if options.dry_run { self.store.rehearse(orders, who) } else { self.store.designate_all(orders, who) }
    }

    fn declared(&self) -> Provision {
        self.store.read(crate::config::declared)
    }

    fn compared(&self, wanted: &Provision) -> (Vec<Order>, Vec<String>) {
        self.store.read(|tables| {
            let missing = crate::config::missing_designations(wanted, tables, || self.identity());
            (missing, crate::config::different(wanted, tables))
        })
    }

    fn identity(&self) -> Identity {
        Identity(u128::from(self.identities.fetch_add(1, Ordering::SeqCst)) << 40)
    }
}

pub(in crate::shell) async fn say(console: &Arc<Tabled>, line: &str) -> Response {
    let shell = Shell::new(console.clone(), Arc::new(SimClock::new(0)));
    let who = Who::Operator { name: "anna".into(), from: "192.0.2.7".into() };
    let argv = crate::shell::parse::words(line).unwrap();
    shell.run(&Request { argv, ..Request::default() }, &who).await
}

async fn done(console: &Arc<Tabled>, line: &str) -> String {
    let answer = say(console, line).await;
    assert_eq!(answer.exit, 0, "{line}: {}", answer.stderr);
    answer.stdout
}

fn secret() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "a secret of both arrays\n").unwrap();
    file
}

/// Every command that makes something, in an order that works, at an array that others copy from.
fn everything(secret: &Path) -> Vec<String> {
    let link =
        format!("link create beta --array 2 --portal 192.0.2.1:3260 b:1 --secret-file {}", secret.display());
    [
        "parity-group create pg0 --level raid5 --unit /u0:64MiB /u1:64MiB --unit /u2:64MiB",
        "volume create data1 --parity-group pg0 --size 8MiB --thin",
        "volume create jnl --parity-group pg0 --size 16MiB --cache write-through --block-size 4096",
        "volume create data2 --parity-group pg0 --size 8MiB",
        "target create iqn.2026-11.io.holdfast:alpha --lun 1=data1 --initiator *",
        "lun map iqn.2026-11.io.holdfast:alpha 2 data2",
        &link,
        "group create g1 --svol-access read --release restored --read-updates 7 --read-bytes 64KiB --copy-unit 128KiB",
        "journal add g1 --volume jnl",
        "journal add g1 --volume jnl --at beta",
        "pair create p1 --group g1 --pvol data1 --svol beta:copy1 --copy async",
        "group start g1",
        "group schedule g9 --link beta --read-interval 250ms --restore-interval immediate --restore-delay 1min",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[tokio::test(start_paused = true)]
async fn everything_that_can_be_declared_can_be_made_by_command_and_is_in_the_audit_log() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    let commands = everything(secret.path());
    for line in &commands {
        let said = done(&alpha, line).await;
        assert!(said.starts_with("created") || said.starts_with("changed"), "{line}: {said}");
    }
    let audit = alpha.audit(100);
    assert_eq!(audit.len(), commands.len());
    assert!(
        audit.iter().all(|r| r.who == "anna" && r.from == "192.0.2.7" && r.result == "done"),
        "{audit:?}"
    );
    let tables = alpha.store.tables();
    let group = tables.group_named(&"g1".parse().unwrap()).unwrap();
    assert!(
        group.is_started && group.settings.read_updates == 7 && group.settings.copy_unit_bytes == 128 << 10
    );
    assert_eq!(tables.links.iter().next().unwrap().portals.len(), 2);
    assert_eq!(tables.schedules.iter().next().unwrap().schedule.restore_delay, Duration::from_secs(60));
    assert_eq!(tables.targets.iter().next().unwrap().luns.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_the_change_does_and_changes_nothing() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for line in everything(secret.path()) {
        let before = alpha.store.tables();
        let records = alpha.audit(100).len();
        let rehearsed = done(&alpha, &format!("{line} --dry-run")).await;
        assert!(Arc::ptr_eq(&before, &alpha.store.tables()), "{line}");
        assert_eq!(alpha.audit(100).len(), records, "{line}");
        let really = done(&alpha, &line).await;
        assert_eq!(rehearsed.replace("would create", "created").replace("would change", "changed"), really);
        let refused = say(&alpha, &format!("{line} --dry-run")).await;
        if !line.starts_with("group s") {
            assert_eq!(refused.exit, 1, "{line}: a dry run refuses what the change would refuse");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_with_an_identity_may_be_repeated_harmlessly() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for (index, line) in everything(secret.path()).iter().enumerate() {
        let line = format!("{line} --id setup-{index} --json");
        let first: serde_json::Value = serde_json::from_str(&done(&alpha, &line).await).unwrap();
        let before = alpha.store.tables();
        let again: serde_json::Value = serde_json::from_str(&done(&alpha, &line).await).unwrap();
        assert!(Arc::ptr_eq(&before, &alpha.store.tables()), "{line}");
        assert_eq!((&first["numbers"], &first["ids"]), (&again["numbers"], &again["ids"]));
        assert_eq!((&first["is_repetition"], &again["is_repetition"]), (&false.into(), &true.into()));
        assert_eq!(first["is_dry_run"], false);
    }
    let other = say(&alpha, "volume create else --parity-group pg0 --size 8MiB --id setup-1").await;
    assert_eq!(other.exit, 1);
    assert!(other.stderr.contains("was given to \"volume create data1\" before"), "{}", other.stderr);
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_is_refused_before_anything_happens() {
    let alpha = Tabled::new(1, "alpha");
    for (line, exit, why) in [
        ("pair create p1 --group g1 --pvol d --svol beta:c --copy both", 2, "none of async, sync"),
        (
            "pair create p1 --group g1 --pvol d --svol copy1",
            1,
            "one volume is here and the other LINK:VOLUME",
        ),
        ("group create g1 --source alpha --svol-access read", 2, "cannot be used with"),
        ("volume create v --parity-group pg0 --size 8", 2, "not a size"),
        ("volume create v --parity-group pg0 --size 8MiB", 1, "no parity group \"pg0\""),
        ("parity-group create p --level raid6 --unit a:1GiB", 2, "none of raid0, raid5"),
        ("lun map iqn.2026-11.io.x 99999 v", 2, "0 to 16383"),
        ("link create beta --array 0 --portal b:1 --secret-file f", 2, "1 to 65535"),
        ("link create beta --array 2 --portal b:1 --secret-file /nonexistent", 1, "/nonexistent"),
        ("target create iqn.2026-11.io.x --chap-user u", 2, "--chap-secret-file"),
        ("group start g1", 1, "no group \"g1\""),
    ] {
        let answer = say(&alpha, line).await;
        assert_eq!(answer.exit, exit, "{line}: {}", answer.stderr);
        assert!(answer.stderr.contains(why), "{line}: {}", answer.stderr);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_not_deleted_and_the_refusal_names_who_uses_it() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for line in everything(secret.path()) {
        done(&alpha, &line).await;
    }
    for (line, users) in [
        ("volume delete data2", "LUN 2 of target iqn.2026-11.io.holdfast:alpha"),
        ("volume delete data1", "LUN 1 of target iqn.2026-11.io.holdfast:alpha, pair p1"),
        ("volume delete jnl", "group g1, whose journal it is"),
        ("volume rename data1 data9", "is used by pair p1"),
        ("link delete beta", "group g1, pair p1"),
        ("lun unmap iqn.2026-11.io.holdfast:alpha 7", "no LUN \"7\""),
        ("group set g1 --release read", "only --svol-access can be changed while it runs"),
    ] {
        for how in ["", " --yes", " --dry-run"] {
            let answer = say(&alpha, &format!("{line}{how}")).await;
            assert_eq!(answer.exit, 1, "{line}{how}");
            assert!(answer.stderr.contains(users), "{line}{how}: {}", answer.stderr);
            assert!(answer.destroys.is_empty(), "what is refused anyway needs no confirmation");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_destroys_says_so_and_wants_to_be_confirmed() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for line in everything(secret.path()).iter().take(7) {
        done(&alpha, line).await;
    }
    done(&alpha, "volume rename data2 spare").await;
    done(&alpha, "lun unmap iqn.2026-11.io.holdfast:alpha 2").await;
    for (line, what) in [
        ("volume delete spare", "volume spare and everything on it"),
        ("target delete iqn.2026-11.io.holdfast:alpha", "with its LUNs"),
        ("link delete beta", "link beta with its secret"),
    ] {
        let before = alpha.store.tables();
        let asked = say(&alpha, line).await;
        assert_eq!(asked.exit, 1);
        assert!(asked.stderr.contains("--yes") && asked.destroys[0].contains(what), "{}", asked.stderr);
        assert!(done(&alpha, &format!("{line} --dry-run")).await.contains("would destroy"));
        assert!(Arc::ptr_eq(&before, &alpha.store.tables()), "{line}");
        assert!(done(&alpha, &format!("{line} --yes")).await.starts_with("deleted"), "{line}");
    }
    let tables = alpha.store.tables();
    assert!(tables.targets.is_empty() && tables.links.is_empty());
    assert_eq!(tables.doomed.len(), 1, "the extents of the deleted volume are still to be given back");
}

#[tokio::test(start_paused = true)]
async fn settings_of_a_group_are_chosen_anew_one_by_one() {
    let alpha = Tabled::new(1, "alpha");
    done(&alpha, "group create g1 --read-updates 7").await;
    let said = done(&alpha, "group set g1 --svol-access read --read-bytes 8KiB").await;
    assert!(said.starts_with("changed group g1"), "{said}");
    let settings = alpha.store.tables().group_named(&"g1".parse().unwrap()).unwrap().settings;
    assert_eq!((settings.read_updates, settings.read_bytes), (7, 8 << 10));
    for wrong in ["--read-updates 0", "--read-bytes 5KiB", "--copy-unit 2MiB", ""] {
        assert_eq!(say(&alpha, &format!("group set g1 {wrong}")).await.exit, 1, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_chosen_for_a_link_is_chosen_anew_one_by_one() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    let create = format!(
        "link create beta --array 2 --portal beta:3260 --secret-file {} --compression zstd --connections 3",
        secret.path().display()
    );
    done(&alpha, &create).await;
    let link = || alpha.store.tables().links.iter().next().unwrap().clone();
    let said = done(
        &alpha,
        "link set beta --limit 10MiB/s --schedule 'mon-fri 08:00-18:00 5MiB/s' '22:00-06:00 none'",
    )
    .await;
    assert!(said.starts_with("changed link beta"), "{said}");
    done(&alpha, "link set beta --read 'periodic 40ms' --fetch read --portal beta:3261").await;
    let now = link();
    let words: Vec<String> = now.options.windows.iter().map(ToString::to_string).collect();
    assert_eq!(words, ["mon-fri 08:00-18:00 5MiB/s", "22:00-06:00 none"]);
    assert_eq!((now.options.connections, now.options.compression.to_string().as_str()), (3, "zstd:3"));
    assert_eq!(
        (now.options.limit.to_string().as_str(), now.schedule.read.to_string().as_str()),
        ("10MiB/s", "periodic 40ms")
    );
    assert_eq!(now.portals[0].to_string(), "beta:3261");
    done(&alpha, "link set beta --limit none --schedule none --compression none").await;
    let now = link().options;
    assert_eq!(
        (now.limit.to_string(), now.windows.len(), now.compression.to_string()),
        ("none".into(), 0, "none".into())
    );
    for wrong in ["", "--connections 9", "--limit 1B/s", "--schedule never", "--compression zstd:20"] {
        assert_ne!(say(&alpha, &format!("link set beta {wrong}")).await.exit, 0, "{wrong}");
    }
    assert_eq!(say(&alpha, "link set gamma --limit none").await.exit, 1);
}

#[tokio::test(start_paused = true)]
async fn no_answer_tells_a_secret() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for line in everything(secret.path()) {
        for line in [format!("{line} --dry-run --json"), format!("{line} --json")] {
            let answer = say(&alpha, &line).await;
            let numbers = "[97,32,115"; // "a s…" as the store writes it.
            let all = answer.stdout.replace([' ', '\n'], "") + &answer.stderr;
            assert!(
                !all.contains("secretofboth") && !all.contains(&numbers.replace(' ', "")),
                "{line}: {all}"
            );
        }
    }
    assert!(alpha.audit(100).iter().all(|record| !record.what.contains("secret of both")));
}

#[tokio::test(start_paused = true)]
async fn what_was_made_by_command_is_exported_and_applied_to_another_array() {
    let (alpha, secret) = (Tabled::new(1, "alpha"), secret());
    for line in everything(secret.path()) {
        done(&alpha, &line).await;
    }
    let exported = done(&alpha, "config export").await;
    assert!(!exported.contains("a secret of both"));
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("secrets")).unwrap();
    std::fs::copy(secret.path(), directory.path().join("secrets/link-beta")).unwrap();
    std::fs::write(directory.path().join("all.toml"), &exported).unwrap();
    let other = Tabled::new(1, "alpha");
    let shell = Shell::new(other.clone(), Arc::new(SimClock::new(0)));
    let apply = async |words: &str| {
        let argv = words.split(' ').map(str::to_owned).collect();
        let directory = Some(directory.path().to_owned());
        shell.run(&Request { argv, directory, ..Request::default() }, &Who::Array).await
    };
    let rehearsed = apply("config apply all.toml --dry-run").await;
    assert!(rehearsed.stdout.contains("would create pair p1"), "{}{}", rehearsed.stdout, rehearsed.stderr);
    assert!(other.store.tables().volumes.is_empty());
    let applied = apply("config apply all.toml").await;
    assert_eq!(applied.exit, 0, "{}", applied.stderr);
    assert_eq!(done(&other, "config export").await, exported);
    assert_eq!(apply("config apply all.toml").await.stdout, "nothing to do\n");
    assert!(apply("config apply missing.toml").await.stderr.contains("missing.toml"));
    std::fs::write(directory.path().join("all.toml"), "[array]\nnumber = 7\n[provision]\n").unwrap();
    assert!(apply("config apply all.toml").await.stderr.contains("is for array 7"));
}

#[test]
fn a_unit_is_a_path_with_or_without_a_size() {
    let parsed = |text: &str| text.parse::<UnitWord>().map(|unit| (unit.path, unit.size));
    assert_eq!(parsed("/a:64MiB"), Ok(("/a".into(), Some(ByteSize::mebibytes(64)))));
    assert_eq!(parsed("/dev/disk/by-path/pci-0:1"), Ok(("/dev/disk/by-path/pci-0:1".into(), None)));
    assert!(parsed(":64MiB").is_err());
}

#[test]
fn an_identity_is_taken_as_it_is_or_hashed() {
    let digits = "00000000000000000000000000000abc";
    assert_eq!(designation_id(digits), Ok(DesignationId(Identity(0xabc))));
    assert_eq!(designation_id("x"), designation_id("x"));
    assert_ne!(designation_id("x"), designation_id("y"));
    assert!(designation_id("").is_err());
}
