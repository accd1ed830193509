//! Figure 10 by command while arrays die: a copy is made at two arrays that have nothing, each step said at one of them
//! with an identity of its own, and said again until it is answered. Whoever dies in the middle of a step, and whenever,
//! finds the old state or the new one at its next start: at the end both arrays have exactly what they have when nobody
//! dies, and the pairs are normal. Then the copies are suspended, resumed and taken away by the auxiliary's operator, in
//! the same way, and each step ends at both arrays as it was designated.

use crate::cluster::{Cluster, Death, EIGHT, Way};
use crate::support::random::{Random, number_from_environment};
use holdfast::shell::command::{Request, Response, Shell};
use holdfast::volume::record::Who;
use std::path::Path;

/// What is said, and at which array.
fn script(secret: &Path) -> Vec<(usize, String)> {
    let storage = |index: usize, name: &str, prefix: &str| {
        let units: Vec<String> = (0..3).map(|unit| format!("/{name}/u{unit}:24MiB")).collect();
        let target = crate::cluster::target_name(name);
        [
            format!("parity-group create pg0 --level raid5 --unit {}", units.join(" ")),
            format!("volume create {prefix}1 --parity-group pg0 --size 4MiB --thin"),
            format!("volume create {prefix}2 --parity-group pg0 --size 4MiB --thin"),
            "volume create jnl --parity-group pg0 --size 8MiB".to_owned(),
            format!("target create {target} --lun 1={prefix}1 --initiator *"),
            "volume create brief --parity-group pg0 --size 4MiB".to_owned(),
            "volume delete brief --yes".to_owned(),
        ]
        .map(|line| (index, line))
    };
    let mut script = Vec::new();
    script.extend(storage(0, "alpha", "data"));
    script.extend(storage(1, "beta", "copy"));
    let link = |name: &str, number: u32| {
        format!("link create {name} --array {number} --portal {name}:3260 --secret-file {}", secret.display())
    };
    let copy = [
        (0, link("beta", 2)),
        (1, link("alpha", 1)),
        (0, "group create g1 --svol-access read".to_owned()),
        (0, "journal add g1 --volume jnl".to_owned()),
        (1, "group create g1 --source alpha".to_owned()),
        (1, "journal add g1 --volume jnl".to_owned()),
        (0, "pair create p1 --group g1 --pvol data1 --svol beta:copy1".to_owned()),
        (1, "pair create p2 --group g1 --pvol alpha:data2 --svol copy2".to_owned()),
        (1, "group start g1".to_owned()),
    ];
    script.extend(copy);
    script
}

async fn say(cluster: &Cluster, index: usize, line: &str) -> Response {
    let shell = Shell::new(cluster.array(index).expect("it runs"), cluster.clock.clone());
    let argv = line.split(' ').map(str::to_owned).collect();
    let who = Who::Operator { name: "sim".into(), from: "local".into() };
    shell.run(&Request { argv, ..Request::default() }, &who).await
}

/// Has a command carried out while arrays die, as often as it takes; how many died.
async fn say_in_danger(
    cluster: &Cluster,
    random: &mut Random,
    deaths_percent: u64,
    (at, line): (usize, &str),
) -> u32 {
    let mut deaths = 0;
    loop {
        for index in [0, 1] {
            if !cluster.runs(index) {
                cluster.start(index).await;
            }
        }
        if !random.percent(deaths_percent) {
            let answer = say(cluster, at, line).await;
            if answer.exit == 4 {
                // The other array died: it says so, and has done nothing.
                cluster.sleep_ms(500).await;
                continue;
            }
            assert_eq!(answer.exit, 0, "{line}: {}{}", answer.stdout, answer.stderr);
            return deaths;
        }
        let after_ms = random.below(60);
        tokio::select! {
            biased;
            _ = say(cluster, at, line) => {}
            () = cluster.sleep_ms(after_ms) => {}
        }
        let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
        cluster.die(random.index(2), death).await;
        deaths += 1;
    }
}

/// Waits until both arrays run and show these pairs in these states, and no others.
async fn wait(cluster: &Cluster, states: &[&str]) {
    for index in [0, 1] {
        if !cluster.runs(index) {
            cluster.start(index).await;
        }
        let shown = || -> Vec<String> {
            let pairs = cluster.snapshot(index).map(|snapshot| snapshot.pairs).unwrap_or_default();
            pairs.iter().map(|pair| format!("{} {}", pair.name, pair.state)).collect()
        };
        for _ in 0..600 {
            if shown() == states {
                break;
            }
            cluster.sleep_ms(100).await;
        }
        assert_eq!(shown(), states, "array {index}{}", cluster.state());
    }
}

/// What the auxiliary's operator says then, and what it leads to at both arrays.
const AT_THE_AUXILIARY: [(&str, &[&str]); 7] = [
    ("group suspend g1", &["p1 suspended", "p2 suspended"]),
    ("group resume g1", &["p1 normal", "p2 normal"]),
    ("pair suspend p1", &["p1 suspended", "p2 normal"]),
    ("pair resync p1", &["p1 normal", "p2 normal"]),
    ("pair delete p2 --yes", &["p1 normal"]),
    ("group suspend g1 --svol-write", &["p1 suspended"]),
    ("group delete g1 --yes", &[]),
];

/// The auxiliary's operator suspends, resumes and takes away; how many died.
async fn take_away(cluster: &Cluster, random: &mut Random, deaths_percent: u64) -> u32 {
    let mut deaths = 0;
    for (step, (line, states)) in AT_THE_AUXILIARY.iter().enumerate() {
        let line = format!("{line} --id asked-{step}");
        deaths += say_in_danger(cluster, random, deaths_percent, (1, &line)).await;
        wait(cluster, states).await;
    }
    let is_left = || {
        let groups = |index| cluster.snapshot(index).map(|snapshot| snapshot.groups).unwrap_or_default();
        groups(1).is_empty() && groups(0).iter().all(|group| group.readers.is_empty())
    };
    for _ in 0..600 {
        if is_left() {
            break;
        }
        cluster.sleep_ms(100).await;
    }
    assert!(is_left(), "{}", cluster.state());
    let audit = say(cluster, 0, "audit list --last 1000").await.stdout;
    for asked in ["group suspend g1", "group resync g1", "pair delete, group g1", "group delete g1"] {
        let is_it = |line: &str| line.contains(asked) && line.contains("by sim from local");
        assert!(audit.lines().any(is_it), "{asked}: {audit}");
    }
    deaths
}

/// Runs the script; what both arrays export at the end, and how often one died.
async fn make(seed: u64, deaths_percent: u64, is_taken_away: bool, secret: &Path) -> ([String; 2], u32) {
    let mut random = Random::new(seed);
    let cluster = Cluster::bare(seed, EIGHT);
    let mut deaths = 0;
    for (step, (at, line)) in script(secret).iter().enumerate() {
        let line = format!("{line} --id step-{step}");
        deaths += say_in_danger(&cluster, &mut random, deaths_percent, (*at, &line)).await;
    }
    wait(&cluster, &["p1 normal", "p2 normal"]).await;
    if is_taken_away {
        deaths += take_away(&cluster, &mut random, deaths_percent).await;
    }
    // What is told and not waited for has arrived by now.
    cluster.sleep_ms(5_000).await;
    let exports =
        [say(&cluster, 0, "config export").await.stdout, say(&cluster, 1, "config export").await.stdout];
    for index in [0, 1] {
        cluster.die(index, Death::Kill).await;
    }
    (exports, deaths)
}

#[test]
fn designations_that_are_interrupted_are_done_or_not_and_never_half() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a secret of simulations").unwrap();
    let run = |seed, percent, is_taken_away| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(make(seed, percent, is_taken_away, secret.path()))
    };
    let (expected, none) = run(1, 0, false);
    assert_eq!(none, 0);
    assert!(expected[0].contains("[[provision.pair]]") && !expected[0].contains("brief"));
    let (expected_after, none) = run(1, 0, true);
    assert_eq!(none, 0);
    assert!(!expected_after[0].contains("[[provision.pair]]"));
    let seeds = number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 4;
    let mut all = 0;
    for seed in 1..=seeds.max(5) {
        let is_taken_away = seed % 4 == 1;
        let (exports, deaths) = run(seed, 40, is_taken_away);
        assert_eq!(&exports, if is_taken_away { &expected_after } else { &expected }, "seed {seed}");
        all += deaths;
    }
    eprintln!("{seeds} seeds, {all} deaths");
    assert!(all > 20, "only {all} deaths");
}

/// Where restore stops at the auxiliary, as it is shown.
fn stop(cluster: &Cluster) -> Option<String> {
    cluster.snapshot(1).and_then(|snapshot| snapshot.groups.first()?.follows.as_ref()?.restore_until.clone())
}

async fn until(cluster: &Cluster, what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..600 {
        if is_so() {
            return;
        }
        cluster.sleep_ms(100).await;
    }
    panic!("{what}: {}", cluster.state());
}

/// The auxiliary's operator says it as soon as the primary can be reached.
async fn heard(cluster: &Cluster, line: &str) {
    for _ in 0..600 {
        let answer = say(cluster, 1, line).await;
        match answer.exit {
            0 => return,
            4 => cluster.sleep_ms(10).await,
            _ => panic!("{line}: {}{}", answer.stdout, answer.stderr),
        }
    }
    panic!("{line}: {}", cluster.state());
}

/// The auxiliary's operator suspends while the primary does not hear; how that ends, thrice.
async fn suspend_unheard(secret: &Path) {
    let cluster = Cluster::bare(5, EIGHT);
    for (at, line) in script(secret) {
        say_in_danger(&cluster, &mut Random::new(5), 0, (at, &line)).await;
    }
    let suspended: &[&str] = &["p1 suspended", "p2 suspended"];
    let normal: &[&str] = &["p1 normal", "p2 normal"];
    wait(&cluster, normal).await;
    // The link seems to be up still: it counts when that is found to be wrong.
    cluster.set_way("alpha", "beta", Way::Silent);
    assert_eq!(say(&cluster, 1, "group suspend g1").await.exit, 0);
    until(&cluster, "stopped", || stop(&cluster).is_some()).await;
    cluster.heal();
    wait(&cluster, suspended).await;
    until(&cluster, "over", || stop(&cluster).is_none()).await;
    heard(&cluster, "group resume g1").await;
    wait(&cluster, normal).await;
    // The control store of the primary fails when it is to note it: nobody knows whether it has.
    for writes in [0, 2, 4] {
        cluster.set_way("alpha", "beta", Way::Cut);
        cluster.sleep_ms(5_000).await;
        let answer = say(&cluster, 1, "group suspend g1").await;
        assert!(answer.exit == 0 && stop(&cluster).is_some(), "{}{}", answer.stdout, answer.stderr);
        cluster.fail_store_after(0, writes);
        cluster.heal();
        cluster.sleep_ms(10_000).await;
        assert!(stop(&cluster).is_some(), "{writes}: it is on its way still");
        cluster.die(0, Death::Kill).await;
        wait(&cluster, suspended).await;
        until(&cluster, "over", || stop(&cluster).is_none()).await;
        heard(&cluster, "group resume g1").await;
        wait(&cluster, normal).await;
    }
    // It is left while the suspension is on its way: the stop does not hold the pairs back.
    cluster.set_way("alpha", "beta", Way::Cut);
    cluster.sleep_ms(5_000).await;
    assert_eq!(say(&cluster, 1, "group suspend g1").await.exit, 0);
    assert!(stop(&cluster).is_some());
    cluster.heal();
    heard(&cluster, "group delete g1 --yes").await;
    wait(&cluster, &[]).await;
    for index in [0, 1] {
        cluster.die(index, Death::Kill).await;
    }
}

#[test]
fn a_stop_of_a_suspension_begins_with_what_is_not_heard_and_ends_with_it() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a secret of simulations").unwrap();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(suspend_unheard(secret.path()));
}
