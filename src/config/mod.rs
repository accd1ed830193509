//! The configuration file: TOML in, types that cannot be wrong out, or every mistake with its place at once.
//!
//! `docs/operations.md` describes it for operators, `conf/holdfast.toml` shows every key. Relative paths are taken
//! from the working directory of the daemon, as in any other argument. Unknown keys are mistakes, and so is every key
//! of a part that this build does not have: nothing is silently ignored.

mod check;
mod designate;
mod export;
mod mistake;
mod provision;
mod provision_read;
mod quantity;
mod read;
mod relay;
mod timing;
mod transfer;
mod walk;

pub use crate::volume::kind::{
    CacheMode, CopyMode, InitiatorRule, PortalAddress, RaidLevel, Release, Schedule, SvolAccess, SvolSpec,
};
pub use crate::volume::secret::{SECRET_MAX_BYTES, SECRET_MIN_BYTES, Secret};
pub use designate::missing_designations;
pub use export::{declared, different, to_toml};
pub use mistake::{Mistake, References};
pub use provision::{
    Chap, ChapUser, GroupSpec, JournalSpec, LinkSpec, LunSpec, MemberSpec, MutualChap, PairSpec,
    ParityGroupSpec, Provision, ReaderSpec, TargetSpec, UnitSpec, VolumeSpec,
};
pub use quantity::{ByteSize, parse_duration, parse_stop};
pub use timing::{parse_no_room, parse_read_size, parse_read_timing, parse_release_by, parse_restore_timing};
pub use transfer::{parse_compression, parse_fetch, parse_limit, parse_window};

use crate::volume::name::{ArrayName, ArrayNumber, PortalGroup};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A whole configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub source: PathBuf,
    /// `[array]`.
    pub array: ArraySection,
    /// `[cache]`.
    pub cache: CacheSection,
    /// `[disk]`.
    pub disk: DiskSection,
    /// `[[portal]]`, at least one.
    pub portals: Vec<Portal>,
    /// `[shell]` with `ssh`: the shell over SSH.
    pub ssh: Option<SshSection>,
    /// `[web]`: metrics and health.
    pub web: Option<WebSection>,
    /// `[limits]`, with defaults for what is absent.
    pub limits: Limits,
    /// `[provision]`: objects that are created when they do not exist.
    pub provision: Provision,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// All mistakes of the file, in its order.
    pub fn load(path: &Path) -> Result<Self, Vec<Mistake>> {
        Self::parse(path, &read_text(path)?)
    }

    /// Checks a text; `path` is what messages call it.
    ///
    /// # Errors
    /// All mistakes of the text, in its order.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Vec<Mistake>> {
        Self::parse_from(path, text, References::Followed)
    }

    /// The same, for a text that may come from another machine.
    ///
    /// # Errors
    /// All mistakes of the text, in its order.
    pub fn parse_from(path: &Path, text: &str, references: References) -> Result<Self, Vec<Mistake>> {
        read::config(path, text, references)
    }

    /// Where the management socket lies unless a command says otherwise.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.array.data_dir.join("holdfast.sock")
    }
}

impl Provision {
    /// Reads `[provision]` of a file, which may be a whole configuration or nothing else, and the number of the array
    /// if that stands there. Relative paths in it begin at `base`.
    ///
    /// # Errors
    /// All mistakes of `[provision]`, in their order.
    pub fn load(path: &Path, base: &Path) -> Result<(Option<ArrayNumber>, Self), Vec<Mistake>> {
        Self::parse(path, &read_text(path)?, base)
    }

    /// The same from a text; `path` is what messages call it.
    ///
    /// # Errors
    /// All mistakes of `[provision]`, in their order.
    pub fn parse(path: &Path, text: &str, base: &Path) -> Result<(Option<ArrayNumber>, Self), Vec<Mistake>> {
        Self::parse_from(path, text, base, References::Followed)
    }

    /// The same, for a text that may come from another machine.
    ///
    /// # Errors
    /// All mistakes of `[provision]`, in their order.
    pub fn parse_from(
        path: &Path,
        text: &str,
        base: &Path,
        references: References,
    ) -> Result<(Option<ArrayNumber>, Self), Vec<Mistake>> {
        read::provision_only(path, text, base, references)
    }
}

fn read_text(path: &Path) -> Result<String, Vec<Mistake>> {
    let whole = |text: String| vec![Mistake { file: path.to_owned(), line: None, column: 0, text }];
    let length = std::fs::metadata(path).map_err(|e| whole(format!("cannot be read: {e}")))?.len();
    if length > FILE_MAX_BYTES {
        return Err(whole(format!(
            "a configuration has at most {FILE_MAX_BYTES} bytes, this one has {length}"
        )));
    }
    std::fs::read_to_string(path).map_err(|e| whole(format!("cannot be read: {e}")))
}

/// `[array]`: who this array is.
#[derive(Clone, Debug)]
pub struct ArraySection {
    /// Storage system number, unique among linked arrays.
    pub number: ArrayNumber,
    /// Its name.
    pub name: ArrayName,
    /// Control store and management socket.
    pub data_dir: PathBuf,
}

/// `[cache]`.
#[derive(Clone, Debug)]
pub struct CacheSection {
    /// Memory for slots.
    pub memory: ByteSize,
    /// Of it, for updates that readers may still ask for, shared equally by the groups at work.
    pub journal: ByteSize,
}

/// `[disk]`.
#[derive(Clone, Debug)]
pub struct DiskSection {
    /// How units are read and written.
    pub engine: Engine,
}

/// How units are read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Engine {
    /// The ring where the kernel allows it, else plain system calls.
    Automatic,
    /// The ring, or no start.
    IoUring,
    /// Plain system calls.
    Plain,
}

/// `[[portal]]`: an address at which hosts, arrays or both are served.
#[derive(Clone, Debug)]
pub struct Portal {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whom it serves.
    pub serves: Serves,
    /// Target portal group tag.
    pub group: PortalGroup,
}

/// Whom a portal serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Hosts only.
    Hosts,
    /// Arrays only.
    Arrays,
    /// Both.
    Both,
}

impl Serves {
    /// Whether hosts may log in here.
    #[must_use]
    pub fn hosts(self) -> bool {
        matches!(self, Self::Hosts | Self::Both)
    }

    /// Whether other arrays may log in here.
    #[must_use]
    pub fn arrays(self) -> bool {
        matches!(self, Self::Arrays | Self::Both)
    }
}

/// `[shell]`: the maintenance shell over SSH.
#[derive(Clone, Debug)]
pub struct SshSection {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The public keys that let in, in OpenSSH's form.
    pub authorized_keys: PathBuf,
}

/// `[web]`: metrics and health over HTTP.
#[derive(Clone, Debug)]
pub struct WebSection {
    /// Where it listens.
    pub listen: SocketAddr,
}

/// `[limits]`: what a hostile or unlucky peer can reach, and no further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Sessions; a login beyond it is refused with "out of resources".
    pub sessions: u32,
    /// Connections that have not logged in yet; further ones are closed at once.
    pub logins_in_progress: u32,
    /// Time for a login; the connection is closed after it.
    pub login_timeout: Duration,
    /// Unsolicited data of one command (FirstBurstLength).
    pub first_burst: ByteSize,
    /// Solicited data of one R2T (MaxBurstLength).
    pub max_burst: ByteSize,
    /// Data of one PDU (MaxRecvDataSegmentLength).
    pub data_segment: ByteSize,
    /// Clients of the management socket; further ones are closed at once.
    pub shell_clients: u32,
    /// Records of the audit log; the oldest go first.
    pub audit_records: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 1_000,
            logins_in_progress: 64,
            login_timeout: Duration::from_secs(15),
            first_burst: ByteSize::kibibytes(64),
            max_burst: ByteSize::kibibytes(1_024),
            data_segment: ByteSize::kibibytes(256),
            shell_clients: 16,
            audit_records: 100_000,
        }
    }
}

/// A longer file is not a configuration and is not read.
pub const FILE_MAX_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests;
