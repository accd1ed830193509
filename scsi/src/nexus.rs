//! The I_T nexus (SAM-5, 4.7): one initiator port talking to one target port.

/// Identifies an I_T nexus. For iSCSI it is one session; the transport chooses the numbers and does not reuse one while it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);
