//! apt: the kernel's package, the host's sources, the proxy.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lib_model::Progress;

use crate::deb822::{self, Paragraph};
use crate::program::{APT_CACHE, APT_CONFIG, APT_GET, Program};
use crate::request::word;
use crate::{DistroError, Family, HostDistribution, date, host};

/// A kernel's packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelPackage {
    /// Holds the kernel and, on Debian, its modules.
    pub image: PathBuf,
    /// Ubuntu keeps the modules in a package of their own.
    pub modules: Option<PathBuf>,
}

/// Downloads the newest kernel for VMs of the host's release into `directory`, unless it is there.
/// apt verifies it against the signed lists.
///
/// # Errors
/// [`DistroError::NoLists`] when `apt-get update` never ran, and all that apt may say.
pub fn kernel_package(
    directory: &Path,
    progress: &dyn Progress,
) -> Result<KernelPackage, DistroError> {
    let host = host()?;
    let image = needed(&host, host.family.kernel(), "linux-image-")?;
    let modules = match host.family {
        Family::Debian => None,
        Family::Ubuntu => Some(needed(&host, &image, "linux-modules-")?),
    };
    let failed = io_error("create", directory);
    fs::create_dir_all(directory).map_err(failed)?;
    Ok(KernelPackage {
        image: download(&image, directory, progress)?,
        modules: modules
            .map(|name| download(&name, directory, progress))
            .transpose()?,
    })
}

/// The first package with this prefix that `package` depends on.
fn needed(host: &HostDistribution, package: &str, prefix: &str) -> Result<String, DistroError> {
    let mut command = APT_CACHE.command()?;
    command.args(["show", "--no-all-versions", package]);
    // It fails when it does not know the package; why is found out here.
    let text = match APT_CACHE.output(&mut command) {
        Err(DistroError::Failed { .. }) => String::new(),
        other => other?,
    };
    let found = deb822::parse(&text)
        .first()
        .and_then(|paragraph| dependency(paragraph.get("Depends")?, prefix));
    match found {
        Some(name) => Ok(name),
        None if index_targets()?.is_empty() => Err(DistroError::NoLists {
            suite: host.codename.clone(),
        }),
        None => Err(DistroError::NoPackage {
            package: package.to_owned(),
        }),
    }
}

/// The name in `Depends` that has the prefix, without version and alternatives.
fn dependency(depends: &str, prefix: &str) -> Option<String> {
    let names = depends.split(',').flat_map(|part| part.split('|'));
    let names = names.filter_map(|part| part.split_ascii_whitespace().next());
    names
        .map(|name| name.split(':').next().unwrap_or(name))
        .find_map(|name| (name.starts_with(prefix) && word(name, "+-.")).then(|| name.to_owned()))
}

fn download(
    package: &str,
    directory: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, DistroError> {
    let uris = APT_GET.output(
        APT_GET
            .command()?
            .args(["download", "--print-uris", package]),
    )?;
    let (name, size) = printed_uri(&uris).ok_or_else(|| DistroError::Confusing {
        program: "apt-get",
        output: uris.clone(),
    })?;
    let target = directory.join(name);
    if target
        .metadata()
        .is_ok_and(|metadata| metadata.len() == size)
    {
        return Ok(target);
    }
    // Renamed when complete and verified: what has the name is whole, whoever else downloads it.
    let partial = tempfile::tempdir_in(directory).map_err(io_error("write in", directory))?;
    let step = progress.step(&format!("downloading {package}"), Some(size));
    let mut command = APT_GET.command()?;
    command
        .current_dir(partial.path())
        .args(["-qq", "-o", "APT::Status-Fd=1"]);
    if nix::unistd::geteuid().is_root() {
        // apt's own user may not write here; apt would say so and go on as root.
        command.args(["-o", "APT::Sandbox::User=root"]);
    }
    command.args(["download", package]);
    let mut done = 0;
    run_with_lines(APT_GET, &mut command, |line| {
        if let Some(percent) = downloaded(line) {
            let now = (size as f64 * percent / 100.0) as u64;
            step.advance(now.saturating_sub(done));
            done = done.max(now);
        }
    })?;
    let made = partial.path().join(name);
    fs::rename(&made, &target).map_err(io_error("keep", &made))?;
    step.advance(size.saturating_sub(done));
    step.done("verified by apt");
    Ok(target)
}

/// Runs a program, giving each line of its standard output to `each`.
fn run_with_lines(
    program: Program,
    command: &mut Command,
    mut each: impl FnMut(&str),
) -> Result<(), DistroError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| program.not_started(error))?;
    let stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        stderr.map(|mut pipe| pipe.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .for_each(|line| each(&line));
    }
    let status = child.wait().map_err(|error| program.not_started(error))?;
    let lines = reader.join().unwrap_or_default();
    if status.success() {
        Ok(())
    } else {
        Err(program.failed(status, lines.lines().map(str::to_owned)))
    }
}

/// File name and size in `'URI' NAME SIZE HASH`.
fn printed_uri(output: &str) -> Option<(&str, u64)> {
    let line = output.lines().find(|line| line.starts_with('\''))?;
    let mut words = line.split_ascii_whitespace().skip(1);
    let (name, size) = (words.next()?, words.next()?.parse().ok()?);
    (!name.contains('/') && name.ends_with(".deb")).then_some((name, size))
}

/// The percentage in `dlstatus:1:42.5:Retrieving file 1 of 1`.
fn downloaded(line: &str) -> Option<f64> {
    line.strip_prefix("dlstatus:")?
        .split(':')
        .nth(1)?
        .parse()
        .ok()
}

/// The package lists that apt has.
fn index_targets() -> Result<Vec<Paragraph>, DistroError> {
    let mut command = APT_GET.command()?;
    command.args(["indextargets", "Created-By: Packages"]);
    Ok(deb822::parse(&APT_GET.output(&mut command)?))
}

/// The host's own sources of its release, as lines of sources.list(5), and the newest date of
/// their Release files in seconds since 1970.
pub(crate) fn sources(host: &HostDistribution) -> Result<(Vec<String>, Option<u64>), DistroError> {
    let targets = index_targets()?;
    let chosen = choose(host, &targets);
    if chosen.is_empty() {
        return Err(DistroError::NoLists {
            suite: host.codename.clone(),
        });
    }
    let newest = chosen
        .iter()
        .filter_map(|target| release_date(target))
        .max();
    let mut lines = Vec::new();
    for target in chosen {
        let file = target
            .get("Sourcesentry")
            .and_then(|entry| Some(entry.rsplit_once(':')?.0));
        let text = file
            .and_then(|file| fs::read_to_string(file).ok())
            .unwrap_or_default();
        let signed_by = signed_by(&text, target.get("Repo-URI").unwrap_or_default());
        let keyring = signed_by.or_else(|| fallback_keyring(host.family));
        lines.extend(source_line(target, keyring.as_deref()));
    }
    lines.dedup();
    Ok((lines, newest))
}

/// Targets from the distribution itself, for its release: not from third parties, whose packages
/// and keys have no place in a minimal image.
fn choose<'a>(host: &HostDistribution, targets: &'a [Paragraph]) -> Vec<&'a Paragraph> {
    let of_release = |target: &&Paragraph| {
        let release = target.get("Release").unwrap_or_default();
        let rest = release.strip_prefix(&*host.codename);
        target.get("Target-Of") == Some("deb")
            && rest.is_some_and(|rest| matches!(rest, "" | "-updates" | "-security" | "/updates"))
    };
    let mut targets: Vec<&Paragraph> = targets.iter().filter(of_release).collect();
    let own = |target: &&Paragraph| target.get("Origin") == Some(host.family.origin());
    if targets.iter().any(own) {
        targets.retain(own);
    }
    targets
}

fn source_line(target: &Paragraph, keyring: Option<&str>) -> Option<String> {
    let (uri, suite) = (target.get("Repo-URI")?, target.get("Release")?);
    let component = target.get("Component")?;
    let option = keyring
        .map(|path| format!("[signed-by={path}] "))
        .unwrap_or_default();
    Some(format!("deb {option}{uri} {suite} {component}"))
}

/// The keyring that a sources file in deb822 or one-line style gives for this address.
fn signed_by(sources: &str, uri: &str) -> Option<String> {
    let same = |other: &str| other.trim_end_matches('/') == uri.trim_end_matches('/');
    let deb822 = deb822::parse(sources)
        .into_iter()
        .filter(|p| {
            p.get("URIs")
                .is_some_and(|uris| uris.split_ascii_whitespace().any(same))
        })
        .find_map(|p| p.get("Signed-By").map(str::to_owned));
    let one_line = || {
        sources.lines().find_map(|line| {
            let (options, rest) = line
                .trim()
                .strip_prefix("deb ")?
                .trim_start()
                .split_once(']')?;
            let options = options.strip_prefix('[')?;
            same(rest.split_ascii_whitespace().next()?)
                .then(|| {
                    options
                        .split_ascii_whitespace()
                        .find_map(|o| o.strip_prefix("signed-by="))
                })
                .flatten()
                .map(str::to_owned)
        })
    };
    // A key within the file itself begins with a PGP header; only paths can be passed on.
    let plain = |path: &String| {
        path.starts_with('/')
            && path
                .bytes()
                .all(|b| b.is_ascii_graphic() && !b"[]".contains(&b))
    };
    deb822.or_else(one_line).filter(plain)
}

/// The archive's keyring, where apt trusts no key by default.
fn fallback_keyring(family: Family) -> Option<String> {
    let trusted = fs::read_dir("/etc/apt/trusted.gpg.d").is_ok_and(|mut d| d.next().is_some())
        || Path::new("/etc/apt/trusted.gpg").exists();
    (!trusted && Path::new(family.keyring()).exists()).then(|| family.keyring().to_owned())
}

/// The date in the Release file beside a package list.
fn release_date(target: &Paragraph) -> Option<u64> {
    let list = target.get("Filename")?;
    let index = target.get("MetaKey")?.replace('/', "_");
    let prefix = &list[..list.rfind(&index)?];
    ["InRelease", "Release"].iter().find_map(|name| {
        let text = fs::read_to_string(format!("{prefix}{name}")).ok()?;
        deb822::parse(&text)
            .iter()
            .find_map(|paragraph| date::parse(paragraph.get("Date")?))
    })
}

/// Proxies of apt's configuration, as environment variables: what mmdebstrap's own configuration
/// got would stay in the image.
pub(crate) fn proxies() -> Result<Vec<(&'static str, String)>, DistroError> {
    let text = APT_CONFIG.output(APT_CONFIG.command()?.arg("dump"))?;
    Ok([
        ("http_proxy", "Acquire::http::Proxy"),
        ("https_proxy", "Acquire::https::Proxy"),
    ]
    .into_iter()
    .filter_map(|(variable, key)| Some((variable, configured(&text, key)?)))
    .collect())
}

fn configured(dump: &str, key: &str) -> Option<String> {
    let value = dump
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(" \""))?;
    let value = value.strip_suffix("\";")?;
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DistroError {
    let path = path.to_owned();
    move |source| DistroError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> HostDistribution {
        HostDistribution {
            family: Family::Debian,
            codename: "bookworm".into(),
            name: "Debian".into(),
            reference: "debian:12".into(),
        }
    }

    fn target(uri: &str, release: &str, origin: &str) -> Paragraph {
        let text = format!(
            "Repo-URI: {uri}\nRelease: {release}\nOrigin: {origin}\nComponent: main\nTarget-Of: deb"
        );
        deb822::parse(&text).remove(0)
    }

    #[test]
    fn the_distributions_own_sources_are_chosen() {
        let targets = [
            target("http://archive.example/debian/", "bookworm", "Debian"),
            target(
                "http://archive.example/debian/",
                "bookworm-updates",
                "Debian",
            ),
            target(
                "http://archive.example/debian/",
                "bookworm-backports",
                "Debian Backports",
            ),
            target("http://archive.example/debian/", "sid", "Debian"),
            target(
                "https://packages.example/linux/debian/",
                "bookworm",
                "Docker",
            ),
        ];
        let lines = |targets: &[Paragraph], keyring| -> Vec<String> {
            let chosen = choose(&debian(), targets);
            chosen
                .into_iter()
                .filter_map(|target| source_line(target, keyring))
                .collect()
        };
        assert_eq!(
            lines(&targets, Some("/k.gpg")),
            [
                "deb [signed-by=/k.gpg] http://archive.example/debian/ bookworm main",
                "deb [signed-by=/k.gpg] http://archive.example/debian/ bookworm-updates main",
            ]
        );
        // A mirror that was signed anew names another origin.
        let mirror = [target("http://mirror.corp/debian/", "bookworm", "Corp")];
        assert_eq!(
            lines(&mirror, None),
            ["deb http://mirror.corp/debian/ bookworm main"]
        );
        assert!(lines(&targets[3..4], None).is_empty());
    }

    #[test]
    fn keyrings_are_found_in_both_styles() {
        let deb822 = "Types: deb\nURIs: http://a/debian\nSigned-By: /a.gpg\n\n\
                      Types: deb\nURIs: http://b/x http://c/y\nSigned-By:\n -----BEGIN PGP\n";
        let one_line = "deb http://n/x s main\n\
                        deb [arch=amd64 signed-by=/o.gpg] http://o/debian bookworm main\n";
        for (text, uri, expected) in [
            (deb822, "http://a/debian/", Some("/a.gpg")),
            (deb822, "http://c/y/", None),
            (deb822, "http://z/", None),
            (one_line, "http://o/debian/", Some("/o.gpg")),
            (one_line, "http://n/x", None),
        ] {
            assert_eq!(signed_by(text, uri).as_deref(), expected, "{uri}");
        }
    }

    #[test]
    fn what_apt_prints_is_understood() {
        let depends = "linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), other | linux-image-x";
        let image = dependency(depends, "linux-image-");
        assert_eq!(image.as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency(depends, "linux-modules-"), None);
        let uris = "'http://x/linux_6%2b1_amd64.deb' linux_6%2b1_amd64.deb 2670 SHA256:ab\n";
        assert_eq!(printed_uri(uris), Some(("linux_6%2b1_amd64.deb", 2670)));
        assert_eq!(printed_uri("'http://x' ../../etc/x.deb 1 S"), None);
        assert_eq!(
            downloaded("dlstatus:1:42.5:Retrieving file 1 of 1"),
            Some(42.5)
        );
        assert_eq!(downloaded("Get:1 http"), None);
        let dump = "Acquire::http \"\";\nAcquire::http::Proxy \"http://p:3142\";\n\
                    Acquire::https::Proxy \"DIRECT\";\n";
        assert_eq!(
            configured(dump, "Acquire::http::Proxy").as_deref(),
            Some("http://p:3142")
        );
        assert_eq!(configured(dump, "Acquire::https::Proxy"), None);
    }
}
