//! An operator lets restore stop at one moment and go on (promise J11), while hosts write, arrays die, and the journal
//! at the primary gets full because of it. Behind a stop nothing is ever seen, the S-VOLs are the image of just the
//! number that was said, and at the end everything is equal.

use crate::cluster::{ALPHA, Cluster, Death, Shape};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::wof::{Observed, Plan, Writer, check_prefix};
use crate::tree::{SMALL, Tree};

const BETA: usize = 1;

struct Story {
    cluster: Cluster,
    writer: Writer,
    ports: Vec<SimPort>,
}

impl Story {
    async fn begin(seed: u64, shape: Shape) -> Self {
        let cluster = Tree::star(1).cluster(seed, shape);
        cluster.start(ALPHA).await;
        cluster.start(BETA).await;
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(shape)));
        let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4));
        let ports = ports.collect();
        let story = Self { cluster, writer, ports };
        story.wait("beta is normal", |cluster| cluster.is_normal(BETA)).await;
        story
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        wait(&self.cluster, what, is_so).await;
    }

    async fn write(&mut self, commands: u64) {
        write(&self.cluster, &mut self.writer, &self.ports, commands).await;
    }

    async fn say(&self, index: usize, line: &str) {
        say(&self.cluster, index, line).await;
    }

    /// What the copies show, which is one moment of the history.
    async fn copies(&self) -> Vec<Vec<u8>> {
        let copies = self.cluster.visible_copies(BETA).await;
        let log = self.writer.log();
        check_prefix(log, &Observed::from_images(log, &copies)).expect_clean("the copies");
        copies
    }

    async fn restored(&self) -> u64 {
        follows(&self.cluster).expect("beta follows").1
    }

    async fn equal(&self) {
        let caught_up = |cluster: &Cluster| {
            cluster.is_normal(BETA) && follows(cluster).map(|follows| follows.1) == cluster.newest()
        };
        self.wait("beta has caught up", caught_up).await;
        let top = self.cluster.array(ALPHA).expect("it runs");
        for (volume, copy) in (1..).zip(self.copies().await) {
            let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
            assert!(copy == data, "volume {volume} differs");
        }
    }
}

/// State and number of beta's restore.
fn follows(cluster: &Cluster) -> Option<(String, u64)> {
    let follows = cluster.snapshot(BETA)?.groups.first()?.follows.clone()?;
    Some((follows.restore_state, follows.restored_update_number))
}

fn is_stopped(cluster: &Cluster) -> bool {
    follows(cluster).is_some_and(|follows| follows.0 == "stopped")
}

#[test]
fn restore_stops_at_the_number_that_was_said_also_through_deaths_and_goes_on() {
    for seed in 1..=6 {
        in_virtual_time(async {
            let mut story = Story::begin(seed, SMALL).await;
            story.write(60).await;
            let stop = story.cluster.newest().expect("it runs") + 17 + seed;
            story.say(BETA, &format!("group restore g1 --until {stop}")).await;
            story.write(150).await;
            story.wait("beta has stopped", is_stopped).await;
            assert_eq!(story.restored().await, stop);
            let then = story.copies().await;
            story.write(40).await;
            // Nothing but a stop before what is visible is refused.
            let refused =
                story.cluster.command(BETA, &format!("group restore g1 --until {}", stop - 1)).await;
            assert!(refused.expect_err("it is visible").contains("already"));
            for death in [Death::Kill, Death::PowerLoss] {
                story.cluster.die(BETA, death).await;
                story.write(20).await;
                story.cluster.start(BETA).await;
                story.wait("beta has stopped again", is_stopped).await;
                assert_eq!(story.restored().await, stop);
                assert!(story.copies().await == then, "after {death:?}");
            }
            story.say(BETA, "group restore g1 --until now").await;
            assert!(story.copies().await == then);
            story.say(BETA, "group restore g1 --go-on").await;
            story.write(40).await;
            story.equal().await;
        });
    }
}

/// A bookmark is one moment of all volumes at every copy, whoever dies on the way.
#[test]
fn restore_stops_at_a_bookmark_and_the_s_vols_are_what_the_p_vols_were_when_it_was_set() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let mut story = Story::begin(seed, SMALL).await;
            story.write(60).await;
            story.say(BETA, "group restore g1 --until now").await;
            story.say(ALPHA, "group bookmark g1 passed").await;
            story.write(50).await;
            story.say(ALPHA, "group bookmark g1 night").await;
            let top = story.cluster.array(ALPHA).expect("it runs");
            let mut then = Vec::new();
            for volume in 1..=story.copies().await.len() {
                then.push(top.read_volume(&format!("data{volume}")).await.expect("it can be read"));
            }
            drop(top);
            let night = bookmark(&story.cluster, ALPHA, "night").expect("it was set");
            // It is durable when it is answered, and said again it is the same one.
            story.say(ALPHA, "group bookmark g1 noted --id 77").await;
            story.cluster.die(ALPHA, Death::PowerLoss).await;
            story.cluster.start(ALPHA).await;
            story.wait("alpha knows both", |cluster| bookmark(cluster, ALPHA, "night") == Some(night)).await;
            let noted = bookmark(&story.cluster, ALPHA, "noted").expect("it is durable");
            story.say(ALPHA, "group bookmark g1 noted --id 77").await;
            assert_eq!(bookmark(&story.cluster, ALPHA, "noted"), Some(noted));
            story.write(60).await;
            let refused = story.cluster.command(BETA, "group bookmark g1 here").await;
            assert!(refused.expect_err("it is a copy").contains("at its primary"));
            // What is durable at beta is so at alpha: its death loses nothing that was written.
            story.wait("beta has read all", |cluster| read_up_to(cluster) == cluster.newest()).await;
            story.cluster.die(ALPHA, Death::PowerLoss).await;
            story.cluster.start(ALPHA).await;
            story.wait("alpha knows it", |cluster| bookmark(cluster, ALPHA, "night") == Some(night)).await;
            story.wait("it has come", |cluster| bookmark(cluster, BETA, "night") == Some(night)).await;
            story.cluster.die(BETA, Death::PowerLoss).await;
            story.cluster.start(BETA).await;
            story.wait("beta knows it", |cluster| bookmark(cluster, BETA, "night") == Some(night)).await;
            let refused = story.cluster.command(BETA, "group restore g1 --until bookmark:morning").await;
            assert!(refused.expect_err("nobody set it").contains("holds no bookmark morning"));
            story.say(BETA, "group restore g1 --until bookmark:night").await;
            let is_there = |cluster: &Cluster| follows(cluster).map(|follows| follows.1) == Some(night);
            story.wait("beta has stopped there", is_there).await;
            assert!(story.copies().await == then, "another moment");
            let refused = story.cluster.command(BETA, "group restore g1 --until bookmark:passed").await;
            assert!(refused.expect_err("it is behind").contains("already"));
            story.say(BETA, "group restore g1 --go-on").await;
            story.write(40).await;
            story.equal().await;
        });
    }
}

fn read_up_to(cluster: &Cluster) -> Option<u64> {
    Some(cluster.snapshot(BETA)?.groups.first()?.follows.as_ref()?.durable_update_number)
}

fn bookmark(cluster: &Cluster, index: usize, name: &str) -> Option<u64> {
    let groups = cluster.snapshot(index)?.groups;
    let found = groups.first()?.bookmarks.iter().find(|bookmark| bookmark.name == name)?;
    Some(found.update_number)
}

#[test]
fn a_journal_that_gets_full_behind_a_stop_ends_in_difference_maps_and_the_s_vols_stay_until_it_goes_on() {
    for seed in 1..=2 {
        in_virtual_time(async {
            let shape = Shape { journal_kib: 2 << 10, ..SMALL };
            let mut story = Story::begin(seed, shape).await;
            story.write(40).await;
            story.say(BETA, "group restore g1 --until now").await;
            let then = story.copies().await;
            let is_suspended = |cluster: &Cluster| {
                cluster.snapshot(ALPHA).unwrap().pairs.iter().any(|pair| pair.state == "suspended")
            };
            let mut rounds = 0;
            while !is_suspended(&story.cluster) {
                rounds += 1;
                assert!(rounds < 100, "the journal does not fill: {}", story.cluster.state());
                story.write(20).await;
            }
            // An operator who wants the differences copied now is told why they are not.
            story.say(ALPHA, "group resync g1").await;
            let is_told = |cluster: &Cluster| {
                let pairs = cluster.snapshot(ALPHA).unwrap().pairs;
                pairs.iter().any(|pair| pair.reason.as_ref().is_some_and(|why| why.contains("--go-on")))
            };
            story.wait("alpha shows why", is_told).await;
            assert!(story.copies().await == then);
            story.cluster.die(BETA, Death::PowerLoss).await;
            story.cluster.start(BETA).await;
            story.cluster.sleep_ms(3_000).await;
            assert!(story.copies().await == then);
            story.say(BETA, "group restore g1 --go-on").await;
            story.write(20).await;
            story.equal().await;
        });
    }
}
