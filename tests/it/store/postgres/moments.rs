//! What others do at the very moment in which something is under way.

use hipchat_notifier::domain::reason::SendReason;
use hipchat_notifier::domain::story::Story;
use hipchat_notifier::ports::Fate;

use super::*;
use crate::store::settle::given_up;

/// The letter of one of two that need an event comes back while the store is just noting that it was confirmed: the
/// other keeps the event.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_comes_back_while_it_is_confirmed_takes_nothing_from_others() {
    let lab = PostgresLab::new().await;
    let desk = Desk::new(&lab).await;
    desk.take(vec![decided("e1", 0, &[("a", "1", tell(0)), ("b", "2", tell(0))])]).await;
    for line in desk.claim(0).await {
        let given_up = if line.room == room("1") { vec![given_up(seqs(&line), 1, true)] } else { Vec::new() };
        desk.finish(&line, 1, given_up).await;
    }
    let letter = desk.0.letters(9).await.unwrap().remove(0);

    // Whoever has room 1 holds up the intake that is to wake it, in the middle of its transaction.
    let mut other = lab.postgres.client().await;
    let holding = other.transaction().await.unwrap();
    let me: i32 = holding.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let of = room("1");
    holding.query_one("SELECT 1 FROM rooms WHERE room = $1 FOR UPDATE", &[&of.as_str()]).await.unwrap();
    let retold = Fate::Retell { story: Story::plain(SendReason::Replayed) };
    let back = decided("e1", 5, &[("a", "1", retold)]);
    let replaying = {
        let desk = desk.clone();
        tokio::spawn(async move { desk.take(vec![back]).await })
    };
    let looking = lab.postgres.client().await;
    eventually("the intake waits for the room", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))";
        let waiting: i64 = looking.query_one(waits, &[&me]).await.unwrap().get(0);
        (waiting == 1).then_some(())
    })
    .await;
    desk.0.buried(&[letter.id], at(6)).await.unwrap();
    holding.commit().await.unwrap();
    replaying.await.unwrap();

    let lines = desk.claim(7).await;
    assert_eq!(lines.len(), 2, "both are told: {lines:?}");
    for line in &lines {
        assert_eq!(line.waiting[0].received.envelope.body, envelope("e1").body);
        desk.finish(line, 8, all_sent(line, 8)).await;
    }
    let events: i64 = looking.query_one("SELECT count(*) FROM events", &[]).await.unwrap().get(0);
    assert_eq!(events, 0, "nobody needs it any more");
}

/// A schema of the same name in another database of the server is another store.
#[tokio::test(flavor = "multi_thread")]
async fn workers_of_another_database_are_not_this_stores() {
    let lab = PostgresLab::new().await;
    let schema = &lab.postgres.schema;
    let database = format!("{schema}_other");
    lab.postgres.run(&format!("CREATE DATABASE {database}")).await;
    let url = lab.postgres.url.replacen("/postgres?", &format!("/{database}?"), 1);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE SCHEMA {schema}")).await.unwrap();
    let theirs = open_at(&url, Schema::Migrate, lab.cipher()).await.unwrap();
    let ours = lab.open(Schema::Migrate).await.unwrap();
    let listening = {
        let theirs = Arc::clone(&theirs);
        tokio::spawn(async move { theirs.attend(&|_| {}).await })
    };
    eventually("it listens", async || (theirs.workers().await.unwrap().len() == 1).then_some(())).await;
    assert_eq!(ours.workers().await.unwrap(), Vec::<String>::new());
    listening.abort();
    drop((client, theirs));
    lab.postgres.run(&format!("DROP DATABASE {database} WITH (FORCE)")).await;
}
