//! Plain values for tests: each says nothing beyond what it must, and a test sets what it is about.

use std::sync::Arc;

use jiff::Timestamp;

use super::envelope::Received;
use super::event::{Activity, MonitorRun, RunMetrics, RunResult};
use super::ids::{EventId, IntegrationId, RoomKey, TokenKey};
use super::integration::{Integration, IntegrationState, Interest, MessageStyle, RunRule, Throttle};
use super::line::{RoomLine, RoomState, TokenGrant, Waiting};
use super::reason::SendReason;
use super::story::Story;

/// So many seconds after the beginning of the tests' time.
pub fn second(at: i64) -> Timestamp {
    Timestamp::from_second(1_764_000_000 + at).unwrap()
}

/// Wants every run of every monitor, in `room` with `token`.
pub fn integration(id: &str) -> Integration {
    Integration {
        id: IntegrationId::new(id),
        name: id.into(),
        team: None,
        interest: Interest::MonitorResults { monitors: Box::default(), rule: RunRule::All },
        room: RoomKey::new("room"),
        token: TokenKey::new("token"),
        throttle: Throttle::default(),
        message: MessageStyle::default(),
        state: IntegrationState::Active,
    }
}

/// Of the monitor `1-a`, without any time.
pub fn run(result: RunResult) -> MonitorRun {
    MonitorRun {
        monitor_uid: "1-a".into(),
        monitor_name: None,
        collection_uid: None,
        collection_name: None,
        environment_uid: None,
        environment_name: None,
        user_id: None,
        user_name: None,
        result,
        metrics: RunMetrics::default(),
        run_id: None,
        region: None,
        trigger: None,
        started_at: None,
        finished_at: None,
        monitor_url: None,
        run_url: None,
        failures: Vec::new(),
    }
}

/// What `user` did to one instance of `model`.
pub fn update(user: &str, model: &str, uid: &str) -> Activity {
    Activity {
        action: "update".into(),
        model: model.into(),
        model_uid: Some(uid.into()),
        model_name: None,
        collection_uid: None,
        collection_name: None,
        message: None,
        user_id: Some(user.into()),
        user_name: None,
        occurred_at: None,
        workspace_id: None,
        workspace_name: None,
        model_url: None,
        collection_url: None,
    }
}

/// A held line of `room`: one notification for each of these integrations, all ready at second 0, and as many
/// calls of `token` as it may want.
pub fn line<I: AsRef<str>>(integrations: impl IntoIterator<Item = I>) -> RoomLine {
    let waiting = integrations.into_iter().enumerate().map(|(at, id)| Waiting {
        seq: at as i64,
        event: EventId::new(format!("e{at}")),
        integration: IntegrationId::new(id),
        story: Story::plain(SendReason::Failure),
        ready_at: second(0),
        gather: None,
        attempts: 0,
        first_attempt_at: None,
        last_answer: String::new(),
        plain: false,
        received: Arc::new(Received { envelope: Default::default(), at: second(0) }),
        read: None,
    });
    RoomLine {
        room: RoomKey::new("room"),
        claim: 1,
        state: RoomState::default(),
        waiting: waiting.collect(),
        going_on: Vec::new(),
        tokens: [(TokenKey::new("token"), TokenGrant { calls: 100, opens_at: second(0) })].into(),
        throttles: Default::default(),
    }
}
