//! Runs one command of the shell against a console.

mod changed;
mod drill;
mod more;
mod takeover;

use super::change::{Change, GroupChange, Here};
use super::parse::{
    ArrayVerb, AuditVerb, ConfigVerb, EventVerb, GroupVerb, JournalVerb, Line, LinkVerb, ListShow, LunVerb,
    PairVerb, PairWait, ParityGroupVerb, ShellCommand, SnapshotVerb, TargetVerb, VolumeVerb,
};
use super::print::{self, Listed};
use super::view::{Console, LunView, Options, PairView, Snapshot};
use crate::clock::{Clock, MonotonicNs};
use crate::config::Config;
use crate::volume::designation::{DesignationId, Refusal};
use crate::volume::effect::{Action, Changed, Effect};
use crate::volume::pair::PairState;
use crate::volume::record::Who;
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What became of a command. The numbers are the exit codes that scripts rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Refused or failed.
    Failed = 1,
    /// The command makes no sense.
    Usage = 2,
    /// A wait timed out.
    TimedOut = 3,
    /// The array cannot be reached.
    Unreachable = 4,
    /// It ended in another state than was waited for.
    OtherState = 5,
}

/// A command line as it is sent to the array.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// Words of the command, without the name of the program.
    pub argv: Vec<String>,
    /// Whether JSON is wanted, besides `--json` in the words.
    #[serde(default)]
    pub json: bool,
    /// Width of the terminal; 0: unlimited.
    #[serde(default)]
    pub columns: u16,
    /// Where the operator stands: relative paths in the words begin there. Without it, where the array was started.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// What a word "-" in place of a file means: the standard input, at most [`INPUT_MAX_BYTES`].
    #[serde(default)]
    pub input: Option<String>,
    /// The operator sits at another machine: no file of this one is read for him.
    #[serde(skip)]
    pub is_remote: bool,
}

impl Request {
    /// Whether the words ask for the standard input: a "-" where a file is meant.
    #[must_use]
    pub fn wants_input(argv: &[String]) -> bool {
        let is_option = |word: &String| word.starts_with("--") && word.ends_with("-file=-");
        argv.iter().any(|word| word == "-" || is_option(word))
    }
}

/// What the command prints, and its exit code.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Response {
    /// Exit code.
    pub exit: u8,
    /// For standard output.
    pub stdout: String,
    /// For standard error.
    pub stderr: String,
    /// What the command would destroy, when it was refused for want of `--yes` alone: who sits at a terminal can be
    /// asked.
    #[serde(default)]
    pub destroys: Vec<String>,
    /// Words to ask next, without a word from anybody: what was asked for goes on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub again: Vec<String>,
}

impl Response {
    /// Output and nothing else.
    #[must_use]
    pub fn done(stdout: String) -> Self {
        Self { stdout, ..Self::default() }
    }

    /// One line that begins with what was asked.
    #[must_use]
    pub fn failed(exit: Exit, asked: &str, why: &str) -> Self {
        let stderr = format!("{}: {}\n", print::escape(asked), print::escape(why));
        Self { exit: exit as u8, stderr, ..Self::default() }
    }
}

/// The shell of one array: shared by all that talk to operators.
#[derive(Clone)]
pub struct Shell {
    console: Arc<dyn Console>,
    clock: Arc<dyn Clock>,
}

impl Shell {
    /// A shell that shows `console`.
    #[must_use]
    pub fn new(console: Arc<dyn Console>, clock: Arc<dyn Clock>) -> Self {
        Self { console, clock }
    }

    /// The name of the array, for prompts.
    pub(super) fn array_name(&self) -> String {
        self.console.snapshot().array.name
    }

    /// The clock that waits are measured by.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What it shows and changes.
    pub(super) fn console(&self) -> &dyn Console {
        self.console.as_ref()
    }

    /// Runs one command of `who`; a wait may take as long as it says. Dropping the future ends the wait, never a change
    /// half-way.
    pub async fn run(&self, request: &Request, who: &Who) -> Response {
        if request.argv.len() > ARGV_MAX {
            return Response::failed(Exit::Usage, "holdfast", &format!("more than {ARGV_MAX} words"));
        }
        let line = match Line::try_parse_from(&request.argv) {
            Ok(line) => line,
            Err(error) => return usage(&error),
        };
        let answer = Answer {
            asked: request
                .argv
                .iter()
                .take_while(|w| !w.starts_with("--"))
                .cloned()
                .collect::<Vec<_>>()
                .join(" "),
            json: request.json || line.json,
            columns: request.columns,
        };
        let here = Here {
            directory: request.directory.as_deref(),
            console: self.console(),
            input: request.input.as_deref(),
            is_remote: request.is_remote,
        };
        if let ShellCommand::Group(GroupVerb::Compare(words)) = &line.command {
            return self.compare(&answer, words, who).await;
        }
        if let ShellCommand::Group(GroupVerb::Proof { name, of: Some(of), full }) = &line.command {
            return match self.console().prove(name, (of, *full), who).await {
                Ok(()) => self.proof(&answer, name),
                Err(refusal) => answer.refused(&refusal),
            };
        }
        match line.command.change(&here) {
            Some(Ok(change)) => self.change(&answer, change, who).await,
            Some(Err(why)) => answer.fail(Exit::Failed, &why),
            None => self.answer(&answer, &line.command, &here).await,
        }
    }

    async fn answer(&self, to: &Answer, command: &ShellCommand, here: &Here<'_>) -> Response {
        let now = self.console.snapshot();
        match command {
            ShellCommand::Array(ArrayVerb::Show) => to.object(&now.array),
            ShellCommand::Unit(verb) => to.list_show(verb, "unit", &now.units, |v| v.name.clone()),
            ShellCommand::ParityGroup(ParityGroupVerb::Look(verb)) => {
                to.list_show(verb, "parity group", &now.parity_groups, |v| v.name.clone())
            }
            ShellCommand::Volume(VolumeVerb::Look(verb)) => {
                to.list_show(verb, "volume", &now.volumes, |v| v.name.clone())
            }
            ShellCommand::Snapshot(SnapshotVerb::Look(verb)) => {
                to.list_show(verb, "snapshot", &now.snapshots, |v| v.name.clone())
            }
            ShellCommand::Target(TargetVerb::Look(verb)) => {
                to.list_show(verb, "target", &now.targets, |v| v.name.clone())
            }
            ShellCommand::Lun(LunVerb::List { target }) => to.luns(target.as_ref(), &now),
            ShellCommand::Session(verb) => {
                to.list_show(verb, "session", &now.sessions, |v| v.number.to_string())
            }
            ShellCommand::Link(LinkVerb::Look(verb)) => {
                to.list_show(verb, "link", &now.links, |v| v.name.clone())
            }
            ShellCommand::Link(LinkVerb::Test { name }) => self.test_link(to, name).await,
            ShellCommand::Group(GroupVerb::Proof { name, .. }) => self.proof(to, name),
            ShellCommand::Group(GroupVerb::Look(verb)) => {
                to.list_show(verb, "group", &now.groups, |v| v.name.clone())
            }
            ShellCommand::Group(GroupVerb::Change(GroupChange::Drill(words))) => to.drills(words, &now),
            ShellCommand::Journal(JournalVerb::Look(verb)) => {
                to.list_show(verb, "journal volume", &now.journals, |v| v.volume.clone())
            }
            ShellCommand::Pair(PairVerb::List) => to.list(&now.pairs),
            ShellCommand::Pair(PairVerb::Show { name }) => {
                to.show(name, "pair", &now.pairs, |v| v.name.clone())
            }
            ShellCommand::Pair(PairVerb::Wait(wait)) => self.wait(to, wait).await,
            ShellCommand::Event(EventVerb::List { last }) => {
                to.list(&self.console.events(0, usize::try_from(*last).unwrap_or(usize::MAX)))
            }
            ShellCommand::Event(EventVerb::Follow { after }) => self.follow_events(to, *after).await,
            ShellCommand::Audit(AuditVerb::List { last }) => {
                to.list(&self.console.audit(usize::try_from(*last).unwrap_or(usize::MAX)))
            }
            ShellCommand::Config(ConfigVerb::Check { file }) => {
                if file.as_deref() == Some(Path::new("-")) {
                    return to.checked_input(here);
                }
                let file = file.as_deref().map(|file| here.path(file));
                to.check(file.as_deref().unwrap_or(Path::new(&now.array.config_file)))
            }
            ShellCommand::Config(ConfigVerb::Export { secrets }) => {
                to.export(&crate::config::to_toml(&self.console.declared(), secrets))
            }
            ShellCommand::Config(ConfigVerb::Apply { .. })
            | ShellCommand::ParityGroup(ParityGroupVerb::Change(_))
            | ShellCommand::Volume(VolumeVerb::Change(_))
            | ShellCommand::Snapshot(SnapshotVerb::Change(_))
            | ShellCommand::Target(TargetVerb::Change(_))
            | ShellCommand::Lun(LunVerb::Change(_))
            | ShellCommand::Link(LinkVerb::Change(_))
            | ShellCommand::Group(GroupVerb::Change(_) | GroupVerb::Compare(_))
            | ShellCommand::Journal(JournalVerb::Change(_))
            | ShellCommand::Pair(PairVerb::Change(_)) => {
                to.fail(Exit::Failed, "this is a change, not a question")
            }
        }
    }

    fn proof(&self, to: &Answer, group: &crate::volume::name::GroupName) -> Response {
        match self.console.proof(group) {
            Ok(proof) => Response::done(print::object(&proof, true, 0)),
            Err(refusal) => to.refused(&refusal),
        }
    }

    /// Applies a change, waits until the array has taken it up and other arrays have answered, and says what came of it.
    async fn change(&self, to: &Answer, mut change: Change, who: &Who) -> Response {
        self.ask_others(&mut change).await;
        let options = Options { dry_run: change.dry_run };
        if !change.destroys.is_empty() && !change.yes && !change.dry_run {
            // What would be refused anyway needs no confirmation.
            if let Err(refusal) = self.console.designate(&change.orders, who, Options { dry_run: true }) {
                return to.refused(&refusal);
            }
            let why = format!("destroys {}; say --yes if that is meant", change.destroys.join(", "));
            return Response { destroys: change.destroys, ..to.fail(Exit::Failed, &why) };
        }
        if !change.dry_run
            && let Err(refusal) = self.console.prepare(&mut change.orders, who).await
        {
            return to.refused(&refusal);
        }
        let effect = match self.console.designate(&change.orders, who, options) {
            Ok(effect) => effect,
            Err(refusal) => return to.refused(&refusal),
        };
        let ids: Vec<DesignationId> = change.orders.iter().map(|(id, _)| *id).collect();
        if !change.dry_run {
            tokio::select! {
                biased;
                () = self.taken_up(&ids, &change) => {}
                () = self.clock.sleep(takeover::limit(&change)) => {}
            }
        }
        let on_their_way = self.console.on_their_way(&ids);
        let trouble = match change.dry_run {
            true => None,
            false => trouble(&self.console.snapshot(), &effect)
                .or_else(|| self.not_taken_over(&change))
                .or_else(|| self.drill_not_made(&change)),
        };
        to.changed(&change, &effect, on_their_way, trouble)
    }

    /// Waits until this array has opened, shown and started what was designated, and every array that it was passed on
    /// to has answered.
    async fn taken_up(&self, ids: &[DesignationId], change: &Change) {
        self.console.settled().await;
        self.taken_over(change).await;
        self.drills_made(change).await;
        // A pair that is said at its auxiliary comes back from the primary.
        let awaited: Vec<String> = change.orders.iter().filter_map(|(_, what)| what.awaited_pair()).collect();
        loop {
            let changed = self.console.changed();
            let on_their_way = self.console.on_their_way(ids);
            let is_refused = on_their_way.iter().any(|message| message.refusal.is_some());
            let is_answered = on_their_way.iter().all(|message| message.refusal.is_some());
            let is_here = || {
                let pairs = self.console.snapshot().pairs;
                awaited.iter().all(|name| pairs.iter().any(|pair| pair.name == *name))
            };
            if is_answered && (is_refused || awaited.is_empty() || is_here()) {
                return;
            }
            changed.await;
        }
    }

    async fn wait(&self, answer: &Answer, wait: &PairWait) -> Response {
        let start = self.clock.now();
        let mut was_there = false;
        loop {
            // Asked for before looking, so that no change falls in between.
            let changed = self.console.changed();
            let snapshot = self.console.snapshot();
            let pair = snapshot.pairs.iter().find(|pair| pair.name == wait.name);
            match (judge(pair, wait), pair) {
                (Verdict::Reached, Some(pair)) => return answer.object(pair),
                (Verdict::Reached, None) => return Response::done(String::new()),
                (Verdict::Missing, _) if !was_there => return answer.missing("pair", &wait.name),
                (Verdict::Missing, _) => return answer.fail(Exit::OtherState, "the pair was deleted"),
                (Verdict::Ended(text), _) => return answer.fail(Exit::OtherState, &text),
                (Verdict::NotYet, _) => was_there = true,
            }
            let Some(left) = left(self.clock.now(), start, wait.timeout) else {
                let state = pair.map_or("missing", |pair| pair.state.as_str());
                return answer.fail(Exit::TimedOut, &format!("the time is over, the pair is {state}"));
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = self.clock.sleep(left) => {}
            }
        }
    }
}

/// How a wait stands.
enum Verdict {
    Reached,
    NotYet,
    Missing,
    Ended(String),
}

fn judge(pair: Option<&PairView>, wait: &PairWait) -> Verdict {
    let Some(pair) = pair else {
        return if wait.until.state == Some(PairState::Unused) { Verdict::Reached } else { Verdict::Missing };
    };
    let state = pair.state.parse::<PairState>().unwrap_or(PairState::Abnormal);
    let is_reached = match (wait.until.state, wait.until.update_number) {
        (Some(wanted), _) => state == wanted,
        (None, Some(number)) => pair.restored_update_number.is_some_and(|restored| restored >= number),
        (None, None) => true,
    };
    if is_reached {
        return Verdict::Reached;
    }
    // From these nothing goes on by itself, unless that is asked for already.
    if wait.until.state != Some(PairState::Unused)
        && pair.asked.as_deref() != Some("resync")
        && matches!(state, PairState::Suspended | PairState::Abnormal | PairState::Unused)
    {
        let reason = pair.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        return Verdict::Ended(format!("the pair is {state}{reason}"));
    }
    Verdict::NotYet
}

/// What is left of a time limit; `None` when nothing is.
fn left(now: MonotonicNs, start: MonotonicNs, limit: Option<Duration>) -> Option<Duration> {
    let Some(limit) = limit else { return Some(LOOK_AGAIN) };
    limit.checked_sub(now.since(start)).filter(|left| !left.is_zero())
}

/// How the answer to one command is written.
pub(super) struct Answer {
    asked: String,
    json: bool,
    columns: u16,
}

impl Answer {
    fn luns(&self, target: Option<&String>, now: &Snapshot) -> Response {
        if let Some(name) = target
            && !now.targets.iter().any(|target| target.name == *name)
        {
            return self.missing("target", name);
        }
        let wanted = now.targets.iter().filter(|t| target.is_none_or(|name| t.name == *name));
        let luns: Vec<LunView> = wanted.flat_map(|target| target.luns.iter().cloned()).collect();
        self.list(&luns)
    }

    fn list_show<R: Listed>(
        &self,
        verb: &ListShow,
        what: &str,
        rows: &[R],
        key: fn(&R) -> String,
    ) -> Response {
        match verb {
            ListShow::List => self.list(rows),
            ListShow::Show { name } => self.show(name, what, rows, key),
        }
    }

    fn show<R: Listed>(&self, name: &str, what: &str, rows: &[R], key: fn(&R) -> String) -> Response {
        match rows.iter().find(|row| key(row) == name) {
            Some(row) => self.object(row),
            None => self.missing(what, name),
        }
    }

    fn list<R: Listed>(&self, rows: &[R]) -> Response {
        Response::done(print::list(rows, self.json, self.columns))
    }

    pub(super) fn object<T: Serialize>(&self, object: &T) -> Response {
        Response::done(print::object(object, self.json, self.columns))
    }

    pub(super) fn missing(&self, what: &str, name: &str) -> Response {
        self.fail(Exit::Failed, &format!("there is no {what} {name:?}"))
    }

    pub(super) fn fail(&self, exit: Exit, why: &str) -> Response {
        Response::failed(exit, &self.asked, why)
    }

    /// TOML as it is, or inside one document.
    fn export(&self, toml: &str) -> Response {
        let document = serde_json::json!({ "toml": toml });
        Response::done(if self.json { print::object(&document, true, 0) } else { toml.to_owned() })
    }

    pub(super) fn refused(&self, refusal: &Refusal) -> Response {
        let exit = if matches!(refusal, Refusal::Unreachable(_)) { Exit::Unreachable } else { Exit::Failed };
        self.fail(exit, &refusal.to_string())
    }

    fn check(&self, file: &Path) -> Response {
        self.mistakes(&file.display().to_string(), &check_config(file))
    }

    fn mistakes(&self, file: &str, mistakes: &[String]) -> Response {
        if !self.json {
            return if mistakes.is_empty() { Response::done(String::new()) } else { refuse(mistakes) };
        }
        let answer = print::object(&Checked { file: file.to_owned(), mistakes }, true, 0);
        let exit = if mistakes.is_empty() { Exit::Done } else { Exit::Failed };
        Response { exit: exit as u8, stdout: answer, ..Response::default() }
    }
}

/// Checks a configuration file: its mistakes, each with its place, escaped for a terminal.
#[must_use]
pub fn check_config(file: &Path) -> Vec<String> {
    match Config::load(file) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(|mistake| print::escape(&mistake.to_string())).collect(),
    }
}

fn refuse(mistakes: &[String]) -> Response {
    Response { exit: Exit::Failed as u8, stderr: mistakes.join("\n") + "\n", ..Response::default() }
}

/// Why something that was just created cannot be used.
fn trouble(now: &Snapshot, effect: &Effect) -> Option<String> {
    let created = |kind: &str, name: &str| {
        let is_it = |c: &&Changed| c.action == Action::Create && c.kind == kind && c.name == name;
        effect.changes.iter().find(is_it).is_some()
    };
    let groups = now.parity_groups.iter().filter(|g| g.state == "failed" && created("parity group", &g.name));
    let groups = groups.map(|g| ("parity group", &g.name, &g.reason));
    let volumes = now.volumes.iter().filter(|v| v.state == "abnormal" && created("volume", &v.name));
    let volumes = volumes.map(|v| ("volume", &v.name, &v.reason));
    groups.chain(volumes).next().map(|(kind, name, reason)| {
        let reason = reason.as_deref().unwrap_or("it is not open yet");
        format!("{kind} {name} was created and cannot be used: {reason}")
    })
}

#[derive(Serialize)]
struct Checked<'a> {
    file: String,
    mistakes: &'a [String],
}

/// What the parser of the command line says: help is an answer, everything else a mistake.
fn usage(error: &clap::Error) -> Response {
    let text = error.render().to_string();
    if error.use_stderr() {
        Response { exit: Exit::Usage as u8, stderr: text, ..Response::default() }
    } else {
        Response::done(text)
    }
}

/// A wait without a limit looks again this often, should the array have missed to say that something changed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A change answers after this time also when not everything has been taken up; what is missing is said.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(5);
/// Standard input of one command; more is refused.
pub const INPUT_MAX_BYTES: usize = 256 << 10;
/// Words of one command; more are refused.
const ARGV_MAX: usize = 256;

#[cfg(test)]
mod tests;
