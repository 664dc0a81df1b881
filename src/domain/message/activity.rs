//! How one team activity reads: who did what to which instance, the instance as a link.
//!
//! ```text
//! Ana updated request Get order
//! Collection Orders · Workspace Shop · 2026-11-22 10:00 UTC
//! ```
//! Compact, both are one line. What Postman says itself in `message` stands in place of the first line, with
//! the instance linked in it. Actions and models that nobody knows yet are told as they came.

use std::borrow::Cow;

use jiff::Timestamp;

use super::card::{self, attribute};
use super::html::{Block, MESSAGE_LIMIT, Phrase, page};
use super::links::Links;
use super::run::{DOT, NAME, WORD, labelled, named, shown_value};
use super::text;
use super::{Card, Color, Extras, Style};
use crate::domain::event::{Activity, Event};
use crate::domain::integration::Detail;
use crate::domain::reason::SendReason;
use crate::domain::story::Told;

/// How wide Postman's own sentence may get, in UTF-16 units of HTML.
const SENTENCE: usize = 500;

/// One activity as one integration's room reads it.
pub(super) struct ActivityText<'a> {
    style: Style<'a>,
    event: &'a Event,
    activity: &'a Activity,
    replayed: bool,
    at: Timestamp,
}

impl<'a> ActivityText<'a> {
    pub fn new(style: Style<'a>, told: &Told<'a>, activity: &'a Activity) -> Self {
        let replayed = told.story.reason == SendReason::Replayed;
        Self { style, event: told.event, activity, replayed, at: time_of(activity, told.received_at) }
    }

    /// The message's HTML.
    pub fn html(&self, extras: Extras) -> String {
        let place = place(self.style.links, self.event, self.activity);
        let place = Phrase::joined([place, Phrase::text(&text::time(self.at))], DOT);
        let lines = match self.style.integration.message.detail {
            Detail::Compact => vec![Phrase::joined([self.headline(), place], DOT)],
            Detail::Full => vec![self.headline(), place],
        };
        page(lines.into_iter().map(Block::Line), 0, extras.line(), MESSAGE_LIMIT)
    }

    fn headline(&self) -> Phrase {
        let line = sentence(self.style.links, self.event, self.activity);
        if self.replayed { line.say(" (replayed)") } else { line }
    }

    /// The same facts as a card.
    pub fn card(&self, extras: Extras) -> Card {
        let a = self.activity;
        let model: Cow<'static, str> =
            text::shown(Some(&a.model)).map_or("Instance".into(), |m| text::clamp(m, card::LABEL).into());
        let instance = attribute(model, named(&a.model_name, &a.model_uid));
        let collection = attribute("Collection", named(&a.collection_name, &a.collection_uid));
        let attributes = vec![
            attribute("Who", named(&a.user_name, &a.user_id)),
            attribute("Action", Some(&a.action)),
            instance.map(|i| i.linked(self.style.links.instance(self.event, a).as_ref())),
            collection
                .filter(|_| !is_collection(a))
                .map(|c| c.linked(self.style.links.collection(self.event).as_ref())),
            attribute("Workspace", named(&a.workspace_name, &a.workspace_id)),
        ];
        card::Parts {
            id: card::id([(&self.style.integration.id, &self.event.id)]),
            title: &self.headline(),
            url: self.style.links.instance(self.event, a).as_ref(),
            description: extras.line().into_iter().map(|line| line.plain().to_owned()).collect(),
            attributes,
            date: Some(self.at),
        }
        .card()
    }
}

/// When an activity was: as the event says, else when it came in.
pub(super) fn time_of(activity: &Activity, received_at: Timestamp) -> Timestamp {
    activity.occurred_at.unwrap_or(received_at)
}

/// Gray for what is routine; yellow for what takes something away.
pub(super) fn color(activity: &Activity) -> Color {
    const TAKES_AWAY: [&str; 4] = ["delete", "deleted", "remove", "removed"];
    let takes_away = TAKES_AWAY.iter().any(|action| activity.action.trim().eq_ignore_ascii_case(action));
    if takes_away { Color::Yellow } else { Color::Gray }
}

/// Postman's sentence with the instance linked in it, else one of ours.
pub(super) fn sentence(links: &Links, event: &Event, activity: &Activity) -> Phrase {
    match text::shown(activity.message.as_deref()) {
        Some(message) => postmans(message, links, event, activity),
        None => ours(links, event, activity),
    }
}

fn postmans(message: &str, links: &Links, event: &Event, activity: &Activity) -> Phrase {
    let message = Phrase::value(message, SENTENCE);
    // More may follow on the line ("4 more times"), so its full stop is left out.
    let message = message.plain().strip_suffix('.').unwrap_or(message.plain());
    let user = shown_value(activity.user_name.as_deref(), NAME);
    let who = match find_word(message, user.plain()) {
        None if !user.is_empty() => user.say(": "),
        _ => Phrase::default(),
    };
    let href = links.instance(event, activity);
    let name = shown_value(activity.model_name.as_deref(), NAME);
    let said = match find_word(message, name.plain()) {
        Some(at) => {
            let (before, after) = (&message[..at], &message[at + name.plain().len()..]);
            Phrase::text(before).then(name.link(href.as_ref())).say(after)
        }
        None => Phrase::text(message).say(" (").then(model_and_instance(links, event, activity)).say(")"),
    };
    who.then(said)
}

fn ours(links: &Links, event: &Event, activity: &Activity) -> Phrase {
    let user = match (text::shown(activity.user_name.as_deref()), text::shown(activity.user_id.as_deref())) {
        (Some(name), _) => Phrase::value(name, NAME),
        (None, Some(id)) => Phrase::text("User ").then(Phrase::value(id, WORD)),
        (None, None) => Phrase::text("Someone"),
    };
    let what = model_and_instance(links, event, activity);
    let action = Phrase::value(&activity.action, WORD);
    match past_tense(action.plain()) {
        Some(verb) => user.say(&format!(" {verb} ")).then(what),
        None => user.say(": ").then(Phrase::joined([action, what], " ")),
    }
}

/// `request Get order`, the name as a link.
fn model_and_instance(links: &Links, event: &Event, activity: &Activity) -> Phrase {
    let model = Phrase::value(&activity.model, WORD);
    let name = match named(&activity.model_name, &activity.model_uid) {
        Some(name) => Phrase::value(name, NAME),
        None => Phrase::text("(unnamed)"),
    };
    Phrase::joined([model, name.link(links.instance(event, activity).as_ref())], " ")
}

/// Where something was changed: the collection, unless it is itself what was changed, and the workspace.
pub(super) fn place(links: &Links, event: &Event, activity: &Activity) -> Phrase {
    if is_collection(activity) {
        in_workspace(Phrase::line(), activity)
    } else {
        section(links, event, activity)
    }
}

/// Where all of a digest's section was changed: the collection and the workspace.
pub(super) fn section(links: &Links, event: &Event, activity: &Activity) -> Phrase {
    let own = is_collection(activity).then(|| named(&activity.model_name, &activity.model_uid)).flatten();
    let name = named(&activity.collection_name, &activity.collection_uid).or(own);
    let collection = shown_value(name, NAME).link(links.collection(event).as_ref());
    in_workspace(labelled(Phrase::line(), ("Collection", collection)), activity)
}

/// The line, then the workspace.
fn in_workspace(line: Phrase, activity: &Activity) -> Phrase {
    let name = named(&activity.workspace_name, &activity.workspace_id);
    labelled(line, ("Workspace", shown_value(name, NAME)))
}

fn is_collection(activity: &Activity) -> bool {
    activity.model.eq_ignore_ascii_case("collection")
}

/// Where `word` last stands in `text` as a word of its own: names mostly come at a sentence's end, and a
/// request called "a" is not the "a" of "Ana".
fn find_word(text: &str, word: &str) -> Option<usize> {
    if word.is_empty() {
        return None;
    }
    let glued = |side: Option<char>| side.is_some_and(char::is_alphanumeric);
    let is_free = |at: &usize| {
        !glued(text[..*at].chars().next_back()) && !glued(text[*at + word.len()..].chars().next())
    };
    text.rmatch_indices(word).map(|(at, _)| at).find(is_free)
}

/// Postman's known actions, as they come and as they read. A producer may send either.
const ACTIONS: &[(&str, &str)] = &[
    ("add", "added"),
    ("archive", "archived"),
    ("create", "created"),
    ("delete", "deleted"),
    ("duplicate", "duplicated"),
    ("edit", "edited"),
    ("fork", "forked"),
    ("import", "imported"),
    ("invite", "invited"),
    ("join", "joined"),
    ("leave", "left"),
    ("merge", "merged"),
    ("move", "moved"),
    ("pause", "paused"),
    ("publish", "published"),
    ("remove", "removed"),
    ("rename", "renamed"),
    ("restore", "restored"),
    ("resume", "resumed"),
    ("share", "shared"),
    ("subscribe", "subscribed to"),
    ("transfer", "transferred"),
    ("unpublish", "unpublished"),
    ("unshare", "unshared"),
    ("unsubscribe", "unsubscribed from"),
    ("update", "updated"),
];

fn past_tense(action: &str) -> Option<&'static str> {
    let is = |word: &str| action.eq_ignore_ascii_case(word);
    ACTIONS.iter().find(|(base, past)| is(base) || is(past)).map(|(_, past)| *past)
}
