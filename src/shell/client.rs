//! The other end of the management socket: sends commands to a running array and waits for the answers.

use super::command::{Request, Response};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A connection to an array.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there, or this user may not connect.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path)?) })
    }

    /// Sends one command and waits for its answer.
    ///
    /// # Errors
    /// The array went away, or says what is no answer.
    pub fn ask(&mut self, request: &Request) -> io::Result<Response> {
        self.send(request)?;
        self.receive()
    }

    /// Sends one command; its answer has to be received before the next one is sent.
    ///
    /// # Errors
    /// The array went away.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::other)?;
        line.push(b'\n');
        self.stream.get_mut().write_all(&line)
    }

    /// Waits for the answer to the command that was sent.
    ///
    /// # Errors
    /// The array went away, or says what is no answer.
    pub fn receive(&mut self) -> io::Result<Response> {
        let mut answer = Vec::new();
        (&mut self.stream).take(RESPONSE_MAX_BYTES).read_until(b'\n', &mut answer)?;
        if answer.pop() != Some(b'\n') {
            let text = "the array closed the connection without an answer";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        serde_json::from_slice(&answer).map_err(io::Error::other)
    }
}

/// Readable when an answer is there; nothing is buffered between two commands.
impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}

/// Sends one command over a connection of its own.
///
/// # Errors
/// The array cannot be reached.
pub fn ask(path: &Path, request: &Request) -> io::Result<Response> {
    Connection::open(path)?.ask(request)
}

/// A longer answer is not one.
const RESPONSE_MAX_BYTES: u64 = 64 << 20;
