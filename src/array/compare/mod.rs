//! `group compare`: the volumes of a group here and at the array from which they are copied, or at another one that copies them from
//! there too, as of one update number (promise O8, decision 28).
//!
//! # What it guarantees
//! * **No false alarm.** Both sides hash images of the same update number: the source's was cut under the lock that gives numbers, the
//!   copy's between two restored updates, and each is refused where its array does not know that it is exactly that. Images do not change
//!   while they are hashed, whatever hosts write.
//! * **What differs is found**, to the page, as far as it is read: extents that were not written since they were read last are read again
//!   only with `--full`, which therefore also finds what units have changed by themselves, and whose fault it is.
//! * **Nothing waits for it** but the copy's own restore, from when the source is asked for its image until it has said the number.
//! * **It leaves nothing.** Images are numbers that the store has doomed before they exist (decision 24): whatever ends, a comparison, a
//!   link, or an array, they are given back. A parity group that runs out of room ends it, too.
//! * **A repair is updates**: what is right is written once more at the primary, as hosts write, so S-VOLs are images the whole time. Of two copies
//!   neither is right by itself, and nothing is repaired.
//! * **Two copies have the number from one history**: they copy the same volumes of the same group of the same array, and the number belongs
//!   to the same generation at both.
//!
//! The copy leads ([`copy`]): it asks the source, or the other copy, step by step ([`source`]), which forgets a comparison of which it hears nothing. How
//! both come to one number: [`cut`]. The picture of one at the copy: preparing → waiting (for its restore, or the other copy's, to come to the
//! number) → hashing → searching → repairing → ended. When the other array is lost on the way, or this one is started anew, from the beginning.
//!
//! # How it is proved
//! `tests/sim/compare.rs`: under load, over many seeds, while arrays die and links are cut, nothing is ever found that was not planted, and
//! everything that was is, where it was.

mod alone;
mod copy;
mod cut;
mod image;
mod prove;
mod repair;
mod served;
mod source;
mod start;
mod view;

use super::Array;
use super::peer_session::PeerSession;
use crate::clock::{BoxFuture, MonotonicNs};
use crate::copy::compare::hash::{Hasher, Progress};
use crate::copy::group::Group;
use crate::copy::source::SourceError;
use crate::volume::compare::{AskCompare, CompareOptions, Comparing, CopiesOf, Step, TellCompare};
use crate::volume::designation::Refusal;
use crate::volume::name::{GroupName, LinkName};
use crate::volume::position::Question;
use crate::volume::record::{Identity, LinkRecord};
use crate::volume::table::Tables;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The comparisons at work in an array.
pub(super) struct Compares {
    state: Mutex<State>,
    /// The roots of one snapshot at a time are found alone.
    proving: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Those that are led here, by the group's number; whether they have been begun.
    led: BTreeMap<u32, (Arc<copy::Job>, bool)>,
    /// Those in which this array is the source.
    served: BTreeMap<Identity, Arc<served::Served>>,
    /// When one was begun by schedule, or tried to be, by the group's number.
    tried: BTreeMap<u32, MonotonicNs>,
    /// Those that this array led when it ended, and has not begun again yet, by the group's number.
    interrupted: BTreeMap<u32, Comparing>,
    /// The array ends: what fails now fails because of that.
    is_ending: bool,
}

impl Compares {
    pub(super) fn new(tables: &Tables) -> Self {
        let rows = tables.groups.iter().filter_map(|row| Some((row.number.0, row.comparing?)));
        let state = State { interrupted: rows.collect(), ..State::default() };
        Self { state: Mutex::new(state), proving: tokio::sync::Mutex::default() }
    }

    /// What is led here now goes on with the next start.
    pub(super) fn array_ends(&self) {
        self.lock().is_ending = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Array {
    /// Begins what was asked for since the last call.
    pub(super) fn start_compares(self: &Arc<Self>) {
        let begun: Vec<Arc<copy::Job>> = {
            let mut state = self.compares.lock();
            let new = state.led.values_mut().filter(|(_, is_begun)| !is_begun);
            new.map(|(job, is_begun)| {
                *is_begun = true;
                job.clone()
            })
            .collect()
        };
        for job in begun {
            let array = self.clone();
            self.spawn(async move { array.lead_compare(&job).await });
        }
    }

    fn hasher(&self, group: &Arc<Group>, options: CompareOptions, progress: &Arc<Progress>) -> Hasher {
        let group = group.clone();
        Hasher {
            disk: self.disk.clone(),
            bench: self.env.workbench.clone(),
            clock: self.env.clock.clone(),
            load: Box::new(move || group.load_permille()),
            rate_bytes_per_s: options.rate_bytes_per_s,
            is_full: options.is_full,
            progress: progress.clone(),
        }
    }

    /// Asks once; `limit` is for all of it.
    async fn ask_compare(
        &self,
        session: &mut Option<PeerSession>,
        link: &LinkRecord,
        ask: &AskCompare,
        limit: Duration,
    ) -> Result<Result<TellCompare, Refusal>, SourceError> {
        let asking = async {
            let open = match session.take().filter(|session| !session.is_closed()) {
                Some(open) => open,
                None => {
                    let own = (self.config.array.number.0, self.config.array.name.as_str());
                    PeerSession::open(&self.connector(&link.name), own, link, &self.pool, 0).await?
                }
            };
            let question = Question::Compare(Box::new(ask.clone()));
            let question = serde_json::to_vec(&question).map_err(|error| SourceError(error.to_string()))?;
            let answer = open.designate(self.new_identity().0.to_be_bytes(), &question).await?;
            *session = Some(open);
            serde_json::from_slice::<Result<TellCompare, Refusal>>(&answer)
                .map_err(|error| SourceError(format!("its answer: {error}")))
        };
        tokio::select! {
            biased;
            answer = asking => answer,
            () = self.env.clock.sleep(limit) => Err(SourceError("it does not answer in time".to_owned())),
        }
    }

    fn link_record(&self, name: &LinkName) -> Result<LinkRecord, Refusal> {
        let link = self.store.read(|tables| tables.links.get(name).cloned());
        link.ok_or_else(|| Refusal::missing("link", name))
    }
}

/// The way to the other array of one comparison: it is asked again when the link fails, for as long as that remembers.
struct Line<'a> {
    array: &'a Array,
    link: LinkRecord,
    id: Identity,
    /// The group's number there.
    group: u32,
    /// Attempts at an image so far.
    attempt: u32,
    session: Option<PeerSession>,
}

impl Line<'_> {
    async fn ask(&mut self, step: Step) -> Result<TellCompare, Refusal> {
        let ask =
            AskCompare::Step { id: self.id, group: self.group, attempt: self.attempt, step: step.clone() };
        match self.say(&ask).await? {
            Ok(told) if told.is_possible(&step) => Ok(told),
            Ok(_) => Err(Refusal::Conflict(format!("array {}: its answer cannot be", self.link.name))),
            Err(Refusal::Missing { .. }) => {
                let text = format!(
                    "array {} knows nothing of it any more: it was started anew, or had heard nothing for {} s",
                    self.link.name,
                    LEASE.as_secs()
                );
                Err(Refusal::Unreachable(text))
            }
            Err(refusal) => Err(Refusal::Conflict(format!("array {}: {refusal}", self.link.name))),
        }
    }

    /// The group's number at another copy, which is ready to be compared.
    async fn begin_beside(
        &mut self,
        group: GroupName,
        of: CopiesOf,
        options: CompareOptions,
    ) -> Result<u32, Refusal> {
        let ask = AskCompare::Beside { id: self.id, group, of, options };
        match self.say(&ask).await? {
            Ok(TellCompare::Begun { group }) => Ok(group),
            Ok(_) => Err(Refusal::Conflict(format!("array {}: its answer cannot be", self.link.name))),
            Err(refusal) => Err(Refusal::Conflict(format!("array {}: {refusal}", self.link.name))),
        }
    }

    /// What it answers; asked again when the link fails.
    async fn say(&mut self, ask: &AskCompare) -> Result<Result<TellCompare, Refusal>, Refusal> {
        let began: MonotonicNs = self.array.env.clock.now();
        loop {
            match self.array.ask_compare(&mut self.session, &self.link, ask, ASK_LIMIT).await {
                Ok(answer) => return Ok(answer),
                Err(error) if self.array.env.clock.now().since(began) > PATIENCE => {
                    return Err(Refusal::Unreachable(format!("link {}: {error}", self.link.name)));
                }
                Err(_) => self.array.env.clock.sleep(ASK_AGAIN).await,
            }
        }
    }
}

/// Runs `work`, but not for longer than that.
async fn within<T>(array: &Array, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let over: BoxFuture<'static, ()> = array.env.clock.sleep(limit);
    tokio::select! {
        biased;
        done = work => Some(done),
        () = over => None,
    }
}

/// The source forgets a comparison of which it has heard nothing for so long.
const LEASE: Duration = Duration::from_secs(120);
/// For so long the copy tries to reach the source.
const PATIENCE: Duration = Duration::from_secs(60);
/// One attempt; the source answers within a shorter time.
const ASK_LIMIT: Duration = Duration::from_secs(30);
/// Between two attempts.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// An image that is not cut within this time is given up: images of a resync are not kept meanwhile, and restore may be held.
const CUT_WITHIN: Duration = Duration::from_secs(15);
