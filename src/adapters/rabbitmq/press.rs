//! Publishing with proof: persistent, mandatory and confirmed, on a connection of its own.
//!
//! A press has one user at a time. A confirm channel shared by tasks hands confirms to the wrong publish, and a
//! returned message may come with another's confirm; so a round is published in turn, and what was returned is
//! told by where it was sent.

use std::collections::HashSet;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};

use super::{fault, link};
use crate::ports::BrokerError;

/// A confirm may take long while the broker is short of memory or of a majority; that is no failure yet.
const CONFIRM: Duration = Duration::from_secs(30);
/// Publishes in flight: enough to fill the broker's disk writes.
const WINDOW: usize = 256;
/// Bytes in flight.
const WINDOW_BYTES: usize = 8 << 20;

/// A message to be published.
#[derive(Debug)]
pub(super) struct Sheet<'a> {
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub properties: BasicProperties,
    pub body: &'a [u8],
}

/// What became of one published message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// A queue has it, durably.
    Confirmed,
    /// No queue is bound for its routing key: nobody will ever see it.
    Unroutable,
    /// The broker could not store it; try again.
    Refused,
}

/// What became of some messages.
#[derive(Debug)]
pub(super) struct Printed {
    /// In the order of the sheets, up to those of which nothing is known.
    pub publications: Vec<Publication>,
    /// Why nothing is known of the others; `None` if there are none.
    pub failed: Option<BrokerError>,
}

impl Printed {
    /// The publications of all, or the error.
    pub fn all(self) -> Result<Vec<Publication>, BrokerError> {
        self.failed.map_or(Ok(self.publications), Err)
    }
}

/// A connection with one confirm channel.
#[derive(Debug)]
pub(super) struct Press {
    connection: Connection,
    channel: Channel,
}

impl Press {
    /// Puts a connection into use for publishing.
    pub async fn new(connection: Connection) -> Result<Self, BrokerError> {
        let channel = link::channel(&connection).await?;
        link::answer("asking for confirms", channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(Self { connection, channel })
    }

    /// Whether it has not been seen broken.
    pub fn usable(&self) -> bool {
        self.connection.status().connected() && self.channel.status().connected()
    }

    /// The largest frame that the broker takes; a message's headers have to fit in one.
    pub fn frame_max(&self) -> usize {
        match self.connection.configuration().frame_max() {
            0 => usize::MAX,
            bytes => bytes as usize,
        }
    }

    /// Publishes all and waits for all confirms. After an error, or if this future is dropped, the press is not
    /// to be used again. A window of which not all confirms came counts as unknown as a whole: a returned message
    /// among it may not have been told yet.
    pub async fn print(&self, sheets: &[Sheet<'_>]) -> Printed {
        let mut publications = Vec::with_capacity(sheets.len());
        let mut rest = sheets;
        while !rest.is_empty() {
            let (window, later) = rest.split_at(window(rest));
            match self.round(window).await {
                Ok(answers) => publications.extend(answers),
                Err(error) => return Printed { publications, failed: Some(error) },
            }
            rest = later;
        }
        Printed { publications, failed: None }
    }

    async fn round(&self, sheets: &[Sheet<'_>]) -> Result<Vec<Publication>, BrokerError> {
        let doing = "publishing";
        let work = async {
            let mut confirms = Vec::with_capacity(sheets.len());
            for sheet in sheets {
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                let (exchange, key) = (sheet.exchange.clone(), sheet.routing_key.clone());
                let published =
                    self.channel.basic_publish(exchange, key, options, sheet.body, sheet.properties.clone());
                confirms.push(published.await?);
            }
            let mut answers = Vec::with_capacity(confirms.len());
            for confirm in confirms {
                answers.push(confirm.await?);
            }
            Ok(answers)
        };
        let answers = match tokio::time::timeout(CONFIRM, work).await {
            Ok(answers) => answers.map_err(|error| fault::during(doing, &error))?,
            Err(_) => return Err(fault::silent(doing, CONFIRM)),
        };
        Ok(judge(sheets, answers))
    }

    /// Gives the connection back.
    pub async fn close(self) {
        link::close(&self.connection).await;
    }
}

/// How many of the sheets go out before confirms are waited for: at least one.
fn window(sheets: &[Sheet<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |sheet: &&Sheet<'_>| {
        bytes += sheet.body.len();
        bytes <= WINDOW_BYTES
    };
    sheets.iter().take(WINDOW).take_while(fits).count().max(1)
}

/// Routing depends on exchange and routing key alone, so a returned message speaks for all sent to that place.
fn judge(sheets: &[Sheet<'_>], answers: Vec<Confirmation>) -> Vec<Publication> {
    let refused: Vec<bool> = answers.iter().map(|answer| !answer.is_ack()).collect();
    let returned: HashSet<(ShortString, ShortString)> = answers
        .into_iter()
        .filter_map(Confirmation::take_message)
        .map(|message| (message.delivery.exchange.clone(), message.delivery.routing_key.clone()))
        .collect();
    let publication = |(sheet, refused): (&Sheet<'_>, bool)| {
        if refused {
            Publication::Refused
        } else if returned.contains(&(sheet.exchange.clone(), sheet.routing_key.clone())) {
            Publication::Unroutable
        } else {
            Publication::Confirmed
        }
    };
    sheets.iter().zip(refused).map(publication).collect()
}
