//! What the kernel knows of a process.

use std::fs;

/// A field of `/proc/<id>/status` in MiB, such as `VmRSS` or `VmHWM`.
pub fn mebibytes(process: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kibibytes.map_or(f64::NAN, |kibibytes| kibibytes / 1024.0)
}

/// Seconds of processor time that a process has used, its threads together.
pub fn processor_seconds(process: u32) -> f64 {
    ticks(process, 11)
}

/// Seconds of processor time that those of a process's children have used that ended and were waited for.
pub fn processor_seconds_of_children(process: u32) -> f64 {
    ticks(process, 13)
}

/// The processes whose parent this is.
pub fn children(parent: u32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // `pid (name) state parent …`; a name may hold anything.
        let parent_of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent_of == Some(parent)
    };
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// User and system time, which stand side by side in `/proc/<id>/stat`, in seconds.
fn ticks(process: u32, field: usize) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything: fields are counted behind it. A tick is 10 ms.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(field) + ticks(field + 1)) / 100.0
}
