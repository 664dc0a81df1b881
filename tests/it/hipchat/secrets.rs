//! No token in anything that people or machines get to see, over every kind of failure.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::level_filters::LevelFilter;

use super::*;

/// Collects log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Every way in which a call can end, each by a server that tells the token wherever it can.
fn replies() -> Vec<Reply> {
    let echoes = [
        format!(r#"{{"error":{{"message":"token {TOKEN} is bad"}}}}"#),
        format!("<a href='/v2/room/1/notification?auth_token={TOKEN}'>{TOKEN}</a>"),
        format!("Authorization: Bearer {TOKEN}"),
        format!("{}{}", " ".repeat(16 * 1024 - 20), TOKEN),
    ];
    let mut replies = vec![Reply::Drop, Reply::Silence];
    for status in [200, 202, 301, 400, 401, 403, 404, 405, 408, 410, 413, 418, 422, 429, 500, 503] {
        for echo in &echoes {
            let location = format!("location: https://{TOKEN}.example/?auth_token={TOKEN}\r\n");
            replies.push(answer(&format!("{status} {TOKEN}"), &location, echo));
        }
    }
    replies.push(Reply::Bytes(format!("{TOKEN}\r\n\r\n").into_bytes()));
    replies.push(Reply::Bytes(format!("HTTP/1.1 200 OK\r\nbad {TOKEN}\r\n\r\n").into_bytes()));
    replies.push(Reply::Bytes(format!("HTTP/1.1 500 X\r\ncontent-length: 999\r\n\r\n{TOKEN}").into_bytes()));
    replies
}

#[tokio::test]
async fn no_secret_in_any_answer_debug_text_or_log_line() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    tracing::info!("the log is on");

    let mut shown = Vec::new();
    for token_in in [TokenIn::Header, TokenIn::Query] {
        let short = Duration::from_millis(400);
        let gateway =
            gateway(HipchatOptions { token_in, connect_timeout: short, timeout: short, ..options() });
        shown.push(format!("{gateway:?}"));
        for reply in replies() {
            let server = RawServer::start(reply).await;
            let target = room(&server);
            shown.push(format!("{target:?}"));
            shown.push(format!("{:?}", gateway.post(&target, &message()).await));
            shown.push(format!("{:?}", gateway.auth_test(&target).await));
        }
        for base in ["http://127.0.0.1:1", "https://127.0.0.1:1", "https://10.0.0.1", "http://localhost:1"] {
            let mut target = room_at("http://127.0.0.1");
            target.endpoint = format!("{base}/v2/room/1/notification").parse().unwrap();
            shown.push(format!("{:?}", gateway.post(&target, &message()).await));
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("the log is on"));
    shown.push(log);
    for text in shown {
        let lower = text.to_ascii_lowercase();
        assert!(!lower.contains(&TOKEN.to_ascii_lowercase()[..12]), "{text}");
    }
}
