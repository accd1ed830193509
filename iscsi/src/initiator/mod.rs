//! The initiator's side of one connection, without I/O (RFC 7143): login, commands, data, pings, discovery.
//!
//! One session has one connection, ErrorRecoveryLevel 0: whatever goes wrong ends the connection, and the caller opens
//! another. The target is not trusted: everything it says is checked, and what contradicts the agreement is an
//! [`Error`].
//!
//! [`Connection`] is driven like this. `now` is the time since any fixed moment and never goes back.
//!
//! * In: [`handle_bhs`](Connection::handle_bhs) with 48 bytes tells what follows them. Read that (additional headers
//!   do not come to an initiator), check the header digest, then call
//!   [`handle_header`](Connection::handle_header): it says where the payload belongs. Receive it there, check its
//!   digest, and call [`payload_received`](Connection::payload_received).
//! * Out: [`poll_transmit`](Connection::poll_transmit) until it gives nothing: after every command, every payload
//!   received and every timeout.
//! * Events: [`poll_event`](Connection::poll_event) until it gives nothing, at the same moments.
//! * Time: [`handle_timeout`](Connection::handle_timeout) at the time that
//!   [`poll_timeout`](Connection::poll_timeout) names, or later.
//!
//! After an error nothing else may be called; the tasks that are left have failed.

mod chap;
mod error;
mod keys;
mod login;
mod receive;
mod settings;
mod task;
mod transmit;

#[cfg(test)]
mod tests;

pub use self::error::Error;
pub use self::keys::Parameters;
pub use self::receive::{Frame, Payload};
pub use self::settings::{DigestWish, Purpose, Settings};
pub use self::task::{Command, Completion, TaskId};
pub use self::transmit::{Segment, Transmit};

use self::login::Login;
use self::task::Tasks;
use crate::pdu::login::StageFlags;
use crate::pdu::{Lun, Ttt};
use crate::serial::{CmdSn, StatSn};
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The login is complete; commands go out from here on.
    LoggedIn,
    /// A command is finished.
    Completed(TaskId, Completion),
    /// The answer to [`Connection::send_targets`].
    Targets(Vec<DiscoveredTarget>),
    /// A unit attention or the like that no command asked for: logical unit and sense data.
    Attention(Lun, Vec<u8>),
    /// The target asks us to log out; the caller ends the session when its commands are done.
    LogoutRequested,
    /// The logout is confirmed: nothing comes any more.
    LoggedOut,
}

/// A target as discovery names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// Its iSCSI name.
    pub name: String,
    /// Its addresses, "host:port,portal-group" as the target wrote them.
    pub addresses: Vec<String>,
}

/// One connection of an initiator. See the module for the order of calls.
#[derive(Debug)]
pub struct Connection {
    settings: Settings,
    phase: Phase,
    parameters: Parameters,
    numbers: Numbers,
    tasks: Tasks,
    control: VecDeque<Control>,
    incoming: receive::Incoming,
    text: Vec<u8>,
    events: VecDeque<Event>,
    time: Times,
}

#[derive(Debug)]
enum Phase {
    Login(Login),
    FullFeature,
    LoggingOut,
    Closed,
}

/// Where the numbering of both directions stands.
#[derive(Debug)]
struct Numbers {
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    /// The first answer of a login tells where StatSN begins.
    stat_sn_known: bool,
}

#[derive(Debug)]
struct Times {
    login_deadline: Duration,
    last_heard: Duration,
    /// When data of a command came last.
    last_data: Duration,
    /// When the target was last told that we are there.
    last_word: Duration,
    ping_deadline: Option<Duration>,
}

/// PDUs that are not commands or data, waiting to go out.
#[derive(Debug)]
enum Control {
    Login(StageFlags, Vec<u8>),
    SendTargets,
    MoreText(Lun, Ttt),
    Ping,
    /// Asks for nothing.
    Word,
    Pong(Lun, Ttt),
    Logout,
}

impl Connection {
    /// A connection whose first login request is ready to go out.
    #[must_use]
    pub fn new(settings: Settings, now: Duration) -> Self {
        let (login, stage, text) = Login::begin(&settings);
        let time = Times {
            login_deadline: now.saturating_add(settings.login_timeout),
            last_heard: now,
            last_data: now,
            last_word: now,
            ping_deadline: None,
        };
        Self {
            phase: Phase::Login(login),
            parameters: Parameters::default(),
            numbers: Numbers {
                cmd_sn: CmdSn(1),
                max_cmd_sn: CmdSn(1),
                exp_stat_sn: StatSn(0),
                stat_sn_known: false,
            },
            tasks: Tasks::default(),
            control: VecDeque::from([Control::Login(stage, text)]),
            incoming: receive::Incoming::Nothing,
            text: Vec::new(),
            events: VecDeque::new(),
            time,
            settings,
        }
    }

    /// What was agreed; the standard's defaults until the login is complete.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Queues a command. It goes out when the target's command window lets it; its limit runs from now.
    ///
    /// `None` when [`TASKS_MAX`] commands are under way, or the session is not open.
    pub fn command(&mut self, command: Command, now: Duration) -> Option<TaskId> {
        match self.phase {
            Phase::FullFeature => self.tasks.add(command, now),
            Phase::Login(_) | Phase::LoggingOut | Phase::Closed => None,
        }
    }

    /// Commands that are queued or under way.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.tasks.count()
    }

    /// Asks which targets there are; the answer is [`Event::Targets`]. One question at a time.
    pub fn send_targets(&mut self) {
        self.control.push_back(Control::SendTargets);
    }

    /// Ends the session; commands that are not finished fail with it.
    pub fn logout(&mut self) {
        if matches!(self.phase, Phase::FullFeature) {
            self.phase = Phase::LoggingOut;
            self.control.push_back(Control::Logout);
        }
    }

    /// Bytes have come, a PDU or a part of one.
    pub fn handle_bytes(&mut self, now: Duration) {
        self.time.last_heard = now;
        if matches!(self.incoming, receive::Incoming::DataIn(_)) {
            self.time.last_data = now;
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Login(_) => Some(self.time.login_deadline),
            Phase::FullFeature | Phase::LoggingOut => {
                let silence = self.pong_deadline().unwrap_or(self.ping_due());
                let limits = [self.tasks.deadline(), self.word_due()];
                Some(limits.into_iter().flatten().fold(silence, Duration::min))
            }
            Phase::Closed => None,
        }
    }

    /// Lets time act: limits of login, commands and pings.
    ///
    /// # Errors
    /// When one of them has passed.
    pub fn handle_timeout(&mut self, now: Duration) -> Result<(), Error> {
        let result = self.check_time(now);
        if result.is_err() {
            self.phase = Phase::Closed;
        }
        result
    }

    fn check_time(&mut self, now: Duration) -> Result<(), Error> {
        match self.phase {
            Phase::Closed => return Ok(()),
            Phase::Login(_) if now >= self.time.login_deadline => return Err(Error::LoginTimedOut),
            Phase::Login(_) => return Ok(()),
            Phase::FullFeature | Phase::LoggingOut => {}
        }
        if self.tasks.is_overdue(now, self.time.last_data) {
            return Err(Error::CommandTimedOut);
        }
        match self.pong_deadline() {
            Some(deadline) if now >= deadline => return Err(Error::PingTimedOut),
            None if now >= self.ping_due() => {
                self.time.ping_deadline = Some(now.saturating_add(self.settings.ping_timeout));
                self.time.last_word = now;
                self.control.push_back(Control::Ping);
            }
            Some(_) | None => {}
        }
        if self.word_due().is_some_and(|due| now >= due) {
            self.time.last_word = now;
            self.control.push_back(Control::Word);
        }
        Ok(())
    }

    /// After a silence the target is asked whether it is there.
    fn ping_due(&self) -> Duration {
        self.time.last_heard.saturating_add(self.settings.ping_after)
    }

    /// When the answer to that has to be here. It may wait behind data: as long as anything comes the target is not silent.
    fn pong_deadline(&self) -> Option<Duration> {
        let heard = self.time.last_heard.saturating_add(self.settings.ping_timeout);
        self.time.ping_deadline.map(|deadline| deadline.max(heard))
    }

    /// While data comes the target hears nothing of us, and what it asks waits behind the data: we say that we are there.
    fn word_due(&self) -> Option<Duration> {
        let due = self.time.last_word.saturating_add(self.settings.ping_after);
        (self.time.last_data > self.time.last_word).then_some(due)
    }
}

/// Commands of one connection, queued or under way; [`Connection::command`] refuses more.
pub const TASKS_MAX: usize = 1024;
