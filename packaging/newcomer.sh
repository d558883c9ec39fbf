# A newcomer's path, as README.md and docs/quick-start.md tell it: from the package that was just installed to a gateway without a
# wide-open rule. Part of check-package.sh, whose `within`, `fail`, `start` and `stop` it uses; this namespace is the gateway.
# shellcheck shell=sh

# A host beside the gateway: a network namespace of its own, which ends with this run.
#     host INTERFACE PEER ADDRESS GATEWAY
host() {
    unshare --net sleep infinity &
    pid=$!
    until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do kill -0 $pid || fail "no namespace"; done
    ip link add "$1" type veth peer name "$2" netns $pid
    ip link set "$1" up
    on $pid ip link set lo up
    on $pid ip link set "$2" up
    on $pid ip address add "$3/24" dev "$2"
    on $pid ip route add default via "$4"
}
on() {
    of=$1
    shift
    nsenter --target "$of" --net "$@"
}
# Waits for a fact.
#     wait_for WHAT COMMAND ...
wait_for() {
    what=$1
    shift
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ $tries -lt 100 ] || fail "in vain: $what"
        sleep 0.1
    done
}
# Runs a command that has to end with this exit code; its output is in $said.
#     expect CODE COMMAND ...
expect() {
    code=$1
    shift
    set +e
    said=$("$@" 2>&1)
    was=$?
    set -e
    [ $was = "$code" ] || fail "$*: exit code $was instead of $code: $said"
}
# Whether it said so.
told() {
    printf '%s\n' "$said" | grep -q -e "$1" || fail "it is not told ($1): $said"
}

newcomer() {
    server=192.0.2.10
    host wan0 eth0 203.0.113.9 203.0.113.1
    client_host=$pid
    host lan0 eth0 $server 192.0.2.1
    server_host=$pid
    ip address add 203.0.113.1/24 dev wan0
    ip address add 192.0.2.1/24 dev lan0
    echo 1 >/proc/sys/net/ipv4/ip_forward

    # As it is before: a server behind the gateway, and the whole range of its data connections open.
    mkdir "$root_tree/tmp/served"
    echo "something to fetch" >"$root_tree/tmp/served/file"
    on $server_host chroot "$root_tree" ftp-helper ftpd --listen $server:21 --root /tmp/served --passive-ports 40000-40099 &
    ftpd=$!
    wait_for "the server listens" on $server_host sh -c "ss -ltn | grep -q '$server:21'"
    cat >"$root_tree/etc/nftables.conf" <<-'END'
		flush ruleset
		table inet filter {
			chain forward {
				type filter hook forward priority filter; policy drop;
				ct state established,related accept
				iifname "lan0" accept
				iifname "wan0" tcp dport { 21, 40000-60000 } accept
			}
		}
	END
    within nft -f /etc/nftables.conf

    # Four lines of configuration, and it watches.
    cat >"$root_tree/etc/ftp-helper/ftp-helper.toml" <<-END
		mode = "observe"
		watch.interfaces = ["wan0"]
		guard = [{ direction = "in", networks = ["$server"] }]
		server = [{ address = ["$server"], passive_ports = "40000-40099" }]
	END
    expect 0 within ftp-helper check
    start

    # The wide-open rule is named, with what removes it.
    expect 4 within ftp-helper doctor
    told 'wide_range'
    told 'nft delete rule inet filter forward handle'

    # What happens is told while it happens.
    chroot "$root_tree" ftp-helper observe -f -o jsonl >"$root/events" &
    observer=$!
    fetch() { on $client_host curl --silent --show-error --max-time 10 "$@" ftp://anonymous:x@$server/file; }
    for how in --ftp-pasv "--ftp-pasv --disable-epsv"; do
        # shellcheck disable=SC2086 # Two words.
        [ "$(fetch $how)" = "something to fetch" ] || fail "no transfer while observing ($how)"
    done
    knock() { on $client_host curl --silent --max-time 1 http://$server:40050/; }
    expect 7 knock
    for event in session_start opened used data_end session_end denied; do
        wait_for "the event $event" grep -q "\"event\":\"$event\"" "$root/events"
    done
    # And what is going on, when asked.
    expect 0 within ftp-helper status
    told 'syn_would_deny'
    expect 0 within ftp-helper sessions
    expect 0 within ftp-helper pinholes
    kill $observer
    wait $observer || :

    # From now on only what was negotiated passes, and the wide rule goes.
    sed -i 's/"observe"/"drop"/' "$root_tree/etc/ftp-helper/ftp-helper.toml"
    expect 0 within ftp-helper reload
    within ftp-helper integrate nft --print >"$root_tree/tmp/rules.sh"
    grep -q 'nft delete rule inet filter forward handle' "$root_tree/tmp/rules.sh" || fail "the rule is not named: $(cat "$root_tree/tmp/rules.sh")"
    within sh -e /tmp/rules.sh
    # It had let the control connection in as well.
    within nft insert rule inet filter forward iifname wan0 ip daddr $server tcp dport 21 accept
    expect 0 within ftp-helper doctor
    for how in --ftp-pasv "--ftp-pasv --disable-epsv"; do
        # shellcheck disable=SC2086 # Two words.
        [ "$(fetch $how)" = "something to fetch" ] || fail "no transfer while dropping ($how)"
    done

    # Who comes without having negotiated waits in vain, and is told why not.
    expect 28 knock
    expect 10 within ftp-helper why 203.0.113.9 $server:40050
    told 'denied'
    told 'pinhole'
    expect 0 within ftp-helper why 203.0.113.9 $server:21

    stop
    kill $ftpd $client_host $server_host
    wait $ftpd $client_host $server_host || :
    # What was laid out for this path is no package's.
    rm -r "$root_tree/tmp/served" "$root_tree/tmp/rules.sh"
}
