//! The configurations of three arrays: a primary and two that read it, each in its own way.

use crate::cluster::{ALPHA, ARRAYS, Second, Shape, target_name};
use crate::support::random::Random;
use std::fmt::Write;

/// Everything that a read interval can follow.
const ADAPTIVE: &str = "adaptive:received,link,journal,load,source-journal,source-pointers";

/// The configuration of one of them.
pub(crate) fn config_text(index: usize, shape: Shape, random: &mut Random) -> String {
    let (name, number) = (ARRAYS[index], index + 1);
    let level = if index == ALPHA { "raid5" } else { "raid0" };
    let journal_kib = if shape.is_journal_apart { 0 } else { shape.journal_kib };
    let second_kib = if shape.second == Second::None { 0 } else { shape.journal_kib };
    let data_mib = (shape.volume_kib * u64::from(shape.volumes) + journal_kib + second_kib).div_ceil(1024);
    let unit_mib = (data_mib / if index == ALPHA { 2 } else { 3 } + 6).max(16);
    let journal_group = if shape.is_journal_apart { "pg1" } else { "pg0" };
    let mut text = format!(
        "[array]\nnumber = {number}\nname = \"{name}\"\ndata_dir = \"/{name}\"\n[cache]\nmemory = \"96MiB\"\n\
         [[portal]]\nlisten = \"0.0.0.0:3260\"\nserves = [\"hosts\", \"arrays\"]\n\
         [[portal]]\nlisten = \"0.0.0.0:3261\"\nserves = [\"hosts\"]\ngroup = 2\n\
         [[provision.parity_group]]\nname = \"pg0\"\nlevel = \"{level}\"\nstripe_unit = \"64KiB\"\nunits = [\n"
    );
    if shape.is_cache_small {
        text = text.replace("memory = \"96MiB\"", "memory = \"96MiB\"\njournal = \"1MiB\"");
    }
    for unit in 0..3 {
        writeln!(text, "  {{ path = \"/{name}/u{unit}\", size = \"{unit_mib}MiB\" }},").unwrap();
    }
    text += "]\n";
    if shape.is_journal_apart || shape.second == Second::ReserveApart {
        writeln!(
            text,
            "[[provision.parity_group]]\nname = \"pg1\"\nlevel = \"raid0\"\nstripe_unit = \"64KiB\"\nunits = [\n  \
             {{ path = \"/{name}/j0\", size = \"{}KiB\" }},\n]",
            shape.journal_kib + 8192
        )
        .unwrap();
    }
    let prefix = if index == ALPHA { "data" } else { "copy" };
    let mut luns = Vec::new();
    for volume in 1..=shape.volumes {
        let size = shape.volume_kib;
        writeln!(
            text,
            "[[provision.volume]]\nname = \"{prefix}{volume}\"\nparity_group = \"pg0\"\nsize = \"{size}KiB\"\nthin = true"
        )
        .unwrap();
        luns.push(format!("{{ lun = {volume}, volume = \"{prefix}{volume}\" }}"));
    }
    writeln!(
        text,
        "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"{journal_group}\"\nsize = \"{}KiB\"\n\
         [[provision.target]]\niqn = \"{}\"\ninitiators = [\"*\"]\nluns = [{}]",
        shape.journal_kib,
        target_name(name),
        luns.join(", ")
    )
    .unwrap();
    if shape.second != Second::None {
        let size = shape.journal_kib;
        let group = if shape.second == Second::ReserveApart { "pg1" } else { "pg0" };
        writeln!(
            text,
            "[[provision.volume]]\nname = \"jnl2\"\nparity_group = \"{group}\"\nsize = \"{size}KiB\""
        )
        .unwrap();
    }
    let others: &[usize] = if index == ALPHA { &[1, 2] } else { &[0] };
    for &other in others {
        writeln!(
            text,
            "[[provision.link]]\nname = \"{0}\"\narray = {1}\nportal = [\"{0}:3260\"]\nsecret = \"a secret of simulations\"",
            ARRAYS[other],
            other + 1
        )
        .unwrap();
        if index != ALPHA {
            // Journals come compressed or not, by one command or the other, and with a limit that hosts do not reach.
            let compression = ["none", "zstd", "zstd:1"][random.index(3)];
            let limit = ["none", "none", "96MiB/s", "40MiB/s"][random.index(4)];
            let fetch = ["journal-read", "read"][random.index(2)];
            writeln!(text, "compression = \"{compression}\"\nlimit = \"{limit}\"\nfetch = \"{fetch}\"")
                .unwrap();
        }
        // Each auxiliary in its own way.
        if index == 1 {
            let size = ["group", "256KiB", "64 updates", "adaptive"][random.index(4)];
            writeln!(text, "connections = {}\nread_size = \"{size}\"", 1 + random.below(4)).unwrap();
        }
        if index == 2 {
            let (read, restore) = (20 + random.below(200), 20 + random.below(300));
            let read = [
                format!("every {read}ms"),
                format!("fixed {}ms", read / 4),
                format!("periodic {}ms", read / 4),
                ADAPTIVE.to_owned(),
            ][random.index(4)]
            .clone();
            let restore = [format!("every {restore}ms"), "load".to_owned()][random.index(2)].clone();
            writeln!(text, "read = \"{read}\"\nrestore = \"{restore}\"").unwrap();
            if shape.is_cache_small {
                text += "restore_delay = \"1500ms\"\n";
            }
        }
    }
    if index == ALPHA {
        text += &group_text(shape, random);
    }
    text
}

fn group_text(shape: Shape, random: &mut Random) -> String {
    let release_by = ["named", "next-command", "at-once"][random.index(3)];
    let no_room = ["hold", "retry"][random.index(2)];
    let mut text = format!(
        "[[provision.group]]\nname = \"g1\"\nsvol_access = \"read\"\n\
         release_by = \"{release_by}\"\nno_room = \"{no_room}\"\n"
    );
    text += &format!("throttle = \"{}s\"\n", shape.throttle_s);
    for at in ["", "at = \"beta\"\n", "at = \"gamma\"\n"] {
        // The tiny journals of the long run are about two rings.
        let layouts = if shape.journal_kib < 2048 { 1 } else { 3 };
        let layout = ["two-rings", "two-rings", "interleaved"][random.index(layouts)];
        writeln!(text, "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl\"\n{at}layout = \"{layout}\"")
            .unwrap();
    }
    if matches!(shape.second, Second::Turn | Second::Reserve | Second::ReserveApart) {
        let reserve = shape.second != Second::Turn;
        for at in ["", "at = \"beta\"\n", "at = \"gamma\"\n"] {
            writeln!(
                text,
                "[[provision.journal]]\ngroup = \"g1\"\nvolume = \"jnl2\"\n{at}reserve = {reserve}\nratio = \"1:8\"\n\
                 layout = \"{}\"",
                ["two-rings", "interleaved"][random.index(2)]
            )
            .unwrap();
        }
    }
    for reader in &ARRAYS[1..] {
        for volume in 1..=shape.volumes {
            writeln!(
                text,
                "[[provision.pair]]\nname = \"p{volume}-{reader}\"\ngroup = \"g1\"\npvol = \"data{volume}\"\nsvol = \"{reader}:copy{volume}\""
            )
            .unwrap();
        }
    }
    text
}
