//! The definition is valid, every verb's help is a manual, and options mean what they say.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("hipchat-notifier").chain(line.split_whitespace()))
}

fn verb(line: &str) -> Verb {
    parse(line).unwrap_or_else(|e| panic!("{line}: {e}")).verb
}

/// Every command that does something, with its full name.
fn leaves(command: &clap::Command, name: String, all: &mut Vec<(String, clap::Command)>) {
    let below: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
    all.push((name.clone(), command.clone()));
    for sub in below {
        leaves(sub, format!("{name} {}", sub.get_name()).trim().to_owned(), all);
    }
}

#[test]
fn the_definition_is_valid() {
    Cli::command().debug_assert();
}

#[test]
fn every_verbs_help_has_an_example_of_itself_that_parses() {
    let mut all = Vec::new();
    leaves(&Cli::command(), String::new(), &mut all);
    assert_eq!(all.len(), 1 + 10 + 7 + 4);
    for (name, command) in all {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // The shell's own way to go on in the next line.
        let help = help.replace(" \\\n    ", " ");
        let call = format!("hipchat-notifier {name}");
        let examples = help.lines().filter(|line| line.starts_with("  "));
        let own =
            examples.filter_map(|line| line.find(call.trim()).map(|at| &line[at..])).collect::<Vec<_>>();
        assert!(!own.is_empty(), "{name:?} has no example");
        for example in own {
            // Notes stand two blanks behind; redirections, pipes and quotes are the shell's.
            let words = example.split("  ").next().unwrap_or_default().replace('\'', "");
            let words = words.split_whitespace().take_while(|word| !matches!(*word, "<" | ">" | "|"));
            let words: Vec<_> = words.collect();
            if let Err(e) = Cli::try_parse_from(&words) {
                panic!("{words:?}: {e}");
            }
        }
    }
}

#[test]
fn usage_errors_exit_2() {
    for (line, kind) in [
        ("", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand),
        ("frobnicate", ErrorKind::InvalidSubcommand),
        ("publish", ErrorKind::MissingRequiredArgument),
        ("publish a.json --newman r.json", ErrorKind::ArgumentConflict),
        ("publish a.json --monitor-uid x", ErrorKind::ArgumentConflict),
        ("publish a.json --no-validate", ErrorKind::MissingRequiredArgument),
        ("publish --newman r.json --no-validate --routing-key k", ErrorKind::ArgumentConflict),
        ("simulate a.json", ErrorKind::MissingRequiredArgument),
        ("explain", ErrorKind::MissingRequiredArgument),
        ("explain e --output yaml", ErrorKind::InvalidValue),
        ("dead-letters list --reason tired", ErrorKind::InvalidValue),
        ("dead-letters list --since yesterday", ErrorKind::ValueValidation),
        ("dead-letters replay 1 --reason malformed-event", ErrorKind::ArgumentConflict),
        ("dead-letters replay --rate 0", ErrorKind::ValueValidation),
        ("sandbox --room 42", ErrorKind::ValueValidation),
        ("sandbox --room-limit 30", ErrorKind::ValueValidation),
        ("schema monitor-run --list", ErrorKind::ArgumentConflict),
    ] {
        let error = parse(line).err().unwrap_or_else(|| panic!("{line:?} was taken"));
        assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{line:?}: {error}");
    }
}

#[test]
fn the_configuration_file_can_be_named_before_and_after_the_verb() {
    for line in ["--config a.toml run", "run --config a.toml", "integrations list --config a.toml"] {
        assert_eq!(parse(line).unwrap().global.config, Some(PathBuf::from("a.toml")), "{line}");
    }
}

#[test]
fn filters_and_ids_of_dead_letters() {
    let Verb::DeadLetters(DeadLettersVerb::Replay(args)) = verb(
        "dead-letters replay --reason retries-exhausted --since 2026-11-22T00:00:00Z --limit 5 --yes --rate 10",
    ) else {
        panic!("another verb")
    };
    assert_eq!(args.selection.filter.reason.as_deref(), Some("retries-exhausted"));
    assert_eq!(args.selection.filter.since, "2026-11-22T00:00:00Z".parse().ok());
    assert_eq!((args.selection.filter.limit, args.rate, args.selection.yes), (Some(5), Some(10), true));
    let Verb::DeadLetters(DeadLettersVerb::Discard(args)) = verb("dead-letters discard a b") else {
        panic!("another verb")
    };
    assert_eq!((args.selection.ids.len(), args.selection.yes), (2, false));
}

#[test]
fn a_sandboxs_rooms_and_limits() {
    let Verb::Sandbox(args) =
        verb("sandbox --room 42:a --room ops:east:b --room-limit 5/10s --token-limit none")
    else {
        panic!("another verb")
    };
    assert_eq!(args.rooms[1], RoomGrant { room: "ops:east".into(), token: "b".into() });
    assert_eq!(args.room_limit, Limit::Of { count: 5, per: std::time::Duration::from_secs(10) });
    assert_eq!(args.token_limit, Limit::None);
    assert!(!format!("{:?}", args.rooms).contains("\"b\""));
    let Verb::Sandbox(args) = verb("sandbox") else { panic!("another verb") };
    assert_eq!(
        (args.room_limit.to_string(), args.token_limit.to_string()),
        ("30/1m".into(), "500/5m".into())
    );
}

/// The texts below the options of a verb and of all verbs under it.
fn texts_below(command: &clap::Command) -> Vec<String> {
    let own = command.get_after_help().map(ToString::to_string);
    own.into_iter().chain(command.get_subcommands().flat_map(texts_below)).collect()
}

#[test]
fn help_is_broken_by_the_terminal_and_not_before() {
    let texts = texts_below(&Cli::command());
    assert!(texts.len() > 15, "{}", texts.len());
    for text in texts {
        for (line, next) in text.lines().zip(text.lines().skip(1)) {
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with("  ");
            assert!(!is_prose(line) || !is_prose(next), "a paragraph is one line: {line}");
            assert!(is_prose(line) || line.chars().count() <= 80, "an example fits a terminal: {line}");
        }
    }
}
