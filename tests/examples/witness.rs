//! All there is in an image of the tests: says what it was started with, and ends with a status of its own.
#![expect(clippy::print_stdout, reason = "it is all that it does")]

use std::net::{TcpListener, TcpStream};
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
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address);
        let connected = listener.and_then(|listener| TcpStream::connect(listener.local_addr()?));
        println!("{address} {:?}", connected.map(drop));
    }
    ExitCode::from(42)
}
