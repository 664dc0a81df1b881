//! What can only be seen from inside: faults of the disk and of other processes, made by pragmas on the
//! store's own connection, and the plans of its hot queries.

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::Connection;

use super::claim::{DUE, DUE_FOR_RETRY, NEXT_DUE};
use super::db::Db;
use super::errors::Fail;
use super::journal::{PAGES_AT_ONCE, SPARE_PAGES};
use super::*;
use crate::domain::envelope::{Envelope, Received};
use crate::domain::ids::{RoomKey, TokenKey};
use crate::domain::pacing::Budget;
use crate::domain::reason::{Outcome, SendReason, SuppressReason};
use crate::domain::story::Story;
use crate::ports::{DecidedEvent, Fate, IntakeChanges, NewNotification, Then, Transition};

struct Fixture {
    folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cipher = Cipher::load_or_create(&folder.path().join("key")).unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Role::Worker, cipher).unwrap();
        Self { folder, store }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }

    /// Runs a pragma on the writer's connection.
    async fn pragma(&self, sql: &'static str) {
        self.store.writer.run(false, move |c| Ok(c.connection().execute_batch(sql)?)).await.unwrap();
    }

    async fn take(&self, id: &str) -> Result<IntakeReceipt, StoreError> {
        let changes = IntakeChanges { events: vec![big_event(id)], ..IntakeChanges::default() };
        self.store.take_in(IntakeQuery::default(), Box::new(move |_| changes)).await
    }

    async fn outcomes(&self, id: &str) -> Vec<Outcome> {
        let entries = self.store.explain(&EventId::new(id)).await.unwrap();
        entries.into_iter().map(|entry| entry.outcome).collect()
    }
}

/// A suppressed event whose row takes up some pages.
fn big_event(id: &str) -> DecidedEvent {
    DecidedEvent {
        id: EventId::new(id),
        received: Arc::new(Received { envelope: Envelope::default(), at: Timestamp::UNIX_EPOCH }),
        read: None,
        notifications: vec![NewNotification {
            integration: IntegrationId::new("a"),
            room: RoomKey::new("r"),
            fate: Fate::Suppress { reason: SuppressReason::StillPassing, detail: "x".repeat(20_000) },
            streak: None,
        }],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_survived() {
    let f = Fixture::new();
    f.take("before").await.unwrap();
    f.pragma("PRAGMA max_page_count = 80").await;
    let mut full = None;
    for n in 0..40 {
        if let Err(error) = f.take(&format!("e{n}")).await {
            full = Some((n, error));
            break;
        }
    }
    let (n, error) = full.expect("80 pages are soon full");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("disk full; free some space"), "{error}");
    assert_eq!(f.outcomes(&format!("e{n}")).await, [], "nothing of it was kept");
    assert_eq!(f.outcomes(&format!("e{}", n - 1)).await, [Outcome::Suppressed]);

    f.pragma("PRAGMA max_page_count = 100000").await;
    f.take(&format!("e{n}")).await.unwrap();
    assert_eq!(f.outcomes(&format!("e{n}")).await, [Outcome::Suppressed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_every_answer_is_true() {
    let f = Arc::new(Fixture::new());
    f.pragma("PRAGMA max_page_count = 80").await;
    f.take("before").await.unwrap();
    let tasks: Vec<_> = (0..60)
        .map(|n| {
            let f = Arc::clone(&f);
            tokio::spawn(async move { f.take(&format!("e{n}")).await })
        })
        .collect();
    let mut failed = 0;
    for (n, task) in tasks.into_iter().enumerate() {
        let result = task.await.unwrap();
        let kept = f.outcomes(&format!("e{n}")).await;
        match result {
            Ok(_) => assert_eq!(kept, [Outcome::Suppressed]),
            Err(error) => {
                assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
                assert_eq!(kept, []);
                failed += 1;
            }
        }
    }
    // Work that shares a transaction fails together, so it may be all of it.
    assert!(failed > 0, "80 pages are soon full");
    assert_eq!(f.outcomes("before").await, [Outcome::Suppressed]);
}

/// Settling a room and handing it out again may come into one transaction. If that is taken back, the room would hear
/// what it was told on the strength of it once more.
#[tokio::test(flavor = "multi_thread")]
async fn no_room_is_handed_out_on_the_strength_of_what_may_be_taken_back() {
    for told_straight in [true, false] {
        settle_and_hand_out_in_a_transaction_that_is_lost(told_straight).await;
    }
}

async fn settle_and_hand_out_in_a_transaction_that_is_lost(told_straight: bool) {
    let f = Fixture::new();
    let (id, now) = (IntegrationId::new("a"), Timestamp::UNIX_EPOCH);
    let definition = Definition {
        id: id.clone(),
        json: "{}".to_owned(),
        room_url: String::new().into(),
        room: RoomKey::new("r"),
        token: TokenKey::new("t"),
        paused: false,
    };
    f.store.apply(vec![definition], ManagedBy::Operator, now).await.unwrap();
    let lines = Arc::<Mutex<Vec<RoomLine>>>::default();
    let terms = ClaimTerms {
        rooms: 1,
        retries: 0,
        line: 1,
        lease: Duration::from_secs(30),
        token_budget: Budget::TOKEN,
        room_budget: Budget::ROOM,
    };
    let take = |event: &str, is_quick: bool| {
        let (got, mut decided) = (lines.clone(), big_event(event));
        let story = Story::plain(SendReason::EveryRun);
        decided.notifications[0].fate = Fate::Tell { story, ready_at: now, gather: None };
        let hand = Arc::new(move |line| got.lock().unwrap().push(line));
        let straight = Straight { terms, now, most: 9, is_quick: Arc::new(move |_| is_quick), hand };
        let changes = IntakeChanges { events: vec![decided], ..IntakeChanges::default() };
        f.store.take_in_telling(IntakeQuery::default(), Box::new(move |_| changes), straight)
    };
    let settlement = |line: &RoomLine| {
        let (seq, reason) = (line.waiting[0].seq, SendReason::EveryRun);
        Settlement {
            room: line.room.clone(),
            claim: line.claim,
            transitions: vec![Transition::Sent { seq, reason, at: now, status: 204 }],
            state: line.state.clone(),
            calls: Vec::new(),
            throttles: Vec::new(),
            closed: Vec::new(),
            then: Then::Release { due: None },
            now,
        }
    };
    let told = |line: &RoomLine| f.store.settle(settlement(line));
    take("e1", told_straight).await.unwrap();
    if !told_straight {
        let claimed = f.store.claim_rooms(terms, now).await.unwrap();
        lines.lock().unwrap().extend(claimed);
    }
    let line = lines.lock().unwrap().pop().unwrap();

    // Four jobs that come into one group, since the writer is busy: one is refused, which takes back what it did alone,
    // and the last fails half done, which takes back everything.
    let ((begun, is_begun), (go_on, wait)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let mut busy = pin!(f.store.writer.run(false, move |_| {
        begun.send(()).unwrap();
        wait.recv().unwrap();
        Ok(())
    }));
    assert!((&mut busy).now_or_never().is_none());
    is_begun.recv().unwrap();
    // Not waiting for company, or it would come last.
    let (memory, s) = (f.store.memory.clone(), settlement(&line));
    let mut settling = pin!(f.store.writer.run(false, move |c| settle::settle(c, &mut recall(&memory), &s)));
    let mut taking = pin!(take("e2", true));
    let nobody = IntegrationId::new("nobody");
    let mut refused = pin!(f.store.pause(&nobody, now));
    let mut failing = pin!(f.store.writer.run(false, |c| {
        c.connection().execute_batch("UPDATE meta SET value = value + 1")?;
        Err::<(), _>(Fail::corrupt("half done".to_owned()))
    }));
    assert!((&mut settling).now_or_never().is_none() && (&mut refused).now_or_never().is_none());
    assert!((&mut taking).now_or_never().is_none() && (&mut failing).now_or_never().is_none());
    go_on.send(()).unwrap();
    busy.await.unwrap();
    assert!(matches!(refused.await, Err(StoreError::Refused(_))));
    assert!(settling.await.is_err() && taking.await.is_err() && failing.await.is_err());

    assert!(lines.lock().unwrap().is_empty(), "it could not be unsaid");
    assert_eq!(told(&line).await.unwrap(), Settled::AtRest);
    take("e2", true).await.unwrap();
    assert_eq!(f.store.in_hand().len(), 1, "what is durable is forgotten, though nobody waited for it");
    let line = lines.lock().unwrap().pop().unwrap();
    assert_eq!(told(&line).await.unwrap(), Settled::AtRest);
    assert_eq!((f.outcomes("e1").await, f.outcomes("e2").await), (vec![Outcome::Sent], vec![Outcome::Sent]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_held_by_another_process_is_waited_for_then_told() {
    let f = Fixture::new();
    f.pragma("PRAGMA busy_timeout = 20").await;
    let other = Connection::open(f.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = f.take("e1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("is locked by another process"), "{error}");
    assert_eq!(f.outcomes("e1").await, [], "reading goes on");
    other.execute_batch("COMMIT").unwrap();
    f.pragma("PRAGMA busy_timeout = 5000").await;

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (result, ()) = tokio::join!(f.take("e1"), async { other.execute_batch("COMMIT").unwrap() });
    result.expect("it waits for its turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_became_read_only_is_told() {
    let f = Fixture::new();
    f.pragma("PRAGMA query_only = 1").await;
    let error = f.take("e1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains("is read-only: make the file and its folder writable"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_writes_what_was_queued_and_leaves_one_file() {
    let f = Fixture::new();
    // Queued by a caller that goes away while the writer waits for its turn.
    let other = Connection::open(f.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(f.take("e1").now_or_never().is_none());
    other.execute_batch("COMMIT").unwrap();
    drop(other);
    let path = f.path();
    let Fixture { folder, store } = f;
    drop(store);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name == "store.db-wal"), "{names:?}");
    let count: i64 = Connection::open(path)
        .unwrap()
        .query_row("SELECT count(*) FROM notifications WHERE event = 'e1'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_reach_the_disk_and_readers_do_not_write() {
    let f = Fixture::new();
    let of = |c: &Connection| -> rusqlite::Result<(String, i64)> {
        let journal = c.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        Ok((journal, c.pragma_query_value(None, "synchronous", |row| row.get(0))?))
    };
    assert_eq!(
        f.store.writer.run(false, move |c| Ok(of(c.connection())?)).await.unwrap(),
        ("wal".to_owned(), 2)
    );
    let error = f
        .store
        .reader
        .run(false, |c| Ok(c.connection().execute_batch("DELETE FROM meta")?))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("read-only"), "{error}");
}

/// The file gives back what was forgotten: in steps, and not the last spare pages.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_shrinks_when_its_journal_was_forgotten() {
    let f = Fixture::new();
    for batch in 0..30 {
        let events = (0..50).map(|n| big_event(&format!("e{batch}-{n}"))).collect();
        let changes = IntakeChanges { events, ..IntakeChanges::default() };
        f.store.take_in(IntakeQuery::default(), Box::new(move |_| changes)).await.unwrap();
    }
    let pages = async || {
        let count = |c: &Db<'_>| {
            Ok(c.connection().pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))?)
        };
        f.store.writer.run(false, count).await.unwrap()
    };
    let full = pages().await;
    assert!(full > 2 * SPARE_PAGES, "{full}");
    assert_eq!(f.store.forget(Timestamp::MAX, 1_500).await.unwrap(), 1_500);
    let mut before = pages().await;
    assert_eq!(before, full, "there may be more to forget, which goes before");
    f.take("of every day").await.unwrap();
    assert_eq!(f.store.forget(Timestamp::MAX, 10_000).await.unwrap(), 1);
    let now = pages().await;
    assert!(
        now < before,
        "a journal from which something goes all the time gives back too: {now} of {before}"
    );
    before = now;
    loop {
        assert_eq!(f.store.forget(Timestamp::MAX, 10_000).await.unwrap(), 0);
        let now = pages().await;
        // The file's own map of its pages shrinks along.
        assert!(before - now <= PAGES_AT_ONCE + 2, "{before} to {now}");
        if now == before {
            break;
        }
        before = now;
    }
    assert!((SPARE_PAGES..SPARE_PAGES + 200).contains(&before), "{before} of {full}");
    f.take("later").await.unwrap();
}

/// A line of any length is claimed as fast as a short one: no hot query looks at more rows than it returns.
#[tokio::test(flavor = "multi_thread")]
async fn hot_queries_use_their_indexes() {
    let f = Fixture::new();
    let cases = [
        (DUE, "rooms_due"),
        (DUE_FOR_RETRY, "rooms_retrying"),
        (NEXT_DUE, "INDEX rooms_due ("),
        (NEXT_DUE, "INDEX rooms_retrying ("),
        ("SELECT monitor FROM streaks WHERE touched < 1 ORDER BY touched LIMIT 9", "streaks_touched"),
        (
            "SELECT detail FROM notifications WHERE room = 'r' AND state = 'pending' AND integration NOT IN \
             (SELECT integration FROM throttles WHERE closed_until > 1) ORDER BY seq LIMIT 9",
            "notifications_line",
        ),
        (
            "SELECT 1 FROM notifications WHERE room = 'r' AND state = 'pending' AND seq > 1 AND integration = 'a' \
             AND gather = 'g' LIMIT 1",
            "notifications_line (room=? AND seq>?)",
        ),
        (
            "SELECT 1 FROM notifications WHERE room = 'r' AND state = 'pending' AND integration NOT IN \
             (SELECT integration FROM throttles WHERE closed_until > 1) LIMIT 1",
            "COVERING INDEX notifications_line",
        ),
        (
            "SELECT closed_until FROM throttles t WHERE closed_until > 1 AND EXISTS \
             (SELECT 1 FROM notifications n WHERE n.integration = t.integration AND event_no IS NOT NULL \
              AND state = 'pending' AND room = 'r') ORDER BY closed_until LIMIT 1",
            "throttles_closed",
        ),
        (
            "SELECT min(ready_at) FROM notifications WHERE room = 'r' AND state = 'gathering'",
            "notifications_gathering",
        ),
        (
            "UPDATE notifications SET state = 'pending' \
             WHERE room = 'r' AND state = 'gathering' AND ready_at <= 1",
            "notifications_gathering",
        ),
        (
            "SELECT seq FROM notifications WHERE integration = 'a' AND event_no IS NOT NULL \
             AND state IN ('pending', 'gathering') ORDER BY seq",
            "notifications_open",
        ),
        (
            "SELECT seq FROM notifications WHERE event_no IS NULL AND decided_at < 1 ORDER BY decided_at LIMIT 9",
            "notifications_ended",
        ),
        (
            "SELECT min(ready_at) FROM notifications WHERE state = 'pending'",
            "COVERING INDEX notifications_line",
        ),
        (
            "SELECT count(*) FROM notifications WHERE event_no IS NOT NULL",
            "COVERING INDEX notifications_open",
        ),
    ];
    for (sql, index) in cases {
        let plan = f
            .store
            .reader
            .run(false, move |c| {
                let mut statement = c.connection().prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
                let ones = vec![1; statement.parameter_count()];
                let steps =
                    statement.query_map(rusqlite::params_from_iter(ones), |row| row.get::<_, String>(3))?;
                Ok(steps.collect::<rusqlite::Result<Vec<_>>>()?.join("; "))
            })
            .await
            .unwrap();
        assert!(plan.contains(index) && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
    }
}

/// Whoever hears "corrupt" gives up what it could not record.
#[test]
fn only_damage_and_faults_of_ours_are_final() {
    use rusqlite::ffi;
    let class = |code| {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        errors::sentence(&error, Path::new("store.db"))
    };
    for code in [
        ffi::SQLITE_BUSY,
        ffi::SQLITE_LOCKED,
        ffi::SQLITE_FULL,
        ffi::SQLITE_IOERR,
        ffi::SQLITE_READONLY,
        ffi::SQLITE_READONLY_DBMOVED,
        ffi::SQLITE_NOMEM,
        ffi::SQLITE_PROTOCOL,
        ffi::SQLITE_CANTOPEN,
        ffi::SQLITE_PERM,
        ffi::SQLITE_INTERRUPT,
        ffi::SQLITE_SCHEMA,
    ] {
        assert!(matches!(class(code), StoreError::Unavailable(_)), "{code}: {:?}", class(code));
    }
    for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_NOTADB, ffi::SQLITE_CONSTRAINT, ffi::SQLITE_MISUSE] {
        assert!(matches!(class(code), StoreError::Corrupt(_)), "{code}: {:?}", class(code));
    }
    let read_only = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None);
    let opening = errors::at_opening(read_only.into(), Path::new("store.db"));
    assert!(matches!(opening, StoreError::Refused(_)), "{opening:?}");
}
