//! A virtual machine as the daemon starts it in a jail: numbers and switches, of which the daemon makes the
//! command line itself.

use serde::{Deserialize, Serialize};

use crate::{MAX_DESCRIPTORS, NameError};

/// Descriptors that every machine has: kernel, initramfs, log, console, QMP, agent.
const ALWAYS: usize = 6;

/// What the jailed machine monitor is to be.
///
/// With the request come, in this order: the kernel (an ELF file with a PVH note) and the initramfs, which are copied;
/// a file for what the monitor prints; connected sockets for the serial console, for QMP and for the agent's port;
/// with `network`, the VM's tap; then one file for each disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// How instructions are executed.
    pub acceleration: Acceleration,
    /// Processors, 1 to 64.
    pub cpus: u8,
    /// Memory in MiB, 32 to 1,048,576.
    pub memory_mib: u32,
    /// For the guest's kernel.
    pub kernel_arguments: KernelArguments,
    /// The VM's tap comes with it.
    pub network: bool,
    /// Raw files, at most 8.
    pub disks: Vec<Disk>,
}

/// How instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acceleration {
    /// By the processor.
    Kvm,
    /// In software.
    Emulation,
}

/// A disk of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Disk {
    /// Not for writing.
    pub read_only: bool,
}

impl Machine {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        ALWAYS + usize::from(self.network) + self.disks.len()
    }

    /// Whether its numbers are within their limits.
    ///
    /// # Errors
    /// The first that is not.
    pub fn validate(&self) -> Result<(), NameError> {
        let limit = |within: bool, what, rule| match within {
            true => Ok(()),
            false => Err(NameError { what, rule }),
        };
        limit(
            (1..=64).contains(&self.cpus),
            "a number of processors",
            "1 to 64",
        )?;
        limit(
            (32..=1 << 20).contains(&self.memory_mib),
            "a size of memory",
            "32 to 1,048,576 MiB",
        )?;
        limit(self.disks.len() <= 8, "a list of disks", "at most 8")?;
        limit(
            self.descriptors() <= MAX_DESCRIPTORS,
            "a machine",
            "at most 16 descriptors",
        )
    }
}

/// The command line of a guest's kernel: printable ASCII, at most 2047 bytes (x86's COMMAND_LINE_SIZE).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KernelArguments(String);

impl KernelArguments {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for KernelArguments {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        if text.len() < 2048 && text.bytes().all(|b| matches!(b, b' '..=b'~')) {
            Ok(KernelArguments(text.to_owned()))
        } else {
            Err(NameError {
                what: "a kernel's command line",
                rule: "at most 2047 printable ASCII characters",
            })
        }
    }
}

impl TryFrom<String> for KernelArguments {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        KernelArguments::try_from(text.as_str())
    }
}

impl From<KernelArguments> for String {
    fn from(arguments: KernelArguments) -> String {
        arguments.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_limits() {
        let machine = |cpus, memory_mib, disks| Machine {
            acceleration: Acceleration::Emulation,
            cpus,
            memory_mib,
            kernel_arguments: KernelArguments::try_from("quiet").unwrap(),
            network: true,
            disks: vec![Disk { read_only: true }; disks],
        };
        assert_eq!(machine(1, 64, 2).validate(), Ok(()));
        assert_eq!(machine(1, 64, 2).descriptors(), 9);
        for (cpus, memory, disks) in [
            (0, 64, 0),
            (65, 64, 0),
            (1, 0, 0),
            (1, 2 << 20, 0),
            (1, 64, 9),
        ] {
            assert!(machine(cpus, memory, disks).validate().is_err());
        }
        for bad in ["a\nb", "a\0", "é", &"a".repeat(2048)] {
            assert!(KernelArguments::try_from(bad).is_err(), "{bad:?}");
        }
    }
}
