//! Links, shown and tried.
//!
//! A trial opens sessions of its own, one at each portal, and so disturbs nothing but by its load: each login proves
//! both arrays to each other, then some round trips and some MiB are timed. Last the other array is asked to log in here
//! over its own link: what is designated goes one way and journals the other, so both have to work.

use super::Array;
use super::peer_session::PeerSession;
use crate::channel::counted::CountedNetwork;
use crate::channel::initiator::Connector;
use crate::clock::{BoxFuture, MonotonicNs};
use crate::copy::source::SourceError;
use crate::shell::view::{BackTestView, LinkTestView, LinkView, PortalTestView};
use crate::volume::kind::PortalAddress;
use crate::volume::name::{ArrayNumber, LinkName};
use crate::volume::record::LinkRecord;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Array {
    pub(super) fn link_view(&self, link: &LinkRecord) -> LinkView {
        let status = self.runtime().links.get(link.name.as_str()).cloned().unwrap_or_default();
        let traffic = self.traffic(&link.name);
        let (sent_bytes, received_bytes) = traffic.streams.totals();
        let options = &link.options;
        LinkView {
            name: link.name.to_string(),
            array: link.array.0,
            state: match &status {
                status if status.connected => "up".to_owned(),
                status if status.error.is_some() => "down".to_owned(),
                _ => "idle".to_owned(),
            },
            reason: status.error,
            portals: link.portals.iter().map(ToString::to_string).collect(),
            connections: traffic.lanes.load(Ordering::Relaxed),
            connections_wanted: options.connections,
            round_trip_us: Some(traffic.round_trip_us.load(Ordering::Relaxed)).filter(|us| *us > 0),
            sent_bytes,
            received_bytes,
            compression: options.compression.to_string(),
            journal_wire_bytes: traffic.wire_bytes.load(Ordering::Relaxed),
            journal_plain_bytes: traffic.plain_bytes.load(Ordering::Relaxed),
            limit_bytes_per_s: options.limit.bytes_per_s(),
            limit_schedule: options.windows.iter().map(ToString::to_string).collect(),
            limit_now_bytes_per_s: options.limit_at(self.env.clock.wall().0).bytes_per_s(),
            fetch: options.fetch.to_string(),
            updates_by_read: traffic.updates_by_read.load(Ordering::Relaxed),
            updates_reread: traffic.updates_reread.load(Ordering::Relaxed),
            read: link.schedule.read.to_string(),
            restore: link.schedule.restore.to_string(),
            relay: None,
        }
    }

    /// Sessions over `link` begin with this.
    pub(super) fn connector(&self, link: &LinkName) -> Connector {
        let bytes = self.traffic(link).streams.clone();
        Connector {
            network: Arc::new(CountedNetwork { network: self.env.network.clone(), bytes }),
            clock: self.env.clock.clone(),
            entropy: self.env.entropy.clone(),
            initiator_name: super::peer_session::peer_name(self.config.array.name.as_str()),
        }
    }

    /// Tries a link, both ways.
    pub(super) async fn try_link(&self, name: &str) -> Result<LinkTestView, String> {
        let link =
            name.parse::<LinkName>().ok().and_then(|name| self.store.tables().links.get(&name).cloned());
        let link = link.ok_or_else(|| format!("there is no link {name:?}"))?;
        let mut portals = Vec::new();
        let mut back = None;
        for portal in &link.portals {
            let (view, session) = self.try_portal(&link, portal).await;
            portals.push(view);
            if let (Some(session), None) = (session, &back) {
                back = Some(ask_back(&session).await);
            }
        }
        let works = |back: &BackTestView| back.reason.is_none();
        let passed = portals.iter().all(|portal| portal.reason.is_none()) && back.as_ref().is_some_and(works);
        if let Some(us) = portals.iter().filter_map(|portal| portal.round_trip_us).min() {
            self.traffic(&link.name).round_trip_us.store(us.max(1), Ordering::Relaxed);
        }
        Ok(LinkTestView { link: link.name.to_string(), array: link.array.0, passed, portals, back })
    }

    async fn try_portal(
        &self,
        link: &LinkRecord,
        portal: &PortalAddress,
    ) -> (PortalTestView, Option<PeerSession>) {
        let mut view = PortalTestView { portal: portal.to_string(), ..PortalTestView::default() };
        let tried = async {
            let own = (self.config.array.number.0, self.config.array.name.as_str());
            let connector = self.connector(&link.name);
            let begun = self.env.clock.now();
            let session = PeerSession::open_at(&connector, own, link, &self.pool, portal).await?;
            view.login_us = Some(self.us_since(begun));
            view.round_trip_us = Some(self.time_round_trips(&session).await?);
            view.received_bytes_per_s = Some(self.time_bytes(&session).await?);
            Ok::<_, SourceError>(session)
        };
        match tried.await {
            Ok(session) => (view, Some(session)),
            Err(error) => {
                view.reason = Some(error.to_string());
                (view, None)
            }
        }
    }

    async fn time_round_trips(&self, session: &PeerSession) -> Result<u64, SourceError> {
        let mut shortest = u64::MAX;
        for _ in 0..ROUND_TRIPS {
            let begun = self.env.clock.now();
            session.test_bytes(1).await?;
            shortest = shortest.min(self.us_since(begun));
        }
        Ok(shortest)
    }

    async fn time_bytes(&self, session: &PeerSession) -> Result<u64, SourceError> {
        let begun = self.env.clock.now();
        let mut bytes = 0;
        while bytes < RATE_BYTES && self.us_since(begun) < RATE_US {
            let came = session.test_bytes(holdfast_scsi::MAX_LINK_TEST_BYTES).await?;
            bytes += came as u64;
        }
        Ok(bytes.saturating_mul(1_000_000) / self.us_since(begun).max(1))
    }

    /// Logs in at the array `peer`, which has asked for it.
    pub(super) fn try_back(self: Arc<Self>, peer: u32) -> BoxFuture<'static, BackTestView> {
        Box::pin(async move {
            let link = self.store.read(|tables| tables.link_to(ArrayNumber(peer)).cloned());
            let Some(link) = link else {
                let reason = Some("it has no link to this array".to_owned());
                return BackTestView { reason, login_us: None };
            };
            let own = (self.config.array.number.0, self.config.array.name.as_str());
            let connector = self.connector(&link.name);
            let begun = self.env.clock.now();
            let opened = tokio::select! {
                biased;
                opened = PeerSession::open(&connector, own, &link, &self.pool, 0) => opened.map(|_| ()),
                () = self.env.clock.sleep(BACK_LIMIT) => Err(SourceError("it did not get through in time".into())),
            };
            BackTestView {
                reason: opened.err().map(|error| error.to_string()),
                login_us: Some(self.us_since(begun)),
            }
        })
    }

    fn us_since(&self, begun: MonotonicNs) -> u64 {
        u64::try_from(self.env.clock.now().since(begun).as_micros()).unwrap_or(u64::MAX)
    }
}

async fn ask_back(session: &PeerSession) -> BackTestView {
    session.test_back().await.unwrap_or_else(|error| BackTestView {
        reason: Some(format!("it could not be asked: {error}")),
        login_us: None,
    })
}

/// Round trips of which the shortest is shown.
const ROUND_TRIPS: u32 = 5;
/// Data that is timed, and how long at most.
const RATE_BYTES: u64 = 16 << 20;
const RATE_US: u64 = 2_000_000;
/// How long the other array may take to log in here.
const BACK_LIMIT: Duration = Duration::from_secs(12);
