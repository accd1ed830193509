//! Links to third-party targets, over which the journals of a group go (promise X1).

use super::local::{check_portals, within};
use crate::volume::designation::{Outcome, Refusal};
use crate::volume::kind::CopyMode;
use crate::volume::name::GroupName;
use crate::volume::pair::PairRecord;
use crate::volume::relay::{RelayHosts, RelayJournals, RelayRecord, RelaySide};
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
    if new.hosts == RelayHosts::Wait {
        check_hosts(tables, new)?;
    }
    if new.journals == RelayJournals::Parts {
        check_parts(tables, new)?;
    }
    tables.relays.put(new.clone());
    Ok(Outcome::Done)
}

/// Hosts of a group wait for one array, in one way.
fn check_hosts(tables: &Tables, new: &RelayRecord) -> Result<(), Refusal> {
    if new.side == RelaySide::Second {
        return Err(Refusal::conflict("hosts wait at the first array: it is chosen there"));
    }
    let group = tables.group_named(&new.group).map(|group| group.number);
    let is_synchronous = |pair: &&PairRecord| pair.copy != CopyMode::Async;
    if let Some(pair) = group.and_then(|group| tables.pairs_of_group(group).find(is_synchronous)) {
        let text =
            format!("hosts of group {} wait for its synchronous copy, by pair {}", new.group, pair.name);
        return Err(Refusal::conflict(text));
    }
    // What hosts wait for is on each of the relays, or on all of them together.
    if let Some(other) = waits_for(tables, &new.group).find(|other| other.journals != new.journals) {
        let (name, journals) = (&other.name, other.journals);
        return Err(Refusal::conflict(format!(
            "hosts of group {} wait for relay {name}, which gets {journals} journals: for relays that get {journals} only",
            new.group
        )));
    }
    match waits_for(tables, &new.group).find(|other| other.array != new.array) {
        Some(other) => {
            let (name, array) = (&other.name, other.array);
            Err(Refusal::conflict(format!(
                "hosts of group {} wait for relay {name} to array {array}",
                new.group
            )))
        }
        None => Ok(()),
    }
}

/// Relays with parts of the journals belong together: hosts wait for all of them, or for none.
fn check_parts(tables: &Tables, new: &RelayRecord) -> Result<(), Refusal> {
    if new.side == RelaySide::Second {
        return Err(Refusal::conflict(
            "what goes over a relay is chosen at the first array, which writes it",
        ));
    }
    let is_one = |other: &&RelayRecord| {
        (other.side, other.array, &other.group) == (new.side, new.array, &new.group)
            && other.journals == RelayJournals::Parts
    };
    match tables.relays.iter().filter(is_one).find(|other| other.hosts != new.hosts) {
        Some(other) => {
            let (name, hosts) = (&other.name, other.hosts);
            Err(Refusal::conflict(format!(
                "relay {name} gets parts of the same journals, with --hosts {hosts}: hosts wait for all of these relays or for none"
            )))
        }
        None => Ok(()),
    }
}

/// The relays for which hosts of a group wait.
pub(super) fn waits_for<'t>(
    tables: &'t Tables,
    group: &'t GroupName,
) -> impl Iterator<Item = &'t RelayRecord> {
    tables.relays.iter().filter(move |relay| relay.hosts == RelayHosts::Wait && relay.group == *group)
}

/// Relays of an array.
const RELAYS_MAX: usize = 64;
const CHAP_USER_MAX_BYTES: usize = 255;
