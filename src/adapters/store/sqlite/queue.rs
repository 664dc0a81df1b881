//! What is asked of a thread that owns a connection, and when it looks: at once for what is urgent, and for what can wait
//! after a little while, or together with what can't.
//!
//! A channel would wake the thread for each that can wait, only to see that there is nothing to do yet; and each wake
//! costs as much as several statements. This wakes it for what it has to do.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What can wait is written so long after what could wait before it was, at the earliest: each page is written once for
/// all that came meanwhile, and what can't wait seldom finds the writer busy with the disk.
const COMPANY: Duration = Duration::from_millis(2);

/// Between those who ask and the one thread that serves them.
pub struct Queue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    urgent: Vec<J>,
    /// Can wait.
    patient: Vec<J>,
    /// Nothing more will be asked.
    closed: bool,
    /// Nothing more will be served.
    abandoned: bool,
    thread: Thread,
}

/// What the thread that serves is about.
#[derive(PartialEq, Eq)]
enum Thread {
    Awake,
    /// Nothing is there to do.
    Asleep,
    /// Only what can wait is there, and it is looked at when its time comes.
    Dozing,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        let (urgent, patient) = (Vec::new(), Vec::new());
        let state = State { urgent, patient, closed: false, abandoned: false, thread: Thread::Awake };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<J> Queue<J> {
    /// Asks for `job`, which is dropped if nobody will serve it.
    pub fn push(&self, job: J, can_wait: bool) {
        let mut state = self.state();
        if state.abandoned {
            return;
        }
        let wakes = match state.thread {
            Thread::Awake => false,
            Thread::Asleep => true,
            Thread::Dozing => !can_wait,
        };
        let line = if can_wait { &mut state.patient } else { &mut state.urgent };
        line.push(job);
        if wakes {
            // Whoever asks next before it is up need not wake it again.
            state.thread = Thread::Awake;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Nothing more will be asked; what was is still served.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_one();
    }

    /// Nothing more will be served.
    pub fn abandon(&self) {
        let mut state = self.state();
        state.abandoned = true;
        let dropped = (std::mem::take(&mut state.urgent), std::mem::take(&mut state.patient));
        drop(state);
        drop(dropped);
    }

    /// Takes over what is asked, and sleeps until something has to be done. `false` if nothing ever will.
    pub fn receive(&self, waiting: &mut Waiting<J>) -> bool {
        let mut state = self.state();
        loop {
            waiting.urgent.extend(state.urgent.drain(..));
            waiting.patient.extend(state.patient.drain(..));
            waiting.closed = state.closed;
            if waiting.is_due() {
                state.thread = Thread::Awake;
                return true;
            }
            if waiting.closed {
                return false;
            }
            state = match waiting.patience() {
                None => {
                    state.thread = Thread::Asleep;
                    self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
                }
                Some(patience) => {
                    state.thread = Thread::Dozing;
                    let waited = self.changed.wait_timeout(state, patience);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread has taken over and not done.
pub struct Waiting<J> {
    urgent: VecDeque<J>,
    /// Can wait.
    patient: VecDeque<J>,
    /// Whether some of it is in the transaction under way.
    has_patient: bool,
    /// When the last transaction with some of it ended.
    latest: Option<Instant>,
    closed: bool,
}

impl<J> Default for Waiting<J> {
    fn default() -> Self {
        let (urgent, patient) = (VecDeque::new(), VecDeque::new());
        Self { urgent, patient, has_patient: false, latest: None, closed: false }
    }
}

impl<J> Waiting<J> {
    /// Whether something has to be done.
    pub fn is_due(&self) -> bool {
        !self.urgent.is_empty() || self.is_patient_due()
    }

    /// Whether what can wait has waited enough.
    pub fn is_patient_due(&self) -> bool {
        self.patience().is_some_and(|patience| self.closed || patience.is_zero())
    }

    /// How long what can wait still does, if there is any.
    fn patience(&self) -> Option<Duration> {
        let waited = || self.latest.map_or(COMPANY, |latest| latest.elapsed());
        (!self.patient.is_empty()).then(|| COMPANY.saturating_sub(waited()))
    }

    /// The next job of a transaction: what can wait comes after the others, if it is to be in it.
    pub fn next(&mut self, with_patient: bool) -> Option<J> {
        if let Some(job) = self.urgent.pop_front() {
            return Some(job);
        }
        let job = if with_patient { self.patient.pop_front()? } else { return None };
        self.has_patient = true;
        Some(job)
    }

    /// The transaction has ended.
    pub fn written(&mut self) {
        if std::mem::take(&mut self.has_patient) {
            self.latest = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::JoinHandle;

    use super::*;

    /// Whether a job can wait is the job.
    fn asked(jobs: &[bool]) -> Queue<bool> {
        let queue = Queue::default();
        jobs.iter().for_each(|can_wait| queue.push(*can_wait, *can_wait));
        queue
    }

    #[test]
    fn what_can_wait_waits_for_company_and_never_for_ever() {
        let queue = asked(&[true]);
        let mut waiting = Waiting::default();
        assert!(!waiting.is_due());
        assert!(queue.receive(&mut waiting));
        assert!(waiting.is_due(), "nothing was written lately");
        // Just now, however long this test takes.
        waiting.latest = Some(Instant::now() + Duration::from_secs(3_600));
        assert!(!waiting.is_due());
        [false, true].iter().for_each(|can_wait| queue.push(*can_wait, *can_wait));
        assert!(queue.receive(&mut waiting));
        assert_eq!(waiting.next(false), Some(false));
        assert_eq!(waiting.next(false), None, "what can wait does not make a transaction a written one");
        assert_eq!(waiting.next(true), Some(true), "and joins one that is");
        queue.close();
        assert!(queue.receive(&mut waiting), "nobody is left to wait for");
        assert_eq!(waiting.next(true), Some(true));
        assert!(!queue.receive(&mut waiting));
    }

    #[test]
    fn what_was_asked_before_it_is_closed_is_served() {
        let queue = asked(&[true, false, true]);
        queue.close();
        let mut waiting = Waiting::default();
        let mut served = 0;
        while queue.receive(&mut waiting) {
            while waiting.is_due() {
                served += usize::from(waiting.next(true).is_some());
                waiting.written();
            }
        }
        assert_eq!(served, 3);
    }

    /// A thread that takes one lot, and when it sleeps so.
    fn sleeper(
        queue: &Arc<Queue<bool>>,
        mut waiting: Waiting<bool>,
        how: Thread,
    ) -> JoinHandle<Waiting<bool>> {
        let theirs = Arc::clone(queue);
        let thread = std::thread::spawn(move || {
            theirs.receive(&mut waiting);
            waiting
        });
        while queue.state().thread != how {
            std::thread::yield_now();
        }
        thread
    }

    #[test]
    fn a_thread_without_work_is_woken_by_whatever_comes() {
        for can_wait in [false, true] {
            let queue = Arc::default();
            let thread = sleeper(&queue, Waiting::default(), Thread::Asleep);
            queue.push(can_wait, can_wait);
            assert_eq!(thread.join().unwrap().next(true), Some(can_wait));
        }
    }

    #[test]
    fn a_thread_that_waits_for_company_is_woken_by_what_is_urgent_alone() {
        let queue = Arc::new(asked(&[true]));
        let latest = Some(Instant::now() + Duration::from_secs(3_600));
        let thread = sleeper(&queue, Waiting { latest, ..Waiting::default() }, Thread::Dozing);
        queue.push(true, true);
        assert!(queue.state().thread == Thread::Dozing, "nobody woke it");
        queue.push(false, false);
        let mut waiting = thread.join().unwrap();
        let all: Vec<_> = std::iter::from_fn(|| waiting.next(true)).collect();
        assert_eq!(all, [false, true, true]);
    }

    #[test]
    fn what_nobody_serves_is_dropped() {
        let job = Arc::new(());
        let queue = Queue::default();
        queue.push(Arc::clone(&job), false);
        queue.abandon();
        queue.push(Arc::clone(&job), false);
        assert_eq!(Arc::strong_count(&job), 1);
    }
}
