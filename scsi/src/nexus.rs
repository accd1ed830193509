//! The I_T nexus (SAM-5, 4.7): one initiator port talking to one target port.

/// Identifies an I_T nexus. For iSCSI it is one session; the transport chooses the numbers and does not reuse one while it is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NexusId(pub u64);

/// What the initiator of a nexus may do with a unit, within what [`Access`](crate::Access) allows to all. The transport knows who it is,
/// and says it with each command: no nexus is taken for one that may write because nobody has heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Everything.
    ReadWrite,
    /// Reading. What would change blocks, or what the other initiators find in the mode pages, ends with WRITE PROTECTED.
    ReadOnly,
}
