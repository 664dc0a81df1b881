//! Runs seeds of the simulation on all cores; `scripts/simulate` builds and calls it. See docs/promises.md.

#[path = "../../tests/sim/model/mod.rs"]
mod model;
#[path = "../../tests/sim/world/mod.rs"]
mod world;

mod args;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser as _;

use args::Args;
use world::{Figures, History, Options, Plan};

/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let args = Args::parse();
    match args.seed {
        Some(seed) => replay(&args, seed),
        None => many(&args),
    }
}

fn plan(args: &Args, seed: u64) -> Plan {
    let mut plan = Plan::draw(seed);
    for trouble in &args.without {
        plan.leave_out(trouble);
    }
    plan.events = args.events.unwrap_or(plan.events);
    plan
}

fn run(plan: Plan, args: &Args, trace: bool) -> History {
    world::run(plan, Options { trace, mutation: args.mutation, store: args.store() })
}

/// One seed, told line by line.
fn replay(args: &Args, seed: u64) -> ExitCode {
    let history = run(plan(args, seed), args, args.trace);
    let mut out = std::io::stdout().lock();
    for line in &history.trace {
        // Whoever reads may have seen enough.
        if writeln!(out, "{line}").is_err() {
            break;
        }
    }
    println!("seed {seed}: {:?}", history.figures);
    for fault in &history.faults {
        println!("* {fault}");
    }
    if history.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What all threads have done.
struct Tally {
    next: AtomicU64,
    done: AtomicU64,
    stop: AtomicBool,
    figures: Mutex<Figures>,
    failed: Mutex<Vec<u64>>,
}

fn many(args: &Args) -> ExitCode {
    let tally = Tally {
        next: AtomicU64::new(args.from),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        figures: Mutex::default(),
        failed: Mutex::default(),
    };
    let end = args.from.saturating_add(args.seeds);
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get()));
    let began = Instant::now();
    std::thread::scope(|threads| {
        for _ in 0..jobs {
            threads.spawn(|| work(args, end, &tally));
        }
        report(args, &tally, began);
    });
    let figures = *tally.figures.lock().expect("nobody panics with it");
    let mut failed = tally.failed.into_inner().expect("nobody panics with it");
    failed.sort_unstable();
    println!("{}", line(tally.done.load(Ordering::Relaxed), began.elapsed(), &figures));
    for seed in failed.iter().take(args.shown) {
        shrink(args, *seed);
    }
    match failed.len() {
        0 => {
            println!("no promise was broken");
            ExitCode::SUCCESS
        }
        n => {
            println!("{n} seeds broke a promise");
            ExitCode::FAILURE
        }
    }
}

fn work(args: &Args, end: u64, tally: &Tally) {
    while !tally.stop.load(Ordering::Relaxed) {
        let seed = tally.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        let history = run(plan(args, seed), args, false);
        tally.done.fetch_add(1, Ordering::Relaxed);
        *tally.figures.lock().expect("nobody panics with it") += history.figures;
        if let Some(fault) = history.faults.first() {
            println!("seed {seed}: {fault}");
            let mut failed = tally.failed.lock().expect("nobody panics with it");
            failed.push(seed);
            if failed.len() >= args.failures {
                tally.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// A line now and then, until all is done.
#[expect(
    clippy::disallowed_methods,
    reason = "this thread has nothing else to do, and there is no runtime on it"
)]
fn report(args: &Args, tally: &Tally, began: Instant) {
    let mut told = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let done = tally.done.load(Ordering::Relaxed);
        if done >= args.seeds || tally.stop.load(Ordering::Relaxed) {
            return;
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let figures = *tally.figures.lock().expect("nobody panics with it");
            println!("{}", line(done, began.elapsed(), &figures));
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn line(seeds: u64, took: Duration, figures: &Figures) -> String {
    let Figures { events, notifications, messages, straight, letters, crashes, freezes, repeats, lasted } =
        figures;
    format!(
        "{seeds} seeds in {:.0} s ({:.0} a minute): {events} events, {notifications} notifications, {messages} messages ({straight} straight), \
         {letters} letters, {crashes} crashes, {freezes} freezes, {repeats} repeats explained, {:.0} h simulated",
        took.as_secs_f64(),
        seeds as f64 / took.as_secs_f64() * 60.0,
        *lasted as f64 / 3_600_000.0,
    )
}

/// Finds what can be left out with a fault still there, and says how to replay the rest.
fn shrink(args: &Args, seed: u64) {
    let fails = |without: &[&str], events: usize| {
        let mut plan = plan(args, seed);
        for name in without {
            plan.leave_out(name);
        }
        plan.events = events;
        run(plan, args, false).faults.into_iter().next()
    };
    let mut without: Vec<&str> = args.without.iter().map(String::as_str).collect();
    let mut events = plan(args, seed).events;
    for trouble in Plan::TROUBLES {
        without.push(trouble);
        if fails(&without, events).is_none() {
            without.pop();
        }
    }
    for fewer in (1..events).rev() {
        if fails(&without, fewer).is_some() {
            events = fewer;
        }
    }
    let fault = fails(&without, events).unwrap_or_default();
    let without = without.join(",");
    let mutation = args.mutation.map_or_else(String::new, |m| format!(" --mutation {}", m.as_str()));
    println!(
        "* seed {seed}: {fault}\n  scripts/simulate --seed {seed} --trace\n  smaller: scripts/simulate --seed {seed} \
         --without {without} --events {events}{mutation} --trace"
    );
}
