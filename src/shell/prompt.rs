//! The interactive prompt: keys in, screen and commands out. One for SSH and for `holdfast shell`.
//!
//! # How it is driven
//! It does no I/O. The driver passes bytes to [`Prompt::input`] and then calls [`Prompt::next`] until that has nothing
//! more to do: it writes what was appended to `out`, and when it got [`Step::Ask`] it runs that command and passes the
//! answer to [`Prompt::answer`] before it goes on. What is typed meanwhile waits, up to [`TYPE_AHEAD_MAX_BYTES`].

use super::command::{Exit, Request, Response};
use super::complete::{self, Candidates};
use super::edit::{CTRL_C, Editor, Event};
use super::parse::words;
use super::print;
use std::collections::VecDeque;

/// What the driver has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Run this and pass the answer back.
    Ask(Request),
    /// The operator has left; this is the exit code of the last command.
    End(u8),
}

/// A prompt on a terminal.
#[derive(Debug)]
pub struct Prompt {
    editor: Editor,
    columns: u16,
    waiting: VecDeque<u8>,
    asking: Asking,
    /// A command that destroys something, until the operator has said yes or not.
    unconfirmed: Option<Request>,
    is_drawn: bool,
    last: u8,
}

/// What the answer that is due is for.
#[derive(Debug)]
enum Asking {
    Nothing,
    Command(Request),
    Names(Candidates),
}

impl Prompt {
    /// A prompt with the array's name. A short greeting is shown first.
    #[must_use]
    pub fn new(array: &str, columns: u16, out: &mut Vec<u8>) -> Self {
        let mut editor = Editor::new(&format!("{array}> "));
        editor.set_columns(columns);
        show(out, &format!("Holdfast array {array}. Tab completes, help explains, quit leaves.\n"));
        Self {
            editor,
            columns,
            waiting: VecDeque::new(),
            asking: Asking::Nothing,
            unconfirmed: None,
            is_drawn: false,
            last: Exit::Done as u8,
        }
    }

    /// The window has another width now.
    pub fn resize(&mut self, columns: u16, out: &mut Vec<u8>) {
        self.columns = columns;
        self.editor.set_columns(columns);
        if self.is_drawn {
            self.editor.draw(out);
        }
    }

    /// Takes what was typed. What is more than the limit is lost, as on any terminal.
    pub fn input(&mut self, bytes: &[u8]) {
        let room = TYPE_AHEAD_MAX_BYTES.saturating_sub(self.waiting.len());
        self.waiting.extend(bytes.iter().take(room));
    }

    /// Works on what was typed until the driver has something to do, or nothing is left.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        if !matches!(self.asking, Asking::Nothing) {
            return None;
        }
        if !self.is_drawn {
            self.editor.draw(out);
            self.is_drawn = true;
        }
        while let Some(byte) = self.waiting.pop_front() {
            let step = match self.editor.input(byte, out) {
                Some(Event::Line(line)) => self.line(&line, out),
                Some(Event::Complete) => self.complete(out),
                Some(Event::Interrupt) => {
                    self.unconfirmed = None;
                    self.editor.draw(out);
                    None
                }
                Some(Event::End) => Some(Step::End(self.last)),
                None => None,
            };
            if step.is_some() {
                return step;
            }
        }
        None
    }

    /// The answer to what was asked.
    pub fn answer(&mut self, response: &Response, out: &mut Vec<u8>) {
        match std::mem::replace(&mut self.asking, Asking::Nothing) {
            Asking::Nothing => {}
            Asking::Command(request) if !response.destroys.is_empty() => {
                self.last = response.exit;
                for what in &response.destroys {
                    show(out, &format!("this destroys {what}\n"));
                }
                show(out, "type yes and Enter to go on, anything else to leave it:\n");
                self.unconfirmed = Some(request);
                self.is_drawn = false;
                // What was typed before the question was seen is no answer to it.
                self.waiting.clear();
            }
            Asking::Command(_) => {
                self.last = response.exit;
                show(out, &response.stdout);
                show(out, &response.stderr);
                self.is_drawn = false;
            }
            Asking::Names(mut candidates) => {
                candidates.words.extend(complete::names(&response.stdout, &candidates.typed));
                self.offer(&candidates, out);
            }
        }
    }

    /// The command was given up, with Ctrl-C. What was typed behind it goes with it.
    pub fn interrupted(&mut self, out: &mut Vec<u8>) {
        self.asking = Asking::Nothing;
        self.waiting.clear();
        self.last = Exit::Failed as u8;
        out.extend_from_slice(b"^C\r\n");
        self.is_drawn = false;
    }

    fn line(&mut self, line: &str, out: &mut Vec<u8>) -> Option<Step> {
        if let Some(mut request) = self.unconfirmed.take() {
            if line.trim() != "yes" {
                show(out, "left as it is\n");
                self.editor.draw(out);
                return None;
            }
            let end_of_options = request.argv.iter().position(|word| word == "--");
            request.argv.insert(end_of_options.unwrap_or(request.argv.len()), "--yes".into());
            return Some(self.ask(request));
        }
        let argv = match words(line) {
            Ok(argv) => argv,
            Err(why) => {
                self.last = Exit::Usage as u8;
                show(out, &format!("{}: {why}\n", print::escape(line)));
                self.editor.draw(out);
                return None;
            }
        };
        match argv.as_slice() {
            [] => {
                self.editor.draw(out);
                None
            }
            [word] if is_farewell(word) => Some(Step::End(self.last)),
            _ => {
                let columns = if self.columns == 0 { 80 } else { self.columns };
                Some(self.ask(Request { argv, columns, ..Request::default() }))
            }
        }
    }

    fn ask(&mut self, request: Request) -> Step {
        self.asking = Asking::Command(request.clone());
        Step::Ask(request)
    }

    fn complete(&mut self, out: &mut Vec<u8>) -> Option<Step> {
        let candidates = complete::candidates(&self.editor.before_cursor());
        let Some(noun) = candidates.noun.clone() else {
            self.offer(&candidates, out);
            return None;
        };
        self.asking = Asking::Names(candidates);
        Some(Step::Ask(Request { argv: vec![noun, "list".into()], json: true, ..Request::default() }))
    }

    /// Puts in what is certain; shows the choice when there is one.
    fn offer(&mut self, candidates: &Candidates, out: &mut Vec<u8>) {
        let typed = candidates.typed.as_str();
        let more = complete::common(&candidates.words).strip_prefix(typed).unwrap_or_default().to_owned();
        match candidates.words.as_slice() {
            [] => out.push(BELL),
            [_] => self.editor.insert(&(more + " "), out),
            _ if !more.is_empty() => self.editor.insert(&more, out),
            all => {
                show(out, "\n");
                show(out, &columns_of(all, self.columns));
                self.editor.draw(out);
            }
        }
    }
}

/// Whether a command is running and these keys end it.
#[must_use]
pub fn interrupts(bytes: &[u8]) -> bool {
    bytes.contains(&CTRL_C)
}

/// Whether this word leaves the shell.
#[must_use]
pub fn is_farewell(word: &str) -> bool {
    word == "quit" || word == "exit"
}

/// Text as a terminal in raw mode needs it, with nothing in it that steers the terminal.
pub(super) fn show(out: &mut Vec<u8>, text: &str) {
    for line in text.split_inclusive('\n') {
        let body = line.strip_suffix('\n');
        out.extend_from_slice(print::escape(body.unwrap_or(line)).as_bytes());
        if body.is_some() {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Words side by side, as many as fit; a long choice is cut short.
fn columns_of(words: &[String], columns: u16) -> String {
    let cell = words.iter().map(|word| word.chars().count()).max().unwrap_or(0) + 2;
    let row = (usize::from(if columns == 0 { 80 } else { columns }) / cell).max(1);
    let mut text = String::new();
    for words in words[..words.len().min(CHOICE_MAX)].chunks(row) {
        let line: String = words.iter().map(|word| format!("{word:cell$}")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if words.len() > CHOICE_MAX {
        text.push_str(&format!("and {} more\n", words.len() - CHOICE_MAX));
    }
    text
}

/// What is typed while a command runs, at most; the rest is lost.
pub const TYPE_AHEAD_MAX_BYTES: usize = 64 << 10;
/// A longer choice is cut short.
const CHOICE_MAX: usize = 200;
const BELL: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    /// A prompt whose array knows two volumes; returns the screen, the commands that ran, and how it ended.
    fn session(keys: &str) -> (String, Vec<String>, Option<u8>) {
        let mut out = Vec::new();
        let mut prompt = Prompt::new("alpha", 80, &mut out);
        let mut ran = Vec::new();
        prompt.input(keys.as_bytes());
        let mut end = None;
        while let Some(step) = prompt.next(&mut out) {
            match step {
                Step::Ask(request) => {
                    let response = if request.json {
                        Response::done(r#"[{"name":"data1"},{"name":"data2"}]"#.into())
                    } else {
                        ran.push(request.argv.join(" "));
                        let (stdout, stderr) = ("one\ntwo\n".into(), "why\u{1b}[2J\n".into());
                        Response { exit: 1, stdout, stderr, ..Response::default() }
                    };
                    prompt.answer(&response, &mut out);
                }
                Step::End(exit) => {
                    end = Some(exit);
                    break;
                }
            }
        }
        (String::from_utf8(out).unwrap(), ran, end)
    }

    #[test]
    fn commands_run_and_quit_leaves_with_the_last_exit_code() {
        let (screen, ran, end) = session("volume list\rquit\rpair list\r");
        assert_eq!(ran, ["volume list"]);
        assert_eq!(end, Some(1));
        assert!(screen.contains("alpha> "));
        assert!(screen.contains("one\r\ntwo\r\n"));
        assert!(
            screen.contains("why\\u{1b}[2J"),
            "what answers hold does not steer the terminal: {screen:?}"
        );
        assert_eq!(session("\x04").2, Some(0));
    }

    #[test]
    fn tab_completes_words_and_names_and_shows_the_choice() {
        assert_eq!(session("vol\tsh\td\t1\r").1, ["volume show data1"]);
        let (screen, ran, _) = session("volume show \t\t2\r");
        assert_eq!(ran, ["volume show data2"]);
        assert!(screen.contains("data1  data2"), "{screen:?}");
        assert_eq!(session("nothing\t\r").1, ["nothing"]);
    }

    #[test]
    fn what_destroys_is_asked_for_and_only_yes_goes_on() {
        let run = |answer: &str| {
            let mut out = Vec::new();
            let mut prompt = Prompt::new("alpha", 80, &mut out);
            let destroys = Response { exit: 1, destroys: vec!["data1".into()], ..Response::default() };
            prompt.input(b"volume delete data1 -- x\ryes\r");
            assert!(matches!(prompt.next(&mut out), Some(Step::Ask(_))));
            prompt.answer(&destroys, &mut out);
            assert_eq!(prompt.next(&mut out), None, "what was typed ahead is no answer");
            prompt.input(answer.as_bytes());
            prompt.next(&mut out)
        };
        let Some(Step::Ask(request)) = run("yes\r") else { panic!("not asked") };
        assert_eq!(request.argv.join(" "), "volume delete data1 --yes -- x");
        for answer in ["y\r", "\r", "\x03yes"] {
            assert_eq!(run(answer), None);
        }
    }

    #[test]
    fn blank_lines_and_open_quotes_run_nothing() {
        let (screen, ran, end) = session("\r  \r'open\rexit\r");
        assert!(ran.is_empty());
        assert_eq!(end, Some(Exit::Usage as u8));
        assert!(screen.contains("is not closed"));
    }

    #[test]
    fn type_ahead_has_a_limit_and_an_interrupt_throws_it_away() {
        let mut out = Vec::new();
        let mut prompt = Prompt::new("alpha", 80, &mut out);
        prompt.input(b"pair list\r");
        assert!(matches!(prompt.next(&mut out), Some(Step::Ask(_))));
        prompt.input(&vec![b'x'; TYPE_AHEAD_MAX_BYTES + 1]);
        assert_eq!(prompt.waiting.len(), TYPE_AHEAD_MAX_BYTES);
        assert_eq!(prompt.next(&mut out), None, "an answer is due");
        prompt.interrupted(&mut out);
        assert_eq!(prompt.next(&mut out), None);
        assert!(prompt.waiting.is_empty());
    }
}
