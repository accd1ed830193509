//! What has happened to an array, for people and for programs that follow it.

use serde::Serialize;

/// Something that happened: an object has another state than before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EventView {
    /// Its number, from 1 since the start of the array.
    pub number: u64,
    /// Wall time, ms since 1970.
    pub time_unix_ms: u64,
    /// `array`, `link`, `group`, `reading`, `journal` or `pair`.
    pub kind: String,
    /// Name of the object; of `reading` and `journal` the group's.
    pub name: String,
    /// What its state was; none for a new one.
    pub was: Option<String>,
    /// Its state; `deleted` when it is gone.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
}
