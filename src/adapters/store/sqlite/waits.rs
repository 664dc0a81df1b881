//! Where a pending notification is, and what of its room, token and throttle may keep it waiting.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use super::db::Db;
use super::errors::{Done, text};
use crate::adapters::store::rows::{self, time};
use crate::adapters::store::state::{self, Where};
use crate::domain::line::{Retry, RoomState};
use crate::domain::pacing::{Budget, Meter};
use crate::domain::waits::{Place, Whereabouts};

/// A notification's row, as far as its wait goes.
pub struct Kept {
    pub seq: i64,
    pub room: String,
    pub integration: String,
    pub state: String,
    pub reason: String,
    pub ready_at: Option<i64>,
}

/// Where it is; `None` if it has ended. What is damaged of a meter counts as unused here: this only tells.
pub fn whereabouts(db: &Db<'_>, kept: &Kept) -> Done<Option<Whereabouts>> {
    Ok(match state::place(&kept.state, &kept.reason, kept.ready_at) {
        Where::Known(whereabouts) => whereabouts,
        Where::InLine => Some(Whereabouts::Line(Box::new(place(db, kept)?))),
    })
}

fn place(db: &Db<'_>, kept: &Kept) -> Done<Place> {
    let ahead: i64 = db.query_row(
        "SELECT count(*) FROM notifications WHERE room = ?1 AND state = 'pending' AND seq < ?2 \
             AND integration NOT IN (SELECT t.integration FROM throttles t JOIN meta ON name = 'clock' \
             WHERE closed_until > value)",
        params![kept.room, kept.seq],
        |row| row.get(0),
    )?;
    let place = db
        .query_row(
            "SELECT meter, retry_failures, retry_at, due_at, lease_until FROM rooms WHERE room = ?1",
            [&kept.room],
            read_room,
        )
        .optional()?
        .unwrap_or_default();
    let throttled_until: Option<Option<i64>> = db
        .query_row("SELECT closed_until FROM throttles WHERE integration = ?1", [&kept.integration], |row| {
            row.get(0)
        })
        .optional()?;
    let token = db
        .query_row(
            "SELECT t.meter, messages, per FROM integrations i JOIN tokens t ON t.token = i.token \
             WHERE i.id = ?1",
            [&kept.integration],
            |row| {
                let per = Duration::from_micros(row.get::<_, i64>(2)?.unsigned_abs());
                Ok((meter(row, 0)?, Budget { messages: row.get(1)?, per }))
            },
        )
        .optional()?;
    let throttled_until = throttled_until.flatten().map(time);
    Ok(Place { ahead: ahead.unsigned_abs(), throttled_until, token, ..place })
}

fn read_room(row: &Row<'_>) -> rusqlite::Result<Place> {
    let at = |column| row.get::<_, Option<i64>>(column).map(|at| at.map(time));
    let failures: Option<u32> = row.get(1)?;
    let retry = failures.zip(at(2)?).map(|(failures, at)| Retry { failures, at });
    Ok(Place {
        room: RoomState { meter: meter(row, 0)?, retry, expired_untold: 0 },
        due_at: at(3)?,
        held_until: at(4)?,
        ..Place::default()
    })
}

fn meter(row: &Row<'_>, column: usize) -> rusqlite::Result<Meter> {
    Ok(rows::meter(&text(row, column)?.unwrap_or_default()).unwrap_or_default())
}
