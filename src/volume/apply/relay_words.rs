//! What readers say on relays of whose copies they are, at a primary that they may not reach otherwise (`array/relay/told.rs`; decision 21).
//!
//! A word counts while it is news: a generation that another array has opened, with a larger counter than any that this reader has told here itself
//! ([`ReaderRecord::heard`]), or had seen when it became this reader ([`ReaderRecord::since`]), and than any of the array that opened it in the history
//! here. What others have told of it, or of themselves, says nothing of what this reader has told: a primary may have been started, or taken over, where the reader
//! never heard of it. Counters of what an array says are larger the later it says it, so nothing older than what it has told counts.
//!
//! It is kept in the reader's row: behind a restart, and where the target has lost it, nothing is confirmed either. It goes with the row and the relay, when it
//! is no news any more, and when the reader says otherwise on the same relay in control information with a later number.

use crate::volume::group::Generation;
use crate::volume::name::{ArrayNumber, GroupNumber, LinkName};
use crate::volume::record::ReaderRecord;
use crate::volume::relay::{RelayRecord, RelaySide, RelayWord};
use crate::volume::table::Tables;

impl Tables {
    /// A reader has told this array itself of a generation with that counter, and this array has taken note of what that means.
    pub(super) fn has_told(&mut self, group: GroupNumber, reader: ArrayNumber, counter: u64) {
        let is_news = self.readers.get(&(group, reader)).is_some_and(|known| known.heard < counter);
        if is_news && let Some(known) = self.readers.edit(&(group, reader)) {
            known.heard = counter;
        }
    }

    /// What is kept of what the second array says on a relay.
    pub(crate) fn relay_word(&self, relay: &RelayRecord) -> Option<&RelayWord> {
        self.reader_behind(relay)?.relay_words.iter().find(|word| word.relay == relay.name)
    }

    /// The same when its newest control information there is that; none: the LUN was cleared.
    pub(crate) fn next_relay_word(
        &self,
        relay: &RelayRecord,
        newest: Option<(u64, Generation)>,
    ) -> Option<RelayWord> {
        let known = self.relay_word(relay);
        let (sequence, generation) = newest?;
        if known.is_some_and(|known| sequence < known.sequence) {
            return known.cloned(); // The target has lost it.
        }
        let word = RelayWord { relay: relay.name.clone(), sequence, generation };
        Some(word).filter(|word| self.is_news(relay, &word.generation))
    }

    /// Keeps that.
    pub(crate) fn note_relay_word(&mut self, relay: &RelayRecord, newest: Option<(u64, Generation)>) {
        if self.relays.get(&relay.name) != Some(relay) {
            return; // It was taken away, or made anew, meanwhile.
        }
        let next = self.next_relay_word(relay, newest);
        let Some(key) = self.reader_behind(relay).map(|reader| (reader.group, reader.array)) else { return };
        if let Some(reader) = self.readers.edit(&key) {
            reader.relay_words.retain(|word| word.relay != relay.name);
            reader.relay_words.extend(next);
        }
    }

    /// The generation in which the second array says, on any relay to it, that it is no copy of this array any more.
    pub(crate) fn said_on_relays(&self, relay: &RelayRecord) -> Option<Generation> {
        let words = self.reader_behind(relay)?.relay_words.iter().map(|word| word.generation);
        words.filter(|said| self.is_news(relay, said)).max_by_key(|said| said.counter)
    }

    pub(super) fn forget_relay_words(&mut self, relay: &LinkName) {
        let says = |reader: &&ReaderRecord| reader.relay_words.iter().any(|word| word.relay == *relay);
        let keys: Vec<_> =
            self.readers.iter().filter(says).map(|reader| (reader.group, reader.array)).collect();
        for key in keys {
            if let Some(reader) = self.readers.edit(&key) {
                reader.relay_words.retain(|word| word.relay != *relay);
            }
        }
    }

    fn reader_behind(&self, relay: &RelayRecord) -> Option<&ReaderRecord> {
        let group = self.group_named(&relay.group).filter(|_| relay.side == RelaySide::First)?;
        self.readers.get(&(group.number, relay.array))
    }

    fn is_news(&self, relay: &RelayRecord, said: &Generation) -> bool {
        let (Some(row), Some(reader)) = (self.group_named(&relay.group), self.reader_behind(relay)) else {
            return false;
        };
        let opened = row.generations.iter().filter(|known| known.array == said.array);
        let met = opened.map(|known| known.counter).chain([reader.since, reader.heard]).max();
        said.array != self.meta().number && met.is_some_and(|met| met < said.counter)
    }
}
