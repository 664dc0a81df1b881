//! One event for one integration: the state it is in, its rule, and what is remembered.

use std::time::Duration;

use super::super::event::RunResult;
use super::super::integration::ActivityRule;
use super::super::samples::{self, second};
use super::*;

fn integration(interest: Interest) -> Integration {
    Integration { interest, ..samples::integration("one") }
}

fn failed_run(region: Option<&str>) -> Event {
    let run = MonitorRun { region: region.map(Into::into), ..samples::run(RunResult::Failure) };
    Event { id: EventId::new("e"), team: None, subject: Subject::Run(run) }
}

fn changes() -> Integration {
    integration(Interest::MonitorResults { monitors: Box::default(), rule: RunRule::Changes })
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
    let one = integration(Interest::MonitorResults { monitors: Box::default(), rule });
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
    let activity = samples::update("1", "request", "u");
    let event = Event { id: EventId::new("e"), team: None, subject: Subject::Activity(activity) };
    let mut state = IntakeState::default();
    assert!(matches!(state.decide(&event, &one, second(0)), Fate::Tell { gather: None, .. }));
    let later = state.decide(&event, &one, second(59));
    assert!(matches!(later, Fate::Tell { ready_at, gather: Some(_), .. } if ready_at == second(60)));
}
