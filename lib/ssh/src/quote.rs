//! Quoting for the three that read what we write: a shell, ssh_config(5), and the guest's shell.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::SshError;

/// A word of a `ProxyCommand`, which ssh(1) expands (`%`) and gives to the user's shell. Not even a
/// newline ends the quotes.
pub(crate) fn shell_word(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            b'%' => quoted.extend(b"%%"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// A path as a value in ssh_config(5), with its tokens and variables taken literally.
///
/// # Errors
/// [`SshError::Path`]: a newline, and `${`, which nothing quotes.
pub(crate) fn option_path(path: &Path) -> Result<Vec<u8>, SshError> {
    let bytes = path.as_os_str().as_bytes();
    let bad = |what| SshError::Path {
        path: path.to_owned(),
        what,
    };
    if bytes.contains(&b'\n') {
        return Err(bad("a newline"));
    }
    if bytes.windows(2).any(|pair| pair == b"${") {
        return Err(bad("`${`"));
    }
    let mut quoted = vec![b'"'];
    for byte in bytes {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'%' => quoted.extend(b"%%"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'"');
    Ok(quoted)
}

/// What the guest's shell is to run: one argument is a line for it, as with ssh(1); several are a
/// program and its arguments, each as it is.
pub fn remote_command(arguments: &[String]) -> Option<String> {
    match arguments {
        [] => None,
        [line] => Some(line.clone()),
        words => {
            let quoted: Vec<String> = words
                .iter()
                .map(|word| format!("'{}'", word.replace('\'', "'\\''")))
                .collect();
            Some(quoted.join(" "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn paths_are_taken_literally_or_refused() {
        let quoted = |path: &str| String::from_utf8(option_path(Path::new(path)).unwrap()).unwrap();
        assert_eq!(quoted("/a b"), "\"/a b\"");
        assert_eq!(quoted("/100%/\"x\"\\"), "\"/100%%/\\\"x\\\"\\\\\"");
        assert_eq!(quoted("/$HOME"), "\"/$HOME\"");
        assert!(option_path(Path::new("/${HOME}")).is_err());
        assert!(option_path(Path::new("/a\nb")).is_err());
    }

    #[test]
    fn one_argument_is_a_line_and_several_are_words() {
        let command = |words: &[&str]| {
            remote_command(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(command(&[]), None);
        assert_eq!(command(&["cd /x && make"]).unwrap(), "cd /x && make");
        assert_eq!(
            command(&["echo", "it's", ""]).unwrap(),
            "'echo' 'it'\\''s' ''"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_shell_sees_each_word_as_it_was(words in prop::collection::vec("[^\0]{0,12}", 2..5)) {
            let mut line = vec!["printf".to_owned(), "%s\\0".to_owned()];
            line.extend(words.clone());
            let line = remote_command(&line).unwrap();
            let output = Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
            let seen: Vec<String> = String::from_utf8(output.stdout).unwrap()
                .split_terminator('\0').map(str::to_owned).collect();
            prop_assert_eq!(seen, words);
        }

        #[test]
        fn a_quoted_word_survives_expansion_and_shell(word in "[^\0]{1,20}") {
            let quoted = String::from_utf8(shell_word(OsStr::new(&word))).unwrap();
            // What ssh(1) does to it.
            let line = format!("printf %s {}", quoted.replace("%%", "%"));
            let output = Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }
}
