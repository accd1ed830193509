//! The sessions of one link as the copy uses them: several lanes for journal reads (J8), one of them for the rest.
//!
//! Lane 0 is the session that the link's task opened; when it ends, all of the link begins anew. Each further lane is
//! opened by a task of its own, and again when it ends; a read that it carried is lost and asked for again by its
//! numbers. Lanes use the portals of the link in turn.

use super::link_meter::Meter;
use super::peer_session::PeerSession;
use crate::channel::initiator::Connector;
use crate::clock::{BoxFuture, Clock};
use crate::copy::source::{Ask, PieceAsk, Source, SourceError};
use crate::disk::slot::{SLOT_BYTES, Slot, SlotPool};
use crate::volume::record::LinkRecord;
use crate::volume::transfer::CONNECTIONS_MAX;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_journal::reader::Report;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An open link.
pub(crate) struct PeerLink {
    lanes: Mutex<Vec<Option<PeerSession>>>,
    meter: Mutex<Meter>,
    clock: Arc<dyn Clock>,
}

impl PeerLink {
    /// A link over `main`, and as many further lanes as the link is to have.
    pub(crate) fn new(main: PeerSession, link: &LinkRecord, clock: Arc<dyn Clock>) -> Self {
        let mut lanes = vec![None; usize::from(link.options.connections.clamp(1, CONNECTIONS_MAX))];
        lanes[0] = Some(main);
        Self { lanes: Mutex::new(lanes), meter: Mutex::new(Meter::new(clock.now())), clock }
    }

    /// Keeps the further lanes open, for ever.
    pub(crate) async fn keep_lanes(
        &self,
        connector: &Connector,
        own: (u32, &str),
        link: &LinkRecord,
        pool: &SlotPool,
    ) {
        let count = self.lanes().len();
        let mut keeping: FuturesUnordered<_> =
            (1..count).map(|lane| self.keep_lane(lane, connector, own, link, pool)).collect();
        while keeping.next().await.is_some() {}
        std::future::pending().await
    }

    async fn keep_lane(
        &self,
        lane: usize,
        connector: &Connector,
        own: (u32, &str),
        link: &LinkRecord,
        pool: &SlotPool,
    ) {
        loop {
            match PeerSession::open(connector, own, link, pool, lane).await {
                Ok(session) => {
                    self.lanes()[lane] = Some(session.clone());
                    session.closed().await;
                    self.lanes()[lane] = None;
                }
                Err(error) => tracing::debug!(link = %link.name, lane, %error, "a further connection fails"),
            }
            self.clock.sleep(LANE_PAUSE).await;
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Option<PeerSession>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lane(&self, lane: usize) -> Result<PeerSession, SourceError> {
        let session = self.lanes().get(lane).cloned().flatten();
        session.ok_or_else(|| SourceError("the connection is closed".into()))
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
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
        Box::pin(async move {
            let pages = self.lane(lane)?.journal_read(group, ask).await?;
            let bytes = (pages.len() * SLOT_BYTES) as u64;
            self.meter().handle_bytes(self.clock.now(), bytes);
            Ok(pages)
        })
    }

    fn journal_information(&self, group: u32) -> BoxFuture<'_, Result<Vec<u8>, SourceError>> {
        Box::pin(async move { self.lane(0)?.journal_information(group).await })
    }

    fn copy_read(&self, group: u32, ask: PieceAsk) -> BoxFuture<'_, Result<Vec<Slot>, SourceError>> {
        Box::pin(async move {
            let pages = self.lane(0)?.copy_read(group, ask).await?;
            let bytes = (pages.len() * SLOT_BYTES) as u64;
            self.meter().handle_bytes(self.clock.now(), bytes);
            Ok(pages)
        })
    }

    fn report_position(&self, group: u32, position: Report) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(async move { self.lane(0)?.report_position(group, position).await })
    }

    fn link_permille(&self) -> u32 {
        self.meter().permille(self.clock.now(), None)
    }
}

/// Pause before a further connection is opened again.
const LANE_PAUSE: Duration = Duration::from_millis(500);
