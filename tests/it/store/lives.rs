//! Random lives of a store: whatever happens in whatever order, nothing that waits is left without a time,
//! every line keeps its order, and all ends.

use std::collections::HashMap;

use fastrand::Rng;
use hipchat_notifier::domain::ids::{GatherKey, RoomKey};
use hipchat_notifier::domain::reason::{DeadLetterReason, Outcome, SendReason};
use hipchat_notifier::ports::{
    DecidedEvent, Fate, IntakeChanges, ManagedBy, Retry, RoomLine, Settled, Then, Transition,
};

use super::lab::*;

const SEEDS: u64 = 12;
const STEPS: usize = 120;

/// One life under way.
struct Life {
    desk: Desk,
    rng: Rng,
    now: i64,
    /// All that ever arrived: the broker gives it again after a crash.
    arrived: Vec<DecidedEvent>,
    /// Lines that somebody believes to hold, also in vain.
    held: Vec<RoomLine>,
    /// The latest claim of each room.
    claims: HashMap<RoomKey, u64>,
}

pub async fn nothing_is_stranded_whatever_happens(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let mut life =
        Life { desk, rng: Rng::new(), now: 0, arrived: Vec::new(), held: Vec::new(), claims: HashMap::new() };
    for seed in 0..SEEDS {
        life.rng.seed(seed);
        for _ in 0..STEPS {
            life.step().await;
        }
        if life.rng.bool() {
            life.held.clear();
            drop(life.desk);
            life.desk = Desk(lab.worker().await.unwrap());
            // Nobody is left who could hold a room by an earlier one.
            life.claims.clear();
        }
        // Where something was told straight and is not written down, the broker still has it.
        life.desk.take(life.arrived.clone()).await;
        life.end(seed).await;
    }
}

impl Life {
    async fn step(&mut self) {
        self.now += self.rng.i64(0..2_000);
        match self.rng.u8(0..12) {
            0..=4 => self.arrive().await,
            5..=7 => self.claim().await,
            8..=10 => self.settle().await,
            _ => self.manage().await,
        }
    }

    fn who(&mut self) -> &'static str {
        ["a", "b", "c", "a2"][self.rng.usize(0..4)]
    }

    async fn arrive(&mut self) {
        let (who, other) = (self.who(), self.who());
        let ready_at = at(self.now + self.rng.i64(0..3) * 2_000);
        let gather = self.rng.bool().then(|| GatherKey::new("k"));
        let fate = Fate::Tell { story: story(1), ready_at, gather };
        let mut fates = vec![(who, home(who), fate.clone()), (other, home(other), fate)];
        if self.rng.bool() {
            fates = vec![(who, home(who), tell(self.now))];
        }
        let event = decided(&format!("e{}", self.arrived.len()), self.now, &fates);
        self.arrived.push(event.clone());
        if self.rng.bool() {
            self.desk.take(vec![event]).await;
            return;
        }
        let changes = IntakeChanges { events: vec![event], ..IntakeChanges::default() };
        for line in self.desk.take_telling(self.now, TERMS, changes).await.lines {
            self.begin(line);
        }
    }

    fn begin(&mut self, line: RoomLine) {
        let before = self.claims.insert(line.room.clone(), line.claim);
        assert!(before < Some(line.claim), "claims grow");
        // A holder that dies never settles.
        if self.rng.u8(0..8) > 0 {
            self.held.push(line);
        }
    }

    async fn claim(&mut self) {
        for line in self.desk.claim(self.now).await {
            assert!(!line.waiting.is_empty());
            assert!(seqs(&line).is_sorted());
            assert!(line.waiting.iter().all(|w| w.ready_at <= at(self.now)));
            self.begin(line);
        }
    }

    async fn settle(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let line = self.held.swap_remove(self.rng.usize(0..self.held.len()));
        let mut s = settlement(&line, self.now, vec![self.transition(&line)], RELEASE);
        s.state.retry = (self.rng.u8(0..4) == 0).then(|| Retry { failures: 1, at: at(self.now + 5_000) });
        let later = at(self.now + self.rng.i64(1..60_000));
        s.then = match self.rng.u8(0..4) {
            0 => Then::Hold,
            1 => Then::Release { due: Some(later) },
            2 => Then::Rest { until: later },
            _ => RELEASE,
        };
        if self.rng.u8(0..4) == 0 {
            s.closed = vec![(line.waiting[0].integration.clone(), later)];
        }
        let settled = self.desk.0.settle(s).await.unwrap();
        let current = self.claims[&line.room] == line.claim;
        assert!(current || settled == Settled::LostClaim, "an old claim never counts");
    }

    fn transition(&mut self, line: &RoomLine) -> Transition {
        let all = seqs(line);
        let some = all[..self.rng.usize(1..=all.len())].to_vec();
        let (at, detail) = (at(self.now), "why".to_owned());
        match self.rng.u8(0..12) {
            0..=4 => sent(some[0], self.now),
            5 | 6 => Transition::Digested { seqs: some, reason: SendReason::OverBudget, at, status: 200 },
            7 | 8 => Transition::Attempted { seqs: some, at, status: None, detail, plain_next: false },
            9 => Transition::Expired { seqs: some, at, detail },
            10 => Transition::DeadLettered {
                seqs: some,
                reason: DeadLetterReason::RetriesExhausted,
                detail,
                at,
                status: None,
                attempted: true,
            },
            _ => {
                let integration = line.waiting[0].integration.clone();
                Transition::Broken { integration, seqs: vec![all[0]], detail, at, status: Some(404) }
            }
        }
    }

    async fn manage(&mut self) {
        let who = self.who();
        let (id, when) = (integration(who), at(self.now));
        match self.rng.u8(0..4) {
            0 => self.desk.0.pause(&id, when).await.unwrap(),
            1 | 2 => self.desk.0.resume(&id).await.unwrap(),
            _ => {
                let token = format!("t{}", self.rng.u8(0..3));
                let moved = definition(who, ["1", "2", "3"][self.rng.usize(0..3)], &token);
                self.desk.0.apply(vec![moved], ManagedBy::Operator, when).await.unwrap();
            }
        }
    }

    /// From here on a good worker: it looks when the store says, sends what is there, and buries letters.
    async fn end(&mut self, seed: u64) {
        let mut last: HashMap<RoomKey, i64> = HashMap::new();
        for turn in 0.. {
            let Some(due) = self.desk.0.next_due().await.unwrap() else { break };
            assert!(turn < 1_000, "seed {seed}: it never ends");
            self.now = self.now.max(due.as_millisecond() - at(0).as_millisecond());
            for line in self.desk.claim(self.now).await {
                for seq in seqs(&line) {
                    let before = last.insert(line.room.clone(), seq);
                    let gathered = line.waiting.iter().any(|w| w.seq == seq && w.ready_at > w.received.at);
                    assert!(gathered || before < Some(seq), "seed {seed}: out of order");
                }
                self.claims.insert(line.room.clone(), line.claim);
                let mut s = settlement(&line, self.now, all_sent(&line, self.now), RELEASE);
                s.state.retry = None;
                assert_ne!(self.desk.0.settle(s).await.unwrap(), Settled::LostClaim);
            }
        }
        let letters: Vec<i64> = self.desk.0.letters(10_000).await.unwrap().iter().map(|l| l.id).collect();
        self.desk.0.buried(&letters, at(self.now)).await.unwrap();
        assert_eq!(self.desk.0.gauges(at(self.now)).await.unwrap().pending, 0, "seed {seed}");
        for event in &self.arrived {
            let entries = self.desk.explain(event.id.as_str()).await;
            assert!(
                !entries.is_empty() && entries.iter().all(|e| e.outcome != Outcome::Pending),
                "seed {seed}"
            );
        }
    }
}
