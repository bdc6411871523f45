//! `banger-netd`: the only part of banger that runs as root on the host.
//!
//! One thread. It makes a bridge, taps and rules for VMs of users that it knows, and nothing else: each
//! verb is a file in `operations`, with its row in `OPERATIONS.md`. What it made it finds again in the
//! kernel and in its journal, so it can be killed at any time and VMs go on.

mod accounts;
mod audit;
mod connection;
mod elements;
mod firewall;
mod firewalld;
mod forwarding;
mod jail;
mod journal;
mod links;
mod listen;
mod loops;
mod mapper;
mod names;
mod netfilter;
mod network;
mod nft;
mod operations;
mod options;
mod passed;
mod peer;
mod pool;
mod programs;
mod receiver;
mod resolved;
mod rules;
mod serve;
mod sys;
mod turns;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use firewalld::Firewalld;
use jail::Jails;
use journal::Journal;
use links::Links;
use network::{Network, Through};
use nft::Nft;
use options::{Options, Serve};
use resolved::Resolved;
use serve::Server;
use tokio::task::{LocalSet, spawn_local};
use turns::Turns;

/// As it says hello.
const PROGRAM: &str = concat!("banger-netd ", env!("CARGO_PKG_VERSION"));

const EXIT_USAGE: u8 = 2;
const EXIT_BUSY: u8 = 4;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments == [jail::WORD] {
        return jail::enter();
    }
    if let [word, rest @ ..] = &arguments[..]
        && word == receiver::WORD
    {
        return receiver::receive(rest);
    }
    if let [only] = &arguments[..]
        && let Some(word @ ("--version" | "--help")) = only.to_str()
    {
        let text = if word == "--version" {
            PROGRAM
        } else {
            options::USAGE
        };
        return match writeln!(io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let options = match options::parse(arguments) {
        Ok(options) => options,
        Err(error) => {
            audit::note(&error);
            let _ = writeln!(io::stderr(), "{}", options::USAGE);
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            audit::note(&error.to_string());
            match error.kind() {
                io::ErrorKind::ResourceBusy => ExitCode::from(EXIT_BUSY),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(options: Options) -> io::Result<()> {
    let _lock = lock(&options)?;
    let journal = Journal::open(&options.state)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, serve(options, journal))
}

/// One process at a time has the state. A child of a caller waits for the one before it.
fn lock(options: &Options) -> io::Result<File> {
    let state = &options.state;
    if let Some(parent) = state.parent() {
        fs::create_dir_all(parent)?;
    }
    // 0755: the names in it are for everybody, the journal has a mode of its own.
    match DirBuilder::new().mode(0o755).create(state) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => refuse_unsafe(state)?,
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state.join("lock"))?;
    if matches!(options.serve, Serve::Connection(_)) {
        lock.lock()?;
    } else {
        lock.try_lock().map_err(|_| {
            let message = format!("another banger-netd serves {}", state.display());
            io::Error::new(io::ErrorKind::ResourceBusy, message)
        })?;
    }
    Ok(lock)
}

fn refuse_unsafe(state: &Path) -> io::Result<()> {
    let directory = fs::symlink_metadata(state)?;
    let ours = directory.uid() == nix::unistd::geteuid().as_raw();
    if directory.is_dir() && ours && directory.mode() & 0o022 == 0 {
        return Ok(());
    }
    let message = format!(
        "{} must be a directory of ours, and writable by us alone",
        state.display()
    );
    Err(io::Error::other(message))
}

async fn serve(options: Options, journal: Journal) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    spawn_local(connection);
    let mut network = Network::new(
        options.bridge.clone(),
        options.pool,
        options.limits.clone(),
        journal,
        Through {
            links: Links::new(handle),
            nft: Nft::new(options.nft.clone()),
            resolved: Resolved::new(options.resolvectl.clone()),
            firewalld: Firewalld::new(options.busctl.clone()),
            jails: Rc::new(Jails {
                qemu: options.qemu.clone(),
                first_uid: options.first_uid,
                root: options.state.join("jail"),
                turns: Turns::default(),
            }),
        },
        options.offered(),
    );
    if let Err(refusal) = network.recover().await {
        // Each request tries again, and tells its caller.
        audit::note(&refusal.message);
    }
    match &options.serve {
        Serve::Connection(number) => {
            let stream = UnixStream::from(sys::passed_descriptor(*number)?);
            stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(stream)?;
            let server = Server::new(options, network);
            serve::converse(server, stream, true).await;
            Ok(())
        }
        Serve::Listen { path, gid } => {
            let listener = listen::bind(path, *gid)?;
            listen(Server::new(options, network), vec![listener]).await
        }
        Serve::Activated => {
            let listeners = listen::activated()?;
            listen(Server::new(options, network), listeners).await
        }
    }
}

async fn listen(
    server: Rc<Server>,
    listeners: Vec<std::os::unix::net::UnixListener>,
) -> io::Result<()> {
    for listener in listeners {
        spawn_local(serve::accept(server.clone(), listener));
    }
    audit::note("serving");
    serve::watch(server).await
}
