//! From the tables back to declarations: what `config export` writes, and what `config apply` compares with.
//!
//! Applied to an array that has nothing, an export makes the same objects again, and the export of that array is the
//! same text. Secrets are never written: each is a reference to a file that the operator fills. Groups that are copies
//! here belong to their primary and are in its export; here stands when they are read and restored. Snapshots are left out, with
//! their LUNs: their content cannot be declared.

use super::provision::{
    Chap, ChapUser, GroupSpec, JournalSpec, LinkSpec, LunSpec, MemberSpec, PairSpec, ParityGroupSpec,
    Provision, ReaderSpec, TargetSpec, UnitSpec, VolumeSpec,
};
use super::quantity::ByteSize;
use crate::volume::group::{GroupRecord, GroupRole};
use crate::volume::kind::{CacheMode, InitiatorRule, Release, Schedule, SvolAccess, SvolSpec};
use crate::volume::name::{VolumeName, VolumeNumber};
use crate::volume::record::{Credential, LunRecord, TargetRecord, UnitRecord, VolumeRecord, VolumeUsage};
use crate::volume::relay::{RelayControl, RelayHosts, RelayJournals, RelayRecord};
use crate::volume::table::Tables;
use std::fmt::{Display, Write};
use std::time::Duration;

/// Everything that the tables hold and a configuration can declare, in the order in which it was made.
#[must_use]
pub fn declared(tables: &Tables) -> Provision {
    let unit = |unit: &UnitRecord| UnitSpec { path: unit.path.clone(), size: unit.size_bytes.map(ByteSize) };
    let parity_groups = tables.parity_groups.iter().map(|row| ParityGroupSpec {
        name: row.name.clone(),
        level: row.level,
        stripe_unit: ByteSize(row.stripe_unit_bytes),
        units: row.units.iter().map(unit).collect(),
        spares: row.spares.iter().map(unit).collect(),
    });
    // A declaration cannot make what a snapshot is.
    let is_declared = |row: &&VolumeRecord| !matches!(row.usage, VolumeUsage::Snapshot(_));
    let volumes = tables.volumes.iter().filter(is_declared).filter_map(|row| {
        let parity_group = match row.parity_group {
            Some(number) => Some(tables.parity_groups.get(&number)?.name.clone()),
            None => None,
        };
        Some(VolumeSpec {
            name: row.name.clone(),
            parity_group,
            size: ByteSize(row.size_bytes),
            thin: row.is_thin,
            cache: row.cache,
            block_size_bytes: row.block_size_bytes,
        })
    });
    let links = tables.links.iter().map(|row| LinkSpec {
        name: row.name.clone(),
        array: row.array,
        portals: row.portals.clone(),
        secret: row.secret.clone(),
        schedule: row.schedule,
        options: row.options.clone(),
    });
    let scheduled = tables.schedules.iter().map(|row| {
        let group = tables.group_named(&row.group);
        let other = group.and_then(|group| group.other_source.as_ref());
        ReaderSpec {
            link: row.link.clone(),
            group: row.group.clone(),
            schedule: row.schedule,
            source: other.map(|other| other.link.clone()),
            by_load: other.is_some_and(|other| other.by_load),
            keep_images: group.and_then(|group| group.keep_images),
        }
    });
    let readers = scheduled.chain(tables.groups.iter().filter_map(|row| unscheduled(tables, row)));
    // A group that is only copied here stands in the configuration of its primary.
    let own = || {
        let hands_on = |row: &GroupRecord| tables.readers_of_group(row.number).next().is_some();
        tables.groups.iter().filter(move |row| row.role == GroupRole::Primary || hands_on(row))
    };
    let groups = own().map(|row| match &row.role {
        GroupRole::Primary => primary_group(row),
        GroupRole::Auxiliary { link, .. } => GroupSpec::followed(row.name.clone(), link.clone()),
    });
    Provision {
        parity_groups: parity_groups.collect(),
        volumes: volumes.collect(),
        targets: tables.targets.iter().map(|row| target(tables, row)).collect(),
        links: links.collect(),
        relays: tables.relays.iter().cloned().collect(),
        groups: groups.collect(),
        members: own().flat_map(|row| members(tables, row)).collect(),
        journals: own().flat_map(|row| journals(tables, row)).collect(),
        pairs: own().flat_map(|row| pairs(tables, row)).collect(),
        readers: readers.collect(),
    }
}

/// A group that is read from another array than its source, or of which images are kept, on the schedule of its link.
fn unscheduled(tables: &Tables, row: &GroupRecord) -> Option<ReaderSpec> {
    let GroupRole::Auxiliary { link, .. } = &row.role else { return None };
    let other = row.other_source.as_ref();
    if other.is_none() && row.keep_images.is_none() {
        return None;
    }
    if tables.schedules.get(&(link.clone(), row.name.clone())).is_some() {
        return None;
    }
    Some(ReaderSpec {
        link: link.clone(),
        group: row.name.clone(),
        schedule: tables.links.get(link).map(|link| link.schedule).unwrap_or_default(),
        source: other.map(|other| other.link.clone()),
        by_load: other.is_some_and(|other| other.by_load),
        keep_images: row.keep_images,
    })
}

fn primary_group(row: &GroupRecord) -> GroupSpec {
    GroupSpec {
        name: row.name.clone(),
        svol_access: row.settings.svol_access,
        release: row.settings.release,
        read_updates: row.settings.read_updates,
        read_bytes: ByteSize(row.settings.read_bytes),
        copy_unit: ByteSize(row.settings.copy_unit_bytes),
        throttle: row.settings.throttle,
        release_by: row.settings.release_by,
        no_room: row.settings.no_room,
        fence: row.settings.fence,
        fence_wait: row.settings.fence_wait,
        identity: row.settings.identity,
        overtaken: row.settings.overtaken,
        source: None,
    }
}

fn volume_name(tables: &Tables, number: VolumeNumber) -> Option<VolumeName> {
    tables.volumes.get(&number).map(|volume| volume.name.clone())
}

fn target(tables: &Tables, row: &TargetRecord) -> TargetSpec {
    let user = |credential: &Credential| ChapUser {
        user: credential.user.clone(),
        secret: credential.secret.clone(),
    };
    let is_declared = |entry: &&LunRecord| {
        let volume = tables.volumes.get(&entry.volume);
        volume.is_some_and(|volume| !matches!(volume.usage, VolumeUsage::Snapshot(_)))
    };
    let luns = row.luns.iter().filter(is_declared);
    TargetSpec {
        iqn: row.iqn.clone(),
        luns: luns
            .filter_map(|entry| {
                let (volume, read_only_for) =
                    (volume_name(tables, entry.volume)?, entry.read_only_for.clone());
                Some(LunSpec { lun: entry.lun, volume, read_only_for })
            })
            .collect(),
        initiators: row.initiators.clone(),
        chap: row
            .chap
            .as_ref()
            .map(|chap| Chap { initiator: user(&chap.initiator), mutual: chap.mutual.as_ref().map(user) }),
    }
}

fn members<'t>(tables: &'t Tables, row: &'t GroupRecord) -> impl Iterator<Item = MemberSpec> + 't {
    let names = row.members.iter().filter_map(|volume| volume_name(tables, *volume));
    names.map(|volume| MemberSpec { group: row.name.clone(), volume })
}

fn journals<'t>(tables: &'t Tables, row: &'t GroupRecord) -> impl Iterator<Item = JournalSpec> + 't {
    let staying = row.journals.iter().filter(|journal| !journal.is_leaving);
    let here = staying.filter_map(|journal| {
        let volume = volume_name(tables, journal.volume)?;
        Some(JournalSpec { group: row.name.clone(), volume, at: None, options: journal.options })
    });
    let there = row.remote_journals.iter().map(|journal| JournalSpec {
        group: row.name.clone(),
        volume: journal.volume.clone(),
        at: Some(journal.link.clone()),
        options: journal.options,
    });
    here.chain(there)
}

fn pairs<'t>(tables: &'t Tables, row: &'t GroupRecord) -> impl Iterator<Item = PairSpec> + 't {
    tables.served_pairs(row.number).filter_map(|pair| {
        Some(PairSpec {
            name: pair.name.clone(),
            group: row.name.clone(),
            pvol: volume_name(tables, pair.primary.volume?)?,
            svol: SvolSpec { link: pair.link.clone(), volume: pair.auxiliary.name.clone()? },
            copy: pair.copy.said(),
        })
    })
}

/// Objects that are named in `wanted` and are different in `tables`: nothing changes them.
#[must_use]
pub fn different(wanted: &Provision, tables: &Tables) -> Vec<String> {
    let here = declared(tables);
    let mut found = Vec::new();
    compare(&mut found, "parity group", &wanted.parity_groups, &here.parity_groups, |s| s.name.to_string());
    compare(&mut found, "volume", &wanted.volumes, &here.volumes, |s| s.name.to_string());
    let mut targets = wanted.targets.clone();
    targets.iter_mut().for_each(|target| target.luns.sort_by_key(|entry| entry.lun));
    compare(&mut found, "target", &targets, &here.targets, |s| s.iqn.to_string());
    compare(&mut found, "link", &wanted.links, &here.links, |s| s.name.to_string());
    compare(&mut found, "relay", &wanted.relays, &here.relays, |s| s.name.to_string());
    compare(&mut found, "group", &wanted.groups, &here.groups, |s| s.name.to_string());
    compare(&mut found, "pair", &wanted.pairs, &here.pairs, |s| s.name.to_string());
    compare(&mut found, "reader", &wanted.readers, &here.readers, |s| format!("{} of {}", s.group, s.link));
    found
}

fn compare<S: PartialEq>(
    found: &mut Vec<String>,
    kind: &str,
    wanted: &[S],
    here: &[S],
    name: fn(&S) -> String,
) {
    for spec in wanted {
        if here.iter().any(|other| name(other) == name(spec) && other != spec) {
            found.push(format!("{kind} {} is different here", name(spec)));
        }
    }
}

/// The declarations as TOML. The secret of each link and user is a file in the directory `secrets`, which is named and
/// not written.
#[must_use]
pub fn to_toml(provision: &Provision, secrets: &str) -> String {
    let mut text = String::from(
        "# Objects of an array, by `holdfast config export`. Secrets are not exported: the files named below hold them.\n",
    );
    provision.parity_groups.iter().for_each(|spec| parity_group_entry(spec).append_to(&mut text));
    provision.volumes.iter().for_each(|spec| volume_entry(spec).append_to(&mut text));
    provision.targets.iter().for_each(|spec| target_entry(spec, secrets).append_to(&mut text));
    provision.links.iter().for_each(|spec| link_entry(spec, secrets).append_to(&mut text));
    provision.relays.iter().for_each(|spec| relay_entry(spec, secrets).append_to(&mut text));
    provision.groups.iter().for_each(|spec| group_entry(spec).append_to(&mut text));
    for member in &provision.members {
        let mut entry = Entry::new("member");
        entry.text("group", &member.group).text("volume", &member.volume);
        entry.append_to(&mut text);
    }
    provision.journals.iter().for_each(|spec| journal_entry(spec).append_to(&mut text));
    provision.pairs.iter().for_each(|spec| pair_entry(spec).append_to(&mut text));
    provision.readers.iter().for_each(|spec| reader_entry(spec).append_to(&mut text));
    text
}

fn reader_entry(reader: &ReaderSpec) -> Entry {
    let mut entry = Entry::new("reader");
    entry.text("link", &reader.link).text("group", &reader.group).schedule(reader.schedule);
    if let Some(source) = &reader.source {
        entry.text("source", source).raw("by_load", reader.by_load);
    }
    if let Some(keep) = reader.keep_images {
        entry.text("keep_images", ms(keep.for_time)).text("image_interval", ms(keep.every));
        keep.bytes.iter().for_each(|bytes| _ = entry.text("keep_images_bytes", ByteSize(*bytes)));
    }
    entry
}

fn secret_file(secrets: &str, name: &str) -> String {
    format!("{{ file = {} }}", quoted(&format!("{secrets}/{name}")))
}

fn parity_group_entry(group: &ParityGroupSpec) -> Entry {
    let mut entry = Entry::new("parity_group");
    entry.text("name", &group.name).text("level", group.level).text("stripe_unit", group.stripe_unit);
    entry.raw("units", units(&group.units));
    if !group.spares.is_empty() {
        entry.raw("spares", units(&group.spares));
    }
    entry
}

fn volume_entry(volume: &VolumeSpec) -> Entry {
    let mut entry = Entry::new("volume");
    entry.text("name", &volume.name);
    match &volume.parity_group {
        Some(parity_group) => entry.text("parity_group", parity_group),
        None => entry.raw("virtual", true),
    };
    entry.text("size", volume.size);
    let cache = match volume.cache {
        CacheMode::WriteBack => "write-back",
        CacheMode::WriteThrough => "write-through",
    };
    entry.raw("thin", volume.thin).text("cache", cache).raw("block_size", volume.block_size_bytes);
    entry
}

fn target_entry(target: &TargetSpec, secrets: &str) -> Entry {
    let mut entry = Entry::new("target");
    let initiators = |rules: &[InitiatorRule]| list(rules.iter().map(|rule| quoted(&rule.to_string())));
    let lun = |lun: &LunSpec| {
        let readers = match lun.read_only_for.as_slice() {
            [] => String::new(),
            rules => format!(", read_only_for = {}", initiators(rules)),
        };
        format!("{{ lun = {}, volume = {}{readers} }}", lun.lun, quoted(lun.volume.as_str()))
    };
    entry.text("iqn", &target.iqn);
    entry.raw("luns", list(target.luns.iter().map(lun)));
    entry.raw("initiators", initiators(&target.initiators));
    if let Some(chap) = &target.chap {
        let user = |user: &ChapUser, part: &str| {
            let file = format!("target-{}-{part}", target.iqn.as_str().replace('/', "_"));
            format!("user = {}, secret = {}", quoted(&user.user), secret_file(secrets, &file))
        };
        let mutual =
            chap.mutual.as_ref().map(|mutual| format!(", mutual = {{ {} }}", user(mutual, "mutual")));
        entry.raw("chap", format!("{{ {}{} }}", user(&chap.initiator, "chap"), mutual.unwrap_or_default()));
    }
    entry
}

fn link_entry(link: &LinkSpec, secrets: &str) -> Entry {
    let mut entry = Entry::new("link");
    entry.text("name", &link.name).raw("array", link.array);
    entry.raw("portal", list(link.portals.iter().map(|portal| quoted(&portal.to_string()))));
    entry.raw("secret", secret_file(secrets, &format!("link-{}", link.name)));
    let options = &link.options;
    entry.raw("connections", options.connections).text("compression", options.compression);
    entry.text("limit", options.limit);
    entry.raw("limit_schedule", list(options.windows.iter().map(|window| quoted(&window.to_string()))));
    entry.text("fetch", options.fetch);
    entry.schedule(link.schedule);
    entry
}

fn relay_entry(relay: &RelayRecord, secrets: &str) -> Entry {
    let mut entry = Entry::new("relay");
    entry.text("name", &relay.name).text("group", &relay.group).raw("array", relay.array);
    entry.text("as", relay.side).text("target", &relay.target).raw("luns", format!("[{}]", relay.luns));
    entry.raw("portal", list(relay.portals.iter().map(|portal| quoted(&portal.to_string()))));
    if relay.hosts == RelayHosts::Wait {
        entry.text("hosts", relay.hosts);
    }
    if relay.journals == RelayJournals::Parts {
        entry.text("journals", relay.journals);
    }
    if relay.control == RelayControl::Link {
        entry.text("control", relay.control);
    }
    if let Some(chap) = &relay.chap {
        entry.text("user", &chap.user).raw("secret", secret_file(secrets, &format!("relay-{}", relay.name)));
    }
    entry
}

fn group_entry(group: &GroupSpec) -> Entry {
    let mut entry = Entry::new("group");
    if let Some(source) = &group.source {
        entry.text("name", &group.name).text("source", source);
        return entry;
    }
    let access = match group.svol_access {
        SvolAccess::None => "none",
        SvolAccess::Read => "read",
    };
    let release = match group.release {
        Release::Read => "read",
        Release::Restored => "restored",
    };
    entry.text("name", &group.name).text("svol_access", access).text("release", release);
    entry.raw("read_updates", group.read_updates).text("read_bytes", group.read_bytes);
    entry.text("copy_unit", group.copy_unit);
    entry.text("throttle", ms(group.throttle));
    entry.text("release_by", group.release_by).text("no_room", group.no_room);
    entry.text("fence", group.fence).text("fence_wait", ms(group.fence_wait));
    entry.text("identity", group.identity).text("overtaken", group.overtaken);
    entry
}

fn journal_entry(journal: &JournalSpec) -> Entry {
    let mut entry = Entry::new("journal");
    entry.text("group", &journal.group).text("volume", &journal.volume);
    if let Some(at) = &journal.at {
        entry.text("at", at);
    }
    if journal.options.reserve {
        entry.raw("reserve", true);
    }
    entry.text("ratio", journal.options.ratio);
    entry.text("layout", journal.options.layout);
    entry
}

fn pair_entry(pair: &PairSpec) -> Entry {
    let mut entry = Entry::new("pair");
    entry.text("name", &pair.name).text("group", &pair.group).text("pvol", &pair.pvol);
    entry.text("svol", &pair.svol).text("copy", pair.copy);
    entry
}

/// One `[[provision.x]]`.
struct Entry(String);

impl Entry {
    fn new(kind: &str) -> Self {
        Self(format!("\n[[provision.{kind}]]\n"))
    }

    fn raw(&mut self, key: &str, value: impl Display) -> &mut Self {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "{key} = {value}");
        self
    }

    fn text(&mut self, key: &str, value: impl Display) -> &mut Self {
        self.raw(key, quoted(&value.to_string()))
    }

    fn schedule(&mut self, schedule: Schedule) -> &mut Self {
        self.text("read", schedule.read).text("read_size", schedule.read_size);
        self.text("restore", schedule.restore);
        self.text("restore_delay", ms(schedule.restore_delay))
    }

    fn append_to(&self, text: &mut String) {
        text.push_str(&self.0);
    }
}

fn ms(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

fn units(units: &[UnitSpec]) -> String {
    list(units.iter().map(|unit| {
        let path = quoted(&unit.path.to_string_lossy());
        match unit.size {
            Some(size) => format!("{{ path = {path}, size = {} }}", quoted(&size.to_string())),
            None => format!("{{ path = {path} }}"),
        }
    }))
}

fn list(entries: impl Iterator<Item = String>) -> String {
    format!("[{}]", entries.collect::<Vec<_>>().join(", "))
}

/// A basic string of TOML, on one line.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::config::{Config, missing_designations};
    use crate::volume::designation::Designation;
    use crate::volume::record::{Identity, Who};
    use crate::volume::store::{Backend, Owner, SimStorage, Store};
    use std::path::Path;
    use std::sync::Arc;

    fn empty_array(number: u32) -> Store {
        let owner = Owner {
            number: crate::volume::name::ArrayNumber(number),
            name: "alpha".parse().unwrap(),
            identity: Identity(1),
            audit_records_max: 100,
        };
        let backend = Backend::Simulated(SimStorage::new());
        Store::open(&backend, &owner, Arc::new(SystemClock::new())).unwrap()
    }

    fn apply(store: &Store, provision: &Provision) {
        let mut last = 0;
        let identity = || {
            last += 1;
            Identity(last)
        };
        let missing = store.read(|tables| missing_designations(provision, tables, identity));
        store.designate_all(&missing, &Who::Provision).unwrap();
    }

    #[test]
    fn an_export_applied_to_an_empty_array_exports_the_same_again() {
        for text in [
            include_str!("../../conf/holdfast.toml"),
            include_str!("../../conf/demo.toml"),
            include_str!("../../conf/bench.toml"),
        ] {
            let mut config = Config::parse(Path::new("x.toml"), text).unwrap();
            let units = config.provision.parity_groups.iter_mut();
            for unit in units.flat_map(|group| group.units.iter_mut().chain(&mut group.spares)) {
                // A relative path begins elsewhere when another operator applies it.
                unit.path = Path::new("/srv").join(&unit.path);
            }
            let first = empty_array(config.array.number.0);
            apply(&first, &config.provision);
            assert_eq!(different(&config.provision, &first.tables()), Vec::<String>::new());
            let directory = tempfile::tempdir().unwrap();
            let exported = to_toml(&declared(&first.tables()), "secrets");
            for secret in secrets_of(&config.provision) {
                assert!(!exported.contains(&secret), "an export has no secrets");
            }
            // The operator fills the files; which secret is in them does not show.
            std::fs::create_dir(directory.path().join("secrets")).unwrap();
            let named = exported.split("file = \"").skip(1).filter_map(|rest| rest.split('"').next());
            for (index, file) in named.enumerate() {
                std::fs::write(directory.path().join(file), format!("secret of file {index}")).unwrap();
            }
            let (number, read) = Provision::parse(Path::new("e.toml"), &exported, directory.path()).unwrap();
            assert_eq!(number, None);
            let second = empty_array(config.array.number.0);
            apply(&second, &read);
            assert_eq!(to_toml(&declared(&second.tables()), "secrets"), exported);
            assert!(second.read(|tables| missing_designations(&read, tables, Identity::default)).is_empty());
        }
    }

    #[test]
    fn a_reader_is_exported_with_its_source_and_the_images_that_it_keeps() {
        let common = "[[provision.link]]\nname = \"beta\"\narray = 2\nportal = [\"h:3260\"]\nsecret = \"a secret of this test\"\n\
                      [[provision.reader]]\nlink = \"beta\"\ngroup = \"g2\"\n";
        let parse = |more: &str| {
            let text = format!("{common}{more}");
            Provision::parse(Path::new("e.toml"), &text, Path::new("/")).map(|(_, read)| read)
        };
        let one = parse("source = \"beta\"\nkeep_images = \"12h\"\nkeep_images_bytes = \"8GiB\"\n").unwrap();
        let keep = one.readers[0].keep_images.expect("it keeps images");
        assert_eq!(
            (keep.for_time.as_secs(), keep.every.as_secs(), keep.bytes),
            (43_200, 1_800, Some(8 << 30))
        );
        let exported = to_toml(&Provision { links: Vec::new(), ..one.clone() }, "secrets");
        let again = parse(
            exported.split("[[provision.reader]]").nth(1).unwrap().split_once("group = \"g2\"\n").unwrap().1,
        );
        assert_eq!(again.unwrap().readers, one.readers);
        let missing = missing_designations(&one, &empty_array(1).tables(), Identity::default);
        assert!(
            missing.iter().any(|(_, what)| matches!(what, Designation::KeepImages { keep: Some(_), .. }))
        );
        for bad in ["image_interval = \"1h\"\n", "keep_images = \"1h\"\nimage_interval = \"2h\"\n"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    fn secrets_of(provision: &Provision) -> Vec<String> {
        let links = provision.links.iter().map(|link| &link.secret);
        let chaps = provision.targets.iter().filter_map(|target| target.chap.as_ref());
        let users = chaps.flat_map(|chap| std::iter::once(&chap.initiator).chain(&chap.mutual));
        let all = links.chain(users.map(|user| &user.secret));
        all.map(|secret| String::from_utf8_lossy(secret.expose()).into_owned()).collect()
    }

    #[test]
    fn what_is_different_is_named_and_stays() {
        let text = include_str!("../../conf/holdfast.toml");
        let config = Config::parse(Path::new("x.toml"), text).unwrap();
        let store = empty_array(config.array.number.0);
        apply(&store, &config.provision);
        let mut other = config.provision.clone();
        other.volumes[0].thin = !other.volumes[0].thin;
        let name = other.volumes[0].name.clone();
        assert_eq!(different(&other, &store.tables()), [format!("volume {name} is different here")]);
    }

    #[test]
    fn any_text_is_quoted_so_that_it_is_read_back() {
        for text in ["plain", "with \"quotes\" and \\", "line\nfeed\u{7f}", "ü"] {
            let document = format!("a = {}", quoted(text));
            let read: toml::Table = document.parse().unwrap();
            assert_eq!(read["a"].as_str(), Some(text));
        }
    }
}
