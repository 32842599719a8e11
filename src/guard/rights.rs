//! What a process may do, from /proc: CapEff of proc(5), bits of <linux/capability.h>.

use std::fs;

/// Lock memory.
pub const IPC_LOCK: u32 = 14;
/// Freeze and thaw file systems.
pub const SYS_ADMIN: u32 = 21;
/// Power off.
pub const SYS_BOOT: u32 = 22;
/// Real-time priority.
pub const SYS_NICE: u32 = 23;

/// The effective capabilities of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(u64);

impl Rights {
    /// Of the process `pid` ("self" for this one); `None` where /proc does not tell.
    pub fn of(pid: &str) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
        u64::from_str_radix(hex.trim(), 16).ok().map(Self)
    }

    /// Of this process; none where /proc does not tell.
    pub fn own() -> Self {
        Self::of("self").unwrap_or(Self(0))
    }

    /// Has it this capability?
    pub fn has(self, capability: u32) -> bool {
        self.0 & (1 << capability) != 0
    }
}
