//! Chains that this array has begun on a relay: which it goes on with, which it keeps beside the one that it writes (`parts.rs`).

use super::chain::{Chain, is_whole};
use super::latest_first;
use super::lun::{Luns, RelayError, trouble};
use super::parts::{OpenPart, Round};
use crate::array::Array;
use crate::copy::group::Group;
use crate::copy::relay::RelayNeed;
use crate::volume::record::Identity;
use crate::volume::relay::{RelayChainRecord, RelayJournals, RelayRecord};
use crate::volume::table::Tables;
use holdfast_journal::format::relay::{Kept, Position, RelayRing};
use holdfast_journal::{ArrayNumber, Incarnation};

/// The number of the newest control information on the LUN, and the chain there that this array goes on with.
pub(super) async fn found_chain(
    array: &Array,
    relay: &RelayRecord,
    group: &Group,
    luns: &Luns,
) -> Result<(Option<u64>, Option<(Incarnation, RelayRing)>), RelayError> {
    let id = super::id_of(relay, array.config.array.number.0, group.number);
    let known = latest_first(&luns.first, id).await?;
    let on_lun = known.as_ref().map(|(known, _)| known.sequence);
    let noted = array.store.read(|tables| tables.relay_chains.get(&relay.name).cloned());
    let known = known.filter(|(known, _)| known.journal_blocks <= luns.journal.pages);
    let known = known.map(|(known, _)| known);
    let found = match &known {
        Some(known) => continued(luns, Chain::of(known), known.oldest, group).await?,
        None => None,
    };
    let is_part = relay.journals == RelayJournals::Parts;
    // One that is not its own may fit by its numbers: LUNs that were not cleared when the arrays were set up anew.
    let found = match (noted, known.and_then(|known| known.kept)) {
        (Some(row), Some(kept)) if is_part && row.kept == Some(Identity(kept.incarnation.get())) => {
            let Kept { incarnation, journal_blocks: blocks, oldest, .. } = kept;
            continued(luns, Chain { incarnation, id, blocks }, oldest, group).await?
        }
        (Some(row), _) => {
            let needed = row.kept.filter(|_| is_part).unwrap_or(row.chain);
            found.filter(|(incarnation, _)| incarnation.get() == needed.0)
        }
        (None, _) => None,
    };
    Ok((on_lun, found))
}

/// Begins a chain, which is noted before anything of it is written; with its part and round where each relay gets a part.
pub(super) async fn begin_chain(
    array: &Array,
    relay: &RelayRecord,
    group: &Group,
    luns: &Luns,
    found: Option<(Incarnation, RelayRing)>,
) -> Result<(Incarnation, RelayRing, Option<(OpenPart, Round)>), RelayError> {
    let reader = ArrayNumber(relay.array.0);
    let need = group.relay_need(reader).ok_or_else(|| trouble("the other array does not read the group"))?;
    let chain = array.env.entropy.identity();
    if relay.journals != RelayJournals::Parts {
        note_chain(array, relay, Some(chain), None)?;
        let ring = RelayRing::new(luns.journal.pages, Position::start(need.acknowledged.next()));
        return Ok((Incarnation::new(chain), ring, None));
    }
    let parts = array.runtime().relay_parts.entry((group.number, reader.0)).or_default().clone();
    let _turn = parts.turn.lock().await;
    let now = array.env.clock.now();
    let opened = parts.open(relay.name.as_str(), need.acknowledged, group.newest_number(), now);
    let is_needed = !opened.0.is_whole(opened.1) && !group.forgets_rounds();
    let kept = found.filter(|_| is_needed).and_then(|(chain, ring)| ring.kept_as(chain));
    let ring = ring_of_part(luns, need, kept);
    note_chain(array, relay, Some(chain), ring.kept())?;
    Ok((Incarnation::new(chain), ring, Some(opened)))
}

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
