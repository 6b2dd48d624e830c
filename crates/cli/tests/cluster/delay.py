"""Carries frames between two links that it makes, and holds each back for some milliseconds.

Usage: delay.py LINK LINK MILLISECONDS. A number on its input is a new time; it ends with its input, and the links with it.
"""
import collections
import fcntl
import os
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
# Frames that wait each way; more are lost, as in a router.
ROOM = 10000


def link(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def main():
    here, there = link(sys.argv[1]), link(sys.argv[2])
    wait = float(sys.argv[3]) / 1000
    told = b""
    other = {here: there, there: here}
    held = {here: collections.deque(), there: collections.deque()}
    poll = select.poll()
    for fd in (here, there, 0):
        poll.register(fd, select.POLLIN)
    print("ready", flush=True)
    while True:
        first = min((queue[0][0] for queue in held.values() if queue), default=None)
        left = None if first is None else max(0, (first - time.monotonic()) * 1000)
        for fd, _ in poll.poll(left):
            if fd == 0:
                text = os.read(0, 100)
                if not text:
                    return
                # A line may come in pieces.
                *lines, told = (told + text).split(b"\n")
                if lines:
                    wait = float(lines[-1]) / 1000
                continue
            for _ in range(64):
                try:
                    frame = os.read(fd, 65536)
                except OSError:
                    break
                if len(held[fd]) < ROOM:
                    held[fd].append((time.monotonic() + wait, frame))
        now = time.monotonic()
        for fd, queue in held.items():
            while queue and queue[0][0] <= now:
                frame = queue.popleft()[1]
                try:
                    os.write(other[fd], frame)
                except OSError:
                    # A link that is down or full loses it.
                    pass


main()
