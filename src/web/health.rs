//! Whether the array is well, for monitors.

use crate::shell::view::Snapshot;
use serde::Serialize;

/// How the array is, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Health {
    /// `normal`; `degraded`: everything is served, something needs attention; `failed`: something is not served.
    pub status: &'static str,
    /// What is not as it should be, one line each; at most [`REASONS_MAX`].
    pub reasons: Vec<String>,
}

impl Health {
    /// Whether everything is served.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.status != FAILED
    }

    /// One JSON document.
    #[must_use]
    pub fn document(&self) -> String {
        crate::shell::document(self)
    }
}

/// The health of a picture of the array.
#[must_use]
pub fn of(now: &Snapshot) -> Health {
    let mut status = "normal";
    let mut reasons = Vec::new();
    let mut note = |what: &str, name: &str, state: &str, reason: Option<&String>, worst: &'static str| {
        if status != FAILED {
            status = worst;
        }
        let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
        reasons.push(format!("{what} {name} is {state}{why}"));
    };
    for group in now.parity_groups.iter().filter(|group| group.state != "normal") {
        let worst = if group.state == "failed" { FAILED } else { DEGRADED };
        note("parity group", &group.name, &group.state, group.reason.as_ref(), worst);
    }
    for volume in now.volumes.iter().filter(|volume| volume.state == "abnormal") {
        note("volume", &volume.name, &volume.state, volume.reason.as_ref(), FAILED);
    }
    for group in now.groups.iter().filter(|group| group.state == "abnormal" || group.state == "suspended") {
        note("group", &group.name, &group.state, group.reason.as_ref(), DEGRADED);
    }
    for (group, takeover) in now.groups.iter().filter_map(|group| Some((group, group.takeover.as_ref()?))) {
        if takeover.state != "taken" || takeover.branch_updates != Some(0) {
            let other = takeover.link.as_deref().map(|link| format!("with {link}"));
            note("takeover of group", &group.name, &takeover.state, other.as_ref(), DEGRADED);
        }
    }
    for (group, rival) in now.groups.iter().flat_map(|group| group.rivals.iter().map(move |one| (group, one)))
    {
        let state = format!("not the only one: {} has a primary too", rival.link);
        let why = format!("from update {} on they are different", rival.first_update_number);
        note("group", &group.name, &state, Some(&why), DEGRADED);
    }
    for pair in now.pairs.iter().filter(|pair| pair.state == "abnormal" || pair.state == "suspended") {
        note("pair", &pair.name, &pair.state, pair.reason.as_ref(), DEGRADED);
    }
    for link in now.links.iter().filter(|link| link.state == "down") {
        note("link", &link.name, &link.state, link.reason.as_ref(), DEGRADED);
    }
    reasons.truncate(REASONS_MAX);
    Health { status, reasons }
}

const DEGRADED: &str = "degraded";
const FAILED: &str = "failed";
/// Further reasons are left out.
pub const REASONS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::view::{LinkView, VolumeView};

    #[test]
    fn what_is_not_served_is_worse_than_what_needs_attention() {
        let mut now = Snapshot::default();
        assert_eq!(of(&now), Health { status: "normal", reasons: Vec::new() });
        now.links.push(LinkView { name: "beta".into(), state: "down".into(), ..LinkView::default() });
        assert_eq!(of(&now).status, "degraded");
        assert!(of(&now).is_serving());
        let volume = VolumeView { name: "d".into(), state: "abnormal".into(), ..VolumeView::default() };
        now.volumes.push(volume);
        let health = of(&now);
        assert!(!health.is_serving());
        assert_eq!(health.reasons, ["volume d is abnormal", "link beta is down"]);
        now.links = vec![now.links[0].clone(); 1_000];
        assert_eq!(of(&now).reasons.len(), REASONS_MAX);
    }
}
