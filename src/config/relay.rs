//! `[[provision.relay]]`: links to third-party targets over which the journals of a group go (promise X1).

use super::provision_read::{CHAP_USER_MAX_BYTES, secret};
use super::walk::{Table, parsed, small, text};
use crate::volume::name::{ARRAY_NUMBER_MAX, ArrayNumber, LUN_MAX, Lun};
use crate::volume::record::Credential;
use crate::volume::relay::{RelayLuns, RelayRecord};

/// Reads one.
pub(super) fn relay(table: &Table<'_>) -> Option<RelayRecord> {
    let name = table.required("name", parsed);
    let group = table.required("group", parsed);
    let array = table.required("array", small(1, ARRAY_NUMBER_MAX));
    let side = table.required("as", parsed);
    let portals = table.each("portal", parsed);
    if table.value("portal").is_none() || portals.as_ref().is_some_and(Vec::is_empty) {
        table.note("portal", "[[provision.relay]] needs portal: a list of host:port");
    }
    let target = table.required("target", parsed);
    let luns = luns(table);
    let hosts = table.maybe("hosts", parsed);
    let journals = table.maybe("journals", parsed);
    let control = table.maybe("control", parsed);
    let chap = chap(table);
    Some(RelayRecord {
        name: name?,
        group: group?,
        array: ArrayNumber(array?),
        side: side?,
        portals: portals?,
        target: target?,
        luns: luns?,
        hosts: hosts?.unwrap_or_default(),
        journals: journals?.unwrap_or_default(),
        control: control?.unwrap_or_default(),
        chap: chap?,
    })
}

fn luns(table: &Table<'_>) -> Option<RelayLuns> {
    let luns = table.each("luns", small(0, LUN_MAX))?;
    let [journal, first, second] = luns.as_slice() else {
        table.note("luns", "luns: three are needed: for the journal, for the first and for the second array");
        return None;
    };
    let luns = RelayLuns { journal: Lun(*journal), first: Lun(*first), second: Lun(*second) };
    if !luns.are_different() {
        table.note("luns", "luns: three different ones are needed");
        return None;
    }
    Some(luns)
}

fn chap(table: &Table<'_>) -> Option<Option<Credential>> {
    let user = table.maybe("user", |value| match text(value)? {
        given if (1..=CHAP_USER_MAX_BYTES).contains(&given.len()) && !given.contains(char::is_control) => {
            Ok(given.to_owned())
        }
        _ => Err(format!("1 to {CHAP_USER_MAX_BYTES} printable bytes are needed")),
    });
    let secret = table.maybe("secret", |value| secret(value, table.report));
    match (user?, secret?) {
        (None, None) => Some(None),
        (Some(user), Some(secret)) => Some(Some(Credential { user, secret })),
        (user, _) => {
            let key = if user.is_some() { "user" } else { "secret" };
            table.note(key, format!("{key}: user and secret belong together"));
            None
        }
    }
}

/// Its keys.
pub(super) const RELAY_KEYS: [&str; 12] = [
    "name", "group", "array", "as", "portal", "target", "luns", "hosts", "journals", "control", "user",
    "secret",
];

#[cfg(test)]
mod tests {
    use crate::config::{Provision, declared, missing_designations, to_toml};
    use crate::volume::record::Identity;
    use crate::volume::table::Tables;
    use std::path::Path;

    const RELAY: &str = "[[provision.relay]]\nname = \"r1\"\ngroup = \"g1\"\narray = 2\nas = \"first\"\n\
         portal = [\"relay:3260\"]\ntarget = \"iqn.2026-11.example:relay\"\nluns = [1, 2, 3]\n";

    fn read(text: &str) -> Result<Provision, String> {
        let read = Provision::parse(Path::new("r.toml"), text, Path::new("/srv"));
        let all = |mistakes: Vec<_>| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        read.map(|(_, provision)| provision).map_err(all)
    }

    #[test]
    fn a_relay_is_declared_and_exported() {
        for more in [
            "",
            "hosts = \"wait\"\n",
            "journals = \"parts\"\ncontrol = \"link\"\n",
            "user = \"alpha\"\nsecret = \"a secret of relays\"\n",
        ] {
            let provision = read(&format!("{RELAY}{more}")).unwrap();
            let mut tables = Tables::default();
            provision.relays.iter().for_each(|relay| tables.relays.put(relay.clone()));
            assert!(missing_designations(&provision, &tables, || Identity(1)).is_empty());
            let exported = to_toml(&declared(&tables), "secrets");
            assert!(!exported.contains("a secret of relays"), "{exported}");
            let inline = exported.replace("{ file = \"secrets/relay-r1\" }", "\"a secret of relays\"");
            assert_eq!(read(&inline).unwrap().relays, provision.relays);
        }
    }

    #[test]
    fn what_makes_no_relay_is_a_mistake_with_its_reason() {
        for (from, to, why) in [
            ("luns = [1, 2, 3]", "luns = [1, 2]", "three are needed"),
            ("luns = [1, 2, 3]", "luns = [1, 2, 1]", "three different ones"),
            ("as = \"first\"", "as = \"third\"", "first or second"),
            ("luns", "hosts = \"hurry\"\nluns", "wait or go-on"),
            ("portal = [\"relay:3260\"]\n", "", "needs portal"),
            ("luns", "journals = \"half\"\nluns", "all or parts"),
            ("luns", "user = \"me\"\nluns", "belong together"),
        ] {
            let why_not = read(&RELAY.replace(from, to)).unwrap_err();
            assert!(why_not.contains(why), "{why_not}");
        }
    }
}
