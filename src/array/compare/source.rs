//! The array that is asked in a comparison, the one from which a group is copied or another that copies it: it cuts an image when it is told, hashes
//! it, and answers what its digests are.

use super::super::Array;
use super::super::snapshots::Reserved;
use super::copy::LOOK_AGAIN;
use super::image::volumes_here;
use super::served::{Basis, Image, Served, Serving, Wanted};
use super::{CUT_WITHIN, LEASE, within};
use crate::channel::storage::Nexus;
use crate::copy::compare::hash::Hashed;
use crate::copy::compare::tree::{Digest, Node};
use crate::volume::compare::{
    AskCompare, Between, CompareOptions, Compared, NODES_MAX, REWRITE_MAX, Step, TellCompare, VOLUMES_MAX,
    keep,
};
use crate::volume::designation::Refusal;
use crate::volume::group::GroupRecord;
use crate::volume::name::{ArrayNumber, GroupNumber, UpdateNumber, VolumeNumber};
use crate::volume::proof::Found;
use crate::volume::record::{Identity, Who};
use crate::volume::table::Tables;
use holdfast_journal::UpdateNumber as JournalNumber;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

impl Array {
    /// The answer to what another array says of a comparison.
    pub(in crate::array) async fn answer_compare(
        self: &Arc<Self>,
        (peer, from): (u32, &str),
        ask: &AskCompare,
        nexus: &Arc<Nexus>,
    ) -> Result<TellCompare, Refusal> {
        let peer = ArrayNumber(peer);
        match ask {
            AskCompare::Start { group, options, by } => {
                let who = Who::Peer { array: peer, from: from.to_owned() };
                self.start_compare_for(peer, group, *options, by, &who)?;
                Ok(TellCompare::Done)
            }
            AskCompare::Beside { id, group, of, options } => {
                let number = self.store.read(|tables| tables.group_named(group).map(|row| row.number));
                let number = number.ok_or_else(|| Refusal::missing("group", group))?;
                let basis = Basis::Copies(of.source, of.group);
                self.begin_to_serve(peer, *id, (number, basis), (&of.volumes, *options))?;
                Ok(TellCompare::Begun { group: number.0 })
            }
            AskCompare::Step { id, group, attempt, step } => {
                self.serve_step((peer, *id, GroupNumber(*group)), *attempt, step, nexus).await
            }
        }
    }

    /// The comparison to which a step belongs.
    fn served_one(
        &self,
        (peer, id, group): (ArrayNumber, Identity, GroupNumber),
        attempt: u32,
        step: &Step,
    ) -> Result<Arc<Served>, Refusal> {
        let served = self.compares.lock().served.get(&id).cloned();
        let served = served.filter(|served| (served.peer, served.group) == (peer, group));
        let served = served.ok_or_else(|| Refusal::missing("comparison", id))?;
        {
            let mut state = served.lock();
            state.heard = self.env.clock.now();
            if let Some(ended) = &state.ended {
                return Err(match ended {
                    Some(why) => Refusal::Conflict(why.clone()),
                    None => Refusal::missing("comparison", id),
                });
            }
            let is_late = match step {
                Step::Cut | Step::CutFrom { .. } => attempt < state.attempt,
                _ => attempt != state.attempt,
            };
            if is_late {
                return Err(Refusal::conflict("another image has been cut since"));
            }
        }
        Ok(served)
    }

    async fn serve_step(
        self: &Arc<Self>,
        (peer, id, group): (ArrayNumber, Identity, GroupNumber),
        attempt: u32,
        step: &Step,
        nexus: &Arc<Nexus>,
    ) -> Result<TellCompare, Refusal> {
        if let Step::Begin { volumes, options } = step {
            self.begin_to_serve(peer, id, (group, Basis::Source), (volumes, *options))?;
            return Ok(TellCompare::Done);
        }
        if let Step::End { result } = step {
            return self.served_to_the_end(peer, id, group, (**result).clone());
        }
        let served = self.served_one((peer, id, group), attempt, step)?;
        let is_of_copies = served.basis != Basis::Source;
        match step {
            Step::Rewrite { .. } | Step::Put { .. } | Step::Cut if is_of_copies => {
                Err(Refusal::conflict("this is asked of the array from which a group is copied"))
            }
            Step::CutFrom { .. } if !is_of_copies => Err(Refusal::conflict("this is asked of another copy")),
            Step::Begin { .. } | Step::End { .. } => Ok(TellCompare::Done),
            Step::Cut => self.cut_served(&served, (attempt, Wanted::Cut)).await,
            Step::CutFrom { at_least } => {
                self.cut_served(&served, (attempt, Wanted::CutFrom(*at_least))).await
            }
            Step::Hash => {
                served.image()?;
                served.want(attempt, Wanted::Hash);
                Ok(TellCompare::Done)
            }
            Step::State => Self::served_state(&served),
            Step::Nodes { volume, nodes } => Self::served_nodes(&served, *volume, nodes),
            Step::Pages { volume, extent } => self.served_pages(&served, *volume, *extent).await,
            Step::Rewrite { volume, pages } => {
                self.may_be_repaired(&served)?;
                served.volume(*volume)?;
                if pages.len() > REWRITE_MAX {
                    return Err(Refusal::conflict("these are too many pages at once"));
                }
                self.rewrite_pages(group, *volume, pages, nexus).await
            }
            Step::Put { volume, page, bytes } => {
                self.may_be_repaired(&served)?;
                let at = served.volume(*volume)?;
                let image = served.image()?.volumes[at];
                self.put_page(group, (*volume, image), *page, bytes, nexus).await
            }
        }
    }

    /// What is repaired is written here, in the name of a comparison that was to repair, has found what it says, and is still one of a copy
    /// and its source. The first of it is in the audit log.
    fn may_be_repaired(&self, served: &Served) -> Result<(), Refusal> {
        if served.options.repair.is_none() {
            return Err(Refusal::conflict("nobody wanted this comparison to repair anything"));
        }
        served.hashed()?;
        let tables = self.store.tables();
        let record = tables.groups.get(&served.group);
        let record = record.ok_or_else(|| Refusal::missing("group", served.group))?;
        volumes_here(&tables, record, (served.peer, served.basis), &served.volumes)
            .map_err(Refusal::Conflict)?;
        if std::mem::replace(&mut served.lock().is_repairing, true) {
            return Ok(());
        }
        let what = format!(
            "group compare {}: what differs is repaired as array {} says{}",
            record.name, served.peer, served.options
        );
        self.store.change(&Who::Array, what, |_| Ok(()))
    }

    fn served_nodes(served: &Served, volume: VolumeNumber, nodes: &[Node]) -> Result<TellCompare, Refusal> {
        let (at, hashed) = (served.volume(volume)?, served.hashed()?);
        if nodes.len() > NODES_MAX || !nodes.iter().all(|node| node.is_inner()) {
            return Err(Refusal::conflict("no tree has such nodes"));
        }
        let tree = hashed.get(at).map(|hashed| &hashed.tree);
        let children = nodes.iter().filter_map(|node| tree.map(|tree| tree.children(*node)));
        Ok(TellCompare::Nodes(children.collect()))
    }

    async fn served_pages(
        &self,
        served: &Served,
        volume: VolumeNumber,
        extent: u32,
    ) -> Result<TellCompare, Refusal> {
        let at = served.volume(volume)?;
        let (image, hashed) = (served.image()?, served.hashed()?);
        let open = self.open_group_of(served.group);
        let open = open.ok_or_else(|| Refusal::conflict("the group has ended"))?;
        let hasher = self.hasher(&open, served.options, &served.progress);
        let pages = hasher.pages(image.volumes[at], extent).await;
        let (digests, is_rotten) = pages.map_err(|error| Refusal::Conflict(error.to_string()))?;
        let was_rotten = hashed.get(at).is_some_and(|hashed| hashed.rotten.contains(&extent));
        Ok(TellCompare::Pages { digests: digests.to_vec(), is_rotten: is_rotten || was_rotten })
    }

    fn begin_to_serve(
        self: &Arc<Self>,
        peer: ArrayNumber,
        id: Identity,
        (group, basis): (GroupNumber, Basis),
        (volumes, options): (&[VolumeNumber], CompareOptions),
    ) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let record = tables.groups.get(&group).ok_or_else(|| Refusal::missing("group", group))?;
        if volumes.is_empty() || volumes.len() > VOLUMES_MAX {
            return Err(Refusal::Limit { what: "volumes of a comparison".into(), limit: VOLUMES_MAX });
        }
        if volumes.iter().collect::<BTreeSet<_>>().len() != volumes.len() {
            return Err(Refusal::conflict("a volume is named twice"));
        }
        if basis != Basis::Source && options.repair.is_some() {
            return Err(Refusal::conflict("of two copies neither is repaired from the other"));
        }
        let here = volumes_here(&tables, record, (peer, basis), volumes).map_err(Refusal::Conflict)?;
        let now = self.env.clock.now();
        let served = {
            let mut state = self.compares.lock();
            if let Some(served) = state.served.get(&id) {
                let is_it = (served.peer, served.group, served.basis) == (peer, group, basis);
                return if is_it { Ok(()) } else { Err(Refusal::conflict("it is another comparison")) };
            }
            // That array leads one at a time of a group: another one was given up.
            let given_up = |served: &&Arc<Served>| (served.peer, served.group) == (peer, group);
            state.served.values().filter(given_up).for_each(|served| served.end(None));
            if state.served.len() >= SERVED_MAX {
                return Err(Refusal::Limit { what: "comparisons at once".into(), limit: SERVED_MAX });
            }
            let served = Arc::new(Served {
                id,
                peer,
                group,
                basis,
                volumes: volumes.to_vec(),
                here,
                options,
                began: now,
                began_unix_ns: self.env.clock.wall().0,
                state: Mutex::new(Serving { heard: now, ..Serving::default() }),
                progress: Arc::default(),
                changed: Notify::new(),
            });
            state.served.insert(id, served.clone());
            served
        };
        let array = self.clone();
        self.spawn(async move { array.serve_compare(&served).await });
        Ok(())
    }

    fn served_to_the_end(
        &self,
        peer: ArrayNumber,
        id: Identity,
        group: GroupNumber,
        result: Compared,
    ) -> Result<TellCompare, Refusal> {
        let is_kept = |tables: &Tables| {
            let row = tables.groups.get(&group);
            row.is_some_and(|row| row.compared.iter().any(|one| one == &result))
        };
        if self.store.read(is_kept) {
            return Ok(TellCompare::Done); // Its answer was lost.
        }
        let served = self.compares.lock().served.get(&id).cloned();
        let served = served.filter(|served| served.peer == peer);
        let hashed = served.as_ref().and_then(|served| Some((served.image().ok()?, served.hashed().ok()?)));
        if let Some(served) = &served {
            served.end(None);
        }
        let tables = self.store.tables();
        let basis = served.as_ref().map(|served| (served.group, served.basis));
        let is_its = match (result.between, basis) {
            (Between::SourceAndCopy, None | Some((_, Basis::Source))) => {
                tables.served_pairs(group).any(|pair| pair.auxiliary.array == peer)
            }
            // Of two copies nothing says that they have to do with each other but a comparison that is known here.
            (Between::Copies, Some((known, Basis::Copies(..)))) => {
                known == group && (hashed.is_some() || result.roots.is_empty())
            }
            _ => false,
        };
        let own = self.config.array.number;
        if !is_its || (result.source, result.copy, result.id) != (own, peer, id) {
            return Err(Refusal::conflict("it is no result of a comparison with this array"));
        }
        if result.clone().within_limits() != result {
            return Err(Refusal::conflict("no array makes such a result"));
        }
        if let Err(why) = result.check_seal() {
            return Err(Refusal::Conflict(format!("the result: {why}")));
        }
        let found = hashed.map(|(image, own)| Found {
            number: image.number,
            generation: image.generation,
            roots: own.iter().map(|one| one.tree.root()).collect(),
        });
        result.is_what_was_found(found.as_ref()).map_err(Refusal::Conflict)?;
        self.keep_compared(group, result)?;
        Ok(TellCompare::Done)
    }

    /// Keeps a result, and notes it in the audit log.
    /// Of one that was led here, which is over with that.
    pub(super) fn keep_led(&self, group: GroupNumber, result: Compared) -> Result<(), Refusal> {
        let began = result.began_unix_ns;
        self.keep_and(group, result, |row| {
            row.comparing = row.comparing.filter(|one| one.began_unix_ns != began);
        })
    }

    pub(super) fn keep_compared(&self, group: GroupNumber, result: Compared) -> Result<(), Refusal> {
        self.keep_and(group, result, |_| ())
    }

    fn keep_and(
        &self,
        group: GroupNumber,
        result: Compared,
        and: impl FnOnce(&mut GroupRecord),
    ) -> Result<(), Refusal> {
        let known = |tables: &Tables| {
            let row = tables.groups.get(&group)?;
            Some((row.name.clone(), row.compared.iter().any(|one| one.id == result.id)))
        };
        let Some((name, is_known)) = self.store.read(known) else {
            return Err(Refusal::missing("group", group));
        };
        if is_known {
            return Ok(());
        }
        let what = format!("group compare {name}: {result}");
        self.store.change(&Who::Array, what, |tables| {
            let row = tables.groups.edit(&group).ok_or_else(|| Refusal::missing("group", group))?;
            keep(&mut row.compared, result);
            and(row);
            Ok(())
        })?;
        self.wake();
        Ok(())
    }

    /// The task of one comparison. What it has reserved is given back when it ends, in whatever way.
    async fn serve_compare(self: Arc<Self>, served: &Arc<Served>) {
        let mut _image: Option<Reserved<'_>> = None;
        loop {
            let lapse = self.env.clock.sleep(LEASE / 4);
            let wanted = tokio::select! {
                biased;
                wanted = served.until(|state| match (&state.ended, state.wanted.take()) {
                    (Some(_), _) => Some(None),
                    (None, Some(wanted)) => Some(Some((state.attempt, wanted))),
                    (None, None) => None,
                }) => wanted,
                () = lapse => {
                    let silent = self.env.clock.now().since(served.lock().heard);
                    if _image.is_some() && !self.is_roomy(&served.here) {
                        served.end(Some("the parity group has hardly any room left: the image would make hosts wait"));
                    }
                    if silent < LEASE { continue } else { None }
                }
            };
            match wanted {
                None => break,
                Some((attempt, Wanted::Cut)) => {
                    drop(_image.take());
                    let made = self.cut_soon(served, None).await;
                    served.cut_done(
                        attempt,
                        made.map(|(reserved, image)| keep_image(&mut _image, reserved, image)),
                    );
                }
                Some((attempt, Wanted::CutFrom(number))) => {
                    drop(_image.take());
                    let made = tokio::select! {
                        biased;
                        made = self.cut_from(served, attempt, number) => made,
                        () = self.is_given_up(served) => break,
                        () = served.until(|state| (state.attempt != attempt).then_some(())) => continue,
                    };
                    served.cut_done(
                        attempt,
                        made.map(|(reserved, image)| keep_image(&mut _image, reserved, image)),
                    );
                }
                Some((attempt, Wanted::Hash)) => {
                    let hashed = tokio::select! {
                        biased;
                        hashed = self.hash_served(served) => hashed,
                        () = self.is_given_up(served) => break,
                        // The array that leads was out of reach, and has begun again.
                        () = served.until(|state| (state.attempt != attempt).then_some(())) => continue,
                    };
                    served.hash_done(attempt, hashed.map(Arc::new));
                }
            }
            served.changed.notify_waiters();
        }
        served.end(None);
        let is_to_be_told = served.lock().ended.clone().flatten().is_some();
        if is_to_be_told {
            // Who leads it shall hear why.
            drop(_image.take());
            self.env.clock.sleep(LEASE).await;
        }
        self.compares.lock().served.remove(&served.id);
    }

    async fn is_given_up(&self, served: &Served) {
        loop {
            let lapse = self.env.clock.sleep(LEASE / 4);
            tokio::select! {
                biased;
                () = served.until(|state| state.ended.is_some().then_some(())) => return,
                () = lapse => {
                    if self.env.clock.now().since(served.lock().heard) >= LEASE {
                        return;
                    }
                }
            }
        }
    }

    async fn cut_soon(
        &self,
        served: &Served,
        at: Option<UpdateNumber>,
    ) -> Result<(Reserved<'_>, Image), String> {
        let made = within(self, CUT_WITHIN, self.cut_image(served, at)).await;
        made.unwrap_or_else(|| Err(format!("no image could be cut in {} s", CUT_WITHIN.as_secs())))
    }

    /// An image of this number or a later one. While restore is on the way to it nothing stands still; there it does until the image is cut.
    async fn cut_from(
        &self,
        served: &Served,
        attempt: u32,
        number: UpdateNumber,
    ) -> Result<(Reserved<'_>, Image), String> {
        let group = self.open_group_of(served.group).ok_or("the group is not open")?;
        let wanted = JournalNumber::new(number.0);
        if group.restored_now() >= wanted {
            return self.cut_soon(served, None).await;
        }
        let hold = group.hold_restore().ok_or("restore is held by somebody else")?;
        hold.move_to(wanted.max(hold.number()));
        {
            let mut state = served.lock();
            state.is_coming = state.attempt == attempt;
        }
        served.changed.notify_waiters();
        loop {
            let changed = group.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if group.restored_now() >= wanted {
                break;
            }
            if group.is_stopped() {
                return Err("restore is stopped there".to_owned());
            }
            let is_open = self.open_group_of(served.group).is_some_and(|now| Arc::ptr_eq(&now, &group));
            if !is_open {
                return Err("the group was opened anew".to_owned());
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.env.clock.sleep(LOOK_AGAIN) => {}
            }
        }
        let made = self.cut_soon(served, Some(number)).await;
        drop(hold);
        made
    }

    async fn hash_served(&self, served: &Served) -> Result<Vec<Hashed>, String> {
        let image = served.image().map_err(|error| error.to_string())?;
        let group = self.open_group_of(served.group).ok_or_else(|| "the group has ended".to_owned())?;
        self.hash_image(&group, &image.volumes, served.options, &served.progress).await
    }

    async fn cut_served(
        &self,
        served: &Served,
        (attempt, wanted): (u32, Wanted),
    ) -> Result<TellCompare, Refusal> {
        served.want(attempt, wanted);
        let cut = served.until(|state| match (&state.cut, &state.ended) {
            _ if state.attempt != attempt || state.is_coming => Some(()),
            (Some(_), _) | (_, Some(_)) => Some(()),
            (None, None) => None,
        });
        if within(self, CUT_WITHIN + Duration::from_secs(1), cut).await.is_none() {
            return Err(Refusal::conflict("no image could be cut in time"));
        }
        let is_coming = {
            let state = served.lock();
            if state.attempt != attempt {
                return Err(Refusal::conflict("another image has been cut since"));
            }
            state.is_coming
        };
        if let (true, Some(group)) = (is_coming, self.open_group_of(served.group)) {
            let delay_ms = u64::try_from(group.restore_delay().as_millis()).unwrap_or(u64::MAX);
            let at_most = if let Wanted::CutFrom(number) = wanted { number } else { UpdateNumber(0) };
            let restored = UpdateNumber(group.restored_now().get()).min(at_most);
            return Ok(TellCompare::Behind { restored, delay_ms });
        }
        let Image { number, generation, .. } = served.image()?;
        let tables = self.store.tables();
        let names = served.here.iter().filter_map(|volume| tables.volumes.get(volume));
        Ok(TellCompare::Cut { number, generation, names: names.map(|row| row.name.clone()).collect() })
    }

    fn served_state(served: &Served) -> Result<TellCompare, Refusal> {
        let hashed = served.lock().hashed.clone();
        let roots = match hashed {
            Some(Err(why)) => return Err(Refusal::Conflict(why)),
            Some(Ok(hashed)) => Some(hashed.iter().map(|one| one.tree.root()).collect::<Vec<Digest>>()),
            None => None,
        };
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let progress = &served.progress;
        Ok(TellCompare::State {
            total_bytes: of(&progress.total_bytes),
            done_bytes: of(&progress.done_bytes),
            read_bytes: of(&progress.read_bytes),
            roots,
        })
    }
}

fn keep_image<'a>(kept: &mut Option<Reserved<'a>>, reserved: Reserved<'a>, image: Image) -> Image {
    *kept = Some(reserved);
    image
}

/// Comparisons in which an array is asked, at once; each may read with all that its units give.
const SERVED_MAX: usize = 4;
