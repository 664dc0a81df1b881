//! Layers, cross checks and the manual. Single faults are in `tests/it/settings.rs`, one fixture each.

use std::time::Duration;

use super::*;

fn load(variables: &[(&str, &str)]) -> Result<Settings, SettingsFaults> {
    let nowhere = Path::new("/nonexistent");
    Settings::load_in(nowhere, None, variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn one_fault(variables: &[(&str, &str)]) -> String {
    let faults = load(variables).unwrap_err();
    assert_eq!(faults.faults().len(), 1, "{faults}");
    faults.to_string()
}

#[test]
fn the_defaults_alone_are_valid() {
    let settings = load(&[]).unwrap();
    assert_eq!(settings.amqp.urls.len(), 1);
    assert_eq!(settings.amqp.urls[0].expose(), "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert_eq!(settings.pacing.room, crate::domain::pacing::Budget::ROOM);
    assert_eq!(settings.pacing.token, crate::domain::pacing::Budget::TOKEN);
    assert_eq!(settings.retry.give_up_after, Duration::from_secs(86_400));
    assert!(matches!(settings.store.url, StoreUrl::Sqlite(path) if path == Path::new("hipchat-notifier.db")));
    assert!(settings.log.format.is_none() && settings.http.bearer_token.is_none());
}

#[test]
fn every_key_stands_in_the_manual_with_a_comment() {
    let mut reader = raw(Path::new("/nonexistent"), None, std::iter::empty());
    validate::settings(&mut reader);
    let mut keys = std::collections::BTreeSet::new();
    let (mut section, mut explained) = (String::new(), false);
    for line in MANUAL.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            continue; // A comment above a section explains its keys too.
        }
        let entry = line.strip_prefix("# ").unwrap_or(line);
        let key = entry.split_once(" = ").map(|(key, _)| key);
        match key.filter(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')) {
            Some(key) => {
                assert!(explained, "{section}.{key} has no comment");
                keys.insert(format!("{section}.{key}"));
            }
            None => explained = line.starts_with('#'),
        }
    }
    assert_eq!(&keys, reader.known());
}

#[test]
fn the_environment_overrides_key_by_key_and_empty_counts_as_not_set() {
    let settings = load(&[
        ("NOTIFIER__PACING__ROOM__MESSAGES", "5"),
        ("NOTIFIER__RETRY__GIVE_UP_AFTER", "7d"),
        ("NOTIFIER__EGRESS__ALLOW", "localhost, 10.0.0.0/8,,hipchat.internal:8080"),
        ("NOTIFIER__AMQP__PREFETCH", ""),
        ("NOTIFIER__LINKS__MOCK_SERVER", "https://mocks.example/{model_id}"),
        ("NOTIFIER", "not ours"),
        ("UNRELATED__KEY", "not ours"),
    ])
    .unwrap();
    assert_eq!(settings.pacing.room.messages, 5);
    assert_eq!(settings.pacing.room.per, Duration::from_secs(60));
    assert_eq!(settings.retry.give_up_after, Duration::from_secs(7 * 86_400));
    assert_eq!(settings.egress.allow, ["localhost", "10.0.0.0/8", "hipchat.internal:8080"]);
    assert_eq!(settings.amqp.prefetch, 512);
    assert_eq!(settings.links.templates["mock_server"], "https://mocks.example/{model_id}");
    assert!(settings.links.templates.contains_key("monitor"));
}

#[test]
fn addresses_of_a_cluster_replace_the_one_address() {
    let settings = load(&[("NOTIFIER__AMQP__URLS", "amqp://a:pw@one/%2f,amqps://a:pw@two/%2f")]).unwrap();
    let shown: Vec<_> = settings.amqp.urls.iter().map(SecretUrl::redacted).collect();
    assert_eq!(shown, ["amqp://a:***@one/%2f", "amqps://a:***@two/%2f"]);
}

#[test]
fn a_misspelt_variable_is_suggested_as_a_variable() {
    assert_eq!(
        one_fault(&[("NOTIFIER__AMQP__PREFTCH", "5")]),
        "amqp.preftch (NOTIFIER__AMQP__PREFTCH): unknown key; did you mean NOTIFIER__AMQP__PREFETCH?"
    );
    assert_eq!(
        one_fault(&[("NOTIFIER__FETCH__TIMEOUT", "5s")]),
        "fetch.timeout (NOTIFIER__FETCH__TIMEOUT): unknown key; did you mean NOTIFIER__HIPCHAT__TIMEOUT?"
    );
    assert_eq!(
        one_fault(&[("NOTIFIER__FROBNICATE", "5s")]),
        "frobnicate (NOTIFIER__FROBNICATE): unknown key; remove it; config/default.toml lists all keys"
    );
}

#[test]
fn a_variable_in_a_sections_place_is_one_fault() {
    let expected = "retry (NOTIFIER__RETRY): this is a section; write its keys below [retry]";
    assert_eq!(one_fault(&[("NOTIFIER__RETRY", "5s")]), expected);
    assert_eq!(one_fault(&[("NOTIFIER__RETRY", "5s"), ("NOTIFIER__RETRY__FIRST", "1s")]), expected);
    assert!(one_fault(&[("NOTIFIER__A[99999999999]", "x")]).contains("unknown key"));
}

#[test]
fn secrets_are_in_no_fault_and_no_debug() {
    let secret = "hunter2";
    let faulty = [
        ("NOTIFIER__AMQP__URL", "http://user:hunter2@host/"),
        ("NOTIFIER__AMQP__ULR", "amqp://user:hunter2@host/"),
        ("NOTIFIER__STORE__URL", "postgres://user:hunter2@host/db"),
        ("NOTIFIER__HTTP__BEARER_TOKEN", "hunter2 hunter2"),
        ("NOTIFIER__HIPCHAT__PROXY", "socks5://user:hunter2@proxy"),
        ("NOTIFIER__HTTP__LISTEN", "amqp://user:hunter2@host/"),
        ("NOTIFIER__INTEGRATION__FILE", "https://x.example/v2/room/1/notification?auth_token=hunter2"),
        ("NOTIFIER__AMQP__PREFETCH", "https://x.example/v2/room/1/notification?auth_token=hunter2"),
        ("NOTIFIER__EGRESS__ALLOW", "http://user:hunter2@host/"),
        ("NOTIFIER__LINKS__RUN", "amqp://user:hunter2@host/{"),
    ];
    let faults = load(&faulty).unwrap_err();
    assert_eq!(faults.faults().len(), faulty.len(), "{faults}");
    assert!(!format!("{faults} {faults:?}").contains(secret), "{faults}");

    let settings = load(&[
        ("NOTIFIER__AMQP__URLS", "amqp://user:hunter2@one/%2f"),
        ("NOTIFIER__HTTP__BEARER_TOKEN", "hunter2"),
        ("NOTIFIER__HIPCHAT__PROXY", "http://user:hunter2@proxy:3128"),
    ])
    .unwrap();
    assert!(!format!("{settings:?}").contains(secret), "{settings:?}");
    assert!(settings.amqp.urls[0].expose().contains(secret));
    assert_eq!(settings.hipchat.proxy.unwrap().to_string(), "http://user:***@proxy:3128/");
}

#[test]
fn a_password_that_is_not_escaped_is_refused_with_how_to_write_it_and_not_shown() {
    for url in [
        "://user:4711/hunter2@host/db",
        "://user:4711?hunter2@host/db",
        "://user:4711#hunter2@host/db",
        "://user:hunter2/x@host/db",
        "://user:hun#ter2/hunter2@host/db",
    ] {
        for (key, scheme) in [("AMQP__URL", "amqp"), ("STORE__URL", "postgres"), ("HIPCHAT__PROXY", "http")] {
            let fault = one_fault(&[(&format!("NOTIFIER__{key}"), &format!("{scheme}{url}"))]);
            assert!(fault.contains("%2F") && fault.contains("%40"), "{fault}");
            assert!(!fault.contains("hunter2") && !fault.contains("4711"), "{fault}");
        }
    }
    let fault = one_fault(&[("NOTIFIER__STORE__URL", "postgres://user:4711@hunter2@host/db")]);
    assert!(fault.contains("more than one \"@\"") && !fault.contains("hunter2"), "{fault}");
}

#[test]
fn the_token_of_the_higher_layer_counts() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "from-the-file\n").unwrap();
    let config = folder.path().join(DEFAULT_FILE);
    std::fs::write(&config, format!("[http]\nbearer_token_file = {:?}\nlisten = \"0.0.0.0:1\"\n", token))
        .unwrap();
    let of = |variables: Vec<(String, String)>| {
        use secrecy::ExposeSecret;
        let settings = Settings::load_in(folder.path(), None, variables.into_iter()).unwrap();
        settings.http.bearer_token.unwrap().expose_secret().to_owned()
    };
    assert_eq!(of(vec![]), "from-the-file");
    assert_eq!(of(vec![("NOTIFIER__HTTP__BEARER_TOKEN".into(), "from-env".into())]), "from-env");
}

#[test]
fn a_token_of_a_file_that_is_too_long_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a".repeat(4 * 1024 + 1)).unwrap();
    let fault = one_fault(&[("NOTIFIER__HTTP__BEARER_TOKEN_FILE", token.to_str().unwrap())]);
    assert!(fault.contains("/token") && fault.contains("cannot be read: it is longer than 4 KiB"), "{fault}");
}

#[test]
fn store_urls() {
    for (text, path) in [
        ("sqlite:a.db", "a.db"),
        ("sqlite:/var/lib/a.db", "/var/lib/a.db"),
        ("sqlite:///var/lib/a.db", "/var/lib/a.db"),
        ("sqlite://a.db", "a.db"),
    ] {
        let settings = load(&[("NOTIFIER__STORE__URL", text)]).unwrap();
        assert!(matches!(settings.store.url, StoreUrl::Sqlite(found) if found == Path::new(path)), "{text}");
    }
}

#[test]
fn a_misspelt_level_is_no_module() {
    for level in ["info", "WARN", "off", "info,hyper=debug", "hipchat_notifier::worker=trace"] {
        assert_eq!(load(&[("NOTIFIER__LOG__LEVEL", level)]).unwrap().log.level, level);
    }
    for level in ["inof", "info,loud", "hyper"] {
        let fault = one_fault(&[("NOTIFIER__LOG__LEVEL", level)]);
        assert!(fault.contains("is no level") && fault.contains("write error, warn, info"), "{fault}");
    }
}
