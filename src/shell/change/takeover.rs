//! The words of a takeover and of the way back; what they lose is said before it is (promise O6).

use super::{Change, Here, How, one};
use crate::shell::view::{AheadView, GroupView, LossView, TakeoverView};
use crate::volume::designation::Designation;
use crate::volume::name::{GroupName, LinkName, SnapshotName, UpdateNumber};
use crate::volume::takeover::OTHERS_WAIT;
use crate::volume::timing::universal_time;
use clap::Args;

/// A group that is taken over.
#[derive(Clone, Debug, Args)]
pub struct TakeoverWords {
    /// The group.
    name: GroupName,
    /// Lose nothing up to this update: a takeover that finds less here gives up, and its primary, if that was reached, lets hosts write again.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    at_least: Option<u64>,
    #[command(flatten)]
    /// How.
    how: How,
}

/// A group whose former primary copies it, and then becomes its primary again.
#[derive(Clone, Debug, Args)]
pub struct FailbackWords {
    /// The group.
    name: GroupName,
    /// Link to the former primary.
    #[arg(long, value_name = "LINK")]
    to: LinkName,
    /// Keep what only that array has, before it is overwritten there: a snapshot of this name at that array.
    #[arg(long, value_name = "NAME")]
    keep_branch: Option<SnapshotName>,
    #[command(flatten)]
    /// How.
    how: How,
}

impl TakeoverWords {
    pub(super) fn take_over(&self, here: &Here<'_>) -> Result<Change, String> {
        let at_least = self.at_least.map(UpdateNumber);
        let what = Designation::TakeOverGroup { group: self.name.clone(), at_least };
        let groups = here.console.snapshot().groups;
        let group = groups.iter().find(|group| group.name == self.name.as_str());
        let group = group.ok_or_else(|| format!("there is no group {}", self.name))?;
        let (destroys, mut says) = plan(group)?;
        says.extend(self.at_least.and_then(|wanted| least(group, wanted)));
        Ok(Change { destroys, says, ..one(here, &self.how, what) })
    }
}

impl FailbackWords {
    pub(super) fn fail_back(&self, here: &Here<'_>) -> Change {
        let (group, to) = (self.name.clone(), self.to.clone());
        let what = Designation::FailBackGroup { group, to, keep_branch: self.keep_branch.clone() };
        let groups = here.console.snapshot().groups;
        let group = groups.iter().find(|group| group.name == self.name.as_str());
        let change = one(here, &self.how, what);
        let is_meant = |known: &&AheadView| known.link == self.to.as_str();
        if let Some(known) = group.and_then(|group| group.ahead.iter().find(is_meant)) {
            let (destroys, says) = lead_given_up(known);
            return Change { destroys, says, ..change };
        }
        match group.and_then(|group| group.takeover.as_ref().map(|takeover| (group, takeover))) {
            Some((group, takeover)) => {
                let (mut destroys, mut says) = way_back(group, takeover, self.to.as_str());
                if let Some(name) = &self.keep_branch {
                    destroys
                        .iter_mut()
                        .for_each(|lost| *lost += &format!(", in the group; kept as snapshot {name}"));
                    says.push(kept(takeover, name, self.to.as_str()));
                }
                Change { destroys, says, ..change }
            }
            // Nothing is to be copied any more: the roles change.
            None => {
                let reverse = Designation::ReverseGroup {
                    group: self.name.clone(),
                    to: self.to.clone(),
                    wait: OTHERS_WAIT,
                };
                let says = vec![format!("{} is the primary of group {} again", self.to, self.name)];
                Change { destroys: reverse.destroys().into_iter().collect(), says, ..change }
            }
        }
    }
}

/// What a takeover loses, and what it finds; or why there is nothing to take over.
fn plan(group: &GroupView) -> Result<(Vec<String>, Vec<String>), String> {
    match (&group.loss, &group.follows) {
        (Some(_), _) if group.takeover.as_ref().is_some_and(|takeover| !is_moving(takeover)) => {
            Ok((Vec::new(), vec!["it is on its way already".to_owned()]))
        }
        (Some(loss), Some(follows)) => {
            let Some(number) = loss.update_number else {
                let why = loss.reason.clone().unwrap_or_default();
                return Err(format!("there is no one moment that all its S-VOLs are of: {why}"));
            };
            let (mut lost, says) = of_copy(group, loss, &follows.link, number);
            if let Some(TakeoverView { link: Some(other), .. }) = &group.takeover {
                lost.push(format!(
                    "{other} has taken over from {} already: both are primaries of group {} then, without pairs between \
                     them; one of the two has to be paired anew",
                    follows.link, group.name
                ));
            }
            Ok((lost, says))
        }
        _ => Ok(match (&group.takeover, &group.reversal) {
            (Some(TakeoverView { state, link: Some(link), .. }), _)
                if matches!(state.as_str(), "fenced" | "overtaken") =>
            {
                let lost = format!(
                    "nothing here; but {link} may be written by hosts: then both are primaries of group {}, until \
                     `group failback` at one of them names the other",
                    group.name
                );
                (vec![lost], vec!["this array goes on as the primary, in a new generation".to_owned()])
            }
            (None, Some(step)) => {
                let lost = format!(
                    "the reversal of group {} ({step}): should the other array have taken over, both are primaries",
                    group.name
                );
                (vec![lost], vec!["this array goes on as the primary, in a new generation".to_owned()])
            }
            _ => (Vec::new(), vec!["this array is the primary, or becomes it".to_owned()]),
        }),
    }
}

/// What becomes of a takeover that may lose nothing up to an update.
fn least(group: &GroupView, wanted: u64) -> Option<String> {
    let loss = group.loss.as_ref()?;
    let here = match loss.is_image || loss.held_back_updates > 0 {
        true => loss.update_number?,
        false => loss.received_update_number,
    };
    Some(match here >= wanted {
        true => format!("nothing up to update {wanted} is lost"),
        false => format!(
            "it gives up, and nothing is changed, unless what is between update {here} and {wanted} still comes"
        ),
    })
}

/// Whether the array was told to go on from another one.
fn is_moving(takeover: &TakeoverView) -> bool {
    matches!(takeover.state.as_str(), "moving" | "ahead")
}

/// What the primary has said it has, and is not here.
fn unread(loss: &LossView, link: &str) -> String {
    let age = loss.oldest_unread_ms.map_or_else(String::new, |ms| {
        format!(", the oldest of them made {}.{} s ago", ms / 1000, ms % 1000 / 100)
    });
    let (updates, bytes) = (loss.unread_updates, loss.unread_bytes);
    format!(
        "{updates} updates ({bytes} bytes) that {link} has said it has and this array has not{age}, unless it answers"
    )
}

fn of_copy(group: &GroupView, loss: &LossView, link: &str, number: u64) -> (Vec<String>, Vec<String>) {
    let (mut lost, mut says) = (Vec::new(), Vec::new());
    let received = loss.received_update_number;
    says.push(match (loss.is_image, loss.held_back_updates) {
        (true, _) => format!("the S-VOLs go back to their kept image, as of update {number}"),
        (false, 0) => format!(
            "the S-VOLs are the image of update {number}; everything that is here is restored first, up to update {}",
            received.max(number)
        ),
        (false, _) => format!("the S-VOLs stay the image of update {number}, where restore was stopped"),
    });
    let below: Vec<&str> = group.readers.iter().map(|reader| reader.link.as_str()).collect();
    if !below.is_empty() {
        says.push(format!("{} read the group from here already, and go on doing so", below.join(", ")));
    }
    if loss.keeps_svol_writes {
        says.push("what hosts have written into the S-VOLs stays".to_owned());
    }
    if let Some(ms) = loss.one_unit_wait_ms {
        says.push(format!(
            "hosts see one unit at both arrays and go over by themselves; if {link} does not answer they are let in {ms} ms later, when \
             it answers them no more, unless an operator has let it go on alone"
        ));
    }
    if loss.dropped_svols > 0 {
        lost.push(format!(
            "what hosts have written into {} of the S-VOLs, up to {} bytes: not all S-VOLs were open to them, so none of it \
             is of one moment",
            loss.dropped_svols, loss.dropped_bytes
        ));
    }
    if loss.held_back_updates > 0 {
        lost.push(format!(
            "{} updates that are here, {} to {received}",
            loss.held_back_updates,
            number.saturating_add(1)
        ));
    }
    if loss.unread_updates > 0 {
        lost.push(unread(loss, link));
    }
    if loss.stopped_pairs > 0 {
        lost.push(format!(
            "whatever {link} was written for the {} stopped pairs since they were stopped: it is kept from this array, and \
             not fetched, also if {link} answers",
            loss.stopped_pairs
        ));
    }
    let heard = loss.heard_unix_ms.map_or_else(
        || "since this array was started".to_owned(),
        |ms| format!("since {} by its own clock, when it was heard of last", universal_time(ms)),
    );
    lost.push(format!(
        "whatever {link} was written {heard}, unless it answers: then it is shut, and read first"
    ));
    if loss.is_primary_reached {
        says.push(format!(
            "the link to {link} is up: `group reverse {} --to` this array, said there, loses nothing",
            group.name
        ));
    }
    says.extend(others_of(loss, link));
    says.push(match loss.copy_back_bytes {
        0 => format!("afterwards only differences have to be copied to {link}, when an operator says so"),
        bytes => format!("afterwards {bytes} bytes and what hosts change have to be copied to {link}"),
    });
    (lost, says)
}

/// How other readers of the primary would go on.
fn others_of(loss: &LossView, link: &str) -> Option<String> {
    let (has, from) = (loss.others_have_update_number?, loss.journal_from_update_number?);
    if let Some(reached) = loss.others_reach_update_number.filter(|reached| *reached < has) {
        return Some(format!(
            "pairs of other readers of {link} are stopped, or being copied: what was changed behind update {reached} is copied to \
             those, as far as it is known here; the others have everything up to update {has}, as it said last"
        ));
    }
    Some(if has >= loss.received_update_number {
        format!("other readers of {link} lack nothing that is here, as it said last: they go on from here")
    } else if has.saturating_add(1) >= from {
        format!(
            "other readers of {link} have everything up to update {has}, as it said last: the journal here begins with \
             {from}, and they read on from it"
        )
    } else {
        format!(
            "other readers of {link} have only what is up to update {has}, as it said last: the journal here begins with \
             {from}, so differences or all of it are copied to them"
        )
    })
}

/// What a reader of the former primary loses that has more of it than this array had.
fn lead_given_up(known: &AheadView) -> (Vec<String>, Vec<String>) {
    let AheadView { link, updates, update_number, .. } = known;
    let lost = format!("{updates} updates that only {link} has, up to {update_number}");
    (
        vec![lost],
        vec![format!(
            "{link} goes on from here: all of it is copied; it keeps an image until that has ended"
        )],
    )
}

/// What is kept of it there, and what that costs.
fn kept(takeover: &TakeoverView, name: &SnapshotName, to: &str) -> String {
    let from = takeover.branch_first_update_number.unwrap_or(0);
    format!(
        "{to} keeps its volumes as they are as snapshot {name}, before the first byte is overwritten: it differs from update \
         {from} on. It takes no room at first, and as much as is copied to {to} as long as it is kept; `snapshot delete {name}` \
         there drops it"
    )
}

/// What is lost at the array that becomes a copy, and what is copied to it.
fn way_back(group: &GroupView, takeover: &TakeoverView, to: &str) -> (Vec<String>, Vec<String>) {
    let own: u64 = group.readers.iter().map(|reader| reader.in_difference_maps.bytes).sum();
    let (updates, bytes) = (takeover.branch_updates.unwrap_or(0), takeover.branch_bytes.unwrap_or(0));
    let first = takeover.branch_first_update_number.unwrap_or(0);
    let says = vec![
        format!("{to} becomes a copy: up to {own} bytes changed here and {bytes} there are copied"),
        format!("then `group failback {} --to {to}` once more makes it the primary again", group.name),
    ];
    let lost = match (updates, takeover.branch_updates) {
        (_, None) => vec![format!("what only {to} has: it has not said yet how much that is")],
        // Both are primaries: what was counted when they met says nothing of what hosts have written there since.
        (0, _) if takeover.state == "split-brain" => {
            vec![format!("what hosts have written at {to}, which is a primary as well")]
        }
        (0, _) => Vec::new(),
        _ => {
            let more =
                if takeover.state == "split-brain" { ", and what its hosts have written since" } else { "" };
            vec![format!(
                "{updates} updates that only {to} has, from {first} on, in up to {bytes} bytes{more}"
            )]
        }
    };
    (lost, says)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::view::FollowView;

    fn copy(loss: LossView) -> GroupView {
        let follows = FollowView { link: "alpha".into(), ..FollowView::default() };
        GroupView { name: "g1".into(), loss: Some(loss), follows: Some(follows), ..GroupView::default() }
    }

    fn lost(loss: LossView) -> String {
        plan(&copy(LossView { update_number: Some(40), ..loss })).unwrap().0.join("\n")
    }

    #[test]
    fn a_takeover_says_each_thing_that_it_loses() {
        let nothing = lost(LossView::default());
        assert!(!nothing.contains("S-VOLs") && !nothing.contains("stopped pairs"), "{nothing}");
        let dropped =
            lost(LossView { is_image: true, dropped_svols: 2, dropped_bytes: 65_536, ..LossView::default() });
        assert!(dropped.contains("into 2 of the S-VOLs, up to 65536 bytes"), "{dropped}");
        let stopped = lost(LossView { stopped_pairs: 3, ..LossView::default() });
        assert!(
            stopped.contains("the 3 stopped pairs") && stopped.contains("also if alpha answers"),
            "{stopped}"
        );
        let held = lost(LossView { held_back_updates: 7, received_update_number: 47, ..LossView::default() });
        assert!(held.contains("7 updates that are here, 41 to 47"), "{held}");
    }

    /// What was counted when the two met says nothing of what hosts have written at the loser since.
    #[test]
    fn in_a_split_brain_something_is_lost_whatever_was_counted() {
        let way = |state: &str, branch_updates| {
            let takeover = TakeoverView { state: state.into(), branch_updates, ..TakeoverView::default() };
            way_back(&GroupView::default(), &takeover, "alpha").0
        };
        assert_eq!(way("taken", Some(0)), Vec::<String>::new(), "nothing that has to be said twice");
        for known in [None, Some(0), Some(3)] {
            assert_eq!(way("split-brain", known).len(), 1, "{known:?}");
        }
        assert!(way("split-brain", Some(3))[0].contains("written since"));
    }
}
