//! Login Request and Login Response (RFC 7143 sections 11.12 and 11.13).

use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Cid, Isid, Itt, Opcode, PduError, RequestNumbers, ResponseNumbers, Tsih};

const CONTINUE: u8 = 0x40;

/// The only version of the protocol.
pub const VERSION: u8 = 0;

/// Stage of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Who is there.
    Security,
    /// How shall we talk.
    Operational,
    /// Everything is agreed; only ever a next stage in a login PDU.
    FullFeature,
}

impl Stage {
    fn parse(bits: u8) -> Result<Self, PduError> {
        match bits & 3 {
            0 => Ok(Self::Security),
            1 => Ok(Self::Operational),
            3 => Ok(Self::FullFeature),
            _ => Err(PduError::Field("login stage")),
        }
    }

    fn bits(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// Where a login stands and where it is to go: the bits T, C, CSG and NSG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageFlags {
    /// More text of the same request or response follows.
    pub is_continued: bool,
    /// Current stage.
    pub current: Stage,
    /// Next stage, if the sender is ready to go on (bit T).
    pub next: Option<Stage>,
}

impl StageFlags {
    fn parse(flags: u8) -> Result<Self, PduError> {
        let is_continued = flags & CONTINUE != 0;
        let current = Stage::parse(flags >> 2)?;
        if current == Stage::FullFeature {
            return Err(PduError::Field("current login stage"));
        }
        let next = if flags & FLAG_FINAL == 0 { None } else { Some(Stage::parse(flags)?) };
        if next.is_some() && is_continued {
            return Err(PduError::Field("login bits T and C together"));
        }
        if next.is_some_and(|stage| stage <= current) {
            return Err(PduError::Field("next login stage"));
        }
        Ok(Self { is_continued, current, next })
    }

    fn bits(self) -> u8 {
        let transit = self.next.map_or(0, |stage| FLAG_FINAL | stage.bits());
        transit | if self.is_continued { CONTINUE } else { 0 } | self.current.bits() << 2
    }
}

/// A Login Request PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRequest {
    /// Bits T, C, CSG, NSG.
    pub stage: StageFlags,
    /// Highest version that the initiator speaks.
    pub version_max: u8,
    /// Lowest version that the initiator speaks.
    pub version_min: u8,
    /// Initiator session identifier.
    pub isid: Isid,
    /// Session to join or reinstate; zero for a new one.
    pub tsih: Tsih,
    /// Task tag, the same through the whole login.
    pub itt: Itt,
    /// Connection identifier.
    pub cid: Cid,
    /// CmdSN of the first command to come, and ExpStatSN.
    pub numbers: RequestNumbers,
    /// Length of the text.
    pub data_bytes: u32,
}

impl LoginRequest {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or its stages make no sense.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::LoginRequest)?;
        Ok(Self {
            stage: StageFlags::parse(bhs.flags())?,
            version_max: bhs.byte::<2>(),
            version_min: bhs.byte::<3>(),
            isid: Isid(bhs.take::<8, 6>()),
            tsih: Tsih(bhs.u16::<14>()),
            itt: bhs.itt(),
            cid: Cid(bhs.u16::<20>()),
            numbers: bhs.request_numbers(),
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header; a login request is always immediate.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new_request(Opcode::LoginRequest, Immediate::Yes);
        bhs.set_flags(self.stage.bits());
        bhs.set_byte::<2>(self.version_max);
        bhs.set_byte::<3>(self.version_min);
        bhs.set_data_bytes(self.data_bytes);
        bhs.put::<8, 6>(self.isid.0);
        bhs.set_u16::<14>(self.tsih.0);
        bhs.set_itt(self.itt);
        bhs.set_u16::<20>(self.cid.0);
        bhs.set_request_numbers(self.numbers);
        bhs
    }
}

/// Status class and detail of a login (RFC 7143 section 11.13.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 the initiator's fault, 3 the target's fault.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl LoginStatus {
    /// The login goes on.
    pub const SUCCESS: Self = Self::of(0, 0);
    /// The target has moved for now; TargetAddress says where.
    pub const MOVED_TEMPORARILY: Self = Self::of(1, 1);
    /// The target has moved for good; TargetAddress says where.
    pub const MOVED_PERMANENTLY: Self = Self::of(1, 2);
    /// Any other fault of the initiator.
    pub const INITIATOR_ERROR: Self = Self::of(2, 0);
    /// Nobody known, or a wrong secret.
    pub const AUTHENTICATION_FAILURE: Self = Self::of(2, 1);
    /// Known, but not allowed.
    pub const AUTHORIZATION_FAILURE: Self = Self::of(2, 2);
    /// No such target.
    pub const NOT_FOUND: Self = Self::of(2, 3);
    /// The target is gone for good.
    pub const TARGET_REMOVED: Self = Self::of(2, 4);
    /// No common version.
    pub const UNSUPPORTED_VERSION: Self = Self::of(2, 5);
    /// No further connection in this session.
    pub const TOO_MANY_CONNECTIONS: Self = Self::of(2, 6);
    /// InitiatorName or TargetName did not come.
    pub const MISSING_PARAMETER: Self = Self::of(2, 7);
    /// The connection cannot join this session.
    pub const CANNOT_INCLUDE: Self = Self::of(2, 8);
    /// A session of this kind is not offered.
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self::of(2, 9);
    /// The session to join or reinstate does not exist.
    pub const SESSION_DOES_NOT_EXIST: Self = Self::of(2, 10);
    /// Something other than a login came during login.
    pub const INVALID_DURING_LOGIN: Self = Self::of(2, 11);
    /// Any fault of the target.
    pub const TARGET_ERROR: Self = Self::of(3, 0);
    /// Not now.
    pub const SERVICE_UNAVAILABLE: Self = Self::of(3, 1);
    /// No room for another session.
    pub const OUT_OF_RESOURCES: Self = Self::of(3, 2);

    const fn of(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }
}

/// A Login Response PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginResponse {
    /// Bits T, C, CSG, NSG.
    pub stage: StageFlags,
    /// Highest version that the target speaks.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// Initiator session identifier, repeated.
    pub isid: Isid,
    /// The session's handle, in the last response.
    pub tsih: Tsih,
    /// Task tag, repeated.
    pub itt: Itt,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
    /// How it went.
    pub status: LoginStatus,
    /// Length of the text.
    pub data_bytes: u32,
}

impl LoginResponse {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or its stages make no sense (a refusal may hold any).
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::LoginResponse)?;
        let status = LoginStatus { class: bhs.byte::<36>(), detail: bhs.byte::<37>() };
        let refused = StageFlags { is_continued: false, current: Stage::Security, next: None };
        let stage = match (StageFlags::parse(bhs.flags()), status.class) {
            (Ok(stage), _) => stage,
            (Err(error), 0) => return Err(error),
            (Err(_), _) => refused,
        };
        Ok(Self {
            stage,
            version_max: bhs.byte::<2>(),
            version_active: bhs.byte::<3>(),
            isid: Isid(bhs.take::<8, 6>()),
            tsih: Tsih(bhs.u16::<14>()),
            itt: bhs.itt(),
            numbers: bhs.response_numbers(),
            status,
            data_bytes: bhs.data_bytes(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::LoginResponse);
        bhs.set_flags(self.stage.bits());
        bhs.set_byte::<2>(self.version_max);
        bhs.set_byte::<3>(self.version_active);
        bhs.set_data_bytes(self.data_bytes);
        bhs.put::<8, 6>(self.isid.0);
        bhs.set_u16::<14>(self.tsih.0);
        bhs.set_itt(self.itt);
        bhs.set_response_numbers(self.numbers);
        bhs.set_byte::<36>(self.status.class);
        bhs.set_byte::<37>(self.status.detail);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_pdus_survive_the_way_out_and_back() {
        let stage =
            StageFlags { is_continued: false, current: Stage::Operational, next: Some(Stage::FullFeature) };
        let request = LoginRequest {
            stage,
            version_max: 0,
            version_min: 0,
            isid: Isid([1, 2, 3, 4, 5, 6]),
            tsih: Tsih(9),
            itt: Itt(1),
            cid: Cid(2),
            numbers: RequestNumbers::default(),
            data_bytes: 33,
        };
        assert_eq!(request.build().0[0], 0x43);
        assert_eq!(request.build().0[1], 0x87);
        assert_eq!(LoginRequest::parse(&request.build()), Ok(request));
        let response = LoginResponse {
            stage,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: Tsih(9),
            itt: Itt(1),
            numbers: ResponseNumbers::default(),
            status: LoginStatus::SERVICE_UNAVAILABLE,
            data_bytes: 0,
        };
        assert_eq!(LoginResponse::parse(&response.build()), Ok(response));
    }

    #[test]
    fn of_all_flag_bytes_only_those_that_lead_forward_are_taken() {
        let taken: alloc::vec::Vec<u8> = (0..=0xff_u8)
            .filter(|flags| flags & 0x30 == 0 && (flags & 0x80 != 0 || flags & 3 == 0))
            .filter(|flags| StageFlags::parse(*flags).is_ok())
            .collect();
        assert_eq!(taken, [0x00, 0x04, 0x40, 0x44, 0x81, 0x83, 0x87]);
    }
}
