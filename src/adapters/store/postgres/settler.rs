//! Gathers what rooms settle while a settlement is under way: all of it goes into the next transaction, so that 64
//! rooms that settle at once cost three round trips and one commit.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::errors::repeat;
use super::link::{Link, in_transaction};
use super::locks::Keys;
use super::settle;
use crate::ports::{Settled, Settlement, StoreError};

/// Settlements at most in one transaction: enough for every room that is usually in flight, and a bound on how long
/// the first of them waits.
const GROUP: usize = 256;

/// One settlement on its way, and whoever waits for it.
struct Job {
    settlement: Settlement,
    answer: oneshot::Sender<Result<Settled, StoreError>>,
}

/// The task that settles. It ends when this is dropped and all that was queued is answered.
pub struct Settler {
    jobs: mpsc::UnboundedSender<Job>,
    name: String,
}

impl Settler {
    /// Starts the task.
    pub fn start(link: Arc<Link>, keys: Keys) -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let name = link.name().to_owned();
        tokio::spawn(async move {
            let mut group = Vec::new();
            while queue.recv_many(&mut group, GROUP).await > 0 {
                while !group.is_empty() {
                    let part = of_different_rooms(&mut group);
                    settle_together(&link, &keys, part).await;
                }
            }
        });
        Self { jobs, name }
    }

    /// Queues a settlement and waits until it is committed. Once queued it is done, even if the caller goes away.
    pub async fn settle(&self, settlement: Settlement) -> Result<Settled, StoreError> {
        let (answer, answered) = oneshot::channel();
        let closed = || StoreError::Unavailable(format!("store {} is closed", self.name));
        self.jobs.send(Job { settlement, answer }).map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }
}

/// Takes from `group` the first settlement of each room. A second one of a room rests on what the first does.
fn of_different_rooms(group: &mut Vec<Job>) -> Vec<Job> {
    let mut seen = HashSet::new();
    let (first, rest) = group.drain(..).partition(|job| seen.insert(job.settlement.room.clone()));
    *group = rest;
    first
}

async fn settle_together(link: &Link, keys: &Keys, group: Vec<Job>) {
    let batch: Vec<&Settlement> = group.iter().map(|job| &job.settlement).collect();
    let settled = in_transaction!(link, true, |tx| settle::settle(tx, keys, &batch));
    match settled {
        Ok(settled) => {
            for (job, settled) in group.into_iter().zip(settled) {
                // Whoever asked may have gone; the work stands all the same.
                let _ = job.answer.send(Ok(settled));
            }
        }
        Err(error @ StoreError::Unavailable(_)) => {
            for job in group {
                let _ = job.answer.send(Err(repeat(&error)));
            }
        }
        // One of them is at fault: alone it fails alone.
        Err(_) => {
            for job in group {
                let one = [&job.settlement];
                let settled = in_transaction!(link, true, |tx| settle::settle(tx, keys, &one));
                let _ = job.answer.send(settled.map(|settled| settled[0]));
            }
        }
    }
}
