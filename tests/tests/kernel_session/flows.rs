//! Data connections: what is counted of them, and how they end.

use ftp_helper::engine::Record;
use ftp_helper_common::tcp;
use ftp_helper_tests::{
    dialogue::{Data, Dialogue, PORT, every_kind},
    testrun::{Verdict, other, parse, shared},
};

use super::SOURCE;

#[test]
fn data_connections_are_accounted_beyond_four_gibibytes() {
    let Some(mut k) = shared() else { return };
    const MIB: u64 = 1 << 20;
    for (hook, v6) in every_kind() {
        let mut d = Dialogue::ready(&mut k, hook, v6);
        let key = d.open_passive(&mut k, PORT);
        let data = Data::through(&key, SOURCE);
        data.connect(&mut k);
        let _ = k.records();
        k.restart_counting();
        // A look-up once in a mebibyte: the segment that crosses one. 5 GiB one way, 1 GiB the other.
        let segment = vec![0u8; 1400];
        let total = [5 * 1024 * MIB, 1024 * MIB];
        for (side, total) in total.into_iter().enumerate() {
            let isn = u64::from(data.isn[side]);
            let mut sent = 1;
            while sent < total {
                // The one that ends just behind the next multiple of a mebibyte, and one within.
                let cross = MIB - (isn + sent) % MIB;
                for at in [sent + cross - 700, sent + cross + 700] {
                    let packet =
                        if side == 0 { data.forth(tcp::ACK, at, &segment) } else { data.back(tcp::ACK, at, &segment) };
                    let verdict = if side == 0 { data.send(&mut k, &packet) } else { data.answer(&mut k, &packet) };
                    assert_eq!(verdict, Verdict::Pass);
                }
                sent += cross + 2100;
            }
            let seen = k.flows()[0].1.bytes[side];
            assert!(seen <= sent && sent - seen <= MIB, "{seen} of {sent}");
        }
        k.expect("no counter moves while data flows", &[]);
        // FIN tells the exact number.
        let ends = [total[0] + 5 * MIB, total[1] + 5 * MIB];
        let fin = data.forth(tcp::FIN | tcp::ACK, ends[0] + 1, b"");
        assert_eq!(data.send(&mut k, &fin), Verdict::Pass);
        k.expect("one FIN", &[]);
        assert_eq!(k.flows().len(), 1);
        let fin = data.back(tcp::FIN | tcp::ACK, ends[1] + 1, b"");
        assert_eq!(data.answer(&mut k, &fin), Verdict::Pass);
        k.expect("both", &[("flows_ended", 1), ("records", 1)]);
        let records = k.records();
        let Record::FlowEnd(told) = parse(&records[0]) else { panic!("{records:?}") };
        assert_eq!((told.bytes, told.reset, told.session), (ends, 0, d.state(&k).id));
        assert_eq!(
            (told.key.initiator_port, told.key.responder_port, told.mode),
            (SOURCE, PORT, if v6 { 3 } else { 2 })
        );
        assert!(k.flows().is_empty());
        k.clear();
    }
}

#[test]
fn a_reset_ends_a_data_connection() {
    let Some(mut k) = shared() else { return };
    for (hook, v6) in every_kind() {
        for side in [0, 1] {
            let mut d = Dialogue::ready(&mut k, hook, v6);
            let key = d.open_active(&mut k, PORT);
            let data = Data::through(&key, 20);
            data.connect(&mut k);
            assert_eq!(k.send(data.hook, &data.forth(tcp::ACK | tcp::FIN, 5001, b"")), Verdict::Pass);
            let _ = k.records();
            k.restart_counting();
            // Absurdly far away: nothing ends.
            let wild = data.back(tcp::RST, 1 << 31, b"");
            assert_eq!(data.answer(&mut k, &wild), Verdict::Pass);
            k.expect("a guess", &[]);
            let reset =
                if side == 0 { data.forth(tcp::RST | tcp::ACK, 5002, b"") } else { data.back(tcp::RST, 1, b"") };
            let hook = if side == 0 { data.hook } else { other(data.hook) };
            assert_eq!(k.send(hook, &reset), Verdict::Pass);
            k.expect("reset", &[("flows_ended", 1), ("records", 1)]);
            let records = k.records();
            let Record::FlowEnd(told) = parse(&records[0]) else { panic!("{records:?}") };
            assert_eq!((told.reset, told.hook), (1, data.hook));
            assert!(k.flows().is_empty() && k.pinholes().is_empty());
            // What is left of a session does not matter to it, and the other way round.
            d.client(&mut k, "NOOP");
            k.clear();
        }
    }
}
