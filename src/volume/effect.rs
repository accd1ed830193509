//! What designations change, in words: the difference between two pictures of the tables.
//!
//! A dry run and a real one come to their answer by the same way, so that they cannot disagree: both apply to a copy of
//! the tables and compare it with what was there. Secrets and lists never get into an answer, only the fact that they
//! changed.

use super::designation::Outcome;
use super::name::{BookmarkName, GroupName, UpdateNumber};
use super::snapshot::SnapshotRecord;
use super::table::{Row, Table, Tables};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// What came of some designations that were applied, or would be, in one transaction.
#[derive(Clone, PartialEq, Debug)]
pub struct Effect {
    /// What came of each, in their order.
    pub outcomes: Vec<Outcome>,
    /// All of them had been applied before: nothing has changed now.
    pub is_repetition: bool,
    /// Every row that is new, different or gone.
    pub changes: Vec<Changed>,
}

/// One row that is new, different or gone.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Changed {
    /// What became of it.
    pub action: Action,
    /// What kind of object it is, for people.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What is different, where that can be said in a word.
    pub fields: Vec<Field>,
}

impl Changed {
    /// A bookmark is in the journal only, not in the tables.
    pub(crate) fn bookmark(group: &GroupName, name: BookmarkName, number: u64) -> Self {
        Self {
            action: Action::Create,
            kind: "bookmark",
            name: format!("{name} of group {group}"),
            fields: vec![of_update(UpdateNumber(number))],
        }
    }
}

fn of_update(number: UpdateNumber) -> Field {
    Field { field: "update_number".to_owned(), before: Value::Null, after: Value::from(number.0) }
}

/// What became of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is new.
    Create,
    /// It is different.
    Change,
    /// It is gone.
    Delete,
}

/// One field that is different.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Field {
    /// Its name.
    pub field: String,
    /// What it was; null where that takes more than a word.
    pub before: Value,
    /// What it is; null where that takes more than a word.
    pub after: Value,
}

/// The rows of `after` that `before` does not have as they are, and those that only `before` has.
#[must_use]
pub fn changes(before: &Tables, after: &Tables) -> Vec<Changed> {
    let mut found = Vec::new();
    compare(&mut found, "parity group", &before.parity_groups, &after.parity_groups, |r| r.name.to_string());
    compare(&mut found, "volume", &before.volumes, &after.volumes, |r| r.name.to_string());
    compare(&mut found, "snapshot", &before.snapshots, &after.snapshots, |r| r.name.to_string());
    for made in found.iter_mut().filter(|one| one.kind == "snapshot" && one.action == Action::Create) {
        let row = after.snapshots.iter().find(|row| row.name.as_str() == made.name);
        made.fields = row.and_then(SnapshotRecord::update_number).map(of_update).into_iter().collect();
    }
    compare(&mut found, "drill", &before.drills, &after.drills, |r| {
        format!("{} of group {}", r.name, r.group)
    });
    compare(&mut found, "target", &before.targets, &after.targets, |r| r.iqn.to_string());
    compare(&mut found, "link", &before.links, &after.links, |r| r.name.to_string());
    compare(&mut found, "relay", &before.relays, &after.relays, |r| r.name.to_string());
    compare(&mut found, "group", &before.groups, &after.groups, |r| r.name.to_string());
    compare(&mut found, "pair", &before.pairs, &after.pairs, |r| r.name.to_string());
    compare(&mut found, "reader", &before.readers, &after.readers, |r| {
        format!("{} of group {}", r.link, r.group)
    });
    compare(&mut found, "schedule", &before.schedules, &after.schedules, |r| {
        format!("of group {} from {}", r.group, r.link)
    });
    compare(&mut found, "message", &before.forwards, &after.forwards, |r| {
        format!("to {}: {}", r.link, r.designation)
    });
    found
}

fn compare<R: Row>(
    found: &mut Vec<Changed>,
    kind: &'static str,
    before: &Table<R>,
    after: &Table<R>,
    name: fn(&R) -> String,
) {
    let (put, gone) = after.changes_since(before);
    for row in put {
        let old = before.get(&row.key());
        let fields = old.map_or_else(Vec::new, |old| fields(old, row));
        let action = if old.is_some() { Action::Change } else { Action::Create };
        // A row that was written again as it was is no change.
        if action == Action::Create || !fields.is_empty() {
            found.push(Changed { action, kind, name: name(row), fields });
        }
    }
    for row in gone.iter().filter_map(|key| before.get(key)) {
        found.push(Changed { action: Action::Delete, kind, name: name(row), fields: Vec::new() });
    }
}

fn fields<R: Row>(old: &R, new: &R) -> Vec<Field> {
    let object = |row: &R| match serde_json::to_value(row) {
        Ok(Value::Object(map)) => map,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let (old, new) = (object(old), object(new));
    let differs = |name: &&String| old.get(*name) != new.get(*name);
    let names = new.keys().chain(old.keys().filter(|name| !new.contains_key(*name)));
    let field = |name: &String| Field {
        field: name.clone(),
        before: word(old.get(name)),
        after: word(new.get(name)),
    };
    names.filter(differs).map(field).collect()
}

/// A value that is one word; secrets are lists in the store and so never get here.
fn word(value: Option<&Value>) -> Value {
    match value {
        Some(value @ (Value::Bool(_) | Value::Number(_) | Value::String(_))) => value.clone(),
        Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => Value::Null,
    }
}

impl Changed {
    /// Whether restore of a group stops because its suspension cannot be told to the primary now.
    #[must_use]
    pub fn is_stop_of_suspension(&self) -> bool {
        let is_new = |field: &Field| field.field == "suspension_stop" && field.after != Value::Null;
        self.kind == "group" && self.fields.iter().any(is_new)
    }
}

impl fmt::Display for Changed {
    /// `volume data1: state normal -> main`, without the verb.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)?;
        for (index, field) in self.fields.iter().enumerate() {
            let before = if index == 0 { ": " } else { ", " };
            match (&field.before, &field.after) {
                (Value::Null, Value::Null) => write!(f, "{before}{}", field.field)?,
                (old, new) => write!(f, "{before}{} {} -> {}", field.field, plain(old), plain(new))?,
            }
        }
        Ok(())
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
