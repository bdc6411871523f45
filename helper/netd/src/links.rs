//! Interfaces, by rtnetlink. What is ours says so in its alias; nothing else is ever changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use banger_failpoint::point;
use banger_proto::{InterfaceName, VmId};
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Error, Handle, LinkBridge, LinkDummy, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::pool::Pool;
use crate::sys;

const BRIDGE_ALIAS: &str = "banger-netd bridge";
const ROUTE_ALIAS: &str = "banger-netd route";
const TAP_ALIAS: &str = "banger-netd vm=";

/// The other end of the route's link, where there are no dummies.
const ROUTE_PEER: &str = "banger-dns-peer";

/// A resolver ignores links without an address. This one is for links that need one in name only (RFC
/// 7600, "IPv4 dummy address"), so it is nobody's.
const ROUTE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// Locally administered; fixed, because a bridge would else take that of its first port.
const BRIDGE_MAC: [u8; 6] = [0x02, 0x62, 0x67, 0x72, 0x00, 0x01];

/// RT_TABLE_LOCAL and RT_TABLE_MAIN (rtnetlink(7)): local routes say which addresses the host has.
const TABLES: [u32; 2] = [254, 255];

/// The kernel's interfaces.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    handle: Handle,
}

/// An interface that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) owner: Owner,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    Bridge,
    Vm(VmId),
    /// For the host's resolver.
    Route,
    Other,
}

impl Links {
    pub(crate) fn new(handle: Handle) -> Self {
        Links { handle }
    }

    /// The interface of this name.
    pub(crate) async fn find(&self, name: &InterfaceName) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name.to_string());
        match request.execute().try_next().await {
            Ok(message) => Ok(message.as_ref().map(link)),
            Err(Error::NetlinkError(message)) if message.raw_code() == -nix::libc::ENODEV => {
                Ok(None)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// All that are ours.
    pub(crate) async fn ours(&self) -> io::Result<Vec<Link>> {
        // Without counters, which are most of a message; all of them are here at once.
        let mask = vec![LinkExtentMask::SkipStats];
        let request = self.handle.link().get();
        let request = request.set_filter_mask(AddressFamily::Unspec, mask);
        let mut links = request.execute();
        let mut ours = Vec::new();
        while let Some(message) = links.next().await {
            let link = link(&message.map_err(failed)?);
            if link.owner != Owner::Other {
                ours.push(link);
            }
        }
        Ok(ours)
    }

    /// Makes the bridge, with its address; nothing of it is left when that fails.
    pub(crate) async fn add_bridge(&self, name: &InterfaceName, pool: Pool) -> io::Result<()> {
        point("netd.bridge.add")?;
        let message = LinkBridge::new(name.as_str())
            .mcast_snooping(false)
            .address(BRIDGE_MAC.to_vec())
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(failed)?;
        let made = self.set_up_bridge(name, pool).await;
        if made.is_err()
            && let Some(bridge) = self.find(name).await?
        {
            self.delete(&bridge).await?;
        }
        made
    }

    async fn set_up_bridge(&self, name: &InterfaceName, pool: Pool) -> io::Result<()> {
        let bridge = self.find(name).await?;
        let index = bridge.ok_or(io::ErrorKind::NotFound)?.index;
        point("netd.bridge.alias")?;
        // Some kernels take the alias only when the interface exists.
        let alias = LinkUnspec::new_with_index(index)
            .alias(BRIDGE_ALIAS)
            .build();
        self.handle
            .link()
            .set(alias)
            .execute()
            .await
            .map_err(failed)?;
        without_ipv6(name)?;
        point("netd.bridge.address")?;
        let address = IpAddr::V4(pool.gateway());
        let request = self.handle.address().add(index, address, pool.prefix());
        request.execute().await.map_err(failed)?;
        point("netd.bridge.up")?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed)
    }

    /// Makes a VM's interface on the bridge. It goes when the last copy of the descriptor is closed, so
    /// an error leaves nothing.
    pub(crate) async fn add_tap(
        &self,
        name: &InterfaceName,
        vm: &VmId,
        uid: u32,
        bridge: u32,
    ) -> io::Result<OwnedFd> {
        let tap = sys::tap(name)?;
        point("netd.tap.find")?;
        let link = self.find(name).await?.ok_or(io::ErrorKind::NotFound)?;
        without_ipv6(name)?;
        point("netd.tap.set")?;
        let message = LinkUnspec::new_with_index(link.index)
            .alias(format!("{TAP_ALIAS}{vm} uid={uid}"))
            .controller(bridge)
            .up()
            .build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .map_err(failed)?;
        Ok(tap)
    }

    /// Makes the link that the host's resolver is told about; nothing of it is left when that fails.
    pub(crate) async fn add_route_link(&self, name: &InterfaceName) -> io::Result<()> {
        point("netd.route.add")?;
        let message = LinkDummy::new(name.as_str()).build();
        let added = self.handle.link().add(message).execute().await;
        let made = match added.map_err(failed) {
            Ok(()) => self.set_up_route_link(name).await,
            // A kernel without dummies has pairs, which containers need: one end gives the other its carrier.
            Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
                let message = LinkVeth::new(name.as_str(), ROUTE_PEER).build();
                let added = self.handle.link().add(message).execute().await;
                added.map_err(failed)?;
                match self.set_up_route_peer().await {
                    Ok(()) => self.set_up_route_link(name).await,
                    failed => failed,
                }
            }
            Err(error) => return Err(error),
        };
        if made.is_err()
            && let Some(link) = self.find(name).await?
        {
            self.delete(&link).await?;
        }
        made
    }

    async fn set_up_route_peer(&self) -> io::Result<()> {
        let name = InterfaceName::try_from(ROUTE_PEER).map_err(io::Error::other)?;
        let peer = self.find(&name).await?.ok_or(io::ErrorKind::NotFound)?;
        without_ipv6(&name)?;
        let up = LinkUnspec::new_with_index(peer.index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed)
    }

    async fn set_up_route_link(&self, name: &InterfaceName) -> io::Result<()> {
        let link = self.find(name).await?;
        let index = link.ok_or(io::ErrorKind::NotFound)?.index;
        point("netd.route.alias")?;
        let alias = LinkUnspec::new_with_index(index).alias(ROUTE_ALIAS).build();
        let aliased = self.handle.link().set(alias).execute().await;
        aliased.map_err(failed)?;
        without_ipv6(name)?;
        point("netd.route.address")?;
        let mut request = self.handle.address().add(index, ROUTE_ADDRESS.into(), 32);
        // The kernel must not choose it for packets to the world from links that have none of their own; and
        // systemd-resolved asks nothing by a link whose addresses are all of scope link or narrower.
        request.message_mut().header.scope = AddressScope::Site;
        request.execute().await.map_err(failed)?;
        point("netd.route.up")?;
        let up = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(up).execute().await.map_err(failed)
    }

    /// Takes an interface away. One that is gone already is as good.
    pub(crate) async fn delete(&self, link: &Link) -> io::Result<()> {
        point("netd.link.delete")?;
        match self.handle.link().del(link.index).execute().await {
            Err(Error::NetlinkError(message)) if message.raw_code() == -nix::libc::ENODEV => Ok(()),
            result => result.map_err(failed),
        }
    }

    /// A route to addresses of the pool that is not ours, as text.
    pub(crate) async fn overlap(&self, pool: Pool) -> io::Result<Option<String>> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(message).execute();
        let mut found = None;
        while let Some(route) = routes.next().await {
            let route = route.map_err(failed)?;
            if let Some((network, prefix)) = destination(&route)
                && pool.overlaps(network, prefix)
            {
                found = Some(format!("{network}/{prefix}"));
            }
        }
        Ok(found)
    }
}

/// Of a route that leads somewhere, unless it is the default route.
fn destination(route: &RouteMessage) -> Option<(Ipv4Addr, u8)> {
    let table = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    if !TABLES.contains(&table.unwrap_or(u32::from(route.header.table))) {
        return None;
    }
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let prefix = route.header.destination_prefix_length;
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(network)) if prefix > 0 => {
                Some((*network, prefix))
            }
            _ => None,
        })
}

/// From the kernel's message.
pub(crate) fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        owner: Owner::Other,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.owner = owner(alias),
            _ => {}
        }
    }
    link
}

fn owner(alias: &str) -> Owner {
    match alias {
        BRIDGE_ALIAS => return Owner::Bridge,
        ROUTE_ALIAS => return Owner::Route,
        _ => {}
    }
    alias
        .strip_prefix(TAP_ALIAS)
        .and_then(|rest| rest.split(' ').next())
        .and_then(|vm| VmId::try_from(vm).ok())
        .map_or(Owner::Other, Owner::Vm)
}

/// Guests have no IPv6 yet; the host must not speak it to them either. A kernel without it is as good.
fn without_ipv6(name: &InterfaceName) -> io::Result<()> {
    point("netd.link.ipv6")?;
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match std::fs::write(path, "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn failed(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => io::Error::from_raw_os_error(message.raw_code().abs()),
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_whose_it_is() {
        let vm = VmId::try_from("00112233445566aa").unwrap();
        let alias = format!("{TAP_ALIAS}{vm} uid=7");
        assert_eq!(owner(&alias), Owner::Vm(vm));
        assert_eq!(owner(BRIDGE_ALIAS), Owner::Bridge);
        assert_eq!(owner(ROUTE_ALIAS), Owner::Route);
        for other in ["", "uplink", "banger-netd vm=", "banger-netd vm=x uid=7"] {
            assert_eq!(owner(other), Owner::Other, "{other:?}");
        }
    }
}
