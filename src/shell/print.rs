//! Answers for people and for programs.
//!
//! Names may come from peers: whatever a terminal could take for a command is shown escaped, in tables and in JSON.

use super::view::{
    AuditView, EventView, GroupView, JournalView, LinkView, LunView, PairView, ParityGroupView, SessionView,
    TargetView, UnitView, VolumeView,
};
use super::view::{DrillView, SnapshotView};
use crate::volume::timing::universal_time;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

/// A view that stands in a line of a list.
pub(super) trait Listed: Serialize {
    /// Headings.
    const COLUMNS: &'static [&'static str];
    /// One cell for each heading.
    fn cells(&self) -> Vec<String>;
}

/// A list as a table, or as one JSON array.
pub(super) fn list<R: Listed>(rows: &[R], json: bool, columns: u16) -> String {
    if json {
        return document(&rows);
    }
    let mut table = table(columns);
    table.set_header(R::COLUMNS.iter().copied());
    for row in rows {
        table.add_row(row.cells().iter().map(|cell| escape(cell)));
    }
    finished(&table)
}

/// One object with all its fields, or as one JSON object.
pub(super) fn object<T: Serialize>(object: &T, json: bool, columns: u16) -> String {
    if json {
        return document(object);
    }
    let mut table = table(columns);
    match serde_json::to_value(object) {
        Ok(value) => fields(&mut table, "", &value, 0),
        Err(error) => {
            table.add_row([String::from("error"), error.to_string()]);
        }
    }
    finished(&table)
}

/// One JSON document. Serde escapes C0; DEL and C1 can only stand inside strings and are escaped here.
pub(crate) fn document<T: Serialize>(value: &T) -> String {
    let text =
        serde_json::to_string_pretty(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    safe_json(&text)
}

fn safe_json(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if c == '\n' || !is_unsafe(c) {
            safe.push(c);
        } else {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
    }
    safe.push('\n');
    safe
}

/// Text in which nothing steers a terminal.
#[must_use]
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        if is_unsafe(c) {
            safe.extend(c.escape_unicode())
        } else {
            safe.push(c)
        }
        safe
    })
}

/// Control characters, and characters that reorder or hide what stands beside them. All are below U+10000.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn table(columns: u16) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if columns > 0 {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns.max(40));
    }
    table
}

fn finished(table: &Table) -> String {
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// The fields of an object, one a line; objects inside are indented by their name, lists are numbered.
fn fields(table: &mut Table, prefix: &str, value: &Value, depth: usize) {
    let Value::Object(map) = value else { return };
    for (name, value) in map {
        let label = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(_) if depth < DEPTH_MAX => fields(table, &label, value, depth + 1),
            Value::Array(list) if list.iter().any(Value::is_object) && depth < DEPTH_MAX => {
                for (index, entry) in list.iter().enumerate() {
                    fields(table, &format!("{label}[{index}]"), entry, depth + 1);
                }
            }
            _ => {
                table.add_row([label.clone(), escape(&plain(&label, value))]);
            }
        }
    }
}

/// A value for people, by the unit at the end of its name.
fn plain(label: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(|entry| plain("", entry)).collect::<Vec<_>>().join(", "),
        Value::Number(number) => match number.as_u64() {
            Some(count) if label.ends_with("_bytes") && !label.ends_with("block_size_bytes") => {
                format!("{count} ({})", bytes(count))
            }
            _ => number.to_string(),
        },
        Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}

/// A number of bytes in the largest unit that leaves at least one, with one digit behind the point.
pub(super) fn bytes(count: u64) -> String {
    let unit = BYTE_UNITS.iter().rev().find(|(_, factor)| count >= *factor);
    let Some((name, factor)) = unit else { return format!("{count} B") };
    let tenths = u128::from(count) * 10 / u128::from(*factor);
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

fn state(state: &str, reason: Option<&String>) -> String {
    reason.map_or_else(|| state.to_owned(), |reason| format!("{state}: {reason}"))
}

fn dash(text: Option<&String>) -> String {
    text.cloned().unwrap_or_else(|| "-".to_owned())
}

/// Which cells of a view stand in a list, under which headings.
macro_rules! listed {
    ($view:ty, |$row:ident| { $($heading:literal => $cell:expr),* $(,)? }) => {
        impl Listed for $view {
            const COLUMNS: &'static [&'static str] = &[$($heading),*];

            fn cells(&self) -> Vec<String> {
                let $row = self;
                vec![$($cell.to_string()),*]
            }
        }
    };
}

listed!(UnitView, |u| {
    "NAME" => u.name, "STATE" => state(&u.state, u.reason.as_ref()), "SIZE" => bytes(u.size_bytes), "PATH" => u.path,
});
listed!(ParityGroupView, |g| {
    "NAME" => g.name, "LEVEL" => g.level, "STATE" => state(&g.state, g.reason.as_ref()), "UNITS" => g.units,
    "SPARES" => g.spares, "SIZE" => bytes(g.size_bytes), "FREE" => bytes(g.free_bytes),
});
listed!(VolumeView, |v| {
    "NUMBER" => v.number, "NAME" => v.name, "STATE" => state(&v.state, v.reason.as_ref()), "USE" => v.usage,
    "PARITY GROUP" => dash(v.parity_group.as_ref()), "SIZE" => bytes(v.size_bytes),
    "ALLOCATED" => bytes(v.allocated_bytes), "PAIRS" => v.pairs.join(", "),
});
listed!(SnapshotView, |s| {
    "NUMBER" => s.number, "NAME" => s.name, "OF" => s.of(), "ACCESS" => s.access,
    "UPDATE" => s.update_number.map_or("-".into(), |n| n.to_string()),
    "MADE" => universal_time(s.made_unix_ms), "VOLUMES" => s.volumes.len(), "SIZE" => bytes(s.size_bytes),
    "OWN" => bytes(s.own_bytes), "SHARED" => bytes(s.shared_bytes), "REMARK" => s.remark(),
});
listed!(DrillView, |d| {
    "NUMBER" => d.number, "NAME" => d.name, "STATE" => state(&d.state, d.reason.as_ref()), "VERDICT" => d.verdict,
    "UPDATE" => d.update_number.map_or("-".into(), |n| n.to_string()),
    "BEGUN" => universal_time(d.begun_unix_ms), "BY" => d.by,
    "EXPIRES" => d.expires_unix_ms.map_or("-".into(), universal_time), "OWN" => bytes(d.own_bytes),
    "WRITTEN" => match (d.written_bytes, d.quota_bytes) {
        (Some(written), Some(quota)) => format!("{} of {}", bytes(written), bytes(quota)),
        (_, _) => "-".to_owned(),
    },
    "NOTE" => dash(d.verdict_note.as_ref().or(d.note.as_ref())),
});
listed!(TargetView, |t| {
    "NAME" => t.name, "LUNS" => t.luns.len(), "INITIATORS" => t.initiators.join(", "),
    "AUTHENTICATION" => t.authentication, "SESSIONS" => t.sessions,
});
listed!(LunView, |l| {
    "TARGET" => l.target, "LUN" => l.lun, "VOLUME" => l.volume, "ACCESS" => l.access,
    "READ-ONLY FOR" => if l.read_only_for.is_empty() { "-".to_owned() } else { l.read_only_for.join(", ") },
});
listed!(SessionView, |s| {
    "NUMBER" => s.number, "KIND" => s.kind, "INITIATOR" => s.initiator, "TARGET" => s.target,
    "CONNECTIONS" => s.connections.join(", "), "COMMANDS" => s.commands,
});
listed!(LinkView, |l| {
    "NAME" => l.name, "ARRAY" => l.array, "STATE" => state(&l.state, l.reason.as_ref()),
    "CONNECTIONS" => l.connections, "SENT" => bytes(l.sent_bytes), "RECEIVED" => bytes(l.received_bytes),
    "LIMIT NOW" => l.limit_now_bytes_per_s.map_or("-".into(), |limit| format!("{}/s", bytes(limit))),
    "PORTALS" => l.portals.join(", "),
});
listed!(GroupView, |g| {
    "NUMBER" => g.number, "NAME" => g.name, "ROLE" => g.role, "STATE" => state(&g.state, g.reason.as_ref()),
    "PAIRS" => g.pairs_state, "NEXT UPDATE" => g.next_update_number.map_or("-".into(), |n| n.to_string()),
    "READS" => g.follows.as_ref().map_or("-".into(), |f| match f.behind_top_updates {
        Some(behind) => {
            let time = f.behind_top_ms.map_or(String::new(), |ms| format!(", {}.{} s", ms / 1000, ms % 1000 / 100));
            format!("{}, {behind} behind the top{time}", f.reads_over)
        }
        None => f.reads_over.clone(),
    }),
    "SYNCHRONOUS" => g.synchronous.as_ref().map_or("-".into(), |s| format!("{} {}", s.link, s.state)),
    "BEHIND" => g.readers.iter().map(|r| format!("{} {}/{}/{:.1} s", r.link, r.behind.updates, bytes(r.behind.bytes), r.behind.seconds)).collect::<Vec<_>>().join(", "),
});
listed!(JournalView, |j| {
    "GROUP" => j.group, "VOLUME" => j.volume, "USE" => j.used_as, "STATE" => state(&j.state, j.reason.as_ref()),
    "INFORMATION" => format!("{} of {}", bytes(j.update_information_used_bytes), bytes(j.update_information_bytes)),
    "WRITE DATA" => format!("{} of {}", bytes(j.write_data_used_bytes), bytes(j.write_data_bytes)),
    "UPDATES" => match (j.oldest_update_number, j.newest_update_number) {
        (Some(oldest), Some(newest)) => format!("{oldest} to {newest}"),
        (_, _) => "-".to_owned(),
    },
});
listed!(PairView, |p| {
    "NUMBER" => p.number, "NAME" => p.name, "GROUP" => p.group, "STATE" => state(&p.state, p.reason.as_ref()),
    "P-VOL" => format!("{}:{}", p.primary_array, p.pvol), "S-VOL" => format!("{}:{}", p.auxiliary_array, p.svol),
    "COPIED" => format!("{:.1} %", p.progress_percent),
    "LEFT" => p.time_left_ms.map_or("-".into(), |ms| format!("{} s", ms.div_ceil(1_000))),
    "RESTORED" => p.restored_update_number.map_or("-".into(), |n| n.to_string()),
});
listed!(EventView, |e| {
    "NUMBER" => e.number, "TIME" => universal_time(e.time_unix_ms), "WHAT" => e.kind, "NAME" => e.name,
    "WAS" => dash(e.was.as_ref()), "STATE" => state(&e.state, e.reason.as_ref()),
});
listed!(AuditView, |a| {
    "NUMBER" => a.number, "TIME" => universal_time(a.time_unix_ms), "WHO" => a.who, "FROM" => a.from, "WHAT" => a.what,
    "RESULT" => a.result,
});

/// An event on one line, for people or for programs.
pub(super) fn event_line(event: &EventView, json: bool) -> String {
    if json {
        // The text has no line ends: JSON escapes them.
        return serde_json::to_string(event).map(|text| safe_json(&text)).unwrap_or_default();
    }
    let was = event.was.as_ref().map_or_else(String::new, |was| format!("{was} -> "));
    let state = state(&event.state, event.reason.as_ref());
    let line = format!("{} {} {}: {was}{state}", universal_time(event.time_unix_ms), event.kind, event.name);
    escape(&line) + "\n"
}

const BYTE_UNITS: [(&str, u64); 4] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
/// Deeper objects are shown as JSON; no view is that deep.
const DEPTH_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(200 << 20), "200.0 MiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let evil = "a\u{1b}[2Jb\u{7f}\u{9b}31m\u{202e}x\ny";
        assert_eq!(escape(evil), "a\\u{1b}[2Jb\\u{7f}\\u{9b}31m\\u{202e}x\\u{a}y");
        let row = LinkView { name: evil.into(), reason: Some(evil.into()), ..LinkView::default() };
        for text in [
            list(std::slice::from_ref(&row), true, 0),
            list(std::slice::from_ref(&row), false, 80),
            object(&row, true, 0),
            object(&row, false, 80),
        ] {
            assert!(text.chars().all(|c| c == '\n' || !is_unsafe(c)), "{text:?}");
        }
        let back: Value = serde_json::from_str(&list(&[row], true, 0)).unwrap();
        assert_eq!(back[0]["name"], evil, "programs get the name as it is");
    }
}
