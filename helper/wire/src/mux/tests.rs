//! Two ends of the mux, and bytes between them.

use super::*;
use proptest::prelude::*;

fn pair() -> (Mux, Mux) {
    let (mut host, mut guest) = (Mux::new(Side::Host), Mux::new(Side::Guest));
    pump(&mut host, &mut guest, 7);
    assert_eq!(host.next_event(), Some(Event::Hello(crate::PROTOCOL)));
    assert_eq!(guest.next_event(), Some(Event::Hello(crate::PROTOCOL)));
    (host, guest)
}

fn pump(a: &mut Mux, b: &mut Mux, chunk: usize) {
    loop {
        let (to_b, to_a) = (a.output().len(), b.output().len());
        if to_a + to_b == 0 {
            return;
        }
        let bytes = a.output()[..to_b.min(chunk)].to_vec();
        a.sent(bytes.len());
        b.receive(&bytes).unwrap();
        let bytes = b.output()[..to_a.min(chunk)].to_vec();
        b.sent(bytes.len());
        a.receive(&bytes).unwrap();
    }
}

#[test]
fn a_stream_opens_carries_both_ways_and_closes_half_by_half() {
    let (mut host, mut guest) = pair();
    let id = host.open(1024).unwrap();
    assert_eq!(host.send(id, b"early"), 5);
    pump(&mut host, &mut guest, 3);
    assert_eq!(guest.next_event(), Some(Event::Opened(id, 1024)));
    guest.accept(id);
    assert_eq!(guest.next_event(), Some(Event::Data(id, b"early".to_vec())));
    guest.send(id, b"answer");
    host.finish(id);
    pump(&mut host, &mut guest, 3);
    assert_eq!(host.next_event(), Some(Event::Accepted(id)));
    assert_eq!(host.next_event(), Some(Event::Data(id, b"answer".to_vec())));
    assert_eq!(guest.next_event(), Some(Event::Finished(id)));
    assert_eq!(guest.send(id, b"more"), 4);
    guest.finish(id);
    pump(&mut host, &mut guest, 3);
    assert_eq!(host.next_event(), Some(Event::Data(id, b"more".to_vec())));
    assert_eq!(host.next_event(), Some(Event::Finished(id)));
    assert_eq!((host.streams(), guest.streams()), (0, 0));
}

#[test]
fn a_receiver_that_does_not_read_stops_its_sender_only() {
    let (mut host, mut guest) = pair();
    let slow = host.open(1).unwrap();
    let fast = host.open(2).unwrap();
    let mut total = 0;
    loop {
        let sent = host.send(slow, &[0; 100_000]);
        pump(&mut host, &mut guest, 100_000);
        total += sent;
        if sent == 0 {
            break;
        }
    }
    assert_eq!(total, WINDOW as usize);
    assert_eq!(host.send(fast, b"x"), 1);
    guest.consumed(slow, WINDOW as usize);
    pump(&mut host, &mut guest, 100_000);
    assert_eq!(host.writable(slow), WINDOW as usize);
}

#[test]
fn a_receiver_may_want_more_at_a_time() {
    let (mut host, mut guest) = pair();
    let id = host.open(1).unwrap();
    pump(&mut host, &mut guest, 1000);
    let fill = |host: &mut Mux, guest: &mut Mux| {
        let mut total = 0;
        loop {
            let sent = host.send(id, &vec![0; 2 * MAX_WINDOW as usize]);
            assert!(sent <= WINDOW as usize, "what waits in our own memory");
            pump(host, guest, 100_000);
            total += sent;
            if sent == 0 {
                break total;
            }
        }
    };
    assert_eq!(fill(&mut host, &mut guest), WINDOW as usize);
    guest.widen(id, 4 * WINDOW);
    guest.widen(id, WINDOW);
    pump(&mut host, &mut guest, 1000);
    assert_eq!(fill(&mut host, &mut guest), 3 * WINDOW as usize);
    guest.consumed(id, WINDOW as usize);
    pump(&mut host, &mut guest, 1000);
    assert_eq!(fill(&mut host, &mut guest), WINDOW as usize);
    guest.widen(id, u32::MAX);
    pump(&mut host, &mut guest, 1000);
    let more = (MAX_WINDOW - 4 * WINDOW) as usize;
    assert_eq!(fill(&mut host, &mut guest), more);
    // Not a byte more than was granted.
    let mut frame = vec![DATA, 0, 0, 0];
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(&1_u32.to_le_bytes());
    frame.push(0);
    assert_eq!(guest.receive(&frame), Err(MuxError::Overrun(id)));
}

#[test]
fn a_peer_that_keeps_to_the_usual_window_never_waits_for_ever() {
    let (mut host, mut guest) = pair();
    let id = host.open(1).unwrap();
    pump(&mut host, &mut guest, 1000);
    guest.widen(id, MAX_WINDOW);
    // It hears nothing of that.
    guest.sent(guest.output().len());
    for _ in 0..20 {
        let sent = host.send(id, &[0; WINDOW as usize]);
        assert!(sent > 0);
        pump(&mut host, &mut guest, 100_000);
        guest.consumed(id, sent);
        pump(&mut host, &mut guest, 100_000);
    }
}

#[test]
fn a_small_stream_waits_for_at_most_a_window_of_each_large_one() {
    let (mut host, mut guest) = pair();
    let large: Vec<_> = (0..3).map(|port| host.open(port).unwrap()).collect();
    let small = host.open(9).unwrap();
    let piece = [0; MAX_DATA];
    // The channel is slow: it takes less than they send, so what waits is as much as can.
    for _ in 0..20 {
        for id in &large {
            while host.send(*id, &piece) > 0 {}
        }
        let bytes = host.output()[..1000].to_vec();
        host.sent(bytes.len());
        guest.receive(&bytes).unwrap();
    }
    let mut frames = 0;
    while host.send(small, b"x") == 0 {
        let bytes = host.output()[..1000].to_vec();
        host.sent(bytes.len());
        guest.receive(&bytes).unwrap();
    }
    pump(&mut host, &mut guest, 1000);
    while let Some(event) = guest.next_event() {
        match event {
            Event::Data(id, _) if id == small => break,
            Event::Data(..) => frames += 1,
            _ => {}
        }
    }
    assert!(frames <= 3 * WINDOW as usize / MAX_DATA, "{frames} frames");
    assert!(host.streams() == 4 && frames > 0);
}

#[test]
fn a_peer_that_ignores_its_credit_is_cut_off() {
    let (mut host, mut guest) = pair();
    let id = host.open(1).unwrap();
    pump(&mut host, &mut guest, 1000);
    let mut frame = vec![DATA, 0, 0, 0];
    frame.extend_from_slice(&id.to_le_bytes());
    frame.extend_from_slice(&(MAX_DATA as u32).to_le_bytes());
    frame.resize(HEADER + MAX_DATA, 0);
    for _ in 0..WINDOW as usize / MAX_DATA {
        guest.receive(&frame).unwrap();
    }
    assert_eq!(guest.receive(&frame), Err(MuxError::Overrun(id)));
}

#[test]
fn only_a_hello_of_ours_begins_a_channel() {
    assert_eq!(
        Mux::new(Side::Host).receive(b"SSH-2.0-OpenSSH_9"),
        Err(MuxError::BadHello)
    );
    let mut frame = vec![HELLO, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0];
    frame.extend_from_slice(b"bngrmuxX\x01\x00");
    assert_eq!(
        Mux::new(Side::Host).receive(&frame),
        Err(MuxError::BadHello)
    );
}

#[test]
fn a_channel_is_known_by_its_first_bytes() {
    let hello = Mux::new(Side::Host).output().to_vec();
    assert!(begins_channel(&hello));
    assert!(!begins_channel(&hello[..HEADER]));
    assert!(!begins_channel(&hello[1..]));
}

#[test]
fn no_content_begins_a_channel() {
    let (mut host, mut guest) = pair();
    let id = host.open(1).unwrap();
    pump(&mut host, &mut guest, 1000);
    while guest.next_event().is_some() {}
    let hello = Mux::new(Side::Host).output().to_vec();
    let mut content = hello.repeat(2000);
    content.extend_from_slice(&[0; MAX_DATA]);
    content.extend_from_slice(&hello);
    assert_eq!(host.send(id, &content), content.len());
    let sent = host.output().to_vec();
    assert!((0..sent.len()).all(|at| !begins_channel(&sent[at..])));
    pump(&mut host, &mut guest, 1000);
    let mut received = Vec::new();
    while let Some(Event::Data(_, bytes)) = guest.next_event() {
        received.extend_from_slice(&bytes);
    }
    assert!(received == content);
}

#[test]
fn streams_of_the_wrong_parity_are_refused() {
    let (mut host, _) = pair();
    let frame = [OPEN, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(host.receive(&frame), Err(MuxError::BadOpen(3)));
}

proptest! {
    #[test]
    fn garbage_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (mut host, _) = pair();
        let _ = host.receive(&bytes);
    }

    #[test]
    fn any_interleaving_delivers_every_byte_in_order(
        writes in prop::collection::vec((0usize..4, 1usize..90_000), 1..40),
        chunk in 1000usize..70_000,
    ) {
        let (mut host, mut guest) = pair();
        let ids: Vec<_> = (0..4).map(|p| host.open(p).unwrap()).collect();
        let mut sent = [0u64; 4];
        let mut received = [0u64; 4];
        for (which, length) in writes {
            let data: Vec<u8> = (0..length as u64).map(|i| ((sent[which] + i) % 251) as u8).collect();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let n = host.send(ids[which], rest);
                sent[which] += n as u64;
                rest = &rest[n..];
                pump(&mut host, &mut guest, chunk);
                while let Some(event) = guest.next_event() {
                    if let Event::Data(id, bytes) = event {
                        let at = ids.iter().position(|i| *i == id).unwrap();
                        for byte in &bytes {
                            prop_assert_eq!(*byte, (received[at] % 251) as u8);
                            received[at] += 1;
                        }
                        guest.consumed(id, bytes.len());
                    }
                }
                pump(&mut host, &mut guest, chunk);
            }
        }
        prop_assert_eq!(sent, received);
    }
}
