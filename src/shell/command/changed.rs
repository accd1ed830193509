//! How the answer to a change is written.

use super::{Answer, Exit, Response};
use crate::shell::change::Change;
use crate::shell::print;
use crate::shell::view::{MessageView, PositionView};
use crate::volume::effect::{Action, Changed, Effect};
use serde::Serialize;

impl Answer {
    /// What came of a change: a line for each row, or one document.
    pub(super) fn changed(
        &self,
        change: &Change,
        effect: &Effect,
        on_their_way: Vec<MessageView>,
        trouble: Option<String>,
    ) -> Response {
        let is_refused =
            on_their_way.iter().any(|message| message.refusal.is_some() && !message.is_offered_again);
        let exit = if trouble.is_some() || is_refused { Exit::Failed } else { Exit::Done };
        let mut stderr = String::new();
        let note = |stderr: &mut String, text: &str| {
            *stderr += &Response::failed(Exit::Failed, &self.asked, text).stderr;
        };
        if let Some(trouble) = &trouble {
            note(&mut stderr, trouble);
        }
        if effect.changes.iter().any(Changed::is_stop_of_suspension) {
            note(
                &mut stderr,
                "restore stops here at once; the primary cannot be reached, and is told when it can",
            );
        }
        for message in &on_their_way {
            let MessageView { link, what, refusal, is_offered_again } = message;
            match (refusal, is_offered_again) {
                (None, _) => note(&mut stderr, &format!("waits for link {link}: {what}")),
                (Some(why), true) => {
                    note(
                        &mut stderr,
                        &format!("{link} does not accept yet: {what}: {why}; it is offered again"),
                    );
                }
                (Some(why), false) => note(&mut stderr, &format!("{link} refuses: {what}: {why}")),
            }
        }
        let stdout = if self.json {
            let document = ChangeDocument {
                ids: change.orders.iter().map(|(id, _)| id.0.to_string()).collect(),
                is_dry_run: change.dry_run,
                is_repetition: effect.is_repetition,
                numbers: effect.outcomes.iter().map(|outcome| outcome.number()).collect(),
                changes: &effect.changes,
                destroys: &change.destroys,
                says: &change.says,
                on_their_way: &on_their_way,
                left: &change.left,
                others: &change.others,
                trouble,
            };
            print::object(&document, true, 0)
        } else {
            self.sentences(change, effect)
        };
        Response { exit: exit as u8, stdout, stderr, ..Response::default() }
    }

    fn sentences(&self, change: &Change, effect: &Effect) -> String {
        let mut text = String::new();
        let mut say = |line: String| {
            text += &print::escape(&line);
            text.push('\n');
        };
        for changed in &effect.changes {
            let verb = match (changed.action, change.dry_run) {
                (Action::Create, false) => "created",
                (Action::Change, false) => "changed",
                (Action::Delete, false) => "deleted",
                (Action::Create, true) => "would create",
                (Action::Change, true) => "would change",
                (Action::Delete, true) => "would delete",
            };
            say(format!("{verb} {changed}"));
        }
        change.says.iter().for_each(|what| say(what.clone()));
        if change.dry_run {
            change.destroys.iter().for_each(|what| say(format!("would destroy {what}")));
        }
        change.left.iter().for_each(|what| say(format!("left as it is: {what}")));
        match (effect.changes.is_empty(), effect.is_repetition && !change.orders.is_empty()) {
            (true, true) => say("nothing to do: this was done before".to_owned()),
            (true, false) => say("nothing to do".to_owned()),
            (false, _) => {}
        }
        text
    }
}

/// What a change answers with `--json`.
#[derive(Serialize)]
struct ChangeDocument<'a> {
    ids: Vec<String>,
    is_dry_run: bool,
    is_repetition: bool,
    numbers: Vec<Option<u32>>,
    changes: &'a [Changed],
    destroys: &'a [String],
    says: &'a [String],
    on_their_way: &'a [MessageView],
    left: &'a [String],
    others: &'a [PositionView],
    trouble: Option<String>,
}
