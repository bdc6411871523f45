//! The names, made of one `names.json`; never changed, but replaced as a whole.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use banger_proto::{NAMES_SCHEMA, NameRecord, NamesFile, VmName, ZONE};
use hickory_server::proto::rr::Name;

use crate::DnsError;

/// Longest file, in bytes: [`MAX_RECORDS`] of the longest names.
pub const MAX_FILE: u64 = 24 << 20;

/// Most records in it.
pub const MAX_RECORDS: usize = 1 << 16;

/// Two labels and the dot between them.
const LONGEST_KEY: usize = 63 + 1 + 63;

/// What runs, and whose it is.
#[derive(Debug)]
pub struct Table {
    gateway: Ipv4Addr,
    prefix: u8,
    /// Of running VMs: `name` and `name.user`, in lower case.
    names: HashMap<Box<[u8]>, Ipv4Addr>,
    /// Users that have running VMs.
    users: HashSet<Box<[u8]>>,
    machines: HashMap<Ipv4Addr, Machine>,
    serial: u32,
}

#[derive(Debug)]
struct Machine {
    name: Name,
    user: Box<[u8]>,
    nat: bool,
    group: Option<u16>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The host, which knows every name.
    Host,
    /// The guest with this address, which knows its own name and those of its group.
    Guest(Ipv4Addr),
}

/// What is at a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// No such name (RFC 8020: nor anything below).
    Nothing,
    /// Nothing but names below.
    Empty,
    /// A VM.
    Vm(Ipv4Addr),
}

impl Table {
    /// Without names, before there is a file.
    pub fn empty() -> Table {
        Table {
            gateway: Ipv4Addr::UNSPECIFIED,
            prefix: 32,
            names: HashMap::new(),
            users: HashSet::new(),
            machines: HashMap::new(),
            serial: now(),
        }
    }

    /// Reads the file.
    ///
    /// # Errors
    /// As [`Table::parse`]; when it cannot be read, or is too long.
    pub fn load(path: &Path) -> Result<Table, DnsError> {
        let failed = |source| DnsError::ReadNames {
            path: path.to_owned(),
            source,
        };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mut content = Vec::new();
        // One byte more, so that what is too long is noticed.
        let length = file.take(MAX_FILE + 1).read_to_end(&mut content);
        if length.map_err(failed)? as u64 > MAX_FILE {
            let why = format!("it is longer than {} MiB", MAX_FILE >> 20);
            return Err(DnsError::refused(path, why));
        }
        Table::parse(&content).map_err(|why| DnsError::refused(path, why))
    }

    /// Makes it of the file's content.
    ///
    /// # Errors
    /// Why it is not taken; nothing of it is then.
    pub fn parse(content: &[u8]) -> Result<Table, String> {
        let file: NamesFile = read(content)?;
        let mut table = Table {
            gateway: file.gateway,
            prefix: file.prefix,
            ..Table::empty()
        };
        if !(8..=30).contains(&file.prefix) {
            return Err(format!("its prefix is {}, not 8 to 30", file.prefix));
        }
        for record in file.records.iter().filter(|record| record.attached) {
            table.insert(record)?;
        }
        Ok(table)
    }

    fn insert(&mut self, record: &NameRecord) -> Result<(), String> {
        // The rule of a user's label is that of a VM's name.
        let user = VmName::try_from(&*record.user)
            .map_err(|_| format!("the user of {} is no label", record.vm))?;
        if !self.covers(record.address) {
            return Err(format!("{} is outside of the network", record.address));
        }
        let long = format!("{}.{user}", record.name);
        let short = record.first.then(|| record.name.as_str().to_owned());
        let shown = short.as_deref().unwrap_or(&long);
        let name = Name::from_ascii(format!("{shown}.{ZONE}.")).map_err(|e| e.to_string())?;
        let user: Box<[u8]> = user.as_str().as_bytes().into();
        for key in short.into_iter().chain([long]) {
            // Whoever is first in the file has it.
            let entry = self.names.entry(key.into_bytes().into());
            entry.or_insert(record.address);
        }
        self.users.insert(user.clone());
        let machine = Machine {
            name,
            user,
            nat: record.nat,
            group: record.group,
        };
        self.machines.insert(record.address, machine);
        Ok(())
    }

    fn mask(&self) -> u32 {
        let bits = 32 - u32::from(self.prefix.min(32));
        u32::MAX.checked_shl(bits).unwrap_or(0)
    }

    /// Names that are known.
    pub fn len(&self) -> usize {
        self.machines.len()
    }

    /// Nothing runs.
    pub fn is_empty(&self) -> bool {
        self.machines.is_empty()
    }

    /// There was no file yet, so no network is known.
    pub(crate) fn is_nowhere(&self) -> bool {
        self.gateway.is_unspecified()
    }

    /// Length of the network's prefix, in bits.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Of the zones: when the file was read, in seconds since 1970.
    pub(crate) fn serial(&self) -> u32 {
        self.serial
    }

    /// Whether an address is one of the network's.
    pub fn covers(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.gateway)) & self.mask() == 0
    }

    /// Whether a guest may ask for names of the world: it may go there. The host itself may, at the guests'
    /// address as well.
    pub(crate) fn may_ask_the_world(&self, address: Ipv4Addr) -> bool {
        let machine = self.machines.get(&address);
        address == self.gateway || machine.is_some_and(|machine| machine.nat)
    }

    /// What is at `label.vm`, or at `label.user.vm`; in any case.
    pub(crate) fn find(&self, label: &[u8], user: Option<&[u8]>, view: View) -> Found {
        let mut space = [0; LONGEST_KEY];
        let parts = [
            label,
            &b"."[..user.map_or(0, |_| 1)],
            user.unwrap_or_default(),
        ];
        let mut length = 0;
        for byte in parts.into_iter().flatten() {
            // The decoder takes no label that is longer.
            let Some(place) = space.get_mut(length) else {
                return Found::Nothing;
            };
            *place = byte.to_ascii_lowercase();
            length += 1;
        }
        let key = &space[..length];
        match self.names.get(key) {
            Some(address) if self.knows(view, *address) => Found::Vm(*address),
            _ if user.is_none() && self.knows_user(view, key) => Found::Empty,
            _ => Found::Nothing,
        }
    }

    /// The name of what has an address.
    pub(crate) fn name_of(&self, address: Ipv4Addr, view: View) -> Option<&Name> {
        let machine = self.machines.get(&address)?;
        self.knows(view, address).then_some(&machine.name)
    }

    fn knows(&self, view: View, address: Ipv4Addr) -> bool {
        let View::Guest(asking) = view else {
            return true;
        };
        let group = |of| self.machines.get(of).and_then(|machine| machine.group);
        asking == address || group(&asking).is_some_and(|own| group(&address) == Some(own))
    }

    fn knows_user(&self, view: View, user: &[u8]) -> bool {
        match view {
            View::Host => self.users.contains(user),
            // Groups are one user's.
            View::Guest(asking) => self.machines.get(&asking).is_some_and(|m| *m.user == *user),
        }
    }
}

/// All records of the file, of VMs that do not run as well.
///
/// # Errors
/// When it cannot be read, is too long, or is not understood.
pub fn records(path: &Path) -> Result<Vec<NameRecord>, DnsError> {
    // Says what is wrong with it.
    Table::load(path)?;
    let content = std::fs::read(path).map_err(|source| DnsError::ReadNames {
        path: path.to_owned(),
        source,
    })?;
    let file = read(&content).map_err(|why| DnsError::refused(path, why))?;
    Ok(file.records)
}

fn read(content: &[u8]) -> Result<NamesFile, String> {
    let file: NamesFile = serde_json::from_slice(content).map_err(|error| error.to_string())?;
    if file.schema != NAMES_SCHEMA {
        return Err(format!("its schema is {}, not {NAMES_SCHEMA}", file.schema));
    }
    if file.records.len() > MAX_RECORDS {
        return Err(format!("it has more than {MAX_RECORDS} records"));
    }
    Ok(file)
}

fn now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Serials are compared modulo 2^32 (RFC 1982).
    since.map_or(0, |since| since.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example::{file, record};

    fn table() -> Table {
        let mut second = record("dev", "bob", 3);
        second.first = false;
        let mut grouped = record("web", "ann", 4);
        grouped.group = Some(7);
        let mut other = record("db", "ann", 5);
        other.group = Some(7);
        let mut stopped = record("off", "ann", 6);
        stopped.attached = false;
        let records = vec![record("dev", "ann", 2), second, grouped, other, stopped];
        Table::parse(&file(&records)).unwrap()
    }

    fn at(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 83, 0, number)
    }

    #[test]
    fn the_host_knows_all_that_run() {
        let table = table();
        let find = |label: &str, user: Option<&str>| {
            table.find(label.as_bytes(), user.map(str::as_bytes), View::Host)
        };
        assert_eq!(find("dev", None), Found::Vm(at(2)));
        assert_eq!(find("DeV", Some("ANN")), Found::Vm(at(2)));
        assert_eq!(find("dev", Some("bob")), Found::Vm(at(3)));
        assert_eq!(find("ann", None), Found::Empty);
        for (label, user) in [
            ("off", None),
            ("off", Some("ann")),
            ("dev", Some("eve")),
            ("eve", None),
        ] {
            assert_eq!(find(label, user), Found::Nothing, "{label} {user:?}");
        }
        let name = |number| table.name_of(at(number), View::Host).map(Name::to_string);
        assert_eq!(name(2).unwrap(), "dev.vm.");
        assert_eq!(name(3).unwrap(), "dev.bob.vm.");
        assert_eq!(name(6), None);
        assert!(table.covers(at(200)) && !table.covers(Ipv4Addr::new(10, 84, 0, 1)));
    }

    #[test]
    fn a_guest_knows_itself_and_its_group() {
        let table = table();
        let find =
            |label: &str, asking| table.find(label.as_bytes(), None, View::Guest(at(asking)));
        assert_eq!(find("dev", 2), Found::Vm(at(2)));
        assert_eq!(find("web", 2), Found::Nothing);
        assert_eq!(find("dev", 3), Found::Nothing);
        assert_eq!(find("db", 4), Found::Vm(at(5)));
        assert_eq!(find("dev", 4), Found::Nothing);
        assert_eq!(
            (find("ann", 4), find("bob", 4)),
            (Found::Empty, Found::Nothing)
        );
        assert_eq!(find("dev", 99), Found::Nothing, "nobody has that address");
        assert_eq!(table.name_of(at(2), View::Guest(at(3))), None);
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let good = file(&[record("dev", "ann", 2)]);
        Table::parse(&good).unwrap();
        let text = String::from_utf8(good).unwrap();
        for (from, to) in [
            ("\"schema\":1", "\"schema\":2"),
            ("\"prefix\":16", "\"prefix\":0"),
            ("\"ann\"", "\"a.b\""),
            ("10.83.0.2", "10.84.0.2"),
            ("]}", "]"),
        ] {
            assert!(text.contains(from), "{from}");
            let error = Table::parse(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(!error.is_empty());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("names.json");
        let error = Table::load(&path).unwrap_err();
        assert!(error.to_string().contains("names.json"), "{error}");
        let long = std::fs::File::create(&path).unwrap();
        long.set_len(MAX_FILE + 1).unwrap();
        let error = Table::load(&path).unwrap_err();
        assert!(error.to_string().contains("longer than 24 MiB"), "{error}");
    }
}
