//! From chosen notifications to the message that tells them.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::domain::event::{Event, Subject};
use crate::domain::ids::{EventId, GatherKey, IntegrationId};
use crate::domain::integration::Integration;
use crate::domain::line::{RoomLine, Shape, Waiting};
use crate::domain::message::{self, Extras, Links, RoomMessage};
use crate::domain::story::Told;
use crate::formats;
use crate::worker::catalogue::Snapshot;

/// A notification with all that its message needs.
type Item<'a> = (Arc<Integration>, Cow<'a, Event>, &'a Waiting);

/// The message that tells `take` (places in the line), or `None` if it can't be written, which is a fault of
/// this program: the events were read once before, at intake.
pub fn compose(
    line: &RoomLine,
    take: &[usize],
    shape: Shape,
    snapshot: &Snapshot,
    links: &Links,
) -> Option<RoomMessage> {
    // A panic is this message's fault alone, and must not take the room's other notifications with it.
    catch_unwind(AssertUnwindSafe(|| write(line, take, shape, snapshot, links))).ok().flatten()
}

fn write(
    line: &RoomLine,
    take: &[usize],
    shape: Shape,
    snapshot: &Snapshot,
    links: &Links,
) -> Option<RoomMessage> {
    let head = &line.waiting[take[0]];
    let is_told = |(integration, gather): &(IntegrationId, GatherKey)| {
        *integration == head.integration && head.gather.as_ref() == Some(gather)
    };
    let continues = line.going_on.iter().any(is_told);
    let extras = Extras { expired: line.state.expired_untold, continues };
    let mut items: Vec<Item<'_>> = Vec::with_capacity(take.len());
    for at in take {
        let mut item = item(&line.waiting[*at], snapshot)?;
        // Only a run that stands alone lists its failed tests, and hundreds of long lists would fill the memory.
        if let (Cow::Owned(Event { subject: Subject::Run(run), .. }), 2..) = (&mut item.1, take.len()) {
            run.failures = Vec::new();
        }
        items.push(item);
    }
    let told: Vec<(&Integration, Told<'_>)> = items
        .iter()
        .map(|(integration, event, w)| {
            (integration.as_ref(), Told { event, story: &w.story, received_at: w.received.at })
        })
        .collect();
    let message = match (shape, &told[..]) {
        (Shape::Single, [(integration, told)]) => message::render(integration, told, links, extras),
        (Shape::Single, _) => return None,
        (Shape::Together(why), told) => message::render_digest(told, links, extras, why),
    };
    Some(if head.plain { message.plain() } else { message })
}

fn item<'a>(w: &'a Waiting, snapshot: &Snapshot) -> Option<Item<'a>> {
    let event = match &w.read {
        Some(event) => Cow::Borrowed(event.as_ref()),
        None => {
            let id = || EventId::new(w.event.as_str());
            Cow::Owned(formats::read_event(&w.received.envelope, id).ok()?)
        }
    };
    Some((snapshot.integration(&w.integration)?, event, w))
}
