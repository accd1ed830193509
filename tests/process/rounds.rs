//! What the kill tests have in common: a round of checked writing that is broken off, and the comparison at the end.

use crate::support::process::{Cluster, Layout, SERVES_WITHIN};
use crate::support::random::Random;
use crate::support::wof::{
    Geometry, HostPort, Observed, Plan, SECTOR_BYTES, Summary, Until, Writer, check_prefix, read_image,
};
use holdfast::clock::{Clock, SystemClock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Commands in flight.
pub(crate) const QUEUE_DEPTH: usize = 24;
/// What a round writes at most. Two rounds fit into the journals of [`roomy`].
const ROUND_COMMANDS: u64 = 5_000;
/// Sessions of the writer.
pub(crate) const SESSIONS: u16 = 4;
/// How long copies may take to become equal.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(60);

/// A cluster whose journals hold more than a round writes: what is measured is recovery, and a full journal would hold the
/// hosts back, so that a round would take as long as they have patience.
pub(crate) fn roomy() -> Layout {
    Layout { journal_bytes: 384 << 20, ..Layout::default() }
}

/// A writer whose volumes are those of the cluster.
pub(crate) fn writer_for(cluster: &Cluster, seed: u64) -> Writer {
    let sector_bytes = u64::try_from(SECTOR_BYTES).expect("512");
    let sectors = cluster.layout.volume_bytes / sector_bytes;
    let geometry =
        Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(cluster.layout.volumes), sectors) };
    Writer::new(seed, Plan::mixed(seed, geometry))
}

/// Writes until `break_off` returns, or as much as a round may write; it is told nothing and breaks whatever it likes on its way.
pub(crate) async fn write_while<P: HostPort>(
    writer: &mut Writer,
    ports: &[P],
    break_off: impl Future<Output = ()>,
) -> Summary {
    let clock = SystemClock::new();
    let stop = AtomicBool::new(false);
    let running = writer.run(ports, &clock, QUEUE_DEPTH, Until { commands: ROUND_COMMANDS, stop: &stop });
    let (summary, ()) = tokio::join!(running, async {
        break_off.await;
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(summary.violations, [], "reads while writing");
    summary
}

/// Writes this many commands in peace; what earlier rounds left open goes first.
pub(crate) async fn write_some<P: HostPort>(writer: &mut Writer, ports: &[P], commands: u64) -> Summary {
    let clock = SystemClock::new();
    let stop = AtomicBool::new(false);
    let summary = writer.run(ports, &clock, QUEUE_DEPTH, Until { commands, stop: &stop }).await;
    assert_eq!(summary.violations, [], "reads while writing");
    summary
}

/// A random moment.
pub(crate) async fn wait_a_random_time(random: &mut Random, at_most_ms: u64) {
    SystemClock::new().sleep(Duration::from_millis(50 + random.below(at_most_ms))).await;
}

/// Starts an array again and demands that it serves in time.
pub(crate) async fn start_in_time(cluster: &mut Cluster, array: usize) {
    let took = cluster.arrays[array].start().await;
    eprintln!("served after {took:?}");
    assert!(took <= SERVES_WITHIN, "serves only after {took:?}");
}

/// Once the hosts are quiet every copy becomes equal to the primary, and its pairs never left `normal`.
pub(crate) async fn expect_equal_copies(cluster: &Cluster, writer: &Writer, full_copies_from: &[u64]) {
    cluster.wait_for_readers(&[2, 3], CATCH_UP).await;
    let geometry = writer.log().geometry();
    let volumes = cluster.layout.volumes;
    let mut images = Vec::new();
    for array in &cluster.arrays {
        let port = array.ports(1, volumes).remove(0);
        images.push(
            read_image(&port, geometry).await.unwrap_or_else(|error| panic!("{}: {error:?}", array.portal())),
        );
    }
    check_prefix(writer.log(), &Observed::from_images(writer.log(), &images[0])).expect_clean("the primary");
    for (auxiliary, image) in images.iter().enumerate().skip(1) {
        assert!(
            *image == images[0],
            "copy {auxiliary} differs from the primary: {}",
            first_difference(image, &images[0])
        );
    }
    assert_eq!(copied_so_far(cluster), full_copies_from, "no pair was copied again");
}

/// What tells a full copy from a resumption: the first update number of the newest generation does not, and pair states
/// may be too quick to be seen, but every block of an initial copy takes an update number. So: the state of all pairs is
/// `normal`, and the copy completion addresses are whole.
pub(crate) fn copied_so_far(cluster: &Cluster) -> Vec<u64> {
    let pairs = crate::support::process::rows(
        &cluster.arrays[0].shell(&["pair", "list"]).expect("the primary answers"),
    );
    pairs
        .iter()
        .map(|pair| {
            assert_eq!(pair["state"], "normal", "{pair}");
            pair["copy_completion_bytes"].as_u64().expect("a number")
        })
        .collect()
}

fn first_difference(a: &[Vec<u8>], b: &[Vec<u8>]) -> String {
    for (volume, (a, b)) in a.iter().zip(b).enumerate() {
        let sectors = a.chunks_exact(SECTOR_BYTES).zip(b.chunks_exact(SECTOR_BYTES));
        if let Some(lba) = sectors.into_iter().position(|(a, b)| a != b) {
            return format!("volume {volume}, sector {lba}");
        }
    }
    "in length".into()
}
