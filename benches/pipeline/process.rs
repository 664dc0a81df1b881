//! What the kernel says of a process.

use std::time::Duration;

use anyhow::Context;

/// Ticks in a second of `/proc/PID/stat`; 100 on every Linux, whatever its timer does.
const TICKS: u64 = 100;

/// User and system time of all its threads so far.
pub fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in parentheses, may hold anything. Counted from behind it, utime and stime are 11 and 12.
    let (_, fields) = stat.rsplit_once(") ").context("an unknown form of /proc/PID/stat")?;
    let ticks: u64 = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>())
        .sum::<Result<_, _>>()
        .context("an unknown form of /proc/PID/stat")?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// The most memory that it ever had resident.
pub fn peak_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmHWM in /proc/PID/status")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
