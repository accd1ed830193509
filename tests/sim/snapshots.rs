//! Snapshots of a group under load (decision 24): over eight volumes, at the primary and at a copy, while arrays die at every
//! step of making, writing and deleting them. What a snapshot says is its number is exactly what it is: another copy, whose
//! restore is stopped at that number, is the same to the last byte; and it is one moment of the host's history. It stays what it
//! is, a clone takes what is written to it and nothing else, and when all are deleted nothing of them is left.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Second, Shape, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    DurableRule, Observed, Plan, SECTOR_BYTES, Until, Writer, check_crash, check_prefix,
};
use crate::tree::Tree;
use holdfast::channel::host::{Durability, HostError, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast::shell::view::SnapshotView;
use holdfast_iscsi::pdu::Isid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
const GAMMA: usize = 2;
/// While gamma stands still its journal has room.
const SHAPE: Shape = Shape { second: Second::None, journal_kib: 8192, ..EIGHT };
/// A LUN that shows a clone.
const CLONE_LUN: u16 = 60;

pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) random: Random,
    pub(crate) writer: Writer,
    pub(crate) ports: Vec<SimPort>,
    /// What there is, and what it was when it was made.
    pub(crate) kept: Vec<Kept>,
    /// Where gamma's restore stands still.
    stopped: u64,
    pub(crate) deaths: u32,
    pub(crate) compared: u32,
}

pub(crate) struct Kept {
    pub(crate) array: usize,
    pub(crate) name: String,
    pub(crate) images: Vec<Vec<u8>>,
}

impl Story {
    pub(crate) async fn begin(seed: u64) -> Self {
        let cluster = Tree::star(2).cluster(seed, SHAPE);
        for index in 0..3 {
            cluster.start(index).await;
        }
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(3));
        let ports = ports.collect();
        let (random, kept) = (Random::new(seed ^ 0x736e_6170), Vec::new());
        let mut story = Self { cluster, random, writer, ports, kept, stopped: 0, deaths: 0, compared: 0 };
        wait(&story.cluster, "all pairs are normal", |cluster| (0..3).all(|index| cluster.is_normal(index)))
            .await;
        write(&story.cluster, &mut story.writer, &story.ports, 60).await;
        story
    }

    fn shown(&self, index: usize, name: &str) -> Option<SnapshotView> {
        let snapshots = self.cluster.snapshot(index)?.snapshots;
        snapshots.into_iter().find(|snapshot| snapshot.name == name)
    }

    /// Hosts write while an operator says something until it is answered, whoever dies meanwhile.
    pub(crate) async fn say_in_danger(&mut self, index: usize, line: &str) {
        if let Err(error) = self.try_in_danger(index, line).await {
            panic!("{line}: {error}: {}", self.cluster.state());
        }
    }

    pub(crate) async fn try_in_danger(&mut self, index: usize, line: &str) -> Result<(), String> {
        loop {
            let dies = self.random.percent(55);
            let (before_ms, after_ms) = (self.random.below(20), self.random.below(50));
            let death = if self.random.percent(50) { Death::Kill } else { Death::PowerLoss };
            let stop = AtomicBool::new(false);
            let until = Until { commands: u64::MAX, stop: &stop };
            let Self { cluster, writer, ports, .. } = self;
            let operator = async {
                cluster.sleep_ms(before_ms).await;
                let answer = tokio::select! {
                    biased;
                    answer = cluster.command(index, line) => Some(answer),
                    () = cluster.sleep_ms(after_ms), if dies => None,
                };
                if dies {
                    cluster.die(index, death).await;
                }
                stop.store(true, Ordering::Relaxed);
                answer
            };
            let (summary, answer) = tokio::join!(writer.run(&*ports, &*cluster.clock, 4, until), operator);
            assert_eq!(summary.violations, [], "reads while writing");
            match answer {
                Some(Err(error)) if !dies => return Err(error),
                _ if !dies => return Ok(()),
                _ => self.comes_back(index).await,
            }
        }
    }

    pub(crate) async fn comes_back(&mut self, index: usize) {
        self.deaths += 1;
        self.cluster.start(index).await;
        if index != ALPHA {
            return;
        }
        let images = self.images(ALPHA, |volume| format!("data{volume}")).await;
        let observed = Observed::from_images(self.writer.log(), &images);
        check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("after the crash");
        self.writer.resume_after_crash(&observed).expect("the volumes are of one moment");
    }

    pub(crate) async fn images(&self, index: usize, name: impl Fn(u16) -> String) -> Vec<Vec<u8>> {
        let array = self.cluster.array(index).expect("it runs");
        let mut images = Vec::new();
        for volume in 1..=SHAPE.volumes {
            let since = self.cluster.clock_ms();
            images.push(loop {
                match array.read_volume(&name(volume)).await {
                    Ok(image) => break image,
                    Err(error) => {
                        assert!(
                            self.cluster.clock_ms() < since + 60_000,
                            "{error}: {}",
                            self.cluster.state()
                        );
                        self.cluster.sleep_ms(50).await;
                    }
                }
            });
        }
        images
    }

    /// Gamma has everything, and nothing more until it is told.
    pub(crate) async fn gamma_stands_still(&mut self) {
        say(&self.cluster, GAMMA, "group restore g1 --go-on").await;
        wait(&self.cluster, "gamma has caught up", |cluster| {
            let follows = follows(cluster, GAMMA).map(|follows| follows.1);
            cluster.is_normal(GAMMA) && follows == cluster.newest()
        })
        .await;
        say(&self.cluster, GAMMA, "group restore g1 --until now").await;
        self.stopped = follows(&self.cluster, GAMMA).expect("gamma follows").1;
    }

    async fn make(&mut self, index: usize, name: &str, more: &str) {
        self.gamma_stands_still().await;
        let from = self.cluster.newest().expect("alpha runs");
        let line = format!("snapshot create {name} --group g1{more} --id make-{name}");
        self.say_in_danger(index, &line).await;
        let shown = self.shown(index, name).expect("it was made");
        let number = shown.update_number.expect("everything has a number");
        assert!(shown.is_image && (index != ALPHA || number >= from), "{shown:?}, {from} before");
        let prefix = if index == ALPHA { "data" } else { "copy" };
        let images = self.images(index, |volume| format!("{name}.{prefix}{volume}")).await;
        let log = self.writer.log();
        check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
        self.is_of(number, &images).await;
        self.kept.push(Kept { array: index, name: name.to_owned(), images });
    }

    /// A copy that has restored exactly that number is the same.
    pub(crate) async fn is_of(&mut self, number: u64, images: &[Vec<u8>]) {
        if number < self.stopped {
            return;
        }
        say(&self.cluster, GAMMA, &format!("group restore g1 --until {number}")).await;
        wait(&self.cluster, "gamma has stopped there", |cluster| {
            follows(cluster, GAMMA) == Some(("stopped".to_owned(), number))
        })
        .await;
        self.stopped = number;
        for (volume, (copy, image)) in (1..).zip(self.cluster.visible_copies(GAMMA).await.iter().zip(images))
        {
            assert!(copy == image, "volume {volume} of a snapshot of update {number} is of another");
        }
        self.compared += 1;
    }

    /// They are what they were, whatever has been written since, here or to others.
    pub(crate) async fn are_as_they_were(&self) {
        for kept in &self.kept {
            let prefix = if kept.array == ALPHA { "data" } else { "copy" };
            let now = self.images(kept.array, |volume| format!("{}.{prefix}{volume}", kept.name)).await;
            assert!(now == kept.images, "snapshot {} has changed", kept.name);
        }
    }

    async fn lun(&self) -> Result<HostLun, HostError> {
        let limit = Duration::from_secs(5);
        let options = SessionOptions {
            isid: Some(Isid([0x80, 0, 0, 0, 0, 9])),
            login_timeout: limit,
            ping: Duration::from_secs(1),
            ..SessionOptions::default()
        };
        let connector = self.cluster.connector("reader");
        let session = connector.session("alpha:3260", &target_name("alpha"), &options).await;
        HostLun::open(session.expect("it can log in"), lun(CLONE_LUN), limit).await
    }

    /// A host writes to the first volume of a snapshot at alpha; whether it may.
    async fn host_writes(&mut self, kept: usize, is_writable: bool) {
        let (name, volume) = (self.kept[kept].name.clone(), 1 + self.random.index(8));
        let target = target_name("alpha");
        say(&self.cluster, ALPHA, &format!("lun map {target} {CLONE_LUN} {name}.data{volume}")).await;
        let shown = self.lun().await.expect("it is mapped");
        let original = self.cluster.snapshot(ALPHA).expect("it runs").volumes;
        assert!(original.iter().any(|volume| volume.snapshot.as_deref() == Some(name.as_str())));
        for _ in 0..6 {
            let (lba, sectors) = (self.random.below(2000), 1 + self.random.index(40));
            let data = vec![u8::try_from(lba % 255).unwrap(); sectors * SECTOR_BYTES];
            let written = shown.write(lba, data.clone(), Durability::Forced).await;
            assert_eq!(written.is_ok(), is_writable, "{written:?}");
            if is_writable {
                let at = usize::try_from(lba).unwrap() * SECTOR_BYTES;
                self.kept[kept].images[volume - 1][at..at + data.len()].copy_from_slice(&data);
            }
            write(&self.cluster, &mut self.writer, &self.ports, 4).await;
        }
        drop(shown);
        let refused = self.cluster.command(ALPHA, &format!("snapshot delete {name} --yes")).await;
        assert!(refused.expect_err("it is mapped").contains("unmap"));
        say(&self.cluster, ALPHA, &format!("lun unmap {target} {CLONE_LUN}")).await;
    }

    async fn delete(&mut self, kept: usize) {
        let Kept { array, name, .. } = self.kept.remove(kept);
        self.say_in_danger(array, &format!("snapshot delete {name} --yes --id delete-{name}")).await;
        assert!(self.shown(array, &name).is_none());
    }

    /// Every extent that is not free belongs to a volume that is shown.
    pub(crate) async fn nothing_is_left(&self, index: usize) {
        wait(&self.cluster, "the room of snapshots is given back", |cluster| {
            let Some(shown) = cluster.snapshot(index) else { return false };
            let used: u64 = shown.volumes.iter().map(|volume| volume.allocated_bytes).sum();
            let group = &shown.parity_groups[0];
            shown.snapshots.is_empty() && used + group.free_bytes == group.size_bytes
        })
        .await;
    }

    pub(crate) async fn equal(&self) {
        say(&self.cluster, GAMMA, "group restore g1 --go-on").await;
        for index in [BETA, GAMMA] {
            wait(&self.cluster, "it has caught up", |cluster| {
                cluster.is_normal(index)
                    && follows(cluster, index).map(|follows| follows.1) == cluster.newest()
            })
            .await;
            let data = self.images(ALPHA, |volume| format!("data{volume}")).await;
            assert!(self.cluster.visible_copies(index).await == data, "array {index} differs");
        }
    }
}

/// State and number of a copy's restore.
fn follows(cluster: &Cluster, index: usize) -> Option<(String, u64)> {
    let follows = cluster.snapshot(index)?.groups.first()?.follows.clone()?;
    Some((follows.restore_state, follows.restored_update_number))
}

async fn snapshots_in_danger(seed: u64) -> (u32, u32) {
    let mut story = Story::begin(seed).await;
    for round in 0..3 {
        let is_writable = story.random.percent(50);
        story.make(ALPHA, &format!("top{round}"), if is_writable { " --writable" } else { "" }).await;
        let newest = story.kept.len() - 1;
        story.host_writes(newest, is_writable).await;
        story.are_as_they_were().await;
        if round < 2 {
            story.make(BETA, &format!("below{round}"), "").await;
        }
        write(&story.cluster, &mut story.writer, &story.ports, 30).await;
        story.are_as_they_were().await;
        while story.kept.iter().filter(|kept| kept.array == ALPHA).count() > 1 {
            let oldest = story.kept.iter().position(|kept| kept.array == ALPHA).unwrap();
            story.delete(oldest).await;
        }
    }
    while !story.kept.is_empty() {
        let one = story.random.index(story.kept.len());
        story.delete(one).await;
        story.are_as_they_were().await;
    }
    for index in [ALPHA, BETA] {
        story.nothing_is_left(index).await;
    }
    story.equal().await;
    for index in 0..3 {
        story.cluster.die(index, Death::Kill).await;
    }
    (story.deaths, story.compared)
}

#[test]
fn every_snapshot_is_the_state_at_exactly_its_number_whoever_dies() {
    // Not by the number of seeds of a long run: with some seeds hosts write more than the journals have room for as long as the third array,
    // which stands still at the snapshot's number, is waited for.
    let seeds = number_from_environment("HOLDFAST_SNAPSHOT_SEEDS", 5);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut deaths, mut compared) = (0, 0);
    for seed in first..first + seeds {
        let told = in_virtual_time(snapshots_in_danger(seed));
        (deaths, compared) = (deaths + told.0, compared + told.1);
    }
    eprintln!("{seeds} seeds, {deaths} deaths, {compared} snapshots compared with a copy at their number");
    assert!(deaths > 8 && compared > 8, "only {deaths} deaths, {compared} compared");
}

/// One of a bookmark's number has its name; one of a volume that is in no group has a time and no number; of S-VOLs that are
/// being written by hosts there is one, and it is no image.
#[test]
fn a_snapshot_says_of_what_it_is() {
    in_virtual_time(async {
        let story = Story::begin(3).await;
        say(&story.cluster, ALPHA, "group bookmark g1 noon").await;
        say(&story.cluster, ALPHA, "snapshot create s1 --group g1").await;
        let shown = story.shown(ALPHA, "s1").expect("it was made");
        assert_eq!((shown.bookmark.as_deref(), shown.volumes.len()), (Some("noon"), 8));
        say(&story.cluster, ALPHA, "snapshot create again --volume s1.data2 --writable").await;
        let shown = story.shown(ALPHA, "again").expect("it was made");
        assert_eq!((shown.update_number, shown.is_image, shown.volumes.len()), (None, true, 1));
        let top = story.cluster.array(ALPHA).expect("it runs");
        assert!(top.read_volume("again").await == top.read_volume("s1.data2").await);
        say(&story.cluster, ALPHA, "snapshot create one --volume data3").await;
        assert!(story.shown(ALPHA, "one").expect("it was made").update_number.is_some());
        for (line, why) in [
            ("snapshot create s1 --volume data1", "already"),
            ("snapshot create s2 --volume jnl", "journal"),
            ("snapshot create s3 --group g7", "no group"),
            ("snapshot create data1 --volume data2", "already"),
            ("volume delete again --yes", "snapshot"),
        ] {
            let refused = story.cluster.command(ALPHA, line).await.expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
        let dry = story.cluster.command(ALPHA, "snapshot create dry --group g1 --dry-run").await;
        assert!(dry.expect("it would be made").contains("dry.data8"));
        assert!(story.shown(ALPHA, "dry").is_none());
        for name in ["s1", "again", "one"] {
            say(&story.cluster, ALPHA, &format!("snapshot delete {name} --yes")).await;
        }
        story.nothing_is_left(ALPHA).await;
        // Hosts at beta write its S-VOLs.
        say(&story.cluster, ALPHA, "group suspend g1 --reader beta --svol-write").await;
        wait(&story.cluster, "hosts are let in at beta", |cluster| {
            let shown = cluster.snapshot(BETA).expect("it runs");
            shown.targets.iter().flat_map(|target| &target.luns).any(|lun| lun.access == "read-write")
        })
        .await;
        say(&story.cluster, BETA, "snapshot create open --group g1").await;
        let shown = story.shown(BETA, "open").expect("it was made");
        assert!(!shown.is_image && shown.update_number.is_none() && shown.reason.is_some(), "{shown:?}");
        for index in 0..3 {
            story.cluster.die(index, Death::Kill).await;
        }
    });
}

/// An S-VOL that had stopped alone was said to be of what the others had restored since.
#[test]
fn a_snapshot_of_an_s_vol_that_stayed_behind_has_no_number() {
    in_virtual_time(async {
        let mut story = Story::begin(5).await;
        say(&story.cluster, ALPHA, "pair suspend p3-beta").await;
        wait(&story.cluster, "beta is told", |cluster| {
            let pairs = cluster.snapshot(BETA).map(|shown| shown.pairs).unwrap_or_default();
            pairs.iter().any(|pair| pair.name == "p3-beta" && pair.state == "suspended")
        })
        .await;
        write(&story.cluster, &mut story.writer, &story.ports, 60).await;
        wait(&story.cluster, "the others have gone on", |cluster| {
            follows(cluster, BETA).map(|follows| follows.1) == cluster.newest()
        })
        .await;
        for (volume, is_image) in [(2, true), (3, false)] {
            let name = format!("one{volume}");
            say(&story.cluster, BETA, &format!("snapshot create {name} --volume copy{volume}")).await;
            let shown = story.shown(BETA, &name).expect("it was made");
            assert_eq!((shown.is_image, shown.update_number.is_some()), (is_image, is_image), "{shown:?}");
        }
        for index in 0..3 {
            story.cluster.die(index, Death::Kill).await;
        }
    });
}
