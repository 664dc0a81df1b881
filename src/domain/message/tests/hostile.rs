//! Whatever an event holds, what comes out is HTML that HipChat takes, within every limit.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::html::{Block, Phrase, page};
use super::*;

/// Text that means harm: markup, entities, cut ones, controls, overrides, astral and combining characters,
/// and sometimes very much of it.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<script>alert(1)</script>".to_owned()),
        Just("\"><img src=x onerror=y>".to_owned()),
        Just("&amp;&lt;&#x27;&".to_owned()),
        Just("'\"<>&".to_owned()),
        Just("😀👩\u{200D}🚀".to_owned()),
        Just("\u{202E}\u{0}\u{1b}[0m\r\n\t\u{2028}".to_owned()),
        Just("Get order".to_owned()),
        Just("Ana".to_owned()),
        Just("https://x.example/?a=1&b='".to_owned()),
        Just("javascript:alert(1)".to_owned()),
        any::<String>(),
        "[a-z ]{0,12}",
    ];
    (vec(piece, 0..4), prop_oneof![8 => Just(1usize), 1 => Just(40), 1 => Just(800)])
        .prop_map(|(pieces, times)| pieces.concat().repeat(times))
}

fn maybe() -> impl Strategy<Value = Option<String>> {
    prop_oneof![1 => Just(None), 5 => hostile().prop_map(Some)]
}

fn number() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0u64..9).prop_map(Some), any::<u64>().prop_map(Some)]
}

fn moment() -> impl Strategy<Value = Option<Timestamp>> {
    let any_time = (Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())
        .prop_map(|s| Timestamp::from_second(s).ok());
    prop_oneof![Just(None), Just(Some(Timestamp::MIN)), Just(Some(Timestamp::MAX)), any_time]
}

fn any_run() -> impl Strategy<Value = Subject> {
    let result = prop::sample::select(vec![
        RunResult::Success,
        RunResult::Failure,
        RunResult::Error,
        RunResult::Abort,
    ]);
    let test = vec(maybe(), 3).prop_map(|t| FailedTest {
        request: t[0].clone(),
        test: t[1].clone(),
        message: t[2].clone(),
    });
    (vec(maybe(), 12), result, vec(number(), 6), vec(test, 0..8), moment(), hostile()).prop_map(
        |(t, result, n, failures, finished_at, monitor_uid)| {
            Subject::Run(MonitorRun {
                monitor_uid: monitor_uid.into(),
                monitor_name: t[0].clone(),
                collection_uid: t[1].clone(),
                collection_name: t[2].clone(),
                environment_uid: t[3].clone(),
                environment_name: t[4].clone(),
                user_id: t[5].clone(),
                user_name: t[6].clone(),
                result,
                metrics: RunMetrics {
                    passed_tests: n[0],
                    failed_tests: n[1],
                    errors: n[2],
                    warnings: n[3],
                    request_count: n[4],
                    total_latency_ms: n[5],
                },
                run_id: t[7].clone(),
                region: t[8].as_deref().map(Into::into),
                trigger: t[9].clone(),
                started_at: None,
                finished_at,
                monitor_url: t[10].as_deref().and_then(WebAddress::parse),
                run_url: t[11].as_deref().and_then(WebAddress::parse),
                failures,
            })
        },
    )
}

fn any_activity() -> impl Strategy<Value = Subject> {
    (hostile(), hostile(), vec(maybe(), 11), moment()).prop_map(|(action, model, t, occurred_at)| {
        Subject::Activity(Activity {
            action,
            model,
            model_uid: t[0].clone(),
            model_name: t[1].clone(),
            collection_uid: t[2].clone(),
            collection_name: t[3].clone(),
            message: t[4].clone(),
            user_id: t[5].clone(),
            user_name: t[6].clone(),
            occurred_at,
            workspace_id: t[7].clone(),
            workspace_name: t[8].clone(),
            model_url: t[9].as_deref().and_then(WebAddress::parse),
            collection_url: t[10].as_deref().and_then(WebAddress::parse),
        })
    })
}

fn any_notification() -> impl Strategy<Value = (Event, Story)> {
    let subject = prop_oneof![any_run().boxed(), any_activity().boxed()];
    let reason = prop::sample::select(SendReason::ALL);
    (subject, hostile(), reason, any::<u32>(), moment()).prop_map(
        |(subject, id, reason, failures, first_failed_at)| {
            (event(&id, subject), Story { reason, failures, first_failed_at })
        },
    )
}

fn any_integration() -> impl Strategy<Value = Integration> {
    (hostile(), any::<bool>()).prop_map(|(name, compact)| {
        let detail = if compact { Detail::Compact } else { Detail::Full };
        Integration { name, ..integration(detail, Ping::Failures) }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_notification_makes_a_valid_message(
        integration in any_integration(), (event, story) in any_notification(), expired in any::<u32>(),
    ) {
        let told = Told { event: &event, story: &story, received_at: received() };
        let message = render(&integration, &told, &Links::postman(), Extras { expired, ..Extras::default() });
        prop_assert!(expired == 0 || message.html.ends_with("longer than allowed.</i>"));
        checker::checked(message);
        checker::checked(render_test(&integration));
    }

    #[test]
    fn any_digest_makes_a_valid_message(
        integration in any_integration(),
        notifications in vec(any_notification(), 0..24),
        why in prop::sample::select(vec![SendReason::OverBudget, SendReason::Collated, SendReason::ScheduledDigest]),
        expired in any::<u32>(),
    ) {
        told_together(&integration, &notifications, why, Extras { expired, continues: expired % 2 == 1 });
    }

    /// A page is cut between blocks at any limit, keeps its tail, and accounts for everything.
    #[test]
    fn a_page_holds_its_limit(
        blocks in vec((any::<bool>(), hostile(), 1u64..9), 1..40),
        tail in hostile(),
        limit in 400usize..2_000,
    ) {
        let blocks: Vec<_> = blocks.into_iter().map(|(item, text, count)| {
            let phrase = Phrase::value(&text, 150).bold();
            if item { Block::Item(phrase, count) } else { Block::Line(phrase) }
        }).collect();
        let total = blocks.iter().map(|b| if let Block::Item(_, n) = b { *n } else { 0 }).sum();
        let tail = Phrase::value(&tail, 200);
        let html = page(blocks.clone(), total, Some(tail.clone()), limit);
        prop_assert!(html.encode_utf16().count() <= limit, "{html}");
        prop_assert!(html.ends_with(tail.html()));
        let tags = ["b", "i", "ul", "li"];
        prop_assert_eq!(checker::check_html(&html, &tags, true), Ok(()));
        let whole = page(blocks, total, Some(tail), 1_000_000);
        if whole.encode_utf16().count() > limit {
            prop_assert!(html.contains(" more</i>") || html.contains("(shortened)"), "{html}");
        }
    }

    /// What people read of a value is the value, whatever it holds.
    #[test]
    fn a_value_reads_as_itself(raw in hostile(), max in 1usize..400) {
        let phrase = Phrase::value(&raw, max);
        let read = phrase.html().replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"")
            .replace("&#39;", "'").replace("&amp;", "&");
        prop_assert_eq!(&read, phrase.plain());
        prop_assert_eq!(phrase.units(), phrase.html().encode_utf16().count());
        prop_assert!(phrase.units() <= max);
        let whole: String = text::clean(&raw).collect();
        let cut = phrase.plain().strip_suffix('…').unwrap_or(phrase.plain());
        prop_assert!(whole.starts_with(cut));
        prop_assert_eq!(text::is_blank(phrase.plain()), text::is_blank(&raw));
    }
}

#[test]
fn one_long_field_does_not_push_out_the_rest() {
    let run = MonitorRun {
        monitor_name: Some("<".repeat(500_000)),
        collection_name: Some("&".repeat(500_000)),
        run_id: Some("r".repeat(500_000)),
        failures: (0..5_000)
            .map(|_| failed_test(&"\"".repeat(900), &"'".repeat(900), &"😀".repeat(900)))
            .collect(),
        metrics: metrics([1, 5_000, 0, 0, 7, 1423]),
        ..run(RunResult::Failure)
    };
    let message = told_run(&integration(Detail::Full, Ping::Failures), run, story(SendReason::Failure, 1));
    assert_eq!(message.html.matches("<li>").count(), 6);
    assert!(message.html.contains("Region us-east") && message.html.contains("Average response 203 ms"));
    assert!(message.html.ends_with("<li><i>and 4995 more</i></li></ul>"));
}
