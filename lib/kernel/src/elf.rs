//! As much of ELF (gabi, chapters 4 and 5) as kernels, modules and the agent need: 64 bits,
//! little endian, x86-64. Offsets come from files of others: every access is checked.

const HEADER: usize = 64;
const MACHINE_X86_64: u16 = 62;
const TYPE_RELOCATABLE: u16 = 1;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_INTERPRETER: u32 = 3;
const SECTION_SYMBOLS: u32 = 2;
const SYMBOL: usize = 24;

/// Why bytes are not the ELF file that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ElfFault {
    /// No ELF magic.
    #[error("it is not an ELF file")]
    NotElf,
    /// ELFCLASS32.
    #[error("it is a 32-bit ELF file, 64 bits are needed")]
    Bits32,
    /// Another processor, by its `e_machine`.
    #[error("it is for another processor (ELF machine {0}), x86-64 is needed")]
    Machine(u16),
    /// An object file where an executable is needed.
    #[error("it is an object file, not an executable")]
    Object,
    /// No PT_LOAD.
    #[error("it has nothing to load")]
    NothingToLoad,
    /// A table or segment beyond the end of the file.
    #[error("it is cut short or damaged")]
    Damaged,
}

/// A program: what its segments say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// A dynamic loader is needed.
    pub(crate) interpreted: bool,
}

/// Checks an executable of `length` bytes, of which `start` is the beginning (the first kilobytes
/// hold the program headers in everything that linkers make).
pub(crate) fn program(start: &[u8], length: u64) -> Result<Program, ElfFault> {
    check_identity(start)?;
    if half(start, 16)? == TYPE_RELOCATABLE {
        return Err(ElfFault::Object);
    }
    let table = to_usize(long(start, 32)?)?;
    let (size, count) = (usize::from(half(start, 54)?), usize::from(half(start, 56)?));
    let (mut loads, mut interpreted) = (false, false);
    for index in 0..count {
        let at = size
            .checked_mul(index)
            .and_then(|offset| offset.checked_add(table))
            .ok_or(ElfFault::Damaged)?;
        let kind = word(start, at)?;
        let end = long(start, add(at, 8)?)?.checked_add(long(start, add(at, 32)?)?);
        match kind {
            SEGMENT_LOAD => {
                loads = true;
                if end.is_none_or(|end| end > length) {
                    return Err(ElfFault::Damaged);
                }
            }
            SEGMENT_INTERPRETER => interpreted = true,
            _ => {}
        }
    }
    if loads {
        Ok(Program { interpreted })
    } else {
        Err(ElfFault::NothingToLoad)
    }
}

/// A kernel module in memory.
#[derive(Debug)]
pub(crate) struct Object<'a> {
    bytes: &'a [u8],
    table: usize,
    entry: usize,
    count: usize,
    names: &'a [u8],
}

impl<'a> Object<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ElfFault> {
        check_identity(bytes)?;
        let mut object = Object {
            bytes,
            table: to_usize(long(bytes, 40)?)?,
            entry: usize::from(half(bytes, 58)?),
            count: usize::from(half(bytes, 60)?),
            names: &[],
        };
        let names = object.header(usize::from(half(bytes, 62)?))?;
        object.names = object.content(names)?;
        Ok(object)
    }

    /// Content of the section of this name.
    pub(crate) fn section(&self, name: &str) -> Result<Option<&'a [u8]>, ElfFault> {
        for index in 0..self.count {
            let header = self.header(index)?;
            if text(self.names, word(header, 0)?)? == name.as_bytes() {
                return self.content(header).map(Some);
            }
        }
        Ok(None)
    }

    /// Calls `each` with the name of every symbol.
    pub(crate) fn symbols(&self, mut each: impl FnMut(&'a [u8])) -> Result<(), ElfFault> {
        for index in 0..self.count {
            let header = self.header(index)?;
            if word(header, 4)? != SECTION_SYMBOLS {
                continue;
            }
            let link = usize::try_from(word(header, 40)?).map_err(|_| ElfFault::Damaged)?;
            let names = self.content(self.header(link)?)?;
            for symbol in self.content(header)?.chunks_exact(SYMBOL) {
                each(text(names, word(symbol, 0)?)?);
            }
        }
        Ok(())
    }

    fn header(&self, index: usize) -> Result<&'a [u8], ElfFault> {
        let start = self
            .entry
            .checked_mul(index)
            .and_then(|offset| offset.checked_add(self.table))
            .ok_or(ElfFault::Damaged)?;
        slice(self.bytes, start, HEADER)
    }

    fn content(&self, header: &[u8]) -> Result<&'a [u8], ElfFault> {
        slice(
            self.bytes,
            to_usize(long(header, 24)?)?,
            to_usize(long(header, 32)?)?,
        )
    }
}

fn check_identity(bytes: &[u8]) -> Result<(), ElfFault> {
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ElfFault::NotElf);
    }
    match bytes.get(4) {
        Some(2) => {}
        Some(1) => return Err(ElfFault::Bits32),
        _ => return Err(ElfFault::Damaged),
    }
    match half(bytes, 18)? {
        MACHINE_X86_64 => Ok(()),
        other => Err(ElfFault::Machine(other)),
    }
}

/// The NUL-terminated bytes at an offset of a string table.
fn text(table: &[u8], offset: u32) -> Result<&[u8], ElfFault> {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| table.get(offset..))
        .ok_or(ElfFault::Damaged)?;
    Ok(rest.split(|&b| b == 0).next().unwrap_or_default())
}

fn slice(bytes: &[u8], start: usize, length: usize) -> Result<&[u8], ElfFault> {
    bytes
        .get(start..add(start, length)?)
        .ok_or(ElfFault::Damaged)
}

fn add(a: usize, b: usize) -> Result<usize, ElfFault> {
    a.checked_add(b).ok_or(ElfFault::Damaged)
}

fn to_usize(value: u64) -> Result<usize, ElfFault> {
    usize::try_from(value).map_err(|_| ElfFault::Damaged)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], ElfFault> {
    slice(bytes, at, N)?
        .try_into()
        .map_err(|_| ElfFault::Damaged)
}

fn half(bytes: &[u8], at: usize) -> Result<u16, ElfFault> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Result<u32, ElfFault> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Result<u64, ElfFault> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An executable with these segments: type, file offset, file size.
    pub(crate) fn executable(segments: &[(u32, u64, u64)]) -> Vec<u8> {
        let mut elf = identity(2);
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[54..56].copy_from_slice(&56u16.to_le_bytes());
        elf[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (kind, offset, size) in segments {
            let mut segment = vec![0; 56];
            segment[..4].copy_from_slice(&kind.to_le_bytes());
            segment[8..16].copy_from_slice(&offset.to_le_bytes());
            segment[32..40].copy_from_slice(&size.to_le_bytes());
            elf.extend(segment);
        }
        elf
    }

    /// A module with a `.modinfo` of these lines, exporting these symbols.
    pub(crate) fn module(modinfo: &[&str], exports: &[&str]) -> Vec<u8> {
        let info: Vec<u8> = modinfo
            .iter()
            .flat_map(|l| [l.as_bytes(), b"\0"].concat())
            .collect();
        let mut strings = vec![0];
        let mut symbols = vec![0; SYMBOL];
        for export in exports {
            let mut symbol = vec![0; SYMBOL];
            symbol[..4].copy_from_slice(&u32::try_from(strings.len()).unwrap().to_le_bytes());
            symbols.extend(symbol);
            strings.extend(format!("__ksymtab_{export}\0").into_bytes());
        }
        let names = b"\0.modinfo\0.symtab\0.strtab\0.shstrtab\0".to_vec();
        let mut elf = identity(1);
        let sections = [
            (1u32, 1u32, info, 0u32),
            (10, SECTION_SYMBOLS, symbols, 2),
            (18, 3, strings, 0),
            (26, 3, names, 0),
        ];
        let mut headers = Vec::new();
        for (name, kind, content, link) in sections {
            let mut header = vec![0; HEADER];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(elf.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            elf.extend(content);
            headers.extend(header);
        }
        let table = elf.len() as u64;
        elf[40..48].copy_from_slice(&table.to_le_bytes());
        elf[58..60].copy_from_slice(&64u16.to_le_bytes());
        elf[60..62].copy_from_slice(&4u16.to_le_bytes());
        elf[62..64].copy_from_slice(&3u16.to_le_bytes());
        elf.extend(headers);
        elf
    }

    fn identity(kind: u16) -> Vec<u8> {
        let mut elf = vec![0; HEADER];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[16..18].copy_from_slice(&kind.to_le_bytes());
        elf[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        elf
    }

    #[test]
    fn programs_are_told_from_everything_else() {
        let fine = executable(&[(SEGMENT_LOAD, 0, 64)]);
        let mut bits32 = fine.clone();
        bits32[4] = 1;
        let mut arm = fine.clone();
        arm[18] = 183;
        let dynamic = executable(&[(SEGMENT_INTERPRETER, 0, 1), (SEGMENT_LOAD, 0, 64)]);
        let beyond = executable(&[(SEGMENT_LOAD, u64::MAX, 2)]);
        for (bytes, expected) in [
            (&fine[..], Ok(Program { interpreted: false })),
            (&dynamic, Ok(Program { interpreted: true })),
            (&bits32, Err(ElfFault::Bits32)),
            (&arm, Err(ElfFault::Machine(183))),
            (&executable(&[]), Err(ElfFault::NothingToLoad)),
            (&beyond, Err(ElfFault::Damaged)),
            (&fine[..100], Err(ElfFault::Damaged)),
            (&fine[..10], Err(ElfFault::Damaged)),
            (&module(&[], &[]), Err(ElfFault::Object)),
            (b"#!/bin/sh", Err(ElfFault::NotElf)),
            (b"", Err(ElfFault::NotElf)),
        ] {
            assert_eq!(program(bytes, bytes.len() as u64), expected);
        }
    }

    proptest::proptest! {
        #[test]
        fn damage_is_an_error_and_never_a_panic(at in 0usize..700, value: u8, cut in 0usize..700) {
            let mut bytes = module(&["name=x"], &["f", "g"]);
            let length = bytes.len();
            bytes[at % length] = value;
            bytes.truncate(cut.max(1));
            let _ = program(&bytes, bytes.len() as u64);
            if let Ok(object) = Object::parse(&bytes) {
                let _ = object.section(".modinfo");
                let _ = object.symbols(|_| {});
            }
        }
    }
}
