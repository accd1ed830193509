//! Three arrays on real processes, and a load that does not stop: the primary and one of its readers change places by command,
//! one of the two readers is killed with SIGKILL in the middle of it, and both of the others go on from the new primary.

use crate::rounds::{CATCH_UP, SESSIONS, start_in_time, write_some, write_while, writer_for};
use crate::support::iscsi::IscsiPort;
use crate::support::process::{Array, Cluster, Layout, rows};
use crate::support::random::{Random, seed_from_environment};
use crate::support::wof::{DurableRule, Observed, Writer, check_crash, read_image};
use holdfast::clock::{Clock, SystemClock};
use std::time::Duration;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];
const BETA: usize = 1;
const GAMMA: usize = 2;

/// Beta and gamma need a link to each other: one of them will read the other.
fn link(cluster: &Cluster) {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "a secret of two readers\n").expect("it is written");
    let file = secret.path().to_str().expect("a name");
    for (at, to) in [(BETA, GAMMA), (GAMMA, BETA)] {
        let (number, portal) = ((to + 1).to_string(), cluster.arrays[to].portal());
        let line =
            ["link", "create", NAMES[to], "--array", &number, "--portal", portal, "--secret-file", file];
        cluster.arrays[at].shell(&line).expect("a link");
    }
}

fn are_normal(array: &Array, count: usize) -> bool {
    let pairs = array.shell(&["pair", "list"]).map(|pairs| rows(&pairs)).unwrap_or_default();
    pairs.len() == count && pairs.iter().all(|pair| pair["state"] == "normal")
}

/// The newest number at the primary, if all arrays have the roles that they shall have and everything.
pub(crate) fn is_settled(cluster: &Cluster, primary: usize) -> Option<()> {
    let group = cluster.arrays[primary].group()?;
    if group["role"] != "primary" || !group["reversal"].is_null() {
        return None;
    }
    let newest = group["next_update_number"].as_u64()? - 1;
    let volumes = usize::from(cluster.layout.volumes);
    let all_follow = (0..3).filter(|index| *index != primary).all(|index| {
        let Some(group) = cluster.arrays[index].group() else { return false };
        let follows = &group["follows"];
        group["role"] == "auxiliary"
            && group["reversal"].is_null()
            && follows["reads_over"] == NAMES[primary]
            && follows["restored_update_number"].as_u64() == Some(newest)
            && are_normal(&cluster.arrays[index], volumes)
    });
    (all_follow && are_normal(&cluster.arrays[primary], 2 * volumes)).then_some(())
}

pub(crate) async fn expect_equal(cluster: &Cluster, writer: &Writer, primary: usize) {
    let at = &cluster.arrays[primary];
    at.wait_until("all have everything", CATCH_UP, || is_settled(cluster, primary)).await;
    let mut images = Vec::new();
    for array in &cluster.arrays {
        let port = array.ports(1, cluster.layout.volumes).remove(0);
        images.push(read_image(&port, writer.log().geometry()).await.expect("hosts may read it"));
    }
    let observed = Observed::from_images(writer.log(), &images[primary]);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the new primary");
    assert!(images.iter().all(|image| *image == images[primary]), "a copy differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_arrays_change_places_under_load_although_one_of_them_is_killed_on_the_way() {
    let layout = Layout { volumes: 2, volume_bytes: 4 << 20, level: "raid0", ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    link(&cluster);
    let mut random = Random::new(seed_from_environment(67));
    let mut writer = writer_for(&cluster, seed_from_environment(67));
    let clock = SystemClock::new();
    // The one that becomes the primary is killed, then the one that has to read it from then on.
    for (from, to, killed) in [(0, BETA, BETA), (BETA, GAMMA, 0)] {
        let ports: Vec<IscsiPort> = cluster.arrays[from].ports(SESSIONS, cluster.layout.volumes);
        write_while(&mut writer, &ports, async {
            clock.sleep(Duration::from_millis(100 + random.below(200))).await;
            let at = &cluster.arrays[from];
            at.wait_until("it can be turned round", CATCH_UP, || {
                let said = at.shell(&["group", "reverse", "g1", "--to", NAMES[to], "--yes"]);
                said.ok().map(|_| ())
            })
            .await;
            clock.sleep(Duration::from_millis(random.below(80))).await;
            cluster.arrays[killed].kill();
        })
        .await;
        let primaries = cluster
            .arrays
            .iter()
            .filter_map(Array::group)
            .filter(|group| group["role"] == "primary" && group["reversal"].is_null());
        assert!(primaries.count() <= 1, "never do two let hosts write");
        start_in_time(&mut cluster, killed).await;
        let at = &cluster.arrays[to];
        at.wait_until("everybody goes on", CATCH_UP, || is_settled(&cluster, to)).await;
        let ports = cluster.arrays[to].ports(SESSIONS, cluster.layout.volumes);
        write_some(&mut writer, &ports, 150).await;
        expect_equal(&cluster, &writer, to).await;
    }
}
