"""Carries out what the outside asks: one line of JSON with a shell command for each connection, one with what came of it back."""
import json
import os
import signal
import socket
import subprocess
import threading
import time

MAX_REQUEST_BYTES = 1 << 20


def answer(connection):
    with connection, connection.makefile("rwb") as stream:
        request = json.loads(stream.readline(MAX_REQUEST_BYTES))
        if "run" not in request:
            reply = {"time": time.time()}
        else:
            # In a session of its own, so that a command that hangs on a lost disk can be left behind.
            process = subprocess.Popen(["/bin/bash", "-c", request["run"]], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                text, _ = process.communicate(timeout=request["timeout"])
                reply = {"status": process.returncode, "text": text.decode(errors="replace")}
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                reply = {"status": -1, "text": f"not within {request['timeout']} s"}
        stream.write(json.dumps(reply).encode() + b"\n")


server = socket.create_server(("0.0.0.0", 7000), backlog=16)
while True:
    connection, _ = server.accept()
    threading.Thread(target=answer, args=(connection,), daemon=True).start()
