//! A secret: in memory and in the control store, never in a message, a log, a view or a debug print.

use std::fmt;
use std::io::Read;
use std::path::Path;

/// Bytes that nobody may see.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes what a file, a variable or the configuration holds; one line ending at the end is not part of it.
    ///
    /// # Errors
    /// Too short (RFC 7143 section 12.1.3 wants 96 bits at least) or too long; the text itself is not named.
    pub fn new(text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let length = text.len();
        if !(SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&length) {
            return Err(format!(
                "a secret has {SECRET_MIN_BYTES} to {SECRET_MAX_BYTES} bytes, this one has {length}"
            ));
        }
        Ok(Self(text.as_bytes().into()))
    }

    /// Takes what a file holds.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or holds no secret; the text itself is not named.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let named = |why: &dyn fmt::Display| format!("{}: {why}", path.display());
        // A device would be read for ever, and a pipe stand still already when it is opened.
        if !std::fs::metadata(path).map_err(|error| named(&error))?.is_file() {
            return Err(named(&"a secret stands in a file"));
        }
        let file = std::fs::File::open(path).map_err(|error| named(&error))?;
        let mut text = String::new();
        let mut bounded = file.take(SECRET_FILE_MAX_BYTES + 1);
        bounded.read_to_string(&mut text).map_err(|error| named(&error))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > SECRET_FILE_MAX_BYTES) {
            return Err(named(&"too large for a secret"));
        }
        Self::new(&text).map_err(|why| named(&why))
    }

    /// The bytes, for the one place that computes with them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// How a secret is kept in the control store, and nowhere else; the type itself cannot be serialised by accident.
pub(super) mod stored {
    use super::Secret;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        secret.0.serialize(to)
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Secret, D::Error> {
        Vec::deserialize(from).map(|bytes: Vec<u8>| Secret(bytes.into()))
    }
}

/// The shortest secret that is accepted.
pub const SECRET_MIN_BYTES: usize = 12;
/// A larger file is not one with a secret.
const SECRET_FILE_MAX_BYTES: u64 = 4_096;
/// The longest secret that is accepted.
pub const SECRET_MAX_BYTES: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("correct horse battery\n").unwrap();
        assert_eq!(secret.expose(), b"correct horse battery");
        assert_eq!(format!("{secret:?}"), "Secret(not shown)");
        let refused = Secret::new("hunter2").unwrap_err();
        assert!(!refused.contains("hunter2"));
    }
}
