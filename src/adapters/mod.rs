//! The concrete parts behind `ports`: broker, rooms, store, clock. Adapters never use each other or `worker`.

pub mod clock;
pub mod hipchat;
pub mod rabbitmq;
pub mod reconnect;
pub mod store;
pub mod tls;
