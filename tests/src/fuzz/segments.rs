//! Segments as nobody would send them: cut, repeated, overlapping, out of order, with odd flags and acknowledgements. The
//! invariants I1 to I5 of every step are the rig's.

use arbitrary::{Result, Unstructured};
use ftp_helper_common::{key::CLIENT, tcp};

use super::rig::{Rig, SECOND, Setting, Wire};

/// Segments of one run at most.
const SEGMENTS: usize = 64;

/// Lines that get a session somewhere.
const LINES: &[(u8, &str)] = &[
    (1, "220 ready\r\n"),
    (0, "USER me\r\n"),
    (1, "230 in\r\n"),
    (0, "PASV\r\n"),
    (1, "227 Entering Passive Mode (198,51,100,5,195,149).\r\n"),
    (0, "EPSV\r\n"),
    (1, "229 Extended (|||50070|)\r\n"),
    (0, "PORT 192,0,2,10,195,151\r\n"),
    (0, "EPRT |2|2001:db8::10|50072|\r\n"),
    (0, "EPRT |1|192.0.2.10|50072|\r\n"),
    (1, "200 ok\r\n"),
    (0, "RETR x\r\n"),
    (1, "150 coming\r\n"),
    (1, "226 done\r\n"),
    (1, "500 no\r\n"),
    (0, "QUIT\r\n"),
    (0, "ABOR\r\n"),
    (0, "REIN\r\n"),
    (0, "AUTH TLS\r\n"),
    (1, "211-Features\r\n PASV\r\n"),
    (1, "211 End\r\n"),
];

/// Puts segments made of the bytes through the engine.
///
/// # Panics
/// An invariant does not hold.
pub fn run(data: &[u8]) {
    let mut u = Unstructured::new(data);
    // Bytes that are missing are zeros: nothing fails.
    let _ = segments(&mut u);
}

fn segments(u: &mut Unstructured<'_>) -> Result<()> {
    let setting = Setting::arbitrary(u)?;
    let timeout = setting.policy.pinhole_timeout.as_nanos() as u64;
    let mut rig = Rig::new(setting, u.arbitrary()?);
    if u.arbitrary()? {
        for (side, line) in &LINES[..3] {
            rig.wire(&rig.segment(*side, line.as_bytes()));
        }
    }
    let mut said: Vec<Wire> = Vec::new();
    for _ in 0..SEGMENTS {
        if u.is_empty() {
            break;
        }
        let wire = match u.int_in_range(0..=11)? {
            0..=3 => {
                let (side, line) = *u.choose(LINES)?;
                rig.segment(side, line.as_bytes())
            }
            4 => {
                let n = u.int_in_range(0..=40)?.min(u.len());
                rig.segment(u.int_in_range(0..=1)?, u.bytes(n)?)
            }
            5 if !said.is_empty() => u.choose(&said)?.clone(),
            6 if !said.is_empty() => {
                // A part of it, perhaps with other bytes, perhaps with more behind.
                let mut wire = u.choose(&said)?.clone();
                let skip = u.int_in_range(0..=wire.data.len())?;
                wire.data.drain(..skip);
                wire.seq = wire.seq.wrapping_add(skip as u32);
                if u.ratio(1, 4)?
                    && let Some(byte) = wire.data.first_mut()
                {
                    *byte = u.arbitrary()?;
                }
                if u.arbitrary()? {
                    wire.data.extend_from_slice(u.choose(LINES)?.1.as_bytes());
                }
                wire
            }
            7 => {
                // Ahead of what is next, or behind it.
                let (side, line) = *u.choose(LINES)?;
                let mut wire = rig.segment(side, line.as_bytes());
                wire.seq = wire.seq.wrapping_add_signed(u.int_in_range(-200..=200)?);
                wire
            }
            8 => {
                let (side, line) = *u.choose(LINES)?;
                let mut wire = rig.segment(side, line.as_bytes());
                wire.ack = wire.ack.wrapping_add_signed(u.int_in_range(-40..=40)?);
                wire
            }
            9 => {
                let side = u.int_in_range(0..=1)?;
                let mut wire = rig.segment(side, b"");
                wire.flags = u.arbitrary::<u8>()? & !tcp::SYN;
                if wire.flags & tcp::URG != 0 {
                    wire.data = u.choose(&[&b"\xff\xf4"[..], b"\xff\xf4\xff\xf2ABOR\r\n", b"X"])?.to_vec();
                }
                wire.seq = wire.seq.wrapping_add_signed(u.int_in_range(-2..=2)?);
                wire
            }
            10 => {
                // Anything at all.
                let n = u.int_in_range(0..=16)?.min(u.len());
                let side = u.int_in_range(CLIENT..=1)?;
                let flags = u.arbitrary::<u8>()? & !tcp::SYN;
                Wire { side, flags, seq: u.arbitrary()?, ack: u.arbitrary()?, data: u.bytes(n)?.to_vec() }
            }
            _ => {
                match u.int_in_range(0..=3)? {
                    0 => rig.connect(),
                    1 => rig.wait(u.int_in_range(0..=2 * SECOND)?),
                    2 => rig.wait(u.int_in_range(0..=4000 * SECOND)?),
                    _ => {
                        // I4: nothing outlives its time.
                        rig.wait(timeout + SECOND);
                        assert_eq!(rig.open(), None, "I4");
                    }
                }
                continue;
            }
        };
        rig.wire(&wire);
        said.push(wire);
    }
    Ok(())
}
