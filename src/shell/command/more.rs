//! Commands that are more than a look at one picture: events as they happen, links that are tried, a text that is checked.

use super::{Answer, Exit, LOOK_AGAIN, Response, Shell};
use crate::config::Config;
use crate::shell::change::Here;
use crate::shell::print;
use std::path::Path;

impl Shell {
    /// One piece of what follows; the words for the next one go with it. Nothing is kept here between two pieces, so a
    /// reader that is slow, or gone, costs nothing.
    pub(super) async fn follow_events(&self, to: &Answer, after: Option<u64>) -> Response {
        let newest = || self.console.events(0, 1).first().map_or(0, |event| event.number);
        let mut after = after.unwrap_or_else(newest);
        tokio::select! {
            biased;
            () = self.console.event_behind(after) => {}
            () = self.clock.sleep(LOOK_AGAIN) => {}
        }
        let events = self.console.events(after, EVENTS_AT_A_TIME);
        let mut stderr = String::new();
        if let Some(missed) =
            events.first().map(|event| event.number - after - 1).filter(|missed| *missed > 0)
        {
            stderr =
                format!("{}: {missed} events came faster than they were read\n", print::escape(&to.asked));
        }
        after = events.last().map_or(after, |event| event.number);
        let mut again: Vec<String> = ["event", "follow", "--after"].map(str::to_owned).to_vec();
        again.push(after.to_string());
        if to.json {
            again.push("--json".to_owned());
        }
        let stdout = events.iter().map(|event| print::event_line(event, to.json)).collect();
        Response { stdout, stderr, again, ..Response::default() }
    }

    pub(super) async fn test_link(&self, to: &Answer, name: &str) -> Response {
        let view = match self.console.try_link(name).await {
            Ok(view) => view,
            Err(why) => return to.fail(Exit::Failed, &why),
        };
        let failed = view.portals.iter().find_map(|portal| portal.reason.clone());
        let back = || match &view.back {
            Some(back) => back.reason.as_ref().map(|reason| format!("the way back: {reason}")),
            None => Some("the way back was not tried".to_owned()),
        };
        let answer = to.object(&view);
        match failed.or_else(back) {
            Some(why) => Response { stdout: answer.stdout, ..to.fail(Exit::Failed, &why) },
            None => answer,
        }
    }
}

impl Answer {
    pub(super) fn checked_input(&self, here: &Here<'_>) -> Response {
        let text = match here.input() {
            Ok(text) => text,
            Err(why) => return self.fail(Exit::Failed, &why),
        };
        let checked = Config::parse_from(Path::new("-"), text, here.references());
        let mistakes = match checked {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(|mistake| print::escape(&mistake.to_string())).collect(),
        };
        self.mistakes("-", &mistakes)
    }
}

/// Events in one piece of what follows; more are missed, and counted.
const EVENTS_AT_A_TIME: usize = 1_024;
