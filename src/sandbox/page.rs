//! The page: each room as people would have seen it.
//!
//! It is complete without scripts; `page.js` adds what arrives afterwards. Nothing is loaded from elsewhere, and
//! the policy sent with it lets no browser do so: a received image shows its alternative text.

use std::fmt::Write;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use super::markup::{escape, safe_url, sanitise, sanitise_card, text};
use super::room::{Message, Room, rfc3339};
use super::server::Shared;
use super::validate::Format;

/// Styles on elements are those that the sanitiser let through: colour, weight, decoration and size.
const POLICY: &str = "default-src 'none'; style-src-elem 'self'; style-src-attr 'unsafe-inline'; \
    script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";
const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// Messages of a room on its own page.
const ALONE: usize = 500;
/// Messages of a room on the wall of all rooms.
const ON_WALL: usize = 30;
/// Rooms drawn on the wall; the list at the side names all.
const WALL: usize = 60;

#[derive(Deserialize)]
pub(super) struct Chosen {
    #[serde(default)]
    room: Option<String>,
}

pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Query(Chosen { room }): Query<Chosen>,
) -> Response {
    // Read first: a message that arrives while the page is drawn is sent once more, and known by its number.
    let after = shared.rooms.journal.last_sequence();
    let rooms = shared.rooms.all();
    // A room is known to the script by its id, by whichever name it was asked for.
    let asked = room.filter(|name| !name.is_empty());
    let chosen = asked.map(|name| shared.rooms.find(&name).map_or(name, |room| room.id.clone()));
    let content = draw(&rooms, chosen.as_deref());
    let count = match rooms.len() {
        1 => "1 room".to_owned(),
        many => format!("{many} rooms"),
    };
    let html = fill(&[
        ("{{count}}", &count),
        ("{{after}}", &after.to_string()),
        ("{{chosen}}", &escape(chosen.as_deref().unwrap_or(""))),
        ("{{all-current}}", if chosen.is_none() { " aria-current=\"page\"" } else { "" }),
        ("{{view}}", if chosen.is_none() { "wall" } else { "alone" }),
        ("{{rooms}}", &list(&rooms, chosen.as_deref())),
        ("{{content}}", &content),
    ]);
    asset("text/html; charset=utf-8", html)
}

pub(super) async fn style() -> Response {
    asset("text/css; charset=utf-8", STYLE.to_owned())
}

pub(super) async fn script() -> Response {
    asset("text/javascript; charset=utf-8", SCRIPT.to_owned())
}

fn asset(kind: &'static str, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}

/// Fills the page's places in one pass, so that nothing received is taken for a place.
fn fill(places: &[(&str, &str)]) -> String {
    let mut out =
        String::with_capacity(PAGE.len() + places.iter().map(|(_, value)| value.len()).sum::<usize>());
    let mut rest = PAGE;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = rest.find("}}").map_or(rest.len(), |end| end + 2);
        let value = places.iter().find(|(name, _)| *name == &rest[..end]).map_or("", |(_, value)| value);
        out.push_str(value);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn list(rooms: &[Arc<Room>], chosen: Option<&str>) -> String {
    let mut out = String::new();
    for room in rooms {
        let current = chosen.is_some_and(|name| room.is_called(name));
        let _ = write!(
            out,
            "<li data-room=\"{id}\"><a href=\"/?room={link}\"{current}><span class=\"room-name\">{name}</span>\
             <span class=\"count\">{count}</span></a></li>",
            id = escape(&room.id),
            link = encode(&room.id),
            current = if current { " aria-current=\"page\"" } else { "" },
            name = escape(title(room)),
            count = room.accepted(),
        );
    }
    out
}

fn draw(rooms: &[Arc<Room>], chosen: Option<&str>) -> String {
    let mut out = String::new();
    if let Some(name) = chosen {
        match rooms.iter().find(|room| room.is_called(name)) {
            Some(room) => column(&mut out, room, ALONE),
            None => {
                let name = escape(name);
                let _ = write!(out, "<p class=\"notice\">Nothing has been posted to room “{name}”.</p>");
            }
        }
        return out;
    }
    // The rooms that were spoken in last, in their usual order.
    let mut busiest: Vec<_> = rooms.iter().map(|room| (room.figures().last_sequence, room)).collect();
    busiest.sort_by_key(|(last, _)| std::cmp::Reverse(*last));
    busiest.truncate(WALL);
    let drawn: std::collections::HashSet<_> = busiest.into_iter().map(|(_, room)| &room.id).collect();
    for room in rooms.iter().filter(|room| drawn.contains(&room.id)) {
        column(&mut out, room, ON_WALL);
    }
    if drawn.len() < rooms.len() {
        let _ = write!(out, "<p class=\"notice\">{} more in the list.</p>", rooms.len() - drawn.len());
    }
    out
}

fn column(out: &mut String, room: &Room, most: usize) {
    let id = escape(&room.id);
    let _ = write!(
        out,
        "<section class=\"room\" data-room=\"{id}\" aria-label=\"Room {title}\"><h2><a href=\"/?room={link}\">\
         {title}</a> <span class=\"count\">{count}</span></h2><ol class=\"messages\" tabindex=\"0\" role=\"log\">",
        title = escape(title(room)),
        link = encode(&room.id),
        count = room.accepted(),
    );
    for received in room.messages(0, most) {
        out.push_str(&message(&received));
    }
    out.push_str("</ol></section>");
}

fn title(room: &Room) -> &str {
    room.name.as_deref().unwrap_or(&room.id)
}

fn encode(room: &str) -> String {
    url::form_urlencoded::byte_serialize(room.as_bytes()).collect()
}

const BELL: &str = "<svg class=\"bell\" viewBox=\"0 0 16 16\" role=\"img\" aria-label=\"notifies people\">\
    <title>Notifies people</title><path d=\"M8 1a1 1 0 0 1 1 1v.4A4.5 4.5 0 0 1 12.5 6.8v3l1.2 1.7a.5.5 0 0 \
    1-.4.8H2.7a.5.5 0 0 1-.4-.8l1.2-1.7v-3A4.5 4.5 0 0 1 7 2.4V2a1 1 0 0 1 1-1zM6.3 13.2h3.4a1.7 \
    1.7 0 0 1-3.4 0z\"/></svg>";

/// One message, as an item of its room's list.
pub(super) fn message(received: &Message) -> String {
    let content = &received.content;
    let at = rfc3339(received.received_at);
    let clock = at.get(11..16).unwrap_or(&at);
    let from = content.from.as_deref().filter(|from| !from.is_empty());
    let from = from.map_or(String::new(), |from| format!("<span class=\"from\">{}</span>", escape(from)));
    let body = content.card.as_ref().and_then(card).unwrap_or_else(|| match content.format {
        Format::Html => format!("<div class=\"body\">{}</div>", sanitise(&content.message)),
        Format::Text => format!("<div class=\"body text\">{}</div>", text(&content.message)),
    });
    format!(
        "<li class=\"message {color}\" data-sequence=\"{sequence}\"><div class=\"head\">\
         <span class=\"sender\">Integration</span>{from}{bell}\
         <time datetime=\"{at}\" title=\"{at}\">{clock}</time></div>{body}</li>",
        color = content.color.drawn(received.sequence).as_str(),
        sequence = received.sequence,
        bell = if content.notify { BELL } else { "" },
    )
}

/// The card as the web client drew it; `None` where that client showed the message instead.
fn card(card: &Value) -> Option<String> {
    let style = card["style"].as_str()?;
    let description = &card["description"];
    if (style == "link" && description.is_null()) || (style == "image" && card["url"].is_null()) {
        return None;
    }
    let title = linked(card["title"].as_str()?, &card["url"]);
    let mut body = format!("<div class=\"card-title\">{title}</div>");
    let description = match (description.as_str(), description["value"].as_str()) {
        (Some(plain), _) => text(plain),
        (None, Some(html)) if description["format"] == "html" => sanitise_card(html),
        (None, Some(plain)) => text(plain),
        (None, None) => String::new(),
    };
    if !description.is_empty() {
        let _ = write!(body, "<div class=\"card-description\">{description}</div>");
    }
    let attributes: String = card["attributes"].as_array().into_iter().flatten().map(attribute).collect();
    if !attributes.is_empty() {
        let _ = write!(body, "<dl class=\"attributes\">{attributes}</dl>");
    }
    let drawn = match card["activity"]["html"].as_str() {
        None => body,
        Some(html) => {
            format!("<details open><summary>{}</summary>{body}</details>", sanitise_card(html))
        }
    };
    Some(format!("<div class=\"card {}\">{drawn}</div>", escape(style)))
}

fn attribute(attribute: &Value) -> String {
    let value = &attribute["value"];
    let shown = linked(value["label"].as_str().unwrap_or_default(), &value["url"]);
    let class = value["style"].as_str().map_or(String::new(), |style| match style {
        "lozenge" => " class=\"lozenge\"".to_owned(),
        other => format!(" class=\"lozenge {}\"", escape(other)),
    });
    let label = escape(attribute["label"].as_str().unwrap_or_default());
    format!("<div><dt>{label}</dt><dd><span{class}>{shown}</span></dd></div>")
}

fn linked(label: &str, url: &Value) -> String {
    match url.as_str().and_then(safe_url) {
        None => escape(label),
        Some(url) => format!(
            "<a href=\"{}\" target=\"_blank\" rel=\"noopener noreferrer\">{}</a>",
            escape(&url),
            escape(label)
        ),
    }
}
