//! Whatever an array leaves behind when it dies, `holdfast fsck` finds it sound.

use holdfast::clock::Clock;
use holdfast::disk::io::opener::SimOpener;
use holdfast::fsck::{Wants, check_array};
use holdfast::volume::store::{Backend, SimStorage, inspect};
use std::sync::Arc;

/// Checks copies of the disks and of the store of an array that has died: each third death, told by the clock, and none of an
/// array whose disks have had faults. It takes no time, and leaves nothing behind.
pub(super) async fn expect_sound(name: &str, units: &SimOpener, storage: &SimStorage, clock: Arc<dyn Clock>) {
    let Some(units) = units.instant_copy().filter(|_| (clock.now().0 >> 10).is_multiple_of(3)) else {
        return;
    };
    let inspected = inspect(&Backend::Simulated(storage.kill()));
    let inspected = inspected.unwrap_or_else(|error| panic!("the store of {name}: {error}"));
    let report = check_array(&inspected, &units, clock, Wants::default()).await;
    let report = report.unwrap_or_else(|why| panic!("{name}: {why}"));
    assert!(report.sound, "{name} left damage behind: {:#?}\n{:#?}", report.damage, report.checked);
}
