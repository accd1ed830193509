use super::super::crc32c;
use super::*;
use crate::reader::Report;
use alloc::collections::VecDeque;
use alloc::vec;
use proptest::prelude::*;

const ID: RelayId = RelayId { first: ArrayNumber(1), group: GroupNumber(4), second: ArrayNumber(2) };
const GENERATION: Generation = Generation { counter: 3, array: ArrayNumber(1), first: UpdateNumber::new(1) };
const CHAIN: (Incarnation, RelayId) = (Incarnation::new(77), ID);

fn batch(at: Position, place: u64, updates: u64, payload: &[u8]) -> Batch {
    Batch {
        incarnation: CHAIN.0,
        id: ID,
        sequence: at.sequence,
        place,
        first: at.number,
        last: UpdateNumber::new(at.number.get() + updates - 1),
        generation: GENERATION,
        wall_ns: 9,
        payload_blocks: u32::try_from(payload.len() / BLOCK_LENGTH).unwrap(),
        payload_crc: crc32c(payload),
        previous_hash: at.previous_hash,
    }
}

fn first_control() -> FirstControl {
    let oldest = Position { place: 5, sequence: 3, number: UpdateNumber::new(20), previous_hash: 8 };
    FirstControl {
        incarnation: CHAIN.0,
        id: ID,
        sequence: 12,
        journal_blocks: 300,
        oldest,
        newest: Position { place: 300, sequence: 9, number: UpdateNumber::new(44), previous_hash: 9 },
        wall_ns: 5,
        information: (160, 4),
        hosts: Hosts { wait: true, question: 77, lease_ms: 2_500, relays: 2 },
        has: Has::Parts,
        by_link: true,
        kept: Some(kept()),
    }
}

fn kept() -> Kept {
    let oldest = Position { place: 77, sequence: 9, number: UpdateNumber::new(10), previous_hash: 3 };
    let newest = Position { place: 4, sequence: 12, number: UpdateNumber::new(21), previous_hash: 7 };
    Kept { incarnation: Incarnation::new(76), journal_blocks: 300, oldest, newest }
}

fn second_control() -> SecondControl {
    let report = Report {
        acknowledged: UpdateNumber::new(9),
        restored: UpdateNumber::new(8),
        settled: UpdateNumber::new(7),
        consistent_from: UpdateNumber::new(2),
    };
    SecondControl {
        incarnation: CHAIN.0,
        id: ID,
        sequence: 4,
        report,
        generation: GENERATION,
        wall_ns: 6,
        question: 78,
    }
}

#[test]
fn what_is_encoded_is_decoded_and_no_flipped_bit_passes() {
    let label = Label { lun: RelayLun::First, id: ID };
    let made = batch(Position::start(UpdateNumber::new(7)), 1, 3, &[1; 2 * BLOCK_LENGTH]);
    let (head, hash) = made.encode();
    assert_eq!(Label::decode(&label.encode()), Ok(label));
    assert_eq!(Batch::decode(&head), Ok((made, hash)));
    assert_eq!(FirstControl::decode(&first_control().encode()), Ok(first_control()));
    let alone = FirstControl { kept: None, ..first_control() };
    assert_eq!(FirstControl::decode(&alone.encode()), Ok(alone));
    assert_eq!(SecondControl::decode(&second_control().encode()), Ok(second_control()));
    let blocks = [label.encode(), head, first_control().encode(), second_control().encode()];
    for good in &blocks {
        assert_eq!(good.len(), BLOCK_LENGTH);
        for at in (0..250).chain(SEALED_LENGTH - 3..BLOCK_LENGTH) {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(is_nothing(&bad), "byte {at}, bit {bit}");
            }
        }
        for cut in [0, 7, 8, 11, 100, SEALED_LENGTH] {
            assert!(is_nothing(&good[..cut]));
        }
    }
}

#[test]
fn lengths_that_no_array_writes_are_not_believed() {
    let good = batch(Position::start(UpdateNumber::new(7)), 1, 3, &[1; BLOCK_LENGTH]);
    for bad in [
        Batch { payload_blocks: 0, ..good },
        Batch { payload_blocks: MAX_PAYLOAD_BLOCKS + 1, ..good },
        Batch { payload_blocks: u32::MAX, ..good },
        Batch { last: UpdateNumber::new(6), ..good },
        Batch { last: UpdateNumber::new(7 + MAX_BATCH_UPDATES), ..good },
        Batch { first: UpdateNumber::NONE, last: UpdateNumber::NONE, ..good },
        Batch { place: 0, ..good },
        Batch { sequence: 0, ..good },
    ] {
        assert!(Batch::decode(&bad.encode().0).is_err(), "{bad:?}");
    }
    let good = first_control();
    for bad in [
        FirstControl { information: (u32::MAX, 0), ..good.clone() },
        FirstControl { journal_blocks: u64::MAX, ..good.clone() },
        FirstControl { newest: Position { place: 301, ..good.newest }, ..good.clone() },
        FirstControl { newest: Position { place: 0, ..good.newest }, ..good.clone() },
        FirstControl { newest: good.oldest, oldest: good.newest, ..good.clone() },
        FirstControl { kept: Some(Kept { journal_blocks: 76, ..kept() }), ..good.clone() },
        FirstControl { kept: Some(Kept { journal_blocks: u64::MAX, ..kept() }), ..good.clone() },
        FirstControl {
            kept: Some(Kept { newest: kept().oldest, oldest: kept().newest, ..kept() }),
            ..good.clone()
        },
    ] {
        assert!(FirstControl::decode(&bad.encode()).is_err(), "{bad:?}");
    }
}

#[test]
fn only_the_next_batch_of_this_chain_at_this_place_follows() {
    let at = Position { place: 10, sequence: 5, number: UpdateNumber::new(50), previous_hash: 99 };
    let good = batch(at, 10, 2, &[0; BLOCK_LENGTH]);
    assert!(at.is_followed_by(&good, CHAIN, 5_000));
    let other = RelayId { group: GroupNumber(5), ..ID };
    for bad in [
        Batch { sequence: 4, ..good },
        Batch { sequence: 6, ..good },
        Batch { previous_hash: 98, ..good },
        Batch { incarnation: Incarnation::new(78), ..good },
        Batch { id: other, ..good },
        Batch { place: 11, ..good },
        Batch { first: UpdateNumber::new(49), ..good },
    ] {
        assert!(!at.is_followed_by(&bad, CHAIN, 5_000), "{bad:?}");
    }
    // Beyond the end of the LUN; and at its beginning only where it may not have fitted.
    assert!(!at.is_followed_by(&good, CHAIN, 11));
    assert!(!at.is_followed_by(&Batch { place: 1, ..good }, CHAIN, 5_000));
    assert!(at.is_followed_by(&Batch { place: 1, ..good }, CHAIN, 1_000));
    // Numbers that the second array has reported may be passed over.
    let later = Batch { first: UpdateNumber::new(60), last: UpdateNumber::new(61), ..good };
    assert!(at.is_followed_by(&later, CHAIN, 5_000));
}

/// What a chain before has is not overwritten while it is kept, and neither takes more than half of the LUN.
#[test]
fn a_chain_beside_one_that_is_kept_spares_it_and_each_has_half_of_the_lun() {
    let put = |ring: &mut RelayRing, blocks: u64| {
        let at = ring.newest();
        let place = ring.place_for(blocks)?;
        ring.push(&batch(at, place, 1, &vec![0; BLOCK_LENGTH * usize::try_from(blocks - 1).unwrap()]), 7);
        Some(place)
    };
    // 40 blocks behind the label; the first chain begins near the end, so it goes round.
    let mut ring = RelayRing::halved(41, Position::start_at(36, UpdateNumber::FIRST), None);
    let places: Vec<_> = (0..6).map(|_| put(&mut ring, 5)).collect();
    assert_eq!(places, [Some(36), Some(1), Some(6), Some(11), None, None]);
    let kept = ring.kept_as(Incarnation::new(3)).unwrap();
    assert_eq!((kept.oldest.place, kept.newest.place, kept.journal_blocks), (36, 16, 41));
    let begin = || RelayRing::halved(41, Position::start_at(16, UpdateNumber::FIRST), Some(kept));
    let mut ring = begin();
    assert_eq!((put(&mut ring, 21), ring.usage().0), (None, 0), "no more than half");
    let places: Vec<_> = (0..6).map(|_| put(&mut ring, 5)).collect();
    assert_eq!(places, [Some(16), Some(21), Some(26), Some(31), None, None]);
    ring.release(UpdateNumber::new(1));
    assert_eq!(put(&mut ring, 5), None, "what is kept lies there");
    ring.grow(100);
    assert_eq!(ring.journal_blocks(), 41);
    assert!(ring.forget_kept() && !ring.forget_kept());
    assert_eq!(put(&mut ring, 5), Some(36));
    assert_eq!(begin().kept_as(Incarnation::new(4)), None, "there is nothing in it");
}

/// No structure of any kind.
fn is_nothing(block: &[u8]) -> bool {
    Label::decode(block).is_err()
        && Batch::decode(block).is_err()
        && FirstControl::decode(block).is_err()
        && SecondControl::decode(block).is_err()
}

/// A journal LUN in memory, with its writer.
struct Lun {
    blocks: Vec<Vec<u8>>,
    ring: RelayRing,
    /// Writes so far: what was torn is never completed by bytes that happen to be the same.
    writes: u8,
}

impl Lun {
    fn new(blocks: u64) -> Self {
        let count = usize::try_from(blocks).unwrap();
        Self {
            blocks: vec![vec![0; BLOCK_LENGTH]; count],
            ring: RelayRing::new(blocks, Position::start(UpdateNumber::new(1))),
            writes: 0,
        }
    }

    /// Writes the next batch, `torn` of its blocks only; false if there is no room.
    fn write(&mut self, updates: u64, payload_blocks: usize, torn: Option<usize>) -> bool {
        let at = self.ring.newest();
        let Some(place) = self.ring.place_for(payload_blocks as u64 + 1) else { return false };
        self.writes = self.writes.wrapping_add(1);
        let payload = vec![self.writes; payload_blocks * BLOCK_LENGTH];
        let made = batch(at, place, updates, &payload);
        let (head, hash) = made.encode();
        let whole = [head, payload].concat();
        let start = usize::try_from(place).unwrap();
        for (index, block) in whole.chunks(BLOCK_LENGTH).enumerate().take(torn.unwrap_or(usize::MAX)) {
            self.blocks[start + index] = block.to_vec();
        }
        if torn.is_none() {
            self.ring.push(&made, hash);
        }
        true
    }

    /// All batches from `at` on, as a reader finds them that is told nothing else.
    fn scan(&self, mut at: Position) -> Vec<(u64, u64)> {
        let total = self.blocks.len() as u64;
        let mut found = Vec::new();
        loop {
            let next = at.candidates(total).into_iter().flatten().find_map(|place| {
                let start = usize::try_from(place).unwrap();
                let (batch, hash) = Batch::decode(&self.blocks[start]).ok()?;
                let is_next = at.is_followed_by(&batch, CHAIN, total) && batch.place == place;
                let end = start + 1 + usize::try_from(batch.payload_blocks).unwrap();
                let payload = is_next.then(|| self.blocks[start + 1..end].concat())?;
                (crc32c(&payload) == batch.payload_crc).then_some((batch, hash))
            });
            let Some((batch, hash)) = next else { return found };
            found.push((batch.first.get(), batch.last.get()));
            at = Position::behind(&batch, hash);
            assert!(found.len() <= self.blocks.len(), "a chain without end");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever is written, freed and torn: from the oldest batch a reader finds every complete one in order, and nothing
    /// else.
    #[test]
    fn a_scan_finds_exactly_what_is_held(
        steps in prop::collection::vec((0_u8..10, 1_u64..20, 1_usize..40), 1..90),
        blocks in 256_u64..400,
    ) {
        let mut lun = Lun::new(blocks);
        let mut held: VecDeque<(u64, u64)> = VecDeque::new();
        for (what, updates, size) in steps {
            let first = lun.ring.newest().number.get();
            match what {
                0..=6 => {
                    if lun.write(updates, size, None) {
                        held.push_back((first, first + updates - 1));
                    }
                }
                // The power goes while it is written; the writer, back again, writes another one there.
                7 => {
                    lun.write(updates, size, Some(size / 2 + 1));
                }
                _ => {
                    let upto = held.front().map_or(0, |(_, last)| last + updates % 3);
                    lun.ring.release(UpdateNumber::new(upto));
                    while held.front().is_some_and(|(_, last)| *last <= upto) {
                        held.pop_front();
                    }
                }
            }
            prop_assert_eq!(lun.scan(lun.ring.oldest()), Vec::from_iter(held.iter().copied()));
            let (used, all) = lun.ring.usage();
            prop_assert!(used <= all && (used == 0) == held.is_empty());
        }
    }

    /// Bytes of any kind are refused without harm.
    #[test]
    fn what_is_not_written_by_an_array_is_nothing(mut block in prop::collection::vec(any::<u8>(), BLOCK_LENGTH), magic in 0_usize..4) {
        let magics = [LABEL_MAGIC, BATCH_MAGIC, FIRST_MAGIC, SECOND_MAGIC];
        block[..8].copy_from_slice(magics[magic]);
        block[8..12].copy_from_slice(&VERSION.to_le_bytes());
        prop_assert!(is_nothing(&block));
        // And with a checksum that is right: no panic, whatever else it says.
        let crc = crc32c(&block[..SEALED_LENGTH]);
        block[SEALED_LENGTH..].copy_from_slice(&crc.to_le_bytes());
        if let Ok((batch, hash)) = Batch::decode(&block) {
            let _ = Position::behind(&batch, hash);
            prop_assert!(!Position::start(UpdateNumber::new(1)).is_followed_by(&batch, CHAIN, 300));
        }
        let _ = (Label::decode(&block), FirstControl::decode(&block), SecondControl::decode(&block));
    }
}

#[test]
fn a_ring_grows_when_it_holds_nothing_and_goes_round_at_its_old_end_until_then() {
    let mut ring = RelayRing::new(20, Position::start(UpdateNumber::FIRST));
    let put = |ring: &mut RelayRing, blocks: u64| {
        let at = ring.newest();
        let place = ring.place_for(blocks)?;
        ring.push(&batch(at, place, 1, &vec![0; BLOCK_LENGTH * usize::try_from(blocks - 1).unwrap()]), 7);
        Some(place)
    };
    assert_eq!((put(&mut ring, 9), put(&mut ring, 9)), (Some(1), Some(10)));
    ring.grow(100);
    assert_eq!((ring.journal_blocks(), put(&mut ring, 2)), (20, None), "both are held");
    ring.release(UpdateNumber::new(1));
    ring.grow(100);
    assert_eq!((ring.journal_blocks(), put(&mut ring, 2)), (20, Some(1)), "it goes round");
    ring.release(ring.newest().number);
    ring.grow(100);
    assert_eq!((ring.journal_blocks(), ring.newest(), ring.oldest()), (100, ring.newest(), ring.newest()));
    assert_eq!(put(&mut ring, 40), Some(3));
    ring.release(ring.newest().number);
    ring.grow(50);
    assert_eq!(ring.journal_blocks(), 100, "never smaller");
}
