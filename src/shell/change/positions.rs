//! The words of what other arrays have of a group that may be taken over (promises O4, O6): where most is, and what is lost by
//! taking it over here all the same.

use super::Change;
use crate::shell::view::PositionView;
use crate::volume::timing::universal_time;

/// Says in a takeover what the other arrays have; what is more than here would be lost by it.
pub(in crate::shell) fn hold_against(change: &mut Change) {
    let others = std::mem::take(&mut change.others);
    let (lost, says) = judged(&others);
    change.destroys.extend(lost);
    change.says.extend(says);
    change.others = others;
}

fn judged(others: &[PositionView]) -> (Vec<String>, Vec<String>) {
    let (mut lost, mut says) = (Vec::new(), Vec::new());
    for other in others.iter().filter(|other| other.standing != "foreign") {
        match other.standing.as_str() {
            "more" | "branch" | "primary" => lost.push(leads(other)),
            _ => says.push(stands(other)),
        }
    }
    let most = others.iter().filter(|other| other.standing == "more");
    let most = most.max_by_key(|other| other.updates);
    let is_known = others.iter().all(|other| other.standing != "unreached");
    let is_compared = others.iter().any(|other| matches!(other.standing.as_str(), "same" | "fewer"));
    match most {
        Some(most) => says.push(format!(
            "{} has most, up to update {}: take it over there",
            most.link,
            most.takeover_update_number.unwrap_or(0)
        )),
        None if lost.is_empty() && is_known && is_compared => {
            says.push("no other copy has more: this is the array to take it over at".to_owned());
        }
        None if lost.is_empty() && is_compared => {
            says.push("no other copy that answers has more".to_owned());
        }
        None => {}
    }
    (lost, says)
}

/// What another array has and this one has not.
fn leads(other: &PositionView) -> String {
    let PositionView { link, .. } = other;
    match other.standing.as_str() {
        "primary" => {
            let state = other.takeover.as_ref().map_or_else(String::new, |state| format!(" ({state})"));
            format!("nothing here; but {link} is a primary of the group too{state}: then both are")
        }
        "branch" => format!(
            "what {link} has that went its own way, up to update {}: each has updates that the other one has not",
            other.takeover_update_number.unwrap_or(0)
        ),
        _ => {
            let bytes = other.bytes.map_or_else(String::new, |bytes| format!(" ({bytes} bytes)"));
            let later = other.heard_later_ms.filter(|ms| *ms > 0);
            let later = later.map_or_else(String::new, |ms| {
                #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
                let seconds = ms as f64 / 1_000.0;
                format!(", which heard of the primary {seconds:.1} s longer")
            });
            format!(
                "{} updates{bytes} that {link} has and this array has not{later}",
                other.updates.unwrap_or(0)
            )
        }
    }
}

/// Where another array is that has nothing that would be lost.
fn stands(other: &PositionView) -> String {
    let PositionView { link, .. } = other;
    let from = other.copies_from.map_or_else(String::new, |from| format!(", a copy of array {from}"));
    let heard = other.heard_unix_ms.map_or_else(String::new, |ms| {
        format!("; it heard of its source until {} by that one's clock", universal_time(ms))
    });
    let number = other.takeover_update_number.unwrap_or(0);
    let reason = || other.reason.clone().unwrap_or_default();
    match other.standing.as_str() {
        "same" => format!("{link}{from} has the same, up to update {number}{heard}"),
        "fewer" => {
            format!("{link}{from} has {} updates fewer, up to {number}{heard}", other.updates.unwrap_or(0))
        }
        "no-image" => format!("{link}{from} has no one moment to go on from: {}", reason()),
        _ => format!("{link} is not reached, and may have more if it is a copy: {}", reason()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(link: &str, standing: &str, updates: u64) -> PositionView {
        PositionView {
            link: link.into(),
            standing: standing.into(),
            updates: Some(updates),
            takeover_update_number: Some(100),
            ..PositionView::default()
        }
    }

    #[test]
    fn what_another_copy_has_more_is_lost_and_where_most_is_is_said() {
        let (lost, says) = judged(&[
            PositionView { bytes: Some(8_192), heard_later_ms: Some(2_140), ..other("gamma", "more", 2) },
            PositionView { takeover_update_number: Some(110), ..other("delta", "more", 12) },
            other("eta", "fewer", 3),
        ]);
        assert_eq!(
            lost,
            [
                "2 updates (8192 bytes) that gamma has and this array has not, which heard of the primary 2.1 s longer",
                "12 updates that delta has and this array has not"
            ]
        );
        assert_eq!(
            says,
            ["eta has 3 updates fewer, up to 100", "delta has most, up to update 110: take it over there"]
        );
    }

    #[test]
    fn an_array_is_called_the_right_one_only_if_all_the_others_are_known_to_have_no_more() {
        let chosen =
            |others: &[PositionView]| judged(others).1.join("; ").contains("the array to take it over at");
        let (same, fewer, away) = (other("b", "same", 0), other("c", "fewer", 1), other("d", "unreached", 0));
        assert!(chosen(&[same.clone(), fewer.clone()]));
        assert!(!chosen(&[same.clone(), away.clone()]), "{:?}", judged(&[same, away.clone()]));
        assert!(!chosen(&[fewer, other("e", "branch", 0)]));
        assert!(!chosen(&[]), "where there is only one copy nothing is said");
        assert!(judged(&[away]).1[0].contains("may have more"));
        let (lost, says) = judged(&[other("f", "foreign", 0)]);
        assert!(lost.is_empty() && says.is_empty());
        let (lost, _) =
            judged(&[PositionView { takeover: Some("taken".into()), ..other("g", "primary", 0) }]);
        assert!(lost[0].contains("g is a primary of the group too (taken)"), "{lost:?}");
    }
}
