//! The commands of the shell: one tree for the binary, the local socket and interactive lines.

use super::change::{
    GroupChange, JournalChange, LinkChange, LunChange, PairChange, ParityGroupChange, SnapshotChange,
    TargetChange, VolumeChange,
};
use super::compare::CompareWords;
use crate::config::parse_duration;
use crate::volume::name::{GroupName, SnapshotName};
use crate::volume::pair::PairState;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// One line of the shell.
#[derive(Clone, Debug, Parser)]
#[command(name = "holdfast", no_binary_name = true, disable_version_flag = true)]
pub struct Line {
    /// The command.
    #[command(subcommand)]
    pub command: ShellCommand,
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
}

/// Noun, then verb, then names.
#[derive(Clone, Debug, Subcommand)]
pub enum ShellCommand {
    /// This array.
    #[command(subcommand)]
    Array(ArrayVerb),
    /// Units of parity groups: files and block devices.
    #[command(subcommand)]
    Unit(ListShow),
    /// Parity groups.
    #[command(subcommand)]
    ParityGroup(ParityGroupVerb),
    /// Volumes.
    #[command(subcommand)]
    Volume(VolumeVerb),
    /// Snapshots: what volumes were at one moment, as volumes of their own.
    #[command(subcommand)]
    Snapshot(SnapshotVerb),
    /// iSCSI targets.
    #[command(subcommand)]
    Target(TargetVerb),
    /// Volumes as hosts see them: logical unit numbers of targets.
    #[command(subcommand)]
    Lun(LunVerb),
    /// Sessions of hosts and arrays.
    #[command(subcommand)]
    Session(ListShow),
    /// Links to other arrays.
    #[command(subcommand)]
    Link(LinkVerb),
    /// Groups of volumes whose copies are consistent with each other.
    #[command(subcommand)]
    Group(GroupVerb),
    /// Journal volumes.
    #[command(subcommand)]
    Journal(JournalVerb),
    /// Pairs of a volume and its copy.
    #[command(subcommand)]
    Pair(PairVerb),
    /// What has happened: states that changed, with the reason.
    #[command(subcommand)]
    Event(EventVerb),
    /// The log of every change.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// The configuration file.
    #[command(subcommand)]
    Config(ConfigVerb),
}

/// What can be asked of this array.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ArrayVerb {
    /// Show this array.
    Show,
}

/// What can be asked of most objects.
#[derive(Clone, Debug, Subcommand)]
pub enum ListShow {
    /// Show all of them in a table.
    List,
    /// Show one with everything that is known about it.
    Show {
        /// Its name.
        name: String,
    },
}

/// Verbs of an object that can be listed, shown and changed.
macro_rules! verbs {
    ($(#[$doc:meta])* $name:ident, $change:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Subcommand)]
        #[allow(clippy::large_enum_variant, reason = "one command is parsed at a time, and kept nowhere")]
        pub enum $name {
            /// Questions.
            #[command(flatten)]
            Look(ListShow),
            /// Changes.
            #[command(flatten)]
            Change($change),
        }
    };
}

verbs! {
    /// What can be done with parity groups.
    ParityGroupVerb, ParityGroupChange
}
verbs! {
    /// What can be done with volumes.
    VolumeVerb, VolumeChange
}
verbs! {
    /// What can be done with snapshots.
    SnapshotVerb, SnapshotChange
}
verbs! {
    /// What can be done with targets.
    TargetVerb, TargetChange
}
/// What can be done with links.
#[derive(Clone, Debug, Subcommand)]
pub enum LinkVerb {
    /// Questions.
    #[command(flatten)]
    Look(ListShow),
    /// Changes.
    #[command(flatten)]
    Change(LinkChange),
    /// Try a link: log in at every portal, time round trips and data, and have the other array log in here.
    ///
    /// Exit codes: 0 it works both ways, 1 it does not.
    Test {
        /// Its name.
        name: String,
    },
}
/// What can be done with groups.
#[derive(Clone, Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one command is parsed at a time, and kept nowhere")]
pub enum GroupVerb {
    /// Questions.
    #[command(flatten)]
    Look(ListShow),
    /// Changes.
    #[command(flatten)]
    Change(GroupChange),
    /// Compare the volumes of a copy with what they are copies of, at one update number, while hosts write; at either array.
    ///
    /// Exit codes with --wait: 0 equal, or repaired, 3 the time is over, 5 something differs, or it could not be done.
    Compare(CompareWords),
    /// What came of its last comparisons, sealed one after the other, with the roots of the newest: for `holdfast verify-proof`. Always one JSON
    /// document.
    Proof {
        /// Group.
        name: GroupName,
        /// First find the roots of this read-only snapshot of the group, as of its update, and seal them too. It may take long; what is known is not read.
        #[arg(long, value_name = "SNAPSHOT")]
        of: Option<SnapshotName>,
        /// Of the snapshot, read everything.
        #[arg(long, requires = "of")]
        full: bool,
    },
}
verbs! {
    /// What can be done with journal volumes.
    JournalVerb, JournalChange
}

/// What can be done with LUNs.
#[derive(Clone, Debug, Subcommand)]
pub enum LunVerb {
    /// Changes.
    #[command(flatten)]
    Change(LunChange),
    /// Show all of them in a table.
    List {
        /// Of this target only.
        target: Option<String>,
    },
}

/// What can be done with pairs.
#[derive(Clone, Debug, Subcommand)]
pub enum PairVerb {
    /// Changes.
    #[command(flatten)]
    Change(PairChange),
    /// Show all of them in a table.
    List,
    /// Show one with everything that is known about it.
    Show {
        /// Its name.
        name: String,
    },
    /// Wait until a pair is in a state, or its S-VOL has restored an update.
    ///
    /// Exit codes: 0 reached, 1 no such pair, 3 the time is over, 5 it ended in another state.
    Wait(PairWait),
}

/// What to wait for.
#[derive(Clone, Debug, Args)]
pub struct PairWait {
    /// Its name.
    pub name: String,
    #[command(flatten)]
    /// What it shall reach.
    pub until: PairUntil,
    /// How long to wait, for example 60s; without it, for ever.
    #[arg(long, value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

/// The end of a wait: one of them.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PairUntil {
    /// The state: unused, not-yet-copied, being-copied, normal, suspended or abnormal.
    #[arg(long)]
    pub state: Option<PairState>,
    /// The update number that its S-VOL must have restored.
    #[arg(long)]
    pub update_number: Option<u64>,
}

/// What can be asked of events.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum EventVerb {
    /// Show the newest events since the start, oldest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=4_096))]
        last: u32,
    },
    /// Print each event as it happens, one a line, until interrupted; with --json one document a line.
    Follow {
        /// Begin behind this number; without it, behind the newest.
        #[arg(long, value_name = "NUMBER")]
        after: Option<u64>,
    },
}

/// What can be asked of the audit log.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AuditVerb {
    /// Show the newest records, oldest first.
    List {
        /// How many.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        last: u32,
    },
}

/// What can be done with configuration files.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigVerb {
    /// Print all objects as TOML; secrets are references to files.
    Export {
        /// The directory in which the secrets are, as the output names it.
        #[arg(long, default_value = "secrets")]
        secrets: String,
    },
    /// Make what a file declares and this array does not have; what exists stays as it is.
    Apply {
        /// The file: a configuration, or what `config export` printed.
        file: PathBuf,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
    },
    /// Check a file: nothing is printed when it is right.
    Check {
        /// The file; without it, the one that the array was started with.
        file: Option<PathBuf>,
    },
}

/// Splits an interactive line into words; quotes keep blanks together, a backslash keeps the next character.
///
/// # Errors
/// A quote that is not closed.
pub fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(characters.next()),
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(quote) => Err(format!("a {quote} is not closed")),
        None => Ok(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn words_are_split_as_a_shell_does_it() {
        let split = |line: &str| words(line).unwrap();
        assert_eq!(split("  volume  list --json "), ["volume", "list", "--json"]);
        assert_eq!(split(r#"a "b c" 'd "e' f\ g "\"" """#), ["a", "b c", "d \"e", "f g", "\"", ""]);
        assert!(split("").is_empty());
        assert!(words("a 'b").is_err());
    }

    #[test]
    fn waiting_needs_one_end_and_takes_times_with_units() {
        let parse = |line: &str| Line::try_parse_from(words(line).unwrap());
        assert!(parse("pair wait p1 --state normal --timeout 60s").is_ok());
        assert!(parse("pair wait p1 --update-number 7").is_ok());
        for wrong in [
            "pair wait p1",
            "pair wait p1 --state fine",
            "pair wait p1 --state normal --update-number 7",
            "pair wait p1 --state normal --timeout 60",
            "volume",
            "volume show",
            "nothing list",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
