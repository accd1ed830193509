//! Runs one command of the shell against a console.

use super::parse::{
    ArrayVerb, AuditVerb, ConfigVerb, Line, ListShow, LunVerb, PairVerb, PairWait, ShellCommand,
};
use super::print::{self, Listed};
use super::view::{Console, LunView, PairView, Snapshot};
use crate::clock::{Clock, MonotonicNs};
use crate::config::Config;
use crate::volume::pair::PairState;
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::path::Path;
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
}

impl Response {
    /// Output and nothing else.
    #[must_use]
    pub fn done(stdout: String) -> Self {
        Self { exit: Exit::Done as u8, stdout, stderr: String::new() }
    }

    /// One line that begins with what was asked.
    #[must_use]
    pub fn failed(exit: Exit, asked: &str, why: &str) -> Self {
        let stderr = format!("{}: {}\n", print::escape(asked), print::escape(why));
        Self { exit: exit as u8, stdout: String::new(), stderr }
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

    /// The clock that waits are measured by.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Runs one command; a wait may take as long as it says. Dropping the future ends it.
    pub async fn run(&self, request: &Request) -> Response {
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
        self.answer(&answer, &line.command).await
    }

    async fn answer(&self, to: &Answer, command: &ShellCommand) -> Response {
        let now = self.console.snapshot();
        match command {
            ShellCommand::Array(ArrayVerb::Show) => to.object(&now.array),
            ShellCommand::Unit(verb) => to.list_show(verb, "unit", &now.units, |v| v.name.clone()),
            ShellCommand::ParityGroup(verb) => {
                to.list_show(verb, "parity group", &now.parity_groups, |v| v.name.clone())
            }
            ShellCommand::Volume(verb) => to.list_show(verb, "volume", &now.volumes, |v| v.name.clone()),
            ShellCommand::Target(verb) => to.list_show(verb, "target", &now.targets, |v| v.name.clone()),
            ShellCommand::Lun(LunVerb::List { target }) => to.luns(target.as_ref(), &now),
            ShellCommand::Session(verb) => {
                to.list_show(verb, "session", &now.sessions, |v| v.number.to_string())
            }
            ShellCommand::Link(verb) => to.list_show(verb, "link", &now.links, |v| v.name.clone()),
            ShellCommand::Group(verb) => to.list_show(verb, "group", &now.groups, |v| v.name.clone()),
            ShellCommand::Journal(verb) => {
                to.list_show(verb, "journal volume", &now.journals, |v| v.volume.clone())
            }
            ShellCommand::Pair(PairVerb::List) => to.list(&now.pairs),
            ShellCommand::Pair(PairVerb::Show { name }) => {
                to.show(name, "pair", &now.pairs, |v| v.name.clone())
            }
            ShellCommand::Pair(PairVerb::Wait(wait)) => self.wait(to, wait).await,
            ShellCommand::Audit(AuditVerb::List { last }) => {
                to.list(&self.console.audit(usize::try_from(*last).unwrap_or(usize::MAX)))
            }
            ShellCommand::Config(ConfigVerb::Check { file }) => {
                to.check(file.as_deref().unwrap_or(Path::new(&now.array.config_file)))
            }
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
    // From these nothing goes on by itself.
    if wait.until.state != Some(PairState::Unused)
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
struct Answer {
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

    fn object<T: Serialize>(&self, object: &T) -> Response {
        Response::done(print::object(object, self.json, self.columns))
    }

    fn missing(&self, what: &str, name: &str) -> Response {
        self.fail(Exit::Failed, &format!("there is no {what} {name:?}"))
    }

    fn fail(&self, exit: Exit, why: &str) -> Response {
        Response::failed(exit, &self.asked, why)
    }

    fn check(&self, file: &Path) -> Response {
        let mistakes = check_config(file);
        if !self.json {
            return if mistakes.is_empty() { Response::done(String::new()) } else { refuse(&mistakes) };
        }
        let answer =
            print::object(&Checked { file: file.display().to_string(), mistakes: &mistakes }, true, 0);
        let exit = if mistakes.is_empty() { Exit::Done } else { Exit::Failed };
        Response { exit: exit as u8, stdout: answer, stderr: String::new() }
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
    Response { exit: Exit::Failed as u8, stdout: String::new(), stderr: mistakes.join("\n") + "\n" }
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
        Response { exit: Exit::Usage as u8, stdout: String::new(), stderr: text }
    } else {
        Response::done(text)
    }
}

/// A wait without a limit looks again this often, should the array have missed to say that something changed.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Words of one command; more are refused.
const ARGV_MAX: usize = 256;

#[cfg(test)]
mod tests;
