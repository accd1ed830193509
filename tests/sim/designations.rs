//! Figure 10 by command while arrays die: a copy is made at two arrays that have nothing, each step said at one of them
//! with an identity of its own, and said again until it is answered. Whoever dies in the middle of a step, and whenever,
//! finds the old state or the new one at its next start: at the end both arrays have exactly what they have when nobody
//! dies, and the pairs are normal.

use crate::cluster::{Cluster, Death, EIGHT};
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

/// Runs the script; what both arrays export at the end, and how often one died.
async fn make(seed: u64, deaths_percent: u64, secret: &Path) -> ([String; 2], u32) {
    let mut random = Random::new(seed);
    let cluster = Cluster::bare(seed, EIGHT);
    let mut deaths = 0;
    for (step, (at, line)) in script(secret).iter().enumerate() {
        let line = format!("{line} --id step-{step}");
        loop {
            for index in [0, 1] {
                if !cluster.runs(index) {
                    cluster.start(index).await;
                }
            }
            if !random.percent(deaths_percent) {
                let answer = say(&cluster, *at, &line).await;
                assert_eq!(answer.exit, 0, "seed {seed}: {line}: {}{}", answer.stdout, answer.stderr);
                break;
            }
            let after_ms = random.below(60);
            tokio::select! {
                biased;
                _ = say(&cluster, *at, &line) => {}
                () = cluster.sleep_ms(after_ms) => {}
            }
            let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
            cluster.die(random.index(2), death).await;
            deaths += 1;
        }
    }
    for index in [0, 1] {
        if !cluster.runs(index) {
            cluster.start(index).await;
        }
        let is_normal = || {
            let pairs = cluster.snapshot(index).map(|snapshot| snapshot.pairs).unwrap_or_default();
            pairs.len() == 2 && pairs.iter().all(|pair| pair.state == "normal")
        };
        for _ in 0..600 {
            if is_normal() {
                break;
            }
            cluster.sleep_ms(100).await;
        }
        assert!(is_normal(), "seed {seed}: array {index}{}", cluster.state());
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
    let run = |seed, percent| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(make(seed, percent, secret.path()))
    };
    let (expected, none) = run(1, 0);
    assert_eq!(none, 0);
    assert!(expected[0].contains("[[provision.pair]]") && !expected[0].contains("brief"));
    let seeds = number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 4;
    let mut all = 0;
    for seed in 1..=seeds.max(5) {
        let (exports, deaths) = run(seed, 40);
        assert_eq!(exports, expected, "seed {seed}");
        all += deaths;
    }
    eprintln!("{seeds} seeds, {all} deaths");
    assert!(all > 20, "only {all} deaths");
}
