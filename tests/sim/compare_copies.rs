//! Comparing two copies of one primary with each other (promise O8, decision 28).
//!
//! Under load, while arrays die and links fail, whoever of the two has restored more: nothing is ever found that was not planted, hosts and
//! restore go on, and no image stays. What was planted at one of them is found there; nothing is repaired from a copy.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Way};
use crate::compare::{BETA, GAMMA, PAGE, SHAPE, Story, found, page, restored};
use crate::in_virtual_time;
use crate::readers::{say, wait, write};
use crate::support::random::number_from_environment;
use crate::tree::Tree;
use holdfast::shell::view::{ComparedView, Console};

/// Both copy alpha, and are linked with each other. Gamma reads from beta, or only could.
fn beside(seed: u64, does_read: bool) -> Cluster {
    let tree = Tree { other: vec![(GAMMA, BETA)], ..Tree::star(2) };
    let cluster = Cluster::of(seed, SHAPE, tree.count(), &tree.links(), |index, shape, random| {
        let text = tree.config(index, shape, random);
        if does_read || index != GAMMA { text } else { without_reader(&text) }
    });
    cluster.readers.set(2);
    cluster
}

fn without_reader(text: &str) -> String {
    let (before, rest) = text.split_once("[[provision.reader]]").expect("gamma reads from beta");
    let behind = rest.find("\n[[").map_or("", |at| &rest[at..]);
    format!("{before}{behind}")
}

fn other(copy: usize) -> usize {
    if copy == BETA { GAMMA } else { BETA }
}

/// The result as the other array keeps it, which hears of it a little later.
async fn kept(story: &Story, index: usize, one: &ComparedView) -> ComparedView {
    let is_it = |other: &ComparedView| other.id == one.id;
    wait(&story.cluster, "the other one keeps it too", |cluster| {
        cluster.snapshot(index).expect("it runs").groups[0].compared.iter().any(is_it)
    })
    .await;
    story.group(index).compared.into_iter().find(is_it).expect("it was there")
}

/// One comparison of the two in which something may happen to anybody.
async fn disturbed(story: &mut Story) {
    let copy = 1 + story.random.index(2);
    let full = if story.random.percent(30) { " --full" } else { "" };
    let line = format!("group compare g1 --with {}{full}", NAMES[other(copy)]);
    let what = story.random.below(10);
    let known = story.group(copy).compared;
    let died = story
        .under_load(async |cluster, random| {
            // Either may be far behind.
            if random.percent(30) {
                cluster.set_way("alpha", NAMES[1 + random.index(2)], Way::Cut);
                cluster.sleep_ms(random.below(800)).await;
            }
            let _ = cluster.command(copy, &line).await;
            cluster.sleep_ms(random.below(300)).await;
            cluster.set_way("alpha", "beta", Way::Up);
            cluster.set_way("alpha", "gamma", Way::Up);
            cluster.sleep_ms(random.below(400)).await;
            let victim = random.index(3);
            let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
            let way = if random.percent(50) { Way::Cut } else { Way::Silent };
            match what {
                0..3 => {
                    cluster.die(victim, death).await;
                    return Some(victim);
                }
                3 | 4 => {
                    let (a, b) = [("beta", "gamma"), ("alpha", "beta"), ("alpha", "gamma")][victim];
                    cluster.set_way(a, b, way);
                    cluster.sleep_ms(random.below(1500)).await;
                    cluster.set_way(a, b, Way::Up);
                }
                5 => {
                    let at = if random.percent(50) { copy } else { other(copy) };
                    let _ = cluster.command(at, "group compare g1 --cancel").await;
                }
                6 => {
                    // They ask each other at the same time.
                    let line = format!("group compare g1 --with {}", NAMES[copy]);
                    let _ = cluster.command(other(copy), &line).await;
                }
                _ => cluster.sleep_ms(800).await,
            }
            None
        })
        .await;
    if let Some(victim) = died {
        story.comes_back(victim).await;
    }
    story.idle().await;
    story.judge();
    let results = story.group(copy).compared;
    match results.last().filter(|one| one.between == "copies" && !known.contains(one)) {
        Some(one) if one.result == "equal" => story.equal += 1,
        _ => story.unfinished += 1,
    }
}

async fn copies_in_danger(seed: u64) -> (u32, u32, u32) {
    let mut story = Story::begin_with(seed, beside(seed, seed.is_multiple_of(3))).await;
    for _ in 0..5 {
        disturbed(&mut story).await;
    }
    story.settled().await;
    for copy in [BETA, GAMMA] {
        let one = story.compare(copy, &format!(" --with {}", NAMES[other(copy)])).await;
        assert_eq!((one.result.as_str(), one.between.as_str()), ("equal", "copies"), "{one:?}");
        assert!(one.compared_bytes > 0, "{one:?}");
        let told = kept(&story, other(copy), &one).await;
        assert_eq!((told.result, told.update_number), (one.result, one.update_number));
    }
    story.judge();
    story.nothing_is_left().await;
    story.equal_at_the_end().await;
    story.end().await;
    (story.equal, story.unfinished, story.deaths)
}

#[test]
fn of_two_copies_nothing_is_found_that_is_not_there_whatever_happens_meanwhile() {
    let seeds = (number_from_environment("HOLDFAST_SIM_SEEDS", 400) / 100).max(3);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let (mut equal, mut unfinished, mut deaths) = (0, 0, 0);
    for seed in first..first + seeds {
        let told = in_virtual_time(copies_in_danger(seed));
        (equal, unfinished, deaths) = (equal + told.0, unfinished + told.1, deaths + told.2);
    }
    eprintln!("{seeds} seeds: {equal} equal, {unfinished} ended before that, {deaths} deaths");
    assert!(u64::from(equal) >= 2 * seeds, "{equal} equal, {unfinished} ended before that");
}

/// Neither is right by itself; which of them is wrong is found with the primary, or because it has read another thing there before.
#[test]
fn what_differs_between_two_copies_is_named_on_both_sides_and_nothing_is_repaired_from_either() {
    for (seed, leads) in [(1, BETA), (2, GAMMA)] {
        in_virtual_time(async {
            let mut story = Story::begin_with(seed, beside(seed, false)).await;
            write(&story.cluster, &mut story.writer, &story.ports, 120).await;
            story.quiet().await;
            let with = format!(" --with {}", NAMES[other(leads)]);
            let first = story.compare(leads, &with).await;
            assert!(first.result == "equal" && first.read_bytes == first.compared_bytes, "{first:?}");
            let second = story.compare(leads, &with).await;
            assert_eq!(
                (second.result.as_str(), second.read_bytes, second.source_read_bytes),
                ("equal", 0, 0)
            );
            let image = story.images(ALPHA, "data").await.remove(1);
            let one = story.pages(&image)[0];
            let mut wrong = page(&image, one).to_vec();
            wrong[100] ^= 4;
            story.plant(GAMMA, page(&image, one), &wrong);
            let full = story.compare(leads, &format!("{with} --full")).await;
            assert_eq!(found(&full.differences), [("copy2".to_owned(), "copy2".to_owned(), one)], "{full:?}");
            assert_eq!(full.differences[0].proven_wrong.as_deref(), Some("gamma"), "{full:?}");
            assert_eq!((full.different_bytes, full.repaired_bytes), (PAGE as u64, 0));
            assert_eq!(kept(&story, other(leads), &full).await.differences, full.differences);
            for index in [BETA, GAMMA] {
                let proof =
                    story.cluster.array(index).expect("it runs").proof(&"g1".parse().expect("a name"));
                assert_eq!(proof.expect("there is a group").check().expect("it is what was sealed").len(), 3);
            }
            let refused = format!("group compare g1{with} --repair");
            let refused = story.cluster.command(leads, &refused).await.expect_err("nothing to repair from");
            assert!(refused.contains("--repair"), "{refused}");
            let repaired = story.compare(GAMMA, " --full --repair").await;
            assert_eq!(repaired.repaired_bytes, PAGE as u64, "{repaired:?}");
            story.quiet().await;
            let equal = story.compare(leads, &format!("{with} --full")).await;
            assert_eq!(equal.result, "equal", "{equal:?}");
            story.nothing_is_left().await;
            story.equal_at_the_end().await;
            story.end().await;
        });
    }
}

/// One restores later on purpose, or has lost its source: the other one is held for no longer than a question, and does not wait for ever.
#[test]
fn a_copy_that_is_far_ahead_goes_on_while_the_other_one_comes_to_its_number() {
    for (seed, leads) in [(3, BETA), (4, GAMMA), (5, BETA)] {
        in_virtual_time(async {
            let mut story = Story::begin_with(seed, beside(seed, false)).await;
            let late = "group schedule g1 --link alpha --restore immediate --restore-delay 20s";
            say(&story.cluster, GAMMA, late).await;
            write(&story.cluster, &mut story.writer, &story.ports, 40).await;
            wait(&story.cluster, "beta has everything", |cluster| {
                restored(cluster, BETA) == cluster.newest()
            })
            .await;
            let line = format!("group compare g1 --with {}", NAMES[other(leads)]);
            say(&story.cluster, leads, &line).await;
            story.cluster.sleep_ms(2_000).await;
            let ahead = restored(&story.cluster, BETA);
            // It is the one that leads that may be held: while it waits for a number that has not come.
            write(&story.cluster, &mut story.writer, &story.ports, 40).await;
            wait(&story.cluster, "beta goes on", |cluster| restored(cluster, BETA) == cluster.newest()).await;
            assert!(restored(&story.cluster, GAMMA) < ahead, "gamma is late: {}", story.cluster.state());
            if seed == 5 {
                story.cluster.set_way("alpha", "gamma", Way::Cut);
                story.cluster.set_way("beta", "gamma", Way::Up);
            }
            story.idle().await;
            let one = story.group(leads).compared.pop().expect("it is kept");
            assert_eq!((one.result.as_str(), one.different_bytes), ("equal", 0), "{one:?}");
            story.cluster.set_way("alpha", "gamma", Way::Up);
            say(&story.cluster, GAMMA, &late.replace("20s", "0s")).await;
            story.settled().await;

            // What gamma never gets it cannot be compared at.
            story.cluster.set_way("alpha", "gamma", Way::Cut);
            write(&story.cluster, &mut story.writer, &story.ports, 20).await;
            wait(&story.cluster, "beta has it", |cluster| restored(cluster, BETA) == cluster.newest()).await;
            say(&story.cluster, leads, &line).await;
            story.idle().await;
            let one = story.group(leads).compared.pop().expect("it is kept");
            let why = one.reason.clone().unwrap_or_default();
            assert!(one.result == "failed" && why.contains("has restored only up to"), "{one:?}");
            story.cluster.set_way("alpha", "gamma", Way::Up);
            story.settled().await;
            assert_eq!(story.compare(leads, &line["group compare g1".len()..]).await.result, "equal");
            story.nothing_is_left().await;
            story.end().await;
        });
    }
}

/// Who is asked looks for itself whether it has anything to compare.
#[test]
fn what_is_no_other_copy_of_the_same_volumes_is_not_compared() {
    in_virtual_time(async {
        let mut story = Story::begin_with(6, beside(6, false)).await;
        story.quiet().await;
        for (index, line, why) in [
            (ALPHA, "group compare g1 --with beta", "not copied here"),
            (BETA, "group compare g1 --with delta", "no link"),
            (BETA, "group compare g1 --with gamma --reader gamma", "--reader"),
            (BETA, "group compare g1 --with gamma --every 60s", "--every"),
        ] {
            let refused = story.cluster.command(index, line).await.expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
        let above = story.compare(BETA, " --with alpha").await;
        assert_eq!((above.result.as_str(), above.between.as_str()), ("equal", "source-and-copy"));
        let ended = async |story: &Story, why: &str| {
            say(&story.cluster, BETA, "group compare g1 --with gamma").await;
            let since = story.cluster.clock_ms();
            while !story.group(BETA).comparing.is_empty() {
                assert!(story.cluster.clock_ms() < since + 120_000, "{}", story.cluster.state());
                story.cluster.sleep_ms(100).await;
            }
            let one = story.group(BETA).compared.pop().expect("it is kept");
            let reason = one.reason.clone().unwrap_or_default();
            assert!(one.result == "failed" && reason.contains(why), "{why}: {one:?}");
        };
        say(&story.cluster, GAMMA, "pair suspend p1-gamma").await;
        wait(&story.cluster, "gamma is suspended", |cluster| {
            let pairs = cluster.snapshot(GAMMA).expect("it runs").pairs;
            pairs.iter().any(|pair| pair.name == "p1-gamma" && pair.state == "suspended")
        })
        .await;
        ended(&story, "p1-gamma is suspended").await;
        story.cluster.die(GAMMA, Death::Kill).await;
        ended(&story, "link gamma").await;
        story.comes_back(GAMMA).await;
        story.nothing_is_left().await;
        story.end().await;
    });
    // Gamma copies beta's copy, and delta alpha's: what they call by one number need not be one volume.
    in_virtual_time(async {
        let tree = Tree { above: vec![0, 1, 0], later: Vec::new(), other: vec![(3, 2)] };
        let cluster = Cluster::of(7, SHAPE, tree.count(), &tree.links(), |index, shape, random| {
            let text = tree.config(index, shape, random);
            if index == 3 { without_reader(&text) } else { text }
        });
        cluster.readers.set(2);
        let mut story = Story::begin_with(7, cluster).await;
        story.quiet().await;
        say(&story.cluster, 3, "group compare g1 --with gamma").await;
        story.idle().await;
        let one = story.group(3).compared.pop().expect("it is kept");
        let reason = one.reason.clone().unwrap_or_default();
        assert!(one.result == "failed" && reason.contains("copied there from array 2"), "{one:?}");
        assert_eq!(story.compare(GAMMA, " --with beta").await.between, "source-and-copy");
        story.nothing_is_left().await;
        story.end().await;
    });
}

/// A copy says alone what it has of an update, the primary says it too, and whoever has the two files holds them against each other.
#[test]
fn roots_of_a_snapshot_that_two_arrays_find_apart_are_the_same_or_shown_to_differ() {
    in_virtual_time(async {
        let mut story = Story::begin_with(8, beside(8, false)).await;
        write(&story.cluster, &mut story.writer, &story.ports, 80).await;
        story.quiet().await;
        for index in [ALPHA, BETA, GAMMA] {
            say(&story.cluster, index, "snapshot create s1 --group g1").await;
        }
        // The copies go on, and their snapshots stay.
        write(&story.cluster, &mut story.writer, &story.ports, 80).await;
        story.quiet().await;
        for (line, why) in [
            ("group proof g1 --of s2", "no snapshot"),
            ("group proof g2 --of s1", "no group"),
            ("group proof g1 --full", "--of"),
        ] {
            let refused = story.cluster.command(BETA, line).await.expect_err(line);
            assert!(refused.contains(why), "{line}: {refused}");
        }
        let mut proofs = Vec::new();
        for index in [ALPHA, BETA] {
            say(&story.cluster, index, "group proof g1 --of s1").await;
            let name = "g1".parse().expect("a name");
            let proof = story.cluster.array(index).expect("it runs").proof(&name).expect("there is a group");
            assert_eq!(proof.check().expect("it is what was sealed").len(), 1);
            assert_eq!(story.group(index).compared[0].result, "roots");
            proofs.push(proof);
        }
        assert_eq!(proofs[0].check_with(&proofs[1]).expect("the same").len(), 3, "all volumes");
        // A comparison seals roots of its number, too: that is another one now.
        assert_eq!(story.compare(BETA, "").await.result, "equal");

        // Gamma's unit has changed a page since it was read.
        say(&story.cluster, GAMMA, "group proof g1 --of s1").await;
        let array = story.cluster.array(GAMMA).expect("it runs");
        let image = array.read_volume("s1.copy2").await.expect("it can be read");
        let one = story.pages(&image)[0];
        let mut wrong = page(&image, one).to_vec();
        wrong[7] ^= 1;
        story.plant(GAMMA, page(&image, one), &wrong);
        let refused = story.cluster.command(GAMMA, "group proof g1 --of s1 --full").await.expect_err("rot");
        assert!(refused.contains("not what it was"), "{refused}");
        drop(array);
        // Started anew it knows nothing of before, and says what it finds: that is not what the others have.
        story.cluster.die(GAMMA, Death::Kill).await;
        story.comes_back(GAMMA).await;
        story.settled().await;
        say(&story.cluster, GAMMA, "group proof g1 --of s1").await;
        let name = "g1".parse().expect("a name");
        let gamma = story.cluster.array(GAMMA).expect("it runs").proof(&name).expect("there is a group");
        let differs = proofs[0].check_with(&gamma).expect_err("a page differs");
        assert!(differs.contains("data2"), "{differs}");
        story.end().await;
    });
}

/// Whatever the other array is, and whether it was out of reach or died: what was hashed here is known, and it goes on to its end.
#[test]
fn a_comparison_that_loses_the_other_array_begins_again_by_itself() {
    for (seed, does_die, asked) in
        [(9, false, ALPHA), (10, true, ALPHA), (11, false, GAMMA), (12, true, GAMMA)]
    {
        in_virtual_time(async {
            let mut story = Story::begin_with(seed, beside(seed, false)).await;
            write(&story.cluster, &mut story.writer, &story.ports, 100).await;
            story.quiet().await;
            let line = format!("group compare g1 --with {} --rate 64KiB", NAMES[asked]);
            say(&story.cluster, BETA, &line).await;
            wait(&story.cluster, "it hashes", |cluster| {
                let comparing = cluster.snapshot(BETA).expect("it runs").groups.remove(0).comparing;
                comparing.iter().any(|one| one.state == "hashing" && one.done_bytes > 0)
            })
            .await;
            if does_die {
                story.cluster.die(asked, Death::Kill).await;
                story.cluster.sleep_ms(90_000).await;
                story.comes_back(asked).await;
            } else {
                let (a, b) = if asked == ALPHA { ("alpha", "beta") } else { ("beta", "gamma") };
                story.cluster.set_way(a, b, Way::Cut);
                story.cluster.sleep_ms(90_000).await;
                story.cluster.set_way(a, b, Way::Up);
            }
            let since = story.cluster.clock_ms();
            while !story.group(BETA).comparing.is_empty() {
                assert!(story.cluster.clock_ms() < since + 900_000, "{}", story.cluster.state());
                story.cluster.sleep_ms(500).await;
            }
            let one = story.group(BETA).compared.pop().expect("it is kept");
            assert_eq!((one.result.as_str(), one.different_bytes), ("equal", 0), "{one:?}");
            let told = kept(&story, asked, &one).await;
            assert_eq!(told.result, "equal");
            story.nothing_is_left().await;
            story.end().await;
        });
    }
}

/// What an operator wanted to be compared is compared though the array that leads ends in the middle, in whatever way and however often;
/// unless it is cancelled, or the array never gets through.
#[test]
fn a_comparison_outlives_the_array_that_leads_it() {
    for (seed, asked, deaths) in
        [(21, ALPHA, &[Death::Kill][..]), (22, GAMMA, &[Death::Kill, Death::PowerLoss])]
    {
        in_virtual_time(async {
            let mut story = Story::begin_with(seed, beside(seed, false)).await;
            write(&story.cluster, &mut story.writer, &story.ports, 100).await;
            story.quiet().await;
            let image = story.images(BETA, "copy").await.remove(0);
            let one = story.pages(&image)[0];
            let mut wrong = page(&image, one).to_vec();
            wrong[9] ^= 16;
            story.plant(BETA, page(&image, one), &wrong);
            let line = format!("group compare g1 --with {} --full --rate 64KiB", NAMES[asked]);
            say(&story.cluster, BETA, &line).await;
            for death in deaths {
                hashes(&story).await;
                story.cluster.die(BETA, *death).await;
                story.cluster.sleep_ms(10_000).await;
                story.comes_back(BETA).await;
                let state = &story.group(BETA).comparing[0].state;
                assert!(state == "interrupted" || state == "preparing", "{state}");
            }
            story.idle().await;
            let all = story.group(BETA).compared;
            let [only] = all.as_slice() else { panic!("{all:?}") };
            let there = if asked == ALPHA { "data1" } else { "copy1" };
            let expected = [(there.to_owned(), "copy1".to_owned(), one)];
            assert_eq!(found(&only.differences), expected, "{only:?}");
            // Cancelled before it has gone on, and while it had.
            for goes_on in [false, true] {
                say(&story.cluster, BETA, &line).await;
                hashes(&story).await;
                story.cluster.die(BETA, Death::Kill).await;
                story.comes_back(BETA).await;
                match goes_on {
                    true => hashes(&story).await,
                    false => assert_eq!(story.group(BETA).comparing[0].state, "interrupted"),
                }
                say(&story.cluster, BETA, "group compare g1 --cancel").await;
                story.idle().await;
            }
            story.cluster.die(BETA, Death::Kill).await;
            story.comes_back(BETA).await;
            story.cluster.sleep_ms(30_000).await;
            assert_eq!(story.group(BETA).comparing, [], "cancelled is cancelled");
            // It ends each time.
            say(&story.cluster, BETA, &line).await;
            for _ in 0..4 {
                hashes(&story).await;
                story.cluster.die(BETA, Death::Kill).await;
                story.comes_back(BETA).await;
            }
            story.idle().await;
            let last = story.group(BETA).compared.pop().expect("it is kept");
            let reason = last.reason.clone().unwrap_or_default();
            assert!(last.result == "failed" && reason.contains("4 times"), "{last:?}");
            story.nothing_is_left().await;
            story.end().await;
        });
    }
}

async fn hashes(story: &Story) {
    wait(&story.cluster, "it hashes", |cluster| {
        let comparing = cluster.snapshot(BETA).expect("it runs").groups.remove(0).comparing;
        comparing.iter().any(|one| one.state == "hashing" && one.done_bytes > 0)
    })
    .await;
}
