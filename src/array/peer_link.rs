//! The sessions of one link as the copy uses them: several lanes for journal reads (J8), one of them for the rest.
//!
//! Lane 0 is the session that the link's task opened; when it ends, all of the link begins anew. Each further lane is
//! opened by a task of its own, and again when it ends; a read that it carried is lost and asked for again by its
//! numbers. Lanes use the portals of the link in turn.
//!
//! The choices of the link (`volume::transfer`) are looked at with each journal read, so a new one counts at once:
//! a limit holds reads back here, before they are sent; what comes compressed is unpacked here. Control commands wait
//! for no limit.

use super::direct;
use super::link_meter::Meter;
use super::peer_session::PeerSession;
use super::throttle::Bucket;
use crate::channel::counted::StreamBytes;
use crate::channel::initiator::Connector;
use crate::clock::{BoxFuture, Clock};
use crate::copy::compress::{Workbench, unpack};
use crate::copy::source::{Ask, PieceAsk, Source, SourceError, Wanted};
use crate::copy::synchronous::{Asked, Told};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotPool};
use crate::volume::record::LinkRecord;
use crate::volume::transfer::{CONNECTIONS_MAX, Compression, Fetch, LinkOptions};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::reader::Report;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// What has gone over a link since the start, whoever opened the sessions.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// All bytes: of our own sessions as they are on the wire, of the other array's the data alone.
    pub(crate) streams: Arc<StreamBytes>,
    /// Write data of journals that came, as it was on the wire.
    pub(crate) wire_bytes: AtomicU64,
    /// The same, uncompressed.
    pub(crate) plain_bytes: AtomicU64,
    /// Updates that were fetched by READ, and those that had to be asked for again by command.
    pub(crate) updates_by_read: AtomicU64,
    pub(crate) updates_reread: AtomicU64,
    /// The last round trip, in microseconds; 0: none was measured.
    pub(crate) round_trip_us: AtomicU64,
    /// Sessions that this array has open over the link.
    pub(crate) lanes: AtomicUsize,
}

impl Traffic {
    /// Counts a session until it is dropped.
    fn lane(self: &Arc<Self>) -> LaneCount {
        self.lanes.fetch_add(1, Ordering::Relaxed);
        LaneCount(self.clone())
    }
}

struct LaneCount(Arc<Traffic>);

impl Drop for LaneCount {
    fn drop(&mut self) {
        self.0.lanes.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An open link.
pub(crate) struct PeerLink {
    lanes: Mutex<Vec<Option<(PeerSession, LaneCount)>>>,
    meter: Mutex<Meter>,
    bucket: Mutex<Bucket>,
    options: Mutex<LinkOptions>,
    options_changed: Notify,
    /// The shortest round trip, in microseconds; 0: none was measured.
    shortest_us: AtomicU64,
    /// Journal reads under way.
    reading: AtomicUsize,
    pool: SlotPool,
    bench: Workbench,
    pub(crate) traffic: Arc<Traffic>,
    clock: Arc<dyn Clock>,
}

/// What an open link works with.
pub(crate) struct LinkParts {
    pub(crate) pool: SlotPool,
    pub(crate) bench: Workbench,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl PeerLink {
    /// A link over `main`, and as many further lanes as the link is to have.
    pub(crate) fn new(main: PeerSession, link: &LinkRecord, parts: LinkParts) -> Self {
        let LinkParts { pool, bench, traffic, clock } = parts;
        let mut lanes: Vec<_> = std::iter::repeat_with(|| None)
            .take(usize::from(link.options.connections.clamp(1, CONNECTIONS_MAX)))
            .collect();
        lanes[0] = Some((main, traffic.lane()));
        let now = clock.now();
        Self {
            lanes: Mutex::new(lanes),
            meter: Mutex::new(Meter::new(now)),
            bucket: Mutex::new(Bucket::new(now)),
            options: Mutex::new(link.options.clone()),
            options_changed: Notify::new(),
            shortest_us: AtomicU64::new(0),
            reading: AtomicUsize::new(0),
            pool,
            bench,
            traffic,
            clock,
        }
    }

    /// Other choices count from now on; the number of connections only for the next session.
    pub(crate) fn set_options(&self, options: &LinkOptions) {
        let mut own = locked(&self.options);
        if *own != *options {
            own.clone_from(options);
            drop(own);
            self.options_changed.notify_waiters();
        }
    }

    /// Keeps the further lanes open, for ever.
    pub(crate) async fn keep_lanes(&self, connector: &Connector, own: (u32, &str), link: &LinkRecord) {
        let count = self.lanes().len();
        let mut keeping: FuturesUnordered<_> =
            (1..count).map(|lane| self.keep_lane(lane, connector, own, link)).collect();
        while keeping.next().await.is_some() {}
        std::future::pending().await
    }

    async fn keep_lane(&self, lane: usize, connector: &Connector, own: (u32, &str), link: &LinkRecord) {
        loop {
            match PeerSession::open(connector, own, link, &self.pool, lane).await {
                Ok(session) => {
                    self.lanes()[lane] = Some((session.clone(), self.traffic.lane()));
                    session.closed().await;
                    self.lanes()[lane] = None;
                }
                Err(error) => tracing::debug!(link = %link.name, lane, %error, "a further connection fails"),
            }
            self.clock.sleep(LANE_PAUSE).await;
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Option<(PeerSession, LaneCount)>>> {
        locked(&self.lanes)
    }

    fn lane(&self, lane: usize) -> Result<PeerSession, SourceError> {
        let lanes = self.lanes();
        let session = lanes.get(lane).and_then(Option::as_ref).map(|(session, _)| session.clone());
        session.ok_or_else(|| SourceError("the connection is closed".into()))
    }

    /// What may pass in a second now.
    fn limit(&self) -> Option<u64> {
        locked(&self.options).limit_at(self.clock.wall().0).bytes_per_s()
    }

    /// Waits until the limit lets another journal read go.
    async fn admitted(&self) {
        loop {
            let changed = self.options_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let limit = self.limit();
            let wait = locked(&self.bucket).wait(self.clock.now(), limit);
            if wait.is_zero() {
                return;
            }
            tokio::select! {
                biased;
                () = &mut changed => {}
                // The hour may bring another limit.
                () = self.clock.sleep(wait.min(LIMIT_LOOK)) => {}
            }
        }
    }

    async fn read(&self, lane: usize, group: u32, ask: Ask) -> Result<Vec<Slot>, SourceError> {
        self.admitted().await;
        let _under_way = UnderWay::new(&self.reading);
        let (compression, by_read) = {
            let options = locked(&self.options);
            let compression = match options.compression {
                Compression::None => None,
                Compression::Zstd(level) => NonZeroU8::new(level),
            };
            (compression, options.fetch == Fetch::Read)
        };
        // A range that was lost is asked for by name, which tables are not.
        if by_read && matches!(ask.what, Wanted::Next | Wanted::From(_)) {
            return self.read_by_read(lane, group, ask).await;
        }
        let (pages, bytes) = self.lane(lane)?.journal_read(group, ask, compression).await?;
        self.count(bytes);
        let room = usize::try_from(ask.room_bytes).unwrap_or(usize::MAX);
        let unpacked = unpack(&self.bench, &self.pool, (pages, bytes), room, compression.is_some()).await;
        self.traffic.wire_bytes.fetch_add(unpacked.wire_bytes, Ordering::Relaxed);
        self.traffic.plain_bytes.fetch_add(unpacked.plain_bytes, Ordering::Relaxed);
        Ok(unpacked.pages)
    }

    /// The same by READ of the source's journal volume (J9).
    async fn read_by_read(&self, lane: usize, group: u32, ask: Ask) -> Result<Vec<Slot>, SourceError> {
        let fetched = direct::fetch(&self.lane(lane)?, &self.pool, group, ask).await?;
        self.count(fetched.wire_bytes);
        let bytes = fetched.wire_bytes as u64;
        self.traffic.wire_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.traffic.plain_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.traffic.updates_by_read.fetch_add(fetched.by_read, Ordering::Relaxed);
        self.traffic.updates_reread.fetch_add(fetched.reread, Ordering::Relaxed);
        Ok(fetched.pages)
    }

    /// The shortest round trip is that of the way; what is more is queues, our own among them. A way that gets longer is
    /// believed little by little, and only while no more is under way than always.
    fn note_round_trip(&self, took_us: u64) {
        let known = self.shortest_us.load(Ordering::Relaxed);
        let is_quiet = self.reading.load(Ordering::Relaxed) <= QUIET_READS;
        let most = if is_quiet { known + known.div_ceil(LONGER) } else { known };
        let shortest = if known == 0 { took_us } else { took_us.min(most) };
        self.shortest_us.store(shortest, Ordering::Relaxed);
    }

    /// So many bytes of journals have come.
    fn count(&self, bytes: usize) {
        let bytes = bytes as u64;
        self.meter().handle_bytes(self.clock.now(), bytes);
        locked(&self.bucket).charge(bytes);
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        locked(&self.meter)
    }
}

impl Source for PeerLink {
    fn lanes(&self) -> usize {
        Self::lanes(self).len()
    }

    fn is_open(&self, lane: usize) -> bool {
        self.lane(lane).is_ok_and(|session| !session.is_closed())
    }

    fn journal_read(
        &self,
        lane: usize,
        group: u32,
        ask: Ask,
    ) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(self.read(lane, group, ask))
    }

    fn journal_information(&self, group: u32) -> BoxFuture<'_, Result<Vec<u8>, SourceError>> {
        Box::pin(async move { self.lane(0)?.journal_information(group).await })
    }

    fn copy_read(&self, group: u32, ask: PieceAsk) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(async move {
            self.admitted().await;
            let pages = self.lane(0)?.copy_read(group, ask).await?;
            self.count(pages.len() * SLOT_BYTES);
            Ok(pages)
        })
    }

    fn report_position(&self, group: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move {
            let begun = self.clock.now();
            self.lane(0)?.report_position(group, position).await?;
            let took = u64::try_from(self.clock.now().since(begun).as_micros()).unwrap_or(u64::MAX);
            self.traffic.round_trip_us.store(took.max(1), Ordering::Relaxed);
            self.note_round_trip(took.max(1));
            Ok(())
        })
    }

    fn synchronise(&self, group: u32, asked: Asked) -> BoxFuture<'_, Result<Told, SourceError>> {
        Box::pin(async move { self.lane(0)?.synchronise(group, asked).await })
    }

    fn link_permille(&self) -> u32 {
        let limit = self.limit();
        self.meter().permille(self.clock.now(), limit)
    }

    fn limit_bytes_per_s(&self) -> Option<u64> {
        self.limit()
    }

    fn seen_bytes_per_s(&self) -> u64 {
        self.meter().best()
    }

    fn reads_under_way(&self) -> usize {
        self.reading.load(Ordering::Relaxed)
    }

    fn round_trip(&self) -> Duration {
        Duration::from_micros(self.shortest_us.load(Ordering::Relaxed))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A read under way, counted until it ends in whatever way.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// With no more reads under way than these a round trip says how long the way is.
const QUIET_READS: usize = 2;
/// By one part in so many the shortest round trip that counts grows with each one that is longer.
const LONGER: u64 = 32;
/// Pause before a further connection is opened again.
const LANE_PAUSE: Duration = Duration::from_millis(500);
/// So often a read that is held back looks at the clock on the wall.
const LIMIT_LOOK: Duration = Duration::from_secs(1);
