//! Which changes deserve a look of their own: files that something runs without being asked.

use lib_model::Risk;

use crate::manifest::GITLINK;

/// Directories whose files run in continuous integration, by their beginning.
const CI_DIRECTORIES: [&str; 8] = [
    ".github/workflows/",
    ".github/actions/",
    ".gitlab/ci/",
    ".circleci/",
    ".buildkite/",
    ".forgejo/workflows/",
    ".gitea/workflows/",
    ".woodpecker/",
];
/// Files of continuous integration, by name at any place.
const CI_FILES: [&str; 13] = [
    ".gitlab-ci.yml",
    ".travis.yml",
    ".drone.yml",
    ".cirrus.yml",
    ".woodpecker.yml",
    "jenkinsfile",
    "azure-pipelines.yml",
    "bitbucket-pipelines.yml",
    "appveyor.yml",
    ".appveyor.yml",
    "codeowners",
    "action.yml",
    "action.yaml",
];
/// Hooks, by directory or name.
const HOOK_DIRECTORIES: [&str; 4] = [".githooks", ".husky", "hooks", ".hooks"];
const HOOK_FILES: [&str; 5] = [
    ".pre-commit-config.yaml",
    "lefthook.yml",
    ".lefthook.yml",
    ".lintstagedrc",
    ".overcommit.yml",
];
/// What shells and editors run when they come by.
const AUTORUN_FILES: [&str; 27] = [
    ".bashrc",
    ".bash_profile",
    ".bash_login",
    ".bash_logout",
    ".bash_aliases",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
    ".zlogin",
    ".kshrc",
    ".cshrc",
    ".tcshrc",
    ".login",
    ".inputrc",
    ".envrc",
    ".env",
    ".mise.toml",
    "mise.toml",
    ".tool-versions",
    ".exrc",
    ".nvimrc",
    ".vimrc",
    ".dir-locals.el",
    ".gdbinit",
    ".lldbinit",
    ".mcp.json",
];
const AUTORUN_DIRECTORIES: [&str; 8] = [
    ".cargo",
    ".vscode",
    ".idea",
    ".devcontainer",
    ".zed",
    ".fleet",
    ".claude",
    ".cursor",
];
/// What builds and package managers run or fetch by.
const BUILD_FILES: [&str; 31] = [
    "makefile",
    "gnumakefile",
    "justfile",
    "build.rs",
    "package.json",
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    "setup.py",
    "conftest.py",
    "sitecustomize.py",
    "pyproject.toml",
    "cmakelists.txt",
    "build.gradle",
    "build.gradle.kts",
    "gradlew",
    "pom.xml",
    "rakefile",
    "gemfile",
    "dockerfile",
    "containerfile",
    "compose.yaml",
    "docker-compose.yml",
    "vagrantfile",
    "tox.ini",
    "noxfile.py",
    "meson.build",
    "rust-toolchain.toml",
    "flake.nix",
    "default.nix",
    "shell.nix",
];

/// What a change makes of a file: its path in the repository, its new git mode (0 when it is gone), and
/// for a link where it leads.
pub(crate) fn risks(path: &[u8], new_mode: u32, old_mode: u32, target: Option<&[u8]>) -> Vec<Risk> {
    let text = String::from_utf8_lossy(path).to_lowercase();
    let components: Vec<&str> = text.split('/').collect();
    let name = components.last().copied().unwrap_or_default();
    let directories = &components[..components.len().saturating_sub(1)];
    let within = |known: &[&str]| {
        directories
            .iter()
            .any(|directory| known.contains(directory))
    };
    let mut found = Vec::new();
    let mut mark = |risk, is: bool| {
        if is {
            found.push(risk);
        }
    };
    mark(
        Risk::Hook,
        within(&HOOK_DIRECTORIES) || HOOK_FILES.contains(&name),
    );
    mark(
        Risk::Ci,
        CI_DIRECTORIES.iter().any(|start| text.starts_with(start))
            || CI_FILES.contains(&name)
            || name.starts_with("jenkinsfile"),
    );
    mark(
        Risk::Autorun,
        within(&AUTORUN_DIRECTORIES)
            || AUTORUN_FILES.contains(&name)
            || text.ends_with(".code-workspace"),
    );
    // Git LFS asks the second one where to send files, and whose credentials to use.
    mark(
        Risk::Attributes,
        name == ".gitattributes" || name == ".lfsconfig",
    );
    mark(
        Risk::Submodules,
        name == ".gitmodules" || GITLINK == new_mode || GITLINK == old_mode,
    );
    mark(
        Risk::Build,
        BUILD_FILES.contains(&name) || name.starts_with("dockerfile."),
    );
    mark(
        Risk::Executable,
        new_mode == 0o100_755 && old_mode != 0o100_755,
    );
    if let Some(target) = target.filter(|_| new_mode == 0o120_000) {
        mark(Risk::Symlink, true);
        mark(Risk::SymlinkOut, leads_out(directories.len(), target));
    }
    mark(Risk::OddName, is_odd(path));
    found.sort_unstable();
    found
}

/// A link's target, from a directory so deep in the repository.
fn leads_out(depth: usize, target: &[u8]) -> bool {
    if target.starts_with(b"/") {
        return true;
    }
    let mut depth = i64::try_from(depth).unwrap_or(i64::MAX);
    for component in target.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => depth -= 1,
            // Into git's own directory is out of the tree, too.
            name if name.eq_ignore_ascii_case(b".git") => return true,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

/// Control characters, direction marks and invisible ones, and what is no UTF-8.
fn is_odd(path: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(path) else {
        return true;
    };
    text.chars().any(|c| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_by_itself_is_marked() {
        use Risk::{Attributes, Autorun, Build, Ci, Executable, Hook, OddName, Submodules};
        let file = 0o100_644;
        for (path, mode, expected) in [
            ("src/main.rs", file, &[][..]),
            (".github/workflows/x.yml", file, &[Ci]),
            ("sub/.gitlab-ci.yml", file, &[Ci]),
            (".husky/pre-commit", 0o100_755, &[Hook, Executable]),
            ("a/hooks/post-merge", file, &[Hook]),
            (".envrc", file, &[Autorun]),
            ("home/.BashRC", file, &[Autorun]),
            (".vscode/tasks.json", file, &[Autorun]),
            ("x/.gitattributes", file, &[Attributes]),
            (".gitmodules", file, &[Submodules]),
            (".lfsconfig", file, &[Attributes]),
            ("sub/.cargo/config.toml", file, &[Autorun]),
            ("app.code-workspace", file, &[Autorun]),
            ("dep", 0o160_000, &[Submodules]),
            ("Makefile", file, &[Build]),
            ("run.sh", 0o100_755, &[Executable]),
            ("a\nb", file, &[OddName]),
            ("a\u{202e}b", file, &[OddName]),
        ] {
            assert_eq!(risks(path.as_bytes(), mode, 0, None), expected, "{path}");
        }
        assert!(risks(b"run.sh", 0o100_755, 0o100_755, None).is_empty());
    }

    #[test]
    fn links_out_are_told_from_links_within() {
        for (path, target, out) in [
            ("a/b", "../c", false),
            ("a/b", "../../c", true),
            ("b", "/etc/passwd", true),
            ("b", "c/../../d", true),
            ("a/b", "../.git/hooks", true),
            ("b", "./c//d", false),
        ] {
            let found = risks(path.as_bytes(), 0o120_000, 0, Some(target.as_bytes()));
            assert!(found.contains(&Risk::Symlink));
            assert_eq!(found.contains(&Risk::SymlinkOut), out, "{path} -> {target}");
        }
    }
}
