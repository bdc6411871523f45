//! The state of the network: what the journal says, what the kernel has, and how the two are kept equal.
//! One request at a time has it.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::rc::Rc;

use banger_proto::{Code, InterfaceName, NetworkStatus, Refusal, Reservation, VmId};

use crate::firewalld::Firewalld;
use crate::jail::Jails;
use crate::journal::{Journal, Kept};
use crate::links::{Link, Links, Owner};
use crate::nft::{Nft, Tables};
use crate::options::{Feature, Limits};
use crate::pool::{Pool, mac};
use crate::resolved::Resolved;
use crate::{PROGRAM, audit, firewall, forwarding, names, netfilter, rules};

/// What it acts through.
pub(crate) struct Through {
    pub(crate) links: Links,
    pub(crate) nft: Nft,
    pub(crate) resolved: Resolved,
    pub(crate) firewalld: Firewalld,
    pub(crate) jails: Rc<Jails>,
}

pub(crate) struct Network {
    pub(crate) bridge: InterfaceName,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) journal: Journal,
    pub(crate) links: Links,
    pub(crate) nft: Nft,
    pub(crate) resolved: Resolved,
    firewalld: Firewalld,
    pub(crate) offered: Vec<Feature>,
    pub(crate) jails: Rc<Jails>,
    /// VMs whose interface is there, as the kernel said last.
    pub(crate) attached: HashSet<VmId>,
    /// The address that was given last.
    pub(crate) last: Option<Ipv4Addr>,
    /// The rules were loaded by this process; later they change by elements only.
    loaded: bool,
    /// What `names.json` says of rules is older than they are.
    names_are_old: bool,
}

impl Network {
    pub(crate) fn new(
        bridge: InterfaceName,
        pool: Pool,
        limits: Limits,
        journal: Journal,
        through: Through,
        offered: Vec<Feature>,
    ) -> Self {
        let latest = journal.kept().values().max_by_key(|kept| kept.reserved_ms);
        Network {
            last: latest.map(|kept| kept.address),
            bridge,
            pool,
            limits,
            journal,
            links: through.links,
            nft: through.nft,
            resolved: through.resolved,
            firewalld: through.firewalld,
            offered,
            jails: through.jails,
            attached: HashSet::new(),
            loaded: false,
            names_are_old: false,
        }
    }

    /// After a start: the interfaces that are there are known again, and the rules of a bridge that is
    /// there are what the journal says.
    pub(crate) async fn recover(&mut self) -> Result<(), Refusal> {
        self.look().await?;
        if self.bridge_link().await?.is_some() {
            self.ensure(None).await?;
        }
        self.write_names()
    }

    /// Asks the kernel which interfaces of VMs are there. Returns those that no reservation has.
    pub(crate) async fn look(&mut self) -> Result<Vec<Link>, Refusal> {
        let ours = self.links.ours().await.map_err(failed("list interfaces"))?;
        let mut orphans = Vec::new();
        self.attached.clear();
        for link in ours {
            match &link.owner {
                Owner::Vm(vm) if self.journal.get(vm).is_some() => {
                    self.attached.insert(vm.clone());
                }
                Owner::Vm(_) => orphans.push(link),
                Owner::Bridge | Owner::Route | Owner::Other => {}
            }
        }
        Ok(orphans)
    }

    /// An interface of a VM came or went. Returns whether that is news.
    pub(crate) async fn look_at(&mut self, name: &str) -> Result<bool, Refusal> {
        let Some(kept) = self.journal.with_interface(name) else {
            return Ok(false);
        };
        let (vm, interface) = (kept.vm.clone(), kept.interface());
        let link = self.links.find(&interface).await;
        let link = link.map_err(failed(format!("look at {interface}")))?;
        let there = link.is_some_and(|link| link.owner == Owner::Vm(vm.clone()));
        Ok(if there {
            self.attached.insert(vm)
        } else {
            self.attached.remove(&vm)
        })
    }

    /// The bridge, if it is there and ours.
    pub(crate) async fn bridge_link(&self) -> Result<Option<Link>, Refusal> {
        let bridge = &self.bridge;
        let link = self.links.find(bridge).await;
        match link.map_err(failed(format!("look at {bridge}")))? {
            Some(link) if link.owner != Owner::Bridge => Err(not_ours(
                format!("there is an interface {bridge} that banger-netd did not make"),
                format!("ip link show {bridge}   (or choose another name with --bridge)"),
            )),
            link => Ok(link),
        }
    }

    /// The next [`Network::ensure`] loads the rules, whether it did before or not.
    pub(crate) fn distrust(&mut self) {
        self.loaded = false;
    }

    pub(crate) async fn bridge_is_ours(&self) -> Result<bool, Refusal> {
        let link = self.links.find(&self.bridge).await;
        let link = link.map_err(failed(format!("look at {}", self.bridge)))?;
        Ok(link.is_some_and(|link| link.owner == Owner::Bridge))
    }

    /// Bridge and rules are there. Returns the bridge and whether something was made, for this user.
    pub(crate) async fn ensure(&mut self, uid: Option<u32>) -> Result<(Link, bool), Refusal> {
        let bridge = self.bridge_link().await?;
        if let Some(bridge) = &bridge
            && self.loaded
        {
            return Ok((bridge.clone(), false));
        }
        let tables = self.tables().await?;
        if bridge.is_none() {
            self.refuse_overlap().await?;
            if let Some(uid) = uid {
                let noted = self.journal.set_maker(uid);
                noted.map_err(failed("note who makes the bridge"))?;
            }
        }
        self.load().await?;
        let made = match &bridge {
            Some(_) => Ok(()),
            None => self.links.add_bridge(&self.bridge, self.pool).await,
        };
        let made = match made {
            Ok(()) => self.forward_if_needed(),
            Err(error) => Err(failed(format!("make the bridge {}", self.bridge))(error)),
        };
        if let Err(refusal) = made {
            self.undo_ensure(bridge.is_some(), tables).await;
            return Err(refusal);
        }
        let changed = bridge.is_none() || tables == Tables::Absent;
        match self.bridge_link().await? {
            Some(bridge) => Ok((bridge, changed)),
            None => Err(Refusal::new(Code::Failed, "the bridge vanished")),
        }
    }

    /// What could not be undone is found again by the next `up`, `down` or `gc`.
    async fn undo_ensure(&mut self, bridge_was_there: bool, tables: Tables) {
        if !bridge_was_there && let Ok(Some(bridge)) = self.bridge_link().await {
            let _ = self.links.delete(&bridge).await;
        }
        if tables == Tables::Absent {
            self.loaded = false;
            let _ = self.nft.apply(&rules::remove()).await;
        }
    }

    async fn tables(&self) -> Result<Tables, Refusal> {
        match self
            .nft
            .tables()
            .await
            .map_err(failed("look at the rules"))?
        {
            Tables::Foreign(family) => Err(not_ours(
                format!(
                    "there is a table `{family} {}` that banger-netd did not make",
                    rules::TABLE
                ),
                format!("nft list table {family} {}", rules::TABLE),
            )),
            tables => Ok(tables),
        }
    }

    async fn refuse_overlap(&self) -> Result<(), Refusal> {
        let overlap = self.links.overlap(self.pool).await;
        match overlap.map_err(failed("list routes"))? {
            None => Ok(()),
            Some(route) => Err(Refusal::new(
                Code::Overlap,
                format!("the pool {} overlaps with the route to {route}", self.pool),
            )
            .hint("choose a network that nobody here uses: banger-netd --pool 10.99.0.0/16")),
        }
    }

    /// The rules as the journal says, in one transaction.
    async fn load(&mut self) -> Result<(), Refusal> {
        let text = rules::whole(&self.bridge, self.pool, self.journal.kept().values());
        self.nft
            .apply(&text)
            .await
            .map_err(failed("load the rules"))?;
        self.loaded = true;
        Ok(())
    }

    /// Makes what a VM has in the sets what it should be. When that fails, somebody may have removed our tables:
    /// they are loaded whole.
    pub(crate) async fn apply(
        &mut self,
        before: Option<&Kept>,
        after: Option<&Kept>,
    ) -> Result<(), Refusal> {
        if !self.bridge_is_ours().await? {
            // Loaded from the journal when the bridge is made.
            return Ok(());
        }
        let interface = before.or(after).map(Kept::interface);
        let changes = interface
            .iter()
            .flat_map(|i| rules::change(i, before, after));
        if self.loaded && netfilter::change(&changes.collect::<Vec<_>>()).is_ok() {
            return Ok(());
        }
        self.loaded = false;
        self.tables().await?;
        self.load().await
    }

    /// The first VM that may go out switches forwarding on; noted before it is done.
    pub(crate) fn forward_if_needed(&mut self) -> Result<(), Refusal> {
        let wanted = self.journal.kept().values().any(|kept| kept.nat);
        let failed = failed("switch ip_forward");
        if !wanted || forwarding::is_on().unwrap_or(false) {
            return Ok(());
        }
        self.journal
            .set_forwarding(true)
            .and_then(|()| forwarding::switch(true))
            .map_err(failed)
    }

    /// Takes all away but reservations.
    pub(crate) async fn take_down(&mut self) -> Result<bool, Refusal> {
        let bridge = self.bridge_link().await?;
        let tables = self.tables().await?;
        if let Some(bridge) = &bridge {
            let deleted = self.links.delete(bridge).await;
            deleted.map_err(failed(format!("remove {}", self.bridge)))?;
        }
        if tables == Tables::Ours {
            let removed = self.nft.apply(&rules::remove()).await;
            removed.map_err(failed("remove the rules"))?;
        }
        self.loaded = false;
        if self.journal.forwarding() {
            forwarding::switch(false)
                .and_then(|()| self.journal.set_forwarding(false))
                .map_err(failed("switch ip_forward back"))?;
        }
        self.admit_no_more().await?;
        Ok(bridge.is_some() || tables == Tables::Ours)
    }

    /// Lets the bridge through another program's firewall; noted before it is done.
    pub(crate) async fn admit(&mut self) -> Result<bool, Refusal> {
        let before = self.journal.admitted();
        let noted = self.journal.set_admitted(true);
        noted.map_err(failed("note a change of the firewall"))?;
        match self.admit_everywhere().await {
            Ok(changed) => Ok(changed || !before),
            Err(error) => {
                if !before {
                    // The cause is told; what is left is taken back with `down`.
                    let _ = self.admit_no_more().await;
                }
                Err(failed("change the firewall of another program")(error))
            }
        }
    }

    /// Where firewalld runs, there need be no other firewall.
    async fn admit_everywhere(&self) -> io::Result<bool> {
        let zone = self.firewalld.admit(&self.bridge).await?;
        match firewall::admit(&self.bridge).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => zone.ok_or(error),
            rules => Ok(rules? || zone == Some(true)),
        }
    }

    /// Takes that back, if it was done.
    pub(crate) async fn admit_no_more(&mut self) -> Result<bool, Refusal> {
        if !self.journal.admitted() {
            return Ok(false);
        }
        let what = "take our rules out of another program's firewall";
        let removed = match firewall::admit_no_more(&self.bridge).await {
            // Its firewall went with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            removed => removed.map_err(failed(what))?,
        };
        let left = self.firewalld.admit_no_more(&self.bridge).await;
        if left.is_err() && removed {
            // Both or none; the cause is told.
            let _ = firewall::admit(&self.bridge).await;
        }
        let removed = left.map_err(failed(what))? || removed;
        self.journal.set_admitted(false).map_err(failed(what))?;
        Ok(removed)
    }

    pub(crate) fn refuse_unless_offered(&self, feature: Feature) -> Result<(), Refusal> {
        if self.offered.contains(&feature) {
            return Ok(());
        }
        let name = feature.name();
        let refusal = Refusal::new(
            Code::Denied,
            format!("banger-netd does not offer {name} here"),
        );
        Err(refusal.hint(format!(
            "install helper/netd/systemd/{name}.conf as a drop-in of banger-netd.service   (--offer {name})"
        )))
    }

    /// An address of another pool is on no bridge, and its number may be another VM's.
    pub(crate) fn refuse_outside(&self, kept: &Kept) -> Result<(), Refusal> {
        if self.pool.contains(kept.address) {
            return Ok(());
        }
        let (name, address, pool) = (&kept.name, kept.address, self.pool);
        let message =
            format!("the address {address} of the VM {name} is outside of the pool {pool}");
        Err(Refusal::new(Code::Exhausted, message)
            .hint(format!("banger-vm start {name}   (reserves another one)")))
    }

    /// The uid of a VM's jail, which nobody else has.
    pub(crate) fn jail_uid(&self, kept: &Kept) -> u32 {
        self.jails.first_uid + self.pool.number(kept.address)
    }

    /// Bridge and rules are there.
    pub(crate) async fn is_up(&self) -> Result<bool, Refusal> {
        let tables = self.nft.tables().await;
        let tables = tables.map_err(failed("look at the rules"))?;
        Ok(self.bridge_is_ours().await? && tables == Tables::Ours)
    }

    pub(crate) fn write_names(&mut self) -> Result<(), Refusal> {
        let written = names::write(&self.journal, &self.attached, &self.bridge, self.pool);
        written.map_err(failed("write names.json"))?;
        self.names_are_old = false;
        Ok(())
    }

    /// A rule changed that `names.json` tells of. It has all VMs, so it is written when the caller has its answer,
    /// for all changes since the last time.
    pub(crate) fn note_old_names(&mut self) {
        self.names_are_old = true;
    }

    /// Nobody waits for this.
    pub(crate) fn write_old_names(&mut self) {
        if self.names_are_old {
            self.write_names_or_note();
        }
    }

    /// After what cannot be taken back. The next change writes them again.
    pub(crate) fn write_names_or_note(&mut self) {
        if let Err(refusal) = self.write_names() {
            audit::note(&refusal.message);
        }
    }

    /// Asks the kernel for everything.
    pub(crate) async fn status(&self) -> Result<NetworkStatus, Refusal> {
        self.status_when(self.is_up().await?)
    }

    /// The same for who knows whether it is up.
    pub(crate) fn status_when(&self, up: bool) -> Result<NetworkStatus, Refusal> {
        let reserved = u32::try_from(self.journal.kept().len()).unwrap_or(u32::MAX);
        Ok(NetworkStatus {
            bridge: self.bridge.clone(),
            up,
            gateway: self.pool.gateway(),
            prefix: self.pool.prefix(),
            reserved,
            free: self.pool.size().saturating_sub(reserved),
            attached: u32::try_from(self.attached.len()).unwrap_or(u32::MAX),
            forwarding: forwarding::is_on().map_err(failed("read ip_forward"))?,
            forwarding_is_ours: self.journal.forwarding(),
            admitted: self.journal.admitted(),
            leftovers: Vec::new(),
            program: PROGRAM.to_owned(),
        })
    }

    pub(crate) fn reservation(&self, kept: &Kept) -> Reservation {
        Reservation {
            vm: kept.vm.clone(),
            name: kept.name.clone(),
            store: kept.store.clone(),
            uid: kept.uid,
            address: kept.address,
            prefix: self.pool.prefix(),
            gateway: self.pool.gateway(),
            mac: mac(kept.address),
            interface: kept.interface(),
            attached: self.attached.contains(&kept.vm),
            nat: kept.nat,
            group: kept.group.as_ref().map(|group| group.name.clone()),
            reserved_ms: kept.reserved_ms,
            jailed: false,
            devices: 0,
        }
    }
}

/// For `map_err`: what was tried.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> Refusal {
    let what = what.into();
    move |error| {
        let refusal = Refusal::new(Code::Failed, format!("cannot {what}: {error}"));
        match error.kind() {
            io::ErrorKind::NotFound if error.to_string().contains("nftables") => {
                refusal.hint("sudo apt-get install nftables   (NixOS: networking.nftables)")
            }
            io::ErrorKind::NotFound if error.to_string().contains("iptables") => {
                refusal.hint("nft list ruleset   (no firewall here was made by iptables)")
            }
            io::ErrorKind::AlreadyExists if error.to_string().contains("firewalld") => refusal
                .hint("firewall-cmd --get-active-zones   (or let that zone forward what VMs send)"),
            _ => refusal.hint("journalctl -u banger-netd   (or its standard error)"),
        }
    }
}

fn not_ours(message: String, hint: String) -> Refusal {
    Refusal::new(Code::NotOurs, message).hint(hint)
}
