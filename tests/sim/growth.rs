//! Volumes grow while hosts write them, and their copies with them, without a split (decision 18): at the top of a cascade
//! and of a star. Arrays die at every step of it, of the growth and of the writes that follow at once behind the old end. No
//! pair ever stops; at the end all arrays show the new sizes, and all are equal to their last byte.

use crate::cluster::{ALPHA, Cluster, Death};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::wait;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    Durability, DurableRule, HostPort, Observed, Place, Plan, SECTOR_BYTES, Until, Writer, check_crash,
    check_prefix,
};
use crate::tree::{SMALL, Tree};
use bytes::Bytes;
use std::sync::atomic::AtomicBool;

struct Story {
    cluster: Cluster,
    arrays: usize,
    random: Random,
    writer: Writer,
    ports: Vec<SimPort>,
    deaths: u32,
}

impl Story {
    async fn begin(seed: u64, tree: &Tree) -> Self {
        Self::begin_with(seed, tree.count(), tree.cluster(seed, SMALL)).await
    }

    async fn begin_with(seed: u64, arrays: usize, cluster: Cluster) -> Self {
        for index in 0..arrays {
            cluster.start(index).await;
        }
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4));
        let ports = ports.collect();
        let random = Random::new(seed);
        let story = Self { cluster, arrays, random, writer, ports, deaths: 0 };
        story.all_normal().await;
        story
    }

    async fn all_normal(&self) {
        wait(&self.cluster, "all pairs are normal", |cluster| {
            (0..self.arrays).all(|index| cluster.is_normal(index))
        })
        .await;
    }

    /// Hosts write; nobody dies meanwhile.
    async fn write(&mut self, commands: u64) {
        let never = AtomicBool::new(false);
        let until = Until { commands, stop: &never };
        let running = self.writer.run(&self.ports, &*self.cluster.clock, 4, until);
        let summary = tokio::select! {
            biased;
            summary = running => summary,
            () = self.cluster.sleep_ms(120_000) => panic!("hosts do not go on: {}", self.cluster.state()),
        };
        assert_eq!(summary.violations, [], "reads while writing");
    }

    /// One array dies and is started again, hosts that lost their writes send them once more.
    async fn one_dies(&mut self) {
        let index = self.random.index(self.arrays);
        let death = if self.random.percent(50) { Death::Kill } else { Death::PowerLoss };
        self.cluster.die(index, death).await;
        self.deaths += 1;
        let down_ms = self.random.below(400);
        self.cluster.sleep_ms(down_ms).await;
        self.cluster.start(index).await;
        if index == ALPHA {
            let mut images = Vec::new();
            let top = self.cluster.array(ALPHA).expect("it runs");
            let old_end = usize::try_from(SMALL.volume_kib << 10).unwrap();
            for volume in 1..=SMALL.volumes {
                let name = format!("data{volume}");
                let image = loop {
                    match top.read_volume(&name).await {
                        Ok(image) => break image,
                        Err(_) => self.cluster.sleep_ms(100).await,
                    }
                };
                images.push(image[..old_end].to_vec());
            }
            let observed = Observed::from_images(self.writer.log(), &images);
            check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("after the crash");
            self.writer.resume_after_crash(&observed).expect("the volumes are of one moment");
        }
    }

    fn sizes(&self, index: usize, volume: u16) -> Option<u64> {
        let prefix = if index == ALPHA { "data" } else { "copy" };
        let name = format!("{prefix}{volume}");
        let volumes = self.cluster.snapshot(index)?.volumes;
        volumes.into_iter().find(|shown| shown.name == name).map(|shown| shown.size_bytes)
    }

    /// An operator says it until it is answered, whoever dies meanwhile.
    async fn say(&mut self, line: &str) {
        while self.random.percent(40) {
            let after_ms = self.random.below(40);
            tokio::select! {
                biased;
                _ = self.cluster.command(ALPHA, line) => {}
                () = self.cluster.sleep_ms(after_ms) => {}
            }
            self.one_dies().await;
        }
        if let Err(error) = self.cluster.command(ALPHA, line).await {
            panic!("{line}: {error}");
        }
    }

    /// Behind the old end, as soon as hosts see it.
    async fn write_to_the_new_end(&mut self, volume: u16, old_bytes: u64, new_bytes: u64) {
        let port = SimPort::new(&self.cluster, "reader", 7, ALPHA);
        let (sector, sectors) = (SECTOR_BYTES as u64, 24);
        for lba in [old_bytes / sector, (old_bytes + new_bytes) / 2 / sector, new_bytes / sector - sectors] {
            let place =
                Place { volume: u32::from(volume - 1), lba, sectors: u32::try_from(sectors).unwrap() };
            let fill = u8::try_from(lba % 251).unwrap() | 1;
            let data = Bytes::from(vec![fill; place.bytes()]);
            let mut tries = 0;
            while let Err(error) = port.write(place, data.clone(), Durability::Fua).await {
                tries += 1;
                assert!(tries < 20, "behind the old end: {error:?}: {}", self.cluster.state());
            }
            assert_eq!(port.read(place).await.expect("it was written"), data);
        }
    }

    async fn grow(&mut self, step: usize, volume: u16, more_kib: u64) {
        let old_bytes = self.sizes(ALPHA, volume).expect("it runs");
        let new_bytes = old_bytes + (more_kib << 10);
        self.say(&format!("volume resize data{volume} {new_bytes}B --id grow-{step}")).await;
        let mut written = false;
        for _ in 0..400 {
            let top = self.sizes(ALPHA, volume);
            if !written && top == Some(new_bytes) {
                self.write_to_the_new_end(volume, old_bytes, new_bytes).await;
                written = true;
            }
            let here = |index| self.sizes(index, volume) == Some(new_bytes);
            if (0..self.arrays).all(here) {
                break;
            }
            if self.random.percent(20) {
                self.one_dies().await;
            }
            if self.random.percent(30) {
                self.write(5).await;
            } else {
                let pause_ms = 5 + self.random.below(300);
                self.cluster.sleep_ms(pause_ms).await;
            }
        }
        for index in 0..self.arrays {
            assert_eq!(self.sizes(index, volume), Some(new_bytes), "array {index}: {}", self.cluster.state());
        }
        assert!(written);
        assert!(self.cluster.command(ALPHA, &format!("volume resize data{volume} 1MiB")).await.is_err());
    }

    /// Every copy has caught up and is equal to the top, byte for byte; and has been a moment of it all along.
    async fn equal(&mut self) {
        self.all_normal().await;
        for index in 1..self.arrays {
            wait(&self.cluster, "it has caught up", |cluster| {
                let follows = cluster.snapshot(index).and_then(|snapshot| snapshot.groups[0].follows.clone());
                follows.map(|follows| follows.restored_update_number) == cluster.newest()
            })
            .await;
            let top = self.cluster.array(ALPHA).expect("it runs");
            let copies = self.cluster.visible_copies(index).await;
            for (volume, copy) in (1..).zip(&copies) {
                let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
                assert_eq!(copy.len(), data.len(), "volume {volume} of array {index}");
                assert!(*copy == data, "volume {volume} of array {index} differs");
            }
            let old_end = usize::try_from(SMALL.volume_kib << 10).unwrap();
            let old: Vec<Vec<u8>> = copies.iter().map(|copy| copy[..old_end].to_vec()).collect();
            let log = self.writer.log();
            check_prefix(log, &Observed::from_images(log, &old)).expect_clean("the copies");
        }
    }
}

async fn volumes_grow_in_danger(seed: u64, tree: &Tree) -> u32 {
    let mut story = Story::begin(seed, tree).await;
    story.write(40).await;
    for step in 0..3 {
        let volume = u16::try_from(1 + story.random.below(u64::from(SMALL.volumes))).unwrap();
        let more_kib = 1024 + 4 * story.random.below(500);
        story.grow(step, volume, more_kib).await;
        story.write(20).await;
    }
    story.equal().await;
    // Differences behind the old end are marked and copied like any others.
    story.cluster.command(ALPHA, "group suspend g1").await.expect("suspended");
    wait(&story.cluster, "they are suspended", |cluster| {
        let pairs = cluster.snapshot(1).map(|snapshot| snapshot.pairs).unwrap_or_default();
        pairs.iter().filter(|pair| pair.primary_array == 1).all(|pair| pair.state == "suspended")
    })
    .await;
    story.grow(9, 1, 1024).await;
    story.cluster.command(ALPHA, "group resume g1").await.expect("resumed");
    story.write(20).await;
    story.equal().await;
    for index in 0..story.arrays {
        story.cluster.die(index, Death::Kill).await;
    }
    story.deaths
}

#[test]
fn volumes_grow_with_all_their_copies_whoever_dies() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 40).max(4);
    let mut deaths = 0;
    for seed in 1..=seeds {
        let tree = if seed % 2 == 0 { Tree::chain(3) } else { Tree::star(2) };
        deaths += in_virtual_time(volumes_grow_in_danger(seed, &tree));
    }
    eprintln!("{seeds} seeds, {deaths} deaths");
    assert!(deaths > 4, "only {deaths} deaths");
}

/// A group in the middle of a cascade knows volumes by the numbers that they have at the first array. What was written behind the old end while
/// its pairs were stopped was once marked nowhere where the middle's own number is another one.
#[test]
fn the_middle_of_a_cascade_marks_behind_the_old_end_whatever_its_own_numbers_are() {
    const OTHER: &str =
        "[[provision.volume]]\nname = \"other\"\nparity_group = \"pg0\"\nsize = \"1MiB\"\nthin = true\n";
    for seed in 1..=2 {
        in_virtual_time(async {
            let tree = Tree::chain(3);
            let cluster =
                Cluster::of(seed, SMALL, 3, &tree.links(), |index, shape, random| {
                    let text = tree.config(index, shape, random);
                    let first = if index == ALPHA { String::new() } else { OTHER.repeat(index) };
                    text.replacen("[[provision.volume]]", &format!("{first}[[provision.volume]]"), 1)
                        .replacen("\"other\"", "\"other2\"", usize::from(index == 2))
                });
            cluster.readers.set(1);
            let mut story = Story::begin_with(seed, 3, cluster).await;
            story.write(40).await;
            let old_bytes = story.sizes(ALPHA, 1).expect("it runs");
            let new_bytes = old_bytes + (2 << 20);
            let resize = format!("volume resize data1 {new_bytes}B");
            story.cluster.command(ALPHA, &resize).await.expect("it grows");
            let is_large = |story: &Story| (0..3).all(|index| story.sizes(index, 1) == Some(new_bytes));
            while !is_large(&story) {
                story.cluster.sleep_ms(50).await;
            }
            story.cluster.command(1, "group suspend g1 --reader gamma").await.expect("suspended");
            wait(&story.cluster, "the pairs below are suspended", |cluster| {
                let pairs = cluster.snapshot(1).map(|snapshot| snapshot.pairs).unwrap_or_default();
                pairs.iter().filter(|pair| pair.state == "suspended").count() == 3
            })
            .await;
            story.write_to_the_new_end(1, old_bytes, new_bytes).await;
            story.cluster.command(1, "group resume g1 --reader gamma").await.expect("resumed");
            story.equal().await;
        });
    }
}
