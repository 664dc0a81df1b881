//! The simulation: a fixed slice of its seeds, that a seed gives one history, and that each broken promise is seen.
//! `scripts/simulate` runs any number.

mod model;
mod world;

use world::{History, Mutation, Options, Plan, StoreKind};

/// The seeds of every run of the tests.
const SLICE: u64 = 150;
/// A broken promise is seen within so many.
const SEEN_WITHIN: u64 = 600;

fn run(seed: u64, options: Options) -> History {
    world::run(Plan::draw(seed), options)
}

#[test]
fn a_slice_of_seeds_breaks_no_promise() {
    let mut figures = world::Figures::default();
    for seed in 0..SLICE {
        let history = run(seed, Options::default());
        assert!(
            history.faults.is_empty(),
            "scripts/simulate --seed {seed} --trace\n{}",
            history.faults.join("\n")
        );
        figures += history.figures;
    }
    // A slice in which nothing happens proves nothing.
    let enough =
        figures.crashes > 20 && figures.repeats > 10 && figures.letters > 100 && figures.straight > 10;
    assert!(enough, "{figures:?}");
}

#[test]
fn a_world_without_trouble_has_no_repeats() {
    for seed in 0..20 {
        let mut plan = Plan::draw(seed);
        for trouble in Plan::TROUBLES {
            assert!(plan.leave_out(trouble), "{trouble}");
        }
        let history = world::run(plan, Options::default());
        assert!(history.faults.is_empty(), "seed {seed}: {:?}", history.faults);
        let figures = history.figures;
        assert_eq!((figures.crashes, figures.freezes, figures.repeats), (0, 0, 0), "seed {seed}");
    }
}

#[test]
fn sqlite_and_the_model_give_the_same_histories() {
    let on = |store| Options { trace: true, store, ..Options::default() };
    // SQLite, which is one process's alone, never writes first what is told straight.
    let alike = |seed: &u64| {
        let plan = Plan::draw(*seed);
        !(plan.shared && plan.straight)
    };
    let tells_straight = |seed: &u64| run(*seed, Options::default()).figures.straight > 0;
    for seed in (0..12).filter(alike).chain((12..).filter(alike).filter(tells_straight).take(4)) {
        let (model, sqlite) = (run(seed, on(StoreKind::Model)), run(seed, on(StoreKind::Sqlite)));
        assert!(sqlite.faults.is_empty(), "seed {seed}: {:?}", sqlite.faults);
        for (n, (one, other)) in model.trace.iter().zip(&sqlite.trace).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {n}");
        }
        assert_eq!(model.figures, sqlite.figures, "seed {seed}");
    }
}

#[test]
fn a_seed_gives_one_history() {
    for seed in 0..40 {
        let traced = Options { trace: true, ..Options::default() };
        let (first, second) = (run(seed, traced), run(seed, traced));
        assert!(!first.trace.is_empty());
        for (n, (one, other)) in first.trace.iter().zip(&second.trace).enumerate() {
            assert_eq!(one, other, "seed {seed}, line {n}");
        }
        assert_eq!((first.figures, first.trace.len()), (second.figures, second.trace.len()), "seed {seed}");
    }
}

#[test]
fn every_broken_promise_is_seen() {
    let unseen: Vec<&str> = Mutation::ALL
        .iter()
        .filter(|mutation| {
            let options = Options { mutation: Some(**mutation), ..Options::default() };
            (0..SEEN_WITHIN).all(|seed| run(seed, options).faults.is_empty())
        })
        .map(|mutation| mutation.as_str())
        .collect();
    assert!(unseen.is_empty(), "not seen within {SEEN_WITHIN} seeds: {unseen:?}");
}
