//! Which of several copies has most is said before one is taken over (promises O4, O6; decision 23): alpha is read by beta and gamma,
//! of which one has more when alpha is lost. And what the other one lacks then is found, whatever it is.

use crate::cluster::{ALPHA, Cluster, Death, NAMES, Way};
use crate::in_virtual_time;
use crate::onward::{begin, content, is_settled, three};
use crate::rejoin::{GAMMA, SHAPE, follows};
use crate::story::geometry_of;
use crate::support::wof::{Plan, Writer};
use crate::takeover::{BETA, go_on, group, take_over, takeover, until, write};
use holdfast::copy::tamper::Tamper;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

async fn looked(cluster: &Cluster, index: usize) -> (Value, u64) {
    let since = cluster.clock_ms();
    let said =
        cluster.command(index, "group takeover g1 --dry-run").await.expect("it says what it would find");
    (serde_json::from_str(&said).expect("JSON"), cluster.clock_ms() - since)
}

fn texts(said: &Value, field: &str) -> String {
    let texts = said[field].as_array().expect(field).iter().map(|text| text.as_str().unwrap().to_owned());
    texts.collect::<Vec<_>>().join("\n")
}

/// Gamma gets what beta does not get, and alpha is lost.
async fn gamma_has_more(cluster: &Cluster, writer: &mut Writer) -> (u64, u64) {
    begin(cluster, writer).await;
    until(cluster, "not settled", || is_settled(cluster, ALPHA)).await;
    cluster.set_way("alpha", "beta", Way::Cut);
    write(cluster, writer, ALPHA, 20).await;
    let next = group(cluster, ALPHA).next_update_number;
    until(cluster, "gamma is behind", || {
        group(cluster, GAMMA).follows.map(|follows| follows.restored_update_number + 1) == next
    })
    .await;
    cluster.die(ALPHA, Death::PowerLoss).await;
    let at = |index: usize| group(cluster, index).follows.unwrap().durable_update_number;
    (at(BETA), at(GAMMA))
}

#[test]
fn a_takeover_says_which_other_copy_has_more_and_goes_on_only_if_that_is_meant() {
    in_virtual_time(async {
        let cluster = three(41);
        let mut writer = Writer::new(41, Plan::mixed(41, geometry_of(SHAPE)));
        let (here, there) = gamma_has_more(&cluster, &mut writer).await;
        assert!(there > here);
        let (said, _) = looked(&cluster, BETA).await;
        let other = &said["others"][0];
        assert_eq!(
            (other["link"].as_str(), other["standing"].as_str()),
            (Some("gamma"), Some("more")),
            "{other}"
        );
        assert_eq!(other["updates"], there - here, "{other}");
        assert_eq!(other["takeover_update_number"], there);
        let lost = texts(&said, "destroys");
        assert!(
            lost.contains(&format!("{} updates", there - here)) && lost.contains("that gamma has"),
            "{lost}"
        );
        let says = texts(&said, "says");
        assert!(
            says.contains(&format!("gamma has most, up to update {there}: take it over there")),
            "{says}"
        );
        let refused = cluster.command(BETA, "group takeover g1").await.unwrap_err();
        assert!(refused.contains("that gamma has") && refused.contains("--yes"), "{refused}");
        // At gamma it is the other way round; and an array that does not answer holds nobody up.
        let (said, _) = looked(&cluster, GAMMA).await;
        assert_eq!(said["others"][0]["standing"], "fewer", "{said}");
        let says = texts(&said, "says");
        assert!(says.contains("this is the array to take it over at"), "{says}");
        cluster.set_way("beta", "gamma", Way::Silent);
        let (said, took_ms) = looked(&cluster, GAMMA).await;
        assert!(took_ms < 4_000, "{took_ms} ms");
        assert_eq!(said["others"][0]["standing"], "unreached", "{said}");
        cluster.heal();
        take_over(&cluster, GAMMA).await;
        go_on(&cluster, &mut writer, GAMMA, true).await;
        until(&cluster, "beta does not go on", || follows(&cluster, GAMMA, BETA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await);
        let (said, _) = looked(&cluster, BETA).await;
        let of: Vec<_> =
            said["others"].as_array().unwrap().iter().map(|one| (&one["link"], &one["standing"])).collect();
        assert_eq!(of, [(&"alpha".into(), &"unreached".into())], "gamma is the source, and is not asked");
    });
}

/// Both readers are taken over by operators who did not look: each is told of the other one, and it stays like that.
#[test]
fn two_readers_that_both_took_over_are_shown_as_rivals() {
    in_virtual_time(async {
        let cluster = three(42);
        let mut writer = Writer::new(42, Plan::mixed(42, geometry_of(SHAPE)));
        gamma_has_more(&cluster, &mut writer).await;
        cluster.set_way("beta", "gamma", Way::Cut);
        take_over(&cluster, BETA).await;
        take_over(&cluster, GAMMA).await;
        cluster.heal();
        let knows = |index: usize, other: usize| {
            let group = group(&cluster, index);
            group.rivals.iter().any(|rival| rival.link == NAMES[other])
                && takeover(&cluster, index) == "taken"
        };
        until(&cluster, "nobody says it", || knows(BETA, GAMMA) && knows(GAMMA, BETA)).await;
        let before = (content(&cluster, BETA).await, content(&cluster, GAMMA).await);
        cluster.die(GAMMA, Death::Kill).await;
        cluster.start(GAMMA).await;
        cluster.sleep_ms(3_000).await;
        assert!(knows(BETA, GAMMA) && knows(GAMMA, BETA));
        assert!((content(&cluster, BETA).await, content(&cluster, GAMMA).await) == before);
    });
}

/// A takeover that takes its time at its end.
#[derive(Debug)]
struct Slow;

impl Tamper for Slow {
    fn before_closing(&self) -> Duration {
        Duration::from_secs(15)
    }
}

/// Alpha does not answer in time, and could be read again while beta takes over. What beta had counts, for gamma too; it once
/// took what came in that moment, and gamma never got it.
#[test]
fn nothing_that_could_come_at_the_end_of_a_takeover_makes_it_another_one_for_other_readers() {
    in_virtual_time(async {
        let cluster = three(44);
        let mut writer = Writer::new(44, Plan::mixed(44, geometry_of(SHAPE)));
        cluster.plant(BETA, Arc::new(Slow));
        begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        cluster.sleep_ms(2_000).await;
        cluster.set_way("alpha", "gamma", Way::Cut);
        cluster.set_way("alpha", "beta", Way::Cut);
        write(&cluster, &mut writer, ALPHA, 20).await;
        let next = group(&cluster, ALPHA).next_update_number;
        let commanding = cluster.command(BETA, "group takeover g1 --yes");
        let healing = async {
            until(&cluster, "not restoring", || takeover(&cluster, BETA) == "restoring").await;
            cluster.sleep_ms(500).await;
            cluster.set_way("alpha", "beta", Way::Up);
        };
        let (answer, ()) = tokio::join!(commanding, healing);
        answer.expect("it takes over");
        let view = group(&cluster, BETA).takeover.expect("it took over");
        assert!(view.update_number.map(|number| number + 1) < next, "nothing more was let in");
        go_on(&cluster, &mut writer, BETA, false).await;
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        let audit = cluster.command(BETA, "audit list").await.unwrap();
        assert!(!audit.contains("all of it is copied"), "{audit}");
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
    });
}

/// One pair of gamma stood still before alpha was lost: what it lacks stands in no map but alpha's. Its operator has stopped it, so it stays what it
/// is until one lets it go on.
#[test]
fn a_pair_that_stood_still_is_copied_whole_when_its_reader_goes_on_elsewhere() {
    in_virtual_time(async {
        let cluster = three(43);
        let mut writer = Writer::new(43, Plan::mixed(43, geometry_of(SHAPE)));
        begin(&cluster, &mut writer).await;
        until(&cluster, "not settled", || is_settled(&cluster, ALPHA)).await;
        cluster.command(ALPHA, "pair suspend p2-gamma").await.unwrap();
        write(&cluster, &mut writer, ALPHA, 60).await;
        let next = group(&cluster, ALPHA).next_update_number;
        for index in [BETA, GAMMA] {
            until(&cluster, "it is behind", || {
                group(&cluster, index).follows.map(|follows| follows.restored_update_number + 1) == next
            })
            .await;
        }
        assert!(content(&cluster, GAMMA).await != content(&cluster, BETA).await, "it lacks something");
        // Beta's journal does not hold it any more, and both have everything else.
        cluster.sleep_ms(10_000).await;
        cluster.die(ALPHA, Death::Kill).await;
        take_over(&cluster, BETA).await;
        let kept = content(&cluster, GAMMA).await.remove(1);
        go_on(&cluster, &mut writer, BETA, false).await;
        until(&cluster, "the others do not go on", || {
            are(&cluster, GAMMA, ["normal", "suspended", "normal"])
        })
        .await;
        for _ in 0..2 {
            cluster.sleep_ms(3_000).await;
            assert!(content(&cluster, GAMMA).await[1] == kept, "nothing is overwritten unasked");
            assert!(are(&cluster, GAMMA, ["normal", "suspended", "normal"]), "{}", cluster.state());
            cluster.die(GAMMA, Death::Kill).await;
            cluster.start(GAMMA).await;
            until(&cluster, "gamma is not up", || group(&cluster, GAMMA).follows.is_some()).await;
        }
        cluster.command(BETA, "pair resync p2-gamma").await.expect("it is let go on");
        until(&cluster, "gamma does not go on", || follows(&cluster, BETA, GAMMA)).await;
        assert!(content(&cluster, GAMMA).await == content(&cluster, BETA).await, "{}", cluster.state());
    });
}

fn are(cluster: &Cluster, index: usize, states: [&str; 3]) -> bool {
    let pairs = cluster.snapshot(index).map(|snapshot| snapshot.pairs).unwrap_or_default();
    pairs.iter().map(|pair| pair.state.as_str()).eq(states)
}
