use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener as StdListener, TcpStream as StdStream},
    thread::JoinHandle,
};

use tokio::sync::oneshot;

use super::*;

/// A server in a thread, and the way to stop it.
struct Running {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(options: Options) -> Self {
        let (tx, rx) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(options).await.unwrap();
                tx.send(server.addresses().unwrap()).unwrap();
                server.serve(async { drop(stopped.await) }).await;
            });
        });
        Self { addresses: rx.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(t) = self.thread.take() {
            t.join().unwrap();
        }
    }
}

struct Client(BufReader<StdStream>);

impl Client {
    fn connect(to: SocketAddr) -> Self {
        let s = StdStream::connect(to).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut c = Self(BufReader::new(s));
        assert!(c.reply().starts_with("220 "));
        c
    }

    fn reply(&mut self) -> String {
        let mut l = String::new();
        self.0.read_line(&mut l).unwrap();
        l.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.reply()
    }
}

fn options(root: &Path, listen: &[&str]) -> Options {
    Options {
        listen: listen.iter().map(|a| a.parse().unwrap()).collect(),
        root: root.to_owned(),
        login: Login::Anonymous,
        passive_ports: PassivePorts::new(20000, 30000).unwrap(),
        active: true,
    }
}

fn error(options: Options) -> FtpdError {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Server::bind(options)).map(|s| s.to_string()).unwrap_err()
}

#[test]
fn transfers_in_each_mode_it_knows() {
    let root = tempfile::tempdir().unwrap();
    let server = Running::start(options(root.path(), &["127.0.0.1:0", "[::1]:0"]));
    let (v4, v6) = (server.addresses[0], server.addresses[1]);

    let mut c = Client::connect(v4);
    assert!(c.ask("USER anonymous").starts_with("331 "));
    assert!(c.ask("PASS x").starts_with("230 "));
    let pasv = c.ask("PASV");
    let numbers: Vec<u16> = pasv.split(['(', ')']).nth(1).unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    let port = numbers[4] * 256 + numbers[5];
    assert!((20000..=30000).contains(&port), "{pasv}");
    let mut data = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert!(c.ask("STOR up").starts_with("150 "));
    data.write_all(b"passive").unwrap();
    drop(data);
    assert!(c.reply().starts_with("226 "));
    assert_eq!(std::fs::read(root.path().join("up")).unwrap(), b"passive");

    // It connects before it answers 200: the listener's backlog takes the connection.
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let p = listener.local_addr().unwrap().port();
    assert!(c.ask(&format!("PORT 127,0,0,1,{},{}", p / 256, p % 256)).starts_with("200 "));
    assert!(c.ask("RETR up").starts_with("150 "));
    let mut got = String::new();
    listener.accept().unwrap().0.read_to_string(&mut got).unwrap();
    assert_eq!(got, "passive");
    assert!(c.reply().starts_with("226 "));

    let mut c = Client::connect(v6);
    c.ask("USER ftp");
    assert!(c.ask("PASS x").starts_with("230 "));
    let epsv = c.ask("EPSV");
    let port: u16 = epsv.split('|').nth(3).unwrap().parse().unwrap();
    let mut data = StdStream::connect((IpAddr::V6(Ipv6Addr::LOCALHOST), port)).unwrap();
    assert!(c.ask("RETR up").starts_with("150 "));
    let mut got = String::new();
    data.read_to_string(&mut got).unwrap();
    assert_eq!(got, "passive");
}

#[test]
fn active_mode_can_be_switched_off() {
    let root = tempfile::tempdir().unwrap();
    let server = Running::start(Options { active: false, ..options(root.path(), &["127.0.0.1:0"]) });
    let mut c = Client::connect(server.addresses[0]);
    c.ask("USER anonymous");
    c.ask("PASS x");
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let p = listener.local_addr().unwrap().port();
    let reply = c.ask(&format!("PORT 127,0,0,1,{},{}", p / 256, p % 256));
    assert!(reply.starts_with('5'), "{reply}");
}

#[test]
fn only_the_configured_login_is_let_in() {
    let root = tempfile::tempdir().unwrap();
    let login = Login::User { name: "lab".into(), password: "secret".into() };
    assert!(!format!("{login:?}").contains("secret"));
    let server = Running::start(Options { login, ..options(root.path(), &["127.0.0.1:0"]) });
    for (user, pass, good) in
        [("anonymous", "x", false), ("lab", "wrong", false), ("other", "secret", false), ("lab", "secret", true)]
    {
        let mut c = Client::connect(server.addresses[0]);
        c.ask(&format!("USER {user}"));
        assert_eq!(c.ask(&format!("PASS {pass}")).starts_with("230 "), good, "{user} {pass}");
    }
}

#[test]
fn errors_name_the_thing_and_the_remedy() {
    let root = tempfile::tempdir().unwrap();
    let taken = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let e = error(options(root.path(), &[&address.to_string()])).to_string();
    assert!(e.contains(&address.to_string()) && e.contains("another program has the port"), "{e}");

    let missing = root.path().join("missing");
    let e = error(options(&missing, &["127.0.0.1:0"])).to_string();
    assert!(e.contains("missing") && e.contains("make the directory"), "{e}");

    let file = root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let e = error(options(&file, &["127.0.0.1:0"])).to_string();
    assert!(e.contains("give a directory"), "{e}");

    let e = error(options(root.path(), &["192.0.2.1:0"])).to_string();
    assert!(e.contains("no interface has this address"), "{e}");
    assert!(matches!(error(options(root.path(), &[])), FtpdError::NoAddress));
}

#[test]
fn passive_ports_are_checked() {
    assert_eq!("50000-50099".parse::<PassivePorts>().unwrap().to_string(), "50000-50099");
    assert_eq!("5000-4000".parse::<PassivePorts>(), Err(PassivePortsError::Reversed { low: 5000, high: 4000 }));
    assert_eq!("80-90".parse::<PassivePorts>(), Err(PassivePortsError::Privileged { low: 80 }));
    for bad in ["", "1", "1-", "a-b", "1024-65536", "1-2-3"] {
        assert!(matches!(bad.parse::<PassivePorts>(), Err(PassivePortsError::Syntax { .. })), "{bad}");
    }
}
