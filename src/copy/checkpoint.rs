//! What the copy keeps in a journal's checkpoint beside the journal's own fields.
//!
//! | byte | field |
//! |---|---|
//! | 0 | version u16 = 2 |
//! | 2 | pairs u16, 4 reserved u32 |
//! | 8 | consistent-from number u64 |
//! | 16 | updates up to this number u64 may be visible in the S-VOLs (`promise.rs`); all ones: all that the journal holds |
//! | 24 | up to this number u64 restore goes without a stop (`whole.rs`) |
//! | 32 | for each pair whose copy is under way 20 bytes: pair u32, copy completion address u64 (where the P-VOL is itself a copy: which copy of the pair this is), copy end u64 |
//! | … | the readers as `holdfast_journal::reader::ReaderSet` encodes them, to the end |
//!
//! Little-endian. Everything here may be older than the journal: recovery raises it by what the records say.

use super::group::Sequencer;
use super::promise::Promise;
use crate::volume::pair::{PairRecord, PairState};
use holdfast_journal::UpdateNumber;

/// The content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointExtra {
    pub(crate) consistent_from: u64,
    pub(crate) promise: Promise,
    pub(crate) pairs: Vec<PairMark>,
    pub(crate) readers: Vec<u8>,
}

/// One pair whose initial copy is under way; all others are what the control store says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PairMark {
    pub(crate) pair: u32,
    pub(crate) copy_completion_bytes: u64,
    /// 0: the copy has not ended.
    pub(crate) copy_end: u64,
}

impl PairMark {
    /// What the control store was told of a pair.
    pub(crate) fn told(pair: &PairRecord) -> Self {
        let (copy_completion_bytes, copy_end) = (pair.copy_completion_bytes, pair.copy_end.0);
        Self { pair: pair.number.0, copy_completion_bytes, copy_end }
    }
}

/// More pairs are not marked here. Where their copies ended is told to the control store; those that have not ended begin
/// anew after a restart, which loses time and nothing else.
const MARKED_PAIRS_MAX: usize = 96;

impl CheckpointExtra {
    /// What the checkpoint says, and the ends of copies for which there is no room in it: they are in the control store
    /// before the checkpoint lets go the records that ended them.
    pub(crate) fn of(seq: &Sequencer) -> (Self, Vec<PairMark>) {
        let sources = seq.pairs.values().flatten();
        let sources =
            sources.filter(|pair| pair.facts.state == PairState::BeingCopied).map(|pair| PairMark {
                pair: pair.pair,
                copy_completion_bytes: match pair.resync.copies {
                    0 => pair.facts.copy_completion_bytes,
                    copies => u64::from(copies),
                },
                copy_end: pair.copy_end.map_or(0, UpdateNumber::get),
            });
        let copying = seq.svols.values().filter(|svol| svol.state == PairState::BeingCopied);
        let copies = copying.filter_map(|svol| {
            svol.copy_end.map(|end| PairMark {
                pair: svol.pair,
                copy_completion_bytes: u64::from(svol.copies),
                copy_end: end.get(),
            })
        });
        let mut pairs: Vec<PairMark> = sources.chain(copies).collect();
        pairs.sort_by_key(|mark| mark.copy_end == 0);
        let mut surplus = pairs.split_off(pairs.len().min(MARKED_PAIRS_MAX));
        surplus.retain(|mark| mark.copy_end != 0);
        let (consistent_from, promise) = (seq.consistent_from.get(), seq.promised());
        (Self { consistent_from, promise, pairs, readers: seq.readers.encode() }, surplus)
    }

    /// What a journal has to know that begins behind what is restored: nothing beyond that is in the S-VOLs. Of a stretch that
    /// was promised and not begun they know nothing, of the one that they are inside all the more.
    pub(crate) fn of_resumed(seq: &Sequencer) -> Self {
        let through = seq.inside_until().unwrap_or(UpdateNumber::NONE);
        let mut resumed = Self::of(seq).0;
        resumed.promise = Promise { visible: resumed.promise.visible.max(through), through };
        resumed
    }

    /// What is known of a pair, here or else by what the control store was told.
    pub(crate) fn mark_of(&self, told: PairMark) -> PairMark {
        self.pairs.iter().find(|mark| mark.pair == told.pair).copied().unwrap_or(told)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + 20 * self.pairs.len() + self.readers.len());
        out.extend_from_slice(&2u16.to_le_bytes());
        out.extend_from_slice(&u16::try_from(self.pairs.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.consistent_from.to_le_bytes());
        out.extend_from_slice(&self.promise.visible.get().to_le_bytes());
        out.extend_from_slice(&self.promise.through.get().to_le_bytes());
        for pair in &self.pairs {
            out.extend_from_slice(&pair.pair.to_le_bytes());
            out.extend_from_slice(&pair.copy_completion_bytes.to_le_bytes());
            out.extend_from_slice(&pair.copy_end.to_le_bytes());
        }
        out.extend_from_slice(&self.readers);
        out
    }

    /// `None` if these are not bytes that `encode` made. An empty slice is a journal that was never checkpointed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let mut input = Input(bytes);
        if input.u16()? != 2 {
            return None;
        }
        let pairs = input.u16()?;
        input.u32()?;
        let consistent_from = input.u64()?;
        let [visible, through] = [input.u64()?, input.u64()?].map(UpdateNumber::new);
        let promise = Promise { visible, through };
        let mut extra = Self { consistent_from, promise, ..Self::default() };
        for _ in 0..pairs {
            extra.pairs.push(PairMark {
                pair: input.u32()?,
                copy_completion_bytes: input.u64()?,
                copy_end: input.u64()?,
            });
        }
        extra.readers = input.0.to_vec();
        Some(extra)
    }
}

/// Little-endian fields from the front of a slice.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let extra = CheckpointExtra {
            consistent_from: 4,
            promise: Promise { visible: UpdateNumber::new(9), through: UpdateNumber::new(8) },
            pairs: vec![PairMark { pair: 1, copy_completion_bytes: 9, copy_end: 3 }, PairMark::default()],
            readers: vec![1, 2, 3],
        };
        let bytes = extra.encode();
        assert_eq!(CheckpointExtra::decode(&bytes), Some(extra));
        for cut in 1..bytes.len() - 3 {
            assert_eq!(CheckpointExtra::decode(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(CheckpointExtra::decode(&[]), Some(CheckpointExtra::default()));
    }
}
