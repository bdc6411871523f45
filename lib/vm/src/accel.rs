//! Whether the processor can run guests, or must be emulated.

use std::fs::{self, File};
use std::str::FromStr;

use crate::VmError;

/// What the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accel {
    /// KVM where the processor really has it, else emulation.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// What a VM runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceleration {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's Tiny Code Generator.
    Tcg,
}

impl Accel {
    /// `auto`, `kvm` or `tcg`.
    pub fn as_str(self) -> &'static str {
        match self {
            Accel::Auto => "auto",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }

    /// Decides, and says why emulation was chosen when nobody asked for it.
    ///
    /// `/dev/kvm` alone proves nothing: nested or paravirtual hosts offer it without being able to
    /// run a stock kernel. The processor's `vmx` or `svm` flag is needed too.
    ///
    /// # Errors
    /// [`VmError::NoKvm`] when KVM was demanded and is not there.
    pub fn choose(self) -> Result<(Acceleration, Option<String>), VmError> {
        if self == Accel::Tcg {
            return Ok((Acceleration::Tcg, None));
        }
        match kvm_problem() {
            None => Ok((Acceleration::Kvm, None)),
            Some(problem) if self == Accel::Kvm => Err(VmError::NoKvm { problem }),
            Some(problem) => Ok((Acceleration::Tcg, Some(problem))),
        }
    }
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Accel::Auto),
            "kvm" => Ok(Accel::Kvm),
            "tcg" => Ok(Accel::Tcg),
            _ => Err(format!("`{text}` is none of auto, kvm, tcg")),
        }
    }
}

fn kvm_problem() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm cannot be opened ({error})"));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if has_virtualisation(&cpuinfo) {
        None
    } else {
        Some("the processor shows neither vmx nor svm".into())
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_processor_flag_counts() {
        assert!(has_virtualisation("flags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("model name: x\nflags : svm\n"));
        assert!(!has_virtualisation("flags : svm_lock vmxnet\nbugs : vmx\n"));
    }
}
