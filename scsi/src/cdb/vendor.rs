//! The commands between arrays: vendor-specific operation codes C0h to C9h and D0h to D3h of the peer unit.
//!
//! All numbers are big-endian, and every byte not shown is zero, CONTROL included; anything else ends with INVALID FIELD IN CDB. A
//! command longer than 16 bytes travels in the extended-CDB AHS of RFC 7143.
//!
//! ```text
//! C0h PEER INFORMATION     16 bytes   10-13 allocation length
//! C1h JOURNAL READ         64 bytes   1 flags, 2 compression, 4-7 group, 8-15 start number, 16-47 position, 48-51 maximum updates,
//!                                     52-55 allocation length, 56-59 wait limit in milliseconds
//! C2h JOURNAL INFORMATION  16 bytes   4-7 group, 10-13 allocation length
//! C3h DESIGNATION          32 bytes   4-19 designation, 20-23 parameter list length
//! C4h DESIGNATION RESULT   32 bytes   4-19 designation, 20-23 allocation length
//! C5h REPORT POSITION      64 bytes   4-7 group, 16-47 position
//! C8h JOURNAL TABLES       64 bytes   as C1h, without compression
//! C7h LINK TEST            16 bytes   1 what, 10-13 allocation length
//! D0h FORWARDED WRITE      64 bytes   4-7 volume, 8-15 incarnation, 16-19 connection, 20-23 parameter list length,
//!                                     24-31 sequence number, 32-39 oldest sequence number under way
//! D1h FORWARDING STATE     32 bytes   20-23 parameter list length
//! D2h FORWARDED READ       32 bytes   4-7 volume, 8-15 first byte, 20-23 allocation length
//! C9h SYNCHRONISE          32 bytes   1 flags, 4-7 group, 8-15 channel, 20-23 allocation length, 24-27 last answer
//! D3h JOURNAL WRITE        32 bytes   4-7 group, 8-15 channel, 20-23 parameter list length
//! C6h COPY READ            64 bytes   4-7 group, 8-11 volume, 12-15 copy, 16-23 copied up to, 24-31 restored,
//!                                     52-55 allocation length, 56-59 wait limit in milliseconds
//!
//! compression  0 none, 1 to 9 the level of zstd that the answer may be compressed with
//! what      0 so many bytes back, 1 try the way back
//! flags     bit 0 start number valid, bit 1 repeated, bit 2 position valid; what is not valid is zero
//!           C9h: bit 0 the channel is in use, bit 1 the lease holds
//! position  four numbers of eight bytes: durable, restored, settled, consistent from
//! ```

mod fields;

use super::table::{Row, Vendor};
use crate::geometry::MAX_TRANSFER_BYTES;
use crate::sense::Sense;
use crate::wire::{array_at, put, u8_at, u32_at, u64_at};
use core::num::NonZeroU8;

/// The longest command descriptor block there is here.
pub const MAX_CDB_BYTES: usize = 64;

/// The longest parameter list of DESIGNATION. A longer one ends with INVALID FIELD IN CDB.
pub const MAX_DESIGNATION_BYTES: u32 = 1 << 20;

/// The longest parameter list of FORWARDED WRITE: the largest transfer, with the place of its first byte in a page, and the
/// pages of its head. A longer one ends with INVALID FIELD IN CDB.
pub const MAX_FORWARDED_BYTES: u32 = MAX_TRANSFER_BYTES + (4 << 12);

/// The longest parameter list of JOURNAL WRITE: what an answer to JOURNAL READ needs at most. A longer one ends with INVALID
/// FIELD IN CDB.
pub const MAX_JOURNAL_WRITE_BYTES: u32 = MAX_TRANSFER_BYTES + (64 << 10);

/// The longest parameter list of FORWARDING STATE. A longer one ends with INVALID FIELD IN CDB.
pub const MAX_FORWARDING_STATE_BYTES: u32 = 1 << 16;

/// The longest answer of LINK TEST. More is cut to it.
pub const MAX_LINK_TEST_BYTES: u32 = 1 << 20;

/// The highest level of compression that a reader may ask for. A higher one ends with INVALID FIELD IN CDB.
pub const MAX_COMPRESSION_LEVEL: u8 = 9;

/// A consistency group, as both arrays number it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(pub u32);

/// The place of an update in the order of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpdateNumber(pub u64);

/// Names one configuration change, so that it may be sent again without harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DesignationId(pub [u8; 16]);

/// How far a reader has come; each number covers all updates up to and including it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Durable in the reader's journal: frees the source's space.
    pub durable: UpdateNumber,
    /// Visible in the reader's volumes.
    pub restored: UpdateNumber,
    /// Durable in the reader's volumes.
    pub settled: UpdateNumber,
    /// From this number on the reader's volumes are an image of one point in time.
    pub consistent_from: UpdateNumber,
}

/// Whether JOURNAL READ asks for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// First time.
    First,
    /// An earlier answer was lost or damaged: deliver the same updates again.
    Again,
}

/// JOURNAL READ: the next updates of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRead {
    /// Whose updates.
    pub group: GroupNumber,
    /// The first update wanted; `None` is the one after the last delivered.
    pub start: Option<UpdateNumber>,
    /// First time or again.
    pub delivery: Delivery,
    /// The reader's position, when it has something new to say.
    pub acknowledgement: Option<Acknowledgement>,
    /// The level of zstd with which the write data may be compressed; `None` is not at all.
    pub compression: Option<NonZeroU8>,
    /// How many updates at most.
    pub max_updates: u32,
    /// How many bytes at most.
    pub allocation_length: u32,
    /// How long the source may hold the command when there is nothing to deliver.
    pub wait_limit_ms: u32,
}

/// FORWARDED WRITE: one host command that an upstream array passes on; its parameter list is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForwardedWrite {
    /// The volume, by its number at the array that receives it.
    pub volume: u32,
    /// How often the upstream array has been started.
    pub incarnation: u64,
    /// Which of its connections since then; a later one ends all before it.
    pub connection: u32,
    /// Which of its writes since then.
    pub sequence: u64,
    /// No write with a smaller number will be sent again.
    pub oldest: u64,
    /// Length of the parameter list, at most [`MAX_FORWARDED_BYTES`].
    pub list_length: u32,
}

/// COPY READ: the next piece of the copy of a volume that is itself a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyRead {
    /// The group of the pair.
    pub group: GroupNumber,
    /// The volume, as the group's records name it.
    pub volume: u32,
    /// Which copy of the pair.
    pub copy: u32,
    /// Everything of this copy below this byte is durable at the reader.
    pub copied_to_bytes: u64,
    /// What the reader has restored: the piece has to contain it.
    pub restored: UpdateNumber,
    /// How many bytes at most.
    pub allocation_length: u32,
    /// How long the source may hold the command when there is nothing to deliver.
    pub wait_limit_ms: u32,
}

/// JOURNAL WRITE: updates that the source of a synchronous copy sends by itself; its parameter list, which is an answer to
/// JOURNAL READ, is not read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalWrite {
    /// The group, as the sender numbers it.
    pub group: GroupNumber,
    /// What the sender calls the stretch of time for which this array keeps what it was sent.
    pub channel: u64,
    /// Length of the parameter list, at most [`MAX_JOURNAL_WRITE_BYTES`].
    pub list_length: u32,
}

/// SYNCHRONISE: how a synchronous copy stands, asked of its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Synchronise {
    /// The group, as the source numbers it.
    pub group: GroupNumber,
    /// The channel that the reader knows of; zero: none.
    pub channel: u64,
    /// Updates have come over it, and everything before them is there.
    pub in_use: bool,
    /// The reader shows itself as synchronised.
    pub holds_lease: bool,
    /// The number of the last answer that came, over whatever session; zero: none.
    pub heard: u32,
    /// Room for the answer.
    pub allocation_length: u32,
}

/// What LINK TEST is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkTest {
    /// Send zero bytes, to be timed.
    Bytes,
    /// Log in at the asking array, and say what came of it.
    Back,
}

/// A command between arrays, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VendorCommand {
    /// Who the array is and which generations it knows.
    PeerInformation {
        /// Room for the answer.
        allocation_length: u32,
    },
    /// The next updates of a group.
    JournalRead(JournalRead),
    /// State of a group's journal.
    JournalInformation {
        /// Which group.
        group: GroupNumber,
        /// Room for the answer.
        allocation_length: u32,
    },
    /// A configuration change; its parameter list is not read here.
    Designation {
        /// Which change.
        id: DesignationId,
        /// Length of its parameter list, at most [`MAX_DESIGNATION_BYTES`].
        list_length: u32,
    },
    /// What came of a configuration change.
    DesignationResult {
        /// Which change.
        id: DesignationId,
        /// Room for the answer.
        allocation_length: u32,
    },
    /// A reader's position, when there is nothing to read.
    ReportPosition {
        /// Which group.
        group: GroupNumber,
        /// The position.
        position: Acknowledgement,
    },
    /// A write that an upstream array passes on.
    ForwardedWrite(ForwardedWrite),
    /// What an upstream array says of its forwarding; its parameter list is not read here.
    ForwardingState {
        /// Length of its parameter list, at most [`MAX_FORWARDING_STATE_BYTES`].
        list_length: u32,
    },
    /// A part of the volume that writes are forwarded from.
    ForwardedRead {
        /// The volume, by its number at the array that reads.
        volume: u32,
        /// First byte.
        offset_bytes: u64,
        /// How many bytes.
        allocation_length: u32,
    },
    /// How a synchronous copy stands.
    Synchronise(Synchronise),
    /// Updates sent to a synchronous copy.
    JournalWrite(JournalWrite),
    /// The next piece of a copy.
    CopyRead(CopyRead),
    /// Where the next updates of a group lie in the journal volume; with them they count as delivered.
    JournalTables(JournalRead),
    /// A trial of the link.
    LinkTest {
        /// Which.
        test: LinkTest,
        /// Room for the answer.
        allocation_length: u32,
    },
}

/// A command descriptor block that was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VendorCdb {
    bytes: [u8; MAX_CDB_BYTES],
    length: usize,
}

impl VendorCdb {
    fn new(opcode: u8, length: usize) -> Self {
        let mut cdb = Self { bytes: [0; MAX_CDB_BYTES], length };
        cdb.put(0, &[opcode]);
        cdb
    }

    fn put(&mut self, at: usize, field: &[u8]) {
        put(&mut self.bytes, at, field);
    }

    /// The bytes: the first 16 belong in the command PDU, the rest into its AHS.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

impl VendorCommand {
    /// Reads a command whose row has been found.
    pub(crate) fn parse(which: Vendor, row: &Row, cdb: &[u8]) -> Result<Self, Sense> {
        check_reserved(row, cdb)?;
        let group = GroupNumber(u32_at(cdb, GROUP));
        let id = DesignationId(array_at(cdb, DESIGNATION_ID));
        Ok(match which {
            Vendor::PeerInformation => {
                Self::PeerInformation { allocation_length: u32_at(cdb, SHORT_ALLOCATION) }
            }
            Vendor::JournalRead => Self::JournalRead(JournalRead::parse(cdb)?),
            Vendor::JournalInformation => {
                Self::JournalInformation { group, allocation_length: u32_at(cdb, SHORT_ALLOCATION) }
            }
            Vendor::Designation => {
                let list_length = u32_at(cdb, DESIGNATION_LENGTH);
                if list_length > MAX_DESIGNATION_BYTES {
                    return Err(invalid(DESIGNATION_LENGTH));
                }
                Self::Designation { id, list_length }
            }
            Vendor::DesignationResult => {
                Self::DesignationResult { id, allocation_length: u32_at(cdb, DESIGNATION_LENGTH) }
            }
            Vendor::ReportPosition => Self::ReportPosition { group, position: Acknowledgement::parse(cdb) },
            Vendor::ForwardedWrite => Self::ForwardedWrite(ForwardedWrite::parse(cdb)?),
            Vendor::ForwardingState => {
                let list_length = u32_at(cdb, LIST_LENGTH);
                if list_length > MAX_FORWARDING_STATE_BYTES {
                    return Err(invalid(LIST_LENGTH));
                }
                Self::ForwardingState { list_length }
            }
            Vendor::ForwardedRead => Self::ForwardedRead {
                volume: group.0,
                offset_bytes: u64_at(cdb, OFFSET),
                allocation_length: u32_at(cdb, LIST_LENGTH),
            },
            Vendor::Synchronise => Self::Synchronise(Synchronise {
                group,
                channel: u64_at(cdb, CHANNEL),
                in_use: u8_at(cdb, FLAGS) & CHANNEL_IN_USE != 0,
                holds_lease: u8_at(cdb, FLAGS) & HOLDS_LEASE != 0,
                heard: u32_at(cdb, HEARD),
                allocation_length: u32_at(cdb, LIST_LENGTH),
            }),
            Vendor::JournalWrite => {
                let list_length = u32_at(cdb, LIST_LENGTH);
                if list_length > MAX_JOURNAL_WRITE_BYTES {
                    return Err(invalid(LIST_LENGTH));
                }
                Self::JournalWrite(JournalWrite { group, channel: u64_at(cdb, CHANNEL), list_length })
            }
            Vendor::CopyRead => Self::CopyRead(CopyRead {
                group,
                volume: u32_at(cdb, COPY_VOLUME),
                copy: u32_at(cdb, COPY_COUNT),
                copied_to_bytes: u64_at(cdb, COPIED_TO),
                restored: UpdateNumber(u64_at(cdb, COPY_RESTORED)),
                allocation_length: u32_at(cdb, READ_ALLOCATION),
                wait_limit_ms: u32_at(cdb, WAIT_LIMIT),
            }),
            Vendor::JournalTables => Self::JournalTables(JournalRead::parse(cdb)?),
            Vendor::LinkTest => {
                let test = if u8_at(cdb, FLAGS) == 0 { LinkTest::Bytes } else { LinkTest::Back };
                Self::LinkTest { test, allocation_length: u32_at(cdb, SHORT_ALLOCATION) }
            }
        })
    }

    /// Builds the command.
    #[must_use]
    pub fn to_cdb(&self) -> VendorCdb {
        match *self {
            Self::PeerInformation { allocation_length } => {
                let mut cdb = VendorCdb::new(0xC0, 16);
                cdb.put(SHORT_ALLOCATION, &allocation_length.to_be_bytes());
                cdb
            }
            Self::JournalRead(read) => read.to_cdb(0xC1),
            Self::JournalTables(read) => Self::without_compression(read).to_cdb(0xC8),
            Self::JournalInformation { group, allocation_length } => {
                let mut cdb = VendorCdb::new(0xC2, 16);
                cdb.put(GROUP, &group.0.to_be_bytes());
                cdb.put(SHORT_ALLOCATION, &allocation_length.to_be_bytes());
                cdb
            }
            Self::Designation { id, list_length } => designation(0xC3, id, list_length),
            Self::DesignationResult { id, allocation_length } => designation(0xC4, id, allocation_length),
            Self::ReportPosition { group, position } => {
                let mut cdb = VendorCdb::new(0xC5, 64);
                cdb.put(GROUP, &group.0.to_be_bytes());
                position.put(&mut cdb);
                cdb
            }
            Self::ForwardedWrite(write) => write.to_cdb(),
            Self::ForwardingState { list_length } => {
                let mut cdb = VendorCdb::new(0xD1, 32);
                cdb.put(LIST_LENGTH, &list_length.to_be_bytes());
                cdb
            }
            Self::ForwardedRead { volume, offset_bytes, allocation_length } => {
                let mut cdb = VendorCdb::new(0xD2, 32);
                cdb.put(GROUP, &volume.to_be_bytes());
                cdb.put(OFFSET, &offset_bytes.to_be_bytes());
                cdb.put(LIST_LENGTH, &allocation_length.to_be_bytes());
                cdb
            }
            Self::Synchronise(ask) => ask.to_cdb(),
            Self::JournalWrite(write) => {
                let mut cdb = VendorCdb::new(0xD3, 32);
                cdb.put(GROUP, &write.group.0.to_be_bytes());
                cdb.put(CHANNEL, &write.channel.to_be_bytes());
                cdb.put(LIST_LENGTH, &write.list_length.to_be_bytes());
                cdb
            }
            Self::CopyRead(read) => {
                let mut cdb = VendorCdb::new(0xC6, 64);
                cdb.put(GROUP, &read.group.0.to_be_bytes());
                cdb.put(COPY_VOLUME, &read.volume.to_be_bytes());
                cdb.put(COPY_COUNT, &read.copy.to_be_bytes());
                cdb.put(COPIED_TO, &read.copied_to_bytes.to_be_bytes());
                cdb.put(COPY_RESTORED, &read.restored.0.to_be_bytes());
                cdb.put(READ_ALLOCATION, &read.allocation_length.to_be_bytes());
                cdb.put(WAIT_LIMIT, &read.wait_limit_ms.to_be_bytes());
                cdb
            }
            Self::LinkTest { test, allocation_length } => {
                let mut cdb = VendorCdb::new(0xC7, 16);
                cdb.put(FLAGS, &[u8::from(test == LinkTest::Back)]);
                cdb.put(SHORT_ALLOCATION, &allocation_length.to_be_bytes());
                cdb
            }
        }
    }

    /// Tables are small.
    fn without_compression(read: JournalRead) -> JournalRead {
        JournalRead { compression: None, ..read }
    }

    /// How much data the command may return, cut by the initiator; zero for those that return none.
    #[must_use]
    pub fn allocation_length(&self) -> u32 {
        match *self {
            Self::PeerInformation { allocation_length }
            | Self::JournalInformation { allocation_length, .. }
            | Self::DesignationResult { allocation_length, .. }
            | Self::ForwardedRead { allocation_length, .. }
            | Self::LinkTest { allocation_length, .. } => allocation_length,
            Self::JournalRead(read) | Self::JournalTables(read) => read.allocation_length,
            Self::CopyRead(read) => read.allocation_length,
            Self::Synchronise(ask) => ask.allocation_length,
            Self::Designation { .. }
            | Self::ReportPosition { .. }
            | Self::ForwardedWrite(_)
            | Self::ForwardingState { .. }
            | Self::JournalWrite(_) => 0,
        }
    }
}

fn designation(opcode: u8, id: DesignationId, length: u32) -> VendorCdb {
    let mut cdb = VendorCdb::new(opcode, 32);
    cdb.put(DESIGNATION_ID, &id.0);
    cdb.put(DESIGNATION_LENGTH, &length.to_be_bytes());
    cdb
}

/// A command from a newer array may use a byte that means nothing here: it must fail, not be half understood.
fn check_reserved(row: &Row, cdb: &[u8]) -> Result<(), Sense> {
    if cdb.len() != row.usage.len() {
        return Err(Sense::INVALID_COMMAND);
    }
    let wrong = cdb.iter().zip(row.usage).skip(1).position(|(byte, usage)| byte & !usage != 0);
    wrong.map_or(Ok(()), |at| Err(invalid(at + 1)))
}

fn invalid(at: usize) -> Sense {
    Sense::invalid_field_in_cdb(u16::try_from(at).unwrap_or(0))
}

const FLAGS: usize = 1;
const COMPRESSION: usize = 2;
const GROUP: usize = 4;
const SHORT_ALLOCATION: usize = 10;
const DESIGNATION_ID: usize = 4;
const DESIGNATION_LENGTH: usize = 20;
const START: usize = 8;
const DURABLE: usize = 16;
const RESTORED: usize = 24;
const SETTLED: usize = 32;
const CONSISTENT_FROM: usize = 40;
const MAX_UPDATES: usize = 48;
const READ_ALLOCATION: usize = 52;
const WAIT_LIMIT: usize = 56;
const INCARNATION: usize = 8;
const OFFSET: usize = 8;
const CHANNEL: usize = 8;
const CONNECTION: usize = 16;
const LIST_LENGTH: usize = 20;
const HEARD: usize = 24;
const SEQUENCE: usize = 24;
const OLDEST: usize = 32;
const COPY_VOLUME: usize = 8;
const COPY_COUNT: usize = 12;
const COPIED_TO: usize = 16;
const COPY_RESTORED: usize = 24;
const CHANNEL_IN_USE: u8 = 0x01;
const HOLDS_LEASE: u8 = 0x02;
const START_VALID: u8 = 0x01;
const REPEATED: u8 = 0x02;
const POSITION_VALID: u8 = 0x04;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::table::{Command, Device, lookup};
    use alloc::vec;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn parse(cdb: &[u8]) -> Result<VendorCommand, Sense> {
        let row = lookup(Device::Peer, cdb)?;
        match row.command {
            Command::Vendor(which) => VendorCommand::parse(which, row, cdb),
            Command::Primary(_) | Command::Block(_) => Err(Sense::INVALID_COMMAND),
        }
    }

    fn position() -> impl Strategy<Value = Acknowledgement> {
        any::<[u64; 4]>().prop_map(|[durable, restored, settled, consistent_from]| Acknowledgement {
            durable: UpdateNumber(durable),
            restored: UpdateNumber(restored),
            settled: UpdateNumber(settled),
            consistent_from: UpdateNumber(consistent_from),
        })
    }

    fn journal_read() -> impl Strategy<Value = JournalRead> {
        let again = prop_oneof![Just(Delivery::First), Just(Delivery::Again)];
        let level = 0..=MAX_COMPRESSION_LEVEL;
        (any::<[u32; 4]>(), any::<Option<u64>>(), again, prop::option::of(position()), level).prop_map(
            |(
                [group, max_updates, allocation_length, wait_limit_ms],
                start,
                delivery,
                acknowledgement,
                level,
            )| {
                JournalRead {
                    group: GroupNumber(group),
                    start: start.map(UpdateNumber),
                    delivery,
                    acknowledgement,
                    compression: NonZeroU8::new(level),
                    max_updates,
                    allocation_length,
                    wait_limit_ms,
                }
            },
        )
    }

    fn synchronous() -> impl Strategy<Value = VendorCommand> {
        prop_oneof![
            (any::<[u32; 3]>(), any::<u64>(), any::<[bool; 2]>()).prop_map(
                |([group, allocation_length, heard], channel, [in_use, holds_lease])| {
                    let group = GroupNumber(group);
                    VendorCommand::Synchronise(Synchronise {
                        group,
                        channel,
                        in_use,
                        holds_lease,
                        heard,
                        allocation_length,
                    })
                }
            ),
            (any::<u32>(), any::<u64>(), 0..=MAX_JOURNAL_WRITE_BYTES).prop_map(
                |(group, channel, list_length)| {
                    let group = GroupNumber(group);
                    VendorCommand::JournalWrite(JournalWrite { group, channel, list_length })
                }
            ),
        ]
    }

    fn command() -> impl Strategy<Value = VendorCommand> {
        prop_oneof![
            any::<u32>().prop_map(|allocation_length| VendorCommand::PeerInformation { allocation_length }),
            journal_read().prop_map(VendorCommand::JournalRead),
            journal_read()
                .prop_map(|read| VendorCommand::JournalTables(VendorCommand::without_compression(read))),
            (any::<bool>(), any::<u32>()).prop_map(|(back, allocation_length)| VendorCommand::LinkTest {
                test: if back { LinkTest::Back } else { LinkTest::Bytes },
                allocation_length
            }),
            any::<(u32, u32)>().prop_map(|(group, allocation_length)| VendorCommand::JournalInformation {
                group: GroupNumber(group),
                allocation_length
            }),
            (any::<[u8; 16]>(), 0..=MAX_DESIGNATION_BYTES).prop_map(|(id, list_length)| {
                VendorCommand::Designation { id: DesignationId(id), list_length }
            }),
            any::<([u8; 16], u32)>().prop_map(|(id, allocation_length)| VendorCommand::DesignationResult {
                id: DesignationId(id),
                allocation_length
            }),
            (any::<u32>(), position()).prop_map(|(group, position)| VendorCommand::ReportPosition {
                group: GroupNumber(group),
                position
            }),
            (any::<[u32; 2]>(), any::<[u64; 3]>(), 0..=MAX_FORWARDED_BYTES).prop_map(
                |([volume, connection], [incarnation, sequence, oldest], list_length)| {
                    VendorCommand::ForwardedWrite(ForwardedWrite {
                        volume,
                        incarnation,
                        connection,
                        sequence,
                        oldest,
                        list_length,
                    })
                }
            ),
            (0..=MAX_FORWARDING_STATE_BYTES)
                .prop_map(|list_length| VendorCommand::ForwardingState { list_length }),
            (any::<[u32; 2]>(), any::<u64>()).prop_map(|([volume, allocation_length], offset_bytes)| {
                VendorCommand::ForwardedRead { volume, offset_bytes, allocation_length }
            }),
            synchronous(),
            (any::<[u32; 5]>(), any::<[u64; 2]>()).prop_map(|(words, numbers)| {
                VendorCommand::CopyRead(CopyRead {
                    group: GroupNumber(words[0]),
                    volume: words[1],
                    copy: words[2],
                    copied_to_bytes: numbers[0],
                    restored: UpdateNumber(numbers[1]),
                    allocation_length: words[3],
                    wait_limit_ms: words[4],
                })
            }),
        ]
    }

    proptest! {
        #[test]
        fn every_command_survives_its_bytes(command in command()) {
            prop_assert_eq!(parse(command.to_cdb().as_bytes()), Ok(command));
        }

        #[test]
        fn bytes_that_are_understood_are_the_bytes_that_would_be_built(
            opcode in prop_oneof![0xC0_u8..=0xC9, 0xD0_u8..=0xD3], tail in prop::collection::vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 63)
        ) {
            for length in [16, 32, 64] {
                let cdb: Vec<u8> = core::iter::once(opcode).chain(tail.iter().copied()).take(length).collect();
                if let Ok(command) = parse(&cdb) {
                    let built = command.to_cdb();
                    prop_assert_eq!(built.as_bytes(), &cdb[..]);
                }
            }
        }
    }

    #[test]
    fn every_reserved_byte_must_be_zero() {
        for command in [
            VendorCommand::PeerInformation { allocation_length: 1 },
            VendorCommand::Designation { id: DesignationId([1; 16]), list_length: 1 },
            VendorCommand::ReportPosition { group: GroupNumber(1), position: Acknowledgement::NONE },
        ] {
            let cdb = command.to_cdb();
            let row = lookup(Device::Peer, cdb.as_bytes()).unwrap();
            for at in (1..cdb.length).filter(|at| row.usage[*at] == 0) {
                let mut wrong = cdb;
                wrong.put(at, &[1]);
                assert_eq!(parse(wrong.as_bytes()), Err(invalid(at)));
            }
        }
    }

    #[test]
    fn numbers_without_their_flag_and_lists_too_long_are_refused() {
        let mut cdb = VendorCdb::new(0xC1, 64);
        cdb.put(START + 7, &[1]);
        assert_eq!(parse(cdb.as_bytes()), Err(invalid(START)));
        let mut cdb = VendorCdb::new(0xC1, 64);
        cdb.put(SETTLED, &[1]);
        assert_eq!(parse(cdb.as_bytes()), Err(invalid(DURABLE)));
        let mut cdb = VendorCdb::new(0xC1, 64);
        cdb.put(COMPRESSION, &[MAX_COMPRESSION_LEVEL + 1]);
        assert_eq!(parse(cdb.as_bytes()), Err(invalid(COMPRESSION)));
        let long =
            VendorCommand::Designation { id: DesignationId([0; 16]), list_length: MAX_DESIGNATION_BYTES + 1 };
        assert_eq!(parse(long.to_cdb().as_bytes()), Err(invalid(DESIGNATION_LENGTH)));
        let mut cdb = VendorCdb::new(0xD0, 64);
        cdb.put(LIST_LENGTH, &(MAX_FORWARDED_BYTES + 1).to_be_bytes());
        assert_eq!(parse(cdb.as_bytes()), Err(invalid(LIST_LENGTH)));
        let mut cdb = VendorCdb::new(0xD3, 32);
        cdb.put(LIST_LENGTH, &(MAX_JOURNAL_WRITE_BYTES + 1).to_be_bytes());
        assert_eq!(parse(cdb.as_bytes()), Err(invalid(LIST_LENGTH)));
        let long = VendorCommand::ForwardingState { list_length: MAX_FORWARDING_STATE_BYTES + 1 };
        assert_eq!(parse(long.to_cdb().as_bytes()), Err(invalid(LIST_LENGTH)));
    }

    #[test]
    fn a_command_of_another_length_is_unknown() {
        let cdb =
            VendorCommand::ReportPosition { group: GroupNumber(0), position: Acknowledgement::NONE }.to_cdb();
        assert_eq!(parse(&cdb.as_bytes()[..16]), Err(Sense::INVALID_COMMAND));
        let mut longer = [0; 64];
        put(&mut longer, 0, &[0xC0]);
        assert_eq!(parse(&longer), Err(Sense::INVALID_COMMAND));
    }
}
