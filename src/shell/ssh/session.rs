//! One session channel: a command, a prompt, or lines from a pipe.

use super::super::command::{Exit, INPUT_MAX_BYTES, Request, Response, Shell};
use super::super::edit::{CTRL_C, LINE_MAX_BYTES};
use super::super::parse::words;
use super::super::print;
use super::super::prompt::{self, Prompt, Step, TYPE_AHEAD_MAX_BYTES};
use super::IDLE_MAX;
use crate::volume::record::Who;
use bytes::Bytes;
use russh::ChannelId;
use russh::server::Handle;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Who sits at the other end, and what runs the commands.
pub(super) struct Operator {
    pub(super) shell: Shell,
    /// Comment and fingerprint of the key.
    pub(super) name: String,
    /// Address.
    pub(super) from: String,
}

impl Operator {
    async fn run(&self, request: &Request) -> Response {
        if let Some(what) = names_a_file(&request.argv) {
            let why = format!(
                "over SSH {what} is not possible: the file would be one of the array's machine; say - for it, and send it"
            );
            return Response::failed(Exit::Failed, &request.argv.join(" "), &why);
        }
        let who = Who::Operator { name: self.name.clone(), from: self.from.clone() };
        let request = Request { is_remote: true, ..request.clone() };
        self.shell.run(&request, &who).await
    }

    /// Runs a command, and again for as long as the answer says that there is more; the last answer.
    async fn run_on(&self, request: &Request, output: &Output) -> Response {
        let mut request = request.clone();
        loop {
            let mut response = self.run(&request).await;
            if response.again.is_empty() {
                return response;
            }
            request.argv = std::mem::take(&mut response.again);
            if output.answer(response).await.is_err() {
                return Response::default();
            }
        }
    }
}

/// Whether a command names a file that the array would read: a client names no files (`failure-model.md` S8), but may
/// send what would be in one, by "-". Paths of units are not among them: they are made, never shown.
fn names_a_file(argv: &[String]) -> Option<&'static str> {
    let is_option = |word: &str| word.starts_with("--") && word.ends_with("-file");
    let mut words = argv.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        let value = match word.split_once('=') {
            Some((option, value)) if is_option(option) => Some(value),
            None if is_option(word) => words.peek().copied(),
            Some(_) | None => continue,
        };
        if value != Some("-") {
            return Some("an option that names a file");
        }
    }
    // Whatever else stands there can only be the file, or an option that is taken for it.
    let harmless = ["config", "check", "apply", "--json", "--help", "-h", "--dry-run", "-"];
    let mut plain = argv.iter().filter(|word| !word.starts_with('-')).map(String::as_str);
    let is_harmless = argv.iter().all(|word| harmless.contains(&word.as_str()));
    match (plain.next(), plain.next()) {
        (Some("config"), Some("check")) if !is_harmless => Some("checking a file by its name"),
        (Some("config"), Some("apply")) if !is_harmless => Some("applying a file by its name"),
        _ => None,
    }
}

/// The size of a terminal, within bounds whatever the client says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    columns: u16,
}

impl Window {
    pub(super) fn of(columns: u32) -> Self {
        let columns = if columns == 0 { COLUMNS_DEFAULT } else { columns.clamp(COLUMNS_MIN, COLUMNS_MAX) };
        Self { columns: u16::try_from(columns).unwrap_or(u16::MAX) }
    }
}

/// What was typed and not yet taken. Bounded: what is too much is lost, but never Ctrl-C.
#[derive(Debug, Default)]
pub(super) struct Keyboard {
    keys: Mutex<Keys>,
    pressed: Notify,
}

#[derive(Debug, Default)]
struct Keys {
    bytes: Vec<u8>,
    window: Option<Window>,
    has_ended: bool,
    has_overflowed: bool,
}

impl Keyboard {
    pub(super) fn press(&self, bytes: &[u8]) {
        let mut keys = self.lock();
        if keys.bytes.len() + bytes.len() <= TYPE_AHEAD_MAX_BYTES {
            keys.bytes.extend_from_slice(bytes);
        } else {
            keys.has_overflowed = true;
            if bytes.contains(&CTRL_C) {
                keys.bytes.clear();
                keys.bytes.push(CTRL_C);
            }
        }
        drop(keys);
        self.pressed.notify_one();
    }

    pub(super) fn resize(&self, window: Window) {
        self.lock().window = Some(window);
        self.pressed.notify_one();
    }

    pub(super) fn end(&self) {
        self.lock().has_ended = true;
        self.pressed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something and takes it; the end stays.
    async fn take(&self) -> Keys {
        loop {
            {
                let mut keys = self.lock();
                if !keys.bytes.is_empty() || keys.window.is_some() || keys.has_ended || keys.has_overflowed {
                    let has_ended = keys.has_ended;
                    let taken = std::mem::take(&mut *keys);
                    keys.has_ended = has_ended;
                    return taken;
                }
            }
            self.pressed.notified().await;
        }
    }
}

/// Where a channel's output goes. Waits while the client takes nothing.
#[derive(Clone)]
pub(super) struct Output {
    handle: Handle,
    channel: ChannelId,
    is_terminal: bool,
}

/// The client has gone: there is nobody to write to.
struct Gone;

impl Output {
    pub(super) fn new(handle: Handle, channel: ChannelId, is_terminal: bool) -> Self {
        Self { handle, channel, is_terminal }
    }

    async fn write(&self, bytes: Vec<u8>) -> Result<(), Gone> {
        let mut rest = Bytes::from(bytes);
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            self.handle.data(self.channel, piece).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    async fn answer(&self, response: Response) -> Result<(), Gone> {
        if self.is_terminal {
            let mut out = Vec::new();
            prompt::show(&mut out, &response.stdout);
            prompt::show(&mut out, &response.stderr);
            return self.write(out).await;
        }
        self.write(response.stdout.into_bytes()).await?;
        // What was asked stands in there as it was typed.
        let lines: Vec<String> = response.stderr.lines().map(print::escape).collect();
        if !lines.is_empty() {
            let text = lines.join("\n") + "\n";
            self.handle.extended_data(self.channel, STDERR, text.into_bytes()).await.map_err(|_| Gone)?;
        }
        Ok(())
    }

    /// The exit status, and the end of the channel.
    pub(super) async fn end(&self, exit: u8) {
        let _ = self.handle.exit_status_request(self.channel, u32::from(exit)).await;
        let _ = self.handle.eof(self.channel).await;
        let _ = self.handle.close(self.channel).await;
    }
}

/// One command, as in `ssh admin@array volume list`.
pub(super) async fn command(
    operator: &Operator,
    output: &Output,
    window: Option<Window>,
    keyboard: &Keyboard,
    line: &[u8],
) -> u8 {
    let response = match line_to_words(line) {
        Ok(argv) => {
            let columns = window.map_or(0, |window| window.columns);
            let asked = argv.join(" ");
            let input = match input(keyboard, &argv, window.is_some()).await {
                Ok(input) => input,
                Err(why) => {
                    let response = Response::failed(Exit::Usage, &asked, &why);
                    let _ = output.answer(response).await;
                    return Exit::Usage as u8;
                }
            };
            let request = Request { argv, columns, input, ..Request::default() };
            let mut typed = Vec::new();
            tokio::select! {
                biased;
                response = operator.run_on(&request, output) => response,
                () = until_interrupt(keyboard, &mut typed), if window.is_some() => {
                    Response::failed(Exit::Failed, &asked, "given up")
                }
            }
        }
        Err(why) => Response::failed(Exit::Usage, "ssh", &why),
    };
    let exit = response.exit;
    let _ = output.answer(response).await;
    exit
}

/// What the client sends before it closes its side, if the command asks for it.
async fn input(keyboard: &Keyboard, argv: &[String], is_terminal: bool) -> Result<Option<String>, String> {
    if !Request::wants_input(argv) {
        return Ok(None);
    }
    if is_terminal {
        return Err("there is no standard input at a terminal: give the command without one".into());
    }
    let mut bytes = Vec::new();
    loop {
        let keys = keyboard.take().await;
        bytes.extend_from_slice(&keys.bytes);
        if keys.has_overflowed || bytes.len() > INPUT_MAX_BYTES {
            return Err(format!("the standard input has at most {INPUT_MAX_BYTES} bytes"));
        }
        if keys.has_ended {
            return String::from_utf8(bytes).map(Some).map_err(|_| "the standard input is UTF-8 text".into());
        }
    }
}

/// A shell: with a terminal a prompt, without one a command a line until the end of the input.
pub(super) async fn shell(
    operator: &Operator,
    output: &Output,
    window: Option<Window>,
    keyboard: &Keyboard,
) -> u8 {
    let ended = match window {
        Some(window) => interactive(operator, output, window, keyboard).await,
        None => piped(operator, output, keyboard).await,
    };
    ended.unwrap_or(Exit::Failed as u8)
}

async fn interactive(
    operator: &Operator,
    output: &Output,
    window: Window,
    keyboard: &Keyboard,
) -> Result<u8, Gone> {
    let mut out = Vec::new();
    let mut prompt = Prompt::new(&operator.shell.array_name(), window.columns, &mut out);
    loop {
        while let Some(step) = prompt.next(&mut out) {
            output.write(std::mem::take(&mut out)).await?;
            let request = match step {
                Step::End(exit) => return Ok(exit),
                Step::Ask(request) => request,
            };
            let mut typed = Vec::new();
            let answer = tokio::select! {
                biased;
                response = operator.run_on(&request, output) => Some(response),
                () = until_interrupt(keyboard, &mut typed) => None,
            };
            match answer {
                Some(response) => prompt.answer(&response, &mut out),
                None => prompt.interrupted(&mut out),
            }
            prompt.input(&typed);
        }
        output.write(std::mem::take(&mut out)).await?;
        let keys = tokio::select! {
            biased;
            keys = keyboard.take() => keys,
            () = operator.shell.clock().sleep(IDLE_MAX) => {
                prompt::show(&mut out, "\nclosed: nothing was typed for a long time\n");
                output.write(out).await?;
                return Ok(Exit::Failed as u8);
            }
        };
        if let Some(window) = keys.window {
            prompt.resize(window.columns, &mut out);
        }
        prompt.input(&keys.bytes);
        if keys.has_ended && keys.bytes.is_empty() {
            return Ok(Exit::Done as u8);
        }
    }
}

/// Resolves when Ctrl-C was typed; what was typed before it is kept.
async fn until_interrupt(keyboard: &Keyboard, typed: &mut Vec<u8>) {
    loop {
        let keys = keyboard.take().await;
        if prompt::interrupts(&keys.bytes) {
            typed.clear();
            return;
        }
        let room = TYPE_AHEAD_MAX_BYTES.saturating_sub(typed.len());
        typed.extend(keys.bytes.iter().take(room));
        if keys.has_ended {
            // Nothing more will come, and a command may still be waited for.
            std::future::pending::<()>().await;
        }
    }
}

async fn piped(operator: &Operator, output: &Output, keyboard: &Keyboard) -> Result<u8, Gone> {
    let (mut waiting, mut last) = (Vec::new(), Exit::Done as u8);
    loop {
        let keys = keyboard.take().await;
        waiting.extend_from_slice(&keys.bytes);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            match line_to_words(line.trim_ascii()) {
                Ok(argv) if argv.is_empty() => {}
                Ok(argv) if matches!(argv.as_slice(), [word] if prompt::is_farewell(word)) => {
                    return Ok(last);
                }
                Ok(argv) => {
                    let response = operator.run_on(&Request { argv, ..Request::default() }, output).await;
                    last = response.exit;
                    output.answer(response).await?;
                }
                Err(why) => {
                    last = Exit::Usage as u8;
                    output.answer(Response::failed(Exit::Usage, "ssh", &why)).await?;
                }
            }
        }
        let is_too_long = waiting.len() > LINE_MAX_BYTES;
        if keys.has_overflowed || is_too_long {
            let why = format!(
                "lines have at most {LINE_MAX_BYTES} bytes, and at most {TYPE_AHEAD_MAX_BYTES} may wait"
            );
            output.answer(Response::failed(Exit::Usage, "ssh", &why)).await?;
            return Ok(Exit::Usage as u8);
        }
        if keys.has_ended && keys.bytes.is_empty() {
            if waiting.is_empty() {
                return Ok(last);
            }
            keyboard.press(b"\n"); // The last line may lack its end.
        }
    }
}

fn line_to_words(line: &[u8]) -> Result<Vec<String>, String> {
    if line.len() > LINE_MAX_BYTES {
        return Err(format!("a line has at most {LINE_MAX_BYTES} bytes"));
    }
    let line = std::str::from_utf8(line).map_err(|_| "a line is UTF-8 text".to_owned())?;
    words(line)
}

/// Exit code of a session that ended by a defect.
pub(super) const EXIT_PANIC: u8 = Exit::Failed as u8;
const COLUMNS_DEFAULT: u32 = 80;
const COLUMNS_MIN: u32 = 20;
/// A wider terminal is treated as one of this width.
const COLUMNS_MAX: u32 = 1_000;
const PIECE_BYTES: usize = 32 << 10;
/// Data type of standard error (RFC 4254, 5.2).
const STDERR: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_names_no_files() {
        let named = |line: &str| names_a_file(&words(line).unwrap()).is_some();
        for line in [
            "config check /etc/shadow",
            "config --json check /etc/shadow",
            "config apply x.toml --yes",
            "config check -- -x",
            "config apply -- -x",
            "link create b --secret-file /etc/shadow",
            "link create b --secret-file=/etc/shadow",
            "target create t --chap-user x --chap-secret-file /etc/shadow",
            "link create b --secret-file - --secret-file /etc/shadow",
            "link create b --secret-file",
            "config apply --id x -",
        ] {
            assert!(named(line), "{line}");
        }
        for line in [
            "config check",
            "config check --json",
            "config check -",
            "config apply - --dry-run",
            "link create b --secret-file -",
            "link create b --secret-file=-",
            "volume show data1",
        ] {
            assert!(!named(line), "{line}");
        }
    }

    #[test]
    fn windows_are_within_bounds() {
        assert_eq!(Window::of(0).columns, 80);
        assert_eq!(Window::of(1).columns, 20);
        assert_eq!(Window::of(1_000).columns, 1_000);
        assert_eq!(Window::of(u32::MAX).columns, 1_000);
    }

    #[tokio::test]
    async fn keys_have_a_limit_and_an_interrupt_always_comes_through() {
        let keyboard = Keyboard::default();
        keyboard.press(&vec![b'x'; TYPE_AHEAD_MAX_BYTES]);
        keyboard.press(b"y");
        assert_eq!(keyboard.lock().bytes.len(), TYPE_AHEAD_MAX_BYTES);
        keyboard.press(&[CTRL_C]);
        let keys = keyboard.take().await;
        assert_eq!((keys.bytes, keys.has_overflowed), (vec![CTRL_C], true));
        keyboard.end();
        assert!(keyboard.take().await.has_ended && keyboard.take().await.has_ended);
    }

    #[test]
    fn lines_have_a_limit_and_are_text() {
        assert!(line_to_words(&vec![b'x'; LINE_MAX_BYTES]).is_ok());
        assert!(line_to_words(&vec![b'x'; LINE_MAX_BYTES + 1]).is_err());
        assert!(line_to_words(&[0xff]).is_err());
    }
}
