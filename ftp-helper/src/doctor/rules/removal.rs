//! How a rule is removed from the running ruleset, by whoever manages it.

use crate::nft::ruleset::{Chain, Manager, Rule, Ruleset};

/// The commands that remove a rule from the running ruleset.
pub(super) fn removal(ruleset: &Ruleset, chain: &Chain, rule: &Rule) -> Vec<String> {
    let Chain { family, table, name, .. } = chain;
    let by_handle = format!("nft delete rule {family} {table} {name} handle {}", rule.handle);
    match ruleset.manager(chain) {
        // In double quotes a shell acts upon these.
        Manager::Iptables => match rule.iptables.as_ref().filter(|spec| !spec.contains(['$', '`', '\\'])) {
            Some(spec) => {
                let program = if family == "ip6" { "ip6tables" } else { "iptables" };
                vec![format!("{program} -t {table} -D {spec}")]
            }
            None => vec![by_handle],
        },
        Manager::Firewalld => firewalld_removal(name, &rule.text).unwrap_or_default(),
        Manager::Administrator => vec![by_handle],
    }
}

/// How firewalld is told to drop a rule that it has written for a port or for the service ftp.
fn firewalld_removal(chain: &str, text: &str) -> Option<Vec<String>> {
    let zone =
        chain.strip_prefix("filter_IN_").or_else(|| chain.strip_prefix("filter_FWD_"))?.strip_suffix("_allow")?;
    // Policies have chains of the same form.
    let at = match zone.strip_prefix("policy_") {
        Some(policy) => format!("--policy={policy}"),
        None => format!("--zone={zone}"),
    };
    if text.contains("ct helper set") {
        return Some(vec![
            format!("firewall-cmd {at} --remove-service=ftp"),
            format!("firewall-cmd {at} --add-port=21/tcp"),
        ]);
    }
    let ports = text.strip_prefix("tcp dport ")?.strip_suffix(" accept")?;
    let plain = ports.chars().all(|c| c.is_ascii_digit() || c == '-');
    plain.then(|| vec![format!("firewall-cmd {at} --remove-port={ports}/tcp")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn firewalld_is_told_by_its_own_commands() {
        assert_eq!(
            firewalld_removal("filter_IN_public_allow", "tcp dport 40000-50000 accept").unwrap(),
            ["firewall-cmd --zone=public --remove-port=40000-50000/tcp"]
        );
        assert_eq!(
            firewalld_removal("filter_IN_public_allow", "tcp dport 21 ct helper set \"helper-ftp-tcp\"").unwrap()[0],
            "firewall-cmd --zone=public --remove-service=ftp"
        );
        assert_eq!(firewalld_removal("filter_FWD_public_allow", "oifname \"lan0\" accept"), None);
        assert_eq!(
            firewalld_removal("filter_FWD_policy_x_allow", "tcp dport 5000 accept").unwrap(),
            ["firewall-cmd --policy=x --remove-port=5000/tcp"]
        );
    }

    #[test]
    fn iptables_is_told_by_its_own_specification_unless_a_shell_would_read_more_into_it() {
        let rule =
            |spec: &str| Rule { handle: 9, statements: vec![], text: String::new(), iptables: Some(spec.into()) };
        let chain =
            Chain { family: "ip6".into(), table: "filter".into(), name: "INPUT".into(), base: None, rules: vec![] };
        let key = ("ip6".to_owned(), "filter".to_owned());
        let r = Ruleset { tables: [(key, Manager::Iptables)].into(), ..Ruleset::default() };
        assert_eq!(
            removal(&r, &chain, &rule("INPUT -p tcp -m tcp --dport 40000:50000 -j ACCEPT")),
            ["ip6tables -t filter -D INPUT -p tcp -m tcp --dport 40000:50000 -j ACCEPT"]
        );
        assert_eq!(
            removal(&r, &chain, &rule("INPUT -m comment --comment \"$(x)\" -j ACCEPT")),
            ["nft delete rule ip6 filter INPUT handle 9"]
        );
    }
}
