//! The verbs that stop copies, let them go on and take them away.

use super::{Change, Here, How, PairChange, nothing, one};
use crate::config::parse_duration;
use crate::volume::designation::{Designation, ImageWish, SvolHosts, Which};
use crate::volume::name::{GroupName, LinkName, PairName};
use clap::Args;
use std::time::Duration;

/// Pairs of a group: all of them, or those of one reader.
#[derive(Clone, Debug, Args)]
pub struct WhichWords {
    /// The group.
    name: GroupName,
    /// Only its pairs with the array behind this link.
    #[arg(long, value_name = "LINK")]
    reader: Option<LinkName>,
    #[command(flatten)]
    /// How.
    how: How,
}

/// One pair.
#[derive(Clone, Debug, Args)]
pub struct PairWords {
    /// Its name.
    name: PairName,
    #[command(flatten)]
    /// How.
    how: How,
}

/// Pairs of a group that are stopped.
#[derive(Clone, Debug, Args)]
pub struct SuspendWords {
    #[command(flatten)]
    /// Which.
    which: WhichWords,
    /// Let hosts write the S-VOLs until differences are copied again; where they do is marked and taken back then.
    #[arg(long)]
    svol_write: bool,
}

/// One pair that is stopped.
#[derive(Clone, Debug, Args)]
pub struct PairSuspendWords {
    #[command(flatten)]
    /// Which.
    pair: PairWords,
    /// Let hosts write the S-VOL until differences are copied again; where they do is marked and taken back then.
    #[arg(long)]
    svol_write: bool,
}

/// A group whose P-VOLs and S-VOLs change places.
#[derive(Clone, Debug, Args)]
pub struct ReverseWords {
    /// The group.
    name: GroupName,
    /// Link to the array that becomes its primary.
    #[arg(long, value_name = "LINK", required_unless_present = "cancel")]
    to: Option<LinkName>,
    /// How long other readers are waited for, while hosts are shut out, before their pairs go to difference maps.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    wait: Duration,
    /// Give it up and let hosts write here again, as long as the other array is not told to take over.
    #[arg(long, conflicts_with = "to")]
    cancel: bool,
    #[command(flatten)]
    /// How.
    how: How,
}

impl ReverseWords {
    pub(super) fn reverse(&self, here: &Here<'_>) -> Change {
        let group = self.name.clone();
        let what = match self.to.clone() {
            Some(to) => Designation::ReverseGroup { group, to, wait: self.wait },
            None => Designation::CancelReversal { group },
        };
        one(here, &self.how, what)
    }
}

fn svol(write: bool) -> SvolHosts {
    if write { SvolHosts::Write } else { SvolHosts::Keep }
}

/// Pairs of a group that are copied again.
#[derive(Clone, Debug, Args)]
pub struct ResyncWords {
    #[command(flatten)]
    /// Which.
    which: WhichWords,
    /// Begin also if the other array has no room to keep the last image of its S-VOLs until the new one is whole.
    #[arg(long)]
    without_image: bool,
}

/// One pair that is copied again.
#[derive(Clone, Debug, Args)]
pub struct PairResyncWords {
    #[command(flatten)]
    /// Which.
    pair: PairWords,
    /// Begin also if the other array has no room to keep the last image of its S-VOL until the new one is whole.
    #[arg(long)]
    without_image: bool,
}

fn image(without: bool) -> ImageWish {
    if without { ImageWish::Without } else { ImageWish::Keep }
}

impl ResyncWords {
    pub(super) fn resync(&self, here: &Here<'_>) -> Change {
        let WhichWords { name, how, .. } = &self.which;
        let image = image(self.without_image);
        let which = self.which.which();
        one(here, how, Designation::ResyncPairs { group: name.clone(), which, image })
    }
}

impl WhichWords {
    fn which(&self) -> Which {
        self.reader.clone().map_or(Which::All, Which::Reader)
    }
}

impl SuspendWords {
    pub(super) fn suspend(&self, here: &Here<'_>) -> Change {
        let WhichWords { name, how, .. } = &self.which;
        let (which, svol) = (self.which.which(), svol(self.svol_write));
        one(here, how, Designation::SuspendPairs { group: name.clone(), which, svol })
    }
}

impl PairChange {
    /// Whether this is the deletion, said once more, of a pair that has gone by it.
    fn was_done(&self, here: &Here<'_>, words: &PairWords) -> bool {
        let done = words.how.id.and_then(|id| here.console.answered(id));
        let is_it = |what: String| {
            what.starts_with("pair delete") && what.ends_with(&Which::Pair(words.name.clone()).to_string())
        };
        matches!(self, Self::Delete(_)) && done.is_some_and(is_it)
    }

    pub(super) fn change_pair(&self, here: &Here<'_>) -> Result<Change, String> {
        let words = match self {
            Self::Suspend(words) => &words.pair,
            Self::Delete(words) => words,
            Self::Resync(words) => &words.pair,
            Self::Create { .. } => return Err("not a change of a pair".to_owned()),
        };
        let pairs = here.console.snapshot().pairs;
        let pair = pairs.iter().find(|pair| pair.name == words.name.as_str());
        if pair.is_none() && self.was_done(here, words) {
            return Ok(nothing(&words.how));
        }
        let pair = pair.ok_or_else(|| format!("there is no pair {}", words.name))?;
        let group: GroupName = pair.group.parse().map_err(|error| format!("{error}"))?;
        let which = Which::Pair(words.name.clone());
        let what = match self {
            Self::Suspend(words) => Designation::SuspendPairs { group, which, svol: svol(words.svol_write) },
            Self::Resync(words) => {
                Designation::ResyncPairs { group, which, image: image(words.without_image) }
            }
            _ => Designation::DeletePairs { group, which },
        };
        Ok(one(here, &words.how, what))
    }
}
