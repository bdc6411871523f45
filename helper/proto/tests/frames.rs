//! Frames from callers that nobody trusts.

#![allow(clippy::unwrap_used)]

#[path = "common/target.rs"]
mod target;

use banger_proto::{
    Acceleration, Decoder, Disk, FrameError, GroupName, KernelArguments, MAX_REQUEST, Machine,
    Request, RouteChange, Signal, StoreTag, VmId, VmName, decode, encode,
};
use proptest::prelude::*;

fn vm() -> impl Strategy<Value = VmId> {
    "[0-9a-f]{16}".prop_map(|text| VmId::try_from(text).unwrap())
}

fn machine() -> impl Strategy<Value = Machine> {
    let disks = prop::collection::vec(any::<bool>(), 0..9);
    let numbers = (any::<u8>(), any::<u32>());
    (numbers, "[ -~]{0,80}", any::<bool>(), disks).prop_map(
        |((cpus, memory_mib), text, network, disks)| Machine {
            acceleration: if network {
                Acceleration::Kvm
            } else {
                Acceleration::Emulation
            },
            cpus,
            memory_mib,
            kernel_arguments: KernelArguments::try_from(text).unwrap(),
            network,
            disks: disks
                .into_iter()
                .map(|read_only| Disk { read_only })
                .collect(),
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let name =
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|text| VmName::try_from(text).unwrap());
    let group =
        "[a-z]([a-z0-9-]{0,30}[a-z0-9])?".prop_map(|text| GroupName::try_from(text).unwrap());
    let store = || "[0-9a-f]{16}".prop_map(|text| StoreTag::try_from(text).unwrap());
    prop_oneof![
        Just(Request::Up {}),
        Just(Request::Down {}),
        Just(Request::Status {}),
        Just(Request::List {}),
        (vm(), name, store()).prop_map(|(vm, name, store)| Request::Reserve { vm, name, store }),
        vm().prop_map(|vm| Request::Attach { vm }),
        vm().prop_map(|vm| Request::Detach { vm }),
        vm().prop_map(|vm| Request::Release { vm }),
        (vm(), any::<bool>()).prop_map(|(vm, enabled)| Request::Nat { vm, enabled }),
        (vm(), proptest::option::of(group)).prop_map(|(vm, group)| Request::Group { vm, group }),
        prop_oneof![
            Just(RouteChange::Up),
            Just(RouteChange::Down),
            Just(RouteChange::Look)
        ]
        .prop_map(|change| Request::Route { change }),
        (store(), prop::collection::vec(vm(), 0..20), any::<u64>()).prop_map(
            |(store, keep, min_age_s)| Request::Gc {
                store,
                keep,
                min_age_s
            }
        ),
        any::<bool>().prop_map(|enabled| Request::Admit { enabled }),
        (vm(), any::<bool>()).prop_map(|(vm, read_only)| Request::Loop { vm, read_only }),
        (vm(), any::<u64>()).prop_map(|(vm, size)| Request::Snapshot { vm, size }),
        vm().prop_map(|vm| Request::Unmap { vm }),
        (vm(), machine()).prop_map(|(vm, machine)| Request::Launch { vm, machine }),
        (
            vm(),
            prop::sample::select(vec![None, Some(Signal::Term), Some(Signal::Kill)])
        )
            .prop_map(|(vm, signal)| Request::Signal { vm, signal }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_survive_whatever_the_chunks(
        requests in prop::collection::vec(request(), 1..5),
        lengths in prop::collection::vec(1_u8..200, 1..40),
    ) {
        let stream: Vec<u8> = requests.iter().flat_map(|r| encode(r, MAX_REQUEST).unwrap()).collect();
        let mut chunked = Vec::new();
        let mut rest = &stream[..];
        for length in lengths.iter().cycle() {
            let (chunk, left) = rest.split_at(rest.len().min(usize::from(*length)));
            chunked.push(*length);
            chunked.extend(chunk);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(target::request(&chunked), requests.len());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        target::request(&bytes);
    }

    #[test]
    fn one_changed_byte_is_an_error_or_another_request(
        request in request(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut frame = encode(&request, MAX_REQUEST).unwrap();
        let place = place.index(frame.len());
        frame[place] = byte;
        for chunk in frame.clone().chunks(200) {
            let mut bytes = vec![200];
            bytes.extend(chunk);
            target::request(&bytes);
        }
        let mut decoder = Decoder::new(MAX_REQUEST);
        decoder.push(&frame);
        if let Ok(Some(json)) = decoder.next_frame()
            && let Ok(other) = decode::<Request>(&json)
        {
            let same = encode(&other, MAX_REQUEST).unwrap() == encode(&request, MAX_REQUEST).unwrap();
            prop_assert!(same || other != request);
        }
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_comes(length in (MAX_REQUEST as u32 + 1)..) {
        let mut decoder = Decoder::new(MAX_REQUEST);
        decoder.push(&length.to_le_bytes());
        let error = decoder.next_frame().unwrap_err();
        prop_assert!(matches!(error, FrameError::TooLong { .. }), "{error}");
    }
}
