//! Network interfaces by ioctl(2): netdevice(7), and `struct rtentry` of route(8)'s old interface. Netlink could say more,
//! but not what a guest needs, and its code is a fifth of what an emulated processor would have to translate at each boot.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_mask, libc::SIOCSIFNETMASK, libc::ifreq);
nix::ioctl_write_ptr_bad!(add_route, libc::SIOCADDRT, libc::rtentry);

/// The interfaces of this network namespace.
#[derive(Debug)]
pub(crate) struct Interfaces {
    socket: OwnedFd,
}

impl Interfaces {
    /// # Errors
    /// Those of socket(2).
    pub(crate) fn open() -> io::Result<Interfaces> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
        Ok(Interfaces { socket })
    }

    /// Brings an interface up.
    ///
    /// # Errors
    /// Those of ioctl(2); `InvalidInput` for a name that is too long.
    pub(crate) fn up(&self, name: &str) -> io::Result<()> {
        let mut request = named(name)?;
        // SAFETY: the pointers are to a live ifreq, whose flags the kernel has filled in when they are read.
        unsafe {
            get_flags(self.socket.as_raw_fd(), &raw mut request)?;
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
            set_flags(self.socket.as_raw_fd(), &raw const request)?;
        }
        Ok(())
    }

    /// Gives an interface its address, with the network's prefix in bits.
    ///
    /// # Errors
    /// Those of ioctl(2); `InvalidInput` for a name that is too long.
    pub(crate) fn address(&self, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut request = named(name)?;
        request.ifr_ifru.ifru_addr = internet(address);
        // SAFETY: the pointer is to a live ifreq with an address.
        unsafe { set_address(self.socket.as_raw_fd(), &raw const request) }?;
        request.ifr_ifru.ifru_netmask = internet(mask(prefix));
        // SAFETY: as before.
        unsafe { set_mask(self.socket.as_raw_fd(), &raw const request) }?;
        Ok(())
    }

    /// Sends what is for no network here to a gateway, through an interface.
    ///
    /// # Errors
    /// Those of ioctl(2); `InvalidInput` for a name that is too long.
    pub(crate) fn default_route(&self, name: &str, gateway: Ipv4Addr) -> io::Result<()> {
        let mut device = named(name)?.ifr_name;
        // SAFETY: all zeros are a valid rtentry.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = internet(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = internet(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = internet(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        route.rt_dev = device.as_mut_ptr();
        // SAFETY: the pointer is to a live rtentry, and that to the name in it, which ends with a zero.
        unsafe { add_route(self.socket.as_raw_fd(), &raw const route) }?;
        Ok(())
    }
}

/// A request about one interface.
fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the zero that ends it.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

/// An address without a port, as these requests have it (ip(7), `struct sockaddr_in`).
fn internet(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from.cast_signed();
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

fn mask(prefix: u8) -> Ipv4Addr {
    let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
    Ipv4Addr::from_bits(!host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_a_mask() {
        let masks = [0, 1, 24, 31, 32].map(|prefix| mask(prefix).to_string());
        let expected = [
            "0.0.0.0",
            "128.0.0.0",
            "255.255.255.0",
            "255.255.255.254",
            "255.255.255.255",
        ];
        assert_eq!(masks, expected);
    }

    #[test]
    fn a_name_has_at_most_fifteen_bytes() {
        assert!(named("a_name_of_15_by").is_ok());
        let error = named("a_name_of_16_byt").err().map(|error| error.kind());
        assert_eq!(error, Some(io::ErrorKind::InvalidInput));
    }

    /// In a network namespace of a thread's own, where loopback is there and down.
    #[test]
    fn an_interface_gets_its_address_its_network_and_a_gateway() {
        if banger_tests::skipped("root") {
            return;
        }
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let interfaces = Interfaces::open().unwrap();
            let address = Ipv4Addr::new(10, 1, 2, 3);
            interfaces.address("lo", address, 20).unwrap();
            // Nothing is reached through an interface that is down.
            let gateway = Ipv4Addr::new(10, 1, 2, 1);
            assert!(interfaces.default_route("lo", gateway).is_err());
            interfaces.up("lo").unwrap();
            interfaces.default_route("lo", gateway).unwrap();
            assert!(interfaces.up("nobody").is_err());
            let told = |file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            (told("fib_trie").unwrap(), told("route").unwrap())
        });
        let (networks, routes) = thread.join().unwrap();
        // Loopback's network is one of this host, so it is no route of its own.
        assert!(networks.contains(" 10.1.0.0/20 "), "{networks}");
        let routes = routes.lines().skip(1).map(|line| {
            // Interface, destination, gateway, flags, three counters, mask: addresses are in the order of the network.
            let columns: Vec<&str> = line.split_whitespace().collect();
            [0, 1, 2, 7].map(|column| columns[column].to_owned())
        });
        let routes: Vec<[String; 4]> = routes.collect();
        assert_eq!(routes, [["lo", "00000000", "0102010A", "00000000"]]);
    }
}
