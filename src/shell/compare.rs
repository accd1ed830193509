//! `group compare`: its words, and how it is waited for.

use super::command::{Exit, Response, Shell};
use super::view::{CompareWish, ComparedView, ComparesView, GroupView};
use crate::config::{ByteSize, parse_duration};
use crate::volume::compare::{CompareOptions, CompareSchedule, Repair};
use crate::volume::name::{GroupName, LinkName};
use clap::{Args, ValueEnum};
use std::time::Duration;

/// What is said about a comparison.
#[derive(Clone, Debug, Args)]
pub struct CompareWords {
    /// Group.
    pub name: GroupName,
    /// At the array that hosts write to: with the copy behind this link. Without it at an array that copies the group: with the array
    /// from which it is copied; else with the only copy.
    #[arg(long, value_name = "LINK")]
    reader: Option<LinkName>,
    /// At an array that copies the group: with the array behind this link, which copies it from the same array, or is that array.
    #[arg(long, value_name = "LINK", conflicts_with_all = ["reader", "repair"])]
    with: Option<LinkName>,
    /// What each side reads in a second at most, as in 100MiB.
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,
    /// Read everything, also what was not written since it was read last: finds what units have changed by themselves.
    #[arg(long)]
    full: bool,
    /// Make equal what differs, where it is known which side is right.
    #[arg(long)]
    repair: bool,
    /// The side that is right where nothing is proven.
    #[arg(long, value_name = "SIDE", requires = "repair")]
    from: Option<SideWord>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// Wait for the result.
    #[arg(long, conflicts_with_all = ["dry_run", "show", "cancel"])]
    wait: bool,
    /// How long, for example 60s; without it, for ever.
    #[arg(long, requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// At an array that copies the group: from now on by itself, so long after the last one, with the other words as they are said
    /// now; "never": not any more.
    #[arg(long, value_name = "TIME", value_parser = every, conflicts_with_all = ["reader", "with", "dry_run", "wait", "show", "cancel"])]
    every: Option<Every>,
    /// Show what is at work and what came of those before.
    #[arg(long, conflicts_with_all = ["reader", "with", "rate", "full", "repair", "dry_run", "cancel"])]
    show: bool,
    /// End what is at work; it leaves nothing behind.
    #[arg(long, conflicts_with_all = ["reader", "with", "rate", "full", "repair", "dry_run"])]
    cancel: bool,
}

/// How often.
#[derive(Clone, Copy, Debug)]
struct Every(Option<Duration>);

fn every(text: &str) -> Result<Every, String> {
    if text == "never" {
        return Ok(Every(None));
    }
    match parse_duration(text)? {
        time if time >= EVERY_MIN => Ok(Every(Some(time))),
        _ => Err(format!("{text:?} is less than {} s", EVERY_MIN.as_secs())),
    }
}

/// A side.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum SideWord {
    /// Where hosts write.
    Primary,
    /// The copy.
    Copy,
}

fn rate(text: &str) -> Result<u64, String> {
    let size = ByteSize::parse(text.strip_suffix("/s").unwrap_or(text));
    match size {
        Ok(ByteSize(bytes)) if bytes >= RATE_MIN => Ok(bytes),
        Ok(_) => Err(format!("{text:?} is less than {RATE_MIN} bytes")),
        Err(_) => Err(format!("{text:?} is no size as in 100MiB")),
    }
}

impl CompareWords {
    fn wish(&self) -> CompareWish {
        if self.cancel {
            return CompareWish::Cancel;
        }
        let repair = self.repair.then_some(match self.from {
            None => Repair::Proven,
            Some(SideWord::Primary) => Repair::FromPrimary,
            Some(SideWord::Copy) => Repair::FromCopy,
        });
        let options = CompareOptions { rate_bytes_per_s: self.rate, is_full: self.full, repair };
        if let Some(Every(every)) = self.every {
            return CompareWish::Schedule(every.map(|every| CompareSchedule { every, options }));
        }
        let (reader, with) = (self.reader.clone(), self.with.clone());
        CompareWish::Start { reader, with, options, is_dry_run: self.dry_run }
    }
}

impl Shell {
    pub(super) async fn compare(
        &self,
        to: &super::command::Answer,
        words: &CompareWords,
        who: &crate::volume::record::Who,
    ) -> Response {
        let before = self.compared(&words.name);
        if words.show {
            return match before {
                Some(group) => {
                    to.object(&ComparesView { comparing: group.comparing, compared: group.compared })
                }
                None => to.missing("group", words.name.as_str()),
            };
        }
        let started = match self.console().compare(&words.name, &words.wish(), who).await {
            Ok(started) => started,
            Err(refusal) => return to.refused(&refusal),
        };
        if !words.wait {
            return to.object(&started);
        }
        let known: Vec<String> =
            before.into_iter().flat_map(|group| group.compared).map(|one| one.id).collect();
        self.wait_compared(to, words, (&started.with, &known)).await
    }

    fn compared(&self, name: &GroupName) -> Option<GroupView> {
        self.console().snapshot().groups.into_iter().find(|group| group.name == name.as_str())
    }

    /// Exit codes: 0 equal, or all that differed is repaired; 3 the time is over; 5 it differs, or could not be compared.
    async fn wait_compared(
        &self,
        to: &super::command::Answer,
        words: &CompareWords,
        (with, known): (&str, &[String]),
    ) -> Response {
        let began = self.clock().now();
        let mut last_at_work = began;
        loop {
            let changed = self.console().changed();
            let Some(group) = self.compared(&words.name) else {
                return to.fail(Exit::OtherState, "the group is gone");
            };
            let is_new = |one: &&ComparedView| one.with == with && !known.contains(&one.id);
            if let Some(one) = group.compared.iter().find(is_new) {
                let is_done = one.result == "equal"
                    || (one.result == "different" && one.repaired_bytes == one.different_bytes);
                let answer = to.object(one);
                let exit = if is_done { Exit::Done } else { Exit::OtherState };
                return Response { exit: exit as u8, ..answer };
            }
            let now = self.clock().now();
            if group.comparing.iter().any(|one| one.with == with) {
                last_at_work = now;
            }
            if now.since(last_at_work) > SILENCE {
                return to.fail(Exit::OtherState, "it has ended, and its result has not come here");
            }
            if words.timeout.is_some_and(|timeout| now.since(began) >= timeout) {
                return to.fail(Exit::TimedOut, "the time is over; it goes on");
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = self.clock().sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

/// The shortest time between two comparisons of a schedule.
const EVERY_MIN: Duration = Duration::from_secs(60);
/// The least rate.
const RATE_MIN: u64 = 64 << 10;
/// A comparison that was begun elsewhere is seen here after some time, and its result soon after its end.
const SILENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
