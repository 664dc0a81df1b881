//! Which ways the server takes to its answers.

use hipchat_notifier::adapters::store::postgres::statements;

use super::*;

/// A backlog that has grown since the server last counted: it thinks that nothing waits, and a plan that suits that
/// reads all that waits to settle one room.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_one_room_never_reads_what_waits_in_others() {
    let lab = PostgresLab::new().await;
    drop(Desk::new(&lab).await);
    lab.postgres
        .run(
            "INSERT INTO integrations (id, json, room_url, room, token, paused, managed_by, url_revision) \
               SELECT 'i' || n, '', '', 'r' || n, 't', FALSE, 'operator', 0 FROM generate_series(1, 2000) n; \
             INSERT INTO rooms (room, due_at) SELECT 'r' || n, 0 FROM generate_series(1, 2000) n; \
             INSERT INTO notifications (event, integration, room, state, reason, received_at, decided_at) \
               SELECT 's' || n, 'i' || 1 + n % 2000, 'r' || 1 + n % 2000, 'sent', 'failure', 0, 0 \
               FROM generate_series(1, 20000) n; \
             ANALYZE; \
             INSERT INTO notifications (event, integration, room, event_no, state, reason, ready_at, received_at, \
               decided_at) SELECT 'e' || n, 'i' || 1 + n % 2000, 'r' || 1 + n % 2000, n, 'pending', 'failure', 0, 0, 0 \
               FROM generate_series(1, 10000) n",
        )
        .await;
    let client = lab.postgres.client().await;
    // As the workers' connections; and the plan that a statement has for good after its first runs.
    client.batch_execute("SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan").await.unwrap();
    let rooms: Vec<String> = (1..=40).map(|n| format!("'r{n}'")).collect();
    let (rooms, nows) = (rooms.join(","), vec!["1"; 40].join(","));
    for (name, kinds, sql, values) in [
        ("whats_left", "text[], bigint[]", statements::LEFT, format!("ARRAY[{rooms}], ARRAY[{nows}]")),
        ("heads", "text[], bigint, bigint", statements::HEADS, format!("ARRAY[{rooms}], 100, 1")),
    ] {
        client.batch_execute(&format!("PREPARE {name} ({kinds}) AS {sql}")).await.unwrap();
        let explain =
            format!("EXPLAIN (ANALYZE, TIMING OFF, SUMMARY OFF, COSTS OFF) EXECUTE {name} ({values})");
        let rows = client.simple_query(&explain).await.unwrap();
        let lines = rows.iter().filter_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        let plan: Vec<String> = lines.collect();
        let of_notifications: Vec<&String> = plan
            .iter()
            .filter(|line| line.contains("on notifications") || line.contains("notifications_"))
            .collect();
        assert!(!of_notifications.is_empty(), "{name}: {plan:#?}");
        for line in of_notifications {
            // Each of these begins with the room, or with the integration.
            let own = ["line", "gathering", "open"]
                .iter()
                .any(|of| line.contains(&format!("using notifications_{of}")));
            assert!(own, "{name}: {line}\n{plan:#?}");
        }
    }
}
