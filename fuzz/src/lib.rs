//! What the fuzz targets check, a module each: a function that takes any bytes and panics where a promise is
//! broken. Beyond "does not panic" each compares with something independent: a published schema, another parser,
//! a re-computation, or the same input written another way.
//!
//! `cargo test` in here runs each over its seeds, `scripts/fuzz` for as long as one likes.

pub mod decisions;
pub mod envelope;
pub mod events;
pub mod frames;
pub mod integrations;
pub mod judge;
pub mod letters;
pub mod messages;
pub mod rate_limits;
pub mod redaction;
pub mod room_urls;
pub mod says;

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Check = fn(&[u8]);

    /// The seeds of each target, and whatever it crashed on once.
    #[test]
    fn every_seed_passes() {
        let targets: [(&str, Check); 9] = [
            ("decisions", crate::decisions::check),
            ("events", crate::events::check),
            ("frames", crate::frames::check),
            ("integrations", crate::integrations::check),
            ("letters", crate::letters::check),
            ("messages", crate::messages::check),
            ("rate_limits", crate::rate_limits::check),
            ("redaction", crate::redaction::check),
            ("room_urls", crate::room_urls::check),
        ];
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, check) in targets {
            // Where the ordinary tests have inputs of the same form, those are seeds too.
            let fixtures = package.join("../tests/fixtures").join(name);
            let folders = [Some(package.join("seeds").join(name)), fixtures.exists().then_some(fixtures)];
            let seeds: Vec<_> = folders
                .iter()
                .flatten()
                .flat_map(|folder| std::fs::read_dir(folder).expect(name))
                .map(|seed| seed.unwrap().path())
                .collect();
            assert!(!seeds.is_empty(), "{name} has no seed");
            for seed in seeds {
                println!("{}", seed.display());
                check(&std::fs::read(&seed).unwrap());
            }
        }
    }
}
