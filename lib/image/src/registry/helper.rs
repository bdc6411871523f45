//! Programs that keep credentials: `docker-credential-<name> get`, the server's address on standard
//! input, JSON on standard output (docker/docker-credential-helpers).
//!
//! Run without a shell, by absolute path, with a deadline and a bound on what they say.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde::Deserialize;

use super::RegistryOptions;
use super::credentials::Credentials;
use crate::Error;

/// No credentials are longer, in bytes of their document.
const LONGEST: u64 = 64 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper `docker-credential-<name>`; none when it has nothing for the server.
///
/// # Errors
/// [`Error::CredentialHelper`].
pub(super) fn get(
    name: &str,
    server: String,
    options: &RegistryOptions,
) -> Result<Option<Credentials>, Error> {
    let program = format!("docker-credential-{name}");
    let failed = |reason: String| Error::CredentialHelper {
        program: program.clone(),
        server: server.clone(),
        reason,
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(word) {
        return Err(failed("that is no name of a helper".to_owned()));
    }
    let path = find(&program, options.helper_path.as_deref())
        .ok_or_else(|| failed("it is not on PATH".to_owned()))?;
    let child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // So that what it starts ends with it.
        .process_group(0)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (success, said) = converse(child, &server, options).map_err(failed)?;
    let text = String::from_utf8_lossy(&said);
    if !success {
        // The words are part of the protocol.
        if text.contains("credentials not found") {
            return Ok(None);
        }
        let line: String = text
            .trim()
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        return Err(failed(format!("it failed: {line}")));
    }
    let answer: Answer = serde_json::from_slice(&said)
        // The parser's own words could quote the secret.
        .map_err(|_| failed("what it said is not {\"Username\", \"Secret\"}".to_owned()))?;
    Ok(match &*answer.username {
        "" if answer.secret.is_empty() => None,
        "<token>" => Some(Credentials::IdentityToken(answer.secret)),
        _ => Some(Credentials::Password(answer.username, answer.secret)),
    })
}

/// Whether it succeeded, and what it said.
fn converse(
    mut child: Child,
    server: &str,
    options: &RegistryOptions,
) -> Result<(bool, Vec<u8>), String> {
    let group = Pid::from_raw(child.id().cast_signed());
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading; what it says counts. An address fits into a pipe.
        let _ = stdin.write_all(server.as_bytes());
    }
    let stdout = child.stdout.take();
    let (tell, hears) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let read = match stdout {
            Some(stdout) => stdout.take(LONGEST + 1).read_to_end(&mut said),
            None => Ok(0),
        };
        if said.len() as u64 <= LONGEST {
            // Left as a zombie, so that its number stays its own until it is reaped below.
            let _ = waitid(Id::Pid(group), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        }
        // Nobody listens after the deadline.
        let _ = tell.send(read.map(|_| said));
    });
    let heard = hears.recv_timeout(options.helper_timeout);
    let fine = matches!(&heard, Ok(Ok(said)) if said.len() as u64 <= LONGEST);
    if !fine {
        // Gone already is as good.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    match heard {
        Err(_) => Err(format!(
            "it said nothing for {:.0?}",
            options.helper_timeout
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Ok(Ok(_)) if !fine => Err(format!("it said more than {LONGEST} bytes")),
        Ok(Ok(said)) => Ok((status.success(), said)),
    }
}

/// An executable file in the directories of `search`; relative ones do not count.
fn find(program: &str, search: Option<&OsStr>) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    std::env::split_paths(search?)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|path| {
            path.metadata()
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    /// Asks a helper that is this shell script.
    fn ask(script: &str) -> Result<Option<Credentials>, String> {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("docker-credential-test");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let options = RegistryOptions {
            helper_path: Some(std::env::join_paths([base.path()]).unwrap()),
            helper_timeout: Duration::from_secs(2),
            ..RegistryOptions::default()
        };
        get("test", "r.example:5000".into(), &options).map_err(|error| error.to_string())
    }

    #[test]
    fn a_helper_is_told_the_server_and_gives_a_pair_or_a_token() {
        let script = r#"[ "$1" = get ] && read -r s; printf '{"ServerURL":"x","Username":"u","Secret":"%s"}' "$s""#;
        let found = ask(script).unwrap();
        assert!(found == Some(Credentials::Password("u".into(), "r.example:5000".into())));
        let found = ask(r#"echo '{"Username":"<token>","Secret":"t"}'"#).unwrap();
        assert!(found == Some(Credentials::IdentityToken("t".into())));
        let found = ask("echo 'credentials not found in native keychain'; exit 1").unwrap();
        assert!(found.is_none());
    }

    #[test]
    fn a_helper_that_fails_or_says_nonsense_is_named() {
        for (script, expected) in [
            (
                "echo 'the vault is locked'; exit 1",
                "it failed: the vault is locked",
            ),
            ("echo secret-nonsense", "what it said is not"),
            ("exit 0", "what it said is not"),
            ("yes", "more than 65536 bytes"),
        ] {
            let said = ask(script).err().unwrap();
            assert!(said.contains(expected), "{said}");
            assert!(
                said.contains("docker-credential-test gave nothing for r.example"),
                "{said}"
            );
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn a_helper_that_hangs_is_ended_with_what_it_started() {
        let start = Instant::now();
        let said = ask("sleep 600 & wait").err().unwrap();
        assert!(said.contains("it said nothing for 2s"), "{said}");
        assert!(start.elapsed() < Duration::from_secs(60));
        let said = ask("exec >&-; sleep 600").err().unwrap();
        assert!(said.contains("it said nothing for 2s"), "{said}");
    }

    #[test]
    fn only_names_of_programs_on_the_path_are_run() {
        let options = RegistryOptions {
            helper_path: Some("relative::/nonexistent".into()),
            ..RegistryOptions::default()
        };
        for (name, expected) in [
            ("../../bin/sh", "no name of a helper"),
            ("", "no name of a helper"),
            ("a b", "no name of a helper"),
            ("absent", "not on PATH"),
        ] {
            let error = get(name, "s".into(), &options).err().unwrap();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
