//! The management socket: commands of the shell from processes of the same machine.
//!
//! One JSON request a line, one JSON response a line, any number of them on a connection. Only the owner of the data
//! directory can connect: the socket is born in a directory of its own with mode 0700, gets mode 0600 there, and is
//! then moved to its place. A connection that ends also ends the command that it waits for.

use super::command::{Exit, Request, Response, Shell};
use crate::volume::record::Who;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The socket, listening; dropping it takes it away.
#[derive(Debug)]
pub struct ManagementSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ManagementSocket {
    /// Listens at `path`; what lies there from an earlier run is replaced. That no other array runs on the same data
    /// directory is for the control store to know, which is opened first.
    ///
    /// # Errors
    /// The socket cannot be made there, because of rights or because the path is too long for one (107 bytes).
    pub fn bind(path: &Path) -> io::Result<Self> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let nursery = parent.join(".sock");
        let _ = std::fs::remove_dir_all(&nursery);
        DirBuilder::new().mode(0o700).create(&nursery)?;
        let young = nursery.join("s");
        let bound = UnixListener::bind(&young).and_then(|listener| {
            std::fs::set_permissions(&young, Permissions::from_mode(0o600))?;
            std::fs::rename(&young, path)?;
            Ok(listener)
        });
        let _ = std::fs::remove_dir_all(&nursery);
        let listener = bound.map_err(|error| {
            io::Error::new(error.kind(), format!("the management socket {}: {error}", path.display()))
        })?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Answers at most `clients_max` clients at a time until the future is dropped, which ends all of them. Further
    /// clients are closed at once.
    pub async fn serve(&self, shell: Shell, clients_max: u32) {
        let shell = Arc::new(shell);
        let places = Arc::new(Semaphore::new(usize::try_from(clients_max).unwrap_or(usize::MAX)));
        let mut clients = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                Some(_) = clients.join_next(), if !clients.is_empty() => continue,
                accepted = self.listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // No descriptor is free, say. The next client gets its chance a little later.
                shell.clock().sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let shell = Arc::clone(&shell);
                    clients.spawn(async move {
                        // A client that breaks off is its own affair.
                        let _ = client(stream, &shell).await;
                        drop(place);
                    });
                }
                Err(_) => drop(stream),
            }
        }
    }
}

impl Drop for ManagementSocket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn client(stream: UnixStream, shell: &Shell) -> io::Result<()> {
    // Only the owner and root can be here; which of them it is, the kernel says.
    let name =
        stream.peer_cred().map_or_else(|_| "local user".to_owned(), |who| format!("uid {}", who.uid()));
    let who = Who::Operator { name, from: "local".into() };
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    loop {
        let Some(line) = read_line(&mut reading, shell).await? else { return Ok(()) };
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => tokio::select! {
                biased;
                response = shell.run(&request, &who) => response,
                () = closed(&mut reading) => return Ok(()),
            },
            Err(error) => Response::failed(Exit::Usage, "request", &error.to_string()),
        };
        let mut answer = serde_json::to_vec(&response).map_err(io::Error::other)?;
        answer.push(b'\n');
        writing.write_all(&answer).await?;
    }
}

/// One line without its end; `None` at the end of the connection or after a long silence.
async fn read_line<R: AsyncBufReadExt + Unpin>(from: &mut R, shell: &Shell) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut bounded = from.take(REQUEST_MAX_BYTES);
    let read = tokio::select! {
        biased;
        read = bounded.read_until(b'\n', &mut line) => read?,
        () = shell.clock().sleep(SILENCE_MAX) => 0,
    };
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a request is longer than allowed or cut off",
        ));
    }
    Ok(Some(line))
}

/// Resolves when the client has gone; stays pending when it has sent its next request already.
async fn closed<R: AsyncBufReadExt + Unpin>(from: &mut R) {
    match from.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// A longer request is not read to its end, and its connection is closed.
pub const REQUEST_MAX_BYTES: u64 = 768 << 10;
/// A client that says nothing for so long makes room for another one.
const SILENCE_MAX: Duration = Duration::from_secs(600);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::shell::client::{self, Connection};
    use crate::shell::view::{AuditView, Console, Snapshot, VolumeView};

    struct Fixed;

    impl Console for Fixed {
        fn snapshot(&self) -> Snapshot {
            let volume = VolumeView { name: "data1".into(), ..VolumeView::default() };
            Snapshot { volumes: vec![volume], ..Snapshot::default() }
        }

        fn audit(&self, _: usize) -> Vec<AuditView> {
            Vec::new()
        }

        fn changed(&self) -> crate::clock::BoxFuture<'_, ()> {
            Box::pin(std::future::pending())
        }
    }

    fn request(line: &str) -> Request {
        Request { argv: line.split(' ').map(str::to_owned).collect(), json: true, ..Request::default() }
    }

    /// Runs `test` on a thread of its own, as clients do, beside a served socket.
    async fn with_socket<T: Send + 'static>(
        clients: u32,
        test: impl FnOnce(PathBuf) -> T + Send + 'static,
    ) -> T {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("holdfast.sock");
        let socket = ManagementSocket::bind(&path).unwrap();
        let shell = Shell::new(Arc::new(Fixed), Arc::new(SystemClock::new()));
        let test = tokio::task::spawn_blocking(move || test(path));
        tokio::select! {
            () = socket.serve(shell, clients) => unreachable!(),
            result = test => result.unwrap(),
        }
    }

    #[tokio::test]
    async fn commands_go_through_the_socket_and_back() {
        with_socket(4, |path| {
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            let mut connection = Connection::open(&path).unwrap();
            for _ in 0..3 {
                let answer = connection.ask(&request("volume list")).unwrap();
                assert_eq!(answer.exit, 0);
                let rows: serde_json::Value = serde_json::from_str(&answer.stdout).unwrap();
                assert_eq!(rows[0]["name"], "data1");
            }
            assert_eq!(connection.ask(&request("volume show data2")).unwrap().exit, 1);
            assert_eq!(connection.ask(&request("volume eat data2")).unwrap().exit, 2);
        })
        .await;
    }

    #[tokio::test]
    async fn clients_beyond_the_limit_are_closed_and_others_served() {
        with_socket(2, |path| {
            let mut first = Connection::open(&path).unwrap();
            let mut second = Connection::open(&path).unwrap();
            assert_eq!(first.ask(&request("volume list")).unwrap().exit, 0);
            assert_eq!(second.ask(&request("volume list")).unwrap().exit, 0);
            assert!(Connection::open(&path).unwrap().ask(&request("volume list")).is_err());
            assert_eq!(first.ask(&request("volume list")).unwrap().exit, 0);
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_no_request_or_too_long_harms_nobody() {
        with_socket(4, |path| {
            use std::io::{Read, Write};
            let mut raw = std::os::unix::net::UnixStream::connect(&path).unwrap();
            raw.write_all(b"garbage\n").unwrap();
            let mut answer = [0; 200];
            let count = raw.read(&mut answer).unwrap();
            let answer: Response = serde_json::from_slice(&answer[..count]).unwrap();
            assert_eq!(answer.exit, Exit::Usage as u8);
            let mut long = std::os::unix::net::UnixStream::connect(&path).unwrap();
            // The other side may close before all of it is written.
            let _ = long.write_all(&vec![b'x'; 1 << 20]);
            assert!(matches!(long.read(&mut [0; 1]), Ok(0) | Err(_)));
            let answer = client::ask(&path, &request("volume list")).unwrap();
            assert_eq!(answer.exit, 0);
        })
        .await;
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_own_one_taken_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        std::mem::forget(ManagementSocket::bind(&path).unwrap());
        let socket = ManagementSocket::bind(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
