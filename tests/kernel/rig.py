"""A virtual machine and arrays on loopback, each a child process that is ended by its id."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

BOOT_LIMIT_S = 300
GUEST_MIB = 1536


class Failed(Exception):
    """A step of the story did not come out as it has to."""


def wait_for(what, limit_s, probe):
    """What `probe` returns once that is true."""
    began = time.time()
    while True:
        found = probe()
        if found:
            return found
        if time.time() - began > limit_s:
            raise Failed(f"{what}: not within {limit_s} s")
        time.sleep(0.2)


def has_kvm():
    """Whether this machine's processor runs a guest as it is. A /dev/kvm without one of these modules is behind another hypervisor that
    only runs kernels made for it; then qemu emulates the processor, which is slow and good enough."""
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and any(os.path.exists(f"/sys/module/{name}") for name in ("kvm_intel", "kvm_amd"))


class Guest:
    def __init__(self, place, story, port):
        self.console, self.port = f"{story}/console.log", port
        cpu = ["-accel", "kvm", "-cpu", "host"] if has_kvm() else ["-accel", "tcg,thread=multi", "-cpu", "max"]
        command = [
            "qemu-system-x86_64", "-machine", "q35", *cpu, "-smp", "2", "-m", str(GUEST_MIB), "-nodefaults", "-no-reboot", "-display", "none",
            "-kernel", f"{place}/vmlinuz", "-initrd", f"{place}/initrd",
            "-append", "console=ttyS0 net.ifnames=0 panic=-1 loglevel=7",
            "-serial", f"file:{self.console}",
            "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:7000", "-device", "virtio-net-pci,netdev=net,romfile=",
            "-device", "virtio-rng-pci",
        ]
        open(self.console, "w").close()
        with open(f"{story}/qemu.log", "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for("the guest boots", BOOT_LIMIT_S, self.is_up)
        # The guest's clock by ours, from the quickest of some questions.
        tries = []
        for _ in range(20):
            before = time.time()
            there = self.ask({}, 10)["time"]
            tries.append((time.time() - before, there - (before + time.time()) / 2))
        self.clock_ahead_s = min(tries)[1]

    def is_up(self):
        if self.process.poll() is not None:
            raise Failed(f"qemu ended with {self.process.returncode}: see {self.console} and qemu.log beside it")
        try:
            return self.ask({}, 2)
        except (OSError, ValueError):
            return None

    def ask(self, request, limit_s):
        with socket.create_connection(("127.0.0.1", self.port), timeout=limit_s) as connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            return json.loads(stream.readline())

    def run(self, command, limit_s=60):
        """Status and output of a shell command in the guest."""
        reply = self.ask({"run": command, "timeout": limit_s}, limit_s + 20)
        return reply["status"], reply["text"]

    def do(self, command, limit_s=60):
        """The output of a command that has to succeed."""
        status, text = self.run(command, limit_s)
        if status != 0:
            raise Failed(f"in the guest: {command}: {status}\n{text}")
        return text

    def now(self):
        return time.time() + self.clock_ahead_s

    def stop(self):
        self.process.kill()
        self.process.wait()


class Way:
    """The way to an array from the other one. Cut, it swallows what comes, without a word, until it is healed."""

    def __init__(self, port, to):
        self.address, self.to, self.passes = f"127.0.0.1:{port}", to.split(":"), threading.Event()
        self.passes.set()
        self.server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.server.accept()
            threading.Thread(target=self.join, args=(near,), daemon=True).start()

    def join(self, near):
        self.passes.wait()
        try:
            far = socket.create_connection((self.to[0], int(self.to[1])))
        except OSError:
            near.close()
            return
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self.carry, args=(far, near), daemon=True).start()
        self.carry(near, far)

    def carry(self, source, sink):
        try:
            while data := source.recv(1 << 18):
                self.passes.wait()
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Array:
    """One array; its address is its own, so that each reports in discovery what a host can reach."""

    def __init__(self, binary, story, number, name, port):
        self.binary, self.name, self.number = binary, name, number
        self.address = f"127.0.0.{number + 1}:{port}"
        self.iqn = f"iqn.2026-11.io.holdfast:{name}"
        self.place = f"{story}/{name}"
        os.makedirs(self.place)
        self.process = None

    def configure(self, unit_mib, text):
        head = (
            f'[array]\nnumber = {self.number}\nname = "{self.name}"\ndata_dir = "{self.place}/data"\n[cache]\nmemory = "128MiB"\n'
            f'[[portal]]\nlisten = "{self.address}"\nserves = ["hosts", "arrays"]\n'
            f'[[provision.parity_group]]\nname = "pg0"\nlevel = "raid0"\nunits = [{{ path = "{self.place}/u0", size = "{unit_mib}MiB" }}]\n'
        )
        with open(f"{self.place}/holdfast.toml", "w") as file:
            file.write(head + text)

    def start(self):
        with open(f"{self.place}/log", "a") as log:
            command = [self.binary, "serve", "--config", f"{self.place}/holdfast.toml"]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

        def answers():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended: see {self.place}/log")
            return self.shell("array", "show").returncode == 0

        wait_for(f"{self.name} serves", 30, answers)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pause(self, is_paused):
        self.process.send_signal(signal.SIGSTOP if is_paused else signal.SIGCONT)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.pause(False)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def shell(self, *words):
        return subprocess.run([self.binary, "--socket", f"{self.place}/data/holdfast.sock", *words], capture_output=True, text=True)

    def do(self, *words):
        said = self.shell(*words)
        if said.returncode != 0:
            raise Failed(f"at {self.name}: {' '.join(words)}: {said.stdout}{said.stderr}")
        return said.stdout

    def ask(self, *words):
        said = self.shell(*words, "--json")
        return json.loads(said.stdout) if said.returncode == 0 and said.stdout else None


def multipath_conf():
    """The file that the operator is told to write."""
    with open("docs/operations.md") as file:
        found = re.search(r"`/etc/multipath.conf`:\n\n```\n(.*?)```", file.read(), re.DOTALL)
    if not found:
        sys.exit("docs/operations.md has no /etc/multipath.conf")
    return found.group(1)


def fresh_directory(path):
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
