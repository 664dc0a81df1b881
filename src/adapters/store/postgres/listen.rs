//! Wake-ups: what one worker makes for others to do, the others hear of at once. A notification that is lost, with
//! the connection it would have come by, costs time and nothing else: everybody looks now and then all the same.

use futures_util::future::poll_fn;
use tokio_postgres::Socket;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Row};

use super::address::Tls;
use super::errors::Done;
use super::locks::Keys;
use super::rounds::{Round, values};
use crate::adapters::reconnect::Reconnect;
use crate::ports::Hint;

/// Who is told of hints.
pub type Hear<'a> = dyn Fn(Hint) + Send + Sync + 'a;

fn word(hint: Hint) -> &'static str {
    match hint {
        Hint::Rooms => "rooms",
        Hint::Letters => "letters",
        Hint::Integrations => "integrations",
    }
}

fn hint(payload: &str) -> Option<Hint> {
    [Hint::Rooms, Hint::Letters, Hint::Integrations].into_iter().find(|hint| word(*hint) == payload)
}

/// Tells the other workers, if and when this transaction commits.
pub fn tell(round: &mut Round, keys: &Keys, hint: Hint) {
    round.add("SELECT pg_notify($1, $2)", values![keys.channel.clone(), word(hint)]);
}

/// The workers that listen: those that run.
pub async fn listeners(c: &deadpool_postgres::Client, keys: &Keys) -> Done<Vec<String>> {
    let statement = c
        .prepare_cached(
            "SELECT coalesce(host(client_addr), 'a socket'), \
             to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM pg_stat_activity \
             WHERE application_name = $1 AND datname = current_database() ORDER BY backend_start",
        )
        .await?;
    let found = c.query(&statement, &[&keys.channel]).await?;
    // Those of one machine are told apart by when they came.
    let name = |row: &Row| {
        let (place, since): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        Ok(format!("one at {place} since {since} UTC"))
    };
    found.iter().map(name).collect()
}

/// Listens for as long as this is polled, on a connection of its own.
pub async fn listen((config, tls): &(Config, Tls), keys: &Keys, hear: &Hear<'_>) {
    let mut reconnect = Reconnect::new();
    let mut config = config.clone();
    // By this name it is known that a worker runs.
    config.application_name(&keys.channel);
    loop {
        match config.connect(tls.clone()).await {
            Ok((client, connection)) => {
                let heard = hear_all(client, connection, &keys.channel, hear, &mut reconnect).await;
                tracing::debug!("the connection that listens to the store has ended: {heard:?}");
            }
            // Others say that the store is away.
            Err(error) => tracing::debug!(%error, "can't listen to the store"),
        }
        tokio::time::sleep(reconnect.next_delay()).await;
    }
}

/// Hears until the connection ends.
async fn hear_all(
    client: Client,
    mut connection: Connection<Socket, <Tls as MakeTlsConnect<Socket>>::Stream>,
    channel: &str,
    hear: &Hear<'_>,
    reconnect: &mut Reconnect,
) -> Result<(), tokio_postgres::Error> {
    // The name is of our own making: letters, digits and underscores.
    let subscribe = format!("LISTEN {channel}");
    let subscribe = client.batch_execute(&subscribe);
    tokio::pin!(subscribe);
    let mut subscribed = false;
    loop {
        tokio::select! {
            done = &mut subscribe, if !subscribed => {
                done?;
                subscribed = true;
                reconnect.reset();
                // What was told while nobody listened is looked for now.
                [Hint::Rooms, Hint::Letters, Hint::Integrations].into_iter().for_each(hear);
            }
            message = poll_fn(|context| connection.poll_message(context)) => match message {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    if let Some(hint) = hint(told.payload()) {
                        hear(hint);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
        }
    }
}
