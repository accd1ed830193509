//! Control information that travels straight from one array to the other (promise X3, second form; `004_…`, claims 7 and 17).
//!
//! # What it guarantees
//! * It is the same control information, checked in the same way, and of the same chain: numbers say which is newer, whichever way it came.
//! * What places on the relay are freed by, and what a chain begins with, is on the relay's LUN all the same: it has to outlive both arrays.
//!   Only news go over the link alone: what came, signs of life, answers to questions.
//! * Who cannot use the link uses the LUN, until the link is up again.

use super::lun::slot_page;
use super::watch::Watch;
use crate::array::Array;
use crate::array::peer_session::PeerSession;
use crate::clock::MonotonicNs;
use crate::copy::source::SourceError;
use crate::volume::designation::Refusal;
use crate::volume::group::GroupRole;
use crate::volume::position::{AskRelay, Question, TellRelay};
use crate::volume::record::Identity;
use holdfast_journal::Incarnation;
use holdfast_journal::format::BLOCK_LENGTH;
use holdfast_journal::format::relay::{RelayId, SecondControl};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// At the first array: what is said of one chain over the link.
#[derive(Debug)]
pub(crate) struct Direct {
    id: RelayId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// This array's control information and what stands behind it, if it goes over the link.
    said: Option<(Vec<u8>, Vec<u8>)>,
    /// The second array's.
    heard: Option<SecondControl>,
    /// When that one asked for this array's last.
    asked: Option<MonotonicNs>,
}

impl Direct {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the next question is answered.
    pub(super) fn say(&self, control: &[u8], information: &[u8]) {
        self.lock().said = Some((squeeze(control), information.to_vec()));
    }

    /// The newest control information of the second array that came this way.
    pub(super) fn heard(&self) -> Option<SecondControl> {
        self.lock().heard
    }

    /// Whether the second array asks here for what this one says.
    pub(super) fn is_asked(&self, now: MonotonicNs) -> bool {
        self.lock().asked.is_some_and(|then| now.since(then) < ASKED_WITHIN)
    }
}

/// A chain of which the other array may ask, until this goes.
pub(super) struct OpenDirect {
    array: Arc<Array>,
    chain: Incarnation,
    pub(super) direct: Arc<Direct>,
}

impl OpenDirect {
    pub(super) fn new(array: &Arc<Array>, chain: Incarnation, id: RelayId) -> Self {
        let direct = Arc::new(Direct { id, state: Mutex::default() });
        array.runtime().relay_directs.insert(chain.get(), direct.clone());
        Self { array: array.clone(), chain, direct }
    }
}

impl Drop for OpenDirect {
    fn drop(&mut self) {
        self.array.runtime().relay_directs.remove(&self.chain.get());
    }
}

impl Array {
    /// The second array of a relay says what it has read, and asks what this one says of it.
    ///
    /// # Errors
    /// No such chain is written here for it.
    pub(in crate::array) fn answer_relay(&self, peer: u32, ask: &AskRelay) -> Result<TellRelay, Refusal> {
        let direct = self.runtime().relay_directs.get(&ask.chain.0).cloned();
        let direct = direct.filter(|direct| direct.id.second.0 == peer);
        let direct = direct.ok_or_else(|| Refusal::missing("chain", ask.chain))?;
        let heard = ask.said.as_deref().map(stretch).map(|block| SecondControl::decode(&block));
        let now = self.env.clock.now();
        let mut state = direct.lock();
        match heard {
            Some(Ok(control)) if control.id == direct.id => {
                let is_newer = state.heard.is_none_or(|known| known.sequence < control.sequence);
                state.heard = if is_newer { Some(control) } else { state.heard };
            }
            Some(_) => return Err(Refusal::Conflict("that is no control information of this relay".into())),
            None => state.asked = Some(now),
        }
        Ok(TellRelay { said: state.said.clone() })
    }
}

/// At the second array: the session over which it asks.
#[derive(Default)]
pub(super) struct Way {
    session: Option<PeerSession>,
    /// Not to be tried before then.
    avoided: Option<MonotonicNs>,
}

impl Watch {
    /// Says something of a chain over the link, or asks what the first array says; none if that cannot be, now or with that chain.
    pub(super) async fn exchange(&self, chain: Incarnation, said: Option<Vec<u8>>) -> Option<TellRelay> {
        let mut way = self.way.lock().await;
        let now = self.clock().now();
        if way.avoided.is_some_and(|until| now < until) {
            return None;
        }
        let ask = Question::Relay(AskRelay { chain: Identity(chain.get()), said });
        let asking = async {
            let session = match way.session.take() {
                Some(session) => session,
                None => self.open_way().await?,
            };
            let bytes = serde_json::to_vec(&ask).map_err(|error| SourceError(error.to_string()))?;
            let answer = session.designate(self.array.new_identity().0.to_be_bytes(), &bytes).await?;
            way.session = Some(session);
            let answer: Result<TellRelay, Refusal> = serde_json::from_slice(&answer)
                .map_err(|error| SourceError(format!("its answer: {error}")))?;
            Ok::<_, SourceError>(answer.ok())
        };
        let answer = tokio::select! {
            biased;
            answer = asking => answer,
            () = self.clock().sleep(LIMIT) => Err(SourceError("it does not answer in time".into())),
        };
        answer.unwrap_or_else(|_| {
            let pause = u64::try_from(LIMIT.as_nanos()).unwrap_or(u64::MAX);
            *way = Way { session: None, avoided: Some(MonotonicNs(now.0.saturating_add(2 * pause))) };
            None
        })
    }

    async fn open_way(&self) -> Result<PeerSession, SourceError> {
        let tables = self.array.store.tables();
        let link = tables.group_named(&self.relay.group).and_then(|group| match &group.role {
            GroupRole::Auxiliary { link, .. } => tables.links.get(link),
            GroupRole::Primary => None,
        });
        let link = link.ok_or_else(|| SourceError("no link leads there".into()))?;
        let connector = self.array.connector(&link.name);
        let own = (self.array.config.array.number.0, self.array.config.array.name.as_str());
        PeerSession::open(&connector, own, link, &self.array.pool, 0).await
    }
}

/// The next sequence number behind `next` whose slot is not that of the newest control information on the LUN.
pub(super) fn for_lun(next: u64, on_lun: Option<u64>) -> u64 {
    let is_taken = on_lun.is_some_and(|on_lun| slot_page(on_lun) == slot_page(next));
    if is_taken { next.saturating_add(1) } else { next }
}

/// A block without the zeros between what it says and its checksum.
pub(super) fn squeeze(block: &[u8]) -> Vec<u8> {
    let (front, seal) = block.split_at(block.len().saturating_sub(SEAL_BYTES));
    let length = front.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    [&front[..length], seal].concat()
}

/// The block again; what cannot be one is none that can be decoded.
pub(super) fn stretch(bytes: &[u8]) -> Vec<u8> {
    let (front, seal) = bytes.split_at(bytes.len().saturating_sub(SEAL_BYTES));
    let mut block = front.to_vec();
    block.resize(BLOCK_LENGTH - SEAL_BYTES, 0);
    block.extend_from_slice(seal);
    block
}

/// By so much the numbers of control information and of questions rise with a session: what went over the link in the one before is on no
/// LUN, and counts as older.
pub(super) const SESSION_STRIDE: u64 = 1 << 32;
/// Bytes of the checksum at the end of a block.
const SEAL_BYTES: usize = 4;
/// The first array's control information goes over the link while it was asked for so lately.
const ASKED_WITHIN: Duration = Duration::from_secs(2);
/// Limit for a question and its answer, with the login if there is none yet; and half of the pause after one that failed.
const LIMIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_goes_over_the_link_without_its_zeros() {
        let mut block = vec![0; BLOCK_LENGTH];
        for filled in [0, 1, 152, BLOCK_LENGTH - SEAL_BYTES] {
            block[..filled].fill(7);
            block[BLOCK_LENGTH - 1] = 9;
            let bytes = squeeze(&block);
            assert_eq!((bytes.len(), stretch(&bytes)), (filled + SEAL_BYTES, block.clone()));
        }
        // What a peer may send is never too long, and no block.
        for bytes in [vec![], vec![1; 3], vec![1; 2 * BLOCK_LENGTH]] {
            assert!(SecondControl::decode(&stretch(&bytes)).is_err());
        }
    }

    #[test]
    fn what_goes_to_the_lun_spares_the_newest_that_is_there() {
        assert_eq!([for_lun(5, None), for_lun(5, Some(4)), for_lun(6, Some(4))], [5, 5, 7]);
    }
}
