//! What processes cost, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;

/// A reading of one or more processes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds of CPU, user and system.
    pub cpu: f64,
    /// Resident bytes.
    pub resident: u64,
    /// Bytes sent to the disk.
    pub written: u64,
}

impl Cost {
    /// Of one process, by its pid as this process sees it.
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let proc = Path::new("/proc").join(pid.to_string());
        let stat = fs::read_to_string(proc.join("stat")).with_context(|| format!("process {pid} is gone"))?;
        // The name may hold anything; the numbers follow its closing bracket.
        let (_, numbers) = stat.rsplit_once(')').context("/proc/PID/stat has a name in brackets")?;
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        let ticks = |place: usize| -> anyhow::Result<f64> { Ok(numbers.get(place).context("short stat")?.parse()?) };
        // SAFETY: sysconf reads a constant of the system.
        #[allow(unsafe_code, reason = "sysconf has no safe wrapper here")]
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
        let field = |file: &str, name: &str| -> anyhow::Result<u64> {
            let text = fs::read_to_string(proc.join(file))?;
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .with_context(|| format!("{file} lacks {name}"))?;
            Ok(line.split_whitespace().next().context("an empty field")?.parse()?)
        };
        Ok(Cost {
            cpu: (ticks(11)? + ticks(12)?) / per_second,
            resident: field("status", "VmRSS:")? * 1024,
            written: field("io", "write_bytes:")?,
        })
    }

    /// What was spent since `before`; memory is what it is now.
    pub(crate) fn since(self, before: Cost) -> Cost {
        Cost {
            cpu: self.cpu - before.cpu,
            resident: self.resident,
            written: self.written - before.written,
        }
    }
}

/// Pids, as this process sees them, of processes with this name in the pid namespace of `init`.
pub(crate) fn in_namespace_of(init: u32, name: &str) -> anyhow::Result<Vec<u32>> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid"));
    let wanted = namespace(&init.to_string())?;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let Ok(number) = pid.parse::<u32>() else { continue };
        let named = fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name);
        if named && namespace(&pid).is_ok_and(|it| it == wanted) {
            found.insert(number, ());
        }
    }
    Ok(found.into_keys().collect())
}
