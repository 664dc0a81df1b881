//! One event for one integration: the state it is in, its rule, and what is remembered.

use std::time::Duration;

use super::super::event::{RunMetrics, RunResult};
use super::super::ids::{RoomKey, TokenKey};
use super::super::integration::{ActivityRule, MessageStyle, Throttle};
use super::*;

fn second(at: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + at).unwrap()
}

fn integration(interest: Interest) -> Integration {
    Integration {
        id: IntegrationId::new("one"),
        name: "One".into(),
        team: None,
        interest,
        room: RoomKey::new("room"),
        token: TokenKey::new("token"),
        throttle: Throttle::default(),
        message: MessageStyle::default(),
        state: IntegrationState::Active,
    }
}

fn failed_run(region: Option<&str>) -> Event {
    let run = MonitorRun {
        monitor_uid: "1-a".into(),
        monitor_name: None,
        collection_uid: None,
        collection_name: None,
        environment_uid: None,
        environment_name: None,
        user_id: None,
        user_name: None,
        result: RunResult::Failure,
        metrics: RunMetrics::default(),
        run_id: None,
        region: region.map(str::to_owned),
        trigger: None,
        started_at: None,
        finished_at: None,
        monitor_url: None,
        run_url: None,
        failures: Vec::new(),
    };
    Event { id: EventId::new("e"), team: None, subject: Subject::Run(run) }
}

fn changes() -> Integration {
    integration(Interest::MonitorResults { monitors: Vec::new(), rule: RunRule::Changes })
}

#[test]
fn each_region_has_a_streak_of_its_own() {
    let mut state = IntakeState::default();
    for (region, told) in
        [(Some("us-east"), true), (Some("uk"), true), (None, true), (Some("us-east"), false)]
    {
        let fate = state.decide(&failed_run(region), &changes(), second(0));
        assert_eq!(matches!(fate, Fate::Tell { .. }), told, "{region:?}");
    }
    assert_eq!(state.streaks.len(), 3);
}

#[test]
fn a_paused_or_suspended_integration_hears_nothing_and_its_streak_stays() {
    for (is, expected) in [
        (IntegrationState::Paused, SuppressReason::Paused),
        (IntegrationState::Suspended { reason: "401".into() }, SuppressReason::Suspended),
    ] {
        let mut state = IntakeState::default();
        let fate = state.decide(&failed_run(None), &Integration { state: is, ..changes() }, second(0));
        assert!(matches!(fate, Fate::Suppress { reason, .. } if reason == expected));
        assert!(state.streaks.is_empty());
    }
}

#[test]
fn silence_is_explained_with_the_count_and_the_rule() {
    let rule = RunRule::FailuresThenSuccess { failures: 1 };
    let one = integration(Interest::MonitorResults { monitors: Vec::new(), rule });
    let mut state = IntakeState::default();
    state.decide(&failed_run(None), &one, second(0));
    let Fate::Suppress { reason, detail } = state.decide(&failed_run(None), &one, second(0)) else {
        panic!("told twice")
    };
    assert_eq!(reason, SuppressReason::FailuresAlreadyTold);
    assert_eq!(detail, "failed run 2 in a row; the first 1 were told, the next success will be");
}

#[test]
fn repeats_are_gathered_by_what_is_remembered() {
    let rule = ActivityRule::Each { collate: Duration::from_secs(60) };
    let one = integration(Interest::TeamActivity { filters: Box::default(), rule });
    let activity = Activity {
        action: "update".into(),
        model: "request".into(),
        model_uid: Some("u".into()),
        model_name: None,
        collection_uid: None,
        collection_name: None,
        message: None,
        user_id: Some("1".into()),
        user_name: None,
        occurred_at: None,
        workspace_id: None,
        workspace_name: None,
        model_url: None,
        collection_url: None,
    };
    let event = Event { id: EventId::new("e"), team: None, subject: Subject::Activity(activity) };
    let mut state = IntakeState::default();
    assert!(matches!(state.decide(&event, &one, second(0)), Fate::Tell { gather: None, .. }));
    let later = state.decide(&event, &one, second(59));
    assert!(matches!(later, Fate::Tell { ready_at, gather: Some(_), .. } if ready_at == second(60)));
}
