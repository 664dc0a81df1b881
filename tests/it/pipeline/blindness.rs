//! The judge itself on trial: each thing that must not happen is made to have happened, and has to be seen.

use std::time::Duration;

use super::load::SMALL;
use super::oracle::Fault;
use super::play::Play;
use super::wishes::{Interest, Rule};
use super::workload::{Means, Scale};

const TINY: Scale =
    Scale { events: 200, integrations: 20, rooms: 4, publish_over: Duration::from_millis(500), ..SMALL };

async fn faults(play: &Play) -> Vec<Fault> {
    play.scene().examine().await.1
}

/// Something that did not happen is put into the record.
async fn is_seen(play: &Play, what: &str, says: &str) {
    let faults = faults(play).await;
    assert!(faults.iter().any(|fault| fault.says.contains(says)), "{what} was not seen: {faults:#?}");
}

/// The first event whose message stands alone in some room: its place and the room.
async fn told_alone(play: &Play) -> (usize, String) {
    for wish in &play.work.wishes {
        for posted in play.hipchat.messages(&wish.room).await {
            let named = |id: &str| posted.message.contains(&format!("/{id}\""));
            if let Some(e) = play.work.events.iter().position(|event| named(&event.id)) {
                return (e, wish.room.clone());
            }
        }
    }
    panic!("nothing was told alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_judge_sees_what_must_not_happen() {
    let mut play = Play::prepare("judge", 20_266, TINY, None).await;
    let _worker = play.site.start().await;
    play.publish().await;
    play.settles().await;
    assert!(faults(&play).await.is_empty(), "{:?}", faults(&play).await);
    let (e, room) = told_alone(&play).await;

    let means = play.work.events[e].means.clone();
    let Means::Run { failed, .. } = &mut play.work.events[e].means else { panic!("a run has the link") };
    *failed = !*failed;
    assert!(!faults(&play).await.is_empty(), "a wrong decision was not seen");
    play.work.events[e].means = means;

    let id = std::mem::replace(&mut play.work.events[e].id, "event-lost".to_owned());
    is_seen(&play, "a lost event", "lost: no outcome").await;
    play.work.events[e].id = id;

    let w = play.work.wishes.iter().position(|wish| wish.id != "z-last" && !wish.paused).expect("one");
    let all = Interest::Runs { monitors: vec!["999-unheard".to_owned()], rule: Rule::All };
    let interest = std::mem::replace(&mut play.work.wishes[w].interest, all);
    is_seen(&play, "an event told to one who did not want it", "does not want it").await;
    play.work.wishes[w].interest = interest;

    let malformed = play.work.events.iter().position(|one| matches!(one.means, Means::Malformed { .. }));
    let malformed = malformed.expect("some are");
    play.work.events[malformed].envelope.body.push(b' ');
    is_seen(&play, "a changed dead letter", "another body").await;
    play.work.events[malformed].envelope.body.pop();

    let budget = play.work.scale.room.0;
    play.work.scale.room.0 = 0;
    is_seen(&play, "a room over its budget", "over the room's budget").await;
    play.work.scale.room.0 = budget;

    play.hipchat.post_stray(&room).await;
    is_seen(&play, "a message told twice", "was told twice").await;
    play.hipchat.forget().await;
    is_seen(&play, "a message that never came", "but not in").await;
}
