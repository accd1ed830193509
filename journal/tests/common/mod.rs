//! A journal volume in memory that loses, tears and keeps unflushed sectors, and the oracle beside it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use holdfast_journal::format::{FormatParams, Layout, crc32c};
use holdfast_journal::recovery::{HEAD_BYTES, Recovered, Recovery, RecoveryError};
use holdfast_journal::{
    AppendError, ArrayNumber, Content, Draft, Extent, Full, Generation, GroupNumber, Incarnation, Journal,
    Kind, Stored, Update, UpdateNumber, VolumeNumber,
};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const SECTOR: usize = 512;
pub const LAYOUTS: [Layout; 2] = [Layout::TwoRings, Layout::Interleaved];

pub fn number(value: u64) -> UpdateNumber {
    UpdateNumber::new(value)
}

pub fn index(value: u64) -> usize {
    usize::try_from(value).unwrap()
}

/// A small generator, so that a failing case is its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The volume: what is flushed, and what was written since.
#[derive(Clone, Debug)]
pub struct Disk {
    pub flushed: Vec<u8>,
    written: Vec<(usize, Vec<u8>)>,
}

impl Disk {
    pub fn new(blocks: usize) -> Self {
        Self { flushed: vec![0; blocks * 4096], written: Vec::new() }
    }

    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let offset = index(offset);
        assert!(offset.is_multiple_of(4096) && offset + bytes.len() <= self.flushed.len());
        self.written.push((offset, bytes.to_vec()));
    }

    pub fn flush(&mut self) {
        for (offset, bytes) in self.written.drain(..) {
            self.flushed[offset..offset + bytes.len()].copy_from_slice(&bytes);
        }
    }

    /// Each unflushed sector is kept or lost by itself; sometimes whole writes are.
    pub fn crash(&mut self, random: &mut Random) {
        let style = random.below(4);
        for (offset, bytes) in std::mem::take(&mut self.written) {
            let keep_write = random.below(2) == 0;
            for (sector, chunk) in bytes.chunks(SECTOR).enumerate() {
                let keep = match style {
                    0 => keep_write,
                    1 => random.below(8) != 0,
                    _ => random.below(2) == 0,
                };
                if keep {
                    let at = offset + sector * SECTOR;
                    self.flushed[at..at + chunk.len()].copy_from_slice(chunk);
                }
            }
        }
    }

    pub fn read(&self, offset: u64, length: u64) -> &[u8] {
        &self.flushed[index(offset)..index(offset + length)]
    }
}

pub fn recover(disk: &Disk) -> Result<Recovered, RecoveryError> {
    let mut recovery = Recovery::open(disk.read(0, HEAD_BYTES))?;
    while let Some(request) = recovery.poll_read() {
        recovery.handle_read(disk.read(request.volume_offset, request.length));
    }
    let mut recovered = recovery.finish()?;
    for verify in recovered.verify() {
        let offset = verify.place.volume_offset_bytes + u64::from(verify.place.skip_bytes);
        if crc32c(disk.read(offset, u64::from(verify.data_bytes))) != verify.data_checksum {
            recovered.truncate_at(verify.number)?;
            break;
        }
    }
    Ok(recovered)
}

/// An update with its write data, made of a seed.
pub fn make_update(value: u64, seed: u64) -> (Draft, Vec<u8>) {
    let mut random = Random(seed);
    let start_bytes = random.below(64) * 512;
    let mut extents = Vec::new();
    let kind = match random.below(10) {
        0 => Kind::Heartbeat,
        1 => Kind::Void,
        _ => Kind::HostWrite,
    };
    let mut data = Vec::new();
    if kind == Kind::HostWrite {
        let length_bytes = (random.below(24) + 1) * 512;
        let content = match random.below(6) {
            0 => Content::Zero,
            1 => Content::Pattern { bytes: 512 },
            _ => Content::Data,
        };
        for volume in 0..=random.below(12) {
            let content = if volume == 0 { content } else { Content::Zero };
            let volume = VolumeNumber(u32::try_from(volume).unwrap());
            extents.push(Extent { volume, start_bytes, length_bytes, content });
        }
        let fill = random.next().to_le_bytes();
        data = fill.into_iter().cycle().take(index(extents[0].payload_bytes())).collect();
    }
    let update = Update {
        number: number(value),
        generation: Generation { counter: 1, array: ArrayNumber(1), first: number(1) },
        kind,
        time_ns: seed,
        extents,
        data_bytes: u32::try_from(data.len()).unwrap(),
        data_checksum: if data.is_empty() { 0 } else { crc32c(&data) },
    };
    (Draft::new(update), data)
}

/// An UNMAP of 256 descriptors: its record takes two blocks.
pub fn unmap(value: UpdateNumber) -> Draft {
    let extent = |start| Extent {
        volume: VolumeNumber(1),
        start_bytes: start,
        length_bytes: 1,
        content: Content::Zero,
    };
    Draft::new(Update {
        number: value,
        generation: Generation::default(),
        kind: Kind::HostWrite,
        time_ns: 0,
        extents: (0..256).map(extent).collect(),
        data_bytes: 0,
        data_checksum: 0,
    })
}

/// A journal, its volume, and what must be found on it.
pub struct Bench {
    pub disk: Disk,
    pub journal: Journal,
    /// Write data and update of every number that was appended and not thrown away since.
    pub oracle: BTreeMap<u64, (Arc<Update>, Vec<u8>)>,
    commit_written: bool,
    checkpoint_written: bool,
    pub released: u64,
}

impl Bench {
    pub fn new(blocks: usize, data_per_info: u32) -> Self {
        Self::with(blocks, data_per_info, Layout::TwoRings)
    }

    pub fn with(blocks: usize, data_per_info: u32, layout: Layout) -> Self {
        let mut disk = Disk::new(blocks);
        let params = FormatParams {
            incarnation: Incarnation::new(0x1234_5678_9ABC_DEF0_0FED_CBA9_8765_4321),
            array: ArrayNumber(1),
            group: GroupNumber(7),
            volume_bytes: u64::try_from(blocks * 4096).unwrap(),
            layout,
            data_per_info,
            first: UpdateNumber::FIRST,
            generation: Generation { counter: 1, array: ArrayNumber(1), first: number(1) },
        };
        let (head, journal) = Journal::format(params).unwrap();
        disk.write(0, &head);
        disk.flush();
        Self {
            disk,
            journal,
            oracle: BTreeMap::new(),
            commit_written: false,
            checkpoint_written: false,
            released: 0,
        }
    }

    /// Appends and writes the write data at once, before its records.
    pub fn append(&mut self, seed: u64) -> Result<(), Full> {
        let value = self.journal.next().get();
        let (draft, data) = make_update(value, seed);
        self.append_draft(draft, data)
    }

    pub fn append_draft(&mut self, draft: Draft, data: Vec<u8>) -> Result<(), Full> {
        let value = draft.update.number.get();
        let (size, skip) = (draft.size(), usize::from(draft.skip_bytes));
        let fits = self.journal.fits(size);
        let update = draft.update.clone();
        match self.journal.append(draft) {
            Ok(placement) => {
                assert!(fits);
                assert_eq!(placement.number.get(), value);
                if let Some(data_offset) = placement.data_offset.filter(|_| !data.is_empty()) {
                    let mut blocks = vec![0; index(placement.data_blocks) * 4096];
                    blocks[skip..skip + data.len()].copy_from_slice(&data);
                    self.disk.write(data_offset, &blocks);
                }
                self.oracle.insert(value, (update, data));
                Ok(())
            }
            Err(AppendError::Full(full)) => {
                assert!(!fits);
                Err(full)
            }
            Err(other) => panic!("{other}"),
        }
    }

    pub fn start_commit(&mut self) -> bool {
        let Some(commit) = self.journal.poll_commit() else { return false };
        self.disk.write(commit.info_offset, &commit.info);
        if self.journal.superblock().layout == Layout::Interleaved {
            let mut end = commit.info_offset + u64::try_from(commit.info.len()).unwrap();
            for (number, offset) in &commit.data {
                assert_eq!(*offset, end, "each behind what is before it");
                let data = &self.oracle[&number.get()].1;
                let place = self.journal.recent(*number).and_then(|stored| stored.place).unwrap();
                assert_eq!(place.volume_offset_bytes, *offset);
                let (skip, mut blocks) = (usize::from(place.skip_bytes), vec![0; index(place.blocks) * 4096]);
                blocks[skip..skip + data.len()].copy_from_slice(data);
                self.disk.write(*offset, &blocks);
                end += u64::try_from(blocks.len()).unwrap();
            }
        }
        self.commit_written = true;
        true
    }

    pub fn start_checkpoint(&mut self) -> bool {
        let Some(checkpoint) = self.journal.poll_checkpoint() else { return false };
        self.disk.write(checkpoint.volume_offset, &checkpoint.block);
        self.checkpoint_written = true;
        true
    }

    /// Flushes, and completes what was written before.
    pub fn flush(&mut self) {
        self.disk.flush();
        if std::mem::take(&mut self.commit_written) {
            self.journal.handle_committed().unwrap();
        }
        if std::mem::take(&mut self.checkpoint_written) {
            self.journal.handle_checkpointed();
        }
    }

    pub fn release(&mut self, count: u64) {
        self.released = (self.released + count).min(self.journal.durable().get());
        self.journal.release(number(self.released));
        self.journal.handle_settled(number(self.released));
    }

    /// Makes everything durable and says so.
    pub fn settle_down(&mut self) {
        loop {
            if self.start_checkpoint() | self.start_commit() {
                self.flush();
            } else if !self.journal.idle_commit() {
                return;
            }
        }
    }

    pub fn crash(&mut self, random: &mut Random) {
        self.disk.crash(random);
        self.commit_written = false;
        self.checkpoint_written = false;
        let durable = self.journal.durable();
        let recovered = recover(&self.disk).expect("a crash is no corruption");
        assert!(recovered.newest() >= durable, "{durable} was durable, {} found", recovered.newest());
        assert!(recovered.newest() < self.journal.next());
        self.journal = recovered.into_journal();
        self.oracle.split_off(&self.journal.next().get());
        self.check();
    }

    /// Everything that is held is found as it was appended, in order, on the volume itself.
    pub fn check(&self) {
        let first = self.journal.first_retained().get();
        assert!(first <= self.released + 1, "held from {first}, released {}", self.released);
        let mut value = first;
        while value <= self.journal.durable().get() {
            for stored in self.read_back(value) {
                let expected = &self.oracle[&stored.update.number.get()];
                assert_eq!(stored.update, expected.0);
                if let Some(place) = stored.place {
                    let offset = place.volume_offset_bytes + u64::from(place.skip_bytes);
                    assert_eq!(self.disk.read(offset, u64::from(stored.update.data_bytes)), expected.1);
                    let recent = self.journal.recent(stored.update.number);
                    assert!(recent.is_none_or(|recent| *recent == stored));
                }
                assert!(stored.update.number.get() >= value);
                value = stored.update.number.get() + 1;
            }
        }
        assert_eq!(value, self.journal.durable().get() + 1);
    }

    fn read_back(&self, value: u64) -> Vec<Stored> {
        let located = self.journal.locate(number(value)).expect("what is held is found");
        let bytes = self.disk.read(located.info_offset, located.info_bytes);
        let mut updates = located.decode(self.journal.superblock(), bytes).unwrap();
        updates.retain(|stored| stored.update.number.get() >= value);
        assert_eq!(updates[0].update.number.get(), value);
        updates
    }
}
