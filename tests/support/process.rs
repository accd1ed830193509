//! The shipping binary as child processes: arrays with configuration, start, SIGKILL, clean stop, shell commands.

use crate::support::iscsi::{IscsiPort, PortOptions};
use crate::support::proxy::{LinkState, Proxy};
use holdfast::clock::{Clock, SystemClock};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// An array has to serve within this time after a start, whatever happened before.
pub(crate) const SERVES_WITHIN: Duration = Duration::from_secs(10);
/// Name of the only group.
pub(crate) const GROUP: &str = "g1";

/// One array: a directory, a configuration, and a process when it runs.
#[derive(Debug)]
pub(crate) struct Array {
    name: String,
    directory: PathBuf,
    portal: String,
    child: Option<Child>,
    clock: SystemClock,
}

/// What the arrays of a cluster look like.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Volumes of the group.
    pub(crate) volumes: u16,
    /// Size of each.
    pub(crate) volume_bytes: u64,
    /// Size of the journal volume at each array.
    pub(crate) journal_bytes: u64,
    /// Size of each of the three units; `None`: room for everything, parity, and as much again.
    pub(crate) unit_bytes: Option<u64>,
    /// RAID level of the parity group of three units.
    pub(crate) level: &'static str,
    /// Disk engine.
    pub(crate) engine: &'static str,
    /// Lines of the links at the auxiliaries: on which schedule they read and restore.
    pub(crate) schedules: [&'static str; 2],
    /// Hosts wait for the first auxiliary.
    pub(crate) is_synchronous: bool,
    /// And see its volumes as those of the primary.
    pub(crate) is_one_unit: bool,
    /// The auxiliaries have links to each other: what one of them needs to go on from the other.
    pub(crate) is_meshed: bool,
    /// Further lines of the group.
    pub(crate) group: &'static str,
    /// Further lines of each of its journals.
    pub(crate) journal: &'static str,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            volumes: 4,
            volume_bytes: 16 << 20,
            journal_bytes: 64 << 20,
            unit_bytes: None,
            level: "raid5",
            engine: "plain",
            schedules: ["", "restore_interval = \"200ms\"\n"],
            is_synchronous: false,
            is_one_unit: false,
            is_meshed: false,
            group: "",
            journal: "",
        }
    }
}

impl Layout {
    fn unit_bytes(&self) -> u64 {
        let all = self.volume_bytes * u64::from(self.volumes) + self.journal_bytes;
        self.unit_bytes.unwrap_or(all.next_multiple_of(64 << 20) + (64 << 20))
    }
}

/// One primary and two auxiliaries that read it, every link through a proxy of its own in each direction.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// The primary, then the auxiliaries.
    pub(crate) arrays: Vec<Array>,
    /// For each auxiliary the proxies from it to the primary and from the primary to it; of a meshed layout also those from the first
    /// auxiliary to the second, and back.
    pub(crate) links: Vec<[Proxy; 2]>,
    /// What they look like.
    pub(crate) layout: Layout,
    directory: Option<tempfile::TempDir>,
}

impl Cluster {
    /// Writes the configurations; starts nothing.
    pub(crate) async fn new(layout: Layout) -> Self {
        let directory =
            tempfile::Builder::new().prefix("holdfast-").tempdir().expect("a temporary directory");
        let arrays: Vec<Array> = NAMES.iter().map(|name| Array::new(name, directory.path())).collect();
        let mut links = Vec::new();
        for auxiliary in &arrays[1..] {
            let to_primary = Proxy::start(arrays[0].portal.clone()).await.expect("a free port");
            let to_auxiliary = Proxy::start(auxiliary.portal.clone()).await.expect("a free port");
            links.push([to_primary, to_auxiliary]);
        }
        if layout.is_meshed {
            let there = Proxy::start(arrays[2].portal.clone()).await.expect("a free port");
            let back = Proxy::start(arrays[1].portal.clone()).await.expect("a free port");
            links.push([there, back]);
        }
        let cluster = Self { arrays, links, layout, directory: Some(directory) };
        for index in 0..NAMES.len() {
            cluster.arrays[index].write_config(&cluster.config(index));
        }
        cluster
    }

    /// The same with every array started and the initial copy done.
    pub(crate) async fn running(layout: Layout) -> Self {
        let mut cluster = Self::new(layout).await;
        // Side by side: this measures nothing.
        cluster.arrays.iter_mut().for_each(Array::spawn);
        for array in &mut cluster.arrays {
            array.until_it_serves().await;
        }
        cluster.wait_for_normal_pairs(Duration::from_secs(120)).await;
        cluster
    }

    /// The primary.
    pub(crate) fn primary(&mut self) -> &mut Array {
        &mut self.arrays[0]
    }

    /// Changes what the link of an auxiliary (1 or 2) does, in both directions.
    pub(crate) fn set_link(&self, auxiliary: usize, state: LinkState) {
        for proxy in &self.links[auxiliary - 1] {
            proxy.set(state);
        }
    }

    /// Waits until the primary shows every pair as `normal`.
    pub(crate) async fn wait_for_normal_pairs(&self, limit: Duration) {
        let primary = &self.arrays[0];
        let expected = 2 * usize::from(self.layout.volumes);
        primary
            .wait_until("all pairs normal", limit, || {
                let pairs = rows(&primary.shell(&["pair", "list"]).ok()?);
                let normal = pairs.iter().filter(|pair| pair["state"] == "normal").count();
                (normal == expected).then_some(())
            })
            .await;
    }

    /// Waits until the primary has been told that these readers (numbers of arrays) restored all it ever numbered.
    pub(crate) async fn wait_for_readers(&self, readers: &[u64], limit: Duration) {
        let primary = &self.arrays[0];
        primary
            .wait_until("readers caught up", limit, || {
                let group = primary.group()?;
                let newest = group["next_update_number"].as_u64()? - 1;
                let all = group["readers"].as_array()?;
                let caught_up = |number: &u64| {
                    let reader = all.iter().find(|reader| reader["array"] == *number);
                    reader.is_some_and(|reader| reader["restored_update_number"].as_u64() >= Some(newest))
                };
                readers.iter().all(caught_up).then_some(())
            })
            .await;
    }

    /// Waits until an auxiliary that hears nothing new has restored everything that it holds.
    pub(crate) async fn wait_until_drained(&self, auxiliary: usize, limit: Duration) {
        let array = &self.arrays[auxiliary];
        array
            .wait_until("journal restored", limit, || {
                let group = array.group()?;
                let follows = &group["follows"];
                let durable = follows["durable_update_number"].as_u64()?;
                (follows["restored_update_number"].as_u64() >= Some(durable)).then_some(())
            })
            .await;
    }

    fn config(&self, index: usize) -> String {
        let array = &self.arrays[index];
        let mut text = array.config_head(&self.layout);
        let svol_or_pvol = (1..=self.layout.volumes).map(|n| (n, format!("data{n}")));
        for (_, name) in svol_or_pvol.clone() {
            let size = self.layout.volume_bytes;
            let _ = writeln!(
                text,
                "[[provision.volume]]\nname = \"{name}\"\nparity_group = \"pg0\"\nsize = \"{size}B\"\nthin = true\n"
            );
        }
        let _ = writeln!(
            text,
            "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"pg0\"\nsize = \"{}B\"\n",
            self.layout.journal_bytes
        );
        let luns: Vec<String> =
            svol_or_pvol.clone().map(|(n, name)| format!("{{ lun = {n}, volume = \"{name}\" }}")).collect();
        let _ = writeln!(
            text,
            "[[provision.target]]\niqn = \"{}\"\nluns = [{}]\ninitiators = [\"*\"]\n",
            array.target(),
            luns.join(", ")
        );
        match index {
            0 => self.add_primary(&mut text),
            _ => self.add_auxiliary(&mut text, index),
        }
        text
    }

    fn add_auxiliary(&self, text: &mut String, index: usize) {
        let schedule = self.layout.schedules[index - 1];
        self.add_link(text, 0, &self.links[index - 1][0], schedule, index);
        if let Some(between) = self.links.get(NAMES.len() - 1) {
            self.add_link(text, NAMES.len() - index, &between[index - 1], schedule, NAMES.len());
        }
    }

    fn add_primary(&self, text: &mut String) {
        for auxiliary in 1..NAMES.len() {
            self.add_link(text, auxiliary, &self.links[auxiliary - 1][1], "", auxiliary);
        }
        let choice = match self.layout.is_one_unit {
            true => "fence = \"data\"\nfence_wait = \"2s\"\nidentity = \"shared\"",
            false => "svol_access = \"read\"",
        };
        let (group, journal) = (self.layout.group, self.layout.journal);
        let _ = writeln!(text, "[[provision.group]]\nname = \"{GROUP}\"\n{choice}\n{group}");
        let _ = writeln!(text, "[[provision.journal]]\ngroup = \"{GROUP}\"\nvolume = \"jnl\"\n{journal}");
        for name in &NAMES[1..] {
            let copy = if self.layout.is_synchronous && *name == NAMES[1] { "sync" } else { "async" };
            let _ = writeln!(
                text,
                "[[provision.journal]]\ngroup = \"{GROUP}\"\nvolume = \"jnl\"\nat = \"{name}\"\n{journal}"
            );
            for n in 1..=self.layout.volumes {
                let _ = writeln!(
                    text,
                    "[[provision.pair]]\nname = \"data{n}-{name}\"\ngroup = \"{GROUP}\"\npvol = \"data{n}\"\n\
                     svol = \"{name}:data{n}\"\ncopy = \"{copy}\"\n"
                );
            }
        }
    }

    fn add_link(&self, text: &mut String, to: usize, proxy: &Proxy, schedule: &str, secret_of: usize) {
        let (name, number, address) = (NAMES[to], to + 1, proxy.address());
        let _ = writeln!(
            text,
            "[[provision.link]]\nname = \"{name}\"\narray = {number}\nportal = [\"{address}\"]\n\
             secret = \"test-secret-of-link-{secret_of}-of-the-cluster\"\n{schedule}"
        );
    }
}

impl Drop for Cluster {
    /// After a failure everything stays where it is, for whoever looks for the cause.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(directory) = self.directory.take()
        {
            eprintln!("kept for inspection: {}", directory.keep().display());
        }
    }
}

impl Array {
    /// An array called `name` with its files in a directory of its own under `parent`, on a free port.
    pub(crate) fn new(name: &str, parent: &Path) -> Self {
        let directory = parent.join(name);
        std::fs::create_dir_all(&directory).expect("a directory for the array");
        let portal = format!("127.0.0.1:{}", free_port());
        Self { name: name.to_owned(), directory, portal, child: None, clock: SystemClock::new() }
    }

    /// A single array without copies, with the volumes of `layout` and no journal.
    pub(crate) fn alone(parent: &Path, layout: &Layout) -> Self {
        let array = Self::new("solo", parent);
        let mut text = array.config_head(layout);
        let mut luns = Vec::new();
        for n in 1..=layout.volumes {
            let size = layout.volume_bytes;
            let _ = writeln!(
                text,
                "[[provision.volume]]\nname = \"data{n}\"\nparity_group = \"pg0\"\nsize = \"{size}B\"\nthin = true\n"
            );
            luns.push(format!("{{ lun = {n}, volume = \"data{n}\" }}"));
        }
        let (target, luns) = (array.target(), luns.join(", "));
        let _ =
            writeln!(text, "[[provision.target]]\niqn = \"{target}\"\nluns = [{luns}]\ninitiators = [\"*\"]");
        array.write_config(&text);
        array
    }

    /// "host:port" for hosts and arrays.
    pub(crate) fn portal(&self) -> &str {
        &self.portal
    }

    /// Its iSCSI target for hosts.
    pub(crate) fn target(&self) -> String {
        format!("iqn.2026-11.io.holdfast:{}", self.name)
    }

    /// What foreign initiators call one of its LUNs.
    pub(crate) fn url(&self, lun: u16) -> String {
        format!("iscsi://{}/{}/{lun}", self.portal, self.target())
    }

    /// Where its files are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of its `index`-th unit.
    pub(crate) fn unit(&self, index: usize) -> PathBuf {
        self.directory.join(format!("u{index}"))
    }

    /// Path of its configuration.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.directory.join("holdfast.toml")
    }

    /// Replaces its configuration.
    pub(crate) fn write_config(&self, text: &str) {
        std::fs::write(self.config_path(), text).expect("the configuration is written");
    }

    /// The parts of a configuration that every array has, up to its parity group of three units.
    pub(crate) fn config_head(&self, layout: &Layout) -> String {
        let number = NAMES.iter().position(|name| *name == self.name).unwrap_or(8) + 1;
        let (name, directory, portal) = (&self.name, self.directory.display(), &self.portal);
        let (engine, level, size) = (layout.engine, layout.level, layout.unit_bytes());
        let units: Vec<String> = (0..3)
            .map(|index| format!("  {{ path = \"{}\", size = \"{size}B\" }}", self.unit(index).display()))
            .collect();
        let units = units.join(",\n");
        format!(
            "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"{directory}/data\"\n\n\
             [cache]\nmemory = \"64MiB\"\n\n[disk]\nengine = \"{engine}\"\n\n\
             [[portal]]\nlisten = \"{portal}\"\nserves = [\"hosts\", \"arrays\"]\n\n\
             [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"{level}\"\nstripe_unit = \"64KiB\"\n\
             units = [\n{units},\n]\n\n"
        )
    }

    /// Starts it and waits until it serves hosts and its shell answers. Returns how long that took.
    pub(crate) async fn start(&mut self) -> Duration {
        self.start_with(&[]).await
    }

    /// The same with options of `holdfast serve`.
    pub(crate) async fn start_with(&mut self, options: &[&str]) -> Duration {
        self.spawn_with(options);
        self.until_it_serves().await
    }

    /// Waits for one that was spawned. Returns how long that took.
    async fn until_it_serves(&mut self) -> Duration {
        let began = self.clock.now();
        loop {
            let answers = tokio::net::TcpStream::connect(&self.portal).await.is_ok()
                && self.shell(&["array", "show"]).is_ok();
            let took = self.clock.now().since(began);
            if answers {
                return took;
            }
            let exited = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            assert!(exited.is_none(), "{} ended at start with {exited:?}:\n{}", self.name, self.log_tail());
            assert!(took < START_LIMIT, "{} does not serve after {took:?}:\n{}", self.name, self.log_tail());
            self.clock.sleep(POLL).await;
        }
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    fn spawn_with(&mut self, options: &[&str]) {
        assert!(self.child.is_none(), "{} is already running", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log file");
        let child = binary()
            .args(["serve", "--config"])
            .arg(self.config_path())
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGSTOP: the process stands still, and its system goes on taking what is sent to it.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().expect("it runs"));
        rustix::process::kill_process(pid, signal).expect("a process of our own");
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a process of our own");
        child.wait().expect("a process of our own");
    }

    /// SIGTERM, and waits for a clean end.
    pub(crate) async fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = self.wait_for_exit(STOP_LIMIT).await;
        assert!(status.success(), "{} stopped with {status}:\n{}", self.name, self.log_tail());
    }

    /// Waits until the process ends by itself.
    pub(crate) async fn wait_for_exit(&mut self, limit: Duration) -> ExitStatus {
        let began = self.clock.now();
        loop {
            let child = self.child.as_mut().expect("it was started");
            if let Some(status) = child.try_wait().expect("a process of our own") {
                self.child = None;
                return status;
            }
            let took = self.clock.now().since(began);
            assert!(took < limit, "{} still runs after {took:?}:\n{}", self.name, self.log_tail());
            self.clock.sleep(POLL).await;
        }
    }

    /// SIGKILL if it still runs; it may have ended by itself.
    pub(crate) fn end_anyhow(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = (child.kill(), child.wait());
        }
    }

    /// A shell command over the local socket, with `--json`.
    pub(crate) fn shell(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.command(arguments).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
    }

    /// The same, to be run.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = binary();
        command.args(arguments).arg("--json");
        command.env("HOLDFAST_SOCKET", self.directory.join("data/holdfast.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `group show g1`.
    pub(crate) fn group(&self) -> Option<Value> {
        let shown = self.shell(&["group", "show", GROUP]).ok()?;
        rows(&shown).into_iter().next()
    }

    /// Asks again and again until `question` has an answer.
    pub(crate) async fn wait_until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut() -> Option<T>,
    ) -> T {
        let began = self.clock.now();
        loop {
            if let Some(answer) = question() {
                return answer;
            }
            let took = self.clock.now().since(began);
            assert!(
                took < limit,
                "{}: not after {took:?}: {what}\n{:?}\n{}",
                self.name,
                self.group(),
                self.log_tail()
            );
            self.clock.sleep(POLL).await;
        }
    }

    /// Paths of a checked writer to its volumes: `count` sessions, every other one with digests.
    pub(crate) fn ports(&self, count: u16, volumes: u16) -> Vec<IscsiPort> {
        let port = |n| IscsiPort::new(PortOptions::new(&self.portal, &self.target(), n, volumes));
        (0..count).map(port).collect()
    }

    /// The end of what it logged.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("log")
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        self.end_anyhow();
    }
}

/// The binary under test: the one that was built with the tests, or the one that `HOLDFAST_BINARY` names.
pub(crate) fn binary() -> Command {
    match std::env::var_os("HOLDFAST_BINARY") {
        Some(path) => Command::new(path),
        None => Command::new(env!("CARGO_BIN_EXE_holdfast")),
    }
}

/// Runs a tool to its end. A tool that is not installed is a failure, never a skip.
pub(crate) fn run_tool(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: `tests/run` installs it"))
}

/// Runs a tool, demands success and returns what it printed.
pub(crate) fn expect_tool(command: &mut Command) -> String {
    let output = run_tool(command);
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    text
}

/// The rows of a `list` document, whether it is an array, an object that wraps one, or a single object.
pub(crate) fn rows(document: &Value) -> Vec<Value> {
    if let Some(rows) = document.as_array() {
        return rows.clone();
    }
    match document.as_object().map(|object| object.values().collect::<Vec<_>>()).as_deref() {
        Some([Value::Array(rows)]) => rows.clone(),
        Some([Value::Object(row)]) => vec![Value::Object(row.clone())],
        Some(_) => vec![document.clone()],
        None => Vec::new(),
    }
}

/// A port that nobody listens on, and that an array finds free again when it is killed and started anew. It lies below those
/// that the system gives to outgoing connections, one of which would otherwise have it in the moment nobody listens.
pub(crate) fn free_port() -> u16 {
    static NEXT: std::sync::OnceLock<AtomicU16> = std::sync::OnceLock::new();
    // Test processes that run beside each other begin at different ports.
    let spread = PORTS.end - PORTS.start;
    let begin = u16::try_from(std::process::id() % u32::from(spread)).unwrap_or(0);
    let next = NEXT.get_or_init(|| AtomicU16::new(begin));
    for _ in 0..spread {
        let port = PORTS.start + next.fetch_add(1, Ordering::Relaxed) % spread;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port of {PORTS:?} is free");
}

/// Below `ip_local_port_range` (from 32,768), and away from what the tests' foreign targets listen on (from 30,000).
const PORTS: std::ops::Range<u16> = 12_000..29_000;
const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const POLL: Duration = Duration::from_millis(50);
/// Longer than an array may take, so that the figure is reported rather than "timed out".
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LOG_TAIL_BYTES: usize = 4096;
