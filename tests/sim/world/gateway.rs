//! HipChat's rooms: count what they get, limit it, fail, and answer late, badly, or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::adapters::hipchat::limits::Limits;
use hipchat_notifier::domain::ids::RoomKey;
use hipchat_notifier::domain::message::RoomMessage;
use hipchat_notifier::domain::pacing::{Budget, LimitHint};
use hipchat_notifier::ports::{Answer, AnswerClass, RoomGateway, RoomTarget, Settled, Settlement};
use jiff::fmt::rfc2822::DateTimePrinter;
use reqwest::header::{DATE, HeaderMap, HeaderValue};
use secrecy::ExposeSecret;

use super::ledger::Pair;
use super::life::Life;
use super::plan::Plan;
use super::{Inner, Mutation, World};

/// What became of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Under way, or answered and not settled.
    Open,
    /// What it told was noted as told.
    Told(Vec<Pair>),
    /// It was noted that it failed.
    Untold,
    /// Who made it died before it was noted.
    Crashed,
    /// Who made it did not hold the room any more when it was to be noted.
    Lost,
}

/// One call.
#[derive(Debug, Clone)]
pub struct Post {
    pub room: RoomKey,
    pub token: String,
    pub text: String,
    /// When the server had it, in microseconds.
    pub received: Option<i64>,
    pub in_room: bool,
    /// The server's own limit was reached: by how it counts, the budget was not kept.
    pub over_limit: bool,
    /// It is in the room, and its answer did not say so.
    pub answer_lost: bool,
    pub end: End,
}

/// All rooms.
pub struct Server {
    pub posts: Vec<Post>,
    /// What each life has posted last in each room and not settled, and by which claim.
    open: BTreeMap<(usize, RoomKey), (usize, u64)>,
    pub limit: u32,
    per: i64,
}

impl Server {
    pub fn new(plan: &Plan) -> Self {
        let Budget { messages, per } = plan.rules.room;
        let limit = if plan.server_allows_less { messages.div_ceil(2) } else { messages };
        Self {
            posts: Vec::new(),
            open: BTreeMap::new(),
            limit,
            per: i64::try_from(per.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// Who made them is dead. What it had sent to the store may arrive all the same.
    pub fn crashed(&mut self, life: usize) {
        for ((of, _), (at, _)) in &self.open {
            if *of == life {
                self.posts[*at].end = End::Crashed;
            }
        }
    }

    /// Whether every call of a worker that lives is noted.
    pub fn is_quiet(&self) -> bool {
        self.open.values().all(|(at, _)| self.posts[*at].end == End::Crashed)
    }

    /// How many calls a life has made whose outcome is not noted.
    pub fn left_open(&self, life: usize) -> usize {
        self.open.keys().filter(|(of, _)| *of == life).count()
    }

    /// A settlement says what became of the call before it.
    pub fn settled(&mut self, life: usize, s: &Settlement, settled: Settled, told: Vec<Pair>) {
        let key = (life, s.room.clone());
        // One that is repeated, since its answer was lost, says nothing of what was posted by a later claim.
        let Some((at, _)) = self.open.get(&key).copied().filter(|(_, claim)| *claim == s.claim) else {
            return;
        };
        self.open.remove(&key);
        let post = &mut self.posts[at];
        post.end = match settled {
            Settled::LostClaim => End::Lost,
            Settled::Applied | Settled::AtRest if told.is_empty() => End::Untold,
            Settled::Applied | Settled::AtRest => End::Told(told),
        };
    }

    fn in_window(&self, room: &RoomKey, now: i64) -> u32 {
        let counts = |post: &&Post| {
            post.in_room && post.room == *room && post.received.is_some_and(|at| at > now - self.per)
        };
        u32::try_from(self.posts.iter().rev().filter(counts).count()).unwrap_or(u32::MAX)
    }

    /// When the window has a place again.
    fn opens_in(&self, room: &RoomKey, now: i64) -> i64 {
        let oldest = self
            .posts
            .iter()
            .filter(|post| post.in_room && post.room == *room)
            .filter_map(|post| post.received)
            .filter(|at| *at > now - self.per)
            .min();
        oldest.map_or(0, |at| at + self.per - now)
    }
}

/// How the server takes one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Good,
    /// In the room, and then this status or none.
    AnswerLost(Option<u16>),
    /// Not in the room.
    Fails(Option<u16>),
    Limits,
    Refuses(u16),
    Breaks(u16),
}

/// One worker's way to the rooms.
pub struct SimRooms {
    world: Arc<World>,
    life: Arc<Life>,
}

/// A call that is under way; it may arrive although its caller has died.
struct UnderWay {
    world: Arc<World>,
    post: usize,
    mood: Mood,
    lingers: Option<Duration>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let (Some(later), Ok(runtime)) = (self.lingers, tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (world, post, mood) = (self.world.clone(), self.post, self.mood);
        runtime.spawn(async move {
            tokio::time::sleep(later).await;
            let mut inner = world.lock();
            if !inner.over {
                world.receive(&mut inner, post, mood);
            }
        });
    }
}

impl SimRooms {
    pub fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life }
    }

    fn mood(&self, inner: &mut Inner, has_card: bool) -> Mood {
        let rates = &self.world.plan.rates;
        let status = |inner: &mut Inner, of: &[u16]| of[inner.rng.usize(..of.len())];
        let bad =
            |inner: &mut Inner| inner.rng.bool().then(|| [500, 502, 503, 504, 408][inner.rng.usize(..5)]);
        if inner.chance(rates.limited) {
            return Mood::Limits;
        }
        if inner.chance(rates.unavailable) {
            return Mood::Fails(bad(inner));
        }
        if inner.chance(rates.answer_lost) {
            return Mood::AnswerLost(bad(inner));
        }
        // Most refuse the card alone; some refuse all.
        if inner.chance(rates.refused) && (has_card || inner.rng.bool()) {
            return Mood::Refuses(status(inner, &[400, 413, 422]));
        }
        if inner.chance(rates.broken) {
            return Mood::Breaks(status(inner, &[401, 404, 410, 301, 405]));
        }
        Mood::Good
    }
}

#[async_trait]
impl RoomGateway for SimRooms {
    async fn post(&self, target: &RoomTarget, message: &RoomMessage) -> Answer {
        // Not held up where the process is stopped: who is stopped right after the call has gone out is the worst case.
        self.life.living().await;
        let world = &self.world;
        let (post, mood, there, back, lingers) = {
            let mut inner = world.lock();
            let mood = self.mood(&mut inner, message.card.is_some());
            let post = world.begin_post(&mut inner, &self.life, target, message);
            let slow = inner.chance(world.plan.rates.slow_room);
            let timeout = u64::try_from(world.plan.timeout.as_millis()).unwrap_or(u64::MAX);
            // Most of those that are told straight have been quick before.
            let usual = if world.plan.straight { 16 } else { 40 };
            let longest = if slow { timeout / 2 } else { usual };
            let (there, back) = (inner.millis(0, longest), inner.millis(1, longest));
            let back = match mood {
                // Nothing comes: the call ends with its time.
                Mood::AnswerLost(None) | Mood::Fails(None) if inner.rng.bool() => world.plan.timeout - there,
                _ => back,
            };
            let lingers = inner.rng.bool().then(|| inner.millis(0, 500));
            (post, mood, there, back, lingers)
        };
        world.strike(&self.life);
        let mut under_way = UnderWay { world: world.clone(), post, mood, lingers };
        tokio::time::sleep(there).await;
        under_way.lingers = None;
        let (class, status, headers) = world.receive(&mut world.lock(), post, mood);
        world.strike(&self.life);
        tokio::time::sleep(back).await;
        self.life.gate().await;
        world.strike(&self.life);
        self.life.living().await;
        world.answer(post, class, status, &headers)
    }
}

/// A class without its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Accepted,
    Limited,
    Unavailable,
    Refused,
    Broken,
}

impl World {
    fn begin_post(
        &self,
        inner: &mut Inner,
        life: &Life,
        target: &RoomTarget,
        message: &RoomMessage,
    ) -> usize {
        let (number, room) = (life.number, target.room.clone());
        self.note(inner, || {
            let text = message.html.replace('\n', " ");
            let card = if message.card.is_some() { "" } else { " (plain)" };
            format!("{life} posts to {room}{card}: {text:.180}")
        });
        let claim = inner.ledger.own_claim(number, &room).unwrap_or_default();
        if let Some(says) = inner.ledger.may_not_post(number, &room) {
            self.fault(inner, format!("{life} posts to {room}: {says}"));
        }
        let at = inner.server.posts.len();
        inner.server.posts.push(Post {
            room: room.clone(),
            token: target.token.expose_secret().to_owned(),
            text: message.html.clone(),
            received: None,
            in_room: false,
            over_limit: false,
            answer_lost: false,
            end: End::Open,
        });
        if let Some((before, _)) = inner.server.open.insert((number, room.clone()), (at, claim)) {
            let before = &inner.server.posts[before];
            let says = format!("{life} posts to {room} before it has settled {:?}", before.text);
            self.fault(inner, says);
        }
        at
    }

    /// The call is at the server.
    fn receive(&self, inner: &mut Inner, post: usize, mood: Mood) -> (Class, Option<u16>, HeaderMap) {
        let now = self.elapsed();
        let room = inner.server.posts[post].room.clone();
        let full = inner.server.in_window(&room, now) >= inner.server.limit;
        let (class, status) = match mood {
            Mood::Fails(status) => (Class::Unavailable, status),
            Mood::Refuses(status) => (Class::Refused, Some(status)),
            Mood::Breaks(status) => (Class::Broken, Some(status)),
            Mood::Limits => (Class::Limited, Some(429)),
            Mood::Good | Mood::AnswerLost(_) if full => {
                inner.server.posts[post].over_limit = true;
                (Class::Limited, Some(429))
            }
            Mood::Good => (Class::Accepted, Some(204)),
            Mood::AnswerLost(status) => (Class::Unavailable, status),
        };
        let in_room = !full && matches!(mood, Mood::Good | Mood::AnswerLost(_));
        let kept = &mut inner.server.posts[post];
        kept.received = Some(now);
        kept.in_room = in_room;
        kept.answer_lost = in_room && class != Class::Accepted;
        if in_room {
            inner.figures.messages += 1;
        }
        let headers = self.headers(inner, &room, class);
        self.note(inner, || {
            let is = if in_room { "is in the room" } else { "is not in the room" };
            format!("post {post} {is}: {mood:?} -> {class:?} {status:?} {headers:?}")
        });
        (class, status, headers)
    }

    /// In the forms that HipChat and what stands before it have.
    fn headers(&self, inner: &mut Inner, room: &RoomKey, class: Class) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let tells = class == Class::Limited || self.plan.server_allows_less || inner.rng.u8(..4) == 0;
        if class == Class::Unavailable || !tells {
            return headers;
        }
        let now = self.elapsed();
        let left = inner.server.limit.saturating_sub(inner.server.in_window(room, now));
        let wait = (inner.server.opens_in(room, now) + 999_999) / 1_000_000;
        let mut put = |name: &'static str, value: String| {
            headers.insert(name, HeaderValue::try_from(value).expect("a header"));
        };
        let epoch = self.true_now().as_second();
        if class != Class::Limited || left == 0 {
            put("x-floodcontrol-limit", inner.server.limit.to_string());
            put("x-floodcontrol-remaining", left.to_string());
            if left == 0 {
                let reset = if inner.rng.bool() { wait } else { epoch + wait };
                put("x-floodcontrol-reset", reset.to_string());
            }
        } else {
            // A limit that is not the room's own: another's doing, or a proxy's.
            let most = if inner.rng.u8(..20) == 0 { 5 } else { 4 };
            let wait = [0, 1, 3, 10, 900][inner.rng.usize(..most)];
            match inner.rng.u8(..6) {
                0 => put("x-ratelimit-reset", (epoch + wait).to_string()),
                1 => {
                    put("x-ratelimit-remaining", "0".to_owned());
                    put("x-ratelimit-reset", wait.to_string());
                }
                2 => {
                    put("x-floodcontrol-remaining", "0".to_owned());
                    put("x-floodcontrol-reset", (epoch + wait).to_string());
                }
                3 => put("retry-after", wait.to_string()),
                4 => put("x-floodcontrol-reset", "soon".to_owned()),
                _ => {}
            }
        }
        if inner.rng.bool() {
            let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.true_now());
            headers.insert(DATE, HeaderValue::try_from(date.expect("a date")).expect("a header"));
        }
        headers
    }

    fn answer(&self, post: usize, class: Class, status: Option<u16>, headers: &HeaderMap) -> Answer {
        let class = match (self.options.mutation, class, status) {
            (Some(Mutation::SilenceIsConsent), Class::Unavailable, None) => Class::Accepted,
            (Some(Mutation::ConsentIsSilence), Class::Accepted, _) if post % 8 == 3 => Class::Unavailable,
            _ => class,
        };
        let now = self.now();
        let mut limits = if status.is_some() { Limits::read(headers, now) } else { Limits::default() };
        let class = match class {
            Class::Accepted => AnswerClass::Accepted,
            Class::Limited => AnswerClass::RateLimited { until: limits.blame(now) },
            Class::Unavailable => AnswerClass::Unavailable,
            Class::Refused => AnswerClass::Refused,
            Class::Broken => AnswerClass::Broken,
        };
        let (room_limit, token_limit) = match class {
            AnswerClass::Unavailable if status.is_none() => (LimitHint::default(), LimitHint::default()),
            _ => (limits.room, limits.token),
        };
        Answer { status, class, detail: "as simulated".to_owned(), room_limit, token_limit }
    }
}
