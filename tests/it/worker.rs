//! Intake and dispatch on a real SQLite store, with a room that answers as told and a clock that stands still
//! until a case moves it.

mod burial;
mod cases;
mod dead_rooms;
mod faults;
mod frozen;
mod straight;
mod stream;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::adapters::hipchat::{self, Egress};
use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::sqlite::{Role, SqliteStore};
use hipchat_notifier::domain::envelope::{Envelope, Received};
use hipchat_notifier::domain::ids::{EventId, IntegrationId};
use hipchat_notifier::domain::line::LineRules;
use hipchat_notifier::domain::message::{Links, RoomMessage};
use hipchat_notifier::domain::pacing::{Budget, LimitHint};
use hipchat_notifier::domain::retry::RetryRule;
use hipchat_notifier::formats::integrations::{self, RoomRef, SecretSources};
use hipchat_notifier::metrics::Metrics;
use hipchat_notifier::ports::{
    Answer, AnswerClass, Buried, Clock, Journal, Letter, LetterBox, ManagedBy, Registry, RoomGateway,
    RoomTarget, Store, TakeIn,
};
use hipchat_notifier::worker::burial::{Burial, Owed};
use hipchat_notifier::worker::catalogue::{Catalogue, Opened};
use hipchat_notifier::worker::dispatch::{Dispatch, DispatchTerms};
use hipchat_notifier::worker::handover::Handover;
use hipchat_notifier::worker::intake::{Intake, Turn};
use hipchat_notifier::worker::moment::Moment;
use hipchat_notifier::worker::places::Places;
use hipchat_notifier::worker::trouble::Trouble;
use hipchat_notifier::worker::wake::{Bell, StopSwitch};
use jiff::Timestamp;
use secrecy::ExposeSecret;

const RULES: LineRules = LineRules {
    room: Budget { messages: 5, per: Duration::from_secs(60) },
    retry: RetryRule {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        give_up_after: Duration::from_secs(3600),
    },
    max_age: Duration::from_secs(1800),
};

/// A clock that a case moves by hand.
struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap()
    }
}

/// What a room's server says when it is asked next.
#[derive(Clone, Copy)]
enum Says {
    Good,
    Status(u16),
    Silence,
    TooMany {
        wait: i64,
    },
    /// Good, and that the token has no call left.
    LastCall {
        wait: u64,
    },
}

/// Rooms that answer as scripted, then well, and remember what they got.
struct ScriptedRooms {
    clock: Arc<HandClock>,
    script: Mutex<VecDeque<Says>>,
    got: Mutex<Vec<(String, RoomMessage)>>,
    calls: AtomicUsize,
}

#[async_trait]
impl RoomGateway for ScriptedRooms {
    async fn post(&self, target: &RoomTarget, message: &RoomMessage) -> Answer {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tracing::warn!("the client has something to say of itself");
        let says = self.script.lock().unwrap().pop_front().unwrap_or(Says::Good);
        let (status, class) = match says {
            Says::Good | Says::LastCall { .. } => (Some(204), AnswerClass::Accepted),
            Says::Silence => (None, AnswerClass::Unavailable),
            Says::Status(s @ (400 | 413 | 422)) => (Some(s), AnswerClass::Refused),
            Says::Status(s @ (401 | 403 | 404)) => (Some(s), AnswerClass::Broken),
            Says::Status(s) => (Some(s), AnswerClass::Unavailable),
            Says::TooMany { wait } => {
                let until = self.clock.now() + Duration::from_secs(wait as u64);
                (Some(429), AnswerClass::RateLimited { until })
            }
        };
        let token_limit = match says {
            Says::LastCall { wait } => {
                let reset_at = Some(self.clock.now() + Duration::from_secs(wait));
                LimitHint { remaining: Some(0), reset_at, ..LimitHint::default() }
            }
            _ => LimitHint::default(),
        };
        if class == AnswerClass::Accepted {
            let room = target.room.as_str().rsplit('/').next().unwrap().to_owned();
            self.got.lock().unwrap().push((room, message.clone()));
        }
        Answer { status, class, detail: "as scripted".into(), room_limit: LimitHint::default(), token_limit }
    }
}

/// A dead-letter queue that keeps what it gets.
#[derive(Default)]
struct Drawer(Mutex<Vec<Letter>>);

#[async_trait]
impl LetterBox for Drawer {
    async fn bury(&self, letters: &[Letter]) -> Buried {
        self.0.lock().unwrap().extend(letters.iter().cloned());
        Buried { confirmed: letters.iter().map(|letter| letter.id).collect(), failed: None }
    }

    async fn close(&self) {}
}

/// A worker without a broker: events are handed in, and time is moved, by the case.
struct Bench {
    clock: Arc<HandClock>,
    store: Arc<SqliteStore>,
    rooms: Arc<ScriptedRooms>,
    drawer: Arc<Drawer>,
    catalogue: Arc<Catalogue>,
    intake: Intake,
    dispatch: Dispatch,
    burial: Burial,
    _folder: tempfile::TempDir,
}

impl Bench {
    /// With the integrations of `toml`, whose rooms are at `https://h.example/v2/room/NAME`.
    async fn new(toml: &str) -> Self {
        Self::with_store(toml, |store| store).await
    }

    /// The same, with the worker seeing the store through `wrap`.
    async fn with_store(toml: &str, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cipher = Cipher::load_or_create(&folder.path().join("key")).unwrap();
        let store = SqliteStore::open(&folder.path().join("db"), Role::Worker, cipher).unwrap();
        let clock = Arc::new(HandClock(AtomicI64::new(1_764_000_000_000)));
        store.apply(definitions(toml), ManagedBy::Operator, clock.now()).await.unwrap();
        let catalogue = Arc::new(Catalogue::new(
            store.clone(),
            Box::new(|stored| {
                let url = stored.definition.room_url.expose_secret();
                let target = hipchat::parse_room_url(url, &Egress::default()).map_err(|e| e.to_string());
                Ok(Opened { integration: integrations::integration_from(stored)?, target })
            }),
        ));
        catalogue.refresh().await.unwrap();
        let seen: Arc<dyn Store> = wrap(store.clone());
        let metrics = Arc::new(Metrics::default());
        let trouble = Arc::new(Trouble::new("the store", clock.clone()));
        let (dispatch_bell, burial_bell) = (Arc::new(Bell::default()), Arc::new(Bell::default()));
        let rooms = Arc::new(ScriptedRooms {
            clock: clock.clone(),
            script: Mutex::default(),
            got: Mutex::default(),
            calls: AtomicUsize::new(0),
        });
        let drawer = Arc::new(Drawer::default());
        let terms = DispatchTerms {
            rules: RULES,
            token_budget: Budget::TOKEN,
            concurrency: 8,
            line: 100,
            lease: Duration::from_secs(30),
            shared: true,
            links: Arc::new(Links::postman()),
        };
        Self {
            intake: Intake {
                store: seen.clone(),
                catalogue: catalogue.clone(),
                metrics: metrics.clone(),
                trouble: trouble.clone(),
                dispatch: dispatch_bell.clone(),
                burial: burial_bell.clone(),
                handover: None,
                turn: Turn::default(),
            },
            dispatch: Dispatch {
                store: seen.clone(),
                catalogue: catalogue.clone(),
                gateway: rooms.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                trouble: trouble.clone(),
                claiming: trouble.clone(),
                unsettled: AtomicUsize::new(0),
                rate_limits: Mutex::default(),
                handover: Handover::new(terms.claim(0, 0), terms.handed_over(), clock.clone()),
                places: Arc::new(Places::new(terms.concurrency)),
                terms,
                wake: dispatch_bell,
                burial: burial_bell.clone(),
            },
            burial: Burial {
                store: seen,
                letter_box: drawer.clone(),
                clock: clock.clone(),
                metrics,
                outbox: trouble.clone(),
                trouble,
                wake: burial_bell,
            },
            clock,
            store,
            rooms,
            drawer,
            catalogue,
            _folder: folder,
        }
    }

    fn script(&self, says: &[Says]) {
        self.rooms.script.lock().unwrap().extend(says);
    }

    fn moment(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    /// Lets `seconds` go by.
    fn pass(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds * 1000, Ordering::SeqCst);
    }

    /// Hands one event in: `body` under the id `id`.
    async fn take(&self, id: &str, body: &str) {
        self.take_envelope(envelope(id, body)).await;
    }

    async fn take_envelope(&self, envelope: Envelope) {
        self.intake.take_in(vec![Received { envelope, at: self.clock.now() }]).await.durable.await.unwrap();
    }

    /// Works off what is due now, and buries what is to be buried.
    async fn settle_down(&self) {
        self.catalogue.refresh().await.unwrap();
        let (_switch, stop) = StopSwitch::new();
        loop {
            let lines = self.dispatch.claim_due(8, 8, self.moment()).await;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                self.dispatch.work_off(line, &stop).await;
            }
            self.catalogue.refresh().await.unwrap();
        }
        self.burial.step(&mut Owed::default()).await.unwrap();
    }

    /// The colours that `room` has seen, in order.
    fn colours(&self, room: &str) -> Vec<&'static str> {
        let got = self.rooms.got.lock().unwrap();
        got.iter().filter(|(r, _)| r == room).map(|(_, m)| m.color.as_str()).collect()
    }

    /// The texts that `room` has seen, in order.
    fn texts(&self, room: &str) -> Vec<String> {
        let got = self.rooms.got.lock().unwrap();
        got.iter().filter(|(r, _)| r == room).map(|(_, m)| m.html.clone()).collect()
    }

    /// `outcome/reason` of an event for one integration.
    async fn fate(&self, event: &str, integration: &str) -> String {
        let entries = self.store.explain(&EventId::new(event)).await.unwrap();
        let entry = entries.iter().find(|e| e.integration == IntegrationId::new(integration));
        entry.map_or_else(|| "unknown".into(), |e| format!("{}/{}", e.outcome, e.reason))
    }

    fn letters(&self) -> Vec<Letter> {
        self.drawer.0.lock().unwrap().clone()
    }
}

fn definitions(toml: &str) -> Vec<hipchat_notifier::ports::Definition> {
    let sources = SecretSources {
        env: &|_| None,
        read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        check_url: &|url| {
            let target = hipchat::parse_room_url(url, &Egress::default()).map_err(|e| e.to_string())?;
            Ok(RoomRef { token: hipchat::token_key(&target), room: target.room })
        },
    };
    integrations::read_file_text(toml, &sources).unwrap()
}

/// An integration for monitor results with rule `on`.
fn results(id: &str, room: &str, on: &str) -> String {
    format!(
        "[[integrations]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"monitor-results\"\n\
         room_url = \"https://h.example/v2/room/{room}/notification?auth_token=t-{id}\"\n\
         notify.on = \"{on}\"\n"
    )
}

/// An integration for team activity with the given `notify` table.
fn activities(id: &str, room: &str, notify: &str) -> String {
    format!(
        "[[integrations]]\nid = \"{id}\"\nname = \"{id}\"\nkind = \"team-activity\"\n\
         room_url = \"https://h.example/v2/room/{room}/notification?auth_token=t-{id}\"\n\
         notify = {{ {notify} }}\n"
    )
}

fn envelope(id: &str, body: &str) -> Envelope {
    Envelope {
        body: body.as_bytes().to_vec(),
        message_id: Some(id.into()),
        exchange: "postman.events".into(),
        routing_key: "monitor.acme.m".into(),
        ..Envelope::default()
    }
}

/// A monitor's run: `passed` or failed.
fn run(monitor: &str, passed: bool) -> String {
    let failed = u8::from(!passed);
    format!(
        r#"{{"monitor_uid":"{monitor}","monitor_name":"{monitor}","metrics":{{"failedTests":{failed},"passedTests":1}}}}"#
    )
}

fn update(user: &str, uid: &str) -> String {
    format!(
        r#"{{"action":"update","model":"request","model_uid":"{uid}","model_name":"{uid}","user_id":"{user}","user_name":"{user}"}}"#
    )
}
