//! Directory hash: half MD4 over names as unsigned bytes. Kernel documentation, ext4: "Hash Tree
//! Directories".

/// The hash of a name under the file system's seed. The lowest bit is always clear.
pub(super) fn half_md4(name: &[u8], seed: &[u32; 4]) -> u32 {
    let mut state = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    if *seed != [0; 4] {
        state = *seed;
    }
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = rest.get(32..).unwrap_or_default();
    }
    // The largest value is the end-of-directory marker.
    match state[1] & !1 {
        0xffff_fffe => 0xffff_fffc,
        hash => hash,
    }
}

/// Up to 32 bytes, four to a word, filled up with the length of what is left.
fn words(rest: &[u8]) -> [u32; 8] {
    let len = rest.len() as u32 & 0xff;
    let pad = len * 0x0101_0101;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        for &byte in bytes {
            *word = *word << 8 | u32::from(byte);
        }
    }
    words
}

fn transform(state: &mut [u32; 4], input: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    let rounds: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let mut s = *state;
    for (mix, constant, order, shifts) in rounds {
        for (i, &word) in order.iter().enumerate() {
            let [a, b, c, d] = s;
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[word])
                .wrapping_add(constant);
            s = [d, sum.rotate_left(shifts[i % 4]), b, c];
        }
    }
    for (old, new) in state.iter_mut().zip(s) {
        *old = old.wrapping_add(new);
    }
}
