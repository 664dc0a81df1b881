//! Sockets, routes and shutdown.

use std::future::{Future, IntoFuture};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::SandboxOptions;
use super::connection::{Door, Scissors};
use super::faults::Faults;
use super::rooms::Rooms;
use super::validate::Validator;
use super::{calls, control, page};

/// How long calls in flight are waited for at the end.
const GRACE: Duration = Duration::from_secs(1);

/// What all calls share.
pub(super) struct Shared {
    pub(super) rooms: Rooms,
    pub(super) faults: Faults,
    pub(super) validator: Validator,
    stop: watch::Receiver<bool>,
}

impl Shared {
    /// Done once the sandbox is shutting down. What would go on for ever ends with it.
    pub(super) async fn closing(&self) {
        // An error means that the server is gone, which is the same.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v2", any(calls::answer))
        .route("/v2/{*rest}", any(calls::answer))
        .route("/", get(page::show))
        .route("/sandbox/page.css", get(page::style))
        .route("/sandbox/page.js", get(page::script))
        .route("/sandbox/rooms", get(control::rooms))
        .route("/sandbox/rooms/{room}/messages", get(control::messages))
        .route("/sandbox/transcript", get(control::transcript))
        .route("/sandbox/messages", axum::routing::delete(control::clear))
        .route("/sandbox/attempts", get(control::attempts))
        .route("/sandbox/events", get(control::events))
        .route(
            "/sandbox/faults",
            get(control::faults)
                .put(control::replace_faults)
                .post(control::add_faults)
                .delete(control::clear_faults),
        )
        .with_state(shared)
}

/// Serves on the listener until `shutdown` is done.
pub(super) async fn serve(
    listener: TcpListener,
    options: &SandboxOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopped) = watch::channel(false);
    let shared = Arc::new(Shared {
        rooms: Rooms::new(options),
        faults: Faults::default(),
        validator: Validator::new(),
        stop: stopped.clone(),
    });
    let service = router(shared).into_make_service_with_connect_info::<Scissors>();
    let signal = async move {
        shutdown.await;
        stop.send_replace(true);
    };
    let overdue = async move {
        let mut stopped = stopped;
        let _ = stopped.wait_for(|stop| *stop).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = axum::serve(Door(listener), service).with_graceful_shutdown(signal).into_future() => served,
        () = overdue => Ok(()),
    }
}
