//! `holdfast relay-check`: what lies on the LUNs of a relay, without any array (`docs/on-disk.md`, chapter 9).
//!
//! It reads files or block devices, and writes nothing onto them. Everything is believed only as the second array believes it: labels,
//! control information, and the chain of batches from the oldest that is named to where nothing follows.

use crate::copy::answer::{Head, Outcome};
use crate::copy::readers::decode_generations;
use crate::relay_apply::{Replay, Wanted};
use holdfast_journal::Generation;
use holdfast_journal::format::relay::{
    Batch, FirstControl, Has, Kept, Label, Position, RelayId, RelayLun, SLOT_BLOCKS, SecondControl,
};
use holdfast_journal::format::{BLOCK_BYTES, BLOCK_LENGTH, crc32c, decode_wire};
use std::fmt::Write;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In words, a line for each thing.
    pub text: String,
    /// What is not as an array leaves it behind, a line for each.
    pub damage: Vec<String>,
}

/// Looks at the journal LUN and at the control LUNs of the first and the second array of each relay: of one, or of several of one group, each of
/// which has a part of the journals.
///
/// With `wanted` the updates are written onto images as well: those of several relays in the order of their numbers, if they are of
/// the history that goes on furthest.
///
/// # Errors
/// One of them cannot be read, or an image not be written.
pub fn check(relays: &[[&Path; 3]], wanted: Option<&Wanted>) -> io::Result<Found> {
    let replay = wanted.map(Replay::open).transpose()?;
    let mut found = Found { text: String::new(), damage: Vec::new() };
    let (mut journals, mut batches, mut whose): (Vec<Lun>, Vec<(usize, Batch)>, _) =
        (Vec::new(), Vec::new(), None);
    let mut history: Vec<Generation> = Vec::new();
    let mut is_merged = relays.len() > 1;
    for [journal, first, second] in relays {
        if relays.len() > 1 {
            found.say(&format!("{}:", journal.display()));
        }
        let (journal, first, second) = (Lun::open(journal)?, Lun::open(first)?, Lun::open(second)?);
        let id = found.labels(&[
            (&journal, RelayLun::Journal),
            (&first, RelayLun::First),
            (&second, RelayLun::Second),
        ])?;
        let Some(id) = id else { continue };
        if *whose.get_or_insert(id) != id {
            found.damage.push("the relays are not of one group".into());
            continue;
        }
        found.say(&format!("group {} of array {}, read by array {}", id.group.0, id.first.0, id.second.0));
        found.second(&second, id)?;
        match latest_first(&first, id)? {
            Some((control, generations)) => {
                let mut whole = found.chain(&journal, &control)?;
                if let Some(kept) = &control.kept {
                    found.say("a chain from before is kept beside it");
                    is_merged = true;
                    let Kept { incarnation, journal_blocks, oldest, newest } = *kept;
                    let before =
                        FirstControl { incarnation, journal_blocks, oldest, newest, kept: None, ..control };
                    whole.extend(found.chain(&journal, &before)?);
                }
                batches.extend(whole.into_iter().map(|batch| (journals.len(), batch)));
                let counter = |history: &[Generation]| history.last().map_or(0, |newest| newest.counter);
                history = if counter(&generations) > counter(&history) { generations } else { history };
            }
            None if is_blank(&first.read(1, 2 * SLOT_BLOCKS)?) && is_blank(&journal.read(1, 1)?) => {
                found.say("the first array has written nothing yet")
            }
            None => found.damage.push("no control information of the first array can be believed".into()),
        }
        journals.push(journal);
    }
    let Some(mut replay) = replay.filter(|_| whose.is_some()) else { return Ok(found) };
    if is_merged {
        let before = batches.len();
        batches.retain(|(_, batch)| {
            let there = history.iter().rev().find(|generation| generation.first <= batch.last);
            there == Some(&batch.generation)
        });
        if batches.len() < before {
            found.say(&format!("{} batches are of another history and not used", before - batches.len()));
        }
        // Time is shown, never compared.
        batches.sort_by_key(|(_, batch)| batch.first);
    }
    for (index, batch) in batches {
        let Some(journal) = journals.get(index) else { continue };
        replay.handle_batch(&batch, &journal.read(batch.place + 1, batch.payload_blocks.into())?)?;
    }
    let (said, stopped) = replay.end()?;
    found.say(&said);
    found.damage.extend(stopped);
    Ok(found)
}

impl Found {
    fn say(&mut self, line: &str) {
        // Writing into a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// For whom the LUNs are, if their labels agree.
    fn labels(&mut self, luns: &[(&Lun, RelayLun)]) -> io::Result<Option<RelayId>> {
        let mut all = Vec::new();
        for (lun, which) in luns {
            match Label::decode(&lun.read(0, 1)?) {
                Ok(label) if label.lun == *which => all.push(label.id),
                Ok(label) => self.damage.push(format!("{which:?}: its label says {:?}", label.lun)),
                Err(error) => self.damage.push(format!("{which:?}: its label: {error}")),
            }
        }
        match all.first() {
            Some(id) if all.len() == luns.len() && all.iter().all(|other| other == id) => Ok(Some(*id)),
            Some(_) if all.len() == luns.len() => {
                self.damage.push("the LUNs are of different relays".into());
                Ok(None)
            }
            Some(_) | None => Ok(None),
        }
    }

    fn second(&mut self, lun: &Lun, id: RelayId) -> io::Result<()> {
        let mut controls = Vec::new();
        for slot in [0, 1] {
            let control = SecondControl::decode(&lun.read(1 + slot * SLOT_BLOCKS, 1)?);
            controls.extend(control.ok().filter(|control| control.id == id));
        }
        match controls.into_iter().max_by_key(|control| control.sequence) {
            Some(SecondControl { report, .. }) => self.say(&format!(
                "the second array has update {} durably and has restored {}",
                report.acknowledged, report.restored
            )),
            None => self.say("the second array has said nothing yet"),
        }
        Ok(())
    }

    /// The batches of a chain that are whole.
    fn chain(&mut self, journal: &Lun, control: &FirstControl) -> io::Result<Vec<Batch>> {
        let (mut at, mut whole) = (control.oldest, Vec::new());
        if control.has == Has::Parts {
            self.say("a part of the journals; the others are on other relays");
        }
        // No chain on this LUN has more batches than blocks.
        for _ in 0..journal.blocks {
            let Some((batch, hash, answer)) = next(journal, &at, control)? else { break };
            let is_named = batch.sequence < control.newest.sequence;
            if crc32c(&answer) != batch.payload_crc {
                if is_named {
                    self.damage
                        .push(format!("batch {} in block {}: its checksum", batch.sequence, batch.place));
                } else {
                    self.say(&format!("batch {} was being written", batch.sequence));
                }
                break;
            }
            match updates(&batch, &answer) {
                Ok(bytes) => self.say(&format!(
                    "batch {} in block {}: updates {} to {}, {bytes} bytes{}",
                    batch.sequence,
                    batch.place,
                    batch.first,
                    batch.last,
                    if is_named { "" } else { ", behind the control information" }
                )),
                Err(why) => {
                    self.damage.push(format!("batch {} in block {}: {why}", batch.sequence, batch.place));
                }
            }
            whole.push(batch);
            at = Position::behind(&batch, hash);
        }
        if at.sequence < control.newest.sequence {
            let (named, last) = (control.newest.sequence - 1, at.sequence.saturating_sub(1));
            self.damage.push(format!("control information names batch {named}, the chain ends with {last}"));
        }
        self.say(&format!("the next update is {} or later", at.number));
        Ok(whole)
    }
}

/// The batch that follows, with its checksum and its answer.
fn next(journal: &Lun, at: &Position, control: &FirstControl) -> io::Result<Option<(Batch, u32, Vec<u8>)>> {
    let mut found: Option<(Batch, u32, Vec<u8>)> = None;
    for place in at.candidates(control.journal_blocks).into_iter().flatten() {
        if let Ok((batch, hash)) = Batch::decode(&journal.read(place, 1)?)
            && batch.place == place
            && at.is_followed_by(&batch, (control.incarnation, control.id), control.journal_blocks)
        {
            let answer = journal.read(place + 1, batch.payload_blocks.into())?;
            // The end of the one in front was never written: a longer one took its place in the chain.
            if found.as_ref().is_none_or(|(first, _, answer)| crc32c(answer) != first.payload_crc) {
                found = Some((batch, hash, answer));
            }
        }
    }
    Ok(found)
}

/// Write data of the updates of a batch, in bytes; or why they are not those that its head names.
fn updates(batch: &Batch, answer: &[u8]) -> Result<u64, String> {
    let (head, mut records) = Head::decode(answer).map_err(|error| error.to_string())?;
    let count = batch.last.since(batch.first) + 1;
    if head.outcome != Outcome::Updates || head.first != batch.first.get() || u64::from(head.updates) != count
    {
        return Err("its answer is of other updates".into());
    }
    let (mut bytes, mut number) = (0, batch.first);
    for _ in 0..count {
        let (update, used) = decode_wire(records).map_err(|error| error.to_string())?;
        if update.number != number {
            return Err(format!("update {} where {number} was due", update.number));
        }
        (bytes, number) = (bytes + u64::from(update.data_bytes), number.next());
        records = records.get(used..).unwrap_or(&[]);
    }
    Ok(bytes)
}

/// The newest control information, with the history that it names.
fn latest_first(lun: &Lun, id: RelayId) -> io::Result<Option<(FirstControl, Vec<Generation>)>> {
    let mut found = Vec::new();
    for slot in [0, 1] {
        let slot = 1 + slot * SLOT_BLOCKS;
        let Ok(control) = FirstControl::decode(&lun.read(slot, 1)?) else { continue };
        let length = usize::try_from(control.information.0).unwrap_or(usize::MAX);
        let mut information = lun.read(slot + 1, length.div_ceil(BLOCK_LENGTH) as u64)?;
        information.truncate(length);
        if control.id == id && crc32c(&information) == control.information.1 {
            let said = Head::decode(&information).ok();
            let generations = said.and_then(|(_, rest)| decode_generations(rest)).unwrap_or_default();
            found.push((control, generations));
        }
    }
    Ok(found.into_iter().max_by_key(|(control, _)| control.sequence))
}

/// A LUN as a file or a block device.
struct Lun {
    file: File,
    blocks: u64,
}

fn is_blank(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

impl Lun {
    fn open(path: &Path) -> io::Result<Self> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = File::open(path).map_err(named)?;
        let blocks = file.seek(SeekFrom::End(0)).map_err(named)? / BLOCK_BYTES;
        Ok(Self { file, blocks })
    }

    /// Blocks from one on; zeros where the LUN has ended. `count` is bounded by what was decoded.
    fn read(&self, block: u64, count: u64) -> io::Result<Vec<u8>> {
        let there = self.blocks.saturating_sub(block).min(count);
        let length = |blocks: u64| usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK_LENGTH);
        let mut bytes = vec![0; length(count)];
        self.file.read_exact_at(&mut bytes[..length(there)], block.saturating_mul(BLOCK_BYTES))?;
        Ok(bytes)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::copy::answer::PointerDistances;
    use crate::copy::readers::encode_generations;
    use holdfast_journal::format::encode_wire_to;
    use holdfast_journal::format::relay::Hosts;
    use holdfast_journal::{ArrayNumber, GroupNumber, Incarnation, Kind, Update, UpdateNumber};
    use std::path::PathBuf;

    const ID: RelayId = RelayId { first: ArrayNumber(1), group: GroupNumber(6), second: ArrayNumber(2) };
    const BLOCKS: usize = 300;

    fn answer(number: u64) -> Vec<u8> {
        let update = Update {
            number: UpdateNumber::new(number),
            generation: Generation::default(),
            kind: Kind::Heartbeat,
            time_ns: 1,
            extents: Vec::new(),
            data_bytes: 0,
            data_checksum: 0,
        };
        let mut records = Vec::new();
        encode_wire_to(&update, &mut records).unwrap();
        let head = Head {
            outcome: Outcome::Updates,
            group: 6,
            updates: 1,
            generation: 0,
            first: number,
            newest_durable: number,
            oldest_held: 1,
            newest_given: number,
            information_bytes: (0, 0),
            data_bytes: (0, 0),
            wall_ns: 0,
            unread_bytes: 0,
            pointers: PointerDistances::default(),
            room_bytes: 0,
            load_permille: 0,
            is_second: false,
            heard_ms: 0,
        };
        head.encode(&records)
    }

    const GENERATION: Generation =
        Generation { counter: 1, array: ArrayNumber(1), first: UpdateNumber::FIRST };

    /// LUNs with three batches, of which control information names two.
    pub(crate) fn luns(directory: &Path) -> [PathBuf; 3] {
        luns_of(directory, [1, 2, 3])
    }

    /// The same with these updates.
    fn luns_of(directory: &Path, numbers: [u64; 3]) -> [PathBuf; 3] {
        let mut images =
            [vec![0; BLOCKS * BLOCK_LENGTH], vec![0; 17 * BLOCK_LENGTH], vec![0; 17 * BLOCK_LENGTH]];
        let mut put = |lun: usize, block: u64, bytes: &[u8]| {
            let start = usize::try_from(block).unwrap() * BLOCK_LENGTH;
            images[lun][start..start + bytes.len()].copy_from_slice(bytes);
        };
        for (lun, which) in [RelayLun::Journal, RelayLun::First, RelayLun::Second].into_iter().enumerate() {
            put(lun, 0, &Label { lun: which, id: ID }.encode());
        }
        let (oldest, mut at, mut named) =
            (Position::start(UpdateNumber::new(1)), Position::start(UpdateNumber::new(1)), None);
        for number in numbers {
            let answer = answer(number);
            let batch = Batch {
                incarnation: Incarnation::new(5),
                id: ID,
                sequence: at.sequence,
                place: at.place,
                first: UpdateNumber::new(number),
                last: UpdateNumber::new(number),
                generation: GENERATION,
                wall_ns: 0,
                payload_blocks: u32::try_from(answer.len() / BLOCK_LENGTH).unwrap(),
                payload_crc: crc32c(&answer),
                previous_hash: at.previous_hash,
            };
            let (head, hash) = batch.encode();
            put(0, at.place, &[head, answer].concat());
            at = Position::behind(&batch, hash);
            named = if number == numbers[1] { Some(at) } else { named };
        }
        let information = {
            let (head, _) = Head::decode(&answer(1)).unwrap();
            let mut generations = Vec::new();
            encode_generations(&[GENERATION], &mut generations);
            Head { outcome: Outcome::NoJournal, updates: 0, ..head }.encode(&generations)
        };
        let control = FirstControl {
            incarnation: Incarnation::new(5),
            id: ID,
            sequence: 1,
            journal_blocks: BLOCKS as u64,
            oldest,
            newest: named.unwrap(),
            wall_ns: 0,
            information: (u32::try_from(information.len()).unwrap(), crc32c(&information)),
            hosts: Hosts::default(),
            has: Has::All,
            by_link: false,
            kept: None,
        };
        put(1, 1 + SLOT_BLOCKS, &[control.encode(), information].concat());
        let names = ["journal", "first", "second"];
        std::array::from_fn(|lun| {
            let path = directory.join(names[lun]);
            std::fs::write(&path, &images[lun]).unwrap();
            path
        })
    }

    fn look([journal, first, second]: &[PathBuf; 3]) -> Found {
        check(&[[journal, first, second]], None).unwrap()
    }

    #[test]
    fn a_chain_is_followed_to_its_end_and_damage_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let luns = luns(directory.path());
        let found = look(&luns);
        assert_eq!(found.damage, Vec::<String>::new());
        assert!(
            found.text.contains("updates 3 to 3, 0 bytes, behind the control information"),
            "{}",
            found.text
        );
        assert!(found.text.contains("the next update is 4 or later"));
        // The last one was being written: no damage. One that is named and rots: damage.
        let journal = std::fs::read(&luns[0]).unwrap();
        for (block, damage) in [(6, 0), (4, 2), (2, 2)] {
            let mut bad = journal.clone();
            bad[block * BLOCK_LENGTH + 100] ^= 1;
            std::fs::write(&luns[0], bad).unwrap();
            assert_eq!(look(&luns).damage.len(), damage, "block {block}: {:?}", look(&luns));
        }
        std::fs::write(&luns[0], &journal).unwrap();
        let [journal, first, second] = luns.clone();
        assert_eq!(look(&[first.clone(), journal, second.clone()]).damage.len(), 2, "they are mixed up");
        std::fs::write(&first, [0; 100]).unwrap();
        assert_eq!(look(&luns).damage.len(), 1);
        std::fs::remove_file(&second).unwrap();
        assert!(check(&[[&luns[0], &luns[1], &luns[2]]], None).is_err());
    }

    /// A batch near the end of the LUN of which only a part was written hid the longer one that took its place.
    #[test]
    fn a_batch_that_was_never_whole_does_not_hide_the_one_that_follows_at_the_front() {
        let directory = tempfile::tempdir().unwrap();
        let luns = luns(directory.path());
        let mut journal = std::fs::read(&luns[0]).unwrap();
        // Batch 3 lies behind batch 2; the same place in the chain is taken by a batch in block 1, where batch 1 was.
        let old = Batch::decode(&journal[5 * BLOCK_LENGTH..6 * BLOCK_LENGTH]).unwrap().0;
        let control = std::fs::read(&luns[1]).unwrap();
        let slot = usize::try_from(1 + SLOT_BLOCKS).unwrap() * BLOCK_LENGTH;
        let mut control = FirstControl::decode(&control[slot..slot + BLOCK_LENGTH]).unwrap();
        control.oldest = control.newest;
        let answer = answer(3);
        let batch = Batch { place: 1, payload_crc: crc32c(&answer), ..old };
        let bytes = [batch.encode().0, answer].concat();
        journal[BLOCK_LENGTH..BLOCK_LENGTH + bytes.len()].copy_from_slice(&bytes);
        journal[6 * BLOCK_LENGTH + 100] ^= 1;
        std::fs::write(&luns[0], &journal).unwrap();
        let lun = Lun::open(&luns[0]).unwrap();
        let (found, _, _) = next(&lun, &control.oldest, &control).unwrap().unwrap();
        assert_eq!(found.place, 1);
    }

    #[test]
    fn parts_of_several_relays_are_put_in_order() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (a, b) = (luns_of(one.path(), [1, 3, 4]), luns_of(other.path(), [2, 5, 9]));
        let image = one.path().join("image");
        std::fs::write(&image, [7; 2 * BLOCK_LENGTH]).unwrap();
        let wanted = Wanted { images: vec![(4, image)], as_of: 0 };
        let both = [a.each_ref().map(PathBuf::as_path), b.each_ref().map(PathBuf::as_path)];
        let found = check(&both, Some(&wanted)).unwrap();
        assert!(found.text.contains("updates 1 to 5 are written"), "{}", found.text);
        assert!(
            found.damage.len() == 1 && found.damage[0].contains("goes on with update 9"),
            "{:?}",
            found.damage
        );
        let found = check(&both[..1], Some(&wanted)).unwrap();
        assert!(found.text.contains("as of update 1"), "{}", found.text);
    }

    #[test]
    fn updates_are_written_onto_images_from_the_number_that_they_are_of() {
        let directory = tempfile::tempdir().unwrap();
        let [journal, first, second] = luns(directory.path());
        let image = directory.path().join("image");
        std::fs::write(&image, [7; 2 * BLOCK_LENGTH]).unwrap();
        let onto = |as_of| {
            let wanted = Wanted { images: vec![(4, image.clone())], as_of };
            check(&[[&journal, &first, &second]], Some(&wanted)).unwrap()
        };
        let found = onto(0);
        assert_eq!(found.damage, Vec::<String>::new());
        assert!(found.text.contains("updates 1 to 3 are written"), "{}", found.text);
        assert!(onto(2).text.contains("updates 3 to 3 are written"));
        assert!(onto(3).text.contains("nothing behind update 3"));
        // Rot in the second batch: it ends with the first.
        let mut bad = std::fs::read(&journal).unwrap();
        bad[4 * BLOCK_LENGTH + 100] ^= 1;
        std::fs::write(&journal, bad).unwrap();
        let found = onto(0);
        assert!(found.text.contains("as of update 1") && !found.damage.is_empty(), "{found:?}");
        assert_eq!(std::fs::read(&image).unwrap(), [7; 2 * BLOCK_LENGTH], "these updates carry no data");
    }
}
