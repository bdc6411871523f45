//! What must survive: one JSON object a line, appended and synced before anything happens, replayed and
//! written anew at the start. A torn last line is what did not happen.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use banger_failpoint::point;
use banger_proto::{GroupName, InterfaceName, StoreTag, TAP_PREFIX, VmId, VmName};
use serde::{Deserialize, Serialize};

const FILE: &str = "journal";

/// About as long as a line is, in bytes.
const LINE: u64 = 256;

/// As many bytes may be over before the journal is written anew. They are there as zeros before: a line then changes
/// data alone, so that fdatasync(2) waits for no commit of the file system, and for no other file with it.
const SLACK: u64 = 256 << 10;

/// A reservation as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) vm: VmId,
    pub(crate) name: VmName,
    pub(crate) store: StoreTag,
    pub(crate) uid: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) nat: bool,
    pub(crate) group: Option<Group>,
    pub(crate) reserved_ms: u64,
}

impl Kept {
    pub(crate) fn interface(&self) -> InterfaceName {
        InterfaceName::of_vm(&self.vm)
    }
}

/// A group of one user; the number is what the rules know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) name: GroupName,
    pub(crate) number: u16,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    Set(Kept),
    Drop(VmId),
    /// We switched ip_forward on.
    Forwarding(bool),
    /// Whose request made the bridge.
    Maker(Option<u32>),
    /// Rules of ours are in another program's firewall.
    Admitted(bool),
    /// Whose request made the route of names.
    Router(u32),
}

/// What the host has because of us, beside reservations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Host {
    forwarding: bool,
    maker: Option<u32>,
    admitted: bool,
    router: Option<u32>,
}

impl Host {
    fn lines(self) -> impl Iterator<Item = Line> {
        [
            Line::Forwarding(self.forwarding),
            Line::Maker(self.maker),
            Line::Admitted(self.admitted),
        ]
        .into_iter()
        .chain(self.router.map(Line::Router))
    }
}

/// The journal and what it says.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    file: File,
    length: u64,
    kept: BTreeMap<VmId, Kept>,
    host: Host,
}

impl Journal {
    /// Reads it, and writes it anew without what is over.
    ///
    /// # Errors
    /// A line that is not understood, other than a torn last one: somebody else's file is not touched.
    pub(crate) fn open(directory: &Path) -> io::Result<Journal> {
        let path = directory.join(FILE);
        let old = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            old => old?,
        };
        let (kept, host) = replay(&old, &path)?;
        let (file, length) = write_anew(directory, &kept, host)?;
        sync(directory)?;
        Ok(Journal {
            directory: directory.to_owned(),
            file,
            length,
            kept,
            host,
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn kept(&self) -> &BTreeMap<VmId, Kept> {
        &self.kept
    }

    pub(crate) fn get(&self, vm: &VmId) -> Option<&Kept> {
        self.kept.get(vm)
    }

    /// The reservation whose interface has this name, which says how the id begins.
    pub(crate) fn with_interface(&self, name: &str) -> Option<&Kept> {
        let digits = name.strip_prefix(TAP_PREFIX)?;
        let first = VmId::try_from(format!("{digits:0<16}")).ok()?;
        let (_, kept) = self.kept.range(first..).next()?;
        Some(kept).filter(|kept| kept.interface().as_str() == name)
    }

    /// Whether ip_forward was switched on by us.
    pub(crate) fn forwarding(&self) -> bool {
        self.host.forwarding
    }

    /// The uid whose request made the bridge, if that is known.
    pub(crate) fn maker(&self) -> Option<u32> {
        self.host.maker
    }

    /// The uid whose request made the route of names, if that is known.
    pub(crate) fn router(&self) -> Option<u32> {
        self.host.router
    }

    /// Whether rules of ours are in another program's firewall.
    pub(crate) fn admitted(&self) -> bool {
        self.host.admitted
    }

    pub(crate) fn set(&mut self, kept: Kept) -> io::Result<()> {
        self.append(&Line::Set(kept.clone()))?;
        self.kept.insert(kept.vm.clone(), kept);
        Ok(())
    }

    /// What is over goes before a caller that changes its mind all day fills the disk. A failure leaves the
    /// long one, and the next change tries again.
    fn shorten(&mut self) {
        let live = self.kept.len() as u64 * LINE;
        if self.length > SLACK + 4 * live
            && let Ok((file, length)) = write_anew(&self.directory, &self.kept, self.host)
        {
            // From here on it is the journal, whether that is durable already or not.
            (self.file, self.length) = (file, length);
            let _ = sync(&self.directory);
        }
    }

    pub(crate) fn drop(&mut self, vm: &VmId) -> io::Result<()> {
        self.append(&Line::Drop(vm.clone()))?;
        self.kept.remove(vm);
        Ok(())
    }

    pub(crate) fn set_forwarding(&mut self, ours: bool) -> io::Result<()> {
        self.append(&Line::Forwarding(ours))?;
        self.host.forwarding = ours;
        Ok(())
    }

    pub(crate) fn set_maker(&mut self, uid: u32) -> io::Result<()> {
        self.append(&Line::Maker(Some(uid)))?;
        self.host.maker = Some(uid);
        Ok(())
    }

    pub(crate) fn set_router(&mut self, uid: u32) -> io::Result<()> {
        self.append(&Line::Router(uid))?;
        self.host.router = Some(uid);
        Ok(())
    }

    pub(crate) fn set_admitted(&mut self, admitted: bool) -> io::Result<()> {
        self.append(&Line::Admitted(admitted))?;
        self.host.admitted = admitted;
        Ok(())
    }

    /// A line that could not be written whole is cut off again, so that the next one stands alone.
    fn append(&mut self, line: &Line) -> io::Result<()> {
        self.shorten();
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let written = point("netd.journal.write")
            .and_then(|()| self.file.write_all(&text))
            .and_then(|()| point("netd.journal.sync"))
            .and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.length += text.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.length)?;
                io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.length))?;
                Err(error)
            }
        }
    }
}

/// Replaces the journal in one step by what is true now; [`sync`] makes that last. Returns it, and its length.
fn write_anew(
    directory: &Path,
    kept: &BTreeMap<VmId, Kept>,
    host: Host,
) -> io::Result<(File, u64)> {
    let path = directory.join(FILE);
    let new = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)?;
    let mut text = Vec::new();
    let lines = kept.values().cloned().map(Line::Set);
    for line in lines.chain(host.lines()) {
        text.extend(serde_json::to_vec(&line)?);
        text.push(b'\n');
    }
    let length = text.len();
    text.resize(length + SLACK as usize, 0);
    file.write_all(&text)?;
    file.sync_all()?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(length as u64))?;
    fs::rename(&new, &path)?;
    Ok((file, length as u64))
}

/// Makes the journal's name durable.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn replay(text: &[u8], path: &Path) -> io::Result<(BTreeMap<VmId, Kept>, Host)> {
    let mut kept = BTreeMap::new();
    let mut host = Host::default();
    let mut lines = text
        .split_inclusive(|byte| *byte == b'\n')
        .enumerate()
        .peekable();
    while let Some((number, line)) = lines.next() {
        // Nothing is written there yet, or not all of a line that was torn: JSON has no zeros.
        if line.contains(&0) {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(Line::Set(reservation)) => {
                kept.insert(reservation.vm.clone(), reservation);
            }
            Ok(Line::Drop(vm)) => {
                kept.remove(&vm);
            }
            Ok(Line::Forwarding(ours)) => host.forwarding = ours,
            Ok(Line::Maker(uid)) => host.maker = uid,
            Ok(Line::Admitted(admitted)) => host.admitted = admitted,
            Ok(Line::Router(uid)) => host.router = Some(uid),
            Err(_) if lines.peek().is_none() && !line.ends_with(b"\n") => {}
            Err(error) => {
                // What a newer one keeps must not be lost by an older one that starts anew without it.
                let message = format!(
                    "{}, line {}: {error}; if a newer banger-netd wrote it, install that again, or stop the VMs of \
                     the bridge network and move the file away",
                    path.display(),
                    number + 1
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
    }
    Ok((kept, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(number: u8) -> Kept {
        Kept {
            vm: VmId::try_from(format!("00112233445566{number:02x}")).unwrap(),
            name: VmName::try_from("v").unwrap(),
            store: StoreTag::try_from("0".repeat(16)).unwrap(),
            uid: 7,
            address: Ipv4Addr::new(10, 0, 0, number),
            nat: false,
            group: None,
            reserved_ms: 1,
        }
    }

    #[test]
    fn what_was_appended_is_there_after_a_restart_and_a_torn_line_is_not() {
        let base = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(base.path()).unwrap();
        for number in 1..4 {
            journal.set(kept(number)).unwrap();
        }
        journal.drop(&kept(2).vm).unwrap();
        journal.set_forwarding(true).unwrap();
        journal.set_maker(7).unwrap();
        journal.set_admitted(true).unwrap();
        journal.set_router(8).unwrap();
        let path = base.path().join(FILE);
        // The beginning of a line, then one whose beginning never reached the disk, then one that was cut off.
        let written = fs::read(&path).unwrap();
        let end = written.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
        let torn = b"{\"set\":{\"vm\":\"00";
        for (at, torn) in [(end, &torn[..]), (end + 9, b":true}\n")] {
            let mut text = written.clone();
            text[at..at + torn.len()].copy_from_slice(torn);
            fs::write(&path, text).unwrap();
            assert_eq!(Journal::open(base.path()).unwrap().kept().len(), 2);
        }
        fs::write(&path, [&written[..end], torn].concat()).unwrap();
        let mut journal = Journal::open(base.path()).unwrap();
        let addresses: Vec<u8> = journal
            .kept()
            .values()
            .map(|k| k.address.octets()[3])
            .collect();
        assert_eq!((addresses, journal.forwarding()), (vec![1, 3], true));
        assert_eq!((journal.maker(), journal.admitted()), (Some(7), true));
        assert_eq!(journal.router(), Some(8));
        journal.drop(&kept(1).vm).unwrap();
        assert_eq!(Journal::open(base.path()).unwrap().kept().len(), 1);
    }

    #[test]
    fn a_reservation_is_found_by_its_interface() {
        let base = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(base.path()).unwrap();
        let ids = ["00112233445566aa", "0011223344557700", "ffffffffffffffff"];
        for id in ids {
            let vm = VmId::try_from(id).unwrap();
            journal.set(Kept { vm, ..kept(1) }).unwrap();
        }
        let found = |name: &str| journal.with_interface(name).map(|kept| kept.vm.as_str());
        assert_eq!(found("bgt001122334455"), Some(ids[0]), "the first of two");
        assert_eq!(found("bgtffffffffffff"), Some(ids[2]));
        for other in [
            "bgt001122334456",
            "bgt0",
            "bgt",
            "banger0",
            "",
            "bgtx01122334455",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    #[test]
    fn a_caller_that_changes_its_mind_does_not_fill_the_disk() {
        let base = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(base.path()).unwrap();
        let mut nat = false;
        for _ in 0..2000 {
            nat = !nat;
            journal.set(Kept { nat, ..kept(1) }).unwrap();
            let length = base.path().join(FILE).metadata().unwrap().len();
            assert!(length >= journal.length);
            assert!(length < SLACK + 8 * LINE, "{length}");
        }
        // Lines of other kinds count, too.
        journal.length = 2 * SLACK;
        journal.set_router(7).unwrap();
        assert!(journal.length < SLACK, "{}", journal.length);
        assert_eq!(
            Journal::open(base.path())
                .unwrap()
                .get(&kept(1).vm)
                .unwrap()
                .nat,
            nat
        );
    }

    #[test]
    fn a_file_of_somebody_else_is_not_touched() {
        let base = tempfile::tempdir().unwrap();
        fs::write(base.path().join(FILE), "hello\nworld\n").unwrap();
        let error = Journal::open(base.path()).unwrap_err().to_string();
        assert!(error.contains("journal, line 1"), "{error}");
        assert_eq!(fs::read(base.path().join(FILE)).unwrap(), b"hello\nworld\n");
    }

    #[test]
    fn what_a_newer_one_wrote_is_refused_and_kept() {
        let base = tempfile::tempdir().unwrap();
        Journal::open(base.path()).unwrap().set(kept(1)).unwrap();
        let path = base.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        let mut text = text.trim_end_matches('\0').to_owned();
        let line = text.lines().count() + 1;
        text += "{\"colour\":7}\n";
        fs::write(&path, &text).unwrap();
        let error = Journal::open(base.path()).unwrap_err().to_string();
        let says = [
            "unknown variant `colour`",
            "newer banger-netd",
            "move the file away",
        ];
        assert!(says.iter().all(|word| error.contains(word)), "{error}");
        assert!(error.contains(&format!("line {line}:")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
