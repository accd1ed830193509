//! Designations from the array's own operators: what the tables alone cannot know is checked here, then the store
//! applies them, then the owner task brings to life what they say.

use super::Array;
use crate::copy::group::Group;
use crate::shell::view::{MessageView, Options};
use crate::volume::designation::{Ask, Designation, DesignationId, NewVolume, Outcome, Refusal, Wish};
use crate::volume::effect::Effect;
use crate::volume::group::GroupRecord;
use crate::volume::name::{GroupName, GroupNumber, LinkName, ParityGroupNumber};
use crate::volume::record::Who;
use crate::volume::store::Order;
use crate::volume::table::Tables;
use crate::volume::timing::{RestoreStop, StopWish};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

impl Array {
    /// Applies designations of an operator, or says what they would change.
    pub(crate) fn designate_orders(
        &self,
        orders: &[Order],
        who: &Who,
        options: Options,
    ) -> Result<Effect, Refusal> {
        // Looked at first without a trace: what is refused by the tables has that reason, and what was done before is
        // not measured against the room that it has taken since.
        let rehearsed = self.store.rehearse(orders, who);
        let _given_up_unless_named = self.reserved_by(orders);
        if rehearsed.as_ref().is_ok_and(|effect| !effect.is_repetition) {
            self.check_room(orders)?;
            self.check_sessions(orders)?;
            self.check_snapshots(orders, options.dry_run)?;
        }
        let repeated = rehearsed.as_ref().is_ok_and(|effect| effect.is_repetition);
        let unheard = if rehearsed.is_ok() && !repeated { self.unheard(orders, who)? } else { Vec::new() };
        if options.dry_run {
            return rehearsed;
        }
        if let [stop] = unheard.as_slice()
            && let Ok(effect) = self.suspend_unheard(stop, orders, who)
        {
            return Ok(effect);
        }
        let is = |wanted: fn(&Designation) -> bool| orders.iter().any(|(_, what)| wanted(what));
        if !repeated && is(|what| matches!(what, Designation::SetBookmark { .. })) {
            rehearsed?;
            return self.designate_bookmarks(orders, who);
        }
        if !repeated && is(|what| matches!(what, Designation::Drill(_))) {
            rehearsed?;
            return self.designate_drills(orders, who);
        }
        if repeated || !is(|what| matches!(what, Designation::StopRestore { .. })) {
            let effect = self.store.designate_all(orders, who)?;
            // Before this is answered: whoever was told that a host may only read relies on it.
            let is_grant = |what: &Designation| {
                use Designation::{CreateTarget, MapLun, SetLun};
                matches!(what, SetLun { .. } | MapLun { .. } | CreateTarget(_))
            };
            if is(is_grant) {
                self.restrict_luns();
            }
            self.take_up_stops(orders.iter().map(|(_, what)| what));
            self.wake();
            return Ok(effect);
        }
        rehearsed?;
        self.designate_stops(orders, who)
    }

    pub(super) fn group_at_work(&self, name: &GroupName) -> Result<Arc<Group>, Refusal> {
        let number = self.store.read(|tables| tables.group_named(name).map(|row| row.number));
        let group = number.and_then(|number| self.runtime().groups.get(&number.0).cloned());
        group.ok_or_else(|| {
            Refusal::Conflict(format!("group {name} is not open here: say it again when it is"))
        })
    }

    /// Where restore stops is first taken up by the groups, then recorded: nothing behind it becomes visible in between.
    fn designate_stops(&self, orders: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let _one_at_a_time = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orders = orders.to_vec();
        let mut taken: Vec<Arc<Group>> = Vec::new();
        let mut take = || {
            for (_, what) in &mut orders {
                let Designation::StopRestore { group: name, wish, .. } = what else { continue };
                let group = self.group_at_work(name)?;
                let stop = group.take_stop(*wish).map_err(Refusal::Conflict)?;
                *wish = stop.map_or(StopWish::GoOn, StopWish::At);
                taken.push(group);
            }
            Ok(())
        };
        let recorded = take().and_then(|()| self.store.designate_all(&orders, who));
        for group in taken {
            match &recorded {
                Ok(_) => group.set_restore_stops(self.recorded_stops(group.number).unwrap_or_default()),
                // It may be durable or not: what is recorded, and what was taken up, both count until the next start.
                Err(Refusal::Store(_)) => {}
                Err(_) => group.stop_not_recorded(),
            }
        }
        self.wake();
        recorded
    }

    /// What an operator says about pairs whose primary cannot be reached now (promise J15). A suspension of all of a group's
    /// pairs here counts at once, by a stop of restore that comes back; the rest has to wait until it can be said.
    fn unheard(&self, orders: &[Order], who: &Who) -> Result<Vec<Order>, Refusal> {
        let tables = self.store.tables();
        let mut stops = Vec::new();
        for (id, what) in orders {
            let Some((link, ask)) = tables.ask_of_primary(what, who) else { continue };
            let status = self.runtime().links.get(link.as_str()).cloned();
            let Some(error) = status.filter(|status| !status.connected).and_then(|status| status.error)
            else {
                continue;
            };
            let Wish::Suspend { .. } = ask.wish else {
                let text = format!("the primary behind link {link} cannot be reached: {error}");
                return Err(Refusal::Unreachable(text));
            };
            if ask.pair.is_none() {
                let (group, wish) = (ask.group, StopWish::Now);
                // What the suspension itself is on its way as, is its first.
                stops.push((
                    id.caused(0).caused(STOP),
                    Designation::StopRestore { group, wish, for_suspension: true },
                ));
            }
        }
        Ok(stops)
    }

    /// Lets restore stop and has the suspension told later, in one transaction.
    fn suspend_unheard(&self, stop: &Order, orders: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let all: Vec<Order> = std::iter::once(stop.clone()).chain(orders.iter().cloned()).collect();
        let mut effect = self.designate_stops(&all, who)?;
        effect.outcomes.remove(0);
        Ok(effect)
    }

    /// A link has failed: suspensions that were said while it seemed to be up count from now on, if they can.
    pub(super) fn suspend_behind(&self, link: &LinkName) {
        let tables = self.store.tables();
        for forward in tables.forwards_to(link) {
            let Designation::AskPrimary(Ask { group, pair: None, wish: Wish::Suspend { .. }, .. }) =
                &forward.designation
            else {
                continue;
            };
            let (group, wish) = (group.clone(), StopWish::Now);
            let stop = Designation::StopRestore { group: group.clone(), wish, for_suspension: true };
            let stop = [(forward.id.caused(STOP), stop)];
            // Done before, or not possible: an operator may have let restore go on since.
            if !self.store.rehearse(&stop, &Who::Array).is_ok_and(|effect| !effect.is_repetition) {
                continue;
            }
            match self.designate_stops(&stop, &Who::Array) {
                Ok(_) => {
                    tracing::info!(%group, %link, "suspended: restore stops until the primary hears of it")
                }
                Err(refusal) => tracing::info!(%group, %refusal, "restore does not stop for a suspension"),
            }
        }
    }

    /// A stop that came of a suspension may have gone with what was designated and is durable now: the groups do what is
    /// recorded.
    pub(crate) fn take_up_stops<'a>(&self, what: impl Iterator<Item = &'a Designation>) {
        for what in what {
            let number = self.store.read(|tables| match what {
                Designation::ResyncPairs { group, .. } | Designation::AskPrimary(Ask { group, .. }) => {
                    tables.group_named(group).map(|row| row.number)
                }
                Designation::SuspensionEnded { group, .. } => tables.group_named(group).map(|row| row.number),
                Designation::RemoteSuspend { pair, .. } | Designation::RemoteDeletePair { pair, .. } => {
                    tables.pair_named(pair).map(|pair| pair.group)
                }
                _ => None,
            });
            if let Some(number) = number {
                self.take_up_recorded_stops(number);
            }
        }
    }

    fn take_up_recorded_stops(&self, number: GroupNumber) {
        let _one_at_a_time = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = self.recorded_stops(number.0);
        let group = self.runtime().groups.get(&number.0).cloned();
        if let (Some(stops), Some(group)) = (recorded, group) {
            group.take_up_recorded(stops);
        }
    }

    /// A copy goes on from another primary, which knows of no suspension that was said here: its stop goes first.
    pub(super) fn lift_answered_suspension(&self, group: &GroupRecord) -> Result<(), Refusal> {
        if group.suspension_stop.is_some() {
            self.store.checkpoint(|tables| tables.lift_answered_suspension(group.number))?;
            self.take_up_recorded_stops(group.number);
        }
        Ok(())
    }

    /// At a primary: readers that asked for a suspension are told when nothing is left to do of it.
    pub(super) fn tell_ended_suspensions(&self) {
        if self.store.read(|tables| tables.ended_suspensions().is_empty()) {
            return;
        }
        let recorded =
            self.store.checkpoint(|tables| tables.tell_ended_suspensions(&mut || self.new_identity()));
        match recorded {
            Ok(()) => self.wake(),
            Err(error) => tracing::error!(%error, "the end of a suspension cannot be recorded"),
        }
    }

    fn recorded_stops(&self, group: u32) -> Option<[Option<RestoreStop>; 2]> {
        self.store.read(|tables| tables.groups.get(&GroupNumber(group)).map(GroupRecord::restore_stops))
    }

    /// Applies what another array has said, within what the tables let it say.
    pub(crate) fn designate_by_peer(
        &self,
        id: DesignationId,
        what: Designation,
        who: &Who,
    ) -> Result<Outcome, Refusal> {
        let orders = [(id, what)];
        if self.store.rehearse(&orders, who)?.is_repetition {
            return self.store.designate(id, &orders[0].1, who);
        }
        self.check_room(&orders)?;
        if let Designation::RemoteSuspend { pair, .. } = &orders[0].1 {
            self.note_what_is_reached(pair)?;
        }
        let outcome = self.store.designate(id, &orders[0].1, who);
        self.guard_other_sources();
        let noted = match (&outcome, &orders[0].1) {
            (Ok(_), Designation::RemoteSuspend { pair, .. }) => self.note_what_came_from_elsewhere(pair),
            _ => Ok(()),
        };
        if outcome.is_ok() {
            self.take_up_stops(std::iter::once(&orders[0].1));
        }
        noted?;
        outcome
    }

    /// Thick volumes need their room now; the parity groups of other arrays and new ones are not known here.
    fn check_room(&self, orders: &[Order]) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let usage = self.disk.usage();
        for group in tables.parity_groups.iter() {
            let free = usage.groups.iter().find(|used| used.parity_group.0 == group.number.0);
            let Some(free_bytes) = free.map(|free| u64::from(free.free_extents) << EXTENT_SHIFT) else {
                continue;
            };
            let thick = orders.iter().filter_map(|(_, what)| thick_volume(what));
            let here = thick.filter(|new| new.parity_group.as_ref() == Some(&group.name));
            let new: u64 = here.map(|new| new.size_bytes.next_multiple_of(1 << EXTENT_SHIFT)).sum();
            let more: u64 = orders.iter().map(|(_, what)| more_room(&tables, group.number, what)).sum();
            let wanted = new + more;
            if wanted > free_bytes {
                return Err(Refusal::Conflict(format!(
                    "{wanted} bytes do not fit into parity group {}, which has {free_bytes} left; or make it thin",
                    group.name
                )));
            }
        }
        Ok(())
    }

    /// A target is not taken away from under those who use it.
    fn check_sessions(&self, orders: &[Order]) -> Result<(), Refusal> {
        for (_, what) in orders {
            let Designation::DeleteTarget { target } = what else { continue };
            let sessions = self.sessions.list();
            let here = sessions.iter().filter(|session| session.target.as_str() == target.as_str());
            let users: Vec<String> =
                here.map(|session| format!("{} from {}", session.initiator.as_str(), session.peer)).collect();
            if !users.is_empty() {
                let named = users.iter().take(USERS_NAMED).cloned().collect::<Vec<_>>().join(", ");
                let text = format!("target {target} is used by {} sessions: {named}", users.len());
                return Err(Refusal::Conflict(text));
            }
        }
        Ok(())
    }

    /// What these designations have put on its way to other arrays and those have not accepted yet.
    pub(crate) fn messages(&self, orders: &[DesignationId]) -> Vec<MessageView> {
        let caused: BTreeSet<DesignationId> =
            orders.iter().flat_map(|id| (0..=u8::MAX).map(|index| id.caused(index))).collect();
        let refused: Vec<MessageView> = {
            let runtime = self.runtime();
            let of_these = runtime.refused.iter().filter(|(id, _)| caused.contains(id));
            of_these.map(|(_, view)| view.clone()).collect()
        };
        let tables = self.store.tables();
        let waiting = tables.forwards.iter().filter(|forward| caused.contains(&forward.id));
        waiting
            .map(|forward| MessageView {
                link: forward.link.to_string(),
                what: forward.designation.to_string(),
                refusal: forward.refusal.clone(),
                // What came to its end by a refusal is on its way no more.
                is_offered_again: true,
            })
            .chain(refused)
            .collect()
    }
}

/// What a thick volume of the parity group takes more when it grows.
fn more_room(tables: &Tables, group: ParityGroupNumber, what: &Designation) -> u64 {
    let (volume, size_bytes) = match what {
        Designation::ResizeVolume { volume, size_bytes } => (tables.volume_named(volume), *size_bytes),
        Designation::RemoteGrow { pair, size_bytes } => {
            let svol = tables.pair_named(pair).and_then(|pair| pair.auxiliary.volume);
            (svol.and_then(|svol| tables.volumes.get(&svol)), *size_bytes)
        }
        _ => return 0,
    };
    let grows = volume.filter(|row| row.parity_group == Some(group) && !row.is_thin);
    let extents = |bytes: u64| bytes.next_multiple_of(1 << EXTENT_SHIFT);
    grows.map_or(0, |row| extents(size_bytes).saturating_sub(extents(row.size_bytes)))
}

fn thick_volume(what: &Designation) -> Option<&NewVolume> {
    match what {
        Designation::CreateVolume(new) if !new.is_thin => Some(new),
        _ => None,
    }
}

/// The identity of a stop that came of a suspension, among those that the suspension causes.
const STOP: u8 = 64;
/// An extent has 1 MiB.
const EXTENT_SHIFT: u32 = 20;
/// Sessions that a refusal names; more are counted.
const USERS_NAMED: usize = 8;
