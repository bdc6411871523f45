//! `banger-vm ssh-proxy`: a VM's SSH port, or a TCP port of its, on standard input and output.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use banger_wire::monitor::file;
use banger_wire::port;
use lib_cli::{Failure, Session};
use lib_guest::Guest;
use lib_model::Exit;
use lib_vm::{Life, VmError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, ControlMessage, MsgFlags, sendmsg};

use crate::cli::SshProxyArgs;

/// Moved at once.
const CHUNK: usize = 64 * 1024;

/// Connects, and moves bytes until both directions have ended.
pub(crate) fn run(session: &Session, args: &SshProxyArgs) -> Result<(), Failure> {
    let store = session.store_to_read()?;
    let vm = store.vm(&lib_ssh::selector(&args.host))?;
    drop(store);
    let guest = Guest::new(lib_vm::runtime(&session.context, &vm).join(file::AGENT_SOCKET));
    let number = match args.port {
        None => port::SSH,
        Some(tcp) => port::TCP + u32::from(tcp),
    };
    let stream = guest.dial(number).map_err(|error| {
        let name = &vm.name;
        match error {
            lib_guest::Error::Connect { .. }
                if lib_vm::life(&session.context, &vm) == Life::Dead =>
            {
                Failure::from(VmError::NotRunning {
                    vm: name.to_string(),
                })
            }
            lib_guest::Error::Refused { .. } => match args.port {
                None => Failure::new(Exit::Failed, format!("{name} has no SSH server"))
                    .hint(format!("banger-vm restart {name}   (it was started by an older banger, or has too many connections)")),
                Some(tcp) => Failure::new(
                    Exit::Failed,
                    format!("nothing in {name} listens on TCP port {tcp}"),
                )
                .hint(format!("banger-vm exec {name} -- netstat -tln")),
            },
            other => Failure::new(Exit::Failed, other.to_string())
                .hint(format!("banger-vm logs {name}")),
        }
    })?;
    if args.fdpass {
        return pass(&stream).map_err(|error| Failure::io("hand the connection over", error));
    }
    relay(&stream).map_err(|error| Failure::io("pass on the connection", error))
}

/// Sends the descriptor over standard output, which ssh(1) made a socket (its ProxyUseFdpass).
fn pass(stream: &UnixStream) -> io::Result<()> {
    let stdout = io::stdout();
    let descriptors = [stream.as_raw_fd()];
    let message = [IoSlice::new(&[0])];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(stdout.as_fd().as_raw_fd(), &message, &control, flags, None)?;
    Ok(())
}

/// The end of standard input is passed on and ends nothing; the guest's end ends our output. When the
/// connection itself is over, so are we, even if somebody still types.
fn relay(stream: &UnixStream) -> io::Result<()> {
    let mut from_guest = stream.try_clone()?;
    let mut to_guest = stream.try_clone()?;
    std::thread::spawn(move || {
        // A guest that takes no more is seen by who reads.
        let _ = copy(&mut io::stdin().lock(), &mut to_guest);
        let _ = to_guest.shutdown(Shutdown::Write);
    });
    let stdout = io::stdout().as_fd().try_clone_to_owned()?;
    let mut output = std::fs::File::from(stdout);
    copy(&mut from_guest, &mut output)?;
    end_output(output);
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
    // Both directions are closed then (unix(7), POLLHUP).
    while poll(&mut polled, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    Ok(())
}

/// Tells the reader of our output that there is no more, while we still read.
fn end_output(output: std::fs::File) {
    // ssh gives us one socket for both; this is no error of anything else's.
    let _ = socket::shutdown(output.as_fd().as_raw_fd(), socket::Shutdown::Write);
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        // The number stays taken, so that nothing else becomes our standard output.
        let _ = nix::unistd::dup2_stdout(null);
    }
    drop(output);
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
