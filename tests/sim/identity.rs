//! One identity of a synchronous pair at both arrays (issue 4, decision 25). A host has a path to each array and does what multipath
//! software does: it uses the path whose port group is active, and goes to the other one when a command ends with 04h/0Bh or the path
//! is lost. Nobody maps anything anew and nobody tells it of a takeover. The first is lost in every way, also only as seen by the
//! second; the second takes over; the first comes back, copies, and gets its role back, all under load.
//!
//! What is checked: every read is what the host wrote last, no command of the host ever fails, nothing that was answered is missing in
//! the end; at each step both arrays show the same unit and tell the same states of both port groups; the one that is not
//! active answers no read and no write, also the host that asks it on purpose.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Shape, Way, target_name};
use crate::in_virtual_time;
use crate::port::{SimPort, scribble};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{Durability, HostError, HostPort, Place, Plan, Until, Writer};
use crate::synchronous::Planted;
use crate::takeover::{
    BETA, SHAPE, equal, group, has_everything, is_settled, lets_hosts_write, takeover, until, until_overtaken,
};
use crate::tree::Tree;
use bytes::Bytes;
use holdfast::channel::host::{HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast::copy::tamper::SynchronousDefect;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The group's limit for hosts that wait, in milliseconds.
const LIMIT_MS: u64 = 1000;
/// LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN STANDBY STATE.
const STANDBY: HostError = HostError::Refused { key: 2, code: 0x040B };
/// How long the host queues what no path takes.
const QUEUE_MS: u64 = 120_000;

/// Two paths to the same units. What one does not take the other one gets.
struct Multipath<'c> {
    cluster: &'c Cluster,
    paths: [SimPort; 2],
    active: Cell<usize>,
    /// Until when a path has answered with GOOD, in milliseconds.
    answered: [Cell<u64>; 2],
}

impl<'c> Multipath<'c> {
    fn new(cluster: &'c Cluster, number: u8) -> Self {
        let path = |index| SimPort::new(cluster, "host", number, index).thinking_ms(30);
        let (active, answered) = (Cell::new(ALPHA), [Cell::new(0), Cell::new(0)]);
        Self { cluster, paths: [path(ALPHA), path(BETA)], active, answered }
    }

    async fn with<T>(&self, run: impl AsyncFn(&SimPort) -> Result<T, HostError>) -> Result<T, HostError> {
        let since = self.cluster.clock_ms();
        loop {
            let path = self.active.get();
            let error = match run(&self.paths[path]).await {
                Err(error) if error == STANDBY || matches!(error, HostError::Unknown(_)) => error,
                outcome => {
                    if outcome.is_ok() {
                        self.answered[path].set(self.cluster.clock_ms());
                    }
                    return outcome;
                }
            };
            if self.cluster.clock_ms() > since + QUEUE_MS {
                return Err(error);
            }
            // Another command may have gone over already.
            if self.active.get() == path {
                self.active.set(BETA - path);
            }
            self.cluster.sleep_ms(20).await;
        }
    }
}

impl HostPort for Multipath<'_> {
    async fn write(&self, place: Place, data: Bytes, durability: Durability) -> Result<(), HostError> {
        self.with(async |path| path.write(place, data.clone(), durability).await).await
    }

    async fn unmap(&self, place: Place) -> Result<(), HostError> {
        self.with(async |path| path.unmap(place).await).await
    }

    async fn sync(&self, volume: u32) -> Result<(), HostError> {
        self.with(async |path| path.sync(volume).await).await
    }

    async fn read(&self, place: Place) -> Result<Bytes, HostError> {
        self.with(async |path| path.read(place).await).await
    }
}

fn shared(seed: u64) -> Cluster {
    let tree = Tree::chain(2);
    // Hosts write all the time: room for what they do while the loser is copied again.
    let shape = Shape { journal_kib: 16_384, ..SHAPE };
    Cluster::of(seed, shape, 2, &tree.links(), |index, shape, random| {
        let text = tree.config(index, shape, random).replace("svol_access = \"read\"\n", "");
        let group = "[[provision.group]]\nname = \"g1\"\n";
        let wish = format!("{group}fence = \"data\"\nfence_wait = \"{LIMIT_MS}ms\"\nidentity = \"shared\"\n");
        let mut out = String::new();
        for line in text.replace(group, &wish).lines() {
            out += line;
            out += "\n";
            if line.starts_with("svol = \"beta:") {
                out += "copy = \"sync\"\n";
            }
        }
        out
    })
}

fn shows(cluster: &Cluster, index: usize) -> bool {
    group(cluster, index).synchronous.is_some_and(|view| view.state == "synchronised")
}

async fn until_synchronised(cluster: &Cluster) {
    until(cluster, "not synchronised", || shows(cluster, ALPHA) && shows(cluster, BETA)).await;
}

/// What a host is told of a unit over one path.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    /// Everything that names or describes the unit, and nothing that names the port or the target.
    unit: Vec<Vec<u8>>,
    /// State and preference of each target port group, by its number.
    groups: BTreeMap<u16, (u8, bool)>,
    /// The own one.
    own_group: u16,
}

async fn described(cluster: &Cluster, index: usize, volume: u16) -> HostLun {
    let options = SessionOptions { login_timeout: Duration::from_secs(4), ..SessionOptions::default() };
    let address = format!("{}:3260", NAMES[index]);
    let session = cluster.connector("reader").session(&address, &target_name(NAMES[index]), &options).await;
    HostLun::described(session.expect("it lets hosts log in"), lun(volume), Duration::from_secs(4))
}

async fn see(cluster: &Cluster, index: usize, volume: u16) -> Seen {
    let unit = described(cluster, index, volume).await;
    let mut pages = vec![unit.inquiry(None).await.unwrap(), unit.read_capacity_16().await.unwrap()];
    for page in [0x00, 0x80, 0x8F, 0xB0, 0xB1, 0xB2] {
        pages.push(unit.inquiry(Some(page)).await.unwrap());
    }
    let mut own_group = 0;
    let names = unit.inquiry(Some(0x83)).await.unwrap();
    let mut rest = &names[4..];
    while let [_, kind, _, length, ..] = rest {
        let (one, next) = rest.split_at(4 + usize::from(*length));
        match (kind >> 4 & 3, kind & 0x0F) {
            (0, _) => pages.push(one.to_vec()),
            (1, 5) => own_group = u16::from_be_bytes([one[6], one[7]]),
            _ => {}
        }
        rest = next;
    }
    let report = unit.report_target_port_groups().await.unwrap();
    assert_eq!(u32::from_be_bytes(report[..4].try_into().unwrap()) as usize, report.len() - 4);
    let groups = report[4..]
        .chunks(12)
        .map(|group| (u16::from_be_bytes([group[2], group[3]]), (group[0] & 0x0F, group[0] & 0x80 != 0)));
    Seen { unit: pages, groups: groups.collect(), own_group }
}

/// Both arrays that run show one unit, and tell that it is used at `active`; nobody else answers.
async fn check(cluster: &Cluster, active: usize, random: &mut Random) {
    let number = |index: usize| u16::try_from(index + 1).unwrap();
    let told = BTreeMap::from([(number(active), (0, true)), (number(BETA - active), (2, false))]);
    for volume in 1..=SHAPE.volumes {
        let seen = see(cluster, active, volume).await;
        assert_eq!((&seen.groups, seen.own_group), (&told, number(active)), "{}", cluster.state());
        if cluster.runs(BETA - active) {
            let other = see(cluster, BETA - active, volume).await;
            assert_eq!((other.groups, other.own_group), (told.clone(), number(BETA - active)));
            assert_eq!(other.unit, seen.unit, "one unit");
        }
    }
    if cluster.runs(BETA - active) {
        refuses(cluster, BETA - active, random).await;
    }
}

/// A host that insists is answered neither a read nor a write.
async fn refuses(cluster: &Cluster, index: usize, random: &mut Random) {
    assert_eq!(scribble(cluster, index, random, 2).await, 0, "a write was taken: {}", cluster.state());
    let port = SimPort::new(cluster, "reader", 8, index);
    assert_eq!(port.read(Place { volume: 0, lba: 0, sectors: 8 }).await, Err(STANDBY));
    assert!(!lets_hosts_write(cluster, index));
}

/// How the first goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Loss {
    Dies(Death),
    /// It lives, hosts reach it, and the second does not.
    Apart(Way),
    /// It lives and is reached: the operator wants it so.
    Not,
}

const LOSSES: [Loss; 6] = [
    Loss::Dies(Death::PowerLoss),
    Loss::Apart(Way::Cut),
    Loss::Not,
    Loss::Apart(Way::Silent),
    Loss::Dies(Death::Kill),
    Loss::Apart(Way::DeafBack),
];

async fn say(cluster: &Cluster, index: usize, line: &str) {
    let since = cluster.clock_ms();
    while let Err(error) = cluster.command(index, line).await {
        assert!(cluster.clock_ms() < since + 60_000, "{line}: {error}: {}", cluster.state());
        cluster.sleep_ms(200).await;
    }
}

/// Hosts are answered at `index` from now on, and go there by themselves.
async fn hosts_go_to(cluster: &Cluster, ports: &[Multipath<'_>], index: usize) {
    until(cluster, "hosts are not let in", || lets_hosts_write(cluster, index)).await;
    let since = cluster.clock_ms();
    until(cluster, "hosts do not go on", || {
        ports.iter().all(|port| port.active.get() == index && port.answered[index].get() > since)
    })
    .await;
}

fn story(seed: u64, defect: Option<SynchronousDefect>) {
    in_virtual_time(async {
        let cluster = shared(seed);
        if let Some(defect) = defect {
            cluster.plant(ALPHA, Arc::new(Planted(defect)));
        }
        let mut random = Random::new(seed ^ 0x6964_656e);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        let loss = LOSSES[usize::try_from(seed).unwrap() % LOSSES.len()];
        cluster.note(format!("{loss:?}"));
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until(&cluster, "not normal at first", || is_settled(&cluster, ALPHA)).await;
        until_synchronised(&cluster).await;
        check(&cluster, ALPHA, &mut random).await;
        let ports: Vec<Multipath<'_>> = (1..=4).map(|number| Multipath::new(&cluster, number)).collect();
        let stop = AtomicBool::new(false);
        let running = writer.run(&ports, &*cluster.clock, 8, Until { commands: u64::MAX, stop: &stop });
        let random = &mut random;
        let events = async {
            cluster.sleep_ms(100 + random.below(400)).await;
            lose(&cluster, &ports, random, loss).await;
            come_back(&cluster, random, loss).await;
            // The roles go back, as planned.
            say(&cluster, BETA, "group failback g1 --to alpha --yes").await;
            hosts_go_to(&cluster, &ports, ALPHA).await;
            until_synchronised(&cluster).await;
            check(&cluster, ALPHA, random).await;
            stop.store(true, Ordering::Relaxed);
        };
        let (summary, ()) = tokio::join!(running, events);
        assert_eq!(summary.violations, [], "reads while writing");
        assert_eq!((summary.retries, &summary.refusals), (0, &BTreeMap::new()), "the host noticed");
        equal(&cluster, ALPHA).await;
        has_everything(&cluster, &writer, ALPHA).await;
    });
}

async fn lose(cluster: &Cluster, ports: &[Multipath<'_>], random: &mut Random, loss: Loss) {
    match loss {
        Loss::Dies(death) => cluster.die(ALPHA, death).await,
        Loss::Apart(way) => cluster.set_way("alpha", "beta", way),
        Loss::Not => {}
    }
    cluster.sleep_ms(random.below(2 * LIMIT_MS)).await;
    let last_at_alpha = |ports: &[Multipath<'_>]| ports.iter().map(|port| port.answered[ALPHA].get()).max();
    say(cluster, BETA, "group takeover g1 --yes").await;
    let taken_over = cluster.clock_ms();
    hosts_go_to(cluster, ports, BETA).await;
    assert!(last_at_alpha(ports) < Some(taken_over), "alpha has answered behind the takeover");
    check(cluster, BETA, random).await;
}

async fn come_back(cluster: &Cluster, random: &mut Random, loss: Loss) {
    if matches!(loss, Loss::Dies(_)) {
        if random.percent(50) {
            // It is back, and hears nothing of what has happened: nobody is served there.
            cluster.set_way("alpha", "beta", Way::Cut);
            cluster.start(ALPHA).await;
            cluster.sleep_ms(random.below(3 * LIMIT_MS)).await;
            refuses(cluster, ALPHA, random).await;
            assert_eq!(takeover(cluster, ALPHA), "", "it does not know");
        } else {
            cluster.start(ALPHA).await;
        }
    }
    cluster.heal();
    until_overtaken(cluster, BETA).await;
    check(cluster, BETA, random).await;
    say(cluster, BETA, "group failback g1 --to alpha --yes").await;
    until_synchronised(cluster).await;
    check(cluster, BETA, random).await;
    if random.percent(50) {
        let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
        cluster.die(ALPHA, death).await;
        cluster.start(ALPHA).await;
        until_synchronised(cluster).await; // Beta had no leave meanwhile.
        check(cluster, BETA, random).await;
    }
    until(cluster, "not normal again", || {
        let pairs = cluster.snapshot(BETA).map(|snapshot| snapshot.pairs).unwrap_or_default();
        !pairs.is_empty() && pairs.iter().all(|pair| pair.state == "normal" && pair.identity == "shared")
    })
    .await;
}

#[test]
fn a_host_with_paths_to_both_arrays_goes_over_by_itself_and_back() {
    let seeds = number_from_environment("HOLDFAST_IDENTITY_SEEDS", 4);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 0);
    for seed in first..first + seeds {
        std::panic::catch_unwind(|| story(seed, None)).unwrap_or_else(|cause| {
            eprintln!("seed {seed} failed (HOLDFAST_SIM_FIRST_SEED={seed} HOLDFAST_IDENTITY_SEEDS=1)");
            std::panic::resume_unwind(cause)
        });
    }
}

/// The story is worth what its checks find: a first that is cut off and serves on.
#[test]
fn a_first_that_serves_hosts_without_leave_is_found_when_it_is_planted() {
    let told = std::panic::catch_unwind(|| story(1, Some(SynchronousDefect::ServedWithoutLeave)));
    let cause = told.expect_err("it is not found");
    let literal = || cause.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = cause.downcast_ref::<String>().cloned().or_else(literal).unwrap_or_default();
    println!("{}", text.lines().next().unwrap_or_default());
    let found = ["alpha has answered", "reads while writing", "left == right"];
    assert!(found.iter().any(|how| text.contains(how)), "{text}");
}

/// Serial number and names of a unit, and how many port groups lead to it.
async fn names(cluster: &Cluster, index: usize) -> (Vec<Vec<u8>>, usize) {
    let seen = see(cluster, index, 1).await;
    // What only describes it comes and goes with journaling.
    (seen.unit.into_iter().filter(|page| page[0] != 0 || page[1] == 0x80).collect(), seen.groups.len())
}

/// Hosts at an array whose volumes gave the identity up see nothing until an operator maps them anew.
async fn maps_anew(cluster: &Cluster, index: usize) {
    until(cluster, "hosts still reach what was the other volume", || {
        let shown = cluster.snapshot(index).map(|now| now.targets).unwrap_or_default();
        shown.iter().all(|target| target.luns.is_empty())
    })
    .await;
    let gone = described(cluster, index, 1).await;
    assert!(gone.test_unit_ready().await.is_err());
    let (target, prefix) = (target_name(NAMES[index]), ["data", "copy"][index]);
    for volume in 1..=SHAPE.volumes {
        say(cluster, index, &format!("lun map {target} {volume} {prefix}{volume}")).await;
    }
}

async fn are_strangers(cluster: &Cluster, kept: &[Vec<u8>], by: usize) {
    let ((keeper, groups), (other, others)) = (names(cluster, by).await, names(cluster, BETA - by).await);
    assert_eq!((keeper.as_slice(), groups, others), (kept, 1, 1));
    // Serial number, world-wide name, vendor identification.
    let differ = keeper.iter().zip(&other).filter(|(one, two)| one != two).count();
    assert_eq!(differ, 3, "{keeper:02X?} {other:02X?}");
}

#[test]
fn when_the_pair_ends_the_primary_keeps_the_identity_and_the_other_volume_gets_one_of_its_own() {
    in_virtual_time(async {
        let cluster = shared(7);
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until(&cluster, "not normal at first", || is_settled(&cluster, ALPHA)).await;
        until_synchronised(&cluster).await;
        let (shown, groups) = names(&cluster, ALPHA).await;
        assert_eq!((names(&cluster, BETA).await.0 == shown, groups), (true, 2));
        // A host of beta's, whose unit becomes another one.
        let watched = described(&cluster, BETA, 1).await;
        watched.inquiry(Some(0x80)).await.unwrap();
        say(&cluster, ALPHA, "group delete g1 --yes").await;
        until(&cluster, "the pairs stay", || {
            [ALPHA, BETA].iter().all(|index| cluster.snapshot(*index).is_some_and(|now| now.pairs.is_empty()))
        })
        .await;
        let until_told = cluster.clock_ms() + 10_000;
        while watched.test_unit_ready().await.is_ok() {
            assert!(cluster.clock_ms() < until_told, "a host goes on to use what is another volume now");
            cluster.sleep_ms(100).await;
        }
        maps_anew(&cluster, BETA).await;
        until(&cluster, "beta's volumes are not its own", || lets_hosts_write(&cluster, BETA)).await;
        are_strangers(&cluster, &shown, ALPHA).await;
        // Alpha would make the pairs again that its configuration declares.
        cluster.die(BETA, Death::PowerLoss).await;
        cluster.start(BETA).await;
        are_strangers(&cluster, &shown, ALPHA).await;
    });
}

/// Alpha is taken for lost for good: what it had been stays with beta, also when it comes back.
#[test]
fn an_array_that_took_over_keeps_the_identity_and_the_lost_one_gives_it_up_when_it_hears_of_that() {
    in_virtual_time(async {
        let cluster = shared(8);
        let mut random = Random::new(8);
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until(&cluster, "not normal at first", || is_settled(&cluster, ALPHA)).await;
        until_synchronised(&cluster).await;
        let (shown, _) = names(&cluster, ALPHA).await;
        cluster.die(ALPHA, Death::PowerLoss).await;
        say(&cluster, BETA, "group takeover g1 --yes").await;
        say(&cluster, BETA, "group delete g1 --reader alpha --yes").await;
        until(&cluster, "the pairs stay", || cluster.snapshot(BETA).is_some_and(|now| now.pairs.is_empty()))
            .await;
        cluster.start(ALPHA).await;
        until(&cluster, "alpha does not hear of it", || takeover(&cluster, ALPHA) == "overtaken").await;
        until(&cluster, "alpha keeps it", || {
            let pairs = cluster.snapshot(ALPHA).map(|now| now.pairs).unwrap_or_default();
            pairs.iter().all(|pair| pair.identity == "own")
        })
        .await;
        maps_anew(&cluster, ALPHA).await;
        are_strangers(&cluster, &shown, BETA).await;
        assert_eq!(scribble(&cluster, ALPHA, &mut random, 3).await, 0, "hosts are shut out");
    });
}

/// Two operators: both arrays took over. Hosts that see both are told of one.
#[test]
fn of_two_that_took_over_the_later_one_answers_hosts() {
    in_virtual_time(async {
        let cluster = shared(9);
        let mut random = Random::new(9);
        for index in [ALPHA, BETA] {
            cluster.start(index).await;
        }
        until(&cluster, "not normal at first", || is_settled(&cluster, ALPHA)).await;
        until_synchronised(&cluster).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        say(&cluster, BETA, "group takeover g1 --yes").await;
        check(&cluster, BETA, &mut random).await;
        cluster.heal();
        until_overtaken(&cluster, BETA).await;
        cluster.set_way("alpha", "beta", Way::Cut);
        say(&cluster, ALPHA, "group takeover g1 --yes").await;
        cluster.heal();
        until(&cluster, "they do not hear of each other", || {
            [ALPHA, BETA].iter().all(|index| takeover(&cluster, *index) == "split-brain")
        })
        .await;
        check(&cluster, ALPHA, &mut random).await;
        say(&cluster, ALPHA, "group failback g1 --to beta --yes").await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        check(&cluster, ALPHA, &mut random).await;
    });
}
