//! The configuration as an operator meets it: files that are right, and files with mistakes.

use super::*;
use crate::volume::timing::{ReadTiming, RestoreTiming};
use std::fmt::Write as _;

/// The smallest right file; a test adds to it.
const BASE: &str = r#"
[array]
number = 1
name = "alpha"
data_dir = "var/alpha"
[[portal]]
listen = "127.0.0.1:3260"
serves = ["hosts"]
"#;

fn mistakes(text: &str) -> Vec<String> {
    match Config::parse(Path::new("x.toml"), text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
    }
}

/// The mistakes that `text` adds to the smallest file, without their places.
fn added(text: &str) -> Vec<String> {
    mistakes(&format!("{BASE}{text}"))
        .iter()
        .map(|m| m.splitn(4, ':').nth(3).unwrap_or(m).trim().to_owned())
        .collect()
}

fn pg(units: usize, level: &str) -> String {
    let mut text = format!("[[provision.parity_group]]\nname = \"pg0\"\nlevel = \"{level}\"\nunits = [\n");
    for unit in 0..units {
        writeln!(text, "{{ path = \"u{unit}\", size = \"64MiB\" }},").unwrap();
    }
    text + "]\n"
}

fn volume(name: &str) -> String {
    format!("[[provision.volume]]\nname = \"{name}\"\nparity_group = \"pg0\"\nsize = \"8MiB\"\n")
}

const LINK: &str =
    "[[provision.link]]\nname = \"beta\"\narray = 2\nportal = [\"b:1\"]\nsecret = \"0123456789ab\"\n";

#[test]
fn every_file_in_conf_is_right() {
    let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let mut count = 0;
    for entry in std::fs::read_dir(conf).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let config = Config::load(&path).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
            assert_eq!(config.source, path);
            count += 1;
        }
    }
    assert!(count >= 3);
}

#[test]
fn the_commented_variant_of_the_bench_file_is_right_too() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/bench.toml");
    let text = std::fs::read_to_string(path).unwrap();
    let at = text.find("# [[provision.volume]]").unwrap();
    let variant: String =
        text[at..].lines().map(|line| format!("{}\n", line.trim_start_matches(['#', ' ']))).collect();
    assert_eq!(mistakes(&format!("{}{variant}", &text[..at])), Vec::<String>::new());
}

#[test]
fn the_full_example_shows_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/holdfast.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.array.number, ArrayNumber(1));
    assert_eq!(config.limits, Limits::default(), "the example shows the defaults");
    assert_eq!(config.disk.engine, Engine::Automatic);
    assert_eq!(config.portals[1].serves, Serves::Arrays);
    let provision = &config.provision;
    assert_eq!(provision.parity_groups[0].level, RaidLevel::Raid5);
    assert_eq!(provision.parity_groups[0].spares.len(), 1);
    assert!(provision.volumes[0].thin && !provision.volumes[1].thin);
    let chap = provision.targets[1].chap.as_ref().unwrap();
    assert_eq!(chap.initiator.secret.expose(), b"change this secret");
    assert_eq!(chap.mutual.as_ref().unwrap().user, "alpha");
    assert_eq!(provision.links[0].schedule, Schedule::default());
    assert_eq!(provision.groups[0].release, Release::Read);
    assert_eq!(provision.journals[1].at.as_ref().unwrap().as_str(), "beta");
    assert_eq!(provision.pairs[0].svol.to_string(), "beta:copy1");
    assert_eq!(provision.readers[0].schedule.restore_delay, Duration::from_secs(600));
    assert_eq!(provision.readers[0].schedule.read, ReadTiming::Every(Duration::from_millis(250)));
    assert_eq!(provision.readers[0].schedule.restore, RestoreTiming::Load);
    assert_eq!(config.socket(), Path::new("var/alpha/holdfast.sock"));
}

#[test]
fn five_mistakes_in_one_file_are_all_named_with_their_places() {
    let text = r#"[array]
number = "one"
name = "alpha"
data_dir = "var/alpha"

[cache]
memory = "lots"

[[portal]]
lisen = "127.0.0.1:3260"
serves = ["hosts", "guests"]

[[provision.volume]]
name = "data1"
parity_group = "pg7"
size = "8MiB"
"#;
    assert_eq!(
        mistakes(text),
        [
            "x.toml:2:10: number: a whole number is needed, not a string",
            "x.toml:7:10: memory: \"lots\" is not a size: a whole number and one of B KiB MiB GiB TiB",
            "x.toml:9:1: [[portal]] needs listen",
            "x.toml:10:1: [[portal]] has no key \"lisen\"; did you mean \"listen\"?",
            "x.toml:11:20: serves: \"guests\" is none of \"hosts\", \"arrays\"",
            "x.toml:15:16: parity_group: there is no parity group \"pg7\"; no parity group is declared",
        ]
    );
}

#[test]
fn an_empty_file_says_what_is_missing() {
    let found = mistakes("");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("[[portal]] is missing") || found[1].contains("[[portal]] is missing"));
}

#[test]
fn syntax_errors_are_all_reported_and_nothing_else() {
    let found = mistakes("[array]\nnumber = \nname = x y\n[cache]\nmemory = 5\n");
    assert!(found.len() >= 2, "{found:?}");
    assert!(found[0].starts_with("x.toml:2:"), "{found:?}");
    assert!(!found.iter().any(|m| m.contains("memory")), "{found:?}");
}

#[test]
fn ssh_needs_keys_and_the_web_an_address() {
    let right =
        "[shell]\nssh = \"127.0.0.1:2222\"\nauthorized_keys = \"k\"\n[web]\nlisten = \"[::1]:8080\"\n";
    assert_eq!(added(right), Vec::<String>::new());
    assert_eq!(added("[shell]\n"), Vec::<String>::new(), "no SSH");
    for (wrong, said) in [
        ("[shell]\nssh = \"127.0.0.1:2222\"\n", "needs authorized_keys"),
        ("[shell]\nssh = \"2222\"\nauthorized_keys = \"k\"\n", "is not address:port"),
        ("[shell]\nssh = \"127.0.0.1:2222\"\nauthorized_keys = \"\"\n", "a path is needed"),
        ("[shell]\npassword = \"x\"\n", "has no key"),
        ("[web]\n", "needs listen"),
    ] {
        let found = added(wrong);
        assert!(found.len() == 1 && found[0].contains(said), "{wrong}: {found:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table, a row for each mistake")]
fn every_kind_of_mistake_is_noticed_once() {
    let two = |a: String, b: &str| format!("{a}{b}");
    let base = pg(3, "raid5");
    let with = |rest: &str| format!("{base}{}{}{LINK}{rest}", volume("data1"), volume("jnl"));
    let group = "[[provision.group]]\nname = \"g1\"\n";
    let member = |group: &str, volume: &str| {
        format!("[[provision.member]]\ngroup = \"{group}\"\nvolume = \"{volume}\"\n")
    };
    let journals = "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n[[provision.journal]]\ngroup = \"g1\"\nvolume = \"j\"\nat = \"beta\"\n";
    let pair = "[[provision.pair]]\nname = \"p1\"\ngroup = \"g1\"\npvol = \"data1\"\nsvol = \"beta:copy1\"\n";
    let target = |rest: &str| with(&format!("[[provision.target]]\niqn = \"iqn.2026-11.io.x\"\n{rest}\n"));
    let right = with(&format!("{group}{journals}{pair}"));
    assert_eq!(added(&right), Vec::<String>::new());

    let cases: Vec<(String, &str)> = vec![
        ("[cache]\nmemory = \"1MiB\"\n".into(), "not within 16MiB"),
        ("[disk]\nengine = \"fast\"\n".into(), "none of \"io_uring\", \"plain\""),
        (
            "[[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\"]\n".into(),
            "taken by the portal on 127.0.0.1:3260",
        ),
        ("[[portal]]\nlisten = \"127.0.0.1:3261\"\nserves = []\n".into(), "serves: nobody"),
        ("[[portal]]\nlisten = \"localhost\"\nserves = [\"hosts\"]\n".into(), "not address:port"),
        (
            "[[portal]]\nlisten = \"127.0.0.1:1\"\nserves = [\"hosts\"]\ngroup = 0\n".into(),
            "not within 1 to 65535",
        ),
        ("[limits]\nsessions = 0\n".into(), "not within 1 to 65536"),
        ("[limits]\nfirst_burst = \"2MiB\"\n".into(), "more than max_burst"),
        ("[limits]\nlogin_timeout = \"1h\"\n".into(), "not within 1s to 600s"),
        ("[limitz]\n".into(), "did you mean \"limits\"?"),
        ("[provision]\nvolumes = []\n".into(), "did you mean \"volume\"?"),
        (pg(2, "raid5"), "raid5 needs at least 3 units, not 2"),
        (pg(3, "raid6"), "raid6 needs at least 4 units, not 3"),
        (pg(5, "raid10"), "even number"),
        (pg(17, "raid0"), "at most 16 units"),
        (pg(3, "raid7"), "none of \"raid0\""),
        (two(base.clone(), "stripe_unit = \"12KiB\"\n"), "not a power of two"),
        (two(base.clone(), "stripe_unit = \"2KiB\"\n"), "not within 4KiB"),
        (base.replacen("64MiB", "1MiB", 1), "1MiB is not within 16MiB"),
        (base.replacen("u1", "u0", 1), "\"u0\" is a unit already"),
        (two(base.clone(), &base.replace("\"u", "\"v")), "there is a parity group \"pg0\" already"),
        (with(&volume("data1")), "there is a volume \"data1\" already"),
        (with(&volume("bad name")), "is not a name"),
        (
            with(&volume("x").replace("8MiB", "10000KiB")).replace("10000KiB", "8388609B"),
            "not a multiple of 4KiB",
        ),
        (with(&volume("x").replace("8MiB", "120MiB")), "does not fit into \"pg0\", which has 112MiB left"),
        (with(&two(volume("x"), "block_size = 1024\n")), "neither 512 nor 4096"),
        (with(&two(volume("x"), "thin = \"yes\"\n")), "true or false is needed, not a string"),
        (with(&volume("x").replace("pg0", "pg1")), "no parity group \"pg1\"; did you mean \"pg0\"?"),
        (target("luns = [{lun=1,volume=\"data1\"},{lun=1,volume=\"data1\"}]"), "lun: 1 is taken"),
        (target("luns = [{lun=1,volume=\"data2\"}]"), "did you mean \"data1\"?"),
        (target("luns = [{lun=99999,volume=\"data1\"}]"), "not within 0 to 16383"),
        (target("initiators = [\"host7\"]"), "is not an iSCSI name"),
        (target("luns = [{lun=1,volume=\"data1\",read_only_for=[\"host7\"]}]"), "is not an iSCSI name"),
        (target("luns = [{lun=1,volume=\"data1\",read_only_for=\"*\"}]"), "is a list, not a string"),
        (target("initiators = \"*\""), "is a list, not a string"),
        (target("chap = { user = \"u\", secret = \"short\" }"), "12 to 255 bytes, this one has 5"),
        (target("chap = { user = \"u\", secret = { file = \"/nonexistent\" } }"), "/nonexistent"),
        (target("chap = { user = \"u\", secret = { env = \"HOLDFAST_NOT_SET\" } }"), "is not set"),
        (
            target(
                "chap = { user = \"u\", secret = \"0123456789ab\", mutual = { user = \"t\", secret = \"0123456789ab\" } }",
            ),
            "must differ",
        ),
        (
            with(&format!("[[provision.target]]\niqn = \"iqn.2026-11.io.{}\"\n", "x".repeat(230))),
            "at most 223 bytes",
        ),
        (with("[[provision.target]]\niqn = \"alpha\"\n"), "is not an iSCSI name"),
        (with(&LINK.replace("beta", "gamma")), "leads to array 2 already"),
        (with(&LINK.replace("beta", "gamma").replace("array = 2", "array = 1")), "this array's own number"),
        (with("").replace("[\"b:1\"]", "[]"), "needs portal"),
        (with("").replace("[\"b:1\"]", "[\"b\"]"), "not host:port"),
        (with("read_interval = \"soon\"\n"), "or \"immediate\""),
        (with(&format!("{group}release = \"later\"\n")), "none of \"read\", \"restored\""),
        (with(&format!("{group}{group}")), "there is a group \"g1\" already"),
        (with(&format!("{group}{journals}{pair}copy = \"both\"\n")), "none of \"async\", \"sync\""),
        (with(&format!("{group}fence = \"later\"\n")), "none of \"never\", \"data\", \"status\""),
        (with(&format!("{group}{journals}{}", pair.replace("beta:copy1", "copy1"))), "not link:volume"),
        (
            with(&format!("{group}{journals}{}", pair.replace("beta:copy1", "gamma:copy1"))),
            "no link \"gamma\"",
        ),
        (with(&format!("{group}{journals}{}", pair.replace("data1", "jnl"))), "is a journal volume"),
        (
            with(&format!("{group}{journals}{pair}{}", pair.replace("p1", "p2"))),
            "follows another volume already",
        ),
        (with(&format!("{group}{}", member("g1", "data9"))), "no volume \"data9\""),
        (with(&format!("{group}{}", member("g2", "data1"))), "no group \"g2\""),
        (with(&format!("{group}{journals}{}", member("g1", "jnl"))), "is a journal volume"),
        (with(&format!("{group}{0}{0}", member("g1", "data1"))), "is put into a group already"),
        (with(&format!("{group}{pair}")), "has no journal volume here"),
        (with(&format!("{group}{}", journals.replace("g1", "g2"))), "no group \"g2\""),
        (
            target("luns = [{lun=1,volume=\"jnl\"}]")
                .replace("[[provision.target]]", &format!("{group}{journals}[[provision.target]]")),
            "which hosts never see",
        ),
        (with("[[provision.reader]]\nlink = \"betta\"\ngroup = \"g\"\n"), "did you mean \"beta\"?"),
    ];
    for (text, expected) in cases {
        let found = added(&text);
        assert!(found.iter().any(|m| m.contains(expected)), "{expected:?} not in {found:#?}\n{text}");
    }
}

#[test]
fn a_mistake_of_one_entry_draws_no_complaints_about_others() {
    let text = pg(3, "raid7") + &volume("data1");
    assert_eq!(added(&text).len(), 1, "{:?}", added(&text));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "a secret of some length\n").unwrap();
    let link = LINK.replace("\"0123456789ab\"", &format!("{{ file = {:?} }}", file.to_str().unwrap()));
    let config = Config::parse(Path::new("x.toml"), &format!("{BASE}{link}")).unwrap();
    assert_eq!(config.provision.links[0].secret.expose(), b"a secret of some length");
    assert!(!format!("{config:?}").contains("some length"));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[\\[\\]a-z_=\"{}., \n0-9é\\\\#']{0,200}") {
        let _ = mistakes(&text);
        let _ = mistakes(&format!("{BASE}{text}"));
    }

    #[test]
    fn no_cut_of_a_right_file_makes_the_reader_panic(at in 0usize..6_000) {
        let text = include_str!("../../conf/holdfast.toml");
        let _ = mistakes(text.get(..at).unwrap_or(text));
    }
}
