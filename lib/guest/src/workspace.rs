//! Work on the files below one directory of a guest.

use std::os::fd::BorrowedFd;

use banger_tree::session::Client;
use banger_tree::{Piece, TreeError};
use banger_wire::agent::{CallError, Opened, Request, Workspace, kind};
use banger_wire::frame;

use crate::copy::explain;
use crate::error::{Error, Result};
use crate::guest::{Guest, parse};
use crate::wire::Wire;

/// A directory of a guest that is worked on, over one connection.
pub struct Directory<'a> {
    client: Client<Wire<'a>>,
    opened: Opened,
}

impl Guest {
    /// Opens a directory, for which it is made with `create`.
    ///
    /// # Errors
    /// [`Error::Call`] when it is not there or the user must not; see [`Error`].
    pub fn open_directory<'a>(
        &self,
        path: &[u8],
        user: Option<&str>,
        create: bool,
        interrupt: Option<BorrowedFd<'a>>,
    ) -> Result<Directory<'a>> {
        let call = Workspace {
            path: path.to_owned(),
            user: user.map(str::to_owned),
            create,
        };
        let mut wire = self.begin(&Request::Workspace(call), interrupt)?;
        let answer = frame::read(&mut wire).map_err(|error| wire.explain(error))?;
        let answer = answer.ok_or(Error::ConnectionLost)?;
        match answer.kind {
            kind::REPLY => Ok(Directory {
                client: Client::new(wire),
                opened: parse(&answer.payload)?,
            }),
            kind::ERROR => Err(Error::Call(parse::<CallError>(&answer.payload)?)),
            other => Err(Error::Protocol(format!("a reply of kind {other}"))),
        }
    }

    /// Makes a directory read-only for everybody in the guest, or writable again, until its next start.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn protect(&self, path: &[u8], readonly: bool) -> Result<()> {
        let path = path.to_owned();
        self.call(Request::Protect { path, readonly }).map(drop)
    }
}

impl<'a> Directory<'a> {
    /// Its absolute path, as the guest says.
    pub fn path(&self) -> &[u8] {
        &self.opened.path
    }

    /// Nothing was in it when it was opened.
    pub fn was_empty(&self) -> bool {
        self.opened.empty
    }

    /// Lists directories below it; see [`Client::list`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn list(
        &mut self,
        directories: &[Vec<u8>],
        take: impl FnMut(Piece) -> banger_tree::Result<()>,
    ) -> Result<()> {
        self.with(|client| client.list(directories, take))
    }

    /// Removes files below it, and directories that are empty then.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn remove(&mut self, paths: &[Vec<u8>]) -> Result<()> {
        self.with(|client| client.remove(paths))
    }

    /// Whatever the session can do.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn with<T>(
        &mut self,
        work: impl FnOnce(&mut Client<Wire<'a>>) -> std::result::Result<T, TreeError>,
    ) -> Result<T> {
        let done = work(&mut self.client);
        done.map_err(|error| explain(self.client.stream(), error))
    }
}
