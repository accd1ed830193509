//! Bookmarks: setting them, and showing those that the journal here holds (`copy/bookmark.rs`).

use super::Array;
use crate::copy::group::Group;
use crate::shell::view::BookmarkView;
use crate::volume::designation::{Designation, Refusal};
use crate::volume::effect::{Changed, Effect};
use crate::volume::group::GroupRecord;
use crate::volume::name::UpdateNumber;
use crate::volume::record::Who;
use crate::volume::store::Order;
use std::time::Duration;

impl Array {
    /// Sets the bookmarks among these orders, which are durable when this returns; it puts their numbers in. Only then are
    /// they recorded: a crash in between leaves one that nobody was told of.
    ///
    /// # Errors
    /// There is none, or nobody knows whether there will be one.
    pub(super) async fn set_bookmarks(&self, orders: &mut [Order], who: &Who) -> Result<(), Refusal> {
        let is_bookmark = |(_, what): &Order| matches!(what, Designation::SetBookmark { .. });
        if !orders.iter().any(is_bookmark) || self.store.rehearse(orders, who)?.is_repetition {
            return Ok(());
        }
        let mut wanted = Vec::new();
        for (_, what) in orders.iter() {
            let Designation::SetBookmark { group, name, .. } = what else { continue };
            wanted.push((self.group_at_work(group)?, name.0));
        }
        let updates = Group::append_bookmarks(&wanted).map_err(Refusal::Conflict)?;
        let durable = async {
            for ((group, _), update) in wanted.iter().zip(&updates) {
                let durable = group.try_durable(*update).await;
                durable.map_err(|error| Refusal::Conflict(error.to_string()))?;
            }
            Ok(())
        };
        tokio::select! {
            biased;
            durable = durable => durable?,
            () = self.env.clock.sleep(DURABLE_WITHIN) => {
                let names: Vec<&str> = wanted.iter().map(|(group, _)| group.name.as_str()).collect();
                return Err(Refusal::Conflict(format!(
                    "the bookmark is not durable yet in the journals of {}; group show says whether it comes",
                    names.join(", ")
                )));
            }
        }
        let set = orders.iter_mut().filter_map(|(_, what)| match what {
            Designation::SetBookmark { number, .. } => Some(number),
            _ => None,
        });
        for (number, update) in set.zip(updates) {
            *number = Some(UpdateNumber(update.get()));
        }
        Ok(())
    }

    /// Records bookmarks that [`Array::set_bookmarks`] has set.
    pub(super) fn designate_bookmarks(&self, orders: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let mut set = Vec::new();
        for (_, what) in orders {
            let Designation::SetBookmark { group, name, number: Some(number) } = what else {
                return Err(Refusal::Conflict("a bookmark is set alone, and by an operator".into()));
            };
            set.push(Changed::bookmark(group, *name, number.0));
        }
        let mut effect = self.store.designate_all(orders, who)?;
        effect.changes.extend(set);
        self.wake();
        Ok(effect)
    }

    pub(super) fn bookmark_views(&self, record: &GroupRecord) -> Vec<BookmarkView> {
        let group = self.runtime().groups.get(&record.number.0).cloned();
        let Some((bookmarks, restored)) = group.map(|group| group.bookmarks()) else { return Vec::new() };
        let view = |bookmark: holdfast_journal::Bookmark| BookmarkView {
            name: bookmark.name.to_string(),
            update_number: bookmark.number.get(),
            time_unix_ms: bookmark.time_ns / 1_000_000,
            is_restored: bookmark.number <= restored,
        };
        bookmarks.into_iter().map(view).collect()
    }
}

/// A journal that takes longer to write a bookmark is in trouble, and the operator hears of that.
const DURABLE_WITHIN: Duration = Duration::from_secs(5);
