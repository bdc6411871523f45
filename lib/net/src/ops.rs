//! The seam.

use std::os::fd::OwnedFd;

use banger_proto::{
    GroupName, NetworkStatus, Reply, Request, Reservation, Response, RouteChange, RouteStatus,
    StoreTag, VmId, VmName,
};

use crate::NetError;

/// What needs root on the host's network. The first value of a pair says whether something changed.
pub trait PrivilegedOps {
    /// Does what is asked; a descriptor comes with `attach`.
    ///
    /// # Errors
    /// [`NetError::Refused`]; then everything is as it was.
    fn call(&mut self, request: &Request) -> Result<(Response, Option<OwnedFd>), NetError>;

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
        let (response, descriptor) = self.call(&Request::Attach { vm })?;
        let (_, reservation) = one((response, None))?;
        match descriptor {
            Some(descriptor) => Ok((reservation, descriptor)),
            None => Err(NetError::Broken(
                "no descriptor came with the answer".into(),
            )),
        }
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
