//! What a session runs: program, arguments and environment, as sshd would have them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use banger_wire::agent::{CallError, CallErrorKind};
use banger_wire::config::Process;

use super::inputs::Start;
use crate::account::Account;
use crate::command;
use crate::spawn::{DEFAULT_PATH, login_name};
use crate::sys::{self, Child};

/// What clients may set, beside `LC_*`: how to show things, never what to run.
const VARIABLES: &[&str] = &[
    "COLORTERM",
    "GIT_PROTOCOL",
    "LANG",
    "LANGUAGE",
    "NO_COLOR",
    "TERM",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TZ",
];

/// Whether a client may set this variable.
pub(super) fn accepted_variable(name: &str) -> bool {
    VARIABLES.contains(&name)
        || name.strip_prefix("LC_").is_some_and(|rest| {
            !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        })
}

/// The variables of a session; `own` are the client's and those of its terminal and key agent.
pub(super) fn environment(
    account: &Account,
    defaults: &Process,
    own: Vec<(String, String)>,
) -> BTreeMap<String, String> {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut all = vec![pair("PATH", DEFAULT_PATH)];
    all.extend(defaults.env.iter().filter_map(|entry| {
        let (name, value) = entry.split_once('=')?;
        Some(pair(name, value))
    }));
    all.push(pair("HOME", &account.home));
    all.push(pair("SHELL", &account.shell));
    if let Some(name) = &account.name {
        all.push(pair("USER", name));
        all.push(pair("LOGNAME", name));
    }
    // Programs ask whether it is there; there are no addresses (sshd says the same of a pipe).
    all.push(pair("SSH_CONNECTION", "UNKNOWN 65535 UNKNOWN 65535"));
    all.extend(own);
    all.into_iter()
        .filter(|(name, value)| !name.is_empty() && !name.contains('=') && !value.contains('\0'))
        .collect()
}

/// The process for a session. This process is the user already and in the home directory.
///
/// # Errors
/// What the client is told, with the exit status.
pub(super) fn child(
    start: &Start,
    account: &Account,
    environment: &BTreeMap<String, String>,
    terminal: bool,
) -> Result<Child, CallError> {
    let shell = Path::new(&account.shell);
    let (file, arguments) = match start {
        Start::Sftp => (
            PathBuf::from(sys::OWN_PROGRAM),
            vec![b"banger-agent".to_vec(), b"sftp".to_vec()],
        ),
        Start::Shell if shell.exists() => {
            (shell.to_owned(), vec![login_name(&account.shell).into()])
        }
        Start::Shell => return Err(no_shell(account)),
        Start::Command(line) if shell.exists() => {
            let name = account.shell.rsplit('/').next().unwrap_or("sh");
            let arguments = vec![name.into(), b"-c".to_vec(), line.clone()];
            (shell.to_owned(), arguments)
        }
        Start::Command(line) => without_shell(line, account, environment)?,
    };
    Ok(Child {
        file: c_string(file.into_os_string().into_encoded_bytes())?,
        arguments: arguments
            .into_iter()
            .map(c_string)
            .collect::<Result<_, _>>()?,
        environment: environment
            .iter()
            .map(|(name, value)| c_string(format!("{name}={value}").into()))
            .collect::<Result<_, _>>()?,
        terminal,
        reset: false,
        credentials: None,
        directory: c".".to_owned(),
    })
}

/// In an image that is one program, a command is its path and arguments.
fn without_shell(
    line: &[u8],
    account: &Account,
    environment: &BTreeMap<String, String>,
) -> Result<(PathBuf, Vec<Vec<u8>>), CallError> {
    let arguments = words(line).ok_or_else(|| no_shell(account))?;
    let name = arguments.first().ok_or_else(|| no_shell(account))?;
    let path = environment.get("PATH").map_or(DEFAULT_PATH, String::as_str);
    let directory = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let file = command::find(&String::from_utf8_lossy(name), path, &directory)?;
    Ok((file, arguments))
}

fn no_shell(account: &Account) -> CallError {
    CallError {
        kind: CallErrorKind::NotFound,
        message: format!(
            "the image has no {}: name a program of the image and its arguments, with nothing for a shell to do",
            account.shell
        ),
    }
}

fn c_string(bytes: Vec<u8>) -> Result<CString, CallError> {
    CString::new(bytes).map_err(|_| CallError {
        kind: CallErrorKind::BadRequest,
        message: "the command has a zero byte".to_owned(),
    })
}

/// Splits a line as a shell does, with quotes and backslashes. `None` for anything else that a shell
/// would do something about, because nobody here would.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(b'\''), b'\'') | (Some(b'"'), b'"') => quote = None,
            (Some(b'\''), _) => word.get_or_insert_default().push(byte),
            (_, b'\\') => word.get_or_insert_default().push(bytes.next()?),
            (Some(_), b'$' | b'`') => return None,
            (Some(_), _) => word.get_or_insert_default().push(byte),
            (None, b'\'' | b'"') => {
                word.get_or_insert_default();
                quote = Some(byte);
            }
            (None, b' ' | b'\t' | b'\n') => words.extend(word.take()),
            (None, b'$' | b'`' | b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'*' | b'?') => {
                return None;
            }
            (None, _) => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_set_how_things_look_and_not_what_runs() {
        for name in ["LANG", "LC_ALL", "LC_TIME", "COLORTERM", "TERM"] {
            assert!(accepted_variable(name), "{name}");
        }
        for name in [
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "LC_",
            "LC_x",
            "LC_A=B",
            "BASH_ENV",
            "",
        ] {
            assert!(!accepted_variable(name), "{name}");
        }
    }

    #[test]
    fn lines_are_split_as_a_shell_would_or_not_at_all() {
        let split = |line: &str| {
            words(line.as_bytes()).map(|words| {
                let text = |word| String::from_utf8(word).unwrap();
                words.into_iter().map(text).collect::<Vec<_>>()
            })
        };
        let some = |words: &[&str]| Some(words.iter().map(|w| (*w).to_owned()).collect());
        for (line, expected) in [
            ("/server --port 80", some(&["/server", "--port", "80"])),
            ("  a  b ", some(&["a", "b"])),
            ("a 'b  c' \"d e\"f", some(&["a", "b  c", "d ef"])),
            ("a '' \\' \"\\\"\"", some(&["a", "", "'", "\""])),
            ("'$x|'", some(&["$x|"])),
            ("", some(&[])),
            ("a | b", None),
            ("a > b", None),
            ("\"$x\"", None),
            ("'open", None),
            ("a\\", None),
        ] {
            assert_eq!(split(line), expected, "{line}");
        }
    }

    #[test]
    fn the_account_wins_over_the_image_and_the_session_over_both() {
        let account = Account {
            uid: 1000,
            gid: 1000,
            groups: vec![],
            name: Some("dev".to_owned()),
            home: "/home/dev".to_owned(),
            shell: "/bin/zsh".to_owned(),
        };
        let defaults = Process {
            env: vec![
                "HOME=/image".into(),
                "PATH=/opt".into(),
                "APP=1".into(),
                "bad".into(),
            ],
            ..Process::default()
        };
        let own = vec![
            ("TERM".to_owned(), "vt100".to_owned()),
            ("X".to_owned(), "a\0".to_owned()),
        ];
        let all = environment(&account, &defaults, own);
        for (name, value) in [
            ("HOME", Some("/home/dev")),
            ("PATH", Some("/opt")),
            ("APP", Some("1")),
            ("SHELL", Some("/bin/zsh")),
            ("LOGNAME", Some("dev")),
            ("TERM", Some("vt100")),
            ("X", None),
        ] {
            assert_eq!(all.get(name).map(String::as_str), value, "{name}");
        }
    }
}
