//! Volumes whose data is at another array (promise T3).

use super::error::IoError;
use crate::clock::BoxFuture;
use crate::disk::Pieces;

/// Where the data of virtual volumes is. Defined here, by its user.
pub(crate) trait Elsewhere: Send + Sync {
    /// Reads a range of a volume, given by its number here.
    fn read(
        &self,
        volume: u32,
        offset_bytes: u64,
        length: usize,
    ) -> BoxFuture<'static, Result<Pieces, IoError>>;
}
