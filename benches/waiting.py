#!/usr/bin/env python3
"""What it costs a host that its write waits for another array, by the length of the link; and how long a takeover takes.

    cargo build --release --bin holdfast --example load --example link
    benches/waiting.py [--delays 0,1,5] [--rounds 5] [--secs 2] [--dir /dev/shm/hf]

Four volumes of one array, turn and turn about: a plain one, one with an asynchronous copy, one with a synchronous copy, and one whose hosts wait
for a relay, which is a third array of ours here. 4 KiB random writes at depth 1. The links go through examples/link.rs, which delays each way by so many milliseconds; 0 goes without it.
"Round trips more" is what the median has more than the asynchronous one, in round trips of a byte that is sent back
through the same kind of proxy: one is what it cannot be without.

Then the first array is killed under load (SIGKILL), and the second takes over: the time from the command until its hosts have
written. All on loopback, with files on a memory file system, where a sync costs nothing: on real disks each write waits for one at
either array as well. The first array has CPU 0, the others and the generator CPU 1.
"""
import argparse
import json
import socket
import statistics
import subprocess
import threading
import time

from rig import Rig, parity_group, spread, volume, wait_for

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--release", default="target/release", help="where the programs are")
parser.add_argument("--dir", default="/dev/shm/holdfast-waiting-bench")
parser.add_argument("--port", type=int, default=27700)
parser.add_argument("--delays", default="0,1,5", help="lengths of the links each way, in ms")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--secs", type=float, default=2)
args = parser.parse_args()

VOLUMES = ["plain", "async", "sync", "relay"]
VOLUME_MIB, JOURNAL_MIB = 64, 128
JOB = "randwrite:4k:1"


def configure(rig, index, is_far):
    """alpha has the volumes that hosts write, beta their copies."""
    name, place, other = Rig.NAMES[index], rig.array_directory(index), 1 - index
    text = (
        f'[array]\nnumber = {index + 1}\nname = "{name}"\ndata_dir = "{place}"\n[cache]\nmemory = "256MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(index)}"\nserves = ["hosts", "arrays"]\n'
    )
    text += parity_group("pg0", f"{place}/u0", 8 * VOLUME_MIB + 128) + parity_group("pgj", f"{place}/uj", 3 * JOURNAL_MIB + 64)
    luns = []
    for lun, kind in enumerate(VOLUMES):
        text += volume(kind, "pg0", VOLUME_MIB)
        luns.append(f'{{ lun = {lun}, volume = "{kind}" }}')
        if kind != "plain":
            text += volume(f"j{kind}", "pgj", JOURNAL_MIB)
    text += f'[[provision.target]]\niqn = "iqn.2026-11.bench:{name}"\ninitiators = ["*"]\nluns = [{", ".join(luns)}]\n'
    portal = rig.link_address(other) if is_far else rig.address(other)
    relay = rig.link_address(2) if is_far else rig.address(2)
    text += (
        f'[[provision.relay]]\nname = "vault"\ngroup = "relay"\narray = {other + 1}\nas = "{["first", "second"][index]}"\nportal = ["{relay}"]\n'
        f'target = "iqn.2026-11.bench:gamma"\nluns = [0, 1, 2]\n' + ('hosts = "wait"\n' if index == 0 else "")
    )
    text += f'[[provision.link]]\nname = "{Rig.NAMES[other]}"\narray = {other + 1}\nportal = ["{portal}"]\nsecret = "waiting-bench"\n'
    for kind in VOLUMES[1:] if index == 0 else []:
        text += f'[[provision.group]]\nname = "{kind}"\nfence = "data"\n'
        text += f'[[provision.journal]]\ngroup = "{kind}"\nvolume = "j{kind}"\n'
        text += f'[[provision.journal]]\ngroup = "{kind}"\nvolume = "j{kind}"\nat = "beta"\n'
        text += f'[[provision.pair]]\nname = "{kind}"\ngroup = "{kind}"\npvol = "{kind}"\nsvol = "beta:{kind}"\ncopy = "{"sync" if kind == "sync" else "async"}"\n'
    rig.write_configuration(index, text)


def configure_relay(rig):
    """gamma: an array that knows nothing of the others, with three LUNs for the relay."""
    place = rig.array_directory(2)
    text = (
        f'[array]\nnumber = 3\nname = "gamma"\ndata_dir = "{place}"\n[cache]\nmemory = "128MiB"\n'
        f'[[portal]]\nlisten = "{rig.address(2)}"\nserves = ["hosts"]\n'
    )
    sizes = {"journal": JOURNAL_MIB, "first": 1, "second": 1}
    text += parity_group("pg0", f"{place}/u0", JOURNAL_MIB + 64)
    text += "".join(volume(name, "pg0", mebibytes) for name, mebibytes in sizes.items())
    luns = ", ".join(f'{{ lun = {lun}, volume = "{name}" }}' for lun, name in enumerate(sizes))
    text += f'[[provision.target]]\niqn = "iqn.2026-11.bench:gamma"\ninitiators = ["*"]\nluns = [{luns}]\n'
    rig.write_configuration(2, text)


def is_synchronised(rig):
    shown = [rig.ask(0, "group", "show", group) for group in ("sync", "relay")]
    return all(group and group["synchronous"] and group["synchronous"]["state"] == "synchronised" for group in shown)


def target(array, kind):
    return f"iqn.2026-11.bench:{array}/{VOLUMES.index(kind)}"


def takeover_seconds(rig):
    """The first array dies under load; from the command until a host's write has been answered."""
    hosts = subprocess.Popen(rig.load_command(target("alpha", "sync"), JOB, 5, "--span", "60m"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1.5)
    rig.processes[0].kill()
    began = time.time()
    wait_for("takeover", 60, lambda: rig.run(1, "group", "takeover", "sync", "--yes").returncode == 0)
    there = f"{rig.address(1)}/{target('beta', 'sync')}"
    # What is asked for has been carried out when hosts may write.
    command = rig.load_command(there, JOB, 0.05, "--ramp", "0", "--span", "60m")
    wait_for("the first write", 60, lambda: subprocess.run(command, capture_output=True).returncode == 0)
    taken = time.time() - began
    hosts.kill()
    hosts.wait()
    return taken


def round_trip_us(rig, delay_ms):
    """The median of a byte that is sent back through a proxy of the same length."""
    server = socket.create_server(("127.0.0.1", args.port + 90))
    proxy = subprocess.Popen(
        ["taskset", "-c", "1", rig.link_program, f"127.0.0.1:{args.port + 91}", f"127.0.0.1:{args.port + 90}", str(delay_ms), "0"]
    )
    try:
        time.sleep(0.3)
        near = socket.create_connection(("127.0.0.1", args.port + 91))
        far, _ = server.accept()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def echo():
            while byte := far.recv(1):
                far.sendall(byte)

        threading.Thread(target=echo, daemon=True).start()
        times = []
        for _ in range(101):
            began = time.perf_counter()
            near.sendall(b"x")
            near.recv(1)
            times.append((time.perf_counter() - began) * 1e6)
        near.close()
        return statistics.median(times)
    finally:
        proxy.kill()
        proxy.wait()
        server.close()


def measure(delay_ms):
    rig = Rig(args.release, f"{args.dir}-{delay_ms}", args.port)
    is_far = delay_ms > 0
    try:
        rig.keep_awake()
        for index in (0, 1):
            configure(rig, index, is_far)
        configure_relay(rig)
        if is_far:
            rig.begin_links(3, delay_ms, 0)
            trip_us = round_trip_us(rig, delay_ms)
        for index in (0, 1, 2):
            rig.start_array(index, ["taskset", "-c", str(min(index, 1))])
        wait_for("synchronous", 60, lambda: is_synchronised(rig), lambda: json.dumps(rig.ask(0, "pair", "list")))
        rows = {kind: [] for kind in VOLUMES}
        for turn in range(args.rounds):
            for kind in VOLUMES if turn % 2 == 0 else reversed(VOLUMES):
                found = rig.load(target("alpha", kind), JOB, args.secs, "--span", "60m")
                rows[kind].append((found["lat_p50_us"], found["lat_p99_us"]))
        for kind in VOLUMES:
            p50, p99 = ([row[at] for row in rows[kind]] for at in (0, 1))
            more = [here[0] - there[0] for here, there in zip(rows[kind], rows["async"])]
            trips = spread([one / trip_us for one in more]) if kind in ("sync", "relay") and is_far else ""
            print(f"| {delay_ms} ms | {kind} | {spread(p50, 0)} | {spread(p99, 0)} | {trips} |", flush=True)
        return takeover_seconds(rig)
    finally:
        rig.stop()


print("| each way | volume | median us | p99 us | round trips more |")
print("|---|---|---|---|---|")
TAKEOVERS = [measure(int(delay)) for delay in args.delays.split(",")]
print(f"takeover, from the command to a host's write: {spread(TAKEOVERS)} s")
