//! Command descriptor blocks: one table of all commands, and for each family the form its fields take once they are read.

pub(crate) mod build;
pub(crate) mod report;
pub(crate) mod sbc;
pub(crate) mod spc;
pub(crate) mod table;
pub(crate) mod vendor;
