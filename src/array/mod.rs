//! One array put together: control store, parity groups, volumes, groups, targets, portals, links.
//!
//! # How it works
//! The control store says what there is; [`Array::start`] brings it to life, and one owner task (`Array::own`)
//! keeps doing so: whenever a designation changed the store or a group changed its state, it *reconciles*: opens what
//! is not open, starts what should run, records what the data say (a pair that became normal, a journal that failed).
//! Every step may be repeated, so a crash between two of them is finished by the next start.
//!
//! # How it ends
//! [`Array::stop`] closes the portals, settles every group, destages everything and only then notes that it stopped
//! cleanly. [`Array::kill`] is for simulations: every future is dropped where it stands.

mod anew;
mod bookmarks;
mod bring_up;
mod cascade;
mod compare;
mod designate;
mod direct;
mod drill_cut;
mod drill_view;
mod drills;
pub mod env;
mod events;
mod groups;
mod grow;
mod identity;
mod images;
mod inflow;
mod journal_unit;
mod journals;
mod keep;
mod lacking;
mod leave;
mod link_meter;
mod link_test;
mod links;
mod marks;
mod onward;
mod pair_view;
mod pairs;
mod peer_link;
mod peer_service;
pub mod peer_session;
mod positions;
mod probe;
mod rejoin;
mod relay;
mod reverse;
mod rewind;
mod rewind_apply;
mod snapshots;
mod sources;
mod synchronous;
mod take_down;
mod takeover;
mod takeover_below;
mod takeover_reach;
mod takeover_view;
mod targets;
mod tasks;
mod throttle;
mod unopened;
mod upstream;
mod view;
mod written;

pub(crate) use journals::recover_chain;

use crate::channel::listener::{Logins, Portal, PortalOptions};
use crate::channel::target::Sessions;
use crate::clock::{BoxFuture, MonotonicNs};
use crate::config::{Config, missing_designations};
use crate::copy::demand::Demand;
use crate::copy::forward::Forwarder;
use crate::copy::group::Group;
use crate::copy::inflow::Inflow;
use crate::copy::kept::JournalCache;
use crate::copy::marked::SvolMarks;
use crate::copy::quota::Quota;
use crate::disk::cache::{CacheSettings, VolumeSpec};
use crate::disk::raid::group::ParityGroup;
use crate::disk::slot::SlotPool;
use crate::disk::{DiskAdapter, VolumeKind};
use crate::io::lun::LunUnit;
use crate::io::luns::LunMap;
use crate::io::volume::Volume;
use crate::shell::view::{MessageView, RewindView, SshView};
use crate::volume::designation::{Designation, DesignationId};
use crate::volume::drill::DrillNumber;
use crate::volume::name::{GroupNumber, LinkName, VolumeNumber};
use crate::volume::record::{Identity, Who};
use crate::volume::store::{Owner, Store};
use crate::volume::table::Tables;
use env::Env;
use holdfast_journal::UpdateNumber;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tasks::Tasks;
use tokio::sync::{Notify, watch};

/// A running array.
pub struct Array {
    pub(crate) config: Config,
    pub(crate) env: Env,
    pub(crate) store: Arc<Store>,
    pub(crate) pool: SlotPool,
    pub(crate) journal_cache: Arc<JournalCache>,
    /// What hosts ask.
    pub(crate) demand: Arc<Demand>,
    pub(crate) disk: DiskAdapter,
    pub(crate) sessions: Sessions,
    pub(crate) started: MonotonicNs,
    tasks: Tasks,
    runtime: Mutex<Runtime>,
    /// The store or something at work has changed: reconcile.
    wake: Notify,
    /// Views show something else now.
    changed: Notify,
    /// What has happened.
    events: events::Events,
    /// Where operators and monitors reach it, once that listens.
    edges: OnceLock<Edges>,
    /// Images of S-VOLs are kept, noted, dropped and gone back to by one at a time; and meanwhile no group is opened.
    images: tokio::sync::Mutex<()>,
    /// Comparisons with other arrays.
    compares: compare::Compares,
    /// One change of where restore stops at a time: what the groups do and what the store says stay the same.
    stops: Mutex<()>,
    /// One look at who may only read LUNs at a time: an older one never comes behind a newer one.
    readers: Mutex<()>,
    /// What upstream arrays say of their forwarding is recorded by one at a time.
    inflow_turn: Arc<tokio::sync::Mutex<()>>,
    /// How often somebody asked for a reconciliation, and up to which asking it has been done.
    asked: AtomicU64,
    reconciled: watch::Sender<u64>,
}

/// What is open.
#[derive(Default)]
pub(crate) struct Runtime {
    pub(crate) parity_groups: BTreeMap<u32, Result<ParityGroup, String>>,
    /// The control store is an older copy than its units know; and what they say.
    pub(crate) older_store: Option<String>,
    pub(crate) volumes: BTreeMap<u32, Arc<Volume>>,
    /// Why a volume cannot be used.
    pub(crate) volume_trouble: BTreeMap<u32, String>,
    pub(crate) targets: BTreeMap<String, Arc<LunMap>>,
    /// Units by volume, for their access.
    pub(crate) units: BTreeMap<u32, Vec<Arc<LunUnit>>>,
    pub(crate) groups: BTreeMap<u32, Arc<Group>>,
    pub(crate) group_trouble: BTreeMap<u32, String>,
    /// Where the journal of an auxiliary group begins, as its primary said; until then it cannot be formatted.
    pub(crate) journal_begins: BTreeMap<u32, UpdateNumber>,
    pub(crate) links: BTreeMap<String, LinkStatus>,
    /// What has gone over each link; it stays while a link rests.
    pub(crate) traffic: BTreeMap<String, Arc<peer_link::Traffic>>,
    /// Links that have their task.
    pub(crate) kept_links: BTreeSet<LinkName>,
    /// Relays that have their task, and how they are.
    pub(crate) kept_relays: BTreeSet<LinkName>,
    pub(crate) relays: BTreeMap<String, relay::RelayStatus>,
    /// Relays of which each gets a part of the journals, by group here and the other array.
    pub(crate) relay_parts: BTreeMap<(u32, u32), Arc<relay::Parts>>,
    /// Chains that are written here, by their incarnations, and what is said of them over links.
    pub(crate) relay_directs: BTreeMap<u128, Arc<relay::Direct>>,
    /// Relays that are watched, by name.
    pub(crate) watches: BTreeMap<String, Arc<relay::Watch>>,
    /// Groups, by their numbers here, whose relays are read to their end.
    pub(crate) draining: BTreeSet<u32>,
    /// What other arrays refused of that which operators had passed on, newest last.
    pub(crate) refused: VecDeque<(DesignationId, MessageView)>,
    /// Groups whose writes are forwarded from here.
    pub(crate) forwarders: BTreeMap<u32, Arc<Forwarder>>,
    /// Sessions over which virtual volumes are read.
    pub(crate) upstream_sessions: BTreeMap<LinkName, peer_session::PeerSession>,
    /// Groups whose writes are forwarded to here.
    pub(crate) inflows: BTreeMap<u32, Arc<Inflow>>,
    /// Numbers that were reserved for snapshots which were given up.
    pub(crate) given_up: Vec<VolumeNumber>,
    /// Rewinds at work, with their groups.
    pub(crate) rewinds: BTreeMap<u64, (GroupNumber, RewindView)>,
    /// Initial copies at work, by pair.
    pub(crate) copying: BTreeSet<u32>,
    /// Readers whose pairs overflowed, by group and array.
    pub(crate) overflows: BTreeMap<(u32, u32), pairs::Overflow>,
    /// S-VOLs that hosts may write, by pair, with what they wrote.
    pub(crate) written: BTreeMap<u32, Arc<SvolMarks>>,
    /// Drills that have their task.
    pub(crate) attended_drills: BTreeSet<DrillNumber>,
    /// Drills that are cut and not recorded yet: restore may go on.
    pub(crate) cut_drills: BTreeSet<DrillNumber>,
    /// Clones of drills that have a quota, by volume.
    pub(crate) quotas: BTreeMap<u32, Arc<Quota>>,
    /// Groups whose P-VOLs hosts write no more, because they are turned round; since when.
    pub(crate) shut: BTreeMap<u32, MonotonicNs>,
    /// Primaries whose hosts wait for another array and that are not at work; since when that is known.
    pub(crate) unopened: BTreeMap<u32, MonotonicNs>,
    /// Groups that are being taken over, whose primary is spoken to.
    pub(crate) reaching: BTreeSet<u32>,
    /// Groups that are being taken over and whose volumes hosts see at their primary as well: whether they may be served there.
    pub(crate) leaves: BTreeMap<u32, leave::Leave>,
    /// What is known about other sources of groups, by group.
    pub(crate) sourcing: BTreeMap<u32, sources::Sourcing>,
    /// What the configuration declares of groups that are copied here, and what has to wait for their source.
    pub(crate) deferred: Vec<Designation>,
    portals: Vec<Portal>,
    pub(crate) portal_addresses: Vec<(String, crate::config::Serves, u16)>,
}

/// Where operators and monitors reach an array from outside. Served by the process around it, shown by the array.
#[derive(Clone, Debug, Default)]
pub struct Edges {
    /// The shell over SSH.
    pub ssh: Option<SshView>,
    /// Metrics and health.
    pub web: Option<String>,
}

/// How a link is.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkStatus {
    pub(crate) connected: bool,
    pub(crate) error: Option<String>,
}

impl Array {
    /// Opens everything and serves. What cannot be opened is shown with its reason and stops nothing else.
    ///
    /// # Errors
    /// The control store cannot be opened, a declaration is refused, or a portal cannot listen.
    pub async fn start(config: Config, env: Env) -> anyhow::Result<Arc<Self>> {
        let owner = Owner {
            number: config.array.number,
            name: config.array.name.clone(),
            identity: Identity(env.entropy.identity()),
            audit_records_max: config.limits.audit_records,
        };
        let store = Arc::new(Store::open(&env.store, &owner, env.clock.clone())?);
        if !store.read(Tables::takeovers_cut_off).is_empty() {
            store.checkpoint(Tables::takeovers_ask_again)?;
        }
        let deferred = provision(&store, &config, &env)?;
        let memory = usize::try_from(config.cache.memory.0).unwrap_or(usize::MAX);
        let pool = SlotPool::new(memory);
        if env.takes_memory_at_once {
            let (pool, units) = (pool.clone(), env.units.clone());
            std::thread::Builder::new()
                .name("cache-memory".to_owned())
                .spawn(move || pool.make_at_once(|piece| units.lend(piece)))?;
        }
        let compares = compare::Compares::new(&store.tables());
        let journal_cache = JournalCache::new(usize::try_from(config.cache.journal.0).unwrap_or(usize::MAX));
        let disk = DiskAdapter::new(pool.clone(), env.clock.clone(), CacheSettings::default());
        let sessions = Sessions::new(usize::try_from(config.limits.sessions).unwrap_or(usize::MAX));
        let started = env.clock.now();
        let demand = Demand::new(env.clock.clone());
        let array = Arc::new(Self {
            config,
            env,
            store,
            pool,
            journal_cache,
            demand,
            disk,
            sessions,
            started,
            tasks: Tasks::default(),
            runtime: Mutex::new(Runtime { deferred, ..Runtime::default() }),
            wake: Notify::new(),
            changed: Notify::new(),
            events: events::Events::default(),
            edges: OnceLock::new(),
            images: tokio::sync::Mutex::default(),
            compares,
            stops: Mutex::default(),
            readers: Mutex::default(),
            inflow_turn: Arc::default(),
            asked: AtomicU64::new(0),
            reconciled: watch::Sender::new(0),
        });
        let disk = array.disk.clone();
        array.tasks.spawn(async move { disk.run().await });
        array.open_parity_groups().await?;
        array.reconcile().await;
        array.open_portals().await?;
        array.start_links();
        array.start_relays();
        array.start_events();
        let scheduler = array.clone();
        array.tasks.spawn(async move { scheduler.compare_by_schedule().await });
        array.start_drills();
        let owner = array.clone();
        array.tasks.spawn(async move { owner.own().await });
        let keeper = array.clone();
        array.tasks.spawn(keeper.look_after_images());
        Ok(array)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.array.name.as_str()
    }

    /// Says where it is reached, to be shown; only the first call counts.
    pub fn set_edges(&self, edges: Edges) {
        let _ = self.edges.set(edges);
    }

    /// The addresses of its portals, ports filled in.
    #[must_use]
    pub fn portals(&self) -> Vec<String> {
        self.runtime().portal_addresses.iter().map(|(address, ..)| address.clone()).collect()
    }

    /// The owner task: one thing after the other, for as long as the array runs.
    async fn own(self: Arc<Self>) {
        // Whatever wakes it meanwhile: what could not be opened is tried again in time.
        let mut again: Option<BoxFuture<'static, ()>> = None;
        loop {
            let trouble = {
                let runtime = self.runtime();
                !runtime.group_trouble.is_empty() || !runtime.volume_trouble.is_empty()
            };
            if trouble || self.awaits_readers() || self.is_growing() {
                again.get_or_insert_with(|| self.env.clock.sleep(TRY_AGAIN));
            } else {
                again = None;
            }
            tokio::select! {
                biased;
                // What could not be opened is tried again: its cause may have gone.
                () = due(&mut again) => {
                    again = None;
                    let mut runtime = self.runtime();
                    runtime.group_trouble.clear();
                    runtime.volume_trouble.clear();
                }
                () = self.wake.notified() => {}
            }
            let asked = self.asked.load(Ordering::SeqCst);
            self.reconcile().await;
            self.start_links();
            self.start_relays();
            self.start_compares();
            self.reconciled.send_replace(asked);
        }
    }

    /// Resolves when everything that the store said before the call has been taken up.
    pub(crate) async fn reconciled(&self) {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.wake();
        // The sender lives as long as the array.
        let _ = self.reconciled.subscribe().wait_for(|done| *done >= asked).await;
    }

    /// Something changed that the owner has to look at.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
        self.changed.notify_waiters();
    }

    pub(crate) fn changed(&self) -> &Notify {
        &self.changed
    }

    pub(crate) fn runtime(&self) -> MutexGuard<'_, Runtime> {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    async fn open_portals(self: &Arc<Self>) -> anyhow::Result<()> {
        let logins = Logins::new(usize::try_from(self.config.limits.logins_in_progress).unwrap_or(64), 16);
        for portal in &self.config.portals {
            let options = PortalOptions {
                clock: self.env.clock.clone(),
                entropy: self.env.entropy.clone(),
                targets: Arc::new(targets::Offered::new(self, portal.serves)),
                sessions: self.sessions.clone(),
                logins: logins.clone(),
                settings: targets::settings(&self.config, portal.group.0),
            };
            let address = portal.listen.to_string();
            let opened = Portal::open(self.env.network.as_ref(), &address, options).await;
            let opened = opened.map_err(|error| anyhow::anyhow!("portal {address}: {error}"))?;
            let mut runtime = self.runtime();
            runtime.portal_addresses.push((opened.local().to_owned(), portal.serves, portal.group.0));
            runtime.portals.push(opened);
        }
        Ok(())
    }

    /// Stops cleanly: nobody is let in any more, everything accepted is durable in the volumes, and that is noted.
    ///
    /// # Errors
    /// Something could not be made durable; the next start replays it from the journals.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.note_array("stopping", None);
        self.compares.array_ends();
        self.runtime().portals.clear();
        self.sessions.drop_all(None).await;
        let groups: Vec<Arc<Group>> = self.runtime().groups.values().cloned().collect();
        let mut clean = Vec::new();
        let mut failed = Vec::new();
        for group in groups {
            match group.finish().await {
                Ok(()) => clean.push(group.number),
                Err(error) => failed.push(format!("group {}: {error}", group.name)),
            }
        }
        self.tasks.end().await;
        // Journal volumes are never cached.
        let cached = |spec: &VolumeSpec| spec.kind != VolumeKind::Journal;
        let volumes: Vec<_> = self.disk.volumes().into_iter().filter(cached).map(|spec| spec.id).collect();
        if let Err(error) = self.disk.destage(&volumes).await {
            failed.push(error.to_string());
        }
        groups::note_clean_stop(&self.store, &clean)?;
        if failed.is_empty() {
            Ok(())
        } else {
            anyhow::bail!("not everything could be made durable: {}", failed.join("; "))
        }
    }

    /// Ends as a lost process ends: every task of the array is dropped where it stands.
    pub async fn kill(&self) {
        self.runtime().portals.clear();
        self.tasks.end().await;
    }
}

/// Resolves when that time has come; never, if there is none.
async fn due(time: &mut Option<BoxFuture<'static, ()>>) {
    match time {
        Some(time) => time.await,
        None => std::future::pending().await,
    }
}

/// What the configuration declares and the store does not have is designated, in the order of the declarations.
///
/// Gives what has to wait: in the middle of a cascade pairs can be catalogued only when the source has spoken.
fn provision(store: &Store, config: &Config, env: &Env) -> anyhow::Result<Vec<Designation>> {
    let identity = || Identity(env.entropy.identity());
    let mut missing = store.read(|tables| missing_designations(&config.provision, tables, identity));
    store.read(|tables| missing.retain(|(_, what)| !tables.was_dropped(what)));
    let mut deferred = Vec::new();
    for (id, designation) in missing {
        match store.designate(id, &designation, &Who::Provision) {
            Ok(_) => {}
            Err(_) if cascade::may_wait(config, &designation) => deferred.push(designation),
            Err(refusal) => {
                anyhow::bail!("{}: [provision] {designation}: {refusal}", config.source.display())
            }
        }
    }
    Ok(deferred)
}

/// How often what could not be opened is tried again.
const TRY_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
