//! How several notifications read as one message: how many of what, worst first, everything with its link.
//!
//! ```text
//! 14 runs failed in 3 monitors, 2 recovered; 5 activities (merged to keep to the room's message limit) · …
//!   • Orders health (prod, us-east): 2 could not complete, 4 failed; still failing, 7 failed runs in a row since …
//!   • Login (prod): 1 failed, 1 passed; now passing after 1 failed run, at 2026-11-22 10:00 UTC
//! Collection Orders · Workspace Shop
//!   • Ana updated request Get order ×4
//!   • Ben deleted folder Old
//! and 7 more
//! ```
//! `detail` has no say here: a digest that named no links would tell nobody where to look.

use std::collections::HashSet;

use jiff::Timestamp;

use super::html::{Block, MESSAGE_LIMIT, Phrase, page};
use super::links::Links;
use super::repeats::{Groups, Repeats};
use super::run::DOT;
use super::tally::Tallies;
use super::text::{self, count};
use super::{Card, Color, Extras, RoomMessage, activity, card, pings, run, sender};
use crate::domain::event::{Activity, Event, Subject};
use crate::domain::integration::Integration;
use crate::domain::reason::SendReason;
use crate::domain::story::Told;

/// How many of a digest's lines its card names; the message has them all.
const CARD_LINES: usize = 12;

/// What a digest tells, counted and grouped.
struct Digest<'a> {
    why: SendReason,
    tallies: Tallies<'a>,
    groups: Groups<'a>,
    activities: Vec<(&'a Event, &'a Activity)>,
    /// Events told of.
    total: u64,
    /// Of the first and the last of them.
    span: Option<(Timestamp, Timestamp)>,
}

/// Renders `items`, in the order of their room's line, as one message.
pub(super) fn render(
    items: &[(&Integration, Told<'_>)],
    links: &Links,
    extras: Extras,
    why: SendReason,
) -> RoomMessage {
    let digest = Digest::of(items, why);
    let headline = digest.headline(links);
    let blocks = [Block::Line(headline.clone())].into_iter().chain(digest.blocks(links));
    let total = if digest.repeated().is_some() { 0 } else { digest.total };
    RoomMessage {
        html: page(blocks, total, extras.line(), MESSAGE_LIMIT),
        color: digest.color(),
        notify: items.iter().any(|(integration, told)| pings(integration, told)),
        from: sender(items.iter().map(|(integration, _)| *integration)),
        card: Some(digest.card(items, &headline, links, extras)),
    }
}

impl<'a> Digest<'a> {
    fn of(items: &[(&'a Integration, Told<'a>)], why: SendReason) -> Self {
        let (mut runs, mut activities, mut times) = (Vec::new(), Vec::new(), Vec::new());
        // Two integrations of one room may both tell of an event; the room hears of it once.
        let mut told_of = HashSet::new();
        for (_, told) in items.iter().filter(|(_, told)| told_of.insert(&told.event.id)) {
            match &told.event.subject {
                Subject::Run(run) => {
                    times.push(run::time_of(run, told.received_at));
                    runs.push((*told, run));
                }
                Subject::Activity(activity) => {
                    times.push(activity::time_of(activity, told.received_at));
                    activities.push((told.event, activity));
                }
            }
        }
        Self {
            why,
            tallies: Tallies::of(&runs),
            groups: Groups::of(&activities),
            total: times.len() as u64,
            activities,
            span: times.iter().min().copied().zip(times.iter().max().copied()),
        }
    }

    /// If this tells what one user did again to one instance, that sentence.
    fn repeated(&self) -> Option<&Repeats<'a>> {
        let only_activities = self.why == SendReason::Collated && self.activities.len() as u64 == self.total;
        self.groups.only().filter(|_| only_activities)
    }

    fn headline(&self, links: &Links) -> Phrase {
        if let Some(repeated) = self.repeated() {
            let again = match repeated.count {
                1 => " once more".to_owned(),
                n => format!(" {n} more times"),
            };
            return repeated.sentence(links).say(&again);
        }
        let activities = self.activities.len() as u64;
        let activities = (activities > 0).then(|| match self.why {
            // The first was told when it happened.
            SendReason::Collated => count(activities, "more activity", "more activities"),
            _ => count(activities, "activity", "activities"),
        });
        let counts = [Some(self.tallies.headline()).filter(|runs| !runs.is_empty()), activities];
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        let counts = if counts.is_empty() { "Nothing new".to_owned() } else { counts.join("; ") };
        let headline = Phrase::text(&counts).bold();
        let headline = match self.why {
            SendReason::OverBudget => headline.say(" (merged to keep to the room's message limit)"),
            _ => headline,
        };
        Phrase::joined([headline, self.when()], DOT)
    }

    fn when(&self) -> Phrase {
        self.span.map(|(first, last)| Phrase::text(&text::span(first, last))).unwrap_or_default()
    }

    /// What stands below the headline. Made only as far as it is taken.
    fn blocks<'d>(&'d self, links: &'d Links) -> Box<dyn Iterator<Item = Block> + 'd> {
        match self.repeated() {
            Some(repeated) => {
                let place = Phrase::joined([repeated.place(links), self.when()], DOT);
                Box::new(std::iter::once(Block::Line(place)))
            }
            None => Box::new(self.tallies.blocks(links).chain(self.groups.blocks(links))),
        }
    }

    /// Red while a monitor in it fails, yellow if one did or something was deleted, green if all passes,
    /// gray for activities alone.
    fn color(&self) -> Color {
        self.tallies.color().unwrap_or_else(|| {
            let yellow = self.activities.iter().any(|(_, a)| activity::color(a) == Color::Yellow);
            if yellow { Color::Yellow } else { Color::Gray }
        })
    }

    fn card(
        &self,
        items: &[(&Integration, Told<'_>)],
        headline: &Phrase,
        links: &Links,
        extras: Extras,
    ) -> Card {
        let some = |n: u64| Some(n).filter(|n| *n > 0);
        let lines = self.blocks(links).take(CARD_LINES).map(|block| block.phrase().plain().to_owned());
        card::Parts {
            id: card::id(items.iter().map(|(integration, told)| (&integration.id, &told.event.id))),
            title: headline,
            url: None,
            description: lines.chain(extras.line().map(|line| line.plain().to_owned())).collect(),
            attributes: vec![
                card::number("Failed runs", some(self.tallies.failed())),
                card::number("Passed runs", some(self.tallies.passed())),
                card::number("Recovered", some(self.tallies.recovered())),
                card::number("Activities", some(self.activities.len() as u64)),
                card::attribute("Time", Some(self.when().plain())),
            ],
            date: self.span.map(|(_, last)| last),
        }
        .card()
    }
}
