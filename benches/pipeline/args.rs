//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::peer::Peer;

/// Measures the worker beside bare loops on the RabbitMQ of NOTIFIER__AMQP__URL and the PostgreSQL of
/// NOTIFIER_TEST_POSTGRES.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Events of each throughput run
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub events: u32,
    /// Runs of each row, interleaved; the median is shown with the lowest and the highest
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Rooms, each with one integration and one monitor
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rooms: u32,
    /// How long each latency run publishes; the first fifth is left out
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(2..))]
    pub latency_seconds: u32,
    /// How long one worker has to work in the scaled rows; each row has as much for each of its workers
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub scaled_seconds: u32,
    /// Integrations of the backlog row, each with a room of its own
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1_000..))]
    pub backlog_rooms: u32,
    /// Notifications that wait in the backlog row
    #[arg(long, default_value_t = 1_000_000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(10_000..))]
    pub backlog: u32,
    /// Only these rows
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ROWS")]
    pub only: Vec<Row>,
    /// Beside them, what others would write or pick (node, aio-pika, celery), and the bare post loop
    #[arg(long)]
    pub peers: bool,
    /// The worker's log level; its log goes to a file
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
    /// The binary to measure. Default: the one that cargo has built with this benchmark
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_hipchat-notifier"))]
    pub worker: PathBuf,
    /// One JSON document with every run's figures
    #[arg(long)]
    pub json: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    pub bench: bool,
    #[command(subcommand)]
    pub role: Option<Role>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Bare loop: consume, parse, acknowledge
    Parse,
    /// Worker: every event is a success after a success
    Suppressed,
    /// The same on PostgreSQL
    SuppressedPostgres,
    /// Bare loop: consume, post, acknowledge
    Post,
    /// Worker: every event is told, to the sink
    Sent,
    /// The same on PostgreSQL
    SentPostgres,
    /// Worker: every event is told, to the sandbox with its validation
    Sandbox,
    /// Peer: Node with amqplib and undici, to the sink; only with --peers or by name, as all peers
    Node,
    /// Peer: Python with aio-pika, aiohttp and uvloop
    AioPika,
    /// Peer: a Celery task with requests, of a tenth of the events or of 10,000
    Celery,
    /// Bare post loop and worker at 100 and at 1,000 events a second
    Latency,
    /// One, two and four workers on PostgreSQL, to rooms that answer after 100 ms
    Scaled,
    /// Claims from a short and a long backlog on PostgreSQL with their plans, and a worker on the long one; once,
    /// whatever --runs says
    Backlog,
}

impl Row {
    /// Rows in the order of one round.
    pub const ALL: [Self; 13] = [
        Self::Parse,
        Self::Suppressed,
        Self::SuppressedPostgres,
        Self::Post,
        Self::Sent,
        Self::SentPostgres,
        Self::Sandbox,
        Self::Node,
        Self::AioPika,
        Self::Celery,
        Self::Latency,
        Self::Scaled,
        Self::Backlog,
    ];

    /// The peer that it measures, if it does.
    pub fn peer(self) -> Option<Peer> {
        match self {
            Self::Node => Some(Peer::Node),
            Self::AioPika => Some(Peer::AioPika),
            Self::Celery => Some(Peer::Celery),
            _ => None,
        }
    }
}

impl Args {
    /// What is asked for, in the order of one round.
    pub fn rows(&self) -> Vec<Row> {
        let asked = |row: &Row| match row.peer() {
            Some(_) => self.peers,
            // The peers' ceiling.
            None => self.only.is_empty() || (self.peers && *row == Row::Post),
        };
        Row::ALL.into_iter().filter(|row| self.only.contains(row) || asked(row)).collect()
    }
}

/// What a child process of this program is for.
#[derive(Debug, Subcommand)]
pub enum Role {
    #[command(hide = true)]
    Bare(BareArgs),
}

/// A bare loop.
#[derive(Debug, ClapArgs)]
pub struct BareArgs {
    #[arg(long)]
    pub queue: String,
    /// How many events there are: the last of them does not wait for a full batch.
    #[arg(long)]
    pub events: u64,
    /// Post here; without it, parse.
    #[arg(long)]
    pub post_to: Option<String>,
}
