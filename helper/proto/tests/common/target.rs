//! What the fuzz target does; `tests/frames.rs` does the same with a bounded number of inputs.

use banger_proto::{Decoder, MAX_REQUEST, Request, decode, encode};

/// Bytes of a caller, in chunks whose lengths they say themselves. What is understood can be said again,
/// and is then the same; names in it keep their rules. Returns how many requests there were.
pub(crate) fn request(bytes: &[u8]) -> usize {
    let mut decoder = Decoder::new(MAX_REQUEST);
    let mut rest = bytes;
    let mut understood = 0;
    while let Some((&length, behind)) = rest.split_first() {
        let (chunk, left) = behind.split_at(behind.len().min(usize::from(length)));
        rest = left;
        decoder.push(chunk);
        loop {
            let json = match decoder.next_frame() {
                Ok(Some(json)) => json,
                Ok(None) => break,
                // The connection is over.
                Err(_) => return understood,
            };
            assert!(json.len() <= MAX_REQUEST);
            let Ok(request) = decode::<Request>(&json) else {
                return understood;
            };
            understood += 1;
            let again = encode(&request, MAX_REQUEST).expect("what fitted fits");
            assert_eq!(decode::<Request>(&again[4..]).expect("it is ours"), request);
            if let Some(vm) = request.vm() {
                assert!(
                    vm.as_str().len() == 16 && vm.as_str().bytes().all(|b| b.is_ascii_hexdigit())
                );
            }
        }
    }
    understood
}
