//! Who is process 1 of a guest, and what runs in it from the beginning.

use std::str::FromStr;

use banger_wire::config::Init;
use lib_model::OciConfig;
use lib_store::VmSpec;

/// Commands that are inits; podman starts systemd's mode for the same ones (podman-run(1), `--systemd`).
const INITS: [&str; 7] = [
    "/sbin/init",
    "/usr/sbin/init",
    "/usr/local/sbin/init",
    "/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/sbin/openrc-init",
];
const SHELLS: [&str; 6] = ["sh", "bash", "ash", "dash", "zsh", "fish"];

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InitChoice {
    /// The image's init when its command is one, or when it has no command but a shell and an init that can
    /// run a machine; else the agent.
    #[default]
    Auto,
    /// The agent.
    None,
    /// `/sbin/init`; the boot fails without it.
    Image,
    /// Another program of the image.
    Program(String),
}

impl FromStr for InitChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(InitChoice::Auto),
            "none" => Ok(InitChoice::None),
            "image" => Ok(InitChoice::Image),
            path if path.starts_with('/') => Ok(InitChoice::Program(path.to_owned())),
            _ => Err(format!(
                "`{text}` is none of auto, none, image, and no absolute path"
            )),
        }
    }
}

impl std::fmt::Display for InitChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            InitChoice::Auto => "auto",
            InitChoice::None => "none",
            InitChoice::Image => "image",
            InitChoice::Program(path) => path,
        })
    }
}

/// Init and entry point as they are recorded with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processes {
    /// `none`, `detect`, or an absolute path.
    pub init: String,
    /// Of an init, its arguments, the path first; else what the agent supervises.
    pub entrypoint: Vec<String>,
}

/// Decides for an image and the command that was typed, which stands for the image's own.
pub fn processes(choice: &InitChoice, config: &OciConfig, typed: &[String]) -> Processes {
    let own = || config.entrypoint.iter().chain(&config.cmd).cloned();
    let command: Vec<String> = match typed {
        [] => own().collect(),
        typed => typed.to_vec(),
    };
    let program = command.first().map_or("", String::as_str);
    let (init, entrypoint) = match choice {
        InitChoice::Auto if is_init_program(program) => (program.to_owned(), command),
        InitChoice::Auto if is_shell(&command) => ("detect".to_owned(), Vec::new()),
        InitChoice::None if is_shell(&command) => ("none".to_owned(), Vec::new()),
        InitChoice::Auto | InitChoice::None => ("none".to_owned(), command),
        InitChoice::Image => ("/sbin/init".to_owned(), Vec::new()),
        InitChoice::Program(path) if path == program => (path.clone(), command),
        InitChoice::Program(path) => (path.clone(), Vec::new()),
    };
    Processes { init, entrypoint }
}

/// Whether the image's own command is an init, which cannot run as a command.
pub fn is_init(config: &OciConfig) -> bool {
    let first = config.entrypoint.iter().chain(&config.cmd).next();
    first.is_some_and(|program| is_init_program(program))
}

fn is_init_program(program: &str) -> bool {
    INITS.contains(&program) || is_nixos(program)
}

/// `/nix/store/<system>/init`: where a NixOS system has its second stage.
fn is_nixos(program: &str) -> bool {
    let name = program
        .strip_prefix("/nix/store/")
        .and_then(|rest| rest.strip_suffix("/init"));
    name.is_some_and(|name| !name.contains('/') && name.contains("-nixos-system-"))
}

/// A shell without a script waits for somebody to type, and a VM's console has nobody.
fn is_shell(command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first() else {
        return true;
    };
    let name = program.rsplit('/').next().unwrap_or(program);
    SHELLS.contains(&name)
        && arguments
            .iter()
            .all(|word| ["-l", "-i", "--login"].contains(&&**word))
}

/// A VM that runs what its image says runs what its new image says; one that was given a command keeps it.
pub(crate) fn follow_image(spec: &mut VmSpec, old: &OciConfig, new: &OciConfig) {
    let choices = [InitChoice::Auto, InitChoice::None];
    let own = choices.iter().find(|choice| {
        let own = processes(choice, old, &[]);
        (&own.init, &own.entrypoint) == (&spec.init, &spec.entrypoint)
    });
    if let Some(choice) = own {
        let processes = processes(choice, new, &[]);
        (spec.init, spec.entrypoint) = (processes.init, processes.entrypoint);
    }
}

/// What the agent is told.
pub(crate) fn for_guest(spec: &VmSpec) -> (Init, Vec<String>) {
    match spec.init.as_str() {
        "detect" => (Init::Detect, Vec::new()),
        path if path.starts_with('/') => {
            let argv = match spec.entrypoint.first() {
                Some(program) if program == path => spec.entrypoint.clone(),
                _ => vec![path.to_owned()],
            };
            (Init::Program { argv }, Vec::new())
        }
        _ => (Init::Agent, spec.entrypoint.clone()),
    }
}

/// The number of a signal as image configurations write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. What is
/// no signal is SIGTERM.
pub(crate) fn stop_signal(text: &str) -> i32 {
    const SIGTERM: i32 = 15;
    /// As glibc counts (signal(7)).
    const REAL_TIME: (i32, i32) = (34, 64);
    let name = text.strip_prefix("SIG").unwrap_or(text);
    let number = if let Some(more) = name.strip_prefix("RTMIN+") {
        more.parse::<i32>().ok().map(|more| REAL_TIME.0 + more)
    } else if let Some(less) = name.strip_prefix("RTMAX-") {
        less.parse::<i32>().ok().map(|less| REAL_TIME.1 - less)
    } else if let Ok(number) = name.parse() {
        Some(number)
    } else {
        format!("SIG{name}")
            .parse::<nix::sys::signal::Signal>()
            .ok()
            .map(|signal| signal as i32)
    };
    number
        .filter(|number| (1..=REAL_TIME.1).contains(number))
        .unwrap_or(SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn the_image_and_the_command_line_decide() {
        let cases = [
            // choice, entry point, command, typed: init, what runs
            ("auto", "", "", "", "detect", ""),
            ("auto", "", "/bin/bash", "", "detect", ""),
            ("auto", "/bin/sh -l", "", "", "detect", ""),
            (
                "auto",
                "",
                "/bin/sh -c serve",
                "",
                "none",
                "/bin/sh -c serve",
            ),
            ("auto", "/entry", "serve", "", "none", "/entry serve"),
            ("auto", "/entry", "serve", "my app", "none", "my app"),
            (
                "auto",
                "",
                "/sbin/init quiet",
                "",
                "/sbin/init",
                "/sbin/init quiet",
            ),
            (
                "auto",
                "/nix/store/x-nixos-system-box-24.11/init",
                "",
                "",
                "/nix/store/x-nixos-system-box-24.11/init",
                "/nix/store/x-nixos-system-box-24.11/init",
            ),
            (
                "auto",
                "/nix/store/x-tini/init",
                "",
                "",
                "none",
                "/nix/store/x-tini/init",
            ),
            ("none", "", "/sbin/init", "", "none", "/sbin/init"),
            ("none", "", "sh", "", "none", ""),
            ("image", "/entry", "", "", "/sbin/init", ""),
            ("/my/init", "/entry", "", "", "/my/init", ""),
            ("/my/init", "/my/init", "x", "", "/my/init", "/my/init x"),
        ];
        for (choice, entrypoint, cmd, typed, init, runs) in cases {
            let config = OciConfig {
                entrypoint: words(entrypoint),
                cmd: words(cmd),
                ..OciConfig::default()
            };
            let choice: InitChoice = choice.parse().unwrap();
            let expected = Processes {
                init: init.into(),
                entrypoint: words(runs),
            };
            assert_eq!(processes(&choice, &config, &words(typed)), expected);
        }
        assert!("systemd".parse::<InitChoice>().is_err());
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("QUIT", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
            ("SIGNONE", 15),
            ("0", 15),
            ("SIGRTMIN+99", 15),
        ] {
            assert_eq!(stop_signal(text), number, "{text:?}");
        }
    }
}
