//! Which store the world has: the model, or the real SQLite store on a file in memory. Either answers before anything
//! else happens.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use hipchat_notifier::adapters::store::cipher::Cipher;
use hipchat_notifier::adapters::store::sqlite::{Role, SqliteStore};
use hipchat_notifier::ports::Storage;
use tempfile::TempDir;

use crate::model::{Flaws, ModelStore};

/// The kinds there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StoreKind {
    #[default]
    Model,
    Sqlite,
}

/// The store of one world.
pub enum Backend {
    Model(Arc<ModelStore>),
    /// `None` only while it is opened anew.
    Sqlite(TempDir, Mutex<Option<Arc<SqliteStore>>>),
}

impl Backend {
    /// One that is `shared` can only be the model.
    pub fn new(kind: StoreKind, flaws: Flaws, shared: bool) -> Self {
        match kind {
            StoreKind::Model => Self::Model(Arc::new(ModelStore::new(flaws, shared))),
            StoreKind::Sqlite => {
                let folder =
                    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder");
                let store = open(&folder);
                Self::Sqlite(folder, Mutex::new(Some(store)))
            }
        }
    }

    pub fn get(&self) -> Arc<dyn Storage> {
        match self {
            Self::Model(store) => store.clone(),
            Self::Sqlite(_, store) => {
                store.lock().unwrap_or_else(PoisonError::into_inner).clone().expect("it is open")
            }
        }
    }

    /// What the only worker does at its start: opens the store anew, and the claims of an earlier one are void.
    pub fn restart(&self) {
        match self {
            Self::Model(store) => store.void_claims(),
            Self::Sqlite(folder, store) => {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                *store = None;
                *store = Some(open(folder));
            }
        }
    }
}

fn open(folder: &TempDir) -> Arc<SqliteStore> {
    let cipher = Cipher::from_hex("5".repeat(64).as_bytes(), "the simulation".to_owned()).expect("a key");
    SqliteStore::open(&folder.path().join("store.db"), Role::Worker, cipher).expect("a store")
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What a call of the store gives. Nothing else happens meanwhile: a clock that is paused stands still while its thread
/// is busy.
pub fn at_once<T>(call: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut call, mut context) = (pin!(call), Context::from_waker(&waker));
    loop {
        match call.as_mut().poll(&mut context) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}
