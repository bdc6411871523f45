//! The seam.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use banger_proto::{
    GroupName, Jail, Machine, NetworkStatus, Reply, Request, Reservation, Response, RouteChange,
    RouteStatus, Signal, StoreTag, VmId, VmName,
};

use crate::NetError;

/// What needs root on the host's network. The first value of a pair says whether something changed.
pub trait PrivilegedOps {
    /// Does what is asked, with the descriptors that the request has; one may come with the answer.
    ///
    /// # Errors
    /// [`NetError::Refused`]; then everything is as it was.
    fn call_with(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Response, Option<OwnedFd>), NetError>;

    /// As [`PrivilegedOps::call_with`], without descriptors.
    ///
    /// # Errors
    /// As there.
    fn call(&mut self, request: &Request) -> Result<(Response, Option<OwnedFd>), NetError> {
        self.call_with(request, &[])
    }

    /// Makes the bridge and the rules, if they are not there.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`].
    fn up(&mut self) -> Result<(bool, NetworkStatus), NetError> {
        network(self.call(&Request::Up {})?)
    }

    /// Removes them.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; while VMs are attached.
    fn down(&mut self) -> Result<(bool, NetworkStatus), NetError> {
        network(self.call(&Request::Down {})?)
    }

    /// How the network is.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`].
    fn status(&mut self) -> Result<NetworkStatus, NetError> {
        Ok(network(self.call(&Request::Status {})?)?.1)
    }

    /// The caller's reservations, by address; all of them for root.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`].
    fn list(&mut self) -> Result<Vec<Reservation>, NetError> {
        Ok(several(self.call(&Request::List {})?)?.1)
    }

    /// Reserves an address for a VM, or finds the one that it has.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; when the pool or the caller's share is used up.
    fn reserve(
        &mut self,
        vm: VmId,
        name: VmName,
        store: StoreTag,
    ) -> Result<(bool, Reservation), NetError> {
        one(self.call(&Request::Reserve { vm, name, store })?)
    }

    /// Makes a VM's interface. It goes when the last copy of the descriptor is closed.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation, or while it is attached.
    fn attach(&mut self, vm: VmId) -> Result<(Reservation, OwnedFd), NetError> {
        let (response, tap) = self.call(&Request::Attach { vm })?;
        let (_, reservation) = one((response.clone(), None))?;
        Ok((reservation, descriptor((response, tap))?))
    }

    /// Takes a VM's interface away.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation.
    fn detach(&mut self, vm: VmId) -> Result<(bool, Reservation), NetError> {
        one(self.call(&Request::Detach { vm })?)
    }

    /// Gives back all that a VM has; returns what that was.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`].
    fn release(&mut self, vm: VmId) -> Result<(bool, Option<Reservation>), NetError> {
        match self.call(&Request::Release { vm })?.0 {
            Response {
                changed,
                reply: Reply::Reservation(reservation),
            } => Ok((changed, reservation)),
            _ => Err(mismatch()),
        }
    }

    /// Lets a VM out into the world, or not.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation.
    fn nat(&mut self, vm: VmId, enabled: bool) -> Result<(bool, Reservation), NetError> {
        one(self.call(&Request::Nat { vm, enabled })?)
    }

    /// Puts a VM into a group of the caller's, or into none.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation.
    fn group(
        &mut self,
        vm: VmId,
        group: Option<GroupName>,
    ) -> Result<(bool, Reservation), NetError> {
        one(self.call(&Request::Group { vm, group })?)
    }

    /// Tells the host's resolver where names of VMs are served, or takes that back, or only looks.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without systemd-resolved.
    fn route(&mut self, change: RouteChange) -> Result<(bool, RouteStatus), NetError> {
        match self.call(&Request::Route { change })?.0 {
            Response {
                changed,
                reply: Reply::Route(status),
            } => Ok((changed, status)),
            _ => Err(mismatch()),
        }
    }

    /// Gives back what the caller reserved for VMs that are not in the store; returns it.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`].
    fn gc(
        &mut self,
        store: StoreTag,
        keep: Vec<VmId>,
        min_age_s: u64,
    ) -> Result<(bool, Vec<Reservation>), NetError> {
        several(self.call(&Request::Gc {
            store,
            keep,
            min_age_s,
        })?)
    }

    /// Lets the bridge through another program's firewall, or no more.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; for who is not root.
    fn admit(&mut self, enabled: bool) -> Result<(bool, NetworkStatus), NetError> {
        network(self.call(&Request::Admit { enabled })?)
    }

    /// Makes a block device of a file of the caller's. It goes when the last copy of the descriptor is closed.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation; for a file that others can write.
    fn loop_device(
        &mut self,
        vm: VmId,
        file: impl AsFd,
        read_only: bool,
    ) -> Result<OwnedFd, NetError>
    where
        Self: Sized,
    {
        let request = Request::Loop { vm, read_only };
        descriptor(self.call_with(&request, &[file.as_fd()])?)
    }

    /// Makes a block device of an image and what was written to it. It goes as a loop device does.
    ///
    /// # Errors
    /// As [`PrivilegedOps::loop_device`]; while the VM has one.
    fn snapshot(
        &mut self,
        vm: VmId,
        image: impl AsFd,
        exceptions: impl AsFd,
        size: u64,
    ) -> Result<OwnedFd, NetError>
    where
        Self: Sized,
    {
        let request = Request::Snapshot { vm, size };
        descriptor(self.call_with(&request, &[image.as_fd(), exceptions.as_fd()])?)
    }

    /// Takes a VM's block devices away, as soon as they are closed.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation.
    fn unmap(&mut self, vm: VmId) -> Result<(bool, Reservation), NetError> {
        one(self.call(&Request::Unmap { vm })?)
    }

    /// Starts a VM's machine monitor in a jail, with the descriptors that [`Machine`] names; returns what tells of
    /// its end.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation; while it runs.
    fn launch(
        &mut self,
        vm: VmId,
        machine: Machine,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Jail, OwnedFd), NetError> {
        let answer = self.call_with(&Request::Launch { vm, machine }, descriptors)?;
        let (_, jail) = jail(&answer.0)?;
        Ok((jail, descriptor(answer)?))
    }

    /// Sends a signal to what runs in a VM's jail. The first value says whether it was sent to something.
    ///
    /// # Errors
    /// As [`PrivilegedOps::call`]; without a reservation.
    fn signal(&mut self, vm: VmId, signal: Option<Signal>) -> Result<(bool, Jail), NetError> {
        jail(&self.call(&Request::Signal { vm, signal })?.0)
    }
}

fn descriptor(answer: (Response, Option<OwnedFd>)) -> Result<OwnedFd, NetError> {
    let missing = || NetError::Broken("no descriptor came with the answer".into());
    answer.1.ok_or_else(missing)
}

fn jail(response: &Response) -> Result<(bool, Jail), NetError> {
    match &response.reply {
        Reply::Jail(jail) => Ok((response.changed, jail.clone())),
        _ => Err(mismatch()),
    }
}

fn mismatch() -> NetError {
    NetError::Broken("the answer does not fit the question".into())
}

fn network(answer: (Response, Option<OwnedFd>)) -> Result<(bool, NetworkStatus), NetError> {
    match answer.0.reply {
        Reply::Network(status) => Ok((answer.0.changed, status)),
        _ => Err(mismatch()),
    }
}

fn one(answer: (Response, Option<OwnedFd>)) -> Result<(bool, Reservation), NetError> {
    match answer.0.reply {
        Reply::Reservation(Some(reservation)) => Ok((answer.0.changed, reservation)),
        _ => Err(mismatch()),
    }
}

fn several(answer: (Response, Option<OwnedFd>)) -> Result<(bool, Vec<Reservation>), NetError> {
    match answer.0.reply {
        Reply::Reservations(list) => Ok((answer.0.changed, list)),
        _ => Err(mismatch()),
    }
}
