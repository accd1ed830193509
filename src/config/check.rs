//! What the entries of a configuration say about each other: names that are given twice, references to nothing,
//! volumes that do not fit, roles that exclude each other.
//!
//! It works on the document rather than on what was read, so that an entry with a mistake of its own still counts as
//! declared and draws no further complaints.

use super::mistake::closest;
use super::quantity::ByteSize;
use super::walk::{Table, whole};
use crate::volume::kind::{PortalAddress, RaidLevel, SvolSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// Checks everything that concerns more than one entry.
pub(super) fn across_sections(root: &Table<'_>) {
    let Some(section) = root.value("provision").and_then(|value| root.peek_one(value)) else { return };
    let all = Declared {
        parity_groups: names(&section, "parity_group", "name"),
        volumes: names(&section, "volume", "name"),
        links: names(&section, "link", "name"),
        groups: names(&section, "group", "name"),
        journals: section.peek("journal"),
    };
    names(&section, "pair", "name");
    for relay in section.peek("relay") {
        let Some(name) = relay.raw("name").filter(|name| all.links.contains(name)) else { continue };
        relay.note("name", format!("name: there is a link {name:?} already"));
    }
    names(&section, "relay", "name");
    names(&section, "target", "iqn");
    for volume in section.peek("volume") {
        if volume.raw("parity_group").is_some() {
            refer(&volume, "parity_group", "parity group", &all.parity_groups);
        }
    }
    for group in section.peek("group") {
        refer(&group, "source", "link", &all.links);
    }
    links(root, &section);
    members(&section, &all);
    journals(&all);
    pairs(&section, &all);
    readers(&section, &all);
    targets(&section, &all);
    units_once(&section);
    thick_volumes_fit(&section);
}

/// No two portals on one address.
pub(super) fn portals(tables: &[Table<'_>]) {
    let mut taken: Vec<SocketAddr> = Vec::new();
    for table in tables {
        let Some(address) = table.raw("listen").and_then(|text| text.parse::<SocketAddr>().ok()) else {
            continue;
        };
        let overlaps = |other: &&SocketAddr| {
            let same_family = other.is_ipv4() == address.is_ipv4();
            let same_ip =
                other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified();
            address.port() != 0 && other.port() == address.port() && same_family && same_ip
        };
        if let Some(other) = taken.iter().find(overlaps) {
            table.note("listen", format!("listen: {address} is taken by the portal on {other}"));
        }
        taken.push(address);
    }
}

/// What a file declares.
struct Declared<'a> {
    parity_groups: BTreeSet<&'a str>,
    volumes: BTreeSet<&'a str>,
    links: BTreeSet<&'a str>,
    groups: BTreeSet<&'a str>,
    journals: Vec<Table<'a>>,
}

impl Declared<'_> {
    fn is_journal(&self, volume: &str) -> bool {
        self.journals.iter().any(|entry| entry.value("at").is_none() && entry.raw("volume") == Some(volume))
    }

    fn has_journal(&self, group: &str, at: Option<&str>) -> bool {
        self.journals.iter().any(|entry| entry.raw("group") == Some(group) && entry.raw("at") == at)
    }
}

/// The names of one kind of entry; one that is given twice is a mistake.
fn names<'a>(section: &Table<'a>, kind: &str, key: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for entry in section.peek(kind) {
        let Some(name) = entry.raw(key) else { continue };
        let is_again = found.iter().any(|other: &&str| other.eq_ignore_ascii_case(name) && kind == "target");
        if !found.insert(name) || is_again {
            entry.note(key, format!("{key}: there is a {} {name:?} already", kind.replace('_', " ")));
        }
    }
    found
}

/// A reference to something that must be declared.
fn refer(entry: &Table<'_>, key: &str, what: &str, declared: &BTreeSet<&str>) {
    if let Some(name) = entry.raw(key) {
        refer_to(entry, key, what, name, declared);
    }
}

fn refer_to(entry: &Table<'_>, key: &str, what: &str, name: &str, declared: &BTreeSet<&str>) {
    if declared.contains(name) {
        return;
    }
    let known: Vec<&str> = declared.iter().copied().collect();
    let hint = match closest(name, &known) {
        Some(meant) => format!("; did you mean {meant:?}?"),
        None if known.is_empty() => format!("; no {what} is declared"),
        None => String::new(),
    };
    entry.note(key, format!("{key}: there is no {what} {name:?}{hint}"));
}

fn links(root: &Table<'_>, section: &Table<'_>) {
    let number = |table: &Table<'_>, key| table.value(key).and_then(|v| whole(0, u64::MAX)(v).ok());
    let own = root.value("array").and_then(|v| root.peek_one(v)).and_then(|array| number(&array, "number"));
    let mut behind = BTreeMap::new();
    for link in section.peek("link") {
        let Some(array) = number(&link, "array") else { continue };
        if Some(array) == own {
            link.note("array", format!("array: {array} is this array's own number"));
        }
        if let Some(other) = behind.insert(array, link.raw("name").unwrap_or_default()) {
            let advice = "one link has all portals of an array";
            link.note("array", format!("array: link {other:?} leads to array {array} already; {advice}"));
        }
        let mut portals = BTreeSet::new();
        for value in link.peek_list("portal") {
            let address = super::walk::parsed::<PortalAddress>(value);
            if let Ok(address) = address
                && !portals.insert(address.clone())
            {
                link.report.note(value.span().start, format!("portal: {address} stands here twice"));
            }
        }
    }
}

fn members(section: &Table<'_>, all: &Declared<'_>) {
    let mut taken = BTreeSet::new();
    for entry in section.peek("member") {
        refer(&entry, "group", "group", &all.groups);
        refer(&entry, "volume", "volume", &all.volumes);
        let Some(volume) = entry.raw("volume") else { continue };
        if all.is_journal(volume) {
            entry.note("volume", format!("volume: {volume:?} is a journal volume"));
        }
        if !taken.insert(volume) {
            entry.note("volume", format!("volume: {volume:?} is put into a group already"));
        }
    }
}

fn journals(all: &Declared<'_>) {
    let mut taken = BTreeSet::new();
    for entry in &all.journals {
        refer(entry, "group", "group", &all.groups);
        refer(entry, "at", "link", &all.links);
        if entry.value("at").is_none() {
            refer(entry, "volume", "volume", &all.volumes);
        }
        if let Some(volume) = entry.raw("volume")
            && !taken.insert((entry.raw("at"), volume))
        {
            entry.note("volume", format!("volume: {volume:?} is a journal volume already"));
        }
    }
}

fn pairs(section: &Table<'_>, all: &Declared<'_>) {
    let mut svols = BTreeSet::new();
    for pair in section.peek("pair") {
        refer(&pair, "group", "group", &all.groups);
        refer(&pair, "pvol", "volume", &all.volumes);
        if let Some(pvol) = pair.raw("pvol").filter(|pvol| all.is_journal(pvol)) {
            pair.note("pvol", format!("pvol: {pvol:?} is a journal volume"));
        }
        let Some(svol) = pair.raw("svol").and_then(|text| text.parse::<SvolSpec>().ok()) else { continue };
        refer_to(&pair, "svol", "link", svol.link.as_str(), &all.links);
        if !svols.insert(svol.to_string()) {
            pair.note("svol", format!("svol: {svol} follows another volume already"));
        }
        let Some(group) = pair.raw("group").filter(|group| all.groups.contains(group)) else { continue };
        if pair.raw("copy") == Some("sync") && !all.has_journal(group, None) {
            continue; // It is forwarded: the other array journals it in a group of its own.
        }
        if !all.has_journal(group, None) {
            pair.note("group", format!("group: {group:?} has no journal volume here: [[provision.journal]]"));
        }
        let link = svol.link.as_str();
        if all.links.contains(link) && !all.has_journal(group, Some(link)) {
            let advice = format!("[[provision.journal]] with at = {link:?}");
            pair.note("group", format!("group: {group:?} has no journal volume at {link:?}: {advice}"));
        }
    }
}

fn readers(section: &Table<'_>, all: &Declared<'_>) {
    let mut taken = BTreeSet::new();
    for reader in section.peek("reader") {
        refer(&reader, "link", "link", &all.links);
        refer(&reader, "source", "link", &all.links);
        if let (Some(link), Some(group)) = (reader.raw("link"), reader.raw("group"))
            && !taken.insert((link, group))
        {
            reader.note("group", format!("group: {group:?} of {link:?} has a schedule already"));
        }
    }
}

fn targets(section: &Table<'_>, all: &Declared<'_>) {
    for target in section.peek("target") {
        let mut taken = BTreeSet::new();
        for entry in target.peek("luns") {
            refer(&entry, "volume", "volume", &all.volumes);
            if let Some(volume) = entry.raw("volume").filter(|volume| all.is_journal(volume)) {
                let text = format!("volume: {volume:?} is a journal volume, which hosts never see");
                entry.note("volume", text);
            }
            if let Some(lun) = entry.value("lun").and_then(|value| whole(0, u64::MAX)(value).ok())
                && !taken.insert(lun)
            {
                entry.note("lun", format!("lun: {lun} is taken in this target"));
            }
        }
    }
}

/// A file or device is one unit, once.
fn units_once(section: &Table<'_>) {
    let mut taken = BTreeSet::new();
    for group in section.peek("parity_group") {
        for unit in group.peek("units").into_iter().chain(group.peek("spares")) {
            if let Some(path) = unit.raw("path")
                && !taken.insert(std::path::Path::new(path))
            {
                unit.note("path", format!("path: {path:?} is a unit already"));
            }
        }
    }
}

/// Thick volumes fit into their parity group. What the group keeps for itself comes off when it is created; a file
/// that cannot work in any case is noticed here.
fn thick_volumes_fit(section: &Table<'_>) {
    let size = |table: &Table<'_>| table.raw("size").and_then(|text| ByteSize::parse(text).ok());
    for group in section.peek("parity_group") {
        let level = group.raw("level").and_then(level_named);
        let sizes: Option<Vec<ByteSize>> = group.peek("units").iter().map(size).collect();
        let (Some(name), Some(level), Some(sizes)) = (group.raw("name"), level, sizes) else { continue };
        let Some(smallest) = sizes.iter().min() else { continue };
        let data_units = u64::try_from(level.data_units(sizes.len())).unwrap_or(u64::MAX);
        let mut free = ByteSize(smallest.0.saturating_mul(data_units));
        for volume in section.peek("volume").iter().filter(|v| v.raw("parity_group") == Some(name)) {
            let is_thin = volume.value("thin").is_some_and(|v| super::walk::boolean(v) == Ok(true));
            let Some(wanted) = size(volume).filter(|_| !is_thin) else { continue };
            match free.0.checked_sub(wanted.0) {
                Some(rest) => free = ByteSize(rest),
                None => volume.note(
                    "size",
                    format!(
                        "size: {wanted} does not fit into {name:?}, which has {free} left; or say thin = true"
                    ),
                ),
            }
        }
    }
}

fn level_named(text: &str) -> Option<RaidLevel> {
    use RaidLevel::{Raid0, Raid1, Raid5, Raid6, Raid10};
    [Raid0, Raid1, Raid10, Raid5, Raid6].into_iter().find(|level| level.to_string() == text)
}
