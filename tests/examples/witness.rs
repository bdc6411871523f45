//! All there is in an image of the tests: says what it was started with, and ends with a status of its own.

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    println!("arguments {arguments:?}");
    let mut environment: Vec<(String, String)> = std::env::vars().collect();
    environment.sort();
    println!("environment {environment:?}");
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for name in ["Uid", "Gid", "Groups"] {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let numbers: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        println!("{name}{}", numbers.join(" "));
    }
    let directory = std::env::current_dir().map(|directory| {
        let owner = std::fs::metadata(&directory).map(|metadata| metadata.uid());
        (directory, owner.ok())
    });
    println!("directory {directory:?}");
    ExitCode::from(42)
}
