//! The basic header segment (RFC 7143 section 11.2.1): what all PDUs have in common.
//!
//! ```text
//!  0  .|I|opcode   1  F|specific   2..4 specific   4  AHS length in words   5..8 data segment length
//!  8..16 LUN or specific   16..20 initiator task tag   20..24 target transfer tag or specific
//! 24..28 CmdSN or StatSN   28..32 ExpStatSN or ExpCmdSN   32..36 MaxCmdSN or specific   36..48 specific
//! ```
//!
//! Invariant: every offset is a constant whose bounds are checked when the crate is compiled.

use crate::serial::{CmdSn, StatSn};

/// Bytes of a basic header segment.
pub const BHS_BYTES: usize = 48;

/// The largest data segment that the 24-bit field can name.
pub const MAX_DATA_SEGMENT_BYTES: u32 = 0x00ff_ffff;

/// The final bit in byte 1.
pub const FLAG_FINAL: u8 = 0x80;

const IMMEDIATE: u8 = 0x40;
const OPCODE_MASK: u8 = 0x3f;

/// Why 48 bytes are not the PDU they claim to be. It is always the peer's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PduError {
    /// The opcode is not the one asked for, or not one of RFC 7143.
    Opcode(u8),
    /// The named field holds a value that the RFC does not know.
    Field(&'static str),
    /// The additional header segments are longer than the limit, or do not fill their space.
    AhsLength,
    /// A kind of additional header segment that is not spoken here.
    AhsType(u8),
}

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal),+ $(,)?) => {
        /// The operation codes of RFC 7143 section 11.2.1.2.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Opcode { $($(#[$doc])* $name = $value),+ }

        impl TryFrom<u8> for Opcode {
            type Error = PduError;
            fn try_from(value: u8) -> Result<Self, PduError> {
                match value {
                    $($value => Ok(Self::$name),)+
                    other => Err(PduError::Opcode(other)),
                }
            }
        }
    };
}

opcodes! {
    /// Ping, or the answer to the target's ping.
    NopOut = 0x00,
    /// A SCSI command.
    ScsiCommand = 0x01,
    /// A task management function.
    TaskManagementRequest = 0x02,
    /// A step of the login.
    LoginRequest = 0x03,
    /// Text keys outside the login.
    TextRequest = 0x04,
    /// Payload of a write.
    DataOut = 0x05,
    /// The initiator wants to go.
    LogoutRequest = 0x06,
    /// A request to send something again.
    Snack = 0x10,
    /// Ping, or the answer to the initiator's ping.
    NopIn = 0x20,
    /// Status of a command.
    ScsiResponse = 0x21,
    /// Answer to a task management function.
    TaskManagementResponse = 0x22,
    /// A step of the login.
    LoginResponse = 0x23,
    /// Text keys outside the login.
    TextResponse = 0x24,
    /// Payload of a read.
    DataIn = 0x25,
    /// Answer to a logout.
    LogoutResponse = 0x26,
    /// The target is ready for payload.
    ReadyToTransfer = 0x31,
    /// Something happened that no command asked about.
    AsyncMessage = 0x32,
    /// A PDU was not understood.
    Reject = 0x3f,
}

/// Initiator task tag: names a task for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Itt(pub u32);

impl Itt {
    /// The tag that names no task.
    pub const RESERVED: Self = Self(u32::MAX);
}

/// Target transfer tag: names an R2T, a text exchange or a ping of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttt(pub u32);

impl Ttt {
    /// The tag that names nothing.
    pub const RESERVED: Self = Self(u32::MAX);
}

/// Initiator session identifier: with the initiator's name, the initiator port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isid(pub [u8; 6]);

/// Target session identifying handle; zero in the first login request of a new session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tsih(pub u16);

/// Connection identifier, given by the initiator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cid(pub u16);

/// A logical unit number as it stands on the wire; what it means is SCSI's affair.
pub type Lun = [u8; 8];

/// What every request says about the order of commands and the statuses it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestNumbers {
    /// Number of this command.
    pub cmd_sn: CmdSn,
    /// The next status that the initiator expects; it acknowledges all before it.
    pub exp_stat_sn: StatSn,
}

/// What every response says about its own order and the commands that may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseNumbers {
    /// Number of this status (or the next one, where the PDU takes none).
    pub stat_sn: StatSn,
    /// The next command that the target expects.
    pub exp_cmd_sn: CmdSn,
    /// The last command that the target will take.
    pub max_cmd_sn: CmdSn,
}

/// The 48 bytes, read and written by the names of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_BYTES]);

impl Bhs {
    /// A header of zeroes with this opcode in it.
    #[must_use]
    pub fn new(opcode: Opcode) -> Self {
        let mut bhs = Self([0; BHS_BYTES]);
        bhs.put::<0, 1>([opcode as u8]);
        bhs
    }

    /// The same, to be delivered at once and not in the order of CmdSN.
    #[must_use]
    pub fn new_request(opcode: Opcode, immediate: Immediate) -> Self {
        let mut bhs = Self::new(opcode);
        if immediate == Immediate::Yes {
            bhs.put::<0, 1>([opcode as u8 | IMMEDIATE]);
        }
        bhs
    }

    /// What kind of PDU this is.
    ///
    /// # Errors
    /// When RFC 7143 knows no such opcode.
    pub fn opcode(&self) -> Result<Opcode, PduError> {
        Opcode::try_from(self.byte::<0>() & OPCODE_MASK)
    }

    /// Refuses any other opcode than `wanted`.
    ///
    /// # Errors
    /// When the header holds another opcode.
    pub fn expect_opcode(&self, wanted: Opcode) -> Result<(), PduError> {
        let found = self.byte::<0>() & OPCODE_MASK;
        if found == wanted as u8 { Ok(()) } else { Err(PduError::Opcode(found)) }
    }

    /// Whether the request is to be delivered at once.
    #[must_use]
    pub fn immediate(&self) -> Immediate {
        if self.byte::<0>() & IMMEDIATE == 0 { Immediate::No } else { Immediate::Yes }
    }

    /// Byte 1: the final bit and what the opcode makes of the rest.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.byte::<1>()
    }

    /// Whether the final bit is set.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.flags() & FLAG_FINAL != 0
    }

    /// Bytes of all additional header segments (0 to 1020).
    #[must_use]
    pub fn ahs_bytes(&self) -> usize {
        usize::from(self.byte::<4>()) * 4
    }

    /// Bytes of the data segment without its padding.
    #[must_use]
    pub fn data_bytes(&self) -> u32 {
        let [a, b, c] = self.take::<5, 3>();
        u32::from_be_bytes([0, a, b, c])
    }

    /// Bytes of padding that follow the data segment.
    #[must_use]
    pub fn pad_bytes(&self) -> u32 {
        self.data_bytes().wrapping_neg() % 4
    }

    /// The logical unit, in the PDUs that have one.
    #[must_use]
    pub fn lun(&self) -> Lun {
        self.take::<8, 8>()
    }

    /// The initiator task tag.
    #[must_use]
    pub fn itt(&self) -> Itt {
        Itt(self.u32::<16>())
    }

    /// The target transfer tag, in the PDUs that have one.
    #[must_use]
    pub fn ttt(&self) -> Ttt {
        Ttt(self.u32::<20>())
    }

    /// CmdSN and ExpStatSN of a request.
    #[must_use]
    pub fn request_numbers(&self) -> RequestNumbers {
        RequestNumbers { cmd_sn: CmdSn(self.u32::<24>()), exp_stat_sn: StatSn(self.u32::<28>()) }
    }

    /// StatSN, ExpCmdSN and MaxCmdSN of a response.
    #[must_use]
    pub fn response_numbers(&self) -> ResponseNumbers {
        ResponseNumbers {
            stat_sn: StatSn(self.u32::<24>()),
            exp_cmd_sn: CmdSn(self.u32::<28>()),
            max_cmd_sn: CmdSn(self.u32::<32>()),
        }
    }

    /// Sets byte 1.
    pub fn set_flags(&mut self, flags: u8) {
        self.put::<1, 1>([flags]);
    }

    /// Sets the length of the additional header segments; `words` of four bytes.
    pub fn set_ahs_words(&mut self, words: u8) {
        self.put::<4, 1>([words]);
    }

    /// Sets the length of the data segment. Only the low 24 bits have a place;
    /// no limit of this crate comes near [`MAX_DATA_SEGMENT_BYTES`].
    pub fn set_data_bytes(&mut self, bytes: u32) {
        debug_assert!(bytes <= MAX_DATA_SEGMENT_BYTES);
        let [_, a, b, c] = bytes.to_be_bytes();
        self.put::<5, 3>([a, b, c]);
    }

    /// Sets the logical unit.
    pub fn set_lun(&mut self, lun: Lun) {
        self.put::<8, 8>(lun);
    }

    /// Sets the initiator task tag.
    pub fn set_itt(&mut self, itt: Itt) {
        self.set_u32::<16>(itt.0);
    }

    /// Sets the target transfer tag.
    pub fn set_ttt(&mut self, ttt: Ttt) {
        self.set_u32::<20>(ttt.0);
    }

    /// Sets CmdSN and ExpStatSN of a request.
    pub fn set_request_numbers(&mut self, numbers: RequestNumbers) {
        self.set_u32::<24>(numbers.cmd_sn.0);
        self.set_u32::<28>(numbers.exp_stat_sn.0);
    }

    /// Sets StatSN, ExpCmdSN and MaxCmdSN of a response.
    pub fn set_response_numbers(&mut self, numbers: ResponseNumbers) {
        self.set_u32::<24>(numbers.stat_sn.0);
        self.set_u32::<28>(numbers.exp_cmd_sn.0);
        self.set_u32::<32>(numbers.max_cmd_sn.0);
    }

    pub(crate) fn byte<const AT: usize>(&self) -> u8 {
        let [byte] = self.take::<AT, 1>();
        byte
    }

    pub(crate) fn u16<const AT: usize>(&self) -> u16 {
        u16::from_be_bytes(self.take::<AT, 2>())
    }

    pub(crate) fn u32<const AT: usize>(&self) -> u32 {
        u32::from_be_bytes(self.take::<AT, 4>())
    }

    pub(crate) fn set_byte<const AT: usize>(&mut self, value: u8) {
        self.put::<AT, 1>([value]);
    }

    pub(crate) fn set_u16<const AT: usize>(&mut self, value: u16) {
        self.put::<AT, 2>(value.to_be_bytes());
    }

    pub(crate) fn set_u32<const AT: usize>(&mut self, value: u32) {
        self.put::<AT, 4>(value.to_be_bytes());
    }

    #[expect(clippy::indexing_slicing, reason = "the bounds are asserted when this is compiled")]
    pub(crate) fn take<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= BHS_BYTES) };
        let mut field = [0; N];
        field.copy_from_slice(&self.0[AT..AT + N]);
        field
    }

    #[expect(clippy::indexing_slicing, reason = "the bounds are asserted when this is compiled")]
    pub(crate) fn put<const AT: usize, const N: usize>(&mut self, field: [u8; N]) {
        const { assert!(AT + N <= BHS_BYTES) };
        self.0[AT..AT + N].copy_from_slice(&field);
    }
}

/// Whether a request is to be delivered at once (bit I) or in the order of CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Immediate {
    /// Outside the order: CmdSN is not used up.
    Yes,
    /// In the order of CmdSN.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_data_segment_has_24_bits_and_is_padded_to_words() {
        let mut bhs = Bhs::new(Opcode::DataIn);
        bhs.set_data_bytes(0x01_0203);
        assert_eq!((bhs.data_bytes(), bhs.pad_bytes()), (0x01_0203, 1));
        assert_eq!(bhs.0[4..8], [0, 1, 2, 3]);
    }

    #[test]
    fn every_opcode_survives_the_way_out_and_back_and_others_are_refused() {
        let mut known = 0;
        for value in 0..=0x3f_u8 {
            let mut bhs = Bhs([0; BHS_BYTES]);
            bhs.0[0] = value | 0x40;
            match bhs.opcode() {
                Ok(opcode) => {
                    known += 1;
                    assert_eq!(opcode as u8, value);
                    assert!(bhs.expect_opcode(opcode).is_ok());
                    assert_eq!(bhs.immediate(), Immediate::Yes);
                }
                Err(error) => assert_eq!(error, PduError::Opcode(value)),
            }
        }
        assert_eq!(known, 18);
    }
}
