//! How one part of the worker tells another that there is something to do.

use std::time::Duration;

use tokio::sync::{Notify, watch};

/// A bell that remembers one ring.
#[derive(Debug, Default)]
pub struct Bell(Notify);

impl Bell {
    /// Wakes whoever waits, or the next to wait.
    pub fn ring(&self) {
        self.0.notify_one();
    }

    /// Waits for a ring, but for `longest` at most: work that other processes make rings no bell here.
    pub async fn wait(&self, longest: Duration) {
        // A timeout is as good as a ring: in both cases the caller looks for work.
        let _ = tokio::time::timeout(longest, self.0.notified()).await;
    }
}

/// The request to stop, seen by every part.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<bool>);

/// Whoever holds this can ask all to stop.
#[derive(Debug)]
pub struct StopSwitch(watch::Sender<bool>);

impl StopSwitch {
    /// A switch and the first of its viewers.
    pub fn new() -> (Self, Stop) {
        let (switch, stop) = watch::channel(false);
        (Self(switch), Stop(stop))
    }

    /// Asks all to stop; more than once changes nothing.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

impl Stop {
    /// Whether stopping was asked for.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// The same as a plain channel, for adapters, which do not know this type: `true` asks to stop.
    pub fn receiver(&self) -> watch::Receiver<bool> {
        self.0.clone()
    }

    /// Returns when stopping is asked for, or when nobody is left who could ask.
    pub async fn wait(&mut self) {
        // An error means that the switch is gone, which is a request to stop as well.
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}
