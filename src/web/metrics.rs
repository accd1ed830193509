//! The array as Prometheus sees it, in the OpenMetrics text format.
//!
//! Every series comes from the same picture that the shell shows, taken at the scrape: what is scraped and what
//! `group show --json` says agree, and nothing is counted twice. The hot path knows nothing of it; its counters are
//! atomics that it keeps for the shell anyway. `docs/operations.md` describes each series; a test holds the two
//! together.

use crate::shell::escape;
use crate::shell::view::{GroupView, LagView, ReaderView, Snapshot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All series of a picture of the array.
///
/// # Errors
/// The text cannot be made; it is not known how.
pub fn text(now: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families(now))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// One metric with all its series.
#[derive(Debug)]
struct Family {
    /// As in the text, without what the format adds to counters.
    name: &'static str,
    help: &'static str,
    is_counter: bool,
    series: Vec<Series>,
}

/// Labels and a value.
type Series = (Vec<(&'static str, String)>, f64);

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for family in self.0.iter().filter(|family| !family.series.is_empty()) {
            let kind = if family.is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.series {
                let labels: Vec<(&str, &str)> =
                    labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let labels = labels.as_slice();
                // Braces around nothing are allowed and ugly.
                if labels.is_empty() {
                    metric.encode_gauge(value)?;
                    continue;
                }
                let mut one = metric.encode_family(&labels)?;
                if family.is_counter {
                    one.encode_counter::<NoLabelSet, f64, f64>(value, None)?;
                } else {
                    one.encode_gauge(value)?;
                }
            }
        }
        Ok(())
    }
}

/// Collects families; the same kind of thing is added for many objects.
struct Build(Vec<Family>);

impl Build {
    fn add(
        &mut self,
        is_counter: bool,
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = Series>,
    ) {
        self.0.push(Family { name, help, is_counter, series: series.into_iter().collect() });
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, series: impl IntoIterator<Item = Series>) {
        self.add(false, name, help, series);
    }

    fn counter(&mut self, name: &'static str, help: &'static str, series: impl IntoIterator<Item = Series>) {
        self.add(true, name, help, series);
    }

    /// A state as one series for each that is possible: 1 for the present one, 0 for the others.
    fn states<'a>(
        &mut self,
        name: &'static str,
        help: &'static str,
        possible: &[&str],
        objects: impl IntoIterator<Item = (Vec<(&'static str, String)>, &'a str)>,
    ) {
        let mut series = Vec::new();
        for (labels, present) in objects {
            let unknown = Some(present).filter(|present| !possible.contains(present));
            for state in possible.iter().copied().chain(unknown) {
                let mut labels = labels.clone();
                labels.push(("state", escape(state)));
                series.push((labels, f64::from(u8::from(state == present))));
            }
        }
        self.gauge(name, help, series);
    }
}

fn families(now: &Snapshot) -> Vec<Family> {
    let mut build = Build(Vec::new());
    array(&mut build, now);
    disk(&mut build, now);
    volumes(&mut build, now);
    links(&mut build, now);
    groups(&mut build, now);
    readers(&mut build, now);
    copies(&mut build, now);
    journals(&mut build, now);
    pairs(&mut build, now);
    build.0
}

fn array(build: &mut Build, now: &Snapshot) {
    let array = &now.array;
    let info = vec![
        ("version", array.version.clone()),
        ("array", escape(&array.name)),
        ("number", array.number.to_string()),
        ("disk_engine", array.disk_engine.clone()),
    ];
    build.gauge("holdfast_build_info", "Always 1; the labels say what runs here.", [(info, 1.0)]);
    build.gauge("holdfast_uptime_seconds", "Since the start.", one(seconds(array.uptime_ms)));
    build.gauge(
        "holdfast_incarnation",
        "How often this array has been started.",
        one(float(array.incarnation)),
    );
    let bytes = array.cache_memory_bytes;
    build.gauge("holdfast_cache_memory_bytes", "Memory for slots.", one(float(bytes)));
    let bytes = array.cache_used_bytes;
    build.gauge("holdfast_cache_used_bytes", "Memory for slots that is in use.", one(float(bytes)));
    let bytes = array.cache_dirty_bytes;
    build.gauge(
        "holdfast_cache_dirty_bytes",
        "Written data that is not yet on the units.",
        one(float(bytes)),
    );
    let loads = [("cache", array.load_cache_permille), ("hosts", array.load_hosts_permille)]
        .map(|(input, permille)| (vec![("input", input.to_owned())], f64::from(permille) / 1000.0));
    build.gauge("holdfast_load_ratio", "Load of the array by each of its inputs; 1 is full.", loads);
    let kinds = ["normal", "peer", "discovery"];
    let count = |kind: &str| now.sessions.iter().filter(|session| session.kind == kind).count() as u64;
    let sessions = kinds.map(|kind| (vec![("kind", kind.to_owned())], float(count(kind))));
    build.gauge("holdfast_sessions", "iSCSI sessions: of hosts (normal), of arrays (peer).", sessions);
}

fn disk(build: &mut Build, now: &Snapshot) {
    let groups = &now.parity_groups;
    build.states(
        "holdfast_parity_group_state",
        "State of a parity group.",
        &["normal", "degraded", "failed"],
        groups.iter().map(|group| (named("parity_group", &group.name), group.state.as_str())),
    );
    let bytes = groups.iter().map(|group| (named("parity_group", &group.name), float(group.size_bytes)));
    build.gauge("holdfast_parity_group_size_bytes", "Room for volumes.", bytes);
    let bytes = groups.iter().map(|group| (named("parity_group", &group.name), float(group.free_bytes)));
    build.gauge("holdfast_parity_group_free_bytes", "Room that no volume has.", bytes);
    build.states(
        "holdfast_unit_state",
        "State of a unit.",
        &["normal", "failed", "missing", "rebuilding", "spare"],
        now.units.iter().map(|unit| {
            let mut labels = named("unit", &unit.name);
            labels.push(("parity_group", escape(&unit.parity_group)));
            (labels, unit.state.as_str())
        }),
    );
}

fn volumes(build: &mut Build, now: &Snapshot) {
    let all = &now.volumes;
    let of = |value: fn(&crate::shell::view::VolumeView) -> u64| {
        all.iter().map(move |volume| (named("volume", &volume.name), float(value(volume))))
    };
    build.states(
        "holdfast_volume_state",
        "State of a volume.",
        &["normal", "main", "auxiliary", "abnormal", "unused"],
        all.iter().map(|volume| (named("volume", &volume.name), volume.state.as_str())),
    );
    build.gauge("holdfast_volume_size_bytes", "Capacity of a volume.", of(|v| v.size_bytes));
    build.gauge(
        "holdfast_volume_allocated_bytes",
        "What a volume takes on units.",
        of(|v| v.allocated_bytes),
    );
    build.counter("holdfast_volume_reads", "Reads by hosts.", of(|v| v.reads));
    build.counter("holdfast_volume_writes", "Writes by hosts.", of(|v| v.writes));
    build.counter("holdfast_volume_read_bytes", "Bytes that hosts have read.", of(|v| v.read_bytes));
    build.counter("holdfast_volume_written_bytes", "Bytes that hosts have written.", of(|v| v.written_bytes));
}

fn links(build: &mut Build, now: &Snapshot) {
    let labels = |link: &crate::shell::view::LinkView| {
        let mut labels = named("link", &link.name);
        labels.push(("array", link.array.to_string()));
        labels
    };
    build.states(
        "holdfast_link_state",
        "State of a link; idle when nothing has to go over it.",
        &["up", "idle", "down"],
        now.links.iter().map(|link| (labels(link), link.state.as_str())),
    );
    let count = now.links.iter().map(|link| (labels(link), float(link.connections as u64)));
    build.gauge("holdfast_link_connections", "Connections of a link that are up.", count);
    let bytes = now.links.iter().map(|link| (labels(link), float(link.sent_bytes)));
    build.counter("holdfast_link_sent_bytes", "Bytes sent over a link.", bytes);
    let bytes = now.links.iter().map(|link| (labels(link), float(link.received_bytes)));
    build.counter("holdfast_link_received_bytes", "Bytes received over a link.", bytes);
    let mut counter = |name, help, of: fn(&crate::shell::view::LinkView) -> u64| {
        build.counter(name, help, now.links.iter().map(|link| (labels(link), float(of(link)))));
    };
    counter("holdfast_link_journal_wire_bytes", "Data of journals that came, as on the wire.", |l| {
        l.journal_wire_bytes
    });
    counter("holdfast_link_journal_plain_bytes", "The same, uncompressed.", |l| l.journal_plain_bytes);
    counter("holdfast_link_updates_by_read", "Updates fetched by READ of the journal volume.", |l| {
        l.updates_by_read
    });
    let measured = now.links.iter().filter_map(|link| Some((labels(link), float(link.round_trip_us?) / 1e6)));
    build.gauge("holdfast_link_round_trip_seconds", "Round trip of a link, as last measured.", measured);
    let limited =
        now.links.iter().filter_map(|link| Some((labels(link), float(link.limit_now_bytes_per_s?))));
    build.gauge("holdfast_link_limit_bytes_per_s", "Journal data allowed in a second now.", limited);
}

fn groups(build: &mut Build, now: &Snapshot) {
    let labels = |group: &GroupView| {
        let mut labels = named("group", &group.name);
        labels.push(("role", group.role.clone()));
        labels
    };
    build.states(
        "holdfast_group_state",
        "State of a group.",
        &["unused", "normal", "suspended", "abnormal"],
        now.groups.iter().map(|group| (labels(group), group.state.as_str())),
    );
    let level = now.groups.iter().filter_map(|group| {
        let known = group.synchronous.as_ref()?;
        Some((labels(group), float(u64::from(known.state == "synchronised"))))
    });
    build.gauge(
        "holdfast_group_synchronised",
        "Whether the synchronous copy has every write that a host was answered, as this array knows.",
        level,
    );
    let given = now.groups.iter().filter_map(|group| {
        group.next_update_number.map(|next| (labels(group), float(next.saturating_sub(1))))
    });
    build.counter(
        "holdfast_group_updates",
        "Update numbers given, or expected next less one at a copy.",
        given,
    );
    let number = now.groups.iter().map(|group| (labels(group), float(group.durable_update_number)));
    build.gauge("holdfast_group_durable_update_number", "Largest number durable in the journal.", number);
    let bytes = now.groups.iter().map(|group| (labels(group), float(group.journaled_bytes)));
    build.counter("holdfast_group_journaled_bytes", "Write data put into the journal.", bytes);
    drills(build, now);
}

/// Drills of groups that have had some.
fn drills(build: &mut Build, now: &Snapshot) {
    let with_drills = || now.groups.iter().filter(|group| !group.drills.is_empty());
    let of =
        |group: &GroupView, state: &str| group.drills.iter().filter(|drill| drill.state == state).count();
    let count = with_drills().flat_map(|group| {
        ["waiting", "running", "ending"].map(|state| {
            let labels = [named("group", &group.name), vec![("state", state.to_owned())]].concat();
            (labels, float(of(group, state) as u64))
        })
    });
    build.gauge("holdfast_group_drills", "Drills of a group here that have not ended.", count);
    let bytes = with_drills().map(|group| {
        let own: u64 = group.drills.iter().map(|drill| drill.own_bytes).sum();
        (named("group", &group.name), float(own))
    });
    build.gauge("holdfast_group_drills_own_bytes", "What only clones of drills have.", bytes);
    let used_up = with_drills().map(|group| {
        let count = group.drills.iter().filter(|drill| drill.is_quota_used_up).count();
        (named("group", &group.name), float(count as u64))
    });
    build.gauge("holdfast_group_drills_without_quota", "Drills whose quota is used up.", used_up);
    let passed = with_drills().filter_map(|group| {
        let passed = group.drills.iter().filter(|drill| drill.verdict == "passed");
        let newest = passed.filter_map(|drill| drill.verdict_unix_ms).max()?;
        Some((named("group", &group.name), seconds(newest)))
    });
    let help = "When a drill was last judged to have passed, in seconds since 1970.";
    build.gauge("holdfast_group_drill_passed_time_seconds", help, passed);
}

/// Every array that reads a group, with the labels of its series.
fn all_readers(now: &Snapshot) -> Vec<(Vec<(&'static str, String)>, &ReaderView)> {
    let readers =
        now.groups.iter().flat_map(|group| group.readers.iter().map(move |reader| (group, reader))).map(
            |(group, reader)| {
                let mut labels = named("group", &group.name);
                labels.push(("reader", escape(&reader.link)));
                labels.push(("array", reader.array.to_string()));
                (labels, reader)
            },
        );
    readers.collect()
}

fn readers(build: &mut Build, now: &Snapshot) {
    let all = all_readers(now);
    build.states(
        "holdfast_reader_state",
        "State of an array that reads a group's journal.",
        &["waiting", "copying", "normal", "suspended", "abnormal"],
        all.iter().map(|(labels, reader)| (labels.clone(), reader.state.as_str())),
    );
    let behind: Vec<_> = all.iter().map(|(labels, reader)| (labels.clone(), reader.behind)).collect();
    lag(
        build,
        &behind,
        [
            ("holdfast_reader_behind_updates", "Updates that a reader has not restored."),
            ("holdfast_reader_behind_bytes", "Write data that a reader has not restored."),
            ("holdfast_reader_behind_seconds", "Age of the oldest update that a reader has not restored."),
        ],
    );
    let parts: Vec<_> = all
        .iter()
        .flat_map(|(labels, reader)| {
            [
                ("not_yet_read", reader.not_yet_read),
                ("read_not_restored", reader.read_not_restored),
                ("in_difference_maps", reader.in_difference_maps),
            ]
            .map(|(part, lag)| ([labels.clone(), vec![("part", part.to_owned())]].concat(), lag))
        })
        .collect();
    lag(
        build,
        &parts,
        [
            ("holdfast_reader_lag_updates", "The same in parts."),
            ("holdfast_reader_lag_bytes", "The same in parts."),
            ("holdfast_reader_lag_seconds", "The same in parts."),
        ],
    );
    let of = |value: fn(&ReaderView) -> Option<f64>| {
        all.iter().filter_map(move |(labels, reader)| value(reader).map(|value| (labels.clone(), value)))
    };
    let number = of(|r| Some(float(r.durable_update_number)));
    build.gauge("holdfast_reader_durable_update_number", "Largest number that a reader holds.", number);
    let number = of(|r| Some(float(r.restored_update_number)));
    build.gauge(
        "holdfast_reader_restored_update_number",
        "Largest number that a reader has restored.",
        number,
    );
    let number = of(|r| Some(float(r.settled_update_number)));
    build.gauge(
        "holdfast_reader_settled_update_number",
        "Largest number durable in a reader's volumes.",
        number,
    );
    let count = of(|r| Some(float(r.sent_updates)));
    build.counter("holdfast_reader_sent_updates", "Updates sent to a reader, repeated ones too.", count);
    let bytes = of(|r| Some(float(r.sent_bytes)));
    build.counter("holdfast_reader_sent_bytes", "Bytes of the answers to a reader.", bytes);
    let time = of(|r| r.last_report_ms.map(seconds));
    build.gauge("holdfast_reader_last_report_seconds", "Since a reader's last report.", time);
    let time = of(|r| r.time_to_full_ms.map(seconds));
    build.gauge("holdfast_reader_time_to_full_seconds", "Until the journal is full for a reader.", time);
    let time = of(|r| r.time_to_catch_up_ms.map(seconds));
    build.gauge("holdfast_reader_time_to_catch_up_seconds", "Until a reader has caught up.", time);
}

/// A lag as three families.
fn lag(
    build: &mut Build,
    all: &[(Vec<(&'static str, String)>, LagView)],
    [updates, bytes, seconds]: [(&'static str, &'static str); 3],
) {
    build.gauge(updates.0, updates.1, all.iter().map(|(labels, lag)| (labels.clone(), float(lag.updates))));
    build.gauge(bytes.0, bytes.1, all.iter().map(|(labels, lag)| (labels.clone(), float(lag.bytes))));
    build.gauge(seconds.0, seconds.1, all.iter().map(|(labels, lag)| (labels.clone(), lag.seconds)));
}

fn copies(build: &mut Build, now: &Snapshot) {
    let of = |value: fn(&crate::shell::view::FollowView) -> u64| {
        now.groups.iter().filter_map(move |group| {
            let follows = group.follows.as_ref()?;
            let mut labels = named("group", &group.name);
            labels.push(("source", escape(&follows.link)));
            Some((labels, float(value(follows))))
        })
    };
    let behind = now.groups.iter().filter_map(|group| {
        let follows = group.follows.as_ref()?;
        let mut labels = named("group", &group.name);
        labels.push(("source", escape(&follows.link)));
        Some((labels, seconds(follows.behind_top_ms?)))
    });
    build.gauge("holdfast_copy_behind_top_seconds", "What hosts wrote longer ago is restored here.", behind);
    let number = of(|f| f.durable_update_number);
    build.gauge("holdfast_copy_durable_update_number", "Largest number read into the journal here.", number);
    let number = of(|f| f.restored_update_number);
    build.gauge(
        "holdfast_copy_restored_update_number",
        "Largest number restored to the S-VOLs here.",
        number,
    );
    let number = of(|f| f.settled_update_number);
    build.gauge("holdfast_copy_settled_update_number", "Largest number durable in the S-VOLs here.", number);
}

fn journals(build: &mut Build, now: &Snapshot) {
    let of = |value: fn(&crate::shell::view::JournalView) -> u64| {
        now.journals.iter().map(move |journal| {
            let mut labels = named("group", &journal.group);
            labels.push(("volume", escape(&journal.volume)));
            (labels, float(value(journal)))
        })
    };
    let bytes = of(|j| j.update_information_bytes);
    build.gauge("holdfast_journal_information_bytes", "Room for update information.", bytes);
    let bytes = of(|j| j.update_information_used_bytes);
    build.gauge("holdfast_journal_information_used_bytes", "Room for update information in use.", bytes);
    build.gauge("holdfast_journal_data_bytes", "Room for write data.", of(|j| j.write_data_bytes));
    build.gauge(
        "holdfast_journal_data_used_bytes",
        "Room for write data in use.",
        of(|j| j.write_data_used_bytes),
    );
}

fn pairs(build: &mut Build, now: &Snapshot) {
    let labels = |pair: &crate::shell::view::PairView| {
        let mut labels = named("pair", &pair.name);
        labels.push(("group", escape(&pair.group)));
        labels
    };
    build.states(
        "holdfast_pair_state",
        "State of a pair.",
        &["unused", "not-yet-copied", "being-copied", "normal", "suspended", "abnormal"],
        now.pairs.iter().map(|pair| (labels(pair), pair.state.as_str())),
    );
    let bytes = now.pairs.iter().map(|pair| (labels(pair), float(pair.size_bytes)));
    build.gauge("holdfast_pair_size_bytes", "Size of a pair's P-VOL.", bytes);
    let bytes = now.pairs.iter().map(|pair| (labels(pair), float(pair.copy_completion_bytes)));
    build.gauge("holdfast_pair_copied_bytes", "How far the initial copy of a pair is.", bytes);
    let time = now.pairs.iter().filter_map(|pair| Some((labels(pair), seconds(pair.time_left_ms?))));
    build.gauge("holdfast_pair_copy_time_left_seconds", "Until the copy of a pair has ended.", time);
    let bytes = now.pairs.iter().map(|pair| (labels(pair), float(pair.difference_bytes)));
    build.gauge("holdfast_pair_difference_bytes", "Recorded differences of a pair.", bytes);
}

fn one(value: f64) -> [Series; 1] {
    [(Vec::new(), value)]
}

/// Names may come from other arrays: nothing in them steers whatever shows them.
fn named(label: &'static str, name: &str) -> Vec<(&'static str, String)> {
    vec![(label, escape(name))]
}

fn seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "the format has floating-point numbers only")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::view::{
        DrillView, FollowView, GroupView, JournalView, LinkView, PairView, ParityGroupView, SynchronousView,
        UnitView, VolumeView,
    };

    /// One of everything.
    fn picture() -> Snapshot {
        let state = || "normal".to_owned();
        let reader = ReaderView {
            link: "beta".into(),
            state: state(),
            behind: LagView { updates: 7, bytes: 28_672, seconds: 0.25 },
            last_report_ms: Some(1),
            time_to_full_ms: Some(2),
            time_to_catch_up_ms: Some(1_500),
            ..ReaderView::default()
        };
        let group = GroupView {
            name: "g1".into(),
            role: "primary".into(),
            state: state(),
            next_update_number: Some(12),
            readers: vec![reader],
            follows: Some(FollowView {
                link: "alpha".into(),
                behind_top_ms: Some(1),
                ..FollowView::default()
            }),
            synchronous: Some(SynchronousView { state: state(), ..SynchronousView::default() }),
            drills: vec![DrillView {
                state: "running".into(),
                verdict: "passed".into(),
                verdict_unix_ms: Some(1_700_000_000_500),
                own_bytes: 3 << 20,
                is_quota_used_up: true,
                ..DrillView::default()
            }],
            ..GroupView::default()
        };
        Snapshot {
            parity_groups: vec![ParityGroupView { state: state(), ..ParityGroupView::default() }],
            units: vec![UnitView { state: state(), ..UnitView::default() }],
            volumes: vec![VolumeView {
                name: "a\"b\\c\nd\u{1b}[2J".into(),
                state: state(),
                reads: 3,
                ..VolumeView::default()
            }],
            links: vec![LinkView {
                name: "beta".into(),
                state: "up".into(),
                round_trip_us: Some(250),
                limit_now_bytes_per_s: Some(1 << 20),
                ..LinkView::default()
            }],
            groups: vec![group],
            journals: vec![JournalView {
                group: "g1".into(),
                volume: "jnl".into(),
                ..JournalView::default()
            }],
            pairs: vec![PairView {
                name: "p1".into(),
                state: state(),
                time_left_ms: Some(2500),
                ..PairView::default()
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn values_and_labels_stand_where_prometheus_looks_for_them() {
        let text = text(&picture()).unwrap();
        for line in [
            "holdfast_incarnation 0.0",
            "# TYPE holdfast_reader_behind_updates gauge",
            "holdfast_reader_behind_updates{group=\"g1\",reader=\"beta\",array=\"0\"} 7.0",
            "holdfast_reader_behind_seconds{group=\"g1\",reader=\"beta\",array=\"0\"} 0.25",
            "holdfast_reader_time_to_catch_up_seconds{group=\"g1\",reader=\"beta\",array=\"0\"} 1.5",
            "holdfast_pair_state{pair=\"p1\",group=\"\",state=\"normal\"} 1.0",
            "holdfast_pair_state{pair=\"p1\",group=\"\",state=\"suspended\"} 0.0",
            "holdfast_pair_copy_time_left_seconds{pair=\"p1\",group=\"\"} 2.5",
            "# TYPE holdfast_group_updates counter",
            "holdfast_group_drills{group=\"g1\",state=\"running\"} 1.0",
            "holdfast_group_drills{group=\"g1\",state=\"waiting\"} 0.0",
            "holdfast_group_drills_own_bytes{group=\"g1\"} 3145728.0",
            "holdfast_group_drills_without_quota{group=\"g1\"} 1.0",
            "holdfast_group_drill_passed_time_seconds{group=\"g1\"} 1700000000.5",
            "holdfast_group_updates_total{group=\"g1\",role=\"primary\"} 11.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        let evil = text.lines().find(|line| line.starts_with("holdfast_volume_reads_total")).unwrap();
        assert!(evil.ends_with("} 3.0"), "a name cannot end its line: {evil}");
    }

    #[test]
    fn every_series_is_described_for_operators_and_no_other_is() {
        let described = include_str!("../../docs/operations.md");
        let mut there: Vec<String> = families(&picture())
            .iter()
            .inspect(|family| assert!(!family.series.is_empty(), "{} is never shown", family.name))
            .map(
                |family| {
                    if family.is_counter { format!("{}_total", family.name) } else { family.name.into() }
                },
            )
            .collect();
        let mut told: Vec<String> = described
            .lines()
            .filter_map(|line| line.strip_prefix("| `holdfast_")?.split(['{', '`']).next())
            .map(|name| format!("holdfast_{name}"))
            .collect();
        there.sort();
        told.sort();
        assert_eq!(there, told);
    }
}
