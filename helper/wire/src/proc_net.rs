//! Sockets as the kernel lists them in `/proc/net/{tcp,tcp6,udp,udp6}` (proc_pid_net(5)), on the host and in
//! the guest.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP: waits for connections.
pub const LISTEN: u8 = 0x0a;
/// UDP: bound and not connected (the kernel's TCP_CLOSE).
pub const UNCONNECTED: u8 = 0x07;

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where it is bound; its port is not 0.
    pub local: SocketAddr,
    /// The kernel's number of its state.
    pub state: u8,
    /// As in the links of `/proc/*/fd`.
    pub inode: u64,
}

/// The sockets of a table; lines that are not understood are left out.
pub fn entries(table: &str) -> impl Iterator<Item = Entry> {
    table.lines().skip(1).filter_map(entry)
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_whitespace();
    let (address, port) = words.nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16)
        .ok()
        .filter(|port| *port > 0)?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    Some(Entry {
        local: SocketAddr::new(self::address(address)?, port),
        state,
        inode: words.nth(5)?.parse().ok()?,
    })
}

/// Words of the address in the processor's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok();
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel_are_understood() {
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4712 1 0 100 0 0 10 0\n\
             2: garbage\n\
             3: 0100007é:1F90 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0 0 4713 1 0 100 0 0 10 0\n";
        let found: Vec<Entry> = entries(tcp).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0],
            Entry {
                local: (Ipv4Addr::LOCALHOST, 8080).into(),
                state: LISTEN,
                inode: 4711,
            }
        );
        assert_eq!((found[1].state, found[1].inode), (1, 4712));
        assert_eq!(
            address("00000000000000000000000001000000"),
            Some(Ipv6Addr::LOCALHOST.into())
        );
        assert_eq!((address(""), address("0100007é")), (None, None));
    }

    #[test]
    fn a_socket_of_ours_is_in_the_kernels_own_table() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = listener.local_addr().unwrap();
        let found = entries(&table).find(|entry| entry.local == ours);
        assert_eq!(found.map(|entry| entry.state), Some(LISTEN));
    }
}
