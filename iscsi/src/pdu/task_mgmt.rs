//! Task Management Function Request and Response (RFC 7143 sections 11.5 and 11.6).

use super::bhs::{FLAG_FINAL, Immediate};
use super::{Bhs, Itt, Lun, Opcode, PduError, RequestNumbers, ResponseNumbers};
use crate::serial::CmdSn;

/// What to do with which tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Function {
    /// One task of this session.
    AbortTask = 1,
    /// All tasks of this session on the logical unit.
    AbortTaskSet = 2,
    /// Auto contingent allegiance on the logical unit.
    ClearAca = 3,
    /// All tasks of all sessions on the logical unit.
    ClearTaskSet = 4,
    /// The logical unit.
    LogicalUnitReset = 5,
    /// All logical units.
    TargetWarmReset = 6,
    /// All logical units, and all sessions end.
    TargetColdReset = 7,
    /// A task moves to this connection; only at ErrorRecoveryLevel 2.
    TaskReassign = 8,
}

impl Function {
    fn parse(bits: u8) -> Result<Self, PduError> {
        match bits & 0x7f {
            1 => Ok(Self::AbortTask),
            2 => Ok(Self::AbortTaskSet),
            3 => Ok(Self::ClearAca),
            4 => Ok(Self::ClearTaskSet),
            5 => Ok(Self::LogicalUnitReset),
            6 => Ok(Self::TargetWarmReset),
            7 => Ok(Self::TargetColdReset),
            8 => Ok(Self::TaskReassign),
            _ => Err(PduError::Field("task management function")),
        }
    }
}

/// A Task Management Function Request PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// Delivery outside the order of CmdSN.
    pub immediate: Immediate,
    /// What to do.
    pub function: Function,
    /// Logical unit, where the function names one.
    pub lun: Lun,
    /// Task tag of this request.
    pub itt: Itt,
    /// Task to abort or reassign.
    pub referenced: Itt,
    /// CmdSN and ExpStatSN.
    pub numbers: RequestNumbers,
    /// CmdSN of the task to abort.
    pub ref_cmd_sn: CmdSn,
    /// For reassignment only.
    pub exp_data_sn: u32,
}

impl TaskManagementRequest {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the function is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::TaskManagementRequest)?;
        Ok(Self {
            immediate: bhs.immediate(),
            function: Function::parse(bhs.flags())?,
            lun: bhs.lun(),
            itt: bhs.itt(),
            referenced: Itt(bhs.u32::<20>()),
            numbers: bhs.request_numbers(),
            ref_cmd_sn: CmdSn(bhs.u32::<32>()),
            exp_data_sn: bhs.u32::<36>(),
        })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new_request(Opcode::TaskManagementRequest, self.immediate);
        bhs.set_flags(FLAG_FINAL | self.function as u8);
        bhs.set_lun(self.lun);
        bhs.set_itt(self.itt);
        bhs.set_u32::<20>(self.referenced.0);
        bhs.set_request_numbers(self.numbers);
        bhs.set_u32::<32>(self.ref_cmd_sn.0);
        bhs.set_u32::<36>(self.exp_data_sn);
        bhs
    }
}

/// How a task management function went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FunctionResponse {
    /// It is done.
    Complete = 0,
    /// There is no such task.
    TaskDoesNotExist = 1,
    /// There is no such logical unit.
    LunDoesNotExist = 2,
    /// The task is still bound to its connection.
    TaskStillAllegiant = 3,
    /// No reassignment here.
    ReassignmentNotSupported = 4,
    /// This function is not known here.
    NotSupported = 5,
    /// Not allowed.
    AuthorizationFailed = 6,
    /// Refused for any other reason.
    Rejected = 255,
}

/// A Task Management Function Response PDU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// How it went.
    pub response: FunctionResponse,
    /// Task tag of the request.
    pub itt: Itt,
    /// StatSN and the command window.
    pub numbers: ResponseNumbers,
}

impl TaskManagementResponse {
    /// Reads a header.
    ///
    /// # Errors
    /// When it is another PDU or the response is unknown.
    pub fn parse(bhs: &Bhs) -> Result<Self, PduError> {
        bhs.expect_opcode(Opcode::TaskManagementResponse)?;
        let response = match bhs.byte::<2>() {
            0 => FunctionResponse::Complete,
            1 => FunctionResponse::TaskDoesNotExist,
            2 => FunctionResponse::LunDoesNotExist,
            3 => FunctionResponse::TaskStillAllegiant,
            4 => FunctionResponse::ReassignmentNotSupported,
            5 => FunctionResponse::NotSupported,
            6 => FunctionResponse::AuthorizationFailed,
            255 => FunctionResponse::Rejected,
            _ => return Err(PduError::Field("task management response")),
        };
        Ok(Self { response, itt: bhs.itt(), numbers: bhs.response_numbers() })
    }

    /// Writes the header.
    #[must_use]
    pub fn build(&self) -> Bhs {
        let mut bhs = Bhs::new(Opcode::TaskManagementResponse);
        bhs.set_flags(FLAG_FINAL);
        bhs.set_byte::<2>(self.response as u8);
        bhs.set_itt(self.itt);
        bhs.set_response_numbers(self.numbers);
        bhs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_functions_survive_the_way_out_and_back() {
        for bits in 1..=8 {
            let request = TaskManagementRequest {
                immediate: Immediate::Yes,
                function: Function::parse(bits).unwrap(),
                lun: [0, 1, 0, 0, 0, 0, 0, 0],
                itt: Itt(1),
                referenced: Itt(2),
                numbers: RequestNumbers::default(),
                ref_cmd_sn: CmdSn(3),
                exp_data_sn: 4,
            };
            assert_eq!(TaskManagementRequest::parse(&request.build()), Ok(request));
        }
        assert!(Function::parse(0).is_err());
        assert!(Function::parse(0x89).is_err());
    }

    #[test]
    fn all_responses_survive_the_way_out_and_back() {
        let mut known = 0;
        for byte in 0..=0xff_u8 {
            let mut bhs = Bhs::new(Opcode::TaskManagementResponse);
            bhs.set_flags(FLAG_FINAL);
            bhs.set_byte::<2>(byte);
            if let Ok(response) = TaskManagementResponse::parse(&bhs) {
                known += 1;
                assert_eq!(response.build(), bhs);
            }
        }
        assert_eq!(known, 8);
    }
}
