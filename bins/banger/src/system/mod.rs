//! `banger system`: banger as a part of the machine, where no package of a distribution does that.
//!
//! The list of files is written first, so that whatever happens `uninstall` finds what is there. A file
//! that somebody has changed since is not removed.

mod plan;
mod units;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use lib_cli::Failure;
use lib_model::{Exit, SCHEMA};

use plan::{Place, digest};
use units::{ENABLED, Offer, RESOLVED, ROUTE};

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Install the programs, the units of systemd, the user and the group `banger`
    Install(InstallArgs),
    /// Remove what `install` has brought, and is as it was; VMs and configuration stay
    Uninstall(SystemArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
On NixOS, the module does this: services.banger.enable = true.

Examples:
  sudo target/release/banger system install --dry-run
  sudo target/release/banger system install
  sudo target/release/banger system install --offer disks,jails
  sudo adduser \"$USER\" banger                    may then use the bridge")]
pub(crate) struct InstallArgs {
    #[command(flatten)]
    system: SystemArgs,

    /// What banger-netd does for its users beyond the network; either gives it more rights, above all CAP_SYS_ADMIN.
    /// Without this flag it stays as an earlier installation has it, at first `none`
    #[arg(long, value_name = "WHAT", value_enum, value_delimiter = ',')]
    offer: Vec<Offer>,
}

#[derive(Debug, Args)]
pub(crate) struct SystemArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,

    /// Where programs and units go: below /usr or /usr/local, where systemd looks
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,

    /// Install into this root directory, such as that of an image; nothing is started
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// Print one JSON record per line, as without a terminal
    #[arg(long)]
    json: bool,
}

/// One thing that is done.
#[derive(serde::Serialize)]
struct Step<'a> {
    kind: &'static str,
    schema: u32,
    action: &'static str,
    what: &'a str,
    changed: bool,
}

/// Does, or only says.
struct Doer<'a> {
    args: &'a SystemArgs,
    place: Place,
    people: bool,
}

pub(crate) fn run(command: &SystemCommand) -> Result<(), Failure> {
    let args = match command {
        SystemCommand::Install(InstallArgs { system, offer }) => {
            if offer.contains(&Offer::None) && offer.iter().any(|one| *one != Offer::None) {
                return Err(Failure::usage("--offer none goes with no other")
                    .hint("banger system install --offer disks,jails"));
            }
            system
        }
        SystemCommand::Uninstall(args) => args,
    };
    let place = checked(args)?;
    let doer = Doer {
        args,
        place,
        people: !args.json && io::stdout().is_terminal(),
    };
    match command {
        SystemCommand::Install(args) => doer.install(&args.offer),
        SystemCommand::Uninstall(_) => doer.uninstall(),
    }
}

/// Paths that are whole, and rights that suffice.
fn checked(args: &SystemArgs) -> Result<Place, Failure> {
    for (flag, path) in [("--prefix", &args.prefix), ("--root", &args.root)] {
        if !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..") {
            return Err(Failure::usage(format!("{flag} wants an absolute path")));
        }
    }
    if !args.root.is_dir() {
        let message = format!("{} is no directory", args.root.display());
        return Err(Failure::new(Exit::NotFound, message));
    }
    if !["/usr", "/usr/local"]
        .iter()
        .any(|known| Path::new(known) == args.prefix)
    {
        return Err(Failure::usage(format!(
            "systemd does not look below {}",
            args.prefix.display()
        ))
        .hint("--prefix /usr/local"));
    }
    let live = args.root == Path::new("/");
    if live && args.root.join("etc/NIXOS").exists() {
        return Err(
            Failure::usage("this is NixOS, which installs units by its configuration")
                .hint("services.banger.enable = true;"),
        );
    }
    if live && !args.dry_run {
        if !nix::unistd::geteuid().is_root() {
            return Err(
                Failure::new(Exit::Failed, "only root can install into the machine")
                    .hint("sudo banger system install, or --dry-run"),
            );
        }
        // sd_booted(3).
        if !args.root.join("run/systemd/system").is_dir() {
            return Err(
                Failure::new(Exit::Failed, "systemd does not run this machine")
                    .hint("--root DIR installs into another root directory"),
            );
        }
    }
    Ok(Place {
        root: args.root.clone(),
        prefix: args.prefix.clone(),
    })
}

impl Doer<'_> {
    fn live(&self) -> bool {
        self.place.root == Path::new("/")
    }

    fn install(&self, offer: &[Offer]) -> Result<(), Failure> {
        let program =
            std::env::current_exe().map_err(|error| Failure::io("find /proc/self/exe", error))?;
        let listed = self.listed()?;
        let offered = self.offered(offer, &listed);
        let files = self.place.files(&program, &offered)?;
        // What an older version had besides is forgotten only when it is gone.
        let mut lines: BTreeSet<String> = listed
            .iter()
            .map(|(digest, path)| line(digest, path))
            .collect();
        lines.extend(files.iter().map(|file| line(&file.digest(), &file.path)));
        self.write(
            &self.place.list(),
            lines.into_iter().collect::<String>().as_bytes(),
            0o644,
        )?;
        for file in &files {
            self.write(&file.path, &file.content, file.mode)?;
        }
        for other in Offer::WITH_DROP_IN
            .iter()
            .filter(|one| !offered.contains(one))
        {
            if let Some(path) = self.drop_in(*other) {
                self.remove(&path, &digests(&listed, &path))?;
            }
        }
        let root = format!("--root={}", self.place.root.display());
        let conf = |place: &str| {
            self.place
                .at(&self.place.prefix.join(place))
                .display()
                .to_string()
        };
        self.call(
            "systemd-sysusers",
            &[&root, &conf("lib/sysusers.d/banger.conf")],
        )?;
        self.call(
            "systemd-tmpfiles",
            &[&root, "--create", &conf("lib/tmpfiles.d/banger.conf")],
        )?;
        if self.live() {
            self.call("systemctl", &["daemon-reload"])?;
            self.call("systemctl", &["restart", "systemd-modules-load.service"])?;
        }
        let mut enable = vec![
            if self.live() { "--now" } else { &root },
            "--quiet",
            "enable",
        ];
        enable.extend(ENABLED);
        if self.place.at(Path::new(RESOLVED)).exists() {
            enable.push(ROUTE);
        }
        self.call("systemctl", &enable)?;
        if self.live() {
            // Those of an older version; VMs and their names go on meanwhile.
            let services = ["banger-netd.service", "banger-dns.service"];
            self.call("systemctl", &["try-restart", services[0], services[1]])?;
        }
        Ok(())
    }

    /// Where the drop-in for an offer is.
    fn drop_in(&self, offer: Offer) -> Option<PathBuf> {
        let unit = offer.drop_in()?;
        Some(self.place.prefix.join(unit.place))
    }

    /// What the flag says; without it, what an earlier installation has brought and nobody removed.
    fn offered(&self, flag: &[Offer], listed: &[(String, PathBuf)]) -> Vec<Offer> {
        let wanted = |offer: &Offer| {
            if !flag.is_empty() {
                return flag.contains(offer);
            }
            self.drop_in(*offer).is_some_and(|path| {
                listed.iter().any(|(_, other)| *other == path) && self.place.at(&path).exists()
            })
        };
        Offer::WITH_DROP_IN.into_iter().filter(wanted).collect()
    }

    fn uninstall(&self) -> Result<(), Failure> {
        let listed = self.listed()?;
        if listed.is_empty() {
            let message = format!(
                "{} lists nothing that was installed",
                self.place.list().display()
            );
            return Err(Failure::new(Exit::NotFound, message)
                .hint("a package of the distribution is removed by its own tools"));
        }
        let root = format!("--root={}", self.place.root.display());
        if self.live() {
            self.call("systemctl", &["--quiet", "stop", "banger-vm@*.service"])?;
        }
        let mut disable = vec![
            if self.live() { "--now" } else { &root },
            "--quiet",
            "disable",
        ];
        disable.extend(ENABLED);
        disable.push(ROUTE);
        self.call("systemctl", &disable)?;
        if self.live() {
            self.call(
                "systemctl",
                &[
                    "--quiet",
                    "stop",
                    "banger-dns.service",
                    "banger-netd.service",
                ],
            )?;
        }
        // An older version's file may be listed with more than one digest.
        let paths: BTreeSet<&PathBuf> = listed.iter().map(|(_, path)| path).collect();
        for path in paths {
            self.remove(path, &digests(&listed, path))?;
        }
        self.remove_list()?;
        if self.live() {
            self.call("systemctl", &["daemon-reload"])?;
        }
        self.say(
            "keep",
            "/var/lib/banger, /etc/banger, the user and the group banger",
            false,
        )
    }

    /// Digests and paths of what an earlier installation has brought.
    fn listed(&self) -> Result<Vec<(String, PathBuf)>, Failure> {
        let list = self.place.at(&self.place.list());
        let text = match fs::read_to_string(&list) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| cannot("read", &list, &error))?,
        };
        let pairs = text.lines().filter_map(|line| line.split_once("  "));
        Ok(pairs
            .map(|(digest, path)| (digest.to_owned(), PathBuf::from(path)))
            .collect())
    }

    /// A file is replaced by rename, as programs may run.
    fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<(), Failure> {
        let target = self.place.at(path);
        let shown = path.display().to_string();
        let same = fs::read(&target).is_ok_and(|there| there == content)
            && fs::metadata(&target).is_ok_and(|there| there.permissions().mode() & 0o7777 == mode);
        if same {
            return self.say("write", &shown, false);
        }
        if !self.args.dry_run {
            let put = || -> io::Result<()> {
                let directory = target.parent().unwrap_or(Path::new("/"));
                fs::create_dir_all(directory)?;
                let mut name = target.file_name().unwrap_or_default().to_owned();
                name.push(".banger-new");
                let new = directory.join(name);
                fs::write(&new, content)?;
                fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
                fs::rename(new, &target)
            };
            put().map_err(|error| cannot("write", &target, &error))?;
        }
        self.say("write", &shown, true)
    }

    fn remove(&self, path: &Path, digests: &[&str]) -> Result<(), Failure> {
        let target = self.place.at(path);
        let shown = path.display().to_string();
        let content = match fs::read(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            content => content.map_err(|error| cannot("read", &target, &error))?,
        };
        if !digests.contains(&digest(&content).as_str()) {
            return self.say("keep what was changed", &shown, false);
        }
        if !self.args.dry_run {
            fs::remove_file(&target).map_err(|error| cannot("remove", &target, &error))?;
            self.tidy(&target);
        }
        self.say("remove", &shown, true)
    }

    fn remove_list(&self) -> Result<(), Failure> {
        let list = self.place.at(&self.place.list());
        if !self.args.dry_run {
            fs::remove_file(&list).map_err(|error| cannot("remove", &list, &error))?;
            self.tidy(&list);
        }
        self.say("remove", &self.place.list().display().to_string(), true)
    }

    /// Directories of ours that are empty now; those of others stay, whoever made them.
    fn tidy(&self, file: &Path) {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let ours = ["banger", "banger-netd.service.d"];
        if ours.iter().any(|name| directory.ends_with(name)) {
            // It may have other files.
            let _ = fs::remove_dir(directory);
        }
    }

    /// Runs a program of systemd, which is asked for its absolute path and gets no environment.
    fn call(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        let shown = format!("{program} {}", arguments.join(" "));
        if !self.args.dry_run {
            let path = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
                .iter()
                .map(|directory| Path::new(directory).join(program))
                .find(|path| path.is_file())
                .ok_or_else(|| Failure::new(Exit::Failed, format!("there is no {program}")))?;
            let output = Command::new(path)
                .args(arguments)
                .env_clear()
                .stdin(Stdio::null())
                .output()
                .map_err(|error| Failure::io(&format!("run {program}"), error))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                let said = said
                    .trim()
                    .lines()
                    .last()
                    .unwrap_or("it says no more")
                    .to_owned();
                let failed = format!("{shown}: {}", output.status);
                let status = Exit::Failed.into();
                let hint = "banger system uninstall   (takes back what was installed)".to_owned();
                return Err(Failure::from_parts(status, vec![failed, said], Some(hint)));
            }
        }
        self.say("run", &shown, true)
    }

    fn say(&self, action: &'static str, what: &str, changed: bool) -> Result<(), Failure> {
        let text = if self.people {
            let would = if self.args.dry_run { "would " } else { "" };
            let already = if changed || action.starts_with("keep") {
                ""
            } else {
                "   (is that way already)"
            };
            format!("{would}{action} {what}{already}\n")
        } else {
            let step = Step {
                kind: "step",
                schema: SCHEMA,
                action,
                what,
                changed: changed && !self.args.dry_run,
            };
            let text = serde_json::to_string(&step);
            text.map_err(|error| Failure::io("write a record", error.into()))? + "\n"
        };
        io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("write to standard output", error))
    }
}

/// What a file was each time that it was installed.
fn digests<'a>(listed: &'a [(String, PathBuf)], path: &Path) -> Vec<&'a str> {
    let of_it = listed.iter().filter(|(_, other)| other == path);
    of_it.map(|(digest, _)| digest.as_str()).collect()
}

fn line(digest: &str, path: &Path) -> String {
    format!("{digest}  {}\n", path.display())
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("cannot {what} {}: {error}", path.display()),
    )
}
