//! What the data path of a group knows of the size of its P-VOLs, when one of them grows (decision 18).

use super::group::Group;
use crate::volume::pair::PairState;

impl Group {
    /// The copies of this volume have room for more: difference maps and copies reach to the new end from here on. To be
    /// called before anybody can write behind the old one.
    ///
    /// # Errors
    /// Why that has to wait: a copy is under way, which knows where it ends, or marks would change their meaning.
    pub(crate) fn grow_volume(&self, volume: u32, capacity_bytes: u64) -> Result<(), String> {
        let mut seq = self.lock();
        let Some(pairs) = seq.pairs.get_mut(&volume) else { return Ok(()) };
        if pairs.iter().any(|pair| pair.facts.state == PairState::BeingCopied) {
            return Err("a copy of it is under way".to_owned());
        }
        let is_same = |pair: &mut super::group::PairRuntime| {
            pair.resync.differences.as_mut().is_none_or(|map| map.grow(capacity_bytes))
        };
        if !pairs.iter_mut().all(is_same) {
            return Err(
                "differences of a copy are marked by a smaller measure: it has to be normal".to_owned()
            );
        }
        for pair in pairs {
            pair.capacity_bytes = pair.capacity_bytes.max(capacity_bytes);
        }
        Ok(())
    }
}
