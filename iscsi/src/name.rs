//! iSCSI names (RFC 7143 section 4.2.7, RFC 3722): `iqn.`, `eui.`, `naa.`.
//!
//! Invariant: an [`IscsiName`] is normalised, so two names are the same node exactly when they are equal.

use alloc::string::String;

/// The longest name, in bytes (RFC 7143 section 4.2.7.2).
pub const MAX_NAME_BYTES: usize = 223;

/// The name of an initiator or target, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(String);

impl IscsiName {
    /// Takes a name of one of the three kinds, without white space or control characters; `None` otherwise.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name.len() > MAX_NAME_BYTES || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return None;
        }
        // Lower case may be longer than what it was made from.
        let name = name.to_lowercase();
        let has_kind = ["iqn.", "eui.", "naa."].iter().any(|kind| name.len() > 4 && name.starts_with(kind));
        (has_kind && name.len() <= MAX_NAME_BYTES).then_some(Self(name))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl core::fmt::Display for IscsiName {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_and_others_refused() {
        assert_eq!(
            IscsiName::parse("IQN.2026-01.Com.Example:A").unwrap().as_str(),
            "iqn.2026-01.com.example:a"
        );
        for wrong in ["", "iqn.", "host", "iqn.2026-01.com.example:a b", "iqn.\u{7}", &"iqn.".repeat(60)] {
            assert_eq!(IscsiName::parse(wrong), None, "{wrong}");
        }
    }
}
