//! `/sandbox/…`: what tests and people ask of the sandbox itself.
//!
//! | request | answers |
//! | --- | --- |
//! | `GET /sandbox/rooms` | `[{"id","name","received","accepted","rejected":{"400":1},"unanswered","over_limit","max_in_window","auth_tests","last_sequence"}]` |
//! | `GET /sandbox/rooms/{room}/messages[?after=SEQ]` | `{"room","accepted","messages":[{"sequence","received_at","color","message","message_format","notify","from","attach_to","card","token"}]}`, oldest first; `token` is a fingerprint |
//! | `GET /sandbox/transcript[?room=ROOM]` | the same for people, as plain text, see [`super::transcript`] |
//! | `GET /sandbox/attempts[?room=ROOM]` | `[{"room","call","at","kind","status","sequence","fault"}]`, in the order of the calls; `status` is null where no answer was sent |
//! | `DELETE /sandbox/messages` | 204; messages, attempts and figures are forgotten, limits and faults stay |
//! | `GET`, `PUT`, `POST` (adds), `DELETE /sandbox/faults` | `{"faults":[…]}`, see [`faults`](super::faults) |
//! | `GET /sandbox/events[?after=SEQ]` | server-sent events: `message` with `{"sequence","room","name","accepted","html"}`; `reload` when too much was missed |
//!
//! Errors are `{"error": "…"}`. It must not show a token.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use super::faults::{FaultSpec, Listed};
use super::page;
use super::room::{Attempt, Fed, Room, RoomFigures};
use super::rooms::Rooms;
use super::server::Shared;
use super::transcript;

/// The most missed messages that are sent again to a page; it loads anew beyond.
const REPLAYED: usize = 500;

#[derive(Deserialize)]
pub(super) struct After {
    #[serde(default)]
    after: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct OfRoom {
    #[serde(default)]
    room: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultList<T> {
    faults: Vec<T>,
}

pub(super) async fn rooms(State(shared): State<Arc<Shared>>) -> Json<Vec<RoomFigures>> {
    Json(shared.rooms.all().iter().map(|room| room.figures()).collect())
}

pub(super) async fn messages(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(After { after }): Query<After>,
) -> Response {
    let Some(room) = shared.rooms.find(&name) else {
        if shared.rooms.could_exist(&name) {
            return Json(json!({"room": name, "accepted": 0, "messages": []})).into_response();
        }
        return error(StatusCode::NOT_FOUND, &format!("there is no room \"{name}\""));
    };
    let messages = room.messages(after.unwrap_or(0), usize::MAX);
    let listed: Vec<Value> = messages.iter().map(|message| message.listed()).collect();
    Json(json!({"room": room.id, "accepted": room.accepted(), "messages": listed})).into_response()
}

pub(super) async fn transcript(
    State(shared): State<Arc<Shared>>,
    Query(OfRoom { room: only }): Query<OfRoom>,
) -> String {
    let mut text = String::new();
    let wanted = |room: &Arc<Room>| only.as_deref().is_none_or(|name| room.is_called(name));
    for room in shared.rooms.all().into_iter().filter(wanted) {
        transcript::write(&mut text, &room);
    }
    text
}

pub(super) async fn attempts(
    State(shared): State<Arc<Shared>>,
    Query(OfRoom { room: only }): Query<OfRoom>,
) -> Response {
    #[derive(Serialize)]
    struct InRoom {
        room: String,
        #[serde(flatten)]
        attempt: Attempt,
    }
    let mut all: Vec<InRoom> = Vec::new();
    for room in shared.rooms.all() {
        if only.as_ref().is_none_or(|name| room.is_called(name)) {
            all.extend(room.attempts().into_iter().map(|attempt| InRoom { room: room.id.clone(), attempt }));
        }
    }
    all.sort_by_key(|entry| entry.attempt.call);
    Json(all).into_response()
}

pub(super) async fn clear(State(shared): State<Arc<Shared>>) -> StatusCode {
    for room in shared.rooms.all() {
        room.clear();
    }
    StatusCode::NO_CONTENT
}

pub(super) async fn faults(State(shared): State<Arc<Shared>>) -> Json<FaultList<Listed>> {
    Json(FaultList { faults: shared.faults.list() })
}

type FaultBody = Result<Json<FaultList<FaultSpec>>, JsonRejection>;

pub(super) async fn replace_faults(State(shared): State<Arc<Shared>>, body: FaultBody) -> Response {
    set_faults(&shared, body, false)
}

pub(super) async fn add_faults(State(shared): State<Arc<Shared>>, body: FaultBody) -> Response {
    set_faults(&shared, body, true)
}

pub(super) async fn clear_faults(State(shared): State<Arc<Shared>>) -> Response {
    set_faults(&shared, Ok(Json(FaultList { faults: Vec::new() })), false)
}

fn set_faults(shared: &Shared, body: FaultBody, add: bool) -> Response {
    let set = match body {
        Ok(Json(list)) => shared.faults.set(list.faults, add),
        Err(rejection) => Err(rejection.body_text()),
    };
    match set {
        Ok(()) => Json(FaultList { faults: shared.faults.list() }).into_response(),
        Err(fault) => error(StatusCode::BAD_REQUEST, &fault),
    }
}

fn error(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({"error": message}))).into_response()
}

/// The messages after `after` (or the `Last-Event-ID` of a page that comes back) that are still kept, then all
/// that come.
pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    Query(After { after }): Query<After>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    // Subscribed before looking back, so that nothing falls in between.
    let live = shared.rooms.journal.follow();
    let missed =
        last_seen.or(after).map_or_else(|| Some(VecDeque::new()), |after| missed(&shared.rooms, after));
    let follower = Follower::new(shared, live, missed);
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
}

/// The kept messages after this one, of all rooms in order; `None` when they are too many to send.
fn missed(rooms: &Rooms, after: u64) -> Option<VecDeque<Fed>> {
    if rooms.journal.last_sequence().saturating_sub(after) > REPLAYED as u64 {
        return None;
    }
    let mut missed = Vec::new();
    for room in rooms.all() {
        let accepted = room.accepted();
        let messages = room.messages(after, REPLAYED).into_iter();
        missed.extend(messages.map(|message| (Arc::clone(&room), message, accepted)));
    }
    missed.sort_by_key(|(_, message, _)| message.sequence);
    Some(missed.into())
}

/// One open page.
struct Follower {
    shared: Arc<Shared>,
    live: broadcast::Receiver<Fed>,
    missed: VecDeque<Fed>,
    /// Sent from `missed`, and perhaps to come again in `live`.
    sent: HashSet<u64>,
    reload: bool,
}

impl Follower {
    fn new(shared: Arc<Shared>, live: broadcast::Receiver<Fed>, missed: Option<VecDeque<Fed>>) -> Self {
        let reload = missed.is_none();
        let missed = missed.unwrap_or_default();
        let sent = missed.iter().map(|(_, message, _)| message.sequence).collect();
        Self { shared, live, missed, sent, reload }
    }

    async fn next(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.reload) {
            return Some(Event::default().event("reload").data("{}"));
        }
        if let Some(fed) = self.missed.pop_front() {
            return Some(event(&fed));
        }
        loop {
            let received = tokio::select! {
                received = self.live.recv() => received,
                () = self.shared.closing() => return None,
            };
            match received {
                Ok(fed) if self.sent.remove(&fed.1.sequence) => {}
                Ok(fed) => return Some(event(&fed)),
                Err(RecvError::Lagged(_)) => return Some(Event::default().event("reload").data("{}")),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

fn event((room, message, accepted): &Fed) -> Event {
    let data = json!({
        "sequence": message.sequence,
        "room": room.id,
        "name": room.name,
        "accepted": accepted,
        "html": page::message(message),
    });
    Event::default().event("message").id(message.sequence.to_string()).data(data.to_string())
}
