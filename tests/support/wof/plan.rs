//! What the checked writer does, decided by a seed alone: the n-th operation is the same in every run.
//!
//! Each volume has a small hot area at its front that is overwritten again and again, and behind it a write-once area
//! for chains (each link on the next volume, one at a time) and appends. Write-once places may be zeroed once, and
//! written once more after that.

use super::super::random::Random;

/// The number of a write or zeroing; the first is 1. On each sector a larger id is a newer version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct WriteId(pub(crate) u64);

/// The volumes of one group. A sector here is 512 bytes, whatever the block size of the volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Geometry {
    /// How many volumes.
    pub(crate) volumes: u32,
    /// Size of each.
    pub(crate) sectors_per_volume: u64,
    /// Logical block: 1 for 512 bytes, 8 for 4096. Places are aligned to it.
    pub(crate) sectors_per_block: u32,
    /// Size of the hot area of each volume.
    pub(crate) hot_sectors: u64,
}

impl Geometry {
    /// Volumes of 4096-byte blocks with a hot area of 256 sectors.
    pub(crate) fn new(volumes: u32, sectors_per_volume: u64) -> Self {
        Self {
            volumes,
            sectors_per_volume,
            sectors_per_block: 8,
            hot_sectors: 256.min(sectors_per_volume / 4),
        }
    }

    /// Sectors of all volumes.
    pub(crate) fn total_sectors(&self) -> usize {
        usize::try_from(u64::from(self.volumes) * self.sectors_per_volume).expect("test volumes are small")
    }

    /// Position of a sector in arrays that cover all volumes.
    pub(crate) fn flat(&self, volume: u32, lba: u64) -> usize {
        usize::try_from(u64::from(volume) * self.sectors_per_volume + lba).expect("test volumes are small")
    }

    /// Volume and address of a flat position.
    pub(crate) fn unflat(&self, flat: usize) -> (u32, u64) {
        let flat = u64::try_from(flat).expect("a position fits 64 bits");
        let volume = u32::try_from(flat / self.sectors_per_volume).expect("volumes are few");
        (volume, flat % self.sectors_per_volume)
    }
}

/// A range of one volume, in sectors of 512 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Place {
    /// Index of the volume in the group.
    pub(crate) volume: u32,
    /// First sector.
    pub(crate) lba: u64,
    /// Number of sectors.
    pub(crate) sectors: u32,
}

impl Place {
    /// One past its last sector.
    pub(crate) fn end(&self) -> u64 {
        self.lba + u64::from(self.sectors)
    }

    /// Whether the two share a sector.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.volume == other.volume && self.lba < other.end() && other.lba < self.end()
    }

    /// Whether it contains the sector.
    pub(crate) fn contains(&self, volume: u32, lba: u64) -> bool {
        self.volume == volume && (self.lba..self.end()).contains(&lba)
    }

    /// Flat positions of its sectors.
    pub(crate) fn flat(&self, geometry: &Geometry) -> std::ops::Range<usize> {
        let first = geometry.flat(self.volume, self.lba);
        first..first + usize::try_from(self.sectors).expect("a length fits")
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> usize {
        usize::try_from(self.sectors).expect("a length fits") * super::SECTOR_BYTES
    }
}

/// How a write wants to be durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// As the volume promises.
    Plain,
    /// Force unit access: durable before status.
    Fua,
}

/// The kinds of commands in the mix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Sent only after the previous chain command was acknowledged, on the next volume, to a fresh place.
    Chain,
    /// To a fresh place, at any time.
    Append,
    /// To the hot area, overlapping older commands at will.
    Hot,
    /// Zeroes exactly the place of one earlier chain or append command.
    Zero,
    /// Writes a zeroed place once more.
    Revive,
}

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Writes stamps.
    Write(Durability),
    /// UNMAP, exactly over the place of this earlier command.
    Zero {
        /// The command whose data goes.
        victim: WriteId,
    },
}

/// A command that changes data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    /// Its number.
    pub(crate) id: WriteId,
    /// Why it exists.
    pub(crate) class: Class,
    /// Where.
    pub(crate) place: Place,
    /// What.
    pub(crate) action: Action,
}

/// One step of the workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Operation {
    /// Changes data.
    Command(Command),
    /// SYNCHRONIZE CACHE of one volume.
    Sync {
        /// Which.
        volume: u32,
    },
    /// A read that is judged against the log.
    Read(Place),
}

/// The endless sequence of operations of one seed.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    geometry: Geometry,
    random: Random,
    next_id: u64,
    chain_volume: u32,
    once_cursor: Vec<u64>,
    zeroable: Vec<Command>,
    zeroed: Vec<Place>,
    recent: Vec<Place>,
    hot_only: bool,
}

impl Plan {
    /// The mix of all classes.
    pub(crate) fn mixed(seed: u64, geometry: Geometry) -> Self {
        Self {
            geometry,
            random: Random::new(seed ^ 0x706c_616e),
            next_id: 1,
            chain_volume: 0,
            once_cursor: vec![
                geometry.hot_sectors;
                usize::try_from(geometry.volumes).expect("volumes are few")
            ],
            zeroable: Vec::new(),
            zeroed: Vec::new(),
            recent: Vec::new(),
            hot_only: false,
        }
    }

    /// Overwrites of the hot areas only: the sharpest instrument at queue depth 1.
    pub(crate) fn hot_only(seed: u64, geometry: Geometry) -> Self {
        Self { hot_only: true, ..Self::mixed(seed, geometry) }
    }

    /// Goes on as another seed has it, with numbers of its own.
    pub(crate) fn go_on_as(&mut self, seed: u64) {
        self.random = Random::new(seed ^ 0x706c_616e);
        self.next_id += 100_000;
    }

    /// The volumes it works on.
    pub(crate) fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The next operation.
    pub(crate) fn next_operation(&mut self) -> Operation {
        let roll = self.random.below(1000);
        if roll < 10 {
            return Operation::Sync { volume: self.any_volume() };
        }
        if roll < 40
            && let Some(place) = self.pick_recent()
        {
            return Operation::Read(place);
        }
        let command = if self.hot_only { self.hot() } else { self.command() };
        if self.recent.len() < RECENT_PLACES {
            self.recent.push(command.place);
        } else {
            let index = self.random.index(RECENT_PLACES);
            self.recent[index] = command.place;
        }
        Operation::Command(command)
    }

    fn command(&mut self) -> Command {
        let roll = self.random.below(100);
        let special = match roll {
            0..2 => self.zero(),
            2..3 => self.revive(),
            3..38 => self.once(Class::Chain),
            38..68 => self.once(Class::Append),
            _ => None,
        };
        special.unwrap_or_else(|| self.hot())
    }

    fn zero(&mut self) -> Option<Command> {
        if self.zeroable.is_empty() {
            return None;
        }
        let index = self.random.index(self.zeroable.len());
        let victim = self.zeroable.swap_remove(index);
        self.zeroed.push(victim.place);
        Some(self.numbered(Class::Zero, victim.place, Action::Zero { victim: victim.id }))
    }

    fn revive(&mut self) -> Option<Command> {
        if self.zeroed.is_empty() {
            return None;
        }
        let index = self.random.index(self.zeroed.len());
        let place = self.zeroed.swap_remove(index);
        let durability = self.durability();
        Some(self.numbered(Class::Revive, place, Action::Write(durability)))
    }

    fn once(&mut self, class: Class) -> Option<Command> {
        let volume = if class == Class::Chain { self.chain_volume } else { self.any_volume() };
        let sectors = self.length(self.geometry.sectors_per_volume / 64);
        let cursor = self.once_cursor.get_mut(usize::try_from(volume).ok()?)?;
        if *cursor + u64::from(sectors) > self.geometry.sectors_per_volume {
            return None; // the write-once area of this volume is used up; the caller takes a hot place
        }
        let place = Place { volume, lba: *cursor, sectors };
        *cursor += u64::from(sectors);
        if class == Class::Chain {
            self.chain_volume = (volume + 1) % self.geometry.volumes;
        }
        let durability = self.durability();
        let command = self.numbered(class, place, Action::Write(durability));
        self.zeroable.push(command);
        Some(command)
    }

    fn hot(&mut self) -> Command {
        let volume = self.any_volume();
        let sectors = self.length(self.geometry.hot_sectors / 2);
        let block = u64::from(self.geometry.sectors_per_block);
        let starts = (self.geometry.hot_sectors - u64::from(sectors)) / block + 1;
        let lba = self.random.below(starts) * block;
        let durability = self.durability();
        self.numbered(Class::Hot, Place { volume, lba, sectors }, Action::Write(durability))
    }

    fn numbered(&mut self, class: Class, place: Place, action: Action) -> Command {
        let id = WriteId(self.next_id);
        self.next_id += 1;
        Command { id, class, place, action }
    }

    fn durability(&mut self) -> Durability {
        if self.random.percent(FUA_PERCENT) { Durability::Fua } else { Durability::Plain }
    }

    /// A length in sectors: whole blocks, at least one, at most `limit`.
    fn length(&mut self, limit: u64) -> u32 {
        let roll = self.random.below(100);
        let wanted: u32 = match roll {
            0..45 => 1,
            45..80 => 8,
            80..92 => 64,
            92..98 => 128,
            _ => 2048,
        };
        let block = self.geometry.sectors_per_block;
        let limit = u32::try_from(limit).unwrap_or(u32::MAX).max(block);
        wanted.min(limit / block * block).next_multiple_of(block)
    }

    fn any_volume(&mut self) -> u32 {
        u32::try_from(self.random.below(u64::from(self.geometry.volumes))).expect("volumes are few")
    }

    fn pick_recent(&mut self) -> Option<Place> {
        let index = self.random.index(self.recent.len());
        self.recent.get(index).copied()
    }
}

const FUA_PERCENT: u64 = 5;
/// Places that reads choose from.
const RECENT_PLACES: usize = 64;
