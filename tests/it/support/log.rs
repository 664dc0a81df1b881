//! What the code under test logs on a test's own thread.
//!
//! One subscriber serves the whole program. With one for a test alone, a line that another thread reaches first
//! is taken for one that nobody wants, by all.

use std::cell::RefCell;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Once;

thread_local! {
    static CAUGHT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Has to come before the first line that a test wants to see, on whichever thread that is.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(|| Caught).finish();
        tracing::subscriber::set_global_default(subscriber).expect("no other subscriber for all threads");
    });
}

/// Keeps what this thread logs while it lives; the runtime of a test has no other thread.
pub struct Log(PhantomData<*const ()>);

impl Log {
    /// From now on.
    pub fn catch() -> Self {
        listen();
        CAUGHT.set(Some(Vec::new()));
        Self(PhantomData)
    }

    /// All until now.
    pub fn text(&self) -> String {
        CAUGHT
            .with_borrow(|caught| String::from_utf8_lossy(caught.as_deref().unwrap_or_default()).into_owned())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        CAUGHT.set(None);
    }
}

struct Caught;

impl Write for Caught {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        CAUGHT.with_borrow_mut(|caught| match caught {
            Some(caught) => caught.write(bytes),
            None => Ok(bytes.len()),
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
