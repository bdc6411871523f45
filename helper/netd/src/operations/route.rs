//! `route`: the host's resolver asks us about names of VMs. It is told by way of a link of our own, because
//! systemd-resolved ignores links without a carrier, as a bridge without VMs is one.

use banger_proto::{
    Code, InterfaceName, NAME_SERVER, ROUTE_LINK, Refusal, Reply, RouteChange, RouteStatus, ZONE,
    reverse_zones,
};

use super::{Outcome, replied};
use crate::links::{Link, Owner};
use crate::network::{Network, failed};

/// What helps without systemd-resolved.
const OTHERWISE: &str =
    "banger-net route status   (says what to write for dnsmasq, NetworkManager or resolv.conf)";

pub(super) async fn run(network: &mut Network, change: RouteChange) -> Outcome {
    let name = InterfaceName::try_from(ROUTE_LINK)
        .map_err(|error| Refusal::new(Code::Invalid, error.to_string()))?;
    let link = find(network, &name).await?;
    let changed = match (change, &link) {
        (RouteChange::Look, _) | (RouteChange::Down, None) => false,
        (RouteChange::Up, Some(_)) if knows(network, &name).await => false,
        (RouteChange::Up, _) => {
            up(network, &name, link.as_ref()).await?;
            true
        }
        (RouteChange::Down, Some(link)) => {
            // What the resolver was told goes with the link.
            let deleted = network.links.delete(link).await;
            deleted.map_err(failed(format!("remove {name}")))?;
            true
        }
    };
    let linked = find(network, &name).await?.is_some();
    let status = RouteStatus {
        up: linked && knows(network, &name).await,
        link: name,
        server: NAME_SERVER,
        zones: zones(network),
    };
    replied(changed, Reply::Route(status))
}

async fn up(network: &Network, name: &InterfaceName, link: Option<&Link>) -> Result<(), Refusal> {
    if link.is_none() {
        let made = network.links.add_route_link(name).await;
        made.map_err(failed(format!("make the link {name}")))?;
    }
    let told = network
        .resolved
        .tell(name, NAME_SERVER, &zones(network))
        .await;
    let Err(error) = told else {
        return Ok(());
    };
    // Half a route would be worse than none; the cause is told.
    if let Ok(Some(link)) = find(network, name).await {
        let _ = network.links.delete(&link).await;
    }
    let message = format!("cannot tell the host's resolver about names of VMs: {error}");
    Err(Refusal::new(Code::Failed, message).hint(OTHERWISE))
}

async fn find(network: &Network, name: &InterfaceName) -> Result<Option<Link>, Refusal> {
    let link = network.links.find(name).await;
    match link.map_err(failed(format!("look at {name}")))? {
        Some(link) if link.owner != Owner::Route => {
            let message = format!("there is an interface {name} that banger-netd did not make");
            let hint = format!("ip link show {name}");
            Err(Refusal::new(Code::NotOurs, message).hint(hint))
        }
        link => Ok(link),
    }
}

async fn knows(network: &Network, name: &InterfaceName) -> bool {
    let zones = zones(network);
    network.resolved.knows(name, NAME_SERVER, &zones).await
}

/// All that is asked of the server of names.
fn zones(network: &Network) -> Vec<String> {
    let mut zones = vec![ZONE.to_owned()];
    let pool = network.pool;
    zones.extend(reverse_zones(pool.gateway(), pool.prefix()));
    zones
}
