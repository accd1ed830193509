#!/usr/bin/env python3
"""How fast a copy is compared with its primary: everything, what changed, and nothing.

    cargo build --release --bin holdfast --example load --example link
    benches/compare.py [--volumes 2] [--mib 1024] [--changed 5] [--rounds 3] [--dir /dev/shm/hf]

Two arrays on loopback, each with its own processor, thin volumes that hosts have filled with random writes of 1 MiB. "full" reads everything at both arrays
(`--full`), "first" is the first comparison after a start, "changed" the one after so many percent of the volumes were written anew, "still" one after which nothing
was. GB/s are of volume that is compared, on one side; both sides read at the same time. The time is from the beginning to the end that the record of the comparison has, with cutting
both images. Files on a memory file system: units cost nothing there, so it is the arrays that are measured.
"""
import argparse

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/dev/shm/holdfast-compare-bench")
parser.add_argument("--port", type=int, default=27800)
parser.add_argument("--volumes", type=int, default=2)
parser.add_argument("--mib", type=int, default=1024, help="size of each volume")
parser.add_argument("--changed", type=float, default=5, help="percent that is written anew")
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()

JOURNAL_MIB = 256


def configure(rig, index):
    name, place, other = Rig.NAMES[index], rig.array_directory(index), 1 - index
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "256MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )
    text += parity_group("pg0", f"{place}/u0", 2 * args.volumes * args.mib + 256)
    text += parity_group("pgj", f"{place}/uj", JOURNAL_MIB + 64) + volume("jnl", "pgj", JOURNAL_MIB)
    luns = []
    for lun in range(args.volumes):
        text += volume(f"data{lun}", "pg0", args.mib) + "thin = true\n"
        luns.append(f'{{ lun = {lun}, volume = "data{lun}" }}')
    text += f'[[provision.target]]\niqn = "iqn.2026-11.bench:{name}"\ninitiators = ["*"]\nluns = [{", ".join(luns)}]\n'
    text += (
        f'[[provision.link]]\nname = "{Rig.NAMES[other]}"\narray = {other + 1}\nportal = ["{rig.address(other)}"]\n'
        'secret = "a secret of measurements"\n'
    )
    if index == 0:
        text += '[[provision.group]]\nname = "g1"\n[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\n'
        text += '[[provision.journal]]\ngroup = "g1"\nvolume = "jnl"\nat = "beta"\n'
        for lun in range(args.volumes):
            text += f'[[provision.pair]]\nname = "p{lun}"\ngroup = "g1"\npvol = "data{lun}"\nsvol = "beta:data{lun}"\n'
    rig.write_configuration(index, text)


def caught_up(rig):
    pairs, group = rig.ask(1, "pair", "list"), rig.ask(1, "group", "show", "g1")
    if not pairs or not group:
        return False
    pairs, group = (pairs["rows"] if isinstance(pairs, dict) else pairs), (group[0] if isinstance(group, list) else group)
    follows = group["follows"]
    newest = rig.ask(0, "group", "show", "g1")
    newest = (newest[0] if isinstance(newest, list) else newest)["next_update_number"] - 1
    is_normal = all(pair["state"] == "normal" for pair in pairs) and len(pairs) == args.volumes
    return is_normal and follows["settled_update_number"] >= newest


def compare(rig, *more):
    said = rig.ask(1, "group", "compare", "g1", "--wait", "--timeout", "600s", *more)
    if not said or said["result"] != "equal":
        raise SystemExit(f"not equal: {said}")
    return max(1, said["ended_unix_ms"] - said["started_unix_ms"]) / 1000, said


def main():
    rig = Rig(args.release, args.dir, args.port)
    try:
        for index in range(2):
            configure(rig, index)
        for index in range(2):
            rig.start_array(index, ["taskset", "-c", str(index)])
        wait_for("pairs are normal", 120, lambda: caught_up(rig))
        for lun in range(args.volumes):
            rig.load(f"iqn.2026-11.bench:alpha/{lun}", "write:1m:4", max(2, args.mib / 150), "--span", f"{args.mib}m")
        wait_for("beta has caught up", 300, lambda: caught_up(rig))
        figures = {"first": [], "full": [], "changed": [], "still": []}
        figures["first"].append(compare(rig))
        for _ in range(args.rounds):
            figures["full"].append(compare(rig, "--full"))
            figures["still"].append(compare(rig))
            seconds = max(0.05, args.changed / 100 * args.mib / 200)
            rig.load("iqn.2026-11.bench:alpha/0", "randwrite:1m:1", seconds, "--ramp", "0", "--span", f"{args.mib}m")
            wait_for("beta has caught up", 300, lambda: caught_up(rig))
            figures["changed"].append(compare(rig))
        print("| comparison | GB/s | seconds | GB compared | GB read at the copy | at the primary |\n|---|---|---|---|---|---|")
        for name, all_of in figures.items():
            rates = [said["compared_bytes"] / 1e9 / seconds for seconds, said in all_of]
            compared = [said["compared_bytes"] / 1e9 for _, said in all_of]
            read = [said["read_bytes"] / 1e9 for _, said in all_of]
            there = [said["source_read_bytes"] / 1e9 for _, said in all_of]
            seconds = [seconds for seconds, _ in all_of]
            print(f"| {name} | {spread(rates)} | {spread(seconds, 3)} | {spread(compared)} | {spread(read)} | {spread(there)} |")
    finally:
        rig.stop()


main()
