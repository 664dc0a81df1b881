//! `/v2/…`: one HipChat call, from request to answer.
//!
//! The checks come in HipChat's order: method, token, room, the token's limit, body, the room's limit. Faults are
//! carried out here, around them. It must not render anything for people.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::header;
use axum::http::{HeaderMap, Method, StatusCode, Uri, request};
use axum::response::Response;
use futures_util::{StreamExt, stream};
use percent_encoding::percent_decode_str;

use super::answer::{Answer, Limits};
use super::connection::Scissors;
use super::faults::{Fault, Kind, Manners};
use super::limits::Allowance;
use super::room::{Answered, CallKind, Posted, Room};
use super::rooms::Token;
use super::server::Shared;

/// The longest request body. HipChat's own bound is not known; no valid notification comes near this one.
const BODY_BYTES: usize = 1024 * 1024;
/// How much more is read and thrown away, so that the client has sent all of it and can read the 413.
const DISCARDED_BYTES: usize = 16 * BODY_BYTES;

/// A call as far as its request line and headers tell.
struct Call {
    head: request::Parts,
    /// Percent-decoded; `None` when the path is not that of a notification.
    room_name: Option<String>,
    room: Option<Arc<Room>>,
    kind: CallKind,
}

/// Answers one call below `/v2`.
pub(super) async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(scissors): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let room_name = match notified_room(head.uri.path()) {
        Path::Notification(name) => Some(name),
        Path::WrongMethod => None,
        Path::Unknown => {
            return Answer::error(StatusCode::NOT_FOUND, "Not found").into_response(&Manners::default());
        }
    };
    let room = room_name.as_deref().and_then(|name| shared.rooms.enter(name));
    let is_test = query(&head.uri, "auth_test").is_some_and(|value| value == "true");
    let kind = if is_test { CallKind::AuthTest } else { CallKind::Message };
    let call = Call { head, room_name, room, kind };

    let is_room = |name: &str| {
        call.room_name.as_deref() == Some(name) || call.room.as_ref().is_some_and(|room| room.is_called(name))
    };
    match shared.faults.due(is_room) {
        None => process(&shared, &call, body, None).await.into_response(&Manners::default()),
        Some(fault) => fail(&shared, &call, body, &fault, &scissors).await,
    }
}

enum Path {
    Notification(String),
    /// Another method of the API lives there, or none could: HipChat answers 405 to a post.
    WrongMethod,
    Unknown,
}

/// `/v2/room/{id_or_name}/notification`. A `#` that was not encoded cuts the path off after the room's name, and
/// an empty name leaves two slashes; both were seen to be answered with 405. `+` is not a space.
fn notified_room(path: &str) -> Path {
    let segments: Vec<_> = path.split('/').collect();
    match segments[..] {
        ["", "v2", "room", name, "notification"] if !name.is_empty() => percent_decode_str(name)
            .decode_utf8()
            .map_or(Path::Unknown, |name| Path::Notification(name.into_owned())),
        ["", "v2", "room", _, "notification"] | ["", "v2", "room"] | ["", "v2", "room", _] => {
            Path::WrongMethod
        }
        _ => Path::Unknown,
    }
}

fn query(uri: &Uri, name: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(uri.query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The token of `Authorization: Bearer …`, else of the query.
fn token_of(head: &request::Parts) -> Option<String> {
    let bearer = head.headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    bearer.or_else(|| query(&head.uri, "auth_token"))
}

/// The call as HipChat would have handled it. `instead` is the fault that answers in place of a success.
async fn process(shared: &Shared, call: &Call, body: Body, instead: Option<&Fault>) -> Answer {
    let journal = &shared.rooms.journal;
    let mut calls = None;
    let answer = match entry(shared, call, &mut calls) {
        Err(answer) => answer,
        Ok(_) if call.kind == CallKind::AuthTest => Answer::auth_test(),
        Ok((room, token)) => match notification(shared, &call.head.headers, body).await {
            Err(answer) => answer,
            Ok(content) => {
                let answered = ending(StatusCode::NO_CONTENT, instead);
                let (answer, allowance) =
                    match room.post(journal, Arc::clone(&token.fingerprint), content, answered) {
                        Posted::Accepted { allowance } => (Answer::accepted(), allowance),
                        Posted::OverLimit { allowance } => (over_limit(), allowance),
                    };
                return answer.with(Limits { token: calls, room: allowance });
            }
        },
    };
    // No message got into the room, but the room's record says that one was tried.
    let answered = ending(answer.status, instead);
    let allowance = call.room.as_ref().and_then(|room| room.note(journal, call.kind, answered));
    let is_stranger = matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::METHOD_NOT_ALLOWED);
    let is_told = call.kind == CallKind::Message && !is_stranger;
    answer.with(Limits { token: calls, room: allowance.filter(|_| is_told) })
}

/// Whether the call may enter the room at all. Counts it against the token's limit, and puts what that has left
/// into `calls`.
fn entry<'call>(
    shared: &Shared,
    call: &'call Call,
    calls: &mut Option<Allowance>,
) -> Result<(&'call Arc<Room>, Arc<Token>), Answer> {
    if call.head.method != Method::POST || call.room_name.is_none() {
        let message = "This method is not allowed here: use POST";
        return Err(Answer::error(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    let admitted = token_of(&call.head).and_then(|secret| Some((shared.rooms.admit(&secret)?, secret)));
    let Some((token, secret)) = admitted else {
        return Err(Answer::error(StatusCode::UNAUTHORIZED, "Invalid OAuth session"));
    };
    let (fits, allowance) = shared.rooms.take_call(&token);
    *calls = allowance;
    if !fits {
        return Err(over_limit());
    }
    let Some(room) = &call.room else {
        return Err(Answer::error(StatusCode::NOT_FOUND, "Room not found"));
    };
    if !shared.rooms.opens(&secret, room) {
        return Err(Answer::error(StatusCode::FORBIDDEN, "This token is for another room"));
    }
    Ok((room, token))
}

fn over_limit() -> Answer {
    Answer::error(StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded")
}

/// How a call ends that would be answered with `status`: a fault takes the place of a success only.
fn ending(status: StatusCode, instead: Option<&Fault>) -> Answered {
    match instead {
        Some(fault) if fault.kind == Kind::Answer || !status.is_success() => {
            let fault = (fault.kind == Kind::Answer).then(|| fault.kind.as_str());
            Answered { status: Some(status.as_u16()), fault }
        }
        Some(fault) => struck(fault),
        None => Answered { status: Some(status.as_u16()), fault: None },
    }
}

/// How a call ends that the fault was done to.
fn struck(fault: &Fault) -> Answered {
    let status = !matches!(fault.kind, Kind::Drop | Kind::Hang);
    Answered { status: status.then(|| fault.status.as_u16()), fault: Some(fault.kind.as_str()) }
}

async fn notification(
    shared: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<super::validate::Notification, Answer> {
    let body = read(body).await?;
    let is_json =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
            value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
        });
    if !is_json {
        return Err(Answer::error(
            StatusCode::BAD_REQUEST,
            "The request body cannot be parsed: Content-Type must be application/json",
        ));
    }
    shared.validator.check(&body).map_err(|rejection| Answer::rejection(StatusCode::BAD_REQUEST, *rejection))
}

/// The body, if it is short enough.
async fn read(body: Body) -> Result<Vec<u8>, Answer> {
    let (mut whole, mut length) = (Vec::new(), 0_usize);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| Answer::error(StatusCode::BAD_REQUEST, "The request body ended early"))?;
        length = length.saturating_add(chunk.len());
        if length <= BODY_BYTES {
            whole.extend_from_slice(&chunk);
        } else if length > DISCARDED_BYTES {
            break;
        }
    }
    if length > BODY_BYTES {
        return Err(Answer::error(StatusCode::PAYLOAD_TOO_LARGE, "The request body is too large"));
    }
    Ok(whole)
}

/// Carries out a fault.
async fn fail(shared: &Shared, call: &Call, body: Body, fault: &Fault, scissors: &Scissors) -> Response {
    let mut limits = Limits::default();
    if fault.accept {
        let answer = process(shared, call, body, Some(fault)).await;
        if fault.kind == Kind::Answer || !answer.status.is_success() {
            wait(shared, fault).await;
            let mut response = answer.into_response(&fault.manners);
            fault.adjust(response.headers_mut());
            return response;
        }
        limits = answer.limits;
    } else if let Some(room) = &call.room {
        room.note(&shared.rooms.journal, call.kind, struck(fault));
    }
    wait(shared, fault).await;
    let body = match fault.kind {
        Kind::Drop => return cut(scissors),
        Kind::Hang => {
            shared.closing().await;
            return cut(scissors);
        }
        Kind::Trickle => Some(trickled(fault)),
        Kind::Huge => Some(huge(fault.mib)),
        Kind::Answer | Kind::Status | Kind::Redirect => fault.body.clone().map(Body::from),
    };
    let reason = fault.status.canonical_reason().unwrap_or("Unknown");
    let mut response = Answer::error(fault.status, reason).with(limits).into_response(&fault.manners);
    if let Some(body) = body {
        *response.body_mut() = body;
    } else if !fault.status.is_client_error() && !fault.status.is_server_error() {
        *response.body_mut() = Body::empty();
    }
    fault.adjust(response.headers_mut());
    response
}

async fn wait(shared: &Shared, fault: &Fault) {
    if !fault.latency.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(fault.latency) => {}
            () = shared.closing() => {}
        }
    }
}

/// Closes the connection; what is returned is never sent.
fn cut(scissors: &Scissors) -> Response {
    scissors.cut();
    Response::new(Body::empty())
}

fn trickled(fault: &Fault) -> Body {
    let interval = fault.interval;
    let bytes: Box<dyn Iterator<Item = u8> + Send> = match &fault.body {
        Some(body) => Box::new(body.clone().into_bytes().into_iter()),
        None => Box::new(std::iter::repeat(b' ')),
    };
    Body::from_stream(stream::unfold(bytes, move |mut bytes| async move {
        let byte = bytes.next()?;
        tokio::time::sleep(interval).await;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(vec![byte])), bytes))
    }))
}

fn huge(mib: u64) -> Body {
    let chunk = Bytes::from(vec![b' '; 1024 * 1024]);
    let chunks = (0..mib).map(move |_| Ok::<_, std::convert::Infallible>(chunk.clone()));
    Body::from_stream(stream::iter(chunks))
}
