//! The journal of a group: the chain of its volumes as a start finds it, both copies of each superblock, and the write data of every update
//! that is held.

use super::group::journal_place;
use super::{Report, name_of};
use crate::array::recover_chain;
use crate::copy::change::Payload;
use crate::disk::cache::ParityGroupId;
use crate::disk::slot::{Class, SLOT_BYTES, bytes_of};
use crate::disk::{DiskAdapter, RawVolume, VolumeId};
use crate::volume::group::GroupRecord;
use crate::volume::name::VolumeNumber;
use crate::volume::table::Tables;
use holdfast_journal::chain::{Chain, Held};
use holdfast_journal::format::{BLOCK_BYTES, Superblock};
use holdfast_journal::{Stored, UpdateNumber};

pub(super) async fn check(tables: &Tables, record: &GroupRecord, disk: &DiskAdapter, report: &mut Report) {
    let place = format!("journal of group {}", record.name);
    if record.segments.is_empty() {
        return; // None was made yet, or it was given up.
    }
    if let Some(unread) = record.segments.iter().find(|segment| !is_read(tables, segment.volume, disk)) {
        let name = name_of(tables, unread.volume.0);
        return report.say(&place, format!("not looked at: the parity group of {name} cannot be used"));
    }
    let (chain, lost) = match recover_chain(disk, tables.meta().number, record).await {
        Ok(found) => (found.chain, found.lost),
        Err(error) => return report.blame(place, error),
    };
    for info in chain.segments() {
        heads(tables, info.volume.0, disk, report).await;
    }
    for (volume, error) in lost {
        let below = chain.lost_below();
        let what = format!("{error}; readers that lack what lay there below {below} come by differences");
        report.blame(journal_place(tables, volume.0), what);
    }
    let (first, newest) = (chain.first_retained(), chain.durable());
    let walked = walk(tables, &chain, disk, report, &place).await;
    let volumes: Vec<String> = chain.segments().iter().map(|info| name_of(tables, info.volume.0)).collect();
    let (volumes, settled) = (volumes.join(", "), chain.settled());
    report.say(
        &place,
        if first > newest {
            format!("in {volumes}: nothing held, the next update is {}", chain.next())
        } else {
            format!("in {volumes}: updates {first} to {newest}, settled up to {settled}, {walked} bytes of write data read")
        },
    );
}

/// Whether the map is known of the parity group that a volume lies on.
fn is_read(tables: &Tables, volume: VolumeNumber, disk: &DiskAdapter) -> bool {
    let group = tables.volumes.get(&volume).and_then(|volume| volume.parity_group);
    group.is_none_or(|group| disk.has_parity_group(ParityGroupId(group.0)))
}

/// Both copies of the superblock of a journal volume.
async fn heads(tables: &Tables, volume: u32, disk: &DiskAdapter, report: &mut Report) {
    let place = journal_place(tables, volume);
    let Ok(raw) = disk.raw(VolumeId(volume)) else { return };
    let mut copies = [Err(String::new()), Err(String::new())];
    for (copy, at) in copies.iter_mut().zip([0, BLOCK_BYTES]) {
        *copy = match read(&raw, at, BLOCK_BYTES).await {
            Ok(block) => Superblock::decode(&block).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
    }
    match copies {
        [Ok(first), Ok(second)] if first == second => {}
        [Ok(_), Ok(_)] => report.blame(place, "the two copies of its superblock differ"),
        [Ok(_), Err(error)] => {
            report.blame(place, format!("the second copy of its superblock: {error}; the first is believed"))
        }
        [Err(error), Ok(_)] => {
            report.blame(place, format!("the first copy of its superblock: {error}; the second is believed"))
        }
        // Then the chain cannot be used, and says so.
        [Err(_), Err(_)] => {}
    }
}

/// Reads every update that is held, with its data; how many bytes of these.
async fn walk(tables: &Tables, chain: &Chain, disk: &DiskAdapter, report: &mut Report, place: &str) -> u64 {
    let (mut number, mut bytes) = (chain.first_retained().max(chain.lost_below()), 0);
    while number <= chain.durable() {
        let Some(held) = chain.locate(number) else {
            report.blame(place, format!("update {number} is not where it should be"));
            number = number.next();
            continue;
        };
        let last = batch(tables, number, &held, disk, report, &mut bytes).await;
        number = last.next();
    }
    bytes
}

/// One group commit, from `first` on; the last number that it holds.
async fn batch(
    tables: &Tables,
    first: UpdateNumber,
    held: &Held,
    disk: &DiskAdapter,
    report: &mut Report,
    bytes: &mut u64,
) -> UpdateNumber {
    let (located, volume) = (held.located, held.volume.0);
    let place = journal_place(tables, volume);
    let last = located.last.max(first);
    let stored = async {
        let raw = disk.raw(VolumeId(volume)).map_err(|error| error.to_string())?;
        let info = read(&raw, located.info_offset, located.info_bytes).await?;
        let stored = held.decode(&info).map_err(|error| error.to_string())?;
        Ok::<_, String>((raw, stored))
    };
    let (raw, stored) = match stored.await {
        Ok(found) => found,
        Err(error) => {
            let at = located.info_offset;
            report.blame(place, format!("byte {at}: the information of updates {first} to {last}: {error}"));
            return last;
        }
    };
    let last = stored.last().map_or(last, |stored| stored.update.number.max(first));
    for Stored { update, place: data } in stored.iter().filter(|stored| stored.update.number >= first) {
        let Some(data) = data else { continue };
        let pages = usize::try_from(data.blocks).unwrap_or(usize::MAX);
        let wrong = match raw.read(data.volume_offset_bytes, pages, Class::JournalRead).await {
            Ok(slots) => {
                let payload =
                    Payload { slots: slots.into(), skip: data.skip_bytes, bytes: update.data_bytes };
                (payload.checksum() != update.data_checksum).then(|| "its checksum is wrong".to_owned())
            }
            Err(error) => Some(error.to_string()),
        };
        match wrong {
            None => *bytes += u64::from(update.data_bytes),
            Some(why) => report.blame(
                place.as_str(),
                format!(
                    "byte {}: the write data of update {}: {why}",
                    data.volume_offset_bytes, update.number
                ),
            ),
        }
    }
    last
}

async fn read(raw: &RawVolume, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>, String> {
    let pages = usize::try_from(length_bytes / SLOT_BYTES as u64).unwrap_or(usize::MAX);
    let slots = raw.read(offset_bytes, pages, Class::JournalRead).await.map_err(|error| error.to_string())?;
    Ok(bytes_of(&slots))
}
