//! hipchat-notifier: a worker that takes Postman's finished monitor runs and team activity from RabbitMQ and
//! posts clear, colour-coded messages to HipChat rooms.
//!
//! # The tour of one event
//!
//! A producer publishes a finished run to the exchange `postman.events`; the broker puts it into
//! `hipchat.events`.
//!
//! 1. [`adapters::rabbitmq`] has a session with the broker. It hands small batches of deliveries, as
//!    [`Received`](domain::envelope::Received) envelopes, to [`worker::intake`], and acknowledges a batch when
//!    intake says that it is durable.
//! 2. Intake ([`worker::batch`]) reads each envelope with [`formats::read_event`] into a
//!    [`domain::event::Event`]. What can't be read becomes a letter for the dead-letter queue.
//!    [`worker::catalogue`] says which integrations want the event.
//! 3. Inside one transaction of the store ([`ports::Store::take_in`]) the streaks are gathered,
//!    [`domain::intake`] decides for each integration by [`domain::frequency`] or [`domain::activity`], and
//!    outcomes, pending notifications and streaks are written. Now the batch is durable, and is acknowledged.
//!    A room that is idle and within its budgets may be told straight from here, without being claimed first
//!    ([`ports::Store::take_in_telling`], [`worker::handover`]).
//! 4. [`worker::dispatch`] claims the room, which is due. For the room's line, [`domain::line::next_step`]
//!    chooses: one notification alone, several in one digest, or to wait until a time that the store keeps.
//!    Budgets are metered by [`domain::pacing`].
//! 5. [`domain::message`] writes the message; [`adapters::hipchat`] posts it and classifies the answer.
//! 6. [`domain::delivery::after`] turns the answer into named transitions: sent, attempted, broken, … The store
//!    applies them in one transaction, and [`worker::room`] goes on with the line.
//! 7. What is given up waits in the store's outbox until [`worker::burial`] has it confirmed in
//!    `hipchat.dead-letters`.
//!
//! `explain EVENT_ID` reads what all this left in the journal. [`app`] joins the parts, [`cli`] has the verbs.
//! With a shared store all this is spread over any
//! number of workers; [`adapters::store::postgres`] says how they act as one. `ARCHITECTURE.md` says what each module must never do.

pub mod domain;

pub mod formats;
pub mod ports;

pub mod worker;

pub mod adapters;
pub mod http;
pub mod metrics;

pub mod app;
pub mod cli;
mod files;
pub mod settings;
pub mod telemetry;

pub mod sandbox;
