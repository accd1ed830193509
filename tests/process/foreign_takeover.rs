//! A foreign initiator (qemu-io) on a synchronous pair whose first site is lost (promises K1, O4): every write that it was told is written is at the
//! second behind a takeover, where it writes on; and with the old primary as the copy again, by its differences, both have all of it.

use crate::rounds::{CATCH_UP, start_in_time};
use crate::support::process::{Array, Cluster, Layout, rows};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// What a write is long.
const PIECE_KIB: u64 = 64;
/// So many of them are written, which is half of the volume.
const PIECES: u64 = 128;
/// So many are told to be written before the site is lost.
const BEFORE_THE_LOSS: usize = 40;
const VOLUME_BYTES: u64 = 16 << 20;

fn shows(array: &Array) -> Option<()> {
    (array.group()?["synchronous"]["state"] == "synchronised").then_some(())
}

async fn until_synchronised(cluster: &Cluster) {
    for array in &cluster.arrays[..2] {
        array.wait_until("it is synchronised", CATCH_UP, || shows(array)).await;
    }
}

/// A byte that no write beside this one leaves.
fn pattern(piece: u64) -> u64 {
    piece % 251 + 1
}

fn write(piece: u64, pattern: u64) -> String {
    format!("write -P {pattern} {}k {PIECE_KIB}k", piece * PIECE_KIB)
}

fn qemu_io(url: &str, commands: &[String]) -> Command {
    // Line by line: what it was told before it is killed counts.
    let mut tool = Command::new("stdbuf");
    tool.args(["-oL", "qemu-io", "-f", "raw"]);
    for command in commands {
        tool.args(["-c", command]);
    }
    if commands.iter().all(|command| command.starts_with("read")) {
        tool.arg("-r"); // The copy lets nobody write.
    }
    tool.arg(url);
    tool
}

/// Runs to its end; what it says.
fn expect_qemu_io(url: &str, commands: &[String]) -> String {
    let output = qemu_io(url, commands).output().expect("qemu-io is part of every Debian");
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !text.contains("verification failed"), "{url}: {text}");
    text
}

fn expect_pieces(url: &str, pieces: impl Iterator<Item = (u64, u64)>) {
    let read =
        |(piece, pattern): (u64, u64)| format!("read -P {pattern} {}k {PIECE_KIB}k", piece * PIECE_KIB);
    let reads: Vec<String> = pieces.map(read).collect();
    let text = expect_qemu_io(url, &reads);
    assert_eq!(text.matches("read 65536/65536").count(), reads.len(), "{text}");
}

/// The initiator writes one piece after the other until the site is lost; which of them it was told are written.
fn write_until_the_loss(alpha: &mut Array) -> Vec<u64> {
    let writes: Vec<String> = (0..PIECES).map(|piece| write(piece, pattern(piece))).collect();
    let mut tool = qemu_io(&alpha.url(1), &writes);
    let mut child = tool.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("qemu-io runs");
    let mut said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut answered = Vec::new();
    let piece_of = |line: &str| {
        let offset = line.strip_prefix("wrote 65536/65536 bytes at offset ")?;
        Some(offset.trim().parse::<u64>().ok()? / (PIECE_KIB << 10))
    };
    while answered.len() < BEFORE_THE_LOSS {
        let line = said.next().expect("it writes").expect("text");
        answered.extend(piece_of(&line));
    }
    alpha.kill();
    // It would wait for the target to come back; what it has said until then is in the pipe.
    child.kill().expect("it runs");
    answered.extend(said.map_while(Result::ok).filter_map(|line| piece_of(&line)));
    child.wait().expect("it ends");
    answered
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_initiator_finds_all_that_it_was_answered_behind_a_takeover_and_a_failback() {
    let layout = Layout { volumes: 1, volume_bytes: VOLUME_BYTES, is_synchronous: true, ..Layout::default() };
    let mut cluster = Cluster::running(layout).await;
    until_synchronised(&cluster).await;
    let answered = write_until_the_loss(cluster.primary());
    assert!(answered.len() < usize::try_from(PIECES).expect("few"), "it was lost under load");
    let beta = &cluster.arrays[1];
    beta.shell(&["group", "takeover", "g1", "--yes"]).expect("it takes over");
    expect_pieces(&beta.url(1), answered.iter().map(|piece| (*piece, pattern(*piece))));
    // It writes on, over half of what it had, and behind it.
    let later = |piece: u64| piece.is_multiple_of(2) || piece > PIECES - 8;
    let writes: Vec<String> =
        (0..PIECES).filter(|piece| later(*piece)).map(|piece| write(piece, 255)).collect();
    expect_qemu_io(&beta.url(1), &writes);

    start_in_time(&mut cluster, 0).await;
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    beta.wait_until("alpha has said what only it has", CATCH_UP, || {
        beta.group()?["takeover"]["branch_updates"].as_u64()
    })
    .await;
    let pairs = rows(&beta.shell(&["pair", "list"]).expect("pairs"));
    let differs = pairs[0]["difference_bytes"].as_u64().expect("it is marked");
    assert!((1..VOLUME_BYTES).contains(&differs), "not all of it is copied back: {differs}");
    let back = ["group", "failback", "g1", "--to", "alpha", "--yes"];
    beta.wait_until("alpha becomes the copy", CATCH_UP, || {
        // Its other reader has no link to beta, and has to go first.
        let _ = alpha.shell(&["group", "delete", "g1", "--reader", "gamma", "--yes"]);
        beta.shell(&back).ok().map(|_| ())
    })
    .await;
    until_synchronised(&cluster).await;
    let [alpha, beta] = [&cluster.arrays[0], &cluster.arrays[1]];
    let expected = || {
        let earlier = answered.iter().filter(|piece| !later(**piece)).map(|piece| (*piece, pattern(*piece)));
        earlier.chain((0..PIECES).filter(|piece| later(*piece)).map(|piece| (piece, 255)))
    };
    for array in [alpha, beta] {
        expect_pieces(&array.url(1), expected());
    }
}
