//! Keeps `man/` and `completions/` equal to the command lines: a test of each executable compares, and
//! `cargo xtask gen` runs the same tests to write. Only tests depend on this crate.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;

/// Set by `cargo xtask gen`: files are written instead of compared.
const WRITE: &str = "BANGER_GENERATE";

/// Compares the generated files of an executable with those of the tree.
///
/// # Panics
/// When they differ, or cannot be read.
pub fn keep(command: Command) {
    let name = command.get_name().to_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = pages(command).expect("a page fits into memory");
    let scripts = lib_cli::registrations(&name).expect("a script fits into memory");
    let scripts = scripts
        .into_iter()
        .map(|(shell, text)| (place(shell, &name), text.into_bytes()));
    let manual = root.join("man").join(&name);
    let here = listed(&manual).expect("the tree can be read");
    if std::env::var_os(WRITE).is_some() {
        for page in here.iter().filter(|page| !pages.contains_key(*page)) {
            fs::remove_file(manual.join(page)).expect("the tree can be written");
        }
        let pages = pages
            .into_iter()
            .map(|(page, text)| (manual.join(page), text));
        let scripts = scripts.map(|(file, text)| (root.join(file), text));
        for (file, text) in pages.chain(scripts) {
            write(&file, &text).expect("the tree can be written");
        }
        return;
    }
    let expected: Vec<&String> = pages.keys().collect();
    assert!(
        here.iter().eq(expected.iter().copied()),
        "the pages of {} are not {expected:?}: run `cargo xtask gen`",
        manual.display()
    );
    let pages = pages
        .into_iter()
        .map(|(page, text)| (manual.join(page), text));
    for (file, text) in pages.chain(scripts.map(|(file, text)| (root.join(file), text))) {
        let there = fs::read(&file).unwrap_or_default();
        assert!(
            there == text,
            "{} is not what the command line says: run `cargo xtask gen`",
            file.display()
        );
    }
}

/// A page for the executable and one for each of its commands, by file name.
fn pages(mut command: Command) -> io::Result<BTreeMap<String, Vec<u8>>> {
    // Completes names and global flags, as help does.
    command.build();
    let mut pages = BTreeMap::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let page = clap_mangen::Man::new(command.clone()).title(name);
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.insert(page.get_filename(), text);
    for inner in command.get_subcommands() {
        // What has no help of its own passes its words on to another executable, which has a page.
        let passed_on = inner.is_disable_help_flag_set();
        if !inner.is_hide_set() && !passed_on && inner.get_name() != "help" {
            add_pages(inner, pages)?;
        }
    }
    Ok(())
}

/// Where shells look for completions, below a directory of each.
fn place(shell: &str, name: &str) -> PathBuf {
    let file = match shell {
        "bash" => format!("{name}.bash"),
        "zsh" => format!("_{name}"),
        "fish" => format!("{name}.fish"),
        "elvish" => format!("{name}.elv"),
        _ => format!("{name}.ps1"),
    };
    Path::new("completions").join(shell).join(file)
}

fn listed(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries? {
                let name = entry?.file_name();
                names.push(OsStr::to_string_lossy(&name).into_owned());
            }
        }
    }
    names.sort();
    Ok(names)
}

fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(file, text)
}
