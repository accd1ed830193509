//! Which copy of a group has most, at work: asking the other arrays, and answering them. See [`crate::volume::position`] for
//! what that guarantees.

use super::Array;
use super::peer_session::PeerSession;
use crate::copy::source::SourceError;
use crate::shell::view::{LossView, PositionView};
use crate::volume::designation::Refusal;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::{ArrayNumber, UpdateNumber as StoredNumber};
use crate::volume::position::{AskPosition, Position, Question, Standing, compare};
use crate::volume::record::LinkRecord;
use crate::volume::table::Tables;
use futures_util::future::join_all;
use holdfast_journal::UpdateNumber;
use std::time::Duration;

impl Array {
    /// The answer to another array's question.
    ///
    /// # Errors
    /// There is no such group here.
    pub(super) fn answer_question(&self, ask: &AskPosition) -> Result<Position, Refusal> {
        let tables = self.store.tables();
        let row = tables.group_named(&ask.group).ok_or_else(|| Refusal::missing("group", &ask.group))?;
        Ok(self.position_of(&tables, row, ask.has))
    }

    /// What a takeover here would find, or at the primary what there is.
    fn position_of(&self, tables: &Tables, row: &GroupRecord, has: StoredNumber) -> Position {
        let status = self.status_of(row);
        let loss = self.loss_view(tables, row, status.as_ref());
        let received = StoredNumber(status.as_ref().map_or(0, |status| status.durable));
        let source = match row.role {
            GroupRole::Auxiliary { source, .. } => Some(source),
            GroupRole::Primary => None,
        };
        let finds = match (&loss, source) {
            (Some(loss), _) => finds(loss).map(StoredNumber),
            (None, _) => Some(received),
        };
        let open = self.open_group_of(row.number);
        Position {
            source,
            takeover: row.takeover.as_ref().map(ToString::to_string),
            generations: row.generations.clone(),
            received,
            finds,
            reason: loss.as_ref().and_then(|loss| loss.reason.clone()),
            bytes_behind: open.and_then(|group| group.bytes_behind(UpdateNumber::new(has.0))),
            heard_unix_ms: loss.and_then(|loss| loss.heard_unix_ms),
        }
    }

    /// What every other array that can be reached has of a group that is copied here, all asked at once; nothing where this
    /// array is the primary. The array that it is copied from is not asked: what it has is not what a copy has.
    pub(super) async fn ask_positions(&self, group: &str) -> Vec<PositionView> {
        let tables = self.store.tables();
        let Some(row) = tables.groups.iter().find(|row| row.name.as_str() == group) else {
            return Vec::new();
        };
        let GroupRole::Auxiliary { source, .. } = row.role else { return Vec::new() };
        let own = self.position_of(&tables, row, StoredNumber(0));
        let has = own.finds.unwrap_or(StoredNumber(0));
        let ask = Question::Position(AskPosition { group: row.name.clone(), has });
        let links: Vec<&LinkRecord> = tables.links.iter().filter(|link| link.array != source).collect();
        let asked = links.iter().map(|link| self.ask_position(link, &ask));
        let answers = join_all(asked).await;
        let judged = links.iter().zip(answers).filter_map(|(link, answer)| {
            let answer = answer.transpose()?;
            Some(judged(link, (&own, has), answer, source))
        });
        judged.collect()
    }

    /// Nothing if the array does not know the group.
    async fn ask_position(&self, link: &LinkRecord, ask: &Question) -> Result<Option<Position>, SourceError> {
        let connector = self.connector(&link.name);
        let own = (self.config.array.number.0, self.config.array.name.to_string());
        let asking = async {
            let session = PeerSession::open(&connector, (own.0, &own.1), link, &self.pool, 0).await?;
            let ask = serde_json::to_vec(ask).map_err(|error| SourceError(error.to_string()))?;
            let answer = session.designate(self.new_identity().0.to_be_bytes(), &ask).await?;
            let answer: Result<Position, Refusal> = serde_json::from_slice(&answer)
                .map_err(|error| SourceError(format!("its answer: {error}")))?;
            match answer {
                Ok(position) if position.is_possible() => Ok(Some(position)),
                Ok(_) => Err(SourceError("its answer cannot be".to_owned())),
                Err(Refusal::Missing { .. }) => Ok(None),
                Err(refusal) => Err(SourceError(refusal.to_string())),
            }
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            () = self.env.clock.sleep(ASK_LIMIT) => Err(SourceError("it does not answer in time".to_owned())),
        }
    }
}

/// As of which number the array is the primary, should it take over now: everything that is here is restored before, unless
/// something holds it back.
fn finds(loss: &LossView) -> Option<u64> {
    let number = loss.update_number?;
    let is_held = loss.is_image || loss.held_back_updates > 0 || loss.keeps_svol_writes;
    Some(if is_held { number } else { number.max(loss.received_update_number) })
}

fn judged(
    link: &LinkRecord,
    (own, has): (&Position, StoredNumber),
    answer: Result<Position, SourceError>,
    source: ArrayNumber,
) -> PositionView {
    let view = PositionView { link: link.name.to_string(), array: link.array.0, ..PositionView::default() };
    let position = match answer {
        Ok(position) => position,
        Err(error) => {
            return PositionView { standing: "unreached".to_owned(), reason: Some(error.0), ..view };
        }
    };
    let found = position.finds.map(|finds| compare((&own.generations, has), (&position.generations, finds)));
    let (standing, updates) = match (position.source, found) {
        (_, Some(Standing::Foreign)) => ("foreign", None),
        (None, _) => ("primary", None),
        (Some(_), None) => ("no-image", None),
        (Some(_), Some(Standing::Branch)) => ("branch", None),
        (Some(_), Some(Standing::Same)) => ("same", Some(0)),
        (Some(_), Some(Standing::More(updates))) => ("more", Some(updates)),
        (Some(_), Some(Standing::Fewer(updates))) => ("fewer", Some(updates)),
    };
    let is_more = standing == "more";
    let later = position.heard_unix_ms.zip(own.heard_unix_ms).map(|(theirs, own)| theirs.saturating_sub(own));
    PositionView {
        standing: standing.to_owned(),
        reason: position.reason,
        takeover: position.takeover,
        copies_from: position.source.filter(|from| *from != source).map(|from| from.0),
        received_update_number: Some(position.received.0),
        takeover_update_number: position.finds.map(|finds| finds.0),
        updates,
        bytes: position.bytes_behind.filter(|_| is_more),
        heard_unix_ms: position.heard_unix_ms,
        heard_later_ms: later.filter(|_| is_more),
        ..view
    }
}

/// How long the other arrays have for their answers, together.
const ASK_LIMIT: Duration = Duration::from_secs(3);
