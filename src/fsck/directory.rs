//! What lies in a directory: an array's control store with the units that it names, units that it does not name, LUNs of relays.

use super::unit::ReadOnlyOpener;
use super::{Report, Wants, check_into};
use crate::clock::Clock;
use crate::disk::slot::SLOT_BYTES;
use crate::disk::superblock::UncheckedSuperblock;
use crate::relay_check;
use crate::volume::store::{Backend, inspect};
use holdfast_journal::format::relay::{Label, RelayId, RelayLun};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Checks everything of Holdfast that lies in a directory. Units are where the control store says, also elsewhere; paths in it that are
/// relative are so to the working directory, as for `holdfast serve`.
///
/// # Errors
/// The directory cannot be read, nothing of Holdfast lies there, or an array uses it.
pub async fn check_directory(
    directory: &Path,
    clock: Arc<dyn Clock>,
    wants: Wants,
) -> Result<Report, String> {
    let failed = |error: io::Error| error.to_string();
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    let mut report = Report::default();
    let mut named = Vec::new();
    let mut is_ours = false;
    let store = directory.join("control.redb");
    // Held to the end: an array that starts meanwhile would find its units in use.
    let _lock = if store.is_file() { Some(locked(&store)?) } else { None };
    if store.is_file() {
        is_ours = true;
        match inspect(&Backend::Untouched(directory.to_owned())) {
            Ok(inspected) => {
                let units = inspected.tables.parity_groups.iter().flat_map(|group| &group.units);
                named = units.filter_map(|unit| unit.path.canonicalize().ok()).collect();
                let opener = ReadOnlyOpener::default();
                check_into(&inspected, &opener, clock, wants, &mut report).await;
                opener.unread().iter().for_each(|error| report.blame("units", error));
            }
            Err(error) => report.blame(super::STORE, error),
        }
    }
    let mut relays: BTreeMap<String, (RelayId, Vec<(RelayLun, PathBuf)>)> = BTreeMap::new();
    for path in files {
        if path.canonicalize().is_ok_and(|path| named.contains(&path)) {
            continue;
        }
        let Some(head) = first_slot(&path) else { continue };
        if head.starts_with(UNIT_MAGIC) {
            is_ours = true;
            let place = format!("unit {}", path.display());
            match UncheckedSuperblock(&head).check() {
                Ok(found) => report.say(
                    &place,
                    format!(
                        "of parity group {} of array {}; no control store here names it",
                        found.name, found.owner.number
                    ),
                ),
                Err(error) => report.blame(place, error),
            }
        } else if head.starts_with(LABEL_MAGIC) {
            is_ours = true;
            match Label::decode(&head[..]) {
                Ok(label) => {
                    let relay = relays.entry(format!("{:?}", label.id)).or_insert((label.id, Vec::new()));
                    relay.1.push((label.lun, path));
                }
                Err(error) => report.blame(format!("relay LUN {}", path.display()), error),
            }
        }
    }
    for (id, luns) in relays.into_values() {
        relay(id, &luns, &mut report);
    }
    if !is_ours {
        return Err("nothing of Holdfast lies there: name the data_dir of an array".to_owned());
    }
    report.finish()
}

/// A lock that no array gets beside it.
fn locked(store: &Path) -> Result<File, String> {
    let named = |why: &dyn std::fmt::Display| format!("{}: {why}", store.display());
    let file = File::open(store).map_err(|error| named(&error))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(named(&"it is in use: is an array running on this data directory?")),
        Err(errno) => Err(named(&errno)),
    }
}

/// The three LUNs of a relay.
fn relay(id: RelayId, luns: &[(RelayLun, PathBuf)], report: &mut Report) {
    let place = format!("relay of group {} of array {} to array {}", id.group.0, id.first.0, id.second.0);
    let all =
        |wanted: RelayLun| luns.iter().filter(move |(lun, _)| *lun == wanted).map(|(_, path)| path.as_path());
    let one = |wanted: RelayLun| {
        let mut found = all(wanted);
        found.next().filter(|_| found.next().is_none())
    };
    let three = (one(RelayLun::Journal), one(RelayLun::First), one(RelayLun::Second));
    let (Some(journal), Some(first), Some(second)) = three else {
        return report
            .say(&place, "not looked at: not each of its three LUNs is here once; see holdfast relay-check");
    };
    match relay_check::check(&[[journal, first, second]], None) {
        Ok(found) => {
            found.damage.iter().for_each(|line| report.blame(&place, line));
            report.say(&place, found.text.trim_end().replace('\n', "; "));
        }
        Err(error) => report.blame(place, error),
    }
}

/// The first page of a file, if it has one.
fn first_slot(path: &Path) -> Option<Box<[u8; SLOT_BYTES]>> {
    let mut head = Box::new([0; SLOT_BYTES]);
    File::open(path).ok()?.read_exact_at(&mut head[..], 0).ok()?;
    Some(head)
}

const UNIT_MAGIC: &[u8] = b"HFstUNIT";
const LABEL_MAGIC: &[u8] = b"HFRELAYL";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    async fn checked(directory: &Path) -> Result<Report, String> {
        check_directory(directory, Arc::new(SystemClock::new()), Wants::default()).await
    }

    #[tokio::test]
    async fn the_luns_of_a_relay_are_found_by_their_labels_and_damage_in_them_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let luns = relay_check::tests::luns(folder.path());
        let report = checked(folder.path()).await.unwrap();
        assert!(report.sound, "{report:?}");
        assert_eq!(report.checked.len(), 1);
        assert_eq!(report.checked[0].what, "relay of group 6 of array 1 to array 2");

        let whole = std::fs::read(&luns[1]).unwrap();
        let mut damaged = whole.clone();
        damaged[1 << 12..].fill(0x5a);
        std::fs::write(&luns[1], &damaged).unwrap();
        let report = checked(folder.path()).await.unwrap();
        assert!(!report.sound && report.damage[0].what.contains("no control information"), "{report:?}");
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        std::fs::write(&luns[1], &damaged).unwrap();
        let report = checked(folder.path()).await.unwrap();
        let place = format!("relay LUN {}", luns[1].display());
        assert!(report.damage.iter().any(|damage| damage.place == place), "{report:?}");

        std::fs::remove_file(&luns[1]).unwrap();
        let report = checked(folder.path()).await.unwrap();
        assert!(report.sound && report.checked[0].found.starts_with("not looked at"), "{report:?}");
    }

    #[tokio::test]
    async fn a_store_that_is_none_is_damage_and_not_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(checked(folder.path()).await.is_err(), "nothing is there");
        for content in [Vec::new(), vec![0x5a; 3], vec![0x5a; 1 << 20]] {
            std::fs::write(folder.path().join("control.redb"), &content).unwrap();
            let report = checked(folder.path()).await.unwrap();
            assert_eq!(report.damage.len(), 1, "{report:?}");
            assert_eq!(std::fs::read(folder.path().join("control.redb")).unwrap(), content);
        }
    }
}
