//! Units that are block devices (promise D1): loop devices over files, beside an ordinary file in one parity group.

use crate::support::process::{Array, Layout};
use crate::support::wof::{Durability, HostPort, Place, SECTOR_BYTES};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device, given back when it is dropped.
struct Loop(PathBuf);

impl Loop {
    /// None where the machine gives none: that takes rights that a test cannot give itself.
    fn over(file: &Path, bytes: u64) -> Option<Self> {
        let backing = std::fs::File::create(file).expect("a file");
        backing.set_len(bytes).expect("its size");
        let output = Command::new("losetup").args(["--show", "--find"]).arg(file).output().ok()?;
        let name = String::from_utf8(output.stdout).ok()?;
        (output.status.success() && !name.trim().is_empty()).then(|| Self(name.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

async fn write(array: &Array, from: u64, byte: u8) {
    let port = &array.ports(1, 1)[0];
    for at in from..from + 40 {
        let place = Place { volume: 0, lba: at * 40, sectors: 40 };
        let data = Bytes::from(vec![byte; 40 * SECTOR_BYTES]);
        port.write(place, data, Durability::Fua).await.expect("hosts write");
    }
}

async fn expect(array: &Array, from: u64, byte: u8) {
    let port = &array.ports(1, 1)[0];
    for at in from..from + 40 {
        let place = Place { volume: 0, lba: at * 40, sectors: 40 };
        let read = port.read(place).await.expect("hosts read");
        assert!(read.iter().all(|found| *found == byte), "at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn block_devices_are_units_beside_files_and_keep_what_was_answered() {
    for engine in ["plain", "io_uring"] {
        let folder = tempfile::tempdir().expect("a folder");
        let layout = Layout { volumes: 1, engine, unit_bytes: Some(64 << 20), ..Layout::default() };
        let mut array = Array::alone(folder.path(), &layout);
        let loops: Vec<Loop> =
            (0..2).map_while(|at| Loop::over(&folder.path().join(format!("l{at}")), 64 << 20)).collect();
        if loops.len() < 2 {
            println!("not tested: this machine gives no loop devices");
            return;
        }
        let mut text = std::fs::read_to_string(array.config_path()).expect("the configuration");
        for (at, device) in loops.iter().enumerate() {
            let file = format!("{{ path = \"{}\", size = \"{}B\" }}", array.unit(at).display(), 64 << 20);
            assert!(text.contains(&file), "{text}");
            text = text.replace(&file, &format!("{{ path = \"{}\" }}", device.0.display()));
        }
        array.write_config(&text);
        array.start().await;
        write(&array, 0, 0x5A).await;
        array.kill();
        array.start().await;
        expect(&array, 0, 0x5A).await;
        write(&array, 200, 0xC3).await;
        array.stop().await;
        array.start().await;
        expect(&array, 0, 0x5A).await;
        expect(&array, 200, 0xC3).await;
        array.stop().await;
    }
}
