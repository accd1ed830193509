//! Arrays in a tree: each one copies from the one above and hands on to those below (promises T1 and T4). The host
//! writes at the top, arrays anywhere die and come back, links are cut, pairs are suspended at every level by their
//! operators; a takeover of any array at any moment finds one moment of the top over all volumes, and at the end all
//! are equal, byte for byte.

use crate::cluster::{ALPHA, Cluster, Death, EIGHT, NAMES, Second, Shape, Takeover, Way, target_name};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{
    DurableRule, Observed, Plan, Until, Verdict, Writer, check_crash, check_monotone, check_prefix,
    read_image,
};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};

/// Smaller volumes and journals than elsewhere: there are many arrays.
pub(crate) const SMALL: Shape = Shape { volumes: 3, ..EIGHT };

/// Who reads from whom: for each array but the top the one above it.
pub(crate) struct Tree {
    pub(crate) above: Vec<usize>,
    /// Arrays that have links and volumes, and no copies declared.
    pub(crate) later: Vec<usize>,
    /// Arrays that read from another one than the one above, and from which (promise T5).
    pub(crate) other: Vec<(usize, usize)>,
}

impl Tree {
    /// Each reads from the one before.
    pub(crate) fn chain(count: usize) -> Self {
        Self { above: (0..count - 1).collect(), later: Vec::new(), other: Vec::new() }
    }

    /// All read from the top.
    pub(crate) fn star(readers: usize) -> Self {
        Self { above: vec![0; readers], later: Vec::new(), other: Vec::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.above.len() + 1
    }

    pub(crate) fn below(&self, index: usize) -> Vec<usize> {
        (1..self.count()).filter(|child| self.above[child - 1] == index).collect()
    }

    pub(crate) fn links(&self) -> Vec<(&'static str, &'static str)> {
        let tree = (1..self.count()).map(|child| (NAMES[self.above[child - 1]], NAMES[child]));
        tree.chain(self.other.iter().map(|(reader, from)| (NAMES[*from], NAMES[*reader]))).collect()
    }

    pub(crate) fn cluster(&self, seed: u64, shape: Shape) -> Cluster {
        let cluster = Cluster::of(seed, shape, self.count(), &self.links(), |index, shape, random| {
            self.config(index, shape, random)
        });
        let declared = self.below(ALPHA).into_iter().filter(|child| !self.later.contains(child));
        cluster.readers.set(declared.count());
        cluster
    }

    /// Everything from configuration alone.
    pub(crate) fn config(&self, index: usize, shape: Shape, random: &mut Random) -> String {
        let (name, number) = (NAMES[index], index + 1);
        let second_kib = if shape.second == Second::None { 0 } else { shape.journal_kib };
        let data_kib = shape.volume_kib * u64::from(shape.volumes) + shape.journal_kib + second_kib;
        let unit_mib = (data_kib.div_ceil(1024) / 3 + 6).max(16);
        let mut text = format!(
            "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"/{name}\"\n[cache]\nmemory = \"64MiB\"\n\
             [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\", \"arrays\"]\n\
             [[portal]]\nlisten = \"0.0.0.0:3261\"\nserves = [\"hosts\"]\ngroup = 2\n\
             [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"raid0\"\nstripe_unit = \"64KiB\"\nunits = [\n"
        );
        if shape.is_cache_small {
            text = text.replace("memory = \"64MiB\"", "memory = \"64MiB\"\njournal = \"1MiB\"");
        }
        for unit in 0..3 {
            writeln!(text, "  {{ path = \"/{name}/u{unit}\", size = \"{unit_mib}MiB\" }},").unwrap();
        }
        text += "]\n";
        if shape.is_journal_apart {
            writeln!(
                text,
                "[[provision.parity_group]]\nname = \"pg1\"\nlevel = \"raid0\"\nstripe_unit = \"64KiB\"\nunits = [\n  \
                 {{ path = \"/{name}/j0\", size = \"{}KiB\" }},\n]",
                shape.journal_kib + 8192
            )
            .unwrap();
        }
        let prefix = if index == ALPHA { "data" } else { "copy" };
        let mut luns = Vec::new();
        for volume in 1..=shape.volumes {
            writeln!(
                text,
                "[[provision.volume]]\nname = \"{prefix}{volume}\"\nparity_group = \"pg0\"\nsize = \"{}KiB\"\nthin = true",
                shape.volume_kib
            )
            .unwrap();
            luns.push(format!("{{ lun = {volume}, volume = \"{prefix}{volume}\" }}"));
        }
        writeln!(
            text,
            "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"{}\"\nsize = \"{}KiB\"\n\
             [[provision.target]]\niqn = \"{}\"\ninitiators = [\"*\"]\nluns = [{}]",
            if shape.is_journal_apart { "pg1" } else { "pg0" },
            shape.journal_kib,
            target_name(name),
            luns.join(", ")
        )
        .unwrap();
        if shape.second != Second::None {
            let size = shape.journal_kib;
            writeln!(
                text,
                "[[provision.volume]]\nname = \"jnl2\"\nparity_group = \"pg0\"\nsize = \"{size}KiB\""
            )
            .unwrap();
        }
        let others = match shape.second {
            Second::Turn => "reserve = false\nratio = \"1:8\"\n",
            Second::Reserve => "reserve = true\n",
            _ => "",
        };
        let above = index.checked_sub(1).map(|child| self.above[child]);
        let beside = self.other.iter().filter_map(|(reader, from)| match index {
            _ if index == *reader => Some(*from),
            _ if index == *from => Some(*reader),
            _ => None,
        });
        for other in above.into_iter().chain(self.below(index)).chain(beside) {
            writeln!(
                text,
                "[[provision.link]]\nname = \"{0}\"\narray = {1}\nportal = [\"{0}:3260\"]\nsecret = \"a secret of simulations\"",
                NAMES[other],
                other + 1
            )
            .unwrap();
            if Some(other) == above {
                let (read, restore) = (10 + random.below(80), 10 + random.below(80));
                let read = ["immediate".to_owned(), format!("every {read}ms")][random.index(2)].clone();
                let restore = ["immediate".to_owned(), format!("every {restore}ms")][random.index(2)].clone();
                writeln!(text, "read = \"{read}\"\nrestore = \"{restore}\"").unwrap();
            }
        }
        if let (Some((_, from)), Some(above)) =
            (self.other.iter().find(|(reader, _)| *reader == index), above)
        {
            let (link, from) = (NAMES[above], NAMES[*from]);
            writeln!(
                text,
                "[[provision.reader]]\nlink = \"{link}\"\ngroup = \"g1\"\nread = \"every 15ms\"\nsource = \"{from}\""
            )
            .unwrap();
        }
        let below = self.below(index);
        if index != ALPHA && below.is_empty() {
            return text;
        }
        text += "[[provision.group]]\nname = \"g1\"\n";
        match above {
            None => text += "svol_access = \"read\"\n",
            Some(above) => writeln!(text, "source = \"{}\"", NAMES[above]).unwrap(),
        }
        text += "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n";
        if !others.is_empty() && index == ALPHA {
            writeln!(text, "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl2\"\n{others}").unwrap();
        }
        for child in below.into_iter().filter(|child| !self.later.contains(child)) {
            let child = NAMES[child];
            writeln!(text, "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\nat = \"{child}\"")
                .unwrap();
            if !others.is_empty() {
                writeln!(
                    text,
                    "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl2\"\nat = \"{child}\"\n{others}"
                )
                .unwrap();
            }
            for volume in 1..=shape.volumes {
                writeln!(
                    text,
                    "[[provision.pair]]\nname = \"p{volume}-{child}\"\ngroup = \"g1\"\npvol = \"{prefix}{volume}\"\nsvol = \"{child}:copy{volume}\""
                )
                .unwrap();
            }
        }
        text
    }
}

/// A host at the top and trouble everywhere.
struct Run {
    tree: Tree,
    cluster: Cluster,
    random: Random,
    writer: Writer,
    ports: Vec<SimPort>,
    seen: Vec<Option<Verdict>>,
    takeovers: u64,
    /// How often an array was seen to read from another one than the one above.
    elsewhere: Cell<u64>,
}

impl Run {
    fn new(seed: u64, tree: Tree) -> Self {
        let cluster = tree.cluster(seed, SMALL);
        let writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SMALL)));
        let ports =
            (1..=2).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(10)).collect();
        let seen = (0..tree.count()).map(|_| None).collect();
        Self {
            random: Random::new(seed ^ 0x7472_6565),
            tree,
            cluster,
            writer,
            ports,
            seen,
            takeovers: 0,
            elsewhere: Cell::new(0),
        }
    }

    async fn tell(&mut self, rounds: u64) -> u64 {
        let mut order: Vec<usize> = (0..self.tree.count()).collect();
        if self.random.percent(50) {
            order.reverse();
        }
        for index in order {
            self.cluster.start(index).await;
        }
        if self.random.percent(70) {
            self.wait_until("everything is normal at first", |run| run.all_normal()).await;
        }
        for _ in 0..rounds {
            self.round().await;
        }
        self.end().await;
        self.takeovers
    }

    fn all_normal(&self) -> bool {
        (0..self.tree.count()).all(|index| self.cluster.is_normal(index))
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let since = self.cluster.clock_ms();
        while !is_so(self) {
            assert!(self.cluster.clock_ms() < since + PATIENCE_MS, "{what}: {}", self.cluster.state());
            if (self.cluster.clock_ms() - since) % 1_000 < 50 {
                for index in 0..self.tree.count() {
                    // What an operator suspended goes on when the operator says so.
                    let _ = self.cluster.command(index, "group resync g1").await;
                }
            }
            self.cluster.sleep_ms(50).await;
        }
    }

    async fn round(&mut self) {
        let stop = AtomicBool::new(false);
        let is_over = Cell::new(false);
        let mut random = Random::new(self.random.next_u64());
        let primary_dies = self.random.percent(30) && self.cluster.is_normal(ALPHA);
        let until = Until { commands: 300, stop: &stop };
        let (cluster, tree) = (&self.cluster, &self.tree);
        let observer = Random::new(self.random.next_u64());
        let observing = observe(cluster, tree, observer, &is_over, &self.elsewhere);
        let running = self.writer.run(&self.ports, &*cluster.clock, 8, until);
        let trouble = async {
            trouble(cluster, tree, &mut random).await;
            is_over.set(true);
            let was_normal = cluster.is_normal(ALPHA);
            let mut last = Vec::new();
            if primary_dies && was_normal {
                cluster.die(ALPHA, any_death(&mut random)).await;
                for index in 1..tree.count() {
                    last.extend(cluster.take_over(index, any_death(&mut random)).await);
                }
            }
            stop.store(true, Ordering::Relaxed);
            last
        };
        let (summary, looks, last) = tokio::join!(running, observing, trouble);
        assert_eq!(summary.violations, [], "reads while writing");
        let mut looks: Vec<Takeover> = looks.into_iter().chain(last).collect();
        looks.sort_by_key(|look| look.at_ns);
        for look in looks {
            self.judge(&look);
        }
        if !self.cluster.runs(ALPHA) {
            self.cluster.start(ALPHA).await;
            let image = self.top().await;
            let observed = Observed::from_images(self.writer.log(), &image);
            check_crash(self.writer.log(), &observed, DurableRule::Flushed).expect_clean("after the crash");
            self.writer.resume_after_crash(&observed).expect("the volumes are of one moment");
        }
        for index in 1..self.tree.count() {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
    }

    /// What a takeover found is one moment of the top, and not less than the array said that it had.
    fn judge(&mut self, look: &Takeover) {
        let name = NAMES[look.array];
        let log = self.writer.log();
        let verdict = check_prefix(log, &Observed::from_images(log, &look.images));
        verdict.expect_clean(&format!("the copies at {name} at update {}", look.restored));
        if let Some((durable, _)) = look.said {
            assert!(look.restored >= durable, "{name} had update {durable} and finds only {}", look.restored);
        }
        if let Some(before) = &self.seen[look.array] {
            assert_eq!(check_monotone(log.geometry(), before, &verdict), [], "{name} moved backwards");
        }
        // It may hold more than was durable yet, by chance: it binds nobody unless it was said.
        if look.said.is_some_and(|(_, restored)| restored == look.restored) {
            self.seen[look.array] = Some(verdict);
        }
        self.takeovers += 1;
    }

    async fn top(&self) -> Vec<Vec<u8>> {
        self.cluster.set_way("reader", "alpha", Way::Up);
        let port = SimPort::new(&self.cluster, "reader", 9, ALPHA);
        loop {
            if let Ok(image) = read_image(&port, self.writer.log().geometry()).await {
                return image;
            }
            self.cluster.sleep_ms(100).await;
        }
    }

    async fn end(&mut self) {
        self.cluster.note("faults stop");
        self.cluster.heal();
        let never = AtomicBool::new(false);
        while !self.writer.is_settled() {
            let until = Until { commands: 1, stop: &never };
            let running = self.writer.run(&self.ports, &*self.cluster.clock, 8, until);
            tokio::select! {
                biased;
                summary = running => assert_eq!(summary.violations, []),
                () = self.cluster.sleep_ms(PATIENCE_MS) => panic!("hosts cannot finish: {}", self.cluster.state()),
            }
        }
        let caught_up = |run: &Self| {
            let Some(newest) = run.cluster.newest() else { return false };
            run.cluster.is_normal(ALPHA)
                && (1..run.tree.count()).all(|at| run.cluster.position(at) == Some((newest, newest)))
        };
        self.wait_until("everything becomes equal", caught_up).await;
        let top = self.top().await;
        let log = self.writer.log();
        check_crash(log, &Observed::from_images(log, &top), DurableRule::Acknowledged)
            .expect_clean("the top");
        for (index, name) in NAMES.iter().enumerate().take(self.tree.count()).skip(1) {
            assert!(self.cluster.visible_copies(index).await == top, "{name} differs");
        }
    }
}

async fn trouble(cluster: &Cluster, tree: &Tree, random: &mut Random) {
    let links = tree.links();
    for _ in 0..2 + random.below(6) {
        let pause = [3, 30, 300, 1500][random.index(4)];
        cluster.sleep_ms(random.below(pause)).await;
        match random.below(10) {
            0..3 => {
                let (a, b) = links[random.index(links.len())];
                let bad = [Way::Cut, Way::Silent, Way::DeafThere, Way::DeafBack, Way::Slow];
                let way = bad[random.index(bad.len())];
                cluster.note(format!("{way:?} {a}-{b}"));
                cluster.set_way(a, b, way);
            }
            3 => cluster.heal(),
            4..7 => {
                let index = 1 + random.index(tree.count() - 1);
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
            7 if !tree.other.is_empty() => {
                let (reader, from) = tree.other[random.index(tree.other.len())];
                let line = match random.below(4) {
                    0 => "group set g1 --source primary".to_owned(),
                    _ => format!("group set g1 --source {}", NAMES[from]),
                };
                let _ = cluster.command(reader, &line).await; // It may be down.
            }
            _ => {
                let child = 1 + random.index(tree.count() - 1);
                let (name, volume) = (NAMES[child], 1 + random.below(u64::from(cluster.shape.volumes)));
                let line = match random.below(5) {
                    0 => format!("group suspend g1 --reader {name}"),
                    1 => format!("pair suspend p{volume}-{name}"),
                    2 => format!("pair resync p{volume}-{name}"),
                    3 => format!("group resync g1 --reader {name}"),
                    _ => "group resync g1".to_owned(),
                };
                let _ = cluster.command(tree.above[child - 1], &line).await; // It may be down.
            }
        }
    }
    cluster.heal();
}

/// Takes copies over at random moments until it is over, whatever goes on.
async fn observe(
    cluster: &Cluster,
    tree: &Tree,
    mut random: Random,
    is_over: &Cell<bool>,
    elsewhere: &Cell<u64>,
) -> Vec<Takeover> {
    let mut takeovers = Vec::new();
    loop {
        let pause = [10, 60, 300, 900][random.index(4)];
        cluster.sleep_ms(1 + random.below(pause)).await;
        if is_over.get() || takeovers.len() >= 10 {
            return takeovers;
        }
        for (reader, from) in &tree.other {
            let group = cluster.snapshot(*reader).and_then(|snapshot| snapshot.groups.first().cloned());
            let over = group.and_then(|group| group.follows).map(|follows| follows.reads_over);
            elsewhere.set(elsewhere.get() + u64::from(over.as_deref() == Some(NAMES[*from])));
        }
        let index = 1 + random.index(tree.count() - 1);
        takeovers.extend(cluster.take_over(index, any_death(&mut random)).await);
    }
}

fn any_death(random: &mut Random) -> Death {
    if random.percent(40) { Death::Kill } else { Death::PowerLoss }
}

/// Virtual time after which waiting is given up.
const PATIENCE_MS: u64 = 180_000;

fn run(seed: u64, tree: Tree, rounds: u64) -> (u64, u64) {
    in_virtual_time(async {
        let mut run = Run::new(seed, tree);
        let takeovers = run.tell(rounds).await;
        (takeovers, run.elsewhere.get())
    })
}

fn run_seeds(what: &str, divisor: u64, tree: impl Fn() -> Tree, rounds: u64) {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / divisor).max(2);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut takeovers, mut elsewhere) = (0, 0);
    for seed in first..first + seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, tree(), rounds)));
        let (tried, seen) = outcome.unwrap_or_else(|cause| {
            eprintln!("{what}: seed {seed} failed");
            std::panic::resume_unwind(cause)
        });
        takeovers += tried;
        elsewhere += seen;
    }
    println!(
        "{what}: {seeds} seeds, {takeovers} takeovers, {elsewhere} times seen to read from another copy"
    );
    assert!(elsewhere > 0 || tree().other.is_empty(), "no array ever read from another copy");
    assert!(takeovers > 0, "no takeover was tried");
}

#[test]
fn four_arrays_in_a_row_survive_what_the_seeds_do_to_them() {
    run_seeds("four in a row", 25, || Tree::chain(4), 2);
}

#[test]
fn four_readers_of_one_primary_survive_what_the_seeds_do_to_them() {
    run_seeds("four readers", 80, || Tree::star(4), 2);
}

#[test]
fn sixteen_readers_of_one_primary_survive_what_a_seed_does_to_them() {
    assert!(run(1, Tree::star(16), 1).0 > 0, "no takeover was tried");
}

/// Beta and gamma copy alpha, delta copies beta, epsilon copies gamma; gamma reads from beta, and epsilon from delta.
#[test]
fn readers_cascades_and_other_sources_mixed_survive_what_the_seeds_do_to_them() {
    let tree = || Tree { above: vec![0, 0, 1, 2], later: Vec::new(), other: vec![(2, 1), (4, 3)] };
    run_seeds("mixed", 40, tree, 2);
}
