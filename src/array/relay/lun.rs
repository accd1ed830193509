//! The LUNs of a relay as this array uses them: ordinary READ(16) and WRITE(16) of any target (promise X4).
//!
//! A write has reached the medium when it is answered: it carries FUA, or SYNCHRONIZE CACHE follows where the target
//! does not know that (MODE SENSE, DPOFUA). A session of this array at a target always goes by the same initiator port for
//! one relay, so that a new one ends the old one there, with whatever that still had under way: a stalled write never
//! lands after its repetition (invariant 8).

use crate::channel::host::{Durability, HostError, HostLun, lun};
use crate::channel::initiator::{Connector, Session, SessionOptions};
use crate::channel::piece::{Piece, Pieces};
use crate::clock::{Clock, MonotonicNs};
use crate::disk::slot::{SLOT_BYTES, Slot};
use crate::volume::name::Lun;
use crate::volume::relay::RelayRecord;
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_iscsi::chap::{Credentials, Identity, Secret};
use holdfast_iscsi::initiator::DigestWish;
use holdfast_iscsi::pdu::Isid;
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{
    CONTROL_BLOCKS, Label, MIN_JOURNAL_BLOCKS, RelayId, RelayLun as Which, SLOT_BLOCKS,
};
use std::sync::Arc;
use std::time::Duration;

/// Why a relay is not used. The session is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct RelayError(pub(super) String);

impl From<HostError> for RelayError {
    fn from(error: HostError) -> Self {
        Self(error.to_string())
    }
}

pub(super) fn trouble(text: impl Into<String>) -> RelayError {
    RelayError(text.into())
}

/// A LUN in pages.
#[derive(Clone)]
pub(super) struct RelayLun {
    unit: HostLun,
    clock: Arc<dyn Clock>,
    blocks_per_page: u64,
    pub(super) pages: u64,
    has_fua: bool,
}

/// The three of a relay, with their session.
#[derive(Clone)]
pub(super) struct Luns {
    pub(super) session: Session,
    pub(super) journal: RelayLun,
    pub(super) first: RelayLun,
    pub(super) second: RelayLun,
}

impl Luns {
    /// Logs in, at the first portal that lets this array in, and opens the LUNs.
    pub(super) async fn open(connector: &Connector, relay: &RelayRecord) -> Result<Self, RelayError> {
        let mut last = trouble("it has no portal");
        for portal in &relay.portals {
            let options = options(relay)?;
            let opened = connector.session(&portal.to_string(), relay.target.as_str(), &options).await;
            match opened {
                Ok(session) => return Self::open_luns(session, relay, &connector.clock).await,
                Err(error) => last = trouble(format!("{portal}: {error}")),
            }
        }
        Err(last)
    }

    async fn open_luns(
        session: Session,
        relay: &RelayRecord,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, RelayError> {
        let open = |number, pages_min| RelayLun::open(&session, number, pages_min, clock);
        let journal = open(relay.luns.journal, MIN_JOURNAL_BLOCKS).await?;
        let first = open(relay.luns.first, CONTROL_BLOCKS).await?;
        let second = open(relay.luns.second, CONTROL_BLOCKS).await?;
        Ok(Self { session, journal, first, second })
    }
}

impl RelayLun {
    async fn open(
        session: &Session,
        number: Lun,
        pages_min: u64,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, RelayError> {
        let named = |error: HostError| trouble(format!("LUN {number}: {error}"));
        let unit = HostLun::open(session.clone(), lun(number.0), LIMIT).await.map_err(named)?;
        let page = SLOT_BYTES as u64;
        let block = u64::from(unit.block_bytes);
        if block == 0 || !page.is_multiple_of(block) {
            return Err(trouble(format!("LUN {number}: blocks of {block} bytes are not understood")));
        }
        let blocks_per_page = page / block;
        let pages = unit.blocks / blocks_per_page;
        if pages < pages_min {
            let least = pages_min * page / 1024;
            return Err(trouble(format!("LUN {number}: it has {pages} pages, {least} KiB are needed")));
        }
        // A target that does not say has its cache emptied.
        let has_fua = unit.has_fua().await.unwrap_or(false);
        Ok(Self { unit, clock: clock.clone(), blocks_per_page, pages, has_fua })
    }

    /// Pages from `page` on; `count` is bounded by the caller.
    pub(super) async fn read(&self, page: u64, count: u64) -> Result<Vec<u8>, RelayError> {
        let chunks = chunks(page, count).map(|(page, count)| async move {
            let blocks = u32::try_from(count * self.blocks_per_page).map_err(|_| HostError::TooLong)?;
            self.patiently(|| self.unit.read(page * self.blocks_per_page, blocks)).await
        });
        let read: Vec<Vec<u8>> = stream::iter(chunks).buffered(CHUNKS_AT_A_TIME).try_collect().await?;
        // One piece, as nearly always, is not copied.
        Ok(match <[Vec<u8>; 1]>::try_from(read) {
            Ok([one]) => one,
            Err(several) => several.concat(),
        })
    }

    /// Writes whole pages from `page` on; durable when this returns.
    pub(super) async fn write(&self, page: u64, front: Vec<u8>, data: &[Slot]) -> Result<(), RelayError> {
        let front_pages = front.len() / SLOT_BYTES;
        let front = bytes::Bytes::from(front);
        let mut pieces: Vec<Piece> = (0..front_pages)
            .map(|index| Piece::Bytes(front.slice(index * SLOT_BYTES..(index + 1) * SLOT_BYTES)))
            .collect();
        pieces.extend(data.iter().cloned().map(Piece::page));
        let count = pieces.len() as u64;
        let durability = if self.has_fua { Durability::Forced } else { Durability::Cached };
        let pieces = &pieces;
        let writes = chunks(0, count).map(|(start, count)| async move {
            let from = usize::try_from(start).unwrap_or(usize::MAX);
            let length = usize::try_from(count).unwrap_or(0);
            let part: Pieces = pieces.iter().skip(from).take(length).cloned().collect();
            let place = (page + start) * self.blocks_per_page;
            self.patiently(|| self.unit.write_pieces(place, &part, durability)).await
        });
        let attentions = self.unit.attentions();
        stream::iter(writes).buffered(CHUNKS_AT_A_TIME).try_collect::<Vec<()>>().await?;
        if !self.has_fua {
            self.patiently(|| self.unit.synchronize_cache()).await?;
            // A target that was reset in between has lost what it had in its cache, and empties another one.
            if self.unit.attentions() != attentions {
                return Err(trouble(
                    "the target had something to say while it was written: it is written again",
                ));
            }
        }
        Ok(())
    }

    /// Sends a command again, after a while, that a target has no time for.
    async fn patiently<T, F>(&self, command: impl Fn() -> F) -> Result<T, HostError>
    where
        F: Future<Output = Result<T, HostError>>,
    {
        for pause in BUSY_PAUSES_MS.map(Duration::from_millis) {
            match command().await {
                Err(error) if error.is_busy() => self.clock.sleep(pause).await,
                done => return done,
            }
        }
        command().await
    }

    /// Looks whether the LUN is meant for this. A LUN of zeros that is this array's to write gets its label.
    pub(super) async fn check_label(
        &self,
        which: Which,
        id: RelayId,
        is_ours: Ours,
    ) -> Result<(), RelayError> {
        let block = self.read(0, 1).await?;
        let wanted = Label { lun: which, id };
        let name = match which {
            Which::Journal => "the journal LUN",
            Which::First => "the control LUN of the first array",
            Which::Second => "the control LUN of the second array",
        };
        match Label::decode(&block) {
            Ok(label) if label == wanted => Ok(()),
            Ok(label) => Err(trouble(format!("{name} is labelled for something else: {label:?}"))),
            Err(_) if !may_be_labelled(&block, &wanted.encode()) => Err(trouble(format!(
                "{name} holds something that is no relay's: its first block is not zeros"
            ))),
            Err(_) => match is_ours {
                Ours::Yes => self.write(0, wanted.encode(), &[]).await,
                Ours::No => Err(trouble(format!("{name} has no label yet: the other array has not used it"))),
            },
        }
    }
}

/// Whether a label may be written: into zeros, or where power failed when this one was written, sector by sector.
fn may_be_labelled(block: &[u8], wanted: &[u8]) -> bool {
    let mut sectors = block.chunks(SECTOR_BYTES).zip(wanted.chunks(SECTOR_BYTES));
    sectors.all(|(there, ours)| there == ours || there.iter().all(|byte| *byte == 0))
}

/// Whether a LUN is this array's to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ours {
    Yes,
    No,
}

/// Two slots of a control LUN, written in turn.
pub(super) fn slot_page(sequence: u64) -> u64 {
    1 + (sequence % 2) * SLOT_BLOCKS
}

/// What a clock says that is asked whether something is due.
#[derive(Debug)]
pub(super) struct Due {
    every: Duration,
    at: MonotonicNs,
}

impl Due {
    /// Due at once.
    pub(super) fn now(clock: &dyn Clock, every: Duration) -> Self {
        Self { every, at: clock.now() }
    }

    /// Whether it is due; then the next time is set.
    pub(super) fn take(&mut self, clock: &dyn Clock) -> bool {
        let now = clock.now();
        if now < self.at {
            return false;
        }
        self.at = MonotonicNs(now.0.saturating_add(u64::try_from(self.every.as_nanos()).unwrap_or(u64::MAX)));
        true
    }

    /// It is due after this time, once.
    pub(super) fn begin(&mut self, clock: &dyn Clock, after: Duration) {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        self.at = MonotonicNs(clock.now().0.saturating_add(after));
    }

    pub(super) fn left(&self, clock: &dyn Clock) -> Duration {
        self.at.since(clock.now())
    }
}

/// Runs of pages that go in one command each.
fn chunks(page: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = usize::try_from(CHUNK_PAGES).unwrap_or(1);
    (0..count).step_by(step).map(move |at| (page + at, CHUNK_PAGES.min(count - at)))
}

fn options(relay: &RelayRecord) -> Result<SessionOptions, RelayError> {
    let credentials = match &relay.chap {
        None => None,
        Some(chap) => {
            let secret = Secret::new(chap.secret.expose());
            let credentials = secret
                .map(|secret| Identity { name: chap.user.clone(), secret })
                .and_then(|ours| Credentials::new(ours, None));
            Some(credentials.map_err(|error| trouble(format!("its secret: {error:?}")))?)
        }
    };
    let [a, b, c, d] = crc32c(relay.name.as_str().as_bytes()).to_be_bytes();
    Ok(SessionOptions {
        credentials,
        digests: DigestWish::Preferred,
        isid: Some(Isid([ISID_RANDOM, a, b, c, d, ISID_RELAY])),
        login_timeout: LOGIN_LIMIT,
        ping: PING,
        ..SessionOptions::default()
    })
}

/// What every target writes whole.
const SECTOR_BYTES: usize = 512;
/// A target that is busy is asked again after these; all together less than the limit for a command.
const BUSY_PAUSES_MS: [u64; 5] = [20, 80, 320, 1_000, 2_000];
/// Pages of one command: 256 KiB, which every target takes.
const CHUNK_PAGES: u64 = 64;
/// Commands of one transfer that are under way at a time.
const CHUNKS_AT_A_TIME: usize = 8;
/// Limit for a command; then the session is given up.
const LIMIT: Duration = Duration::from_secs(10);
/// Limit for connecting and login, each.
const LOGIN_LIMIT: Duration = Duration::from_secs(3);
/// Silence after which the target is pinged, and limit for its answer.
const PING: Duration = Duration::from_secs(4);
/// First byte of a session identifier of the random format (RFC 7143 section 11.12.5).
const ISID_RANDOM: u8 = 0x80;
/// Last byte of those of relays.
const ISID_RELAY: u8 = 0x52;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_written_into_zeros_and_where_it_was_torn() {
        use holdfast_journal::{ArrayNumber, GroupNumber};
        let id = RelayId { first: ArrayNumber(1), group: GroupNumber(1), second: ArrayNumber(2) };
        let wanted = Label { lun: Which::Journal, id }.encode();
        let mut torn = vec![0; wanted.len()];
        assert!(may_be_labelled(&torn, &wanted));
        torn[..SECTOR_BYTES].copy_from_slice(&wanted[..SECTOR_BYTES]);
        assert!(may_be_labelled(&torn, &wanted));
        torn[5 * SECTOR_BYTES] = 1;
        assert!(!may_be_labelled(&torn, &wanted), "something else");
        torn[5 * SECTOR_BYTES] = 0;
        torn[20] ^= 1;
        assert!(!may_be_labelled(&torn, &wanted), "another label");
    }

    #[test]
    fn transfers_are_cut_into_commands() {
        assert_eq!(chunks(5, 0).count(), 0);
        assert_eq!(chunks(5, 64).collect::<Vec<_>>(), [(5, 64)]);
        assert_eq!(chunks(5, 130).collect::<Vec<_>>(), [(5, 64), (69, 64), (133, 2)]);
        assert_eq!((slot_page(6), slot_page(7)), (1, 1 + SLOT_BLOCKS));
    }
}
