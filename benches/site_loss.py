#!/usr/bin/env python3
"""How long it takes to go on at the second of three data centres when the third is far behind.

    cargo build --release --bin holdfast --example load
    benches/site_loss.py [--behind-mib 1024] [--rounds 3] [--dir /var/tmp/hf]

alpha has a synchronous copy at beta and an asynchronous one at gamma. gamma stands still (SIGSTOP) while hosts write so many MiB at alpha, which
is then killed (SIGKILL). Measured, in this order:

  takeover        from `group takeover` at beta until a host's write there has been answered
  judged          gamma goes on: until beta has judged it, and by which way it is to come
  delta resync    from then until gamma has restored everything that alpha's hosts were answered, and in MiB/s
  raw             beside it: as much written to gamma's file system with dd, synced, in MiB/s
  back            alpha starts and `group failback` makes it the synchronous copy of beta: until both know of no difference any more

Each round begins from scratch. All on loopback; the arrays run where the system puts them.
"""
import argparse
import os
import subprocess
import time
from signal import SIGCONT, SIGSTOP

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/var/tmp/holdfast-site-loss-bench")
parser.add_argument("--port", type=int, default=27800)
parser.add_argument("--behind-mib", type=int, default=1024)
parser.add_argument("--rounds", type=int, default=3)
args = parser.parse_args()

BEHIND_MIB = args.behind_mib
# A second keeps for the third what takes up to 30 % of its journal; a first calls a reader too far behind at 75 %.
VOLUME_MIB, JOURNALS_MIB = BEHIND_MIB + 64, [2 * BEHIND_MIB + 256, 4 * BEHIND_MIB + 256, 2 * BEHIND_MIB + 256]
ALPHA, BETA, GAMMA = range(3)
TARGET = "iqn.2026-11.bench:hosts/0"


def configure(rig, index):
    name, place = Rig.NAMES[index], rig.array_directory(index)
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "512MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )
    # Besides the volume an image of what it was, while differences are copied to it.
    text += parity_group("pg0", f"{place}/u0", 2 * VOLUME_MIB + 128) + parity_group("pgj", f"{place}/uj", JOURNALS_MIB[index] + 64)
    text += volume("data", "pg0", VOLUME_MIB) + volume("jnl", "pgj", JOURNALS_MIB[index])
    text += '[[provision.target]]\niqn = "iqn.2026-11.bench:hosts"\ninitiators = ["*"]\nluns = [{ lun = 0, volume = "data" }]\n'
    for other in {ALPHA, BETA, GAMMA} - {index}:
        text += (
            f'[[provision.link]]\nname = "{Rig.NAMES[other]}"\narray = {other + 1}\nportal = ["{rig.address(other)}"]\n'
            f'secret = "site-loss-bench-{min(index, other)}-{max(index, other)}"\n'
        )
    if index == ALPHA:
        text += '[[provision.group]]\nname = "g"\nfence = "data"\n[[provision.journal]]\ngroup = "g"\nvolume = "jnl"\n'
        for reader, copy in (("beta", "sync"), ("gamma", "async")):
            text += f'[[provision.journal]]\ngroup = "g"\nvolume = "jnl"\nat = "{reader}"\n'
            text += f'[[provision.pair]]\nname = "{reader}"\ngroup = "g"\npvol = "data"\nsvol = "{reader}:data"\ncopy = "{copy}"\n'
    rig.write_configuration(index, text)


def shown(rig, index):
    return rig.ask(index, "group", "show", "g") or {}


def is_ready(rig):
    pairs = rig.ask(ALPHA, "pair", "list") or []
    state = (shown(rig, ALPHA).get("synchronous") or {}).get("state")
    return len(pairs) == 2 and all(pair["state"] == "normal" for pair in pairs) and state == "synchronised"


def follows(rig, newest):
    """gamma is an image, and has everything that alpha's hosts were answered."""
    pairs = rig.ask(GAMMA, "pair", "list") or []
    is_image = any(pair["state"] == "normal" and pair["group"] == "g" for pair in pairs)
    return is_image and shown(rig, GAMMA)["follows"]["restored_update_number"] >= newest


def host_writes(rig, index):
    command = rig.load_command(f"{rig.address(index)}/{TARGET}", "randwrite:4k:1", 0.05, "--ramp", "0", "--span", "60m")
    return subprocess.run(command, capture_output=True).returncode == 0


def raw_mib_s(rig):
    path = f"{rig.place}/raw"
    began = time.time()
    subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=1M", f"count={BEHIND_MIB}", "oflag=direct", "conv=fsync"], check=True, capture_output=True)
    taken = time.time() - began
    os.unlink(path)
    return BEHIND_MIB / taken


def one_round():
    rig = Rig(args.release, args.dir, args.port)
    try:
        for index in (ALPHA, BETA, GAMMA):
            configure(rig, index)
            rig.start_array(index, [])
        wait_for("copies", 300, lambda: is_ready(rig))
        rig.processes[GAMMA].send_signal(SIGSTOP)
        next_number = shown(rig, ALPHA)["next_update_number"]
        while (shown(rig, ALPHA)["next_update_number"] - next_number) < BEHIND_MIB:
            rig.load(TARGET, "write:1m:4", 0.5, "--ramp", "0", "--span", f"{VOLUME_MIB - 1}m", "--rate", str(max(20, BEHIND_MIB // 8)))
        newest = shown(rig, ALPHA)["next_update_number"] - 1
        behind_mib = newest + 1 - next_number
        rig.processes[ALPHA].kill()
        began = time.time()
        wait_for("takeover", 60, lambda: rig.run(BETA, "group", "takeover", "g", "--yes").returncode == 0)
        wait_for("the first write", 60, lambda: host_writes(rig, BETA))
        takeover_s = time.time() - began
        began = time.time()
        rig.processes[GAMMA].send_signal(SIGCONT)
        judged_s = wait_for("the judgement", 120, lambda: shown(rig, BETA).get("judged"), lambda: str(shown(rig, GAMMA)))
        judged = shown(rig, BETA)["judged"]
        began = time.time()
        wait_for("the delta resync", 300, lambda: follows(rig, newest), lambda: str(shown(rig, GAMMA)))
        delta_s = time.time() - began
        raw = raw_mib_s(rig)
        # Its process is at the end of the list now.
        rig.start_array(ALPHA, [])
        began = time.time()
        back = ["group", "failback", "g", "--to", "alpha", "--yes"]
        wait_for("failback", 60, lambda: rig.run(BETA, *back).returncode == 0, lambda: rig.run(BETA, *back).stderr)
        wait_for("back", 300, lambda: (shown(rig, BETA).get("synchronous") or {}).get("state") == "synchronised", lambda: str(shown(rig, BETA)))
        return behind_mib, takeover_s, judged_s, delta_s, raw, time.time() - began, judged
    finally:
        rig.stop()


rounds = [one_round() for _ in range(args.rounds)]
behind, takeover, judged, delta, raw, back, how = zip(*rounds)
print(f"behind: {spread(behind, 0)} MiB; judged: {how[0]}")
print("| what | s | MiB/s |")
print("|---|---|---|")
print(f"| takeover | {spread(takeover)} | |")
print(f"| judged | {spread(judged)} | |")
print(f"| delta resync | {spread(delta)} | {spread([mib / s for mib, s in zip(behind, delta)], 0)} |")
print(f"| raw | | {spread(raw, 0)} |")
print(f"| back | {spread(back)} | |")
