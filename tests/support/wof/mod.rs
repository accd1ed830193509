//! The write-order checker: a workload whose every sector says who wrote it, a log of what was issued and
//! acknowledged, and verdicts on images that were found later.
//!
//! For each write `w` the log has an issue tick `I(w)`, drawn before the first byte of the command is sent, and an ack
//! tick `A(w)`, drawn after its GOOD status was seen (infinite until then). `w` may depend on `u` exactly if
//! `A(u) < I(w)`. An image is *prefix consistent* if it is what a set of writes leaves that is closed under "may
//! depend on" and contains every command whole, over all volumes of the group together.
//!
//! Three rules of the workload make the verdict exact. Commands in flight never share a sector, so that the versions
//! of each sector are ordered by write id. A command whose outcome is unknown keeps its range and is retried with the
//! same id and the same bytes until it is acknowledged. A range is zeroed at most once, exactly over one earlier
//! command, so that a zero sector can be told from one never written.
//!
//! [`Plan`] invents commands from a seed, [`Writer`] drives them through [`HostPort`]s, [`Log`] remembers,
//! [`Observed`] is what was found, [`check_prefix`] and its companions judge.

mod judge;
mod log;
mod plan;
mod stamp;
mod writer;

pub(crate) use judge::{
    DurableRule, Observed, Verdict, Violation, check_crash, check_monotone, check_prefix, lost_writes,
};
pub(crate) use log::{Entry, Log, ReadTicket, Tick};
pub(crate) use plan::{Action, Class, Command, Durability, Geometry, Operation, Place, Plan, WriteId};
pub(crate) use stamp::{SECTOR_BYTES, StampContext, command_bytes};
pub(crate) use writer::{HostError, HostPort, Summary, Until, Writer, read_image};
