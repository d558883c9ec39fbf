//! What stands below the help of a command: how it is used.

pub(super) const RUN: &str = "\
Examples:
  ftp-helper run
  ftp-helper run -c /etc/ftp-helper/dmz.toml -v
  ftp-helper run --attach clsact --kernel-log 4";

pub(super) const DETACH: &str = "\
Examples:
  ftp-helper detach
  ftp-helper detach --socket /run/ftp-helper/dmz/ftp-helper.sock
  ftp-helper detach -c /etc/ftp-helper/dmz.toml --when-stopped ftp-helper@dmz.service";

pub(super) const CHECK: &str = "\
Examples:
  ftp-helper check
  ftp-helper check -c new.toml -o json";

pub(super) const DOCTOR: &str = "\
Examples:
  ftp-helper doctor
  ftp-helper doctor -c new.toml -o jsonl
  ftp-helper doctor --quiet 10m";

pub(super) const INTEGRATE: &str = "\
Examples:
  ftp-helper integrate nft --print
  ftp-helper integrate firewalld --print -c /etc/ftp-helper/dmz.toml";

pub(super) const STATUS: &str = "\
Examples:
  ftp-helper status
  ftp-helper status -o json | jq .counters
  ftp-helper status -c /etc/ftp-helper/dmz.toml";

pub(super) const WHY: &str = "\
Examples:
  ftp-helper why 203.0.113.10 192.0.2.10:50069
  ftp-helper why '[2001:db8::7]:40001' '[2001:db8:1::10]:50069' -o json";

pub(super) const REPLAY: &str = "\
Examples:
  ftp-helper replay ftp.pcap
  ftp-helper replay ftp.pcapng -c /etc/ftp-helper/ftp-helper.toml --outside server -o jsonl
  sudo ftp-helper replay ftp.pcap --through-kernel";

pub(super) const LAB: &str = "\
Examples:
  sudo ftp-helper lab demo
  sudo ftp-helper lab --help";

pub(super) const FTPD: &str = "\
Examples:
  ftp-helper ftpd --listen 127.0.0.1:2121 --root /srv/ftp
  ftp-helper ftpd --listen '[::1]:2121' --root . --passive-ports 50000-50100";

pub(super) const COMPLETIONS: &str = "\
Examples:
  ftp-helper completions bash > /usr/share/bash-completion/completions/ftp-helper
  ftp-helper completions fish | source";

pub(super) const MAN: &str = "\
Examples:
  ftp-helper man | man -l -
  ftp-helper man --into /usr/local/share/man/man1";
