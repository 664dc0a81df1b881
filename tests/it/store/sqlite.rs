//! What is particular to the SQLite store: its files, its locks, and the sentences for what can be wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::sqlite::{Role, SqliteStore};
use hipchat_notifier::domain::integration::IntegrationState;
use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::ports::{
    ClaimTerms, IntakeChanges, IntakeQuery, ManagedBy, Registry, RoomState, Settled, StoreError,
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::lab::*;

/// An SQLite file in a folder of its own.
pub struct SqliteLab {
    folder: TempDir,
}

impl SqliteLab {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("store.db")
    }
}

#[async_trait]
impl Lab for SqliteLab {
    async fn worker(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(open(&self.path(), Role::Worker)?)
    }

    async fn tool(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(open(&self.path(), Role::Tool)?)
    }
}

fn open(path: &Path, role: Role) -> Result<Arc<SqliteStore>, StoreError> {
    let mut key = path.as_os_str().to_owned();
    key.push(".key");
    // Where no key can be made beside the file, the file is what the test is about.
    let cipher = Cipher::load_or_create(Path::new(&key)).or_else(|_| {
        let folder = tempfile::tempdir().unwrap();
        Cipher::load_or_create(&folder.path().join("key"))
    })?;
    SqliteStore::open(path, role, cipher)
}

fn refusal(path: &Path) -> StoreError {
    open(path, Role::Worker).expect_err("it can't be opened")
}

#[test]
fn a_look_for_the_worker_finds_it_and_never_keeps_one_from_starting() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let lab = SqliteLab::new();
    let path = lab.path();
    assert_eq!(SqliteStore::worker_on(&path).unwrap(), None, "there is not even a store");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                SqliteStore::worker_on(&path).unwrap();
            }
        });
        let opened: Vec<_> = (0..30)
            .map(|_| {
                let store = open(&path, Role::Worker).map_err(|error| error.to_string())?;
                let seen = SqliteStore::worker_on(&path).map_err(|error| error.to_string());
                drop(store);
                seen
            })
            .collect();
        over.store(true, Ordering::Release);
        assert_eq!(opened, vec![Ok(Some(std::process::id().to_string())); 30]);
    });
    assert_eq!(SqliteStore::worker_on(&path).unwrap(), None, "the last has ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_in_by_a_file_that_was_moved_away_or_replaced() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    desk.tell("e1", "a", 0).await;
    let (file, aside) = (lab.path(), lab.path().with_extension("aside"));
    let takes = async |id: &str| {
        let changes = IntakeChanges {
            events: vec![decided(id, 0, &[("a", "1", tell(0))])],
            ..IntakeChanges::default()
        };
        desk.0.take_in(IntakeQuery::default(), Box::new(move |_| changes)).await
    };
    std::fs::rename(&file, &aside).unwrap();
    for replaced in [false, true] {
        if replaced {
            std::fs::copy(&aside, &file).unwrap();
        }
        let error = takes("lost").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("was moved away, deleted or replaced"), "{error}");
    }
    std::fs::rename(&aside, &file).unwrap();
    takes("e2").await.unwrap();
    assert_eq!(ids(&desk.claim_one(1).await), ["e1", "e2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_serves_one_worker() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    let error = refusal(&lab.path());
    let text = error.to_string();
    assert!(matches!(error, StoreError::Refused(_)), "{text}");
    assert!(text.starts_with("another worker is using "), "{text}");
    assert!(text.contains(&format!("(process {})", std::process::id())), "{text}");
    assert!(text.contains("one SQLite file serves one worker"), "{text}");
    let tools = [lab.tool().await.unwrap(), lab.tool().await.unwrap()];
    assert_eq!(tools[0].list().await.unwrap().len(), 4, "verbs work beside it");
    drop(desk);
    lab.worker().await.expect("the lock went with the first worker");
}

/// The one worker of a file knows that whoever held a room is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_gives_rooms_back_at_once() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    desk.tell("e1", "a", 0).await;
    let long = ClaimTerms { lease: Duration::from_secs(3_600), ..TERMS };
    let old = desk.0.claim_rooms(long, at(0)).await.unwrap().remove(0);
    drop(desk);
    let desk = Desk(lab.worker().await.unwrap());
    let new = desk.claim_one(1).await;
    assert_eq!(ids(&new), ["e1"]);
    assert!(new.claim > old.claim);
    assert_eq!(new.waiting[0].story.reason, SendReason::Failure);
    assert_eq!(desk.settle(&old, 2, all_sent(&old, 2), RELEASE).await, Settled::LostClaim);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_can_be_opened_by_many_at_once() {
    let lab = SqliteLab::new();
    let path = lab.path();
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| open(&path, Role::Tool).map(drop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for result in opened {
        result.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_and_verbs_write_side_by_side() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    let verbs: Vec<_> = (0..3)
        .map(|verb| {
            let path = lab.path();
            tokio::spawn(async move {
                for n in 0..10 {
                    let tool = open(&path, Role::Tool).unwrap();
                    let new = definition(&format!("v{verb}-{n}"), "1", "t");
                    tool.apply(vec![new], ManagedBy::Operator, at(n)).await.unwrap();
                }
            })
        })
        .collect();
    for n in 0..60 {
        desk.tell(&format!("e{n}"), "a", n).await;
    }
    for verb in verbs {
        verb.await.unwrap();
    }
    assert_eq!(desk.0.list().await.unwrap().len(), 4 + 30);
    assert_eq!(desk.claim_one(99).await.waiting.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_a_token_or_an_unneeded_body() {
    let lab = SqliteLab::new();
    let desk = Desk(lab.worker().await.unwrap());
    let token = "PLAINTEXTtoken0123456789";
    desk.0.apply(vec![definition("a", "1", "x")], ManagedBy::Operator, at(0)).await.unwrap();
    let mut secret = definition("a", "1", "x");
    secret.room_url = secret_url("1", token);
    desk.0.apply(vec![secret], ManagedBy::Operator, at(0)).await.unwrap();
    desk.take(vec![decided("e1", 0, &[("a", "1", passing())])]).await;
    let grep = |needle: &str| {
        let files = std::fs::read_dir(lab.folder.path()).unwrap();
        let hit = |bytes: Vec<u8>| bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
        files.filter(|f| hit(std::fs::read(f.as_ref().unwrap().path()).unwrap())).count()
    };
    assert!(grep("integration") > 0, "the search works on what is there");
    for closed in [false, true] {
        if closed {
            lab.tool().await.unwrap();
        }
        assert_eq!(grep(token), 0);
        assert_eq!(grep("body of e1"), 0, "a suppressed event leaves no body behind");
    }
    drop(desk);
    assert_eq!(grep(token), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_events_body_goes_with_its_last_notification() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    desk.take(vec![decided("e1", 0, &[("a", "1", tell(0)), ("b", "2", tell(0)), ("c", "3", passing())])])
        .await;
    let rows = || {
        let c = Connection::open(lab.path()).unwrap();
        c.query_row("SELECT count(*), ifnull(sum(open), 0) FROM events", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap()
    };
    assert_eq!(rows(), (1, 2));
    let lines = desk.claim(0).await;
    desk.finish(&lines[0], 1, all_sent(&lines[0], 1)).await;
    assert_eq!(rows(), (1, 1));
    desk.0.remove(&integration("b"), at(2)).await.unwrap();
    assert_eq!(rows(), (0, 0));
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let lab = SqliteLab::new();
    let _desk = Desk::new(&lab).await;
    for file in std::fs::read_dir(lab.folder.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_refused_by_name() {
    let lab = SqliteLab::new();
    drop(Desk::new(&lab).await);
    let other = lab.folder.path().join("other.key");
    let cipher = Cipher::load_or_create(&other).unwrap();
    let store = SqliteStore::open(&lab.path(), Role::Worker, cipher).unwrap();
    let text = store.list().await.unwrap_err().to_string();
    assert!(text.contains("integration a:") && text.contains("other.key"), "{text}");
    let desk = Desk(store);
    let text = desk.handed_out().await.unwrap_err().to_string();
    assert!(text.contains("integration a:") && text.contains("other.key"), "{text}");
    let again = desk.0.apply(vec![definition("a", "1", "t")], ManagedBy::Operator, at(1)).await;
    assert!(again.is_err(), "nothing is written over what it can't read");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_room_url_that_cannot_be_read_suspends_its_integration_alone() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    damage(&lab, "UPDATE integrations SET room_url = x'00' WHERE id = 'a'");
    let (listed, handed_out) = (desk.0.list().await.unwrap(), desk.handed_out().await.unwrap());
    assert_eq!((listed.len(), handed_out.len()), (4, 4));
    for one in listed.into_iter().chain(handed_out) {
        match one.definition.id.as_str() {
            "a" => {
                let reason = one.unreadable.expect("it is said why");
                assert!(reason.contains("integration a: its room URL can't be decrypted"), "{reason}");
                assert_eq!(one.state, IntegrationState::Suspended { reason });
            }
            _ => assert_eq!((one.state, one.unreadable), (IntegrationState::Active, None)),
        }
    }
}

/// What the file says is how a damaged one is mended, and it must not stand in the way of a start.
#[tokio::test(flavor = "multi_thread")]
async fn a_room_url_that_cannot_be_read_is_mended_by_applying_it_again() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    let file = || vec![definition("f1", "1", "t"), definition("f2", "2", "t")];
    desk.0.apply(file(), ManagedBy::File, at(0)).await.unwrap();
    damage(&lab, "UPDATE integrations SET room_url = x'00' WHERE id = 'f2'");
    let applied = desk.0.apply(file(), ManagedBy::File, at(1)).await.unwrap();
    assert_eq!((applied.changes.to_string(), applied.unchanged), ("changed f2".to_owned(), 1));
    let stored = desk.0.list().await.unwrap();
    let mended = stored.iter().find(|one| one.definition.id.as_str() == "f2").unwrap();
    assert_eq!((&mended.state, &mended.unreadable), (&IntegrationState::Active, &None));
}

#[test]
fn who_only_looks_makes_no_store_and_nobody_a_second_key() {
    let folder = tempfile::tempdir().unwrap();
    let (path, key) = (folder.path().join("store.db"), folder.path().join("store.key"));
    let open = |role| SqliteStore::open_with_key_file(&path, role, &key);
    let refused = |role| match open(role) {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    let expected = format!(
        "there is no store at {}; `integrations apply` or the worker makes it, or check store.url",
        path.display()
    );
    assert_eq!(refused(Role::Look), expected);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
    for role in [Role::Tool, Role::Look, Role::Worker] {
        drop(open(role).unwrap());
    }
    std::fs::rename(&key, folder.path().join("elsewhere")).unwrap();
    for role in [Role::Tool, Role::Look, Role::Worker] {
        let text = refused(role);
        let expected = format!("store {} exists but its key {} is missing", path.display(), key.display());
        assert!(text.starts_with(&expected), "{text}");
    }
    assert!(!key.exists());
}

fn damage(lab: &SqliteLab, sql: &str) {
    Connection::open(lab.path()).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_row_stops_nobody_else() {
    let lab = SqliteLab::new();
    let desk = Desk::new(&lab).await;
    for (n, id) in ["word", "lost", "shape", "bytes", "number", "good"].into_iter().enumerate() {
        desk.tell(id, "a", n as i64).await;
    }
    desk.tell("other", "b", 9).await;
    desk.tell("alone", "c", 9).await;
    damage(
        &lab,
        "UPDATE notifications SET reason = 'no reason' WHERE event = 'word'; \
         DELETE FROM events WHERE id IN ('lost', 'alone'); \
         UPDATE events SET properties = '{' WHERE id = 'shape'; \
         UPDATE events SET properties = CAST(x'ff' AS TEXT) WHERE id = 'bytes'; \
         UPDATE notifications SET failures = -1 WHERE event = 'number'; \
         UPDATE rooms SET meter = CAST(x'ff' AS TEXT), retry_failures = -1, retry_at = 0, expired_untold = -1; \
         INSERT INTO throttles (integration, meter) VALUES ('a', CAST(x'ff' AS TEXT)); \
         INSERT INTO tokens (token, meter, messages, per) \
         VALUES ('fingerprint-ta', CAST(x'ff' AS TEXT), 1, 1), ('fingerprint-tb', 'no meter', 1, 1)",
    );
    let lines = desk.claim(10).await;
    let told: Vec<_> = lines.iter().flat_map(ids).collect();
    assert_eq!(told, ["good", "other"]);
    assert_eq!(lines[0].state, RoomState::default());
    let letters = desk.0.letters(9).await.unwrap();
    let bodies: Vec<_> =
        letters.iter().map(|l| (l.event.clone().unwrap().to_string(), l.envelope.body.clone())).collect();
    let whole = |id: &str| (id.to_owned(), envelope(id).body);
    let none = |id: &str| (id.to_owned(), Vec::new());
    assert_eq!(
        bodies,
        [whole("word"), none("lost"), whole("shape"), whole("bytes"), whole("number"), none("alone")]
    );
    assert!(letters.iter().all(|l| l.detail.contains("damaged in the store")), "{letters:?}");
    assert_eq!(desk.fate("word", "a").await, "pending dead-lettering");
    let all: Vec<i64> = letters.iter().map(|l| l.id).collect();
    desk.0.buried(&all, at(11)).await.unwrap();
    assert_eq!(desk.fate("lost", "a").await, "dead-lettered worker-fault");
}

#[test]
fn places_that_hold_no_store_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("text.db"), "this is no database, but it is long enough to be one".repeat(50)).unwrap();
    std::fs::create_dir(at("folder.db")).unwrap();
    Connection::open(at("other.db")).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(open(&at("newer.db"), Role::Tool).unwrap());
    Connection::open(at("newer.db"))
        .unwrap()
        .execute_batch(
            "INSERT INTO refinery_schema_history SELECT 77, name, applied_on, checksum \
             FROM refinery_schema_history",
        )
        .unwrap();
    drop(open(&at("damaged.db"), Role::Tool).unwrap());
    let mut bytes = std::fs::read(at("damaged.db")).unwrap();
    bytes[120..4096].fill(0xa5);
    std::fs::write(at("damaged.db"), bytes).unwrap();

    let cases: [(PathBuf, &str, &str); 8] = [
        (at("text.db"), "is not an SQLite database", "set store.url to another file"),
        (at("folder.db"), "is a folder", "name a file in it"),
        (at("other.db"), "another program's database", "set store.url"),
        (at("newer.db"), "has schema 77", "knows schemas up to 1"),
        (at("damaged.db"), "is damaged", "restore it from a backup"),
        (at("none/store.db"), "there is no folder", "make it first"),
        // Places where nobody may make a file, not even root.
        (
            PathBuf::from("/sys/store.db"),
            "is read-only or not yours",
            "make the file and its folder writable",
        ),
        (PathBuf::from("/proc/store.db"), "/proc/store.db", "can't be opened"),
    ];
    for (path, what, remedy) in cases {
        let before = std::fs::read(&path).ok();
        let text = refusal(&path).to_string();
        assert!(text.contains(what) && text.contains(remedy), "{}: {text}", path.display());
        assert!(!text.contains('\n'), "one line: {text}");
        assert_eq!(std::fs::read(&path).ok(), before, "left as it was");
    }
}
