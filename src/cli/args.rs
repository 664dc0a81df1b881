//! What the command line takes. Definitions only: the verbs are elsewhere.
//!
//! `--help` of each verb is its manual, with examples. Usage errors exit 2 (clap's own code).

mod help;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;

pub use values::{Limit, RoomGrant};

/// Posts Postman's monitor results and team activity from RabbitMQ to HipChat rooms.
#[derive(Debug, Parser)]
#[command(name = "hipchat-notifier", version, max_term_width = 100, after_help = help::TOP)]
#[command(propagate_version = true, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file (TOML). Without it, hipchat-notifier.toml in the current folder if there is one
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How something is listed or shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct OutputArgs {
    /// For people, or as one JSON document on stdout
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Output,
}

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    #[default]
    Human,
    Json,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the worker: consume, decide, deliver
    #[command(after_help = help::RUN)]
    Run,
    /// Bring the store's schema up to date; makes the store where there is none
    #[command(after_help = help::MIGRATE)]
    Migrate,
    /// Check configuration, broker and store, and with --rooms every room; posts nothing
    #[command(after_help = help::CHECK)]
    Check(CheckArgs),
    /// Validate events and publish them to the broker
    #[command(after_help = help::PUBLISH)]
    Publish(PublishArgs),
    /// List, show, apply, remove, pause, resume or test integrations
    #[command(subcommand, after_help = help::INTEGRATIONS)]
    Integrations(IntegrationsVerb),
    /// Say what became of an event, integration by integration, and why
    #[command(after_help = help::EXPLAIN)]
    Explain(ExplainArgs),
    /// Decide events as the worker would, with no broker, store or room
    #[command(after_help = help::SIMULATE)]
    Simulate(SimulateArgs),
    /// List, show, replay or discard what is in the dead-letter queue
    #[command(subcommand, after_help = help::DEAD_LETTERS)]
    DeadLetters(DeadLettersVerb),
    /// Print the JSON Schemas and the AsyncAPI document
    #[command(after_help = help::SCHEMA)]
    Schema(SchemaArgs),
    /// Run a HipChat v2 stand-in for trying things out
    #[command(after_help = help::SANDBOX)]
    Sandbox(SandboxArgs),
}

/// `check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Ask each integration's room too whether it would take messages (auth_test=true); nothing is posted
    #[arg(long)]
    pub rooms: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `publish`.
#[derive(Debug, Clone, Args)]
pub struct PublishArgs {
    /// Files with one event each, a JSON array of events, or one event a line; "-" is stdin
    #[arg(value_name = "FILES", required_unless_present = "newman")]
    pub files: Vec<PathBuf>,
    /// Make one event of a report that Newman's json reporter wrote
    #[arg(long, value_name = "REPORT", conflicts_with = "files")]
    pub newman: Option<PathBuf>,
    /// The Postman team the events are from
    #[arg(long, value_name = "TEAM")]
    pub team: Option<String>,
    /// The monitor that the Newman run counts for. Default: made of the collection's id
    #[arg(long, value_name = "UID", conflicts_with = "files")]
    pub monitor_uid: Option<String>,
    /// That monitor's name. Default: the collection's name
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    pub monitor_name: Option<String>,
    /// The event's id (message_id); only with a single event. Default: a new one for each
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Publish with this routing key instead of the one made from the event
    #[arg(long, value_name = "KEY")]
    pub routing_key: Option<String>,
    /// Publish each file as it is, whole and unread, as one event; to see what the worker says of it
    #[arg(long, requires = "routing_key", conflicts_with = "newman")]
    pub no_validate: bool,
    /// The events' content type; application/cloudevents+json for structured CloudEvents
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    pub content_type: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `integrations …`.
#[derive(Debug, Subcommand)]
pub enum IntegrationsVerb {
    /// List all integrations with their rooms and states
    #[command(after_help = help::INTEGRATIONS_LIST)]
    List(OutputArgs),
    /// Show one integration with all its fields; the room without its token
    #[command(after_help = help::INTEGRATIONS_SHOW)]
    Show(IntegrationArgs),
    /// Add or change the integrations of a file; others are left alone
    #[command(after_help = help::INTEGRATIONS_APPLY)]
    Apply(ApplyArgs),
    /// Remove an integration; what waits for its room ends as suppressed
    #[command(after_help = help::INTEGRATIONS_REMOVE)]
    Remove(RemoveArgs),
    /// Pause an integration: events for it are suppressed until it is resumed
    #[command(after_help = help::INTEGRATIONS_PAUSE)]
    Pause(IdArgs),
    /// Resume a paused or suspended integration
    #[command(after_help = help::INTEGRATIONS_RESUME)]
    Resume(IdArgs),
    /// Post a message that is marked as a test to the integration's room
    #[command(after_help = help::INTEGRATIONS_TEST)]
    Test(IdArgs),
}

/// One integration by id.
#[derive(Debug, Clone, Args)]
pub struct IdArgs {
    /// The integration's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// `integrations show`.
#[derive(Debug, Clone, Args)]
pub struct IntegrationArgs {
    #[command(flatten)]
    pub integration: IdArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `integrations apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// Integrations file (TOML); "-" is stdin
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `integrations remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    pub integration: IdArgs,
    /// Also if notifications still wait for its room
    #[arg(long)]
    pub yes: bool,
}

/// `explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The event's id: the message_id or the CloudEvents id it was published with
    #[arg(value_name = "EVENT_ID")]
    pub event_id: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    /// Integrations file (TOML)
    #[arg(long, value_name = "FILE")]
    pub integrations: PathBuf,
    /// Files with events, in the order in which they happen; "-" is stdin
    #[arg(value_name = "EVENTS", required = true)]
    pub events: Vec<PathBuf>,
    /// The Postman team the events are from, as far as they do not say it themselves
    #[arg(long, value_name = "TEAM")]
    pub team: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `dead-letters …`.
#[derive(Debug, Subcommand)]
pub enum DeadLettersVerb {
    /// Count the dead letters by reason and integration, or list each
    #[command(after_help = help::DEAD_LETTERS_LIST)]
    List(DeadLettersListArgs),
    /// Show one dead letter with its headers and body
    #[command(after_help = help::DEAD_LETTERS_SHOW)]
    Show(DeadLetterArgs),
    /// Put dead letters back into the work queue
    #[command(after_help = help::DEAD_LETTERS_REPLAY)]
    Replay(ReplayArgs),
    /// Remove dead letters for good
    #[command(after_help = help::DEAD_LETTERS_DISCARD)]
    Discard(DiscardArgs),
}

/// Which dead letters. All that is given must fit; nothing given means all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct LetterFilter {
    /// Only those with this reason
    #[arg(long, value_name = "REASON", value_parser = values::dead_letter_reasons())]
    pub reason: Option<String>,
    /// Only those of this integration
    #[arg(long, value_name = "ID")]
    pub integration: Option<String>,
    /// Only those of this event
    #[arg(long, value_name = "EVENT_ID")]
    pub event: Option<String>,
    /// Only those dead-lettered at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub since: Option<Timestamp>,
    /// Only those dead-lettered before this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    pub until: Option<Timestamp>,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// `dead-letters list`.
#[derive(Debug, Clone, Args)]
pub struct DeadLettersListArgs {
    /// List each dead letter instead of counting
    #[arg(long)]
    pub each: bool,
    #[command(flatten)]
    pub filter: LetterFilter,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `dead-letters show`.
#[derive(Debug, Clone, Args)]
pub struct DeadLetterArgs {
    /// The dead letter's id, as `dead-letters list --each` shows it
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Dead letters to be worked on: by filters, or by ids.
#[derive(Debug, Clone, Args)]
pub struct LetterSelection {
    /// Dead letters by id, as `dead-letters list --each` shows them. Without ids, the filters say which
    #[arg(
        value_name = "IDS",
        conflicts_with_all = ["reason", "integration", "event", "since", "until", "limit"]
    )]
    pub ids: Vec<String>,
    #[command(flatten)]
    pub filter: LetterFilter,
    /// Do it; without this, only the count is shown
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `dead-letters replay`.
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    #[command(flatten)]
    pub selection: LetterSelection,
    /// At most so many a second. Default: as fast as the broker takes them; rooms' budgets hold anyway
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// `dead-letters discard`.
#[derive(Debug, Clone, Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    pub selection: LetterSelection,
}

/// `schema`.
#[derive(Debug, Clone, Args)]
pub struct SchemaArgs {
    /// Which document; without a name, the AsyncAPI document
    #[arg(value_name = "NAME", conflicts_with = "list")]
    pub name: Option<String>,
    /// List the names
    #[arg(long)]
    pub list: bool,
}

/// `sandbox`.
#[derive(Debug, Clone, Args)]
pub struct SandboxArgs {
    /// Address and port to listen at; port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8330")]
    pub listen: SocketAddr,
    /// A room and a token that may post to it alone. Without any --room and --token, every room exists and
    /// takes every token
    #[arg(long = "room", value_name = "ID:TOKEN")]
    pub rooms: Vec<RoomGrant>,
    /// A token that may post to every room
    #[arg(long = "token", value_name = "TOKEN", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub tokens: Vec<String>,
    /// Messages to one room in a window, or "none"
    #[arg(long, value_name = "N/PER", default_value = "30/1m")]
    pub room_limit: Limit,
    /// Calls with one token in a window, or "none"
    #[arg(long, value_name = "N/PER", default_value = "500/5m")]
    pub token_limit: Limit,
    /// Allow --listen beyond loopback; whoever reaches the sandbox can read every message
    #[arg(long)]
    pub allow_remote: bool,
}

#[cfg(test)]
mod tests;
