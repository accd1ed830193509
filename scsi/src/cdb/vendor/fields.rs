//! The commands with the most fields, to and from their bytes. Where these lie is said in the parent's text.

use super::{
    Acknowledgement, CHANNEL, CHANNEL_IN_USE, COMPRESSION, CONNECTION, CONSISTENT_FROM, DURABLE, Delivery,
    FLAGS, ForwardedWrite, GROUP, GroupNumber, HEARD, HOLDS_LEASE, INCARNATION, JournalRead, LIST_LENGTH,
    MAX_COMPRESSION_LEVEL, MAX_FORWARDED_BYTES, MAX_UPDATES, OLDEST, POSITION_VALID, READ_ALLOCATION,
    REPEATED, RESTORED, SEQUENCE, SETTLED, START, START_VALID, Synchronise, UpdateNumber, VendorCdb,
    WAIT_LIMIT, invalid,
};
use crate::sense::Sense;
use crate::wire::{u8_at, u32_at, u64_at};
use core::num::NonZeroU8;

impl Synchronise {
    pub(super) fn to_cdb(self) -> VendorCdb {
        let mut cdb = VendorCdb::new(0xC9, 32);
        let in_use = if self.in_use { CHANNEL_IN_USE } else { 0 };
        let holds_lease = if self.holds_lease { HOLDS_LEASE } else { 0 };
        cdb.put(FLAGS, &[in_use | holds_lease]);
        cdb.put(GROUP, &self.group.0.to_be_bytes());
        cdb.put(CHANNEL, &self.channel.to_be_bytes());
        cdb.put(LIST_LENGTH, &self.allocation_length.to_be_bytes());
        cdb.put(HEARD, &self.heard.to_be_bytes());
        cdb
    }
}

impl JournalRead {
    pub(super) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let flags = u8_at(cdb, FLAGS);
        let start = UpdateNumber(u64_at(cdb, START));
        if flags & START_VALID == 0 && start.0 != 0 {
            return Err(invalid(START));
        }
        let position = Acknowledgement::parse(cdb);
        if flags & POSITION_VALID == 0 && position != Acknowledgement::NONE {
            return Err(invalid(DURABLE));
        }
        Ok(Self {
            group: GroupNumber(u32_at(cdb, GROUP)),
            start: (flags & START_VALID != 0).then_some(start),
            delivery: if flags & REPEATED == 0 { Delivery::First } else { Delivery::Again },
            acknowledgement: (flags & POSITION_VALID != 0).then_some(position),
            compression: match u8_at(cdb, COMPRESSION) {
                level if level > MAX_COMPRESSION_LEVEL => return Err(invalid(COMPRESSION)),
                level => NonZeroU8::new(level),
            },
            max_updates: u32_at(cdb, MAX_UPDATES),
            allocation_length: u32_at(cdb, READ_ALLOCATION),
            wait_limit_ms: u32_at(cdb, WAIT_LIMIT),
        })
    }

    pub(super) fn to_cdb(self, opcode: u8) -> VendorCdb {
        let mut cdb = VendorCdb::new(opcode, 64);
        let mut flags = match self.delivery {
            Delivery::First => 0,
            Delivery::Again => REPEATED,
        };
        if let Some(start) = self.start {
            flags |= START_VALID;
            cdb.put(START, &start.0.to_be_bytes());
        }
        if let Some(position) = self.acknowledgement {
            flags |= POSITION_VALID;
            position.put(&mut cdb);
        }
        cdb.put(FLAGS, &[flags]);
        cdb.put(COMPRESSION, &[self.compression.map_or(0, NonZeroU8::get)]);
        cdb.put(GROUP, &self.group.0.to_be_bytes());
        cdb.put(MAX_UPDATES, &self.max_updates.to_be_bytes());
        cdb.put(READ_ALLOCATION, &self.allocation_length.to_be_bytes());
        cdb.put(WAIT_LIMIT, &self.wait_limit_ms.to_be_bytes());
        cdb
    }
}

impl ForwardedWrite {
    pub(super) fn parse(cdb: &[u8]) -> Result<Self, Sense> {
        let list_length = u32_at(cdb, LIST_LENGTH);
        if list_length > MAX_FORWARDED_BYTES {
            return Err(invalid(LIST_LENGTH));
        }
        Ok(Self {
            volume: u32_at(cdb, GROUP),
            incarnation: u64_at(cdb, INCARNATION),
            connection: u32_at(cdb, CONNECTION),
            sequence: u64_at(cdb, SEQUENCE),
            oldest: u64_at(cdb, OLDEST),
            list_length,
        })
    }

    pub(super) fn to_cdb(self) -> VendorCdb {
        let mut cdb = VendorCdb::new(0xD0, 64);
        cdb.put(GROUP, &self.volume.to_be_bytes());
        cdb.put(INCARNATION, &self.incarnation.to_be_bytes());
        cdb.put(CONNECTION, &self.connection.to_be_bytes());
        cdb.put(LIST_LENGTH, &self.list_length.to_be_bytes());
        cdb.put(SEQUENCE, &self.sequence.to_be_bytes());
        cdb.put(OLDEST, &self.oldest.to_be_bytes());
        cdb
    }
}

impl Acknowledgement {
    pub(super) const NONE: Self = Self {
        durable: UpdateNumber(0),
        restored: UpdateNumber(0),
        settled: UpdateNumber(0),
        consistent_from: UpdateNumber(0),
    };

    pub(super) fn parse(cdb: &[u8]) -> Self {
        Self {
            durable: UpdateNumber(u64_at(cdb, DURABLE)),
            restored: UpdateNumber(u64_at(cdb, RESTORED)),
            settled: UpdateNumber(u64_at(cdb, SETTLED)),
            consistent_from: UpdateNumber(u64_at(cdb, CONSISTENT_FROM)),
        }
    }

    pub(super) fn put(self, cdb: &mut VendorCdb) {
        cdb.put(DURABLE, &self.durable.0.to_be_bytes());
        cdb.put(RESTORED, &self.restored.0.to_be_bytes());
        cdb.put(SETTLED, &self.settled.0.to_be_bytes());
        cdb.put(CONSISTENT_FROM, &self.consistent_from.0.to_be_bytes());
    }
}
