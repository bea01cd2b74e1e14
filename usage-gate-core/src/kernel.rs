//! Which boot of the machine's kernel this is.
//!
//! What a process stored in a mapped file is there for the next process as long as the kernel is the same. After a reboot or a power loss the file
//! may be older than what was promised on its ground, so tables remember the boot they were written in.

use std::sync::LazyLock;

/// One boot of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelBoot(u128);

impl KernelBoot {
    /// This one. Where the system does not tell, a number of this process: then every restart counts as a reboot, which loses units and
    /// creates none.
    pub(crate) fn current() -> Self {
        static CURRENT: LazyLock<KernelBoot> = LazyLock::new(|| {
            let told = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
            let told = told.and_then(|text| uuid::Uuid::try_parse(text.trim()).ok());
            KernelBoot(told.unwrap_or_else(uuid::Uuid::now_v7).as_u128())
        });
        *CURRENT
    }

    /// The number inside.
    pub(crate) const fn as_u128(self) -> u128 {
        self.0
    }

    /// The boot of a number that [`as_u128`](Self::as_u128) gave.
    pub(crate) const fn from_u128(value: u128) -> Self {
        Self(value)
    }
}
