//! Comparing copies with what they are copies of (promise O8, decision 28).
//!
//! Under load, at a copy or at the array above it, while arrays die, links fail and operators change their minds: nothing is ever found that was
//! not planted, what ends leaves no extent behind, and what is not disturbed ends. What was planted is found, at the page where it is, on
//! whichever side; repaired, it is equal again.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, NAMES, Second, Shape, Way};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::readers::{say, wait, write};
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{DurableRule, Observed, Plan, Until, Writer, check_crash};
use crate::tree::Tree;
use holdfast::copy::tamper::Tamper;
use holdfast::shell::view::{ComparedView, Console, DifferentRangeView, GroupView};
use holdfast::volume::compare::Repair;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) const BETA: usize = 1;
pub(crate) const GAMMA: usize = 2;
pub(crate) const PAGE: usize = 4096;
const PAGES: u64 = 3 * 256;
/// On the disks `u0` to `u2` lies nothing but volumes, three extents each.
pub(crate) const SHAPE: Shape = Shape {
    volumes: 3,
    volume_kib: 3072,
    journal_kib: 8192,
    is_journal_apart: true,
    second: Second::None,
    ..EIGHT
};

pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) random: Random,
    pub(crate) writer: Writer,
    pub(crate) ports: Vec<SimPort>,
    pub(crate) deaths: u32,
    pub(crate) equal: u32,
    pub(crate) unfinished: u32,
}

impl Story {
    async fn begin(seed: u64, tree: &Tree) -> Self {
        Self::begin_with(seed, tree.cluster(seed, SHAPE)).await
    }

    pub(crate) async fn begin_with(seed: u64, cluster: Cluster) -> Self {
        for index in 0..cluster.count() {
            cluster.start(index).await;
        }
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        let ports = (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(5));
        let (ports, random) = (ports.collect(), Random::new(seed ^ 0x636f_6d70));
        let mut story = Self { cluster, random, writer, ports, deaths: 0, equal: 0, unfinished: 0 };
        story.settled().await;
        write(&story.cluster, &mut story.writer, &story.ports, 60).await;
        story
    }

    fn count(&self) -> usize {
        self.cluster.count()
    }

    /// All pairs are normal, and every copy has everything.
    pub(crate) async fn settled(&mut self) {
        for index in 0..self.count() {
            wait(&self.cluster, "all pairs are normal", |cluster| cluster.is_normal(index)).await;
        }
        for index in 1..self.count() {
            wait(&self.cluster, "it has caught up", |cluster| restored(cluster, index) == cluster.newest())
                .await;
        }
    }

    /// The same, and on the units.
    pub(crate) async fn quiet(&mut self) {
        self.settled().await;
        for index in 0..self.count() {
            wait(&self.cluster, "everything is on the units", |cluster| {
                cluster.snapshot(index).is_some_and(|shown| shown.array.cache_dirty_bytes == 0)
            })
            .await;
        }
    }

    pub(crate) fn group(&self, index: usize) -> GroupView {
        self.cluster.snapshot(index).expect("it runs").groups.remove(0)
    }

    /// Nothing is being compared: what was cut off has found that out, which takes two minutes at most.
    pub(crate) async fn idle(&self) {
        let since = self.cluster.clock_ms();
        while (0..self.count()).any(|index| !self.group(index).comparing.is_empty()) {
            assert!(self.cluster.clock_ms() < since + 300_000, "{}", self.cluster.state());
            self.cluster.sleep_ms(200).await;
        }
    }

    /// A comparison that nothing disturbs, and what came of it.
    pub(crate) async fn compare(&mut self, index: usize, more: &str) -> ComparedView {
        self.idle().await;
        let known = self.group(index).compared;
        let line = format!("group compare g1{more} --wait --timeout 300s");
        let answer = self.cluster.command(index, &line).await;
        let mut new = self.group(index).compared.into_iter().filter(|one| !known.contains(one));
        let one = new.next_back().unwrap_or_else(|| panic!("{line}: {answer:?}: {}", self.cluster.state()));
        assert!(one.result == "equal" || one.result == "different", "{line}: {one:?}");
        assert_eq!(answer.is_ok(), one.different_bytes == one.repaired_bytes, "{one:?}");
        one
    }

    /// Nobody has found anything that is not there.
    pub(crate) fn judge(&mut self) {
        for (index, name) in NAMES.iter().enumerate().take(self.count()) {
            let Some(shown) = self.cluster.snapshot(index) else { continue };
            for one in &shown.groups[0].compared {
                assert_eq!(one.different_bytes, 0, "a false alarm at {name}: {one:?}");
                assert!(one.differences.is_empty() && one.result != "different", "{one:?}");
            }
        }
    }

    /// Hosts write while something happens.
    pub(crate) async fn under_load<T>(&mut self, work: impl AsyncFnOnce(&Cluster, &mut Random) -> T) -> T {
        let stop = AtomicBool::new(false);
        let until = Until { commands: u64::MAX, stop: &stop };
        let Self { cluster, writer, ports, random, .. } = self;
        let working = async {
            let done = work(cluster, random).await;
            stop.store(true, Ordering::Relaxed);
            done
        };
        let (summary, done) = tokio::join!(writer.run(&*ports, &*cluster.clock, 4, until), working);
        assert_eq!(summary.violations, [], "reads while writing");
        done
    }

    pub(crate) async fn comes_back(&mut self, index: usize) {
        self.deaths += 1;
        self.cluster.start(index).await;
        if index == ALPHA {
            let images = self.images(ALPHA, "data").await;
            let observed = Observed::from_images(self.writer.log(), &images);
            check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("after the crash");
            self.writer.resume_after_crash(&observed).expect("the volumes are of one moment");
        }
    }

    pub(crate) async fn images(&self, index: usize, prefix: &str) -> Vec<Vec<u8>> {
        let array = self.cluster.array(index).expect("it runs");
        let mut images = Vec::new();
        for volume in 1..=SHAPE.volumes {
            images.push(array.read_volume(&format!("{prefix}{volume}")).await.expect("it can be read"));
        }
        images
    }

    /// One comparison in which something may happen. Who compares with whom, and who leads, is the seed's.
    async fn disturbed(&mut self, copy: usize, above: usize) {
        let leads_above = self.random.percent(40);
        let full = if self.random.percent(40) { " --full" } else { "" };
        let at = if leads_above { above } else { copy };
        let line = match leads_above {
            true => format!("group compare g1 --reader {}{full}", NAMES[copy]),
            false => format!("group compare g1{full}"),
        };
        let what = self.random.below(9);
        let before = self.group(copy).compared.len();
        let died = self
            .under_load(async |cluster, random| {
                // The array may not know yet that everything is normal again.
                let _ = cluster.command(at, &line).await;
                cluster.sleep_ms(random.below(600)).await;
                let victim = if random.percent(50) { copy } else { above };
                let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
                let way = if random.percent(50) { Way::Cut } else { Way::Silent };
                match what {
                    0..3 => {
                        cluster.die(victim, death).await;
                        return Some(victim);
                    }
                    3 | 4 => {
                        cluster.set_way(NAMES[above], NAMES[copy], way);
                        cluster.sleep_ms(random.below(1500)).await;
                        cluster.set_way(NAMES[above], NAMES[copy], Way::Up);
                    }
                    5 => _ = cluster.command(victim, "group compare g1 --cancel").await,
                    _ => cluster.sleep_ms(1000).await,
                }
                None
            })
            .await;
        if died.is_none() && what >= 5 {
            let is_over = |cluster: &Cluster| {
                // What it holds for a copy that has died goes when that one's lease is over.
                let comparing = cluster.snapshot(copy).expect("it runs").groups.remove(0).comparing;
                comparing.iter().all(|one| one.role == "source")
            };
            wait(&self.cluster, "the comparison ends", is_over).await;
        }
        if let Some(victim) = died {
            self.comes_back(victim).await;
        }
        self.judge();
        let results = self.group(copy).compared;
        match results.last().filter(|_| results.len() > before || results.len() == 8) {
            Some(one) if one.result == "equal" => self.equal += 1,
            _ => self.unfinished += 1,
        }
    }

    /// Every extent that is not free belongs to a volume that is shown: the images are gone.
    pub(crate) async fn nothing_is_left(&self) {
        for index in 0..self.count() {
            let since = self.cluster.clock_ms();
            loop {
                let shown = self.cluster.snapshot(index).expect("it runs");
                let of_group = |name: &str| {
                    let here = shown.volumes.iter().filter(|one| one.parity_group.as_deref() == Some(name));
                    here.map(|one| one.allocated_bytes).sum::<u64>()
                };
                let is_free = shown
                    .parity_groups
                    .iter()
                    .all(|group| of_group(&group.name) + group.free_bytes == group.size_bytes);
                let is_idle = shown.groups.iter().all(|group| group.comparing.is_empty());
                if is_free && is_idle {
                    break;
                }
                // The source forgets what it hears nothing of after two minutes.
                assert!(self.cluster.clock_ms() < since + 400_000, "{index}: {shown:?}");
                self.cluster.sleep_ms(500).await;
            }
        }
    }

    pub(crate) async fn equal_at_the_end(&mut self) {
        self.settled().await;
        let data = self.images(ALPHA, "data").await;
        for index in 1..self.count() {
            assert!(self.cluster.visible_copies(index).await == data, "array {index} differs");
        }
    }

    pub(crate) async fn end(&self) {
        for index in 0..self.count() {
            self.cluster.die(index, Death::Kill).await;
        }
    }

    /// Pages that hosts have written in one go, so that they are found on the disks.
    pub(crate) fn pages(&self, image: &[u8]) -> Vec<u64> {
        let is_written = |page: &u64| {
            let at = usize::try_from(*page).unwrap() * PAGE;
            image[at..at + PAGE].chunks(512).all(|sector| sector.iter().any(|byte| *byte != 0))
        };
        (0..PAGES).filter(is_written).collect()
    }

    /// Replaces what the disks of an array hold of a page, behind its back.
    pub(crate) fn plant(&self, index: usize, was: &[u8], now: &[u8]) {
        let mut places = 0;
        for name in ["u0", "u1", "u2"] {
            let disk = self.cluster.disk(index, name);
            for slot in 0..DISK_SLOTS {
                let at = slot * PAGE as u64;
                if disk.peek(at)[..] == *was {
                    disk.poke(at, now.try_into().expect("a page"));
                    places += 1;
                }
            }
        }
        assert!(places > 0, "the page is on no disk of {}", NAMES[index]);
    }
}

pub(crate) fn restored(cluster: &Cluster, index: usize) -> Option<u64> {
    let follows = cluster.snapshot(index)?.groups.first()?.follows.clone()?;
    Some(follows.restored_update_number)
}

pub(crate) fn page(image: &[u8], page: u64) -> &[u8] {
    let at = usize::try_from(page).unwrap() * PAGE;
    &image[at..at + PAGE]
}

/// What is found, page by page.
pub(crate) fn found(ranges: &[DifferentRangeView]) -> Vec<(String, String, u64)> {
    let pages = |range: &DifferentRangeView| {
        let first = range.offset_bytes / PAGE as u64;
        let (pvol, svol) = (range.pvol.clone(), range.svol.clone());
        (first..first + range.length_bytes / PAGE as u64).map(move |page| (pvol.clone(), svol.clone(), page))
    };
    ranges.iter().flat_map(pages).collect()
}

async fn comparisons_in_danger(seed: u64) -> (u32, u32, u32) {
    let tree = if seed.is_multiple_of(3) { Tree::chain(3) } else { Tree::star(2) };
    let mut story = Story::begin(seed, &tree).await;
    for _ in 0..5 {
        let copy = 1 + story.random.index(2);
        story.disturbed(copy, tree.above[copy - 1]).await;
    }
    story.settled().await;
    for copy in [BETA, GAMMA] {
        let one = story.compare(copy, "").await;
        assert_eq!(one.result, "equal", "{one:?}");
        story.equal += 1;
    }
    story.judge();
    story.nothing_is_left().await;
    story.equal_at_the_end().await;
    story.end().await;
    (story.equal, story.unfinished, story.deaths)
}

#[test]
fn nothing_is_found_that_is_not_there_whatever_happens_meanwhile() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 200).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut equal, mut unfinished, mut deaths) = (0, 0, 0);
    for seed in first..first + seeds {
        let told = in_virtual_time(comparisons_in_danger(seed));
        (equal, unfinished, deaths) = (equal + told.0, unfinished + told.1, deaths + told.2);
    }
    eprintln!("{seeds} seeds: {equal} equal, {unfinished} ended before that, {deaths} deaths");
    assert!(u64::from(equal) >= 2 * seeds && unfinished > 0, "{equal} equal, {unfinished} ended before that");
}

/// A flipped bit, an extent that is zeros, two pages in each other's place, on either side.
#[test]
fn what_is_planted_is_found_where_it_is_and_repaired_it_is_equal() {
    for seed in 1..=4 {
        in_virtual_time(async {
            let mut story = Story::begin(seed, &Tree::star(1)).await;
            write(&story.cluster, &mut story.writer, &story.ports, 120).await;
            story.quiet().await;
            let (side, other) = if seed % 2 == 0 { (ALPHA, "copy") } else { (BETA, "primary") };
            let volume = 1 + story.random.index(3);
            let image = story.images(ALPHA, "data").await.remove(volume - 1);
            let whole = story.pages(&image);
            assert!(whole.len() > 3, "only {} pages", whole.len());
            let mut planted = Vec::new();
            match seed {
                1 | 2 => {
                    let one = whole[story.random.index(whole.len())];
                    let mut wrong = page(&image, one).to_vec();
                    wrong[story.random.index(PAGE)] ^= 1 << story.random.below(8);
                    story.plant(side, page(&image, one), &wrong);
                    planted.push(one);
                }
                3 => {
                    let (a, b) = (whole[0], whole[whole.len() - 1]);
                    let marker = vec![0x5a; PAGE];
                    story.plant(side, page(&image, a), &marker);
                    story.plant(side, page(&image, b), page(&image, a));
                    story.plant(side, &marker, page(&image, b));
                    planted.extend([a, b]);
                }
                _ => {
                    let extent = whole[0] / 256;
                    for one in whole.iter().filter(|one| **one / 256 == extent) {
                        story.plant(side, page(&image, *one), &[0; PAGE]);
                        planted.push(*one);
                    }
                }
            }
            let at = if seed == 2 { ALPHA } else { BETA };
            let expected: Vec<_> = planted
                .iter()
                .map(|page| (format!("data{volume}"), format!("copy{volume}"), *page))
                .collect();
            let one = story.compare(at, "").await;
            assert_eq!(found(&one.differences), expected, "seed {seed}: {one:?}");
            assert_eq!(one.different_bytes, (planted.len() * PAGE) as u64);
            assert_eq!(one.repaired_bytes, 0);
            let again = story.compare(at, " --full --repair").await;
            assert_eq!((found(&again.differences), again.repaired_bytes), (expected, 0), "nothing is proven");
            let repaired = story.compare(at, &format!(" --repair --from {other}")).await;
            assert_eq!(repaired.repaired_bytes, repaired.different_bytes, "{repaired:?}");
            story.quiet().await;
            let equal = story.compare(at, " --full").await;
            assert_eq!(equal.result, "equal", "{equal:?}");
            // The array that is started anew has nothing in its cache.
            for index in [ALPHA, BETA] {
                story.cluster.die(index, Death::Kill).await;
                story.comes_back(index).await;
            }
            story.settled().await;
            assert!(story.images(ALPHA, "data").await[volume - 1] == image, "the hosts' data");
            story.equal_at_the_end().await;
            let kept = story.group(BETA).compared;
            assert_eq!(kept.len(), 4, "results outlive a start");
            let audit = story.cluster.command(BETA, "audit list").await.expect("it can be listed");
            assert!(audit.contains("bytes differ"), "{audit}");
            story.nothing_is_left().await;
            story.end().await;
        });
    }
}

/// A copy that puts into the volumes of its source what nobody wanted: it is refused, whichever way it asks.
#[test]
fn a_source_repairs_nothing_that_nobody_wanted_to_be_repaired() {
    #[derive(Debug)]
    struct Meddles(Repair);
    impl Tamper for Meddles {
        fn repair(&self, _: Option<Repair>) -> Option<Repair> {
            Some(self.0)
        }
    }
    for meddling in [Repair::FromCopy, Repair::FromPrimary] {
        in_virtual_time(async {
            let cluster = Tree::star(1).cluster(6, SHAPE);
            cluster.plant(BETA, Arc::new(Meddles(meddling)));
            let mut story = Story::begin_with(6, cluster).await;
            write(&story.cluster, &mut story.writer, &story.ports, 120).await;
            story.quiet().await;
            let image = story.images(ALPHA, "data").await.remove(0);
            let one = story.pages(&image)[0];
            let mut wrong = page(&image, one).to_vec();
            wrong[7] ^= 1;
            story.plant(BETA, page(&image, one), &wrong);
            let last = restored(&story.cluster, BETA);
            let told = story.cluster.command(BETA, "group compare g1 --wait --timeout 300s").await;
            let refused = story.group(BETA).compared.pop().expect("a result");
            assert!(told.is_err(), "{told:?}");
            let reason = refused.reason.clone().unwrap_or_default();
            assert!(refused.result == "failed" && reason.contains("nobody wanted"), "{refused:?}");
            assert_eq!(refused.repaired_bytes, 0, "{refused:?}");
            story.quiet().await;
            assert_eq!(restored(&story.cluster, BETA), last, "nothing was written to anybody's volume");
            assert!(story.images(ALPHA, "data").await[0] == image, "the hosts' data");
            story.end().await;
        });
    }
}

/// What has been read and not been written since is not read again; what a unit has made of it meanwhile is found when everything is
/// read, and who is to blame is known.
#[test]
fn cost_follows_the_change_and_rot_is_found_and_blamed_by_reading_everything() {
    for seed in [1, 2] {
        in_virtual_time(async {
            let mut story = Story::begin(seed, &Tree::star(1)).await;
            write(&story.cluster, &mut story.writer, &story.ports, 150).await;
            story.quiet().await;
            let first = story.compare(BETA, "").await;
            assert!(first.result == "equal" && first.read_bytes == first.compared_bytes, "{first:?}");
            let second = story.compare(BETA, "").await;
            assert_eq!((second.read_bytes, second.source_read_bytes), (0, 0), "{second:?}");
            assert_eq!(second.compared_bytes, first.compared_bytes);
            let dry = story.cluster.command(BETA, "group compare g1 --dry-run").await.expect("it would do");
            assert!(dry.contains("\"to_read_bytes\": 0") || dry.contains("\"to_read_bytes\":0"), "{dry}");
            assert_eq!(story.group(BETA).compared.len(), 2);
            let image = story.images(ALPHA, "data").await.remove(1);
            let one = story.pages(&image)[0];
            let (side, name) = if seed == 1 { (BETA, "copy") } else { (ALPHA, "primary") };
            let mut wrong = page(&image, one).to_vec();
            wrong[100] ^= 4;
            story.plant(side, page(&image, one), &wrong);
            assert_eq!(story.compare(BETA, "").await.result, "equal", "it is not read");
            assert_eq!(story.compare(BETA, " --full").await.result, "different");
            let known = story.compare(BETA, "").await;
            assert!(
                known.result == "different" && known.read_bytes + known.source_read_bytes > 0,
                "{known:?}"
            );
            let full = story.compare(BETA, " --full --repair").await;
            assert_eq!(found(&full.differences), [("data2".to_owned(), "copy2".to_owned(), one)], "{full:?}");
            assert_eq!(full.differences[0].proven_wrong.as_deref(), Some(name));
            assert_eq!(full.repaired_bytes, PAGE as u64);
            story.quiet().await;
            let equal = story.compare(BETA, " --full").await;
            assert_eq!(equal.result, "equal", "{equal:?}");
            story.nothing_is_left().await;
            story.end().await;
        });
    }
}

/// An operator is told what cannot be compared, and a pace is kept.
#[test]
fn what_cannot_be_compared_is_said_and_a_pace_is_kept() {
    in_virtual_time(async {
        let mut story = Story::begin(5, &Tree::star(2)).await;
        story.quiet().await;
        for (index, line, why) in [
            (ALPHA, "group compare g1", "--reader"),
            (ALPHA, "group compare g1 --reader delta", "no pairs"),
            (ALPHA, "group compare g7", "no group"),
            (BETA, "group compare g1 --cancel", "not being compared"),
            (BETA, "group compare g1 --from copy", "--repair"),
        ] {
            let refused = story.cluster.command(index, line).await.expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
        let began = story.cluster.clock_ms();
        let slow = story.compare(BETA, " --full --rate 1MiB").await;
        let took = story.cluster.clock_ms() - began;
        assert!(took >= slow.read_bytes / 1100 && slow.read_bytes >= 3 << 20, "{took} ms for {slow:?}");
        say(&story.cluster, BETA, "group compare g1 --full --rate 64KiB").await;
        let busy = story.cluster.command(BETA, "group compare g1").await.expect_err("one at a time");
        assert!(busy.contains("being compared"), "{busy}");
        wait(&story.cluster, "it is shown on both sides", |cluster| {
            [ALPHA, BETA].iter().all(|index| {
                let group = cluster.snapshot(*index).expect("it runs").groups.remove(0);
                group.comparing.iter().any(|one| one.state == "hashing" && one.update_number.is_some())
            })
        })
        .await;
        say(&story.cluster, ALPHA, "group compare g1 --cancel").await;
        wait(&story.cluster, "it ends", |cluster| {
            cluster.snapshot(BETA).expect("it runs").groups[0].comparing.is_empty()
        })
        .await;
        let last = story.group(BETA).compared.pop().expect("it is kept");
        assert!(
            last.result == "failed" && last.reason.expect("a reason").contains("cancelled at array alpha")
        );
        say(&story.cluster, ALPHA, "group suspend g1 --reader beta").await;
        wait(&story.cluster, "beta is suspended", |cluster| {
            cluster.snapshot(BETA).expect("it runs").pairs.iter().all(|pair| pair.state == "suspended")
        })
        .await;
        let refused = story.cluster.command(BETA, "group compare g1").await.expect_err("suspended");
        assert!(refused.contains("suspended"), "{refused}");
        let gamma = story.compare(ALPHA, " --reader gamma").await;
        assert_eq!(gamma.result, "equal", "{gamma:?}");
        story.nothing_is_left().await;
        story.end().await;
    });
}

/// What a schedule says is done, at a copy by itself, and not more often; and results are sealed one after the other.
#[test]
fn a_schedule_is_kept_and_its_results_are_sealed() {
    in_virtual_time(async {
        let mut story = Story::begin(6, &Tree::star(1)).await;
        story.quiet().await;
        let refused = story.cluster.command(ALPHA, "group compare g1 --every 1h").await.expect_err("no copy");
        assert!(refused.contains("at the copy"), "{refused}");
        say(&story.cluster, BETA, "group compare g1 --every 60s").await;
        for _ in 0..4 {
            story.cluster.sleep_ms(60_000).await;
            write(&story.cluster, &mut story.writer, &story.ports, 8).await;
        }
        say(&story.cluster, BETA, "group compare g1 --every never").await;
        let group = story.group(BETA);
        assert!((3..=5).contains(&group.compared.len()), "{:?}", group.compared);
        assert!(group.compared.iter().all(|one| one.result == "equal"), "{:?}", group.compared);
        story.settled().await;
        let last = story.compare(BETA, "").await;
        assert_eq!(last.result, "equal");
        let last_number = last.update_number;
        wait(&story.cluster, "alpha has heard of it", |cluster| {
            let last = cluster.snapshot(ALPHA).expect("it runs").groups[0].compared.last().cloned();
            last.is_some_and(|one| one.update_number == last_number)
        })
        .await;
        let proofs = [ALPHA, BETA].map(|index| story.cluster.array(index).expect("it runs"));
        let name = "g1".parse().expect("a name");
        let [top, copy] = proofs.map(|array| array.proof(&name).expect("there is a group"));
        assert_eq!(copy.check().expect("it is what was sealed").len(), group.compared.len() + 1);
        assert_eq!(top, copy, "both arrays keep the same");
        let (roots, of) = copy.roots_of("data1").expect("the newest has roots");
        assert_eq!((roots.source, of.number.map(|number| number.0)), (roots.copy, last.update_number));
        story.nothing_is_left().await;
        story.end().await;
    });
}

/// Slots of a disk: more than the configuration gives it.
const DISK_SLOTS: u64 = 24 << 8;
