//! What a write of part of a stripe must read before it can compute the parity. Pure.
//!
//! The rows of a stripe are independent of each other. Rows of which the same data units are written form a *band*.
//! For each band the new parity is the sum of some columns that are read and the slots that are written:
//!
//! | strategy            | columns read                     | possible when                                  |
//! |---------------------|----------------------------------|------------------------------------------------|
//! | full                | none                             | all data units are written                     |
//! | read-modify-write   | old parity, old of what is written | these can be read and the parity is believed |
//! | reconstruct-write   | what is not written              | these can be read                              |
//! | without parity      | none                             | the parity's member is out                     |

/// A set of data units of a stripe, or of members: one bit each.
pub type Set = u32;

/// Consecutive rows of a stripe of which the same data units are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Band {
    /// The first row.
    pub first_row: u64,
    /// How many rows.
    pub rows: u64,
    /// Which data units are written.
    pub written: Set,
}

/// How the parity of a band is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// From what is written alone.
    Full,
    /// From the difference between old and new.
    ReadModifyWrite,
    /// From what is not written.
    ReconstructWrite,
    /// Not at all: there is no member for it.
    WithoutParity,
}

/// What of a stripe can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// How many data units a stripe has.
    pub data_units: usize,
    /// Data units that cannot be read.
    pub unreadable: Set,
    /// How the parity is.
    pub parity: ParityHealth,
}

/// What of the parity can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParityHealth {
    /// Readable, and the sum of the data.
    Good,
    /// Not readable or not to be believed, but it can be written.
    Unreadable,
    /// Its member is out.
    Out,
}

impl Health {
    fn all(self) -> Set {
        (1 << self.data_units) - 1
    }
}

/// The cheapest way that is possible; none: what is not written is lost.
#[must_use]
pub fn choose(written: Set, health: Health) -> Option<Strategy> {
    if health.parity == ParityHealth::Out {
        return Some(Strategy::WithoutParity);
    }
    let others = health.all() & !written;
    if others == 0 {
        return Some(Strategy::Full);
    }
    let modify = health.parity == ParityHealth::Good && written & health.unreadable == 0;
    let reconstruct = others & health.unreadable == 0;
    match (modify, reconstruct) {
        // Equal numbers of reads: the way that does not rest on the old parity.
        (true, true) if written.count_ones() + 1 < others.count_ones() => Some(Strategy::ReadModifyWrite),
        (_, true) => Some(Strategy::ReconstructWrite),
        (true, false) => Some(Strategy::ReadModifyWrite),
        (false, false) => None,
    }
}

/// The data units whose old content is read.
#[must_use]
pub fn columns(strategy: Strategy, written: Set, data_units: usize) -> Set {
    match strategy {
        Strategy::Full | Strategy::WithoutParity => 0,
        Strategy::ReadModifyWrite => written,
        Strategy::ReconstructWrite => ((1 << data_units) - 1) & !written,
    }
}

/// Cuts (row, data unit) pairs, sorted and without repetition, into bands of at most `rows_max` rows.
#[must_use]
pub fn bands(cells: &[(u64, usize)], rows_max: u64) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for row in cells.chunk_by(|one, next| one.0 == next.0) {
        let Some(first_row) = row.first().map(|cell| cell.0) else { continue };
        let written = row.iter().fold(0, |set, cell| set | 1 << cell.1);
        match bands.last_mut() {
            Some(band)
                if band.written == written
                    && band.first_row + band.rows == first_row
                    && band.rows < rows_max =>
            {
                band.rows += 1;
            }
            _ => bands.push(Band { first_row, rows: 1, written }),
        }
    }
    bands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_has_a_way_while_at_most_one_member_cannot_be_read() {
        for data_units in 2..=6 {
            for written in 1_u32..1 << data_units {
                for lost in 0..=data_units + 2 {
                    let unreadable = if lost < data_units { 1 << lost } else { 0 };
                    let parity = match lost - lost.min(data_units) {
                        0 => ParityHealth::Good,
                        1 => ParityHealth::Unreadable,
                        _ => ParityHealth::Out,
                    };
                    let health = Health { data_units, unreadable, parity };
                    let strategy = choose(written, health).expect("one loss is borne");
                    assert_eq!(columns(strategy, written, data_units) & unreadable, 0);
                    assert!(strategy != Strategy::ReadModifyWrite || parity == ParityHealth::Good);
                }
            }
        }
    }

    #[test]
    fn a_lost_neighbour_and_a_parity_that_is_not_believed_end_it() {
        let health = Health { data_units: 3, unreadable: 0b100, parity: ParityHealth::Unreadable };
        assert_eq!(choose(0b001, health), None);
        assert_eq!(choose(0b111, health), Some(Strategy::Full));
    }

    #[test]
    fn a_small_write_in_a_wide_stripe_reads_two_slots() {
        let health = Health { data_units: 8, unreadable: 0, parity: ParityHealth::Good };
        assert_eq!(choose(1, health), Some(Strategy::ReadModifyWrite));
        assert_eq!(choose(0b0111_1111, health), Some(Strategy::ReconstructWrite));
    }

    #[test]
    fn a_run_over_two_units_makes_three_bands() {
        let mut cells: Vec<(u64, usize)> =
            (2..16).map(|row| (row, 0)).chain((0..8).map(|row| (row, 1))).collect();
        cells.sort_unstable();
        let found: Vec<_> = bands(&cells, 100).iter().map(|b| (b.first_row, b.rows, b.written)).collect();
        assert_eq!(found, [(0, 2, 2), (2, 6, 3), (8, 8, 1)]);
        assert_eq!(bands(&cells, 3).iter().map(|band| band.rows).max(), Some(3));
    }
}
