#!/usr/bin/env python3
"""What a journal costs hosts, and how fast copies follow: plain and journaled volumes of one array, turn and turn about.

    cargo build --release --bin holdfast --example load --example link
    benches/journal.py [--rounds 5] [--secs 2] [--dir /dev/shm/hf]     what journal and readers cost: rates, p99, processor
    benches/journal.py --lag                                           lag at half and nine tenths of the sustainable rate
    benches/journal.py --catch-up                                      how fast a reader catches up, and the initial copy
    benches/journal.py --delay-ms 100                                  either of them over links of that length (examples/link.rs)

Starts a primary with a plain volume and one group for each number of readers (0, 1, 2, 4), and the auxiliaries, all on
loopback from scratch with files on a memory file system, and stops them by their process ids. "0 readers" is the group
with one reader while that process is stopped (SIGSTOP): everything is journaled, nothing is read. The primary is bound
to CPU 0 (--primary-cpus), generator and auxiliaries to CPU 1; these run only when nobody else wants it, as if they had
machines of their own. --awake keeps both CPUs from sleeping, whose waking up would be most of a latency at depth 1. With
--shared the journals lie on the unit of the data. The generator is examples/load.rs; "busy" is its own share of its
processor: near 1 it is the generator that is measured.

Each figure is the median of the rounds; ratios are formed within a round. CPU time is utime + stime of each process
from /proc, for 100,000 writes, until every reader has restored everything. Lag is sampled from `group show --json` while
commands are spaced evenly. Catch-up compares with the width of the link (--link-mib), which a raw stream through the same
proxy is shown to reach.
"""
import argparse
import json
import signal
import socket
import subprocess
import sys
import threading
import time

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/dev/shm/holdfast-journal-bench")
parser.add_argument("--port", type=int, default=27500)
parser.add_argument("--readers", default="0,1,2,4")
parser.add_argument("--jobs", default="randwrite:4k:1 randwrite:4k:32 write:1m:4")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--secs", type=float, default=2)
parser.add_argument("--warm", type=float, default=2)
parser.add_argument("--primary-cpus", default="0", help="CPUs of the primary")
parser.add_argument("--awake", action="store_true", help="keep both CPUs from sleeping")
parser.add_argument("--delay-ms", type=int, default=0, help="length of the links between the arrays")
parser.add_argument("--link-mib", type=int, default=0, help="width of the links in MiB/s; 0: as wide as the machine")
parser.add_argument("--catch-up", action="store_true", help="catching up and initial copy against the raw link")
parser.add_argument("--shared", action="store_true", help="journals on the unit of the data")
parser.add_argument("--lag", action="store_true", help="lag at 50 % and 90 % of the sustainable rate, in place of speed")
args = parser.parse_args()
if args.catch_up and not args.link_mib:
    args.link_mib = 117  # A link of 1 Gbit/s.

READERS = [int(word) for word in args.readers.split(",")]
GROUPS = sorted({max(1, count) for count in READERS})
NAMES = Rig.NAMES[: 1 + max(GROUPS)]
PLAIN_LUN, RAMP = 9, 0.4
VOLUME_MIB, PRIMARY_JOURNAL_MIB, JOURNAL_MIB = 256, 1536, 512
rig = Rig(args.release, args.dir, args.port)


def configure(index):
    name, place = NAMES[index], rig.array_directory(index)
    link_address = rig.link_address if args.delay_ms or args.link_mib else rig.address
    primary = index == 0
    mine = GROUPS if primary else [count for count in GROUPS if count >= index]
    journal = PRIMARY_JOURNAL_MIB if primary else JOURNAL_MIB
    # A copy keeps an image of what it was while differences are copied.
    data_all, journals_all = VOLUME_MIB * (len(mine) + 1) * (1 if primary else 2), journal * len(mine)
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "768MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )
    journal_group = "pg0" if args.shared else "pgj"
    text += parity_group("pg0", f"{place}/u0", data_all + 128 + (journals_all if args.shared else 0))
    if not args.shared:
        text += parity_group("pgj", f"{place}/uj", journals_all + 128)
    luns = []
    for count in mine:
        text += volume(f"v{count}", "pg0", VOLUME_MIB) + volume(f"j{count}", journal_group, journal)
        luns.append(f'{{ lun = {count}, volume = "v{count}" }}')
    for other in range(1, len(NAMES)) if primary else [0]:
        text += (
            f'[[provision.link]]\nname = "{NAMES[other]}"\narray = {other + 1}\nportal = ["{link_address(other)}"]\n'
            f'secret = "journal-bench-{max(index, other)}"\n'
        )
    if primary:
        luns.append(f'{{ lun = {PLAIN_LUN}, volume = "plain" }}')
        text += volume("plain", "pg0", VOLUME_MIB)
        text += f'[[provision.target]]\niqn = "iqn.2026-11.bench:a"\ninitiators = ["*"]\nluns = [{", ".join(luns)}]\n'
        for count in mine:
            text += f'[[provision.group]]\nname = "g{count}"\n'
            text += f'[[provision.journal]]\ngroup = "g{count}"\nvolume = "j{count}"\n'
            for reader in NAMES[1 : 1 + count]:
                text += f'[[provision.journal]]\ngroup = "g{count}"\nvolume = "j{count}"\nat = "{reader}"\n'
                text += (
                    f'[[provision.pair]]\nname = "p{count}-{reader}"\ngroup = "g{count}"\npvol = "v{count}"\n'
                    f'svol = "{reader}:v{count}"\n'
                )
    rig.write_configuration(index, text)


def start():
    if args.awake:
        rig.keep_awake()
    for index in range(len(NAMES)):
        configure(index)
    if args.delay_ms or args.link_mib:
        rig.begin_links(len(NAMES), args.delay_ms, args.link_mib)
    for index in range(len(NAMES)):
        rig.start_array(index, ["taskset", "-c", args.primary_cpus if index == 0 else "1", *([] if index == 0 else ["chrt", "-i", "0"])])


def ask(*words):
    return rig.ask(0, *words)


def wait(what, limit_s, probe):
    return wait_for(what, limit_s, probe, lambda: json.dumps([ask("group", "list"), ask("pair", "list")]))


def pairs_normal():
    pairs = ask("pair", "list") or []
    return len(pairs) == sum(GROUPS) and all(pair["state"] == "normal" for pair in pairs)


def caught_up(group):
    shown = ask("group", "show", group)
    newest = shown["next_update_number"] - 1 if shown else None
    return shown and all(reader["restored_update_number"] >= newest for reader in shown["readers"])


def target(lun):
    return f"iqn.2026-11.bench:a/{lun}"


def load(lun, job, seconds, *more):
    return rig.load(target(lun), job, seconds, "--ramp", str(RAMP), "--span", "240m", *more)


def measure(job, readers):
    """One slice: readers is None for the plain volume."""
    lun = PLAIN_LUN if readers is None else max(1, readers)
    # Without a reader nothing frees the journal, and hosts would wait for room.
    seconds = min(args.secs, 0.4 if ":1m:" in job else 1.0) if readers == 0 else args.secs
    if readers == 0:
        rig.processes[1].send_signal(signal.SIGSTOP)
    before = rig.cpu_seconds()
    found = load(lun, job, seconds)
    if readers == 0:
        at_end = rig.cpu_seconds()
        rig.processes[1].send_signal(signal.SIGCONT)
    drain = 0.0 if readers is None else wait("catching up", 120, lambda: caught_up(f"g{lun}"))
    used = [b - a for a, b in zip(before, at_end if readers == 0 else rig.cpu_seconds())]
    writes = found["sent"]
    return {
        "iops": found["iops"], "p99": found["lat_p99_us"], "busy": found["busy"], "drain": drain, "cpu": [1e5 * part / writes for part in used],
    }  # fmt: skip


def speed():
    kinds = [None, *READERS]
    slices = {}
    for turn in range(args.rounds):
        for job in args.jobs.split():
            for readers in kinds if turn % 2 == 0 else reversed(kinds):
                slices.setdefault((job, readers), []).append(measure(job, readers))
    print("| load | readers | writes/s | of plain | p99 of plain | CPU s / 100k: primary | each auxiliary | drain s | busy |")
    print("|---|---|---|---|---|---|---|---|---|")
    for job in args.jobs.split():
        plain = slices[(job, None)]
        for readers in kinds:
            rows = slices[(job, readers)]
            ratio = spread([row["iops"] / base["iops"] for row, base in zip(rows, plain)])
            tail = spread([row["p99"] / base["p99"] for row, base in zip(rows, plain)])
            auxiliary = [sum(row["cpu"][1 : 1 + readers]) / readers for row in rows] if readers else []
            cells = [
                job, "plain" if readers is None else str(readers), spread([row["iops"] for row in rows], 0), ratio, tail,
                spread([row["cpu"][0] for row in rows]), spread(auxiliary) if auxiliary else "",
                spread([row["drain"] for row in rows]) if readers else "", spread([row["busy"] for row in rows]),
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


def lag():
    print("| rate | readers | writes/s | lag s: median [min-max] | p99 us |")
    print("|---|---|---|---|---|")
    for readers in [count for count in READERS if count]:
        # Sustainable: what a reader restores while hosts write as fast as they can, and does not fall behind further.
        began = time.time()
        full = load(readers, "randwrite:4k:32", 3)
        wait("catching up", 120, lambda: caught_up(f"g{readers}"))
        sustainable = full["sent"] / (time.time() - began)
        for share in (0.5, 0.9):
            rate = sustainable * share
            command = rig.load_command(
                target(readers), "randwrite:4k:32", 8, "--ramp", str(RAMP), "--span", "240m", "--rate", str(rate)
            )
            generator = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            samples, began = [], time.time()
            while generator.poll() is None:
                time.sleep(0.15)
                if 2 < time.time() - began < 8:
                    shown = ask("group", "show", f"g{readers}")
                    samples += [reader["behind"]["seconds"] for reader in shown["readers"]]
            if not samples:
                sys.exit("the generator ended early")
            found = json.loads(generator.communicate()[0])
            p99 = f"{found['lat_p99_us']:.0f}"
            print(f"| {share:.0%} | {readers} | {found['iops']:.0f} | {spread(samples, 3)} | {p99} |", flush=True)
            wait("catching up", 120, lambda: caught_up(f"g{readers}"))


def raw_link_mib_s():
    """A plain stream through a proxy of the same width."""
    port = args.port + 90
    upstream = socket.create_server(("127.0.0.1", port))
    proxy = subprocess.Popen(["taskset", "-c", "1", rig.link_program, f"127.0.0.1:{port + 1}", f"127.0.0.1:{port}", str(args.delay_ms), str(args.link_mib << 20)])
    try:
        time.sleep(0.3)
        near = socket.create_connection(("127.0.0.1", port + 1))
        far, _ = upstream.accept()
        total = 3 * args.link_mib << 20
        threading.Thread(target=lambda: near.sendall(bytes(total))).start()
        got, began = 0, None
        while got < total:
            got += len(far.recv(1 << 20))
            if began is None and got > total // 6:
                began, from_bytes = time.time(), got
        return (total - from_bytes) / (time.time() - began) / (1 << 20)
    finally:
        proxy.kill()


def catch_up():
    """A reader that stood still catches up with about 370 MiB; then its volume is copied from the beginning."""
    print("| what | MiB/s | of the raw link |")
    print("|---|---|---|")
    read, copied, raw = [], [], []
    for _ in range(args.rounds):
        raw.append(raw_link_mib_s())
        rig.processes[1].send_signal(signal.SIGSTOP)
        load(1, "write:1m:4", 1.1, "--rate", "250")  # No more than the journal holds.
        held = ask("group", "show", "g1")
        reader = held["readers"][0]
        behind = reader["behind"]["bytes"] / (1 << 20)
        rig.processes[1].send_signal(signal.SIGCONT)
        began = time.time()
        shown = lambda: ask("group", "show", "g1")
        newest = held["next_update_number"] - 1
        wait("reading", 120, lambda: shown()["readers"][0]["durable_update_number"] >= newest)
        read.append(behind / (time.time() - began))
        wait("catching up", 120, lambda: caught_up("g1"))
        for words in (["pair", "delete", "p1-beta", "--yes"], None, ["pair", "create", "p1-beta", "--group", "g1", "--pvol", "v1", "--svol", "beta:v1"]):
            if words is None:
                wait("the pair is gone", 60, lambda: not any(p["name"] == "p1-beta" for p in ask("pair", "list") or []))
            elif ask(*words) is None:
                sys.exit(f"{words} failed")
        pair = lambda: next((p for p in ask("pair", "list") or [] if p["name"] == "p1-beta"), {"state": ""})
        wait("the copy's begin", 60, lambda: pair()["state"] == "being-copied")
        began, from_mib = time.time(), pair()["copy_completion_bytes"] / (1 << 20)
        wait("the copy", 120, lambda: pair()["state"] == "normal")
        copied.append((VOLUME_MIB - from_mib) / (time.time() - began))
    print(f"| raw stream | {spread(raw, 1)} | 1 |")
    print(f"| catching up | {spread(read, 1)} | {spread([a / b for a, b in zip(read, raw)])} |")
    print(f"| initial copy | {spread(copied, 1)} | {spread([a / b for a, b in zip(copied, raw)])} |")


try:
    start()
    wait("initial copy", 60, pairs_normal)
    for lun in [PLAIN_LUN, *GROUPS]:
        load(lun, "randwrite:4k:32", args.warm)
        if lun != PLAIN_LUN:
            wait("catching up", 120, lambda: caught_up(f"g{lun}"))
    lag() if args.lag else catch_up() if args.catch_up else speed()
finally:
    rig.stop()
