//! What targets there are and who may use them: SendTargets (RFC 7143 appendix C) over a [`Directory`].
//!
//! An initiator learns only of targets that it may log in to. An answer is cut at [`MAX_ANSWER_BYTES`], between two
//! targets; how it is spread over PDUs is the connection's affair.

use crate::chap::Credentials;
use crate::name::IscsiName;
use crate::params::SessionKind;
use crate::text::{TextBuilder, TextError};
use alloc::vec::Vec;

/// The longest answer to SendTargets: more than a thousand targets with several portals each.
pub const MAX_ANSWER_BYTES: usize = 1 << 20;

/// What an initiator must do to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// It is not let in.
    Denied,
    /// There is no such target, or none that this initiator may know of.
    NotFound,
    /// Nothing.
    Open,
    /// Prove who it is.
    Chap(Credentials),
}

/// Where a target can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portal<'a> {
    /// `address:port`, an IPv6 address in brackets.
    pub address: &'a str,
    /// Target portal group.
    pub group_tag: u16,
}

/// The caller's knowledge of targets and initiators. Names are normalised.
pub trait Directory {
    /// What `initiator` must do to use `target`, or to look for targets (`None`).
    fn authorize(&self, initiator: &IscsiName, target: Option<&IscsiName>) -> Access;

    /// Names every target that `initiator` may use, with its portals.
    fn targets(&self, initiator: &IscsiName, out: &mut dyn FnMut(&str, &[Portal<'_>]));
}

/// Which targets a SendTargets key asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selection {
    All,
    One(IscsiName),
}

/// The answer to `SendTargets=value`; `None` when the value has no meaning in this kind of session.
///
/// # Errors
/// Never for lack of room: what does not fit is left out.
pub(crate) fn send_targets(
    directory: &dyn Directory,
    initiator: &IscsiName,
    session: (SessionKind, Option<&IscsiName>),
    value: &str,
) -> Option<Vec<u8>> {
    let selection = match (value, session) {
        ("All", (SessionKind::Discovery, _)) => Selection::All,
        // Outside discovery only the target of the session itself is shown.
        ("", (SessionKind::Normal, Some(target))) => Selection::One(target.clone()),
        (name, _) => Selection::One(IscsiName::parse(name)?),
    };
    let mut out = TextBuilder::with_limit(MAX_ANSWER_BYTES);
    directory.targets(initiator, &mut |name, portals| {
        let wanted = match &selection {
            Selection::All => true,
            Selection::One(one) => one.as_str() == name,
        };
        if wanted {
            // A target that does not fit any more is left out as a whole.
            let _ = push_target(&mut out, name, portals);
        }
    });
    Some(out.into_bytes())
}

fn push_target(out: &mut TextBuilder, name: &str, portals: &[Portal<'_>]) -> Result<(), TextError> {
    let before = out.len();
    let pushed = out.push("TargetName", name).and_then(|()| {
        portals.iter().try_for_each(|portal| {
            out.push("TargetAddress", format_args!("{},{}", portal.address, portal.group_tag))
        })
    });
    if pushed.is_err() {
        out.truncate(before);
    }
    pushed
}
