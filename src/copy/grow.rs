//! What the data path of a group knows of the size of its P-VOLs, when one of them grows (decision 18).

use super::group::{Group, PairRuntime};
use crate::volume::pair::PairState;
use std::collections::BTreeSet;

impl Group {
    /// The copies of the volume of these pairs have room for more: difference maps and copies reach to the new end from here on. To be
    /// called before anybody can write behind the old one.
    ///
    /// # Errors
    /// Why that has to wait: a copy is under way, which knows where it ends, or marks would change their meaning.
    pub(crate) fn grow_pairs(&self, pairs: &BTreeSet<u32>, capacity_bytes: u64) -> Result<(), String> {
        let mut seq = self.lock();
        let mut grown: Vec<&mut PairRuntime> =
            seq.pairs.values_mut().flatten().filter(|runtime| pairs.contains(&runtime.pair)).collect();
        if grown.iter().any(|pair| pair.facts.state == PairState::BeingCopied) {
            return Err("a copy of it is under way".to_owned());
        }
        let is_same = |pair: &mut &mut PairRuntime| {
            pair.resync.differences.as_mut().is_none_or(|map| map.grow(capacity_bytes))
        };
        if !grown.iter_mut().all(is_same) {
            return Err(
                "differences of a copy are marked by a smaller measure: it has to be normal".to_owned()
            );
        }
        for pair in grown {
            pair.capacity_bytes = pair.capacity_bytes.max(capacity_bytes);
        }
        Ok(())
    }
}
