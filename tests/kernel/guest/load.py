"""Writes with checks, and looks afterwards whether everything that was acknowledged is there.

    load.py write disk PATH LOG [SLOTS]   4 KiB blocks at random places of a disk or file, around the page cache, until LOG.stop is there
    load.py check disk PATH LOG           each place has its newest acknowledged block, or one that was sent after it
    load.py write files DIR LOG           small files: written, flushed, renamed, the directory flushed
    load.py check files DIR LOG

LOG gets a line for each *acknowledged* write, with the seconds since the epoch when that was and what it took.
A failed write ends the load with "FAILED" and the reason: behind multipath that queues there must be none.
"""
import hashlib
import mmap
import os
import random
import struct
import sys
import threading
import time

BLOCK = 4096
THREADS = 4


def block(slot, sequence):
    head = struct.pack("<QQ", slot, sequence)
    body = hashlib.shake_128(head).digest(BLOCK - 32)
    return head + body + hashlib.blake2b(head + body, digest_size=16).digest()


def decode(data, slot):
    """The sequence number that is in a block; 0 in one that was never written, None in a torn or foreign one."""
    if data == bytes(BLOCK):
        return 0
    found, sequence = struct.unpack_from("<QQ", data)
    return sequence if found == slot and data == block(slot, sequence) else None


class Log:
    def __init__(self, path):
        self.file, self.path, self.lock = open(path, "a", buffering=1), path, threading.Lock()

    def is_over(self):
        return os.path.exists(self.path + ".stop")

    def write(self, *words):
        with self.lock:
            print(*words, file=self.file)

    def done(self, began, *words):
        now = time.time()
        self.write("ok", f"{now:.4f}", f"{now - began:.4f}", *words)


def write_disk(path, log, slots):
    # Each thread has slots of its own, and so knows what is the newest in them.
    def work(thread):
        descriptor = os.open(path, os.O_RDWR | os.O_DIRECT)
        memory = mmap.mmap(-1, BLOCK)
        chance = random.Random(thread)
        sequence = {}
        try:
            while not log.is_over():
                slot = chance.randrange(thread, slots, THREADS)
                number = sequence[slot] = sequence.get(slot, 0) + 1
                memory[:] = block(slot, number)
                began = time.time()
                if os.pwrite(descriptor, memory, slot * BLOCK) != BLOCK:
                    raise OSError("short write")
                log.done(began, slot, number)
                # What was answered a moment ago is what a read finds, also from a path that was the other one then.
                back = chance.choice(list(sequence))
                if os.preadv(descriptor, [memory], back * BLOCK) != BLOCK or decode(memory[:], back) != sequence[back]:
                    raise OSError(f"slot {back} has not {sequence[back]} but {decode(memory[:], back)}")
        except OSError as error:
            log.write("FAILED", f"{time.time():.4f}", error)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]


def write_files(place, log):
    number = 0
    try:
        while not log.is_over():
            number += 1
            data = os.urandom(1000 + number % 40000)
            began = time.time()
            temporary, final = f"{place}/tmp", f"{place}/{number % 500}-{number}"
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, final)
            directory = os.open(place, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
            log.done(began, os.path.basename(final), hashlib.sha256(data).hexdigest())
    except OSError as error:
        log.write("FAILED", f"{time.time():.4f}", error)


def lines(path):
    with open(path) as file:
        return [line.split() for line in file]


def check_disk(path, log):
    newest, failed = {}, 0
    for line in lines(log):
        if line[0] == "ok":
            slot, number = int(line[3]), int(line[4])
            newest[slot] = max(newest.get(slot, 0), number)
        else:
            failed += 1
            print(*line)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, BLOCK)
    missing = 0
    for slot, number in sorted(newest.items()):
        os.preadv(descriptor, [memory], slot * BLOCK)
        found = decode(memory[:], slot)
        # Only the one write that was on its way when the load ended may be there without having been acknowledged.
        if found not in (number, number + 1):
            missing += 1
            print(f"slot {slot}: {number} was acknowledged, {found} is there")
    return len(newest), missing, failed


def check_files(place, log):
    missing = failed = count = 0
    for line in lines(log):
        if line[0] != "ok":
            failed += 1
            print(*line)
            continue
        count += 1
        try:
            with open(f"{place}/{line[3]}", "rb") as file:
                right = hashlib.sha256(file.read()).hexdigest() == line[4]
        except OSError as error:
            right = False
            print(error)
        missing += not right
    return count, missing, failed


if __name__ == "__main__":
    what, kind, path, log = sys.argv[1:5]
    if what == "write":
        if kind == "disk":
            write_disk(path, Log(log), int(sys.argv[5]) if len(sys.argv) > 5 else 4096)
        else:
            write_files(path, Log(log))
    else:
        count, missing, failed = (check_disk if kind == "disk" else check_files)(path, log)
        print(f"{count} checked, {missing} missing, {failed} failed")
        sys.exit(1 if missing or failed or not count else 0)
