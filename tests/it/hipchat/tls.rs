//! Rooms on https: a certificate has to be right in name and signed by a CA that is trusted.

use std::path::Path;
use std::sync::Arc;

use hipchat_notifier::adapters::hipchat::HipchatError;

use super::*;
use crate::support::authority::Authority;

/// A server with a certificate for `name` that accepts every message.
async fn server(authority: &Authority, name: &str) -> RawServer {
    let acceptor = authority.acceptor(name);
    RawServer::start_with(answer("204 No Content", "", ""), move |stream| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(stream).await.ok() }
    })
    .await
}

async fn post_over_tls(ca_file: Option<&Path>, server: &RawServer) -> Answer {
    let gateway = gateway(HipchatOptions { ca_file: ca_file.map(Path::to_path_buf), ..options() });
    gateway.post(&room_at(&format!("https://127.0.0.1:{}", server.addr.port())), &message()).await
}

#[tokio::test]
async fn a_ca_of_ones_own_is_trusted_when_it_is_named() {
    let authority = Authority::new();
    let served = server(&authority, "127.0.0.1").await;
    let said = post_over_tls(Some(&authority.file()), &served).await;
    assert_eq!(said.class, AnswerClass::Accepted, "{}", said.detail);
    assert_eq!(served.requests().len(), 1);
}

#[tokio::test]
async fn an_unknown_ca_and_a_wrong_name_are_refused_before_anything_is_sent() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (right, wrong) = (server(&authority, "127.0.0.1").await, server(&authority, "other.example").await);
    let cases = [
        (None, &right, "UnknownIssuer"),
        (Some(other.file()), &right, ""),
        (Some(authority.file()), &wrong, "not valid for name"),
    ];
    for (ca_file, server, says) in cases {
        let said = post_over_tls(ca_file.as_deref(), server).await;
        assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable), "{}", said.detail);
        let begin = format!("TLS with 127.0.0.1:{} failed: ", server.addr.port());
        assert!(said.detail.starts_with(&begin) && said.detail.contains(says), "{}", said.detail);
        assert!(said.detail.contains("CA"), "{}", said.detail);
        assert!(server.requests().is_empty());
    }
}

#[tokio::test]
async fn plain_http_spoken_to_a_tls_room_is_told_as_such() {
    let server = RawServer::start(answer("204 No Content", "", "")).await;
    let said = post_over_tls(None, &server).await;
    assert_eq!((said.status, said.class), (None, AnswerClass::Unavailable));
    assert!(!said.detail.is_empty());
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let long = "#".repeat(4 * 1024 * 1024 + 1);
    let cases = [
        ("missing.pem", None, "No such file"),
        ("long.pem", Some(long.as_str()), "it is longer than 4 MiB"),
        ("empty.pem", Some(""), "holds no certificate"),
        ("text.pem", Some("hello"), "holds no certificate"),
        ("cut.pem", Some("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n"), "not a PEM file"),
        (
            "junk.pem",
            Some("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n"),
            "can't be read",
        ),
    ];
    for (name, text, says) in cases {
        let path = folder.path().join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).unwrap();
        }
        let options = HipchatOptions { ca_file: Some(path.clone()), ..options() };
        let error = HipchatGateway::new(options, loopback(), Arc::new(StoppedClock)).unwrap_err();
        assert!(matches!(error, HipchatError::CaFile { .. }), "{error}");
        let shown = error.to_string();
        assert!(shown.contains(path.to_str().unwrap()) && shown.contains(says), "{shown}");
    }
}

#[test]
fn other_options_that_cannot_be_used_are_named_without_secrets() {
    let proxy = |text: &str| HipchatOptions { proxy: Some(text.parse().unwrap()), ..options() };
    let agent = HipchatOptions { user_agent: String::from("a\nb"), ..options() };
    for bad in [proxy("socks5://u:pr0xyPass@proxy.example:1"), proxy("data:pr0xyPass"), agent] {
        let error = HipchatGateway::new(bad, loopback(), Arc::new(StoppedClock)).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("pr0xyPass"), "{error}");
    }
}
