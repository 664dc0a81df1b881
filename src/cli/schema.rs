//! `schema`: prints the JSON Schemas and the AsyncAPI document.

use anyhow::bail;

use super::args::SchemaArgs;
use super::output::say;
use crate::formats::schema;

/// Prints one document, or the names of all.
pub fn run(args: &SchemaArgs) -> anyhow::Result<()> {
    if args.list {
        for (name, _) in schema::ALL {
            say(name);
        }
        return Ok(());
    }
    let name = args.name.as_deref().unwrap_or("asyncapi");
    let Some(text) = schema::named(name) else {
        let names: Vec<&str> = schema::ALL.iter().map(|(name, _)| *name).collect();
        bail!("there is no schema {name:?}; there are {}", names.join(", "));
    };
    say(text.trim_end());
    Ok(())
}
