//! Where a pending notification is, and what may keep it waiting: what `explain` makes its sentence of.

use hipchat_notifier::domain::pacing::Budget;
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::domain::waits::{Place, Whereabouts};
use hipchat_notifier::ports::{Fate, Retry, Then};

use super::lab::*;
use super::settle::given_up;

async fn whereabouts(desk: &Desk, id: &str) -> Option<Whereabouts> {
    desk.explain(id).await.remove(0).whereabouts
}

async fn place(desk: &Desk, id: &str) -> Place {
    match whereabouts(desk, id).await {
        Some(Whereabouts::Line(place)) => *place,
        other => panic!("{id} is in no line: {other:?}"),
    }
}

pub async fn what_gathers_says_until_when_and_for_what(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    let gathers = |reason| Fate::Tell { story: Story::plain(reason), ready_at: at(900), gather: None };
    for (id, reason) in [("e1", SendReason::Collated), ("e2", SendReason::ScheduledDigest)] {
        desk.take(vec![decided(id, 0, &[("a", "1", gathers(reason))])]).await;
    }
    assert_eq!(whereabouts(&desk, "e1").await, Some(Whereabouts::Collation { until: at(900) }));
    assert_eq!(whereabouts(&desk, "e2").await, Some(Whereabouts::Digest { until: at(900) }));
}

pub async fn a_place_in_line_says_what_keeps_it(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    for (id, who) in [("e1", "a"), ("e2", "a2"), ("e3", "a"), ("other", "b")] {
        desk.tell(id, who, 0).await;
    }
    assert_eq!((place(&desk, "e1").await.ahead, place(&desk, "e3").await.ahead), (0, 2));
    assert_eq!(place(&desk, "other").await.ahead, 0, "another room's line is another line");

    let lines = desk.claim(1).await;
    let line = lines.iter().find(|line| line.room == room("1")).expect("it is due");
    assert_eq!(place(&desk, "e1").await.held_until, Some(at(1) + TERMS.lease));

    let mut s = settlement(line, 2, Vec::new(), Then::Release { due: Some(at(50)) });
    s.state.retry = Some(Retry { failures: 1, at: at(50) });
    s.state.meter.record(Budget::ROOM, at(2), 3);
    s.closed = vec![(integration("a2"), at(70_000))];
    desk.0.settle(s.clone()).await.unwrap();
    let e1 = place(&desk, "e1").await;
    assert_eq!((e1.room.retry, &e1.room.meter), (s.state.retry, &s.state.meter));
    assert_eq!((e1.held_until, e1.throttled_until), (None, None));
    assert!(e1.due_at.is_some() && e1.token.is_some(), "{e1:?}");
    assert_eq!(place(&desk, "e2").await.throttled_until, Some(at(70_000)));
    assert_eq!(place(&desk, "e3").await.ahead, 1, "what is throttled lets others by");
}

pub async fn what_has_ended_is_nowhere_and_what_is_given_up_in_the_outbox(lab: &dyn Lab) {
    let desk = Desk::new(lab).await;
    desk.tell("e1", "a", 0).await;
    desk.tell("e2", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.finish(&line, 2, vec![sent(seqs(&line)[0], 1), given_up(vec![seqs(&line)[1]], 1, true)]).await;
    assert_eq!(whereabouts(&desk, "e1").await, None);
    assert_eq!(whereabouts(&desk, "e2").await, Some(Whereabouts::Outbox));
    assert_eq!(desk.0.dead_lettered(&integration("a")).await.unwrap(), 1);
    let letter = desk.0.letters(9).await.unwrap().remove(0);
    desk.0.buried(&[letter.id], at(3)).await.unwrap();
    assert_eq!(desk.0.dead_lettered(&integration("a")).await.unwrap(), 1);
    assert_eq!(desk.0.dead_lettered(&integration("b")).await.unwrap(), 0);
}
