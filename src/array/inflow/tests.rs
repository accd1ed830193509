//! A primary with a journaled group of two volumes and one of one, and two upstream arrays of which a test says what they say.

use super::{ForwardingState, InflowError};
use crate::array::Array;
use crate::array::env::Env;
use crate::channel::sim_network::SimNetwork;
use crate::clock::{Clock, Entropy, SeededEntropy, SimClock};
use crate::config::Config;
use crate::copy::compress::Workbench;
use crate::copy::group::Group;
use crate::disk::io::opener::SimOpener;
use crate::disk::io::sim::Latency;
use crate::disk::slot::Class;
use crate::volume::designation::{Designation, DesignationId};
use crate::volume::name::ArrayNumber;
use crate::volume::pair::PairState;
use crate::volume::record::{Identity, Who};
use crate::volume::store::{Backend, SimStorage};
use holdfast_journal::Kind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The upstream arrays, and the group that each forwards to the volume of the same number.
const UPSTREAM: [u32; 2] = [3, 4];

fn life<T>(work: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

struct Primary {
    array: Arc<Array>,
    clock: Arc<SimClock>,
    entropy: Arc<SeededEntropy>,
}

const CONFIG: &str = r#"
[array]
number = 1
name = "alpha"
data_dir = "/alpha"
[cache]
memory = "96MiB"
[[portal]]
listen = "0.0.0.0:3260"
serves = ["hosts", "arrays"]
[[provision.parity_group]]
name = "pg0"
level = "raid0"
stripe_unit = "64KiB"
units = [ { path = "/alpha/u0", size = "64MiB" } ]
[[provision.volume]]
name = "data1"
parity_group = "pg0"
size = "4MiB"
[[provision.volume]]
name = "data2"
parity_group = "pg0"
size = "4MiB"
[[provision.volume]]
name = "data3"
parity_group = "pg0"
size = "4MiB"
[[provision.volume]]
name = "jnl"
parity_group = "pg0"
size = "12MiB"
[[provision.volume]]
name = "jnl2"
parity_group = "pg0"
size = "12MiB"
[[provision.link]]
name = "beta"
array = 2
portal = ["beta:3260"]
secret = "a secret of simulations"
[[provision.link]]
name = "gamma"
array = 3
portal = ["gamma:3260"]
secret = "a secret of simulations"
[[provision.link]]
name = "delta"
array = 4
portal = ["delta:3260"]
secret = "a secret of simulations"
[[provision.pair]]
name = "p1"
group = "g1"
pvol = "data1"
svol = "beta:copy1"
[[provision.pair]]
name = "p2"
group = "g1"
pvol = "data2"
svol = "beta:copy2"
[[provision.group]]
name = "g1"
[[provision.journal]]
group = "g1"
volume = "jnl"
[[provision.journal]]
group = "g1"
volume = "jnl"
at = "beta"
[[provision.pair]]
name = "p3"
group = "g2"
pvol = "data3"
svol = "beta:copy3"
[[provision.group]]
name = "g2"
[[provision.journal]]
group = "g2"
volume = "jnl2"
[[provision.journal]]
group = "g2"
volume = "jnl2"
at = "beta"
"#;

impl Primary {
    async fn new() -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000_000_000));
        let entropy = Arc::new(SeededEntropy::new(7));
        // Slow units: every statement waits for the journal.
        let latency = Latency { shortest: Duration::from_millis(5), longest: Duration::from_millis(9) };
        let env = Env {
            clock: clock.clone(),
            entropy: entropy.clone(),
            network: Arc::new(SimNetwork::new(clock.clone()).host("alpha")),
            units: Arc::new(SimOpener::new(latency, 5, clock.clone())),
            engine: "simulated".into(),
            takes_memory_at_once: false,
            takes_older_store: false,
            store: Backend::Simulated(SimStorage::default()),
            workbench: Workbench::in_place(),
            tamper: None,
        };
        let config = Config::parse(Path::new("simulated.toml"), CONFIG).unwrap();
        let array = Array::start(config, env).await.unwrap();
        let primary = Self { array, clock, entropy };
        primary.pass(500).await;
        primary
    }

    async fn pass(&self, ms: u64) {
        self.clock.sleep(Duration::from_millis(ms)).await;
    }

    async fn tell(&self, from: u32, designation: &str) {
        let designation: Designation = serde_json::from_str(designation).unwrap();
        let who = Who::Peer { array: ArrayNumber(from), from: "there".into() };
        let id = DesignationId(Identity(self.entropy.identity()));
        self.array.store.designate(id, &designation, &who).unwrap();
        self.array.wake();
        self.pass(100).await;
    }

    async fn group(&self, from: u32, name: &str) {
        let settings =
            serde_json::to_string(&self.array.store.tables().groups.iter().next().expect("a group").settings);
        let generations = r#"[{"counter":1,"array":1,"first":1}]"#;
        let group = format!(
            r#"{{"remote_group":{{"name":"{name}","number":1,"settings":{},"generations":{generations}}}}}"#,
            settings.unwrap()
        );
        self.tell(from, &group).await;
    }

    /// The group `name` of an upstream array forwards to `data<volume>`.
    async fn pair(&self, from: u32, name: &str, volume: u32) {
        self.tell(
            from,
            &format!(
                r#"{{"remote_pair":{{"name":"{name}-{volume}","group":"{name}","pvol":1,"pvol_name":"org{volume}",
                "svol":"data{volume}","size_bytes":4194304,"block_size_bytes":512,"copy":"sync"}}}}"#
            ),
        )
        .await;
    }

    fn volume(&self, number: u32) -> u32 {
        let name = format!("data{number}").parse().unwrap();
        self.array.store.read(|tables| tables.volume_named(&name).unwrap().number.0)
    }

    fn state(&self, pair: &str) -> PairState {
        let name = pair.parse().unwrap();
        self.array.store.read(|tables| tables.pair_named(&name).unwrap().state)
    }

    fn g1(&self) -> Arc<Group> {
        self.array.runtime().groups.values().next().expect("g1 is open").clone()
    }

    fn says(&self, group: &str, connection: u32, copying: bool, volumes: &[u32]) -> ForwardingState {
        let volumes: Vec<u32> = volumes.iter().map(|volume| self.volume(*volume)).collect();
        let whole = if copying { volumes.clone() } else { Vec::new() };
        ForwardingState { group: group.into(), incarnation: 1, connection, copying, volumes, whole }
    }
}

/// Defect 3: *in step* of an old connection was being recorded while a new one opened and said that differences come. Its end
/// ended the *broken* of the new one, so that readers passed on what was no image.
#[test]
fn a_late_in_step_of_an_old_connection_does_not_end_the_copy_of_a_new_one() {
    life(async {
        let primary = Primary::new().await;
        let [up, _] = UPSTREAM;
        primary.group(up, "up3").await;
        primary.pair(up, "up3", 1).await;
        let say = |said| {
            let array = primary.array.clone();
            async move { array.forwarding_state(up, &said).await }
        };
        say(primary.says("up3", 1, true, &[1])).await.unwrap();
        assert_eq!(primary.state("up3-1"), PairState::BeingCopied);
        let (old, new) =
            tokio::join!(say(primary.says("up3", 1, false, &[1])), say(primary.says("up3", 2, true, &[1])));
        old.unwrap();
        new.unwrap();
        assert!(primary.g1().is_broken());
        assert_eq!(primary.state("up3-1"), PairState::BeingCopied, "differences come over connection 2");
        let late = say(primary.says("up3", 1, false, &[1])).await;
        assert!(matches!(late, Err(InflowError::Misnamed(_))), "{late:?}");
        say(primary.says("up3", 2, false, &[1])).await.unwrap();
        assert!(!primary.g1().is_broken());
        primary.array.kill().await;
    });
}

/// Defect 3: two upstream groups that ended their copies together each took the other one for the last.
#[test]
fn of_two_upstream_groups_that_end_their_copies_together_one_says_whole() {
    life(async {
        let primary = Primary::new().await;
        let [a, b] = UPSTREAM;
        // The first one waits for the journal of g2 after it has looked at g1.
        for (up, name, volumes) in [(a, "up3", &[1, 3][..]), (b, "up4", &[2])] {
            primary.group(up, name).await;
            for volume in volumes {
                primary.pair(up, name, *volume).await;
            }
            primary.array.forwarding_state(up, &primary.says(name, 1, true, volumes)).await.unwrap();
        }
        assert!(primary.g1().is_broken());
        let (first, second) = (primary.says("up3", 1, false, &[1, 3]), primary.says("up4", 1, false, &[2]));
        let ended = tokio::join!(
            primary.array.forwarding_state(a, &first),
            primary.array.forwarding_state(b, &second)
        );
        assert!(ended.0.is_ok() && ended.1.is_ok());
        assert!(!primary.g1().is_broken(), "nobody said whole: no reader would ever go on");
        primary.array.kill().await;
    });
}

/// Defect 8: all pairs of a group were judged, not those that were named. A pair that was made while the link was cut had
/// every pair copied completely, or became normal though nothing of it had come.
#[test]
fn a_statement_changes_the_pairs_that_it_names_and_no_other() {
    life(async {
        let primary = Primary::new().await;
        let [up, _] = UPSTREAM;
        primary.group(up, "up3").await;
        primary.pair(up, "up3", 1).await;
        let array = &primary.array;
        array.forwarding_state(up, &primary.says("up3", 1, true, &[1])).await.unwrap();
        array.forwarding_state(up, &primary.says("up3", 1, false, &[1])).await.unwrap();
        assert_eq!(primary.state("up3-1"), PairState::Normal);
        // The upstream array does not know yet that its second pair was accepted.
        primary.pair(up, "up3", 2).await;
        array.forwarding_state(up, &primary.says("up3", 2, false, &[1])).await.unwrap();
        let mut differences = primary.says("up3", 3, true, &[1]);
        differences.whole.clear();
        array.forwarding_state(up, &differences).await.unwrap();
        assert_eq!(primary.state("up3-2"), PairState::NotYetCopied);
        array.forwarding_state(up, &primary.says("up3", 3, false, &[1])).await.unwrap();
        assert_eq!(
            (primary.state("up3-1"), primary.state("up3-2")),
            (PairState::Normal, PairState::NotYetCopied)
        );
        assert!(primary.g1().is_broken(), "one of its volumes is still to come");
        // Of a new pair all has to come.
        let mut both = primary.says("up3", 4, true, &[1, 2]);
        both.whole = vec![primary.volume(1)];
        let lacking = array.forwarding_state(up, &both).await;
        assert!(matches!(lacking, Err(InflowError::NotInStep)), "{lacking:?}");
        both.whole = vec![primary.volume(2)];
        array.forwarding_state(up, &both).await.unwrap();
        array.forwarding_state(up, &primary.says("up3", 4, false, &[1, 2])).await.unwrap();
        assert_eq!(primary.state("up3-2"), PairState::Normal);
        assert!(!primary.g1().is_broken());
        array.kill().await;
    });
}

/// A pair that goes in the middle of its copy: nobody would ever say *whole*, and readers would stay where they are.
#[test]
fn a_pair_that_goes_while_it_is_copied_leaves_no_broken_stretch_behind() {
    life(async {
        let primary = Primary::new().await;
        let [up, _] = UPSTREAM;
        primary.group(up, "up3").await;
        primary.pair(up, "up3", 1).await;
        primary.array.forwarding_state(up, &primary.says("up3", 1, true, &[1])).await.unwrap();
        let next = primary.g1().lock().next;
        assert!(primary.g1().is_broken());
        primary.tell(up, r#"{"remote_delete_pair":{"pair":"up3-1"}}"#).await;
        primary.pass(3000).await;
        assert!(!primary.g1().is_broken());
        let written = primary.g1().load_information(next, Class::Restore).await.unwrap();
        assert_eq!(written[0].kind, Kind::Whole);
        let name = "up3-1".parse().unwrap();
        assert!(primary.array.store.read(|tables| tables.pair_named(&name).is_none()));
        primary.array.kill().await;
    });
}
