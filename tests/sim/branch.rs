//! What the loser of a takeover had is kept by name (promise O4): `group failback --keep-branch`. Whatever dies on the way, the branch is there
//! before the first byte of the loser is overwritten, and is to the last byte what its volumes were when its hosts were shut out:
//! every write that was answered there. It stays when all pairs are normal again, hosts read it, and dropping it gives its
//! room back.

use crate::cluster::{ALPHA, Cluster, Death, Way, target_name};
use crate::in_virtual_time;
use crate::port::scribble;
use crate::story::geometry_of;
use crate::support::random::{Random, number_from_environment};
use crate::support::wof::{DurableRule, Observed, Plan, Writer, check_crash};
use crate::takeover::{
    BETA, SHAPE, begin, content, equal, go_on, group, has_everything, is_settled, lets_hosts_write,
    take_over, takeover, two, until, until_overtaken, write,
};
use holdfast::shell::view::SnapshotView;

fn shown(cluster: &Cluster, name: &str) -> Option<SnapshotView> {
    let snapshots = cluster.snapshot(ALPHA)?.snapshots;
    snapshots.into_iter().find(|snapshot| snapshot.name == name)
}

async fn branch(cluster: &Cluster, name: &str) -> Vec<Vec<u8>> {
    let mut images = Vec::new();
    for volume in 1..=SHAPE.volumes {
        let name = format!("{name}.data{volume}");
        images.push(loop {
            match cluster.array(ALPHA).expect("it runs").read_volume(&name).await {
                Ok(image) => break image,
                Err(_) => cluster.sleep_ms(20).await,
            }
        });
    }
    images
}

/// The loser dies again and again until it has become a copy; how often.
async fn dies_on_the_way(cluster: &Cluster, random: &mut Random, before: &[Vec<u8>]) -> u32 {
    let mut deaths = 0;
    while deaths < 4 && random.percent(75) {
        let after_ms = random.below(120);
        cluster.sleep_ms(after_ms).await;
        let death = if random.percent(50) { Death::Kill } else { Death::PowerLoss };
        cluster.die(ALPHA, death).await;
        deaths += 1;
        cluster.start(ALPHA).await;
        // Nothing of it is overwritten before it is kept.
        if shown(cluster, "lost").is_none() && !takeover(cluster, ALPHA).is_empty() {
            until(cluster, "its volumes can be read", || {
                let volumes = cluster.snapshot(ALPHA).map(|snapshot| snapshot.volumes).unwrap_or_default();
                volumes.iter().all(|volume| volume.state != "abnormal")
            })
            .await;
        }
        if shown(cluster, "lost").is_some() {
            assert!(branch(cluster, "lost").await == before, "{}", cluster.state());
        }
    }
    deaths
}

fn story(seed: u64) -> u32 {
    in_virtual_time(async {
        let cluster = two(seed);
        let mut random = Random::new(seed ^ 0x6272_616e);
        let mut writer = Writer::new(seed, Plan::mixed(seed, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        // What only alpha will have: all of it was answered.
        cluster.set_way("alpha", "beta", if random.percent(50) { Way::Cut } else { Way::Silent });
        let commands = 5 + random.below(60);
        write(&cluster, &mut writer, ALPHA, commands).await;
        let answered = writer.log().acked_count();
        take_over(&cluster, BETA).await;
        let of_alpha = content(&cluster, ALPHA).await;
        let log = writer.log();
        check_crash(log, &Observed::from_images(log, &of_alpha), DurableRule::Acknowledged)
            .expect_clean("alpha");
        assert!(answered > 0);
        go_on(&cluster, &mut writer, BETA, false).await;
        scribble(&cluster, ALPHA, &mut random, 5).await;
        cluster.heal();
        until_overtaken(&cluster, BETA).await;
        assert!(!lets_hosts_write(&cluster, ALPHA));
        let before = content(&cluster, ALPHA).await;
        let told = group(&cluster, BETA).takeover.expect("it took over");
        let dry = cluster.command(BETA, "group failback g1 --to alpha --keep-branch lost --dry-run").await;
        assert!(dry.expect("it says what is kept").contains("keeps its volumes"), "what it costs");
        // A name that is taken there is refused, and nothing has changed.
        cluster.command(ALPHA, "snapshot create taken --volume data1").await.expect("made");
        let line = "group failback g1 --to alpha --keep-branch taken --yes";
        assert!(cluster.command(BETA, line).await.is_err(), "there is one of that name");
        until(&cluster, "not refused", || {
            !group(&cluster, BETA).takeover.is_some_and(|now| now.is_asked_back)
        })
        .await;
        cluster.command(ALPHA, "snapshot delete taken --yes").await.expect("deleted");
        cluster.command(BETA, "group failback g1 --to alpha --keep-branch lost --yes").await.expect("named");
        let deaths = dies_on_the_way(&cluster, &mut random, &before).await;
        write(&cluster, &mut writer, BETA, 40).await;
        equal(&cluster, BETA).await;
        has_everything(&cluster, &writer, BETA).await;
        let kept = shown(&cluster, "lost").expect("it is kept");
        assert!(branch(&cluster, "lost").await == before, "it is what alpha had: {kept:?}");
        assert_eq!(kept.differs_from_update_number, told.branch_first_update_number, "{kept:?}");
        assert_eq!(kept.branch_updates, told.branch_updates, "{kept:?}");
        assert_eq!(kept.access, "read-only");
        // It can be mapped, goes through the next change of roles, and is dropped.
        let target = target_name("alpha");
        let map = format!("lun map {target} 50 lost.data1");
        cluster.command(ALPHA, &map).await.expect("it is a volume");
        cluster.command(BETA, "group failback g1 --to alpha --yes").await.expect("a planned reversal");
        until(&cluster, "not turned", || is_settled(&cluster, ALPHA)).await;
        write(&cluster, &mut writer, ALPHA, 30).await;
        equal(&cluster, ALPHA).await;
        assert!(branch(&cluster, "lost").await == before);
        cluster.command(ALPHA, &format!("lun unmap {target} 50")).await.expect("unmapped");
        cluster.command(ALPHA, "snapshot delete lost --yes").await.expect("dropped");
        until(&cluster, "its room is not given back", || {
            cluster.snapshot(ALPHA).is_some_and(|now| {
                let used: u64 = now.volumes.iter().map(|volume| volume.allocated_bytes).sum();
                used + now.parity_groups[0].free_bytes == now.parity_groups[0].size_bytes
            })
        })
        .await;
        deaths
    })
}

#[test]
fn the_loser_keeps_what_only_it_had_before_anything_is_overwritten() {
    let seeds = number_from_environment("HOLDFAST_TAKEOVER_SEEDS", 60).div_ceil(8).max(4);
    let first = number_from_environment("HOLDFAST_SIM_FIRST_SEED", 1);
    let deaths: u32 = (first..first + seeds).map(story).sum();
    eprintln!("{seeds} seeds, {deaths} deaths");
    assert!(deaths > 4, "only {deaths} deaths");
}
