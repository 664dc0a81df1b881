//! What a held room does next, as tables of lines that a person can read.

use super::super::ids::*;
use super::super::integration::*;
use super::super::samples::{self, second};
use super::*;

const RULES: LineRules = LineRules {
    room: Budget { messages: 5, per: Duration::from_secs(60) },
    retry: RetryRule {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
        give_up_after: Duration::from_secs(24 * 3600),
    },
    max_age: Duration::from_secs(3600),
};

/// Integrations by the first letter of their ids: `q` queues, `t` is throttled to 2 an hour, `p` is paused,
/// `s` suspended, `g` is not known, `m` moved to another room; any other is plain.
fn lookup(id: &IntegrationId) -> Option<Arc<Integration>> {
    let mut i = samples::integration(id.as_str());
    match &id.as_str()[..1] {
        "q" => i.throttle.overflow = Overflow::Queue,
        "t" => i.throttle.budget = Some(Budget { messages: 2, per: Duration::from_secs(3600) }),
        "p" => i.state = IntegrationState::Paused,
        "s" => i.state = IntegrationState::Suspended { reason: "gone".into() },
        "g" => return None,
        "m" => i.room = RoomKey::new("another"),
        _ => {}
    }
    Some(Arc::new(i))
}

/// A line of one notification a letter, each of the integration with that letter.
fn line(letters: &str) -> RoomLine {
    samples::line(letters.chars().map(String::from))
}

fn next(line: &RoomLine, now: i64) -> Step {
    next_step(line, &lookup, &RULES, second(now))
}

fn single(at: usize) -> Step {
    Step::Post { take: vec![at], shape: Shape::Single }
}

fn together(take: &[usize], reason: SendReason) -> Step {
    Step::Post { take: take.to_vec(), shape: Shape::Together(reason) }
}

#[test]
fn what_fits_the_budget_goes_alone_and_what_does_not_is_merged() {
    use SendReason::OverBudget;
    for (story, letters, spent, expected) in [
        ("nothing waits", "", 0, Step::Empty),
        ("one waits", "a", 0, single(0)),
        ("all five fit into five places", "aaaaa", 0, single(0)),
        ("six do not", "aaaaaa", 0, together(&[0, 1, 2, 3, 4, 5], OverBudget)),
        ("two do not fit the last place", "ab", 4, together(&[0, 1], OverBudget)),
        ("one fits the last place", "a", 4, single(0)),
        ("a queueing integration is never merged", "qqqqqq", 0, single(0)),
        (
            "what stands behind a queueing one is not pulled forward",
            "aaqaaa",
            0,
            together(&[0, 1], OverBudget),
        ),
        ("a queueing head goes alone", "qaaaaa", 0, single(0)),
    ] {
        let mut line = line(letters);
        line.state.meter.record(RULES.room, second(0), spent);
        assert_eq!(next(&line, 1), expected, "{story}");
    }
}

#[test]
fn a_used_up_budget_holds_the_whole_room() {
    let mut full = line("ab");
    full.state.meter.record(RULES.room, second(0), 5);
    assert!(matches!(
        next(&full, 1),
        Step::WaitUntil { until, reason: WaitReason::RoomBudget } if until >= second(60) && until <= second(64)
    ));
    let mut told = line("ab");
    told.state.meter.block_until(second(40), second(0));
    assert_eq!(next(&told, 1), Step::WaitUntil { until: second(40), reason: WaitReason::RateLimited });
    let mut token = line("ab");
    let grant = TokenGrant { calls: 0, opens_at: second(30) };
    token.tokens.insert(TokenKey::new("token"), grant);
    assert_eq!(next(&token, 1), Step::WaitUntil { until: second(30), reason: WaitReason::TokenBudget });
}

#[test]
fn a_room_that_failed_is_left_alone_until_its_retry() {
    let mut line = line("ab");
    line.state.retry = Some(Retry { failures: 2, at: second(10) });
    assert_eq!(next(&line, 9), Step::WaitUntil { until: second(10), reason: WaitReason::Retrying });
    assert_eq!(next(&line, 10), single(0));
}

#[test]
fn a_throttled_integration_lets_others_pass() {
    let used_up = || {
        let mut meter = Meter::default();
        meter.record(Budget { messages: 2, per: Duration::from_secs(3600) }, second(0), 2);
        meter
    };
    let mut others = line("tat");
    others.throttles.insert(IntegrationId::new("t"), used_up());
    assert_eq!(next(&others, 1), single(1));
    let mut alone = line("tt");
    alone.throttles.insert(IntegrationId::new("t"), used_up());
    assert!(matches!(next(&alone, 1), Step::Throttled { until } if until >= second(3600)));
}

#[test]
fn a_throttle_merges_its_own_integration_only() {
    assert_eq!(next(&line("tttb"), 1), together(&[0, 1, 2], SendReason::OverBudget));
    assert_eq!(next(&line("ttb"), 1), single(0));
    assert_eq!(next(&line("tbtt"), 1), single(0), "nothing of another integration is overtaken");
}

#[test]
fn what_was_gathered_goes_together_whatever_stands_between() {
    let mut line = line("aaba");
    for (at, key) in [(0, "k"), (1, "other"), (2, "k"), (3, "k")] {
        line.waiting[at].gather = Some(GatherKey::new(key));
        line.waiting[at].story.reason = SendReason::Collated;
    }
    assert_eq!(next(&line, 1), together(&[0, 3], SendReason::Collated));
    line.waiting.truncate(1);
    assert_eq!(next(&line, 1), single(0), "one alone is an ordinary message");
}

#[test]
fn what_was_refused_with_a_card_is_tried_again_as_it_was() {
    let mut line = line("aab");
    line.waiting[0].plain = true;
    assert_eq!(next(&line, 1), single(0));
    line.waiting[1].plain = true;
    assert_eq!(next(&line, 1), together(&[0, 1], SendReason::OverBudget));
}

#[test]
fn what_was_refused_with_a_card_takes_nothing_along_that_is_never_merged() {
    let refused = |letters: &str| {
        let mut line = line(letters);
        line.waiting.iter_mut().for_each(|w| w.plain = true);
        line
    };
    assert_eq!(next(&refused("qa"), 1), single(0));
    assert_eq!(next(&refused("aaqa"), 1), together(&[0, 1], SendReason::OverBudget));
    let mut before_a_digest = refused("aaba");
    before_a_digest.waiting[2].gather = Some(GatherKey::new("digest"));
    assert_eq!(next(&before_a_digest, 1), together(&[0, 1], SendReason::OverBudget));
}

#[test]
fn silent_integrations_and_old_notifications_end_before_anything_is_posted() {
    let Step::Drop(ends) = next(&line("apsp"), 1) else { panic!("nothing dropped") };
    let told: Vec<_> = ends.iter().map(|t| (t.seqs().to_vec(), t.outcome().unwrap().1)).collect();
    assert_eq!(told, [(vec![2], "integration-broken"), (vec![1, 3], "integration-paused")]);
    let Step::Drop(ends) = next(&line("a"), 3600) else { panic!("nothing dropped") };
    assert_eq!(ends[0].outcome().unwrap(), (Outcome::Expired, "max-age"));
    assert_eq!(next(&line("a"), 3599), single(0));
}

#[test]
fn a_replay_for_a_silent_integration_goes_back_to_the_dead_letters() {
    for letter in ["p", "s"] {
        let mut line = line(letter);
        line.waiting[0].story.reason = SendReason::Replayed;
        let Step::Drop(ends) = next(&line, 1) else { panic!("nothing dropped") };
        assert_eq!(ends[0].outcome().unwrap(), (Outcome::DeadLettered, "integration-broken"), "{letter}");
    }
}

#[test]
fn what_was_tried_is_given_up_by_its_first_attempt_and_never_expires() {
    let mut line = line("a");
    line.waiting[0].attempts = 40;
    line.waiting[0].first_attempt_at = Some(second(100));
    assert_eq!(next(&line, 24 * 3600 + 99), single(0));
    let Step::Drop(ends) = next(&line, 24 * 3600 + 100) else { panic!("nothing dropped") };
    assert_eq!(ends[0].outcome().unwrap(), (Outcome::DeadLettered, "retries-exhausted"));
}

#[test]
fn a_notification_whose_integration_moved_to_another_room_is_not_told_here() {
    assert_eq!(next(&line("m"), 1), Step::Empty);
    assert_eq!(next(&line("ma"), 1), single(1));
}

#[test]
fn a_notification_whose_integration_is_not_known_just_now_stays_where_it_is() {
    assert_eq!(next(&line("g"), 1), Step::Empty);
    assert_eq!(next(&line("ga"), 1), single(1));
}

#[test]
fn a_token_that_the_claim_does_not_know_is_waited_for() {
    let mut line = line("a");
    line.tokens.clear();
    assert!(matches!(next(&line, 1), Step::WaitUntil { reason: WaitReason::TokenBudget, .. }));
}

#[test]
fn a_grant_that_a_repeated_call_has_thinned_does_not_merge_what_fits() {
    let mut line = line("aa");
    let mut granted = |calls, opens| {
        line.tokens.insert(TokenKey::new("token"), TokenGrant { calls, opens_at: second(opens) });
        next(&line, 0)
    };
    // One of two calls was answered with a refusal, and both notifications still wait.
    assert_eq!(granted(1, 0), single(0));
    // Where the token has no more to give, they are told together.
    assert_eq!(granted(1, 30), together(&[0, 1], SendReason::OverBudget));
}
