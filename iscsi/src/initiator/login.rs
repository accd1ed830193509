//! The login of the initiator (RFC 7143 sections 6.2, 6.3 and 11.12): security stage, operational stage, done.
//!
//! ```text
//! Method --CHAP--> Algorithm --> Answer --> Operational --> (full feature)
//!    `------------None--------------------------^
//! ```
//!
//! Invariants: with credentials the target cannot talk us out of CHAP; it never moves to a stage that was not asked
//! for; texts and rounds are bounded.

use super::chap;
use super::error::Error;
use super::keys::{Parameters, offer, push};
use super::settings::{Purpose, Settings};
use crate::chap::Challenge;
use crate::pdu::login::{LoginResponse, LoginStatus, Stage, StageFlags};
use crate::text::Pairs;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::take;

/// A login under way.
#[derive(Debug)]
pub(super) struct Login {
    step: Step,
    asked: StageFlags,
    parts: Vec<u8>,
    rounds: u32,
    parameters: Parameters,
}

/// What the next answer of the target is about.
#[derive(Debug)]
enum Step {
    Method,
    Algorithm,
    Answer(Box<Challenge>),
    Operational,
}

/// What to do after an answer.
#[derive(Debug)]
pub(super) enum Next {
    /// Send another request.
    Send(StageFlags, Vec<u8>),
    /// The session is open.
    Done(Parameters),
}

impl Login {
    /// The login and its first request.
    pub(super) fn begin(settings: &Settings) -> (Self, StageFlags, Vec<u8>) {
        let mut text = Vec::new();
        push(&mut text, "InitiatorName", &settings.initiator_name);
        match &settings.purpose {
            Purpose::Discovery => push(&mut text, "SessionType", "Discovery"),
            Purpose::Normal { target_name } => {
                push(&mut text, "SessionType", "Normal");
                push(&mut text, "TargetName", target_name);
            }
        }
        let asked = if settings.credentials.is_some() {
            push(&mut text, "AuthMethod", "CHAP");
            stay(Stage::Security)
        } else {
            push(&mut text, "AuthMethod", "None");
            go(Stage::Security, Stage::Operational)
        };
        let login = Self {
            step: Step::Method,
            asked,
            parts: Vec::new(),
            rounds: 0,
            parameters: Parameters::default(),
        };
        (login, asked, text)
    }

    /// Takes an answer and its text.
    pub(super) fn handle(
        &mut self,
        settings: &Settings,
        response: &LoginResponse,
        text: &[u8],
    ) -> Result<Next, Error> {
        self.rounds += 1;
        if self.rounds > ROUNDS_MAX || self.parts.len() + text.len() > TEXT_BYTES_MAX {
            return Err(Error::Protocol("a login without end"));
        }
        self.parts.extend_from_slice(text);
        if response.status != LoginStatus::SUCCESS {
            return Err(refusal(response.status, &self.parts));
        }
        if response.stage.current != self.asked.current || response.stage.next > self.asked.next {
            return Err(Error::Protocol("a login stage that was not asked for"));
        }
        if response.stage.is_continued {
            return Ok(Next::Send(self.asked, Vec::new()));
        }
        let parts = take(&mut self.parts);
        let next =
            self.advance(settings, &Pairs::parse(&parts).map_err(|_| NO_PAIRS)?, response.stage.next)?;
        if let Next::Send(asked, _) = &next {
            self.asked = *asked;
        }
        Ok(next)
    }

    fn advance(
        &mut self,
        settings: &Settings,
        keys: &Pairs<'_>,
        reached: Option<Stage>,
    ) -> Result<Next, Error> {
        match &self.step {
            Step::Method => self.method(settings, keys, reached),
            Step::Algorithm => {
                let Some(credentials) = &settings.credentials else { return Err(UNASKED_CHAP) };
                let mut text = Vec::new();
                let ours = chap::answer(keys, settings, credentials, &mut text)?;
                self.step = Step::Answer(Box::new(ours));
                Ok(Next::Send(go(Stage::Security, Stage::Operational), text))
            }
            Step::Answer(ours) => {
                let Some(credentials) = &settings.credentials else { return Err(UNASKED_CHAP) };
                chap::check(keys, credentials, ours)?;
                match reached {
                    Some(_) => Ok(self.operational(settings)),
                    None => Err(Error::Authentication("the target does not go on")),
                }
            }
            Step::Operational => self.agree(settings, keys, reached),
        }
    }

    fn method(
        &mut self,
        settings: &Settings,
        keys: &Pairs<'_>,
        reached: Option<Stage>,
    ) -> Result<Next, Error> {
        match (&settings.credentials, keys.get("AuthMethod"), reached) {
            (Some(_), Some("CHAP"), _) => {
                self.step = Step::Algorithm;
                let mut text = Vec::new();
                push(&mut text, "CHAP_A", chap::ALGORITHMS);
                Ok(Next::Send(stay(Stage::Security), text))
            }
            // An answer to the question may come one round later than the first answer.
            (Some(_), None, None) => Ok(Next::Send(stay(Stage::Security), Vec::new())),
            (Some(_), _, _) => Err(Error::Authentication("the target does not want CHAP")),
            (None, None | Some("None"), Some(_)) => Ok(self.operational(settings)),
            (None, None | Some("None"), None) => {
                Ok(Next::Send(go(Stage::Security, Stage::Operational), Vec::new()))
            }
            (None, Some(_), _) => Err(Error::Authentication("the target wants credentials")),
        }
    }

    fn operational(&mut self, settings: &Settings) -> Next {
        self.step = Step::Operational;
        let mut text = Vec::new();
        offer(settings, &mut text);
        Next::Send(go(Stage::Operational, Stage::FullFeature), text)
    }

    fn agree(
        &mut self,
        settings: &Settings,
        keys: &Pairs<'_>,
        reached: Option<Stage>,
    ) -> Result<Next, Error> {
        let mut reply = Vec::new();
        for pair in keys.iter() {
            self.parameters.take(settings, pair, &mut reply)?;
        }
        if reached.is_none() {
            return Ok(Next::Send(go(Stage::Operational, Stage::FullFeature), reply));
        }
        self.parameters.check(settings)?;
        Ok(Next::Done(self.parameters))
    }
}

fn refusal(status: LoginStatus, text: &[u8]) -> Error {
    let address = Pairs::parse(text).ok().and_then(|keys| keys.get("TargetAddress").map(Into::into));
    match (status.class, address) {
        (1, Some(address)) => Error::Redirected { address },
        _ => Error::LoginRefused(status),
    }
}

fn stay(current: Stage) -> StageFlags {
    StageFlags { is_continued: false, current, next: None }
}

fn go(current: Stage, next: Stage) -> StageFlags {
    StageFlags { is_continued: false, current, next: Some(next) }
}

const NO_PAIRS: Error = Error::Protocol("a text that makes no sense");
const UNASKED_CHAP: Error = Error::Authentication("CHAP without credentials");
/// Requests of one login; a target that wants more is playing for time.
const ROUNDS_MAX: u32 = 32;
/// Bytes of one answer over all its parts; beyond it the connection is closed.
const TEXT_BYTES_MAX: usize = 64 << 10;
