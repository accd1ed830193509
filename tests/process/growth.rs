//! A copied volume grows by command while a host writes it, on real processes: hosts see the new size in the session that
//! they have, both sides keep what is written behind the old end, also after SIGKILL, and nothing has been split for it.

use crate::by_command::{VOLUME_BYTES, VOLUMES, bare, make_storage, refused, say, wait_until_equal, writer};
use crate::rounds::write_some;
use crate::support::process::Array;
use crate::support::wof::{Durability, HostPort, Place, SECTOR_BYTES};
use bytes::Bytes;
use std::time::Duration;

const NEW_BYTES: u64 = VOLUME_BYTES + (6 << 20);

fn size(array: &Array, volume: &str) -> Option<u64> {
    say(array, &format!("volume show {volume}"))["size_bytes"].as_u64()
}

fn behind_the_old_end() -> (Place, Bytes) {
    let lba = NEW_BYTES / SECTOR_BYTES as u64 - 16;
    let place = Place { volume: 0, lba, sectors: 16 };
    (place, Bytes::from(vec![0x5a; place.bytes()]))
}

async fn expect_both_have_it(alpha: &Array, beta: &Array) {
    wait_until_equal(alpha, beta, "g1", "p1");
    let (place, data) = behind_the_old_end();
    for array in [alpha, beta] {
        let port = array.ports(1, VOLUMES).remove(0);
        assert_eq!(port.read(place).await.expect("it can be read"), data, "{}", array.portal());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_volume_grows_under_its_host_and_nothing_is_split() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (mut alpha, mut beta) = (bare("alpha", 1, directory.path()), bare("beta", 2, directory.path()));
    alpha.start().await;
    beta.start().await;
    make_storage(&alpha, ["data1", "data2"]);
    make_storage(&beta, ["copy1", "copy2"]);
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "between alpha and beta\n").expect("a file");
    for (at, to, name, number) in [(&alpha, &beta, "beta", 2), (&beta, &alpha, "alpha", 1)] {
        let (portal, secret) = (to.portal(), secret.display());
        say(at, &format!("link create {name} --array {number} --portal {portal} --secret-file {secret}"));
    }
    say(&alpha, "group create g1 --svol-access read");
    say(&alpha, "journal add g1 --volume jnl1");
    say(&alpha, "journal add g1 --volume jnl1 --at beta");
    say(&alpha, "pair create p1 --group g1 --pvol data1 --svol beta:copy1");
    say(&alpha, "group start g1");
    say(&alpha, "pair wait p1 --state normal --timeout 60s");
    let mut writer = writer();
    let ports = alpha.ports(2, VOLUMES);
    write_some(&mut writer, &ports, 100).await;

    let (place, data) = behind_the_old_end();
    assert!(ports[0].write(place, data.clone(), Durability::Fua).await.is_err(), "there is nothing yet");
    assert!(refused(&alpha, "volume resize data1 4MiB").contains("does not shrink"));
    assert!(refused(&alpha, "volume resize jnl1 64MiB").contains("journal volume"));
    assert!(refused(&beta, "volume resize copy1 14MiB").contains("at alpha"));
    say(&alpha, &format!("volume resize data1 {NEW_BYTES}B"));
    write_some(&mut writer, &ports, 100).await;
    let is_grown = |array, volume| (size(array, volume) == Some(NEW_BYTES)).then_some(());
    alpha.wait_until("alpha has grown", Duration::from_secs(60), || is_grown(&alpha, "data1")).await;
    // Over the session from before.
    ports[0].write(place, data.clone(), Durability::Fua).await.expect("there is room now");
    beta.wait_until("beta has grown", Duration::from_secs(60), || is_grown(&beta, "copy1")).await;
    assert_eq!(say(&alpha, "pair show p1")["state"], "normal");
    expect_both_have_it(&alpha, &beta).await;
    for array in [&mut alpha, &mut beta] {
        array.kill();
    }
    alpha.start().await;
    beta.start().await;
    assert_eq!((size(&alpha, "data1"), size(&beta, "copy1")), (Some(NEW_BYTES), Some(NEW_BYTES)));
    say(&beta, "pair wait p1 --state normal --timeout 60s");
    expect_both_have_it(&alpha, &beta).await;
    alpha.stop().await;
    beta.stop().await;
}
