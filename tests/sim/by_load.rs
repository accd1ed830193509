//! An auxiliary that reads from another copy while its primary is under load, and from the primary when it is not
//! (promise T5, figure 25): whole arrays, and a load that hosts make. Nobody says anything after the start.

use crate::cluster::{ALPHA, Cluster, Death, Takeover};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait};
use crate::story::geometry_of;
use crate::support::wof::{HostPort, Observed, Plan, Until, Writer, check_prefix};
use crate::tree::{SMALL, Tree};
use futures_util::future::join_all;
use holdfast::disk::io::sim::Fault;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
const GAMMA: usize = 2;

/// The array that gamma reads from now.
fn source(cluster: &Cluster) -> String {
    let follows = cluster.snapshot(GAMMA).and_then(|snapshot| snapshot.groups[0].follows.clone());
    follows.expect("gamma runs and keeps a copy").reads_over
}

/// What alpha's hosts ask of it, and what it has sent to gamma.
fn at_alpha(cluster: &Cluster) -> (u32, u64) {
    let snapshot = cluster.snapshot(ALPHA).expect("it runs");
    let gamma = snapshot.groups[0].readers.iter().find(|reader| reader.array == 3).expect("a reader");
    (snapshot.array.load_hosts_permille, gamma.sent_updates)
}

/// Hosts that keep eighty SYNCHRONIZE CACHE waiting at alpha.
async fn press(cluster: &Cluster, stop: &AtomicBool) {
    let ports: Vec<SimPort> = (10..14).map(|number| SimPort::new(cluster, "reader", number, ALPHA)).collect();
    let hosts = ports.iter().flat_map(|port| (0..20).map(move |host| (port, host % 3)));
    let all = hosts.map(|(port, volume)| async move {
        while !stop.load(Ordering::Relaxed) {
            port.sync(volume).await.expect("nothing fails");
        }
    });
    join_all(all).await;
}

/// A checked host writes while this goes on, alone or beside hosts that press.
async fn while_hosts_write(
    cluster: &Cluster,
    (writer, ports): &mut (Writer, Vec<SimPort>),
    is_pressed: bool,
    story: impl Future<Output = Vec<Takeover>>,
) {
    let stop = AtomicBool::new(false);
    let until = Until { commands: u64::MAX, stop: &stop };
    let running = writer.run(ports, &*cluster.clock, 4, until);
    let pressing = async {
        if is_pressed {
            press(cluster, &stop).await;
        }
    };
    let told = async {
        let looks = story.await;
        stop.store(true, Ordering::Relaxed);
        looks
    };
    let (summary, looks, ()) = tokio::join!(running, told, pressing);
    assert_eq!(summary.violations, [], "reads while writing");
    for look in looks {
        let verdict = check_prefix(writer.log(), &Observed::from_images(writer.log(), &look.images));
        verdict.expect_clean(&format!("a takeover at update {}", look.restored));
    }
}

/// Gamma reads from there for so many seconds, with all its pairs normal; what takeovers of both copies find meanwhile.
async fn stays(cluster: &Cluster, from: &str, seconds: usize) -> Vec<Takeover> {
    let mut looks = Vec::new();
    for _ in 0..seconds {
        for _ in 0..10 {
            cluster.sleep_ms(100).await;
            let now = source(cluster);
            assert!(now == from, "{now} is read at {} ms: {}", cluster.clock_ms(), cluster.state());
            assert!(cluster.is_normal(GAMMA), "{}", cluster.state());
        }
        for index in [BETA, GAMMA] {
            looks.extend(cluster.take_over(index, Death::PowerLoss).await);
        }
    }
    looks
}

/// The times at which gamma went over to beta and came back, behind the beginning and the end of the load.
async fn tell(seed: u64, beta_dies: bool) -> (u64, u64) {
    let tree = Tree { other: vec![(GAMMA, BETA)], ..Tree::star(2) };
    let cluster = tree.cluster(seed, SMALL);
    for index in 0..3 {
        cluster.start(index).await;
    }
    wait(&cluster, "all are normal", |cluster| (0..3).all(|index| cluster.is_normal(index))).await;
    say(&cluster, GAMMA, "group set g1 --source beta --by-load").await;
    wait(&cluster, "alpha is read", |cluster| source(cluster) == "alpha").await;
    let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
    let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(40));
    let mut host = (writer, ports.collect());

    // Alone the host is no load: nothing moves.
    while_hosts_write(&cluster, &mut host, false, stays(&cluster, "alpha", 6)).await;

    // Eighty commands wait for slow disks.
    for unit in ["u0", "u1", "u2"] {
        cluster.disk(ALPHA, unit).inject(Fault::Slow(Duration::from_millis(40)));
    }
    let pressed = cluster.clock_ms();
    let mut went = 0;
    while_hosts_write(&cluster, &mut host, true, async {
        wait(&cluster, "gamma goes over to beta", |cluster| source(cluster) == "beta").await;
        went = cluster.clock_ms() - pressed;
        cluster.sleep_ms(500).await; // What was under way has come, and is not counted.
        let (load, sent) = at_alpha(&cluster);
        assert!(load > 700, "alpha is left at {load} permille");
        let looks = stays(&cluster, "beta", 3).await;
        assert_eq!(at_alpha(&cluster).1, sent, "alpha is spared");
        if beta_dies {
            cluster.die(BETA, Death::Kill).await;
            wait(&cluster, "gamma goes back to alpha", |cluster| source(cluster) == "alpha").await;
            cluster.start(BETA).await;
            wait(&cluster, "gamma goes over again", |cluster| source(cluster) == "beta").await;
        }
        looks
    })
    .await;

    for unit in ["u0", "u1", "u2"] {
        cluster.disk(ALPHA, unit).heal();
    }
    let relieved = cluster.clock_ms();
    let mut came = 0;
    while_hosts_write(&cluster, &mut host, false, async {
        let mut looks = stays(&cluster, "beta", 4).await;
        wait(&cluster, "gamma comes back to alpha", |cluster| source(cluster) == "alpha").await;
        came = cluster.clock_ms() - relieved;
        looks.extend(stays(&cluster, "alpha", 3).await);
        looks
    })
    .await;

    wait(&cluster, "everything is equal", |cluster| {
        let newest = cluster.newest().expect("it runs");
        [BETA, GAMMA].iter().all(|index| cluster.position(*index) == Some((newest, newest)))
    })
    .await;
    let top = cluster.array(ALPHA).expect("it runs");
    for index in [BETA, GAMMA] {
        for (volume, copy) in (1..).zip(cluster.visible_copies(index).await) {
            let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
            assert!(copy == data, "volume {volume} of array {index} differs");
        }
    }
    (went, came)
}

#[test]
fn figure_25_an_auxiliary_leaves_a_primary_under_load_and_comes_back_to_it_without_a_gap() {
    for seed in 1..=2 {
        let (went, came) = in_virtual_time(tell(seed, seed == 2));
        // The load has to last for 3 s, and to be gone for 10 s; it is looked at every second.
        assert!((3_000..8_000).contains(&went), "seed {seed}: gone over after {went} ms");
        assert!((10_000..16_000).contains(&came), "seed {seed}: come back after {came} ms");
    }
}
