//! The S-VOLs of a group at any update (promise O9, decision 27), over eight volumes under load: what a rewind shows is another copy's
//! state at exactly that number, to the last byte, and one moment of the hosts' history, whoever dies while it is made. Restore and reading
//! do not notice, and of what was not finished nothing is left.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, Second, Shape, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{Geometry, Observed, Plan, SECTOR_BYTES, Until, Writer, check_prefix};
use crate::tree::Tree;
use holdfast::channel::host::{Durability, HostLun, lun};
use holdfast::channel::initiator::SessionOptions;
use holdfast::disk::io::sim::{Fault, SimDisk};
use holdfast::shell::view::{SnapshotView, WindowView};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const BETA: usize = 1;
const GAMMA: usize = 2;
/// While copies stand still their journals have room.
const SHAPE: Shape = Shape { second: Second::None, journal_kib: 8192, ..EIGHT };

struct Story {
    cluster: Cluster,
    random: Random,
    writer: Writer,
    ports: Vec<SimPort>,
    made: u32,
    deaths: u32,
}

impl Story {
    async fn begin(seed: u64, shape: Shape) -> Self {
        Self::with_readers(seed, shape, 2).await
    }

    async fn with_readers(seed: u64, shape: Shape, readers: usize) -> Self {
        Self::within(seed, shape, readers, geometry_of(shape)).await
    }

    /// Hosts write a part of the volumes.
    async fn within(seed: u64, shape: Shape, readers: usize, part: Geometry) -> Self {
        // What images cost is whole extents, and here every volume is one.
        let tree = Tree::star(readers);
        let cluster = Cluster::of(seed, shape, tree.count(), &tree.links(), |index, shape, random| {
            tree.config(index, shape, random).replace("size = \"16MiB\" }", "size = \"64MiB\" }")
        });
        cluster.readers.set(readers);
        for index in 0..=readers {
            cluster.start(index).await;
        }
        let writer = Writer::new(seed, Plan::mixed(seed, part));
        let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(3));
        let ports = ports.collect();
        let random = Random::new(seed ^ 0x7265_7769);
        let mut story = Self { cluster, random, writer, ports, made: 0, deaths: 0 };
        wait(&story.cluster, "all pairs are normal", |cluster| {
            (0..=readers).all(|index| cluster.is_normal(index))
        })
        .await;
        story.write(60).await;
        story
    }

    async fn write(&mut self, commands: u64) {
        write(&self.cluster, &mut self.writer, &self.ports, commands).await;
    }

    fn shown(&self, name: &str) -> Option<SnapshotView> {
        let snapshots = self.cluster.snapshot(BETA)?.snapshots;
        snapshots.into_iter().find(|snapshot| snapshot.name == name)
    }

    async fn stands_still(&self, index: usize) -> u64 {
        say(&self.cluster, index, "group restore g1 --go-on").await;
        self.has_restored_all(index).await;
        say(&self.cluster, index, "group restore g1 --until now").await;
        follows(&self.cluster, index).expect("it follows").restored
    }

    async fn has_restored_all(&self, index: usize) {
        wait(&self.cluster, "it has restored everything", |cluster| {
            cluster.is_normal(index)
                && follows(cluster, index).map(|follows| follows.restored) == cluster.newest()
        })
        .await;
    }

    async fn has_received_all(&self, index: usize) -> u64 {
        wait(&self.cluster, "it has received everything", |cluster| {
            follows(cluster, index).map(|follows| follows.received) == cluster.newest()
        })
        .await;
        follows(&self.cluster, index).expect("it follows").received
    }

    async fn dies(&mut self) {
        let death = if self.random.percent(50) { Death::Kill } else { Death::PowerLoss };
        self.cluster.die(BETA, death).await;
        self.starts_again().await;
    }

    async fn starts_again(&mut self) {
        self.deaths += 1;
        self.cluster.start(BETA).await;
        wait(&self.cluster, "beta follows again", |cluster| follows(cluster, BETA).is_some()).await;
    }

    /// Hosts write while an operator at beta says something until it is answered, though beta dies meanwhile.
    async fn say_in_danger(&mut self, line: &str) {
        for attempt in 0.. {
            // What hosts write meanwhile has to stay within the window.
            let dies = attempt < 3 && self.random.percent(50);
            let (before_ms, after_ms) = (self.random.below(20), self.random.below(60));
            let death = if self.random.percent(50) { Death::Kill } else { Death::PowerLoss };
            let stop = AtomicBool::new(false);
            let until = Until { commands: u64::MAX, stop: &stop };
            let Self { cluster, writer, ports, .. } = self;
            let operator = async {
                cluster.sleep_ms(before_ms).await;
                let answer = tokio::select! {
                    biased;
                    answer = cluster.command(BETA, line) => Some(answer),
                    () = cluster.sleep_ms(after_ms), if dies => None,
                };
                if dies {
                    cluster.die(BETA, death).await;
                }
                stop.store(true, Ordering::Relaxed);
                answer
            };
            let (summary, answer) = tokio::join!(writer.run(&*ports, &*cluster.clock, 4, until), operator);
            assert_eq!(summary.violations, [], "reads while writing");
            if !dies {
                if let Some(Err(error)) = answer {
                    panic!("{line}: {error}: {}", self.cluster.state());
                }
                return;
            }
            self.starts_again().await;
        }
    }

    async fn images(&self, name: &str) -> Vec<Vec<u8>> {
        let array = self.cluster.array(BETA).expect("it runs");
        let mut images = Vec::new();
        for volume in 1..=SHAPE.volumes {
            let read = array.read_volume(&format!("{name}.copy{volume}")).await;
            images.push(read.unwrap_or_else(|error| panic!("{name}: {error}: {}", self.cluster.state())));
        }
        let log = self.writer.log();
        check_prefix(log, &Observed::from_images(log, &images)).expect_clean(name);
        images
    }

    /// Beta makes what it is at that number; its name.
    async fn rewind(&mut self, to: u64) -> String {
        self.made += 1;
        let name = format!("r{}", self.made);
        let access = if self.random.percent(50) { " --read-only" } else { "" };
        self.say_in_danger(&format!("group rewind g1 {name} --to {to}{access} --id make-{name}")).await;
        let shown = self.shown(&name).expect("it was made");
        assert_eq!((shown.update_number, shown.is_image), (Some(to), true), "{shown:?}");
        name
    }

    /// Beta's S-VOLs, which hosts may write then, become what they were at some number; the snapshot, and what is in it.
    async fn apply_some_rewind(&mut self) -> (String, Vec<Vec<u8>>) {
        let restored = self.stands_still(BETA).await;
        self.write(60).await;
        let received = self.has_received_all(BETA).await;
        let number = restored + self.random.below(received - restored + 1);
        let name = self.rewind(number).await;
        let images = self.images(&name).await;
        let line = format!("group rewind g1 {name} --apply --yes");
        let refused = self.cluster.command(BETA, &line).await.expect_err("no host may write the S-VOLs");
        assert!(refused.contains("svol-write"), "{refused}");
        self.lets_hosts_in().await;
        let before = self.cluster.visible_copies(BETA).await;
        let asked = self.cluster.command(BETA, &format!("group rewind g1 {name} --apply")).await;
        assert!(asked.expect_err("it destroys").contains("hosts have written"));
        self.say_in_danger(&format!("{line} --id apply-{name}")).await;
        assert!(self.cluster.visible_copies(BETA).await == images, "the S-VOLs are not what was rewound");
        assert!(before != images || number == received, "nothing would have shown");
        assert!(self.images(&name).await == images, "the snapshot has changed");
        (name, images)
    }

    /// Hosts may write beta's S-VOLs.
    async fn lets_hosts_in(&self) {
        say(&self.cluster, BETA, "group restore g1 --go-on").await;
        self.has_restored_all(BETA).await;
        say(&self.cluster, ALPHA, "group suspend g1 --reader beta --svol-write").await;
        wait(&self.cluster, "hosts are let in at beta", |cluster| {
            let shown = cluster.snapshot(BETA).expect("it runs");
            let mut luns = shown.targets.iter().flat_map(|target| &target.luns);
            luns.any(|lun| lun.access == "read-write")
        })
        .await;
    }

    /// The volumes of a snapshot at beta, as a host has them.
    async fn shown_to_a_host(&self, name: &str) -> Vec<HostLun> {
        let (target, limit) = (target_name("beta"), Duration::from_secs(5));
        let options = SessionOptions { login_timeout: limit, ..SessionOptions::default() };
        let session = self.cluster.connector("reader").session("beta:3260", &target, &options).await;
        let session = session.expect("it can log in");
        let mut luns = Vec::new();
        for volume in 1..=self.cluster.shape.volumes {
            let number = 60 + volume;
            say(&self.cluster, BETA, &format!("lun map {target} {number} {name}.copy{volume}")).await;
            luns.push(HostLun::open(session.clone(), lun(number), limit).await.expect("it is mapped"));
        }
        luns
    }

    /// Gamma restores to exactly that number, and is the same.
    async fn is_what_gamma_is(&self, number: u64, name: &str) {
        say(&self.cluster, GAMMA, &format!("group restore g1 --until {number}")).await;
        wait(&self.cluster, "gamma has stopped there", |cluster| {
            follows(cluster, GAMMA).is_some_and(|at| at.state == "stopped" && at.restored == number)
        })
        .await;
        let copies = self.cluster.visible_copies(GAMMA).await;
        for (volume, (copy, image)) in (1..).zip(copies.iter().zip(self.images(name).await)) {
            assert!(*copy == image, "volume {volume} of {name} is not what it is at update {number}");
        }
    }

    /// Every extent that is not free belongs to a volume that is shown.
    async fn nothing_is_left(&self) {
        wait(&self.cluster, "the room of rewinds is given back", |cluster| {
            let Some(shown) = cluster.snapshot(BETA) else { return false };
            let used: u64 = shown.volumes.iter().map(|volume| volume.allocated_bytes).sum();
            let group = &shown.parity_groups[0];
            shown.snapshots.is_empty() && used + group.free_bytes == group.size_bytes
        })
        .await;
    }

    async fn equal(&self) {
        let top = self.cluster.array(ALPHA).expect("it runs");
        for index in BETA..self.cluster.count() {
            say(&self.cluster, index, "group restore g1 --go-on").await;
            self.has_restored_all(index).await;
            for (volume, copy) in (1..).zip(self.cluster.visible_copies(index).await) {
                let data = top.read_volume(&format!("data{volume}")).await.expect("it can be read");
                assert!(copy == data, "volume {volume} of array {index} differs");
            }
        }
    }

    async fn end(self) -> (u32, u32) {
        for index in 0..self.cluster.count() {
            self.cluster.die(index, Death::Kill).await;
        }
        (self.deaths, self.made)
    }
}

struct Follows {
    state: String,
    received: u64,
    restored: u64,
}

fn follows(cluster: &Cluster, index: usize) -> Option<Follows> {
    let follows = cluster.snapshot(index)?.groups.first()?.follows.clone()?;
    let (received, restored) = (follows.durable_update_number, follows.restored_update_number);
    Some(Follows { state: follows.restore_state, received, restored })
}

fn window(cluster: &Cluster) -> Option<WindowView> {
    cluster.snapshot(BETA)?.groups.first()?.window.clone()
}

/// Numbers of a range by chance, in order.
fn some_of(random: &mut Random, from: u64, to: u64, count: usize) -> BTreeSet<u64> {
    (0..count).map(|_| from + random.below(to - from + 1)).chain([to]).collect()
}

async fn between_restored_and_received(seed: u64) -> (u32, u32) {
    let mut story = Story::begin(seed, SHAPE).await;
    for _ in 0..2 {
        story.stands_still(GAMMA).await;
        let restored = story.stands_still(BETA).await;
        story.write(80).await;
        let received = story.has_received_all(BETA).await;
        for number in some_of(&mut story.random, restored, received, 3) {
            let name = story.rewind(number).await;
            story.is_what_gamma_is(number, &name).await;
            let at = follows(&story.cluster, BETA).expect("it follows");
            assert_eq!((at.state.as_str(), at.restored), ("stopped", restored), "restore has moved");
            story.say_in_danger(&format!("snapshot delete {name} --yes --id delete-{name}")).await;
        }
        for (to, why) in [(restored - 1, "out of reach"), (story.cluster.newest().unwrap() + 9, "have come")]
        {
            let refused = story.cluster.command(BETA, &format!("group rewind g1 no --to {to}")).await;
            let refused = refused.expect_err("it is not here");
            assert!(refused.contains(why), "{refused}");
        }
    }
    story.nothing_is_left().await;
    story.equal().await;
    story.end().await
}

#[test]
fn what_is_received_and_not_restored_can_be_seen_at_every_number() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 200).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut deaths, mut made) = (0, 0);
    for seed in first..first + seeds {
        let told = in_virtual_time(between_restored_and_received(seed));
        (deaths, made) = (deaths + told.0, made + told.1);
    }
    eprintln!("{seeds} seeds, {deaths} deaths, {made} rewinds compared with a copy at their number");
    assert!(deaths > 3 && made > 10, "only {deaths} deaths, {made} made");
}

/// Beta keeps images and is killed now and then, gamma stands still; then beta shows any number of all that time.
async fn back_by_kept_images(seed: u64) -> (u32, u32) {
    let mut story = Story::begin(seed, Shape { journal_kib: 24576, ..SHAPE }).await;
    let line = "group set g1 --keep-images 120s --image-interval 2s";
    say(&story.cluster, BETA, line).await;
    story.cluster.sleep_ms(3_000).await;
    let first = story.stands_still(GAMMA).await;
    for _ in 0..4 {
        story.write(40).await;
        story.cluster.sleep_ms(story.random.below(3_000)).await;
        if story.random.percent(50) {
            story.dies().await;
        }
    }
    story.has_restored_all(BETA).await;
    let reached = window(&story.cluster).expect("beta keeps images");
    assert!(reached.images > 1 && reached.from_update_number <= Some(first), "{reached:?}, from {first} on");
    // What an operator had made of such an image was deleted with the images.
    let oldest = reached.from_update_number.expect("there are images");
    say(&story.cluster, BETA, &format!("group rewind g1 left --to {oldest} --read-only")).await;
    let mut from = first;
    for _ in 0..4 {
        // What is written while beta dies may cost the journal its oldest part: that is not what is looked at here.
        let newest = follows(&story.cluster, BETA).expect("it follows").restored;
        let reached = window(&story.cluster).and_then(|window| window.from_update_number).unwrap_or(newest);
        if reached > from {
            from = reached.midpoint(newest).max(from);
        }
        let number = from + story.random.below(newest.saturating_sub(from) + 1);
        let name = story.rewind(number).await;
        story.is_what_gamma_is(number, &name).await;
        from = number;
        say(&story.cluster, BETA, &format!("snapshot delete {name} --yes")).await;
    }
    let refused = story.cluster.command(BETA, "group set g1 --keep-images 1d --image-interval 1s").await;
    assert!(refused.expect_err("they would be too many").contains("less often"));
    let refused = story.cluster.command(ALPHA, line).await;
    assert!(refused.expect_err("hosts write it there").contains("not copied here"));
    say(&story.cluster, BETA, "group set g1 --keep-images off").await;
    wait(&story.cluster, "the images go", |cluster| {
        cluster.snapshot(BETA).is_some_and(|shown| shown.snapshots.iter().all(|one| !one.is_scheduled))
    })
    .await;
    story.images("left").await;
    say(&story.cluster, BETA, "snapshot delete left --yes").await;
    story.nothing_is_left().await;
    story.equal().await;
    story.end().await
}

#[test]
fn what_was_restored_can_be_seen_at_every_number_of_the_time_for_which_images_are_kept() {
    // Not by the number of seeds of a long run: with some seeds hosts write more in that time than the journal has room for.
    let seeds = number_from_environment("HOLDFAST_IMAGE_SEEDS", 2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut deaths, mut made) = (0, 0);
    for seed in first..first + seeds {
        let told = in_virtual_time(back_by_kept_images(seed));
        (deaths, made) = (deaths + told.0, made + told.1);
    }
    eprintln!("{seeds} seeds, {deaths} deaths, {made} rewinds compared with a copy at their number");
    assert!(deaths > 3 && made > 6, "only {deaths} deaths, {made} made");
}

/// Beta's S-VOLs, which hosts may write, become what a rewind was, and are all of one moment whenever beta dies on the way; then they
/// follow again.
async fn opened_at_another_moment(seed: u64) -> (u32, u32) {
    let mut story = Story::begin(seed, SHAPE).await;
    let (name, images) = story.apply_some_rewind().await;
    if story.random.percent(50) {
        story.dies().await;
        assert!(story.cluster.visible_copies(BETA).await == images);
    }
    story.write(20).await;
    say(&story.cluster, ALPHA, "group resync g1").await;
    story.equal().await;
    assert!(story.images(&name).await == images, "the snapshot has changed");
    say(&story.cluster, BETA, &format!("snapshot delete {name} --yes")).await;
    story.nothing_is_left().await;
    story.end().await
}

#[test]
fn s_vols_are_opened_at_any_moment_and_follow_again_whoever_dies() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 130).max(3);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let mut deaths = 0;
    for seed in first..first + seeds {
        deaths += in_virtual_time(opened_at_another_moment(seed)).0;
    }
    assert!(deaths > 3, "only {deaths} deaths");
}

/// What beta went back to is kept: the primary gets it by a reversal, as what either side has changed.
#[test]
fn the_primary_gets_back_what_its_copy_was_rewound_to() {
    for seed in [1, 2] {
        in_virtual_time(async {
            let mut story = Story::with_readers(seed, SHAPE, 1).await;
            let (_, images) = story.apply_some_rewind().await;
            story.write(20).await;
            say(&story.cluster, ALPHA, "group reverse g1 --to beta --yes").await;
            let role = |cluster: &Cluster, index: usize| {
                let group = cluster.snapshot(index)?.groups.first().cloned()?;
                Some((group.role, group.pairs_state))
            };
            wait(&story.cluster, "they have changed places", |cluster| {
                let normal = |name: &str| Some((name.to_owned(), "normal".to_owned()));
                role(cluster, BETA) == normal("primary") && role(cluster, ALPHA) == normal("auxiliary")
            })
            .await;
            for (index, name) in [(BETA, "copy"), (ALPHA, "data")] {
                let array = story.cluster.array(index).expect("it runs");
                for (volume, image) in (1..).zip(&images) {
                    let now = array.read_volume(&format!("{name}{volume}")).await.expect("it can be read");
                    assert!(now == *image, "{name}{volume} is not what it was rewound to");
                }
            }
            story.end().await;
        });
    }
}

/// A journal that is too small for all that is wanted: nobody waits for it, the window is shorter, and says so.
#[test]
fn images_that_are_kept_never_hold_up_reading_and_restore() {
    in_virtual_time(async {
        let mut story = Story::begin(5, Shape { journal_kib: 2048, ..SHAPE }).await;
        say(&story.cluster, BETA, "group set g1 --keep-images 1h --image-interval 30s").await;
        let first = story.cluster.newest().expect("alpha runs");
        story.cluster.sleep_ms(2_000).await;
        let from = |cluster: &Cluster| window(cluster).and_then(|window| window.from_update_number);
        let before = from(&story.cluster).expect("there is an image");
        let mut rounds = 0;
        while from(&story.cluster) == Some(before) {
            story.write(120).await;
            story.cluster.sleep_ms(11_000).await;
            rounds += 1;
            assert!(rounds < 40, "nothing was ever let go: {}", story.cluster.state());
        }
        story.has_restored_all(BETA).await;
        let shown = story.cluster.snapshot(BETA).expect("it runs");
        for journal in shown.journals.iter().filter(|journal| journal.write_data_bytes > 0) {
            let (used, of) = (journal.write_data_used_bytes, journal.write_data_bytes);
            assert!(used * 100 < of * 65, "{used} of {of} bytes in use at rest");
        }
        story.write(20).await;
        story.has_restored_all(BETA).await;
        wait(&story.cluster, "there is another image", |cluster| {
            window(cluster).is_some_and(|window| window.from_unix_ms.is_some())
        })
        .await;
        let (reached, newest) = (from(&story.cluster).expect("there is an image"), story.cluster.newest());
        assert!(reached > before);
        let number = reached.midpoint(newest.expect("alpha runs"));
        let name = story.rewind(number).await;
        story.images(&name).await;
        let refused = story.cluster.command(BETA, &format!("group rewind g1 no --to {}", first - 1)).await;
        assert!(refused.expect_err("it is gone").contains("out of reach"));
        // Images that have lost what came behind them are still what they were.
        let images = story.cluster.snapshot(BETA).expect("it runs").snapshots;
        for image in images.iter().filter(|image| image.is_scheduled) {
            story.images(&image.name).await;
        }
        story.equal().await;
        story.end().await;
    });
}

/// A host's writes to the volumes of a clone, one behind the other and each somewhere else, most of them where nobody ever wrote;
/// which of them were accepted.
async fn write_fresh_extents(cluster: &Cluster, luns: &[HostLun]) -> Vec<usize> {
    let mut accepted = Vec::new();
    for turn in 0..TURNS {
        let (volume, lba) = place_of(turn);
        let data = vec![u8::try_from(1 + turn).unwrap(); 8 * SECTOR_BYTES];
        if luns[volume].write(lba, data, Durability::Cached).await.is_ok() {
            accepted.push(turn);
        }
        cluster.sleep_ms(8).await;
    }
    accepted
}

/// Extents 2 to 7 of two volumes in turn.
fn place_of(turn: usize) -> (usize, u64) {
    let extent = 2 + turn / 2 % 6;
    (turn % 2, u64::try_from(extent * 2048 + turn / 12 * 64).unwrap())
}

const TURNS: usize = 24;

/// A host writes a clone while the S-VOLs become what it is; how many of its writes they got.
async fn written_while_it_is_applied(seed: u64) -> usize {
    let shape = Shape { volumes: 2, volume_kib: 8192, ..SHAPE };
    let part = geometry_of(Shape { volume_kib: 2048, ..shape });
    let mut story = Story::within(seed, shape, 1, part).await;
    let restored = story.stands_still(BETA).await;
    story.write(20).await;
    say(&story.cluster, BETA, &format!("group rewind g1 open --to {restored}")).await;
    story.lets_hosts_in().await;
    let luns = story.shown_to_a_host("open").await;
    // What it writes is not on the units at once.
    let disks = ["u0", "u1", "u2"].map(|unit| story.cluster.disk(BETA, unit));
    disks.iter().for_each(|disk| disk.inject(Fault::Slow(Duration::from_millis(10))));
    let before_ms = 10 + story.random.below(40);
    let operator = async {
        story.cluster.sleep_ms(before_ms).await;
        say(&story.cluster, BETA, "group rewind g1 open --apply --yes").await;
    };
    let (accepted, ()) = tokio::join!(write_fresh_extents(&story.cluster, &luns), operator);
    disks.iter().for_each(SimDisk::heal);
    let images = story.cluster.visible_copies(BETA).await;
    let is_in = |turn: &usize| {
        let (volume, lba) = place_of(*turn);
        let at = usize::try_from(lba).unwrap() * SECTOR_BYTES;
        images[volume][at..at + 8 * SECTOR_BYTES].iter().all(|byte| usize::from(*byte) == 1 + turn)
    };
    let found: Vec<usize> = (0..TURNS).filter(is_in).collect();
    assert_eq!(found, accepted[..found.len()], "the S-VOLs are of no one moment of {accepted:?}");
    let written = luns[0].write(0, vec![9; SECTOR_BYTES], Durability::Forced).await;
    assert!(written.is_ok(), "the clone is its hosts' again: {written:?}");
    say(&story.cluster, ALPHA, "group resync g1").await;
    story.equal().await;
    drop(luns);
    story.end().await;
    found.len()
}

/// An extent that the host wrote first while the S-VOLs were on their way was in them without a mark: they followed again, and differed for
/// good. And as long as the host went on writing, nothing else of the array did.
#[test]
fn what_hosts_write_to_a_clone_while_it_is_applied_is_in_the_s_vols_and_marked_or_not_there() {
    let mut found = 0;
    for seed in 1..=4 {
        found += in_virtual_time(written_while_it_is_applied(seed));
    }
    assert!(found > 0 && found < 4 * TURNS, "{found} writes were there");
}
