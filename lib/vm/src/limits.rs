//! Limits on what a VM takes of the host: by the scope where systemd runs, else by a cgroup of its own below
//! the one that we are in, where we may make one (the kernel's admin-guide/cgroup-v2.rst, "Delegation"; and
//! cgroup-v1/memory.rst).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use lib_model::{ByteSize, VmId};
use lib_store::VmSpec;

use crate::VmError;
use crate::scope;

/// Of `cpu.max` and its predecessor, in microseconds: the kernel's own default.
const PERIOD: u64 = 100_000;
/// In hundredths of one processor.
const CPU: std::ops::RangeInclusive<u32> = 1..=100 * 1024;

/// What a VM may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Hundredths of one processor.
    pub(crate) cpu: Option<u32>,
    pub(crate) memory: Option<ByteSize>,
}

/// By what they are kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Nothing is limited.
    Nobody,
    /// Properties of the scope (systemd.resource-control(5)).
    Scope(Vec<String>),
    /// Directories to make, and files to write in them; the monitor is put there before it starts the VMM.
    Cgroups(Vec<Cgroup>),
}

/// A cgroup of one hierarchy.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    directory: PathBuf,
    /// Of the directory above: controllers to enable there.
    enable: Vec<&'static str>,
    files: Files,
}

/// Names and contents.
type Files = Vec<(&'static str, String)>;

impl Limits {
    pub(crate) fn of(spec: &VmSpec) -> Limits {
        Limits {
            cpu: spec.cpu_limit,
            memory: spec.memory_limit,
        }
    }

    /// Refuses what no VM can live with.
    ///
    /// # Errors
    /// [`VmError::OutOfRange`].
    pub(crate) fn check(&self, memory: ByteSize) -> Result<(), VmError> {
        if let Some(cpu) = self.cpu.filter(|cpu| !CPU.contains(cpu)) {
            return Err(VmError::OutOfRange {
                what: "cpu-limit",
                value: format!("{}.{:02}", cpu / 100, cpu % 100),
                range: "0.01 to 1024 processors".to_owned(),
            });
        }
        match self.memory {
            Some(limit) if limit.0 < memory.0 => Err(VmError::OutOfRange {
                what: "memory-limit",
                value: limit.to_string(),
                range: format!("{memory} or more, the memory that the guest has"),
            }),
            _ => Ok(()),
        }
    }

    /// Finds out who keeps them here.
    ///
    /// # Errors
    /// [`VmError::NoLimits`].
    pub(crate) fn keeper(&self, id: &str) -> Result<Keeper, VmError> {
        if *self == Limits::default() {
            return Ok(Keeper::Nobody);
        }
        let refused = |reason: String| Err(VmError::NoLimits { reason });
        if let Some(manager) = scope::manager() {
            return match self.missing_for(manager) {
                None => Ok(Keeper::Scope(self.properties())),
                Some(controller) => refused(format!(
                    "systemd has no {controller} controller for you (Delegate= of user@.service)"
                )),
            };
        }
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let here = Here {
            own: read("/proc/self/cgroup"),
            mounts: read("/proc/self/mounts"),
        };
        match self.cgroups(&here, id) {
            Ok(cgroups) => Ok(Keeper::Cgroups(cgroups)),
            Err(reason) => refused(reason),
        }
    }

    fn properties(&self) -> Vec<String> {
        let cpu = self.cpu.map(|cpu| format!("CPUQuota={cpu}%"));
        let memory = self.memory.map(|memory| format!("MemoryMax={}", memory.0));
        cpu.into_iter().chain(memory).collect()
    }

    fn controllers(&self) -> Vec<&'static str> {
        let cpu = self.cpu.map(|_| "cpu");
        let memory = self.memory.map(|_| "memory");
        cpu.into_iter().chain(memory).collect()
    }

    /// systemd drops properties that it cannot keep without a word.
    fn missing_for(&self, manager: &str) -> Option<&'static str> {
        let user = nix::unistd::geteuid();
        let path = match manager {
            "--user" => format!(
                "/sys/fs/cgroup/user.slice/user-{user}.slice/user@{user}.service/cgroup.controllers"
            ),
            _ => "/sys/fs/cgroup/cgroup.controllers".to_owned(),
        };
        // A hierarchy of the first version has no such file; the system's manager has all of it.
        let Ok(there) = fs::read_to_string(path) else {
            return (manager == "--user").then_some("cpu or memory");
        };
        let has = |wanted: &&'static str| there.split_whitespace().any(|word| word == *wanted);
        self.controllers().into_iter().find(|wanted| !has(wanted))
    }

    /// Cgroups below our own, or the reason why there are none.
    fn cgroups(&self, here: &Here, id: &str) -> Result<Vec<Cgroup>, String> {
        let name = format!("banger-{id}");
        if let Some(own) = here.second() {
            let controllers = self.controllers();
            let there = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
            let has = |wanted: &&str| there.split_whitespace().any(|word| word == *wanted);
            if controllers.iter().all(has) {
                return Ok(vec![Cgroup {
                    directory: own.join(name),
                    enable: controllers,
                    files: self.files_of_two(),
                }]);
            }
        }
        let mut cgroups = Vec::new();
        for controller in self.controllers() {
            let own = here.first(controller).ok_or_else(|| {
                format!("there is no systemd, and no cgroup here has the {controller} controller")
            })?;
            let files = match controller {
                "cpu" => self.files_of_one().0,
                _ => self.files_of_one().1,
            };
            cgroups.push(Cgroup {
                directory: own.join(&name),
                enable: Vec::new(),
                files,
            });
        }
        Ok(cgroups)
    }

    fn files_of_two(&self) -> Files {
        let cpu = self
            .cpu
            .map(|cpu| ("cpu.max", format!("{} {PERIOD}", quota(cpu))));
        let memory = self
            .memory
            .map(|memory| ("memory.max", memory.0.to_string()));
        cpu.into_iter().chain(memory).collect()
    }

    /// For `cpu`, and for `memory`.
    fn files_of_one(&self) -> (Files, Files) {
        let cpu = self.cpu.map(|cpu| {
            vec![
                ("cpu.cfs_period_us", PERIOD.to_string()),
                ("cpu.cfs_quota_us", quota(cpu).to_string()),
            ]
        });
        let memory = self
            .memory
            .map(|memory| vec![("memory.limit_in_bytes", memory.0.to_string())]);
        (cpu.unwrap_or_default(), memory.unwrap_or_default())
    }
}

/// Microseconds of each period; the kernel refuses less than a thousand.
fn quota(cpu: u32) -> u64 {
    (u64::from(cpu) * PERIOD / 100).max(1000)
}

/// What the kernel says about our cgroups (cgroups(7), "/proc files").
struct Here {
    own: String,
    mounts: String,
}

impl Here {
    /// Our directory in the hierarchy of the second version.
    fn second(&self) -> Option<PathBuf> {
        let own = self.own.lines().find_map(|line| line.strip_prefix("0::"))?;
        self.directory("cgroup2", "", own)
    }

    /// Our directory in the first version's hierarchy of a controller.
    fn first(&self, controller: &str) -> Option<PathBuf> {
        let own = self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let has = fields.next()?.split(',').any(|word| word == controller);
            fields.next().filter(|_| has)
        })?;
        self.directory("cgroup", controller, own)
    }

    fn directory(&self, kind: &str, option: &str, own: &str) -> Option<PathBuf> {
        let point = self.mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (point, found, options) = (fields.next()?, fields.next()?, fields.next()?);
            let has = option.is_empty() || options.split(',').any(|word| word == option);
            (found == kind && has).then_some(point)
        })?;
        let whole = Path::new(point).join(own.trim_start_matches('/'));
        // Of a container, the path is another's; what is mounted is ours.
        Some(match whole.is_dir() {
            true => whole,
            false => PathBuf::from(point),
        })
    }
}

impl Keeper {
    /// Of the VM's own.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        match self {
            Keeper::Cgroups(cgroups) => cgroups.iter().map(|c| c.directory.clone()).collect(),
            Keeper::Nobody | Keeper::Scope(_) => Vec::new(),
        }
    }

    /// Puts a process that has started nothing yet under the limits.
    ///
    /// # Errors
    /// [`VmError::NoLimits`]; what was made is removed again.
    pub(crate) fn place(&self, pid: u32) -> Result<(), VmError> {
        let Keeper::Cgroups(cgroups) = self else {
            return Ok(());
        };
        let placed = cgroups.iter().try_for_each(|cgroup| cgroup.place(pid));
        if placed.is_err() {
            remove(cgroups);
        }
        placed.map_err(|(path, error)| VmError::NoLimits {
            reason: format!("{}: {error}", path.display()),
        })
    }
}

impl Cgroup {
    fn place(&self, pid: u32) -> Result<(), (PathBuf, io::Error)> {
        let write = |path: PathBuf, text: &str| fs::write(&path, text).map_err(|e| (path, e));
        if let Some(above) = self.directory.parent() {
            for controller in &self.enable {
                write(
                    above.join("cgroup.subtree_control"),
                    &format!("+{controller}"),
                )?;
            }
        }
        match fs::create_dir(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err((self.directory.clone(), error));
            }
            _ => {}
        }
        for (file, value) in &self.files {
            write(self.directory.join(file), value)?;
        }
        write(self.directory.join("cgroup.procs"), &pid.to_string())
    }
}

/// Removes the cgroups of a VM that does not run; those of a reboot of the host are gone anyway.
pub(crate) fn clear(id: &VmId, spec: &VmSpec) {
    if let Ok(Keeper::Cgroups(cgroups)) = Limits::of(spec).keeper(id.as_str()) {
        remove(&cgroups);
    }
}

fn remove(cgroups: &[Cgroup]) {
    for cgroup in cgroups {
        // One that is gone or still has processes stays as it is.
        let _ = fs::remove_dir(&cgroup.directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cpu: Some(150),
        memory: Some(ByteSize(1 << 30)),
    };

    #[test]
    fn a_scope_gets_properties() {
        assert_eq!(
            LIMITS.properties(),
            ["CPUQuota=150%", "MemoryMax=1073741824"]
        );
        assert_eq!(
            Limits::default().keeper("x").unwrap(),
            Keeper::Nobody,
            "whatever there is"
        );
    }

    #[test]
    fn the_second_version_is_taken_when_it_has_the_controllers_else_the_first() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        let own = root.join("unified/user/me");
        fs::create_dir_all(&own).unwrap();
        fs::create_dir_all(root.join("memory/me")).unwrap();
        let here = Here {
            own: "4:memory:/me\n1:cpu,cpuacct:/elsewhere\n0::/user/me\n".into(),
            mounts: format!(
                "cgroup {0}/memory cgroup rw,relatime,memory 0 0\n\
                 cgroup {0}/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
                 cgroup2 {0}/unified cgroup2 rw 0 0\n",
                root.display()
            ),
        };
        fs::write(own.join("cgroup.controllers"), "hugetlb\n").unwrap();
        let first = LIMITS.cgroups(&here, "7").unwrap();
        assert_eq!(
            first,
            [
                Cgroup {
                    directory: root.join("cpu/banger-7"),
                    enable: Vec::new(),
                    files: vec![
                        ("cpu.cfs_period_us", "100000".into()),
                        ("cpu.cfs_quota_us", "150000".into()),
                    ],
                },
                Cgroup {
                    directory: root.join("memory/me/banger-7"),
                    enable: Vec::new(),
                    files: vec![("memory.limit_in_bytes", "1073741824".into())],
                },
            ]
        );
        fs::write(own.join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        let second = LIMITS.cgroups(&here, "7").unwrap();
        assert_eq!(
            second,
            [Cgroup {
                directory: own.join("banger-7"),
                enable: vec!["cpu", "memory"],
                files: vec![
                    ("cpu.max", "150000 100000".into()),
                    ("memory.max", "1073741824".into()),
                ],
            }]
        );
        Keeper::Cgroups(second).place(42).unwrap();
        let read = |file: &str| fs::read_to_string(own.join(file)).unwrap();
        assert_eq!(read("banger-7/cgroup.procs"), "42");
        assert_eq!(read("banger-7/memory.max"), "1073741824");
        assert_eq!(read("cgroup.subtree_control"), "+memory");
        let none = Here {
            own: "0::/\n".into(),
            mounts: String::new(),
        };
        let reason = LIMITS.cgroups(&none, "7").unwrap_err();
        assert!(reason.contains("the cpu controller"), "{reason}");
    }

    #[test]
    fn limits_below_what_a_vm_needs_are_refused() {
        assert!(LIMITS.check(ByteSize(1 << 30)).is_ok());
        let error = LIMITS.check(ByteSize(2 << 30)).unwrap_err().to_string();
        assert!(error.contains("memory-limit"), "{error}");
        let none = Limits {
            cpu: Some(0),
            memory: None,
        };
        assert!(none.check(ByteSize(1)).is_err());
        assert_eq!(quota(1), 1000);
    }
}
