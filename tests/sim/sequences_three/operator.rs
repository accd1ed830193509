//! The operator at the end of a sequence: what `group show` asks for is said, until all three are equal and one lets hosts write.

use super::*;

impl World {
    /// A primary that was overtaken and the one that stays have no pairs with each other: it goes, and is paired anew. That can be said where it is the
    /// primary only.
    pub(super) async fn pair_anew(&mut self, winner: usize, loser: usize) {
        self.anew += 1;
        if takeover(&self.cluster, loser) == "overtaken" {
            self.say(loser, "group takeover g1 --yes".to_owned()).await;
        }
        self.loses(loser);
        if !self.knows_nothing(loser) {
            self.say(loser, "group delete g1 --yes".to_owned()).await;
        }
        let number = u32::try_from(loser + 1).unwrap();
        let is_read = |world: &Self| {
            let pairs = world.cluster.snapshot(winner).map(|now| now.pairs).unwrap_or_default();
            pairs.iter().any(|pair| pair.auxiliary_array == number)
        };
        if is_read(self) {
            self.say(winner, format!("group delete g1 --reader {} --yes", NAMES[loser])).await;
        }
        let since = self.cluster.clock_ms();
        while !self.knows_nothing(loser) || is_read(self) {
            assert!(
                self.cluster.clock_ms() < since + PATIENCE_MS,
                "it does not go: {}",
                self.cluster.state()
            );
            self.cluster.sleep_ms(20).await;
        }
        let (own, other) =
            (if winner == ALPHA { "data" } else { "copy" }, if loser == ALPHA { "data" } else { "copy" });
        let name = NAMES[loser];
        self.say(winner, format!("journal add g1 --volume jnl --at {name}")).await;
        for volume in 1..=SHAPE.volumes {
            let pair = format!("again{}-{volume}-{name}", self.asked.len());
            let line =
                format!("pair create {pair} --group g1 --pvol {own}{volume} --svol {name}:{other}{volume}");
            self.say(winner, line).await;
        }
    }

    /// It runs, and the group is none of its own: its hosts write plain volumes.
    pub(super) fn knows_nothing(&self, index: usize) -> bool {
        self.cluster.runs(index) && group(&self.cluster, index).name.is_empty()
    }

    pub(super) async fn say(&mut self, index: usize, line: String) {
        let since = self.cluster.clock_ms();
        while let Err(error) = self.cluster.command(index, &line).await {
            let state = self.cluster.state();
            assert!(self.cluster.clock_ms() < since + PATIENCE_MS, "{line}: {error}: {state}");
            self.cluster.sleep_ms(500).await;
        }
        self.asked.push(line);
    }

    /// Everything is mended; operators do what the arrays ask for until they agree. Who is the primary then.
    pub(super) async fn come_to_rest(&mut self) -> usize {
        for index in ALL {
            if !self.cluster.runs(index) {
                self.cluster.start(index).await;
            }
        }
        self.cluster.heal();
        let since = self.cluster.clock_ms();
        let mut asked_at = since;
        loop {
            if let Some(primary) = self.settled_primary() {
                return primary;
            }
            let now = self.cluster.clock_ms();
            assert!(
                now < since + PATIENCE_MS,
                "they do not agree ({:?}): {}",
                self.asked,
                self.cluster.state()
            );
            self.cluster.sleep_ms(20).await;
            if now >= asked_at + TOLD_MS {
                self.decide().await;
                asked_at = self.cluster.clock_ms();
            }
        }
    }

    /// An operator looks at all of them, and does what one asks for.
    pub(super) async fn decide(&mut self) {
        let mut writable = self.writable();
        writable.retain(|index| !self.knows_nothing(*index));
        // Where two took over the newer one stays.
        let newest = |index: &usize| {
            let newest = group(&self.cluster, *index).generations.last().map(|newest| newest.counter);
            (newest, *index)
        };
        let Some(winner) = writable.iter().copied().max_by_key(newest) else {
            // Fenced in vain, or shut by a swap that was cut off.
            let first = self.random.index(3);
            for index in [first, (first + 1) % 3, (first + 2) % 3] {
                if self.take_over(index).await {
                    self.asked.push(format!("takeover at {}", NAMES[index]));
                    return;
                }
            }
            return;
        };
        if writable.len() > 1 {
            let knows = |index: &usize| {
                let view = group(&self.cluster, *index);
                !view.rivals.is_empty() || takeover(&self.cluster, *index) == "split-brain"
            };
            let are_told = writable.iter().all(knows);
            assert!(are_told, "{writable:?} take writes, and do not say so: {}", self.cluster.state());
        }
        let Some(loser) = self.names(winner) else {
            // Nothing is open there: another one may say that it can go no further.
            let is_shut = |index: &usize| {
                let view = group(&self.cluster, *index).takeover.filter(|view| view.state == "overtaken");
                *index != winner && view.is_some()
            };
            let rivals = group(&self.cluster, winner).rivals;
            let rival = rivals.first().map(|rival| usize::try_from(rival.array).unwrap() - 1);
            let shut =
                ALL.into_iter().find(is_shut).filter(|_| group(&self.cluster, winner).takeover.is_none());
            let shut = shut.or(ALL.into_iter().find(|index| self.knows_nothing(*index)));
            self.refusals += u32::from(rival.or(shut).is_some());
            if let Some(loser) = rival.or(shut).filter(|_| self.refusals >= 3) {
                self.refusals = 0;
                self.pair_anew(winner, loser).await;
            }
            return;
        };
        match self.fail_back(winner, loser).await {
            Ok(()) => {
                self.asked.push(format!("failback at {} to {}", NAMES[winner], NAMES[loser]));
                // Said again it is answered at once, and why the loser does not obey is in the audit log only.
                let third = ALL.into_iter().find(|index| *index != winner && *index != loser);
                let third = third.map_or("", |third| NAMES[third]);
                self.refused(loser, &format!("(group delete g1 --reader {third})")).await;
            }
            Err(refused) => self.refused(loser, &refused).await,
        }
    }

    /// As long as a reader of the loser has not moved that is refused; one that stays for long is taken away as the refusal says.
    pub(super) async fn refused(&mut self, loser: usize, refused: &str) {
        self.refusals += 1;
        let said = refused.split_once("(group delete").and_then(|(_, rest)| rest.split_once(')'));
        if let Some((rest, _)) = said.filter(|_| self.refusals >= 3) {
            let line = format!("group delete{rest} --yes");
            let is_done = self.cluster.command(loser, &line).await.is_ok();
            self.asked.extend(is_done.then_some(format!("{line} at {}", NAMES[loser])));
            self.refusals = 0;
        }
    }
}
