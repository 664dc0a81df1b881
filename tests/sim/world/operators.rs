//! People who pause, resume and change integrations, and put dead letters back, while all is under way.

use std::sync::Arc;

use hipchat_notifier::domain::ids::IntegrationId;
use hipchat_notifier::ports::{Definition, ManagedBy};

use super::backend::at_once;
use super::broker::DEEDS;
use super::plan::ROOMS;
use super::wishes::{Interest, Rule, Wish};
use super::{Inner, Mutation, World};

impl World {
    /// The integrations that there are at the beginning.
    pub(super) fn establish(&self) {
        let definitions = self.plan.wishes.iter().map(|wish| self.definition(wish)).collect();
        at_once(self.store().apply(definitions, ManagedBy::Operator, self.now())).expect("definitions");
        let mut inner = self.lock();
        for wish in &self.plan.wishes {
            inner.ledger.applied(wish.clone());
            self.note(&mut inner, || format!("{wish:?}"));
        }
        let plan = format!("{:?}", Plain(self));
        self.note(&mut inner, || plan);
    }

    fn apply(&self, inner: &mut Inner, wish: Wish) {
        self.note(inner, || format!("an operator applies {wish:?}"));
        at_once(self.store().apply(vec![self.definition(&wish)], ManagedBy::Operator, self.now()))
            .expect("a definition");
        inner.ledger.applied(wish);
    }

    /// What the worker is given.
    fn definition(&self, wish: &Wish) -> Definition {
        let merges_all = self.options.mutation == Some(Mutation::QueueMerged);
        Wish { queue: wish.queue && !merges_all, ..wish.clone() }.definition()
    }

    fn deed(&self, inner: &mut Inner) {
        let all = inner.ledger.registry();
        let n = inner.rng.usize(..self.plan.wishes.len());
        let drawn = &self.plan.wishes[n];
        let id = IntegrationId::new(&drawn.id);
        let Some(kept) = all.get(&id) else { return self.apply(inner, drawn.clone()) };
        let mut wish = kept.wish.clone();
        match inner.rng.u8(..10) {
            0..=2 => {
                self.note(inner, || format!("an operator pauses {id}"));
                at_once(self.store().pause(&id, self.now())).expect("it is there");
                inner.ledger.pause(&id);
            }
            3 | 4 => {
                self.note(inner, || format!("an operator resumes {id}"));
                at_once(self.store().resume(&id)).expect("it is there");
                inner.ledger.resume(&id);
            }
            5 => {
                wish.room = inner.rng.usize(..ROOMS);
                self.apply(inner, wish);
            }
            6 => {
                wish.token = inner.rng.usize(..3);
                self.apply(inner, wish);
            }
            7 => {
                if let Interest::Runs { rule, .. } = &mut wish.interest {
                    *rule = Rule::draw(&mut inner.rng);
                }
                wish.paused = false;
                self.apply(inner, wish);
            }
            8 => {
                wish.throttle = inner.rng.bool().then_some((2, 5));
                wish.queue = inner.rng.bool();
                self.apply(inner, wish);
            }
            _ => {
                self.note(inner, || format!("an operator removes {id}"));
                at_once(self.store().remove(&id, self.now())).expect("it is there");
                inner.ledger.removed(&id);
            }
        }
    }

    fn replay(&self, inner: &mut Inner) {
        let count = inner.dead_letters.filed.len();
        if count == 0 {
            return;
        }
        let at = inner.rng.usize(..count);
        if let Some(envelope) = inner.dead_letters.put_back(at) {
            self.note(inner, || {
                format!("an operator replays {:?} {:?}", envelope.message_id, envelope.headers)
            });
            inner.queue.put(envelope);
        }
    }
}

/// A plan without what is told elsewhere.
struct Plain<'a>(&'a World);

impl std::fmt::Debug for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut plan = self.0.plan.clone();
        plan.wishes = Vec::new();
        write!(f, "{plan:?}")
    }
}

/// Does things until the trouble is over.
pub async fn work(world: Arc<World>) {
    if !world.plan.operators && !world.plan.replays {
        return;
    }
    loop {
        let wait = world.lock().millis(50, DEEDS.as_millis() as u64);
        tokio::time::sleep(wait).await;
        let mut inner = world.lock();
        if inner.calm {
            return;
        }
        if world.plan.operators && inner.rng.bool() {
            world.deed(&mut inner);
        }
        if world.plan.replays && inner.rng.bool() {
            world.replay(&mut inner);
        }
    }
}
