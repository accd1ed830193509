//! Comparisons begun and ended by command, at either array.

use super::super::Array;
use super::copy::Job;
use crate::shell::view::{CompareStartView, CompareWish};
use crate::volume::ask::AskedBy;
use crate::volume::compare::{AskCompare, Between, CompareOptions, CompareSchedule, Comparing};
use crate::volume::designation::Refusal;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::name::{ArrayNumber, GroupName, LinkName};
use crate::volume::record::Who;
use crate::volume::table::Tables;
use std::sync::Arc;
use std::time::Duration;

impl Array {
    /// What an operator says: begins a comparison, here or at the array that copies the group, or ends one.
    ///
    /// # Errors
    /// Why it cannot be done; recorded like every other command.
    pub(in crate::array) async fn compare(
        &self,
        group: &GroupName,
        wish: &CompareWish,
        who: &Who,
    ) -> Result<CompareStartView, Refusal> {
        let tables = self.store.tables();
        let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
        match wish {
            CompareWish::Start { with: Some(with), options, is_dry_run, .. } => {
                self.compare_beside(&tables, row, (with, *options, *is_dry_run), who)
            }
            CompareWish::Start { reader, options, is_dry_run, .. } => {
                self.compare_now(&tables, row, (reader.as_ref(), *options, *is_dry_run), who).await
            }
            CompareWish::Schedule(schedule) => self.set_compare_schedule(row, *schedule, who),
            CompareWish::Cancel => self.cancel_compares(row, who),
        }
    }

    async fn compare_now(
        &self,
        tables: &Tables,
        row: &GroupRecord,
        (reader, options, is_dry_run): (Option<&LinkName>, CompareOptions, bool),
        who: &Who,
    ) -> Result<CompareStartView, Refusal> {
        let group = &row.name;
        let reader = self.reader_of(tables, row, reader)?;
        let view = |link: &LinkName, volumes, to_read_bytes| CompareStartView {
            group: group.to_string(),
            with: link.to_string(),
            volumes,
            to_read_bytes,
            is_dry_run,
        };
        let Some(link) = reader else {
            return self.compare_here(row, None, (options, is_dry_run), who);
        };
        let is_its = |pair: &&crate::volume::pair::PairRecord| pair.link == link;
        let volumes: Vec<_> =
            tables.served_pairs(row.number).filter(is_its).filter_map(|pair| pair.primary.volume).collect();
        let to_read = volumes
            .iter()
            .map(|volume| self.disk.to_hash_bytes(crate::disk::VolumeId(volume.0), options.is_full));
        let view = view(&link, volumes.len(), to_read.filter_map(Result::ok).sum());
        if !is_dry_run {
            self.ask_to_start(&link, group, options, who).await?;
        }
        Ok(view)
    }

    /// With another array, said here: with another copy, or with the source if it is that.
    fn compare_beside(
        &self,
        tables: &Tables,
        row: &GroupRecord,
        (with, options, is_dry_run): (&LinkName, CompareOptions, bool),
        who: &Who,
    ) -> Result<CompareStartView, Refusal> {
        let link = tables.links.get(with).ok_or_else(|| Refusal::missing("link", with))?;
        let GroupRole::Auxiliary { source, .. } = row.role else {
            let text = format!(
                "group {} is not copied here: say --with at one of the two copies, or --reader {with} here",
                row.name
            );
            return Err(Refusal::Conflict(text));
        };
        let beside = (link.array != source).then_some(link.array);
        if beside.is_some() && options.repair.is_some() {
            return Err(Refusal::conflict(
                "of two copies neither is right by itself: compare each with the array from which it is copied, and repair there",
            ));
        }
        self.compare_here(row, beside, (options, is_dry_run), who)
    }

    /// Led here.
    fn compare_here(
        &self,
        row: &GroupRecord,
        beside: Option<ArrayNumber>,
        (options, is_dry_run): (CompareOptions, bool),
        who: &Who,
    ) -> Result<CompareStartView, Refusal> {
        let plan = self.compare_plan(row.number, beside)?;
        let volumes = plan.volumes.iter().map(|one| crate::disk::VolumeId(one.svol.0));
        let to_read = volumes.map(|volume| self.disk.to_hash_bytes(volume, options.is_full));
        let view = CompareStartView {
            group: row.name.to_string(),
            with: plan.link.name.to_string(),
            volumes: plan.volumes.len(),
            to_read_bytes: to_read.filter_map(Result::ok).sum(),
            is_dry_run,
        };
        if !is_dry_run {
            let more = beside.map_or_else(String::new, |_| format!(" --with {}", plan.link.name));
            self.begin_compare(row, (options, beside), more, who)?;
        }
        Ok(view)
    }

    fn set_compare_schedule(
        &self,
        row: &GroupRecord,
        schedule: Option<CompareSchedule>,
        who: &Who,
    ) -> Result<CompareStartView, Refusal> {
        let group = &row.name;
        let text = match schedule {
            Some(schedule) => format!("{} s{}", schedule.every.as_secs(), schedule.options),
            None => "never".to_owned(),
        };
        let (number, is_copied) = (row.number, matches!(row.role, GroupRole::Auxiliary { .. }));
        self.store.change(who, format!("group compare {group} --every {text}"), |tables| {
            let row = tables.groups.edit(&number).filter(|_| is_copied);
            let row = row.ok_or_else(|| {
                Refusal::Conflict(format!("group {group} is not copied here: say it at the copy"))
            })?;
            row.compare_schedule = schedule;
            Ok(())
        })?;
        self.wake();
        Ok(CompareStartView { group: group.to_string(), ..CompareStartView::default() })
    }

    fn cancel_compares(&self, row: &GroupRecord, who: &Who) -> Result<CompareStartView, Refusal> {
        let group = &row.name;
        let what = format!("group compare {group} --cancel");
        let own = self.compares.lock().led.get(&row.number.0).map(|(job, _)| job.clone());
        let served: Vec<_> = {
            let state = self.compares.lock();
            state.served.values().filter(|one| one.group == row.number).cloned().collect()
        };
        let number = row.number;
        let is_interrupted = self.compares.lock().interrupted.contains_key(&number.0);
        self.store.change(who, what, |tables| {
            if own.is_none() && served.is_empty() && !is_interrupted {
                return Err(Refusal::Conflict(format!("group {group} is not being compared")));
            }
            if let Some(row) = tables.groups.edit(&number).filter(|_| is_interrupted) {
                row.comparing = None;
            }
            Ok(())
        })?;
        self.compares.lock().interrupted.remove(&number.0);
        let volumes = usize::from(own.is_some() || is_interrupted) + served.len();
        if let Some(job) = own {
            job.is_cancelled.send_replace(true);
        }
        let text = format!("cancelled at array {}", self.config.array.name);
        served.iter().for_each(|one| one.end(Some(&text)));
        Ok(CompareStartView { group: group.to_string(), volumes, ..CompareStartView::default() })
    }

    /// The link to the array that leads, if it is not this one.
    fn reader_of(
        &self,
        tables: &Tables,
        row: &GroupRecord,
        reader: Option<&LinkName>,
    ) -> Result<Option<LinkName>, Refusal> {
        let is_copied = matches!(row.role, GroupRole::Auxiliary { .. });
        let mut links: Vec<LinkName> =
            tables.served_pairs(row.number).map(|pair| pair.link.clone()).collect();
        links.sort();
        links.dedup();
        match (reader, is_copied, links.as_slice()) {
            (Some(reader), _, links) if links.contains(reader) => Ok(Some(reader.clone())),
            (Some(reader), ..) => {
                Err(Refusal::Conflict(format!("group {} has no pairs with array {reader}", row.name)))
            }
            (None, true, _) => Ok(None),
            (None, false, [only]) => Ok(Some(only.clone())),
            (None, false, []) => Err(Refusal::Conflict(format!("group {} has no copies", row.name))),
            (None, false, many) => {
                let names: Vec<String> = many.iter().map(ToString::to_string).collect();
                let text = format!("say with which copy, by --reader: {}", names.join(", "));
                Err(Refusal::Conflict(text))
            }
        }
    }

    async fn ask_to_start(
        &self,
        link: &LinkName,
        group: &GroupName,
        options: CompareOptions,
        who: &Who,
    ) -> Result<(), Refusal> {
        let record = self.link_record(link)?;
        let ask = AskCompare::Start { group: group.clone(), options, by: AskedBy::from(who) };
        let answer = self.ask_compare(&mut None, &record, &ask, START_WITHIN).await;
        let answer = match answer {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(refusal)) => Err(Refusal::Conflict(format!("array {link}: {refusal}"))),
            Err(error) => Err(Refusal::Unreachable(format!("link {link}: {error}"))),
        };
        self.store.change(who, format!("group compare {group} --reader {link}{options}"), |_| answer)
    }

    /// The array from which a group is copied wants it compared.
    pub(super) fn start_compare_for(
        &self,
        peer: ArrayNumber,
        group: &GroupName,
        options: CompareOptions,
        by: &AskedBy,
        who: &Who,
    ) -> Result<(), Refusal> {
        let tables = self.store.tables();
        let row = tables.group_named(group).ok_or_else(|| Refusal::missing("group", group))?;
        match row.role {
            GroupRole::Auxiliary { source, .. } if source == peer => {}
            _ => return Err(Refusal::conflict("the group is not copied from there")),
        }
        let more = format!(", asked for there by {}", String::from(by.clone()));
        self.begin_compare(row, (options, None), more, who)
    }

    /// Begins what was said just now.
    pub(super) fn begin_compare(
        &self,
        row: &GroupRecord,
        (options, beside): (CompareOptions, Option<ArrayNumber>),
        more: String,
        who: &Who,
    ) -> Result<(), Refusal> {
        let comparing = Comparing { options, beside, began_unix_ns: self.env.clock.wall().0, begun: 1 };
        self.lead(row, (comparing, None), more, who)
    }

    /// Begins to lead a comparison: what was said just now, or what was interrupted.
    pub(super) fn lead(
        &self,
        row: &GroupRecord,
        (comparing, interrupted): (Comparing, Option<Comparing>),
        more: String,
        who: &Who,
    ) -> Result<(), Refusal> {
        let Comparing { options, beside, began_unix_ns, .. } = comparing;
        let plan = self.compare_plan(row.number, beside).map(|_| ());
        let GroupRole::Auxiliary { source, .. } = row.role else {
            return Err(Refusal::conflict("the group is not copied here"));
        };
        let with = match beside {
            None => (source, Between::SourceAndCopy),
            Some(other) => (other, Between::Copies),
        };
        let id = self.new_identity();
        let job = Arc::new(Job::new((id, row.number), with, options, began_unix_ns));
        let added = {
            let mut state = self.compares.lock();
            let is_busy = state.led.contains_key(&row.number.0);
            let is_full = state.led.len() >= LED_MAX;
            match (plan, is_busy, is_full) {
                (Err(refusal), ..) => Err(refusal),
                (_, true, _) => {
                    let text = format!("group {} is being compared: --show says how far it is", row.name);
                    Err(Refusal::Conflict(text))
                }
                (_, _, true) => Err(Refusal::Limit { what: "comparisons at once".into(), limit: LED_MAX }),
                (Ok(()), false, false) => {
                    state.led.insert(row.number.0, (job, false));
                    Ok(())
                }
            }
        };
        let number = row.number;
        let recorded =
            self.store.change(who, format!("group compare {}{options}{more}", row.name), |tables| {
                added.clone()?;
                let row = tables.groups.edit(&number).ok_or_else(|| Refusal::missing("group", number))?;
                if interrupted.is_some() && row.comparing != interrupted {
                    return Err(Refusal::conflict("it was cancelled"));
                }
                row.comparing = Some(comparing);
                Ok(())
            });
        if recorded.is_err() && added.is_ok() {
            self.compares.lock().led.remove(&number.0);
        }
        recorded?;
        self.compares.lock().interrupted.remove(&number.0); // Another one takes its place.
        self.wake();
        Ok(())
    }
}

/// Comparisons that one array leads at once.
pub(super) const LED_MAX: usize = 4;
/// How long the other array may take to begin.
const START_WITHIN: Duration = Duration::from_secs(10);
