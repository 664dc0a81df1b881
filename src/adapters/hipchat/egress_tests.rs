use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::net::TcpListener;

use super::*;

fn egress(entries: &[&str]) -> Egress {
    Egress::from_entries(entries).expect("good entries")
}

fn check(entries: &[&str], url: &str) -> Result<(), String> {
    egress(entries).check(&Url::parse(url).expect("a url")).map_err(|denied| denied.to_string())
}

#[test]
fn every_bad_entry_is_named_with_what_is_wrong() {
    let entries = [
        "",
        "http://a.example",
        "*.example.com",
        "10.0.0.0/33",
        "a/b",
        "host:0",
        "host:70000",
        "host:x",
        "a b",
        "good.example",
    ];
    let errors = Egress::from_entries(&entries).unwrap_err();
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), entries.len() - 1, "{texts:#?}");
    for (entry, text) in entries.iter().zip(&texts) {
        assert!(text.starts_with(&format!("egress.allow: {entry:?} ")), "{text}");
    }
}

#[test]
fn without_entries_only_public_https_may_be_reached() {
    for url in ["https://acme.hipchat.com/", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/"] {
        assert_eq!(check(&[], url), Ok(()), "{url}");
    }
    let cases = [
        ("http://acme.hipchat.com/", "plain http"),
        ("http://8.8.8.8/", "plain http"),
        ("https://10.0.0.5/", "room host 10.0.0.5 is a private or reserved address"),
        ("https://0x7f.1/", "room host 127.0.0.1 is a private"),
        ("https://2130706433/", "room host 127.0.0.1 is a private"),
        ("https://169.254.169.254/", "private"),
        ("https://[::1]/", "room host ::1 is a private"),
        ("https://[::ffff:10.0.0.1]/", "room host 10.0.0.1 is a private"),
        ("https://localhost/", "private"),
        ("https://LOCALHOST./", "private"),
        ("https://a.localhost/", "private"),
    ];
    for (url, says) in cases {
        let text = check(&[], url).expect_err(url);
        assert!(text.contains(says) && text.contains("add \""), "{url}: {text}");
    }
}

#[test]
fn entries_open_what_they_name_and_nothing_else() {
    let cases: &[(&[&str], &str, bool)] = &[
        (&["chat.example"], "http://chat.example/", true),
        (&["Chat.Example."], "https://CHAT.example.:8443/", true),
        (&["chat.example"], "http://other.example/", false),
        (&["chat.example"], "http://a.chat.example/", false),
        (&["chat.example:8080"], "http://chat.example:8080/", true),
        (&["chat.example:8080"], "http://chat.example/", false),
        (&["chat.example:8080"], "https://chat.example/", false),
        (&["chat.example:8080", "chat.example"], "https://chat.example/", true),
        (&["chat.example", "chat.example:8080"], "https://chat.example/", true),
        (&["127.0.0.1"], "http://127.0.0.1:9999/", true),
        (&["127.0.0.1:9999"], "http://127.0.0.1:9999/", true),
        (&["127.0.0.1:9999"], "http://127.0.0.1:9998/", false),
        (&["::1"], "http://[::1]:80/", true),
        (&["[::1]"], "http://[::1]:80/", true),
        (&["[::1]:81"], "http://[::1]:81/", true),
        (&["[::1]:81"], "http://[::1]:82/", false),
        (&["10.0.0.0/8"], "http://10.9.8.7/", true),
        (&["10.9.8.7/8"], "http://10.1.1.1/", true),
        (&["10.0.0.0/8"], "https://[::ffff:10.9.8.7]/", true),
        (&["10.0.0.0/8"], "http://11.0.0.1/", false),
        (&["fd00::/8"], "http://[fd12::1]/", true),
        (&["localhost"], "http://localhost:8080/", true),
        // Whether the name is in the network is seen when it is resolved.
        (&["10.0.0.0/8"], "http://chat.example/", true),
        (&["127.0.0.0/8"], "https://localhost/", true),
    ];
    for (entries, url, allowed) in cases {
        assert_eq!(check(entries, url).is_ok(), *allowed, "{entries:?} {url}");
    }
}

#[test]
fn a_names_addresses_are_filtered_when_it_is_resolved() {
    let some = |list: &[&str]| -> Vec<SocketAddr> {
        list.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
    };
    let plain = Egress::default();
    let mixed = plain.permitted("a.example", some(&["10.0.0.5", "8.8.8.8"]), Scheme::Https);
    assert_eq!(mixed, Ok(some(&["8.8.8.8"])));
    let denied = plain.permitted("a.example", some(&["10.0.0.5"]), Scheme::Https).unwrap_err();
    assert_eq!(
        denied.to_string(),
        "room host a.example resolves to 10.0.0.5, which egress.allow does not allow; add \"a.example\" or \
         the address's network to egress.allow"
    );
    let networks = egress(&["10.0.0.0/8"]);
    let inside = networks.permitted("a.example", some(&["10.0.0.5", "8.8.8.8"]), Scheme::Http);
    assert_eq!(inside, Ok(some(&["10.0.0.5"])), "plain http stays in the allowed networks");
    let outside = networks.permitted("a.example", some(&["8.8.8.8"]), Scheme::Http).unwrap_err();
    assert!(matches!(outside, EgressDenied::PlainResolved { .. }), "{outside}");
    let named = egress(&["a.example"]);
    assert_eq!(named.permitted("A.example.", some(&["127.0.0.1"]), Scheme::Http), Ok(some(&["127.0.0.1"])));
}

/// Leads inside at every second look: where one look is checked and another is connected to, one of two calls gets
/// there.
fn changing(_: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    let last = if LOOKS.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) { 2 } else { 1 };
    Box::pin(async move { Ok(vec![SocketAddr::from(([127, 0, 0, last], 0))]) })
}

#[tokio::test]
async fn a_name_that_changes_between_check_and_connect_leads_nowhere_else() {
    crate::adapters::tls::ensure_crypto_provider();
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = inside.local_addr().unwrap().port();
    let allowed = TcpListener::bind(("127.0.0.2", port)).await.unwrap();
    let resolver = CheckedResolver {
        lookup: changing,
        egress: Arc::new(Egress::from_entries(&["127.0.0.2"]).unwrap()),
        scheme: Scheme::Http,
        proxy_host: None,
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .dns_resolver(Arc::new(resolver))
        .build()
        .unwrap();
    for looked in 0..10 {
        let call = tokio::spawn(client.get(format!("http://rooms.example:{port}/")).send());
        if looked % 2 == 0 {
            drop(allowed.accept().await.unwrap());
            assert!(!call.await.unwrap().unwrap_err().is_dns());
        } else {
            assert!(call.await.unwrap().unwrap_err().is_connect(), "the resolver refuses the address");
        }
    }
    let came = inside.accept().now_or_never();
    assert!(came.is_none(), "a connection came to the address that is not allowed");
}
