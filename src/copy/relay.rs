//! What goes over a relay: the answers to journal reads, in the order of their numbers, made for one reader without its
//! asking (promise X1; decision 21).
//!
//! A relay carries what a pair that is an image needs to stay one. What a copy needs (its data is read when it is served,
//! as of a number; where a reader begins anew) goes between the two arrays, as for any other source that is not the
//! reader's own: so no batch is made while a pair of the reader is not `normal`, and a batch ends before the first update
//! that the reader would get in another form than as it is in the journal.

use super::answer::{HEAD_BYTES, Head, MAX_ANSWER_BYTES, MAX_RECORD_PAGES, MAX_UPDATES, Outcome};
use super::error::CopyError;
use super::group::Group;
use crate::disk::slot::{Class, SLOT_BYTES, Slot};
use crate::volume::pair::PairState;
use holdfast_journal::format::relay::{MAX_BATCH_UPDATES, MAX_PAYLOAD_BLOCKS};
use holdfast_journal::{ArrayNumber, Generation, Kind, UpdateNumber, format};

/// One answer, to be put on a relay.
pub(crate) struct RelayBatch {
    pub(crate) first: UpdateNumber,
    pub(crate) last: UpdateNumber,
    /// Of the last update.
    pub(crate) generation: Generation,
    /// Head and records, whole pages.
    pub(crate) head: Vec<u8>,
    /// Write data.
    pub(crate) pages: Vec<Slot>,
}

/// What a relay's writer looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RelayNeed {
    /// The reader has everything up to this durably.
    pub(crate) acknowledged: UpdateNumber,
    /// Everything up to this may be handed to it.
    pub(crate) limit: UpdateNumber,
    /// All its pairs are normal.
    pub(crate) is_image: bool,
}

impl Group {
    /// Where a reader is, and what may go to it over a relay; none if it is no reader.
    pub(crate) fn relay_need(&self, reader: ArrayNumber) -> Option<RelayNeed> {
        let limit = self.limit_for(reader);
        let seq = self.lock();
        let known = seq.readers.reader(reader)?;
        let mut pairs = seq.pairs.values().flatten().filter(|pair| pair.reader == reader);
        let is_image = known.holds
            && seq.failed.is_none()
            && !seq.apart.untold.contains(&reader)
            && pairs.all(|pair| pair.facts.state == PairState::Normal);
        Some(RelayNeed { acknowledged: known.report.acknowledged, limit, is_image })
    }

    /// Durable updates from `first` on as the reader is to get them, one at least and no more than fit into `room_bytes` as
    /// long as one does; none if there is nothing that may go over a relay.
    pub(crate) async fn relay_batch(
        &self,
        reader: ArrayNumber,
        first: UpdateNumber,
        room_bytes: usize,
    ) -> Result<Option<RelayBatch>, CopyError> {
        let may_go = |need: RelayNeed| need.is_image && first <= need.limit;
        let Some(need) = self.relay_need(reader).filter(|need| may_go(*need)) else { return Ok(None) };
        let count = MAX_UPDATES.min(self.settings.read_updates).max(1);
        let found = self.load(first, count as usize, room_bytes / 2, Class::JournalRead).await?;
        let (mut records, mut pages, mut sent) = (Vec::new(), Vec::new(), 0);
        let mut newest = None;
        for (update, payload) in found {
            let is_copy = matches!(update.kind, Kind::InitialCopy(copy) if copy.reader == reader);
            if update.number > need.limit || is_copy || self.withheld(reader, &update) {
                break;
            }
            let Some((update, payload)) = self.for_reader(reader, update, payload).await? else { break };
            let before = records.len();
            format::encode_wire_to(&update, &mut records)
                .map_err(|error| CopyError::Damaged(error.to_string()))?;
            let record_pages = (HEAD_BYTES + records.len()).div_ceil(SLOT_BYTES);
            let total = (record_pages + pages.len() + payload.slots.len()) * SLOT_BYTES;
            if (total > room_bytes || record_pages > MAX_RECORD_PAGES as usize) && sent > 0 {
                records.truncate(before);
                break;
            }
            pages.extend_from_slice(&payload.slots);
            newest = Some((update.number, update.generation));
            sent += 1;
        }
        let Some((last, generation)) = newest else { return Ok(None) };
        // A pair that was stopped meanwhile may have got marks instead of what has been gathered.
        if self.relay_need(reader).is_none_or(|need| !may_go(need)) {
            return Ok(None);
        }
        let mut seq = self.lock();
        let total = seq.sent.entry(reader).or_default();
        total.0 += u64::from(sent);
        total.1 += (HEAD_BYTES + records.len() + pages.len() * SLOT_BYTES) as u64;
        let head = Head { updates: sent, first: first.get(), ..self.head(&seq, reader, Outcome::Updates) };
        Ok(Some(RelayBatch { first, last, generation, head: head.encode(&records), pages }))
    }

    /// The generation to which this array counts a number.
    pub(crate) fn generation_at(&self, number: UpdateNumber) -> Option<Generation> {
        let seq = self.lock();
        seq.generations.iter().rev().find(|generation| generation.first <= number).copied()
    }

    /// What another array says of the history, with what is known here beyond it: an array that could not say so any more
    /// makes nobody forget. Nothing is added where an update here was already given in what is beyond.
    pub(crate) fn generations_beyond(&self, theirs: &[Generation]) -> Vec<Generation> {
        let seq = self.lock();
        let newest = seq.next.previous();
        match seq.generations.strip_prefix(theirs) {
            Some([next, ..]) if next.first > newest => seq.generations.clone(),
            Some(_) | None => theirs.to_vec(),
        }
    }

    /// The generation of the newest update here.
    pub(crate) fn newest_generation(&self) -> Generation {
        self.lock().generation
    }

    /// What a relay has told of the reader shows that it lives.
    pub(crate) fn heard_over_relay(&self, reader: ArrayNumber) {
        let now = self.clock.now();
        self.lock().asked.insert(reader, now);
    }
}

const _: () = assert!(MAX_PAYLOAD_BLOCKS as usize * SLOT_BYTES == MAX_ANSWER_BYTES as usize);
const _: () = assert!(MAX_BATCH_UPDATES == MAX_UPDATES as u64);
