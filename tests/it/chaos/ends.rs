//! Why a worker has ended that nobody ended. Only one reason is none of its faults: it was to start on a full disk.

use std::os::unix::process::ExitStatusExt;

use super::stalls::Span;
use crate::support::process::End;

/// What it says then: that the disk is full, in the words of its store.
const FULL: &str = "disk full";
/// What it says once it is through its start. From then on it has to live with whatever its disk does.
const STARTED: &str = "worker started";

/// What it said last.
pub fn last_words(end: &End) -> &str {
    end.log.lines().last().unwrap_or("nothing")
}

/// Whether it was SIGKILL that ended it.
pub fn was_killed(end: &End) -> bool {
    end.status.signal() == Some(9)
}

/// Whether SIGTERM ended it before it was there to hear of it: it says something as soon as it can.
pub fn was_too_young_to_stop(end: &End) -> bool {
    end.status.signal() == Some(15) && end.log.is_empty()
}

/// Whether it could not but end, where the disk was full at these times: it began or ended in one of them, was not
/// through its start, and gave that reason.
pub fn is_excused(end: &End, full: &[Span]) -> bool {
    let in_time = |moment| full.iter().any(|(from, to)| (*from..=*to).contains(&moment));
    let reason = last_words(end);
    (in_time(end.started) || in_time(end.ended))
        && end.status.code() == Some(1)
        && !end.log.contains(STARTED)
        && reason.starts_with("hipchat-notifier: ")
        && reason.contains(FULL)
}

#[test]
fn only_a_start_on_a_full_disk_is_excused() {
    use std::process::ExitStatus;

    use jiff::Timestamp;

    const WORDS: &str = "hipchat-notifier: store worker.db can't grow: disk full; free some space";
    let at = |second| Timestamp::from_second(second).expect("a time");
    let excused = |(started, ended): (i64, i64), code: i32, log: &str| {
        let status = ExitStatus::from_raw(code << 8);
        let end = End { started: at(started), ended: at(ended), status, log: log.to_owned() };
        is_excused(&end, &[(at(10), at(20)), (at(50), at(60))])
    };
    assert!(excused((11, 12), 1, WORDS), "in the middle");
    assert!(excused((9, 12), 1, WORDS), "it was just starting");
    assert!(excused((19, 22), 1, WORDS), "it took its time to end");
    assert!(excused((55, 56), 1, WORDS), "the second time");
    assert!(!excused((21, 22), 1, WORDS), "all was well again");
    assert!(!excused((30, 40), 1, WORDS), "long after");
    assert!(!excused((9, 22), 1, WORDS), "neither began nor ended then");
    assert!(!excused((11, 12), 1, ""), "for no reason given");
    assert!(
        !excused((11, 12), 1, "hipchat-notifier: another worker is using worker.db"),
        "for another reason"
    );
    assert!(!excused((11, 12), 1, &format!("{WORDS}\nsomething else")), "it was not its last word");
    assert!(!excused((11, 12), 78, WORDS), "as if it had been set up wrongly");
    assert!(!excused((5, 12), 1, &format!("{{\"message\":\"worker started\"}}\n{WORDS}")), "it had started");
    let status = ExitStatus::from_raw(11);
    let end = End { started: at(11), ended: at(12), status, log: WORDS.to_owned() };
    assert!(!is_excused(&end, &[(at(10), at(20))]), "it crashed");
}
