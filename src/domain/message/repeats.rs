//! Activities of one message, put together: by collection and workspace, by instance, and what one user did
//! to one instance more than once as one line with a count.

use std::collections::HashMap;

use super::html::{Block, Phrase};
use super::links::Links;
use super::{activity, text};
use crate::domain::event::{Activity, Event};

/// The same done by the same user to the same instance, so many times.
pub(super) struct Repeats<'a> {
    event: &'a Event,
    activity: &'a Activity,
    pub count: u64,
    /// All carry the same sentence of Postman's.
    same_message: bool,
}

impl<'a> Repeats<'a> {
    /// What was done, without how often.
    pub fn sentence(&self, links: &Links) -> Phrase {
        if self.same_message {
            return activity::sentence(links, self.event, self.activity);
        }
        let without = Activity { message: None, ..self.activity.clone() };
        activity::sentence(links, self.event, &without)
    }

    /// Where it was done.
    pub fn place(&self, links: &Links) -> Phrase {
        activity::place(links, self.event, self.activity)
    }

    /// `Ana updated request Get order ×5`.
    fn line(&self, links: &Links) -> Phrase {
        let sentence = self.sentence(links);
        if self.count > 1 { sentence.say(&format!(" ×{}", self.count)) } else { sentence }
    }
}

/// All that happened in one collection and workspace.
struct Section<'a> {
    event: &'a Event,
    activity: &'a Activity,
    repeats: Vec<Repeats<'a>>,
}

/// The activities of one message.
pub(super) struct Groups<'a> {
    sections: Vec<Section<'a>>,
}

/// The uid, else the name: what a thing is told apart by.
fn identity<'a>(uid: &'a Option<String>, name: &'a Option<String>) -> &'a str {
    text::shown(uid.as_deref()).or(name.as_deref()).unwrap_or_default()
}

fn instance_of(a: &Activity) -> (&str, &str) {
    (a.model.as_str(), identity(&a.model_uid, &a.model_name))
}

fn place_of(a: &Activity) -> (&str, &str) {
    let own = a.model.eq_ignore_ascii_case("collection").then(|| identity(&a.model_uid, &a.model_name));
    (
        own.unwrap_or(identity(&a.collection_uid, &a.collection_name)),
        identity(&a.workspace_id, &a.workspace_name),
    )
}

impl<'a> Groups<'a> {
    /// Sections, instances and lines stand in the order in which they first came up.
    pub fn of(activities: &[(&'a Event, &'a Activity)]) -> Self {
        let mut sections: Vec<Section<'a>> = Vec::new();
        let mut section_at = HashMap::new();
        let mut repeats_at = HashMap::new();
        for &(event, activity) in activities {
            let section = *section_at.entry(place_of(activity)).or_insert_with(|| {
                sections.push(Section { event, activity, repeats: Vec::new() });
                sections.len() - 1
            });
            let repeats = &mut sections[section].repeats;
            let done = (identity(&activity.user_id, &activity.user_name), activity.action.as_str());
            let at = *repeats_at.entry((section, instance_of(activity), done)).or_insert_with(|| {
                repeats.push(Repeats { event, activity, count: 0, same_message: true });
                repeats.len() - 1
            });
            let known = &mut repeats[at];
            known.count += 1;
            known.same_message &= known.activity.message == activity.message;
            // Names change; the latest is the one to be found.
            (known.event, known.activity) = (event, activity);
        }
        sections.iter_mut().for_each(Section::bring_instances_together);
        Self { sections }
    }

    /// If all is the same, that.
    pub fn only(&self) -> Option<&Repeats<'a>> {
        match self.sections.as_slice() {
            [Section { repeats, .. }] if repeats.len() == 1 => repeats.first(),
            _ => None,
        }
    }

    /// A heading for each place, and an item for each line below it.
    pub fn blocks(&self, links: &Links) -> impl Iterator<Item = Block> {
        let several = self.sections.len() > 1;
        self.sections.iter().flat_map(move |section| {
            let heading = section.heading(links, several).map(Block::Line);
            let items = section.repeats.iter().map(move |r| Block::Item(r.line(links), r.count));
            heading.into_iter().chain(items)
        })
    }
}

impl Section<'_> {
    fn heading(&self, links: &Links, several: bool) -> Option<Phrase> {
        let place = activity::section(links, self.event, self.activity);
        match (place.is_empty(), several) {
            (false, _) => Some(place.bold()),
            (true, true) => Some(Phrase::text("Elsewhere").bold()),
            (true, false) => None,
        }
    }

    fn bring_instances_together(&mut self) {
        let mut first_seen = HashMap::new();
        let places: Vec<usize> = self
            .repeats
            .iter()
            .enumerate()
            .map(|(i, r)| *first_seen.entry(instance_of(r.activity)).or_insert(i))
            .collect();
        let mut ordered: Vec<_> = places.into_iter().zip(std::mem::take(&mut self.repeats)).collect();
        ordered.sort_by_key(|(place, _)| *place);
        self.repeats = ordered.into_iter().map(|(_, repeats)| repeats).collect();
    }
}
