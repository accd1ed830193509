//! Who may see what: the directory behind the portals.
//!
//! Nothing is visible that was not granted. A portal for hosts shows the targets that name the initiator; a portal for
//! arrays shows the peer target to linked arrays and to nobody else, and only after both have proved themselves.

use super::Array;
use super::peer_service::PeerService;
use super::peer_session::peer_name;
use crate::channel::storage::{Nexus, Storage, Targets};
use crate::config::{Config, Serves};
use crate::copy::link_key::{Proof, link_key};
use crate::io::host::HostStorage;
use crate::volume::record::{ChapRecord, LinkRecord, TargetRecord};
use crate::volume::table::Tables;
use holdfast_iscsi::chap::{Credentials, Identity, Secret};
use holdfast_iscsi::discovery::{Access, Directory, Portal};
use holdfast_iscsi::name::IscsiName;
use holdfast_iscsi::target::Settings;
use std::sync::{Arc, Weak};

/// What one portal offers.
pub(crate) struct Offered {
    array: Weak<Array>,
    serves: Serves,
}

impl Offered {
    pub(crate) fn new(array: &Arc<Array>, serves: Serves) -> Self {
        Self { array: Arc::downgrade(array), serves }
    }

    fn own_peer_name(array: &Array) -> String {
        peer_name(array.config.array.name.as_str())
    }

    /// What an initiator must prove at the peer target.
    fn peer_access(array: &Array, tables: &Tables, initiator: &IscsiName) -> Access {
        let Some(link) = link_of(tables, initiator) else { return Access::NotFound };
        let (from, to, secret) = (link.array.0, tables.meta().number.0, link.secret.expose());
        let theirs = identity(initiator.as_str(), link_key(secret, from, to, Proof::Initiator).as_bytes());
        let ours =
            identity(&Self::own_peer_name(array), link_key(secret, from, to, Proof::Target).as_bytes());
        chap(theirs, ours)
    }

    fn discovery(&self, array: &Array, tables: &Tables, initiator: &IscsiName) -> Access {
        if self.serves.arrays() && link_of(tables, initiator).is_some() {
            return Self::peer_access(array, tables, initiator);
        }
        let mut granted = self.granted(tables, initiator).peekable();
        match granted.peek() {
            None => Access::Denied,
            Some(first) => {
                let first = *first;
                match granted
                    .find(|target| target.chap.is_none())
                    .or(Some(first))
                    .and_then(|target| target.chap.as_ref())
                {
                    None => Access::Open,
                    Some(chap) => host_chap(chap),
                }
            }
        }
    }

    fn granted<'t>(
        &self,
        tables: &'t Tables,
        initiator: &'t IscsiName,
    ) -> impl Iterator<Item = &'t TargetRecord> {
        let hosts = self.serves.hosts();
        tables.targets.iter().filter(move |target| hosts && grants(target, initiator))
    }
}

impl Directory for Offered {
    fn authorize(&self, initiator: &IscsiName, target: Option<&IscsiName>) -> Access {
        let Some(array) = self.array.upgrade() else { return Access::Denied };
        let tables = array.store.tables();
        let Some(target) = target else { return self.discovery(&array, &tables, initiator) };
        if target.as_str() == Self::own_peer_name(&array) && self.serves.arrays() {
            return Self::peer_access(&array, &tables, initiator);
        }
        match self.granted(&tables, initiator).find(|row| row.iqn.as_str() == target.as_str()) {
            None => Access::NotFound,
            Some(row) => row.chap.as_ref().map_or(Access::Open, host_chap),
        }
    }

    fn targets(&self, initiator: &IscsiName, out: &mut dyn FnMut(&str, &[Portal<'_>])) {
        let Some(array) = self.array.upgrade() else { return };
        let tables = array.store.tables();
        let addresses = array.runtime().portal_addresses.clone();
        let portals = |wanted: fn(Serves) -> bool| -> Vec<Portal<'_>> {
            let serving = addresses.iter().filter(|(_, serves, _)| wanted(*serves));
            serving.map(|(address, _, group_tag)| Portal { address, group_tag: *group_tag }).collect()
        };
        // Who found out without a proof is shown what needs none.
        let proved = matches!(self.discovery(&array, &tables, initiator), Access::Chap(_));
        for target in self.granted(&tables, initiator).filter(|target| proved || target.chap.is_none()) {
            out(target.iqn.as_str(), &portals(Serves::hosts));
        }
        if self.serves.arrays() && link_of(&tables, initiator).is_some() {
            out(&Self::own_peer_name(&array), &portals(Serves::arrays));
        }
    }
}

impl Targets for Offered {
    fn open(&self, nexus: &Arc<Nexus>) -> Option<Arc<dyn Storage>> {
        let array = self.array.upgrade()?;
        if nexus.target.as_str() == Self::own_peer_name(&array) {
            // Between arrays digests are mandatory: what is damaged on the way must not look like data.
            if !nexus.has_digests {
                return None;
            }
            let tables = array.store.tables();
            let link = link_of(&tables, &nexus.initiator)?;
            return Some(Arc::new(PeerService::new(&array, link, nexus)?));
        }
        let luns = array.runtime().targets.get(nexus.target.as_str())?.clone();
        Some(Arc::new(HostStorage::attach(luns, array.pool.clone(), array.demand.clone(), nexus)))
    }
}

/// The link to the array that goes by this initiator name.
fn link_of<'t>(tables: &'t Tables, initiator: &IscsiName) -> Option<&'t LinkRecord> {
    tables.links.iter().find(|link| peer_name(link.name.as_str()) == initiator.as_str())
}

fn grants(target: &TargetRecord, initiator: &IscsiName) -> bool {
    target.initiators.iter().any(|rule| rule.names(initiator.as_str()))
}

fn host_chap(record: &ChapRecord) -> Access {
    let theirs = identity(&record.initiator.user, record.initiator.secret.expose());
    let ours = record.mutual.as_ref().map(|mutual| identity(&mutual.user, mutual.secret.expose()));
    match ours {
        Some(ours) => chap(theirs, ours),
        None => {
            theirs.and_then(|theirs| Credentials::new(theirs, None).ok()).map_or(Access::Denied, Access::Chap)
        }
    }
}

fn chap(theirs: Option<Identity>, ours: Option<Identity>) -> Access {
    let (Some(theirs), Some(ours)) = (theirs, ours) else { return Access::Denied };
    Credentials::new(theirs, Some(ours)).map_or(Access::Denied, Access::Chap)
}

fn identity(name: &str, secret: &[u8]) -> Option<Identity> {
    Some(Identity { name: name.into(), secret: Secret::new(secret).ok()? })
}

/// What connections of a portal agree to.
pub(crate) fn settings(config: &Config, portal_group_tag: u16) -> Settings {
    let mut settings = Settings { portal_group_tag, ..Settings::default() };
    let limits = &config.limits;
    settings.login_timeout_ns = u64::try_from(limits.login_timeout.as_nanos()).unwrap_or(u64::MAX);
    let bytes = |size: crate::config::ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
    settings.offer.first_burst_bytes = bytes(limits.first_burst);
    settings.offer.max_burst_bytes = bytes(limits.max_burst);
    settings.offer.max_recv_segment_bytes = bytes(limits.data_segment);
    settings
}
