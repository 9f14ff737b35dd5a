//! Looks up a function in the image of a shared object, as far as the vDSO needs it.
//!
//! Works on bytes and checks every offset against them, so an image that is not what it should be has no function, and
//! that is all.

/// Offsets and numbers of the ELF64 format, named as its specification names them.
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERDEF: u64 = 0x6fff_fffc;
const PROGRAM_HEADER_BYTES: usize = 56;
const SYMBOL_BYTES: usize = 24;
/// Set in the version of a symbol that only programs linked long ago should find.
const VERSION_HIDDEN: u16 = 0x8000;
/// Marks the entry of the version table that names the file itself.
const VERSION_IS_BASE: u16 = 1;
/// More than a vDSO has of anything that is a chain: a chain that leads in a circle ends here.
const MAX_STEPS: usize = 4096;

/// How many bytes at the load address are the file's, told by the start of them; `None` if this is no shared object that
/// is mapped in one piece from its first byte.
pub(super) fn image_len(start: &[u8]) -> Option<usize> {
    let mut segments = program_headers(start)?.filter(|header| u32_at(header, 0) == Some(PT_LOAD));
    let header = segments.next()?;
    let (offset, address, len) = (u64_at(header, 8)?, u64_at(header, 16)?, usize_at(header, 32)?);
    (segments.next().is_none() && offset == 0 && address == 0).then_some(len)
}

/// The offset of the exported function `name` of `version` in `image`.
pub(super) fn function(image: &[u8], name: &[u8], version: &[u8]) -> Option<usize> {
    let tables = Tables::of(image)?;
    let is_it = |symbol: &usize| tables.is_function(*symbol, name, version) == Some(true);
    let symbol = match tables.gnu_hash {
        Some(hash) => gnu_hash_chain(image, hash, name)?.find(is_it),
        None => (1..u32_at(image, tables.hash?.checked_add(4)?)? as usize).take(MAX_STEPS).find(is_it),
    }?;
    let value = usize_at(image, tables.symbol(symbol)?.checked_add(8)?)?;
    (value != 0 && value < image.len()).then_some(value)
}

/// Where the tables of an image start.
struct Tables<'a> {
    image: &'a [u8],
    strings: usize,
    symbols: usize,
    symbol_versions: usize,
    versions: usize,
    hash: Option<usize>,
    gnu_hash: Option<usize>,
}

impl<'a> Tables<'a> {
    fn of(image: &'a [u8]) -> Option<Self> {
        let dynamic = program_headers(image)?.find(|header| u32_at(header, 0) == Some(PT_DYNAMIC))?;
        let (start, len) = (usize_at(dynamic, 16)?, usize_at(dynamic, 40)?);
        let entries = image.get(start..start.checked_add(len)?)?;
        let table = |wanted: u64| {
            let mut entries = entries.chunks_exact(16).take_while(|entry| u64_at(entry, 0) != Some(DT_NULL));
            entries.find(|entry| u64_at(entry, 0) == Some(wanted)).and_then(|entry| usize_at(entry, 8))
        };
        Some(Self {
            image,
            strings: table(DT_STRTAB)?,
            symbols: table(DT_SYMTAB)?,
            symbol_versions: table(DT_VERSYM)?,
            versions: table(DT_VERDEF)?,
            hash: table(DT_HASH),
            gnu_hash: table(DT_GNU_HASH),
        })
    }

    fn symbol(&self, number: usize) -> Option<usize> {
        self.symbols.checked_add(number.checked_mul(SYMBOL_BYTES)?)
    }

    fn is_function(&self, number: usize, name: &[u8], version: &[u8]) -> Option<bool> {
        const NO_TYPE: u8 = 0;
        const FUNCTION: u8 = 2;
        const GLOBAL: u8 = 1;
        const WEAK: u8 = 2;

        let symbol = self.symbol(number)?;
        let info = *self.image.get(symbol.checked_add(4)?)?;
        let is_defined = u16_at(self.image, symbol.checked_add(6)?)? != 0;
        let named = self.is_string(u32_at(self.image, symbol)?, name);
        let is_function = matches!(info & 0xf, NO_TYPE | FUNCTION) && matches!(info >> 4, GLOBAL | WEAK);
        Some(named && is_defined && is_function && self.is_version(number, version)?)
    }

    fn is_version(&self, number: usize, version: &[u8]) -> Option<bool> {
        let wanted = u16_at(self.image, self.symbol_versions.checked_add(number.checked_mul(2)?)?)? & !VERSION_HIDDEN;
        let mut entry = self.versions;
        for _ in 0..MAX_STEPS {
            let (flags, index) =
                (u16_at(self.image, entry.checked_add(2)?)?, u16_at(self.image, entry.checked_add(4)?)?);
            if index & !VERSION_HIDDEN == wanted && flags & VERSION_IS_BASE == 0 {
                let name = entry.checked_add(u32_at(self.image, entry.checked_add(12)?)? as usize)?;
                return Some(self.is_string(u32_at(self.image, name)?, version));
            }
            match u32_at(self.image, entry.checked_add(16)?)? as usize {
                0 => break,
                next => entry = entry.checked_add(next)?,
            }
        }
        Some(false)
    }

    /// Whether the string at `offset` of the string table is `wanted`, its end included.
    fn is_string(&self, offset: u32, wanted: &[u8]) -> bool {
        let start = self.strings.checked_add(offset as usize);
        let found = start.and_then(|start| self.image.get(start..)?.get(..=wanted.len()));
        found.and_then(<[u8]>::split_last).is_some_and(|(end, text)| *end == 0 && text == wanted)
    }
}

/// The numbers of the symbols whose name may be `name`, by the hash table that GNU tools write.
fn gnu_hash_chain<'a>(image: &'a [u8], table: usize, name: &[u8]) -> Option<impl Iterator<Item = usize> + use<'a>> {
    let hash = name.iter().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add(u32::from(*byte)));
    let field = |index: usize| u32_at(image, table.checked_add(4 * index)?).map(|value| value as usize);
    let (buckets, first_symbol, bloom_words) = (field(0)?, field(1)?, field(2)?);
    let bucket_table = table.checked_add(16)?.checked_add(bloom_words.checked_mul(8)?)?;
    let bucket = (hash as usize).checked_rem(buckets)?;
    let first = u32_at(image, bucket_table.checked_add(bucket * 4)?)? as usize;
    let chain_table = bucket_table.checked_add(buckets.checked_mul(4)?)?;

    let mut next = (first >= first_symbol && first != 0).then_some(first);
    let chain = std::iter::from_fn(move || {
        loop {
            let symbol = next?;
            let link = u32_at(image, chain_table.checked_add((symbol - first_symbol).checked_mul(4)?)?)?;
            // The lowest bit marks the end of the chain, the others are the hash.
            next = if link & 1 == 1 { None } else { symbol.checked_add(1) };
            if link | 1 == hash | 1 {
                return Some(symbol);
            }
        }
    });
    Some(chain.take(MAX_STEPS))
}

fn program_headers(image: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    /// 64 bits, little-endian, version 1.
    const START: &[u8] = b"\x7fELF\x02\x01\x01";
    const SHARED_OBJECT: u16 = 3;

    let is_one = image.starts_with(START)
        && u16_at(image, 16)? == SHARED_OBJECT
        && usize::from(u16_at(image, 54)?) == PROGRAM_HEADER_BYTES;
    let (start, count) = (usize_at(image, 32)?, usize::from(u16_at(image, 56)?));
    let headers = image.get(start..start.checked_add(count * PROGRAM_HEADER_BYTES)?)?;
    is_one.then(|| headers.chunks_exact(PROGRAM_HEADER_BYTES))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().copied().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().copied().map(u64::from_le_bytes)
}

fn usize_at(bytes: &[u8], offset: usize) -> Option<usize> {
    u64_at(bytes, offset)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::vdso::function;

    /// Every vDSO has this one.
    #[cfg(target_arch = "x86_64")]
    const CLOCK: (&[u8], &[u8]) = (b"__vdso_clock_gettime", b"LINUX_2.6");
    #[cfg(target_arch = "aarch64")]
    const CLOCK: (&[u8], &[u8]) = (b"__kernel_clock_gettime", b"LINUX_2.6.39");

    fn image() -> Option<Vec<u8>> {
        let image = function::image().map(<[u8]>::to_vec);
        if image.is_none() {
            eprintln!("skipped: this system maps no vDSO");
        }
        image
    }

    #[test]
    fn a_function_of_the_vdso_is_found_by_its_name_and_version_alone() {
        let Some(image) = image() else { return };
        let (name, version) = CLOCK;
        let offset = function(&image, name, version).expect("in every vDSO");
        assert!((1..image.len()).contains(&offset));
        assert_eq!(function(&image, name, b"LINUX_2.7"), None);
        assert_eq!(function(&image, &name[..name.len() - 1], version), None);
        assert_eq!(function(&image, b"__vdso_clock_gettime_of_another_world", version), None);
        assert_eq!(function(&image, b"", version), None);
    }

    #[test]
    fn both_hash_tables_lead_to_the_same_function() {
        let Some(image) = image() else { return };
        let (name, version) = CLOCK;
        let tables = Tables::of(&image).unwrap();
        if tables.hash.is_none() || tables.gnu_hash.is_none() {
            eprintln!("skipped: this vDSO has one hash table only");
            return;
        }
        let dynamic = program_headers(&image).unwrap().find(|header| u32_at(header, 0) == Some(PT_DYNAMIC)).unwrap();
        let start = usize_at(dynamic, 16).unwrap();
        let mut without_gnu = image.clone();
        let entry = (start..).step_by(16).find(|entry| u64_at(&image, *entry) == Some(DT_GNU_HASH)).unwrap();
        without_gnu[entry] ^= 1;
        assert!(Tables::of(&without_gnu).unwrap().gnu_hash.is_none());
        assert_eq!(function(&without_gnu, name, version), function(&image, name, version));
        assert_eq!(function(&without_gnu, b"__vdso_of_another_world", version), None);
    }

    #[test]
    fn a_cut_or_damaged_image_panics_nowhere_and_leads_nowhere_outside() {
        let Some(image) = image() else { return };
        let (name, version) = CLOCK;
        let check = |image: &[u8]| {
            image_len(image);
            assert!(function(image, name, version).is_none_or(|offset| offset < image.len()));
        };
        for len in 0..image.len() {
            check(&image[..len]);
        }
        // The tables are at the start.
        for offset in 0..image.len().min(3000) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut damaged = image.clone();
                damaged[offset] = value;
                check(&damaged);
                damaged[offset..].iter_mut().take(8).for_each(|byte| *byte = value);
                check(&damaged);
            }
        }
    }
}
