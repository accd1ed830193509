//! `/metrics` and `/health` of a running cluster: what is scraped agrees with what the shell shows.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail as the test does")]

use crate::support::iscsi::Transfer;
use crate::support::process::{Cluster, GROUP, Layout, free_port, rows};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Writes of 64 KiB.
const WRITES: u64 = 64;

fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// The value of the series that begins like this.
fn value(text: &str, series: &str) -> f64 {
    let mut found = text.lines().filter(|line| line.starts_with(series));
    let line = found.next().unwrap_or_else(|| panic!("{series} is not in\n{text}"));
    assert!(found.next().is_none(), "{series} is there twice");
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_scraped_agrees_with_the_shell() {
    let mut cluster = Cluster::new(Layout { volumes: 2, ..Layout::default() }).await;
    let web = format!("127.0.0.1:{}", free_port());
    let path = cluster.primary().config_path();
    let config = std::fs::read_to_string(&path).unwrap() + &format!("\n[web]\nlisten = \"{web}\"\n");
    cluster.primary().write_config(&config);
    for array in &mut cluster.arrays {
        array.start().await;
    }
    cluster.wait_for_normal_pairs(Duration::from_secs(120)).await;
    let port = cluster.arrays[0].ports(1, 1).remove(0);
    for block in 0..WRITES {
        let mut write = [0; 16];
        write[0] = 0x8a; // WRITE (16) of 128 blocks.
        write[2..10].copy_from_slice(&(block * 128).to_be_bytes());
        write[10..14].copy_from_slice(&128_u32.to_be_bytes());
        port.command(1, write, Transfer::Out(vec![7; 64 << 10].into())).await.unwrap();
    }
    cluster.wait_for_readers(&[2, 3], Duration::from_secs(60)).await;

    // The picture has to stand still between the two looks: at rest nothing moves but the time.
    let (head, text) = get(&web, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("openmetrics-text"), "{head}");
    let primary = &cluster.arrays[0];
    let group = primary.group().unwrap();
    let given = group["next_update_number"].as_f64().unwrap() - 1.0;
    assert!(given > 0.0);
    let labels = format!("{{group=\"{GROUP}\"");
    assert_eq!(value(&text, &format!("holdfast_group_updates_total{labels}")), given);
    let journaled = value(&text, &format!("holdfast_group_journaled_bytes_total{labels}"));
    assert_eq!(Some(journaled), group["journaled_bytes"].as_f64());
    assert!(journaled >= f64::from(4 << 20), "{journaled}");
    let readers = group["readers"].as_array().unwrap();
    assert_eq!(readers.len(), 2);
    for reader in readers {
        let labels = format!("{labels},reader={}", reader["link"]);
        for (series, field) in [
            ("reader_restored_update_number", &reader["restored_update_number"]),
            ("reader_durable_update_number", &reader["durable_update_number"]),
            ("reader_behind_updates", &reader["behind"]["updates"]),
            ("reader_behind_bytes", &reader["behind"]["bytes"]),
            ("reader_behind_seconds", &reader["behind"]["seconds"]),
            ("reader_sent_bytes_total", &reader["sent_bytes"]),
            ("reader_sent_updates_total", &reader["sent_updates"]),
        ] {
            assert_eq!(Some(value(&text, &format!("holdfast_{series}{labels}"))), field.as_f64(), "{series}");
        }
        assert!(reader["sent_bytes"].as_f64().unwrap() >= journaled, "{reader}");
        assert_eq!(reader["restored_update_number"].as_f64(), Some(given));
    }
    let journal = rows(&primary.shell(&["journal", "list"]).unwrap()).remove(0);
    let size = value(&text, &format!("holdfast_journal_data_bytes{labels}"));
    assert_eq!(Some(size), journal["write_data_bytes"].as_f64());
    let volume = primary.shell(&["volume", "show", "data1"]).unwrap();
    let written = value(&text, "holdfast_volume_written_bytes_total{volume=\"data1\"}");
    assert_eq!(Some(written), volume["written_bytes"].as_f64());
    assert!(written >= f64::from(4 << 20));
    for pair in rows(&primary.shell(&["pair", "list"]).unwrap()) {
        let series =
            format!("holdfast_pair_state{{pair={},group=\"{GROUP}\",state=\"normal\"}}", pair["name"]);
        assert_eq!(value(&text, &series), 1.0);
    }
    assert!(text.ends_with("# EOF\n"));

    is_well(&web);
}

fn is_well(web: &str) {
    let (head, health) = get(web, "/health");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}\n{health}");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&health).unwrap()["status"], "normal");
}
