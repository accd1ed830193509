#!/usr/bin/env python3
"""What a journal costs hosts: plain and journaled volumes of one array, turn and turn about.

    benches/journal.py --holdfast target/release/holdfast --load PATH [--rounds 5] [--secs 2] [--dir /dev/shm/hf]

Starts a primary with a plain volume and one group for each number of readers (0, 1, 2, 4), and the auxiliaries, all on
loopback from scratch with files on a memory file system, and stops them by their process ids. "0 readers" is the group
with one reader while that process is stopped (SIGSTOP): everything is journaled, nothing is read. The primary is bound
to CPU 0 (--primary-cpus), generator and auxiliaries to CPU 1; these run only when nobody else wants it, as if they had
machines of their own. --awake keeps both CPUs from sleeping, whose waking up would be most of a latency at depth 1. With
--shared the journals lie on the unit of the data.

--load names a closed-loop generator that is not part of this repository: it is called as `PATH run --target
HOST:PORT/IQN/LUN --rw randwrite|write --bs SIZE --qd N --secs S --ramp S --span SIZE --cpus LIST --format json` and
prints one JSON object with iops, lat_p50_us and lat_p99_us.

Each figure is the median of the rounds; ratios are formed within a round. CPU time is utime + stime of each process
from /proc, for 100,000 writes, until every reader has restored everything. Lag is sampled from `group show --json` while
the generator is stopped for half (or a tenth) of every 20 ms.
"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--holdfast", required=True)
parser.add_argument("--load", required=True)
parser.add_argument("--dir", default="/dev/shm/holdfast-journal-bench")
parser.add_argument("--port", type=int, default=33500)
parser.add_argument("--readers", default="0,1,2,4")
parser.add_argument("--jobs", default="randwrite:4k:1 randwrite:4k:32 write:1m:4")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--secs", type=float, default=2)
parser.add_argument("--warm", type=float, default=4)
parser.add_argument("--primary-cpus", default="0", help="CPUs of the primary")
parser.add_argument("--awake", action="store_true", help="keep both CPUs from sleeping")
parser.add_argument("--shared", action="store_true", help="journals on the unit of the data")
parser.add_argument("--lag", action="store_true", help="lag at 50 % and 90 % of the sustainable rate, in place of speed")
args = parser.parse_args()

READERS = [int(word) for word in args.readers.split(",")]
GROUPS = sorted({max(1, count) for count in READERS})
NAMES = ["alpha", "beta", "gamma", "delta", "epsilon"][: 1 + max(GROUPS)]
PLAIN_LUN, RAMP = 9, 0.4
VOLUME_MIB, PRIMARY_JOURNAL_MIB, JOURNAL_MIB = 256, 1536, 512
processes, spinners = [], []


def address(index):
    return f"127.0.0.1:{args.port + index}"


def parity_group(name, path, mebibytes):
    # Written once before the start: a memory file system finds its pages when they are first written, a disk does not.
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
    units = f'[{{ path = "{path}", size = "{mebibytes}MiB" }}]'
    return f'[[provision.parity_group]]\nname = "{name}"\nlevel = "raid0"\nunits = {units}\n'


def volume(name, group, mebibytes):
    return f'[[provision.volume]]\nname = "{name}"\nparity_group = "{group}"\nsize = "{mebibytes}MiB"\n'


def configure(index):
    name = NAMES[index]
    place = f"{args.dir}/{name}"
    os.makedirs(place)
    primary = index == 0
    mine = GROUPS if primary else [count for count in GROUPS if count >= index]
    journal = PRIMARY_JOURNAL_MIB if primary else JOURNAL_MIB
    data_all, journals_all = VOLUME_MIB * (len(mine) + primary), journal * len(mine)
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "768MiB"\n'
        f'[[portal]]\nlisten = "{address(index)}"\nserves = ["hosts", "arrays"]\n'
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
            f'[[provision.link]]\nname = "{NAMES[other]}"\narray = {other + 1}\nportal = ["{address(other)}"]\n'
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
    with open(f"{args.dir}/{name}.toml", "w") as file:
        file.write(text)


def start():
    for cpu in ["0", "1"] if args.awake else []:
        spin = ["chrt", "-i", "0", "taskset", "-c", cpu, sys.executable, "-c", "while True: pass"]
        spinners.append(subprocess.Popen(spin))
    for index, name in enumerate(NAMES):
        configure(index)
    for index, name in enumerate(NAMES):
        command = ["taskset", "-c", args.primary_cpus if index == 0 else "1", *([] if index == 0 else ["chrt", "-i", "0"]), args.holdfast, "serve"]
        with open(f"{args.dir}/{name}.log", "w") as log:
            processes.append(
                subprocess.Popen([*command, "--config", f"{args.dir}/{name}.toml"], stdout=log, stderr=log)
            )


def stop():
    for spinner in spinners:
        spinner.kill()
    for process in processes:
        process.send_signal(signal.SIGCONT)
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ask(*words):
    command = [args.holdfast, "--socket", f"{args.dir}/alpha/holdfast.sock", *words, "--json"]
    said = subprocess.run(command, capture_output=True, text=True)
    return json.loads(said.stdout) if said.returncode == 0 and said.stdout else None


def wait_for(what, limit_s, probe):
    began = time.time()
    while not probe():
        if time.time() - began > limit_s:
            sys.exit(f"{what}: not within {limit_s} s")
        time.sleep(0.02)
    return time.time() - began


def pairs_normal():
    pairs = ask("pair", "list") or []
    return len(pairs) == sum(GROUPS) and all(pair["state"] == "normal" for pair in pairs)


def caught_up(group):
    shown = ask("group", "show", group)
    newest = shown["next_update_number"] - 1 if shown else None
    return shown and all(reader["restored_update_number"] >= newest for reader in shown["readers"])


def cpu_seconds():
    def of(process):
        with open(f"/proc/{process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return [of(process) for process in processes]


def load_command(lun, job, seconds):
    rw, size, depth = job.split(":")
    target = f"{address(0)}/iqn.2026-11.bench:a/{lun}"
    return [
        args.load, "run", "--target", target, "--rw", rw, "--bs", size, "--qd", depth, "--secs", str(seconds),
        "--ramp", str(RAMP), "--span", "240m", "--cpus", "1", "--format", "json",
    ]  # fmt: skip


def load(lun, job, seconds):
    done = subprocess.run(load_command(lun, job, seconds), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"the generator failed: {done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def measure(job, readers):
    """One slice: readers is None for the plain volume."""
    lun = PLAIN_LUN if readers is None else max(1, readers)
    # Without a reader nothing frees the journal, and hosts would wait for room.
    seconds = min(args.secs, 0.4 if ":1m:" in job else 1.0) if readers == 0 else args.secs
    if readers == 0:
        processes[1].send_signal(signal.SIGSTOP)
    before = cpu_seconds()
    found = load(lun, job, seconds)
    if readers == 0:
        at_end = cpu_seconds()
        processes[1].send_signal(signal.SIGCONT)
    drain = 0.0 if readers is None else wait_for("catching up", 120, lambda: caught_up(f"g{lun}"))
    used = [b - a for a, b in zip(before, at_end if readers == 0 else cpu_seconds())]
    writes = found["iops"] * (seconds + RAMP)
    return {
        "iops": found["iops"], "p99": found["lat_p99_us"], "drain": drain, "cpu": [1e5 * part / writes for part in used],
    }  # fmt: skip


def spread(values, digits=2):
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} [{values[0]:.{digits}f}-{values[-1]:.{digits}f}]"


def speed():
    kinds = [None, *READERS]
    slices = {}
    for turn in range(args.rounds):
        for job in args.jobs.split():
            for readers in kinds if turn % 2 == 0 else reversed(kinds):
                slices.setdefault((job, readers), []).append(measure(job, readers))
    print("| load | readers | writes/s | of plain | p99 of plain | CPU s / 100k: primary | each auxiliary | drain s |")
    print("|---|---|---|---|---|---|---|---|")
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
                spread([row["drain"] for row in rows]) if readers else "",
            ]  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


def lag():
    print("| rate | readers | lag s: median [min-max] |")
    print("|---|---|---|")
    for readers in [count for count in READERS if count]:
        for share in (0.5, 0.9):
            generator = subprocess.Popen(
                load_command(readers, "randwrite:4k:32", 8), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            time.sleep(0.5)  # It logs in.
            samples, began = [], time.time()
            next_sample = began + 2
            while generator.poll() is None:
                generator.send_signal(signal.SIGSTOP)
                time.sleep(0.02 * (1 - share))
                generator.send_signal(signal.SIGCONT)
                time.sleep(0.02 * share)
                if time.time() > next_sample and time.time() < began + 8:
                    shown = ask("group", "show", f"g{readers}")
                    samples += [reader["behind"]["seconds"] for reader in shown["readers"]]
                    next_sample += 0.15
            if not samples:
                sys.exit("the generator ended early")
            print(f"| {share:.0%} | {readers} | {spread(samples, 3)} |", flush=True)
            wait_for("catching up", 120, lambda: caught_up(f"g{readers}"))


shutil.rmtree(args.dir, ignore_errors=True)
os.makedirs(args.dir)
try:
    start()
    wait_for("initial copy", 60, pairs_normal)
    for lun in [PLAIN_LUN, *GROUPS]:
        load(lun, "randwrite:4k:32", args.warm)
        if lun != PLAIN_LUN:
            wait_for("catching up", 120, lambda: caught_up(f"g{lun}"))
    lag() if args.lag else speed()
finally:
    stop()
    shutil.rmtree(args.dir, ignore_errors=True)
