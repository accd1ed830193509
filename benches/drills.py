#!/usr/bin/env python3
"""What drills cost restore: how fast a copy restores what its journal holds, and follows its primary, without drills and with one and four.

    cargo build --release --bin holdfast --example load --example link
    benches/drills.py [--rounds 5] [--dir /dev/shm/hf]

Two arrays on loopback, each with a processor; eight thin volumes in one group. Turn and turn about with no drill, one, and four of them:

"backlog": restore is stopped, hosts write for some seconds, and then it is let go: updates and bytes in a second until the last one is restored. Drills are begun right
before at the number where restore stands, and one more at a number in the middle of the backlog, so that cuts, and the first write of each extent behind them, fall into the
time that is measured.

"follow": hosts write as fast as they can for some seconds, while the copy restores at once; what it has restored in that time.

Meanwhile hosts write the clones of the drills, so many writes in a second to each, with a quota. At the end of a turn its drills end.
Ratios are within a round, to the turn without a drill. Files on a memory file system: units cost nothing there, so it is the work of the array that is measured.
"""
import argparse
import statistics
import subprocess
import sys
import time

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/dev/shm/holdfast-drill-bench")
parser.add_argument("--port", type=int, default=28100)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--secs", type=float, default=2, help="how long hosts write")
parser.add_argument("--counts", default="0,1,4")
parser.add_argument("--clone-rate", type=int, default=200, help="writes in a second to the clones of each drill")
parser.add_argument("--kinds", default="backlog,follow")
args = parser.parse_args()

ALPHA, BETA = range(2)
VOLUMES = 8
MIB = 128
JOURNAL_MIB = 1024
IQN = "iqn.2026-11.bench:"


def expect(said):
    if said.returncode != 0:
        sys.exit(f"{' '.join(said.args)}: {said.stdout}{said.stderr}")


def configure(rig, index):
    name, place, other = Rig.NAMES[index], rig.array_directory(index), 1 - index
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "512MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )
    room = VOLUMES * MIB * (1 if index == ALPHA else 3) + 256
    text += parity_group("pg0", f"{place}/u0", room) + parity_group("pgj", f"{place}/uj", JOURNAL_MIB + 64)
    text += volume("jnl", "pgj", JOURNAL_MIB)
    luns = []
    for lun in range(VOLUMES):
        text += volume(f"data{lun}", "pg0", MIB) + "thin = true\n"
        luns.append(f'{{ lun = {lun}, volume = "data{lun}" }}')
    mapped = ", ".join(luns) if index == ALPHA else ""
    text += f'[[provision.target]]\niqn = "{IQN}{name}"\ninitiators = ["*"]\nluns = [{mapped}]\n'
    text += (
        f'[[provision.link]]\nname = "{Rig.NAMES[other]}"\narray = {other + 1}\nportal = ["{rig.address(other)}"]\n'
        'secret = "a secret of measurements"\n'
    )
    if index == ALPHA:
        text += '[[provision.group]]\nname = "g1"\n[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\n'
        text += '[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\nat = "beta"\n'
        for lun in range(VOLUMES):
            text += f'[[provision.pair]]\nname = "p{lun}"\ngroup = "g1"\npvol = "data{lun}"\nsvol = "beta:data{lun}"\n'
    rig.write_configuration(index, text)


def group(rig, index):
    shown = rig.ask(index, "group", "show", "g1")
    return shown[0] if isinstance(shown, list) else shown


def follows(rig):
    return group(rig, BETA)["follows"]


def newest(rig):
    return group(rig, ALPHA)["next_update_number"] - 1


def is_level(rig):
    pairs, shown = rig.ask(BETA, "pair", "list"), group(rig, BETA)
    if not pairs or not shown or not shown["follows"]:
        return False
    pairs = pairs["rows"] if isinstance(pairs, dict) else pairs
    is_normal = len(pairs) == VOLUMES and all(pair["state"] == "normal" for pair in pairs)
    return is_normal and shown["follows"]["restored_update_number"] >= newest(rig)


def hosts(rig, seconds):
    """Hosts of all volumes, two at a time on one processor."""
    jobs = [rig.load_command(f"{IQN}alpha/{lun}", "randwrite:4k:8", seconds, "--ramp", "0", "--span", f"{MIB}m") for lun in range(VOLUMES)]
    return [subprocess.Popen(job, stdout=subprocess.DEVNULL) for job in jobs]


class Drills:
    """Drills that run, with a host at the first clone of each."""

    def __init__(self, rig, names, seconds):
        self.rig, self.names, self.writers = rig, names, []
        for lun, name in enumerate(names):
            expect(rig.run(BETA, "lun", "map", f"{IQN}beta", str(lun), f"{name}.data{lun}"))
            target = f"{rig.address(BETA)}/{IQN}beta/{lun}"
            job = rig.load_command(target, "randwrite:4k:1", seconds, "--ramp", "0", "--span", "32m", "--rate", str(args.clone_rate))
            self.writers.append(subprocess.Popen(job, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def end(self, waiting):
        for writer in self.writers:
            writer.wait()
        for name in self.names + waiting:
            expect(self.rig.run(BETA, "group", "drill", "g1", name, "--end", "--yes"))
        ended = lambda: all(drill["state"] == "ended" for drill in group(self.rig, BETA)["drills"])
        wait_for("drills have ended", 60, ended)


def backlog(rig, turn, count):
    expect(rig.run(BETA, "group", "restore", "g1", "--until", "now"))
    began_at = follows(rig)
    for host in hosts(rig, args.secs):
        host.wait()
    last = newest(rig)
    wait_for("the copy has read all", 120, lambda: follows(rig)["durable_update_number"] >= last)
    first = follows(rig)["restored_update_number"]
    names = [f"r{turn}n{index}" for index in range(count)]
    for name in names:
        expect(rig.run(BETA, "group", "drill", "g1", name, "--quota", "64MiB"))
    drills = Drills(rig, names, 2)
    waiting = []
    if count:
        waiting = [f"r{turn}w"]
        at = first + (last - first) // 2
        expect(rig.run(BETA, "group", "drill", "g1", waiting[0], "--at", str(at)))
    time.sleep(0.3)
    bytes_before = follows(rig)
    began = time.time()
    expect(rig.run(BETA, "group", "restore", "g1", "--go-on"))
    wait_for("the copy has restored all", 120, lambda: follows(rig)["restored_update_number"] >= last)
    took = time.time() - began
    drills.end(waiting)
    return (last - first) / took


def follow(rig, turn, count):
    names = [f"f{turn}n{index}" for index in range(count)]
    for name in names:
        expect(rig.run(BETA, "group", "drill", "g1", name, "--quota", "64MiB"))
    drills = Drills(rig, names, args.secs)
    waiting = []
    first = follows(rig)["restored_update_number"]
    if count:
        waiting = [f"f{turn}w"]
        expect(rig.run(BETA, "group", "drill", "g1", waiting[0], "--at", str(first + 5_000)))
    began = time.time()
    writing = hosts(rig, args.secs)
    for host in writing:
        host.wait()
    last = newest(rig)
    wait_for("the copy has restored all", 120, lambda: follows(rig)["restored_update_number"] >= last)
    took = time.time() - began
    drills.end(waiting)
    return (last - first) / took


def main():
    counts = [int(count) for count in args.counts.split(",")]
    rig = Rig(args.release, args.dir, args.port)
    try:
        for index in range(2):
            configure(rig, index)
        for index in range(2):
            rig.start_array(index, ["taskset", "-c", str(index)])
        wait_for("pairs are normal", 120, lambda: is_level(rig))
        for lun in range(VOLUMES):
            rig.load(f"{IQN}alpha/{lun}", "write:1m:4", 0.5, "--ramp", "0", "--span", f"{MIB}m")
        wait_for("the copy is level", 120, lambda: is_level(rig))
        for kind, measure in (("backlog", backlog), ("follow", follow)):
            if kind not in args.kinds.split(","):
                continue
            rates = {count: [] for count in counts}
            for turn in range(args.rounds):
                for count in counts:
                    rates[count].append(measure(rig, f"{turn}c{count}", count))
                    wait_for("the copy is level", 120, lambda: is_level(rig))
            print(f"| {kind}: drills | updates/s | MiB/s | of the rate without |\n|---|---|---|---|")
            for count in counts:
                ratio = [mine / none for mine, none in zip(rates[count], rates[counts[0]])]
                mib = [rate * 4 / 1024 for rate in rates[count]]
                print(f"| {count} | {statistics.median(rates[count]):,.0f} [{min(rates[count]):,.0f}-{max(rates[count]):,.0f}] | {spread(mib, 0)} | {spread(ratio)} |", flush=True)
    finally:
        rig.stop()


main()
