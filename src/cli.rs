//! The command line of the binary: commands of its own, and those of the shell, which go to a running array.

use clap::{CommandFactory, Parser, Subcommand};
use holdfast::clock::SystemClock;
use holdfast::config::Config;
use holdfast::fsck;
use holdfast::relay_apply::Wanted;
use holdfast::shell::client::Connection;
use holdfast::shell::command::{Exit, INPUT_MAX_BYTES, Request, Response, check_config};
use holdfast::shell::parse::{ShellCommand, words};
use holdfast::shell::prompt::is_farewell;
use holdfast::shell::prompt_local;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// A storage array in software, whose consistent copies live at two or three sites.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "conf/holdfast.toml")]
    pub(crate) config: PathBuf,
    /// Management socket; otherwise HOLDFAST_SOCKET, otherwise the one in the data directory of the configuration.
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the array in the foreground until SIGTERM.
    Serve {
        /// The control store is lost, and this is an older copy of it: take it all the same. What was made, paired or taken over since is
        /// forgotten here; see docs/operations.md.
        #[arg(long)]
        take_older_store: bool,
    },
    /// Three arrays on this machine: write, copy, compare, and stay up until Ctrl-C.
    Demo {
        /// End after the comparison.
        #[arg(long)]
        once: bool,
        /// Where the arrays live; otherwise a temporary directory that is removed at the end.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// Check the configuration: silence, or every mistake with file, line and column.
    Check,
    /// What lies on the LUNs of a relay, as files or block devices: no array is needed. With --apply it is written onto images.
    RelayCheck {
        /// The LUN of the journal.
        journal: PathBuf,
        /// The LUN with control information of the first array.
        first: PathBuf,
        /// The LUN with control information of the second array.
        second: PathBuf,
        /// The same three of another relay of the group, where each has a part of the journals.
        #[arg(long, num_args = 3, value_names = ["JOURNAL", "FIRST", "SECOND"])]
        with: Vec<PathBuf>,
        /// Write the updates of the P-VOL with this number at the first array onto its image, a file or a block device.
        #[arg(long, value_name = "VOLUME=IMAGE", requires = "as_of", value_parser = image)]
        apply: Vec<(u32, PathBuf)>,
        /// The update that all the images are of: those behind it are written.
        #[arg(long, value_name = "UPDATE", requires = "apply")]
        as_of: Option<u64>,
    },
    /// Check what `group proof` has printed: no array is needed.
    ///
    /// Exit codes: 0 every entry is what was sealed, and follows the one before it; 1 not, or an image is another one.
    VerifyProof {
        /// The file.
        file: PathBuf,
        /// What another array has printed of the group: whether both have found the same, where both have roots of one update.
        #[arg(long, value_name = "FILE")]
        with: Vec<PathBuf>,
        /// An image of a volume as of the update of the newest comparison, a file or a block device: whether it is what was compared.
        #[arg(long, value_name = "VOLUME=IMAGE", value_parser = volume_image)]
        image: Vec<(String, PathBuf)>,
    },
    /// Check every structure of an array that does not run, without writing anything.
    ///
    /// Exit codes: 0 sound; 1 damaged, each place with a line on stderr, or in use.
    Fsck {
        /// The data_dir of the array; units are where its control store says. Also a directory with the LUNs of a relay as files.
        dir: PathBuf,
        /// Read all units of parity groups with parity from end to end, and check the parity of every stripe.
        #[arg(long)]
        parity: bool,
    },
    /// The maintenance shell of a running array: one command a line.
    Shell,
    /// Print the completion script of a shell.
    Completions {
        /// Which one.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages, one for each command, into a directory.
    Man {
        /// The directory; it is made when it does not exist.
        dir: PathBuf,
    },
    #[command(flatten)]
    OfShell(ShellCommand),
}

/// `holdfast check`.
pub(crate) fn check(config: &Path) -> ExitCode {
    let mistakes = check_config(config);
    let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
    let exit = if mistakes.is_empty() { Exit::Done } else { Exit::Failed };
    print(&Response { exit: exit as u8, stderr: text, ..Response::default() })
}

fn volume_image(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((volume, path)) if !volume.is_empty() && !path.is_empty() => {
            Ok((volume.to_owned(), path.into()))
        }
        _ => Err("the name of a volume and its image, as in data1=data1.img".to_owned()),
    }
}

/// `holdfast verify-proof`.
pub(crate) fn verify_proof(file: &Path, with: &[PathBuf], images: &[(String, PathBuf)]) -> ExitCode {
    match holdfast::proof_check::check(file, with, images) {
        Ok(text) => print(&Response { stdout: text, ..Response::default() }),
        Err(error) => print(&Response::failed(Exit::Failed, "verify-proof", &error)),
    }
}

fn image(text: &str) -> Result<(u32, PathBuf), String> {
    let (volume, path) =
        text.split_once('=').ok_or("the number of a P-VOL and its image, as in 4=data1.img")?;
    let volume = volume.parse().map_err(|_| format!("{volume:?} is no number of a volume"))?;
    if path.is_empty() { Err("which image?".to_owned()) } else { Ok((volume, path.into())) }
}

/// `holdfast relay-check`.
pub(crate) fn relay_check(
    luns: [&Path; 3],
    with: &[PathBuf],
    apply: &[(u32, PathBuf)],
    as_of: Option<u64>,
) -> ExitCode {
    let mut relays = vec![luns];
    let (others, _) = with.as_chunks::<3>();
    relays.extend(others.iter().map(|luns| luns.each_ref().map(PathBuf::as_path)));
    let wanted = as_of.map(|as_of| Wanted { images: apply.to_vec(), as_of });
    match holdfast::relay_check::check(&relays, wanted.as_ref()) {
        Ok(found) => {
            let stderr: String = found.damage.iter().map(|line| format!("relay-check: {line}\n")).collect();
            let exit = if stderr.is_empty() { Exit::Done } else { Exit::Failed };
            print(&Response { exit: exit as u8, stdout: found.text, stderr, ..Response::default() })
        }
        Err(error) => print(&Response::failed(Exit::Failed, "relay-check", &error.to_string())),
    }
}

/// `holdfast fsck`.
pub(crate) fn fsck(dir: &Path, parity: bool, json: bool) -> ExitCode {
    let progress = match io::stderr().is_terminal() {
        true => |what: &str| eprintln!("fsck: {what}"),
        false => |_: &str| (),
    };
    let asked = format!("fsck {}", dir.display());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return print(&Response::failed(Exit::Failed, &asked, &error.to_string())),
    };
    let clock = Arc::new(SystemClock::new());
    let checked = fsck::check_directory(dir, clock, fsck::Wants { progress, parity });
    let report = match runtime.block_on(checked) {
        Ok(report) => report,
        Err(error) => return print(&Response::failed(Exit::Failed, &asked, &error)),
    };
    let exit = if report.sound { Exit::Done } else { Exit::Failed };
    let stderr = report
        .damage
        .iter()
        .map(|damage| format!("fsck: {}\n", one_line(&format!("{}: {}", damage.place, damage.what))))
        .collect();
    let stdout = match serde_json::to_string_pretty(&report) {
        Ok(document) if json => document + "\n",
        _ => {
            let lines = report
                .checked
                .iter()
                .map(|looked| one_line(&format!("{}: {}", looked.what, looked.found)) + "\n");
            let verdict = if report.sound {
                "sound\n".to_owned()
            } else {
                format!("damaged in {} places\n", report.damage.len())
            };
            lines.chain([verdict]).collect()
        }
    };
    print(&Response { exit: exit as u8, stdout, stderr, ..Response::default() })
}

/// Names come from disks: none begins a line of its own, or says anything to the terminal.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|letter| if letter.is_control() { char::REPLACEMENT_CHARACTER } else { letter })
        .collect()
}

/// `holdfast man DIR`.
pub(crate) fn man(dir: &Path) -> ExitCode {
    let made = std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&Response::failed(Exit::Failed, &format!("man {}", dir.display()), &error.to_string()))
        }
    }
}

/// `holdfast serve`.
pub(crate) fn serve(path: &Path, takes_older_store: bool) -> ExitCode {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(mistakes) => {
            let text: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
            return print(&Response { exit: Exit::Failed as u8, stderr: text, ..Response::default() });
        }
    };
    run(holdfast::serve::serve(config, takes_older_store), "serve")
}

/// `holdfast demo`.
pub(crate) fn demo(once: bool, dir: Option<PathBuf>) -> ExitCode {
    let end = if once { holdfast::demo::End::Once } else { holdfast::demo::End::Interrupted };
    run(holdfast::demo::demo(end, dir), "demo")
}

/// Runs something on a runtime of its own, with a log on stderr.
fn run(work: impl Future<Output = anyhow::Result<()>>, asked: &str) -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| {
        // What the SSH library has to say about strangers is theirs, not ours.
        let level = if asked == "demo" { "warn" } else { "info" };
        tracing_subscriber::EnvFilter::new(format!("{level},russh=off"))
    });
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return print(&Response::failed(Exit::Failed, asked, &error.to_string())),
    };
    match runtime.block_on(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => print(&Response::failed(Exit::Failed, asked, &format!("{error:#}"))),
    }
}

/// `holdfast completions SHELL`.
pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "holdfast", &mut script);
    print(&Response::done(String::from_utf8_lossy(&script).into_owned()))
}

/// One command of the shell, as it stands on the command line.
pub(crate) fn one_command(cli: &Cli) -> ExitCode {
    let argv = without_own_options(std::env::args().skip(1));
    let asked = argv.join(" ");
    let connected = socket(cli).and_then(|path| {
        Connection::open(&path).map_err(|error| format!("no array answers at {}: {error}", path.display()))
    });
    let answer = connected.and_then(|mut connection| {
        let no_answer = |error: io::Error| format!("no array answers: {error}");
        let mut request = request(cli, argv);
        request.input = input(&request.argv)?;
        let may_be_asked = request.input.is_none() && io::stdin().is_terminal();
        ask(&mut connection, &request, may_be_asked).map_err(no_answer)
    });
    print(&answer.unwrap_or_else(|why| Response::failed(Exit::Unreachable, &asked, &why)))
}

fn request(cli: &Cli, argv: Vec<String>) -> Request {
    let directory = std::env::current_dir().ok();
    Request { argv, json: cli.json, columns: columns(), directory, ..Request::default() }
}

/// Standard input, if the command asks for it.
fn input(argv: &[String]) -> Result<Option<String>, String> {
    if !Request::wants_input(argv) {
        return Ok(None);
    }
    let mut text = String::new();
    let limit = u64::try_from(INPUT_MAX_BYTES).unwrap_or(u64::MAX) + 1;
    let read = io::stdin().lock().take(limit).read_to_string(&mut text);
    let _ = read.map_err(|error| format!("standard input: {error}"))?;
    if text.len() > INPUT_MAX_BYTES {
        return Err(format!("the standard input has at most {INPUT_MAX_BYTES} bytes"));
    }
    Ok(Some(text))
}

/// Sends a command; one that destroys something is confirmed first by whoever sits at the terminal.
fn ask(connection: &mut Connection, request: &Request, is_terminal: bool) -> io::Result<Response> {
    let response = asked_again(connection, request)?;
    if response.destroys.is_empty() || !is_terminal {
        return Ok(response);
    }
    let mut question = io::stderr();
    for what in &response.destroys {
        writeln!(question, "this destroys {what}")?;
    }
    write!(question, "yes to go on: ")?;
    question.flush()?;
    let mut answer = String::new();
    io::stdin().lock().take(ANSWER_MAX_BYTES).read_line(&mut answer)?;
    if answer.trim() != "yes" {
        return Ok(response);
    }
    let mut confirmed = request.clone();
    let end_of_options = confirmed.argv.iter().position(|word| word == "--");
    confirmed.argv.insert(end_of_options.unwrap_or(confirmed.argv.len()), "--yes".into());
    asked_again(connection, &confirmed)
}

/// Sends a command, and again for as long as the answer says that there is more.
fn asked_again(connection: &mut Connection, request: &Request) -> io::Result<Response> {
    let mut request = request.clone();
    loop {
        let mut response = connection.ask(&request)?;
        if response.again.is_empty() {
            return Ok(response);
        }
        request.argv = std::mem::take(&mut response.again);
        let shown = io::stdout().write_all(response.stdout.as_bytes()).and_then(|()| io::stdout().flush());
        let _ = io::stderr().write_all(response.stderr.as_bytes());
        if shown.is_err() {
            // Nobody reads any more.
            return Ok(Response::default());
        }
    }
}

/// `holdfast shell`: a prompt on a terminal; otherwise one command a line until the end of the input. The exit code is
/// that of the last one.
pub(crate) fn interactive(cli: &Cli) -> ExitCode {
    if io::stdin().is_terminal() && io::stdout().is_terminal() {
        let ended = socket(cli).and_then(|path| {
            prompt_local::run(&path)
                .map_err(|error| format!("no array answers at {}: {error}", path.display()))
        });
        return match ended {
            Ok(exit) => ExitCode::from(exit),
            Err(why) => print(&Response::failed(Exit::Unreachable, "shell", &why)),
        };
    }
    let connected = socket(cli).and_then(|path| {
        Connection::open(&path).map_err(|error| format!("no array answers at {}: {error}", path.display()))
    });
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(why) => return print(&Response::failed(Exit::Unreachable, "shell", &why)),
    };
    let is_terminal = io::stdin().is_terminal();
    let mut last = ExitCode::SUCCESS;
    loop {
        // Read without keeping the lock: a question in between reads from the same input.
        let mut line = String::new();
        if !matches!(io::stdin().lock().read_line(&mut line), Ok(1..)) {
            return last;
        }
        let line = line.trim_end_matches(['\n', '\r']);
        let argv = match words(line) {
            Ok(argv) if argv.is_empty() => continue,
            Ok(argv) if matches!(argv.as_slice(), [word] if is_farewell(word)) => return last,
            Ok(argv) => argv,
            Err(why) => {
                last = print(&Response::failed(Exit::Usage, line, &why));
                continue;
            }
        };
        match ask(&mut connection, &request(cli, argv), is_terminal) {
            Ok(response) => last = print(&response),
            Err(error) => return print(&Response::failed(Exit::Unreachable, line, &error.to_string())),
        }
    }
}

/// Where the array is listening for commands.
fn socket(cli: &Cli) -> Result<PathBuf, String> {
    if let Some(path) = cli.socket.clone().or_else(|| std::env::var_os("HOLDFAST_SOCKET").map(PathBuf::from))
    {
        return Ok(path);
    }
    let config = Config::load(&cli.config).map_err(|mistakes| {
        let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
        format!("name the management socket with --socket; the configuration does not tell it: {first}")
    })?;
    Ok(config.socket())
}

/// The words of the command itself: the options of the binary are not for the array.
fn without_own_options(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--" => {
                kept.push(word);
                kept.extend(words);
                break;
            }
            "--socket" | "--config" => {
                words.next();
            }
            other if other.starts_with("--socket=") || other.starts_with("--config=") => {}
            _ => kept.push(word),
        }
    }
    kept
}

/// Width of the terminal, 0 when there is none.
fn columns() -> u16 {
    if !io::stdout().is_terminal() {
        return 0;
    }
    rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col)
}

/// Prints an answer; a reader that has gone away (a pager, say) is no failure of the command.
fn print(response: &Response) -> ExitCode {
    let _ = io::stdout().write_all(response.stdout.as_bytes()).and_then(|()| io::stdout().flush());
    let _ = io::stderr().write_all(response.stderr.as_bytes());
    ExitCode::from(response.exit)
}

/// A longer answer to a question is no "yes".
const ANSWER_MAX_BYTES: u64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_the_binary_do_not_reach_the_array() {
        let kept = |line: &str| without_own_options(line.split(' ').map(str::to_owned)).join(" ");
        assert_eq!(kept("--socket /x volume list --json --config=y"), "volume list --json");
        assert_eq!(kept("volume show -- --socket"), "volume show -- --socket");
    }
}
