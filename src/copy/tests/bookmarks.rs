//! One bookmark over several groups: at one instant, in all of them or in none.

use super::rig::{Choice, Rig, life};
use crate::copy::group::Group;
use holdfast_journal::BookmarkName;
use std::sync::Arc;

fn name(text: &str) -> BookmarkName {
    BookmarkName::new(text).unwrap()
}

fn known(group: &Arc<Group>) -> Vec<(u64, String)> {
    let (bookmarks, _) = group.bookmarks();
    bookmarks.iter().map(|one| (one.number.get(), one.name.to_string())).collect()
}

#[test]
fn a_bookmark_is_in_all_groups_that_were_named_or_in_none() {
    life(async {
        let first = Rig::new(Choice::default()).await;
        let second = Rig::new(Choice::default()).await;
        first.write(0, 1, 7).await;
        let wanted =
            |text: &str| [second.source.clone(), first.source.clone()].map(|group| (group, name(text)));
        let numbers = Group::append_bookmarks(&wanted("both")).unwrap();
        assert_eq!(numbers.iter().map(|number| number.get()).collect::<Vec<_>>(), [1, 2]);
        for (group, number) in [(&second.source, numbers[0]), (&first.source, numbers[1])] {
            group.try_durable(number).await.unwrap();
            assert_eq!(known(group), [(number.get(), "both".to_owned())]);
        }
        // One of them gives no numbers any more.
        second.source.lock().failed = Some("its volume is gone".to_owned());
        let next = first.source.next_number();
        let why = Group::append_bookmarks(&wanted("none")).unwrap_err();
        assert!(why.contains("its volume is gone"), "{why}");
        assert_eq!((first.source.next_number(), known(&first.source).len()), (next, 1));
        let twice = [first.source.clone(), first.source.clone()].map(|group| (group, name("twice")));
        assert!(Group::append_bookmarks(&twice).unwrap_err().contains("twice"));
        let copied = Group::append_bookmarks(&[(first.copy.clone(), name("copy"))]);
        assert!(copied.unwrap_err().contains("copied here"));
    });
}
