//! Clones of copies in the general story (promise O3, decision 24): an operator makes a snapshot of an auxiliary's group at any moment,
//! under load, while links fail and arrays die, and deletes some of them later. One that says that it is an image is what its number
//! says: the story holds it against the host's history, and against whatever else is found as of that number at any array. And
//! it stays so, whatever is restored, resynchronised, killed or taken over beside it.

use crate::cluster::{ARRAYS, Cluster};
use crate::support::random::Random;
use std::cell::Cell;
use std::collections::BTreeMap;

/// What a clone is.
pub(crate) struct Cloned {
    pub(crate) array: usize,
    pub(crate) at_ns: u64,
    pub(crate) number: u64,
    pub(crate) images: Vec<Vec<u8>>,
}

/// Makes clones at random moments until it is over.
pub(crate) async fn make_clones(
    cluster: &Cluster,
    random: Option<&mut Random>,
    is_over: &Cell<bool>,
) -> Vec<Cloned> {
    let (mut found, mut seen) = (Vec::new(), BTreeMap::new());
    let Some(random) = random else { return found };
    loop {
        let pause = [20, 150, 900][random.index(3)];
        cluster.sleep_ms(1 + random.below(pause)).await;
        if is_over.get() || found.len() >= CLONES_A_ROUND {
            return found;
        }
        let array = 1 + random.index(ARRAYS.len() - 1);
        for name in names(cluster, array) {
            found.extend(look(cluster, array, &name, &mut seen).await);
            if random.percent(70) {
                // The array may be down, or die.
                let _ = cluster.command(array, &format!("snapshot delete {name} --yes")).await;
            }
        }
        let name = format!("c{}", cluster.clock_ms());
        if cluster.runs(array) && names(cluster, array).len() < CLONES_LEFT {
            let _ = cluster.command(array, &format!("snapshot create {name} --group g1")).await;
            found.extend(look(cluster, array, &name, &mut seen).await);
        }
    }
}

fn names(cluster: &Cluster, array: usize) -> Vec<String> {
    let shown = cluster.snapshot(array).map(|shown| shown.snapshots).unwrap_or_default();
    shown.into_iter().map(|snapshot| snapshot.name).collect()
}

/// What a clone is, if it is there and an image; it is what it was when it was looked at before.
async fn look(
    cluster: &Cluster,
    array: usize,
    name: &str,
    seen: &mut BTreeMap<(usize, String), u32>,
) -> Option<Cloned> {
    let shown = cluster.snapshot(array)?.snapshots.into_iter().find(|snapshot| snapshot.name == name)?;
    let number = shown.update_number.filter(|_| shown.is_image)?;
    let mut images = Vec::new();
    for volume in 1..=cluster.shape.volumes {
        let volume = format!("{name}.copy{volume}");
        images.push(cluster.array(array)?.read_volume(&volume).await.ok()?);
    }
    let digest = digest_of(&images);
    let before = seen.insert((array, name.to_owned()), digest);
    assert!(before.is_none_or(|before| before == digest), "clone {name} at {} has changed", ARRAYS[array]);
    cluster.note(format!("clone {name} of {} is of update {number}", ARRAYS[array]));
    Some(Cloned { array, at_ns: cluster.clock_ms() * 1_000_000, number, images })
}

/// One number for what all volumes are.
pub(crate) fn digest_of(images: &[Vec<u8>]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    images.iter().for_each(|image| digest.update(image));
    u32::try_from(digest.finalize()).unwrap()
}

/// Clones that are looked at in one round at most.
const CLONES_A_ROUND: usize = 4;
/// Clones that an array has at a time at most: its room is small.
const CLONES_LEFT: usize = 2;
