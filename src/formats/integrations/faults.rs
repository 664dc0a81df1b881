//! What is wrong with an integrations file, one line a fault.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault: where, what stands there, what is wrong, what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationFault {
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters; only syntax errors have one.
    pub column: Option<usize>,
    /// The integration's id, or its place in the file where it has none.
    pub integration: Option<String>,
    /// As in `notify.on`; empty where the fault is about the whole.
    pub field: String,
    /// What was found, as TOML. Never a secret's value.
    pub found: Option<String>,
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for IntegrationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        if let Some(integration) = &self.integration {
            write!(f, ": integration {integration}")?;
        }
        match (self.field.as_str(), &self.found) {
            ("", _) => {}
            (field, None) => write!(f, ": {field}")?,
            (field, Some(found)) => write!(f, ": {field} = {found}")?,
        }
        write!(f, ": {}", self.problem)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// So many faults are shown: a file that is wrong throughout would fill the log.
const SHOWN: usize = 50;

/// All faults of a file, in the order of its lines. Displays as one line each, and a last one for how many more
/// there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationFaults {
    file: Option<PathBuf>,
    faults: Vec<IntegrationFault>,
}

impl IntegrationFaults {
    pub(super) fn new(mut faults: Vec<IntegrationFault>) -> Self {
        faults.sort_by_key(|fault| (fault.line, fault.column));
        Self { file: None, faults }
    }

    /// The same faults, each beginning with the file's name.
    #[must_use]
    pub fn in_file(self, file: &Path) -> Self {
        Self { file: Some(file.to_owned()), ..self }
    }

    /// The faults in the order of their lines; at least one.
    pub fn faults(&self) -> &[IntegrationFault] {
        &self.faults
    }
}

impl fmt::Display for IntegrationFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().take(SHOWN).enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            if let Some(file) = &self.file {
                write!(f, "{}: ", file.display())?;
            }
            write!(f, "{fault}")?;
        }
        match self.faults.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            1 => f.write_str("\nand 1 more fault"),
            more => write!(f, "\nand {more} more faults"),
        }
    }
}

impl std::error::Error for IntegrationFaults {}
