//! A mistake in a configuration file: where it is, what is wrong, what is allowed.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};

/// One mistake; shown as `conf/x.toml:3:9: what is wrong`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}:{}: {}", self.file.display(), self.column, self.text),
            None => write!(f, "{}: {}", self.file.display(), self.text),
        }
    }
}

/// Whether a text may name files and variables of this machine from which secrets are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum References {
    /// Yes: its author is here.
    #[default]
    Followed,
    /// No: each is a mistake.
    Refused,
}

/// Collects the mistakes of one file while it is read.
#[derive(Debug)]
pub(super) struct Report<'a> {
    file: &'a Path,
    source: &'a str,
    /// Where relative paths in it begin; none: where the daemon was started.
    base: Option<&'a Path>,
    pub(super) references: References,
    found: RefCell<Vec<(usize, String)>>,
}

impl<'a> Report<'a> {
    pub(super) fn new(file: &'a Path, source: &'a str) -> Self {
        Self { file, source, base: None, references: References::Followed, found: RefCell::new(Vec::new()) }
    }

    /// The same with relative paths that begin at `base`.
    pub(super) fn with_base(file: &'a Path, source: &'a str, base: &'a Path) -> Self {
        Self { base: Some(base), ..Self::new(file, source) }
    }

    /// The same with this rule for references.
    pub(super) fn referring(self, references: References) -> Self {
        Self { references, ..self }
    }

    /// A path of the file as it is meant.
    pub(super) fn meant(&self, path: PathBuf) -> PathBuf {
        self.base.map_or(path.clone(), |base| base.join(path))
    }

    /// Notes a mistake at a byte offset of the file.
    pub(super) fn note(&self, offset: usize, text: impl Into<String>) {
        self.found.borrow_mut().push((offset, text.into()));
    }

    /// All mistakes in the order of the file.
    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        let Self { file, source, found, .. } = self;
        let mut found = found.into_inner();
        found.sort();
        found.dedup();
        let locate = |(offset, text): (usize, String)| {
            let before = source.get(..offset).unwrap_or(source);
            let line_start = before.rfind('\n').map_or(0, |at| at + 1);
            let line = before.matches('\n').count() + 1;
            let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
            Mistake { file: file.to_owned(), line: Some(line), column, text }
        };
        found.into_iter().map(locate).collect()
    }
}

/// The allowed word that was probably meant, if one is close.
pub(super) fn closest<'a>(word: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let close = |candidate: &&'a str| {
        let distance = edit_distance(word, candidate);
        (distance <= 1 + candidate.len() / 4).then_some((distance, *candidate))
    };
    allowed.iter().filter_map(close).min().map(|(_, candidate)| candidate)
}

/// Levenshtein distance; `word` comes from a file of bounded size and is cut where no allowed word reaches.
fn edit_distance(word: &str, candidate: &str) -> usize {
    let candidate: Vec<char> = candidate.chars().collect();
    let mut row: Vec<usize> = (0..=candidate.len()).collect();
    for (i, c) in word.chars().take(WORD_COMPARED_CHARS).enumerate() {
        let mut diagonal = row.first().copied().unwrap_or(0);
        let mut left = i + 1;
        for (cell, other) in row.iter_mut().skip(1).zip(&candidate) {
            let substituted = diagonal + usize::from(c != *other);
            diagonal = *cell;
            *cell = substituted.min(diagonal + 1).min(left + 1);
            left = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Longer words are compared by their beginning: they are no slip of the pen.
const WORD_COMPARED_CHARS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_recognised_and_another_word_is_not() {
        assert_eq!(closest("lisen", &["listen", "serves"]), Some("listen"));
        assert_eq!(closest("stripe-unit", &["stripe_unit", "spares"]), Some("stripe_unit"));
        assert_eq!(closest("colour", &["listen", "serves"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
    }

    #[test]
    fn lines_and_columns_count_characters_from_one() {
        let report = Report::new(Path::new("x.toml"), "a = 1\nü = 2 x");
        report.note(13, "late");
        report.note(0, "early");
        let shown: Vec<String> = report.into_mistakes().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["x.toml:1:1: early", "x.toml:2:7: late"]);
    }
}
