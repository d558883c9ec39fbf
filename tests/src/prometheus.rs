//! Prometheus of Debian on a lab's gateway: what it reads from the daemon, and what it makes of expressions and rules.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use ftp_helper::lab::{self, Host, Lab, process::Process};
use serde_json::Value;

use crate::gateway::{PATIENCE, until};

/// The labels of a series, its name among them, and its value now.
pub type Sample = (BTreeMap<String, String>, f64);

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    host: Host,
    at: SocketAddr,
    process: Process,
}

impl Prometheus {
    /// Starts it: it reads `target` and evaluates `rules` every half second.
    ///
    /// # Errors
    /// When it is not there (`cargo xtask setup` unpacks it), or does not become ready.
    pub fn start(lab: &Lab, target: SocketAddr, rules: &Path) -> Result<Self> {
        let at: SocketAddr = ([127, 0, 0, 1], 9090).into();
        let (config, data) = (lab.directory().join("prometheus.yml"), lab.directory().join("prometheus"));
        let text = format!(
            "global: {{scrape_interval: 500ms, evaluation_interval: 500ms}}\nrule_files: [\"{}\"]\nscrape_configs:\n  \
             - job_name: ftp-helper\n    static_configs: [{{targets: [\"{target}\"]}}]\n",
            rules.display()
        );
        std::fs::write(&config, text).with_context(|| format!("can't write {}", config.display()))?;
        let mut command = lab.gateway().command(program("prometheus")?);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={at}")).arg("--log.level=warn");
        let process = Process::spawn(command)?;
        let mut prometheus = Self { host: lab.gateway().clone(), at, process };
        let ready = until("Prometheus is ready", || {
            let ended = prometheus.process.ended().is_ok_and(|e| e.is_some());
            (ended || prometheus.get("/-/ready").is_ok()).then_some(!ended)
        });
        match ready {
            Ok(true) => Ok(prometheus),
            _ => bail!("Prometheus does not run:\n{}", prometheus.process.output()?),
        }
    }

    /// What an expression comes to now.
    ///
    /// # Errors
    /// When it can't be evaluated, or comes to no vector.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let answer = self.api(&format!("/api/v1/query?query={}", escaped(expression)))?;
        let samples = answer["result"].as_array().with_context(|| format!("{expression}: {answer}"))?;
        let sample = |s: &Value| -> Option<Sample> {
            let labels = s["metric"].as_object()?.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
            Some((labels.collect::<Option<_>>()?, s["value"][1].as_str()?.parse().ok()?))
        };
        samples.iter().map(|s| sample(s).with_context(|| format!("{expression}: {s}"))).collect()
    }

    /// The rules, as its API tells them.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn rules(&self) -> Result<Vec<Value>> {
        let answer = self.api("/api/v1/rules")?;
        let groups = answer["groups"].as_array().context("no groups of rules")?;
        Ok(groups.iter().filter_map(|g| g["rules"].as_array()).flatten().cloned().collect())
    }

    fn api(&self, path: &str) -> Result<Value> {
        let mut answer: Value = serde_json::from_str(&self.get(path)?)?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer["data"].take())
    }

    fn get(&self, path: &str) -> Result<String> {
        get(&self.host, self.at, path)
    }
}

/// Runs `promtool`, which has to succeed; what it says.
///
/// # Errors
/// When it is not there, or fails.
pub fn promtool(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program("promtool")?);
    command.args(arguments);
    let done = Process::spawn(command)?.finish(PATIENCE)?;
    ensure!(done.success(), "promtool {arguments:?}:\n{}", done.output);
    Ok(done.output)
}

/// What a web server on a host answers, which has to succeed.
///
/// # Errors
/// When it does not.
pub fn get(host: &Host, at: SocketAddr, path: &str) -> Result<String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Of the old version, so that the answer comes in one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: gateway\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = host.run_in(ask)??;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{path}: {answer}"))?;
    ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {answer}");
    Ok(body.to_owned())
}

/// A program of the package that `cargo xtask setup` has unpacked: installed, it would start a service on the host.
fn program(name: &str) -> Result<PathBuf> {
    let file = std::path::absolute(lab::servers::default_cache())?.join("prometheus/usr/bin").join(name);
    ensure!(file.is_file(), "{} is missing: cargo xtask setup", file.display());
    Ok(file)
}

fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, b| {
        if b.is_ascii_alphanumeric() {
            all.push(b.into());
        } else {
            // Writing to a string does not fail.
            let _ = write!(all, "%{b:02X}");
        }
        all
    })
}
