//! Links to third-party targets, over which the journals of a group go (promise X1).

use super::local::{check_portals, within};
use crate::volume::designation::{Outcome, Refusal};
use crate::volume::relay::RelayRecord;
use crate::volume::table::Tables;

/// Makes one. The group may still be to come: until it is here the relay rests.
pub(super) fn create(tables: &mut Tables, new: &RelayRecord) -> Result<Outcome, Refusal> {
    if tables.relays.get(&new.name).is_some() || tables.links.get(&new.name).is_some() {
        return Err(Refusal::exists("link", &new.name));
    }
    within(tables.relays.len(), RELAYS_MAX, "relays")?;
    if new.array == tables.meta().number {
        return Err(Refusal::conflict(format!("{} is this array's own number", new.array)));
    }
    check_portals(new.portals.len())?;
    if !new.luns.are_different() {
        return Err(Refusal::conflict(format!("three different LUNs are needed, not {}", new.luns)));
    }
    let is_user =
        |user: &str| (1..=CHAP_USER_MAX_BYTES).contains(&user.len()) && !user.contains(char::is_control);
    if new.chap.as_ref().is_some_and(|chap| !is_user(&chap.user)) {
        return Err(Refusal::conflict(format!(
            "a CHAP name has 1 to {CHAP_USER_MAX_BYTES} bytes and no control characters"
        )));
    }
    // Two writers of one LUN would destroy each other's chain.
    let shared = tables.relays.iter().find(|other| {
        let ours = [new.luns.journal, new.luns.first, new.luns.second];
        let theirs = [other.luns.journal, other.luns.first, other.luns.second];
        other.target == new.target && ours.iter().any(|lun| theirs.contains(lun))
    });
    if let Some(other) = shared {
        return Err(Refusal::conflict(format!(
            "relay {} uses LUNs {} of that target",
            other.name, other.luns
        )));
    }
    tables.relays.put(new.clone());
    Ok(Outcome::Done)
}

/// Relays of an array.
const RELAYS_MAX: usize = 64;
const CHAP_USER_MAX_BYTES: usize = 255;
