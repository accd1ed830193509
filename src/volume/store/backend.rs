//! Where the control store lies: a file that only one process opens, or simulated storage.

use super::sim::SimStorage;
use super::untouched::Untouched;
use redb::{Builder, Database, DatabaseError};
use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Where a store lies.
#[derive(Clone, Debug)]
pub enum Backend {
    /// `control.redb` in this directory, which is made when it does not exist.
    Directory(PathBuf),
    /// `control.redb` in this directory, to be looked at: nothing is written to it, and no array may use it.
    Untouched(PathBuf),
    /// In memory, with power cuts.
    Simulated(SimStorage),
}

/// Why a store cannot be opened. The operator can do something about each.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{place} is in use: is another holdfast running on this data directory?")]
    InUse {
        /// The file.
        place: String,
    },
    /// It belongs to another array.
    #[error("{place}: {text}")]
    Foreign {
        /// The file.
        place: String,
        /// What differs.
        text: String,
    },
    /// It cannot be read or written, or what is read makes no sense.
    #[error("{place}: {reason}")]
    Unusable {
        /// The file.
        place: String,
        /// Why.
        reason: String,
    },
}

impl Backend {
    /// What messages call it.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Directory(directory) | Self::Untouched(directory) => {
                file_in(directory).display().to_string()
            }
            Self::Simulated(_) => "simulated storage".to_owned(),
        }
    }

    pub(super) fn damaged(&self, reason: String) -> StoreError {
        StoreError::Unusable { place: self.place(), reason }
    }

    pub(super) fn open(&self) -> Result<Database, StoreError> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let opened = match self {
            Self::Directory(directory) => builder.create_file(self.file(directory)?),
            Self::Untouched(directory) => {
                let file = Untouched::open(&file_in(directory)).map_err(|error| match error.kind() {
                    ErrorKind::WouldBlock => StoreError::InUse { place: self.place() },
                    _ => self.damaged(error.to_string()),
                })?;
                builder.create_with_backend(file)
            }
            Self::Simulated(storage) => builder.create_with_backend(storage.clone()),
        };
        opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { place: self.place() },
            other => self.damaged(other.to_string()),
        })
    }

    /// Opens or makes the file. It holds secrets: nobody but its owner may read it, also when it was there before.
    fn file(&self, directory: &Path) -> Result<std::fs::File, StoreError> {
        let fail = |error: std::io::Error| self.damaged(error.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        let path = file_in(directory);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(fail)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        // The name of a new file must survive a power cut as surely as what is written to it.
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
        Ok(file)
    }
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("control.redb")
}

/// The tables are in memory anyway; the database's own cache serves commits only.
const CACHE_BYTES: usize = 4 << 20;
