//! Bookmarks: setting them, and showing those that the journal here holds (`copy/bookmark.rs`).

use super::Array;
use crate::shell::view::BookmarkView;
use crate::volume::designation::{Designation, Refusal};
use crate::volume::effect::{Changed, Effect};
use crate::volume::group::GroupRecord;
use crate::volume::name::UpdateNumber;
use crate::volume::record::Who;
use crate::volume::store::Order;

impl Array {
    /// Bookmarks are first appended, then recorded with their numbers: what the audit log says was set, was.
    pub(super) fn designate_bookmarks(&self, orders: &[Order], who: &Who) -> Result<Effect, Refusal> {
        let mut orders = orders.to_vec();
        let mut set = Vec::new();
        for (_, what) in &mut orders {
            let Designation::SetBookmark { group: name, name: bookmark, number } = what else {
                return Err(Refusal::Conflict("a bookmark is set alone, without other changes".into()));
            };
            let group = self.group_at_work(name)?;
            let update = group.append_bookmark(bookmark.0).map_err(Refusal::Conflict)?;
            *number = Some(UpdateNumber(update.get()));
            set.push(Changed::bookmark(name, *bookmark, update.get()));
        }
        let mut effect = self.store.designate_all(&orders, who)?;
        effect.changes.extend(set);
        self.wake();
        Ok(effect)
    }

    /// Waits until every bookmark that was set is durable.
    pub(super) async fn bookmarks_are_durable(&self) {
        let groups: Vec<_> = self.runtime().groups.values().cloned().collect();
        for group in groups {
            group.bookmarks_are_durable().await;
        }
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
