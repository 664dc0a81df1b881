//! Values of options that are more than text or a number.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::PossibleValuesParser;

use crate::domain::reason::DeadLetterReason;
use crate::formats::duration;

/// `--reason`: the words of the header `x-dead-letter-reason`.
pub(super) fn dead_letter_reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(DeadLetterReason::ALL.iter().map(|reason| reason.as_str()))
}

/// `N/PER`, or `none`: so many in any window, or as many as come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    None,
    Of { count: u32, per: Duration },
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write a count and a time, as in 30/1m, or none";
        if text == "none" {
            return Ok(Self::None);
        }
        let (count, per) = text.split_once('/').ok_or(FORM)?;
        let count = count.parse().ok().filter(|count| *count > 0).ok_or(FORM)?;
        match duration::parse(per) {
            Ok(per) if !per.is_zero() => Ok(Self::Of { count, per }),
            Ok(_) => Err(FORM.to_owned()),
            Err(e) => Err(format!("after the slash: {e}; {FORM}")),
        }
    }
}

impl From<Limit> for Option<(u32, Duration)> {
    fn from(limit: Limit) -> Self {
        match limit {
            Limit::None => None,
            Limit::Of { count, per } => Some((count, per)),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Of { count, per } => write!(f, "{count}/{}", duration::format(*per)),
        }
    }
}

/// `ID:TOKEN`: a room of the sandbox and a token for it. The token is what stands after the last colon, since
/// a room's name may hold one.
#[derive(Clone, PartialEq, Eq)]
pub struct RoomGrant {
    pub room: String,
    pub token: String,
}

impl fmt::Debug for RoomGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoomGrant").field("room", &self.room).finish_non_exhaustive()
    }
}

impl FromStr for RoomGrant {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.rsplit_once(':') {
            Some((room, token)) if !room.is_empty() && !token.is_empty() => {
                Ok(Self { room: room.to_owned(), token: token.to_owned() })
            }
            _ => Err("write a room and its token, as in 42:secret"),
        }
    }
}
