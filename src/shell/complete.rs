//! Completion: which words could stand at the cursor, from the same tree that parses the line.
//!
//! Names of objects are not in the tree: for them it says which noun's list holds them, and whoever runs the shell
//! asks for that list as for any other.

use super::parse::Line;
use clap::{Arg, ArgAction, Command, CommandFactory};
use serde_json::Value;

/// What could stand at the cursor.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Candidates {
    /// The word that is being typed, up to the cursor.
    pub typed: String,
    /// Words of the tree that begin with it.
    pub words: Vec<String>,
    /// The noun whose objects could stand here as well.
    pub noun: Option<String>,
}

/// What could stand at the end of `before`, the line up to the cursor. Quoted words are not completed.
#[must_use]
pub fn candidates(before: &str) -> Candidates {
    let mut words: Vec<&str> = before.split_whitespace().collect();
    let typed = if before.ends_with(char::is_whitespace) { "" } else { words.pop().unwrap_or_default() };
    let mut none = Candidates { typed: typed.to_owned(), ..Candidates::default() };
    if before.contains(['"', '\'', '\\']) {
        return none;
    }
    let mut tree = Line::command();
    tree.build();
    let mut place = Place { command: &tree, noun: String::new(), verb: String::new(), names: 0 };
    let mut value_of: Option<&Arg> = None;
    for word in words {
        if value_of.take().is_some() {
            continue;
        }
        if let Some(option) = word.strip_prefix("--") {
            value_of = place.option(option).filter(|arg| takes_value(arg) && !option.contains('='));
        } else if let Some(next) = place.command.find_subcommand(word) {
            place.enter(next);
        } else {
            place.names += 1;
        }
    }
    let found = match value_of {
        Some(arg) => place.values(arg),
        None if typed.starts_with('-') => place.options(),
        None => place.next(),
    };
    none.words = found.words.into_iter().filter(|word| word.starts_with(typed)).collect();
    none.noun = found.noun;
    none
}

/// The names in the JSON document that `NOUN list` gives.
#[must_use]
pub fn names(document: &str, typed: &str) -> Vec<String> {
    let Ok(Value::Array(rows)) = serde_json::from_str::<Value>(document) else { return Vec::new() };
    let name = |row: &Value| {
        let keys = ["name", "volume", "number"];
        keys.iter().find_map(|key| row.get(*key)).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    };
    // A name that would need quotes is not offered.
    let is_plain = |name: &String| !name.contains(|c: char| c.is_whitespace() || "\"'\\".contains(c));
    let mut names: Vec<String> = rows
        .iter()
        .take(NAMES_MAX)
        .filter_map(name)
        .filter(|name| name.starts_with(typed) && is_plain(name))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The longest text with which all of them begin.
#[must_use]
pub fn common(words: &[String]) -> String {
    let Some(first) = words.first() else { return String::new() };
    let shared = words.iter().skip(1).fold(first.chars().count(), |length, word| {
        first.chars().zip(word.chars()).take(length).take_while(|(a, b)| a == b).count()
    });
    first.chars().take(shared).collect()
}

/// How far the words before the cursor lead into the tree.
struct Place<'a> {
    command: &'a Command,
    noun: String,
    verb: String,
    /// Positional words behind the verb.
    names: usize,
}

impl<'a> Place<'a> {
    fn enter(&mut self, next: &'a Command) {
        let level = if self.noun.is_empty() { &mut self.noun } else { &mut self.verb };
        next.get_name().clone_into(level);
        self.command = next;
        self.names = 0;
    }

    fn option(&self, word: &str) -> Option<&'a Arg> {
        let name = word.split('=').next().unwrap_or_default();
        self.command.get_arguments().find(|arg| arg.get_long() == Some(name))
    }

    fn options(&self) -> Candidates {
        let long = self.command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(Arg::get_long);
        let mut words: Vec<String> = long.map(|name| format!("--{name}")).collect();
        words.sort();
        Candidates { words, ..Candidates::default() }
    }

    fn next(&self) -> Candidates {
        if self.names == 0 && self.command.has_subcommands() {
            let shown = self.command.get_subcommands().filter(|command| !command.is_hide_set());
            let words = shown.map(|command| command.get_name().to_owned()).collect();
            return Candidates { words, ..Candidates::default() };
        }
        let mut positionals: Vec<&Arg> = self.command.get_positionals().collect();
        positionals.sort_by_key(|arg| arg.get_index());
        match positionals.get(self.names) {
            Some(arg) => self.values(arg),
            None => Candidates::default(),
        }
    }

    /// Values of an option, or words at a place.
    fn values(&self, arg: &Arg) -> Candidates {
        let possible = arg.get_possible_values();
        if !possible.is_empty() {
            let words = possible.iter().map(|value| value.get_name().to_owned()).collect();
            return Candidates { words, ..Candidates::default() };
        }
        match arg.get_id().as_str() {
            "state" => Candidates { words: STATES.map(str::to_owned).to_vec(), ..Candidates::default() },
            // What is to be made has no name yet.
            "name" if self.verb == "create" => Candidates::default(),
            "name" => Candidates { noun: Some(self.noun.clone()), ..Candidates::default() },
            id => {
                let noun = NOUNS.iter().find(|(name, _)| *name == id).map(|(_, noun)| (*noun).to_owned());
                Candidates { noun, ..Candidates::default() }
            }
        }
    }
}

fn takes_value(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// States of a pair, for `--state`.
const STATES: [&str; 6] = ["unused", "not-yet-copied", "being-copied", "normal", "suspended", "abnormal"];
/// What an argument is called, and whose names it takes.
const NOUNS: [(&str, &str); 13] = [
    ("at", "link"),
    ("group", "group"),
    ("journal", "journal"),
    ("link", "link"),
    ("number", "session"),
    ("pair", "pair"),
    ("parity_group", "parity-group"),
    ("pvol", "volume"),
    ("reader", "link"),
    ("target", "target"),
    ("to", "link"),
    ("unit", "unit"),
    ("volume", "volume"),
];
/// More names are not offered.
const NAMES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    fn words(before: &str) -> Vec<String> {
        candidates(before).words
    }

    #[test]
    fn nouns_verbs_and_options_come_from_the_tree() {
        assert!(words("").contains(&"parity-group".to_owned()));
        assert_eq!(words("par"), ["parity-group"]);
        assert!(words("pair ").contains(&"wait".to_owned()));
        assert_eq!(words("pair wa"), ["wait"]);
        assert_eq!(words("pair wait p1 --ti"), ["--timeout"]);
        assert!(words("volume list --").contains(&"--json".to_owned()));
        assert_eq!(words("pair wait p1 --state su"), ["suspended"]);
        assert_eq!(words("nothing here"), Vec::<String>::new());
        assert_eq!(words("volume 'li"), Vec::<String>::new());
    }

    #[test]
    fn names_are_asked_for_where_an_object_may_stand() {
        assert_eq!(candidates("volume show da").noun.as_deref(), Some("volume"));
        assert_eq!(candidates("pair wait ").noun.as_deref(), Some("pair"));
        assert_eq!(candidates("lun list ").noun.as_deref(), Some("target"));
        assert_eq!(candidates("volume list ").noun, None);
        assert_eq!(candidates("volume show data1 ").noun, None);
    }

    #[test]
    fn names_come_from_lists_and_share_a_beginning() {
        let rows = r#"[{"name":"data2"},{"name":"data1"},{"name":"other"},{"name":"data 3"},{"number":4}]"#;
        let found = names(rows, "da");
        assert_eq!(found, ["data1", "data2"]);
        assert_eq!(common(&found), "data");
        assert_eq!(names("no json", ""), Vec::<String>::new());
        assert_eq!(common(&[]), "");
    }
}
