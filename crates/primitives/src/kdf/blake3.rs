//! Suite 1: BLAKE3 in its keyed mode with extended output (BLAKE3 paper, sections 2.3 and 2.6).

use zeroize::Zeroize;

use super::MAX_LEN;
use crate::wipe::Wiped;

pub(super) fn derive(key: &[u8; 32], message: &[&[u8]], out: &mut [u8]) {
    let mut hasher = blake3::Hasher::new_keyed(key);
    for part in message {
        hasher.update(part);
    }
    let mut reader = hasher.finalize_xof();
    if let Ok(block) = <&mut [u8; MAX_LEN]>::try_from(&mut *out) {
        reader.fill(block);
    } else {
        // Part of a block leaves blake3's fast path, so a whole one is drawn always.
        let mut block = Wiped::<MAX_LEN>::zeroed();
        reader.fill(&mut *block);
        out.copy_from_slice(&block[..out.len()]);
    }
    // blake3 wipes on request only: both hold the key or its output.
    reader.zeroize();
    if hasher.count() <= blake3::CHUNK_LEN as u64 {
        // One chunk leaves nothing on the hasher's stack of 55 subtrees, which is most of its 1.9 KB; wiping that as
        // well takes 100 ns. The barrier has the compiler write the new state where the old one stands.
        hasher = blake3::Hasher::new_keyed(&[0; 32]);
        zeroize::optimization_barrier(&hasher);
    } else {
        hasher.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_give_the_same_bytes_as_a_plain_fill() {
        let key = [3; 32];
        for len in [0, 1, 31, 32, 48, 63, 64] {
            let mut expected = vec![0; len];
            let mut hasher = blake3::Hasher::new_keyed(&key);
            hasher.update(b"a message");
            hasher.finalize_xof().fill(&mut expected);
            let mut out = vec![0; len];
            derive(&key, &[b"a ", b"message"], &mut out);
            assert_eq!(out, expected, "{len} bytes");
        }
    }
}
