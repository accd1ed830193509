#!/usr/bin/env python3
"""What a Linux host with open-iscsi and multipath meets at two arrays of a synchronous pair with one identity (decision 25), and at a
plain volume. Called by tests/kernel/run, which makes the virtual machine.

Shown: one disk with a path to each array, found by ALUA; a file system and a disk under load go on by themselves through reversals, the
death of the first array, its return, and one that stands still; nothing that was acknowledged is missing, and no program sees an error.
The multipath.conf is that of docs/operations.md.
"""
import argparse
import re
import statistics
import sys
import time

from rig import Array, Failed, Guest, Way, fresh_directory, has_kvm, multipath_conf, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--binary", default="target/debug/holdfast")
parser.add_argument("--place", default="target/kernel", help="where kernel and initial RAM disk are, and the logs go")
parser.add_argument("--port", type=int, default=28100)
parser.add_argument("--rounds", type=int, default=1, help="how often the first array is lost")
parser.add_argument("--keep", action="store_true", help="do not end the guest and the arrays of a story that failed")
args = parser.parse_args()

STORY = f"{args.place}/story"
# From an operator's command to the first acknowledged write of the host (issue 4: under 60 s); a path that swallows packets has to be
# noticed first.
GOES_ON_LIMIT_S = 60
CHAP_USER, CHAP_SECRET = "kernelhost", "a secret of 16 b"
# Of each event: from the command of the operator on.
COLUMNS = ["answered after", "disk and files written after", "and the longest write of the host took"]
results = []


def check(name, is_so, detail=""):
    results.append((name, bool(is_so)))
    print(f"{'ok' if is_so else 'FAILED'}: {name}{': ' + detail if detail else ''}", flush=True)


class Load:
    """load.py in the guest."""

    def __init__(self, guest, kind, path):
        self.guest, self.kind, self.path = guest, kind, path
        self.log = f"/run/{kind}.log"
        guest.do(f"rm -f {self.log}*; setsid python3 /load.py write {kind} {path} {self.log} >{self.log}.out 2>&1 </dev/null &")

    def first_after(self, moment):
        """The seconds from a moment of our clock until the first write that began after it was acknowledged; `None` if none was yet."""
        begin = moment + self.guest.clock_ahead_s
        text = self.guest.do(f"touch {self.log}; awk '$1 == \"ok\" && $2 - $3 > {begin} {{print $2; exit}}' {self.log}").strip()
        return float(text) - begin if text else None

    def wait_until_it_goes_on(self, moment):
        return wait_for(f"{self.kind} are written", GOES_ON_LIMIT_S * 2, lambda: self.first_after(moment))

    def longest(self, begin, end):
        """The longest that a write took which was acknowledged between two moments of our clock."""
        ahead = self.guest.clock_ahead_s
        return float(self.guest.do(f"awk '$1 == \"ok\" && $2 > {begin + ahead} && $2 < {end + ahead} && $3 > m {{m = $3}} END {{print m + 0}}' {self.log}"))

    def stop(self):
        self.guest.do(f"touch {self.log}.stop; for i in $(seq 1200); do pgrep -f '[l]oad.py write {self.kind}' >/dev/null || exit 0; sleep 0.1; done; exit 1", 150)

    def check(self, name):
        status, text = self.guest.run(f"python3 /load.py check {self.kind} {self.path} {self.log}", 300)
        check(name, status == 0, text.strip()[-600:])


def configure(alpha, beta, ways):
    """As docs/operations.md 4.4 makes them by commands. Each finds the other one over the way to it."""
    sizes = {"data1": 384, "data2": 64, "jnl": 256}
    for array, other in ((alpha, beta), (beta, alpha)):
        text = "".join(
            f'[[provision.volume]]\nname = "{name}"\nparity_group = "pg0"\nsize = "{mib}MiB"\nthin = {str(name != "jnl").lower()}\n'
            for name, mib in sizes.items()
        )
        text += (
            f'[[provision.target]]\niqn = "{array.iqn}"\ninitiators = ["*"]\n'
            f'luns = [{{ lun = 1, volume = "data1" }}, {{ lun = 2, volume = "data2" }}]\n'
            f'[[provision.link]]\nname = "{other.name}"\narray = {other.number}\nportal = ["{ways[other.name].address}"]\nsecret = "kernel-test-secret"\n'
        )
        if array is alpha:
            text += '[[provision.group]]\nname = "g1"\nfence = "data"\nidentity = "shared"\n'
            text += '[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\n[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\nat = "beta"\n'
            text += "".join(
                f'[[provision.pair]]\nname = "p{n}"\ngroup = "g1"\npvol = "data{n}"\nsvol = "beta:data{n}"\ncopy = "sync"\n' for n in (1, 2)
            )
            # A plain volume behind CHAP in both directions.
            text += '[[provision.volume]]\nname = "plain"\nparity_group = "pg0"\nsize = "128MiB"\nthin = true\n'
            text += (
                f'[[provision.target]]\niqn = "{alpha.iqn}.plain"\ninitiators = ["iqn.2026-11.io.holdfast:kernel-test"]\nluns = [{{ lun = 0, volume = "plain" }}]\n'
                f'chap = {{ user = "{CHAP_USER}", secret = "{CHAP_SECRET}", mutual = {{ user = "alpha", secret = "another of 16 by" }} }}\n'
            )
        array.configure(1200, text)


def spread(values):
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.1f}" if len(values) == 1 else f"{middle:.1f} [{low:.1f}–{high:.1f}]"


def is_synchronised(array):
    group = array.ask("group", "show", "g1")
    return group and group["synchronous"] and group["synchronous"]["state"] == "synchronised"


def wait_until_synchronised(*arrays):
    for array in arrays:
        wait_for(f"{array.name} is synchronised", 120, lambda: is_synchronised(array))


class Host:
    """The guest as its administrator sets it up for one identity at both arrays."""

    def __init__(self, guest, alpha, beta):
        self.guest, self.arrays = guest, {"alpha": alpha, "beta": beta}

    def log_in(self):
        guest = self.guest
        for array in self.arrays.values():
            found = guest.do(f"iscsiadm -m discovery -t sendtargets -p {array.address}")
            check(f"discovery at {array.name} tells its target at its own address", f"{array.address},1 {array.iqn}" in found, found.strip())
        guest.do("iscsiadm -m node -o update -n node.session.timeo.replacement_timeout -v 5")
        guest.do("multipathd -d -s >/run/multipathd.log 2>&1 </dev/null & sleep 2")
        guest.do("iscsiadm -m node --login", 120)
        sessions = guest.do("iscsiadm -m session -P 3")
        self.hosts = {}
        for name, array in self.arrays.items():
            part = sessions.split(f"Target: {array.iqn} ", 1)[1]
            self.hosts[name] = re.search(r"Host Number: (\d+)", part).group(1)

        def disks():
            text = guest.do("multipathd show maps raw format '%n %w'")
            return dict(sorted(line.split() for line in text.splitlines())) if len(text.splitlines()) == 2 else None

        self.disks = wait_for("multipath disks", 60, disks)
        by_lun = {}
        for disk in self.disks:
            for lun in re.findall(r"\d+:0:0:(\d+)", guest.do(f"multipath -ll {disk}")):
                by_lun[int(lun)] = disk
        self.by_lun = by_lun

    def states(self, lun=1):
        """What the checker says of the path to each array."""
        text = self.guest.do(f"multipath -ll {self.by_lun[lun]}")
        return {name: " ".join(re.findall(rf"\b{host}:0:0:\d+ +\S+ +\S+ +\S+ +(\w+)", text)) for name, host in self.hosts.items()}

    def wait_for_states(self, what, **expected):
        try:
            wait_for("", 60, lambda: self.states() == expected and self.states(2) == expected)
            check(what, True, f"{expected}")
        except Failed:
            check(what, False, f"{self.states()} and {self.states(2)}, expected {expected}\n{self.guest.do('multipath -ll')}")


def goes_on(name, loads, moment):
    """The seconds until both loads had a write acknowledged that began after `moment`."""
    times = [load.wait_until_it_goes_on(moment) for load in loads]
    check(name, max(times) < GOES_ON_LIMIT_S, ", ".join(f"{load.kind} {seconds:.1f} s" for load, seconds in zip(loads, times)))
    return max(times)


def shared_identity(guest, alpha, beta, ways, figures):
    host = Host(guest, alpha, beta)
    wait_until_synchronised(alpha, beta)
    host.log_in()
    check("two disks, each with a path to both arrays", len(host.by_lun) == 2)
    host.wait_for_states("the first array is active, the second a ghost", alpha="ready", beta="ghost")
    print(guest.do("multipath -ll"))
    disk1, disk2 = (f"/dev/mapper/{host.by_lun[lun]}" for lun in (1, 2))
    guest.do(f"mkfs.ext4 -q {disk1} && mount {disk1} /mnt/a && mkdir /mnt/a/files", 120)
    loads = [Load(guest, "disk", disk2), Load(guest, "files", "/mnt/a/files")]
    [load.wait_until_it_goes_on(time.time()) for load in loads]

    def turned(what, array, *words, after=1.0, **states):
        time.sleep(after)
        moment = time.time()
        array.do(*words)
        answered = time.time() - moment
        seconds = goes_on(f"{what}: the host goes on by itself", loads, moment)
        longest = max(load.longest(moment - 1, time.time()) for load in loads)
        figures.setdefault(what, []).append((answered, seconds, longest))
        host.wait_for_states(f"{what}: the paths have changed places", **states)

    def planned(what, source, target, **states):
        wait_until_synchronised(alpha, beta)
        turned(what, source, "group", "reverse", "g1", "--to", target.name, "--yes", **states)

    def came_back():
        """The first is overtaken: becomes the copy, then the primary again."""
        wait_for("alpha is overtaken", 60, lambda: ((alpha.ask("group", "show", "g1") or {}).get("takeover") or {}).get("state") == "overtaken")
        host.wait_for_states("the first is back: it stays a ghost", alpha="ghost", beta="ready")
        wait_for("failback", 60, lambda: beta.shell("group", "failback", "g1", "--to", "alpha", "--yes").returncode == 0)
        wait_until_synchronised(alpha, beta)
        turned("failback", beta, "group", "failback", "g1", "--to", "alpha", "--yes", alpha="ready", beta="ghost")

    def cut(is_cut):
        for way in ways.values():
            way.passes.clear() if is_cut else way.passes.set()

    def lost_second(what, goes_on_by):
        """The second is gone: hosts wait, and go on by what is done then."""
        wait_until_synchronised(alpha, beta)
        beta.kill()
        time.sleep(12)
        silent = [load.first_after(time.time() - 4) for load in loads]
        check(f"{what}: the host waits and nothing fails", silent == [None, None], f"{silent}")
        moment = time.time()
        goes_on_by()
        figures.setdefault(what, []).append((time.time() - moment, goes_on(f"{what}: the host goes on by itself", loads, moment)))
        if beta.process.poll() is not None:
            beta.start()
        wait_for("the pairs are resynchronised", 60, lambda: is_synchronised(alpha) or alpha.shell("group", "resume", "g1", "--reader", "beta").returncode == 0)
        wait_until_synchronised(alpha, beta)
        host.wait_for_states(f"{what}: the paths are as before", alpha="ready", beta="ghost")

    planned("reversal", alpha, beta, alpha="ghost", beta="ready")
    planned("reversal back", beta, alpha, alpha="ready", beta="ghost")
    for _ in range(args.rounds):
        wait_until_synchronised(alpha, beta)
        alpha.kill()
        turned("takeover, the first killed", beta, "group", "takeover", "g1", "--yes", after=3, alpha="faulty", beta="ready")
        alpha.start()
        came_back()
    wait_until_synchronised(alpha, beta)
    alpha.pause(True)
    turned("takeover, the first stands still", beta, "group", "takeover", "g1", "--yes", after=3, alpha="faulty", beta="ready")
    alpha.pause(False)
    came_back()
    wait_until_synchronised(alpha, beta)
    cut(True)
    time.sleep(10)
    host.wait_for_states("the arrays do not reach each other: neither answers", alpha="ghost", beta="ghost")
    check("the arrays do not reach each other: the host waits and nothing fails", [load.first_after(time.time() - 3) for load in loads] == [None, None])
    moment = time.time()
    cut(False)
    figures["the arrays reach each other again"] = [(0, goes_on("the arrays reach each other again: the host goes on by itself", loads, moment))]
    host.wait_for_states("the arrays reach each other again: the paths are as before", alpha="ready", beta="ghost")
    wait_until_synchronised(alpha, beta)
    cut(True)
    turned("takeover, the first cut off", beta, "group", "takeover", "g1", "--yes", after=3, alpha="ghost", beta="ready")
    cut(False)
    came_back()
    lost_second("the second is lost and comes back", beta.start)
    lost_second("the second is lost for long", lambda: alpha.do("group", "suspend", "g1", "--reader", "beta"))
    grow(guest, host, alpha, beta)
    # The second becomes a volume of its own. A host takes some seconds until it believes that, and must not write to it meanwhile.
    moment = time.time()
    alpha.do("group", "delete", "g1", "--reader", "beta", "--yes")
    wait_for("the pairs end", 60, lambda: "p1" not in beta.do("pair", "list"))
    time.sleep(15)
    goes_on("the pair ends: the host goes on at the first", loads, moment + 10)
    check("the pair ends: nothing leads to what was the second", host.states()["alpha"] == "ready" and host.states()["beta"] != "ready", f"{host.states()}")
    [load.stop() for load in loads]
    loads[0].check("every acknowledged write of the disk is there")
    loads[1].check("every acknowledged file is there")
    guest.do("umount /mnt/a", 120)
    status, text = guest.run(f"e2fsck -fn {disk1}", 120)
    check("the file system is whole", status == 0, text.strip().splitlines()[-1])
    guest.do("multipath -F && iscsiadm -m node --logout", 120)
    failures = guest.run("dmesg | grep -E 'Buffer I/O error|EXT4-fs error|EXT4-fs .*aborted|blocked for more than|Call Trace|Medium Error|Hardware Error|Aborted Command'")
    check("the kernel complains of nothing but paths", failures[0] == 1, failures[1][:2000])


def grow(guest, host, alpha, beta):
    """The disk under load becomes larger, at both arrays and in the host."""
    wait_until_synchronised(alpha, beta)
    alpha.do("volume", "resize", "data2", "96MiB")
    larger = 96 << 20
    wait_for("data2 has grown", 60, lambda: all((array.ask("volume", "show", "data2") or {}).get("size_bytes") == larger for array in (alpha, beta)))
    disk = host.by_lun[2]
    names = re.findall(r"\d+:0:0:2 +(\w+)", guest.do(f"multipath -ll {disk}"))
    # Both paths first: multipath takes no paths of different sizes.
    guest.do("; ".join(f"echo 1 >/sys/block/{name}/device/rescan" for name in names))
    said = guest.do(f"multipathd resize map {disk}")
    seen = guest.do(f"blockdev --getsize64 /dev/mapper/{disk}; dmesg | grep -c 'Capacity data has changed'").split()
    check("a larger volume is a larger multipath disk", seen[0] == str(larger) and len(names) == 2, f"{seen[0]} bytes, told {seen[1]} times, {said.strip()}")


def plain(guest, alpha):
    """One array, one path, CHAP both ways, digests; TRIM, growth, what is not built, and an array that dies and comes back."""
    target = f"-m node -T {alpha.iqn}.plain -p {alpha.address}"

    def set_up(settings):
        guest.do(" && ".join(f"iscsiadm {target} -o update -n '{name}' -v '{value}' >/dev/null" for name, value in settings.items()))

    guest.do(f"iscsiadm {target} -o new")
    auth = {"authmethod": "CHAP", "username": CHAP_USER, "password": "not this secret!", "username_in": "alpha", "password_in": "another of 16 by"}
    set_up({f"node.session.auth.{name}": value for name, value in auth.items()})
    set_up({f"node.conn[0].iscsi.{kind}Digest": "CRC32C" for kind in ("Header", "Data")})
    status, text = guest.run(f"iscsiadm {target} --login", 60)
    check("a wrong secret is refused", status == 24, f"{status} {text.strip()[-200:]}")
    set_up({"node.session.auth.password": CHAP_SECRET})
    guest.do(f"iscsiadm {target} --login", 60)
    session = wait_for("the disk is there", 30, lambda: (lambda text: "Attached scsi disk" in text and text)(guest.do("iscsiadm -m session -P 3")))
    disk = "/dev/" + re.search(r"Attached scsi disk (\w+)", session).group(1)
    agreed = re.findall(r"(HeaderDigest|DataDigest|MaxRecvDataSegmentLength|MaxXmitDataSegmentLength|FirstBurstLength|MaxBurstLength|ImmediateData|InitialR2T): (\S+)", session)
    check("CHAP both ways and digests are agreed", ("HeaderDigest", "CRC32C") in agreed and ("DataDigest", "CRC32C") in agreed, " ".join("=".join(pair) for pair in agreed))
    pages = guest.do(f"sg_inq {disk} | grep -iE 'vendor|product|TPGS|version' ; sg_vpd -p lbpv {disk} | grep -i 'unmap'; sg_vpd -p bl {disk} | grep -i unmap; sg_rtpg -d {disk}")
    print(pages)
    check("the unit can be trimmed and has one group of ports", "LBPU): 1" in pages and "active/optimized" in pages)
    status, text = guest.run(f"sg_persist -k {disk}")
    check("reservations, which are not built, are refused as an unknown command", "nvalid opcode" in text or "not supported" in text, text.strip()[-150:])

    def allocated():
        return alpha.ask("volume", "show", "plain")["allocated_bytes"]

    guest.do(f"mkfs.ext4 -q {disk} && mount {disk} /mnt/b && dd if=/dev/urandom of=/mnt/b/large bs=1M count=48 conv=fsync status=none", 120)
    before = allocated()
    trimmed = guest.do("rm /mnt/b/large && sync && fstrim -v /mnt/b", 60).strip()
    wait_for("what was trimmed is free", 30, lambda: allocated() <= before - (40 << 20))
    check("fstrim gives the space back", True, f"{trimmed}; {before >> 20} MiB before, {allocated() >> 20} MiB after")
    alpha.do("volume", "resize", "plain", "192MiB")
    guest.do(f"echo 1 >/sys/block/{disk[5:]}/device/rescan && resize2fs {disk}", 60)
    size = guest.do(f"blockdev --getsize64 {disk}; df --output=size -B1M /mnt/b | tail -1").split()
    check("a larger volume is seen after a rescan, and the file system fills it", size[0] == str(192 << 20) and int(size[1]) > 150, " ".join(size))
    guest.do("mkdir /mnt/b/files")
    load = Load(guest, "files", "/mnt/b/files")
    load.wait_until_it_goes_on(time.time())
    alpha.kill()
    time.sleep(5)
    moment = time.time()
    alpha.start()
    goes_on("an array that dies and starts again: the host goes on by itself", [load], moment)
    load.stop()
    load.check("every acknowledged file is there behind the restart")
    guest.do("umount /mnt/b", 60)
    status, text = guest.run(f"e2fsck -fn {disk}", 120)
    check("the plain file system is whole", status == 0, text.strip().splitlines()[-1])
    guest.do(f"iscsiadm {target} --logout && iscsiadm {target} -o delete", 60)


def main():
    fresh_directory(STORY)
    figures, guest = {}, None
    arrays = [Array(args.binary, STORY, number, name, args.port + number) for number, name in ((1, "alpha"), (2, "beta"))]
    try:
        ways = {array.name: Way(args.port + 10 + array.number, array.address) for array in arrays}
        configure(*arrays, ways)
        [array.start() for array in arrays]
        guest = Guest(args.place, STORY, args.port + 90)
        print(guest.do("uname -srv; iscsiadm --version; dpkg-query -W multipath-tools 2>/dev/null"), "processor", "as it is" if has_kvm() else "emulated")
        guest.do("cat >/etc/multipath.conf <<'END'\n" + multipath_conf() + "END\n")
        plain(guest, arrays[0])
        shared_identity(guest, *arrays, ways, figures)
    except Failed as failure:
        check("the story goes on to its end", False, str(failure))
        if args.keep:
            input("kept; Enter ends it")
    finally:
        if guest:
            try:
                with open(f"{STORY}/dmesg.log", "w") as file:
                    file.write(guest.do("dmesg"))
                with open(f"{STORY}/multipathd.log", "w") as file:
                    file.write(guest.do("cat /run/multipathd.log"))
            except (Failed, OSError):
                pass
            guest.stop()
        [array.stop() for array in arrays]
    for what, seen in figures.items():
        print(f"{what}: " + "; ".join(f"{name} {spread(column)} s" for name, column in zip(COLUMNS, zip(*seen))) + f" ({len(seen)} times)")
    failed = [name for name, is_so in results if not is_so]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed else 0


sys.exit(main())
