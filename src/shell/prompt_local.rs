//! The prompt on this process's own terminal: `holdfast shell`.
//!
//! The terminal is in raw mode while the prompt has it, and is put back however that ends. Ctrl-C gives up a running
//! command by closing the connection that it runs on; the next command gets a new one.

use super::client::Connection;
use super::command::{Exit, Request, Response};
use super::prompt::{Prompt, Step, interrupts, show};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::{self, Write};
use std::path::Path;

/// Runs the prompt until the operator leaves it; returns the exit code of the last command.
///
/// # Errors
/// The terminal cannot be used, or the array cannot be reached.
pub fn run(socket: &Path) -> io::Result<u8> {
    let mut connection = Connection::open(socket)?;
    let array = name_of(&mut connection)?;
    let terminal = Raw::enter()?;
    let mut out = Vec::new();
    let mut prompt = Prompt::new(&array, columns(), &mut out);
    loop {
        prompt.resize(columns(), &mut out);
        while let Some(step) = prompt.next(&mut out) {
            flush(&mut out)?;
            match step {
                Step::End(exit) => {
                    drop(terminal);
                    return Ok(exit);
                }
                Step::Ask(mut request) => {
                    request.directory = std::env::current_dir().ok();
                    let mut answer = ask(&mut connection, &request, &mut prompt)?;
                    while let Some(piece) = answer.as_mut().filter(|response| !response.again.is_empty()) {
                        request.argv = std::mem::take(&mut piece.again);
                        show(&mut out, &piece.stdout);
                        show(&mut out, &piece.stderr);
                        flush(&mut out)?;
                        answer = ask(&mut connection, &request, &mut prompt)?;
                    }
                    match answer {
                        Some(response) => prompt.answer(&response, &mut out),
                        None => {
                            prompt.interrupted(&mut out);
                            connection = Connection::open(socket)?;
                        }
                    }
                }
            }
        }
        flush(&mut out)?;
        let mut bytes = [0; 1_024];
        // Not through `Stdin`: what it keeps in its buffer, `poll` would not see.
        match rustix::io::read(io::stdin(), &mut bytes) {
            Ok(0) => return Ok(Exit::Done as u8),
            Ok(count) => prompt.input(&bytes[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The name of the array, for the prompt.
fn name_of(connection: &mut Connection) -> io::Result<String> {
    let argv = vec!["array".to_owned(), "show".to_owned()];
    let response = connection.ask(&Request { argv, json: true, ..Request::default() })?;
    let array: serde_json::Value = serde_json::from_str(&response.stdout).map_err(io::Error::other)?;
    Ok(array["name"].as_str().unwrap_or("holdfast").to_owned())
}

/// Asks and waits for the answer; `None` when Ctrl-C came first.
fn ask(connection: &mut Connection, request: &Request, prompt: &mut Prompt) -> io::Result<Option<Response>> {
    connection.send(request)?;
    let stdin = io::stdin();
    loop {
        let (is_answered, is_typed) = {
            let mut both = [PollFd::new(connection, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
            match poll(&mut both, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            (!both[0].revents().is_empty(), !both[1].revents().is_empty())
        };
        if is_answered {
            return connection.receive().map(Some);
        }
        if is_typed {
            let mut bytes = [0; 1_024];
            let count = rustix::io::read(&stdin, &mut bytes)?;
            // The end of the input is as good as Ctrl-C: nobody waits for the answer any more.
            if count == 0 || interrupts(&bytes[..count]) {
                return Ok(None);
            }
            prompt.input(&bytes[..count]);
        }
    }
}

fn flush(out: &mut Vec<u8>) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(out)?;
    out.clear();
    stdout.flush()
}

fn columns() -> u16 {
    tcgetwinsize(io::stdout()).map_or(80, |size| size.ws_col)
}

/// The terminal in raw mode; dropping it puts it back.
struct Raw(Termios);

impl Raw {
    fn enter() -> io::Result<Self> {
        let was = tcgetattr(io::stdin())?;
        let mut raw = was.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(was))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
