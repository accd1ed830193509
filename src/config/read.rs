//! The sections outside `[provision]`, and the order in which a file is read: syntax, sections, references.

use super::mistake::{Mistake, References, Report};
use super::quantity::{ByteSize, parse_duration};
use super::walk::{Read, Table, Value, parsed, small, text, word};
use super::{
    ArraySection, CacheSection, Config, DiskSection, Engine, Limits, Portal, Provision, Serves, SshSection,
    WebSection, check, provision_read,
};
use crate::volume::name::{ARRAY_NUMBER_MAX, ArrayNumber, PortalGroup};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

/// Reads a whole file.
pub(super) fn config(path: &Path, source: &str, references: References) -> Result<Config, Vec<Mistake>> {
    let report = Report::new(path, source).referring(references);
    let (document, errors) = DeTable::parse_recoverable(source);
    for error in &errors {
        report.note(error.span().map_or(0, |span| span.start), error.message());
    }
    // After a syntax error the tree is a guess; what it says about keys would be noise.
    let config = if errors.is_empty() { sections(path, &report, &document) } else { None };
    let mistakes = report.into_mistakes();
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(mistakes),
    }
}

/// Reads `[provision]` alone, with the number of the array if it is there.
pub(super) fn provision_only(
    path: &Path,
    source: &str,
    base: &Path,
    references: References,
) -> Result<(Option<ArrayNumber>, Provision), Vec<Mistake>> {
    let report = Report::with_base(path, source, base).referring(references);
    let (document, errors) = DeTable::parse_recoverable(source);
    for error in &errors {
        report.note(error.span().map_or(0, |span| span.start), error.message());
    }
    let read = if errors.is_empty() {
        let root = Table::root(&report, &document, &ROOT_KEYS);
        let array = root.value("array").and_then(|value| root.peek_one(value));
        let number = array.and_then(|array| array.optional("number", small(1, ARRAY_NUMBER_MAX)));
        let provision = provision_read::provision(&root);
        check::across_sections(&root);
        provision.map(|provision| (number.map(ArrayNumber), provision))
    } else {
        None
    };
    let mistakes = report.into_mistakes();
    match read {
        Some(read) if mistakes.is_empty() => Ok(read),
        _ => Err(mistakes),
    }
}

fn sections<'a>(
    path: &Path,
    report: &'a Report<'a>,
    document: &'a toml::Spanned<DeTable<'a>>,
) -> Option<Config> {
    let root = Table::root(report, document, &ROOT_KEYS);
    // Everything is read before anything is given up, so that all mistakes are found.
    let array = array(&root);
    let cache = cache(&root);
    let disk = disk(&root);
    let portals = portals(&root);
    let ssh = ssh(&root);
    let web = web(&root);
    let limits = limits(&root);
    let provision = provision_read::provision(&root);
    check::across_sections(&root);
    Some(Config {
        source: path.to_owned(),
        array: array?,
        cache: cache?,
        disk: disk?,
        portals: portals?,
        ssh: ssh?,
        web: web?,
        limits: limits?,
        provision: provision?,
    })
}

/// `None` when it is wrong, `Some(None)` when there is no SSH.
fn ssh(root: &Table<'_>) -> Option<Option<SshSection>> {
    if root.value("shell").is_none() {
        return Some(None);
    }
    let table = root.table("shell", "[shell]", &["ssh", "authorized_keys"])?;
    let listen = table.maybe("ssh", socket_address);
    let keys = table.maybe("authorized_keys", path);
    match (listen?, keys?) {
        (Some(listen), Some(authorized_keys)) => Some(Some(SshSection { listen, authorized_keys })),
        (Some(_), None) => {
            table.note("ssh", "ssh: [shell] needs authorized_keys too: the file with the keys that let in");
            None
        }
        (None, _) => Some(None),
    }
}

/// `None` when it is wrong, `Some(None)` when there is none.
fn web(root: &Table<'_>) -> Option<Option<WebSection>> {
    if root.value("web").is_none() {
        return Some(None);
    }
    let table = root.table("web", "[web]", &["listen"])?;
    let listen = table.required("listen", socket_address)?;
    Some(Some(WebSection { listen }))
}

fn array(root: &Table<'_>) -> Option<ArraySection> {
    if root.value("array").is_none() {
        root.note("array", "[array] is missing: it needs number, name and data_dir");
    }
    let table = root.table("array", "[array]", &["number", "name", "data_dir"])?;
    let number = table.required("number", small(1, ARRAY_NUMBER_MAX));
    let name = table.required("name", parsed);
    let data_dir = table.required("data_dir", path);
    Some(ArraySection { number: ArrayNumber(number?), name: name?, data_dir: data_dir? })
}

fn cache(root: &Table<'_>) -> Option<CacheSection> {
    if root.value("cache").is_none() {
        let journal = ByteSize(CACHE_MEMORY_DEFAULT.0 / 4);
        return Some(CacheSection { memory: CACHE_MEMORY_DEFAULT, journal });
    }
    let table = root.table("cache", "[cache]", &["memory", "journal"])?;
    let memory = table.or("memory", CACHE_MEMORY_DEFAULT, size_within(CACHE_MEMORY_MIN, CACHE_MEMORY_MAX));
    let most = ByteSize(memory.map_or(CACHE_MEMORY_MAX.0, |memory| memory.0) / 2);
    let quarter = ByteSize(most.0 / 2);
    let journal = table.or("journal", quarter, size_within(CACHE_JOURNAL_MIN, most));
    Some(CacheSection { memory: memory?, journal: journal? })
}

fn disk(root: &Table<'_>) -> Option<DiskSection> {
    if root.value("disk").is_none() {
        return Some(DiskSection { engine: Engine::Automatic });
    }
    let table = root.table("disk", "[disk]", &["engine"])?;
    let engines = word(&[("io_uring", Engine::IoUring), ("plain", Engine::Plain)]);
    Some(DiskSection { engine: table.or("engine", Engine::Automatic, engines)? })
}

fn portals(root: &Table<'_>) -> Option<Vec<Portal>> {
    if root.value("portal").is_none() {
        root.note("portal", "[[portal]] is missing: at least one, with listen and serves");
    }
    let tables = root.tables("portal", "[[portal]]", &["listen", "serves", "group"]);
    let read: Vec<Option<Portal>> = tables.iter().map(portal).collect();
    check::portals(&tables);
    read.into_iter().collect()
}

fn portal(table: &Table<'_>) -> Option<Portal> {
    let listen = table.required("listen", socket_address);
    let serves = serves(table);
    let group = table.or("group", 1, small(1, u16::MAX));
    Some(Portal { listen: listen?, serves: serves?, group: PortalGroup(group?) })
}

fn serves(table: &Table<'_>) -> Option<Serves> {
    if table.value("serves").is_none() {
        table.note("serves", "[[portal]] needs serves: \"hosts\", \"arrays\" or both");
        return None;
    }
    let words = table.each("serves", word(&[("hosts", Serves::Hosts), ("arrays", Serves::Arrays)]))?;
    match (words.contains(&Serves::Hosts), words.contains(&Serves::Arrays)) {
        (true, true) => Some(Serves::Both),
        (true, false) => Some(Serves::Hosts),
        (false, true) => Some(Serves::Arrays),
        (false, false) => {
            table.note("serves", "serves: nobody; name \"hosts\", \"arrays\" or both");
            None
        }
    }
}

fn limits(root: &Table<'_>) -> Option<Limits> {
    let defaults = Limits::default();
    if root.value("limits").is_none() {
        return Some(defaults);
    }
    let table = root.table("limits", "[limits]", &LIMIT_KEYS)?;
    let burst = || slots_within(ByteSize(4_096), ByteSize::mebibytes(16));
    let sessions = table.or("sessions", defaults.sessions, small(1, 65_536));
    let logins = table.or("logins_in_progress", defaults.logins_in_progress, small(1, 4_096));
    let timeout = table.or("login_timeout", defaults.login_timeout, duration_within(1, 600));
    let first_burst = table.or("first_burst", defaults.first_burst, burst());
    let max_burst = table.or("max_burst", defaults.max_burst, burst());
    let data_segment = table.or("data_segment", defaults.data_segment, burst());
    let shell_clients = table.or("shell_clients", defaults.shell_clients, small(1, 1_024));
    let audit_records = table.or("audit_records", defaults.audit_records, small(100, 10_000_000));
    if let (Some(first), Some(most)) = (first_burst, max_burst)
        && first > most
    {
        table.note("first_burst", format!("first_burst: {first} is more than max_burst, {most}"));
    }
    Some(Limits {
        sessions: sessions?,
        logins_in_progress: logins?,
        login_timeout: timeout?,
        first_burst: first_burst?,
        max_burst: max_burst?,
        data_segment: data_segment?,
        shell_clients: shell_clients?,
        audit_records: audit_records?,
    })
}

/// A path that is not empty.
pub(super) fn path(value: &Value<'_>) -> Read<PathBuf> {
    match text(value)? {
        "" => Err("a path is needed, not \"\"".into()),
        given if given.contains('\0') => Err("a path has no NUL".into()),
        given => Ok(given.into()),
    }
}

/// A size within limits.
pub(super) fn size_within(least: ByteSize, most: ByteSize) -> impl Fn(&Value<'_>) -> Read<ByteSize> {
    move |value| {
        let size = ByteSize::parse(text(value)?)?;
        if (least..=most).contains(&size) {
            Ok(size)
        } else {
            Err(format!("{size} is not within {least} to {most}"))
        }
    }
}

/// A size within limits that is a whole number of slots.
pub(super) fn slots_within(least: ByteSize, most: ByteSize) -> impl Fn(&Value<'_>) -> Read<ByteSize> {
    move |value| {
        let size = size_within(least, most)(value)?;
        if size.0.is_multiple_of(SLOT_BYTES) {
            Ok(size)
        } else {
            Err(format!("{size} is not a multiple of 4KiB"))
        }
    }
}

/// A time within limits, in seconds.
fn duration_within(least_s: u64, most_s: u64) -> impl Fn(&Value<'_>) -> Read<Duration> {
    move |value| {
        let duration = parse_duration(text(value)?)?;
        if (Duration::from_secs(least_s)..=Duration::from_secs(most_s)).contains(&duration) {
            Ok(duration)
        } else {
            Err(format!("{duration:?} is not within {least_s}s to {most_s}s"))
        }
    }
}

fn socket_address(value: &Value<'_>) -> Read<SocketAddr> {
    let given = text(value)?;
    given
        .parse()
        .map_err(|_| format!("{given:?} is not address:port, as in \"127.0.0.1:3260\" or \"[::]:3260\""))
}

/// What the array writes and reads in: everything on units is a whole number of these.
pub(super) const SLOT_BYTES: u64 = 4_096;

const ROOT_KEYS: [&str; 8] = ["array", "cache", "disk", "portal", "shell", "web", "limits", "provision"];
const LIMIT_KEYS: [&str; 8] = [
    "sessions",
    "logins_in_progress",
    "login_timeout",
    "first_burst",
    "max_burst",
    "data_segment",
    "shell_clients",
    "audit_records",
];
const CACHE_MEMORY_DEFAULT: ByteSize = ByteSize::mebibytes(512);
/// Below it the reserves of the cache do not fit.
const CACHE_MEMORY_MIN: ByteSize = ByteSize::mebibytes(16);
/// One large update.
const CACHE_JOURNAL_MIN: ByteSize = ByteSize::mebibytes(1);
const CACHE_MEMORY_MAX: ByteSize = ByteSize(64 << 40);
