//! The dead-letter queue: takes letters, refuses them, or takes them and does not say so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::domain::envelope::Envelope;
use hipchat_notifier::domain::headers;
use hipchat_notifier::ports::{BrokerError, Buried, Letter, LetterBox};

use super::life::Life;
use super::{Mutation, World};

/// How long a letter is one worker's.
const LENT: i64 = 30_000_000;

/// The queue, and who has which letter in hand.
#[derive(Default)]
pub struct DeadLetters {
    pub filed: Vec<Letter>,
    lent: BTreeMap<i64, (usize, i64)>,
}

impl DeadLetters {
    /// Whether letter `id` is `life`'s now.
    pub fn lent(&mut self, id: i64, life: usize, now: i64) -> bool {
        let (holder, until) = self.lent.entry(id).or_insert((life, now + LENT));
        if *until <= now {
            (*holder, *until) = (life, now + LENT);
        }
        *holder == life
    }

    /// A letter as it would be put back into the work queue, if one integration's notification failed.
    pub fn put_back(&self, at: usize) -> Option<Envelope> {
        let letter = self.filed.get(at)?;
        let (event, integration) = (letter.event.as_ref()?, letter.integration.as_ref()?);
        let mut envelope = letter.envelope.clone();
        envelope.message_id = Some(event.as_str().to_owned());
        envelope.headers.insert(headers::INTEGRATION_ID.to_owned(), integration.as_str().to_owned());
        Some(envelope)
    }
}

/// One worker's way to the dead-letter queue.
pub struct SimLetterBox {
    world: Arc<World>,
    life: Arc<Life>,
}

impl SimLetterBox {
    pub fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life }
    }
}

#[async_trait]
impl LetterBox for SimLetterBox {
    async fn bury(&self, letters: &[Letter]) -> Buried {
        let mut buried = Buried::default();
        for letter in letters {
            self.life.gate().await;
            self.world.strike(&self.life);
            self.life.living().await;
            let (refused, silent, wait) = {
                let mut inner = self.world.lock();
                let rates = &self.world.plan.rates;
                let refused = inner.chance(rates.letter_refused);
                (refused, inner.chance(rates.confirm_lost), inner.millis(0, 20))
            };
            tokio::time::sleep(wait).await;
            if !refused {
                let mut inner = self.world.lock();
                self.world.note(&mut inner, || {
                    let Letter { id, reason, event, integration, .. } = letter;
                    format!("{} files letter {id}: {reason} {event:?} {integration:?}", self.life)
                });
                inner.dead_letters.filed.push(letter.clone());
                inner.figures.letters += 1;
            }
            self.world.strike(&self.life);
            self.life.gate().await;
            if refused || silent {
                let mut inner = self.world.lock();
                self.world
                    .note(&mut inner, || format!("{} has no confirm of letter {}", self.life, letter.id));
                if self.world.options.mutation == Some(Mutation::LetterDropped) {
                    buried.confirmed.push(letter.id);
                    continue;
                }
                buried.failed = Some(BrokerError::Unavailable("no confirm".to_owned()));
                break;
            }
            buried.confirmed.push(letter.id);
        }
        buried
    }

    async fn close(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
