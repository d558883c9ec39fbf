//! The ruleset of this network namespace, as `nft` tells it: what it does (JSON) and how it is written (text).
//!
//! Rules of iptables-nft are told by `nft` only in part: their matches of extensions stand in the text alone. For tables
//! of iptables-nft the rules are also told as iptables would write them.

use std::{collections::BTreeMap, io, process::Command};

use serde_json::Value;

use crate::error::{Code, Fault};

/// Everything that `nft list ruleset` shows.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// The chains in the order of the listing.
    pub chains: Vec<Chain>,
    /// Flow tables.
    pub flowtables: Vec<Flowtable>,
    /// Objects of the kernel's connection tracking helpers.
    pub helpers: Vec<Helper>,
    /// The elements of named sets and maps.
    pub sets: BTreeMap<Name, Vec<Value>>,
    /// All tables: family and name, and who manages them.
    pub tables: BTreeMap<(String, String), Manager>,
}

/// Family, table, and the name of something in it.
pub type Name = (String, String, String);

/// Who writes the rules of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manager {
    /// The administrator, or a program of his.
    Administrator,
    /// iptables-nft or ip6tables-nft.
    Iptables,
    /// firewalld.
    Firewalld,
}

/// A chain.
#[derive(Clone, PartialEq, Debug)]
pub struct Chain {
    /// `inet`, `ip`, `ip6`, `bridge`, `netdev` or `arp`.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where packets come into it by themselves; none where rules lead.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Where packets come into a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// `prerouting`, `input`, `forward` …
    pub hook: String,
    /// The lower, the earlier.
    pub priority: i64,
    /// Whether what no rule decides is accepted.
    pub accept: bool,
}

/// A rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// What `nft delete rule` takes.
    pub handle: u64,
    /// Its statements.
    pub statements: Vec<Value>,
    /// How it is written.
    pub text: String,
    /// How iptables writes it, without the `-A`: chain and specification.
    pub iptables: Option<String>,
}

/// A flow table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flowtable {
    /// Family and table.
    pub table: (String, String),
    /// Its name.
    pub name: String,
    /// Its interfaces.
    pub devices: Vec<String>,
    /// Whether the hardware forwards for it.
    pub offload: bool,
}

/// An object that stands for a helper of connection tracking.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Helper {
    /// Family, table and name.
    pub name: Name,
    /// The helper, such as `ftp`.
    pub kind: String,
}

impl Ruleset {
    /// Reads it.
    ///
    /// # Errors
    /// When `nft` is missing, may not, or says what can't be read.
    pub fn read() -> Result<Self, Fault> {
        let json = run("nft", &["-j", "list", "ruleset"])?;
        let text = run("nft", &["-a", "list", "ruleset"])?;
        let both = format!("{}{}", text.output, text.complaints);
        let mut saves = BTreeMap::new();
        for (family, program) in [("ip", "iptables-save"), ("ip6", "ip6tables-save")] {
            // Without the program, the rules are told as nft writes them.
            if both.contains(&format!("table {family} "))
                && both.contains("managed by iptables-nft")
                && let Ok(said) = run(program, &[])
            {
                saves.insert(family, said.output);
            }
        }
        Self::parse(&json.output, &both, &saves)
            .map_err(|e| Fault::new(Code::Failure, format!("can't understand what `nft -j list ruleset` says: {e}")))
    }

    /// Reads what `nft` has said: as JSON, as text with handles, and what `iptables-save` says of a family.
    ///
    /// # Errors
    /// When it is no JSON of `nft`.
    pub fn parse(json: &str, text: &str, saves: &BTreeMap<&str, String>) -> Result<Self, String> {
        let json: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let all = json.get("nftables").and_then(Value::as_array).ok_or("it has no member `nftables`")?;
        let texts = texts(text);
        let mut ruleset = Self::default();
        let word = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name_of = |v: &Value| (word(v, "family"), word(v, "table"), word(v, "name"));
        for object in all.iter().filter_map(Value::as_object) {
            let Some((kind, v)) = object.iter().next() else { continue };
            let (family, table, name) = name_of(v);
            match kind.as_str() {
                "table" => {
                    let managed = text.contains(&format!("table {family} {name} is managed by iptables-nft"));
                    let manager = match (managed, name.as_str()) {
                        (true, _) => Manager::Iptables,
                        (_, "firewalld") => Manager::Firewalld,
                        _ => Manager::Administrator,
                    };
                    ruleset.tables.insert((family, name), manager);
                }
                "chain" => {
                    let base = v.get("hook").and_then(Value::as_str).map(|hook| Base {
                        kind: word(v, "type"),
                        hook: hook.to_owned(),
                        priority: v.get("prio").and_then(Value::as_i64).unwrap_or(0),
                        accept: word(v, "policy") != "drop",
                    });
                    ruleset.chains.push(Chain { family, table, name, base, rules: Vec::new() });
                }
                "rule" => {
                    let chain = word(v, "chain");
                    let handle = v.get("handle").and_then(Value::as_u64).unwrap_or(0);
                    let statements = v.get("expr").and_then(Value::as_array).cloned().unwrap_or_default();
                    let written = texts.get(&(family.clone(), table.clone(), chain.clone(), handle));
                    let rule = Rule { handle, statements, text: written.cloned().unwrap_or_default(), iptables: None };
                    let of = |c: &&mut Chain| c.family == family && c.table == table && c.name == chain;
                    if let Some(chain) = ruleset.chains.iter_mut().find(of) {
                        chain.rules.push(rule);
                    }
                }
                "set" | "map" => {
                    let elements = v.get("elem").and_then(Value::as_array).cloned().unwrap_or_default();
                    ruleset.sets.insert((family, table, name), elements);
                }
                "flowtable" => {
                    let devices = match v.get("dev") {
                        Some(Value::String(one)) => vec![one.clone()],
                        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
                        _ => Vec::new(),
                    };
                    let offload = offloads(text, &family, &table, &name);
                    ruleset.flowtables.push(Flowtable { table: (family, table), name, devices, offload });
                }
                "ct helper" => {
                    let kind = word(v, "type");
                    ruleset.helpers.push(Helper { name: (family, table, name), kind });
                }
                _ => {}
            }
        }
        ruleset.add_iptables(saves);
        Ok(ruleset)
    }

    /// The chain of a name.
    pub fn chain(&self, family: &str, table: &str, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.family == family && c.table == table && c.name == name)
    }

    /// The base chains at a hook that a packet of a family passes, in its order.
    pub fn at(&self, hook: &str, v4: bool) -> Vec<&Chain> {
        let family = if v4 { "ip" } else { "ip6" };
        let fits = |c: &&Chain| {
            let here = c.base.as_ref().is_some_and(|b| b.hook == hook && b.kind != "nat");
            here && (c.family == family || c.family == "inet")
        };
        let mut all: Vec<&Chain> = self.chains.iter().filter(fits).collect();
        all.sort_by_key(|c| c.base.as_ref().map_or(0, |b| b.priority));
        all
    }

    /// Who manages a chain's table.
    pub fn manager(&self, chain: &Chain) -> Manager {
        let key = (chain.family.clone(), chain.table.clone());
        self.tables.get(&key).copied().unwrap_or(Manager::Administrator)
    }

    /// Gives the rules of iptables-nft their text, where both lists have the same length.
    fn add_iptables(&mut self, saves: &BTreeMap<&str, String>) {
        for (family, save) in saves {
            let mut rules: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
            let mut table = "";
            for line in save.lines() {
                if let Some(name) = line.strip_prefix('*') {
                    table = name.trim();
                } else if let Some(rule) = line.strip_prefix("-A ")
                    && let Some(chain) = rule.split_whitespace().next()
                {
                    rules.entry((table.to_owned(), chain.to_owned())).or_default().push(rule.to_owned());
                }
            }
            for chain in self.chains.iter_mut().filter(|c| c.family == *family) {
                let Some(texts) = rules.get(&(chain.table.clone(), chain.name.clone())) else { continue };
                if texts.len() == chain.rules.len() {
                    for (rule, text) in chain.rules.iter_mut().zip(texts) {
                        rule.iptables = Some(text.clone());
                    }
                }
            }
        }
    }
}

impl Chain {
    /// Where a rule stands, for people.
    pub fn place(&self, rule: &Rule) -> String {
        format!("table {} {}, chain {}, handle {}", self.family, self.table, self.name, rule.handle)
    }

    /// Where the chain stands, for people.
    pub fn place_of_policy(&self) -> String {
        format!("table {} {}, chain {}", self.family, self.table, self.name)
    }
}

impl Rule {
    /// How it is written, by iptables where that wrote it.
    pub fn written(&self) -> String {
        match &self.iptables {
            Some(rule) => format!("-A {rule}"),
            None => self.text.clone(),
        }
    }
}

/// What a program has said.
struct Said {
    output: String,
    complaints: String,
}

fn run(program: &str, args: &[&str]) -> Result<Said, Fault> {
    let line = || format!("`{program} {}`", args.join(" "));
    let done = Command::new(program).args(args).env("LC_ALL", "C").stdin(std::process::Stdio::null()).output();
    let done = done.map_err(|e| {
        let why = if e.kind() == io::ErrorKind::NotFound { "it is not installed".to_owned() } else { e.to_string() };
        Fault::new(Code::Failure, format!("can't run {}: {why}", line()))
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { output: text(&done.stdout), complaints: text(&done.stderr) };
    if done.status.success() {
        return Ok(said);
    }
    let code = if said.complaints.contains("not permitted") { Code::NoPermission } else { Code::Failure };
    Err(Fault::new(code, format!("{} fails ({}): {}", line(), done.status, said.complaints.trim())))
}

/// The text of each rule: the lines of a listing that end in its handle.
fn texts(listing: &str) -> BTreeMap<(String, String, String, u64), String> {
    let mut texts = BTreeMap::new();
    let (mut family, mut table, mut chain) = (String::new(), String::new(), String::new());
    // An element list may go over several lines.
    let mut begun = String::new();
    for line in listing.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["table", f, t, "{", ..] => (family, table, chain) = (f.to_owned(), t.to_owned(), String::new()),
            ["chain", c, "{", ..] => chain = c.to_owned(),
            [_, _, "{", "#", "handle", _] | ["}"] if begun.is_empty() => chain.clear(),
            _ if chain.is_empty() => {}
            _ => {
                begun.push_str(line.trim());
                if let Some((text, handle)) = begun.rsplit_once("# handle ")
                    && let Ok(handle) = handle.trim().parse()
                {
                    texts.insert((family.clone(), table.clone(), chain.clone(), handle), text.trim().to_owned());
                    begun.clear();
                } else if begun.matches('{').count() == begun.matches('}').count() {
                    begun.clear();
                } else {
                    begun.push(' ');
                }
            }
        }
    }
    texts
}

/// Whether a flow table of the listing has the flag `offload`.
fn offloads(listing: &str, family: &str, table: &str, name: &str) -> bool {
    let mut lines = listing.lines().map(str::trim);
    let in_table = lines.by_ref().any(|l| l.starts_with(&format!("table {family} {table} {{")));
    let found = in_table && lines.by_ref().any(|l| l.starts_with(&format!("flowtable {name} {{")));
    found && lines.take_while(|l| *l != "}").any(|l| l.starts_with("flags ") && l.contains("offload"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
table inet filter { # handle 1
\tflowtable f { # handle 7
\t\thook ingress priority filter
\t\tdevices = { lan0, wan0 }
\t\tflags offload
\t}

\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname \"lo\" accept # handle 2
\t\ttcp dport { 22, 25,
\t\t\t     40000-50000 } accept # handle 5
\t}
}
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter { # handle 2
\tchain INPUT { # handle 1
\t\ttype filter hook input priority filter; policy accept;
\t\ttcp dport 21 counter packets 0 bytes 0 xt target CT # handle 4
\t}
}
";
    const JSON: &str = r#"{"nftables":[{"metainfo":{"version":"1.0.6"}},
        {"table":{"family":"inet","name":"filter","handle":1}},
        {"flowtable":{"family":"inet","name":"f","table":"filter","handle":7,"hook":"ingress","prio":0,"dev":["lan0","wan0"]}},
        {"chain":{"family":"inet","table":"filter","name":"input","handle":1,"type":"filter","hook":"input","prio":0,"policy":"drop"}},
        {"rule":{"family":"inet","table":"filter","chain":"input","handle":2,"expr":[{"accept":null}]}},
        {"rule":{"family":"inet","table":"filter","chain":"input","handle":5,"expr":[{"accept":null}]}},
        {"table":{"family":"ip","name":"filter","handle":2}},
        {"chain":{"family":"ip","table":"filter","name":"INPUT","handle":1,"type":"filter","hook":"input","prio":0,"policy":"accept"}},
        {"rule":{"family":"ip","table":"filter","chain":"INPUT","handle":4,"expr":[{"xt":{"type":"target","name":"CT"}}]}},
        {"ct helper":{"family":"inet","name":"ftp-std","table":"filter","handle":3,"type":"ftp","protocol":"tcp","l3proto":"ip"}}
        ]}"#;

    #[test]
    fn a_listing_is_read() {
        let save = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 21 -j CT --helper ftp\nCOMMIT\n";
        let ruleset = Ruleset::parse(JSON, LISTING, &[("ip", save.to_owned())].into()).unwrap();
        assert_eq!(ruleset.chains.len(), 2);
        let input = ruleset.chain("inet", "filter", "input").unwrap();
        assert_eq!(input.rules[0].text, "iifname \"lo\" accept");
        assert_eq!(input.rules[1].text, "tcp dport { 22, 25, 40000-50000 } accept");
        assert_eq!(input.place(&input.rules[1]), "table inet filter, chain input, handle 5");
        assert!(!input.base.as_ref().unwrap().accept);
        let ct = &ruleset.chain("ip", "filter", "INPUT").unwrap().rules[0];
        assert_eq!(ct.written(), "-A INPUT -p tcp -m tcp --dport 21 -j CT --helper ftp");
        assert_eq!(ruleset.manager(ruleset.chain("ip", "filter", "INPUT").unwrap()), Manager::Iptables);
        assert_eq!(ruleset.manager(input), Manager::Administrator);
        let f = &ruleset.flowtables[0];
        assert_eq!((f.devices.len(), f.offload), (2, true));
        assert_eq!(ruleset.helpers[0].kind, "ftp");
        assert_eq!(ruleset.at("input", true).len(), 2);
        assert_eq!(ruleset.at("input", false).len(), 1);
        assert!(Ruleset::parse("{}", "", &BTreeMap::new()).is_err());
        assert!(!offloads(&LISTING.replace("flags offload", ""), "inet", "filter", "f"));
    }
}
