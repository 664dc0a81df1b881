//! The database's clock, which decides for all workers; and what happens when it is set back.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::errors::{Done, Fail};
use super::link::{Link, bounded};
use super::rounds::{Answers, Place, Round, Tx, values};
use crate::adapters::store::rows::{micros, time};
use crate::adapters::store::terms::{NOTE_EVERY, TOLERATED};
use crate::domain::pacing::later;
use crate::ports::Clock;

/// How often the database is asked for the time. Between, the monotonic clock of this machine counts on; it drifts
/// by microseconds.
pub const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// An answer that took longer says too little about when it was given.
const SLOW: Duration = Duration::from_secs(1);

/// The database's time, known here without asking. This machine's own wall clock is never read, so it may be off by
/// anything. What follows a suspension of the machine, in which the monotonic clock stands still, is behind until the
/// next measurement; late, that is, and never early.
#[derive(Debug)]
pub struct DatabaseClock(RwLock<Reckoned>);

/// The database's time at a moment of this process.
#[derive(Debug, Clone, Copy)]
struct Reckoned {
    database: Timestamp,
    here: Instant,
}

impl DatabaseClock {
    /// Asks the database for the first time.
    pub async fn start(link: &Link) -> Done<Self> {
        Ok(Self(RwLock::new(reckon(link).await?.0)))
    }

    /// Asks again.
    pub async fn measure(&self, link: &Link) -> Done<()> {
        let (reckoned, took) = reckon(link).await?;
        if took <= SLOW {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = reckoned;
        }
        Ok(())
    }
}

impl Clock for DatabaseClock {
    fn now(&self) -> Timestamp {
        // A poisoned lock still holds a whole value: it is only ever replaced.
        let Reckoned { database, here } = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        later(database, here.elapsed())
    }
}

/// The database's time, unqualified so that a search path can put another in its place.
const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

async fn reckon(link: &Link) -> Done<(Reckoned, Duration)> {
    let asking = async {
        let client = link.client().await?;
        let statement = client.prepare_cached(NOW).await?;
        let asked = Instant::now();
        let database = time(client.query_one(&statement, &[]).await?.try_get(0)?);
        let took = asked.elapsed();
        // The answer is taken to be from the middle of the wait.
        Ok((Reckoned { database, here: asked + took / 2 }, took))
    };
    bounded(asking).await.unwrap_or_else(|_| Err(Fail::Away("it does not tell the time".to_owned())))
}

/// The times that lie ahead, by table.
const AHEAD: [&str; 5] = [
    "UPDATE rooms SET due_at = due_at - $1, hold_until = hold_until - $1, fresh_at = fresh_at - $1, \
     lease_until = lease_until - $1, retry_at = retry_at - $1",
    "UPDATE throttles SET closed_until = closed_until - $1 WHERE closed_until IS NOT NULL",
    "UPDATE notifications SET ready_at = ready_at - $1 WHERE state = 'gathering'",
    "UPDATE collations SET until = until - $1",
    "UPDATE letters SET taken_until = taken_until - $1 WHERE taken_until IS NOT NULL",
];

/// Who holds a room had it before the clock went back and has it still. How much of the lease is left is not known: what
/// was tolerated before may have been too much. A whole one is safe, and at worst a dead worker's room waits for that.
const HELD: &str = "UPDATE rooms SET lease_until = $1 + lease, due_at = $1 + lease WHERE lease_until > 0";

/// Asks for the noted time.
pub fn ask_noted(round: &mut Round) -> Place {
    round.add("SELECT value FROM meta WHERE name = 'clock'", values![])
}

/// Whether the clock was set back, far enough for waits to be moved.
pub fn went_back(noted: i64, now: Timestamp) -> bool {
    noted.saturating_sub(micros(now)) > TOLERATED
}

/// The noted time that was asked for.
pub fn noted(answers: &mut Answers, asked: Place) -> Done<i64> {
    match answers.take(asked).first() {
        Some(row) => Ok(row.try_get(0)?),
        None => Err(Fail::corrupt("the table meta has lost the row \"clock\"".to_owned())),
    }
}

/// Notes the time, now and then.
pub fn note(round: &mut Round, noted: i64, now: Timestamp) {
    if micros(now).saturating_sub(noted) >= NOTE_EVERY {
        // The higher of two that are noted at once stands.
        round.add("UPDATE meta SET value = greatest(value, $1) WHERE name = 'clock'", values![micros(now)]);
    }
}

/// Moves what lies ahead, since the clock went back: all of it was reckoned by the clock as it was, and rooms would
/// otherwise be silent until the old time comes again. With `ours`, `now` is the database's time as reckoned here:
/// where that is what is off, nothing is moved.
pub async fn set_back(tx: &Tx, now: Timestamp, ours: bool) -> Done<()> {
    let mut round = Round::default();
    let database = round.add(NOW, values![]);
    // Once, whoever notices first.
    let asked = round.add("SELECT value FROM meta WHERE name = 'clock' FOR UPDATE", values![]);
    let mut answers = round.run(tx).await?;
    let database: i64 = answers.take(database).first().map_or(Ok(i64::MIN), |row| row.try_get(0))?;
    if ours && database.saturating_sub(micros(now)) > TOLERATED / 2 {
        return Err(Fail::Away("this worker's reckoning of the database's clock is behind".to_owned()));
    }
    let noted = noted(&mut answers, asked)?;
    if !went_back(noted, now) {
        return Ok(());
    }
    let back = noted.saturating_sub(micros(now));
    tracing::warn!(from = %time(noted), to = %now, "the clock was set back; all waits move with it");
    let mut round = Round::default();
    for sql in AHEAD {
        round.add(sql, values![back]);
    }
    round.add(HELD, values![micros(now)]);
    round.add("UPDATE meta SET value = $1 WHERE name = 'clock'", values![micros(now)]);
    round.run_last(tx).await.map(drop)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::adapters::store::postgres::address::Address;

    /// Says that a client is in, and then that its first statements are done.
    async fn welcome(socket: &mut TcpStream) {
        const READY: &[u8] = b"Z\0\0\0\x05I";
        let mut buffer = [0; 4096];
        assert!(socket.read(&mut buffer).await.unwrap() > 0, "it says who it is");
        socket.write_all(&[b"R\0\0\0\x08\0\0\0\0", READY].concat()).await.unwrap();
        assert!(socket.read(&mut buffer).await.unwrap() > 0, "it sets up its session");
        socket.write_all(&[b"C\0\0\0\x08SET\0", READY].concat()).await.unwrap();
        assert!(socket.read(&mut buffer).await.unwrap() > 0, "it asks for the time");
    }

    /// Else one connection on which nothing comes any more would leave the time unmeasured from then on.
    #[tokio::test]
    async fn a_server_that_does_not_tell_the_time_is_not_waited_for_for_ever() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let way = Address::parse(&format!("postgres://me@127.0.0.1:{port}/d?sslmode=disable")).unwrap();
        let link = Link::new(way.open().unwrap(), 1, Duration::from_secs(1), "s").unwrap();
        let asking = tokio::spawn(async move { DatabaseClock::start(&link).await.map(drop) });
        let (mut socket, _) = server.accept().await.unwrap();
        welcome(&mut socket).await;
        // From here on time passes where nothing else happens.
        tokio::time::pause();
        let asked = tokio::time::timeout(Duration::from_secs(60), asking).await;
        assert!(matches!(asked.expect("it ends").unwrap(), Err(Fail::Away(_))));
    }
}
