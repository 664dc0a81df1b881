//! Tokens' budgets across rooms: reserved when claimed, spent when settled.

use std::time::Duration;

use hipchat_notifier::domain::ids::TokenKey;
use hipchat_notifier::domain::pacing::{Budget, LimitHint};
use hipchat_notifier::ports::{ClaimTerms, ManagedBy, RoomLine, Then, TokenCalls, TokenGrant};

use super::lab::*;

/// Five calls in 5 minutes.
const FIVE: ClaimTerms =
    ClaimTerms { token_budget: Budget { messages: 5, per: Duration::from_secs(300) }, ..TERMS };

fn token() -> TokenKey {
    TokenKey::new("fingerprint-t")
}

/// Integrations `x` (room 11) and `y` (room 12) with one token.
async fn shared(lab: &dyn Lab) -> Desk {
    let desk = Desk(lab.worker().await.unwrap());
    let both = vec![definition("x", "11", "t"), definition("y", "12", "t")];
    desk.0.apply(both, ManagedBy::Operator, at(0)).await.unwrap();
    desk
}

async fn tell_n(desk: &Desk, who: &str, room_id: &str, n: usize, ms: i64) {
    for i in 0..n {
        desk.take(vec![decided(&format!("{who}{ms}-{i}"), ms, &[(who, room_id, tell(ms))])]).await;
    }
}

async fn claim(desk: &Desk, ms: i64) -> Vec<RoomLine> {
    desk.0.claim_rooms(FIVE, at(ms)).await.unwrap()
}

fn grant(line: &RoomLine) -> TokenGrant {
    line.tokens[&token()]
}

fn calls(n: u32) -> TokenCalls {
    TokenCalls { token: token(), calls: n, hint: LimitHint::default(), blocked_until: None }
}

async fn release(desk: &Desk, line: &RoomLine, ms: i64, spent: TokenCalls, sent_count: usize) {
    let done = all_sent(line, ms).into_iter().take(sent_count).collect();
    let mut s = settlement(line, ms, done, Then::Release { due: None });
    s.calls = vec![spent];
    desk.0.settle(s).await.unwrap();
}

pub async fn rooms_share_a_token(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 2, 0).await;
    let line = claim(&desk, 0).await.remove(0);
    assert_eq!(grant(&line), TokenGrant { calls: 2, opens_at: at(0) }, "what the line needs");
    release(&desk, &line, 1, calls(2), 2).await;

    tell_n(&desk, "x", "11", 9, 2).await;
    tell_n(&desk, "y", "12", 9, 2).await;
    let lines = claim(&desk, 3).await;
    let granted: Vec<u32> = lines.iter().map(|line| grant(line).calls).collect();
    assert_eq!(granted, [2, 1], "three are left of five, shared evenly");
    assert!(lines.iter().all(|line| grant(line).opens_at >= at(300_000)));
}

pub async fn reservations_of_others_are_respected(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 4, 0).await;
    let x = claim(&desk, 0).await.remove(0);
    assert_eq!(grant(&x).calls, 4);
    tell_n(&desk, "y", "12", 3, 1).await;
    let y = claim(&desk, 1).await.remove(0);
    assert_eq!(grant(&y), TokenGrant { calls: 1, opens_at: at(1_001) }, "others may give theirs back");
    // What is spent while holding leaves the reservation; the rest goes back on release.
    let mut held = settlement(&x, 2, vec![], Then::Hold);
    held.calls = vec![calls(1)];
    desk.0.settle(held).await.unwrap();
    release(&desk, &y, 3, calls(1), 1).await;
    let y = claim(&desk, 4).await.remove(0);
    assert_eq!(grant(&y).calls, 0, "two spent, three reserved");
    release(&desk, &x, 5, calls(0), 4).await;
    release(&desk, &y, 6, calls(0), 0).await;
    let y = claim(&desk, 7).await.remove(0);
    assert_eq!(grant(&y).calls, 2);
}

pub async fn spent_calls_count(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 6, 0).await;
    let line = claim(&desk, 0).await.remove(0);
    assert_eq!(grant(&line).calls, 5);
    release(&desk, &line, 1, calls(5), 5).await;
    let line = claim(&desk, 2).await.remove(0);
    let none = grant(&line);
    assert_eq!(none.calls, 0);
    assert!(none.opens_at >= at(300_000) && none.opens_at <= at(320_000), "{}", none.opens_at);
    release(&desk, &line, 3, calls(0), 0).await;
    let line = desk.0.claim_rooms(FIVE, none.opens_at).await.unwrap().remove(0);
    assert_eq!(grant(&line).calls, 1);
}

pub async fn the_servers_word_on_a_token_holds(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 9, 0).await;
    let line = claim(&desk, 0).await.remove(0);
    let hint = LimitHint { limit: Some(3), remaining: Some(2), reset_at: None };
    release(&desk, &line, 1, TokenCalls { hint, ..calls(1) }, 1).await;
    let line = claim(&desk, 2).await.remove(0);
    assert_eq!(grant(&line).calls, 2, "the server allows three");
    release(&desk, &line, 3, TokenCalls { blocked_until: Some(at(60_000)), ..calls(0) }, 0).await;
    let line = claim(&desk, 4).await.remove(0);
    assert_eq!(grant(&line), TokenGrant { calls: 0, opens_at: at(60_000) });
}

pub async fn a_lapsed_claims_calls_count_as_spent(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 4, 0).await;
    assert_eq!(grant(&claim(&desk, 0).await[0]).calls, 4);
    let line = claim(&desk, 30_000).await.remove(0);
    assert_eq!(grant(&line).calls, 1, "its holder may have made those four calls");
    release(&desk, &line, 30_001, calls(0), 0).await;
    let line = claim(&desk, 30_002).await.remove(0);
    assert_eq!(grant(&line).calls, 1, "they are spent, not merely reserved");
}

pub async fn a_claim_reserves_little(lab: &dyn Lab) {
    let desk = shared(lab).await;
    tell_n(&desk, "x", "11", 40, 0).await;
    let line = desk.claim_one(0).await;
    assert_eq!(line.waiting.len(), 40);
    assert_eq!(grant(&line), TokenGrant { calls: 16, opens_at: at(0) });
    // A holder that dies takes no more than that along.
    let mut line = desk.claim_one(30_000).await;
    assert_eq!(grant(&line), TokenGrant { calls: 16, opens_at: at(30_000) });
    // A room that may hear little reserves little.
    line.state.meter.record(Budget::ROOM, at(30_000), 27);
    release(&desk, &line, 30_001, calls(0), 0).await;
    assert_eq!(grant(&desk.claim_one(30_002).await).calls, 3);
}

pub async fn the_oldest_goes_first_when_a_token_opens(lab: &dyn Lab) {
    let desk = shared(lab).await;
    let one = ClaimTerms { token_budget: Budget { messages: 1, per: Duration::from_secs(300) }, ..TERMS };
    tell_n(&desk, "y", "12", 1, 0).await;
    tell_n(&desk, "x", "11", 1, 1).await;
    for ms in [2, 100] {
        // At 100 both are due at the same moment.
        let lines = desk.0.claim_rooms(one, at(ms)).await.unwrap();
        assert_eq!(lines.len(), 2);
        for line in lines {
            let calls = u32::from(line.room == room("12"));
            assert_eq!(grant(&line).calls, calls, "{} at {ms}", line.room);
            desk.settle(&line, ms, vec![], Then::Rest { until: at(100) }).await;
        }
    }
}
