//! A2: wrong addresses and ports.

use ftp_helper::engine::policy::{Opaque, Server};

use super::{Stimulus, stimulus};

pub(super) fn stimuli() -> Vec<Stimulus> {
    let mut all = Vec::new();
    let active = |id, about, line: &str, reason| stimulus(id, about).c(line).s("200 ok").refused(reason);
    let passive = |id, about, reply: &str, reason| stimulus(id, about).c("PASV").s(reply).refused(reason);
    let extended = |id, about, reply: &str, reason| stimulus(id, about).c("EPSV").s(reply).refused(reason);
    for line in ["PORT 203,0,113,66,0,25", "PORT 203,0,113,66,195,149", "EPRT |1|203.0.113.66|50069|"] {
        all.push(active("A10", "FTP bounce", line, "third_host"));
    }
    all.push(active("A11", "an endpoint in another network", "PORT 10,0,0,5,0,22", "third_host"));
    all.push(passive("A11", "an endpoint in another network", "227 (10,0,0,5,195,149)", "third_host"));
    all.push(active("A12", "the server's own address in PORT", "PORT 198,51,100,5,195,149", "third_host"));
    all.push(passive("A12", "the client's own address in 227", "227 (192,0,2,10,195,149)", "third_host"));
    all.push(passive("A13", "a 227 for a third host", "227 (1,2,3,4,195,149)", "third_host"));
    for (port, text) in [("22", "0,22"), ("0", "0,0"), ("1023", "3,255"), ("23", "0,23")] {
        all.push(active("A14", "a port below 1024", &format!("PORT 192,0,2,10,{text}"), "low_port"));
        all.push(active("A14", "a port below 1024", &format!("EPRT |1|192.0.2.10|{port}|"), "low_port"));
        all.push(passive("A14", "a port below 1024", &format!("227 (198,51,100,5,{text})"), "low_port"));
        all.push(extended("A14", "a port below 1024", &format!("229 (|||{port}|)"), "low_port"));
    }
    for (port, text) in [(1024u16, "4,0"), (65535, "255,255")] {
        let s = |line: &str| stimulus("A14", "the first and the last that may be").c(line);
        all.push(s(&format!("PORT 192,0,2,10,{text}")).s("200 ok").opens(&[port]));
        all.push(s("PASV").s(&format!("227 (198,51,100,5,{text})")).opens(&[port]));
        all.push(s("EPSV").s(&format!("229 (|||{port}|)")).opens(&[port]));
    }
    for text in ["12,234", "21,56", "24,235", "13,61", "31,144", "8,1", "23,112"] {
        all.push(passive("A15", "another service of the server", &format!("227 (198,51,100,5,{text})"), "denied_port"));
        all.push(active("A15", "another service of the client", &format!("PORT 192,0,2,10,{text}"), "denied_port"));
    }
    all.push(passive("A15", "another control port", "227 (198,51,100,5,8,73)", "control_port"));
    let ranged = |s: Stimulus| {
        s.knob(
            |p| {
                let net = ipnet::IpNet::from(super::address(super::Host::S, false));
                p.servers =
                    vec![Server { networks: vec![net], passive_ports: Some(40000..=50068), opaque: Opaque::Deny }];
            },
            ["", "[[server]]\naddress = [\"198.51.100.5\"]\npassive_ports = \"40000-50068\"\n"],
        )
    };
    all.push(ranged(passive("A15", "outside the server's range", "227 (198,51,100,5,195,149)", "outside_range")));
    all.push(ranged(extended("A15", "outside the server's range", "229 (|||39999|)", "outside_range")));
    all.push(passive("A16", "the control port itself", "227 (198,51,100,5,0,21)", "control_port"));
    all.push(extended("A16", "the control port itself", "229 (|||21|)", "control_port"));
    all.push(active("A16", "the control port itself", "PORT 192,0,2,10,0,21", "control_port"));
    for (ip, reason) in [
        ("0.0.0.0", "third_host"),
        ("255.255.255.255", "third_host"),
        ("127.0.0.1", "third_host"),
        ("224.0.0.1", "third_host"),
    ] {
        let six = ip.replace('.', ",");
        all.push(active("A17", "an address of nobody", &format!("PORT {six},195,149"), reason));
        all.push(active("A17", "an address of nobody", &format!("EPRT |1|{ip}|50069|"), reason));
        all.push(passive("A17", "an address of nobody", &format!("227 ({six},195,149)"), reason));
    }
    for (ip, reason) in [
        ("::", "address_family"),
        ("::1", "address_family"),
        ("ff02::1", "address_family"),
        ("::ffff:192.0.2.10", "bad_syntax"),
        ("fe80::1%eth0", "bad_syntax"),
    ] {
        all.push(active("A17", "an IPv6 address of nobody", &format!("EPRT |2|{ip}|50069|"), reason));
        let reason = if reason == "address_family" { "third_host" } else { reason };
        all.push(active("A17", "the same over IPv6", &format!("EPRT |2|{ip}|50069|"), reason).v6());
    }
    all
}
