//! What is shown of takeovers, and of what one would lose (promise O6).

use super::Array;
use crate::copy::status::Status;
use crate::shell::view::{AheadView, JudgedView, LossView, RivalView, TakeoverView};
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::name::UpdateNumber as StoredNumber;
use crate::volume::pair::PairRecord;
use crate::volume::rejoin::{Ahead, Judged, Rival, WayOn};
use crate::volume::resync::TakeoverPoint;
use crate::volume::table::Tables;
use crate::volume::takeover::{Branch, Overtaken, Takeover, Yielding};

impl Array {
    /// What a takeover of the group would lose now, where it is a copy.
    pub(super) fn loss_view(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        status: Option<&Status>,
    ) -> Option<LossView> {
        let GroupRole::Auxiliary { link, .. } = &record.role else { return None };
        let pairs: Vec<&PairRecord> = tables.followed_pairs(record.number).collect();
        let keeps_svol_writes = !pairs.is_empty() && pairs.iter().all(|pair| pair.control.svol_open);
        // An update that is being restored at this moment is whole in the next.
        let restored = status.map(|status| StoredNumber(status.restored));
        let found = tables.takeover_point(record.number, restored);
        let point = found.as_ref().ok().copied();
        let received = status.map_or(0, |status| status.durable);
        let goes_back = matches!(point, Some(TakeoverPoint::Image(_))) && !keeps_svol_writes;
        // Hosts were let into some of them only: they all become what they were before that.
        let dropped = pairs.iter().filter(|pair| pair.control.svol_open && !keeps_svol_writes && goes_back);
        let dropped: Vec<u64> = dropped.filter_map(|pair| self.written_bytes(pair.number)).collect();
        let held_back = match point {
            Some(point) if goes_back || record.restore_stops() != [None; 2] => {
                received.saturating_sub(point.number().0)
            }
            _ => 0,
        };
        let is_all_copied = goes_back || held_back > 0 || record.state != GroupState::Normal;
        let heard = status.and_then(|status| status.source_newest);
        let (unread_bytes, wall_ns) = status.and_then(|status| status.source_unread).unzip();
        let unread_updates = heard.map_or(0, |heard| heard.saturating_sub(received));
        let copy_back_bytes = match is_all_copied {
            true => pairs.iter().map(|pair| pair.size_bytes).sum(),
            false => pairs.iter().filter_map(|pair| self.written_bytes(pair.number)).sum(),
        };
        let others = self.open_group_of(record.number).and_then(|group| group.known_of_others());
        let is_primary_reached = self.runtime().links.get(link.as_str()).is_some_and(|link| link.connected);
        Some(LossView {
            update_number: point.map(|point| point.number().0),
            is_image: goes_back,
            reason: found.err(),
            received_update_number: received,
            held_back_updates: held_back,
            heard_update_number: heard,
            unread_updates,
            unread_bytes: unread_bytes.filter(|_| unread_updates > 0).unwrap_or(0),
            oldest_unread_ms: status
                .and_then(|status| status.oldest_unread)
                .filter(|_| unread_updates > 0)
                .map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            heard_unix_ms: wall_ns.map(|ns| ns / 1_000_000),
            is_primary_reached,
            copy_back_bytes,
            keeps_svol_writes,
            one_unit_wait_ms: pairs
                .iter()
                .any(|pair| pair.shared.is_some())
                .then(|| super::leave::wait_ms(record)),
            others_have_update_number: others.map(|(others, _)| others.settled.get()),
            others_reach_update_number: others.map(|(others, _)| others.reaches.get()),
            journal_from_update_number: others.map(|(_, from)| from.get()),
            dropped_svols: dropped.len(),
            dropped_bytes: dropped.iter().sum(),
            stopped_pairs: pairs.iter().filter(|pair| pair.state.is_stopped()).count(),
        })
    }
}

/// Readers of the former primary that have more than this array had.
pub(super) fn ahead(record: &GroupRecord) -> Vec<AheadView> {
    let view = |known: &Ahead| AheadView {
        link: known.link.to_string(),
        array: known.array.0,
        update_number: known.has.0,
        updates: known.updates,
        is_given_up: known.is_given_up,
    };
    record.ahead.iter().map(view).collect()
}

/// How other readers of the former primary went on from here.
pub(super) fn judged(record: &GroupRecord) -> Vec<JudgedView> {
    let view = |known: &Judged| {
        let (updates, bytes) = match &known.way {
            WayOn::NothingMissing => (None, None),
            WayOn::Journal { updates, bytes } => (Some(*updates), Some(*bytes)),
            WayOn::Differences { bytes, .. } | WayOn::FullCopy { bytes, .. } => (None, Some(*bytes)),
        };
        JudgedView {
            array: known.array.0,
            update_number: known.has.0,
            way: known.way.word().to_owned(),
            updates,
            bytes,
            text: known.way.to_string(),
        }
    };
    record.judged.iter().map(view).collect()
}

/// Other primaries of the group.
pub(super) fn rivals(record: &GroupRecord) -> Vec<RivalView> {
    let view = |known: &Rival| RivalView {
        link: known.link.to_string(),
        array: known.array.0,
        first_update_number: known.first.0,
    };
    record.rivals.iter().map(view).collect()
}

/// What is shown of a takeover.
pub(super) fn takeover_view(record: &GroupRecord) -> Option<TakeoverView> {
    let takeover = record.takeover.as_ref()?;
    let view = TakeoverView { state: takeover.to_string(), ..TakeoverView::default() };
    let with = |other: &Overtaken| {
        let link = Some(other.link.to_string());
        with_branch(TakeoverView { link, array: Some(other.array.0), ..view.clone() }, other.branch)
    };
    Some(match takeover {
        Takeover::Moving(moving) => {
            let updates = moving.ahead(&record.generations);
            TakeoverView {
                state: if updates > 0 { "ahead".to_owned() } else { view.state.clone() },
                link: moving.link.as_ref().map(ToString::to_string),
                array: Some(moving.array.0),
                update_number: moving.has.map(|has| has.0),
                branch_updates: moving.has.map(|_| updates),
                ..view
            }
        }
        Takeover::Reaching | Takeover::Restoring => view,
        Takeover::Taken(taken) => {
            let view = TakeoverView {
                link: Some(taken.link.to_string()),
                array: Some(taken.array.0),
                update_number: Some(taken.last.0),
                is_asked_back: taken.is_told,
                ..view
            };
            with_branch(view, taken.branch)
        }
        Takeover::Overtaken(other)
        | Takeover::Retaking(other)
        | Takeover::Yielding(Yielding { to: other, .. }) => with(other),
    })
}

fn with_branch(view: TakeoverView, branch: Option<Branch>) -> TakeoverView {
    TakeoverView {
        branch_first_update_number: branch.map(|branch| branch.first.0),
        branch_updates: branch.map(|branch| branch.updates()),
        branch_bytes: branch.map(|branch| branch.bytes),
        ..view
    }
}
