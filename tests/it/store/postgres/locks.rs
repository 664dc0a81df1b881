//! The one order of all locks: whoever waits for one holds none that comes after it. So nobody waits in a circle.

use hipchat_notifier::ports::Definition;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::*;

/// Locks what `held` selects as another worker would, and begins `work`, which has to wait for it. Then all of `later`,
/// which comes after it in the order, is still to be had.
async fn waits_with_nothing_of(
    lab: &PostgresLab,
    held: &str,
    work: impl Future<Output = ()> + Send + 'static,
    later: &str,
) {
    let (mut other, looking): (Client, Client) = (lab.postgres.client().await, lab.postgres.client().await);
    let holding = other.transaction().await.unwrap();
    let me: i32 = holding.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    holding.query_one(&format!("{held} FOR UPDATE"), &[]).await.unwrap();
    let work = tokio::spawn(work);
    eventually("it waits", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
        let waiting: i64 = looking.query_one(waits, &[&me]).await.unwrap().get(0);
        (waiting == 1).then_some(())
    })
    .await;
    let had = looking.query(&format!("{later} FOR UPDATE NOWAIT"), &[]).await;
    let is_held = had.as_ref().is_err_and(|error| error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE));
    assert!(!is_held, "{later}: held by who waits for {held}");
    assert!(!had.unwrap().is_empty(), "{later}: there is none");
    holding.commit().await.unwrap();
    work.await.unwrap();
}

fn row_of_room(id: &str) -> String {
    format!("SELECT 1 FROM rooms WHERE room = '{}'", room(id))
}

fn apply(desk: &Desk, definitions: Vec<Definition>) -> impl Future<Output = ()> + Send + 'static {
    let desk = desk.clone();
    async move {
        desk.0.apply(definitions, ManagedBy::File, at(3)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_is_opened_behind_its_room() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    desk.tell("e1", "a", 0).await;
    lab.postgres.run("INSERT INTO throttles (integration, closed_until) VALUES ('a', 1)").await;
    let mut changed = definition("a", "1", "ta");
    changed.json = r#"{"id":"a","throttle":{}}"#.into();
    let throttle = "SELECT 1 FROM throttles WHERE integration = 'a'";
    waits_with_nothing_of(&lab, &row_of_room("1"), apply(&desk, vec![changed]), throttle).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rooms_of_all_that_one_file_changes_come_before_what_waits() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let [mut a, b] = ["a", "b"].map(|id| definition(id, home(id), id));
    apply(&desk, vec![a.clone(), b]).await;
    desk.tell("e1", "a", 0).await;
    desk.tell("e2", "b", 0).await;
    a.paused = true;
    let waiting = "SELECT 1 FROM notifications WHERE integration = 'a'";
    waits_with_nothing_of(&lab, &row_of_room("2"), apply(&desk, vec![a]), waiting).await;
    assert_eq!(desk.fate("e1", "a").await, "suppressed integration-paused");
    assert_eq!(desk.fate("e2", "b").await, "suppressed integration-removed");
}

/// Connections share the rows of the count, so one may hold another's.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_open_is_counted_behind_the_events() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    desk.tell("e1", "a", 0).await;
    let slots =
        "INSERT INTO open_counts SELECT slot, 0 FROM generate_series(0, 63) AS slot ON CONFLICT DO NOTHING";
    lab.postgres.run(slots).await;
    let line = desk.claim_one(0).await;
    let settling = {
        let desk = desk.clone();
        async move { desk.finish(&line, 1, all_sent(&line, 1)).await }
    };
    let event = "SELECT 1 FROM events WHERE id = 'e1'";
    waits_with_nothing_of(&lab, event, settling, "SELECT 1 FROM open_counts").await;
    assert_eq!(desk.0.gauges(at(2)).await.unwrap().pending, 0);
}
