//! Whatever an array leaves behind when it dies, `holdfast fsck` finds it sound.

use holdfast::clock::Clock;
use holdfast::disk::io::opener::SimOpener;
use holdfast::fsck::{Wants, check_array};
use holdfast::volume::store::{Backend, SimStorage, inspect};
use std::sync::Arc;

/// Checks copies of the disks and of the store of an array that has died; what it was given stays as it is.
pub(super) async fn expect_sound(name: &str, units: &SimOpener, storage: &SimStorage, clock: Arc<dyn Clock>) {
    let inspected = inspect(&Backend::Simulated(storage.kill()));
    let inspected = inspected.unwrap_or_else(|error| panic!("the store of {name}: {error}"));
    let report = check_array(&inspected, &units.fork(0), clock, Wants::default()).await;
    assert!(report.sound, "{name} left damage behind: {:#?}\n{:#?}", report.damage, report.checked);
}
