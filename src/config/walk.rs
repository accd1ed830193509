//! A walker over a parsed TOML document that turns values into types and goes on after a mistake.
//!
//! Every table is opened with the keys that it may have, so that an unknown key is noticed in one place. A value that
//! is wrong is reported once and read as `None`; nothing that depends on it is reported again.

use super::mistake::{Report, closest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value with its place in the file.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// A table of the document, and how it is called in messages.
#[derive(Clone, Copy)]
pub(super) struct Table<'a> {
    pub(super) report: &'a Report<'a>,
    table: &'a DeTable<'a>,
    start: usize,
    name: &'static str,
}

impl<'a> Table<'a> {
    /// Opens a table that may have `keys` and no others.
    pub(super) fn open(
        report: &'a Report<'a>,
        value: &'a Value<'a>,
        name: &'static str,
        keys: &[&str],
    ) -> Option<Self> {
        let DeValue::Table(table) = value.get_ref() else {
            report.note(value.span().start, format!("{name} is a table, not {}", kind(value)));
            return None;
        };
        Some(Self::of(report, table, value.span().start, name, keys))
    }

    /// The document itself.
    pub(super) fn root(report: &'a Report<'a>, document: &'a Spanned<DeTable<'a>>, keys: &[&str]) -> Self {
        Self::of(report, document.get_ref(), 0, "the file", keys)
    }

    fn of(
        report: &'a Report<'a>,
        table: &'a DeTable<'a>,
        start: usize,
        name: &'static str,
        keys: &[&str],
    ) -> Self {
        for (key, _) in table.iter().filter(|(key, _)| !keys.contains(&key.get_ref().as_ref())) {
            let text = key.get_ref().as_ref();
            let hint = match closest(text, keys) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("it has {}", keys.join(", ")),
            };
            report.note(key.span().start, format!("{name} has no key {text:?}; {hint}"));
        }
        Self { report, table, start, name }
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value<'a>> {
        self.table.get(key)
    }

    /// Where a key's value stands; the table's beginning when the key is absent.
    pub(super) fn place(&self, key: &str) -> usize {
        self.value(key).map_or(self.start, |value| value.span().start)
    }

    /// Notes a mistake at a key's value.
    pub(super) fn note(&self, key: &str, text: impl Into<String>) {
        self.report.note(self.place(key), text);
    }

    /// A key that may be absent: `None` when it is absent or wrong.
    pub(super) fn optional<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Read<T>) -> Option<T> {
        let value = self.value(key)?;
        read(value).map_err(|text| self.note(key, format!("{key}: {text}"))).ok()
    }

    /// A key that must be there.
    pub(super) fn required<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Read<T>) -> Option<T> {
        if self.value(key).is_none() {
            self.report.note(self.start, format!("{} needs {key}", self.name));
        }
        self.optional(key, read)
    }

    /// A key with a default; `None` only when it is wrong.
    pub(super) fn or<T>(&self, key: &str, default: T, read: impl Fn(&Value<'a>) -> Read<T>) -> Option<T> {
        if self.value(key).is_some() { self.optional(key, read) } else { Some(default) }
    }

    /// A key whose absence means something: `Some(None)` when it is absent, `None` when it is wrong.
    pub(super) fn maybe<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Read<T>) -> Option<Option<T>> {
        self.or(key, None, |value| read(value).map(Some))
    }

    /// The elements of a list; none when the key is absent or no list.
    pub(super) fn list(&self, key: &str) -> &'a [Value<'a>] {
        match self.value(key).map(Spanned::get_ref) {
            Some(DeValue::Array(list)) => list,
            Some(_) => {
                let found = self.value(key).map_or("nothing", kind);
                self.note(key, format!("{key} is a list, not {found}"));
                &[]
            }
            None => &[],
        }
    }

    /// Every element of a list through `read`; `None` when one of them is wrong.
    pub(super) fn each<T>(&self, key: &str, read: impl Fn(&Value<'a>) -> Read<T>) -> Option<Vec<T>> {
        let is_wrong_kind = self.value(key).is_some_and(|v| !matches!(v.get_ref(), DeValue::Array(_)));
        let one = |value: &Value<'a>| {
            read(value).map_err(|text| self.report.note(value.span().start, format!("{key}: {text}"))).ok()
        };
        let read: Vec<Option<T>> = self.list(key).iter().map(one).collect();
        if is_wrong_kind { None } else { read.into_iter().collect() }
    }

    /// The tables of `[[key]]`, each of which may have `keys`.
    pub(super) fn tables(&self, key: &str, name: &'static str, keys: &[&str]) -> Vec<Table<'a>> {
        self.list(key).iter().filter_map(|value| Table::open(self.report, value, name, keys)).collect()
    }

    /// The tables of `[[key]]` once more, when their keys have been checked already.
    pub(super) fn peek(&self, key: &str) -> Vec<Table<'a>> {
        self.peek_list(key).iter().filter_map(|value| self.peek_one(value)).collect()
    }

    /// A table whose keys have been checked already.
    pub(super) fn peek_one(&self, value: &'a Value<'a>) -> Option<Table<'a>> {
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(Table { report: self.report, table, start: value.span().start, name: self.name })
            }
            _ => None,
        }
    }

    /// The elements of a list that has been checked already.
    pub(super) fn peek_list(&self, key: &str) -> &'a [Value<'a>] {
        match self.value(key).map(Spanned::get_ref) {
            Some(DeValue::Array(list)) => list,
            _ => &[],
        }
    }

    /// The table `[key]`.
    pub(super) fn table(&self, key: &str, name: &'static str, keys: &[&str]) -> Option<Table<'a>> {
        self.value(key).and_then(|value| Table::open(self.report, value, name, keys))
    }

    /// The text of a key, right or wrong, for finding what others refer to.
    pub(super) fn raw(&self, key: &str) -> Option<&'a str> {
        match self.value(key)?.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => None,
        }
    }
}

/// What reading one value gives: a type, or what is wrong and what is allowed.
pub(super) type Read<T> = Result<T, String>;

/// A string.
pub(super) fn text<'v>(value: &'v Value<'_>) -> Read<&'v str> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text.as_ref()),
        _ => Err(format!("a string in quotes is needed, not {}", kind(value))),
    }
}

/// A string that parses.
pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(value: &Value<'_>) -> Read<T> {
    text(value)?.parse().map_err(|e: T::Err| e.to_string())
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value<'_>) -> Read<bool> {
    match value.get_ref() {
        DeValue::Boolean(is) => Ok(*is),
        _ => Err(format!("true or false is needed, not {}", kind(value))),
    }
}

/// A whole number from `least` to `most`.
pub(super) fn whole(least: u64, most: u64) -> impl Fn(&Value<'_>) -> Read<u64> {
    move |value| {
        let DeValue::Integer(number) = value.get_ref() else {
            return Err(format!("a whole number is needed, not {}", kind(value)));
        };
        match u64::from_str_radix(&number.as_str().replace('_', ""), number.radix()) {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(format!("{number} is not within {least} to {most}")),
        }
    }
}

/// A whole number that fits a smaller type; `most` is given in that type.
pub(super) fn small<T>(least: T, most: T) -> impl Fn(&Value<'_>) -> Read<T>
where
    T: TryFrom<u64> + Into<u64> + Copy,
{
    move |value| {
        let number = whole(least.into(), most.into())(value)?;
        T::try_from(number).map_err(|_| format!("{number} is too large"))
    }
}

/// One of a few words.
pub(super) fn word<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&Value<'_>) -> Read<T> {
    move |value| {
        let given = text(value)?;
        match choices.iter().find(|(name, _)| *name == given) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
                Err(format!("{given:?} is none of {}", names.join(", ")))
            }
        }
    }
}

/// What a value is, in words.
pub(super) fn kind(value: &Value<'_>) -> &'static str {
    match value.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
