//! Two arrays change places by command, on real processes, and either is killed in the middle of it: nothing that was
//! answered is lost, nothing is copied, and never do both let hosts write.

use crate::rounds::{CATCH_UP, SESSIONS, start_in_time, write_some, writer_for};
use crate::support::process::{Array, Cluster, Layout, rows};
use crate::support::random::seed_from_environment;
use crate::support::wof::{DurableRule, Observed, Writer, check_crash, read_image};

/// Role of the array for the group, if no reversal is on its way there.
fn role(array: &Array) -> Option<String> {
    let group = array.group()?;
    group["reversal"].is_null().then(|| group["role"].as_str().map(str::to_owned)).flatten()
}

fn are_normal(array: &Array) -> bool {
    let pairs = array.shell(&["pair", "list"]).map(|pairs| rows(&pairs)).unwrap_or_default();
    !pairs.is_empty() && pairs.iter().all(|pair| pair["state"] == "normal")
}

async fn until_turned(cluster: &Cluster, primary: usize) {
    let (new, old) = (&cluster.arrays[primary], &cluster.arrays[1 - primary]);
    new.wait_until("the other array is the primary", CATCH_UP, || {
        let is_turned = role(new).as_deref() == Some("primary") && role(old).as_deref() == Some("auxiliary");
        (is_turned && are_normal(new) && are_normal(old)).then_some(())
    })
    .await;
}

/// The copy has everything; both are the history of the host.
async fn expect_equal(cluster: &Cluster, writer: &Writer, primary: usize) {
    let (new, old) = (&cluster.arrays[primary], &cluster.arrays[1 - primary]);
    new.wait_until("the copy has everything", CATCH_UP, || {
        let newest = new.group()?["next_update_number"].as_u64()? - 1;
        (old.group()?["follows"]["restored_update_number"].as_u64()? == newest).then_some(())
    })
    .await;
    let geometry = writer.log().geometry();
    let mut images = Vec::new();
    for array in [new, old] {
        let port = array.ports(1, cluster.layout.volumes).remove(0);
        images.push(read_image(&port, geometry).await.expect("hosts may read it"));
    }
    let observed = Observed::from_images(writer.log(), &images[0]);
    check_crash(writer.log(), &observed, DurableRule::Acknowledged).expect_clean("the new primary");
    assert!(images[0] == images[1], "the copy differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_arrays_change_places_and_back_although_each_is_killed_once() {
    let mut cluster = Cluster::running(Layout::default()).await;
    let mut writer = writer_for(&cluster, seed_from_environment(61));
    let primary = &cluster.arrays[0];
    primary.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]).expect("gamma is taken away");
    primary
        .wait_until("gamma is gone", CATCH_UP, || {
            let group = primary.group()?;
            (group["readers"].as_array()?.len() == 1 && are_normal(primary)).then_some(())
        })
        .await;
    for (from, to) in [(0, 1), (1, 0)] {
        let ports = cluster.arrays[from].ports(SESSIONS, cluster.layout.volumes);
        write_some(&mut writer, &ports, 200).await;
        let name = ["alpha", "beta"][to];
        // What was not flushed may go with the process: the copy has it before that.
        cluster.arrays[from]
            .wait_until("the copy has everything durably", CATCH_UP, || {
                let group = cluster.arrays[from].group()?;
                let newest = group["next_update_number"].as_u64()? - 1;
                (group["readers"][0]["durable_update_number"].as_u64()? == newest).then_some(())
            })
            .await;
        cluster.arrays[from]
            .wait_until("it can be turned round", CATCH_UP, || {
                let reversed = cluster.arrays[from].shell(&["group", "reverse", "g1", "--to", name, "--yes"]);
                reversed.ok().map(|_| ())
            })
            .await;
        // The one that takes over the first time, the one that leaves the second time.
        cluster.arrays[1].kill();
        let both = [0, 1].map(|index| role(&cluster.arrays[index]));
        assert!(both.iter().flatten().filter(|role| *role == "primary").count() <= 1, "{both:?}");
        start_in_time(&mut cluster, 1).await;
        until_turned(&cluster, to).await;
        let ports = cluster.arrays[to].ports(SESSIONS, cluster.layout.volumes);
        write_some(&mut writer, &ports, 100).await;
        expect_equal(&cluster, &writer, to).await;
    }
    let audit = cluster.arrays[0].shell(&["audit", "list"]).expect("the audit log");
    let said =
        rows(&audit).iter().any(|entry| entry["what"].to_string().contains("group reverse g1 --to beta"));
    assert!(said, "{audit}");
}
