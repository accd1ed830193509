//! What a session is opened with.

use crate::chap::{CHALLENGE_BYTES, Credentials};
use crate::pdu::Isid;
use alloc::string::String;
use core::time::Duration;

/// What a session is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To ask which targets there are.
    Discovery,
    /// To send commands to this target.
    Normal {
        /// The target's name.
        target_name: String,
    },
}

/// How much the digests are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DigestWish {
    /// No login without CRC32C over headers and data.
    Required,
    /// CRC32C if the target has it.
    #[default]
    Preferred,
    /// None.
    Without,
}

/// What a connection is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name of this initiator.
    pub initiator_name: String,
    /// Discovery or a target.
    pub purpose: Purpose,
    /// With the name, the initiator port: a second session with the same one reinstates the first.
    pub isid: Isid,
    /// Authentication by CHAP, mutual if they have a part for the target; without them it has to take us as we are.
    pub credentials: Option<Credentials>,
    /// Digests.
    pub digests: DigestWish,
    /// Offered for InitialR2T: whether data beyond the command PDU has to be asked for.
    pub initial_r2t: bool,
    /// Offered for ImmediateData: whether data may travel in the command PDU.
    pub immediate_data: bool,
    /// Offered for FirstBurstLength.
    pub first_burst_bytes: u32,
    /// Offered for MaxBurstLength.
    pub max_burst_bytes: u32,
    /// Declared as MaxRecvDataSegmentLength.
    pub segment_bytes: u32,
    /// Limit for the whole login.
    pub login_timeout: Duration,
    /// Silence after which the target is pinged.
    pub ping_after: Duration,
    /// Limit for its answer.
    pub ping_timeout: Duration,
    /// Random bytes, fresh for every connection: our challenge and its identifier.
    pub challenge: [u8; CHALLENGE_BYTES + 1],
}

impl Settings {
    /// The settings of this project between two machines of its own: data goes along with the command where it may.
    #[must_use]
    pub fn new(
        initiator_name: &str,
        purpose: Purpose,
        isid: Isid,
        challenge: [u8; CHALLENGE_BYTES + 1],
    ) -> Self {
        Self {
            initiator_name: initiator_name.into(),
            purpose,
            isid,
            credentials: None,
            digests: DigestWish::default(),
            initial_r2t: false,
            immediate_data: true,
            first_burst_bytes: 1 << 20,
            max_burst_bytes: 1 << 20,
            segment_bytes: 256 << 10,
            login_timeout: Duration::from_secs(15),
            ping_after: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
            challenge,
        }
    }
}
