//! What is particular to the PostgreSQL store: who may open it, what is said where it can't be had, and what several
//! workers do at the same time.

mod locks;
mod moments;
mod plans;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::postgres::{Address, Options, PostgresStore, Schema};
use hipchat_notifier::domain::frequency::Streak;
use hipchat_notifier::domain::ids::RoomKey;
use hipchat_notifier::ports::{
    Clock, Decide, Hint, IntakeChanges, IntakeQuery, IntakeState, ManagedBy, Settled, Storage, Store,
    StoreError, Then,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::lab::*;
use crate::support::authority::Authority;
use crate::support::broker::eventually;
use crate::support::gate::{Gate, tls_before};
use crate::support::postgres::Postgres;

/// A schema of its own on the PostgreSQL of `NOTIFIER_TEST_POSTGRES`, and a key.
pub struct PostgresLab {
    postgres: Postgres,
    folder: TempDir,
}

impl PostgresLab {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Cipher::load_or_create(&folder.path().join("key")).unwrap();
        Self { postgres: Postgres::fresh().await, folder }
    }

    fn cipher(&self) -> Cipher {
        Cipher::from_key_file(&self.folder.path().join("key")).unwrap()
    }

    async fn open(&self, schema: Schema) -> Result<Arc<PostgresStore>, StoreError> {
        open_at(&self.postgres.url, schema, self.cipher()).await
    }
}

async fn open_at(url: &str, schema: Schema, cipher: Cipher) -> Result<Arc<PostgresStore>, StoreError> {
    let address = Address::parse(url).unwrap();
    let (name, stands_still) = ("postgres://…".to_owned(), Duration::from_secs(1));
    let options = Options { address, name, connections: 4, stands_still, schema };
    PostgresStore::open(options, cipher).await
}

#[async_trait]
impl Lab for PostgresLab {
    async fn worker(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(self.open(Schema::Migrate).await?)
    }

    async fn tool(&self) -> Result<Arc<dyn AnyStore>, StoreError> {
        Ok(self.open(Schema::Migrate).await?)
    }
}

fn refused(result: Result<Arc<PostgresStore>, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_may_open_a_new_store_at_once() {
    let lab = PostgresLab::new().await;
    let opened = futures_util::future::join_all((0..6).map(|_| lab.open(Schema::Migrate))).await;
    for store in opened {
        store.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_made_only_where_that_is_wanted_and_a_newer_one_is_refused() {
    let lab = PostgresLab::new().await;
    let text = refused(lab.open(Schema::Look).await);
    assert!(
        text.starts_with("there is no store at postgres://…; `integrations apply` or the worker makes it"),
        "{text}"
    );
    let text = refused(lab.open(Schema::Expect).await);
    assert!(
        text.contains("has no schema yet, this version needs schema 2: run 'hipchat-notifier migrate'"),
        "{text}"
    );
    drop(lab.open(Schema::Migrate).await.unwrap());
    for schema in [Schema::Look, Schema::Expect] {
        drop(lab.open(schema).await.unwrap());
    }
    lab.postgres
        .run("INSERT INTO refinery_schema_history SELECT 77, name, applied_on, checksum FROM refinery_schema_history \
             WHERE version = 1")
        .await;
    for schema in [Schema::Look, Schema::Expect, Schema::Migrate] {
        let text = refused(lab.open(schema).await);
        assert!(text.contains("has schema 77, made by a newer version of this program"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_schema_is_brought_up_to_date_with_what_waits_in_it() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    desk.tell("e1", "a", 0).await;
    drop(desk);
    lab.postgres
        .run(
            "DROP INDEX integrations_room, notifications_waiting; DROP TABLE open_counts; \
             DELETE FROM refinery_schema_history WHERE version > 1",
        )
        .await;
    for schema in [Schema::Look, Schema::Expect] {
        let text = refused(lab.open(schema).await);
        assert!(text.contains("has schema 1, this version needs schema 2: run 'hipchat-notifier"), "{text}");
    }
    let desk = Desk(lab.worker().await.unwrap());
    assert_eq!(desk.0.gauges(at(1)).await.unwrap().pending, 1);
    let line = desk.claim_one(1).await;
    desk.finish(&line, 2, all_sent(&line, 2)).await;
    assert_eq!(desk.0.gauges(at(3)).await.unwrap().pending, 0);
}

/// Indexes of a large store take their time, and a start that is cut off would be so each time.
#[tokio::test(flavor = "multi_thread")]
async fn bringing_a_schema_up_to_date_may_take_long() {
    let lab = PostgresLab::new().await;
    let database = format!("{}_own", lab.postgres.schema);
    lab.postgres.run(&format!("CREATE DATABASE {database}")).await;
    let url = lab.postgres.url.replacen("/postgres?", &format!("/{database}?"), 1);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let notes = format!(
        "CREATE SCHEMA {0}; CREATE TABLE {0}.noted (bound TEXT); CREATE FUNCTION {0}.note() RETURNS event_trigger \
         AS $$ BEGIN INSERT INTO {0}.noted VALUES (current_setting('statement_timeout')); END $$ LANGUAGE plpgsql; \
         CREATE EVENT TRIGGER note ON ddl_command_start EXECUTE FUNCTION {0}.note()",
        lab.postgres.schema
    );
    client.batch_execute(&notes).await.unwrap();
    let store = open_at(&url, Schema::Migrate, lab.cipher()).await.unwrap();
    let bounds = client.query("SELECT DISTINCT bound FROM noted", &[]).await.unwrap();
    let bounds: Vec<String> = bounds.iter().map(|row| row.get(0)).collect();
    assert_eq!(bounds, ["0"]);
    drop((client, store));
    lab.postgres.run(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_no_connection_left_is_told_as_such_and_found_again() {
    let lab = PostgresLab::new().await;
    drop(lab.open(Schema::Migrate).await.unwrap());
    let schema = &lab.postgres.schema;
    let role = format!("{schema}_few");
    lab.postgres
        .run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'few' CONNECTION LIMIT 1; GRANT ALL ON SCHEMA {schema} TO {role}; \
             GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}"
        ))
        .await;
    let (_, rest) = lab.postgres.url.split_once('@').unwrap();
    let url = format!("postgres://{role}:few@{rest}");
    let held = open_at(&url, Schema::Expect, lab.cipher()).await.unwrap();
    let error = open_at(&url, Schema::Expect, lab.cipher()).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(text.contains("has no connection left") && text.contains("it will be tried again"), "{text}");
    assert!(text.contains("raise max_connections there, or lower store.connections"), "{text}");
    // Whoever has one goes on with it.
    let desk = Desk(held);
    desk.0.next_due().await.unwrap();
    drop(desk);
    eventually("there is one again", async || {
        open_at(&url, Schema::Expect, lab.cipher()).await.ok().map(drop)
    })
    .await;
    lab.postgres.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn however_much_is_asked_at_once_connections_are_few() {
    let lab = PostgresLab::new().await;
    let name = format!("{}_asks", lab.postgres.schema);
    let url = format!("{}&application_name={name}", lab.postgres.url);
    let desk = Desk(open_at(&url, Schema::Migrate, lab.cipher()).await.unwrap());
    let all = (0..50).map(|n| {
        let desk = desk.clone();
        tokio::spawn(async move {
            desk.tell(&format!("e{n}"), "a", 0).await;
            desk.0.next_due().await.unwrap();
        })
    });
    for done in futures_util::future::join_all(all).await {
        done.unwrap();
    }
    // None is given up while the store is open.
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    let connections: i64 = lab.postgres.client().await.query_one(count, &[&name]).await.unwrap().get(0);
    assert_eq!(connections, 4, "store.connections, and no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_beside_another_programs_tables_is_refused_by_name() {
    let lab = PostgresLab::new().await;
    lab.postgres.run("CREATE TABLE events (theirs int)").await;
    let text = refused(lab.open(Schema::Migrate).await);
    assert!(text.contains("can't be brought up to date") && text.contains("a schema of its own"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_make_no_tables_is_told_so() {
    let lab = PostgresLab::new().await;
    let client = lab.postgres.client().await;
    let schema: String = client.query_one("SELECT current_schema()", &[]).await.unwrap().get(0);
    let guest = format!("guest_of_{schema}");
    let admit = format!("CREATE ROLE {guest} LOGIN PASSWORD 'pw'; GRANT USAGE ON SCHEMA {schema} TO {guest}");
    client.batch_execute(&admit).await.unwrap();
    let (_, rest) = lab.postgres.url.split_once('@').unwrap();
    let text =
        refused(open_at(&format!("postgres://{guest}:pw@{rest}"), Schema::Migrate, lab.cipher()).await);
    client.batch_execute(&format!("DROP OWNED BY {guest}; DROP ROLE {guest}")).await.unwrap();
    assert!(text.contains(&format!("permission denied for schema {schema}; let the user")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_is_refused_before_anything_is_written() {
    let lab = PostgresLab::new().await;
    drop(lab.open(Schema::Migrate).await.unwrap());
    let other = lab.folder.path().join("other.key");
    let cipher = Cipher::load_or_create(&other).unwrap();
    let text = refused(open_at(&lab.postgres.url, Schema::Migrate, cipher).await);
    assert!(text.contains("was begun with another key than the one in key file"), "{text}");
    assert!(text.contains("other.key: give every worker the same key"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_told_apart_and_no_password_shown() {
    let lab = PostgresLab::new().await;
    let url = &lab.postgres.url;
    let (user, rest) = url.split_once("://").unwrap().1.split_once('@').unwrap();
    let name = user.split_once(':').unwrap().0;
    let wrong_password = format!("postgres://{name}:hunter2@{rest}");
    let no_database = url.replacen("/postgres?", "/nowhere?", 1);
    let no_tls = url.replacen("sslmode=disable", "sslmode=require", 1);
    let nobody = lab.postgres.url_by("127.0.0.1:1");
    for (url, refused, says) in [
        (wrong_password, true, "refuses the login"),
        (no_database, true, "refuses the login (database \"nowhere\" does not exist)"),
        (no_tls, true, "no TLS session"),
        (nobody, false, "is out of reach"),
    ] {
        let error = open_at(&url, Schema::Migrate, lab.cipher()).await.expect_err(says);
        let text = error.to_string();
        assert_eq!(matches!(error, StoreError::Refused(_)), refused, "{error:?}");
        assert!(text.starts_with("store postgres://…") && text.contains(says), "{text}");
        assert!(!text.contains("hunter2") && !text.contains('\n'), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_only_with_a_server_that_is_who_it_says() {
    let lab = PostgresLab::new().await;
    let authority = Authority::new();
    let port = tls_before(lab.postgres.host_and_port(), authority.acceptor("localhost")).await;
    let by = |host: &str, mode: &str, trusted: bool| {
        let url = lab.postgres.url_by(&format!("{host}:{port}"));
        let url = url.replacen("sslmode=disable", &format!("sslmode={mode}"), 1);
        let file = authority.file().display().to_string().replace('/', "%2F");
        if trusted { format!("{url}&sslrootcert={file}") } else { url }
    };
    for mode in ["prefer", "require", "verify-full"] {
        drop(open_at(&by("localhost", mode, true), Schema::Migrate, lab.cipher()).await.expect(mode));
        for (host, trusted) in [("127.0.0.1", true), ("localhost", false)] {
            let text = refused(open_at(&by(host, mode, trusted), Schema::Migrate, lab.cipher()).await);
            assert!(text.contains("no TLS session") && text.contains("certificate"), "{mode} {host}: {text}");
        }
    }
    let none = by("localhost", "require", false) + "&sslrootcert=%2Fnonexistent.pem";
    let text = refused(open_at(&none, Schema::Migrate, lab.cipher()).await);
    assert!(text.contains("sslrootcert /nonexistent.pem: it can't be read"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_went_away_is_told_as_such_and_found_again() {
    let lab = PostgresLab::new().await;
    let gate = Gate::before(lab.postgres.host_and_port()).await;
    let url = lab.postgres.url_by(&gate.address);
    let desk = Desk(open_at(&url, Schema::Migrate, lab.cipher()).await.unwrap());
    desk.0.apply(vec![definition("a", "1", "ta")], ManagedBy::Operator, at(0)).await.unwrap();
    gate.close();
    let changes =
        IntakeChanges { events: vec![decided("e1", 0, &[("a", "1", tell(0))])], ..Default::default() };
    let taken = changes.clone();
    let error = desk.0.take_in(IntakeQuery::default(), Box::new(move |_| taken)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(desk.0.next_due().await.is_err());
    gate.open();
    desk.change(changes).await;
    assert_eq!(ids(&desk.claim_one(0).await), ["e1"]);
}

/// The address of a server that answers while a connection is set up, and then says nothing more.
async fn silent_once_connected() -> std::net::SocketAddr {
    const STARTED: &[u8] = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    const DONE: &[u8] = b"C\0\0\0\x08SET\0Z\0\0\0\x05I";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // Its first message has no type; what the session is set to comes in the second.
        let first = stream.read_u32().await.unwrap();
        stream.read_exact(&mut vec![0; first as usize - 4]).await.unwrap();
        stream.write_all(STARTED).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'Q');
        let second = stream.read_u32().await.unwrap();
        stream.read_exact(&mut vec![0; second as usize - 4]).await.unwrap();
        stream.write_all(DONE).await.unwrap();
        std::future::pending::<()>().await;
    });
    address
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_once_connected_is_given_up() {
    let folder = TempDir::new().unwrap();
    let cipher = || Cipher::load_or_create(&folder.path().join("key")).unwrap();
    for schema in [Schema::Migrate, Schema::Expect] {
        let url = format!("postgres://u:p@{}/db?sslmode=disable", silent_once_connected().await);
        let opening = tokio::time::timeout(Duration::from_secs(60), open_at(&url, schema, cipher()));
        let error = opening.await.expect("it ends").expect_err("there is no store");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert!(error.to_string().contains("is out of reach (no answer within 30 s)"), "{error}");
    }
}

/// Decides as the frequency rules do: by the streak, which it moves.
fn counting(id: &str) -> (IntakeQuery, Decide) {
    let key = streak_key("a", "m");
    let query = IntakeQuery { events: vec![event(id)], streaks: vec![key.clone()], ..IntakeQuery::default() };
    let id = id.to_owned();
    let decide = move |state: IntakeState| {
        if state.known.contains(&event(&id)) {
            return IntakeChanges::default();
        }
        let mut streak: Streak = state.streaks.get(&key).copied().unwrap_or_default();
        streak.failures += 1;
        let events = vec![decided(&id, 0, &[("a", "1", tell(0))])];
        IntakeChanges { events, streaks: vec![(key, streak)], ..IntakeChanges::default() }
    };
    (query, Box::new(decide))
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_take_the_same_runs_at_once_decide_as_one() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let others = [desk.0.clone(), lab.worker().await.unwrap(), lab.worker().await.unwrap()];
    let tasks = (0..90).map(|n| {
        let store = others[n % 3].clone();
        // Each event is taken in by two of them.
        let id = format!("e{}", n / 2);
        tokio::spawn(async move {
            let (query, decide) = counting(&id);
            store.take_in(query, decide).await.unwrap()
        })
    });
    let receipts = futures_util::future::join_all(tasks).await;
    let pending: usize = receipts.into_iter().map(|receipt| receipt.unwrap().pending).sum();
    assert_eq!(pending, 45, "each event counts once");
    let key = streak_key("a", "m");
    let known = desk.look_up(IntakeQuery { streaks: vec![key.clone()], ..IntakeQuery::default() }).await;
    assert_eq!(known.streaks[&key].failures, 45, "no run was counted twice, and none lost");
}

/// A worker that is frozen holds what its transaction has locked. If that took longer than what is left of others'
/// leases when they have posted, their rooms would be taken over and told again.
#[tokio::test(flavor = "multi_thread")]
async fn who_stands_still_in_a_transaction_does_not_keep_the_others_from_theirs() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let (decides, is_deciding) = tokio::sync::oneshot::channel();
    let (thaw, frozen) = std::sync::mpsc::channel::<()>();
    let stands = tokio::spawn(async move {
        let (query, decide) = counting("e1");
        let decide: Decide = Box::new(move |state| {
            decides.send(()).expect("the test waits for it");
            let _ = tokio::task::block_in_place(|| frozen.recv());
            decide(state)
        });
        desk.0.take_in(query, decide).await
    });
    is_deciding.await.expect("it decides");
    let other = lab.worker().await.unwrap();
    let (query, decide) = counting("e2");
    other.take_in(query, decide).await.unwrap();
    drop(thaw);
    assert!(matches!(stands.await.unwrap(), Err(StoreError::Unavailable(_))), "its transaction was ended");
    let key = streak_key("a", "m");
    let known =
        Desk(other).look_up(IntakeQuery { streaks: vec![key.clone()], ..IntakeQuery::default() }).await;
    assert_eq!(known.streaks[&key].failures, 1, "it has written nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_claim_at_once_share_rooms_and_tokens() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let all: Vec<_> = (0..40).map(|n| definition(&format!("i{n}"), &format!("r{n}"), "shared")).collect();
    desk.0.apply(all, ManagedBy::Operator, at(0)).await.unwrap();
    let told: Vec<_> = (0..40)
        .map(|n| decided(&format!("e{n}"), 0, &[(&format!("i{n}"), &format!("r{n}"), tell(0))]))
        .collect();
    desk.take(told).await;
    let mut terms = TERMS;
    terms.rooms = 10;
    terms.token_budget.messages = 25;
    let workers = [desk.0.clone(), lab.worker().await.unwrap(), lab.worker().await.unwrap()];
    let mut lines = Vec::new();
    // Rooms that another is just claiming are left to it, so a look may find fewer than there are.
    while lines.len() < 40 {
        let looks = workers.iter().map(|store| store.claim_rooms(terms, at(1)));
        for found in futures_util::future::join_all(looks).await {
            lines.extend(found.unwrap());
        }
    }
    let mut seen: Vec<RoomKey> = lines.iter().map(|line| line.room.clone()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!((lines.len(), seen.len()), (40, 40), "one room, one holder");
    let granted: u32 = lines.iter().flat_map(|line| line.tokens.values()).map(|grant| grant.calls).sum();
    assert_eq!(granted, 25, "the token's budget holds over all");
    let settled = futures_util::future::join_all(
        lines
            .iter()
            .enumerate()
            .map(|(n, line)| workers[n % 3].settle(settlement(line, 2, all_sent(line, 2), RELEASE))),
    )
    .await;
    assert!(settled.into_iter().all(|settled| settled.unwrap() == Settled::AtRest));
    assert_eq!(desk.0.gauges(at(3)).await.unwrap().pending, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_worker_at_a_time_publishes_a_letter() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let other = lab.worker().await.unwrap();
    desk.tell("e1", "a", 0).await;
    let line = desk.claim_one(0).await;
    desk.finish(&line, 1, vec![super::settle::given_up(seqs(&line), 1, true)]).await;
    assert_eq!(desk.0.letters(9).await.unwrap().len(), 1);
    assert!(other.letters(9).await.unwrap().is_empty(), "the first has it in hand");
    assert_eq!(desk.0.letters(9).await.unwrap().len(), 1, "and has it until the broker confirms");
    lab.postgres.run("UPDATE letters SET taken_until = 0").await;
    assert_eq!(other.letters(9).await.unwrap().len(), 1, "after a while another may try");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_makes_the_others_hear_of() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let other = lab.open(Schema::Expect).await.unwrap();
    let heard: Arc<Mutex<Vec<Hint>>> = Arc::default();
    let keep = Arc::clone(&heard);
    let listening = tokio::spawn(async move {
        other.attend(&move |hint| keep.lock().unwrap().push(hint)).await;
    });
    let hears = async |what: Hint| {
        eventually("the hint", async || heard.lock().unwrap().contains(&what).then_some(())).await;
        heard.lock().unwrap().clear();
    };
    // All of them at the beginning: something may have been missed before.
    eventually("it listens", async || (heard.lock().unwrap().len() == 3).then_some(())).await;
    heard.lock().unwrap().clear();
    desk.tell("e1", "a", 0).await;
    hears(Hint::Rooms).await;
    desk.0.pause(&integration("b"), at(1)).await.unwrap();
    hears(Hint::Integrations).await;
    let tool = lab.open(Schema::Look).await.unwrap();
    assert_eq!(tool.workers().await.unwrap().len(), 1, "who listens is a worker that runs");
    listening.abort();
    eventually("it has gone", async || tool.workers().await.unwrap().is_empty().then_some(())).await;
}

/// A database whose clock is off from this machine's by five minutes, as it is for a worker on a machine whose clock
/// is off: times are the database's.
#[tokio::test(flavor = "multi_thread")]
async fn times_are_the_databases_whatever_this_machines_clock_says() {
    for skew in [-300i64, 300] {
        let lab = PostgresLab::new().await;
        lab.postgres
            .run(&format!(
                "CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$ SELECT pg_catalog.clock_timestamp() + interval '{skew} seconds' $$"
            ))
            .await;
        let schema = &lab.postgres.schema;
        let off = lab.postgres.url.replace(schema.as_str(), &format!("{schema}%2Cpg_catalog"));
        let store = open_at(&off, Schema::Migrate, lab.cipher()).await.unwrap();
        let clock = store.clock().await.unwrap();
        let ahead = clock.now().duration_since(crate::pipeline::now()).as_secs();
        assert!((ahead - skew).abs() <= 1, "{ahead} of {skew}");
        // What this worker reckons wrongly moves nobody's waits and claims nothing.
        let late = clock.now();
        assert_eq!(store.claim_rooms(TERMS, late).await.unwrap().len(), 0);
        let early = late - Duration::from_secs(600);
        let error = store.claim_rooms(TERMS, early).await.unwrap_err();
        assert!(error.to_string().contains("reckoning of the database's clock is behind"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_postgresql_can_not_hold_is_taken_in_all_the_same() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let mut odd = decided("e\0", 0, &[("a", "1", passing()), ("b", "2", tell(0))]);
    Arc::make_mut(&mut odd.received).envelope.routing_key = "a\0b".to_owned();
    desk.take(vec![odd.clone()]).await;
    assert_eq!(desk.explain("e\0").await.len(), 2);
    assert_eq!(desk.take(vec![odd]).await.pending, 0, "it is known by the same id");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_holds_a_token_or_an_unneeded_body() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    let token = "PLAINTEXTtoken0123456789";
    let mut secret = definition("a", "1", "x");
    secret.room_url = secret_url("1", token);
    desk.0.apply(vec![secret], ManagedBy::Operator, at(0)).await.unwrap();
    desk.take(vec![decided("e1", 0, &[("a", "1", passing())])]).await;
    let client = lab.postgres.client().await;
    let count = "SELECT (SELECT count(*) FROM integrations WHERE position($1::bytea IN room_url) > 0), \
                 (SELECT count(*) FROM events)";
    let row = client.query_one(count, &[&token.as_bytes()]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (0, 0));
}

/// A hundred thousand that wait in one line, and as many outcomes in the journal, are found their way by indexes: no
/// operation of the daily work reads a table from end to end.
#[tokio::test(flavor = "multi_thread")]
async fn no_daily_work_reads_a_whole_table() {
    let lab = PostgresLab::new().await;
    // Its connections tell what they have read of the empty tables when they go.
    drop(Desk::new(&lab).await);
    let room_1 = room("1");
    lab.postgres
        .run(&format!(
            "INSERT INTO events (id, properties, body, received_at, open) \
               SELECT 'w' || n, '{{\"exchange\":\"\",\"routing_key\":\"\"}}', '', 0, 1 FROM generate_series(1, 100000) n; \
             INSERT INTO notifications (event, integration, room, event_no, state, reason, ready_at, received_at, \
               decided_at) SELECT id, 'a', '{room_1}', no, 'pending', 'failure', 0, 0, 0 FROM events; \
             INSERT INTO notifications (event, integration, room, state, reason, received_at, decided_at) \
               SELECT 'd' || n, 'b', 'r' || n % 100, 'suppressed', 'still-passing', {now}, {now} \
               FROM generate_series(1, 100000) n; \
             INSERT INTO rooms (room, due_at) SELECT 'r' || n, {later} FROM generate_series(1, 5000) n; \
             ANALYZE",
            now = at(0).as_microsecond(),
            later = at(3_600_000).as_microsecond(),
        ))
        .await;
    let client = lab.postgres.client().await;
    let scans = async |kind: &str| -> i64 {
        let sql = format!(
            "SELECT coalesce(sum({kind}), 0)::bigint FROM pg_stat_user_tables \
             WHERE schemaname = current_schema() AND relname IN ('notifications', 'events', 'rooms')"
        );
        client.query_one(&sql, &[]).await.unwrap().get(0)
    };
    // What filling the tables has read is counted a moment later.
    let mut before = scans("seq_scan").await;
    eventually("the counts are quiet", async || {
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let last = std::mem::replace(&mut before, scans("seq_scan").await);
        (last == before).then_some(())
    })
    .await;

    let desk = Desk(lab.worker().await.unwrap());
    let found = scans("idx_scan").await;
    desk.tell("e1", "a", 0).await;
    desk.tell("e2", "b", 0).await;
    let lines = desk.claim(1).await;
    let longest = lines.iter().find(|line| line.room == room_1).expect("it is due");
    assert_eq!((longest.waiting.len(), lines.len()), (TERMS.line, 2));
    for line in &lines {
        let mut done = settlement(line, 2, all_sent(line, 2), Then::Release { due: Some(at(9_000)) });
        done.closed = vec![(integration("a"), at(9_000))];
        assert_ne!(desk.0.settle(done).await.unwrap(), Settled::LostClaim);
    }
    desk.0.next_due().await.unwrap();
    desk.0.gauges(at(3)).await.unwrap();
    desk.explain("e1").await;
    desk.0.letters(32).await.unwrap();
    desk.0.forget(at(-1), 2_000).await.unwrap();
    desk.0.pause(&integration("b"), at(3)).await.unwrap();
    // A connection tells its counts when it has been idle for a while, or when it goes.
    drop(desk);
    eventually("the work is counted", async || (scans("idx_scan").await > found + 20).then_some(())).await;
    assert_eq!(scans("seq_scan").await, before);
}
