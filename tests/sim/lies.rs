//! A peer that lies, with the right secrets and, where it matters, with the right checksums: fifty scripted lies in
//! answers to journal reads and in reported positions. None changes an S-VOL into anything but a prefix of the history,
//! none ends a process, each that can be told from the truth is shown with its reason, and when the peer tells the
//! truth again everything becomes equal by itself.
//!
//! Not among them, because nobody could tell them from the truth: well-formed updates with the right numbers and other
//! content. What an auxiliary copies is what its primary says.

use crate::cluster::{ALPHA, ARRAYS, Cluster, EIGHT};
use crate::in_virtual_time;
use crate::port::SimPort;
use crate::story::{Known, geometry_of};
use crate::support::random::Random;
use crate::support::wof::{Observed, Plan, Until, Verdict, Writer, check_monotone, check_prefix, read_image};
use holdfast::copy::answer::{HEAD_BYTES, Head, Outcome};
use holdfast::copy::serve::Answer;
use holdfast::copy::tamper::Tamper;
use holdfast::disk::slot::{Class, SLOT_BYTES, Slot, SlotPool};
use holdfast_journal::UpdateNumber;
use holdfast_journal::reader::Report;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// What is done to an answer, or to a position.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Big-endian bytes at a place of the head, its checksum made good.
    Head(usize, u64, usize),
    /// Little-endian bytes at a place of the first record, its checksum and that of the head made good.
    Record(usize, u64, usize),
    /// The same in its first extent.
    Extent(usize, u64, usize),
    /// A bit of the head, of the first record, of the first page of write data.
    FlipHead(usize),
    FlipRecord(usize),
    FlipData(usize),
    /// The records in the other order.
    RecordsReversed,
    /// The first record twice.
    RecordTwice,
    /// Every record but the first, or but the last.
    WithoutFirstRecord,
    WithoutLastRecord,
    /// The last records cut off in the middle.
    RecordsCut,
    /// Without the last page, without any write data, without anything, with only half a head.
    WithoutLastPage,
    WithoutData,
    Nothing,
    HalfAHead,
    /// Pages that nobody announced.
    MorePages(usize),
    /// Two pages of write data in each other's place.
    PagesSwapped,
    /// Noise of the right length.
    Noise,
    /// An answer of before.
    Replayed,
    /// There is nothing, it is not normal, it is not held.
    Says(Outcome),
    /// A position: acknowledged, restored, settled, consistent from.
    Position([u64; 4]),
    /// The true position with this much added to each of the four.
    PositionPlus([u64; 4]),
}

const FAR: u64 = u64::MAX;
/// Each with whether it has to be shown with a reason; the others are harmless and go by unnoticed.
const LIES: [(Lie, bool); 50] = [
    // Not an answer.
    (Lie::Head(0, 0, 4), true),
    (Lie::Head(4, 9, 2), true),
    (Lie::Head(6, 9, 1), true),
    (Lie::Nothing, true),
    (Lie::HalfAHead, true),
    (Lie::Noise, true),
    // Of another group.
    (Lie::Head(8, 7, 4), true),
    (Lie::Head(8, FAR, 4), true),
    // Wrong sequence.
    (Lie::Head(24, 0, 8), true),
    (Lie::Head(24, FAR, 8), true),
    (Lie::Head(24, 1 << 40, 8), true),
    (Lie::Record(16, 0, 8), true),
    (Lie::Record(16, FAR, 8), true),
    (Lie::Record(16, 1 << 40, 8), true),
    (Lie::RecordsReversed, true),
    (Lie::RecordTwice, true),
    (Lie::WithoutFirstRecord, true),
    // What it stood in the place of is missed, and asked for again as a range.
    (Lie::Replayed, false),
    // Oversize.
    (Lie::Head(12, 4097, 4), true),
    (Lie::Head(12, FAR, 4), true),
    (Lie::Head(16, 0, 4), true),
    (Lie::Head(16, 257, 4), true),
    (Lie::Head(16, FAR, 4), true),
    (Lie::Head(104, FAR, 4), true),
    (Lie::Record(4, FAR, 4), true),
    (Lie::Record(10, 257, 2), true),
    (Lie::Record(12, 17 << 20, 4), true),
    (Lie::MorePages(2048), false),
    // Wrong volume, or not in it.
    (Lie::Extent(8, 1 << 30, 8), true),
    (Lie::Extent(8, FAR, 8), true),
    (Lie::Extent(16, 0, 8), true),
    (Lie::Extent(16, FAR, 8), true),
    (Lie::Extent(4, 7, 2), true),
    // Truncated.
    (Lie::WithoutLastRecord, true),
    (Lie::RecordsCut, true),
    (Lie::WithoutLastPage, true),
    (Lie::WithoutData, true),
    // Bits.
    (Lie::FlipHead(30), true),
    (Lie::FlipHead(126), true),
    (Lie::FlipRecord(20), true),
    (Lie::FlipRecord(70), true),
    (Lie::FlipData(5), true),
    (Lie::PagesSwapped, true),
    // Positions and states.
    (Lie::Head(32, 0, 8), true),
    (Lie::Says(Outcome::GroupNotNormal), true),
    (Lie::Says(Outcome::NotHeld), true),
    (Lie::Position([FAR, FAR, FAR, 0]), true),
    (Lie::PositionPlus([1 << 20, 0, 0, 0]), true),
    (Lie::PositionPlus([0, 1 << 20, 1 << 21, 0]), true),
    (Lie::PositionPlus([0, 0, 0, 1 << 40]), true),
];

/// A lie is told this often, so that one lucky repetition does not hide it.
const TIMES: u32 = 3;

#[derive(Debug)]
struct Liar {
    state: Mutex<State>,
    pool: SlotPool,
}

#[derive(Debug, Default)]
struct State {
    lie: Option<Lie>,
    told: u32,
    before: VecDeque<(Vec<u8>, Vec<Slot>)>,
}

impl Tamper for Liar {
    fn answer(&self, answer: Answer) -> Answer {
        let mut state = self.state.lock().unwrap();
        let Ok((head, records)) = Head::decode(&answer.head) else { return answer };
        if head.outcome != Outcome::Updates || records.is_empty() {
            return answer;
        }
        let records = records.to_vec();
        state.before.push_back((answer.head.clone(), answer.pages.clone()));
        if state.before.len() > 8 {
            state.before.pop_front();
        }
        match state.lie {
            Some(lie) if state.told < TIMES => {
                match self.forge(lie, &head, &records, answer.pages.clone(), &state) {
                    Some(forged) => {
                        state.told += 1;
                        forged
                    }
                    None => answer,
                }
            }
            _ => answer,
        }
    }

    fn position(&self, position: Report) -> Report {
        let mut state = self.state.lock().unwrap();
        let number = UpdateNumber::new;
        let forged = match state.lie {
            Some(Lie::Position([acknowledged, restored, settled, consistent_from])) => Report {
                acknowledged: number(acknowledged),
                restored: number(restored),
                settled: number(settled),
                consistent_from: number(consistent_from),
            },
            Some(Lie::PositionPlus([acknowledged, restored, settled, consistent_from])) => Report {
                acknowledged: number(position.acknowledged.get() + acknowledged),
                restored: number(position.restored.get() + restored),
                settled: number(position.settled.get() + settled),
                consistent_from: number(position.consistent_from.get() + consistent_from),
            },
            _ => return position,
        };
        if state.told >= TIMES {
            return position;
        }
        state.told += 1;
        forged
    }
}

impl Liar {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), pool: SlotPool::new(64 << 20) })
    }

    fn tell(&self, lie: Option<Lie>) {
        let mut state = self.state.lock().unwrap();
        state.lie = lie;
        state.told = 0;
    }

    fn told(&self) -> u32 {
        self.state.lock().unwrap().told
    }

    /// None if this answer is not one that the lie can be told about.
    fn forge(
        &self,
        lie: Lie,
        head: &Head,
        records: &[u8],
        mut pages: Vec<Slot>,
        state: &State,
    ) -> Option<Answer> {
        let each = split(records);
        let resealed = |records: &[u8], updates: usize| {
            Head { updates: u32::try_from(updates).unwrap(), ..head.clone() }.encode(records)
        };
        let bytes = match lie {
            Lie::Head(at, value, length) => {
                let mut bytes = head.encode(records);
                bytes[at..at + length].copy_from_slice(&value.to_be_bytes()[8 - length..]);
                seal_head(&mut bytes, records.len());
                bytes
            }
            Lie::Record(at, value, length) | Lie::Extent(at, value, length) => {
                let at = if matches!(lie, Lie::Extent(..)) { at + FIRST_EXTENT } else { at };
                if matches!(lie, Lie::Extent(..)) && each[0].len() == WITHOUT_EXTENTS {
                    return None;
                }
                let mut records = records.to_vec();
                records[at..at + length].copy_from_slice(&value.to_le_bytes()[..length]);
                let end = each[0].len();
                let crc = crc32c(&records[..end - 4]);
                records[end - 4..end].copy_from_slice(&crc.to_le_bytes());
                head.encode(&records)
            }
            Lie::FlipHead(at) => flipped(head.encode(records), at),
            Lie::FlipRecord(at) => flipped(head.encode(records), HEAD_BYTES + at),
            Lie::FlipData(at) => {
                let page = pages.first_mut()?;
                *page = self.page(&flipped(page.to_vec(), at + usize::from(first_byte(each[0])?)));
                head.encode(records)
            }
            Lie::RecordsReversed if each.len() > 1 => {
                resealed(&each.iter().rev().copied().collect::<Vec<_>>().concat(), each.len())
            }
            Lie::RecordTwice => resealed(&[each[0], records].concat(), each.len() + 1),
            Lie::WithoutFirstRecord if each.len() > 1 => resealed(&each[1..].concat(), each.len() - 1),
            Lie::WithoutLastRecord => head.encode(&each[..each.len() - 1].concat()),
            Lie::RecordsCut => head.encode(&records[..records.len() - 20]),
            Lie::WithoutLastPage => {
                pages.pop()?;
                head.encode(records)
            }
            Lie::WithoutData => {
                if pages.is_empty() {
                    return None;
                }
                pages.clear();
                head.encode(records)
            }
            Lie::Nothing => {
                pages.clear();
                Vec::new()
            }
            Lie::HalfAHead => {
                pages.clear();
                head.encode(records)[..60].to_vec()
            }
            Lie::MorePages(count) => {
                let page = self.page(&[0xA5; SLOT_BYTES]);
                pages.extend(std::iter::repeat_n(page, count));
                head.encode(records)
            }
            Lie::PagesSwapped => {
                let last = pages.len().checked_sub(1)?;
                if pages[0].as_slice() == pages[last].as_slice() {
                    return None;
                }
                pages.swap(0, last);
                head.encode(records)
            }
            Lie::Noise => {
                let mut noise = head.encode(records);
                Random::new(1).fill(&mut noise);
                noise
            }
            Lie::Replayed => {
                let (bytes, old) = state.before.front()?.clone();
                pages = old;
                bytes
            }
            Lie::Says(outcome) => {
                pages.clear();
                Head { outcome, updates: 0, ..head.clone() }.encode(&[])
            }
            Lie::RecordsReversed | Lie::WithoutFirstRecord | Lie::Position(_) | Lie::PositionPlus(_) => {
                return None;
            }
        };
        let mut bytes = bytes;
        bytes.resize(bytes.len().next_multiple_of(SLOT_BYTES), 0);
        Some(Answer { head: bytes, pages })
    }

    fn page(&self, bytes: &[u8]) -> Slot {
        let mut slot = self.pool.try_take(Class::Host, 1).expect("few pages are forged").remove(0);
        slot.copy_from_slice(bytes);
        slot.freeze()
    }
}

/// The records one by one.
fn split(mut records: &[u8]) -> Vec<&[u8]> {
    let mut each = Vec::new();
    while !records.is_empty() {
        let length = u32::from_le_bytes(records[4..8].try_into().unwrap());
        let (first, rest) = records.split_at(usize::try_from(length).unwrap());
        each.push(first);
        records = rest;
    }
    each
}

/// Where the first byte of the first extent's data lies in its page; none if it has no data.
fn first_byte(record: &[u8]) -> Option<u16> {
    let extent = record.get(FIRST_EXTENT..FIRST_EXTENT + 24).filter(|_| record.len() > WITHOUT_EXTENTS)?;
    let start = u64::from_le_bytes(extent[8..16].try_into().unwrap());
    (extent[4..6] == [0, 0]).then_some(u16::try_from(start % 4096).unwrap())
}

fn flipped(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 0x04;
    bytes
}

fn seal_head(bytes: &mut [u8], record_bytes: usize) {
    let covered = [&bytes[..HEAD_BYTES - 4], &bytes[HEAD_BYTES..HEAD_BYTES + record_bytes]].concat();
    let crc = crc32c(&covered);
    bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&crc.to_be_bytes());
}

fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap()
}

struct Trial {
    cluster: Cluster,
    writer: Writer,
    ports: Vec<SimPort>,
    liar: Arc<Liar>,
    known: Option<Known>,
    before: [Option<Verdict>; 3],
}

impl Trial {
    async fn caught_up(&self) {
        let since = self.cluster.clock_ms();
        loop {
            let newest = self.cluster.newest().expect("the primary runs");
            if (1..ARRAYS.len()).all(|index| self.cluster.position(index) == Some((newest, newest))) {
                return;
            }
            assert!(self.cluster.clock_ms() < since + 120_000, "not equal again: {}", self.cluster.state());
            self.cluster.sleep_ms(50).await;
        }
    }

    /// The reason that an auxiliary shows for not reading.
    fn reason(&self) -> Option<String> {
        let shown = |index| self.cluster.snapshot(index)?.groups.first()?.follows.as_ref()?.reason.clone();
        (1..ARRAYS.len()).find_map(shown)
    }

    async fn write(&mut self, commands: u64) {
        let never = AtomicBool::new(false);
        let until = Until { commands, stop: &never };
        let running = self.writer.run(&self.ports, &*self.cluster.clock, 8, until);
        let summary = tokio::select! {
            biased;
            summary = running => summary,
            () = self.cluster.sleep_ms(120_000) => panic!("hosts do not go on: {}", self.cluster.state()),
        };
        assert_eq!(summary.violations, []);
    }

    async fn expect_prefixes(&mut self, what: &str) {
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            let images = self.cluster.visible_copies(index).await;
            let log = self.writer.log();
            let observed = Observed::from_changed_images(log, &images, self.known.as_ref());
            let verdict = check_prefix(log, &observed);
            verdict.expect_clean(&format!("{name} after {what}"));
            if let Some(before) = &self.before[index] {
                assert_eq!(check_monotone(log.geometry(), before, &verdict), [], "{name} after {what}");
            }
            self.known = Some((images, observed));
            self.before[index] = Some(verdict);
        }
    }

    /// One lie, told until it has been heard; what was shown because of it.
    async fn suffer(&mut self, lie: Lie) -> Option<String> {
        self.caught_up().await;
        self.liar.tell(Some(lie));
        let (mut reason, mut waited_ms) = (None, 0);
        while self.liar.told() == 0 || waited_ms < 4_000 {
            if waited_ms % 200 == 0 {
                self.write(6).await;
            }
            reason = reason.or_else(|| self.reason());
            self.cluster.sleep_ms(20).await;
            waited_ms += 20;
            assert!(waited_ms < 120_000, "{lie:?} cannot be told");
        }
        self.expect_prefixes(&format!("{lie:?}")).await;
        self.liar.tell(None);
        self.caught_up().await;
        self.expect_prefixes(&format!("the truth after {lie:?}")).await;
        reason
    }
}

#[test]
fn fifty_lies_of_a_peer_change_no_copy_and_are_shown_with_their_reason() {
    in_virtual_time(async {
        let cluster = Cluster::new(50, EIGHT);
        let liar = Liar::new();
        for array in 0..ARRAYS.len() {
            cluster.plant(array, liar.clone());
            cluster.start(array).await;
        }
        let ports =
            (1..=4).map(|number| SimPort::new(&cluster, "host", number, ALPHA).thinking_ms(4)).collect();
        let writer = Writer::new(50, Plan::mixed(50, geometry_of(EIGHT)));
        let mut trial = Trial { cluster, writer, ports, liar, known: None, before: Default::default() };
        while !(1..3).all(|index| trial.cluster.is_normal(index)) {
            trial.cluster.sleep_ms(20).await;
        }
        let mut unnamed = Vec::new();
        for (lie, has_reason) in LIES {
            let reason = trial.suffer(lie).await;
            println!("{lie:?}: {}", reason.as_deref().unwrap_or("no effect"));
            if reason.is_none() == has_reason {
                unnamed.push((lie, reason));
            }
        }
        assert!(unnamed.is_empty(), "lies without their reason, or truths with one: {unnamed:?}");
        let geometry = trial.writer.log().geometry();
        let port = |index| SimPort::new(&trial.cluster, "reader", 9, index);
        let primary = read_image(&port(ALPHA), geometry).await.unwrap();
        for (index, name) in ARRAYS.iter().enumerate().skip(1) {
            assert!(read_image(&port(index), geometry).await.unwrap() == primary, "{name} differs");
        }
    });
}

/// Where the first extent of a wire record lies.
const FIRST_EXTENT: usize = 64;
/// Bytes of a wire record that has none.
const WITHOUT_EXTENTS: usize = 72;
