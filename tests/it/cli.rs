//! Every verb through the real binary, as an operator has it: exact words, exit codes, a real RabbitMQ, and rooms
//! in a sandbox. Needs RabbitMQ.

mod bad_events;
mod bad_places;
mod check;
mod dead_letters;
mod explain;
mod integrations;
mod integrations_file;
mod publish;
mod run;
mod secrets;
mod usage;
