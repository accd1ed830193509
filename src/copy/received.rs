//! The answer to a journal read as its reader takes it in: everything checked, nothing believed.

use super::answer::{AnswerError, Head, MAX_RECORD_PAGES, Outcome, reason};
use super::change::Payload;
use super::fetch::FetchError;
use super::restore::pages_of;
use crate::disk::slot::{SLOT_BYTES, Slot, bytes_of};
use holdfast_journal::{Content, CopyForm, Draft, Kind, Update, format};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What stands behind a head.
#[derive(Default)]
pub(crate) struct Behind {
    pub(crate) updates: Vec<(Arc<Update>, Payload)>,
    /// Why, with outcome 2.
    pub(super) reason: String,
}

/// Head, records and payload of one answer, everything checked.
pub(crate) fn decode(
    pages: Vec<Slot>,
    source_group: u32,
    capacities: &BTreeMap<u32, u64>,
) -> Result<(Head, Behind), FetchError> {
    let first = pages.first().ok_or(AnswerError::NotAnAnswer)?;
    let announced =
        usize::try_from(Head::announced_pages(first.as_slice())?.min(MAX_RECORD_PAGES)).unwrap_or(0);
    let front = pages.get(..announced).ok_or(AnswerError::Field("pages of records"))?;
    let bytes = bytes_of(front); // Records are small; data stays.
    let (head, mut records) = Head::decode(&bytes)?;
    if head.group != source_group {
        return Err(FetchError::Record(format!("it is of group {}, not {source_group}", head.group)));
    }
    if head.outcome == Outcome::GroupNotNormal {
        let behind = Behind { reason: reason(records), ..Behind::default() };
        return Ok((head, behind));
    }
    let mut payload_pages = pages.into_iter().skip(announced);
    let mut received = Vec::new();
    let end = head.first.checked_add(u64::from(head.updates)).ok_or(AnswerError::Field("first number"))?;
    if head.updates > 0 && (head.newest_durable < end - 1 || head.newest_given < head.newest_durable) {
        return Err(AnswerError::Field("newest numbers").into());
    }
    for expected in head.first..end {
        let (update, used) =
            format::decode_wire(records).map_err(|error| FetchError::Record(error.to_string()))?;
        records = records.get(used..).unwrap_or(&[]);
        if update.number.get() != expected {
            return Err(FetchError::Record(format!("update {} where {expected} was due", update.number)));
        }
        acceptable(&update, capacities)?;
        let count: usize = update.extents.iter().map(pages_of).sum();
        let slots: Arc<[Slot]> = payload_pages.by_ref().take(count).collect();
        // The data lies in its pages as it lay in the cache of its source.
        let draft = Draft::new(update);
        let draft_blocks = draft.size().data_blocks;
        let payload = Payload { slots, skip: draft.skip_bytes, bytes: draft.update.data_bytes };
        let update = draft.update;
        let blocks = usize::try_from(draft_blocks).unwrap_or(usize::MAX);
        if payload.slots.len() != count || count != blocks || payload.checksum() != update.data_checksum {
            return Err(FetchError::Record(format!(
                "the data of update {} is damaged or missing",
                update.number
            )));
        }
        received.push((update, payload));
    }
    Ok((head, Behind { updates: received, ..Behind::default() }))
}

/// Whether a correct peer sends this: everything that could be stored but never be restored is refused here.
pub(super) fn acceptable(update: &Update, capacities: &BTreeMap<u32, u64>) -> Result<(), FetchError> {
    let beyond = update.extents.iter().find(|extent| {
        capacities.get(&extent.volume.0).is_some_and(|capacity| extent.end_bytes() > *capacity)
    });
    if let Some(extent) = beyond {
        return Err(FetchError::Record(format!(
            "update {} reaches beyond the end of volume {}",
            update.number, extent.volume.0
        )));
    }
    let range_only = matches!(update.kind, Kind::InitialCopy(copy) if copy.form == CopyForm::RangeOnly);
    let odd_pattern = update.extents.iter().any(|extent| match extent.content {
        Content::Pattern { bytes } => {
            let bytes = u64::from(bytes);
            !(SLOT_BYTES as u64).is_multiple_of(bytes.max(1))
                || !extent.start_bytes.is_multiple_of(bytes.max(1))
        }
        Content::Data | Content::Zero => false,
    });
    if range_only || odd_pattern {
        return Err(FetchError::Record(format!("update {} has a form that no array sends", update.number)));
    }
    Ok(())
}

const _: () = assert!(SLOT_BYTES == 4096, "answers are laid out in pages of 4096 bytes");
