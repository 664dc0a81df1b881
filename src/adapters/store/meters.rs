//! Meters as they stand in a store: read, and made sane. One that is damaged begins anew, since nothing must stand
//! still for it. Pure but for the line that says so.

use jiff::Timestamp;

use super::rows;
use super::terms::TOLERATED;
use crate::domain::ids::{IntegrationId, RoomKey, TokenKey};
use crate::domain::pacing::{LONGEST_SERVER_WAIT, Meter, later};

/// A room's meter.
pub fn room(text: &str, room: &RoomKey, now: Timestamp) -> Meter {
    let meter = rows::meter(text).unwrap_or_else(|| {
        tracing::error!(%room, "the room's meter is damaged in the store; its budget is counted anew");
        Meter::default()
    });
    sane(meter, now)
}

/// A token's meter.
pub fn token(text: &str, token: &TokenKey, now: Timestamp) -> Meter {
    let meter = rows::meter(text).unwrap_or_else(|| {
        tracing::error!(%token, "the token's meter is damaged in the store; its budget is counted anew");
        Meter::default()
    });
    sane(meter, now)
}

/// The meter of an integration's own throttle.
pub fn throttle(text: &str, integration: &IntegrationId, now: Timestamp) -> Meter {
    let meter = rows::meter(text).unwrap_or_else(|| {
        let integration_id = integration.as_str();
        tracing::error!(integration_id, "its throttle's meter is damaged in the store; it is counted anew");
        Meter::default()
    });
    sane(meter, now)
}

/// A meter as it can be at `now`. What it counted or learned at a time that has not come counts as spent or told just
/// now, and no server's word holds longer than one may.
pub fn sane(mut meter: Meter, now: Timestamp) -> Meter {
    if meter.slot_ms > 0 {
        let ahead = meter.newest.saturating_sub(now.as_millisecond().div_euclid(meter.slot_ms));
        // A little may be another process's clock, or a look that took long: its `now` is older than what others have
        // counted meanwhile, and to move that would let it leave its window too early.
        if ahead.saturating_mul(meter.slot_ms) > TOLERATED / 1_000 {
            meter.newest -= ahead;
        }
    }
    if let Some(learned) = &mut meter.learned {
        learned.at = learned.at.min(now);
    }
    meter.blocked_until = meter.blocked_until.map(|until| until.min(later(now, LONGEST_SERVER_WAIT)));
    meter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::pacing::Budget;

    fn second(at: i64) -> Timestamp {
        Timestamp::from_second(1_764_000_000 + at).unwrap()
    }

    #[test]
    fn a_look_that_took_long_lets_nothing_leave_its_window_early() {
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, second(20), 30);
        let looked_at = second(5);
        assert_eq!(sane(meter.clone(), looked_at).available(Budget::ROOM, second(75)), 0);
        assert_eq!(sane(meter, looked_at).available(Budget::ROOM, second(84)), 30);
    }

    #[test]
    fn what_was_counted_before_the_clock_went_back_far_counts_as_counted_now() {
        let mut meter = Meter::default();
        meter.record(Budget::ROOM, second(3_600), 30);
        let meter = sane(meter, second(0));
        assert_eq!(meter.available(Budget::ROOM, second(55)), 0);
        assert_eq!(meter.available(Budget::ROOM, second(64)), 30);
    }
}
