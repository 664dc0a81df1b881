//! The runner's command line.

use clap::Parser;

use crate::world::{Mutation, Plan, StoreKind};

/// Runs the worker in a simulated world, seed by seed, and fails if a promise is broken.
#[derive(Debug, Parser)]
#[command(name = "simulate", after_help = EXAMPLES)]
pub struct Args {
    /// How many seeds
    #[arg(long, default_value_t = 10_000)]
    pub seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// One seed alone
    #[arg(long)]
    pub seed: Option<u64>,
    /// Show what happens in it, line by line
    #[arg(long, requires = "seed")]
    pub trace: bool,
    /// Kinds of trouble to leave out
    #[arg(long, value_delimiter = ',', value_parser = Plan::TROUBLES.to_vec())]
    pub without: Vec<String>,
    /// Events to publish, where a seed should have fewer
    #[arg(long)]
    pub events: Option<usize>,
    /// A promise to break on purpose
    #[arg(long, value_parser = mutation)]
    pub mutation: Option<Mutation>,
    /// The real SQLite store instead of the model; slower
    #[arg(long)]
    pub sqlite: bool,
    /// Threads; as many as there are cores if not given
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Stop after so many seeds that break a promise
    #[arg(long, default_value_t = 5)]
    pub failures: usize,
    /// Of how many of them to look for a smaller form
    #[arg(long, default_value_t = 3)]
    pub shown: usize,
    /// Given by cargo, and without meaning here
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// Which store the worlds have.
    pub fn store(&self) -> StoreKind {
        if self.sqlite { StoreKind::Sqlite } else { StoreKind::Model }
    }
}

const EXAMPLES: &str = "Examples:
  scripts/simulate --seeds 1000000
  scripts/simulate --seed 4711 --trace
  scripts/simulate --seeds 1000 --mutation no-fencing";

fn mutation(name: &str) -> Result<Mutation, String> {
    let names = || Mutation::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", ");
    let found = Mutation::ALL.iter().find(|m| m.as_str() == name);
    found.copied().ok_or_else(|| format!("there are: {}", names()))
}
