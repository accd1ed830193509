//! How journals travel over a link: choices of the link, at the array that reads over it.

use serde::{Deserialize, Serialize};

/// The choices of one link.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LinkOptions {
    /// Connections for journal reads, 1 to [`CONNECTIONS_MAX`] (J8).
    pub connections: u8,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self { connections: 1 }
    }
}

/// Connections of a link at most.
pub const CONNECTIONS_MAX: u8 = 8;
