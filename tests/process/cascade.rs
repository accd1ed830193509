//! Four arrays in a row, from configuration alone: each hands on what it copies. The two in the middle are killed with
//! SIGKILL under load, in turn; at the end every copy equals the first array's volumes, and each pair was `normal` all the
//! time: nothing was copied again.

use crate::rounds::{CATCH_UP, SESSIONS, wait_a_random_time, write_some, write_while};
use crate::support::process::{Array, GROUP, Layout, rows};
use crate::support::random::{Random, number_from_environment, seed_from_environment};
use crate::support::wof::{
    DurableRule, Geometry, Observed, Plan, SECTOR_BYTES, Writer, check_crash, read_image,
};
use std::fmt::Write as _;

const ROW: [&str; 4] = ["alpha", "beta", "gamma", "delta"];

fn number(index: usize) -> usize {
    // As the configuration of an array gives them.
    [1, 2, 3, 9][index]
}

fn configuration(arrays: &[Array], index: usize, layout: &Layout) -> String {
    let mut text = arrays[index].config_head(layout);
    let mut luns = Vec::new();
    for n in 1..=layout.volumes {
        let size = layout.volume_bytes;
        let _ = writeln!(
            text,
            "[[provision.volume]]\nname = \"data{n}\"\nparity_group = \"pg0\"\nsize = \"{size}B\"\nthin = true\n"
        );
        luns.push(format!("{{ lun = {n}, volume = \"data{n}\" }}"));
    }
    let _ = writeln!(
        text,
        "[[provision.volume]]\nname = \"jnl\"\nparity_group = \"pg0\"\nsize = \"{}B\"\n\n\
         [[provision.target]]\niqn = \"{}\"\nluns = [{}]\ninitiators = [\"*\"]\n",
        layout.journal_bytes,
        arrays[index].target(),
        luns.join(", ")
    );
    let (above, below) = (index.checked_sub(1), Some(index + 1).filter(|below| *below < ROW.len()));
    for other in above.into_iter().chain(below) {
        let _ = writeln!(
            text,
            "[[provision.link]]\nname = \"{}\"\narray = {}\nportal = [\"{}\"]\nsecret = \"a secret between two of them\"\n",
            ROW[other],
            number(other),
            arrays[other].portal()
        );
    }
    let Some(below) = below.map(|below| ROW[below]) else { return text };
    let how = match above {
        None => "svol_access = \"read\"".to_owned(),
        Some(above) => format!("source = \"{}\"", ROW[above]),
    };
    let _ = writeln!(
        text,
        "[[provision.group]]\nname = \"{GROUP}\"\n{how}\n\n\
         [[provision.journal]]\ngroup = \"{GROUP}\"\nvolume = \"jnl\"\n\n\
         [[provision.journal]]\ngroup = \"{GROUP}\"\nvolume = \"jnl\"\nat = \"{below}\"\n"
    );
    for n in 1..=layout.volumes {
        let _ = writeln!(
            text,
            "[[provision.pair]]\nname = \"data{n}-{below}\"\ngroup = \"{GROUP}\"\npvol = \"data{n}\"\nsvol = \"{below}:data{n}\"\n"
        );
    }
    text
}

/// States of all pairs that an array shows.
fn states(array: &Array) -> Option<Vec<String>> {
    let pairs = rows(&array.shell(&["pair", "list"]).ok()?);
    Some(pairs.iter().map(|pair| pair["state"].as_str().unwrap_or_default().to_owned()).collect())
}

async fn wait_for_normal_pairs(arrays: &[Array], layout: &Layout) {
    for (index, array) in arrays.iter().enumerate() {
        let sets = if index == 0 || index + 1 == ROW.len() { 1 } else { 2 };
        let expected = sets * usize::from(layout.volumes);
        array
            .wait_until("all pairs normal", CATCH_UP, || {
                let states = states(array)?;
                (states.len() == expected && states.iter().all(|state| state == "normal")).then_some(())
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_arrays_in_a_row_become_equal_whoever_in_the_middle_is_killed() {
    let seed = seed_from_environment(31);
    let kills = number_from_environment("HOLDFAST_KILLS", 10).div_ceil(3);
    let mut random = Random::new(seed);
    let layout = Layout { volumes: 2, journal_bytes: 192 << 20, ..Layout::default() };
    let directory = tempfile::Builder::new().prefix("holdfast-").tempdir().expect("a temporary directory");
    let mut arrays: Vec<Array> = ROW.iter().map(|name| Array::new(name, directory.path())).collect();
    for index in 0..ROW.len() {
        arrays[index].write_config(&configuration(&arrays, index, &layout));
    }
    for array in &mut arrays {
        array.start().await;
    }
    wait_for_normal_pairs(&arrays, &layout).await;
    let sectors = layout.volume_bytes / u64::try_from(SECTOR_BYTES).expect("512");
    let geometry = Geometry { sectors_per_block: 1, ..Geometry::new(u32::from(layout.volumes), sectors) };
    let mut writer = Writer::new(seed, Plan::mixed(seed, geometry));
    for kill in 1..=kills {
        let victim = if kill % 2 == 1 { 1 } else { 2 };
        let ports = arrays[0].ports(SESSIONS, layout.volumes);
        let (killed, random) = (&mut arrays[victim], &mut random);
        let summary = write_while(&mut writer, &ports, async move {
            wait_a_random_time(random, 900).await;
            killed.kill();
            wait_a_random_time(random, 300).await;
        })
        .await;
        let took = arrays[victim].start().await;
        assert!(took <= crate::support::process::SERVES_WITHIN, "serves only after {took:?}");
        eprintln!("kill {kill} of {}: {} commands", ROW[victim], summary.acknowledged);
    }
    let ports = arrays[0].ports(SESSIONS, layout.volumes);
    write_some(&mut writer, &ports, 300).await;
    let newest = arrays[0].group().expect("it answers")["next_update_number"].as_u64().expect("a number") - 1;
    for array in &arrays[1..] {
        array
            .wait_until("it has everything", CATCH_UP, || {
                let restored = array.group()?["follows"]["restored_update_number"].as_u64()?;
                (restored >= newest).then_some(())
            })
            .await;
        let states = states(array).expect("it answers");
        assert!(states.iter().all(|state| state == "normal"), "{states:?}");
    }
    let mut images = Vec::new();
    for array in &arrays {
        let port = array.ports(1, layout.volumes).remove(0);
        images.push(read_image(&port, geometry).await.expect("it can be read"));
    }
    let log = writer.log();
    check_crash(log, &Observed::from_images(log, &images[0]), DurableRule::Acknowledged)
        .expect_clean("the first");
    for (name, image) in ROW.iter().zip(&images).skip(1) {
        assert!(*image == images[0], "{name} differs from the first");
    }
}
