//! The closed lists of reasons. Each owns its text: logs, metrics, the store, `explain` and tests use it.

/// Declares an enum whose variants each have one stable string.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The stable string.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value whose string `text` is.
            pub fn from_text(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|r| r.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// What a notification is, from its birth to its end.
    Outcome {
        /// Waiting for its message, for a retry, or for its dead letter to be confirmed.
        Pending = "pending",
        /// Told by a message of its own.
        Sent = "sent",
        /// Told together with others in one message.
        Digested = "digested",
        /// Not to be told.
        Suppressed = "suppressed",
        /// Waited longer than `notifications.max_age`.
        Expired = "expired",
        /// In the dead-letter queue.
        DeadLettered = "dead-lettered",
    }
}

impl Outcome {
    /// Whether the room has heard it.
    pub fn is_told(self) -> bool {
        matches!(self, Self::Sent | Self::Digested)
    }
}

reasons! {
    /// What a room believes of a monitor, by the latest that it was told. Counting failures alone is not
    /// enough: a message may have been lost to an outage, a pause or a changed rule, and then silence would lie.
    Belief {
        Passing = "passing",
        Failing = "failing",
        /// A message about it never got to the room: the next run that the rule has an eye on is told,
        /// whichever way it went.
        Unsure = "unsure",
    }
}

impl Default for Belief {
    /// Before any run is known the state is success.
    fn default() -> Self {
        Self::Passing
    }
}

reasons! {
    /// What became of an event as a whole when it was taken in.
    EventFate {
        /// Some integration wants it.
        Taken = "taken",
        /// None does.
        Unwanted = "unwanted",
        /// An event with its id came before; nothing changes.
        Repeated = "repeated",
        /// A dead letter put back for one integration.
        Replayed = "replayed",
        /// It can't be read.
        Malformed = "malformed",
        /// It goes to the dead-letter queue for another reason.
        Undecidable = "undecidable",
    }
}

reasons! {
    /// Why a notification is told.
    SendReason {
        EveryRun = "every-run",
        /// A run that finished before the newest one seen, told by a rule that promises every run.
        Stale = "stale",
        Failure = "failure",
        Recovered = "recovered",
        /// `after-failures`: the Nth failure in a row.
        ThresholdReached = "threshold-reached",
        /// The room may not know of earlier failures: their messages were lost, the integration was paused or
        /// suspended, or its room is another now.
        StillFailing = "still-failing",
        Activity = "activity",
        /// Repeats by one user on one instance, told together.
        Collated = "collated",
        /// `digest`: told with all else of the interval.
        ScheduledDigest = "scheduled-digest",
        /// A dead letter was put back for this integration.
        Replayed = "replayed",
        /// Merged with others because a budget was used up.
        OverBudget = "over-budget",
    }
}

reasons! {
    /// Why a notification is not told.
    SuppressReason {
        /// A success with no failure before it.
        StillPassing = "still-passing",
        /// `failures-then-success`: the first N failures were told already.
        FailuresAlreadyTold = "failures-already-told",
        /// `after-failures`: fewer than N failures in a row so far, or a success after fewer.
        BelowThreshold = "below-threshold",
        /// `after-failures`, `changes`: failing was told already.
        AlreadyFailing = "already-failing",
        /// `failures`: successes are not asked for.
        SuccessNotWanted = "success-not-wanted",
        /// The run finished before the newest one seen.
        Stale = "stale",
        Paused = "integration-paused",
        Suspended = "integration-suspended",
        /// The integration was removed while the notification waited.
        Removed = "integration-removed",
    }
}

reasons! {
    /// Why an event or a notification is in the dead-letter queue. The header `x-dead-letter-reason`.
    DeadLetterReason {
        MalformedEvent = "malformed-event",
        RejectedByHipchat = "rejected-by-hipchat",
        IntegrationBroken = "integration-broken",
        RetriesExhausted = "retries-exhausted",
        WorkerFault = "worker-fault",
    }
}

reasons! {
    /// Why a room's line waits. Waiting costs no attempt.
    WaitReason {
        RoomBudget = "room-budget",
        TokenBudget = "token-budget",
        IntegrationThrottle = "integration-throttle",
        /// The server said so (429, or a header).
        RateLimited = "rate-limited",
        /// The last attempt failed; the next one's time has not come.
        Retrying = "retrying",
    }
}

/// What `stale` means, told or not.
pub const STALE_IN_WORDS: &str = "the run finished before the newest one seen";

/// `notifications.max_age` has passed.
pub const EXPIRED_REASON: &str = "max-age";
