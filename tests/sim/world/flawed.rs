//! Promises broken on purpose: each must be seen by the judge. They live in the simulated parts around the worker
//! alone; the worker knows nothing of them.

use crate::model::Flaws;

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// One broken promise.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutation { $($(#[$doc])* $name),+ }

        impl Mutation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

mutations! {
    /// The broker is told that a batch is done before it is.
    AckBeforeCommit = "ack-before-commit",
    /// A batch that the store could not take is acknowledged all the same.
    AckWithoutCommit = "ack-without-commit",
    /// Settlements of claims that are over still count.
    NoFencing = "no-fencing",
    /// Rooms that one worker holds are handed out to the next.
    NoLeases = "no-leases",
    /// An event that comes twice is two.
    NoDedup = "no-dedup",
    NewestFirst = "newest-first",
    /// Each worker counts a room's budget for itself.
    PacingPerWorker = "pacing-per-worker",
    /// What a room may hear is counted anew with each claim.
    ForgottenBudgets = "forgotten-budgets",
    ForgottenTokens = "forgotten-tokens",
    /// A notification that is to be retried lets the next ones by.
    RetryOvertakes = "retry-overtakes",
    /// A letter whose confirm did not come counts as buried.
    LetterDropped = "letter-dropped",
    /// A letter leaves the outbox when it is handed out.
    LetterGoesOnce = "letter-goes-once",
    /// What a room answered is forgotten when the store is away.
    AnswerDropped = "answer-dropped",
    /// A call that got no answer counts as a good one.
    SilenceIsConsent = "silence-is-consent",
    /// A message that HipChat has taken counts as not taken.
    ConsentIsSilence = "consent-is-silence",
    ForgottenStreaks = "forgotten-streaks",
    /// A room is believed to know what it was never told.
    LostNewsBelieved = "lost-news-believed",
    /// A pause lets what waits be told.
    PauseKeepsLine = "pause-keeps-line",
    /// What shall be told one by one is merged where it does not fit.
    QueueMerged = "queue-merged",
    /// A lease is hardly longer than a call may take, which the settings forbid.
    ShortLease = "short-lease",
    /// A batch is done although a room is still being told of it and nothing is written.
    StraightUnwritten = "straight-unwritten",
    /// A batch waits for its rooms however long they take.
    StraightWaits = "straight-waits",
    /// A room is told straight though something waits in it.
    StraightPastTheLine = "straight-past-the-line",
    /// What comes near something that is told straight takes no notice of it.
    StraightUnnoticed = "straight-unnoticed",
    /// Of what was told straight, the outcome is kept and the streak is not.
    StraightForgetsStreaks = "straight-forgets-streaks",
}

impl Mutation {
    /// What the store has to do with it.
    pub fn flaws(self) -> Flaws {
        Flaws {
            no_fencing: self == Self::NoFencing,
            no_leases: self == Self::NoLeases,
            no_dedup: self == Self::NoDedup,
            newest_first: self == Self::NewestFirst,
            forgets_budgets: self == Self::ForgottenBudgets,
            forgets_tokens: self == Self::ForgottenTokens,
            forgets_streaks: self == Self::ForgottenStreaks,
            believes_lost_news: self == Self::LostNewsBelieved,
            pause_keeps_line: self == Self::PauseKeepsLine,
            letters_go_once: self == Self::LetterGoesOnce,
            passes_lines: self == Self::StraightPastTheLine,
            forgets_what_is_told: self == Self::StraightUnnoticed,
            outcome_is_all_of_it: self == Self::StraightForgetsStreaks,
        }
    }
}
