//! Changes that concern links.

use super::words::array_number;
use super::{Change, Here, How, one};
use crate::config::{
    PortalAddress, parse_compression, parse_duration, parse_fetch, parse_limit, parse_read_size,
    parse_read_timing, parse_restore_timing, parse_window,
};
use crate::shell::schedule::ScheduleWords;
use crate::volume::designation::{Designation, LinkSettings, NewLink, RelayRecord};
use crate::volume::name::{ArrayNumber, GroupName, IscsiName, LinkName};
use crate::volume::record::Credential;
use crate::volume::relay::{RelayControl, RelayHosts, RelayJournals, RelayLuns, RelaySide};
use crate::volume::timing::{ReadSize, ReadTiming, RestoreTiming};
use crate::volume::transfer::{CONNECTIONS_MAX, Compression, Fetch, Limit, LinkOptions, Window};
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// What can be changed about links.
#[derive(Clone, Debug, Subcommand)]
pub enum LinkChange {
    /// Make a link, called like the array behind it; the other array needs one back, with the same secret. Or, with
    /// --target, a relay: a link through LUNs of any iSCSI target, over which the journals of one group go.
    Create {
        /// Its name: that of the array behind it; of a relay any that no link has.
        name: LinkName,
        /// Number of the array behind it.
        #[arg(long, value_parser = array_number)]
        array: ArrayNumber,
        /// Where that array serves arrays, or where the relay's target is; several are tried in turn.
        #[arg(long = "portal", required = true, num_args = 1.., value_name = "HOST:PORT")]
        portals: Vec<PortalAddress>,
        /// File with the secret that both arrays know, or with the CHAP secret at the relay's target; - for standard input.
        #[arg(long, value_name = "FILE", required_unless_present = "target")]
        secret_file: Option<PathBuf>,
        #[command(flatten)]
        /// What makes it a relay.
        relay: Box<RelayWords>,
        #[command(flatten)]
        /// How journals travel over it.
        transfer: Box<TransferWords>,
        #[command(flatten)]
        /// When what comes over it is read and restored.
        schedule: ScheduleWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Choose anew how a link is used; the rest stays as it is. It takes effect at once.
    Set {
        /// Its name.
        name: LinkName,
        /// Where the array behind it serves arrays.
        #[arg(long = "portal", num_args = 1.., value_name = "HOST:PORT")]
        portals: Vec<PortalAddress>,
        #[command(flatten)]
        /// How journals travel over it.
        transfer: Box<TransferWords>,
        #[command(flatten)]
        /// When what comes over it is read and restored.
        timing: TimingWords,
        #[command(flatten)]
        /// How.
        how: How,
    },
    /// Delete a link that no group and no pair uses.
    Delete {
        /// Its name.
        name: LinkName,
        #[command(flatten)]
        /// How.
        how: How,
    },
}

/// What is said of a relay.
#[derive(Clone, Debug, Default, Args)]
pub struct RelayWords {
    /// The relay's target; nobody else may use its LUNs.
    #[arg(long, value_name = "IQN", requires_all = ["group", "luns", "side"])]
    target: Option<IscsiName>,
    /// The group whose journals go over it.
    #[arg(long, requires = "target")]
    group: Option<GroupName>,
    /// Its LUNs: for the journal, for what the first array says, for what the second array says, as in 1,2,3.
    #[arg(long, requires = "target", value_name = "LUN,LUN,LUN")]
    luns: Option<RelayLuns>,
    /// What this array is there: first, which writes the journal, or second, which reads it.
    #[arg(long = "as", requires = "target", value_name = "SIDE")]
    side: Option<RelaySide>,
    /// At the first array: hosts wait until their writes are on the relay too, or go-on without that. For how long they wait,
    /// and what happens then, the group's fence says.
    #[arg(long, requires = "target", value_name = "WAIT")]
    hosts: Option<RelayHosts>,
    /// At the first array: all journals go over it, or parts, so that each goes over one of the relays with that word.
    #[arg(long, requires = "target", value_name = "WHICH")]
    journals: Option<RelayJournals>,
    /// What this array says of it goes to its LUN there (relay), or straight to the other array while the link is up (link).
    #[arg(long, requires = "target", value_name = "WAY")]
    control: Option<RelayControl>,
    /// Name that this array proves there by CHAP, with the secret in the file.
    #[arg(long, requires = "target", requires = "secret_file")]
    user: Option<String>,
}

/// How journals travel over a link to this array.
#[derive(Clone, Debug, Args)]
pub struct TransferWords {
    /// Connections for journal reads, 1 to 8.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=i64::from(CONNECTIONS_MAX)))]
    connections: Option<u8>,
    /// What the source does with the data of journals: none, zstd or zstd:LEVEL.
    #[arg(long, value_name = "HOW", value_parser = parse_compression)]
    compression: Option<Compression>,
    /// Journal data in a second at most, as in 10MiB/s; none: as much as there is.
    #[arg(long, value_name = "RATE", value_parser = parse_limit)]
    limit: Option<Limit>,
    /// Other limits by the hour, in UTC, as in "mon-fri 08:00-18:00 5MiB/s"; the first that fits counts; none: no such.
    #[arg(long = "schedule", num_args = 1.., value_name = "[DAYS] HOURS RATE", value_parser = window)]
    windows: Vec<WindowWord>,
    /// By which commands journals are fetched: journal-read, or read of the journal volume.
    #[arg(long, value_name = "HOW", value_parser = parse_fetch)]
    fetch: Option<Fetch>,
}

/// When what comes over a link is read and restored, as far as it is chosen anew.
#[derive(Clone, Copy, Debug, Args)]
pub struct TimingWords {
    /// The next journal read: "immediate", "every 250ms", "fixed 250ms", "periodic 250ms", or "adaptive:" and its inputs.
    #[arg(long, value_name = "WHEN", value_parser = parse_read_timing)]
    read: Option<ReadTiming>,
    /// What one asks for: "group", "adaptive", "256 updates" or a size.
    #[arg(long, value_name = "HOW MUCH", value_parser = parse_read_size)]
    read_size: Option<ReadSize>,
    /// The next restore: "immediate", "every 250ms" or "load".
    #[arg(long, value_name = "WHEN", value_parser = parse_restore_timing)]
    restore: Option<RestoreTiming>,
    /// An update is restored no earlier than this after it was made.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    restore_delay: Option<Duration>,
}

/// A window, or the word that there is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowWord(Option<Window>);

fn window(text: &str) -> Result<WindowWord, String> {
    if text == "none" {
        Ok(WindowWord(None))
    } else {
        parse_window(text).map(|window| WindowWord(Some(window)))
    }
}

impl TransferWords {
    fn settings(&self) -> LinkSettings {
        let windows: Vec<Window> = self.windows.iter().filter_map(|word| word.0).collect();
        LinkSettings {
            connections: self.connections,
            compression: self.compression,
            limit: self.limit,
            windows: (!self.windows.is_empty()).then_some(windows),
            fetch: self.fetch,
            ..LinkSettings::default()
        }
    }
}

impl LinkChange {
    pub(super) fn change(&self, here: &Here<'_>) -> Result<Change, String> {
        Ok(match self {
            Self::Create { name, array, portals, secret_file, relay, transfer, schedule, how } => {
                let secret = secret_file.as_ref().map(|file| here.secret(file)).transpose()?;
                if let RelayWords {
                    target: Some(target),
                    group,
                    luns,
                    side,
                    hosts,
                    journals,
                    control,
                    user,
                } = relay.as_ref()
                {
                    let missing = || "a relay needs --group, --luns and --as".to_owned();
                    let chap = match (user, secret) {
                        (Some(user), Some(secret)) => Some(Credential { user: user.clone(), secret }),
                        (None, None) => None,
                        _ => return Err("CHAP at a relay's target needs --user and --secret-file".into()),
                    };
                    let new = RelayRecord {
                        name: name.clone(),
                        group: group.clone().ok_or_else(missing)?,
                        array: *array,
                        side: side.ok_or_else(missing)?,
                        portals: portals.clone(),
                        target: target.clone(),
                        luns: luns.ok_or_else(missing)?,
                        hosts: hosts.unwrap_or_default(),
                        journals: journals.unwrap_or_default(),
                        control: control.unwrap_or_default(),
                        chap,
                    };
                    return Ok(one(here, how, Designation::CreateRelay(Box::new(new))));
                }
                let new = NewLink {
                    name: name.clone(),
                    array: *array,
                    portals: portals.clone(),
                    secret: secret.ok_or("a link to an array needs --secret-file")?,
                    schedule: schedule.schedule(),
                    options: transfer.settings().options(&LinkOptions::default()),
                };
                one(here, how, Designation::CreateLink(new))
            }
            Self::Set { name, portals, transfer, timing, how } => {
                let settings = LinkSettings {
                    portals: (!portals.is_empty()).then(|| portals.clone()),
                    read: timing.read,
                    read_size: timing.read_size,
                    restore: timing.restore,
                    restore_delay: timing.restore_delay,
                    ..transfer.settings()
                };
                if settings == LinkSettings::default() {
                    return Err("nothing is chosen anew: say what".into());
                }
                one(here, how, Designation::SetLink { link: name.clone(), settings: Box::new(settings) })
            }
            Self::Delete { name, how } => one(here, how, Designation::DeleteLink { link: name.clone() }),
        })
    }
}
