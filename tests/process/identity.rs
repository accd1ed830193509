//! Both volumes of a synchronous pair are one unit to hosts (decision 25), on real processes and by foreign clients: what libiscsi is told of
//! the unit at the first array it is told at the second, where it finds what it wrote. The array in standby answers nobody.

use crate::rounds::{CATCH_UP, start_in_time};
use crate::support::process::{Array, Cluster, Layout, expect_tool, rows, run_tool};
use std::process::Command;

/// What names or describes the unit, as iscsi-inq prints it.
fn described(url: &str) -> Vec<String> {
    let page =
        |page: u8| expect_tool(Command::new("iscsi-inq").args(["-e", "1", "-c", &page.to_string()]).arg(url));
    let mut seen = vec![expect_tool(Command::new("iscsi-inq").arg(url))];
    seen.extend([0x00, 0x80, 0xb0, 0xb1, 0xb2].map(page));
    seen.push(expect_tool(Command::new("iscsi-readcapacity16").arg(url)));
    // Ports and targets have names of their own at each array.
    let names = page(0x83);
    let of_unit = names.split("DEVICE DESIGNATOR").filter(|one| one.contains("LOGICAL_UNIT"));
    let of_unit: Vec<String> = of_unit.map(str::to_owned).collect();
    assert_eq!(of_unit.len(), 2, "{names}");
    // They are numbered by their place.
    seen.extend(of_unit);
    seen
}

fn qemu_io(url: &str, command: &str) -> Result<(), String> {
    let output = run_tool(Command::new("qemu-io").args(["-f", "raw", "-c", command, url]));
    let text = [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat();
    let is_done = output.status.success() && !text.contains("rror") && !text.contains("verification failed");
    if is_done { Ok(()) } else { Err(text) }
}

fn access(array: &Array) -> Vec<String> {
    let luns = array.shell(&["lun", "list"]).map(|luns| rows(&luns)).unwrap_or_default();
    luns.iter().filter_map(|lun| lun["access"].as_str().map(str::to_owned)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_find_the_same_unit_at_the_second_array_behind_a_takeover() {
    let layout = Layout { is_synchronous: true, is_one_unit: true, volumes: 2, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    for array in &cluster.arrays[..2] {
        array
            .wait_until("it is synchronised", CATCH_UP, || {
                (array.group()?["synchronous"]["state"] == "synchronised").then_some(())
            })
            .await;
    }
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    let before = described(&alpha.url(1));
    assert_eq!((access(alpha), access(beta)), (vec!["read-write".into(); 2], vec!["standby".into(); 2]));
    qemu_io(&alpha.url(1), "write -P 0x5a 1M 256k").expect("the first takes it");
    let refused = qemu_io(&beta.url(1), "read 0 4k").expect_err("it is in standby");
    assert!(refused.contains("NOT_READY") || refused.contains("Failed"), "{refused}");
    let beta_url = beta.url(1);
    cluster.arrays[0].kill();
    let beta = &cluster.arrays[1];
    beta.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
    assert_eq!(described(&beta_url), before, "one unit");
    qemu_io(&beta_url, "read -P 0x5a 1M 256k").expect("what was written at the first");
    qemu_io(&beta_url, "write -P 0x33 1M 4k").expect("it is the primary");
    start_in_time(&mut cluster, 0).await;
    let alpha = &cluster.arrays[0];
    assert_eq!(access(alpha), vec!["standby".to_owned(); 2], "whatever it has heard");
    qemu_io(&alpha.url(1), "write -P 0x44 1M 4k").expect_err("hosts are shut out");
    alpha
        .wait_until("alpha hears of it", CATCH_UP, || {
            (alpha.group()?["takeover"]["state"] == "overtaken").then_some(())
        })
        .await;
    qemu_io(&alpha.url(1), "read 1M 4k").expect_err("it would be old");
    qemu_io(&beta_url, "read -P 0x33 1M 4k").expect("nothing was overwritten");
}
