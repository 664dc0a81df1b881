//! Runs real Newman against a small server of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};

/// What `scripts/newman` says when Newman can't be had.
const MISSING: i32 = 69;

/// A report and what a room must hear of it.
pub struct Report {
    pub file: PathBuf,
    pub passed: u32,
    pub failed: u32,
    pub requests: u32,
    collection: String,
    /// The request and the test that failed, and how.
    failure: Option<(&'static str, &'static str)>,
}

impl Report {
    /// What the html message says.
    pub fn figures(&self) -> Vec<String> {
        let mut parts = vec![
            format!("failed: {} of {} tests", self.failed, self.passed + self.failed),
            format!("Passed {} · <b>Failed {}</b> · Errors 0", self.passed, self.failed),
            format!("Requests {}", self.requests),
        ];
        parts.extend(self.failure.map(|(request, test)| format!("<b>{request}</b> · {test}")));
        parts
    }

    /// What the page says, which draws the message's card.
    pub fn shown(&self) -> Vec<String> {
        let failed = match self.failed {
            0 => "<span>0</span>".to_owned(),
            some => format!("<span class=\"lozenge lozenge-error\">{some}</span>"),
        };
        let mut parts = vec![
            format!("<dt>Passed</dt><dd><span>{}</span>", self.passed),
            format!("<dt>Failed</dt><dd>{failed}"),
            format!("<dt>Requests</dt><dd><span>{}</span>", self.requests),
        ];
        parts.extend(self.failure.map(|(request, test)| format!("{request} · {test}")));
        parts
    }

    pub fn monitor_uid(&self) -> String {
        format!("newman-{}", self.collection)
    }
}

/// A run in which one of five tests fails, or, without Newman, the report of such a run of four.
pub async fn failed_run(folder: &Path) -> Report {
    let file = folder.join("failed.json");
    let failure = Some(("Get order", "order exists"));
    if run(folder, &file, &[]).await {
        let collection = COLLECTION.to_owned();
        return Report { file, passed: 4, failed: 1, requests: 2, collection, failure };
    }
    println!(
        "Newman is missing (scripts/newman): the report of an earlier run, demo/newman-run.json, was used"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/newman-run.json");
    let collection = "0b6d0f3e-1111-4a6a-9a53-0d4b6c1b8f10".to_owned();
    Report { file, passed: 3, failed: 1, requests: 3, collection, failure }
}

/// A run of the same collection in which all tests pass; `None` without Newman.
pub async fn passed_run(folder: &Path) -> Option<Report> {
    let file = folder.join("passed.json");
    let made = run(folder, &file, &["--folder", "Carts"]).await;
    let collection = COLLECTION.to_owned();
    made.then_some(Report { file, passed: 3, failed: 0, requests: 1, collection, failure: None })
}

const COLLECTION: &str = "4d2f7b1c-2222-4b6a-8a53-1c4b6c1b8f20";

/// Runs Newman on the collection; false if it can't be had.
async fn run(folder: &Path, report: &Path, options: &[&str]) -> bool {
    let app = axum::Router::new()
        .route("/carts", get(|| async { axum::Json(json!({"items": [1, 2, 3]})) }))
        .fallback(|| async { StatusCode::NOT_FOUND });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("base=http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let file = folder.join("collection.json");
    std::fs::write(&file, collection().to_string()).unwrap();
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/newman"));
    command.arg("run").arg(&file).args(["--env-var", &base]);
    command.args(["--reporters", "json", "--reporter-json-export"]).arg(report).args(options);
    let output: Output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    server.abort();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // Newman exits 1 when a test has failed, which is what one of the runs is for.
    match output.status.code() {
        Some(MISSING) => {
            println!("{said}");
            return false;
        }
        Some(0 | 1) => assert!(report.is_file(), "Newman wrote no report: {said}"),
        other => panic!("Newman ended with {other:?}: {said}"),
    }
    true
}

fn collection() -> Value {
    json!({
        "info": {
            "_postman_id": COLLECTION,
            "name": "Checkout <API> & more",
            "schema": "https://schema.getpostman.com/json/collection/v2.1.0/collection.json",
        },
        "item": [
            {"name": "Carts", "item": [request("List carts", "carts", &[
                "pm.test('status is 200', () => pm.response.to.have.status(200));",
                "pm.test('is JSON', () => pm.response.to.be.json);",
                "pm.test('has 3 items', () => pm.expect(pm.response.json().items.length).to.eql(3));",
            ])]},
            {"name": "Orders", "item": [request("Get order", "orders/7", &[
                "pm.test('answers', () => pm.expect(pm.response.code).to.be.above(99));",
                "pm.test('order exists', () => pm.response.to.have.status(200));",
            ])]},
        ],
    })
}

fn request(name: &str, path: &str, tests: &[&str]) -> Value {
    json!({
        "name": name,
        "request": {"method": "GET", "url": format!("{{{{base}}}}/{path}")},
        "event": [{"listen": "test", "script": {"type": "text/javascript", "exec": tests}}],
    })
}
