#!/usr/bin/env python3
"""What snapshots cost: the stall of hosts while one of a group is made, and writes to volumes that have many.

    cargo build --release --bin holdfast --example load
    benches/snapshots.py [--rounds 5] [--dir /var/tmp/hf]

First, eight thin volumes of 1 TiB in one group with a copy, each written by a host of its own (4 KiB random writes at depth 4, so many a
second): the time that `snapshot create --group` takes, and the longest command of any host in a second with one and in a second without,
turn and turn about.

Then single volumes, with no snapshot, with one, a hundred and a thousand of them, written turn and turn about (4 KiB random writes at depth
32): once with all extents their own again, and once right behind a further snapshot, when each extent of 1 MiB is copied as it is
first written. Ratios are within a round, to the volume that has none. The array has CPU 0, its copy and the generators CPU 1.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/var/tmp/holdfast-snapshot-bench")
parser.add_argument("--port", type=int, default=27600)
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--rate", type=int, default=500, help="writes in a second to each of the eight volumes")
parser.add_argument("--counts", default="0,1,100;0,1000", help="snapshots of the single volumes; arrays apart by a semicolon")
args = parser.parse_args()

TIB_MIB = 1 << 20
ALPHA, BETA = range(2)
TARGET = "iqn.2026-11.bench:hosts"
GROUP_VOLUMES = [f"v{index}" for index in range(8)]
SPAN_MIB = 64
JOB = "randwrite:4k:32"


def thin(name, mebibytes):
    return volume(name, "pg0", mebibytes) + "thin = true\n"


def beginning(rig, index, memory):
    name, place = Rig.NAMES[index], rig.array_directory(index)
    return place, (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "{memory}"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )


def luns(names):
    mapped = ", ".join(f'{{ lun = {lun}, volume = "{name}" }}' for lun, name in enumerate(names))
    return f'[[provision.target]]\niqn = "{TARGET}"\ninitiators = ["*"]\nluns = [{mapped}]\n'


def configure_pair(rig, index):
    place, text = beginning(rig, index, "768MiB")
    text += parity_group("pg0", f"{place}/u0", 4096 if index == ALPHA else 1536) + parity_group("pgj", f"{place}/uj", 576)
    text += "".join(thin(name, TIB_MIB) for name in GROUP_VOLUMES) + volume("jnl", "pgj", 512) + luns(GROUP_VOLUMES)
    other = 1 - index
    text += f'[[provision.link]]\nname = "{Rig.NAMES[other]}"\narray = {other + 1}\nportal = ["{rig.address(other)}"]\nsecret = "snapshot-bench"\n'
    if index == ALPHA:
        text += '[[provision.group]]\nname = "g"\n[[provision.journal]]\ngroup = "g"\nvolume = "jnl"\n'
        text += '[[provision.journal]]\ngroup = "g"\nvolume = "jnl"\nat = "beta"\n'
        for name in GROUP_VOLUMES:
            text += f'[[provision.pair]]\nname = "{name}"\ngroup = "g"\npvol = "{name}"\nsvol = "beta:{name}"\ncopy = "async"\n'
    rig.write_configuration(index, text)


def expect(said):
    if said.returncode != 0:
        sys.exit(f"{' '.join(said.args)}: {said.stdout}{said.stderr}")


def one_second(rig, make):
    """The longest command of the eight hosts in ms, and how long what was made took."""
    hosts = [
        subprocess.Popen(
            rig.load_command(f"{TARGET}/{lun}", "randwrite:4k:4", 1.2, "--span", f"{SPAN_MIB}m", "--rate", str(args.rate)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for lun in range(len(GROUP_VOLUMES))
    ]
    time.sleep(0.9)
    began = time.time()
    make()
    took_ms = (time.time() - began) * 1000
    return max(json.loads(host.communicate()[0])["lat_max_us"] for host in hosts) / 1000, took_ms


def stall():
    rig = Rig(args.release, args.dir, args.port)
    try:
        for index, cpu in ((ALPHA, "0"), (BETA, "1")):
            configure_pair(rig, index)
            rig.start_array(index, ["taskset", "-c", cpu])
        wait_for("copies", 300, lambda: len(pairs := rig.ask(ALPHA, "pair", "list") or []) == 8 and all(pair["state"] == "normal" for pair in pairs))
        for lun in range(len(GROUP_VOLUMES)):
            rig.load(f"{TARGET}/{lun}", "write:1m:4", 0.5, "--ramp", "0", "--span", f"{SPAN_MIB}m")
        with_one, without, took = [], [], []
        for turn in range(args.rounds):
            without.append(one_second(rig, lambda: None)[0])
            longest_ms, took_ms = one_second(rig, lambda: expect(rig.run(ALPHA, "snapshot", "create", f"s{turn}", "--group", "g")))
            with_one.append(longest_ms)
            took.append(took_ms)
            numbered = rig.ask(ALPHA, "snapshot", "show", f"s{turn}")
            assert numbered["is_image"], numbered
        print(f"eight volumes of 1 TiB, {8 * args.rate} writes in a second")
        print("| what | ms |\n|---|---|")
        print(f"| `snapshot create --group`, the command whole | {spread(took, 1)} |")
        print(f"| longest command of a host in a second with one | {spread(with_one, 1)} |")
        print(f"| in a second without | {spread(without, 1)} |", flush=True)
    finally:
        rig.stop()


def cost(counts):
    names = [f"c{count}" for count in counts]
    rig = Rig(args.release, args.dir, args.port)
    try:
        place, text = beginning(rig, ALPHA, "1GiB")
        text += parity_group("pg0", f"{place}/u0", 8192) + "".join(thin(name, 1024) for name in names) + luns(names)
        rig.write_configuration(ALPHA, text)
        rig.start_array(ALPHA, ["taskset", "-c", "0"])
        wait_for("the array", 60, lambda: rig.ask(ALPHA, "volume", "list"))
        for lun, (name, count) in enumerate(zip(names, counts)):
            rig.load(f"{TARGET}/{lun}", "write:1m:4", 0.5, "--ramp", "0", "--span", f"{SPAN_MIB}m")
            began = time.time()
            for number in range(count):
                expect(rig.run(ALPHA, "snapshot", "create", f"{name}-{number}", "--volume", name))
            if count:
                print(f"{count} snapshots one after the other: {(time.time() - began) * 1000 / count:.1f} ms each", flush=True)
            # All extents are its own again.
            rig.load(f"{TARGET}/{lun}", "write:1m:4", 0.5, "--ramp", "0", "--span", f"{SPAN_MIB}m")
        print("| snapshots | of the rate without | behind a further one | s of CPU for 100,000 writes |\n|---|---|---|---|")
        settled, behind, cpu, last = ([[] for _ in names] for _ in range(4))
        for turn in range(args.rounds):
            for lun, (name, count) in enumerate(zip(names, counts)):
                before = rig.cpu_seconds()[ALPHA]
                done = rig.load(f"{TARGET}/{lun}", JOB, 1, "--ramp", "0", "--span", f"{SPAN_MIB}m")
                settled[lun].append(done["iops"])
                cpu[lun].append((rig.cpu_seconds()[ALPHA] - before) / done["iops"] * 100_000)
            for lun, (name, count) in enumerate(zip(names, counts)):
                if count:
                    # In the place of the one before, so that their number stays what it is.
                    expect(rig.run(ALPHA, "snapshot", "delete", last[lun].pop() if last[lun] else f"{name}-0", "--yes"))
                    last[lun].append(f"{name}-more-{turn}")
                    expect(rig.run(ALPHA, "snapshot", "create", last[lun][0], "--volume", name))
                behind[lun].append(rig.load(f"{TARGET}/{lun}", JOB, 1, "--ramp", "0", "--span", f"{SPAN_MIB}m")["iops"])
        for lun, count in enumerate(counts):
            ratios = [[mine / none for mine, none in zip(rates[lun], rates[0])] for rates in (settled, behind)]
            print(f"| {count} | {spread(ratios[0])} | {spread(ratios[1])} | {spread(cpu[lun])} |", flush=True)
        print(f"none: {statistics.median(settled[0]):,.0f} writes/s")
    finally:
        rig.stop()


stall()
for counts in args.counts.split(";"):
    cost([int(count) for count in counts.split(",")])
