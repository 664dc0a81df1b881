//! How long rooms were left alone for no reason. A room stalls while something waits for it from the moment that the
//! broker has confirmed it, its budget would let it hear, no trouble makes it impossible, and it hears nothing.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// From when to when.
pub type Span = (Timestamp, Timestamp);

/// Something that waited for the room.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    pub confirmed: Timestamp,
    pub taken_in: Timestamp,
    pub told: Timestamp,
}

/// All that one room's stalls are made of.
pub struct Story<'a> {
    pub waits: &'a [Wait],
    /// When it heard anything, in order.
    pub heard: &'a [Timestamp],
    /// Messages that it can take, and in how long.
    pub budget: (u32, Duration),
    /// When nothing could be taken in.
    pub no_intake: &'a [Span],
    /// When nothing could be told.
    pub no_telling: &'a [Span],
}

/// The longest time in which the room stalled, and since when.
pub fn longest(story: &Story<'_>) -> Option<(SignedDuration, Timestamp)> {
    let heard = story.heard.iter().map(|at| (*at, *at));
    let mut closed: Vec<Span> = story.no_telling.iter().copied().chain(heard).chain(full(story)).collect();
    closed.sort_unstable();
    let of_wait = |wait: &Wait| {
        let before = story.no_intake.iter().map(|(from, to)| (*from, (*to).min(wait.taken_in)));
        let mut all: Vec<Span> = closed
            .iter()
            .copied()
            .chain(before.filter(|(from, to)| from < to))
            .filter(|(from, to)| *to > wait.confirmed && *from < wait.told)
            .chain([(wait.told, wait.told)])
            .collect();
        all.sort_unstable();
        let mut since = wait.confirmed;
        let gaps = all.into_iter().map(|(from, to)| {
            let gap = (from.duration_since(since), since);
            since = since.max(to);
            gap
        });
        gaps.max().expect("the end at least")
    };
    story.waits.iter().map(of_wait).max()
}

/// When its budget was used up.
fn full(story: &Story<'_>) -> impl Iterator<Item = Span> {
    let (messages, per) = story.budget;
    let per = SignedDuration::try_from(per).expect("short");
    story.heard.windows(messages as usize).map(move |window| (window[window.len() - 1], window[0] + per))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("a time")
    }

    fn stall(
        waits: &[(i64, i64, i64)],
        heard: &[i64],
        no_intake: &[(i64, i64)],
        no_telling: &[(i64, i64)],
    ) -> (i128, i64) {
        let waits: Vec<Wait> = waits
            .iter()
            .map(|(confirmed, taken_in, told)| Wait {
                confirmed: at(*confirmed),
                taken_in: at(*taken_in),
                told: at(*told),
            })
            .collect();
        let heard: Vec<Timestamp> = heard.iter().map(|millis| at(*millis)).collect();
        let spans = |of: &[(i64, i64)]| of.iter().map(|(from, to)| (at(*from), at(*to))).collect::<Vec<_>>();
        let (no_intake, no_telling) = (spans(no_intake), spans(no_telling));
        let budget = (2, Duration::from_millis(1_000));
        let story =
            Story { waits: &waits, heard: &heard, budget, no_intake: &no_intake, no_telling: &no_telling };
        let (lasted, since) = longest(&story).expect("something waited");
        (lasted.as_millis(), since.as_millisecond())
    }

    #[test]
    fn only_silence_without_a_reason_counts() {
        let one = [(0, 100, 5_000)];
        assert_eq!(stall(&one, &[5_000], &[], &[]), (5_000, 0), "nothing excuses it");
        assert_eq!(stall(&one, &[3_000, 5_000], &[], &[]), (3_000, 0), "it heard something else");
        assert_eq!(stall(&one, &[5_000], &[], &[(0, 4_000)]), (1_000, 4_000), "it could not be told");
        assert_eq!(stall(&one, &[5_000], &[], &[(1_000, 2_000)]), (3_000, 2_000), "only in the middle");
        assert_eq!(stall(&one, &[5_000], &[(0, 4_000)], &[]), (4_900, 100), "it was taken in already");
        assert_eq!(
            stall(&[(0, 4_500, 5_000)], &[5_000], &[(0, 4_000)], &[]),
            (1_000, 4_000),
            "nothing could be taken in"
        );
        assert_eq!(
            stall(&[(2_000, 2_000, 2_800)], &[1_900, 2_000, 2_800], &[], &[]),
            (0, 2_000),
            "its budget was used up"
        );
        assert_eq!(
            stall(&[(2_000, 2_000, 3_300)], &[1_900, 2_000, 3_300], &[], &[]),
            (400, 2_900),
            "and no longer"
        );
    }
}
