//! Why nobody wants an event: what `simulate` and `publish` say where silence would be a riddle.

use std::collections::{BTreeMap, BTreeSet};

use super::event::{Event, Subject};
use super::integration::{Integration, Unwanted};

/// Teams named at most.
const NAMED: usize = 3;

/// Says of all `integrations`, none of which wants `event`, why they do not.
pub fn by_nobody<'a>(integrations: impl Iterator<Item = &'a Integration>, event: &Event) -> String {
    let phrases = phrases(integrations, event, |_| true);
    match phrases.is_empty() {
        true => "there are no integrations".to_owned(),
        false => phrases.join("; "),
    }
}

/// Where an event names no team: says which `integrations` would hear of it, did it name theirs.
pub fn for_want_of_a_team<'a>(
    integrations: impl Iterator<Item = &'a Integration>,
    event: &Event,
) -> Option<String> {
    if event.team.is_some() {
        return None;
    }
    phrases(integrations, event, |why| why == Unwanted::Team).pop()
}

/// Integrations that do not want it for the same reason, and the teams that they are for.
#[derive(Default)]
struct Group<'a> {
    count: usize,
    teams: BTreeSet<&'a str>,
}

fn phrases<'a>(
    integrations: impl Iterator<Item = &'a Integration>,
    event: &Event,
    told: impl Fn(Unwanted) -> bool,
) -> Vec<String> {
    let mut groups: BTreeMap<Unwanted, Group<'_>> = BTreeMap::new();
    for integration in integrations {
        if let Some(why) = integration.why_not(event).filter(|why| told(*why)) {
            let group = groups.entry(why).or_default();
            group.count += 1;
            group.teams.extend(integration.team.as_ref().map(|team| team.as_str()));
        }
    }
    groups.into_iter().map(|(why, group)| phrase(why, &group, event)).collect()
}

fn phrase(why: Unwanted, group: &Group<'_>, event: &Event) -> String {
    let n = group.count;
    let is = if n == 1 { "is" } else { "are" };
    match (why, &event.subject) {
        (Unwanted::Team, _) => {
            let of = match &event.team {
                None => "names no team (--team gives it one)".to_owned(),
                Some(team) => format!("is of team {team:?}"),
            };
            format!("{n} {is} for {}, and the event {of}", teams(&group.teams))
        }
        (Unwanted::Kind, Subject::Run(_)) => format!("{n} {is} for team-activity"),
        (Unwanted::Kind, Subject::Activity(_)) => format!("{n} {is} for monitor-results"),
        (Unwanted::Monitor, Subject::Run(run)) => {
            format!("{n} {is} for other monitors than {:?}", run.monitor_uid)
        }
        (Unwanted::Monitor, Subject::Activity(_)) => format!("{n} {is} for other monitors"),
        (Unwanted::Filter(name), _) => {
            format!("{n} {} it out by {name}", if n == 1 { "filters" } else { "filter" })
        }
    }
}

fn teams(teams: &BTreeSet<&str>) -> String {
    let named: Vec<String> = teams.iter().take(NAMED).map(|team| format!("{team:?}")).collect();
    let word = if teams.len() == 1 { "team" } else { "teams" };
    match teams.len().saturating_sub(NAMED) {
        0 => format!("{word} {}", named.join(", ")),
        more => format!("{word} {} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::envelope::Envelope;
    use crate::domain::ids::{EventId, IntegrationId, RoomKey, TeamId, TokenKey};
    use crate::domain::integration::{
        ActivityFilters, ActivityRule, Glob, GlobFilter, IntegrationState, Interest, MessageStyle, RunRule,
        Throttle,
    };

    fn integration(team: Option<&str>, interest: Interest) -> Integration {
        Integration {
            id: IntegrationId::new("i"),
            name: "i".into(),
            team: team.map(TeamId::new),
            interest,
            room: RoomKey::new("r"),
            token: TokenKey::new("t"),
            throttle: Throttle::default(),
            message: MessageStyle::default(),
            state: IntegrationState::Active,
        }
    }

    fn runs(monitors: &[&str]) -> Interest {
        let monitors = monitors.iter().map(|glob| Glob::new(glob)).collect();
        Interest::MonitorResults { monitors, rule: RunRule::DEFAULT }
    }

    fn activities(models: &[&str]) -> Interest {
        let models = GlobFilter { only: models.iter().map(|glob| Glob::new(glob)).collect(), not: vec![] };
        Interest::TeamActivity {
            filters: Box::new(ActivityFilters { models, ..ActivityFilters::default() }),
            rule: ActivityRule::Each { collate: std::time::Duration::ZERO },
        }
    }

    fn event(team: Option<&str>, body: &str) -> Event {
        let envelope = Envelope { body: body.into(), ..Envelope::default() };
        let read = crate::formats::read_event(&envelope, || EventId::new("e")).expect("an event");
        Event { team: team.map(TeamId::new), ..read }
    }

    fn run(team: Option<&str>) -> Event {
        event(team, r#"{"monitor_uid":"m-1","metrics":{}}"#)
    }

    #[test]
    fn each_reason_is_told_once_with_how_many_have_it() {
        let all = [
            integration(Some("acme"), runs(&[])),
            integration(Some("acme"), runs(&["m-*"])),
            integration(None, runs(&["x-*"])),
            integration(Some("other"), activities(&[])),
        ];
        assert_eq!(
            by_nobody(all.iter(), &run(None)),
            "1 is for team-activity; 2 are for team \"acme\", and the event names no team (--team gives it one); \
             1 is for other monitors than \"m-1\""
        );
        assert_eq!(
            for_want_of_a_team(all.iter(), &run(None)).as_deref(),
            Some("2 are for team \"acme\", and the event names no team (--team gives it one)")
        );
        assert_eq!(for_want_of_a_team(all.iter(), &run(Some("x"))), None);
        assert!(by_nobody(all.iter(), &run(Some("x"))).contains("and the event is of team \"x\""));
        assert_eq!(by_nobody([].iter(), &run(None)), "there are no integrations");
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|team| integration(Some(team), runs(&[]))).into();
        let told = by_nobody(many.iter(), &run(None));
        assert!(told.starts_with("5 are for teams \"a\", \"b\", \"c\" and 2 more, and"), "{told}");
    }

    #[test]
    fn the_filter_that_lets_an_activity_not_through_is_named() {
        let told = by_nobody(
            [integration(None, activities(&["request"])), integration(None, runs(&[]))].iter(),
            &event(None, r#"{"action":"update","model":"monitor"}"#),
        );
        assert_eq!(told, "1 is for monitor-results; 1 filters it out by models");
    }
}
