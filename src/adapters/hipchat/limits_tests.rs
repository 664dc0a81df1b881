use proptest::prelude::*;
use reqwest::header::HeaderValue;

use super::*;

const NOW: i64 = 1_764_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn read(headers: &[(&str, &str)]) -> Limits {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    Limits::read(&map, at(0))
}

#[test]
fn both_families_are_read_whatever_their_case() {
    let limits = read(&[
        ("X-Ratelimit-Limit", "500"),
        ("X-RateLimit-Remaining", "497"),
        ("x-ratelimit-reset", "1764000200"),
        ("X-FloodControl-Limit", "30"),
        ("x-floodcontrol-remaining", "0"),
        ("X-Floodcontrol-Reset", "1764000060"),
    ]);
    let token = LimitHint { limit: Some(500), remaining: Some(497), reset_at: Some(at(200)) };
    let room = LimitHint { limit: Some(30), remaining: Some(0), reset_at: Some(at(60)) };
    assert_eq!(limits, Limits { room, token, retry_after: None });
}

#[test]
fn resets_are_read_as_unix_time_or_as_seconds_from_now() {
    let cases = [
        ("60", Some(at(60))),
        ("0", Some(at(0))),
        ("1764000060", Some(at(60))),
        ("1764000060.0", Some(at(60))),
        (" 1764000060 ", Some(at(60))),
        ("60, 61", Some(at(60))),
        ("1763999000", Some(at(-1000))),
        ("-60", None),
        ("", None),
        ("soon", None),
        ("1e3", None),
        ("inf", None),
        ("nan", None),
        ("60s", None),
        ("99999999999999999999999999", None),
    ];
    for (value, expected) in cases {
        assert_eq!(read(&[("X-Ratelimit-Reset", value)]).token.reset_at, expected, "{value:?}");
    }
    let half = read(&[("X-Ratelimit-Reset", "1.5")]).token.reset_at.unwrap();
    assert_eq!(half.as_millisecond() - at(0).as_millisecond(), 1_500);
}

#[test]
fn counts_that_are_no_counts_are_left_out() {
    for (value, expected) in
        [("30", Some(30)), ("30.0", Some(30)), ("-1", None), ("x", None), ("", None), ("4294967296", None)]
    {
        assert_eq!(read(&[("X-FloodControl-Remaining", value)]).room.remaining, expected, "{value:?}");
    }
}

#[test]
fn a_servers_own_clock_is_what_its_times_are_relative_to() {
    // The server's clock is an hour ahead of ours: 2025-11-24T16:00:00Z is NOW.
    let limits = read(&[
        ("Date", "Mon, 24 Nov 2025 17:00:00 GMT"),
        ("X-FloodControl-Reset", "1764003630"),
        ("X-Ratelimit-Reset", "60"),
        ("Retry-After", "Mon, 24 Nov 2025 17:02:00 GMT"),
    ]);
    assert_eq!(limits.room.reset_at, Some(at(30)));
    assert_eq!(limits.token.reset_at, Some(at(60)), "seconds from now need no clock");
    assert_eq!(limits.retry_after, Some(at(120)));
    let no_date = read(&[("Retry-After", "Mon, 24 Nov 2025 16:02:00 GMT")]);
    assert_eq!(no_date.retry_after, Some(at(120)));
}

#[test]
fn the_limit_that_is_used_up_is_the_one_to_blame() {
    // Headers; wait in seconds; room blamed; token blamed.
    type Case = (&'static [(&'static str, &'static str)], i64, bool, bool);
    let cases: &[Case] = &[
        (&[], 60, true, false),
        (&[("Retry-After", "7")], 7, true, false),
        (&[("Retry-After", "0")], 1, true, false),
        (&[("Retry-After", "86400")], 900, true, false),
        (&[("Retry-After", "-5")], 60, true, false),
        (&[("X-FloodControl-Remaining", "0"), ("X-FloodControl-Reset", "1764000042")], 42, true, false),
        (&[("X-Ratelimit-Remaining", "0"), ("X-Ratelimit-Reset", "60")], 60, false, true),
        (
            &[
                ("X-Ratelimit-Remaining", "12"),
                ("X-Ratelimit-Reset", "299"),
                ("X-FloodControl-Remaining", "0"),
                ("X-FloodControl-Reset", "20"),
            ],
            20,
            true,
            false,
        ),
        (
            &[
                ("X-Ratelimit-Remaining", "0"),
                ("X-Ratelimit-Reset", "299"),
                ("X-FloodControl-Remaining", "0"),
                ("X-FloodControl-Reset", "20"),
            ],
            299,
            true,
            true,
        ),
        // A reset wins over Retry-After; without one, Retry-After is taken.
        (
            &[("X-Ratelimit-Remaining", "0"), ("X-Ratelimit-Reset", "30"), ("Retry-After", "7")],
            30,
            false,
            true,
        ),
        (&[("X-Ratelimit-Remaining", "0"), ("Retry-After", "7")], 7, false, true),
        // A reset with nothing said about what remains.
        (&[("X-Ratelimit-Reset", "60")], 60, false, true),
        // Something remains of both: whoever answered so means the room.
        (
            &[("X-Ratelimit-Remaining", "3"), ("X-Ratelimit-Reset", "200"), ("Retry-After", "9")],
            9,
            true,
            false,
        ),
        // Over already, by our clock; or years away.
        (&[("X-FloodControl-Remaining", "0"), ("X-FloodControl-Reset", "1763990000")], 1, true, false),
        (&[("X-FloodControl-Remaining", "0"), ("X-FloodControl-Reset", "4000000000")], 900, true, false),
    ];
    for (headers, wait, room, token) in cases {
        let mut limits = read(headers);
        let until = limits.blame(at(0));
        assert_eq!(until, at(*wait), "{headers:?}");
        let blamed =
            |hint: LimitHint| hint.remaining == Some(0) && hint.reset_at.is_some_and(|reset| reset > at(0));
        assert_eq!((blamed(limits.room), blamed(limits.token)), (*room, *token), "{headers:?}");
    }
}

proptest! {
    /// Whatever the headers hold, the wait is within its bounds, some limit is to blame, and no blamed
    /// limit's reset is later than the wait.
    #[test]
    fn any_headers_give_a_wait_within_bounds(
        values in prop::collection::vec(prop_oneof![any::<Vec<u8>>(), "[0-9.,-]{0,14}".prop_map(String::into_bytes), (0u64..4_000_000_000).prop_map(|n| n.to_string().into_bytes())], 8),
    ) {
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-floodcontrol-limit",
            "x-floodcontrol-remaining", "x-floodcontrol-reset", "retry-after", "date"];
        let mut map = HeaderMap::new();
        for (name, value) in names.into_iter().zip(values) {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                map.insert(name, value);
            }
        }
        let mut limits = Limits::read(&map, at(0));
        let until = limits.blame(at(0));
        prop_assert!(until >= at(1) && until <= at(900));
        let resets = [limits.room, limits.token].into_iter().filter(|h| h.remaining == Some(0)).map(|h| h.reset_at);
        prop_assert_eq!(resets.max().flatten(), Some(until));
    }
}
