//! What goes wrong, when, and to whom: drawn from a seed and from nothing else. Several lanes run at once, so that
//! troubles meet; within a lane one follows the other.

use std::time::Duration;

use fastrand::Rng;

use super::terms::{LEASE, Terms};
use super::trouble::{Fails, Strike, Trouble};

/// What befalls one part of the whole.
pub type Lane = Vec<Strike>;

/// All lanes of a run.
pub fn draw(terms: Terms, disk: bool) -> Vec<Lane> {
    let shared = terms.setting.is_shared();
    let nodes = terms.setting.nodes();
    // By the lane: the least and the most time between two, and how one of each kind is drawn.
    let mut lanes: Vec<(u64, u64, Vec<Draw>)> = vec![
        (2_000, 9_000, vec![kill, freeze, kill_twice, freeze_and_kill, replace]),
        (
            4_000,
            15_000,
            if shared {
                vec![cut_broker, stall_broker, cut_store, stall_store]
            } else {
                vec![cut_broker, stall_broker]
            },
        ),
        (8_000, 30_000, vec![kill_leader, restart_node, block_publishers]),
        (2_000, 12_000, vec![status, limits, late, hangs_up, hangs_up_after, status_after, silence]),
    ];
    let mut store: Vec<Draw> = Vec::new();
    if shared {
        store.extend([restart_store as Draw, kill_store]);
    }
    if disk {
        store.push(fill_disk);
    }
    if !store.is_empty() {
        lanes.push((8_000, 25_000, store));
    }
    let lane = |(n, (least, most, kinds)): (usize, (u64, u64, Vec<Draw>))| {
        let mut rng = Rng::with_seed(terms.seed.wrapping_mul(31).wrapping_add(n as u64));
        let (mut strikes, mut at, mut bag) = (Lane::new(), Duration::ZERO, Vec::new());
        loop {
            at += Duration::from_millis(rng.u64(least..most));
            if at >= terms.lasts {
                return strikes;
            }
            // Each kind once before any comes again.
            if bag.is_empty() {
                bag.clone_from(&kinds);
                rng.shuffle(&mut bag);
            }
            let draw = bag.pop().expect("just filled");
            let trouble = draw(&mut rng, nodes);
            let whom = rng.usize(..terms.setting.workers());
            strikes.push(Strike { at, whom, trouble: trouble.clone() });
            at += trouble.lasts();
        }
    };
    lanes.into_iter().enumerate().map(lane).collect()
}

/// Draws one of a kind, for so many nodes.
type Draw = fn(&mut Rng, usize) -> Trouble;

fn seconds(rng: &mut Rng, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(least + rng.f64() * (most - least))
}

fn kill(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::Kill { away: seconds(rng, 0.0, 2.0), again: None }
}

fn kill_twice(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::Kill { away: seconds(rng, 1.0, 4.0), again: Some(seconds(rng, 0.05, 0.5)) }
}

fn freeze(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::Freeze { lasts: LEASE + seconds(rng, 0.5, 4.0), killed: None }
}

fn freeze_and_kill(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::Freeze { lasts: seconds(rng, 1.0, 6.0), killed: Some(seconds(rng, 0.0, 0.1)) }
}

fn replace(_: &mut Rng, _: usize) -> Trouble {
    Trouble::Replace
}

fn cut_broker(_: &mut Rng, _: usize) -> Trouble {
    Trouble::CutBroker
}

fn stall_broker(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::StallBroker { lasts: seconds(rng, 1.0, 12.0) }
}

fn cut_store(_: &mut Rng, _: usize) -> Trouble {
    Trouble::CutStore
}

/// For a moment, or for longer than a lease.
fn stall_store(rng: &mut Rng, _: usize) -> Trouble {
    let lasts = if rng.bool() { seconds(rng, 0.5, 2.0) } else { LEASE + seconds(rng, 0.5, 4.0) };
    Trouble::StallStore { lasts }
}

fn kill_leader(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::KillLeader { away: seconds(rng, 0.0, 8.0) }
}

fn restart_node(rng: &mut Rng, nodes: usize) -> Trouble {
    Trouble::RestartNode { node: rng.usize(1..=nodes) }
}

fn block_publishers(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::BlockPublishers { lasts: seconds(rng, 2.0, 10.0) }
}

fn restart_store(_: &mut Rng, _: usize) -> Trouble {
    Trouble::RestartStore
}

fn kill_store(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::KillStore { away: seconds(rng, 0.0, 12.0), with_worker: rng.bool() }
}

fn fill_disk(rng: &mut Rng, _: usize) -> Trouble {
    Trouble::FillDisk { lasts: seconds(rng, 2.0, 8.0), with_worker: rng.bool() }
}

/// Of all rooms, or of every third.
fn rooms(rng: &mut Rng, fails: Fails) -> Trouble {
    let lasts = seconds(rng, 2.0, 10.0);
    Trouble::Rooms { fails, lasts, only: rng.bool().then(|| rng.usize(..3)) }
}

fn status(rng: &mut Rng, _: usize) -> Trouble {
    let status = [408, 500, 502, 503][rng.usize(..4)];
    rooms(rng, Fails::Status(status))
}

fn limits(rng: &mut Rng, _: usize) -> Trouble {
    let wait = rng.u64(1..=3);
    rooms(rng, Fails::Limits(wait))
}

fn late(rng: &mut Rng, _: usize) -> Trouble {
    let millis = rng.u64(500..2_500);
    rooms(rng, Fails::Late(millis))
}

fn hangs_up(rng: &mut Rng, _: usize) -> Trouble {
    rooms(rng, Fails::HangsUp)
}

fn hangs_up_after(rng: &mut Rng, _: usize) -> Trouble {
    rooms(rng, Fails::HangsUpAfter)
}

fn status_after(rng: &mut Rng, _: usize) -> Trouble {
    rooms(rng, Fails::StatusAfter(504))
}

fn silence(rng: &mut Rng, _: usize) -> Trouble {
    rooms(rng, Fails::Silence)
}

#[test]
fn a_seed_gives_one_schedule_with_every_kind_of_trouble() {
    use std::collections::BTreeSet;

    use super::terms::Setting;

    let terms = |seed| Terms { lasts: Duration::from_secs(300), setting: Setting::Postgres, seed };
    assert_eq!(draw(terms(1), true), draw(terms(1), true));
    assert_ne!(draw(terms(1), true), draw(terms(2), true));
    for seed in 0..50 {
        let lanes = draw(terms(seed), true);
        let kinds: BTreeSet<&str> = lanes.iter().flatten().map(|strike| strike.trouble.kind()).collect();
        assert_eq!(kinds.len(), 14, "seed {seed}: {kinds:?}");
        for lane in lanes {
            assert!(
                lane.windows(2).all(|two| two[0].at + two[0].trouble.lasts() < two[1].at),
                "one after the other"
            );
        }
    }
}
