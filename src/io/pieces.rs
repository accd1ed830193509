//! Between the cache's pieces and the channel's: handles move, bytes do not.

use crate::channel::piece::{Piece, Pieces};
use crate::disk::cache;

/// What was read, for the wire.
pub(crate) fn for_wire(read: &cache::Pieces) -> Pieces {
    let mut pieces = Pieces::new();
    for piece in read.iter() {
        match piece {
            cache::Piece::Bytes { slot, start, length } => pieces.push(Piece::Slot {
                slot: slot.clone(),
                at: u16::try_from(*start).expect("a place inside a page"),
                bytes: u16::try_from(*length).expect("at most a page"),
            }),
            cache::Piece::Zero { length } => {
                pieces.push(Piece::Zero(u32::try_from(*length).expect("a read is at most a few MiB")));
            }
        }
    }
    pieces
}
