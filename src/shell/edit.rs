//! The line editor: bytes from a terminal in, bytes for the terminal and finished lines out.
//!
//! # What it guarantees
//! It does no I/O and knows no clock: the same bytes always give the same screen. Whatever bytes come in, it does not
//! panic, holds at most [`LINE_MAX_BYTES`] of a line and [`HISTORY_MAX`] lines of history, and lets no control
//! character into a line or back onto the screen. History lives in memory only and ends with the session: a line may
//! hold a secret.
//!
//! # How it is shown
//! One row: what does not fit is scrolled sideways, so that a changed window never leaves old rows behind.

use super::print::is_unsafe;
use std::collections::VecDeque;
use unicode_width::UnicodeWidthChar;

/// What came of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A line was finished.
    Line(String),
    /// The operator wants the word before the cursor completed.
    Complete,
    /// Ctrl-C: the line was thrown away.
    Interrupt,
    /// Ctrl-D on an empty line.
    End,
}

/// One line being edited, and the lines before it.
#[derive(Debug)]
pub struct Editor {
    prompt: String,
    columns: u16,
    line: Vec<char>,
    /// Place in `line`, in characters.
    at: usize,
    /// First character shown.
    left: usize,
    history: VecDeque<String>,
    /// Which line of the history is shown; its length when it is the new one.
    shown: usize,
    /// The new line while one of the history is shown.
    kept: Vec<char>,
    /// What Ctrl-K, Ctrl-U and Ctrl-W took away last.
    cut: Vec<char>,
    search: Option<Search>,
    keys: Keys,
    /// The last byte was a carriage return: a line feed right behind it belongs to it.
    after_return: bool,
}

/// A search backwards through the history.
#[derive(Debug, Default)]
struct Search {
    pattern: String,
    found: Option<usize>,
}

/// Bytes of a key that is not complete yet.
#[derive(Debug, Default)]
struct Keys {
    escape: Vec<u8>,
    utf8: Vec<u8>,
    pasting: bool,
}

impl Editor {
    /// An empty line behind `prompt`, which must not hold control characters.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: prompt.chars().filter(|c| !is_unsafe(*c)).collect(),
            columns: 80,
            line: Vec::new(),
            at: 0,
            left: 0,
            history: VecDeque::new(),
            shown: 0,
            kept: Vec::new(),
            cut: Vec::new(),
            search: None,
            keys: Keys::default(),
            after_return: false,
        }
    }

    /// The width of the window. Zero is taken for 80.
    pub fn set_columns(&mut self, columns: u16) {
        self.columns = if columns == 0 { 80 } else { columns.max(COLUMNS_MIN) };
    }

    /// What stands before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> String {
        self.line[..self.at].iter().collect()
    }

    /// Takes one byte. What the terminal shall show is appended to `out`.
    pub fn input(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        let after_return = std::mem::take(&mut self.after_return);
        if !self.keys.escape.is_empty() {
            return self.escaped(byte, out);
        }
        if self.keys.utf8.is_empty() && (byte < 0x20 || byte == 0x7f) {
            if byte == b'\n' && after_return {
                return None;
            }
            return if self.keys.pasting { self.pasted(byte, out) } else { self.control(byte, out) };
        }
        self.character(byte, out)
    }

    /// Puts `text` at the cursor, as if it had been typed.
    pub fn insert(&mut self, text: &str, out: &mut Vec<u8>) {
        for c in text.chars().filter(|c| !is_unsafe(*c)) {
            self.put(c, out);
        }
        self.draw(out);
    }

    /// Draws the line anew, at the beginning of the row.
    pub fn draw(&mut self, out: &mut Vec<u8>) {
        let head = match &self.search {
            Some(search) => format!("search `{}': ", search.pattern),
            None => self.prompt.clone(),
        };
        // The last column stays free: writing into it makes some terminals wrap.
        let room = usize::from(self.columns).saturating_sub(width(head.chars()) + 1).max(1);
        self.left = self.left.min(self.at);
        while width(self.line[self.left..self.at].iter().copied()) > room {
            self.left += 1;
        }
        let mut shown = String::new();
        let mut used = 0;
        for c in &self.line[self.left..] {
            used += c.width().unwrap_or(0);
            if used > room {
                break;
            }
            shown.push(*c);
        }
        let column = width(head.chars()) + width(self.line[self.left..self.at].iter().copied());
        out.extend_from_slice(b"\r");
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(shown.as_bytes());
        out.extend_from_slice(b"\x1b[K\r");
        if column > 0 {
            out.extend_from_slice(format!("\x1b[{column}C").as_bytes());
        }
    }

    fn character(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        self.keys.utf8.push(byte);
        match std::str::from_utf8(&self.keys.utf8) {
            Ok(text) => {
                let c = text.chars().next().unwrap_or('\u{fffd}');
                self.keys.utf8.clear();
                self.typed(c, out);
            }
            // A whole character has four bytes at most; what is not one is dropped.
            Err(error) if error.error_len().is_some() || self.keys.utf8.len() >= 4 => self.keys.utf8.clear(),
            Err(_) => {}
        }
        None
    }

    fn typed(&mut self, c: char, out: &mut Vec<u8>) {
        if is_unsafe(c) {
            return;
        }
        if let Some(search) = &mut self.search {
            if search.pattern.len() < SEARCH_MAX_BYTES {
                search.pattern.push(c);
            }
            let from = search.found.map_or(self.history.len(), |found| found + 1);
            self.find(from);
        } else {
            self.put(c, out);
        }
        self.draw(out);
    }

    /// Puts one character in, if there is room.
    fn put(&mut self, c: char, out: &mut Vec<u8>) {
        let bytes: usize = self.line.iter().map(|c| c.len_utf8()).sum();
        if bytes + c.len_utf8() > LINE_MAX_BYTES {
            out.push(BELL);
            return;
        }
        self.line.insert(self.at, c);
        self.at += 1;
    }

    fn control(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        if self.search.is_some()
            && let Some(end) = self.searching(byte, out)
        {
            return end;
        }
        match byte {
            CTRL_A => self.at = 0,
            CTRL_B => self.at = self.at.saturating_sub(1),
            CTRL_C => {
                out.extend_from_slice(b"^C\r\n");
                self.clear();
                return Some(Event::Interrupt);
            }
            CTRL_D if self.line.is_empty() => {
                out.extend_from_slice(b"\r\n");
                return Some(Event::End);
            }
            CTRL_D => self.delete(),
            CTRL_E => self.at = self.line.len(),
            CTRL_F => self.at = (self.at + 1).min(self.line.len()),
            CTRL_H | DELETE if self.at > 0 => {
                self.at -= 1;
                self.delete();
            }
            TAB => return Some(Event::Complete),
            b'\n' | b'\r' => {
                self.after_return = byte == b'\r';
                return Some(self.finish(out));
            }
            CTRL_K => self.cut = self.line.split_off(self.at),
            CTRL_L => out.extend_from_slice(b"\x1b[H\x1b[2J"),
            CTRL_N => self.step(false),
            CTRL_P => self.step(true),
            CTRL_R => self.search = Some(Search::default()),
            CTRL_U => self.cut_back(0),
            CTRL_W => self.cut_back(self.word_left()),
            CTRL_Y => {
                for c in self.cut.clone() {
                    self.put(c, out);
                }
            }
            ESCAPE => self.keys.escape.push(byte),
            _ => {}
        }
        self.draw(out);
        None
    }

    /// A control character in pasted text: the end of a line becomes a blank, so that nothing runs by itself.
    fn pasted(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        match byte {
            ESCAPE => self.keys.escape.push(byte),
            b'\r' | b'\n' | TAB => self.typed(' ', out),
            _ => {}
        }
        None
    }

    /// A control character during a search; `None` when it ends the search and means what it always means.
    fn searching(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Option<Event>> {
        match byte {
            CTRL_R => {
                let from = self.search.as_ref().and_then(|search| search.found).unwrap_or(self.history.len());
                self.find(from);
            }
            CTRL_H | DELETE => {
                if let Some(search) = &mut self.search {
                    search.pattern.pop();
                }
                self.find(self.history.len());
            }
            CTRL_G => {
                self.search = None;
                self.clear();
            }
            _ => {
                self.search = None;
                return None;
            }
        }
        self.draw(out);
        Some(None)
    }

    /// Shows the newest line of the history before `from` that holds the pattern.
    fn find(&mut self, from: usize) {
        let Some(search) = &mut self.search else { return };
        let found = (0..from.min(self.history.len()))
            .rev()
            .find(|i| self.history.get(*i).is_some_and(|line| line.contains(&search.pattern)));
        if let Some(found) = found {
            search.found = Some(found);
            self.line = self.history.get(found).map_or_else(Vec::new, |line| line.chars().collect());
            self.at = self.line.len();
        }
    }

    /// Bytes behind an escape character: cursor keys, words, the marks around pasted text.
    fn escaped(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        self.keys.escape.push(byte);
        let is_sequence = matches!(self.keys.escape.get(1), Some(b'[' | b'O'));
        let is_done =
            if is_sequence { self.keys.escape.len() > 2 && (0x40..=0x7e).contains(&byte) } else { true };
        if !is_done {
            if self.keys.escape.len() >= ESCAPE_MAX_BYTES {
                self.keys.escape.clear();
            }
            return None;
        }
        let sequence = std::mem::take(&mut self.keys.escape);
        let keys = &sequence[1..];
        if self.keys.pasting && keys != b"[201~" {
            return None;
        }
        self.search = None;
        match keys {
            b"[A" | b"OA" => self.step(true),
            b"[B" | b"OB" => self.step(false),
            b"[C" | b"OC" => self.at = (self.at + 1).min(self.line.len()),
            b"[D" | b"OD" => self.at = self.at.saturating_sub(1),
            b"[H" | b"OH" | b"[1~" | b"[7~" => self.at = 0,
            b"[F" | b"OF" | b"[4~" | b"[8~" => self.at = self.line.len(),
            b"[3~" => self.delete(),
            b"[200~" => self.keys.pasting = true,
            b"[201~" => self.keys.pasting = false,
            b"b" | b"[1;5D" | b"[1;3D" => self.at = self.word_left(),
            b"f" | b"[1;5C" | b"[1;3C" => self.at = self.word_right(),
            b"d" => {
                let end = self.word_right();
                self.cut = self.line.drain(self.at..end).collect();
            }
            [CTRL_H | DELETE] => self.cut_back(self.word_left()),
            _ => {}
        }
        self.draw(out);
        None
    }

    fn delete(&mut self) {
        if self.at < self.line.len() {
            self.line.remove(self.at);
        }
    }

    fn cut_back(&mut self, to: usize) {
        self.cut = self.line.drain(to..self.at).collect();
        self.at = to;
    }

    fn word_left(&self) -> usize {
        let word_end = self.line[..self.at].iter().rposition(|c| *c != ' ').map_or(0, |last| last + 1);
        self.line[..word_end].iter().rposition(|c| *c == ' ').map_or(0, |blank| blank + 1)
    }

    fn word_right(&self) -> usize {
        let rest = &self.line[self.at..];
        let start = rest.iter().position(|c| *c != ' ').unwrap_or(rest.len());
        let length = rest[start..].iter().position(|c| *c == ' ').unwrap_or(rest.len() - start);
        self.at + start + length
    }

    /// One line back in the history, or forth.
    fn step(&mut self, back: bool) {
        let last = self.history.len();
        let to = if back { self.shown.checked_sub(1) } else { Some(self.shown + 1).filter(|to| *to <= last) };
        let Some(to) = to else { return };
        if self.shown == last {
            self.kept = std::mem::take(&mut self.line);
        }
        self.shown = to;
        self.line = match self.history.get(to) {
            Some(line) => line.chars().collect(),
            None => std::mem::take(&mut self.kept),
        };
        self.at = self.line.len();
        self.left = 0;
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Event {
        self.search = None;
        self.at = self.line.len();
        self.draw(out);
        out.extend_from_slice(b"\r\n");
        let line: String = self.line.iter().collect();
        if !line.trim().is_empty() && self.history.back() != Some(&line) {
            if self.history.len() == HISTORY_MAX {
                self.history.pop_front();
            }
            self.history.push_back(line.clone());
        }
        self.clear();
        Event::Line(line)
    }

    fn clear(&mut self) {
        self.line.clear();
        self.kept.clear();
        self.at = 0;
        self.left = 0;
        self.search = None;
        self.shown = self.history.len();
    }
}

fn width(characters: impl Iterator<Item = char>) -> usize {
    characters.map(|c| c.width().unwrap_or(0)).sum()
}

/// A line has at most so many bytes (`failure-model.md` S9); further characters ring the bell and are dropped.
pub const LINE_MAX_BYTES: usize = 4_096;
/// Lines of history; the oldest go first.
pub const HISTORY_MAX: usize = 500;
/// A longer pattern of a search is not taken.
const SEARCH_MAX_BYTES: usize = 128;
/// A longer key is none and is dropped.
const ESCAPE_MAX_BYTES: usize = 32;
/// A narrower window is treated as one of this width.
const COLUMNS_MIN: u16 = 16;
const BELL: u8 = 7;
const TAB: u8 = 9;
const ESCAPE: u8 = 27;
const DELETE: u8 = 127;
const CTRL_A: u8 = 1;
const CTRL_B: u8 = 2;
/// Ctrl-C, as a terminal sends it.
pub(super) const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;
const CTRL_E: u8 = 5;
const CTRL_F: u8 = 6;
const CTRL_G: u8 = 7;
const CTRL_H: u8 = 8;
const CTRL_K: u8 = 11;
const CTRL_L: u8 = 12;
const CTRL_N: u8 = 14;
const CTRL_P: u8 = 16;
const CTRL_R: u8 = 18;
const CTRL_U: u8 = 21;
const CTRL_W: u8 = 23;
const CTRL_Y: u8 = 25;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn editor() -> Editor {
        Editor::new("a> ")
    }

    fn feed(editor: &mut Editor, bytes: &[u8]) -> Vec<Event> {
        let mut out = Vec::new();
        bytes.iter().filter_map(|byte| editor.input(*byte, &mut out)).collect()
    }

    fn line(bytes: &[u8]) -> String {
        let mut editor = editor();
        match feed(&mut editor, &[bytes, b"\r"].concat()).as_slice() {
            [Event::Line(line)] => line.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn keys_edit_the_line_as_emacs_does() {
        assert_eq!(line(b"volume list"), "volume list");
        assert_eq!(line(b"olume\x01v\x05 list"), "volume list");
        assert_eq!(line(b"volumex\x7f list"), "volume list");
        assert_eq!(line(b"group list\x17show"), "group show");
        assert_eq!(line(b"group show g1\x01\x1bd\x0bpair\x19"), "pair show g1");
        assert_eq!(line(b"ab\x1b[D\x1b[DX\x1b[3~"), "Xb");
        assert_eq!(line(b"junk\x15volume"), "volume");
        assert_eq!(line("größe\x7f".as_bytes()), "größ");
    }

    #[test]
    fn history_goes_back_and_forth_and_is_searched() {
        let mut editor = editor();
        feed(&mut editor, b"volume list\rgroup show g1\rgroup show g1\rpair list\r");
        let last = |editor: &mut Editor, bytes: &[u8]| feed(editor, bytes).pop();
        assert_eq!(last(&mut editor, b"\x1b[A\x1b[A\r"), Some(Event::Line("group show g1".into())));
        assert_eq!(last(&mut editor, b"new\x10\x0e!\r"), Some(Event::Line("new!".into())));
        assert_eq!(last(&mut editor, b"\x12vol\r"), Some(Event::Line("volume list".into())));
        assert_eq!(last(&mut editor, b"\x12vol\x07x\r"), Some(Event::Line("x".into())));
    }

    #[test]
    fn a_line_and_the_history_have_a_limit() {
        let mut editor = editor();
        let long = vec![b'x'; LINE_MAX_BYTES + 100];
        let events = feed(&mut editor, &[long.as_slice(), b"\r"].concat());
        assert_eq!(events, [Event::Line("x".repeat(LINE_MAX_BYTES))]);
        for n in 0..=HISTORY_MAX {
            feed(&mut editor, format!("{n}\r").as_bytes());
        }
        assert_eq!(editor.history.len(), HISTORY_MAX);
    }

    #[test]
    fn pasted_text_never_runs_by_itself() {
        assert_eq!(line(b"\x1b[200~a\nb\r\x03c\x1b[201~"), "a b c");
    }

    #[test]
    fn interrupt_and_end_are_told_apart_and_return_with_line_feed_is_one_line() {
        let mut editor = editor();
        assert_eq!(feed(&mut editor, b"abc\x03"), [Event::Interrupt]);
        assert_eq!(feed(&mut editor, b"x\x04\x7f\x04"), [Event::End]);
        assert_eq!(feed(&mut editor, b"a\r\nb\n"), [Event::Line("a".into()), Event::Line("b".into())]);
        assert_eq!(feed(&mut editor, b"\t"), [Event::Complete]);
    }

    #[test]
    fn wide_characters_and_long_lines_stay_in_their_row() {
        let mut editor = editor();
        editor.set_columns(20);
        feed(&mut editor, "日本語の長い行がここにある".as_bytes());
        let mut out = Vec::new();
        editor.draw(&mut out);
        let text = String::from_utf8(out).unwrap();
        let row = text.trim_start_matches('\r').split('\x1b').next().unwrap();
        assert!(width(row.chars()) < 20, "{row:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_break_it_or_reach_the_screen_as_control_characters(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
            columns in any::<u16>(),
        ) {
            let mut editor = editor();
            editor.set_columns(columns);
            let mut out = Vec::new();
            for byte in &bytes {
                if let Some(Event::Line(line)) = editor.input(*byte, &mut out) {
                    prop_assert!(line.len() <= LINE_MAX_BYTES);
                    prop_assert!(!line.chars().any(is_unsafe));
                }
                editor.insert("", &mut out);
            }
            // What comes out is text and the few sequences that the editor itself writes.
            let text = String::from_utf8(out).unwrap();
            let known = ["\x1b[K", "\x1b[H", "\x1b[2J", "\r\n", "\r", "\x07", "^C"];
            let mut rest = text.as_str();
            while let Some(c) = rest.chars().next() {
                if let Some(sequence) = known.iter().find(|sequence| rest.starts_with(**sequence)) {
                    rest = &rest[sequence.len()..];
                } else if let Some(tail) = rest.strip_prefix("\x1b[") {
                    let end = tail.find('C').unwrap();
                    prop_assert!(tail[..end].chars().all(|c| c.is_ascii_digit()));
                    rest = &tail[end + 1..];
                } else {
                    prop_assert!(!c.is_control(), "{:?}", c);
                    rest = &rest[c.len_utf8()..];
                }
            }
        }
    }
}
