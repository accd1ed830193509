//! Reads `[provision]`: each entry by itself; what entries say about each other is for `check`.

use super::mistake::{References, Report};
use super::provision::{
    Chap, ChapUser, GroupSpec, JournalSpec, LinkSpec, LunSpec, MemberSpec, PairSpec, ParityGroupSpec,
    Provision, ReaderSpec, TargetSpec, UnitSpec, VolumeSpec,
};
use super::quantity::{ByteSize, parse_duration};
use super::read::{SLOT_BYTES, path, size_within, slots_within};
use super::relay::{RELAY_KEYS, relay};
use super::timing::{
    parse_no_room, parse_read_size, parse_read_timing, parse_release_by, parse_restore_timing,
};
use super::transfer::{parse_compression, parse_fetch, parse_limit, parse_window};
use super::walk::{Read, Table, Value, boolean, parsed, small, text, whole, word};
use crate::volume::group::JournalOptions;
use crate::volume::keep::KeepImages;
use crate::volume::kind::{
    CacheMode, CopyMode, FENCE_WAIT_DEFAULT, Fence, IdentityChoice, InitiatorRule, JournalLayout,
    JournalRatio, NoRoom, RaidLevel, Release, ReleaseBy, Schedule, SvolAccess, WhenOvertaken,
};
use crate::volume::name::{ARRAY_NUMBER_MAX, ArrayNumber, LUN_MAX, LinkName, Lun};
use crate::volume::secret::Secret;
use crate::volume::timing::{ReadSize, ReadTiming, RestoreTiming};
use crate::volume::transfer::{CONNECTIONS_MAX, Compression, Fetch, Limit, LinkOptions, WINDOWS_MAX};
use std::time::Duration;
use toml::de::DeValue;

/// Reads the section; an absent one declares nothing.
pub(super) fn provision(root: &Table<'_>) -> Option<Provision> {
    if root.value("provision").is_none() {
        return Some(Provision::default());
    }
    let section = root.table("provision", "[provision]", &PROVISION_KEYS)?;
    let parity_groups = entries(&section, "parity_group", &PARITY_GROUP_KEYS, parity_group);
    let volumes = entries(&section, "volume", &VOLUME_KEYS, volume);
    let targets = entries(&section, "target", &["iqn", "luns", "initiators", "chap"], target);
    let links = entries(&section, "link", &LINK_KEYS, link);
    let relays = entries(&section, "relay", &RELAY_KEYS, relay);
    let groups = entries(&section, "group", &GROUP_KEYS, group);
    let journals =
        entries(&section, "journal", &["group", "volume", "at", "reserve", "ratio", "layout"], journal);
    let members = entries(&section, "member", &["group", "volume"], member);
    let pairs = entries(&section, "pair", &["name", "group", "pvol", "svol", "copy"], pair);
    let readers = entries(&section, "reader", &READER_KEYS, reader);
    Some(Provision {
        parity_groups: parity_groups?,
        volumes: volumes?,
        targets: targets?,
        links: links?,
        relays: relays?,
        groups: groups?,
        members: members?,
        journals: journals?,
        pairs: pairs?,
        readers: readers?,
    })
}

fn entries<'a, T>(
    section: &Table<'a>,
    key: &'static str,
    keys: &[&str],
    read: impl Fn(&Table<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let tables = section.tables(key, entry_name(key), keys);
    let read: Vec<Option<T>> = tables.iter().map(read).collect();
    read.into_iter().collect()
}

/// How a kind of entry is called in messages.
pub(super) fn entry_name(key: &'static str) -> &'static str {
    match key {
        "parity_group" => "[[provision.parity_group]]",
        "volume" => "[[provision.volume]]",
        "target" => "[[provision.target]]",
        "link" => "[[provision.link]]",
        "relay" => "[[provision.relay]]",
        "group" => "[[provision.group]]",
        "member" => "[[provision.member]]",
        "journal" => "[[provision.journal]]",
        "pair" => "[[provision.pair]]",
        "reader" => "[[provision.reader]]",
        _ => "[[provision]]",
    }
}

fn parity_group(table: &Table<'_>) -> Option<ParityGroupSpec> {
    let name = table.required("name", parsed);
    let level = table.required("level", word(&LEVELS));
    let stripe_unit = table.or("stripe_unit", STRIPE_UNIT_DEFAULT, |value| {
        let size = size_within(ByteSize(SLOT_BYTES), STRIPE_UNIT_MAX)(value)?;
        if size.0.is_power_of_two() { Ok(size) } else { Err(format!("{size} is not a power of two")) }
    });
    if table.value("units").is_none() {
        table.note("units", "[[provision.parity_group]] needs units");
    }
    let units = units(table, "units");
    let spares = units_or_none(table, "spares");
    if let Some(level) = level {
        check_unit_count(table, level, table.list("units").len());
    }
    Some(ParityGroupSpec {
        name: name?,
        level: level?,
        stripe_unit: stripe_unit?,
        units: units?,
        spares: spares?,
    })
}

fn check_unit_count(table: &Table<'_>, level: RaidLevel, count: usize) {
    if table.value("units").is_none() {
        return;
    }
    if count < level.units_min() {
        table
            .note("units", format!("units: {level} needs at least {} units, not {count}", level.units_min()));
    } else if count > UNITS_MAX {
        table.note("units", format!("units: a parity group has at most {UNITS_MAX} units, not {count}"));
    } else if level == RaidLevel::Raid10 && count % 2 == 1 {
        table.note("units", format!("units: raid10 needs an even number of units, not {count}"));
    }
}

fn units_or_none(table: &Table<'_>, key: &str) -> Option<Vec<UnitSpec>> {
    if table.value(key).is_some() { units(table, key) } else { Some(Vec::new()) }
}

fn units(table: &Table<'_>, key: &str) -> Option<Vec<UnitSpec>> {
    let tables = table.tables(key, "a unit", &["path", "size"]);
    let all = tables.len() == table.list(key).len();
    let read: Vec<Option<UnitSpec>> = tables
        .iter()
        .map(|unit| {
            let path = unit.required("path", path).map(|path| unit.report.meant(path));
            let size = unit.maybe("size", slots_within(UNIT_MIN, SIZE_MAX));
            Some(UnitSpec { path: path?, size: size? })
        })
        .collect();
    let read: Option<Vec<UnitSpec>> = read.into_iter().collect();
    read.filter(|_| all)
}

fn volume(table: &Table<'_>) -> Option<VolumeSpec> {
    let name = table.required("name", parsed);
    let is_virtual = table.or("virtual", false, boolean);
    let parity_group = if is_virtual == Some(true) {
        if table.value("parity_group").is_some() {
            table.note("parity_group", "parity_group: a virtual volume has none".to_owned());
        }
        Some(None)
    } else {
        table.required("parity_group", parsed).map(Some)
    };
    is_virtual?;
    let size = table.required("size", slots_within(VOLUME_MIN, VOLUME_MAX));
    let thin = table.or("thin", false, boolean);
    let cache = table.or("cache", CacheMode::WriteBack, word(&CACHE_MODES));
    let block_size = table.or("block_size", 512, |value| match whole(0, u64::MAX)(value)? {
        512 => Ok(512),
        4_096 => Ok(4_096),
        other => Err(format!("{other} is neither 512 nor 4096")),
    });
    Some(VolumeSpec {
        name: name?,
        parity_group: parity_group?,
        size: size?,
        thin: thin?,
        cache: cache?,
        block_size_bytes: block_size?,
    })
}

fn initiators(table: &Table<'_>, key: &str) -> Option<Vec<InitiatorRule>> {
    table.each(key, |value| match text(value)? {
        "*" => Ok(InitiatorRule::Any),
        name => name.parse().map(InitiatorRule::Named).map_err(|e| format!("\"*\" or a name is needed; {e}")),
    })
}

fn target(table: &Table<'_>) -> Option<TargetSpec> {
    let iqn = table.required("iqn", parsed);
    let lun_tables = table.tables("luns", "a LUN", &["lun", "volume", "read_only_for"]);
    let all = lun_tables.len() == table.list("luns").len();
    let luns: Vec<Option<LunSpec>> = lun_tables
        .iter()
        .map(|entry| {
            let lun = entry.required("lun", small(0, LUN_MAX));
            let volume = entry.required("volume", parsed);
            let read_only_for = initiators(entry, "read_only_for");
            Some(LunSpec { lun: Lun(lun?), volume: volume?, read_only_for: read_only_for? })
        })
        .collect();
    let initiators = initiators(table, "initiators");
    let chap = chap(table);
    let luns: Option<Vec<LunSpec>> = luns.into_iter().collect();
    Some(TargetSpec { iqn: iqn?, luns: luns.filter(|_| all)?, initiators: initiators?, chap: chap? })
}

fn chap(target: &Table<'_>) -> Option<Option<Chap>> {
    if target.value("chap").is_none() {
        return Some(None);
    }
    let table = target.table("chap", "chap", &["user", "secret", "mutual"])?;
    let initiator = chap_user(&table);
    let Some(value) = table.value("mutual") else {
        return Some(Some(Chap { initiator: initiator?, mutual: None }));
    };
    let mutual = Table::open(table.report, value, "mutual", &["user", "secret"]).and_then(|t| chap_user(&t));
    let (initiator, mutual) = (initiator?, mutual?);
    if initiator.secret == mutual.secret {
        // RFC 7143 section 12.1.3: an initiator could otherwise reflect the target's own challenge.
        table.note("mutual", "mutual: its secret must differ from the initiator's");
        return None;
    }
    Some(Some(Chap { initiator, mutual: Some(mutual) }))
}

fn chap_user(table: &Table<'_>) -> Option<ChapUser> {
    let user = table.required("user", |value| match text(value)? {
        given if (1..=CHAP_USER_MAX_BYTES).contains(&given.len()) && !given.contains(char::is_control) => {
            Ok(given.to_owned())
        }
        _ => Err(format!("1 to {CHAP_USER_MAX_BYTES} printable bytes are needed")),
    });
    let secret = table.required("secret", |value| secret(value, table.report));
    Some(ChapUser { user: user?, secret: secret? })
}

/// A secret inline, `{ file = "…" }` or `{ env = "…" }`. No message names its text.
pub(super) fn secret(value: &Value<'_>, report: &Report<'_>) -> Read<Secret> {
    const FORMS: &str = "a string, { file = \"…\" } or { env = \"…\" } is needed";
    let table = match value.get_ref() {
        DeValue::String(text) => return Secret::new(text),
        DeValue::Table(table) if table.len() == 1 => table,
        _ => return Err(FORMS.into()),
    };
    let Some((key, inner)) = table.iter().next() else { return Err(FORMS.into()) };
    if report.references == References::Refused {
        return Err(
            "from another machine a secret is a string: no file and no variable of this one is read".into()
        );
    }
    match key.get_ref().as_ref() {
        "file" => {
            let path = report.meant(path(inner)?);
            Secret::from_file(&path)
        }
        "env" => {
            let name = text(inner)?;
            let held = std::env::var(name).map_err(|_| format!("the variable {name:?} is not set"))?;
            Secret::new(&held).map_err(|e| format!("the variable {name:?}: {e}"))
        }
        _ => Err(FORMS.into()),
    }
}

fn link(table: &Table<'_>) -> Option<LinkSpec> {
    let name = table.required("name", parsed);
    let array = table.required("array", small(1, ARRAY_NUMBER_MAX));
    let portals = table.each("portal", parsed);
    if table.value("portal").is_none() || portals.as_ref().is_some_and(Vec::is_empty) {
        table.note("portal", "[[provision.link]] needs portal: a list of host:port");
    }
    let secret = table.required("secret", |value| secret(value, table.report));
    let schedule = schedule(table);
    let options = link_options(table);
    Some(LinkSpec {
        name: name?,
        array: ArrayNumber(array?),
        portals: portals?,
        secret: secret?,
        schedule: schedule?,
        options: options?,
    })
}

fn link_options(table: &Table<'_>) -> Option<LinkOptions> {
    let connections = table.or("connections", 1, small(1, CONNECTIONS_MAX));
    let compression = table.or("compression", Compression::None, |value| parse_compression(text(value)?));
    let limit = table.or("limit", Limit::None, |value| parse_limit(text(value)?));
    let windows = table.each("limit_schedule", |value| parse_window(text(value)?));
    if windows.as_ref().is_some_and(|windows| windows.len() > WINDOWS_MAX) {
        table.note("limit_schedule", format!("limit_schedule: no more than {WINDOWS_MAX} windows"));
    }
    let fetch = table.or("fetch", Fetch::JournalRead, |value| parse_fetch(text(value)?));
    Some(LinkOptions {
        connections: connections?,
        compression: compression?,
        limit: limit?,
        windows: windows?,
        fetch: fetch?,
    })
}

fn schedule(table: &Table<'_>) -> Option<Schedule> {
    for (short, long) in [("read_interval", "read"), ("restore_interval", "restore")] {
        if table.value(short).is_some() && table.value(long).is_some() {
            table.note(long, format!("{long}: {short} says the same; give one of them"));
        }
    }
    let read_interval = table.maybe("read_interval", interval);
    let read = table.maybe("read", |value| parse_read_timing(text(value)?));
    let read_size = table.or("read_size", ReadSize::Group, |value| parse_read_size(text(value)?));
    let restore_interval = table.maybe("restore_interval", interval);
    let restore = table.maybe("restore", |value| parse_restore_timing(text(value)?));
    let restore_delay = table.or("restore_delay", Duration::ZERO, |value| parse_duration(text(value)?));
    let every = |interval: Option<Option<Duration>>| interval.flatten();
    Some(Schedule {
        read: read?.unwrap_or(every(read_interval?).map_or(ReadTiming::Immediate, ReadTiming::Every)),
        read_size: read_size?,
        restore: restore?
            .unwrap_or(every(restore_interval?).map_or(RestoreTiming::Immediate, RestoreTiming::Every)),
        restore_delay: restore_delay?,
    })
}

/// The short form of a timing: "immediate" or a time.
fn interval(value: &Value<'_>) -> Read<Option<Duration>> {
    match text(value)? {
        "immediate" => Ok(None),
        given => parse_duration(given)
            .map(|time| Some(time).filter(|time| !time.is_zero()))
            .map_err(|e| format!("{e}, or \"immediate\"")),
    }
}

fn group(table: &Table<'_>) -> Option<GroupSpec> {
    let name = table.required("name", parsed);
    let access = word(&[("none", SvolAccess::None), ("read", SvolAccess::Read)]);
    let svol_access = table.or("svol_access", SvolAccess::None, access);
    let releases = word(&[("read", Release::Read), ("restored", Release::Restored)]);
    let release = table.or("release", Release::Read, releases);
    let read_updates = table.or("read_updates", READ_UPDATES_DEFAULT, small(1, READ_UPDATES_MAX));
    let bytes = slots_within(ByteSize::kibibytes(4), ByteSize::mebibytes(4));
    let read_bytes = table.or("read_bytes", ByteSize::mebibytes(1), bytes);
    // One unit is one update, and an update has at most 256 ranges: as many as 1 MiB has pages.
    let unit = slots_within(ByteSize::kibibytes(64), ByteSize::mebibytes(1));
    let copy_unit = table.or("copy_unit", ByteSize::mebibytes(1), unit);
    let throttle = table.or("throttle", Duration::ZERO, |value| parse_duration(text(value)?));
    let release_by = table.or("release_by", ReleaseBy::Named, |value| parse_release_by(text(value)?));
    let no_room = table.or("no_room", NoRoom::Hold, |value| parse_no_room(text(value)?));
    let fence = table.or("fence", Fence::Never, |value| text(value)?.parse());
    let fence_wait = table.or("fence_wait", FENCE_WAIT_DEFAULT, |value| parse_duration(text(value)?));
    let identity = table.or("identity", IdentityChoice::Own, |value| text(value)?.parse());
    let overtaken = table.or("overtaken", WhenOvertaken::Wait, |value| text(value)?.parse());
    let source = table.maybe("source", parsed::<LinkName>);
    if let Some(Some(source)) = &source {
        return Some(GroupSpec::followed(name?, source.clone()));
    }
    Some(GroupSpec {
        name: name?,
        svol_access: svol_access?,
        release: release?,
        read_updates: read_updates?,
        read_bytes: read_bytes?,
        copy_unit: copy_unit?,
        throttle: throttle?,
        release_by: release_by?,
        no_room: no_room?,
        fence: fence?,
        fence_wait: fence_wait?,
        identity: identity?,
        overtaken: overtaken?,
        source: None,
    })
}

fn member(table: &Table<'_>) -> Option<MemberSpec> {
    let (group, volume) = (table.required("group", parsed), table.required("volume", parsed));
    Some(MemberSpec { group: group?, volume: volume? })
}

fn journal(table: &Table<'_>) -> Option<JournalSpec> {
    let group = table.required("group", parsed);
    let volume = table.required("volume", parsed);
    let at = table.maybe("at", parsed);
    let reserve = table.or("reserve", false, boolean);
    let ratio = table.or("ratio", JournalRatio::default(), parsed);
    let layout = table.or("layout", JournalLayout::default(), parsed);
    let options = JournalOptions { reserve: reserve?, ratio: ratio?, layout: layout? };
    Some(JournalSpec { group: group?, volume: volume?, at: at?, options })
}

fn pair(table: &Table<'_>) -> Option<PairSpec> {
    let name = table.required("name", parsed);
    let group = table.required("group", parsed);
    let pvol = table.required("pvol", parsed);
    let svol = table.required("svol", parsed);
    let copy = table.or("copy", CopyMode::Async, |value| match text(value)? {
        "async" => Ok(CopyMode::Async),
        "sync" => Ok(CopyMode::Sync),
        other => Err(format!("{other:?} is none of \"async\", \"sync\"")),
    });
    Some(PairSpec { name: name?, group: group?, pvol: pvol?, svol: svol?, copy: copy? })
}

fn reader(table: &Table<'_>) -> Option<ReaderSpec> {
    let link = table.required("link", parsed);
    let group = table.required("group", parsed);
    let schedule = schedule(table);
    let source = table.maybe("source", parsed);
    let by_load = table.or("by_load", false, boolean);
    let keep_images = keep_images(table);
    let (source, by_load, keep_images) = (source?, by_load?, keep_images?);
    Some(ReaderSpec { link: link?, group: group?, schedule: schedule?, source, by_load, keep_images })
}

/// How often and how large mean something only with how long.
fn keep_images(table: &Table<'_>) -> Option<Option<KeepImages>> {
    let time = |value: &Value<'_>| parse_duration(text(value)?);
    let for_time = table.maybe("keep_images", time);
    let every = table.maybe("image_interval", time);
    let bytes = table.maybe("keep_images_bytes", size_within(ByteSize(1), SIZE_MAX));
    let (for_time, every, bytes) = (for_time?, every?, bytes?);
    let Some(for_time) = for_time else {
        let alone =
            ["image_interval", "keep_images_bytes"].into_iter().find(|key| table.value(key).is_some());
        return match alone {
            Some(key) => {
                table.note(key, format!("{key}: nothing is kept without keep_images"));
                None
            }
            None => Some(None),
        };
    };
    let every = every.unwrap_or_else(|| KeepImages::usual_interval(for_time));
    let keep = KeepImages { for_time, every, bytes: bytes.map(|bytes| bytes.0) };
    keep.check().map_err(|refusal| table.note("keep_images", format!("keep_images: {refusal}"))).ok()?;
    Some(Some(keep))
}

pub(super) const PROVISION_KEYS: [&str; 10] =
    ["parity_group", "volume", "target", "link", "relay", "group", "member", "journal", "pair", "reader"];
const PARITY_GROUP_KEYS: [&str; 5] = ["name", "level", "stripe_unit", "units", "spares"];
const VOLUME_KEYS: [&str; 7] = ["name", "virtual", "parity_group", "size", "thin", "cache", "block_size"];
const LINK_KEYS: [&str; 15] = [
    "compression",
    "limit",
    "limit_schedule",
    "fetch",
    "connections",
    "name",
    "array",
    "portal",
    "secret",
    "read",
    "read_interval",
    "read_size",
    "restore",
    "restore_interval",
    "restore_delay",
];
const READER_KEYS: [&str; 13] = [
    "keep_images",
    "image_interval",
    "keep_images_bytes",
    "source",
    "by_load",
    "link",
    "group",
    "read",
    "read_interval",
    "read_size",
    "restore",
    "restore_interval",
    "restore_delay",
];
const GROUP_KEYS: [&str; 14] = [
    "overtaken",
    "identity",
    "fence",
    "fence_wait",
    "throttle",
    "name",
    "svol_access",
    "release",
    "release_by",
    "no_room",
    "read_updates",
    "read_bytes",
    "copy_unit",
    "source",
];
const LEVELS: [(&str, RaidLevel); 5] = [
    ("raid0", RaidLevel::Raid0),
    ("raid1", RaidLevel::Raid1),
    ("raid10", RaidLevel::Raid10),
    ("raid5", RaidLevel::Raid5),
    ("raid6", RaidLevel::Raid6),
];
const CACHE_MODES: [(&str, CacheMode); 2] =
    [("write-back", CacheMode::WriteBack), ("write-through", CacheMode::WriteThrough)];
/// More units make one parity group too slow to rebuild.
const UNITS_MAX: usize = 16;
/// Superblock, logs and maps take up to a quarter of a smaller unit.
const UNIT_MIN: ByteSize = ByteSize::mebibytes(16);
const SIZE_MAX: ByteSize = ByteSize(1 << 50);
const VOLUME_MIN: ByteSize = ByteSize::mebibytes(1);
/// 256 TiB: the largest volume that is tested.
const VOLUME_MAX: ByteSize = ByteSize(256 << 40);
const STRIPE_UNIT_DEFAULT: ByteSize = ByteSize::kibibytes(64);
const STRIPE_UNIT_MAX: ByteSize = ByteSize::mebibytes(16);
const READ_UPDATES_DEFAULT: u32 = 1_024;
const READ_UPDATES_MAX: u32 = 65_536;
pub(super) const CHAP_USER_MAX_BYTES: usize = 255;
