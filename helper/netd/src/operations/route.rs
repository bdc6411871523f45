//! `route`: the host's resolver asks us about names of VMs. It is told by way of a link of our own, because
//! systemd-resolved ignores links without a carrier, as a bridge without VMs is one. It is the host's, so only who made
//! it takes it away, or root.

use banger_proto::{
    Code, InterfaceName, NAME_SERVER, ROUTE_LINK, Refusal, Reply, RouteChange, RouteStatus, ZONE,
    reverse_zones,
};

use super::{Outcome, replied};
use crate::links::{Link, Links, Owner};
use crate::network::{Network, failed};
use crate::peer::Peer;
use crate::resolved::Resolved;
use crate::serve::Server;

/// What helps without systemd-resolved.
const OTHERWISE: &str =
    "banger-net route status   (says what to write for dnsmasq, NetworkManager or resolv.conf)";

/// What is needed of the network, which is not held over what the host's resolver does.
struct Route {
    name: InterfaceName,
    links: Links,
    resolved: Resolved,
    zones: Vec<String>,
    /// Who made it, as far as that is known.
    maker: Option<u32>,
}

pub(super) async fn run(server: &Server, peer: &Peer, change: RouteChange) -> Outcome {
    let _one_at_a_time = server.route.lock().await;
    let route = Route::of(&*server.network.lock().await)?;
    let link = route.find().await?;
    let changed = match (change, &link) {
        (RouteChange::Look, _) | (RouteChange::Down, None) => false,
        (RouteChange::Up, Some(_)) if route.is_known().await => false,
        (RouteChange::Up, _) => {
            if link.is_none() {
                let noted = server.network.lock().await.journal.set_router(peer.uid);
                noted.map_err(failed("note who makes the route"))?;
            }
            route.up(link.as_ref()).await?;
            true
        }
        (RouteChange::Down, Some(_)) if !peer.is_root() && route.maker != Some(peer.uid) => {
            let message = "the route of names was made for another user";
            return Err(Refusal::new(Code::Denied, message).hint("sudo banger-net route down"));
        }
        (RouteChange::Down, Some(link)) => {
            // What the resolver was told goes with the link.
            let deleted = route.links.delete(link).await;
            deleted.map_err(failed(format!("remove {}", route.name)))?;
            true
        }
    };
    let linked = route.find().await?.is_some();
    let status = RouteStatus {
        up: linked && route.is_known().await,
        link: route.name,
        server: NAME_SERVER,
        zones: route.zones,
    };
    replied(changed, Reply::Route(status))
}

impl Route {
    fn of(network: &Network) -> Result<Route, Refusal> {
        let name = InterfaceName::try_from(ROUTE_LINK)
            .map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
        Ok(Route {
            name,
            links: network.links.clone(),
            resolved: network.resolved.clone(),
            zones: zones(network),
            maker: network.journal.router(),
        })
    }

    async fn up(&self, link: Option<&Link>) -> Result<(), Refusal> {
        let name = &self.name;
        if link.is_none() {
            let made = self.links.add_route_link(name).await;
            made.map_err(failed(format!("make the link {name}")))?;
        }
        let told = self.resolved.tell(name, NAME_SERVER, &self.zones).await;
        let Err(error) = told else {
            return Ok(());
        };
        // Half a route would be worse than none; the cause is told.
        if let Ok(Some(link)) = self.find().await {
            let _ = self.links.delete(&link).await;
        }
        let message = format!("cannot tell the host's resolver about names of VMs: {error}");
        Err(Refusal::new(Code::Failed, message).hint(OTHERWISE))
    }

    async fn find(&self) -> Result<Option<Link>, Refusal> {
        let name = &self.name;
        let link = self.links.find(name).await;
        match link.map_err(failed(format!("look at {name}")))? {
            Some(link) if link.owner != Owner::Route => {
                let message = format!("there is an interface {name} that banger-netd did not make");
                let hint = format!("ip link show {name}");
                Err(Refusal::new(Code::NotOurs, message).hint(hint))
            }
            link => Ok(link),
        }
    }

    async fn is_known(&self) -> bool {
        let resolved = &self.resolved;
        resolved.knows(&self.name, NAME_SERVER, &self.zones).await
    }
}

/// All that is asked of the server of names.
fn zones(network: &Network) -> Vec<String> {
    let mut zones = vec![ZONE.to_owned()];
    let pool = network.pool;
    zones.extend(reverse_zones(pool.gateway(), pool.prefix()));
    zones
}
