"""Arrays on loopback for a measurement: their files, their configuration, their processes, and what is asked of them.

The programs come from `cargo build --release --bin holdfast --example load --example link`. Everything is made from scratch
in one directory and goes with it; processes are stopped by their ids.
"""
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time


def parity_group(name, path, mebibytes):
    # Written once before the start: a memory file system finds its pages when they are first written, a disk does not. And
    # dropped from the kernel's cache, which direct transfers would otherwise have to clear page by page as they go.
    with open(path, "wb") as file:
        for _ in range(mebibytes):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    units = f'[{{ path = "{path}", size = "{mebibytes}MiB" }}]'
    return f'[[provision.parity_group]]\nname = "{name}"\nlevel = "raid0"\nunits = {units}\n'


def volume(name, group, mebibytes):
    return f'[[provision.volume]]\nname = "{name}"\nparity_group = "{group}"\nsize = "{mebibytes}MiB"\n'


def spread(values, digits=2):
    values = sorted(values)
    return f"{statistics.median(values):.{digits}f} [{values[0]:.{digits}f}-{values[-1]:.{digits}f}]"


def wait_for(what, limit_s, probe, state=lambda: ""):
    began = time.time()
    while not probe():
        if time.time() - began > limit_s:
            sys.exit(f"{what}: not within {limit_s} s: {state()}")
        time.sleep(0.02)
    return time.time() - began


class Rig:
    """The arrays of one measurement, alpha first."""

    NAMES = ["alpha", "beta", "gamma", "delta", "epsilon"]

    def __init__(self, release, place, port):
        self.holdfast, self.load_program, self.link_program = (
            f"{release}/{name}" for name in ("holdfast", "examples/load", "examples/link")
        )
        self.place, self.port = place, port
        self.processes, self.others = [], []
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)

    def address(self, index):
        return f"127.0.0.1:{self.port + index}"

    def link_address(self, index):
        """Where another array finds it when links have a length or a width: `begin_links`."""
        return f"127.0.0.1:{self.port + 50 + index}"

    def array_directory(self, index):
        place = f"{self.place}/{self.NAMES[index]}"
        os.makedirs(place)
        return place

    def write_configuration(self, index, text):
        with open(f"{self.place}/{self.NAMES[index]}.toml", "w") as file:
            file.write(text)

    def begin_links(self, count, delay_ms, width_mib):
        for index in range(count):
            way = [self.link_address(index), self.address(index), str(delay_ms), str(width_mib << 20)]
            self.others.append(subprocess.Popen(["taskset", "-c", "1", self.link_program, *way]))

    def keep_awake(self):
        """Keeps both processors from sleeping; whoever else wants them gets them."""
        for cpu in ["0", "1"]:
            spin = ["chrt", "-i", "0", "taskset", "-c", cpu, sys.executable, "-c", "while True: pass"]
            self.others.append(subprocess.Popen(spin))

    def start_array(self, index, before):
        command = [*before, self.holdfast, "serve", "--config", f"{self.place}/{self.NAMES[index]}.toml"]
        with open(f"{self.place}/{self.NAMES[index]}.log", "a") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def stop(self):
        for helper in self.others:
            helper.kill()
            helper.wait()
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.place, ignore_errors=True)

    def run(self, index, *words):
        command = [self.holdfast, "--socket", f"{self.place}/{self.NAMES[index]}/holdfast.sock", *words]
        return subprocess.run(command, capture_output=True, text=True)

    def ask(self, index, *words):
        said = self.run(index, *words, "--json")
        return json.loads(said.stdout) if said.returncode == 0 and said.stdout else None

    def cpu_seconds(self):
        """utime + stime of each array."""

        def of(process):
            with open(f"/proc/{process.pid}/stat") as file:
                fields = file.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

        return [of(process) for process in self.processes]

    def load_command(self, target, job, seconds, *more):
        """`target` is IQN/LUN of alpha, or HOST:PORT/IQN/LUN."""
        target = target if target.count("/") > 1 else f"{self.address(0)}/{target}"
        rw, size, depth = job.split(":")
        return [
            "taskset", "-c", "1", self.load_program, "--target", target, "--rw", rw, "--bs", size, "--qd", depth, "--secs",
            str(seconds), *more,
        ]  # fmt: skip

    def load(self, target, job, seconds, *more):
        done = subprocess.run(self.load_command(target, job, seconds, *more), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the generator failed: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)
