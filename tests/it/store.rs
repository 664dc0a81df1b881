//! What every store owes: one suite, run against each store through the ports alone, and what is particular
//! to a store beside it. A new store needs a [`lab::Lab`] and one line below.

mod belief;
mod claims;
mod intake;
mod lab;
mod letters;
mod lives;
mod model;
mod postgres;
mod registry;
mod settle;
mod sqlite;
mod straight;
mod tokens;
mod waits;

/// Runs every case of the suite against the stores of a lab.
macro_rules! conformance {
    ($backend:ident, $lab:expr) => {
        conformance!(@cases $backend, $lab,
            intake: same_event_twice_is_one, same_event_twice_in_one_batch, a_decision_that_panics_changes_nothing,
                what_was_taken_in_is_known_to_the_next, an_integration_that_is_deaf_by_now_is_not_told,
                a_dead_letter_put_back_is_told_anew, a_letter_put_back_for_what_is_not_dead_changes_nothing,
                a_letter_put_back_before_its_burial_is_recorded_is_told,
                a_letter_put_back_after_the_journal_forgot_is_told, bodies_are_kept_while_needed,
                many_batches_at_once_all_count;
            belief: news_that_is_lost_makes_it_unsure, what_is_told_or_not_wanted_leaves_it,
                changes_of_the_integration_that_lose_news_make_it_unsure, later_news_settles_it,
                lost_news_of_what_no_run_has_moved_yet_makes_it_unsure;
            claims: rooms_go_longest_due_first, a_line_is_in_order_and_no_longer_than_asked,
                a_line_of_large_events_comes_in_parts, what_gathers_comes_when_ready, a_claimed_room_is_nobody_elses, a_lapsed_claim_is_fenced_off,
                holding_renews_the_lease, rooms_that_are_at_work_are_passed_over, a_released_claim_is_over, releasing_says_when_to_look_again,
                arrivals_wake_a_released_room, arrivals_during_a_claim_are_not_missed,
                a_resting_room_is_not_woken,
                a_worker_that_begins_looks_again_at_rooms_that_rest, a_retrying_room_is_not_woken, rooms_to_be_retried_take_no_others_place,
                a_deep_line_is_a_batch_at_a_time_and_lets_others_go_between,
                a_deep_line_that_is_throttled_hides_nobody_behind_it,
                what_is_throttled_holds_nobody_else_up, changing_an_integration_opens_its_throttle,
                a_clock_that_is_set_back_silences_nobody,
                a_clock_that_is_set_back_twice_takes_no_room_from_its_holder,
                a_room_with_nothing_ready_is_not_handed_out;
            tokens: rooms_share_a_token, reservations_of_others_are_respected, spent_calls_count,
                the_servers_word_on_a_token_holds, a_lapsed_claims_calls_count_as_spent,
                a_claim_reserves_little, the_oldest_goes_first_when_a_token_opens;
            settle: sent_and_digested, attempts_are_counted_and_kept, suppressed_and_expired,
                dead_letters_are_pending_until_buried, broken_takes_all_of_the_integration,
                broken_by_an_old_url_breaks_nothing, sent_wins_over_what_happened_meanwhile,
                only_what_waits_in_this_room_is_touched, room_state_and_throttles_come_back,
                rooms_that_settle_at_once_do_not_mix;
            letters: malformed_events_are_stored_whole, letters_go_oldest_first_and_leave_when_buried,
                large_letters_come_in_rounds,
                forgetting_spares_what_is_open, streaks_are_forgotten_when_no_run_came_for_long,
                gauges_tell_the_load;
            waits: what_gathers_says_until_when_and_for_what, a_place_in_line_says_what_keeps_it,
                what_has_ended_is_nowhere_and_what_is_given_up_in_the_outbox;
            lives: nothing_is_stranded_whatever_happens;
            registry: apply_adds_changes_and_leaves_alone, they_are_handed_out_one_by_one_as_they_are_listed, the_file_owns_what_it_holds, what_a_file_managed_that_is_gone_is_operators,
                what_an_operator_may_not_do, pausing_suppresses_what_waits, removing_suppresses_and_forgets,
                a_new_room_takes_the_line_along,
                a_room_that_rests_is_looked_at_again_after_a_change, a_new_room_knows_nothing_of_what_fails, a_new_url_lifts_a_suspension,
                resuming_tells_failing_streaks_anew, revisions_are_seen_through_every_handle,
                secrets_come_back_and_stay_hidden;
        );
    };
    // Of a store that hands rooms out at intake.
    (straight $backend:ident, $lab:expr) => {
        conformance!(@cases $backend, $lab,
            straight: nothing_overtakes_what_waits_in_a_room_that_was_told_so,
                what_was_told_so_counts_for_its_room_and_its_token,
                what_fails_waits_as_any_other, who_comes_later_comes_behind_it,
                it_keeps_its_place_among_those_of_its_batch,
                only_an_idle_and_open_room_and_what_stands_alone_is_told_straight,
                no_more_rooms_are_handed_out_than_asked_for, a_token_is_not_overdrawn_by_what_is_handed_out, a_room_that_gets_more_meanwhile_is_not_claimed_twice,
                a_change_of_its_integration_meanwhile_counts, who_is_moved_meanwhile_is_told_anew_what_fails,
                who_is_paused_meanwhile_was_told_all_the_same;
        );
    };
    // Of one that need not write first what it hands out.
    (unwritten $backend:ident, $lab:expr) => {
        conformance!(@cases $backend, $lab,
            straight: the_outcome_is_the_only_write, who_dies_meanwhile_has_taken_nothing_in,
                what_takes_long_is_written_down_and_its_room_stays_held,
                who_stops_waiting_for_what_takes_long_changes_nothing;
        );
    };
    // Of one that writes it first, since others use it too.
    (written $backend:ident, $lab:expr) => {
        conformance!(@cases $backend, $lab,
            straight: what_is_handed_out_is_written_and_its_room_is_held;
        );
    };
    (@cases $backend:ident, $lab:expr, $($area:ident: $($case:ident),+;)+) => {
        mod $backend {
            $(mod $area {
                $(#[tokio::test(flavor = "multi_thread")]
                async fn $case() {
                    super::super::$area::$case(&$lab).await;
                })+
            })+
        }
    };
}

conformance!(on_sqlite, crate::store::sqlite::SqliteLab::new());
conformance!(on_model, crate::store::model::ModelLab::new());
conformance!(on_postgres, crate::store::postgres::PostgresLab::new().await);
conformance!(straight straight_on_sqlite, crate::store::sqlite::SqliteLab::new());
conformance!(straight straight_on_model, crate::store::model::ModelLab::new());
conformance!(straight straight_on_shared_model, crate::store::model::ModelLab::shared());
conformance!(straight straight_on_postgres, crate::store::postgres::PostgresLab::new().await);
conformance!(unwritten unwritten_on_sqlite, crate::store::sqlite::SqliteLab::new());
conformance!(unwritten unwritten_on_model, crate::store::model::ModelLab::new());
conformance!(written written_on_shared_model, crate::store::model::ModelLab::shared());
conformance!(written written_on_postgres, crate::store::postgres::PostgresLab::new().await);
