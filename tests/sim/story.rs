//! One seed: load, faults, deaths, checks, and the comparison when the faults have stopped.

use crate::clones::{Cloned, digest_of, make_clones};
use crate::cluster::{ALPHA, ARRAYS, Cluster, Death, Shape, ShownLag, Takeover, Way};
use crate::port::{SimPort, scribble};
use crate::support::random::Random;
use crate::support::wof::{
    DurableRule, Geometry, Log, Observed, Plan, SECTOR_BYTES, Until, Verdict, Violation, Writer, check_crash,
    check_monotone, check_prefix, lost_writes, read_image,
};
use holdfast::clock::Clock;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a seed came to: the same for every run of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Result {
    pub(crate) events: Vec<String>,
    pub(crate) images_crc32c: u32,
    pub(crate) acknowledged: u64,
    pub(crate) captures: u64,
    pub(crate) takeovers: u64,
    pub(crate) deaths: u64,
    /// Most acknowledged writes that one of the takeovers would have lost, of pairs that were normal.
    pub(crate) most_lost: u64,
    /// Takeovers that found the image kept during a resync.
    pub(crate) gone_back: u64,
    /// Clones that were images.
    pub(crate) clones: u64,
    /// Times that something was found as of a number of which there had been something before, and it was the same.
    pub(crate) equal_numbers: u64,
}

/// An image of all copies of an array.
struct Look {
    array: usize,
    /// When.
    at_ns: u64,
    /// The update it is as of.
    number: u64,
    images: Vec<Vec<u8>>,
    what: What,
}

/// How it was found.
enum What {
    /// Hosts read the copies.
    Read,
    /// An operator made a clone.
    Clone,
    /// It is what a takeover finds.
    Takeover(TakeoverFacts),
}

/// What was said in the moment of a takeover.
struct TakeoverFacts {
    said: Option<(u64, u64)>,
    shown: Option<ShownLag>,
    has_gone_back: bool,
}

impl From<Takeover> for Look {
    fn from(takeover: Takeover) -> Self {
        let Takeover { array, at_ns, restored, said, shown, images, has_gone_back } = takeover;
        let facts = TakeoverFacts { said, shown, has_gone_back };
        Self { array, at_ns, number: restored, images, what: What::Takeover(facts) }
    }
}

impl From<Cloned> for Look {
    fn from(Cloned { array, at_ns, number, images }: Cloned) -> Self {
        Self { array, at_ns, number, images, what: What::Clone }
    }
}

/// Images with what was found in them, so that the next ones are read only where they differ.
pub(crate) type Known = (Vec<Vec<u8>>, Observed);

/// The volumes as the checked writer sees them.
pub(crate) fn geometry_of(shape: Shape) -> Geometry {
    let sectors = (shape.volume_kib << 10) / u64::try_from(SECTOR_BYTES).unwrap();
    Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(shape.volumes), sectors) }
}

pub(crate) struct Story {
    cluster: Cluster,
    random: Random,
    /// None: no clones are made.
    clone_random: Option<Random>,
    writer: Writer,
    ports: Vec<SimPort>,
    queue_depth: usize,
    known: Option<Known>,
    /// The last verdict on each copy: it must not move backwards.
    seen: [Option<Verdict>; 3],
    /// Copies below this number may hold what the primary's crash has undone and the host has not repeated yet.
    comparable_from: u64,
    /// What was found as of each number, and where.
    at_number: BTreeMap<u64, (usize, u32)>,
    captures: u64,
    clones: u64,
    equal_numbers: u64,
    takeovers: u64,
    most_lost: u64,
    gone_back: u64,
    deaths: u64,
    acknowledged: u64,
    /// The volumes at the end.
    pub(crate) last_image: Vec<Vec<u8>>,
}

impl Story {
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        let cluster = Cluster::new(seed, shape);
        if seed % 4 == 1 {
            // A lag is the primary's to measure, whatever the clocks of the others say (promise O5).
            cluster.skew_wall(1, SKEW_S);
            cluster.skew_wall(2, -SKEW_S);
        }
        let geometry = geometry_of(shape);
        let mut random = Random::new(seed ^ 0x73_746f_7279);
        // At depth 1 overwrites alone are the sharpest instrument, at the other depths the mix is.
        let queue_depth = [1, 8, 32][usize::try_from(seed % 3).unwrap()];
        let hot_only = queue_depth == 1 && random.percent(50);
        let plan = if hot_only { Plan::hot_only(seed, geometry) } else { Plan::mixed(seed, geometry) };
        let writer = Writer::new(seed, plan);
        let lasting_ms = u64::try_from(queue_depth).unwrap() * 3;
        let think_ms = [0, lasting_ms / 2, lasting_ms, lasting_ms * 2, lasting_ms * 4][random.index(5)];
        let ports = (1..=4)
            .map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(think_ms))
            .collect();
        Self {
            random,
            clone_random: Some(Random::new(seed ^ 0x63_6c6f_6e65)),
            cluster,
            writer,
            ports,
            queue_depth,
            known: None,
            seen: Default::default(),
            comparable_from: 0,
            at_number: BTreeMap::new(),
            captures: 0,
            clones: 0,
            equal_numbers: 0,
            takeovers: 0,
            most_lost: 0,
            gone_back: 0,
            deaths: 0,
            acknowledged: 0,
            last_image: Vec::new(),
        }
    }

    /// The same story as before there were clones in it.
    pub(crate) fn without_clones(self) -> Self {
        Self { clone_random: None, ..self }
    }

    /// What the host did.
    pub(crate) fn log(&self) -> &Log {
        self.writer.log()
    }

    /// Everything, in order.
    pub(crate) async fn tell(&mut self) -> Result {
        let mut order = vec![0, 1, 2];
        order.swap(0, self.random.index(3));
        if self.random.percent(40) {
            order = vec![ALPHA]; // The others come when there is something to copy.
        }
        for index in order {
            self.cluster.start(index).await;
        }
        for _ in 0..2 + self.random.below(3) {
            self.round().await;
        }
        self.end().await
    }

    /// The host writes while things go wrong; sometimes the primary dies at the end.
    async fn round(&mut self) {
        let stop = AtomicBool::new(false);
        let dies = self.random.percent(60);
        let mut random = Random::new(self.random.next_u64());
        let until = Until { commands: 700, stop: &stop };
        let is_over = Cell::new(false);
        let observing = observe(&self.cluster, Random::new(self.random.next_u64()), &is_over);
        let cloning = make_clones(&self.cluster, self.clone_random.as_mut(), &is_over);
        let running = self.writer.run(&self.ports, &*self.cluster.clock, self.queue_depth, until);
        let trouble = async {
            let captures = trouble(&self.cluster, &mut random).await;
            is_over.set(true);
            let was_normal = self.cluster.is_normal(ALPHA);
            let mut last_looks = Vec::new();
            if dies {
                let death = any_death(&mut random);
                if random.percent(25) {
                    // Two at once.
                    let other = 1 + random.index(2);
                    self.cluster.die(other, any_death(&mut random)).await;
                }
                self.cluster.die(ALPHA, death).await;
                // The moment that copies are for.
                for index in 1..ARRAYS.len() {
                    last_looks.extend(self.cluster.take_over(index, any_death(&mut random)).await);
                }
            }
            stop.store(true, Ordering::Relaxed);
            (captures, last_looks, was_normal)
        };
        let (summary, looks, clones, (captures, last_looks, was_normal)) =
            tokio::join!(running, observing, cloning, trouble);
        assert_eq!(summary.violations, [], "reads while writing");
        self.acknowledged += summary.acknowledged;
        self.cluster.note(format!("{} commands, {} retries", summary.acknowledged, summary.retries));
        let mut looks: Vec<Look> =
            looks.into_iter().chain(last_looks).map(Look::from).chain(captures).collect();
        looks.extend(clones.into_iter().map(Look::from));
        looks.sort_by_key(|look| look.at_ns);
        for look in looks {
            self.check_copy(look);
        }
        if dies {
            self.deaths += 1;
            let pause = [0, 50, 3_000][self.random.index(3)];
            self.cluster.sleep_ms(self.random.below(pause)).await;
            self.recover(was_normal).await;
        }
        self.start_missing().await;
    }

    async fn start_missing(&self) {
        for index in 1..ARRAYS.len() {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
    }

    /// The primary comes back; what must have survived has.
    async fn recover(&mut self, was_normal: bool) {
        while self.random.percent(30) {
            let (after_ms, death) = (self.random.below(40), any_death(&mut self.random));
            self.cluster.start_and_die(ALPHA, after_ms, death).await;
        }
        self.cluster.start(ALPHA).await;
        let image = self.image_of(ALPHA).await;
        let observed = Observed::from_images(self.writer.log(), &image);
        check_crash(self.writer.log(), &observed, DurableRule::Flushed)
            .expect_clean("after the primary's crash");
        if was_normal {
            self.writer.resume_after_crash(&observed).unwrap_or_else(|verdict| {
                panic!("the primary's volumes are not of one moment after its crash: {verdict}")
            });
            return;
        }
        // Writes that no pair needed were promised only once they were flushed.
        self.writer.resume_after_loss(&observed).unwrap_or_else(|verdict| panic!("after a crash: {verdict}"));
        self.cluster.heal();
        self.start_missing().await; // A reader that is away for long holds the journal, and with it the hosts.
        self.settle_writer().await;
        self.writer.flush(&self.ports, &*self.cluster.clock).await;
        self.comparable_from = self.cluster.newest().expect("the primary runs");
        self.seen = Default::default();
        self.at_number.clear();
    }

    /// Until every command that was sent has been acknowledged.
    async fn settle_writer(&mut self) {
        let never = AtomicBool::new(false);
        let since = self.cluster.clock_ms();
        loop {
            let until = Until { commands: 1, stop: &never };
            let running = self.writer.run(&self.ports, &*self.cluster.clock, self.queue_depth, until);
            let summary = tokio::select! {
                biased;
                summary = running => summary,
                () = self.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts cannot finish: {}", self.cluster.state()),
            };
            assert_eq!(summary.violations, [], "reads while finishing");
            self.acknowledged += summary.acknowledged;
            if self.writer.is_settled() {
                return;
            }
            assert!(self.cluster.clock_ms() < since + PATIENCE_MS, "hosts cannot finish");
        }
    }

    fn check_copy(&mut self, capture: Look) {
        let name = ARRAYS[capture.array];
        if capture.number < self.comparable_from {
            return;
        }
        let log = self.writer.log();
        let observed = Observed::from_changed_images(log, &capture.images, self.known.as_ref());
        let verdict = check_prefix(log, &observed);
        for violation in verdict.violations.iter().take(4) {
            if let Violation::Damaged { volume, lba, .. } = violation {
                let image = &capture.images[usize::try_from(*volume).unwrap()];
                eprintln!("volume {volume} sector {lba} at {name}: {}", stamp_of(image, *lba));
            }
        }
        verdict.expect_clean(&format!("the copies at {name} at update {}", capture.number));
        let (digest, before_len) = (digest_of(&capture.images), self.at_number.len());
        let (elsewhere, known) = *self.at_number.entry(capture.number).or_insert((capture.array, digest));
        assert_eq!(
            digest, known,
            "update {} is one thing at {name} and another at {}",
            capture.number, ARRAYS[elsewhere]
        );
        self.equal_numbers += u64::from(self.at_number.len() == before_len);
        if let (Some(before), false) = (&self.seen[capture.array], matches!(capture.what, What::Clone)) {
            assert_eq!(check_monotone(log.geometry(), before, &verdict), [], "{name} moved backwards");
        }
        match &capture.what {
            // It was made some time before it was looked at.
            What::Clone => self.clones += 1,
            // What a takeover finds may hold more than was durable yet, by chance; it binds nobody.
            What::Takeover(facts) => {
                let lost = expect_honest(log, &capture, facts, &verdict);
                if facts.said.is_some() {
                    self.most_lost = self.most_lost.max(lost);
                }
                self.gone_back += u64::from(facts.has_gone_back);
                self.takeovers += 1;
            }
            What::Read => {
                self.seen[capture.array] = Some(verdict);
                self.captures += 1;
            }
        }
        self.known = Some((capture.images, observed));
    }

    /// Faults stop; everything becomes equal without an operator.
    async fn end(&mut self) -> Result {
        self.cluster.note("faults stop");
        self.cluster.heal();
        self.settle_writer().await;
        let since = self.cluster.clock_ms();
        while !self.is_caught_up() {
            assert!(
                self.cluster.clock_ms() < since + PATIENCE_MS,
                "the copies do not become equal: {}",
                self.cluster.state()
            );
            if (self.cluster.clock_ms() - since).is_multiple_of(1_000) {
                // What the operator suspended goes on only when the operator says so.
                self.cluster.command(ALPHA, "group resync g1").await.unwrap();
            }
            self.cluster.sleep_ms(50).await;
        }
        let newest = self.cluster.newest();
        self.cluster.note(format!("equal at update {newest:?}"));
        let primary = self.image_of(ALPHA).await;
        let log = self.writer.log();
        check_crash(log, &Observed::from_images(log, &primary), DurableRule::Acknowledged)
            .expect_clean("the primary at the end");
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            let copy = self.image_of(index).await;
            for (volume, (ours, theirs)) in primary.iter().zip(&copy).enumerate() {
                let sectors = ours.chunks(SECTOR_BYTES).zip(theirs.chunks(SECTOR_BYTES));
                let differ: Vec<usize> =
                    sectors.enumerate().filter(|(_, (a, b))| a != b).map(|(lba, _)| lba).collect();
                for &lba in differ.iter().take(4) {
                    let lba = u64::try_from(lba).unwrap();
                    eprintln!("sector {lba}: {} here, {} there", stamp_of(ours, lba), stamp_of(theirs, lba));
                }
                assert!(differ.is_empty(), "volume {volume} at {} differs in sectors {differ:?}", name);
            }
        }
        assert_eq!(self.cluster.newest(), newest, "the comparison was at one number");
        let images_crc32c = digest_of(&primary);
        self.last_image = primary;
        Result {
            events: self.cluster.events(),
            images_crc32c,
            acknowledged: self.acknowledged,
            captures: self.captures,
            takeovers: self.takeovers,
            most_lost: self.most_lost,
            gone_back: self.gone_back,
            clones: self.clones,
            equal_numbers: self.equal_numbers,
            deaths: self.deaths,
        }
    }

    fn is_caught_up(&self) -> bool {
        let Some(newest) = self.cluster.newest() else { return false };
        self.cluster.is_normal(ALPHA)
            && (1..ARRAYS.len()).all(|index| self.cluster.position(index) == Some((newest, newest)))
    }

    async fn image_of(&self, index: usize) -> Vec<Vec<u8>> {
        let way = [("reader", ARRAYS[index])];
        way.iter().for_each(|(a, b)| self.cluster.set_way(a, b, Way::Up));
        let port = SimPort::new(&self.cluster, "reader", 9, index);
        let since = self.cluster.clock_ms();
        loop {
            match read_image(&port, self.writer.log().geometry()).await {
                Ok(image) => return image,
                Err(error) => assert!(
                    self.cluster.clock_ms() < since + PATIENCE_MS,
                    "{} cannot be read: {error:?}: {}",
                    ARRAYS[index],
                    self.cluster.state()
                ),
            }
            self.cluster.sleep_ms(100).await;
        }
    }
}

/// Some seconds in which things go wrong; the images of copies that were read meanwhile.
async fn trouble(cluster: &Cluster, random: &mut Random) -> Vec<Look> {
    let mut captures = Vec::new();
    for _ in 0..1 + random.below(6) {
        let pause = [3, 30, 300, 1500][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(12) {
            10.. => operate(cluster, random).await,
            0..3 => {
                let ways = cluster.ways();
                let (a, b) = ways[random.index(ways.len())];
                let bad = [Way::Cut, Way::Silent, Way::DeafThere, Way::DeafBack, Way::Slow];
                let way = bad[random.index(bad.len())];
                cluster.note(format!("{way:?} {a}-{b}"));
                cluster.set_way(a, b, way);
            }
            3 if random.percent(50) => cluster.heal(),
            3 => flap(cluster, random).await,
            4 => {
                let by_s = i64::try_from(random.below(7_200)).unwrap() - 3_600;
                cluster.step_wall(by_s);
            }
            5..7 => {
                let index = 1 + random.index(2);
                if cluster.runs(index) {
                    cluster.die(index, any_death(random)).await;
                    cluster.sleep_ms(random.below(400)).await;
                }
                if random.percent(20) {
                    let (after_ms, death) = (random.below(40), any_death(random));
                    cluster.start_and_die(index, after_ms, death).await;
                }
                cluster.start(index).await;
            }
            _ => captures.extend(capture(cluster, 1 + random.index(2)).await),
        }
    }
    cluster.heal();
    captures
}

/// The operator suspends pairs or lets them go on.
async fn operate(cluster: &Cluster, random: &mut Random) {
    let reader = ARRAYS[1 + random.index(2)];
    let volume = 1 + random.below(u64::from(cluster.shape.volumes));
    if random.percent(15) {
        // Hosts write the copies meanwhile; nothing of it may be left in the end.
        let line = format!("group suspend g1 --reader {reader} --svol-write");
        let _ = cluster.command(ALPHA, &line).await;
        cluster.sleep_ms(random.below(600)).await;
        let array = ARRAYS.iter().position(|name| *name == reader).unwrap();
        if cluster.runs(array) {
            scribble(cluster, array, random, 4).await;
        }
        return;
    }
    let line = match random.below(6) {
        0 => format!("group suspend g1 --reader {reader}"),
        1 => "group suspend g1".to_owned(),
        2 => format!("pair suspend p{volume}-{reader}"),
        3 => format!("pair resync p{volume}-{reader}"),
        4 => format!("group resume g1 --reader {reader}"),
        _ => "group resync g1".to_owned(),
    };
    let _ = cluster.command(ALPHA, &line).await; // It may be down.
}

/// Reads all copies of an auxiliary at one number: its link is cut, so nothing new arrives. `None` if its pairs are not
/// normal, or it moved meanwhile.
async fn capture(cluster: &Cluster, array: usize) -> Option<Look> {
    cluster.position(array)?;
    cluster.set_way("alpha", ARRAYS[array], Way::Cut);
    cluster.set_way("reader", ARRAYS[array], Way::Up);
    let mut steps = 0;
    let before = loop {
        cluster.sleep_ms(20).await;
        let now = cluster.position(array)?;
        if now.0 == now.1 {
            break now;
        }
        steps += 1;
        assert!(steps < 3_000, "{} does not restore what it has: {now:?}", ARRAYS[array]);
    };
    let at_ns = cluster.clock.now().0;
    let port = SimPort::new(cluster, "reader", 9, array);
    let images = read_image(&port, geometry_of(cluster.shape)).await;
    let after = cluster.position(array)?;
    cluster.set_way("alpha", ARRAYS[array], Way::Up);
    let images = images.unwrap_or_else(|error| panic!("{} cannot be read: {error:?}", ARRAYS[array]));
    cluster.note(format!("image of {} at {before:?}, then {after:?}", ARRAYS[array]));
    (before == after).then_some(Look { array, at_ns, number: before.1, images, what: What::Read })
}

/// A link between arrays that comes and goes.
async fn flap(cluster: &Cluster, random: &mut Random) {
    let other = ARRAYS[1 + random.index(2)];
    cluster.note(format!("alpha-{other} flaps"));
    for _ in 0..2 + random.below(8) {
        cluster.set_way("alpha", other, if random.percent(70) { Way::Cut } else { Way::Silent });
        cluster.sleep_ms(random.below(60)).await;
        cluster.set_way("alpha", other, Way::Up);
        cluster.sleep_ms(random.below(250)).await;
    }
}

/// Takes copies over at random moments until it is over, whatever goes on.
async fn observe(cluster: &Cluster, mut random: Random, is_over: &Cell<bool>) -> Vec<Takeover> {
    let mut takeovers = Vec::new();
    loop {
        let pause = [10, 60, 300, 900][random.index(4)];
        cluster.sleep_ms(1 + random.below(pause)).await;
        if is_over.get() || takeovers.len() >= TAKEOVERS_A_ROUND {
            return takeovers;
        }
        takeovers.extend(cluster.take_over(1 + random.index(2), any_death(&mut random)).await);
    }
}

/// Nothing that was shown in the moment of a takeover was better than what it found (I5), and nothing that the array
/// had durably is gone (I11). How many acknowledged writes it lacks.
fn expect_honest(log: &Log, look: &Look, facts: &TakeoverFacts, verdict: &Verdict) -> u64 {
    let name = ARRAYS[look.array];
    if let Some((durable, _)) = facts.said {
        assert!(look.number >= durable, "{name} had update {durable} and finds only {}", look.number);
    }
    let lost: Vec<_> = lost_writes(log, verdict)
        .into_iter()
        .filter_map(|id| log.entry(id))
        .filter(|entry| entry.acked_ns < look.at_ns)
        .collect();
    let count = u64::try_from(lost.len()).unwrap();
    if let Some(shown) = facts.shown {
        assert!(
            count <= shown.updates,
            "{name} at update {} lacks {lost:?}, and the lag shown is {shown:?}",
            look.number
        );
        let oldest_ns = lost.iter().map(|entry| entry.acked_ns).min().unwrap_or(look.at_ns);
        let truth = std::time::Duration::from_nanos(look.at_ns - oldest_ns).as_secs_f64();
        assert!(
            shown.seconds.is_none_or(|shown| truth <= shown),
            "{name} is {truth} s behind, and the lag shown is {shown:?}"
        );
    }
    count
}

/// What a sector says of itself, for a message.
fn stamp_of(image: &[u8], lba: u64) -> String {
    let at = usize::try_from(lba).unwrap() * SECTOR_BYTES;
    let sector = &image[at..at + SECTOR_BYTES];
    let word = |at: usize| u64::from_le_bytes(sector[at..at + 8].try_into().unwrap());
    let half = |at: usize| u16::from_le_bytes(sector[at..at + 2].try_into().unwrap());
    format!("write {} of volume {} sector {} ({} of {})", word(16), half(24), word(32), half(28), half(30))
}

fn any_death(random: &mut Random) -> Death {
    if random.percent(40) { Death::Kill } else { Death::PowerLoss }
}

/// Takeovers of one round at most.
const TAKEOVERS_A_ROUND: usize = 8;
/// How far the wall clocks of the two copies are from the primary's, one before it and one behind.
const SKEW_S: i64 = 3_600;
/// Virtual time after which waiting is given up.
const PATIENCE_MS: u64 = 120_000;
