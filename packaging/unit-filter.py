#!/usr/bin/env python3
"""The system-call filter of a unit, without systemd.

    unit-filter.py list UNIT              the calls that the unit's SystemCallFilter= lines allow, by systemd-analyze's sets
    unit-filter.py run LIST COMMAND ...   runs a command with nothing but these calls; the others fail as the unit says: EPERM
"""

import errno
import os
import subprocess
import sys


def sets():
    """systemd's sets of calls: each name with what it holds, other sets among it."""
    text = subprocess.run(["systemd-analyze", "syscall-filter"], check=True, capture_output=True, text=True).stdout
    found, name = {}, None
    for line in text.splitlines():
        word = line.strip()
        if line.startswith("@"):
            name = word
            found[name] = []
        elif not word or not line.startswith(" "):
            name = None if not word else name
        elif name and not word.startswith("#"):
            found[name].append(word)
    return found


def calls(word, known):
    """The calls that a word of the filter stands for."""
    if not word.startswith("@"):
        return {word}
    return set().union(*(calls(inner, known) for inner in known[word]))


def allowed(unit):
    """The filter of a unit as systemd.exec(5) reads it: the first line makes it a list of what is allowed, later ones add or remove."""
    known, result = sets(), set()
    with open(unit, encoding="utf-8") as file:
        for line in file:
            if not line.startswith("SystemCallFilter="):
                continue
            words = line.split("=", 1)[1].strip()
            remove = words.startswith("~")
            those = set().union(*(calls(word, known) for word in words.lstrip("~").split()))
            result = result - those if remove else result | those
    # systemd allows these in every list of what is allowed.
    return result | calls("@default", known)


def run(names, command):
    """Becomes the command, with these calls only."""
    import seccomp

    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in names:
        try:
            rules.add_rule(seccomp.ALLOW, name)
        except (RuntimeError, ValueError, OSError):
            # A call of other machines.
            pass
    rules.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    if sys.argv[1] == "list":
        print("\n".join(sorted(allowed(sys.argv[2]))))
    else:
        with open(sys.argv[2], encoding="utf-8") as list_of_names:
            run(list_of_names.read().split(), sys.argv[3:])
