#!/usr/bin/env python3
"""Hold a lease on a file of a Holdfast volume, map its pages, give it back on a break.

    lease.py FILE [SOCKET]

Prints what happens, one line each. With a line on stdin it stamps the first page and
commits. Needs nothing but Python 3; docs/protocol.md describes every byte.
"""
import array, mmap, os, select, socket, struct, sys

HELLO, ATTACH, ACQUIRE, RETURN, MAP, COMMIT, BREAK = 1, 2, 3, 4, 9, 10, 64
HEADER = struct.Struct("<HHIII")  # op, flags, request, size, status
WRITE, SHARED, ALLOCATE, MORE, INFINITE = 2, 1, 4, 2, 2**64 - 1


def connect(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    return s


def receive(s):
    msg, control, _, _ = s.recvmsg(65536, socket.CMSG_SPACE(32 * 4))
    if not msg:
        sys.exit("the server has hung up")
    fds = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) // 4 * 4])
    return HEADER.unpack_from(msg), msg[HEADER.size:], fds


def call(s, op, body=b"", fd=None):
    control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    s.sendmsg([HEADER.pack(op, 0, 1, len(body), 0) + body], control)
    (_, flags, _, _, status), body, fds = receive(s)
    if status:
        sys.exit(f"{os.strerror(status)}: {body.decode()}")
    if flags & MORE:
        sys.exit("the answer has more parts than this program reads")
    return body, fds


def main():
    file = os.open(sys.argv[1], os.O_RDWR)
    path = sys.argv[2] if len(sys.argv) > 2 else os.getxattr(file, "user.holdfast.socket").decode()
    session = connect(path)
    call(session, HELLO, struct.pack("<II", 1, 0))

    length = (os.fstat(file).st_size + 4095) // 4096 * 4096
    body, _ = call(session, ACQUIRE, struct.pack("<QQBBHI", 0, length, WRITE, SHARED, ALLOCATE, 0), file)
    lease, _, _, offset, length = struct.unpack_from("<QQQQQ", body)
    handle = connect(path)
    call(handle, ATTACH, body[48:64])  # from now this connection is the lease
    print(f"lease {lease} on {offset}+{length}", flush=True)

    body, fds = call(session, MAP, struct.pack("<QQQ", lease, offset, length))
    pieces = [struct.unpack_from("<QQQQII", body, at) for at in range(16, len(body), 40)]
    windows = [mmap.mmap(fds[p[4]], p[1], offset=p[2]) for p in pieces]
    print(f"mapped {sum(map(len, windows))} bytes in {len(windows)} pieces: {bytes(windows[0][:16])!r}", flush=True)

    inputs = [handle, sys.stdin]
    while handle not in select.select(inputs, [], [])[0]:
        line = sys.stdin.readline()
        if not line:
            inputs = [handle]  # nothing more to stamp: hold on until the break
            continue
        stamp = line.rstrip("\n").encode()[:4096]
        windows[0][: len(stamp)] = stamp
        call(session, COMMIT, struct.pack("<QQQq", lease, offset, length, -1))
        print("committed", flush=True)

    _, body, _ = receive(handle)
    _, _, _, start, count, _, kind = struct.unpack_from("<QQQQQqB", body)
    print(f"break {kind}: {start}+{'infinity' if count == INFINITE else count} is wanted back", flush=True)
    call(session, RETURN, struct.pack("<QQQ", lease, 0, INFINITE))
    print("released", flush=True)


main()
