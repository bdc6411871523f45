//! The user's `~/.ssh/config`: one line of ours in it, and the file that the line includes.
//!
//! ssh_config(5): the first value counts, so our line is the first. Everything else in the file stays
//! byte for byte; the file is replaced whole, through the links of dotfile managers.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lib_store::{Context, private_dir};
use nix::unistd::{Gid, Uid, fchown};

use crate::client::{own_command, own_program, program, text};
use crate::error::io_error;
use crate::quote::option_path;
use crate::{SshError, client_key};

/// In the store's SSH directory.
const OURS: &str = "config";
/// In our file, when the user had no configuration before.
const NEW_MARK: &str = "# ~/.ssh/config was made for this\n";

/// A user's configuration and our part of it.
#[derive(Debug, Clone)]
pub struct UserConfig {
    /// `~/.ssh/config`, which may be a link or missing.
    pub path: PathBuf,
    /// The file that the line includes.
    pub ours: PathBuf,
    line: Vec<u8>,
}

/// Something of the user's own about names of VMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clash {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1; none where the file does not say it in plain text.
    pub line: Option<usize>,
    /// What it says.
    pub what: String,
}

impl UserConfig {
    /// Of the user with this home directory; touches nothing.
    ///
    /// # Errors
    /// [`SshError::Path`].
    pub fn new(context: &Context, home: &Path) -> Result<UserConfig, SshError> {
        let ours = context.ssh().join(OURS);
        let mut line = b"Include ".to_vec();
        line.extend(option_path(&ours)?);
        Ok(UserConfig {
            path: home.join(".ssh/config"),
            ours,
            line,
        })
    }

    /// The line of ours.
    pub fn line(&self) -> String {
        String::from_utf8_lossy(&self.line).into_owned()
    }

    /// Adds our line, or says that it is there; our own file is written anew.
    ///
    /// # Errors
    /// Files that cannot be read or written; then the user's is as it was.
    pub fn install(&self, context: &Context) -> Result<bool, SshError> {
        let old = self.read()?;
        let had_none = match &old {
            None => true,
            Some(_) => fs::read(&self.ours).is_ok_and(|ours| ours.starts_with(NEW_MARK.as_bytes())),
        };
        private_dir(&context.ssh())?;
        client_key(context)?;
        let mut ours = if had_none {
            NEW_MARK.to_owned().into_bytes()
        } else {
            Vec::new()
        };
        ours.extend(host_block(context)?);
        replace(&self.ours, &ours).map_err(io_error("write", &self.ours))?;
        let Some(new) = with_line(old.as_deref().unwrap_or_default(), &self.line) else {
            return Ok(false);
        };
        self.write(&new)?;
        Ok(true)
    }

    /// Removes our line and our file, and a configuration that was made for it.
    ///
    /// # Errors
    /// As [`UserConfig::install`].
    pub fn remove(&self) -> Result<bool, SshError> {
        let mut changed = false;
        let made = fs::read(&self.ours).is_ok_and(|ours| ours.starts_with(NEW_MARK.as_bytes()));
        if let Some(old) = self.read()?
            && let Some(new) = without_line(&old, &self.line)
        {
            if new.is_empty() && made {
                fs::remove_file(&self.path).map_err(io_error("remove", &self.path))?;
                if let Some(directory) = self.path.parent() {
                    // It stays when there is something else in it.
                    let _ = fs::remove_dir(directory);
                }
            } else {
                self.write(&new)?;
            }
            changed = true;
        }
        match fs::remove_file(&self.ours) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(changed),
            Err(error) => Err(io_error("remove", &self.ours)(error)),
        }
    }

    fn read(&self) -> Result<Option<Vec<u8>>, SshError> {
        match fs::read(&self.path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", &self.path)(error)),
        }
    }

    fn write(&self, text: &[u8]) -> Result<(), SshError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        if !directory.exists() {
            let made = fs::DirBuilder::new().mode(0o700).create(directory);
            made.map_err(io_error("create", directory))?;
        }
        // A link is followed to its file, even to one that is not there yet.
        let target = resolved(&self.path).map_err(io_error("resolve", &self.path))?;
        replace(&target, text).map_err(|source| SshError::ReadOnly {
            path: target,
            line: self.line(),
            source,
        })
    }
}

/// What belongs into an ssh configuration for VMs of a store, line by line.
///
/// # Errors
/// [`SshError::Path`]; no way to this program.
pub(crate) fn host_block(context: &Context) -> Result<Vec<u8>, SshError> {
    let mut proxy = own_command(context)?;
    proxy.extend(b" ssh-proxy -- '%h'");
    let mut known = option_path(&own_program()?)?;
    known.extend(b" --store ");
    known.extend(option_path(context.data())?);
    known.extend(b" ssh-known-hosts \"%H\"");
    let key = option_path(&context.ssh().join("id_ed25519"))?;
    let mut block = b"# VMs of banger, by name. Keys come from the store, so that another VM of the same name is\n\
        # no change of a key. A host with a quote in its name is none, and would end the quotes below.\n\
        Host *.vm \"!*'*\"\n"
        .to_vec();
    for (name, value) in [
        ("ProxyCommand", proxy.as_slice()),
        ("KnownHostsCommand", &known),
        ("UserKnownHostsFile", b"none"),
        ("GlobalKnownHostsFile", b"none"),
        ("StrictHostKeyChecking", b"yes"),
        ("CheckHostIP", b"no"),
        ("IdentityFile", &key),
        ("IdentitiesOnly", b"yes"),
        ("User", b"root"),
    ] {
        block.extend(format!("    {name} ").bytes());
        block.extend(value);
        block.push(b'\n');
    }
    Ok(block)
}

impl UserConfig {
    /// What [`UserConfig::install`] makes ssh(1) read.
    ///
    /// # Errors
    /// [`SshError::Path`].
    pub fn text(context: &Context) -> Result<OsString, SshError> {
        Ok(text(host_block(context)?))
    }
}

/// The text with our line as its first and only one; `None` when it is so already.
fn with_line(old: &[u8], line: &[u8]) -> Option<Vec<u8>> {
    let rest = without_line(old, line);
    if old
        .strip_prefix(line)
        .is_some_and(|rest| rest.starts_with(b"\n"))
        && lines(old).filter(|(_, found)| *found == line).count() == 1
    {
        return None;
    }
    let mut new = line.to_vec();
    new.push(b'\n');
    new.extend(rest.as_deref().unwrap_or(old));
    Some(new)
}

/// The text without our line, wherever it is; `None` when it is not there.
fn without_line(old: &[u8], line: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(old.len());
    let mut found = false;
    for (whole, content) in lines(old) {
        if content == line {
            found = true;
        } else {
            new.extend(whole);
        }
    }
    found.then_some(new)
}

/// Lines with and without their ends.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|whole| (whole, whole.strip_suffix(b"\n").unwrap_or(whole)))
}

/// The file that a path leads to; links may end at a file that is missing.
fn resolved(path: &Path) -> io::Result<PathBuf> {
    const LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("/")).join(target),
            // Not a link, or not there.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many links"))
}

/// Replaces a file whole, with its mode and owner; 0600 when it is new.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let old = fs::metadata(path).ok();
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut new = tempfile::Builder::new()
        .prefix(".banger-")
        .tempfile_in(directory)?;
    new.write_all(text)?;
    let file = new.as_file();
    if let Some(old) = old {
        let now = file.metadata()?;
        if (old.uid(), old.gid()) != (now.uid(), now.gid()) {
            let (uid, gid) = (Uid::from_raw(old.uid()), Gid::from_raw(old.gid()));
            fchown(file, Some(uid), Some(gid))?;
        }
        file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
    }
    file.sync_all()?;
    new.persist(path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

/// What the user's own files say about names of VMs: settings that ours come before, and pins that are
/// not asked any more. `names` are those of VMs.
pub fn clashes(home: &Path, names: &[String]) -> Vec<Clash> {
    let mut found = Vec::new();
    let config = home.join(".ssh/config");
    for (number, line) in plain_lines(&config) {
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let is_host = words
            .next()
            .is_some_and(|word| word.eq_ignore_ascii_case("host"));
        if is_host && words.any(|word| is_about_vms(word.trim_matches('"'))) {
            found.push(clash(&config, Some(number), line.trim()));
        }
    }
    let known = home.join(".ssh/known_hosts");
    for (number, line) in plain_lines(&known) {
        let mut words = line
            .split_whitespace()
            .skip_while(|word| word.starts_with('@'));
        let hosts = words.next().unwrap_or_default();
        if hosts.split(',').any(is_about_vms) {
            found.push(clash(&known, Some(number), hosts));
        }
    }
    found.extend(hashed(&known, names));
    found
}

fn is_about_vms(pattern: &str) -> bool {
    pattern.to_ascii_lowercase().ends_with(".vm")
}

fn clash(path: &Path, line: Option<usize>, what: &str) -> Clash {
    Clash {
        path: path.to_owned(),
        line,
        what: what.to_owned(),
    }
}

fn plain_lines(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.to_owned()))
        .collect()
}

/// Hashed names can only be tried; ssh-keygen(1) does that.
fn hashed(known: &Path, names: &[String]) -> Vec<Clash> {
    /// A process for each.
    const MOST: usize = 64;
    let text = fs::read(known).unwrap_or_default();
    if !text.windows(3).any(|word| word == b"|1|") {
        return Vec::new();
    }
    let Some(keygen) = program("ssh-keygen") else {
        return Vec::new();
    };
    let pinned = |name: &&String| {
        Command::new(&keygen)
            .args(["-F", &format!("{name}.vm"), "-f"])
            .arg(known)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    let hits = names.iter().take(MOST).filter(pinned);
    hits.map(|name| clash(known, None, &format!("{name}.vm")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &[u8] = b"Include \"/store/ssh/config\"";

    proptest! {
        #[test]
        fn what_was_added_is_removed_to_the_byte(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let added = with_line(&text, LINE).unwrap();
            prop_assert!(added.starts_with(LINE));
            prop_assert_eq!(with_line(&added, LINE), None, "twice is once");
            prop_assert_eq!(without_line(&added, LINE), Some(text.clone()));
            prop_assert_eq!(without_line(&text, LINE), None);
        }

        #[test]
        fn lines_of_configurations_stay(lines in prop::collection::vec("[ -~]{0,20}(\r)?", 0..12)) {
            let text = lines.join("\n").into_bytes();
            let added = with_line(&text, LINE).unwrap();
            prop_assert_eq!(without_line(&added, LINE), Some(text));
        }
    }

    #[test]
    fn a_line_elsewhere_comes_to_the_top_once() {
        let text = [b"Host a\n".as_slice(), LINE, b"\nUser x\n", LINE].concat();
        let added = with_line(&text, LINE).unwrap();
        assert_eq!(added, [LINE, b"\nHost a\nUser x\n"].concat());
    }

    fn setup() -> (tempfile::TempDir, Context, UserConfig) {
        let base = tempfile::tempdir().unwrap();
        let store = base.path().join("my store").into_os_string();
        let context = Context::from_environment(None, |name| match name {
            "BANGER_STORE" | "BANGER_RUNTIME_DIR" => Some(store.clone()),
            _ => None,
        })
        .unwrap();
        fs::create_dir(context.data()).unwrap();
        let user = UserConfig::new(&context, base.path()).unwrap();
        (base, context, user)
    }

    #[test]
    fn a_user_without_a_configuration_has_none_afterwards() {
        let (base, context, user) = setup();
        assert!(user.install(&context).unwrap());
        assert!(!user.install(&context).unwrap(), "twice is once");
        let mode = fs::metadata(&user.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert!(user.remove().unwrap());
        assert!(!user.remove().unwrap());
        assert!(!base.path().join(".ssh").exists());
        assert!(!user.ours.exists());
    }

    #[test]
    fn links_modes_and_empty_files_stay_as_they_were() {
        let (base, context, user) = setup();
        fs::create_dir(base.path().join(".ssh")).unwrap();
        let real = base.path().join("dotfiles");
        fs::write(&real, "").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("../dotfiles", &user.path).unwrap();
        assert!(user.install(&context).unwrap());
        assert!(user.path.is_symlink());
        let text = fs::read_to_string(&real).unwrap();
        assert_eq!(text, format!("{}\n", user.line()));
        assert!(user.remove().unwrap());
        assert!(user.path.is_symlink());
        assert_eq!(fs::read(&real).unwrap(), b"");
        let mode = fs::metadata(&real).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
    }

    #[test]
    fn what_the_user_has_about_vms_is_found() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join(".ssh");
        fs::create_dir(&directory).unwrap();
        fs::write(
            directory.join("config"),
            "Host a b.example\n  User x\nhost = \"*.vm\" c\n# Host dev.vm\n",
        )
        .unwrap();
        fs::write(
            directory.join("known_hosts"),
            "a ssh-ed25519 A\ndev.vm,10.0.0.1 ssh-ed25519 A\n@revoked x.vm ssh-ed25519 A\n",
        )
        .unwrap();
        let found: Vec<_> = clashes(base.path(), &[])
            .into_iter()
            .map(|c| (c.line, c.what))
            .collect();
        assert_eq!(
            found,
            [
                (Some(3), "host = \"*.vm\" c".to_owned()),
                (Some(2), "dev.vm,10.0.0.1".to_owned()),
                (Some(3), "x.vm".to_owned()),
            ]
        );
    }

    #[test]
    fn nothing_of_the_configuration_depends_on_its_reader() {
        let (_base, context, _) = setup();
        let text = String::from_utf8(host_block(&context).unwrap()).unwrap();
        assert!(text.contains("Host *.vm \"!*'*\"\n"), "{text}");
        assert!(text.contains(" ssh-proxy -- '%h'\n"), "{text}");
        assert!(text.contains("my store'"), "{text}");
    }
}
