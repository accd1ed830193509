//! What hosts of a synchronous pair get while their array does not reach its copy (promise K1): with each fence, behind a link that is cut and one that
//! swallows everything, how long one write takes against the group's limit and what it is answered; and behind a SIGKILL of the
//! first meanwhile. What was answered is there, at each array, when they are together again.

use crate::rounds::{
    CATCH_UP, SESSIONS, copied_so_far, expect_equal_copies, start_in_time, wait_a_random_time, write_some,
    write_while,
};
use crate::support::iscsi::{IscsiPort, PortOptions};
use crate::support::process::{Array, Cluster, Layout};
use crate::support::proxy::LinkState;
use crate::support::random::Random;
use crate::support::wof::{
    Durability, DurableRule, Geometry, HostError, HostPort, Observed, Place, Plan, Writer, check_crash,
    read_image,
};
use holdfast::clock::{Clock, SystemClock};
use std::time::Duration;

/// Those of the checked writer; one more is for single writes.
const VOLUMES: u16 = 2;
const VOLUME_BYTES: u64 = 8 << 20;
/// How long a host's write waits, at most.
const LIMIT: Duration = Duration::from_secs(2);
/// What machines and timers may add to it.
const SLACK: Duration = Duration::from_millis(1_500);
/// What is decided is answered without waiting.
const AT_ONCE: Duration = Duration::from_millis(1_000);
/// NOT READY, manual intervention required.
const NOT_READY: HostError = HostError::Refused { key: 2, code: 0x0403 };

/// One host write after the other to a block of its own, each with another byte.
struct Single {
    tried: u8,
    answered: u8,
}

impl Single {
    async fn port(array: &Array) -> IscsiPort {
        let options = PortOptions::new(array.portal(), &array.target(), 8, 1);
        let port = IscsiPort::new(PortOptions { luns: vec![VOLUMES + 1], ..options });
        port.capacity(VOLUMES + 1).await.expect("it can be asked, whatever becomes of writes");
        port
    }

    /// How long it takes, and what comes.
    async fn write(&mut self, array: &Array) -> (Duration, Result<(), HostError>) {
        let port = Self::port(array).await;
        let clock = SystemClock::new();
        self.tried += 1;
        let (data, since) = (vec![self.tried; 512].into(), clock.now());
        let result = port.write(PLACE, data, Durability::Fua).await;
        if result.is_ok() {
            self.answered = self.tried;
        }
        (clock.now().since(since), result)
    }

    /// What was answered is there; what was refused may be.
    async fn is_there(&self, array: &Array) {
        let found = Self::port(array).await.read(PLACE).await.expect("hosts read it")[0];
        assert!((self.answered..=self.tried).contains(&found), "{found}: {}..={}", self.answered, self.tried);
    }
}

const PLACE: Place = Place { volume: 0, lba: 0, sectors: 1 };

struct Pair {
    fence: &'static str,
    cluster: Cluster,
    writer: Writer,
    single: Single,
    /// What was copied at first; nothing is copied again.
    copied: Vec<u64>,
}

impl Pair {
    async fn together(fence: &'static str, lines: &'static str) -> Self {
        let layout = Layout {
            volumes: VOLUMES + 1,
            volume_bytes: VOLUME_BYTES,
            is_synchronous: true,
            group: lines,
            ..Layout::default()
        };
        let cluster = Cluster::running(layout).await;
        let geometry = Geometry::new(u32::from(VOLUMES), VOLUME_BYTES / 512);
        let geometry = Geometry { sectors_per_block: 1, ..geometry };
        let writer = Writer::new(111, Plan::mixed(111, geometry));
        let (single, copied) = (Single { tried: 0, answered: 0 }, copied_so_far(&cluster));
        let pair = Self { fence, cluster, writer, single, copied };
        pair.until_synchronised().await;
        pair
    }

    fn standing(&self, array: usize) -> Option<String> {
        let group = self.cluster.arrays[array].group()?;
        group["synchronous"]["state"].as_str().map(str::to_owned)
    }

    async fn until(&self, array: usize, state: &str) {
        self.cluster.arrays[array]
            .wait_until(state, CATCH_UP, || (self.standing(array).as_deref() == Some(state)).then_some(()))
            .await;
    }

    async fn until_synchronised(&self) {
        self.until(0, "synchronised").await;
        self.until(1, "synchronised").await;
    }

    async fn peace(&mut self) {
        let ports = self.cluster.arrays[0].ports(SESSIONS, VOLUMES);
        write_some(&mut self.writer, &ports, 60).await;
        let (took, result) = self.single.write(&self.cluster.arrays[0]).await;
        assert_eq!(result, Ok(()));
        eprintln!("{}, together: {took:?}", self.fence);
        assert!(took < AT_ONCE, "{took:?}");
    }

    /// One write that nobody confirms, within the limit and not at once if it is the first; then another one, at once.
    async fn one_waits(&mut self, what: &str) {
        let (took, result) = self.single.write(&self.cluster.arrays[0]).await;
        eprintln!("{}, {what}: {took:?}, {result:?}", self.fence);
        let expected = if self.fence == "never" { Ok(()) } else { Err(NOT_READY) };
        assert_eq!(result, expected, "{what}");
        assert!(took < LIMIT + SLACK, "{what}: {took:?}");
        if result.is_ok() {
            let shown = self.standing(1);
            assert!(shown.as_deref() != Some("synchronised"), "hosts are answered alone: {shown:?}");
        }
        let (took, result) = self.single.write(&self.cluster.arrays[0]).await;
        eprintln!("{}, {what}, the next one: {took:?}", self.fence);
        assert_eq!(result, expected, "{what}, the next one");
        assert!(took < AT_ONCE, "{what}: what is decided needs no waiting: {took:?}");
        self.until(0, if self.fence == "never" { "apart" } else { "refused" }).await;
    }

    /// Many writes, of which none is answered unless the fence lets them go on alone.
    async fn many_try(&mut self) {
        let ports = self.cluster.arrays[0].ports(SESSIONS, VOLUMES);
        let summary = write_while(&mut self.writer, &ports, async {
            wait_a_random_time(&mut Random::new(5), 600).await;
        })
        .await;
        if self.fence == "never" {
            assert!(summary.acknowledged > 0 && summary.refusals.is_empty(), "{summary:?}");
        } else {
            assert_eq!(summary.acknowledged, 0, "{summary:?}");
            let others = summary.refusals.keys().filter(|refusal| **refusal != (2, 0x0403));
            assert_eq!(others.count(), 0, "{:?}", summary.refusals);
        }
    }

    async fn found(&self, array: usize) -> Observed {
        let port = self.cluster.arrays[array].ports(1, VOLUMES).remove(0);
        let image = read_image(&port, self.writer.log().geometry()).await.expect("hosts read it");
        Observed::from_images(self.writer.log(), &image)
    }

    /// What hosts were answered is at the array.
    async fn keeps_its_promises(&self, array: usize) {
        let found = self.found(array).await;
        check_crash(self.writer.log(), &found, DurableRule::Acknowledged).expect_clean("what was answered");
        self.single.is_there(&self.cluster.arrays[array]).await;
    }

    /// The first is killed and started. What was answered while two had it is there; what it answered alone, if it was flushed.
    async fn first_is_killed(&mut self, answered_alone: bool) {
        self.cluster.arrays[0].kill();
        start_in_time(&mut self.cluster, 0).await;
        if answered_alone {
            let found = self.found(0).await;
            let resumed = self.writer.resume_after_loss(&found);
            resumed.unwrap_or_else(|verdict| panic!("what was flushed: {verdict}"));
            self.single.is_there(&self.cluster.arrays[0]).await;
        } else {
            self.keeps_its_promises(0).await;
        }
    }

    async fn together_again(&mut self) {
        self.cluster.set_link(1, LinkState::Up);
        self.until_synchronised().await;
        self.peace().await;
        self.writer.flush(&self.cluster.arrays[0].ports(1, VOLUMES), &SystemClock::new()).await;
        expect_equal_copies(&self.cluster, &self.writer, &self.copied).await;
        for array in 0..3 {
            self.keeps_its_promises(array).await;
        }
    }
}

/// A link that is cut and one that swallows everything; a first that is killed before anything is decided, and one that is killed behind it.
async fn story(fence: &'static str, lines: &'static str) -> Pair {
    let mut pair = Pair::together(fence, lines).await;
    for (link, dies_first) in [(LinkState::Cut, false), (LinkState::HalfOpen, true)] {
        pair.peace().await;
        pair.cluster.set_link(1, link);
        if dies_first {
            // It finds that its hosts waited, and nobody has been answered alone.
            pair.first_is_killed(false).await;
        }
        pair.one_waits(&format!("{link:?}, killed first: {dies_first}")).await;
        pair.many_try().await;
        if !dies_first {
            pair.first_is_killed(fence == "never").await;
            pair.one_waits(&format!("{link:?}, behind a restart")).await;
        }
        pair.together_again().await;
    }
    pair
}

/// Somebody takes over at the second while the first lives and refuses its hosts: nothing that any host was answered is missing there.
async fn a_takeover_loses_nothing(mut pair: Pair) {
    pair.peace().await;
    pair.cluster.set_link(1, LinkState::Cut);
    pair.many_try_and_wait().await;
    let beta = &pair.cluster.arrays[1];
    beta.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
    pair.keeps_its_promises(1).await;
    let (_, result) = pair.single.write(&pair.cluster.arrays[0]).await;
    assert_eq!(result, Err(NOT_READY), "the first goes on refusing");
}

impl Pair {
    /// Hosts write into the cut: the first of them wait for the limit.
    async fn many_try_and_wait(&mut self) {
        let ports = self.cluster.arrays[0].ports(SESSIONS, VOLUMES);
        let first = &self.cluster.arrays[0];
        let refuses = || (first.group()?["synchronous"]["state"] == "refused").then_some(());
        let decided = first.wait_until("it refuses its hosts", LIMIT + SLACK, refuses);
        let summary = write_while(&mut self.writer, &ports, decided).await;
        assert!(summary.refusals.keys().all(|refusal| *refusal == (2, 0x0403)), "{summary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fence_never_hosts_wait_once_and_go_on_alone() {
    story("never", "fence = \"never\"\nfence_wait = \"2s\"\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fence_data_hosts_are_refused_and_nothing_is_answered_alone() {
    let pair = story("data", "fence = \"data\"\nfence_wait = \"2s\"\n").await;
    a_takeover_loses_nothing(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fence_status_a_second_that_cannot_be_told_is_waited_for() {
    let pair = story("status", "fence = \"status\"\nfence_wait = \"2s\"\n").await;
    a_takeover_loses_nothing(pair).await;
}
