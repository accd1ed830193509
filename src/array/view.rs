//! The array as the shell shows it: made anew for every question from the store and from what is at work.

use super::Array;
use super::snapshots::snapshot_view;
use super::sources::{read_reason, read_state};
use crate::channel::target::SessionInfo;
use crate::clock::BoxFuture;
use crate::config::{Provision, Serves, missing_designations};
use crate::copy::status::{Lag, ReaderStatus, Status};
use crate::disk::cache::AdapterUsage;
use crate::disk::raid::MemberState;
use crate::disk::slot::SLOT_BYTES;
use crate::shell::view::{
    ArrayView, AuditView, CompareStartView, CompareWish, Console, EventView, FollowView, GenerationView,
    GroupView, LagView, LinkTestView, LunView, MessageView, Options, ParityGroupView, PointerView,
    PortalView, PositionView, ReaderView, SessionView, Snapshot, TargetView, UnitView, VolumeView,
};
use crate::volume::designation::{DesignationId, Refusal};
use crate::volume::effect::Effect;
use crate::volume::group::{GroupRecord, GroupRole, summary};
use crate::volume::kind::{CacheMode, Release, SvolAccess};
use crate::volume::name::{GroupName, SnapshotName, VolumeNumber};
use crate::volume::pair::{PairRecord, PairState};
use crate::volume::proof::{FORMAT, Proof};
use crate::volume::record::{Identity, ParityGroupRecord, TargetRecord, VolumeRecord, VolumeUsage, Who};
use crate::volume::resync::TakeoverPoint;
use crate::volume::store::Order;
use crate::volume::table::{HostAccess, Tables};
use crate::volume::timing::{ReadTiming, RestoreTiming};
use holdfast_journal::pointer::PointerInformation;

impl Console for Array {
    fn snapshot(&self) -> Snapshot {
        let tables = self.store.tables();
        let usage = self.disk.usage();
        Snapshot {
            array: self.array_view(&tables, &usage),
            units: tables.parity_groups.iter().flat_map(|record| self.unit_views(record)).collect(),
            parity_groups: tables
                .parity_groups
                .iter()
                .map(|record| self.parity_group_view(record, &usage))
                .collect(),
            volumes: tables.volumes.iter().map(|record| self.volume_view(&tables, record, &usage)).collect(),
            snapshots: tables.snapshots.iter().map(|row| snapshot_view(&tables, row, &usage)).collect(),
            targets: tables.targets.iter().map(|record| self.target_view(&tables, record)).collect(),
            sessions: self.sessions.list().into_iter().map(|info| self.session_view(&info)).collect(),
            links: {
                let links = tables.links.iter().map(|link| self.link_view(link));
                links.chain(tables.relays.iter().map(|relay| self.relay_view(relay))).collect()
            },
            groups: tables.groups.iter().map(|record| self.group_view(&tables, record, &usage)).collect(),
            journals: tables.groups.iter().flat_map(|record| self.journal_views(&tables, record)).collect(),
            pairs: tables.pairs.iter().map(|pair| self.pair_view(&tables, pair)).collect(),
        }
    }

    fn audit(&self, last: usize) -> Vec<AuditView> {
        let records = self.store.audit(last).unwrap_or_else(|error| {
            tracing::error!(%error, "the audit log cannot be read");
            Vec::new()
        });
        let view = |record: crate::volume::record::AuditRecord| {
            let (who, from) = record.who.named();
            let time_unix_ms = record.time_unix_ns / NS_PER_MS;
            AuditView {
                number: record.number,
                time_unix_ms,
                who,
                from,
                what: record.what,
                result: record.result,
            }
        };
        records.into_iter().map(view).collect()
    }

    fn changed(&self) -> BoxFuture<'_, ()> {
        // Restored numbers move without any change of state, so a wait also looks again after a moment.
        Box::pin(async {
            tokio::select! {
                biased;
                () = Array::changed(self).notified() => {}
                () = self.env.clock.sleep(std::time::Duration::from_millis(50)) => {}
            }
        })
    }
    fn prepare<'a>(&'a self, orders: &'a mut [Order], who: &'a Who) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(async move {
            self.make_snapshots(orders, who).await?;
            self.make_drills(orders, who).await?;
            self.set_bookmarks(orders, who).await
        })
    }

    fn designate(&self, orders: &[Order], who: &Who, options: Options) -> Result<Effect, Refusal> {
        self.designate_orders(orders, who, options)
    }

    fn declared(&self) -> Provision {
        self.store.read(crate::config::declared)
    }

    fn compared(&self, wanted: &Provision) -> (Vec<Order>, Vec<String>) {
        self.store.read(|tables| {
            let missing = missing_designations(wanted, tables, || self.identity());
            (missing, crate::config::different(wanted, tables))
        })
    }

    fn identity(&self) -> Identity {
        Identity(self.env.entropy.identity())
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.reconciled())
    }

    fn events(&self, after: u64, last: usize) -> Vec<EventView> {
        self.events.behind(after, last)
    }

    fn event_behind(&self, after: u64) -> BoxFuture<'_, ()> {
        Box::pin(self.events.one_behind(after))
    }

    fn try_link<'a>(&'a self, link: &'a str) -> BoxFuture<'a, Result<LinkTestView, String>> {
        Box::pin(Array::try_link(self, link))
    }

    fn compare<'a>(
        &'a self,
        group: &'a GroupName,
        wish: &'a CompareWish,
        who: &'a Who,
    ) -> BoxFuture<'a, Result<CompareStartView, Refusal>> {
        Box::pin(Array::compare(self, group, wish, who))
    }

    fn prove<'a>(
        &'a self,
        group: &'a GroupName,
        of: (&'a SnapshotName, bool),
        who: &'a Who,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        Box::pin(Array::prove(self, group, of, who))
    }

    fn proof(&self, group: &GroupName) -> Result<Proof, Refusal> {
        let entries = self.store.read(|tables| tables.group_named(group).map(|row| row.compared.clone()));
        let entries = entries.ok_or_else(|| Refusal::missing("group", group))?;
        Ok(Proof { format: FORMAT.to_owned(), group: group.clone(), entries })
    }

    fn positions<'a>(&'a self, group: &'a str) -> BoxFuture<'a, Vec<PositionView>> {
        Box::pin(self.ask_positions(group))
    }

    fn on_their_way(&self, orders: &[DesignationId]) -> Vec<MessageView> {
        self.messages(orders)
    }

    fn answered(&self, id: DesignationId) -> Option<String> {
        self.store.read(|tables| tables.results.get(&id).and_then(|result| result.what.clone()))
    }
}

impl Array {
    fn array_view(&self, tables: &Tables, usage: &AdapterUsage) -> ArrayView {
        let meta = tables.meta();
        let dirty: usize = usage.volumes.iter().map(|volume| volume.dirty_pages).sum();
        let runtime = self.runtime();
        let totals = runtime.units.values().flatten().fold([0; 4], |sum: [u64; 4], unit| {
            let unit = unit.counters.totals();
            std::array::from_fn(|at| sum[at] + unit[at])
        });
        ArrayView {
            number: meta.number.0,
            name: meta.name.to_string(),
            identity: meta.identity.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config_file: self.config.source.display().to_string(),
            incarnation: meta.incarnation,
            time_unix_ms: self.env.clock.wall().0 / NS_PER_MS,
            uptime_ms: ms(self.env.clock.now().since(self.started)),
            disk_engine: self.env.engine.clone(),
            cache_memory_bytes: bytes(self.pool.limit()),
            cache_used_bytes: bytes(self.pool.in_use()),
            cache_dirty_bytes: bytes(dirty),
            load_permille: self.disk.load_permille().max(self.demand.permille()),
            load_cache_permille: self.disk.load_permille(),
            load_hosts_permille: self.demand.permille(),
            host_reads: totals[0],
            host_writes: totals[1],
            host_read_bytes: totals[2],
            host_written_bytes: totals[3],
            portals: runtime.portal_addresses.iter().map(portal_view).collect(),
            ssh: self.edges.get().and_then(|edges| edges.ssh.clone()),
            web: self.edges.get().and_then(|edges| edges.web.clone()),
        }
    }

    fn unit_views(&self, record: &ParityGroupRecord) -> Vec<UnitView> {
        let runtime = self.runtime();
        let state = runtime
            .parity_groups
            .get(&record.number.0)
            .map(|group| group.as_ref().map(|group| group.state()));
        let units = record.units.iter().enumerate().map(|(index, unit)| {
            let member = state
                .as_ref()
                .and_then(|state| state.as_ref().ok())
                .and_then(|state| state.members.get(index));
            let (name, reason) = match (member.map(|member| &member.state), &state) {
                (Some(MemberState::Normal), _) => ("normal", None),
                (Some(MemberState::Failed(reason)), _) => ("failed", Some(reason.clone())),
                (Some(MemberState::Missing), _) | (None, None | Some(Ok(_))) => ("missing", None),
                (None, Some(Err(reason))) => ("failed", Some((*reason).clone())),
            };
            UnitView {
                name: format!("{}.{index}", record.name),
                parity_group: record.name.to_string(),
                path: member.map_or_else(|| unit.path.display().to_string(), |member| member.name.clone()),
                identity: member
                    .map_or_else(|| unit.identity.to_string(), |member| member.identity.to_string()),
                state: name.to_owned(),
                reason,
                size_bytes: unit.size_bytes.unwrap_or(0),
            }
        });
        units.collect()
    }

    fn parity_group_view(&self, record: &ParityGroupRecord, usage: &AdapterUsage) -> ParityGroupView {
        let runtime = self.runtime();
        let (state, reason) = match runtime.parity_groups.get(&record.number.0) {
            Some(Ok(group)) => match group.state() {
                state if state.failed.is_some() => ("failed", state.failed),
                state if state.degraded => ("degraded", state.refused.first().map(ToString::to_string)),
                _ => ("normal", None),
            },
            Some(Err(reason)) => ("failed", Some(reason.clone())),
            None => ("opening", None),
        };
        let used = usage.groups.iter().find(|group| group.parity_group.0 == record.number.0);
        ParityGroupView {
            number: record.number.0,
            name: record.name.to_string(),
            identity: record.identity.to_string(),
            level: record.level.to_string(),
            state: state.to_owned(),
            reason,
            units: record.units.len(),
            spares: record.spares.len(),
            stripe_unit_bytes: record.stripe_unit_bytes,
            size_bytes: used.map_or(0, |used| u64::from(used.extents) << 20),
            free_bytes: used.map_or(0, |used| u64::from(used.free_extents) << 20),
        }
    }

    fn volume_view(&self, tables: &Tables, record: &VolumeRecord, usage: &AdapterUsage) -> VolumeView {
        let runtime = self.runtime();
        let used = usage.volumes.iter().find(|volume| volume.volume.0 == record.number.0);
        let trouble = runtime.volume_trouble.get(&record.number.0).cloned();
        let trouble =
            trouble.or_else(|| used.and_then(|used| used.trouble.as_ref()).map(ToString::to_string));
        let totals =
            runtime.units.get(&record.number.0).into_iter().flatten().fold([0; 4], |sum: [u64; 4], unit| {
                let unit = unit.counters.totals();
                std::array::from_fn(|at| sum[at] + unit[at])
            });
        let is_usable = runtime.volumes.contains_key(&record.number.0)
            && !runtime.volume_trouble.contains_key(&record.number.0);
        let parity_group = record.parity_group.and_then(|number| tables.parity_groups.get(&number));
        VolumeView {
            number: record.number.0,
            name: record.name.to_string(),
            state: if is_usable { record.state.to_string() } else { "abnormal".to_owned() },
            reason: trouble.or_else(|| record.reason.clone()),
            usage: match record.usage {
                VolumeUsage::Host => "host".to_owned(),
                VolumeUsage::Journal(_) => "journal".to_owned(),
                VolumeUsage::Snapshot(_) => "snapshot".to_owned(),
            },
            snapshot: match record.usage {
                VolumeUsage::Snapshot(number) => {
                    tables.snapshots.get(&number).map(|snapshot| snapshot.name.to_string())
                }
                VolumeUsage::Host | VolumeUsage::Journal(_) => None,
            },
            parity_group: parity_group.map(|group| group.name.to_string()),
            size_bytes: record.size_bytes,
            grows_to_bytes: record.growth.as_ref().map(|growth| growth.to_bytes),
            growth_waits_for: record.growth.as_ref().and_then(|growth| growth.reason.clone()),
            allocated_bytes: used.map_or(0, |used| used.allocated_bytes),
            block_size_bytes: record.block_size_bytes,
            is_thin: record.is_thin,
            cache: match record.cache {
                CacheMode::WriteBack => "write-back".to_owned(),
                CacheMode::WriteThrough => "write-through".to_owned(),
            },
            identity: record.shown().to_string(),
            shared_with_array: tables.shared_volume(record.number).map(|shared| shared.other.0),
            pairs: tables.pairs_of_volume(record.number).map(|pair| pair.name.to_string()).collect(),
            reads: totals[0],
            writes: totals[1],
            read_bytes: totals[2],
            written_bytes: totals[3],
        }
    }

    /// Whether hosts are told to use the volume at another array, which shows the same one.
    fn is_in_standby(&self, volume: VolumeNumber) -> bool {
        let unit = self.runtime().units.get(&volume.0).and_then(|units| units.first()).cloned();
        unit.is_some_and(|unit| unit.unit().access() == holdfast_scsi::Access::Standby)
    }

    fn target_view(&self, tables: &Tables, record: &TargetRecord) -> TargetView {
        let lun = |lun: &crate::volume::record::LunRecord| LunView {
            target: record.iqn.to_string(),
            lun: lun.lun.0,
            volume: tables
                .volumes
                .get(&lun.volume)
                .map_or_else(String::new, |volume| volume.name.to_string()),
            access: match tables.host_access(lun.volume) {
                _ if self.is_in_standby(lun.volume) => "standby".to_owned(),
                _ if self.is_written(tables, lun.volume) => "read-write".to_owned(),
                HostAccess::ReadWrite => "read-write".to_owned(),
                HostAccess::ReadOnly => "read-only".to_owned(),
                HostAccess::None => "none".to_owned(),
            },
            read_only_for: lun.read_only_for.iter().map(ToString::to_string).collect(),
        };
        let sessions = self.sessions.list();
        TargetView {
            name: record.iqn.to_string(),
            luns: record.luns.iter().map(lun).collect(),
            initiators: record.initiators.iter().map(ToString::to_string).collect(),
            authentication: match &record.chap {
                None => "none".to_owned(),
                Some(chap) if chap.mutual.is_some() => "mutual-chap".to_owned(),
                Some(_) => "chap".to_owned(),
            },
            sessions: sessions
                .iter()
                .filter(|session| session.target.as_str() == record.iqn.as_str())
                .count(),
        }
    }

    fn session_view(&self, info: &SessionInfo) -> SessionView {
        let own = super::peer_session::peer_name(self.config.array.name.as_str());
        SessionView {
            number: u16::try_from(info.session.0 % 65_536).unwrap_or(0),
            initiator: info.initiator.as_str().to_owned(),
            isid: info.isid.0.iter().map(|byte| format!("{byte:02x}")).collect(),
            target: info.target.as_str().to_owned(),
            kind: if info.target.as_str() == own { "peer".to_owned() } else { "normal".to_owned() },
            connections: vec![info.peer.clone()],
            digests: String::new(),
            age_ms: ms(self.env.clock.now().since(info.since)),
            commands: u32::try_from(info.commands).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn status_of(&self, record: &GroupRecord) -> Option<Status> {
        self.runtime().groups.get(&record.number.0).map(|group| group.status())
    }

    fn group_view(&self, tables: &Tables, record: &GroupRecord, usage: &AdapterUsage) -> GroupView {
        let status = self.status_of(record);
        let pairs: Vec<&PairRecord> = tables.pairs_of_group(record.number).collect();
        let trouble = self.runtime().group_trouble.get(&record.number.0).cloned();
        GroupView {
            number: record.number.0,
            name: record.name.to_string(),
            state: if trouble.is_some() { "abnormal".to_owned() } else { record.state.to_string() },
            reason: trouble.or_else(|| record.reason.clone()),
            role: match (&record.role, tables.readers_of_group(record.number).next()) {
                (GroupRole::Primary, _) => "primary".to_owned(),
                (GroupRole::Auxiliary { .. }, Some(_)) => "both".to_owned(),
                (GroupRole::Auxiliary { .. }, None) => "auxiliary".to_owned(),
            },
            is_started: record.is_started,
            reversal: record.reversal.as_ref().map(|reversal| reversal.step.to_string()),
            takeover: super::takeover_view::takeover_view(record),
            ahead: super::takeover_view::ahead(record),
            judged: super::takeover_view::judged(record),
            rivals: super::takeover_view::rivals(record),
            loss: self.loss_view(tables, record, status.as_ref()),
            pairs_state: summary(pairs.iter().map(|pair| pair.state)),
            pairs: pairs.iter().map(|pair| pair.name.to_string()).collect(),
            members: record
                .members
                .iter()
                .filter_map(|number| tables.volumes.get(number).map(|volume| volume.name.to_string()))
                .collect(),
            journals: record
                .journals
                .iter()
                .filter_map(|journal| volume_name(tables, journal.volume))
                .collect(),
            next_update_number: status.as_ref().map(|status| status.next),
            durable_update_number: status.as_ref().map_or(0, |status| status.durable),
            journaled_bytes: status.as_ref().map_or(0, |status| status.journaled_bytes),
            svol_access: match record.settings.svol_access {
                SvolAccess::None => "none".to_owned(),
                SvolAccess::Read => "read".to_owned(),
            },
            release: match record.settings.release {
                Release::Read => "read".to_owned(),
                Release::Restored => "restored".to_owned(),
            },
            generations: record
                .generations
                .iter()
                .map(|generation| GenerationView {
                    counter: generation.counter,
                    array: generation.array.0,
                    first_update_number: generation.first.0,
                })
                .collect(),
            readers: status
                .iter()
                .flat_map(|status| &status.readers)
                .map(|reader| reader_view(tables, record, reader))
                .collect(),
            follows: self.follow_view(tables, record, status.as_ref()),
            synchronous: self.synchronous_view(tables, record),
            bookmarks: self.bookmark_views(record),
            rewinds: self.rewind_views(record),
            window: self.window_view(tables, record),
            comparing: self.compare_views(record),
            compared: self.compared_views(record),
            compare_every_ms: record.compare_schedule.map(|schedule| ms(schedule.every)),
            drills: self.drill_views(tables, record, usage),
        }
    }

    fn follow_view(
        &self,
        tables: &Tables,
        record: &GroupRecord,
        status: Option<&Status>,
    ) -> Option<FollowView> {
        let GroupRole::Auxiliary { link, remote, .. } = &record.role else { return None };
        let own = tables.schedules.get(&(link.clone(), record.name.clone())).map(|row| row.schedule);
        let schedule = own.or_else(|| tables.links.get(link).map(|link| link.schedule)).unwrap_or_default();
        let connected = self.runtime().links.get(link.as_str()).is_some_and(|link| link.connected);
        let takeover = self.takeover_point_of(tables, record.number);
        Some(FollowView {
            takeover_update_number: takeover.as_ref().ok().map(|point| point.number().0),
            takeover_from: takeover_from(takeover.as_ref().ok()).to_owned(),
            takeover_reason: takeover.err(),
            image_bytes: self.image_bytes(tables, record.number),
            link: link.to_string(),
            remote_group: remote.map_or(0, |remote| remote.0),
            read_interval_ms: match schedule.read {
                ReadTiming::Every(interval)
                | ReadTiming::Fixed(interval)
                | ReadTiming::Periodic(interval) => ms(interval),
                ReadTiming::Immediate | ReadTiming::Adaptive(_) => 0,
            },
            read: schedule.read.to_string(),
            read_size: schedule.read_size.to_string(),
            restore_interval_ms: match schedule.restore {
                RestoreTiming::Every(interval) => ms(interval),
                RestoreTiming::Immediate | RestoreTiming::Load => 0,
            },
            restore: schedule.restore.to_string(),
            restore_delay_ms: ms(schedule.restore_delay),
            durable_update_number: status.map_or(0, |status| status.durable),
            restored_update_number: status.map_or(0, |status| status.restored),
            settled_update_number: status.map_or(0, |status| status.settled),
            reads_over: self.reads_over(tables, record).map_or_else(String::new, |link| link.to_string()),
            other_source: record.other_source.as_ref().map(|other| other.link.to_string()),
            other_source_by_load: record.other_source.as_ref().is_some_and(|other| other.by_load),
            other_source_reason: self.why_not_other_source(record),
            top_update_number: status.and_then(|status| status.source_newest),
            behind_top_ms: status.and_then(|status| status.behind_top).map(ms),
            behind_top_updates: status.and_then(Status::updates_behind_top),
            read_state: read_state(connected, status).to_owned(),
            restore_state: self.restore_state(record, status).to_owned(),
            restore_until: record.restore_stops().into_iter().flatten().last().map(|stop| stop.to_string()),
            reason: read_reason(record, status),
        })
    }

    fn restore_state(&self, record: &GroupRecord, status: Option<&Status>) -> &'static str {
        let group = self.runtime().groups.get(&record.number.0).cloned();
        match (status, group) {
            (None, _) => "waiting",
            (Some(_), Some(group)) if group.is_stopped() => "stopped",
            (Some(_), _) => "restoring",
        }
    }
}

fn takeover_from(point: Option<&TakeoverPoint>) -> &'static str {
    match point {
        None => "none",
        Some(TakeoverPoint::Volumes(_)) => "volumes",
        Some(TakeoverPoint::Image(_)) => "image",
    }
}

fn reader_view(tables: &Tables, record: &GroupRecord, reader: &ReaderStatus) -> ReaderView {
    let pairs: Vec<PairState> = tables
        .pairs_of_group(record.number)
        .filter(|pair| pair.auxiliary.array.0 == reader.array)
        .map(|pair| pair.state)
        .collect();
    let state = match pairs.iter().max() {
        None => "waiting",
        Some(_) if pairs.contains(&PairState::Abnormal) => "abnormal",
        Some(_) if pairs.contains(&PairState::Suspended) => "suspended",
        Some(_) if pairs.iter().all(|state| *state == PairState::Normal) => "normal",
        Some(_) if pairs.contains(&PairState::BeingCopied) => "copying",
        Some(_) => "waiting",
    };
    let link = tables.all_readers_of_group(record.number).find(|row| row.array.0 == reader.array);
    ReaderView {
        link: link.map_or_else(String::new, |row| row.link.to_string()),
        array: reader.array,
        state: state.to_owned(),
        reason: None,
        durable_update_number: reader.report.acknowledged.get(),
        restored_update_number: reader.report.restored.get(),
        settled_update_number: reader.report.settled.get(),
        behind: lag_view(reader.behind),
        not_yet_read: lag_view(reader.not_read),
        read_not_restored: lag_view(reader.not_restored),
        is_attached: link.is_some_and(|row| row.is_attached),
        reads_from: link.and_then(|row| row.reads_from).map(|array| array.0),
        sent_updates: reader.sent.0,
        sent_bytes: reader.sent.1,
        in_difference_maps: LagView { bytes: reader.differing_bytes, ..LagView::default() },
        last_report_ms: reader.last_report.map(ms),
        time_to_full_ms: reader.time_to_full.map(ms),
        time_to_catch_up_ms: reader.time_to_catch_up.map(ms),
    }
}

fn lag_view(lag: Lag) -> LagView {
    LagView { updates: lag.updates, bytes: lag.bytes, seconds: lag.seconds }
}

pub(super) fn pointer_view(array: u32, at: PointerInformation) -> PointerView {
    PointerView {
        array,
        update_information_head: at.update_information_head,
        write_data_head: at.write_data_head,
        update_information_newest: at.update_information_newest,
        update_information_oldest: at.update_information_oldest,
        write_data_newest: at.write_data_newest,
        write_data_oldest: at.write_data_oldest,
        read_start: at.read_start,
        retry_start: at.retry_start,
    }
}

fn portal_view((listen, serves, group): &(String, Serves, u16)) -> PortalView {
    let mut whom = Vec::new();
    if serves.hosts() {
        whom.push("hosts".to_owned());
    }
    if serves.arrays() {
        whom.push("arrays".to_owned());
    }
    PortalView { listen: listen.clone(), serves: whom, group: *group }
}

pub(super) fn volume_name(tables: &Tables, number: VolumeNumber) -> Option<String> {
    tables.volumes.get(&number).map(|volume| volume.name.to_string())
}

fn bytes(slots: usize) -> u64 {
    (slots * SLOT_BYTES) as u64
}

pub(super) fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const NS_PER_MS: u64 = 1_000_000;
