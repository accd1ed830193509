//! What the second array watches of a relay: the first array's control information; and what it says itself (promises X2,
//! X3; decision 21).

use super::direct::{SESSION_STRIDE, Way, for_lun, squeeze, stretch};
use super::lun::{Due, Luns, Ours, RelayError, slot_page, trouble};
use super::parts::SILENT_FOR;
use super::writer::BEAT_EVERY;
use super::{latest_first, latest_second};
use crate::array::Array;
use crate::clock::{Clock, MonotonicNs};
use crate::copy::answer::Head;
use crate::copy::readers::decode_generations;
use crate::volume::name::GroupNumber;
use crate::volume::relay::{RelayControl, RelayRecord};
use holdfast_journal::format::crc32c;
use holdfast_journal::format::relay::{
    FIRST_BLOCK, FirstControl, Has, Hosts, RelayId, RelayLun as Which, SecondControl,
};
use holdfast_journal::reader::Report;
use holdfast_journal::{Generation, Incarnation};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What the first array said last.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) control: FirstControl,
    pub(super) information: Vec<u8>,
    pub(super) generations: Vec<Generation>,
    /// The newest number that had been given there.
    pub(super) newest_given: u64,
    /// Since when it is known, and when the look began that found it: it was read behind that.
    pub(super) since: MonotonicNs,
    pub(super) looked: MonotonicNs,
    /// It was not there yet when this array looked first: so it is no older than that.
    is_news: bool,
}

impl Known {
    /// How old the news in it are, in milliseconds; none if they may be of any age.
    pub(super) fn age_ms(&self, now: MonotonicNs) -> Option<u32> {
        let age = now.since(self.since).as_millis();
        self.is_news.then(|| u32::try_from(age).unwrap_or(u32::MAX))
    }
}

/// The relay as this array sees it.
pub(crate) struct Watch {
    pub(super) array: Arc<Array>,
    pub(super) relay: RelayRecord,
    pub(super) luns: Luns,
    pub(super) id: RelayId,
    known: Mutex<Option<Known>>,
    told: tokio::sync::Mutex<Told>,
    /// Over which what is said goes straight to the other array.
    pub(super) way: tokio::sync::Mutex<Way>,
    asking: Mutex<Asking>,
    /// When this array shows itself, where each relay has a part of the journals.
    show: Mutex<Due>,
}

/// What this array says.
struct Told {
    /// Of the control information that follows.
    sequence: u64,
    /// What it said last.
    said: Option<Said>,
    /// The newest on its LUN; and whether this session has put it there: the first one goes nowhere else.
    on_lun: Option<u64>,
    is_begun: bool,
    /// What was there when this session began, until it is known that it may stay.
    found: Option<SecondControl>,
}

/// What control information of this array says.
type Said = (Report, Incarnation, Generation, u64);

/// This array asks whether it is synchronised, one question after the other; only the answer to the newest one counts.
#[derive(Clone, Copy, Debug)]
struct Asking {
    /// Of the newest one, which may have been asked over an earlier session.
    number: u64,
    /// When it was asked, over this one.
    sent: Option<MonotonicNs>,
}

impl Watch {
    pub(super) async fn open(
        array: &Arc<Array>,
        relay: &RelayRecord,
        luns: &Luns,
        id: RelayId,
    ) -> Result<Self, RelayError> {
        luns.journal.check_label(Which::Journal, id, Ours::No).await?;
        luns.first.check_label(Which::First, id, Ours::No).await?;
        luns.second.check_label(Which::Second, id, Ours::Yes).await?;
        let last = latest_second(&luns.second, id).await?;
        let on_lun = last.as_ref().map(|control| control.sequence);
        let sequence = on_lun.unwrap_or(0).saturating_add(SESSION_STRIDE);
        let told =
            tokio::sync::Mutex::new(Told { sequence, said: None, on_lun, is_begun: false, found: last });
        let question = last.map_or(0, |control| control.question).saturating_add(SESSION_STRIDE);
        let asking = Mutex::new(Asking { number: question, sent: None });
        let show = Mutex::new(Due::now(array.env.clock.as_ref(), SHOW_EVERY));
        let (array, relay, luns) = (array.clone(), relay.clone(), luns.clone());
        let watch = Self {
            array,
            relay,
            luns,
            id,
            known: Mutex::default(),
            told,
            way: tokio::sync::Mutex::default(),
            asking,
            show,
        };
        watch.look().await?;
        Ok(watch)
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        self.array.env.clock.as_ref()
    }

    /// Looks at the first array's control information again and again.
    pub(super) async fn go_on(&self, number: GroupNumber) -> RelayError {
        loop {
            if let Err(error) = self.look().await {
                return error;
            }
            let shown = match self.take_back(number).await {
                Ok(()) => self.show(number).await,
                Err(error) => Err(error),
            };
            if let Err(error) = shown {
                return error;
            }
            let asked = self.ask(number).await;
            match asked {
                Ok(true) => self.clock().sleep(ANSWER_EVERY).await,
                Ok(false) => self.clock().sleep(LOOK_EVERY).await,
                Err(error) => return error,
            }
        }
    }

    /// What this array said there may have been that it is no copy of the first one any more (`told.rs`), which may not have heard otherwise since.
    async fn take_back(&self, number: GroupNumber) -> Result<(), RelayError> {
        let group = self.array.runtime().groups.get(&number.0).cloned();
        let Some(group) = group else { return Ok(()) };
        let mut told = self.told.lock().await;
        let found = told.found.take().filter(|_| told.said.is_none());
        let generation = group.newest_generation();
        let Some(last) = found.filter(|found| found.generation != generation) else { return Ok(()) };
        let (report, wall_ns) = (group.position(), self.clock().wall().0);
        let sequence = for_lun(told.sequence, told.on_lun);
        (told.sequence, told.said) = (sequence.saturating_add(1), None);
        let control = SecondControl { sequence, report, generation, wall_ns, ..last };
        self.luns.second.write(slot_page(sequence), control.encode(), &[]).await?;
        (told.on_lun, told.is_begun) = (Some(sequence), true);
        Ok(())
    }

    /// Where each relay has a part of the journals the first array has to know to which ones this array comes.
    async fn show(&self, number: GroupNumber) -> Result<(), RelayError> {
        let is_due = || self.show.lock().unwrap_or_else(PoisonError::into_inner).take(self.clock());
        if !self.is_part() || !is_due() {
            return Ok(());
        }
        let group = self.array.runtime().groups.get(&number.0).cloned();
        let Some(group) = group else { return Ok(()) };
        self.told.lock().await.said = None; // Even if it says nothing new.
        self.tell(group.position(), group.newest_generation()).await
    }

    /// Whether what is on it is only a part of the journals.
    pub(super) fn is_part(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| known.control.has == Has::Parts)
    }

    /// Whether another chain lies there beside the one that is written.
    pub(super) fn keeps_another(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().is_some_and(|known| known.control.kept.is_some())
    }

    /// Asks whether this array is synchronised, if hosts wait for the relay and it is time; whether an answer is to come.
    async fn ask(&self, number: GroupNumber) -> Result<bool, RelayError> {
        let hosts = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .map(|known| known.control.hosts);
        let group = self.array.runtime().groups.get(&number.0).cloned();
        // A first array that lives and is not reached would say yes, and what it answers from then on is in no takeover.
        let group = group.filter(|group| !group.takes_nothing());
        let (Some(hosts), Some(group)) = (hosts.filter(|hosts| hosts.wait), group) else { return Ok(false) };
        let now = self.clock().now();
        {
            let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
            let is_answered = hosts.question == asking.number;
            let pause = if is_answered { ASK_EVERY } else { ASK_AGAIN };
            if asking.sent.is_some_and(|sent| now.since(sent) < pause) {
                return Ok(!is_answered);
            }
            // From here on the answer to an earlier one is none.
            *asking = Asking { number: asking.number.saturating_add(1), sent: Some(now) };
        }
        self.tell(group.position(), group.newest_generation()).await?;
        Ok(true)
    }

    /// Until when this array is synchronised, as the first one said over this session.
    fn lease(&self, hosts: Hosts) -> Option<MonotonicNs> {
        let asking = *self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let sent =
            asking.sent.filter(|_| hosts.wait && hosts.question == asking.number && hosts.lease_ms > 0)?;
        Some(MonotonicNs(sent.0.saturating_add(u64::from(hosts.lease_ms).saturating_mul(1_000_000))))
    }

    /// What the first array says over the link, if it goes that way.
    async fn heard_directly(&self) -> Option<(FirstControl, Vec<u8>)> {
        let known = self.known().ok().filter(|known| known.control.by_link)?;
        let (block, information) = self.exchange(known.control.incarnation, None).await?.said?;
        let control = FirstControl::decode(&stretch(&block)).ok().filter(|control| control.id == self.id)?;
        let sum = (u32::try_from(information.len()).ok()?, crc32c(&information));
        (control.information == sum).then_some((control, information))
    }

    /// Looks at it once.
    pub(super) async fn look(&self) -> Result<(), RelayError> {
        let looked = self.clock().now();
        let found = match self.heard_directly().await {
            Some(found) => Some(found),
            None => latest_first(&self.luns.first, self.id).await?,
        };
        let now = self.clock().now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((control, information)) = found {
            // Two may look at a time.
            let is_older = |known: &FirstControl| {
                known.incarnation == control.incarnation && known.sequence > control.sequence
            };
            let is_new =
                known.as_ref().is_none_or(|known| known.control != control && !is_older(&known.control));
            let is_news = known.is_some();
            let said = Head::decode(&information).ok();
            let said = said.and_then(|(head, rest)| Some((head.newest_given, decode_generations(rest)?)));
            if is_new && let Some((newest_given, generations)) = said {
                if control.journal_blocks > self.luns.journal.pages {
                    let (written, there) = (control.journal_blocks, self.luns.journal.pages);
                    return Err(trouble(format!(
                        "the journal LUN has {there} pages, the first array uses {written}"
                    )));
                }
                let since = now;
                *known =
                    Some(Known { control, information, generations, newest_given, since, looked, is_news });
            }
        }
        let (newest, usage, is_fresh, hosts) = match known.as_ref() {
            Some(known) => {
                let control = &known.control;
                let since = known.since;
                let used = used_blocks(control);
                let number = control.newest.number.previous().get();
                (number, (used, control.journal_blocks), now.since(since) < FRESH_FOR, control.hosts)
            }
            None => (0, (0, 0), false, Hosts::default()),
        };
        drop(known);
        let (lease, is_part) = (self.lease(hosts), self.is_part());
        self.array.note_relay(&self.relay.name, |status| {
            (status.usage, status.is_fresh, status.is_part) = (usage, is_fresh, is_part);
            status.hosts_wait = hosts.wait;
            // While a newer question is under way the last answer holds to its end.
            if hosts.question == self.asked() {
                (status.synchronised, status.together) = (lease, hosts.relays);
            }
            status.newest = status.newest.max(newest);
        });
        Ok(())
    }

    pub(super) fn known(&self) -> Result<Known, RelayError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_ref().cloned();
        known.ok_or_else(|| trouble("the first array has issued no control information yet"))
    }

    fn asked(&self) -> u64 {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).number
    }

    /// Issues this array's control information, if it says something new.
    pub(super) async fn tell(&self, report: Report, generation: Generation) -> Result<(), RelayError> {
        let incarnation = self.known()?.control.incarnation;
        let mut told = self.told.lock().await;
        let question = self.asked();
        let says = (report, incarnation, generation, question);
        if told.said == Some(says) {
            return Ok(());
        }
        let wall_ns = self.clock().wall().0;
        let id = self.id;
        let control =
            |sequence| SecondControl { incarnation, id, sequence, report, generation, wall_ns, question };
        if self.relay.control == RelayControl::Link && told.is_begun {
            let sequence = told.sequence;
            (told.sequence, told.said) = (sequence.saturating_add(1), None);
            let block = squeeze(&control(sequence).encode());
            if self.exchange(incarnation, Some(block)).await.is_some() {
                told.said = Some(says);
                return Ok(());
            }
        }
        let sequence = for_lun(told.sequence, told.on_lun);
        // Counted first: a write that failed may have landed, and its slot is not the one to be written again.
        (told.sequence, told.said) = (sequence.saturating_add(1), None);
        self.luns.second.write(slot_page(sequence), control(sequence).encode(), &[]).await?;
        (told.said, told.on_lun, told.is_begun) = (Some(says), Some(sequence), true);
        Ok(())
    }
}

/// Blocks from the oldest batch to the end of the newest.
fn used_blocks(control: &FirstControl) -> u64 {
    let (oldest, newest) = (control.oldest, control.newest);
    let all = control.journal_blocks.saturating_sub(FIRST_BLOCK);
    match newest.place.checked_sub(oldest.place) {
        _ if oldest.sequence == newest.sequence => 0,
        Some(used) if used > 0 => used,
        Some(_) | None => all.saturating_sub(oldest.place - newest.place),
    }
}

/// The first array's control information is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// So often while an answer is to come.
const ANSWER_EVERY: Duration = Duration::from_millis(50);
/// The next question follows one that is answered, and one that is not, after this time.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// See [`ASK_EVERY`].
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// A first array that has not written control information for so long does not reach the relay.
const FRESH_FOR: Duration = Duration::from_secs(5);

/// This array shows itself so often.
const SHOW_EVERY: Duration = Duration::from_secs(1);

const _: () = assert!(SHOW_EVERY.as_millis() * 4 < SILENT_FOR.as_millis());
const _: () = assert!(BEAT_EVERY.as_millis() * 4 < FRESH_FOR.as_millis());
