//! Synchronous copies of this array's groups, and groups of which this array is the synchronous copy (promises K1 and K2;
//! decision 20): what the store says of them, the session over which updates go there, and the commands between the two.

use super::Array;
use super::peer_service::{GROUP_BYTE, check, group_of, refuse, reply};
use super::peer_session::{PeerSession, encode_told};
use crate::channel::piece::{Received, Room};
use crate::channel::storage::{AfterData, Completed, Completion, Execution, Receive, Reserved};
use crate::clock::BoxFuture;
use crate::copy::group::{Group, Role};
use crate::copy::inherited::Others;
use crate::copy::push::{PushRefused, Second};
use crate::copy::serve::Answer;
use crate::copy::source::SourceError;
use crate::copy::synchronous::{Asked, Choice, Over, Phase, Standing, Told};
use crate::disk::slot::{Class, SLOT_BYTES};
use crate::shell::view::SynchronousView;
use crate::volume::group::{GroupRecord, GroupRole, GroupState};
use crate::volume::kind::{CopyMode, Fence};
use crate::volume::name::{ArrayNumber, GroupNumber};
use crate::volume::pair::PairRecord;
use crate::volume::record::Who;
use crate::volume::relay::{RelayJournals, RelayRecord};
use crate::volume::table::Tables;
use crate::volume::takeover::Takeover;
use holdfast_journal::ArrayNumber as JournalArray;
use holdfast_scsi::{JournalWrite, Sense, Synchronise};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The group at work knows what the store says of its synchronous reader, or of being one.
pub(super) fn take_up(tables: &Tables, record: &GroupRecord, group: &Group) {
    match group.role {
        Role::Source => {
            let choice = choice(tables, record);
            group.set_synchronous(choice, record.is_together);
            if let Some(choice) = choice.filter(|_| record.goes_alone) {
                // Whoever watches the lease finishes it.
                group.is_apart_from(choice.reader, "the operator lets hosts go on alone");
            }
        }
        Role::Copy => {
            group.take_from_source(record.takeover != Some(Takeover::Restoring));
            let mut followed = tables.followed_pairs(record.number);
            group.set_is_synchronous(followed.any(|pair| pair.copy == CopyMode::SyncJournal));
        }
    }
}

/// The array that hosts wait for, and how it comes to have what they write.
pub(super) fn choice(tables: &Tables, record: &GroupRecord) -> Option<Choice> {
    let (fence, limit) = (record.settings.fence, record.settings.fence_wait.max(LIMIT_MIN));
    let has_all = |relay: &&RelayRecord| relay.journals == RelayJournals::All;
    let relays = super::relay::waited_for(tables, record).filter(has_all).count();
    let choice =
        |over, array: ArrayNumber| Choice { reader: JournalArray(array.0), over, fence, limit, relays };
    let mut pairs = tables.served_pairs(record.number);
    if let Some(pair) = pairs.find(|pair| pair.copy == CopyMode::SyncJournal) {
        return Some(choice(Over::Push, pair.auxiliary.array));
    }
    if let Some(relay) = super::relay::waited_for(tables, record).next() {
        return Some(choice(Over::Relay, relay.array));
    }
    // It was taken away, and that they do not wait any more is not recorded yet.
    record.is_together.then(|| choice(Over::Nothing, ArrayNumber(0)))
}

/// Whether hosts may be answered though their writes are in no journal any more: not before the synchronous copy knows, and
/// not at all if the fence forbids it.
pub(super) fn may_go_unjournaled(tables: &Tables, record: &GroupRecord, group: &Group) -> bool {
    let Some(choice) = choice(tables, record) else { return true };
    // What would be refused otherwise is refused by the group itself, until whoever looks at the clock finds that it need not be.
    choice.fence != Fence::Never || group.is_apart_from(choice.reader, "the journal here has failed")
}

impl Array {
    /// At a copy: whether it is the synchronous one is the primary's to say, and it has said so.
    pub(super) fn note_if_second(&self, record: &GroupRecord, group: &Group) {
        let (Some(is_second), GroupRole::Auxiliary { source, .. }) = (group.second_news(), &record.role)
        else {
            return;
        };
        let mode = if is_second { CopyMode::SyncJournal } else { CopyMode::Async };
        let differs = |pair: &PairRecord| !matches!(pair.copy, CopyMode::Sync) && pair.copy != mode;
        let is_theirs =
            |now: &GroupRecord| now.role == record.role && now.takeover.is_none() && now.reversal.is_none();
        let is_news = self.store.read(|tables| {
            tables.groups.get(&record.number).is_some_and(is_theirs)
                && tables.followed_pairs(record.number).any(differs)
        });
        if !is_news {
            return;
        }
        let what = match is_second {
            true => format!("group {}: its synchronous copy is here", record.name),
            false => format!("group {}: an asynchronous copy of it is here", record.name),
        };
        let noted = self.store.change(&Who::Array, what, |tables| {
            tables.is_second(record.number, *source, is_second);
            Ok(())
        });
        if let Err(error) = noted {
            tracing::error!(group = %record.name, %error, "whether it is synchronous cannot be recorded");
        }
    }

    /// Starts what keeps the synchronous reader of a group level, and looks at the clock for those who wait.
    pub(super) fn run_synchronous(self: &Arc<Self>, group: &Arc<Group>) {
        if group.role != Role::Source {
            return;
        }
        let (array, watched) = (Arc::downgrade(self), group.clone());
        self.spawn(async move { watch(array, watched).await });
        let (array, kept) = (Arc::downgrade(self), group.clone());
        self.spawn(async move { keep_level(array, kept).await });
    }

    /// How the synchronous copy of a group stands.
    pub(super) fn synchronous_view(&self, tables: &Tables, record: &GroupRecord) -> Option<SynchronousView> {
        let open = self.runtime().groups.get(&record.number.0).cloned();
        let view = |link: &str| SynchronousView {
            link: link.to_owned(),
            state: "unknown".to_owned(),
            fence: record.settings.fence.to_string(),
            fence_wait_ms: u64::try_from(record.settings.fence_wait.as_millis()).unwrap_or(u64::MAX),
            ..SynchronousView::default()
        };
        let mut pairs = tables.pairs_of_group(record.number);
        let Some(pair) = pairs.find(|pair| pair.copy == CopyMode::SyncJournal) else {
            if let Some(relay) = super::relay::waited_for(tables, record).next() {
                let standing = open.and_then(|group| group.standing());
                return Some(stands(view(relay.name.as_str()), standing, record));
            }
            if record.role == GroupRole::Primary && record.is_together {
                // What they waited for was taken away; they do until the lease is over and that is recorded.
                let standing = open.and_then(|group| group.standing());
                return Some(stands(view("-"), standing, record));
            }
            // At the second array, of which only the relay says that hosts wait for it.
            let (relay, is_synchronised) = self.relay_says(tables, record, open.as_deref())?;
            let mut view = view(relay.as_str());
            if is_synchronised {
                view.state = SYNCHRONISED.to_owned();
            }
            return Some(view);
        };
        let mut view = view(pair.link.as_str());
        if tables.is_served(pair) {
            return Some(stands(view, open.and_then(|group| group.standing()), record));
        }
        if open.and_then(|group| group.shows_synchronised()) == Some(true) {
            view.state = SYNCHRONISED.to_owned();
        }
        Some(view)
    }

    /// A session with the array behind a group's synchronous pairs. What goes over it counts as the link's, and no bandwidth limit holds
    /// it up: hosts wait for it, and a limit is there to leave room to what hosts do. It is what hosts write, so it is they who limit it.
    async fn second(&self, group: &Group, reader: JournalArray) -> Result<Way, SourceError> {
        let tables = self.store.tables();
        let mut pairs = tables.served_pairs(GroupNumber(group.number));
        let pair = pairs.find(|pair| pair.auxiliary.array == ArrayNumber(reader.0));
        let link = pair.and_then(|pair| tables.links.get(&pair.link));
        let link = link.ok_or_else(|| SourceError("no link leads there".into()))?;
        let own = (self.config.array.number.0, self.config.array.name.as_str());
        let session = PeerSession::open(&self.connector(&link.name), own, link, &self.pool, 0).await?;
        Ok(Way { session, group: group.number })
    }
}

/// What the array shows that hosts write to.
fn stands(view: SynchronousView, standing: Option<Standing>, record: &GroupRecord) -> SynchronousView {
    let Some(standing) = standing else {
        let state = match record.is_together {
            true if record.state == GroupState::Abnormal && record.settings.fence != Fence::Never => {
                "refused"
            }
            true => "waiting",
            false => "apart",
        };
        return SynchronousView { state: state.to_owned(), ..view };
    };
    let state = match standing.phase {
        Phase::Apart => "apart",
        Phase::Joining => "joining",
        Phase::Together if standing.is_fenced => "refused",
        Phase::Together if standing.is_level => SYNCHRONISED,
        Phase::Together => "waiting",
    };
    SynchronousView {
        state: state.to_owned(),
        reason: standing.reason,
        confirmed_update_number: Some(standing.confirmed.get()),
        waiting_commands: u64::try_from(standing.waiting).ok(),
        ..view
    }
}

/// Sends updates to the synchronous reader of a group, as long as that is wanted.
async fn keep_level(array: Weak<Array>, group: Arc<Group>) {
    let _running = group.running();
    let mut pause = PAUSE_MIN;
    while let Some(choice) = group.second_wanted().await {
        let Some(array) = array.upgrade() else { return };
        let begun = array.env.clock.now();
        let opened = tokio::select! {
            biased;
            () = group.closing.begins() => return,
            opened = array.second(&group, choice.reader) => opened,
        };
        let why = match opened {
            Ok(way) => {
                let channel = u64::try_from(array.env.entropy.identity() >> 64).unwrap_or(1).max(1);
                array.changed().notify_waiters();
                group.push_over(&way, choice.reader, channel).await
            }
            Err(error) => error.to_string(),
        };
        tracing::info!(group = %group.name, reader = choice.reader.0, why, "updates are not sent to the synchronous copy now");
        array.changed().notify_waiters();
        let lasted = array.env.clock.now().since(begun);
        pause = if lasted > PAUSE_MAX { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::select! {
            biased;
            () = group.closing.begins() => return,
            () = array.env.clock.sleep(pause) => {}
        }
    }
}

/// Looks at the clock for those who wait, as long as the group has a synchronous reader.
async fn watch(array: Weak<Array>, group: Arc<Group>) {
    let _running = group.running();
    loop {
        let pause = async {
            match group.look_every() {
                Some(every) => group.clock.sleep(every).await,
                None => group.has_second().await,
            }
        };
        tokio::select! {
            biased;
            () = group.closing.begins() => return,
            () = pause => {}
        }
        if group.look_at_second() {
            let Some(array) = array.upgrade() else { return };
            array.wake(); // What waited for that goes on.
            array.changed().notify_waiters();
        }
    }
}

/// A session over which the updates of one group go.
struct Way {
    session: PeerSession,
    /// The group's number here.
    group: u32,
}

impl Second for Way {
    fn write(&self, channel: u64, answer: Answer) -> BoxFuture<'_, Result<(), SourceError>> {
        Box::pin(self.session.journal_write(self.group, channel, answer))
    }

    fn closed(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.session.closed())
    }
}

/// SYNCHRONISE at the primary.
pub(super) fn synchronise(array: &Array, peer: u32, ask: Synchronise) -> Execution {
    let reader = JournalArray(peer);
    let Some(group) = group_of(array, ask.group.0).filter(|group| group.is_read_by(reader)) else {
        return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE));
    };
    let (channel, in_use) = (ask.channel, ask.in_use);
    let asked = Asked { channel, in_use, holds_lease: ask.holds_lease, heard: ask.heard };
    let told = group.answer_second(reader, asked);
    // One that this array does not know as synchronous yet asks again later.
    let others_have = Some(Others::default());
    let nothing = Told { channel: 0, lease: Duration::ZERO, every: LATER, others_have, number: 0 };
    let told = told.unwrap_or(nothing);
    reply(encode_told(told), ask.allocation_length)
}

/// JOURNAL WRITE at the synchronous copy.
pub(super) fn journal_write(array: &Arc<Array>, peer: u32, write: JournalWrite) -> Execution {
    let is_theirs = |record: &&GroupRecord| {
        matches!(&record.role, GroupRole::Auxiliary { source, remote: Some(remote), .. }
            if source.0 == peer && remote.0 == write.group.0)
    };
    let number =
        array.store.read(|tables| tables.groups.iter().find(is_theirs).map(|record| record.number.0));
    let Some(group) = number.and_then(|number| group_of(array, number)) else {
        return refuse(Sense::invalid_field_in_cdb(GROUP_BYTE));
    };
    let pages = (write.list_length as usize).div_ceil(SLOT_BYTES);
    let then = move |received: Received| -> AfterData {
        let Received::Slots { slots, bytes } = received else {
            return AfterData::Now(check(Sense::INTERNAL_FAILURE));
        };
        if bytes != slots.len() * SLOT_BYTES {
            return AfterData::Now(check(Sense::invalid_field_in_parameters(0)));
        }
        AfterData::Later(Box::pin(async move {
            match group.take_push(write.channel, slots, write.group.0).await {
                Ok(()) => Completed::Done(Completion::good(bytes as u64)),
                Err(error) => {
                    tracing::info!(group = %group.name, %error, "journals that were sent are not taken");
                    check(match error {
                        PushRefused::Channel | PushRefused::Gap(_) | PushRefused::NoRoom => {
                            Sense::INSUFFICIENT_RESOURCES
                        }
                        PushRefused::Invalid(_) => Sense::invalid_field_in_parameters(0),
                    })
                }
            }
        }))
    };
    let room = |slots| Room::Slots { slots, first_offset: 0 };
    let pool = array.pool.clone();
    let room = match pool.try_take(Class::Inbound, pages) {
        Some(slots) => Reserved::Now(room(slots)),
        None => Reserved::Later(Box::pin(async move { room(pool.take(Class::Inbound, pages).await) })),
    };
    Execution::Receive(Receive { bytes: write.list_length, room, then: Box::new(then) })
}

/// Hosts wait for no less, whatever the group says: a lease has to be asked for several times within it.
pub(super) const LIMIT_MIN: Duration = Duration::from_millis(100);
/// What both sides show when the copy has everything.
const SYNCHRONISED: &str = "synchronised";
/// First pause before a session is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause: shorter than any limit that an operator would choose.
const PAUSE_MAX: Duration = Duration::from_millis(400);
/// When an array asks again that is not known as a synchronous copy.
const LATER: Duration = Duration::from_millis(250);
