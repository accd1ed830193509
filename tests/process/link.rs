//! How journals travel between real processes: compressed, limited, tried, and seen by the operator.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use crate::support::iscsi::{IscsiPort, Transfer};
use crate::support::process::{Array, Cluster, Layout};
use crate::support::proxy::LinkState;
use holdfast::clock::{Clock, SystemClock};
use serde_json::Value;
use std::time::Duration;

const PIECE_BYTES: usize = 64 << 10;

/// Writes `pieces` of 64 KiB, each filled by `fill`.
async fn write(port: &IscsiPort, pieces: u64, fill: impl Fn(u64) -> Vec<u8>) {
    for piece in 0..pieces {
        let mut command = [0; 16];
        command[0] = 0x8a; // WRITE (16) of 128 blocks.
        command[2..10].copy_from_slice(&(piece * 128).to_be_bytes());
        command[10..14].copy_from_slice(&128_u32.to_be_bytes());
        port.command(1, command, Transfer::Out(fill(piece).into())).await.unwrap();
    }
}

/// What no compression makes shorter.
fn noise(piece: u64) -> Vec<u8> {
    let mut state = piece.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(&mut byte).take(PIECE_BYTES).collect()
}

fn say(array: &Array, words: &[&str]) -> Value {
    array.shell(words).unwrap_or_else(|why| panic!("{words:?}: {why}\n{}", array.log_tail()))
}

fn link(array: &Array) -> Value {
    say(array, &["link", "show", "alpha"])
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("{field} in {value}"))
}

async fn image(array: &Array, blocks: u64) -> Vec<u8> {
    let port = array.ports(1, 1).remove(0);
    let mut image = Vec::new();
    for piece in 0..blocks {
        let mut command = [0; 16];
        command[0] = 0x88; // READ (16).
        command[2..10].copy_from_slice(&(piece * 128).to_be_bytes());
        command[10..14].copy_from_slice(&128_u32.to_be_bytes());
        image.extend(port.command(1, command, Transfer::In(64 << 10)).await.unwrap());
    }
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn journals_travel_as_the_operator_says_and_he_sees_it() {
    let layout = Layout {
        volumes: 1,
        schedules: ["compression = \"zstd\"\n", "fetch = \"read\"\n"],
        ..Layout::default()
    };
    let mut cluster = Cluster::running(layout).await;
    let clock = SystemClock::new();
    let limit = Duration::from_secs(60);
    let port = cluster.arrays[0].ports(1, 1).remove(0);

    // What shrinks travels small.
    write(&port, 128, |piece| vec![u8::try_from(piece % 251).unwrap(); PIECE_BYTES]).await;
    cluster.wait_for_readers(&[2, 3], limit).await;
    let shown = link(&cluster.arrays[1]);
    let (wire, plain) = (number(&shown, "journal_wire_bytes"), number(&shown, "journal_plain_bytes"));
    assert!(plain >= 8 << 20 && wire < plain / 8, "{shown}");
    assert!(number(&shown, "received_bytes") > wire && number(&shown, "sent_bytes") > 1_000, "{shown}");
    let at_primary = say(&cluster.arrays[0], &["link", "show", "beta"]);
    assert!(number(&at_primary, "sent_bytes") > wire, "{at_primary}");

    // A limit counts at once, and so does its end.
    let beta = &cluster.arrays[1];
    say(beta, &["link", "set", "alpha", "--limit", "512KiB/s", "--compression", "none"]);
    assert_eq!(number(&link(beta), "limit_now_bytes_per_s"), 512 << 10);
    let begun = clock.now();
    write(&port, 24, noise).await;
    cluster.wait_for_readers(&[3], limit).await;
    let unlimited = clock.now().since(begun);
    cluster.wait_for_readers(&[2], limit).await;
    let limited = clock.now().since(begun);
    assert!(
        limited >= Duration::from_secs(2),
        "1.5 MiB at 512 KiB/s took {limited:?}, elsewhere {unlimited:?}"
    );
    write(&port, 64, noise).await;
    let begun = clock.now();
    say(beta, &["link", "set", "alpha", "--limit", "512KiB/s", "--schedule", "00:00-24:00 none"]);
    cluster.wait_for_readers(&[2], limit).await;
    let freed = clock.now().since(begun);
    assert!(freed < Duration::from_secs(4), "4 MiB without a limit took {freed:?}");

    // It can be tried, and says what is wrong.
    let tried = say(beta, &["link", "test", "alpha"]);
    assert_eq!(tried["passed"], true, "{tried}");
    assert!(number(&tried["portals"][0], "received_bytes_per_s") > 1 << 20, "{tried}");
    cluster.links[0][1].set(LinkState::Cut);
    let failed = beta.shell(&["link", "test", "alpha"]).unwrap_err();
    assert!(failed.contains("the way back"), "{failed}");
    cluster.set_link(1, LinkState::Up);

    // One auxiliary has read by READ; what has happened can be looked at.
    let by_read = link(&cluster.arrays[2]);
    assert!(number(&by_read, "updates_by_read") >= 128, "{by_read}");
    assert_eq!(number(&by_read, "updates_reread"), 0, "{by_read}");
    let events = say(&cluster.arrays[0], &["event", "list", "--last", "4096"]);
    let events = events.as_array().unwrap();
    let became = |state: &str| events.iter().any(|event| event["kind"] == "pair" && event["state"] == state);
    assert!(became("being-copied") && became("normal"), "{events:?}");

    cluster.wait_for_readers(&[2, 3], limit).await;
    let primary = image(&cluster.arrays[0], 128).await;
    drop(port);
    for auxiliary in 1..=2 {
        assert!(image(&cluster.arrays[auxiliary], 128).await == primary, "copy {auxiliary}");
    }
    for array in &mut cluster.arrays {
        array.stop().await;
    }
}
