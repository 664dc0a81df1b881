//! What the kernel says of processes.

use std::time::Duration;

use anyhow::Context;

/// Ticks in a second of `/proc/PID/stat`; 100 on every Linux, whatever its timer does.
const TICKS: u64 = 100;

/// What `/proc/PID/stat` says of a process.
struct Stat {
    parent: u32,
    /// User and system time of all its threads.
    own: Duration,
    /// The same of its children that have ended.
    children: Duration,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything. Counted from behind it, the parent is 1, utime and stime are 11
    // and 12, and the same of the children follow.
    let (_, fields) = text.rsplit_once(") ").context("an unknown form of /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let number = |at: usize| -> anyhow::Result<u64> {
        fields.get(at).and_then(|field| field.parse().ok()).context("an unknown form of /proc/PID/stat")
    };
    let time = |at: usize| anyhow::Ok(Duration::from_millis((number(at)? + number(at + 1)?) * 1000 / TICKS));
    Ok(Stat { parent: u32::try_from(number(1)?)?, own: time(11)?, children: time(13)? })
}

/// User and system time of all its threads so far.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    Ok(stat(pid)?.own)
}

/// The same of a process and all its children, also those that have ended.
pub fn cpu_of_family(pid: u32) -> anyhow::Result<Duration> {
    let head = stat(pid)?;
    // A child that has just ended counts with its parent the next time.
    let children: Duration = children(pid)?.into_iter().filter_map(|child| Some(stat(child).ok()?.own)).sum();
    Ok(head.own + head.children + children)
}

fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let all =
        std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(all.filter(|child| stat(*child).is_ok_and(|child| child.parent == pid)).collect())
}

/// The parent of a process, if it runs here and is called so.
pub fn parent_named(pid: u32, name: &str) -> Option<u32> {
    let parent = stat(pid).ok()?.parent;
    let found = std::fs::read_to_string(format!("/proc/{parent}/comm")).ok()?;
    (found.trim_end() == name).then_some(parent)
}

/// The time that all cores were busy so far.
pub fn busy() -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an unknown form of /proc/stat")?;
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>().context("/proc/stat")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is counted in the first two.
    let busy: u64 =
        ticks.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, t)| t).sum();
    Ok(Duration::from_millis(busy * 1000 / TICKS))
}

/// The most memory that it ever had resident.
pub fn peak_mib(pid: u32) -> anyhow::Result<f64> {
    mib(&std::fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:")
}

/// The same of a process and its children. What they have in common, as they do at this moment, counts once.
pub fn peak_mib_of_family(pid: u32) -> anyhow::Result<f64> {
    let mut sum = peak_mib(pid)?;
    for child in children(pid)? {
        let pages = std::fs::read_to_string(format!("/proc/{child}/smaps_rollup"))?;
        sum += peak_mib(child)? - mib(&pages, "Shared_Clean:")? - mib(&pages, "Shared_Dirty:")?;
    }
    Ok(sum)
}

/// A figure in kB of a file of `/proc/PID`.
fn mib(text: &str, name: &str) -> anyhow::Result<f64> {
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .with_context(|| format!("the kernel does not say {name}"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
