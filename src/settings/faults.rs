//! What is wrong with the configuration: all of it, one line a fault.

use std::fmt;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// `config/default.toml`, compiled in.
    Default,
    /// A configuration file, `PATH:LINE` or `PATH`.
    File(String),
    /// An environment variable, by name.
    Environment(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => f.write_str(place),
            Self::Environment(name) => f.write_str(name),
        }
    }
}

/// One fault: which key, where it was set, what was found, what is wrong, what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// As in `amqp.url`; empty where a file as a whole is at fault.
    pub key: String,
    pub origin: Origin,
    /// What was found; `None` where nothing was or it is not to be shown.
    pub found: Option<String>,
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.key.as_str(), &self.found) {
            ("", _) => write!(f, "{}", self.origin)?,
            (key, None) => write!(f, "{key} ({})", self.origin)?,
            (key, Some(found)) => write!(f, "{key} = {found} ({})", self.origin)?,
        }
        write!(f, ": {}", self.problem)?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix) }
    }
}

/// Every fault of the configuration, by key. Displays as one line each. Exit code 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFaults(Vec<Fault>);

impl SettingsFaults {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by(|a, b| (&a.key, &a.origin).cmp(&(&b.key, &b.origin)));
        Self(faults)
    }

    /// The faults; at least one.
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for SettingsFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsFaults {}
