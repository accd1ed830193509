//! Three arrays with everything they stand on, in one thread: built by seed, killed and started again at will.

mod clocks;
mod sound;

use crate::support::random::Random;
use crate::three::config_text;
use holdfast::array::Array;
use holdfast::array::env::Env;
use holdfast::channel::initiator::Connector;
use holdfast::channel::sim_network::{Link, LinkState, SimNetwork};
use holdfast::clock::{Clock, SeededEntropy, SimClock};
use holdfast::config::Config;
use holdfast::copy::compress::Workbench;
use holdfast::copy::tamper::Tamper;
use holdfast::disk::io::opener::SimOpener;
use holdfast::disk::io::sim::{Latency, SimDisk};
use holdfast::shell::command::{Request, Shell};
use holdfast::shell::view::{Console, PairView, Snapshot};
use holdfast::volume::record::Who;
use holdfast::volume::store::{Backend, SimStorage};
use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The arrays; the first is the primary.
pub(crate) const ARRAYS: [&str; 3] = ["alpha", "beta", "gamma"];
/// All arrays that there can be.
pub(crate) const NAMES: [&str; 17] = [
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu",
    "nu", "xi", "omicron", "pi", "rho",
];
/// The primary's place.
pub(crate) const ALPHA: usize = 0;
/// The machine of the writer, and the one that reads images.
pub(crate) const HOSTS: [&str; 2] = ["host", "reader"];

/// Sizes of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) volumes: u16,
    pub(crate) volume_kib: u64,
    pub(crate) journal_kib: u64,
    /// The journal volumes lie on a unit of their own, so that it can be lost alone.
    pub(crate) is_journal_apart: bool,
    /// So many seconds hosts wait for room that a reader holds, rather than have its pairs suspended.
    pub(crate) throttle_s: u64,
    /// Journal volumes of each array beside the first.
    pub(crate) second: Second,
    /// Memory for journals is so small that readers that fall behind are served from the volume.
    pub(crate) is_cache_small: bool,
}

/// A second journal volume at each array.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Second {
    /// There is none.
    None,
    /// It takes turns with the first one.
    Turn,
    /// It waits in reserve, on the units of the data.
    Reserve,
    /// It waits in reserve on a unit of its own, and the first one is on the units of the data.
    ReserveApart,
    /// One more volume, which is none of the journal's.
    Ordinary,
    /// One seed in three has one that takes turns.
    BySeed,
}

/// Eight volumes that share a small journal.
pub(crate) const EIGHT: Shape = Shape {
    volumes: 8,
    volume_kib: 1024,
    journal_kib: 6144,
    is_journal_apart: false,
    throttle_s: 0,
    second: Second::BySeed,
    is_cache_small: false,
};

/// What the way between two machines does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// It works.
    Up,
    /// Streams are reset, connects refused.
    Cut,
    /// Bytes vanish in both directions: half-open.
    Silent,
    /// Bytes vanish from the first to the second only.
    DeafThere,
    /// Bytes vanish from the second to the first only.
    DeafBack,
    /// It works with a long delay and hardly any bandwidth.
    Slow,
    /// It works, and an answer of ordinary size takes minutes.
    Narrow,
}

/// What a takeover at one moment would find: the copies of an array whose primary is gone for ever.
pub(crate) struct Takeover {
    /// Whose copies.
    pub(crate) array: usize,
    /// When, on the monotonic clock.
    pub(crate) at_ns: u64,
    /// Restored once everything that it had was.
    pub(crate) restored: u64,
    /// What the array had said of itself in that moment: durable and restored number; none if its pairs were not normal.
    pub(crate) said: Option<(u64, u64)>,
    /// What the primary showed in that moment, if it ran.
    pub(crate) shown: Option<ShownLag>,
    /// The copies.
    pub(crate) images: Vec<Vec<u8>>,
    /// They are the image that was kept during a resync.
    pub(crate) has_gone_back: bool,
}

/// A reader's lag as the primary shows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownLag {
    pub(crate) updates: u64,
    pub(crate) seconds: Option<f64>,
}

/// How an array ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Death {
    /// The process: what it wrote stays.
    Kill,
    /// The power: of what was not flushed anything may be there.
    PowerLoss,
}

struct Member {
    config: Config,
    units: SimOpener,
    storage: RefCell<SimStorage>,
    array: RefCell<Option<Arc<Array>>>,
    tamper: RefCell<Option<Arc<dyn Tamper>>>,
    /// It has been started to the end once.
    is_set_up: Cell<bool>,
    /// Time goes as everywhere; its wall clock is its own.
    clock: Arc<SimClock>,
}

/// All of them.
pub(crate) struct Cluster {
    pub(crate) shape: Shape,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) network: SimNetwork,
    entropy: Arc<SeededEntropy>,
    members: Vec<Member>,
    links: Vec<(&'static str, &'static str)>,
    /// Links as they are meant to be while both of their ends live.
    wanted: RefCell<Vec<(String, String, Way)>>,
    delay: Duration,
    /// Arrays that read the primary, with pairs.
    pub(crate) readers: Cell<usize>,
    /// The wall clock was stepped.
    is_stepped: Cell<bool>,
    /// And the primary started again: the times in its journal are all it knows then, and may be wrong.
    is_time_unknown: Cell<bool>,
    events: RefCell<Vec<String>>,
}

impl Cluster {
    /// Nothing runs yet.
    pub(crate) fn new(seed: u64, shape: Shape) -> Self {
        Self::with(seed, shape, config_text)
    }

    /// Nothing runs yet, and nothing is declared: arrays that know their name and their portal.
    pub(crate) fn bare(seed: u64, shape: Shape) -> Self {
        Self::with(seed, shape, |index, _, _| {
            let (name, number) = (NAMES[index], index + 1);
            format!(
                "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"/{name}\"\n[cache]\nmemory = \"96MiB\"\n\
                 [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\", \"arrays\"]\n"
            )
        })
    }

    pub(crate) fn with(
        seed: u64,
        shape: Shape,
        config_text: impl Fn(usize, Shape, &mut Random) -> String,
    ) -> Self {
        let ways = [("alpha", "beta"), ("alpha", "gamma")];
        Self::of(seed, shape, ARRAYS.len(), &ways, config_text)
    }

    /// Nothing runs yet: the first `count` arrays, and ways between them.
    pub(crate) fn of(
        seed: u64,
        shape: Shape,
        count: usize,
        ways: &[(&'static str, &'static str)],
        config_text: impl Fn(usize, Shape, &mut Random) -> String,
    ) -> Self {
        let mut random = Random::new(seed ^ 0x636c_7573);
        let second = match shape.second {
            Second::BySeed if seed.is_multiple_of(3) => Second::Turn,
            Second::BySeed => Second::None,
            other => other,
        };
        let shape = Shape { second, ..shape };
        let clock = Arc::new(SimClock::new(WALL_NS));
        let latency = match random.below(3) {
            0 => Latency::default(),
            1 => Latency { shortest: Duration::ZERO, longest: Duration::from_millis(3) },
            _ => Latency { shortest: Duration::from_millis(1), longest: Duration::from_millis(12) },
        };
        let members = NAMES[..count]
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let text = config_text(index, shape, &mut random);
                let config = Config::parse(Path::new("simulated.toml"), &text);
                Member {
                    config: config.unwrap_or_else(|mistakes| panic!("{name}: {mistakes:?}")),
                    units: SimOpener::new(latency, random.next_u64(), clock.clone()),
                    storage: RefCell::default(),
                    array: RefCell::default(),
                    tamper: RefCell::default(),
                    is_set_up: Cell::default(),
                    clock: Arc::new(SimClock::new(WALL_NS)),
                }
            })
            .collect();
        let cluster = Self {
            shape,
            network: SimNetwork::new(clock.clone()),
            clock,
            entropy: Arc::new(SeededEntropy::new(random.next_u64())),
            members,
            links: ways.to_vec(),
            wanted: RefCell::default(),
            delay: Duration::from_millis([0, 1, 5][random.index(3)]),
            readers: Cell::new(2),
            is_stepped: Cell::default(),
            is_time_unknown: Cell::default(),
            events: RefCell::default(),
        };
        for (a, b) in cluster.ways() {
            cluster.set_way(a, b, Way::Up);
        }
        cluster
    }

    /// How many arrays there are.
    pub(crate) fn count(&self) -> usize {
        self.members.len()
    }

    /// Notes something in the trace.
    pub(crate) fn note(&self, what: impl Into<String>) {
        let at = self.clock.now().0 / 1_000_000;
        let line = format!("{at:>8} ms  {}", what.into());
        if std::env::var_os("HOLDFAST_TRACE").is_some() {
            eprintln!("{line}");
        }
        self.events.borrow_mut().push(line);
    }

    /// What happened.
    pub(crate) fn events(&self) -> Vec<String> {
        self.events.borrow().clone()
    }

    /// Virtual time since the beginning.
    pub(crate) fn clock_ms(&self) -> u64 {
        self.clock.now().0 / 1_000_000
    }

    /// What the arrays say of their groups, for a message.
    pub(crate) fn state(&self) -> String {
        let mut text = String::new();
        for (index, name) in NAMES[..self.members.len()].iter().enumerate() {
            let Some(snapshot) = self.snapshot(index) else { continue };
            writeln!(text, "\n{name}: {:?}\n{:?}", snapshot.groups, snapshot.links).unwrap();
            for journal in &snapshot.journals {
                let (used, of) = (journal.update_information_used_bytes, journal.update_information_bytes);
                let (data, room) = (journal.write_data_used_bytes, journal.write_data_bytes);
                let (volume, use_) = (&journal.volume, &journal.used_as);
                writeln!(text, "{volume} {use_}: {used} of {of}, {data} of {room}").unwrap();
            }
            for pair in &snapshot.pairs {
                write!(text, "{} {} ", pair.name, pair.state).unwrap();
            }
        }
        text
    }

    /// Virtual time passes.
    pub(crate) async fn sleep_ms(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    /// Starts an array on whatever its disks hold.
    pub(crate) async fn start(&self, index: usize) {
        let member = &self.members[index];
        assert!(member.array.borrow().is_none(), "{} runs already", NAMES[index]);
        let storage = member.storage.borrow().clone();
        let env = self.env(index, self.network.clone(), member.units.clone(), storage);
        self.note(format!("start {}", NAMES[index]));
        self.set_machine(index, true);
        let started = Array::start(member.config.clone(), env).await;
        let array = started.unwrap_or_else(|error| panic!("{} does not start: {error:#}", NAMES[index]));
        *member.array.borrow_mut() = Some(array);
        member.is_set_up.set(true);
    }

    fn env(&self, index: usize, network: SimNetwork, units: SimOpener, storage: SimStorage) -> Env {
        Env {
            clock: self.members[index].clock.clone(),
            entropy: self.entropy.clone(),
            network: Arc::new(network.host(NAMES[index])),
            units: Arc::new(units),
            engine: "simulated".into(),
            takes_memory_at_once: false,
            takes_older_store: false,
            store: Backend::Simulated(storage),
            workbench: Workbench::in_place(),
            tamper: self.members[index].tamper.borrow().clone(),
        }
    }

    /// From its next start on the array does this in place of the right thing.
    pub(crate) fn plant(&self, index: usize, tamper: Arc<dyn Tamper>) {
        *self.members[index].tamper.borrow_mut() = Some(tamper);
    }

    /// The control store of an array fails behind so many more writes and syncs, until the array is started again.
    pub(crate) fn fail_store_after(&self, index: usize, writes: u64) {
        self.members[index].storage.borrow().fail_after(writes);
    }

    /// A disk of an array: `u0` and so on, `j0` for that of the journal.
    pub(crate) fn disk(&self, index: usize, name: &str) -> SimDisk {
        self.members[index]
            .units
            .disk(&format!("/{}/{name}", NAMES[index]))
            .expect("a disk of the configuration")
    }

    /// What a takeover of an auxiliary would find if the primary were gone for ever from this moment on, and the
    /// auxiliary ended here as well, as `death` says. It is done on a copy of its disks by an array of its own that no
    /// link leads to; those that run notice nothing. None if the copy is not complete yet, which the array itself says.
    pub(crate) async fn take_over(&self, index: usize, death: Death) -> Option<Takeover> {
        let member = &self.members[index];
        if !member.is_set_up.get() {
            return None;
        }
        let (said, shown, at_ns) = (self.position(index), self.shown_lag(index), self.clock.now().0);
        let units = member.units.fork(self.entropy.next_u64());
        let storage = match death {
            Death::Kill => {
                units.kill(&self.entropy);
                member.storage.borrow().kill()
            }
            Death::PowerLoss => {
                units.crash(&self.entropy);
                member.storage.borrow().crash(self.entropy.next_u64())
            }
        };
        sound::expect_sound(NAMES[index], &units, &storage, self.clock.clone()).await;
        let env = self.env(index, SimNetwork::new(self.clock.clone()), units, storage);
        let started = Array::start(member.config.clone(), env).await;
        let name = NAMES[index];
        let array = started.unwrap_or_else(|error| panic!("{name} does not start alone: {error:#}"));
        let snapshot = array.snapshot();
        let complete = self.all_normal(&snapshot, index);
        assert!(
            complete || said.is_none(),
            "{name} said that its pairs are normal and does not know it after {death:?}"
        );
        // While pairs are suspended or copied again it is for the array to say what there is of one moment, and to go
        // back to it. What it claims is judged like everything else.
        let found = match (complete, snapshot.pairs.len() == usize::from(self.shape.volumes)) {
            (true, _) => Ok(None),
            (false, true) => array.go_back("g1").await.map(Some),
            (false, false) => Err("not set up".to_owned()),
        };
        let Ok(found) = found else {
            array.kill().await;
            return None;
        };
        let mut images = Vec::new();
        for volume in 1..=self.shape.volumes {
            let image = array.read_volume(&format!("copy{volume}")).await;
            images.push(image.unwrap_or_else(|error| panic!("{name} alone: copy{volume}: {error}")));
        }
        let restored = snapshot.groups[0].follows.as_ref().expect("it keeps a copy").restored_update_number;
        array.kill().await;
        let restored = found.map_or(restored, |(number, _)| number);
        let has_gone_back = found.is_some_and(|(_, has_gone_back)| has_gone_back);
        let from = if has_gone_back { " in an image" } else { "" };
        self.note(format!("takeover of {name} after {death:?} finds update {restored}{from}"));
        let shown = shown.filter(|_| complete); // That of pairs that are normal.
        Some(Takeover { array: index, at_ns, restored, said, shown, images, has_gone_back })
    }

    /// What the copies of a running array look like in this moment.
    pub(crate) async fn visible_copies(&self, index: usize) -> Vec<Vec<u8>> {
        let array = self.members[index].array.borrow().clone().expect("it runs");
        let mut images = Vec::new();
        for volume in 1..=self.shape.volumes {
            images.push(array.read_volume(&format!("copy{volume}")).await.expect("it can be read"));
        }
        images
    }

    fn shown_lag(&self, index: usize) -> Option<ShownLag> {
        let snapshot = self.snapshot(ALPHA)?;
        let number = u32::try_from(index + 1).unwrap();
        let reader = snapshot.groups.first()?.readers.iter().find(|reader| reader.array == number)?;
        let seconds = (!self.is_time_unknown.get()).then_some(reader.behind.seconds);
        Some(ShownLag { updates: reader.behind.updates, seconds })
    }

    /// Starts an array and ends it again in the middle of that.
    pub(crate) async fn start_and_die(&self, index: usize, after_ms: u64, death: Death) {
        tokio::select! {
            biased;
            () = self.start(index) => {}
            () = self.sleep_ms(after_ms) => {}
        }
        self.die(index, death).await;
    }

    /// Ends an array where it stands. What is left of it reaches neither network nor disks.
    pub(crate) async fn die(&self, index: usize, death: Death) {
        let member = &self.members[index];
        self.note(format!("{death:?} {}", NAMES[index]));
        let is_stepped = index == ALPHA && self.is_stepped.get();
        self.is_time_unknown.set(self.is_time_unknown.get() || is_stepped);
        self.set_machine(index, false);
        let storage = match death {
            Death::Kill => {
                member.units.kill(&self.entropy);
                member.storage.borrow().kill()
            }
            Death::PowerLoss => {
                member.units.crash(&self.entropy);
                member.storage.borrow().crash(self.entropy.next_u64())
            }
        };
        *member.storage.borrow_mut() = storage.clone();
        let array = member.array.borrow_mut().take();
        if let Some(array) = array {
            array.kill().await;
            sound::expect_sound(NAMES[index], &member.units, &storage, self.clock.clone()).await;
        }
    }

    /// The array, if it runs.
    pub(crate) fn array(&self, index: usize) -> Option<Arc<Array>> {
        self.members[index].array.borrow().clone()
    }

    /// An operator's command at an array; what it prints, or why it fails.
    pub(crate) async fn command(&self, index: usize, line: &str) -> Result<String, String> {
        self.command_of(index, line.split(' ').map(str::to_owned).collect()).await
    }

    /// The same in words that may have blanks in them.
    pub(crate) async fn command_of(&self, index: usize, argv: Vec<String>) -> Result<String, String> {
        let Some(array) = self.members[index].array.borrow().clone() else {
            return Err("it does not run".to_owned());
        };
        let line = argv.join(" ");
        let request = Request { argv, json: true, ..Request::default() };
        let answer =
            Shell::new(array, self.members[index].clock.clone()).run(&request, &Who::Provision).await;
        self.note(format!("{}: {line}: {} {}", NAMES[index], answer.exit, answer.stderr.trim()));
        if answer.exit == 0 { Ok(answer.stdout) } else { Err(answer.stderr) }
    }

    /// Whether the array runs.
    pub(crate) fn runs(&self, index: usize) -> bool {
        self.members[index].array.borrow().is_some()
    }

    /// What the array says of itself.
    pub(crate) fn snapshot(&self, index: usize) -> Option<Snapshot> {
        self.members[index].array.borrow().as_ref().map(|array| array.snapshot())
    }

    /// All pairs of the array are normal.
    pub(crate) fn is_normal(&self, index: usize) -> bool {
        self.snapshot(index).is_some_and(|snapshot| self.all_normal(&snapshot, index))
    }

    fn all_normal(&self, snapshot: &Snapshot, index: usize) -> bool {
        let sets = if index == ALPHA { self.readers.get() } else { 1 };
        let number = u32::try_from(index + 1).unwrap();
        // What it hands on is not what it keeps; an upstream array keeps nothing.
        let all: Vec<&PairView> = snapshot.pairs.iter().collect();
        let kept: Vec<&PairView> =
            all.iter().copied().filter(|pair| pair.auxiliary_array == number).collect();
        let pairs = if index == ALPHA || kept.is_empty() { all } else { kept };
        pairs.len() == usize::from(self.shape.volumes) * sets
            && pairs.iter().all(|pair| pair.state == "normal")
    }

    /// Durable and restored number of an auxiliary whose pairs are all normal.
    pub(crate) fn position(&self, index: usize) -> Option<(u64, u64)> {
        if !self.is_normal(index) {
            return None;
        }
        let snapshot = self.snapshot(index)?;
        let follows = snapshot.groups.first()?.follows.clone()?;
        Some((follows.durable_update_number, follows.restored_update_number))
    }

    /// The newest number that the primary gave.
    pub(crate) fn newest(&self) -> Option<u64> {
        Some(self.snapshot(ALPHA)?.groups.first()?.next_update_number?.saturating_sub(1))
    }

    /// Everything that can be cut: each host to each array, and the primary to each auxiliary.
    pub(crate) fn ways(&self) -> Vec<(&'static str, &'static str)> {
        let arrays = &NAMES[..self.members.len()];
        let hosts = HOSTS.iter().flat_map(|host| arrays.iter().map(move |array| (*host, *array)));
        hosts.chain(self.links.iter().copied()).collect()
    }

    /// Makes a way work, or not.
    pub(crate) fn set_way(&self, a: &str, b: &str, way: Way) {
        let mut wanted = self.wanted.borrow_mut();
        wanted.retain(|(x, y, _)| (x, y) != (&a.to_owned(), &b.to_owned()));
        wanted.push((a.to_owned(), b.to_owned(), way));
        drop(wanted);
        self.use_way(a, b, way);
    }

    fn use_way(&self, a: &str, b: &str, way: Way) {
        let up = Link { delay: self.delay, bytes_per_second: None, state: LinkState::Up };
        let silent = Link { state: LinkState::Silent, ..up };
        let (there, back) = match way {
            Way::Up => (up, up),
            Way::Cut => (Link { state: LinkState::Cut, ..up }, Link { state: LinkState::Cut, ..up }),
            Way::Silent => (silent, silent),
            Way::DeafThere => (silent, up),
            Way::DeafBack => (up, silent),
            Way::Slow => {
                let slow = Link { delay: SLOW_DELAY, bytes_per_second: Some(SLOW_BYTES_PER_SECOND), ..up };
                (slow, slow)
            }
            Way::Narrow => {
                let narrow = Link { bytes_per_second: Some(NARROW_BYTES_PER_SECOND), ..up };
                (narrow, narrow)
            }
        };
        self.network.set_link(a, b, there);
        self.network.set_link(b, a, back);
    }

    /// Makes every way work.
    pub(crate) fn heal(&self) {
        for (a, b) in self.ways() {
            self.set_way(a, b, Way::Up);
        }
    }

    /// A machine that is off neither sends nor hears; one that is on uses its ways as they are.
    fn set_machine(&self, index: usize, is_on: bool) {
        let label = NAMES[index];
        for (a, b, way) in self.wanted.borrow().iter().filter(|(a, b, _)| a == label || b == label) {
            self.use_way(a, b, if is_on { *way } else { Way::Cut });
        }
        self.network.reset_host(label);
    }

    /// What a host on the machine `label` logs in with.
    pub(crate) fn connector(&self, label: &str) -> Connector {
        Connector {
            network: Arc::new(self.network.host(label)),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            initiator_name: format!("iqn.2026-11.io.holdfast:{label}"),
        }
    }
}

/// The wall clocks when a cluster is made.
const WALL_NS: u64 = 1_700_000_000_000_000_000;
/// Delay of a slow way.
const SLOW_DELAY: Duration = Duration::from_millis(300);
/// Bandwidth of a slow way, for each stream.
const NARROW_BYTES_PER_SECOND: u64 = 20 << 10;
const SLOW_BYTES_PER_SECOND: u64 = 200_000;

/// Name of an array's target for hosts.
pub(crate) fn target_name(array: &str) -> String {
    format!("iqn.2026-11.io.holdfast:{array}")
}
