//! The layout's laws, read from the `use` lines: arrows point one way, and the core is pure.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file below `src/DIR`, or the one file `src/DIR.rs`.
fn files(dir: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let single = root.join(format!("{dir}.rs"));
    if single.is_file() {
        found.push(single);
    }
    let mut folders = vec![root.join(dir)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "src/{dir} holds no file: is the law still about something?");
    found
}

/// The code of a file without its unit tests, comments and doc comments.
fn code(path: &Path) -> String {
    if path.to_string_lossy().ends_with("tests.rs") {
        return String::new();
    }
    let text = fs::read_to_string(path).unwrap();
    // Only tests that are written inline end a file's code; `mod tests;` is a line like any other.
    let inline_tests = "\n#[cfg(test)]\nmod tests {";
    let text = text.split(inline_tests).next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Fails if a file below `dir` names one of `forbidden`.
fn never_names(dir: &str, forbidden: &[&str]) {
    let mut breaches = Vec::new();
    for path in files(dir) {
        let code = code(&path);
        for name in forbidden.iter().filter(|name| code.contains(**name)) {
            breaches.push(format!("{} names {name}", path.display()));
        }
    }
    assert!(breaches.is_empty(), "{}", breaches.join("\n"));
}

/// What stands above both the domain and the formats.
const ABOVE: [&str; 6] =
    ["crate::worker", "crate::adapters", "crate::cli", "crate::app", "crate::http", "crate::settings"];

#[test]
fn the_domain_is_pure() {
    never_names("domain", &ABOVE);
    never_names(
        "domain",
        &[
            "crate::ports",
            "crate::formats",
            "tokio",
            "serde",
            "lapin",
            "reqwest",
            "rusqlite",
            "tracing",
            "Timestamp::now",
            "SystemTime",
            "Instant",
            "fastrand",
            "std::fs",
            "std::net",
            "std::env",
            "async fn",
        ],
    );
}

#[test]
fn formats_do_no_io_and_know_no_port_but_values() {
    never_names("formats", &ABOVE);
    never_names(
        "formats",
        &[
            "tokio",
            "lapin",
            "reqwest",
            "rusqlite",
            "std::fs::",
            "std::net",
            "std::env::",
            "Timestamp::now",
            "async fn",
        ],
    );
}

#[test]
fn the_worker_knows_only_the_seams() {
    never_names(
        "worker",
        &[
            "crate::adapters",
            "crate::cli",
            "crate::app",
            "crate::http",
            "crate::settings",
            "lapin",
            "reqwest",
            "rusqlite",
            "axum",
            "Timestamp::now",
            "SystemTime",
            "std::fs",
            "std::env",
        ],
    );
}

#[test]
fn adapters_know_neither_each_other_nor_the_worker() {
    never_names("adapters", &["crate::worker", "crate::cli", "crate::app", "crate::http", "crate::settings"]);
    never_names(
        "adapters/hipchat",
        &["crate::adapters::rabbitmq", "crate::adapters::store", "lapin", "rusqlite"],
    );
    never_names(
        "adapters/rabbitmq",
        &["crate::adapters::hipchat", "crate::adapters::store", "reqwest", "rusqlite"],
    );
    never_names(
        "adapters/store",
        &["crate::adapters::hipchat", "crate::adapters::rabbitmq", "lapin", "reqwest"],
    );
}

#[test]
fn the_status_endpoints_and_the_seams_know_no_technology_of_others() {
    never_names(
        "http",
        &[
            "crate::worker",
            "crate::adapters",
            "crate::cli",
            "crate::app",
            "crate::settings",
            "lapin",
            "rusqlite",
        ],
    );
    never_names(
        "ports",
        &["crate::worker", "crate::adapters", "crate::app", "lapin", "reqwest", "rusqlite", "axum", "tokio"],
    );
    never_names("metrics", &["crate::worker", "crate::adapters", "crate::app", "crate::ports"]);
}

#[test]
fn the_sandbox_judges_alone() {
    never_names("sandbox", &["crate::"]);
}

#[test]
fn the_unmaintained_backoff_stays_in_one_file() {
    for path in files("") {
        if !path.ends_with("adapters/reconnect.rs") {
            assert!(!code(&path).contains("backoff::"), "{} uses backoff", path.display());
        }
    }
}

#[test]
fn only_the_clock_reads_the_clock() {
    for path in files("") {
        if !path.ends_with("adapters/clock.rs") {
            assert!(!code(&path).contains("Timestamp::now()"), "{} reads the wall clock", path.display());
        }
    }
}
