//! What of a batch is told straight from intake: written down as all else, and its idle rooms claimed by the same
//! transaction, so that no claim has to look for what was written a moment ago. Whoever crashes leaves what any claim
//! would: pending notifications in held rooms.
//!
//! SQLite's are not written before they are told. Here that would hide them from the other workers, one of which may get
//! the queue, and with it the events, while this one posts.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio_postgres::Row;

use super::claim::{self, Claimable, read_claimable};
use super::errors::Done;
use super::rounds::{Answers, Place, Round, Tx, text, texts, values};
use super::standing::{ask_revision, revision_of};
use super::tokens::{self, Forfeits};
use crate::adapters::store::fate::Standing;
use crate::adapters::store::handing::{Choice, waiting};
use crate::adapters::store::purse::Grants;
use crate::adapters::store::rows::micros;
use crate::domain::ids::{EventId, IntegrationId, RoomKey, TokenKey};
use crate::domain::line::RoomState;
use crate::domain::story::Story;
use crate::ports::{DecidedEvent, Fate, IntakeChanges, NewNotification, RoomLine, Straight};

/// What a batch may tell straight, as far as it can say itself, and what was asked of the rest.
pub struct Candidates<'c> {
    choice: Choice<'c>,
    straight: &'c Straight,
    quick: HashSet<&'c RoomKey>,
    rooms: Place,
    throttled: Place,
    revision: Place,
}

impl<'c> Candidates<'c> {
    /// Looks for candidates and asks for what else has to be known of them; `None` if there are none. Locks all rooms
    /// that the batch tells something, by their keys: also those that an integration was moved to a moment ago. The tokens
    /// come behind them, and so no room may.
    pub fn ask(round: &mut Round, changes: &'c IntakeChanges, straight: &'c Straight) -> Option<Self> {
        let choice = Choice::among(changes);
        let mut new = changes.events.iter().flat_map(|event| &event.notifications);
        if new.any(|new| matches!(new.fate, Fate::Retell { .. })) {
            // What comes back makes its earlier end go, and notifications are locked before tokens.
            return None;
        }
        let fitting = changes.events.iter().filter_map(|event| Some(choice.fits(event)?.0));
        let fitting: Vec<&NewNotification> = fitting.filter(|new| (straight.is_quick)(&new.room)).collect();
        if fitting.is_empty() || straight.most == 0 {
            return None;
        }
        let told = changes.events.iter().flat_map(|event| &event.notifications);
        let told = told.filter(|new| !matches!(new.fate, Fate::Suppress { .. }));
        let (keys, whose): (BTreeSet<&str>, BTreeSet<&str>) =
            told.map(|new| (new.room.as_str(), new.integration.as_str())).unzip();
        let rooms = round.add(
            "SELECT room, claim, meter, retry_failures, retry_at, expired_untold, \
             due_at IS NULL AND lease_until IS NULL AND coalesce(hold_until <= $2, TRUE) \
             FROM rooms WHERE room = ANY(ARRAY(SELECT unnest($1::text[]) \
             UNION SELECT i.room FROM integrations AS i WHERE i.id = ANY($3))) ORDER BY room FOR UPDATE",
            values![texts(keys), micros(straight.now), texts(whose)],
        );
        let throttled = round.add(
            "SELECT integration FROM throttles WHERE integration = ANY($1)",
            values![texts(fitting.iter().map(|new| new.integration.as_str()))],
        );
        let revision = ask_revision(round);
        let quick = fitting.into_iter().map(|new| &new.room).collect();
        Some(Self { choice, straight, quick, rooms, throttled, revision })
    }

    /// Those whose rooms are idle and may be told something now, of what is `alone` in its room and ready, with where
    /// its integration stands.
    pub fn among<'s>(
        self,
        answers: &mut Answers,
        alone: impl Iterator<Item = (&'c DecidedEvent, &'s Standing)>,
    ) -> Done<Chosen<'c>> {
        let (now, budget) = (self.straight.now, self.straight.terms.room_budget);
        let mut rooms = HashMap::new();
        for row in answers.take(self.rooms) {
            let (room, rests) = (read_claimable(&row, now)?, row.try_get(6)?);
            let open = rests && room.state.retry.is_none() && room.state.meter.available(budget, now) > 0;
            rooms.insert(room.room.clone(), open.then_some(room));
        }
        let throttled = answers.take(self.throttled);
        let throttled: HashSet<&str> =
            throttled.iter().map(|row| row.try_get(0)).collect::<Result<_, tokio_postgres::Error>>()?;
        let (mut told, mut new_rooms) = (Vec::new(), Vec::new());
        for (event, standing) in alone {
            let Some((new, story)) = self.choice.fits(event) else { continue };
            if told.len() < self.straight.most
                && standing.room == new.room.as_str()
                && self.quick.contains(&new.room)
                && !throttled.contains(new.integration.as_str())
                && let Some(idle) = rooms.remove(&new.room).unwrap_or_else(|| {
                    new_rooms.push(new.room.as_str());
                    Some(Claimable { room: new.room.clone(), claim: 0, state: RoomState::default() })
                })
            {
                told.push(Told { event, new, story: *story, token: standing.token.clone(), idle });
            }
        }
        let revision = revision_of(answers, self.revision)?;
        Ok(Chosen { told, new_rooms, straight: self.straight, revision })
    }
}

/// A notification that is told straight, and its room as it was before.
struct Told<'c> {
    event: &'c DecidedEvent,
    new: &'c NewNotification,
    story: Story,
    token: TokenKey,
    idle: Claimable,
}

/// What is told straight, if its tokens have something left.
pub struct Chosen<'c> {
    told: Vec<Told<'c>>,
    /// Rooms that nothing is known of yet.
    new_rooms: Vec<&'c str>,
    straight: &'c Straight,
    revision: i64,
}

impl<'c> Chosen<'c> {
    /// Reserves a call for each and claims its room. What is not granted one waits as all else.
    pub async fn claim(self, tx: &Tx, round: &mut Round) -> Done<Claimed<'c>> {
        let Straight { terms, now, .. } = self.straight;
        let tokens: BTreeSet<TokenKey> = self.told.iter().map(|told| told.token.clone()).collect();
        let mut asking = Round::default();
        let asked = tokens::ask(&mut asking, &tokens, &[], terms.token_budget);
        let locked = tokens::Locked::read(&mut asking.run(tx).await?, asked, terms.token_budget, *now)?;
        let needs =
            self.told.iter().map(|told| (told.new.room.clone(), HashMap::from([(told.token.clone(), 1)])));
        let nothing = (&[][..], &Forfeits::new());
        let mut grants = locked.reserve(round, &needs.collect(), nothing, terms.token_budget, *now);
        let granted = self.told.into_iter().filter_map(|told| {
            let grants = grants.remove(&told.new.room)?;
            grants.values().all(|grant| grant.calls > 0).then_some((told, grants))
        });
        let claimed = Claimed(granted.collect());
        if !self.new_rooms.is_empty() {
            let sql = "INSERT INTO rooms (room) SELECT unnest($1::text[]) ON CONFLICT (room) DO NOTHING";
            round.add(sql, values![texts(self.new_rooms)]);
        }
        let claims = claimed.0.iter().map(|(told, _)| (&told.new.room, told.idle.claim + 1));
        claim::write_claims(round, claims, (*now, terms.lease), self.revision);
        Ok(claimed)
    }
}

/// What is told straight, in the order of the events.
#[derive(Default)]
pub struct Claimed<'c>(Vec<(Told<'c>, Grants)>);

impl Claimed<'_> {
    /// How many rooms.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Their rooms.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomKey> {
        self.0.iter().map(|(told, _)| &told.new.room)
    }

    /// The held rooms, with the places that the notifications were `written` to: number, event and integration.
    pub fn lines(self, written: &[Row]) -> Done<Vec<RoomLine>> {
        let mut places = HashMap::with_capacity(written.len());
        for row in written {
            places
                .insert((row.try_get::<_, &str>(1)?, row.try_get::<_, &str>(2)?), row.try_get::<_, i64>(0)?);
        }
        let line = |(told, tokens): (Told<'_>, Grants)| {
            let Told { event, new, story, idle, .. } = told;
            let (id, integration): (&EventId, &IntegrationId) = (&event.id, &new.integration);
            let Some(&seq) = places.get(&(text(id.as_str()).as_str(), integration.as_str())) else {
                tracing::error!(
                    room = idle.room.as_str(),
                    "what is told straight has no place; its lease has to end"
                );
                return None;
            };
            let Claimable { room, claim, state } = idle;
            Some(RoomLine {
                room,
                claim: (claim + 1).unsigned_abs(),
                state,
                waiting: vec![waiting(seq, event, new, story)],
                going_on: Vec::new(),
                tokens,
                throttles: HashMap::new(),
            })
        };
        Ok(self.0.into_iter().filter_map(line).collect())
    }
}
