//! What is shown of links, and of trying them.

use serde::Serialize;

/// A link.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LinkView {
    /// Name.
    pub name: String,
    /// Number of the array behind it.
    pub array: u32,
    /// `up`, `down`, or `idle` when nothing has to go over it.
    pub state: String,
    /// Why, when it is not up.
    pub reason: Option<String>,
    /// Where that array is looked for.
    pub portals: Vec<String>,
    /// Connections that are up.
    pub connections: usize,
    /// Connections that it is to have.
    pub connections_wanted: u8,
    /// Round trip, as last measured; none before the first.
    pub round_trip_us: Option<u64>,
    /// Bytes sent since the start: those of this array's own sessions as they are on the wire, those of the other
    /// array's without headers.
    pub sent_bytes: u64,
    /// Bytes received since the start, counted likewise.
    pub received_bytes: u64,
    /// What the source does with the data of journals that are read over it: `none` or `zstd:LEVEL`.
    pub compression: String,
    /// Data of journals that came, as it was on the wire.
    pub journal_wire_bytes: u64,
    /// The same, uncompressed.
    pub journal_plain_bytes: u64,
    /// Journal data in a second that is allowed outside of the schedule; none: as much as there is.
    pub limit_bytes_per_s: Option<u64>,
    /// Other limits by the hour (UTC), as they were said.
    pub limit_schedule: Vec<String>,
    /// What is allowed at this moment; none: as much as there is.
    pub limit_now_bytes_per_s: Option<u64>,
    /// By which commands journals are fetched: `journal-read` or `read`.
    pub fetch: String,
    /// Updates that were fetched by READ since the start.
    pub updates_by_read: u64,
    /// Updates that READ was to fetch and JOURNAL READ did, because what was found was not what was announced.
    pub updates_reread: u64,
    /// When groups are read that come over it.
    pub read: String,
    /// When they are restored.
    pub restore: String,
    /// What it is as a relay, which leads through LUNs of a third-party target.
    pub relay: Option<RelayView>,
}

/// A relay: a link over which the journals of a group go through a third-party target.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RelayView {
    /// The group.
    pub group: String,
    /// What this array is there: `first`, which writes the journal, or `second`, which reads it.
    pub side: String,
    /// The target.
    pub target: String,
    /// LUN of the journal, of the control information of the first, and of that of the second array.
    pub luns: [u16; 3],
    /// At the first array: `wait` if hosts wait for it, `go-on` if not.
    pub hosts: String,
    /// At the first array: `all` if all journals go over it, `parts` if each goes over one of several relays. At the second the same, as
    /// the first one says.
    pub journals: String,
    /// Where what this array says of it goes: to its LUN there, `relay`, or straight to the other array while the link is up, `link`.
    pub control: String,
    /// The newest update that is known to be on it; none as long as none is.
    pub newest_update_number: Option<u64>,
    /// When the newest journals that are known to be on it were put there, by the clock of the first array, in milliseconds since 1970.
    pub newest_unix_ms: Option<u64>,
    /// Bytes of the journal LUN in use, as far as known here.
    pub used_bytes: u64,
    /// And all that there are.
    pub capacity_bytes: u64,
}

/// What came of trying a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkTestView {
    /// Name of the link.
    pub link: String,
    /// Number of the array behind it.
    pub array: u32,
    /// Whether it works in both directions, over every portal.
    pub passed: bool,
    /// Every portal, tried from here.
    pub portals: Vec<PortalTestView>,
    /// The other array, asked to log in here. None where it could not be asked.
    pub back: Option<BackTestView>,
}

/// A portal that was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortalTestView {
    /// Address.
    pub portal: String,
    /// Why it does not work; none if it does: both arrays have proved themselves.
    pub reason: Option<String>,
    /// Connecting and login.
    pub login_us: Option<u64>,
    /// The shortest of some round trips.
    pub round_trip_us: Option<u64>,
    /// How fast data came from there.
    pub received_bytes_per_s: Option<u64>,
}

/// The way back, as the other array says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct BackTestView {
    /// Why it does not work; none if it does: both arrays have proved themselves.
    pub reason: Option<String>,
    /// Connecting and login.
    #[serde(default)]
    pub login_us: Option<u64>,
}
