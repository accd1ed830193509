//! Chains that this array has begun on a relay: which it goes on with, which it keeps beside the one that it writes (`parts.rs`).

use super::chain::{Chain, is_whole};
use super::lun::{Luns, RelayError, trouble};
use crate::array::Array;
use crate::copy::group::Group;
use crate::copy::relay::RelayNeed;
use crate::volume::record::Identity;
use crate::volume::relay::{RelayChainRecord, RelayJournals, RelayRecord};
use crate::volume::table::Tables;
use holdfast_journal::Incarnation;
use holdfast_journal::format::relay::{Kept, Position, RelayRing};

/// A chain that a relay holds, if this array can go on with it; none if one has to begin.
pub(super) async fn continued(
    luns: &Luns,
    chain: Chain,
    oldest: Position,
    group: &Group,
) -> Result<Option<(Incarnation, RelayRing)>, RelayError> {
    let mut found = Vec::new();
    chain
        .walk(&luns.journal, oldest, |_, batch, hash| {
            found.push((*batch, hash));
            true
        })
        .await?;
    // Of the last one only a part may have been written; the ones before it had been, before the next was sent.
    if let Some((last, _)) = found.last()
        && !is_whole(&luns.journal, last).await?
    {
        found.pop();
    }
    let mut ring = RelayRing::new(chain.blocks, oldest);
    found.iter().for_each(|(batch, hash)| ring.push(batch, *hash));
    let (last, here) = (ring.newest().number.previous(), group.durable_here());
    let Some((newest, _)) = found.last() else {
        return Ok((last <= here).then_some((chain.incarnation, ring)));
    };
    let is_ours = group.generation_at(newest.last) == Some(newest.generation);
    match (is_ours, last <= here) {
        (true, true) => Ok(Some((chain.incarnation, ring))),
        // This array was a copy of another one since: what lies there was decided against.
        (false, true) => Ok(None),
        (_, false) => Err(trouble(format!(
            "the relay holds updates up to {last}, the journal here ends at {here}: nothing there is overwritten. If those \
             updates are not needed, delete the relay, clear the first page of its LUNs, and make it again"
        ))),
    }
}

/// The places of a relay with a part, beside what is kept.
pub(super) fn ring_of_part(luns: &Luns, need: RelayNeed, kept: Option<Kept>) -> RelayRing {
    let number = need.acknowledged.next();
    // What the other array has reported is not needed.
    match kept.filter(|kept| kept.newest.number > number) {
        Some(kept) => {
            let begin = Position::start_at(kept.newest.place, number);
            RelayRing::halved(kept.journal_blocks, begin, Some(kept))
        }
        None => RelayRing::halved(luns.journal.pages, Position::start(number), None),
    }
}

/// A round is whole: what relays to the same array kept until then is not needed any more, whether they are written now or not.
pub(super) fn forget_kept(tables: &mut Tables, relay: &RelayRecord) {
    let is_one = |other: &&RelayRecord| {
        (other.side, other.array, &other.group) == (relay.side, relay.array, &relay.group)
            && other.journals == RelayJournals::Parts
    };
    let names: Vec<_> = tables.relays.iter().filter(is_one).map(|other| other.name.clone()).collect();
    for name in names {
        if let Some(row) = tables.relay_chains.get(&name).filter(|row| row.kept.is_some()).cloned() {
            tables.relay_chains.put(RelayChainRecord { kept: None, ..row });
        }
    }
}

/// Records which chain this array has begun, and which one it keeps beside it; none: it begins another one next time.
pub(super) fn note_chain(
    array: &Array,
    relay: &RelayRecord,
    chain: Option<u128>,
    kept: Option<&Kept>,
) -> Result<(), RelayError> {
    let name = relay.name.clone();
    let kept = kept.map(|kept| Identity(kept.incarnation.get()));
    let noted = array.store.checkpoint(|tables| match chain {
        Some(chain) => {
            tables.relay_chains.put(RelayChainRecord { relay: name, chain: Identity(chain), kept });
        }
        None => drop(tables.relay_chains.remove(&name)),
    });
    noted.map_err(|error| trouble(format!("the chain cannot be recorded: {error}")))
}
