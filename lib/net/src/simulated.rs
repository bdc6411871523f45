//! The same operations in memory: what a caller can expect, without a kernel.

use std::collections::BTreeMap;
use std::io::{PipeReader, PipeWriter};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use banger_proto::{
    Code, InterfaceName, Jail, Mac, NAME_SERVER, NetworkStatus, ROUTE_LINK, Refusal, Reply,
    Request, Reservation, Response, RouteChange, RouteStatus, Signal, StoreTag, VmId, VmName, ZONE,
    reverse_zones,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use crate::{NetError, PrivilegedOps};

/// A network with a handful of addresses, for one caller.
#[derive(Debug)]
pub struct Simulated {
    uid: u32,
    up: bool,
    forwarding: bool,
    route: bool,
    reserved: BTreeMap<VmId, Reservation>,
    /// Hang up when the last copy of the other side is closed, as a tap vanishes.
    taps: BTreeMap<VmId, PipeReader>,
    /// Block devices, likewise; whether one is a snapshot.
    devices: Vec<(VmId, bool, PipeReader)>,
    /// Jails; what tells of the end hangs up when ours is closed.
    jails: BTreeMap<VmId, PipeWriter>,
    admitted: bool,
    clock: u64,
}

const POOL: [u8; 3] = [10, 83, 0];
const SIZE: u8 = 13;

impl Simulated {
    /// Nothing is there.
    pub fn new(uid: u32) -> Self {
        Simulated {
            uid,
            up: false,
            forwarding: false,
            route: false,
            reserved: BTreeMap::new(),
            taps: BTreeMap::new(),
            devices: Vec::new(),
            jails: BTreeMap::new(),
            admitted: false,
            clock: 1,
        }
    }

    fn look(&mut self) {
        self.taps.retain(|_, tap| is_open(tap));
        self.devices.retain(|(_, _, device)| is_open(device));
        for reservation in self.reserved.values_mut() {
            reservation.attached = self.taps.contains_key(&reservation.vm);
        }
    }

    fn shown(&self) -> Reply {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        Reply::Network(NetworkStatus {
            bridge: InterfaceName::try_from("banger0").expect("the name is one"),
            up: self.up,
            gateway: address(1),
            prefix: 28,
            reserved: count(self.reserved.len()),
            free: u32::from(SIZE) - count(self.reserved.len()),
            attached: count(self.taps.len()),
            forwarding: self.forwarding,
            forwarding_is_ours: self.forwarding,
            admitted: self.admitted,
            leftovers: Vec::new(),
            program: "a simulation".into(),
        })
    }

    fn owned(&mut self, vm: &VmId) -> Result<&mut Reservation, Refusal> {
        self.reserved
            .get_mut(vm)
            .ok_or_else(|| Refusal::new(Code::NotFound, format!("no reservation for {vm}")))
    }

    fn find_or_reserve(
        &mut self,
        vm: &VmId,
        name: &VmName,
        store: &StoreTag,
    ) -> Result<Response, Refusal> {
        if !self.reserved.contains_key(vm) {
            let taken = |a: &Ipv4Addr| self.reserved.values().any(|r| r.address == *a);
            let free = (2..2 + SIZE).map(address).find(|a| !taken(a));
            let address =
                free.ok_or_else(|| Refusal::new(Code::Exhausted, "no address is free"))?;
            let [a, b, c, d] = address.octets();
            let reservation = Reservation {
                vm: vm.clone(),
                name: name.clone(),
                store: store.clone(),
                uid: self.uid,
                address,
                prefix: 28,
                gateway: self::address(1),
                mac: Mac([0x52, 0x54, a, b, c, d]),
                interface: InterfaceName::of_vm(vm),
                attached: false,
                nat: false,
                group: None,
                reserved_ms: self.clock,
                jailed: false,
                devices: 0,
            };
            self.reserved.insert(vm.clone(), reservation.clone());
            return Ok(one(true, reservation));
        }
        let reservation = self.owned(vm)?;
        let changed = reservation.name != *name || reservation.store != *store;
        reservation.name = name.clone();
        reservation.store = store.clone();
        Ok(one(changed, reservation.clone()))
    }

    fn make_tap(&mut self, vm: &VmId) -> Result<(Response, OwnedFd), Refusal> {
        if self.owned(vm)?.attached {
            return Err(Refusal::new(
                Code::Busy,
                format!("{vm} is attached already"),
            ));
        }
        let (theirs, ours) = pipe()?;
        self.up = true;
        self.taps.insert(vm.clone(), theirs);
        let reservation = self.owned(vm)?;
        reservation.attached = true;
        Ok((one(true, reservation.clone()), ours.into()))
    }

    fn give_back(&mut self, store: &StoreTag, keep: &[VmId], min_age_s: u64) -> Response {
        let lost = |r: &Reservation| {
            r.store == *store && !keep.contains(&r.vm) && !r.attached && min_age_s == 0
        };
        let list: Vec<_> = self
            .reserved
            .values()
            .filter(|r| lost(r))
            .cloned()
            .collect();
        for reservation in &list {
            self.reserved.remove(&reservation.vm);
        }
        Response {
            changed: !list.is_empty(),
            reply: Reply::Reservations(list),
        }
    }

    fn change_route(&mut self, change: RouteChange) -> Result<Response, Refusal> {
        let before = self.route;
        self.route = match change {
            RouteChange::Up => true,
            RouteChange::Down => false,
            RouteChange::Look => before,
        };
        let link = InterfaceName::try_from(ROUTE_LINK);
        let mut zones = vec![ZONE.to_owned()];
        zones.extend(reverse_zones(address(1), 28));
        Ok(Response {
            changed: before != self.route,
            reply: Reply::Route(RouteStatus {
                up: self.route,
                link: link.map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?,
                server: NAME_SERVER,
                zones,
            }),
        })
    }

    fn map(&mut self, vm: &VmId, snapshot: bool) -> Result<(Response, OwnedFd), Refusal> {
        let reservation = self.owned(vm)?.clone();
        if snapshot && self.devices.iter().any(|(owner, s, _)| owner == vm && *s) {
            return Err(Refusal::new(Code::Busy, format!("{vm} has a snapshot")));
        }
        let (theirs, ours) = pipe()?;
        self.devices.push((vm.clone(), snapshot, theirs));
        Ok((one(true, reservation), ours.into()))
    }

    fn start(&mut self, vm: &VmId) -> Result<(Response, OwnedFd), Refusal> {
        self.owned(vm)?;
        if self.jails.contains_key(vm) {
            return Err(Refusal::new(Code::Busy, format!("{vm} runs already")));
        }
        let (theirs, ours) = pipe()?;
        self.jails.insert(vm.clone(), ours);
        Ok((self.jail(vm, true), theirs.into()))
    }

    fn jail(&self, vm: &VmId, changed: bool) -> Response {
        let (vm, running) = (vm.clone(), self.jails.contains_key(vm));
        let reply = Reply::Jail(Jail {
            vm,
            running,
            uid: 1 << 30,
        });
        Response { changed, reply }
    }

    fn perform(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Response, Option<OwnedFd>), Refusal> {
        self.look();
        self.clock += 1;
        refuse_descriptors(request, descriptors)?;
        let response = match request {
            Request::Up {} => {
                let changed = !std::mem::replace(&mut self.up, true);
                self.forwarding |= self.reserved.values().any(|r| r.nat);
                Response {
                    changed,
                    reply: self.shown(),
                }
            }
            Request::Down {} if !self.taps.is_empty() => {
                return Err(Refusal::new(Code::Busy, "VMs are attached"));
            }
            Request::Down {} => {
                let changed = std::mem::replace(&mut self.up, false);
                self.forwarding = false;
                self.admitted = false;
                Response {
                    changed,
                    reply: self.shown(),
                }
            }
            Request::Status {} => Response {
                changed: false,
                reply: self.shown(),
            },
            Request::List {} => {
                let mut list: Vec<_> = self.reserved.values().cloned().collect();
                for reservation in &mut list {
                    reservation.jailed = self.jails.contains_key(&reservation.vm);
                    let devices = self.devices.iter();
                    let own = devices.filter(|(vm, ..)| *vm == reservation.vm).count();
                    reservation.devices = u32::try_from(own).unwrap_or(u32::MAX);
                }
                list.sort_by_key(|reservation| reservation.address);
                Response {
                    changed: false,
                    reply: Reply::Reservations(list),
                }
            }
            Request::Reserve { vm, name, store } => self.find_or_reserve(vm, name, store)?,
            Request::Attach { vm } => {
                let (response, tap) = self.make_tap(vm)?;
                return Ok((response, Some(tap)));
            }
            Request::Detach { vm } => {
                let reservation = self.owned(vm)?;
                let changed = std::mem::replace(&mut reservation.attached, false);
                let response = one(changed, reservation.clone());
                self.taps.remove(vm);
                response
            }
            Request::Release { vm } => {
                self.taps.remove(vm);
                self.jails.remove(vm);
                self.devices.retain(|(owner, ..)| owner != vm);
                let reservation = self.reserved.remove(vm);
                Response {
                    changed: reservation.is_some(),
                    reply: Reply::Reservation(reservation),
                }
            }
            Request::Nat { vm, enabled } => {
                let up = self.up;
                let reservation = self.owned(vm)?;
                let changed = std::mem::replace(&mut reservation.nat, *enabled) != *enabled;
                let response = one(changed, reservation.clone());
                self.forwarding |= up && *enabled;
                response
            }
            Request::Group { vm, group } => {
                let reservation = self.owned(vm)?;
                let changed = reservation.group != *group;
                reservation.group.clone_from(group);
                one(changed, reservation.clone())
            }
            Request::Route { change } => self.change_route(*change)?,
            Request::Gc {
                store,
                keep,
                min_age_s,
            } => self.give_back(store, keep, *min_age_s),
            Request::Admit { enabled } => {
                let changed = std::mem::replace(&mut self.admitted, *enabled) != *enabled;
                let reply = self.shown();
                Response { changed, reply }
            }
            Request::Loop { vm, .. } => {
                let (response, device) = self.map(vm, false)?;
                return Ok((response, Some(device)));
            }
            Request::Snapshot { vm, .. } => {
                let (response, device) = self.map(vm, true)?;
                return Ok((response, Some(device)));
            }
            Request::Unmap { vm } => {
                let reservation = self.owned(vm)?.clone();
                let before = self.devices.len();
                self.devices.retain(|(owner, ..)| owner != vm);
                one(self.devices.len() != before, reservation)
            }
            Request::Launch { vm, machine } => {
                let invalid =
                    |error: banger_proto::NameError| Refusal::new(Code::Invalid, error.to_string());
                machine.validate().map_err(invalid)?;
                let (response, process) = self.start(vm)?;
                return Ok((response, Some(process)));
            }
            Request::Signal { vm, signal } => {
                self.owned(vm)?;
                let before = self.jail(vm, signal.is_some() && self.jails.contains_key(vm));
                if let Some(Signal::Term | Signal::Kill) = signal {
                    self.jails.remove(vm);
                }
                before
            }
        };
        Ok((response, None))
    }
}

impl PrivilegedOps for Simulated {
    fn call_with(
        &mut self,
        request: &Request,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(Response, Option<OwnedFd>), NetError> {
        Ok(self.perform(request, descriptors)?)
    }
}

/// Files of disks are looked at as the daemon does it.
fn refuse_descriptors(request: &Request, descriptors: &[BorrowedFd<'_>]) -> Result<(), Refusal> {
    let invalid = |what: &str| Refusal::new(Code::Invalid, what);
    if descriptors.len() != request.descriptors() {
        return Err(invalid("other descriptors came than the request has"));
    }
    if !matches!(request, Request::Loop { .. } | Request::Snapshot { .. }) {
        return Ok(());
    }
    for descriptor in descriptors {
        let status = fstat(descriptor).map_err(|error| invalid(error.desc()))?;
        if SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(invalid("a descriptor is no regular file"));
        }
        if status.st_mode & 0o022 != 0 {
            return Err(invalid("a file is writable by others"));
        }
    }
    Ok(())
}

fn pipe() -> Result<(PipeReader, PipeWriter), Refusal> {
    std::io::pipe().map_err(|error| Refusal::new(Code::Failed, error.to_string()))
}

/// Whether somebody has the other side.
fn is_open(pipe: &PipeReader) -> bool {
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let hung_up = |fd: &PollFd<'_>| {
        fd.revents()
            .is_some_and(|events| events.contains(PollFlags::POLLHUP))
    };
    poll(&mut polled, PollTimeout::ZERO).is_ok() && !hung_up(&polled[0])
}

fn address(number: u8) -> Ipv4Addr {
    let [a, b, c] = POOL;
    Ipv4Addr::new(a, b, c, number)
}

fn one(changed: bool, reservation: Reservation) -> Response {
    Response {
        changed,
        reply: Reply::Reservation(Some(reservation)),
    }
}
